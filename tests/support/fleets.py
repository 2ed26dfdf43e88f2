"""Deployments of constant steps at round prices, and fleets made by hand."""

import kvsim
from kvsim.search.fleet_option import FleetOption
from kvsim.search.rate import Probe, RateSearch
from kvsim.specs.hardware import Price

QUICK = kvsim.SearchSettings(share=0.95, requests=300, tolerance=0.05, replications=1)
PRICES = {
    "A100-SXM4-80GB": Price(low=1, high=1),
    "H100-SXM5-80GB": Price(low=2, high=2),
    "H200-SXM-141GB": Price(low=3, high=3),
}


def served(seconds, **overrides):
    """A server of batches, each of which takes so long: one token each, no waiting for a prompt."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return kvsim.load_scenario(
        "peer-w",
        {
            "memory.num_blocks": None,
            "engine": {"max_num_seqs": 1, "max_model_len": 8192},
            "step_time": {"kind": "constant", "seconds": seconds},
            "workload.arrivals": {"kind": "constant", "rate": 25},
            "workload.lengths": {
                "prompt": {"kind": "fixed", "tokens": 64},
                "output": {"kind": "fixed", "tokens": 1},
            },
            **dotted,
        },
    )


def find(vary, question=None, demand=None, **options):
    question = question or served(0.1)
    space = kvsim.Space(question, vary)
    return kvsim.find_cheapest(space, demand, QUICK, **{"prices": PRICES, **options})


def told(found):
    return {tuple(option.values.values()): option for option in found.options}


def fleet(cost, high, latency_ms, *, card="A100", devices=1):
    """A fleet of so many devices at a price each, with a TTFT."""
    search = RateSearch(10.0, (10.0, 10.0), None, 10.0, (), 1, QUICK)
    probe = Probe(10.0, 1, False, True, 100, {}, "", {"ttft": latency_ms})
    price = Price(low=cost, high=max(cost, high))
    return FleetOption(
        card, devices, 10.0, price=price, search=search, at_demand=probe, values={"n": latency_ms}
    )
