"""Shipped profiles against the shared tables, and profiles written and read again."""

import statistics

import numpy as np
import pytest
from kernel_fits import fit_decode_attention, fit_gemm, fit_prefill_attention

from kvsim.calibrate.fit import percent_errors
from kvsim.calibrate.profile import coefficient_lines, profile_path, write_coefficients
from kvsim.calibrate.public.cards import CARDS, card_of, card_rows
from kvsim.calibrate.public.hosts import HostRules, fit_expert_layer, fit_hosts
from kvsim.calibrate.public.hosts import host_cost as fitted_cost
from kvsim.calibrate.public.serving import read_served
from kvsim.calibrate.public.tables import KernelTables
from kvsim.catalog.accelerators import find_accelerator, load_accelerator
from kvsim.engines import get_engine
from kvsim.specs.checked import defaults
from kvsim.specs.hardware import HostCost, Link
from kvsim.steptime.defaults import EXPERT_FLOPS_SHARE, EXPERT_LAYER_SECONDS
from kvsim.steptime.hosts import host_cost
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


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_the_shipped_profiles_describe_whole_steps_within_five_percent(kvsim_data, name):
    profile, fitted = find_accelerator(name), fitted_on_tables(name)
    rows = card_rows(kvsim_data / "reference/gpu", card_of(profile), profile)
    # kernel sums hold no host time, no norms and no activations: 9 us per layer
    kernels = fitted.model_copy(
        update={
            "layer_seconds": fitted.layer_seconds - 9e-6,
        }
    )

    error = float(np.mean(np.abs(percent_errors(rows, kernels))))

    assert error < 5
    assert error == pytest.approx(fitted.error_percent, abs=0.05)


@pytest.fixture(scope="module")
def served_runs(kvsim_data):
    return read_served(kvsim_data / "reference/gpu/aiconfigurator/silicon_e2e.csv")


@pytest.mark.parametrize("by_version", [True, False])
def test_served_runs_are_within_eight_percent_in_the_median_group(served_runs, by_version):
    rates = {f"{name}_sxm": fitted_on_tables(name) for name in ("h100", "h200")}

    fits = fit_hosts(served_runs, rates, HostRules(by_version=by_version))

    errors = [error for fit in fits for _, error in fit.groups.values()]
    assert len(errors) == 11
    assert statistics.median(errors) < 8


def test_the_shipped_costs_of_hosts_and_experts_are_those_of_the_served_runs(served_runs):
    rates = {f"{name}_sxm": fitted_on_tables(name) for name in ("h100", "h200")}

    layer = fit_expert_layer(served_runs, rates)
    cost = fitted_cost(fit_hosts(served_runs, rates), "vllm")

    assert layer == pytest.approx(EXPERT_LAYER_SECONDS, abs=1e-6)
    shipped = host_cost(get_engine("vllm", "0.18.0"), is_async=True)
    assert shipped.host_seconds == pytest.approx(cost.host_seconds, rel=0.02)
    assert shipped.sequence_seconds == pytest.approx(cost.sequence_seconds, rel=0.02)
    for card in CARDS:
        shipped = find_accelerator(card.accelerator).coefficients
        assert shipped.expert_layer_seconds == EXPERT_LAYER_SECONDS
        assert shipped.expert_flops_share == EXPERT_FLOPS_SHARE


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
