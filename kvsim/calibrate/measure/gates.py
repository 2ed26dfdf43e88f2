"""What speaks against publishing a calibration as a card's: a line each, and none is a promise.

A profile is believed by everybody who names the card, and nobody measures it again. So a rate must
lie between half of its datasheet and all of it, no fit may end where its search does, every kernel
must have been timed without its launch, and all rows must be of one device and one software.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvsim.calibrate.csv_files import csv_rows
from kvsim.calibrate.measure.attention import (
    DecodeCase,
    LaunchedDecodeCase,
    PagedDecodeCase,
    PrefillCase,
)
from kvsim.calibrate.measure.bandwidth import CopyCase, ReadCase
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.layers import LaunchedLayersCase, ReplayedLayersCase
from kvsim.calibrate.measure.origin import Origin
from kvsim.calibrate.measure.overhead import HostCase
from kvsim.calibrate.measure.session import COLUMNS

__all__ = ["objections"]

_LEAST_SHARE = 0.5
# Rates that are the loop's own, and attention that multiplies, reach less on a sound card.
_MAY_BE_LOW = ("loop: ", "prefill attention")
_MOST_OFF = 15.0  # per cent, of launched stacks by the loop's form
_LAUNCHED = tuple(each.kind for each in (LaunchedLayersCase, LaunchedDecodeCase, HostCase))
_NO_RATE = "memory that the driver reports"
_REPLAYED = tuple(
    each.kind
    for each in (
        CopyCase,
        ReadCase,
        GemmCase,
        ReplayedLayersCase,
        DecodeCase,
        PagedDecodeCase,
        PrefillCase,
    )
)


def objections(record: Mapping[str, Any], rows: str, file: str) -> Iterator[str]:
    """Yield what speaks against publishing what was found on a GPU.

    Parameters
    ----------
    record : mapping
        What ``kvsim calibrate --format json`` printed.
    rows : str
        The text of its CSV.
    file : str
        What errors call it.

    Raises
    ------
    InputError
        When the CSV cannot be read.
    """
    if "kernels" not in record:
        yield "an older kvsim made it, which did not say which kernels ran: calibrate anew"
        return
    yield from _rates(record)
    for name in record["at_bounds"]:
        yield f"the fit of {name} ended at the bound of its search"
    yield from record["warnings"]
    for name, percent in record["check_percent"].items():
        if percent > _MOST_OFF:
            yield f"{name} are {percent:.0f} % off, though nothing was fitted to them"
    device = record["device"]
    software = device["torch_version"], device["driver"], record["kernels"]["words"]
    here = Origin(device["name"], device["uuid"], *software)
    for name, wanted, found in here.differences(Origin.read(rows, file)):
        yield f"the rows are of {name} {found!r}, and the calibration of {wanted!r}"
    timed = csv_rows(rows, file, COLUMNS)
    for kind in sorted({*_REPLAYED, *_LAUNCHED} - {row["kind"] for row in timed}):
        yield f"there is no row of {kind}"
    launched = sum(row["kind"] in _REPLAYED and row["captured"] != "1" for row in timed)
    if launched:
        yield f"{launched} rows of kernels were launched one by one, not replayed from a CUDA graph"


def _rates(record: Mapping[str, Any]) -> Iterator[str]:
    for entry in record["comparisons"]:
        name, share = entry["name"], entry["share"]
        if share is None or name == _NO_RATE:
            continue
        if share > 1:
            yield f"{name} is {share:.0%} of the datasheet's, which no card reaches"
        elif share < _LEAST_SHARE and not name.startswith(_MAY_BE_LOW):
            yield f"{name} is {share:.0%} of the datasheet's, less than half"
