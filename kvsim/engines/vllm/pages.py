"""One layer's cache as vLLM pages it, and how many pages one sequence needs.

::

    kind      page holds              a sequence of L tokens needs (admission)
    full      block_size tokens       ceil(L / block)
    window    block_size tokens       ceil(min(window - 1 + in flight, L) / block) + 1
    unfolded  block_size tokens       as a window
    chunk     block_size tokens       ceil(min(chunk + in flight, L) / block)
    state     one recurrent state     1, or 2 with prefix caching, and 1 for a prefill's checkpoint;
                                      or ceil(L / block)
    ring      one ring                1
    fixed     block_size tokens       ceil(encoder tokens / block), whatever L; or as many as a step
                                      may encode

In flight: tokens scheduled and not yet settled, whose blocks a window cannot free. Unfolded: what
DeepSeek-V4's compressors work on, which is no attention and so never charged as full. Ring: the
tokens that GLM-5.3's indexers have yet to fold, overwritten in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import lcm
from typing import Literal, NamedTuple

from kvsim.engines.base import ResolvedDeployment
from kvsim.engines.vllm.folded_index import FoldedKernels, index_fold
from kvsim.engines.vllm.rules import Rules, kernel_class
from kvsim.engines.vllm.sourced import WINDOW_BLOCK, SourcedKernels
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import Growth, Window
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention, Entry
from kvsim.specs.engine_options import ResolvedOptions
from kvsim.units import ceil_div

__all__ = ["COMPRESSED_BLOCK", "LayerPage", "PageSpec", "Reserve", "align_to_states", "layer_pages"]

# DeepSeek-V4 in vLLM: 256-token blocks, 64-token ones for its windows, pages in multiples
# of one fp8 entry without its scales.
COMPRESSED_BLOCK = 256
_COMPRESSED_WINDOW_BLOCK = 64
_COMPRESSED_PAGE_MULTIPLE = 576
# ... and blocks of what its compressors have yet to fold, by the tokens that they look back on: as
# many as fit a page of 64 entries (vLLM 0.33, models/deepseek_v4/compressor.py).
_UNFOLDED_BLOCKS = {8: 4, 128: 8}
# What keeps no token's own place, so that a state is not aligned with it.
_NO_TOKENS = ("state", "ring")


class Reserve(NamedTuple):
    """What shortens or lengthens a sequence's need.

    Parameters
    ----------
    in_flight_tokens : int
        Tokens scheduled and not yet settled.
    context_ranks : int
        Ranks that share a context.
    encoder_tokens : int or None
        Tokens charged for an encoder's output; None is what it may have.
    """

    in_flight_tokens: int = 0
    context_ranks: int = 1
    encoder_tokens: int | None = None


class PageSpec(NamedTuple):
    """How one layer's cache is paged; layers with equal specs can share a block table.

    Parameters
    ----------
    kind : str
        See the module's table.
    block_size : int
        Tokens per page (for a state, the attention block that it is aligned with, or all that a
        sequence may have where no prefix is cached).
    page_bytes : int
        Bytes per page, padding included.
    span : int
        Window or chunk in tokens, encoder tokens, or states that a sequence keeps.
    checkpoints : int
        States that admission charges beside those.
    stride_bytes : int
        Bytes of which a block that holds such a page is a multiple.
    is_per_block : bool
        Whether admission charges a state for every block of the sequence.
    """

    kind: Literal["full", "window", "unfolded", "chunk", "state", "ring", "fixed"]
    block_size: int
    page_bytes: int
    span: int = 0
    checkpoints: int = 0
    stride_bytes: int = 1
    is_per_block: bool = False

    def admission_pages(self, length: int, reserve: Reserve) -> int:
        """Pages that the start-up check and the scheduler's gate charge a sequence."""
        in_flight = reserve.in_flight_tokens
        match self.kind:
            case "full":
                return ceil_div(ceil_div(length, reserve.context_ranks), self.block_size)
            case "window" | "unfolded":
                return ceil_div(min(self.span - 1 + in_flight, length), self.block_size) + 1
            case "chunk":
                return ceil_div(min(self.span + in_flight, length), self.block_size)
            case "state" if self.is_per_block:
                return ceil_div(length, self.block_size)
            case "state":
                return self.span + self.checkpoints
            case "fixed":
                return ceil_div(reserve.encoder_tokens or self.span, self.block_size)
            case "ring":
                return ceil_div(self.span, self.block_size)

    def growth(self, length: int, reserve: Reserve) -> Growth:
        """Pages that a running sequence of at most `length` tokens occupies."""
        match self.kind:
            case "full":
                return Growth.full(self.block_size * reserve.context_ranks)
            case "window" | "unfolded" | "chunk":
                admitted = self.admission_pages(length, reserve)
                window = Window(self.span, self.kind == "chunk", admitted)
                return Growth.moving(self.block_size, window)
            case "state" if self.span > 1 and not self.is_per_block:
                window = Window.state(self.admission_pages(length, reserve), self.checkpoints)
                return Growth.of_state(self.block_size, window)
            case "state":
                return Growth.constant(self.span)
            case "fixed" | "ring":
                return Growth.constant(ceil_div(self.span, self.block_size))

    def with_page(self, page_bytes: int) -> PageSpec:
        """Grow to a page: by more tokens per block where they fit evenly, else by padding."""
        ratio, rest = divmod(page_bytes, self.page_bytes)
        if rest or self.kind == "state":
            return self._replace(page_bytes=page_bytes)
        return self._replace(page_bytes=page_bytes, block_size=self.block_size * ratio)


class LayerPage(NamedTuple):
    """A layer's index, the name of its layer group, and its page."""

    layer: int
    name: str
    spec: PageSpec


def layer_pages(deployment: ResolvedDeployment, rules: Rules) -> list[LayerPage]:
    """List the pages of all layers, in layer order, for a resolved deployment."""
    pages = [
        LayerPage(layer, group.name, spec)
        for group in deployment.model.layer_groups
        for cache in group.owned_caches
        for spec in _specs(cache, deployment, rules)
        for layer in group.layers
    ]
    return align_to_states(sorted(pages, key=lambda page: page.layer), deployment, rules)


def align_to_states(
    pages: list[LayerPage], deployment: ResolvedDeployment, rules: Rules
) -> list[LayerPage]:
    """Raise attention blocks until their page holds a recurrent state; pad the state to it.

    Qwen3.5-27B: a state of 3,207,168 bytes over 4,096 bytes per token is 783 tokens, and in
    multiples of 16 the block becomes 784.
    """
    state = max((p.spec.page_bytes for p in pages if p.spec.kind == "state"), default=0)
    attention = [p.spec for p in pages if p.spec.kind not in _NO_TOKENS]
    if not state or not attention:
        return pages
    token_bytes = _latent_token_bytes(deployment)
    unit = rules.value("state_block")
    tokens = unit["latent" if token_bytes else "other"]
    asked = deployment.options.block_size
    multiple = max(tokens, asked) if unit["asked"] else tokens
    multiple = lcm(multiple, _export_tokens(deployment, rules))
    if not token_bytes:
        widest = max(attention, key=lambda spec: spec.page_bytes / spec.block_size)
        token_bytes = widest.page_bytes // widest.block_size
    multiple = lcm(multiple, *(_chunk(c, deployment, rules) or 1 for c in _states(deployment)))
    block = max(multiple * ceil_div(state, multiple * token_bytes), asked)
    options = deployment.options
    covered = block if options.enable_prefix_caching else options.max_model_len
    state_page = PageSpec("state", covered, block * token_bytes)
    apart = _layers_apart(pages, deployment, rules) if options.enable_prefix_caching else ()
    lone_page = state_page._replace(block_size=asked)
    return [
        p._replace(spec=_aligned(p.spec, block, lone_page if p.layer in apart else state_page))
        for p in pages
    ]


def _layers_apart(
    pages: list[LayerPage], deployment: ResolvedDeployment, rules: Rules
) -> frozenset[int]:
    """Layers of stages that keep states alone, whose workers have nothing to align them with.

    Their blocks are named by as many tokens as was asked, and so they share no group with others.
    """
    stages = deployment.options.pipeline_parallel_size
    if stages == 1 or not rules.value("aligned_by_worker"):
        return frozenset()
    attention = {page.layer for page in pages if page.spec.kind not in _NO_TOKENS}
    held = (Rank(pp=stages, stage=i).layers_of(deployment.model) for i in range(stages))
    return frozenset(chain.from_iterable(each for each in held if attention.isdisjoint(each)))


def _export_tokens(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Tokens of which a block is a multiple, so that checkpoints of a prefill end one."""
    caches = _states(deployment)
    if not all(_saves_in_prefill(cache, deployment, rules) for cache in caches):
        return 1
    tokens = rules.value("checkpoint_block")
    return lcm(*(tokens.get(cache.saves_in_prefill, 1) for cache in caches))


def _states(deployment: ResolvedDeployment) -> list[Attention]:
    return [cache for _, cache in layer_caches(deployment.model) if cache.fixed_bytes()]


def _chunk(cache: Attention, deployment: ResolvedDeployment, rules: Rules) -> int | None:
    """Tokens of which a state is kept each, or a multiple of them, where prefixes are cached so."""
    is_kept = rules.value("states_per_block") and deployment.options.enable_prefix_caching
    return cache.state_chunk if is_kept else None


def _latent_token_bytes(deployment: ResolvedDeployment) -> int:
    """Bytes of a token's latent as states are aligned with it, without a packed layout's scales.

    Zero where nothing is latent.
    """
    latents = (c for _, c in layer_caches(deployment.model) if c.keeps("latent"))
    bits = deployment.kv_format.bits
    return max((ceil_div(cache.vectors.key_dim * bits, 8) for cache in latents), default=0)


def _aligned(spec: PageSpec, block: int, state_page: PageSpec) -> PageSpec:
    if spec.kind == "ring":
        return spec
    if spec.kind == "state":
        return spec._replace(block_size=state_page.block_size, page_bytes=state_page.page_bytes)
    own_bytes = spec.page_bytes * block // spec.block_size
    return spec._replace(block_size=block, page_bytes=own_bytes)


def _specs(cache: Attention, deployment: ResolvedDeployment, rules: Rules) -> Iterator[PageSpec]:
    """Yield the pages of one layer's cache: one for each sort of entries."""
    options = deployment.options
    tp = options.tensor_parallel_size
    _check_state(cache, tp)
    is_compressed, is_sourced = cache.keeps("shared"), cache.keeps("record")
    for entry in cache.entries(deployment.kv_format, tp):
        if is_sourced:
            yield _sourced_page(entry, deployment, rules)
            continue
        spec = _compressed_page(entry) if is_compressed else _page(entry, options)
        if spec.kind == "state":
            checkpoints = int(_saves_in_prefill(cache, deployment, rules))
            is_per_block = bool(_chunk(cache, deployment, rules))
            spec = spec._replace(checkpoints=checkpoints, is_per_block=is_per_block)
        if entry.what in ("latent", "indexer") and index_fold(deployment.model) > 1:
            kernels = FoldedKernels.of(deployment, rules)
            is_key, kv = entry.what == "indexer", deployment.kv_format.name
            rows = kernels.whole_states if is_key else kernels.kv[kv]
            spec = spec._replace(stride_bytes=rows * entry.entry_bytes)
        yield _windowed_page(spec, deployment.model.idle_window)
    yield from map(_unfolded_page, cache.unfolded)


def _saves_in_prefill(cache: Attention, deployment: ResolvedDeployment, rules: Rules) -> bool:
    """Whether a prefill leaves a checkpoint of its state in a block of its own."""
    exporter = cache.saves_in_prefill
    cards = rules.value("prefill_checkpoints").get(exporter, ())
    return (
        deployment.options.enable_prefix_caching
        and (exporter != "flash_kda" or deployment.dtype == "bf16")
        and ("any" in cards or kernel_class(deployment.accelerator) in cards)
    )


def _page(entry: Entry, options: ResolvedOptions) -> PageSpec:
    block = options.block_size
    if entry.what == "state":
        states = 2 if options.enable_prefix_caching else 1
        return PageSpec("state", block, entry.entry_bytes, states)
    if entry.kept == "every":
        return PageSpec("full", block, block * entry.entry_bytes)
    if entry.kept == "folded":
        return PageSpec("full", block, ceil_div(block, entry.span) * entry.entry_bytes)
    return PageSpec(entry.kept, block, block * entry.entry_bytes, entry.span)


def _windowed_page(spec: PageSpec, window: int | None) -> PageSpec:
    """Page full layers as a window of all layers, however long it is.

    Source: vLLM 0.9.2 to 0.33.0, ``engine/arg_utils.py`` (create_engine_config: sliding_window).
    """
    if window is None or spec.kind != "full":
        return spec
    return spec._replace(kind="window", span=window)


def _check_state(cache: Attention, tp: int) -> None:
    elements = cache.state_elements[1]
    if elements % tp:
        raise InputError(f"a recurrent state of {elements} elements cannot be split over tp={tp}")


def _compressed_page(entry: Entry) -> PageSpec:
    """Page DeepSeek-V4's window, its compressed states or its indexer's keys.

    Raises
    ------
    UnsupportedError
        For entries that are kept in another way, whose pages are not known.
    """
    if entry.kept == "window":
        window_bytes = _round_page(_COMPRESSED_WINDOW_BLOCK * entry.entry_bytes)
        return PageSpec("window", _COMPRESSED_WINDOW_BLOCK, window_bytes, entry.span)
    if entry.kept == "folded":
        entries = ceil_div(COMPRESSED_BLOCK, entry.span)
        return PageSpec("full", COMPRESSED_BLOCK, _round_page(entries * entry.entry_bytes))
    raise UnsupportedError(f"how vLLM pages a shared vector for {entry.kept} tokens is not known")


def _sourced_page(entry: Entry, deployment: ResolvedDeployment, rules: Rules) -> PageSpec:
    """Page DeepSeek-V4.1's window, or the folded states or index keys of a source."""
    kernels = SourcedKernels.of(deployment, rules)
    if entry.kept == "window":
        window_bytes = kernels.page_bytes(entry, WINDOW_BLOCK)
        stride = kernels.stride_bytes(deployment)
        return PageSpec("window", WINDOW_BLOCK, window_bytes, entry.span, stride_bytes=stride)
    block = deployment.options.block_size
    stride = kernels.whole_page_bytes(entry, block)
    return PageSpec("full", block, kernels.page_bytes(entry, block), stride_bytes=stride)


def _unfolded_page(entry: Entry) -> PageSpec:
    """Page the tokens that a compressor of DeepSeek-V4's or an indexer of GLM-5.3's is to fold.

    Raises
    ------
    UnsupportedError
        For a ratio that vLLM has no compressor for.
    """
    if entry.kept == "fixed":
        return PageSpec("ring", entry.span, entry.span * entry.entry_bytes, entry.span)
    block = _UNFOLDED_BLOCKS.get(entry.span)
    if block is None:
        raise UnsupportedError(
            f"a compressor that looks back on {entry.span} tokens: vLLM's fold 4 or 128",
        )
    return PageSpec("unfolded", block, _round_page(block * entry.entry_bytes), entry.span)


def _round_page(page_bytes: int) -> int:
    return ceil_div(page_bytes, _COMPRESSED_PAGE_MULTIPLE) * _COMPRESSED_PAGE_MULTIPLE
