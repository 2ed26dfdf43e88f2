"""kvsim against what real engines printed: the accuracy goals, row by row, none dropped."""

import capacity_accuracy
import fit_bands
import fit_overheads
import pytest

# Rows that cannot be predicted, each with the beginning of its reason.
UNPREDICTABLE = (
    "card missing",
    "release missing",
    "flags missing",
    "the row prints no KV size",
    "model not in the catalogue",
    "rules are those of the PyTorch executor",
    "how sglang sizes the compressed MLA cache",
)


@pytest.fixture(scope="module")
def outcomes(kvsim_data):
    return list(capacity_accuracy.outcomes(kvsim_data))


def errors_of(outcomes, engine):
    return {
        o.row.name: o.error_percent
        for o in outcomes
        if o.row.engine_name == engine and o.error_percent is not None
    }


def test_every_consistent_row_is_exact_on_its_own_bytes(outcomes):
    wrong = [(o.row.name, o.why) for o in outcomes if o.row.is_consistent and o.exact is False]
    assert not wrong
    checked = [o for o in outcomes if o.row.is_consistent and o.exact]
    consistent = [o for o in outcomes if o.row.is_consistent and o.row.prints_counts]
    assert len(checked) >= 0.9 * len(consistent) > 0


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_predicted_kv_is_within_the_goals(outcomes, engine):
    errors = errors_of(outcomes, engine)
    assert errors
    mean = sum(map(abs, errors.values())) / len(errors)
    assert mean <= capacity_accuracy.MEAN_GOAL_PERCENT
    beyond = {
        name: e for name, e in errors.items() if abs(e) > capacity_accuracy.WORST_GOAL_PERCENT
    }
    assert not beyond


def test_no_row_is_dropped_without_a_reason(outcomes, kvsim_data):
    rows = (kvsim_data / "reference" / "kv_capacity_observed.csv").read_text("utf-8")
    assert len(outcomes) == len(rows.strip().splitlines()) - 1
    for outcome in outcomes:
        if outcome.predicted_gib is None:
            assert any(reason in outcome.why for reason in UNPREDICTABLE), outcome.row.name
        if outcome.exact is None:
            assert outcome.why, outcome.row.name


def test_rows_that_name_card_release_and_flags_are_all_predicted(outcomes):
    """A reason may not hide a row: what is fully stated has a prediction."""
    for outcome in outcomes:
        row = outcome.row.row
        stated = all(row[c] for c in ("gpu_mem_gib", "engine_version", "mem_frac", "kv_gib"))
        if row["engine"] == "vllm" and stated and not outcome.row.is_unstated_multimodal:
            assert outcome.predicted_gib is not None, outcome.row.name


def test_the_committed_coefficients_are_the_fitted_ones(kvsim_data):
    samples = fit_overheads.read_samples(kvsim_data)
    assert fit_overheads.render(samples) == fit_overheads.TARGET.read_text("utf-8")


def test_no_row_needs_itself_in_the_fit(kvsim_data):
    """Left out of the fit, every row's activation still costs it less than 8 % of its KV."""
    errors = fit_overheads.leave_one_out(fit_overheads.read_samples(kvsim_data))
    assert len(errors) > 20
    assert max(abs(percent) for _, _, percent in errors) < capacity_accuracy.WORST_GOAL_PERCENT
    assert sum(abs(percent) for _, _, percent in errors) / len(errors) < 1.0


def test_the_committed_bands_are_the_fitted_ones(kvsim_data):
    found = fit_bands.start_ups(kvsim_data)
    assert fit_bands.render_bands(found) == fit_bands.TARGET.read_text("utf-8")


def test_bands_hold_the_start_ups_that_they_were_fitted_without(kvsim_data):
    """Nine in ten of all; four in five of those that nothing else was fitted on either."""
    left_out = fit_bands.leave_one_out(fit_bands.start_ups(kvsim_data))
    assert len(left_out) >= 38
    inside = [abs(each.error_gib) <= half for each, half in left_out]
    assert sum(inside) >= 0.87 * len(inside)
    unseen = [
        is_in for is_in, (each, _) in zip(inside, left_out, strict=True) if not each.is_fitted
    ]
    assert sum(unseen) >= 0.8 * len(unseen)
