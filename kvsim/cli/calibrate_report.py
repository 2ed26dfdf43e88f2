"""What ``kvsim calibrate`` prints: the grid, or what was measured beside the datasheet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvsim.cli.render import Section, Table
from kvsim.results.words import SHORT
from kvsim.units import format_bytes, format_seconds

__all__ = ["amount", "found_sections", "learned_sections", "plan_sections"]

_BAR_WIDTH = 20
_SECONDS_PER_MINUTE = 60
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))

_Content = Mapping[str, Any]


def plan_sections(plan: _Content) -> Iterator[Section]:
    """Describe a plan."""
    device = plan["device"]
    headers = ("what", "dtype", "cases", "bytes per call", "allocated")
    rows = tuple(
        (
            entry["kind"],
            entry["dtype"],
            str(entry["cases"]),
            f"{format_bytes(entry['least_bytes'])} - {format_bytes(entry['most_bytes'])}",
            format_bytes(entry["buffer_bytes"]),
        )
        for entry in plan["grid"]
    )
    minutes = plan["expected_seconds"] / _SECONDS_PER_MINUTE
    lines = [
        f"{plan['cases']} cases, at most {format_bytes(plan['buffer_bytes'])} at once, about"
        f" {minutes:.1f} minutes on an idle device",
        *(f"- {note}" for note in plan["notes"]),
    ]
    yield Section(f"Would time on {_device(device)}", (Table(headers, rows), "\n".join(lines)))


def found_sections(found: _Content) -> Iterator[Section]:
    """Describe what was measured."""
    title = f"Measured on {_device(found['device'])}"
    sheet = found["datasheet"]
    against = f"datasheet ({sheet})" if sheet else "datasheet (not in the catalogue)"
    headers = ("", "measured", against, "share", "")
    rows = tuple(_comparison(entry) for entry in found["comparisons"])
    yield Section(title, (Table(headers, rows), _duration(found)))
    yield _kernels(found["kernels"])
    yield _steps(found["steps"])
    errors = [(name, f"{error:.1f}", "") for name, error in found["error_percent"].items()]
    errors += [(name, "", f"{error:.1f}") for name, error in found["check_percent"].items()]
    parts = Table(("part", "fitted on", "not fitted on"), tuple(errors))
    yield Section("Mean absolute error, %", (parts,))
    yield from _remarks(found)
    yield Section("Written", (_written(found["files"]),))


def _duration(found: _Content) -> str:
    took, expected = (found[f"{key}_seconds"] / _SECONDS_PER_MINUTE for key in ("took", "expected"))
    return f"It took {took:.1f} minutes; {expected:.1f} were expected."


def _kernels(kernels: _Content) -> Section:
    """Say what the rates stand for, and which better kernels are not here."""
    missing = "".join(f"\n- not {line}" for line in kernels["passed_over"])
    return Section("Kernels", (kernels["words"] + missing,))


def _steps(steps: Sequence[_Content]) -> Section:
    """A few decode steps, launched and replayed: the longer of host and device, and the ends."""
    headers = ("", "sequences", "ends", "launches", "device", "step")
    keys = ("ends_seconds", "launch_seconds", "device_seconds", "step_seconds")
    rows = tuple(
        (step["way"], str(step["sequences"]), *(format_seconds(step[key]) for key in keys))
        for step in steps
    )
    context, model = steps[0]["context"], steps[0]["model"]
    return Section(f"Decode steps of {model}, {context:,} tokens each", (Table(headers, rows),))


def _device(device: _Content) -> str:
    driver = f", {device['driver']}" if device["driver"] else ""
    return f"{device['name']} ({device['dtypes'][0]}, torch {device['torch_version']}{driver})"


def _comparison(entry: _Content) -> tuple[str, ...]:
    share = entry["share"]
    return (
        entry["name"],
        amount(entry["measured"], entry["unit"]),
        amount(entry["datasheet"], entry["unit"]) if entry["datasheet"] else "",
        f"{100 * share:.0f} %" if share else "",
        _bar(share) if share else "",
    )


def amount(value: float, unit: str) -> str:
    """A measured number in a unit that suits its size: "4.3 TB/s", "12 us"."""
    if unit == "s":
        return format_seconds(value) if value >= 1e-6 or value == 0 else f"{value * 1e9:.3g} ns"
    if unit == "bytes":
        return format_bytes(value)
    scale, prefix = next(known for known in _PREFIXES if value >= known[0] or known[1] == "M")
    return f"{value / scale:.3g} {prefix}{unit.replace('bytes', 'B')}"


def _bar(share: float) -> str:
    """Draw a share of the datasheet, full at 100 %."""
    full, empty = "█░" if "utf" in (sys.stdout.encoding or "").lower() else "#."
    filled = min(_BAR_WIDTH, round(share * _BAR_WIDTH))
    return full * filled + empty * (_BAR_WIDTH - filled)


def _remarks(found: _Content) -> Iterator[Section]:
    """Say what was shrunk, skipped and noisy, where something was."""
    titles = {
        "warnings": "Warnings",
        "shrunk": "Shrunk: memory was short",
        "skipped": "Left out: this device or this torch lacks it",
        "outliers": "Outliers: look at these again",
        "notes": "Notes",
    }
    for key, title in titles.items():
        if found[key]:
            yield Section(title, ("\n".join(f"- {line}" for line in found[key]),))


def _written(files: Mapping[str, str | None]) -> str:
    what = {
        "profile": "the plain torch loop, as `kvsim validate` runs it",
        "kernels_profile": "its kernels alone, nearer to a serving engine",
        "rows": "raw rows",
    }
    return "\n".join(f"{files[key]}: {words}" for key, words in what.items() if files[key])


# ---- what a server's requests said ----------------------------------------------------------

_STATISTICS = {
    "mean_percent": "mean",
    "median_percent": "each request, median",
    "median_absolute_percent": "each request, median without sign",
    "mean_absolute_percent": "each request, mean without sign",
}
_PARTS = (
    ("before", "fitted"),
    ("after", "fitted"),
    ("before", "not_fitted"),
    ("after", "not_fitted"),
)


def learned_sections(found: _Content) -> Iterator[Section]:
    """Describe what was learned of a server."""
    counts = found["requests"]
    said = (
        f"{counts['answered']:,} requests ({found['format']}), at most {counts['most_in_flight']:,}"
        f" in flight, in {counts['blocks']} blocks of time: {counts['fitted']:,} fitted,"
        f" {counts['not_fitted']:,} not fitted, {found['simulations']} simulations"
    )
    title = f"{found['file']}: {found['engine']} on {found['accelerator']}"
    headers = ("term", "before", "after", "+-", "")
    terms = Table(headers, tuple(map(_term, found["terms"])))
    yield Section(title, (said, terms))
    yield Section("The simulation is off by, %", (_errors(found["error_percent"]),))
    if found["warnings"]:
        yield Section("Caution", ("\n".join(f"- {line}" for line in found["warnings"]),))
    written = found["output"]
    goes_on = f"kvsim simulate SCENARIO --gpu {written}" if written else "give -o profile.yaml"
    yield Section("Profile", (goes_on,))


def _term(term: _Content) -> tuple[str, ...]:
    why = "" if term["identified"] else f"not identified: {term['reason']}"
    deviation = "" if term["deviation"] is None else _value(term["deviation"], term["unit"])
    values = (_value(term[key], term["unit"]) for key in ("before", "after"))
    return (term["name"], *values, deviation, why)


def _value(value: float, unit: str) -> str:
    return f"{value:.3g} x" if unit == "x" else amount(value, unit)


def _errors(found: _Content) -> Table:
    """How far off, before and after, on requests that were fitted and on those that were not."""
    headers = ("", *(f"{part.replace('_', ' ')}, {when}" for when, part in _PARTS))
    rows = []
    for metric in found["before"]["fitted"]:
        for key, words in _STATISTICS.items():
            cells = [found[when][part][metric] for when, part in _PARTS]
            shown = (f"{cell[key]:+.1f}" if cell else "-" for cell in cells)
            rows.append((f"{SHORT[metric]}, {words}", *shown))
    return Table(headers, tuple(rows))
