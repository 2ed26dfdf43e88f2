"""How far kvsim's step times are from public measurements, by card, model and phase.

    python benchmarks/steptime_accuracy.py --data FOLDER

FOLDER holds ``reference/gpu``; the default is $KVSIM_DATA. Every figure is a mean absolute
percentage error; "left out" is the error on a model under coefficients fitted without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from kernel_fits import fit_decode_attention, fit_gemm, fit_prefill_attention
from reference_data import parsed, parser

from kvsim.calibrate.fit import Datasheet, Fit, fit_gemms, fit_steps, percent_errors
from kvsim.calibrate.public.cards import (
    CARDS,
    Card,
    card_of,
    card_rows,
    fit_card,
    narrow_rows,
    of_kernels,
)
from kvsim.calibrate.public.experts import fit_experts
from kvsim.calibrate.public.tables import KernelTables
from kvsim.calibrate.public.vidur import read_layers
from kvsim.calibrate.rows import StepRows
from kvsim.catalog.accelerators import find_accelerator
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.steptime.defaults import architecture_of, class_coefficients

_SHORT_PROMPTS = (128, 256, 512)
WHOLE_CARDS = ("a100", "h100", "h200", "b200", "b300", "rtx-pro-6000", "l40s", "rtx4090")
_EXPERTS = {
    "a100_sxm": "a100",
    "h100_sxm": "h100",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}


def leave_one_model_out(
    rows: StepRows, fit: Callable[[StepRows], StepCoefficients], *, weights: str = ""
) -> dict[str, float]:
    """Error of each model, percent, under coefficients fitted on all the others."""
    errors = {}
    for name in rows.models():
        held_out = rows.model == name
        coefficients = fit(rows.where(~held_out))
        wrong = percent_errors(rows.where(held_out), coefficients, weights=weights)
        errors[name] = float(np.mean(np.abs(wrong)))
    return errors


def main() -> None:
    tables = parsed(parser(__doc__)).data / "reference" / "gpu"
    fits: dict[str, Fit] = {}
    for card in CARDS:
        profile = find_accelerator(card.accelerator)
        fits[card.accelerator] = fit_card(tables, profile)
        print("\n".join(step_lines(tables, card, profile, fits[card.accelerator])))
    print("\n".join(kernel_lines(tables)))
    print("\n".join(cross_lines(tables, fits)))
    print("\n".join(left_out_lines(tables)))
    print("\n".join(expert_lines(tables)))


def step_lines(tables: Path, card: Card, profile: AcceleratorProfile, fit: Fit) -> Iterator[str]:
    """The whole step: pooled, by phase, by model, and each model left out."""
    rows = card_rows(tables, card, profile)
    summed = card.kind in ("kernels", "parquet")
    bare = fit.coefficients.model_copy(update={"token_factors": {}})
    datasheet = Datasheet(profile.bandwidth_bytes_per_s, profile.flops_per_s("bf16"))

    def refit(part: StepRows, *, tiles: bool = True) -> StepCoefficients:
        fitted = fit_steps(part, datasheet, bare, tiles=tiles, summed=summed)
        return fitted.coefficients

    best = refit(rows)
    errors = np.abs(percent_errors(rows, best))
    yield f"\n{profile.name}: {len(rows)} steps, pooled {errors.mean():.2f} %"
    yield "  by phase   " + _by(rows.phase, errors)
    without = np.abs(percent_errors(rows, refit(rows, tiles=False)))
    short = (rows.phase == "prefill") & np.isin(rows.tokens, _SHORT_PROMPTS)
    if short.any():
        prompts = rows.tokens[short].astype(int).astype(str)
        yield "  short prefill          " + _by(prompts, errors[short])
        yield "  without tile factors   " + _by(prompts, without[short])
        yield f"  pooled without tile factors   {without.mean():.2f}"
    yield "  by model   " + _by(rows.model, errors)
    if len(rows.models()) > 2:
        left_out = leave_one_model_out(rows, refit)
        mean = statistics.mean(left_out.values())
        cells = ", ".join(f"{name} {error:.1f}" for name, error in left_out.items())
        yield f"  left out   mean {mean:.2f}: {cells}"
    kernels = of_kernels(fit.coefficients)
    for name in card.narrow:
        narrow = narrow_rows(tables, card, profile, name)
        wrong = np.abs(percent_errors(narrow, kernels, weights=name))
        left_out = leave_one_model_out(narrow, partial(_refit_narrow, kernels, name), weights=name)
        mean = statistics.mean(left_out.values())
        yield (
            f"  {name:10} {len(narrow)} steps, pooled {wrong.mean():.2f}, left out {mean:.2f}: "
            + _by(narrow.phase, wrong)
        )


def _refit_narrow(kernels: StepCoefficients, name: str, part: StepRows) -> StepCoefficients:
    return fit_gemms(part, kernels, name).coefficients


def _by(labels: np.ndarray, errors: np.ndarray) -> str:
    names = sorted(set(labels.tolist()), key=lambda name: (len(name), name))
    return ", ".join(f"{name} {errors[labels == name].mean():.1f}" for name in names)


def kernel_lines(tables: Path) -> Iterator[str]:
    """One kernel at a time, beside the affine forms of the findings."""
    yield "\nKernels (TB/s, TFLOP/s, us, %)"
    for card in CARDS:
        if card.kind != "kernels":
            continue
        read = KernelTables.read(tables / "aiconfigurator", card.stem)
        plain = fit_decode_attention(read.decode, large_only=True, per_head=False)
        headed = fit_decode_attention(read.decode, large_only=True, per_head=True)
        gemm, prefill = fit_gemm(read.gemm.times), fit_prefill_attention(read.prefill)
        yield (
            f"  {card.accelerator:16} decode attention over 256 MB: "
            f"{headed.bytes_per_s / 1e12:.2f} TB/s, {headed.item_seconds * 1e9:.0f} ns per KV "
            f"head, {headed.error_percent:.1f} % (affine alone {plain.error_percent:.1f} %)"
        )
        yield (
            f"  {'':16} GEMM {gemm.bytes_per_s / 1e12:.2f} TB/s, {gemm.flops_per_s / 1e12:.0f} "
            f"TFLOP/s, {gemm.start_seconds * 1e6:.1f} us, {gemm.error_percent:.1f} %; prefill "
            f"attention {prefill.flops_per_s / 1e12:.0f} TFLOP/s, {prefill.error_percent:.1f} %"
        )


def cross_lines(tables: Path, fits: dict[str, Fit]) -> Iterator[str]:
    """Layers measured by others (vidur, other software) under the same coefficients."""
    yield "\nvidur's layers without attention, under the coefficients above (not fitted on)"
    for name, stem in (("A100-SXM4-80GB", "a100"), ("H100-SXM5-80GB", "h100")):
        rows = read_layers(tables / "vidur" / f"mlp_median_{stem}.csv")
        errors = percent_errors(rows, fits[name].coefficients)
        yield f"  {name:16} {np.abs(errors).mean():.1f} % ({errors.mean():+.1f} % on average)"


def left_out_lines(tables: Path) -> Iterator[str]:
    """Cards that are given the medians of the others of their architecture."""
    yield "\nA card left out of its architecture (steps off by, %)"
    for name in WHOLE_CARDS:
        card = find_accelerator(name)
        errors = left_out_errors(tables, card)
        whose = architecture_of(card)
        yield (
            f"  {card.name:28} {whose:10} mean {np.abs(errors).mean():5.1f}  nine in ten within"
            f" {np.percentile(np.abs(errors), 90):5.1f}  ({errors.mean():+.1f} on average)"
        )


def left_out_errors(tables: Path, card: AcceleratorProfile) -> np.ndarray:
    """Signed errors of a card's steps under the others' medians, percent.

    Of its architecture, or of all cards where it is the only one of it.
    """
    cards = [find_accelerator(name) for name in WHOLE_CARDS if find_accelerator(name) != card]
    kin = [each for each in cards if architecture_of(each) == architecture_of(card)]
    given = fit_base(card, median_efficiency(kin or cards))
    return percent_errors(card_rows(tables, card_of(card), card), given)


def median_efficiency(cards: list[AcceleratorProfile]) -> dict[str, float]:
    """Medians of cards' rates as shares of their datasheets, and of their times."""
    fits = [(card, card.coefficients) for card in cards if card.coefficients]
    sheets = {
        "weight_bytes_per_s": lambda card: card.bandwidth_bytes_per_s,
        "kv_bytes_per_s": lambda card: card.bandwidth_bytes_per_s,
        "flops_per_s": lambda card: card.flops_per_s("bf16"),
        "attention_flops_per_s": lambda card: card.flops_per_s("bf16"),
        "layer_seconds": lambda card: 1.0,
        "head_seconds": lambda card: 1.0,
    }
    return {
        name: statistics.median(getattr(known, name) / sheet(card) for card, known in fits)
        for name, sheet in sheets.items()
    }


def fit_base(card: AcceleratorProfile, shares: dict[str, float]) -> StepCoefficients:
    """A card's coefficients by shares of its datasheet, as its kernels' rows state steps."""
    bandwidth, flops = card.bandwidth_bytes_per_s, card.flops_per_s("bf16")
    sheet = {"weight": bandwidth, "kv": bandwidth, "flops": flops, "attention": flops}
    rates = {name: share * sheet.get(name.partition("_")[0], 1.0) for name, share in shares.items()}
    if card_of(card).kind in ("kernels", "parquet"):  # no launches of norms are in the rows
        rates["layer_seconds"] -= 9e-6
    return class_coefficients(card).model_copy(update=rates)


def expert_lines(tables: Path) -> Iterator[str]:
    """Grouped GEMMs of routed experts, by card and format."""
    yield "\nRouted experts, vLLM (start us; shares of the datasheet; mean error, %)"
    for system, name in _EXPERTS.items():
        profile = find_accelerator(name)
        for fmt, fit in fit_experts(tables, system, profile).items():
            rates = fit.rates
            read = rates.bytes_per_s / profile.bandwidth_bytes_per_s
            multiplied = rates.flops_per_s / profile.flops_per_s("bf16")
            yield (
                f"  {profile.name:28} {fmt:5} {fit.rows:5} rows  {rates.seconds * 1e6:5.1f} us"
                f"  {read:.2f} of the bandwidth  {multiplied:.2f} of bf16"
                f"  {fit.error_percent:5.1f} %"
            )


if __name__ == "__main__":
    main()
