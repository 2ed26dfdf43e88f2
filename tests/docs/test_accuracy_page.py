"""docs/accuracy.md: its commands exist, and its figures are what the commands print."""

import re
from pathlib import Path

import capacity_accuracy
import capacity_cases
import fit_bands
import fit_overheads
import pytest
import replay_accuracy
import weights_accuracy

from kvsim.cli import COMMANDS
from kvsim.workload.traces.stats import trace_stats
from tests.support.tables import fitted_on_tables

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "accuracy.md").read_text("utf-8")
COMMAND = re.compile(r"`((?:python|kvsim|pytest|make) [^`]+)`")


def section(title):
    """Text from a heading to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", PAGE, re.M)
    assert found, f"no section {title!r}"
    rest = PAGE[found.end() :]
    following = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.M)
    return rest[: following.start()] if following else rest


def tables(title):
    """Tables of a section, each a list of rows, a row a dict by column."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", section(title), re.M)
    return [_rows(block.splitlines()) for block in blocks]


def _rows(lines):
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, cells, strict=True)) for cells in body]


# ---- commands --------------------------------------------------------------------------------


def commands():
    return sorted(set(COMMAND.findall(PAGE)))


def test_the_page_quotes_commands():
    programs = {command.split()[0] for command in commands()}
    assert programs == {"python", "kvsim", "pytest", "make"}


@pytest.mark.parametrize("command", commands())
def test_every_quoted_command_exists(command):
    program, what, *options = command.split()
    if program == "kvsim":
        assert what in COMMANDS
    elif program == "make":
        assert re.search(rf"^{what}:", (ROOT / "Makefile").read_text("utf-8"), re.M)
    else:
        source = (ROOT / what).read_text("utf-8")
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in source, option


def test_every_benchmark_of_accuracy_is_on_the_page():
    present = {path.name for path in (ROOT / "benchmarks").glob("*_accuracy.py")}
    quoted = {Path(command.split()[1]).name for command in commands()}
    assert present <= quoted


# ---- figures ---------------------------------------------------------------------------------


def test_capacity_figures(kvsim_data):
    (rows,) = tables("KV capacity")
    outcomes = list(capacity_accuracy.outcomes(kvsim_data))
    assert {row["engine"] for row in rows} == {each.row.engine_name for each in outcomes}
    for row in rows:
        mine = [each for each in outcomes if each.row.engine_name == row["engine"]]
        checked = [each for each in mine if each.exact is not None and each.row.is_consistent]
        exact = sum(bool(each.exact) for each in checked)
        errors = [abs(each.error_percent) for each in mine if each.error_percent is not None]
        assert row["exact, of rows that print counts"] == f"{exact} of {len(checked)}"
        assert row["predicted, of all rows"] == f"{len(errors)} of {len(mine)}"
        mean = f"{sum(errors) / len(errors):.2f} %" if errors else "-"
        worst = f"{max(errors):.2f} %" if errors else "-"
        assert (row["mean error"], row["worst"]) == (mean, worst)


def test_capacity_figures_left_out(kvsim_data):
    errors = fit_overheads.leave_one_out(fit_overheads.read_samples(kvsim_data))
    percent = [abs(error) for _, _, error in errors]
    mean, worst = sum(percent) / len(percent), max(percent)
    text = " ".join(section("KV capacity").split())
    assert f"({len(errors)} of them)" in text
    assert f"off by {mean:.2f} % of their KV on average and {worst:.2f} % at worst" in text


def test_capacity_figures_that_nothing_was_fitted_on(kvsim_data):
    rows, classes = tables("KV capacity, not fitted")
    found = capacity_cases.cases(kvsim_data)
    answers = {True: "yes", False: "no", None: "-"}
    for row, case in zip(rows, found, strict=True):
        printed = "-" if case.printed_gib is None else f"{case.printed_gib:.2f}"
        off = "-" if case.kv_percent is None else f"{case.kv_percent:+.1f} %"
        assert (row["row"], row["fabric"], row["printed GiB"]) == (case.name, case.fabric, printed)
        assert (row["KV bytes"], row["tokens"]) == (off, f"{case.tokens_percent:+.1f} %")
        assert row["exact"] == answers[case.exact]
    named = [("all", found)]
    for what in capacity_cases.CLASSES:
        named += capacity_cases.by_class(found, what)
    for row, (name, mine) in zip(classes, named, strict=True):
        mean, worst = capacity_cases.mean_and_worst(mine)
        checked = [case.exact for case in mine if case.exact is not None]
        errors = [case.kv_percent for case in mine if case.kv_percent is not None]
        assert (row["class"], row["rows"]) == (name, str(len(mine)))
        assert row["over"] == str(sum(error > 0 for error in errors))
        assert row["under"] == str(sum(error < 0 for error in errors))
        assert (row["mean error"], row["worst"]) == (f"{mean:.1f} %", f"{worst:.1f} %")
        assert row["tokens exact"] == f"{sum(checked)} of {len(checked)}"


def test_band_figures(kvsim_data):
    (rows,) = tables("How sure a KV size is")
    left_out = fit_bands.leave_one_out(fit_bands.start_ups(kvsim_data))
    for row, (name, inside, count, width, error) in zip(
        rows, fit_bands.summary(left_out), strict=True
    ):
        assert (row["start-ups"], row["within their bands"]) == (name, f"{inside} of {count}")
        assert row["median half width"] == f"{width:.1f} % of KV"
        assert row["median error"] == f"{error:.1f} %"


def test_weight_figures(kvsim_data):
    (rows,) = tables("Weights")
    compared = weights_accuracy.parameters(kvsim_data), weights_accuracy.loaded(kvsim_data)
    for row, found in zip(rows, compared, strict=True):
        apart = sum(abs(each.error_percent) > 1 for each in found)
        assert row["rows"] == str(len(found))
        assert row["mean error"] == f"{weights_accuracy.mean_error_percent(found):.2f} %"
        assert row["more than 1 % apart"] == str(apart)


def test_pooled_step_figures_are_those_of_the_profiles():
    rows = tables("Step time")[0]
    for row in rows:
        coefficients = fitted_on_tables(row["card"])
        assert float(row["pooled"].removesuffix(" %")) == coefficients.error_percent, row["card"]
        assert coefficients.fitted_on.startswith(row["steps"].replace(",", "") + " ")


def test_replay_figures(kvsim_data):
    errors, means = tables("Real vLLM runs, replayed")
    replays = {(each.run.name, each.pool): each for each in replay_accuracy.replays(kvsim_data)}
    assert {(row["run"], row["pool"]) for row in errors} <= set(replays)
    for row in errors:
        replayed = replays[row["run"], row["pool"]]
        assert row["blocks"] == f"{replayed.result.setup.num_blocks:,}"
        for column, latency, statistic in (
            ("mean TTFT", "ttft", "mean"),
            ("mean TPOT", "tpot", "mean"),
            ("mean E2E", "e2el", "mean"),
            ("p99 E2E", "e2el", "p99"),
        ):
            assert row[column] == f"{replayed.error_percent(latency, statistic):+.1f} %", column
        assert row["KV usage, points"] == f"{replayed.usage.mean_difference:.2f}"
    _check_means(means, replays)


def _check_means(rows, replays):
    rules, given = (replays["RTX4090 Llama-3.1-8B", pool] for pool in ("rules", "read"))
    pro = replays["RTXPRO6000 Llama-3.1-8B", "rules"]
    columns = (rules.measured, rules.simulated, given.simulated, pro.measured, pro.simulated)
    for row, latency, scale in zip(rows, replay_accuracy.GOALS, (1, 1e3, 1), strict=True):
        _, *cells = row.values()
        assert cells == [f"{scale * each[latency].mean():.2f}" for each in columns], latency


def test_hit_ratio_figures(kvsim_data):
    (rows,) = tables("Traces: hit ratios")
    small = [row for row in rows if not row["trace"].startswith("weka")]  # 13 million blocks
    assert len(small) == 2
    for row in small:
        sharing = trace_stats(kvsim_data / "traces" / row["trace"]).sharing
        assert row["block references"] == f"{sharing.references:,}"
        assert row["hit ratio, infinite cache"] == f"{sharing.hit_ratio_blocks:.4f}"


def test_the_twins_section_waits_between_its_marks():
    text = section("The twin: predictions beside a real decode loop")
    assert text.index("<!-- twin: begin") < text.index("<!-- twin: end -->")
