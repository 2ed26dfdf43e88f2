"""Shipped profiles against the shared tables, and profiles written and read again."""

import statistics

import numpy as np
import pytest
import steptime_accuracy
from kernel_fits import fit_decode_attention, fit_gemm, fit_prefill_attention

from kvsim.calibrate.fit import percent_errors
from kvsim.calibrate.profile import coefficient_lines, profile_path, write_coefficients
from kvsim.calibrate.public.cards import CARDS, card_of, card_rows
from kvsim.calibrate.public.experts import fit_experts
from kvsim.calibrate.public.tables import KernelTables
from kvsim.catalog.accelerators import find_accelerator, load_accelerator
from kvsim.specs.checked import defaults
from kvsim.specs.hardware import HostCost, Link
from kvsim.steptime.defaults import EFFICIENCIES, EXPERT_SHARES, architecture_of
from tests.support.tables import fitted_on_tables

OTHER = find_accelerator("h100").coefficients

# --- against the shared tables -------------------------------------------------------------------

# step_time_findings.md: decode attention (t0 us, TB/s), GEMM (TB/s, TFLOP/s), prefill TFLOP/s
FINDINGS = {
    "a100_sxm": ((19, 1.41), (1.49, 242), 176),
    "h100_sxm": ((12, 2.67), (2.88, 795), 655),
    "h200_sxm": ((13, 3.54), (3.98, 789), 647),
}


@pytest.mark.parametrize("card", sorted(FINDINGS))
def test_the_affine_forms_of_the_findings_are_found_again(kvsim_data, card):
    (start, decode_rate), (gemm_rate, gemm_flops), prefill_flops = FINDINGS[card]
    tables = KernelTables.read(kvsim_data / "reference/gpu/aiconfigurator", card)

    decode = fit_decode_attention(tables.decode, large_only=False, per_head=False)
    gemm, prefill = fit_gemm(tables.gemm.times), fit_prefill_attention(tables.prefill)

    assert decode.start_seconds * 1e6 == pytest.approx(start, rel=0.07)
    assert decode.bytes_per_s / 1e12 == pytest.approx(decode_rate, rel=0.07)
    assert gemm.bytes_per_s / 1e12 == pytest.approx(gemm_rate, rel=0.02)
    assert gemm.flops_per_s / 1e12 == pytest.approx(gemm_flops, rel=0.03)
    assert prefill.flops_per_s / 1e12 == pytest.approx(prefill_flops, rel=0.02)


@pytest.mark.parametrize("card", sorted(FINDINGS))
def test_decode_attention_is_within_nine_percent(kvsim_data, card):
    tables = KernelTables.read(kvsim_data / "reference/gpu/aiconfigurator", card)

    assert fit_decode_attention(tables.decode, large_only=True, per_head=True).error_percent < 9


@pytest.mark.parametrize(
    ("name", "percent"), [("a100", 6), ("h100", 5), ("h200", 5), ("b200", 6), ("b300", 6)]
)
def test_the_shipped_profiles_describe_whole_steps(kvsim_data, name, percent):
    """Within the goals: 5 % on Hopper, 6 % on Blackwell; missed on the A100 (docs/accuracy.md)."""
    profile, fitted = find_accelerator(name), fitted_on_tables(name)
    rows = card_rows(kvsim_data / "reference/gpu", card_of(profile), profile)
    # kernel sums hold no host time, no norms and no activations: 9 us per layer
    kernels = fitted.model_copy(
        update={
            "layer_seconds": fitted.layer_seconds - 9e-6,
        }
    )

    error = float(np.mean(np.abs(percent_errors(rows, kernels))))

    assert error < percent
    assert error == pytest.approx(fitted.error_percent, abs=0.05)


@pytest.mark.parametrize("name", sorted(EXPERT_SHARES))
def test_class_shares_of_experts_are_medians_of_the_measured_cards(name, kvsim_data):
    """vLLM's grouped GEMMs on the cards that have tables of this format."""
    cards = {
        "a100_sxm": "a100", "h100_sxm": "h100", "h200_sxm": "h200", "b200_sxm": "b200",
        "b300_sxm": "b300", "l40s": "l40s", "rtx_pro_6000_server": "rtx-pro-6000",
    }  # fmt: skip
    found = []
    for system, card in cards.items():
        profile = find_accelerator(card)
        fits = fit_experts(kvsim_data / "reference/gpu", system, profile)
        if name in fits:
            rates = fits[name].rates
            shares = (
                rates.seconds * 1e6,
                rates.bytes_per_s / profile.bandwidth_bytes_per_s,
                rates.flops_per_s / profile.flops_per_s("bf16"),
            )
            found.append(shares)
    start, read, rate = map(statistics.median, zip(*found, strict=True))
    assert EXPERT_SHARES[name][0] * 1e6 == pytest.approx(start, abs=0.6)
    assert EXPERT_SHARES[name][1:] == pytest.approx((read, rate), abs=0.006)


def test_an_architecture_is_as_sure_as_its_least_alike_card(kvsim_data):
    """Each card under the medians of the others, on steps of its own tables."""
    found = {}
    for name in steptime_accuracy.WHOLE_CARDS:
        card = find_accelerator(name)
        errors = steptime_accuracy.left_out_errors(kvsim_data / "reference/gpu", card)
        found.setdefault(architecture_of(card), []).append(np.percentile(np.abs(errors), 90) / 100)
    for name, known in EFFICIENCIES.items():
        assert known.within == pytest.approx(max(found[name]), abs=0.006), name


# --- profiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.accelerator)
def test_a_profile_survives_being_written_and_read(card, tmp_path):
    profile = find_accelerator(card.accelerator)
    changed = profile.coefficients.model_copy(
        update={
            "date": "2030-01-01",
            "collectives": {2: Link(seconds=0.0, bytes_per_s=3e9)},
            "host_costs": {"sglang": HostCost(host_seconds=1e-5, source='quoted "so"')},
        }
    )
    path = tmp_path / "card.yaml"

    write_coefficients(path, changed, like=profile_path(profile))
    write_coefficients(path, changed)

    again = load_accelerator(path)
    assert again.coefficients == changed
    assert again.model_copy(update={"coefficients": None}) == profile.model_copy(
        update={"coefficients": None}
    )
    assert path.read_text().count("coefficients:") == 1


def test_a_profile_without_coefficients_gains_a_block(tmp_path):
    profile = find_accelerator("l4")
    path = tmp_path / "l4.yaml"

    write_coefficients(path, OTHER, like=profile_path(profile))

    assert load_accelerator(path).coefficients == OTHER
    assert path.read_text().startswith(profile_path(profile).read_text().rstrip("\n"))


def test_the_block_keeps_every_coefficient():
    block = coefficient_lines(OTHER)

    for name, value in OTHER:
        if value != defaults(type(OTHER)).get(name) and value:
            assert f"  {name}:" in block
