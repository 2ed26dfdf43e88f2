"""Search over simulations: the highest load of a replica, and the fleet that a demand needs."""

from kvsim.search.find import FleetSearch, find_cheapest, usual_space
from kvsim.search.fleet import size_fleet
from kvsim.search.fleet_option import FleetOption, cheapest, replicas_for
from kvsim.search.highest import highest_rate
from kvsim.search.objectives import Objective
from kvsim.search.rate import Probe, RateSearch, SearchSettings

__all__ = [
    "FleetOption",
    "FleetSearch",
    "Objective",
    "Probe",
    "RateSearch",
    "SearchSettings",
    "cheapest",
    "find_cheapest",
    "highest_rate",
    "replicas_for",
    "size_fleet",
    "usual_space",
]
