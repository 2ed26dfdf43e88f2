"""Search over simulations: the highest load of a replica, the fleet of a demand, its manifests."""

from kvsim.search.find import FleetSearch, find_cheapest, usual_space
from kvsim.search.fleet import size_fleet
from kvsim.search.fleet_option import FleetOption, cheapest, replicas_for
from kvsim.search.highest import highest_rate
from kvsim.search.manifests import Fleet, deployment_manifest, fleet_of, kserve_manifest
from kvsim.search.objectives import Objective
from kvsim.search.rate import Probe, RateSearch, SearchSettings

__all__ = [
    "Fleet",
    "FleetOption",
    "FleetSearch",
    "Objective",
    "Probe",
    "RateSearch",
    "SearchSettings",
    "cheapest",
    "deployment_manifest",
    "find_cheapest",
    "fleet_of",
    "highest_rate",
    "kserve_manifest",
    "replicas_for",
    "size_fleet",
    "usual_space",
]
