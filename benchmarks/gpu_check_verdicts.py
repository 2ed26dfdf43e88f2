"""What ``make gpu-check`` makes of numbers: verdicts, by rules that need no device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.errors import shortened
from kvsim.units import format_bytes

OK, LOOK, BAD = "ok", "look", "BAD"
WORDS = (OK, LOOK, BAD)  # from good to bad

GOOD_SHARE, POOR_SHARE = 0.5, 0.25  # of the datasheet's bandwidth
CLOSE_PERCENT, FAR_PERCENT = 15.0, 30.0  # of a prediction
COLD = 3.0  # times its prediction that a first step takes before it is cold
ESTIMATE = 0.25  # share by which an estimate may be off
PRODUCT, EMPTY_CACHE, CAPTURE = "a product", "empty_cache", "another capture"  # after a failed one
LONGEST_SQUEEZED = 60.0  # seconds in which a full card has to be said


class Verdict(NamedTuple):
    """What one check found.

    Parameters
    ----------
    check : str
        Its name.
    word : str
        "ok", "look" or "BAD".
    says : str
        One sentence with the numbers.
    notes : tuple of str
        Lines of detail: they are no part of the verdict's line.
    """

    check: str
    word: str
    says: str
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.word:<4} {self.check:<9} {' '.join(self.says.split())}"


class Done(NamedTuple):
    """A command that has ended.

    Parameters
    ----------
    code : int or None
        Its exit code; None when it took longer than it may.
    out, err : str
        What it wrote.
    seconds, most_seconds : float
        What it took, and what it was given.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    most_seconds: float

    @property
    def last_line(self) -> str:
        """What it said last on stderr."""
        return (self.err.strip().splitlines() or ["it said nothing"])[-1]


def worst(words: Sequence[str]) -> str:
    """The worst of some words."""
    return max(words, key=WORDS.index)


def answered(done: Done) -> Mapping[str, Any]:
    """A command's answer, JSON: libraries may have spoken before it."""
    text = done.out.strip()
    found: Mapping[str, Any] = json.loads(text[text.rfind("\n{") + 1 :])
    return found


def failure(check: str, what: str, done: Done) -> Verdict:
    """Of a command that did not end well."""
    if done.code is None:
        return Verdict(check, BAD, f"{what} took longer than {done.most_seconds:.0f} s")
    return Verdict(check, BAD, f"{what} left {done.code}: {shortened(done.last_line)}")


def left_out(check: str, why: str) -> Verdict:
    """Of a check that was not made."""
    return Verdict(check, LOOK, f"left out: {why}")


# ---- the card, captures and kernels --------------------------------------------------------------


def judge_facts(facts: DeviceFacts, profile: str | None) -> Verdict:
    """Say what the card is, and whether the catalogue knows it."""
    parts = (
        facts.name,
        f"{format_bytes(facts.free_bytes)} of {format_bytes(facts.memory_bytes)} free",
        " ".join(facts.dtypes),
        f"torch {facts.torch_version}",
        facts.driver,
        facts.clocks,
        f"the catalogue's {profile}" if profile else "no profile of the catalogue is this device",
    )
    return Verdict("facts", OK if profile else LOOK, ", ".join(filter(None, parts)))


def judge_capture(found: Mapping[str, Any]) -> Iterator[Verdict]:
    """Judge a CUDA graph that is captured, one that is not, and what is left after it.

    Parameters
    ----------
    found : mapping
        ``replay``: what went wrong with the good one, or "". ``failure``: what the bad one said,
        or None when it was captured. ``after``: what went wrong after it, by what was tried.
    """
    if not found["replay"]:
        yield Verdict("capture", OK, "a CUDA graph was captured, and its replay computed right")
    else:
        yield Verdict("capture", BAD, f"a CUDA graph: {found['replay']}")
    said, after = found["failure"], found["after"]
    if said is None:
        yield Verdict("capture", LOOK, "item() inside a capture did not fail, as it should")
        return
    word = BAD if after[PRODUCT] else LOOK if any(after.values()) else OK
    told = ", ".join(
        f"{what} {f'fails ({why})' if why else 'works'}" for what, why in after.items()
    )
    says = f"a capture failed as it should ({said}); after it {told}"
    if after[EMPTY_CACHE]:
        says += "; calibrate keeps memory then (Workspace.keep_memory)"
    yield Verdict("capture", word, says)


def judge_kernels(found: Mapping[str, Any], bandwidth: float | None) -> Verdict:
    """Judge the best rate of decode attention by the datasheet's bandwidth, bytes/s.

    Parameters
    ----------
    found : mapping
        ``attention``, ``elementwise``, ``passed_over``, ``gathers``, ``left_out`` and ``rates``:
        batch, context and bytes/s of each size.
    bandwidth : float or None
        The datasheet's; None where there is none.
    """
    passed = tuple(f"passed over: {line}" for line in found["passed_over"])
    notes = (*passed, *rate_table(found["rates"]), *found["left_out"])
    which = f"attention by {found['attention']}; norms, rotary, gates by {found['elementwise']}"
    which += f"; {len(passed)} better ones passed over" if passed else ""
    if not found["rates"]:
        return Verdict("kernels", BAD, f"{which}; no size of decode attention fits", notes)
    best = max(found["rates"], key=lambda rate: rate["bytes_per_s"])
    size = f"batch {best['batch']} x {best['context']:,}"
    says = f"{which}; decode reads {best['bytes_per_s'] / 1e9:,.1f} GB/s at {size}"
    words = [LOOK if found["gathers"] else OK]
    if bandwidth is None:
        words.append(LOOK)
        says += ", with no datasheet beside it"
    else:
        share = best["bytes_per_s"] / bandwidth
        words.append(OK if share >= GOOD_SHARE else LOOK if share >= POOR_SHARE else BAD)
        says += f", {share:.0%} of the datasheet's"
    if found["gathers"]:
        says += "; no kernel follows block tables, so the loop gathers blocks first"
    return Verdict("kernels", worst(words), says, notes)


def rate_table(rates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield GB/s by batch (down) and context (across)."""
    contexts = sorted({rate["context"] for rate in rates})
    known = {(rate["batch"], rate["context"]): rate["bytes_per_s"] / 1e9 for rate in rates}
    yield f"{'GB/s':>8}" + "".join(f"{context:>10,}" for context in contexts)
    for batch in sorted({rate["batch"] for rate in rates}):
        cells = (known.get((batch, context)) for context in contexts)
        texts = ("-" if rate is None else f"{rate:,.1f}" for rate in cells)
        yield f"{batch:>8}" + "".join(f"{text:>10}" for text in texts)


def judge_overlap(seconds: Mapping[str, float]) -> Iterator[Verdict]:
    """Judge the form of a step: launches overlap with the device; layers and attention add up.

    Parameters
    ----------
    seconds : mapping
        Of the same few layers, by `gpu_check_cases.overlap_cases`' names.
    """
    launches, device = seconds["layers' launches"], seconds["layers replayed"]
    yield _beside(
        seconds["layers launched"],
        max(launches, device),
        "layers launched one by one",
        f"the larger of launches {_ms(launches)} and device {_ms(device)}",
    )
    layers, attention = seconds["layers replayed"], seconds["attention replayed"]
    yield _beside(
        seconds["both replayed"],
        layers + attention,
        "layers and attention replayed in turn",
        f"layers {_ms(layers)} plus attention {_ms(attention)}",
    )
    launches = seconds["layers' launches"] + seconds["attention's launches"]
    yield _beside(
        seconds["both launched"],
        max(launches, layers + attention),
        "layers and attention launched in turn",
        f"the larger of launches {_ms(launches)} and device {_ms(layers + attention)}",
    )


def _beside(measured: float, expected: float, what: str, of: str) -> Verdict:
    off = 100 * (measured / expected - 1)
    says = f"{what} take {_ms(measured)}, {off:+.1f} % beside {of}"
    return Verdict("overlap", graded(off), says)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def graded(percent: float) -> str:
    """Grade how far something is from what it should be."""
    off = abs(percent)
    return OK if off <= CLOSE_PERCENT else LOOK if off <= FAR_PERCENT else BAD


# ---- kvsim's commands ----------------------------------------------------------------------------


def judge_calibration(
    record: Mapping[str, Any], against: Sequence[str] | None
) -> Iterator[Verdict]:
    """Judge what was calibrated.

    Parameters
    ----------
    record : mapping
        What ``kvsim calibrate --format json`` printed.
    against : sequence of str or None
        What speaks against publishing it; None where that is not asked.
    """
    for said in against or ():
        yield Verdict("calibrate", BAD, said)
    for said in set(record["warnings"]) - set(against or ()):
        yield Verdict("calibrate", LOOK, said)
    if not against:
        errors = ", ".join(f"{name} {off:g} %" for name, off in record["error_percent"].items())
        what = "nothing speaks against it" if against is not None else "of no GPU: not published"
        yield Verdict("calibrate", OK, f"{what}; the fits miss their own rows by {errors}")


def judge_estimate(check: str, expected: float, taken: float) -> Verdict:
    """Judge whether an estimate was right: seconds."""
    off = taken / expected - 1
    says = f"took {taken:.0f} s, and {expected:.0f} s were expected ({off:+.0%})"
    return Verdict(check, OK if abs(off) <= ESTIMATE else LOOK, says)


def judge_validation(record: Mapping[str, Any]) -> Iterator[Verdict]:
    """Judge a run of ``kvsim validate --format json``: its steps, and the first few of them."""
    run = record["runs"][0]
    errors = run["step_errors"]
    median, total = errors["median_percent"], errors["total_percent"]
    yield Verdict(
        "validate",
        worst([graded(median), graded(total)]),
        f"{record['model']}, {run['label']}: {run['steps']:,} steps are predicted {total:+.1f} %"
        f" off all together, single ones {median:.1f} % in the median",
    )
    first = run["first_steps"]
    pairs = ", ".join(
        f"{_ms(step['measured_seconds'])} ({_ms(step['predicted_seconds'])})" for step in first
    )
    times = first[0]["measured_seconds"] / first[0]["predicted_seconds"]
    says = f"the first steps took (and should have taken) {pairs}"
    says += f"; the first was cold, {times:.1f} times as long" if times > COLD else ""
    yield Verdict("validate", LOOK if times > COLD else OK, says)


def judge_study(record: Mapping[str, Any]) -> Verdict:
    """Judge ``kvsim study cache --format json``, which fails where the caches disagree."""
    caches = sorted({row["cache"] for row in record["rows"]})
    says = f"{len(caches)} caches ({', '.join(caches)}) generated the same"
    return Verdict("study", OK, f"{says} {record['checked_tokens']} tokens of {record['model']}")


def judge_memory(done: Done, held_bytes: float) -> Verdict:
    """Judge a calibration on a card that somebody else holds: one line, and soon."""
    held = f"with {format_bytes(held_bytes)} held by another program"
    if done.code is None or done.seconds > LONGEST_SQUEEZED:
        says = f"{held} calibrate took longer than {min(done.most_seconds, LONGEST_SQUEEZED):.0f} s"
        return Verdict("memory", BAD, says)
    lines = [line for line in done.err.splitlines() if line.startswith("kvsim")]
    if "Traceback" in done.err:
        return Verdict("memory", BAD, f"{held} calibrate ended in a traceback: {done.last_line}")
    if done.code == 0:
        record = answered(done)
        said = [*record["shrunk"], *(note for note in record["notes"] if "left out" in note)]
        says = f"{held} calibrate finished: {'; '.join(said) or 'as if nothing was held'}"
        return Verdict("memory", OK if said else LOOK, shortened(says))
    if done.code != 2 or len(lines) != 1:
        says = f"{held} calibrate left {done.code} and said {len(lines)} lines: {done.last_line}"
        return Verdict("memory", BAD, says)
    return Verdict("memory", OK, f"{held} calibrate ended in one line: {lines[0]}")


def judge_interrupt(cut: Done, kept: Sequence[str]) -> Verdict | None:
    """Judge how a calibration took Ctrl-C: its exit code, and the rows that are kept.

    Returns
    -------
    Verdict or None
        None when nothing is wrong.
    """
    if cut.code == 0:
        return Verdict("interrupt", LOOK, "calibrate had finished before Ctrl-C reached it")
    if cut.code != 130:
        return failure("interrupt", "calibrate under Ctrl-C", cut)
    if not kept:
        return Verdict("interrupt", BAD, "after Ctrl-C no row was kept")
    return None


def judge_resumed(done: Done, kept: Sequence[str], rows: Sequence[str]) -> Verdict:
    """Judge the session after it: rows that were kept are not timed again."""
    if done.code != 0:
        return failure("interrupt", "calibrate --resume", done)
    same = sum(before == after for before, after in zip(kept, rows, strict=False))
    if same < len(kept):
        says = f"--resume kept {same} of {len(kept)} rows that were there, and timed the others"
        return Verdict("interrupt", BAD, f"{says} again")
    says = f"Ctrl-C left {len(kept)} rows with exit code 130, and --resume timed"
    return Verdict("interrupt", OK, f"{says} only the other {len(rows) - len(kept)}")
