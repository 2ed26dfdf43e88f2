"""From a folder of public tables to one card's coefficients.

========================  ==========================================  ==================
card                      tables                                      what they give
========================  ==========================================  ==================
A100, H100, H200, L40S    ``aiconfigurator/*_{card}_*.csv``           all but host time
B200, B300                ``aisimulate/{card}/**/*.parquet``          all but host time
RTX 4090, RTX PRO 6000    ``llmservingsim/{card}_*_tp1_*.csv``        all but host time
A40                       ``vidur/mlp_median_a40.csv``                GEMMs and layers
========================  ==========================================  ==================

Kernel sums lack norms, rotary and activation: their launches are added to each layer, and what
they read and write has a rate of its own. Collectives come from ``aisimulate/{card}/comm``, engine
by engine, and from the fabric for a card that has none there. Routed experts are fitted to
``aisimulate``'s tables, too; those of other cards and formats are their class's. What the host adds
is no card's: see `kvsim.steptime.hosts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvsim.calibrate.fit import (
    Datasheet,
    Fit,
    fit_gemms,
    fit_steps,
    rates_times,
    round_significant,
)
from kvsim.calibrate.public.aisimulate import FOLDER, read_kernels
from kvsim.calibrate.public.collectives import engine_links, measured_links
from kvsim.calibrate.public.experts import engine_experts, fit_experts
from kvsim.calibrate.public.layers import LayerTables, layer_steps
from kvsim.calibrate.public.tables import KernelTables, Precision, kernel_sums
from kvsim.calibrate.public.vidur import read_layers
from kvsim.calibrate.rows import StepRows
from kvsim.calibrate.shapes import LLAMA_3_8B
from kvsim.errors import UnsupportedError
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.steptime.defaults import ELEMENTWISE_SHARE, class_coefficients
from kvsim.steptime.links import fabric_links

__all__ = [
    "CARDS",
    "DERIVED",
    "Card",
    "card_of",
    "card_rows",
    "derived",
    "fit_card",
    "fit_rows",
    "narrow_rows",
    "of_kernels",
]

_LEAST_STEP_BYTES = 32e9
# Two norms, rotary and activation of one layer at few tokens: 8.5 us on RTX 4090 and 10.2 us
# on RTX PRO 6000 in LLMServingSim's vLLM profiles.
_ELEMENTWISE_SECONDS = 9e-6
# Formats of narrow weights, in kvsim's words and the tables'; their steps read KV in fp8. Blocks of
# fp8 were timed with the host in the way on B200 and L40S: 170 us and more for the smallest GEMM.
_NARROW = {"fp8": "fp8", "fp8_block": "fp8_block", "fp4": "nvfp4"}


@dataclass(frozen=True, slots=True)
class Card:
    """Where the tables of one accelerator are.

    Parameters
    ----------
    accelerator : str
        Name of its profile.
    kind : str
        "kernels", "parquet", "layers" or "gemms": see the module's table.
    stem : str
        The card's word in file names.
    narrow : tuple of str
        Narrower formats that the tables hold too, of `_NARROW`; "fp8" first.
    system : str
        The card's word in ``aisimulate``, where it is another.
    """

    accelerator: str
    kind: str
    stem: str
    narrow: tuple[str, ...] = ()
    system: str = ""

    @property
    def word(self) -> str:
        """The card's word in ``aisimulate``."""
        return self.system or self.stem


_RTX_PRO = "rtx_pro_6000_server"
CARDS = (
    Card("A100-SXM4-80GB", "kernels", "a100_sxm"),
    Card("H100-SXM5-80GB", "kernels", "h100_sxm", ("fp8", "fp8_block")),
    Card("H200-SXM-141GB", "kernels", "h200_sxm", ("fp8", "fp8_block")),
    Card("L40S", "kernels", "l40s", ("fp8",)),
    Card("RTX4090", "layers", "RTX4090_Llama-3.1-8B"),
    Card("B200-SXM-180GB", "parquet", "b200_sxm", ("fp8", "fp4")),
    Card("B300-SXM-288GB", "parquet", "b300_sxm", ("fp8", "fp8_block", "fp4")),
    Card(
        "RTXPRO6000-Blackwell-Server", "layers", "RTXPRO6000_Llama-3.1-8B", ("fp8", "fp4"), _RTX_PRO
    ),
    Card("A40", "gemms", "a40"),
)
# Cards with another's die: no table covers them, and their datasheets differ in memory and power.
DERIVED = {
    "A100-SXM4-40GB": "A100-SXM4-80GB",
    "A100-PCIE-40GB": "A100-SXM4-80GB",
    "A100-PCIE-80GB": "A100-SXM4-80GB",
    "GB200-186GB": "B200-SXM-180GB",
    "GB300-288GB": "B300-SXM-288GB",
}
_FOLDERS = {
    "kernels": "aiconfigurator",
    "parquet": FOLDER,
    "layers": "llmservingsim",
    "gemms": "vidur",
}
_Reader = Callable[[Path, str, Precision | None], KernelTables]
_KERNEL_READERS: dict[str, _Reader] = {"kernels": KernelTables.read, "parquet": read_kernels}
_FITTED_ON = "2026-11-30"
_SOURCES = {
    "kernels": "kernel sums of aiconfigurator's vLLM tables (Apache-2.0)",
    "parquet": "kernel sums of AISimulate's vLLM tables (Apache-2.0)",
    "layers": "layer tables of LLMServingSim's vLLM profile (MIT)",
    "gemms": "vidur's layer tables (MIT); attention: its architecture's medians",
}


def card_of(profile: AcceleratorProfile) -> Card:
    """Return where the tables of an accelerator are.

    Raises
    ------
    UnsupportedError
        When no public table covers it.
    """
    for card in CARDS:
        if card.accelerator == profile.name:
            return card
    known = ", ".join(card.accelerator for card in CARDS)
    raise UnsupportedError(
        f"no table reader knows {profile.name}; known are {known}; or give measured steps "
        "with --rows"
    )


def card_rows(
    folder: Path, card: Card, profile: AcceleratorProfile, precision: Precision | None = None
) -> StepRows:
    """Read a card's tables and make up its steps.

    Raises
    ------
    InputError
        When a table is missing or broken.
    """
    place = _place(folder, card)
    if read := _KERNEL_READERS.get(card.kind):
        tables = read(place, card.stem, precision)
        return kernel_sums(tables, profile.memory_bytes, l2_bytes=profile.l2_bytes or 0)
    if card.kind == "layers":
        # a 24 GB card holds few long steps of this model; those of 32 GB say more of its rates
        memory_bytes = max(profile.memory_bytes, _LEAST_STEP_BYTES)
        return layer_steps(LayerTables.read(place, card.stem), LLAMA_3_8B, memory_bytes)
    return read_layers(place / f"mlp_median_{card.stem}.csv")


def narrow_rows(folder: Path, card: Card, profile: AcceleratorProfile, name: str) -> StepRows:
    """Steps of a card whose weights have a narrower format, and whose KV is fp8.

    Raises
    ------
    InputError
        When a table is missing or broken.
    """
    if _KERNEL_READERS.get(card.kind) is None or name == "fp8_block":
        card = replace(card, kind="parquet", stem=card.word)
    return card_rows(folder, card, profile, Precision(_NARROW[name], "fp8"))


def _place(folder: Path, card: Card) -> Path:
    """Return the source's own folder where there is one, else the folder as given."""
    inner = folder / _FOLDERS[card.kind]
    return inner if inner.is_dir() else folder


def fit_card(folder: Path, profile: AcceleratorProfile) -> Fit:
    """Fit one card's kernel coefficients: rates, links, fp8; host costs are left at zero.

    Raises
    ------
    UnsupportedError
        When no public table covers the card.
    InputError
        When a table is missing or broken.
    """
    card = card_of(profile)
    rows = card_rows(folder, card, profile)
    summed = _KERNEL_READERS.get(card.kind) is not None
    fit = fit_rows(rows, profile, _base(folder, card, profile), summed=summed)
    rates = fit.coefficients
    if summed:
        layer_seconds = round_significant(rates.layer_seconds + _ELEMENTWISE_SECONDS)
        elementwise = round_significant(ELEMENTWISE_SHARE * rates.kv_bytes_per_s)
        added = {"layer_seconds": layer_seconds, "elementwise_bytes_per_s": elementwise}
        rates = rates.model_copy(update=added)
    kernels = of_kernels(rates)
    for name in card.narrow:
        kernels = fit_gemms(narrow_rows(folder, card, profile, name), kernels, name).coefficients
    narrow = {"gemms": kernels.gemms, "fp8_kv_speedup": kernels.fp8_kv_speedup}
    return replace(fit, coefficients=rates.model_copy(update=narrow))


def of_kernels(rates: StepCoefficients) -> StepCoefficients:
    """A card's rates for sums of kernels, which have nothing but matrices and attention."""
    layer_seconds = round_significant(rates.layer_seconds - _ELEMENTWISE_SECONDS)
    return rates.model_copy(update={"layer_seconds": layer_seconds})


def derived(
    profile: AcceleratorProfile, sibling: AcceleratorProfile, fitted: StepCoefficients
) -> StepCoefficients:
    """Restate a sibling's coefficients at a card's own datasheet.

    Bandwidths scale with the memory's, rates with bf16's; times stay. Collectives are the sibling's
    where both cards have one fabric, and the fabric's own elsewhere.
    """
    memory = profile.bandwidth_bytes_per_s / sibling.bandwidth_bytes_per_s
    arithmetic = profile.flops_per_s("bf16") / sibling.flops_per_s("bf16")
    scales = {
        "weight_bytes_per_s": memory,
        "kv_bytes_per_s": memory,
        "elementwise_bytes_per_s": memory,
        "flops_per_s": arithmetic,
        "attention_flops_per_s": arithmetic,
    }
    changes: dict[str, Any] = {
        name: round_significant(scale * getattr(fitted, name)) for name, scale in scales.items()
    }
    if profile.interconnect != sibling.interconnect:
        changes |= {"collectives": fabric_links(profile), "engine_collectives": {}}
    notes = {
        "derived_from": sibling.name,
        "error_percent": None,
        "experts": rates_times(fitted.experts, memory, arithmetic),
        "engine_experts": {
            name: rates_times(experts, memory, arithmetic)
            for name, experts in fitted.engine_experts.items()
        },
        "gemms": rates_times(fitted.gemms, memory, arithmetic),
    }
    return fitted.model_copy(update=changes | notes)


def fit_rows(
    rows: StepRows,
    profile: AcceleratorProfile,
    base: StepCoefficients,
    *,
    summed: bool = False,
) -> Fit:
    """Fit measured steps of a card and write down what they were.

    Parameters
    ----------
    rows : StepRows
        Steps.
    profile : AcceleratorProfile
        Its datasheet bounds the rates.
    base : StepCoefficients
        Engine, source, links and host costs.
    summed : bool
        Whether mixed steps are sums of separate kernels.
    """
    datasheet = Datasheet(profile.bandwidth_bytes_per_s, profile.flops_per_s("bf16"))
    fit = fit_steps(rows, datasheet, base, summed=summed)
    phases = ", ".join(sorted(set(rows.phase.tolist())))
    notes = {
        "fitted_on": f"{len(rows)} {phases} steps of {', '.join(rows.models())}",
        "error_percent": fit.error_percent,
    }
    return replace(fit, coefficients=fit.coefficients.model_copy(update=notes))


def _base(folder: Path, card: Card, profile: AcceleratorProfile) -> StepCoefficients:
    """What is known before the fit: the source, and the links."""
    links = class_coefficients(profile).collectives
    # over PCIe some machines let no card read another's memory; a switch always does
    expected = {} if profile.interconnect.is_switched else links
    own = measured_links(folder, card.word, "vllm", expected)
    engines = engine_links(folder, card.word, own, expected) if own else {}
    base = class_coefficients(profile)
    experts = fit_experts(folder, card.word, profile)
    known = {name: each for name, each in base.experts.items() if name in profile.flops}
    return base.model_copy(
        update={
            "experts": {**known, **{name: fit.rates for name, fit in experts.items()}},
            "engine_experts": engine_experts(folder, card.word, profile),
            "source": _SOURCES[card.kind],
            "date": _FITTED_ON,
            "collectives": {**links, **own},
            "engine_collectives": engines,
            "elementwise_bytes_per_s": None,
        }
    )
