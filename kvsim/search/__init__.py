"""Search over simulations: the highest rate of a replica, and the fleet that a demand needs."""

from kvsim.search.fleet import FleetOption, replicas_for, size_fleet
from kvsim.search.rate import Probe, RateSearch, SearchSettings, highest_rate

__all__ = [
    "FleetOption",
    "Probe",
    "RateSearch",
    "SearchSettings",
    "highest_rate",
    "replicas_for",
    "size_fleet",
]
