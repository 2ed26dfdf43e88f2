"""Hub ids that differ from a known model by a suffix: a weight format, a tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Variant", "spared_parameters", "variants_of"]

# Longest first, so that "-fp8-dynamic" is not read as a model called "...-fp8".
_FORMATS: dict[str, str | None] = {
    "-unsloth-bnb-4bit": "bitsandbytes",
    "-bnb-4bit": "bitsandbytes",
    "-quantized.w8a8": "int8",
    "-quantized.w8a16": "int8",
    "-quantized.w4a16": "gptq",
    "-fp8-dynamic": "fp8",
    "-fp8-block": "fp8_block",
    "-gptq-int4": "gptq",
    "-gptq-int8": "int8",
    "-awq-int4": "awq",
    "-autoawq": "awq",
    "-w8a8": "int8",
    "-w4a16": "gptq",
    "-nvfp4": "nvfp4",
    "-mxfp4": "mxfp4",
    "-gptq": "gptq",
    "-int8": "int8",
    "-bf16": None,
    "-awq": "awq",
    "-fp8": "fp8",
    "-fp4": "nvfp4",
}
# Whose plain "-FP8" checkpoints are scaled by 128x128 blocks: their configs say so.
_BLOCK_FP8 = ("qwen/", "deepseek-ai/", "sgl-project/deepseek", "zai-org/glm-5")
# Unsloth's dynamic 4-bit checkpoints leave their most sensitive matrices in 16 bits. Which
# ones is in each repository; vLLM's logs of three (3B, 7B, 8B) show 0.25 to 0.28 GiB more
# than the same model with all of them packed: about 190 million parameters.
_SPARED_PARAMETERS = {"-unsloth-bnb-4bit": 190_000_000}
_TUNINGS = ("-instruct", "-chat", "-base", "-it", "-hf")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to read a name.

    Parameters
    ----------
    base : str
        The name of the model that it varies.
    weight_format : str or None
        Format of its weights; None is unquantised.
    changes_format : bool
        Whether the suffix spoke of the format at all.
    tuning : str
        The suffix of a tuning that was left out, or "".
    """

    base: str
    weight_format: str | None = None
    changes_format: bool = False
    tuning: str = ""

    @property
    def reading(self) -> str:
        """How the name was understood, in words."""
        weights = f" with {self.weight_format or 'unquantised'} weights"
        return (weights if self.changes_format else "") + (
            f", taking {self.tuning!r} to change no shape" if self.tuning else ""
        )


def variants_of(name: str) -> Iterator[Variant]:
    """Yield the ways to read a name, the most literal first.

    Examples
    --------
    >>> [(v.base, v.weight_format) for v in variants_of("org/Some-7B-Instruct-AWQ")]
    [('org/Some-7B-Instruct', 'awq'), ('org/Some-7B', 'awq')]
    """
    base, weight_format, found = _without_format(name)
    if found:
        yield Variant(base, weight_format, found)
    for tuning in _TUNINGS:
        if base.lower().endswith(tuning):
            yield Variant(base[: -len(tuning)], weight_format, found, tuning)


def spared_parameters(name: str) -> int:
    """Return how many parameters of linear layers a checkpoint of that name leaves unpacked."""
    lowered = name.lower().replace("_", "-")
    found = (n for suffix, n in _SPARED_PARAMETERS.items() if lowered.endswith(suffix))
    return next(found, 0)


def _without_format(name: str) -> tuple[str, str | None, bool]:
    lowered = name.lower().replace("_", "-")
    for suffix, weight_format in _FORMATS.items():
        if lowered.endswith(suffix):
            blocks = suffix == "-fp8" and lowered.startswith(_BLOCK_FP8)
            return name[: -len(suffix)], "fp8_block" if blocks else weight_format, True
    return name, None, False
