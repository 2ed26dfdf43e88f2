"""What several engines' accountings share: releases, option checks, formats, stages, regimes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from kvsim.engines.base import Deployment, Engine, MemoryBudget
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.weights import Shard, rank_weight_bytes, stage_layers
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import ModelSpec, MoeMlp
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.units import GIB, ceil_div

__all__ = [
    "ReleasedEngine",
    "check_kv_format",
    "check_options",
    "context_length",
    "fill",
    "gib_bytes",
    "heaviest_stage",
    "mean_token_bytes",
    "mlp_activation_bytes",
    "parse_release",
    "read_data",
    "refuse_kinds",
    "resolve_kv_format",
    "stage_weight_bytes",
    "tightest_stage",
    "tokens_at",
]

_DATA_FOLDER = Path(__file__).resolve().parent / "data"
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ReleasedEngine(Engine):
    """An engine whose rules changed with its releases, as its data file lists them.

    Parameters
    ----------
    version : str
        As in `Engine`.

    Raises
    ------
    InputError
        For a release outside `oldest_release` to `newest_version`.
    """

    oldest_release: ClassVar[str]
    data_name: ClassVar[str]

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        number = self._release_number()
        self.release = parse_release(self.name, number, self.oldest_release, self.newest_version)
        self.data = read_data(self.data_name)

    def _release_number(self) -> str:
        """The release in `version`, which may say more."""
        return self.version

    def since(self, change: str) -> bool:
        """Whether this release has the change of that name in the data file."""
        return self.release >= tuple(self.data["releases"][change]["release"])


def check_options(
    engine: str,
    options: EngineOptions,
    flags: Mapping[str, str],
    hints: Mapping[str, str] | None = None,
) -> None:
    """Refuse every option that is set and that the engine does not have.

    Parameters
    ----------
    engine : str
        The engine's name, for the message.
    options : EngineOptions
        Options as the user gave them.
    flags : mapping of str to str
        The fields of `EngineOptions` that the engine has, each with its own flag's word.
    hints : mapping of str to str, optional
        What to do instead, for a field that the engine lacks.

    Raises
    ------
    InputError
        Naming the option and the flags that the engine does have.
    """
    for name in options.model_dump(exclude_defaults=True):
        if name not in flags:
            known = f"its options here are {', '.join(sorted(set(flags.values())))}"
            raise InputError(
                f"{engine} has no option like --{name.replace('_', '-')}",
                fix=(hints or {}).get(name, known),
            )


def fill(deployment: Deployment, **defaults: Any) -> Deployment:
    """Return the deployment with every option that is None set to its default."""
    options = deployment.options
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    return replace(deployment, options=options.model_copy(update=missing))


def resolve_kv_format(deployment: Deployment) -> KVFormat:
    """Find the KV format; None and "auto" mean the compute dtype, never the weights' format."""
    options = deployment.options
    asked = None if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
    return kv_format(asked or options.dtype or deployment.model.dtype)


def check_kv_format(engine: str, flag: str, fmt: KVFormat, known: Collection[str]) -> None:
    """Raise InputError when the engine has no such KV format."""
    if fmt.name not in known:
        raise InputError(
            f"{engine} has no {fmt.name} KV cache", where=flag, fix=f"choose {', '.join(known)}"
        )


def refuse_kinds(engine: str, model: ModelSpec, *kinds: str) -> None:
    """Raise UnsupportedError when the model has a cache whose size here is not known."""
    for _, attention in layer_caches(model):
        if attention.kind in kinds:
            raise UnsupportedError(
                f"how {engine} sizes the {attention.label} cache of {model.name} is not known"
                " to kvsim; choose another engine"
            )


def heaviest_stage(
    deployment: Deployment, stage_bytes: Callable[[Collection[int]], int]
) -> Collection[int]:
    """Layers of the pipeline stage that keeps the most: the smallest rank decides for all."""
    pp = deployment.options.pipeline_parallel_size
    stages = [stage_layers(deployment.model, pp, stage) for stage in range(pp)]
    return max(stages, key=stage_bytes)


def tightest_stage(
    deployment: Deployment, stage_budget: Callable[[Deployment, int], MemoryBudget]
) -> MemoryBudget:
    """Budget of the pipeline stage that leaves the least for KV."""
    stages = range(deployment.options.pipeline_parallel_size)
    budgets = (stage_budget(deployment, stage) for stage in stages)
    return min(budgets, key=lambda budget: budget.kv_cache_bytes)


def stage_weight_bytes(deployment: Deployment, stage: int, attention_tp: int | None = None) -> int:
    """Bytes of the weights that a rank of one stage holds; experts are dealt over `tp` ranks.

    `attention_tp` is the number of ranks that share one copy of the attention, where it is
    not `tp`.
    """
    options = deployment.options
    tp = options.tensor_parallel_size
    shard = Shard(
        tp=tp,
        pp=options.pipeline_parallel_size,
        stage=stage,
        ep=tp if options.enable_expert_parallel else 1,
        attention_tp=attention_tp,
    )
    return rank_weight_bytes(
        deployment.model, shard, dtype=options.dtype, quantization=options.quantization
    )


def context_length(deployment: Deployment) -> int:
    """Longest sequence the deployment admits: ``max_model_len`` or the model's own limit."""
    return deployment.options.max_model_len or deployment.model.max_position_embeddings


def mlp_activation_bytes(model: ModelSpec, tokens: int, tp: int) -> int:
    """Bytes alive inside the widest layer of a forward pass of `tokens` tokens, in 16 bits.

    Notes
    -----
    Gate and up projections of the feed-forward block, split over `tp`, and four rows of the
    hidden state (residual, normed input, attention output, result): a first-principles
    estimate, not a fit.
    """
    width = 0
    for group in model.layer_groups:
        if isinstance(group.mlp, MoeMlp):
            routed = group.mlp.experts_per_token * group.mlp.intermediate_size
            width = max(width, routed + group.mlp.shared_intermediate_size)
        elif group.mlp is not None:
            width = max(width, group.mlp.intermediate_size)
    return 2 * tokens * (2 * ceil_div(width, tp) + 4 * model.hidden_size)


def tokens_at(kv_bytes: int, sequence_bytes: int, length: int) -> int:
    """Tokens of sequences of `length` tokens that `kv_bytes` hold, a part of one included.

    Examples
    --------
    >>> tokens_at(1_000_000, 4_000, 10)  # 250 sequences of 10 tokens
    2500
    """
    return max(0, kv_bytes) * length // sequence_bytes


def mean_token_bytes(kv_bytes: int, tokens: int, token_bytes: int) -> int:
    """Bytes that one token of a contiguous cache stands for, all layers.

    Window layers keep fewer tokens than full ones, so that this is less than `token_bytes`, a
    token of a short context: never more than an equal share of the bytes given.
    """
    return min(token_bytes, max(0, kv_bytes) // tokens) if tokens > 0 else token_bytes


def parse_release(engine: str, version: str, oldest: str, newest: str) -> tuple[int, ...]:
    """Read a release number such as "0.5.23" or "v1.2.0rc1" as comparable integers.

    Raises
    ------
    InputError
        When it is no release number or lies outside the releases whose rules are known.
    """
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    release = tuple(int(part) for part in match.group(1).split(".")) if match else ()
    first, last = (tuple(int(part) for part in end.split(".")) for end in (oldest, newest))
    if not first <= release or not release[: len(last)] <= last:
        raise InputError(
            f"{engine} rules are known for releases {oldest} to {newest}, not {version!r}",
            where="--engine-version",
            fix=f"choose the nearest one, for instance {newest}",
        )
    return release


@cache
def read_data(name: str) -> dict[str, Any]:
    """Read ``engines/data/<name>.yaml``: measured overheads, each with its source."""
    text = (_DATA_FOLDER / f"{name}.yaml").read_text("utf-8")
    return dict(yaml.load(text, Loader=_SafeLoader))


def gib_bytes(entry: Mapping[str, Any]) -> int:
    """Bytes of a data file's entry whose ``value`` is in GiB."""
    return round(float(entry["value"]) * GIB)
