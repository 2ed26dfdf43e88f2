"""SGLang's pools: what a token costs in each, and how bytes are divided between them.

::

    uniform       [ full tokens ..................................... ]
    hybrid SWA    [ full tokens ........ ][ window tokens = ratio x full ]
    hybrid state  [ full tokens ........ ][ recurrent states            ]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvsim.errors import UnsupportedError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import Growth
from kvsim.memory.pools import Group, Pool
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat
from kvsim.units import ceil_div

__all__ = ["PoolLayout", "PoolRules", "PoolSizes", "pool_layout", "split_pools"]


@dataclass(frozen=True, slots=True)
class PoolLayout:
    """What one token and one request take of each pool, on one rank.

    Parameters
    ----------
    full_bytes, window_bytes : int
        A token's bytes in the full pool and in the window pool (0: there is none).
    state_bytes : int
        Recurrent state of one request.
    window : int
        Longest window of the window pool, tokens.
    full_layers, window_layers, state_layers : int
        Layers of each pool on the rank.
    image_layers, image_tokens : int
        Full layers that keep the image's tokens alone, and those tokens: a request's first rows.
    """

    full_bytes: int
    window_bytes: int
    state_bytes: int
    window: int
    full_layers: int
    window_layers: int
    state_layers: int
    image_layers: int = 0
    image_tokens: int = 0

    @property
    def grown_bytes(self) -> int:
        """Bytes that layers keep of one more token; those of the image keep none."""
        image = self.full_bytes * self.image_layers // max(1, self.full_layers)
        return self.full_bytes - image + self.window_bytes

    def full_tokens(self, context: int) -> int:
        """Rows that a request of `context` tokens holds in the full pool."""
        return self.image_tokens + context

    def window_tokens(self, context: int, slack: int = 0) -> int:
        """Tokens that a request of `context` tokens holds in the window pool."""
        return min(context, self.window + slack)

    def bytes_at(self, context: int) -> int:
        """Bytes of a request of `context` tokens, its state included."""
        kept = self.window_tokens(context)
        full = self.full_tokens(context) * self.full_bytes
        return full + kept * self.window_bytes + self.state_bytes

    def pools(
        self, sizes: PoolSizes, length: int, page: int, *, ranks: int, states: int
    ) -> Iterator[Pool]:
        """Yield the pools, the full one first.

        Parameters
        ----------
        sizes : PoolSizes
            What they hold.
        length : int
            Tokens of the longest request on one rank.
        page : int
            ``--page-size``.
        ranks : int
            Ranks that the tokens of a request are dealt over.
        states : int
            Slots of recurrent state that a running request takes.
        """
        full = Group(
            name="full",
            layers=self.full_layers,
            padding_layers=0,
            block_size=page,
            page_bytes=page * self.full_bytes // max(1, self.full_layers),
            blocks_per_sequence=ceil_div(self.full_tokens(length), page),
            growth=Growth.full(page * ranks)._replace(fixed_blocks=self.image_tokens // page),
        )
        yield Pool("full", page, page * self.full_bytes, sizes.full_tokens // page, 0, (full,))
        if sizes.window_tokens is not None:
            window = full._replace(
                name="window",
                layers=self.window_layers,
                page_bytes=page * self.window_bytes // self.window_layers,
                blocks_per_sequence=ceil_div(self.window_tokens(length, page), page),
                growth=Growth.capped(page * ranks, ceil_div(self.window, page)),
            )
            blocks = sizes.window_tokens // page
            yield Pool("window", page, page * self.window_bytes, blocks, 0, (window,))
        if sizes.states is not None:
            state = Group(
                name="states",
                layers=self.state_layers,
                padding_layers=0,
                block_size=1,
                page_bytes=self.state_bytes // self.state_layers,
                blocks_per_sequence=states,
                growth=Growth.constant(states),
            )
            yield Pool("states", 1, self.state_bytes, sizes.states, 0, (state,))


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """How the bytes of one rank are cut.

    Parameters
    ----------
    full_tokens : int
        ``max_total_num_tokens``, or ``full_layer_tokens`` of a hybrid.
    window_tokens : int or None
        ``swa_layer_tokens``; None where there is no window pool.
    states : int or None
        Slots of recurrent state; None where there are none.
    """

    full_tokens: int
    window_tokens: int | None
    states: int | None

    def sequences(self, full: int, window: int, states: int) -> float:
        """Requests that fit when each takes so many tokens and states of every pool."""
        limits = [self.full_tokens / full]
        if self.window_tokens is not None:
            limits.append(self.window_tokens / window)
        if self.states is not None:
            limits.append(self.states // states)
        return min(limits)


def pool_layout(
    model: ModelSpec,
    fmt: KVFormat,
    rank: Rank,
    *,
    count_indexer: bool = True,
    hybrid: bool = True,
) -> PoolLayout:
    """Add up what one token and one request take of each pool, on one rank.

    Ranks that deal tokens out among them (``rank.dcp``) hold the same heads.

    Parameters
    ----------
    model, fmt : ModelSpec, KVFormat
        What is cached, and how.
    rank : Rank
        Which layers, and how many ranks share their attention.
    count_indexer : bool
        Whether this release counts the sparse indexer's keys.
    hybrid : bool
        Whether window layers have a pool of their own, which they only do beside full ones.
    """
    own_pool = hybrid and _is_mixed(model)
    tp = max(1, rank.attention_ranks // rank.dcp)
    totals = {False: [0, 0], True: [0, 0]}
    window = states = state_bytes = image_layers = 0
    for count, attention in layer_caches(model, rank):
        state_bytes += count * attention.fixed_bytes(tp)
        if attention.keeps("state"):
            states += count
            continue
        image_layers += count * (not attention.grows)
        limit = attention.recent_tokens if own_pool else None
        counted = count * _token_bytes(attention, fmt, tp, count_indexer)
        totals[limit is not None][0] += count
        totals[limit is not None][1] += counted
        window = max(window, limit or 0)
    (full_layers, full), (window_layers, windowed) = totals[False], totals[True]
    layers = full_layers, window_layers, states
    image = image_layers, model.encoder_tokens
    return PoolLayout(full, windowed, state_bytes, window, *layers, *image)


def _is_mixed(model: ModelSpec) -> bool:
    """Whether some layers keep everything and others a window."""
    growing = [a for _, a in layer_caches(model) if a.grows]
    windowed = [a for a in growing if a.recent_tokens]
    return bool(windowed) and len(windowed) < len(growing)


def _token_bytes(attention: Attention, fmt: KVFormat, tp: int, count_indexer: bool) -> int:
    left_out = () if count_indexer else ("indexer",)
    entries = attention.entries(fmt, tp)
    return sum(entry.entry_bytes for entry in entries if entry.what not in left_out)


@dataclass(frozen=True, slots=True)
class PoolRules:
    """How the pools share the bytes.

    Parameters
    ----------
    page : int
        ``--page-size``, tokens.
    window_ratio : float
        ``--swa-full-tokens-ratio``: window tokens per full token.
    state_ratio : float
        ``--mamba-full-memory-ratio``: bytes of states per byte of tokens.
    most_states, most_tokens : int or None
        Upper bounds that the user set.
    """

    page: int
    window_ratio: float
    state_ratio: float
    most_states: int | None = None
    most_tokens: int | None = None


def split_pools(layout: PoolLayout, rules: PoolRules, kv_bytes: int) -> PoolSizes:
    """Cut `kv_bytes` of one rank into states, full tokens and window tokens.

    Raises
    ------
    UnsupportedError
        When no layer keeps tokens: SGLang has no pool to size then.

    Notes
    -----
    ``states = floor(kv * r / (1 + r) / state_bytes)`` with r the state ratio; then
    ``full = floor(rest / (full_bytes + ratio * window_bytes))`` and ``window = ratio * full``,
    each in whole pages.
    """
    token_bytes = layout.full_bytes + rules.window_ratio * layout.window_bytes
    if not token_bytes:
        raise UnsupportedError("SGLang sizes a token pool, and no layer of this rank keeps tokens")
    states, rest = None, kv_bytes
    if layout.state_bytes:
        share = rules.state_ratio / (1 + rules.state_ratio)
        states = int(kv_bytes * share) // layout.state_bytes
        states = min(states, rules.most_states) if rules.most_states else states
        rest -= states * layout.state_bytes
    full = int(rest / token_bytes)
    full = min(full, rules.most_tokens) if rules.most_tokens else full
    full = full // rules.page * rules.page
    if not layout.window_bytes:
        return PoolSizes(full, None, states)
    return PoolSizes(full, int(full * rules.window_ratio) // rules.page * rules.page, states)
