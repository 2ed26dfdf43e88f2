"""Flags that several commands share: the model, the card, the engine and its options.

Names and meanings are vLLM's, so that a launch line can be pasted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.errors import InputError
from kvsim.units import parse_bytes, parse_count, parse_seconds

__all__ = [
    "COUNT",
    "DURATION",
    "FORMATS",
    "FRACTION",
    "GPU",
    "KV_DTYPE",
    "MODEL",
    "NUMBER",
    "SCENARIO",
    "SHIPPED",
    "SIZE",
    "SPREAD",
    "CatalogueName",
    "TextType",
    "decorate",
    "engine_options",
    "engine_options_but_tp",
    "flag_words",
    "format_option",
    "given",
    "json_option",
    "listed",
    "target_options",
]

if TYPE_CHECKING:
    from typing import TypeAlias

    from click.shell_completion import CompletionItem

    IntType: TypeAlias = click.ParamType[int]
    FloatType: TypeAlias = click.ParamType[float]
    TextType: TypeAlias = click.ParamType[str]
else:
    # click could not be subscripted before 8.4.
    IntType = FloatType = TextType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "markdown", "csv")

# No length, size or count that a device could hold is larger; it also keeps ints printable.
ABSURD = 10**15
_SEEDS = 2**63  # of which there are so many

# vLLM's human-readable integers: a small letter is decimal, a capital one binary.


class Count(IntType):
    """A whole number above zero; "32k" is 32,000 and "32K" 32,768, as in vLLM."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number or fail with what is allowed."""
        try:
            number = parse_count(str(value))
        except InputError:
            number = 0
        if not 0 < number <= ABSURD:
            self.fail(f"{value!r} is not a whole number from 1 to 10**15.", param, ctx)
        return number


class Seed(IntType):
    """A whole number from 0."""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number or fail with what is allowed."""
        text = str(value)
        if not (text.isascii() and text.isdigit() and int(text) < _SEEDS):
            self.fail(f"{value!r} is not a whole number from 0 to 2**63 - 1.", param, ctx)
        return int(text)


class Fraction(FloatType):
    """A share of memory, above 0 and at most 1."""

    name = "fraction"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the share or fail with what is allowed."""
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a number above 0 and at most 1.", param, ctx)
        return share


class Size(IntType):
    """A size in bytes with an optional unit: 20GiB, 20GB, 21474836480."""

    name = "size"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size or fail with what is allowed."""
        try:
            size = parse_bytes(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        if not self.least <= size <= ABSURD:
            self.fail(f"{value!r} is not a size from {self.least} to 10**15 bytes.", param, ctx)
        return size


class Number(FloatType):
    """A finite number above zero, or from it on."""

    name = "number"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number or fail with what is allowed."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and (number > 0 or (self.zero and number == 0))):
            allowed = "from 0 on" if self.zero else "above 0"
            self.fail(f"{value!r} is not a number {allowed}.", param, ctx)
        return number


class DurationText(FloatType):
    """A duration, as 30s, 500ms or 2m; a number without a unit is seconds, where `bare` allows."""

    name = "duration"

    def __init__(self, *, bare: bool = True) -> None:
        self._bare = bare

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the duration or fail with what is allowed."""
        if not self._bare and _is_number(value):
            self.fail(f"{value!r} has no unit: write {value}ms or {value}s.", param, ctx)
        try:
            return parse_seconds(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


class CatalogueName(TextType):
    """A name that a catalogue completes; whether it is known is the catalogue's to say."""

    def __init__(self, name: str, names: Callable[[], list[str]], *, files: bool = False) -> None:
        self.name = name
        self._names, self._files = names, files

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names that start so; a path is left to the shell."""
        from click.shell_completion import CompletionItem

        if self._files and ("/" in incomplete or incomplete.startswith(".")):
            return [CompletionItem(incomplete, type="file")]
        start = incomplete.lower()
        return [CompletionItem(name) for name in self._names() if name.lower().startswith(start)]


def _models() -> list[str]:
    from kvsim.catalog.models import model_names

    return list(model_names())


def _accelerators() -> list[str]:
    from kvsim.catalog.accelerators import accelerator_names

    return list(accelerator_names())


def _engines() -> list[str]:
    from kvsim.engines import ENGINE_NAMES

    return [*ENGINE_NAMES, "all"]


def _kv_dtypes() -> list[str]:
    from kvsim.specs.precision import KV_FORMATS

    return ["auto", "fp8", *KV_FORMATS]


def _weight_formats() -> list[str]:
    from kvsim.specs.precision import WEIGHT_FORMATS

    return list(WEIGHT_FORMATS)


def _scenarios() -> list[str]:
    from kvsim.simulator.loading import scenario_names

    return scenario_names()


COUNT, FRACTION, SIZE, TERM = Count(), Fraction(), Size(), Size(least=0)
SEED = Seed()
NUMBER, SPREAD, DURATION = Number(), Number(zero=True), DurationText()
SCENARIO = CatalogueName("scenario", _scenarios, files=True)
SHIPPED = CatalogueName("scenario", _scenarios)
MODEL = CatalogueName("model", _models, files=True)
GPU = CatalogueName("gpu", _accelerators, files=True)
_ENGINE = CatalogueName("engine", _engines)
KV_DTYPE = CatalogueName("dtype", _kv_dtypes)
_QUANTIZATION = CatalogueName("format", _weight_formats)

format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to print the answer.",
)

json_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How to print the answer.",
)

_TARGET = (
    click.option("--model", type=MODEL, required=True, help="Name, path or hf:org/name."),
    click.option("--gpu", type=GPU, required=True, help="Accelerator name or YAML path."),
    click.option("--engine", type=_ENGINE, default="vllm", show_default=True),
    click.option("--engine-version", default="", help="Release; default: the newest known."),
)

_ENGINE_OPTIONS = (
    click.option("--tp", "--tensor-parallel-size", "tensor_parallel_size", type=COUNT),
    click.option("--pp", "--pipeline-parallel-size", "pipeline_parallel_size", type=COUNT),
    click.option("--dp", "--data-parallel-size", "data_parallel_size", type=COUNT),
    click.option(
        "--dcp", "--decode-context-parallel-size", "decode_context_parallel_size", type=COUNT
    ),
    click.option("--enable-expert-parallel", is_flag=True, default=None),
    click.option("--dtype", help="Dtype of activations and unquantised weights."),
    click.option("--quantization", type=_QUANTIZATION, help="Weight format."),
    click.option("--kv-cache-dtype", type=KV_DTYPE, help="KV format."),
    click.option("--kv-cache-dtype-v", type=KV_DTYPE, help="Format of V alone (llama.cpp)."),
    click.option("--gpu-memory-utilization", type=FRACTION, help="Share of memory to use."),
    click.option("--max-model-len", type=COUNT, help="Longest request; 32k is 32,000."),
    click.option("--hf-overrides", metavar="JSON", help="Fields in place of the config's own."),
    click.option("--rope-scaling", metavar="JSON", help="Scaling of positions (vLLM to 0.11.0)."),
    click.option("--max-num-seqs", type=COUNT, help="Most requests that run at once."),
    click.option("--max-num-batched-tokens", type=COUNT, help="Most tokens in one step."),
    click.option("--block-size", type=COUNT, help="Tokens per block."),
    click.option("--enforce-eager", is_flag=True, default=None, help="No CUDA graphs."),
    click.option("--enable-prefix-caching/--no-enable-prefix-caching", default=None),
    click.option("--disable-hybrid-kv-cache-manager", is_flag=True, default=None),
    click.option("--kv-cache-memory-bytes", type=SIZE, help="KV bytes per rank, as 20GiB."),
    click.option("--num-gpu-blocks-override", type=COUNT, help="Blocks, whatever fits."),
    click.option("--max-total-tokens", type=COUNT, help="SGLang, TensorRT-LLM: tokens at most."),
    click.option("--swa-full-tokens-ratio", type=FRACTION, help="SGLang's window pool share."),
    click.option("--swa-full", is_flag=True, default=None, help="llama.cpp: no window saving."),
    click.option("--flash-attention/--no-flash-attention", default=None, help="llama.cpp's -fa."),
    click.option("--kv-unified/--no-kv-unified", default=None, help="llama.cpp: one cache."),
    click.option("--enable-dp-attention", is_flag=True, default=None, help="SGLang's."),
    click.option("--enable-lora", is_flag=True, default=None, help="Keep room for adapters."),
    click.option("--max-lora-rank", type=COUNT, help="Largest adapter."),
    click.option("--async-scheduling/--no-async-scheduling", default=None),
    click.option("--flashinfer-sampler/--no-flashinfer-sampler", default=None),
    click.option("--activation-bytes", type=TERM, help="Instead of the predicted peak."),
    click.option("--non-torch-bytes", type=TERM, help="Instead of the predicted memory."),
    click.option("--cuda-graph-bytes", type=TERM, help="Instead of the predicted graphs."),
)


def target_options(function: F) -> F:
    """Add ``--model``, ``--gpu``, ``--engine`` and ``--engine-version``."""
    return decorate(function, _TARGET)


def engine_options(function: F) -> F:
    """Add every engine flag; the command receives those as keyword arguments."""
    return decorate(function, _ENGINE_OPTIONS)


def engine_options_but_tp(function: F) -> F:
    """Add every engine flag but the tensor-parallel degree, of which the command takes several."""
    return decorate(function, _ENGINE_OPTIONS[1:])


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


def listed(text: str, flag: str) -> list[str]:
    """Read words that commas separate, each once (InputError for an empty one)."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InputError(f"{text!r} has an empty part", where=flag, fix="separate by one comma")
    return list(dict.fromkeys(words))


def flag_words(name: str, value: object) -> str:
    """Return the flag as it was typed, or might have been."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def decorate(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    """Add options to a command, in the order in which its help is to list them."""
    for option in reversed(options):
        function = option(function)
    return function
