"""All-reduces of each engine on a card, fitted to AISimulate's tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kvsim.calibrate.fit import fit_link
from kvsim.calibrate.public.aisimulate import FOLDER, read_all_reduce, releases
from kvsim.specs.hardware import Link
from kvsim.steptime.links import credible_link
from kvsim.steptime.terms import collective_seconds
from kvsim.units import KIB

__all__ = ["engine_links", "measured_links"]

_ENGINES = {"sglang": "sglang", "tensorrt-llm": "trtllm"}  # our name, and the tables'
# What steps send: from a sequence or two to a chunk of a prompt.
_SENT_BYTES = tuple(16 * KIB << power for power in range(10))
_MATERIAL = 0.15


def measured_links(
    folder: Path, system: str, engine: str, expected: Mapping[int, Link]
) -> dict[int, Link]:
    """Fit an engine's links on a card, by degree; `expected` where the machine was not whole.

    Parameters
    ----------
    folder : Path
        Folder that holds ``aisimulate``; empty is the answer where it does not.
    system, engine : str
        The card and the engine in the tables' words.
    expected : mapping of int to Link
        What the card's fabric is known to carry; a degree that it lacks is not judged.
    """
    place = folder / FOLDER
    if not releases(place, system, "comm", engine):
        return {}
    times = read_all_reduce(place, system, engine)
    links = {degree: fit_link(sizes) for degree, sizes in sorted(times.items())}
    return {
        degree: credible_link(link, expected[degree]) if degree in expected else link
        for degree, link in links.items()
    }


def engine_links(
    folder: Path, system: str, own: Mapping[int, Link], expected: Mapping[int, Link]
) -> dict[str, dict[int, Link]]:
    """Links of the engines that differ from `own`, degree by degree.

    An engine's link is kept where it takes more than 15 % more or less than `own`, on average
    over the sizes that steps send.
    """
    found = {}
    for name, word in _ENGINES.items():
        links = measured_links(folder, system, word, expected)
        apart = {n: link for n, link in links.items() if _distance(link, own[n]) > _MATERIAL}
        if apart:
            found[name] = apart
    return found


def _distance(link: Link, other: Link) -> float:
    """Mean distance of two links' times over the sizes that steps send, as a share."""
    pairs = ((collective_seconds(1, n, link), collective_seconds(1, n, other)) for n in _SENT_BYTES)
    apart = [abs(one / two - 1) for one, two in pairs]
    return sum(apart) / len(apart)
