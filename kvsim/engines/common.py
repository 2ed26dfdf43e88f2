"""What several engines' accountings share: releases, option checks, formats, weights, regimes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from kvsim.engines.base import Band, Deployment, Engine, MemoryBudget, ResolvedDeployment
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.footprint import bytes_per_token, layer_caches
from kvsim.memory.rank import Rank
from kvsim.memory.weights import rank_weight_bytes
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions
from kvsim.specs.model import ModelSpec, MoeMlp
from kvsim.specs.precision import KVFormat
from kvsim.units import GIB, ceil_div

__all__ = [
    "RESIDUALS",
    "ReleasedEngine",
    "band_of",
    "check_kv_format",
    "check_options",
    "check_pool",
    "declared_kv_format",
    "deployed_weight_bytes",
    "extrapolated_band",
    "gib_bytes",
    "layout_ratio",
    "mlp_activation_bytes",
    "most_tokens",
    "parse_release",
    "read_data",
    "read_shipped",
    "refuse_unknown",
    "resolve",
    "tokens_at",
]

# How far vLLM's start-ups were off: kvsim.engines.vllm.residuals.
RESIDUALS = "vllm_residuals"
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

    def kv_band(self, deployment: ResolvedDeployment, budget: MemoryBudget) -> Band:
        """How far the budget's KV size may be from what the engine prints."""
        return extrapolated_band(self.name, budget)

    def since(self, change: str) -> bool:
        """Whether this release has the change of that name in the data file."""
        return self.release >= tuple(self.data["releases"][change]["release"])


def band_of(
    data: Mapping[str, Any],
    squared: float,
    budget: MemoryBudget,
    *,
    start_ups: int,
    like: tuple[str, ...],
    unlike: bool,
) -> Band:
    """Make the band of a variance, by the quantile of the start-ups of vLLM that were compared.

    Parameters
    ----------
    data : mapping
        Of the data file `RESIDUALS`.
    squared : float
        Squared per cents of the card's memory.
    budget : MemoryBudget
        What was predicted.
    start_ups, like, unlike
        As `Band` has them; `unlike` is its `is_extrapolated`.
    """
    percent = data["quantile"] * math.sqrt(squared)
    return Band(
        share=data["share"],
        within_bytes=round(budget.total_bytes * percent / 100),
        start_ups=start_ups,
        like=like,
        source=f"{len(data['start_ups'])} start-ups of vLLM",
        is_extrapolated=unlike,
    )


def extrapolated_band(engine: str, budget: MemoryBudget) -> Band:
    """As unsure as vLLM on the least sure of cards: of other engines hardly one was compared.

    SGLang's two lie within: they are off by 0.2 and 0.5 % of their KV.
    """
    data = read_data(RESIDUALS)
    shares = data["percent_squared"]
    squared = shares["plain"] + max(shares.values())
    like = (f"another engine, {engine}",)
    return band_of(data, squared, budget, start_ups=0, like=like, unlike=True)


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


# What an engine without the option behaves like.
_LACKING = {
    "gpu_memory_utilization": 1.0,
    "block_size": 1,
    "enable_prefix_caching": False,
    "swa_full_tokens_ratio": 1.0,
    "flash_attention": False,
    "kv_unified": False,
    "async_scheduling": False,
    "flashinfer_sampler": False,
}


def declared_kv_format(deployment: Deployment, methods: Collection[str]) -> str | None:
    """Name the KV format that the checkpoint declares, where the engine keeps to it.

    Parameters
    ----------
    deployment : Deployment
        What was asked for; a KV format or other weights asked for go first.
    methods : collection of str
        What quantised the checkpoints whose declarations the engine reads.
    """
    declared, options = deployment.model.declared_kv, deployment.options
    if declared is None or declared.method not in methods:
        return None
    told = options.kv_cache_dtype not in (None, "auto")
    stored_otherwise = deployment.quantization not in (None, deployment.model.quantization)
    return None if told or stored_otherwise else declared.format


def resolve(deployment: Deployment, *, kv: KVFormat, **defaults: Any) -> ResolvedDeployment:
    """Close every option: by the defaults given, else as the engine behaves without it.

    Parameters
    ----------
    deployment : Deployment
        As a person stated it.
    kv : KVFormat
        Format that the engine stores K and V in.
    **defaults
        Values of the options that were left open.
    """
    formats = {"kv_cache_dtype": kv.name, "dtype": deployment.dtype}
    open_ = {**_LACKING, "kv_cache_dtype_v": kv.name, **defaults}
    asked = {name: value for name, value in deployment.options if value is not None}
    options = ResolvedOptions(**{**open_, **asked, **formats})
    return ResolvedDeployment(deployment.model, deployment.accelerator, options)


def check_kv_format(engine: str, flag: str, fmt: KVFormat, known: Collection[str]) -> None:
    """Raise InputError when the engine has no such KV format."""
    if fmt.name not in known:
        raise InputError(
            f"{engine} has no {fmt.name} KV cache", where=flag, fix=f"choose {', '.join(known)}"
        )


# The sorts of entries whose sizes are known in every engine.
SORTS = ("kv every", "kv window", "kv chunk", "latent every", "indexer every", "state fixed")


def refuse_unknown(engine: str, model: ModelSpec, *others: str) -> None:
    """Raise UnsupportedError when the model has a cache whose size here is not known.

    Known are `SORTS` and `others`, and one sort of K and V in a layer.
    """
    for _, attention in layer_caches(model):
        vectors = [sort for sort in attention.sorts if not sort.startswith(("indexer", "state"))]
        if len(vectors) > 1 or not {*attention.sorts} <= {*SORTS, *others}:
            raise UnsupportedError(
                f"how {engine} sizes the {attention.label} cache of {model.name} is not known"
                " to kvsim; choose another engine"
            )


def deployed_weight_bytes(deployment: ResolvedDeployment, rank: Rank) -> int:
    """Bytes of the weights that one rank holds, in the deployment's formats."""
    return rank_weight_bytes(
        deployment.model,
        rank,
        dtype=deployment.weight_dtype,
        quantization=deployment.quantization,
    )


def layout_ratio(deployment: ResolvedDeployment, token_bytes: float, rank: Rank) -> float:
    """Bytes per token that the engine keeps over those of the model's own layout, on one rank.

    1 for a model whose layers keep nothing by the token.
    """
    own = bytes_per_token(deployment.model, deployment.kv_format, rank)
    return token_bytes / own if own else 1.0


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


def check_pool(options: EngineOptions) -> None:
    """Refuse a pool whose size is given in tokens and in blocks."""
    if options.max_total_tokens and options.num_gpu_blocks_override:
        raise InputError(
            f"--max-total-tokens {options.max_total_tokens} and --num-gpu-blocks-override"
            f" {options.num_gpu_blocks_override} both give the pool its size",
            fix="leave one of the two out (null in a scenario)",
        )


def most_tokens(options: EngineOptions, block: int) -> int | None:
    """Tokens that the user allows the pool, in tokens or in blocks of so many; None: no limit."""
    blocks = options.num_gpu_blocks_override
    return options.max_total_tokens if blocks is None else blocks * block


def tokens_at(kv_bytes: int, sequence_bytes: int, length: int) -> int:
    """Tokens of sequences of `length` tokens that `kv_bytes` hold, a part of one included.

    Examples
    --------
    >>> tokens_at(1_000_000, 4_000, 10)  # 250 sequences of 10 tokens
    2500
    """
    return max(0, kv_bytes) * length // sequence_bytes


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
    return read_shipped(_DATA_FOLDER / f"{name}.yaml")


def read_shipped(path: Path) -> dict[str, Any]:
    """Read a data file of kvsim's own: nobody edits it, so it is not checked line by line."""
    return dict(yaml.load(path.read_text("utf-8"), Loader=_SafeLoader))


def gib_bytes(entry: Mapping[str, Any]) -> int:
    """Bytes of a data file's entry whose ``value`` is in GiB."""
    return round(float(entry["value"]) * GIB)
