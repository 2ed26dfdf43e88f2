"""How long plans take in a loop, and what naming a card costs there.

    python benchmarks/plan_loops.py [--points 1000] [--repeat 3]

Processor seconds of one process, the least of the repeats, all cases in one go and interleaved.
The points are models x ambiguous names of cards x lengths, all of which fit. Goals: a name costs
at most 1.3 times a profile that is at hand, and `plan_many` at most 1.3 times as many `plan`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable

import kvsim

MODELS = ("llama2-7b", "llama3.1-8b", "qwen3-8b", "gpt-oss-20b", "qwen2.5-7b")
CARDS = ("a100", "h100", "h200", "b200", "l40s", "mi300x", "gh200")
GOALS = {"plan, by name": 1.3, "plan_many, by name": 1.3}


def points(count: int) -> list[dict[str, object]]:
    """As many questions as asked, evenly over models and cards."""
    every = itertools.product(range(64, 4097, 64), MODELS, CARDS)
    some = itertools.islice(every, count)
    return [{"model": model, "gpu": card, "max_model_len": long} for long, model, card in some]


def seconds(answer: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    answer()
    return time.process_time() - start


def main() -> int:
    """Print the table; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    named = points(asked.points)
    cold = seconds(lambda: kvsim.plan(**named[0]))
    cards = {card: kvsim.find_accelerator(card) for card in CARDS}
    at_hand = [{**each, "gpu": cards[each["gpu"]]} for each in named]
    cases: dict[str, Callable[[], object]] = {
        "plan, profile at hand": lambda: [kvsim.plan(**each) for each in at_hand],
        "plan, by name": lambda: [kvsim.plan(**each) for each in named],
        "plan_many, by name": lambda: kvsim.plan_many(named),
    }
    kvsim.plan_many(named[:35])  # pandas, and each file once
    rounds = [{name: seconds(run) for name, run in cases.items()} for _ in range(asked.repeat)]
    least = {name: min(each[name] for each in rounds) for name in cases}
    base = least["plan, profile at hand"]
    print(f"{len(named)} points; the first plan of the process took {cold:.3f} s, imports included")
    print(f"{'case':<24} {'s':>7} {'ms/point':>9} {'ratio':>6} {'goal':>5}")
    for name, spent in least.items():
        ratio, goal = spent / base, GOALS.get(name, "")
        print(f"{name:<24} {spent:>7.2f} {1e3 * spent / len(named):>9.2f} {ratio:>6.2f} {goal:>5}")
    return 0 if all(least[name] / base <= goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
