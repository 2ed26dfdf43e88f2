"""Where the KV cache goes under four policies, beside Figure 2 of the PagedAttention paper.

    python benchmarks/pagedattention_fig2.py

Per cent of the pool over time. "inside" is token states with external waste left out, the number
that depends on lengths and policy alone; "external" depends on the allocator as well.
"""

from __future__ import annotations

import math

from kvsim import Scenario, compare, load_scenario

PAPER = {
    "reserve-max": (20.4, 13.3, 57.3, 8.9),
    "reserve-pow2": (26.8, 17.9, 13.6, 41.6),
    "reserve-oracle": (38.2, 25.2, 0.0, 36.6),
    "paged": (96.3, 0.0, 3.7, 0.0),  # how the 3.7 divide is not known
}
PARTS = ("token states", "reserved", "internal", "external+others", "inside")
SIGMAS = (0.6, 0.75, 0.9, 1.0)


def inside(parts: tuple[float, ...]) -> float:
    return 100 * parts[0] / sum(parts[:3])


def measured(scenario: Scenario) -> dict[str, tuple[float, ...]]:
    """Our four parts by policy, per cent; free slots count among the others."""
    found = compare(scenario, {"memory.allocator": list(PAPER)})
    split = {}
    for variant in found.variants:
        waste = variant.runs.first.summary["kv_cache"]["waste"]
        parts = [waste[name] for name in ("token_states", "reserved", "internal")]
        split[variant.label] = tuple(
            100 * part for part in (*parts, waste["external"] + waste["free"])
        )
    return split


def show(split: dict[str, tuple[float, ...]]) -> None:
    print(f"{'ours / paper':16}" + "".join(f"{name:>18}" for name in PARTS))
    for policy, paper in PAPER.items():
        ours = (*split[policy], inside(split[policy]))
        cells = zip(ours, (*paper, inside(paper)), strict=True)
        print(f"{policy:16}" + "".join(f"{a:>10.1f} /{b:>6.1f}" for a, b in cells))


def main() -> None:
    print("ShareGPT's spread, buddy allocator (as the paper describes Orca's memory)")
    show(measured(load_scenario("pagedattention-orca")))
    print("\nfirst-fit in place of the buddy system")
    show(measured(load_scenario("pagedattention-orca", {"memory.placement": "first-fit"})))
    for sigma in SIGMAS:
        print(f"\noutputs lognormal of sigma {sigma} around 337.99 tokens, at most 2,048 in all")
        output = {
            "kind": "lognormal",
            "mu": math.log(337.99) - sigma**2 / 2,
            "sigma": sigma,
        }
        show(measured(load_scenario("pagedattention-orca", {"workload.lengths.output": output})))


if __name__ == "__main__":
    main()
