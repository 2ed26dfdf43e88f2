"""llama.cpp's cells: which cache objects a build allocates, and how many cells each has.

::

    unified             | seq 0 | seq 1 ........ | seq 2 |   free        one stream of n_ctx cells
    one stream per slot | seq 0     | seq 1     | seq 2     | seq 3      n_ctx / np cells each

    full plane     # # # # # # # # # # # # # # # #    n_ctx cells
    window plane   # # # # #                          n_swa (per sequence) + n_ubatch, padded

A cell holds one token of every layer of its plane. Rules are read from llama.cpp's
``llama-kv-cache.cpp`` and ``llama-kv-cache-iswa.cpp``; the builds that changed them are data.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kvsim.engines.common import read_data
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import Growth
from kvsim.memory.pools import Group, Pool
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat
from kvsim.units import ceil_div

__all__ = ["Build", "CellLayout", "Plane", "read_build", "split_layers", "state_bytes"]

_F32_BYTES = 4
_WINDOW_PAD = 256

Latent = Literal["heads", "latent", "latent and values"]


@dataclass(frozen=True, slots=True)
class Build:
    """Which of llama.cpp's rules hold.

    Parameters
    ----------
    number : int or None
        Build number; None is the newest.
    mla_mode : int or None
        ``-mla`` of the ik fork, which left before every change listed in the data.
    """

    number: int | None = None
    mla_mode: int | None = None

    @property
    def is_fork(self) -> bool:
        """Whether this is ik_llama.cpp, whose flash attention is on unless turned off."""
        return self.mla_mode is not None

    def has(self, change: str) -> bool:
        """Whether this build has the change of that name in the data file."""
        if self.is_fork:
            return False
        first: int = read_data("llama_cpp_overheads")["builds"][change]["build"]
        return self.number is None or self.number >= first

    def latent(self, flash_attention: bool) -> Latent:
        """How an MLA layer is kept: expanded to heads, latent, or latent beside its values."""
        if self.mla_mode is not None:
            if self.mla_mode == 0:
                return "heads"
            return "latent and values" if self.mla_mode == 1 and not flash_attention else "latent"
        if not self.has("latent_cache"):
            return "heads"
        return "latent" if self.has("no_latent_values") else "latent and values"


def read_build(version: str) -> Build:
    """Read "master", "b5200", "ik" (``-mla 3``) or "ik-mla0" to "ik-mla3".

    Raises
    ------
    InputError
        For anything else.
    """
    match = re.fullmatch(r"master|b?(?P<build>\d+)|(?P<ik>ik)(-mla(?P<mode>[0-3]))?", version)
    if match is None:
        raise InputError(
            f"{version!r} is no llama.cpp version that kvsim knows",
            where="--engine-version",
            fix="write master, a build such as b5200, ik, or ik-mla0 to ik-mla3",
        )
    if match["ik"]:
        return Build(mla_mode=int(match["mode"] or 3))
    return Build(number=int(match["build"]) if match["build"] else None)


def split_layers(num_layers: int, devices: int, device: int) -> range:
    """Layers of one of `devices` equal devices under ``--split-mode layer``.

    The output head counts as one more layer, the last.

    Raises
    ------
    InputError
        When there are more devices than layers.

    Examples
    --------
    Mixtral on two cards (ollama/ollama#3158): 17 and 15 layers.

    >>> len(split_layers(32, 2, 0)), len(split_layers(32, 2, 1))
    (17, 15)
    """
    if devices > num_layers:
        raise InputError(
            f"{num_layers} layers cannot be split over {devices} devices",
            fix=f"choose at most {num_layers}",
        )
    units = num_layers + 1
    start, stop = (ceil_div(units * edge, devices) for edge in (device, device + 1))
    return range(start, min(stop, num_layers))


def state_bytes(model: ModelSpec, rank: Rank) -> int:
    """Recurrent state of one sequence; llama.cpp keeps both of its parts in f32."""
    return sum(
        count * _F32_BYTES * sum(attention.state_elements)
        for count, attention in layer_caches(model, rank)
    )


@dataclass(frozen=True, slots=True)
class Plane:
    """Layers whose cells are allocated together: one of llama.cpp's cache objects.

    Parameters
    ----------
    layers : int
        Layers on the device.
    key_bytes, value_bytes : int
        Bytes of one cell, all those layers added.
    window : int or None
        Tokens that a sequence keeps; None keeps all.
    """

    layers: int
    key_bytes: int
    value_bytes: int
    window: int | None = None

    @property
    def name(self) -> str:
        """llama.cpp's logs call the two planes SWA and non-SWA."""
        return "full" if self.window is None else "window"

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell, K and V."""
        return self.key_bytes + self.value_bytes


@dataclass(frozen=True, slots=True)
class CellLayout:
    """What one device allocates for a model under given flags.

    Parameters
    ----------
    model : ModelSpec
        The model.
    rank : Rank
        The device, with its layers.
    build : Build
        Rules of the version.
    formats : tuple of KVFormat
        ``--cache-type-k`` and ``--cache-type-v``.
    slots, ubatch : int
        ``-np`` and ``-ub``.
    unified, flash_attention, swa_full : bool
        ``--kv-unified``, ``-fa`` and ``--swa-full``.
    """

    model: ModelSpec
    rank: Rank
    build: Build
    formats: tuple[KVFormat, KVFormat]
    slots: int
    ubatch: int
    unified: bool
    flash_attention: bool
    swa_full: bool

    @property
    def streams(self) -> int:
        """Contiguous runs of cells: one for all slots, or one per slot."""
        return 1 if self.unified else self.slots

    @property
    def pad(self) -> int:
        """Cells come in units of 256; of 32 in old builds without flash attention."""
        return 256 if self.flash_attention or self.build.has("flash_auto") else 32

    def padded(self, context: int) -> int:
        """Round a length up to whole units of cells."""
        return ceil_div(context, self.pad) * self.pad

    def planes(self) -> tuple[Plane, ...]:
        """Return the cache objects: the layers that keep everything, then each window's."""
        totals: dict[int | None, tuple[int, int, int]] = {}
        for count, attention in layer_caches(self.model, self.rank):
            if attention.grows:
                key, value = self._vector_bytes(attention)
                window = self._window(attention)
                n, k, v = totals.get(window, (0, 0, 0))
                totals[window] = (n + count, k + count * key, v + count * value)
        order = sorted(totals, key=lambda window: window or 0)
        return tuple(Plane(*totals[window], window) for window in order)

    def _vector_bytes(self, attention: Attention) -> tuple[int, int]:
        """Bytes of K and V that one token leaves in one layer.

        Without flash attention V lies transposed, every layer as wide as the widest.
        """
        key, value = self.widths(attention)
        if value and not self.flash_attention and self.build.has("window_cache"):
            everywhere = (a for _, a in layer_caches(self.model))
            value = max(self.widths(a)[1] for a in everywhere)
        return self.formats[0].vector_bytes(key), self.formats[1].vector_bytes(value)

    def widths(self, attention: Attention) -> tuple[int, int]:
        """Elements of K and V: ``n_embd_k_gqa`` and ``n_embd_v_gqa`` of the logs."""
        kept = self.build.latent(self.flash_attention)
        stored = attention.expanded_vectors if kept == "heads" else attention.vectors
        value_dim = 0 if stored.value_in_key and kept == "latent" else stored.value_dim
        return stored.heads * stored.key_dim, stored.heads * value_dim

    def _window(self, attention: Attention) -> int | None:
        """Tokens of a window layer; None where the build keeps all tokens of all layers.

        A model whose every layer has the same window is converted as a plain one.
        """
        windows = {a.recent_tokens for _, a in layer_caches(self.model)}
        if self.swa_full or not self.build.has("window_cache") or len(windows) == 1:
            return None
        return attention.recent_tokens

    def cells(self, plane: Plane, context: int) -> int:
        """Cells of one plane, all streams, when each stream spans `context` tokens.

        ``pad256(min(kv_size, n_swa * (unified ? n_seq : 1) + n_ubatch))`` for a window plane.
        """
        stream_cells = self.padded(context)
        if plane.window is not None:
            kept = plane.window * (self.slots if self.unified else 1) + self.ubatch
            stream_cells = ceil_div(min(stream_cells, kept), _WINDOW_PAD) * _WINDOW_PAD
        return stream_cells * self.streams

    def slot_cells(self, plane: Plane, context: int) -> int:
        """Cells of one plane for one slot of its own."""
        if plane.window is None:
            return self.padded(context)
        kept = min(self.padded(context), plane.window + self.ubatch)
        return ceil_div(kept, _WINDOW_PAD) * _WINDOW_PAD

    def slot_bytes(self, context: int) -> int:
        """Bytes that one more slot of `context` tokens adds, its recurrent state included."""
        cells = sum(p.cell_bytes * self.slot_cells(p, context) for p in self.planes())
        return cells + state_bytes(self.model, self.rank)

    def kept_bytes(self, context: int) -> int:
        """Bytes of the cells that a sequence of `context` tokens really uses."""
        cells = sum(p.cell_bytes * min(context, p.window or context) for p in self.planes())
        return cells + state_bytes(self.model, self.rank)

    def all_full_bytes(self, context: int) -> int:
        """Bytes of one slot under ``--swa-full``."""
        cells = self.padded(context) * sum(p.cell_bytes for p in self.planes())
        return cells + state_bytes(self.model, self.rank)

    def largest_context(self, kv_bytes: int, longest: int) -> int:
        """Longest stream, in tokens, whose planes `kv_bytes` can hold; 0 if none.

        Parameters
        ----------
        kv_bytes : int
            Bytes of one device for cells and recurrent states.
        longest : int
            Bound where no plane grows with the context.
        """
        spare = kv_bytes - self.slots * state_bytes(self.model, self.rank)
        planes = self.planes()
        growing = self.streams * self.pad * sum(p.cell_bytes for p in planes if not p.window)
        most = max(0, spare) // growing if growing else ceil_div(longest, self.pad)

        def allocated(units: int) -> int:
            return sum(p.cell_bytes * self.cells(p, units * self.pad) for p in planes)

        units = bisect_right(range(most + 1), spare, key=allocated) - 1
        return max(0, units) * self.pad

    def pools(self, kv_bytes: int, length: int) -> Iterator[Pool]:
        """Yield each plane's cells, and the recurrent states, as pools of their own.

        Unified, a block is a cell, and there are as many as the largest ``-c`` gives. With a
        stream per slot a block is a slot's whole run of cells, however short what is in it;
        there are as many as `kv_bytes` hold with `length` tokens each.
        """
        state = state_bytes(self.model, self.rank)
        slots = max(0, kv_bytes) // self.slot_bytes(length)
        stream_cells = self.largest_context(kv_bytes, length)
        for plane in self.planes():
            block = 1 if self.unified else self.slot_cells(plane, length)
            most = plane.window
            growth = Growth.full(1) if most is None else Growth.capped(1, most)
            group = Group(
                name=plane.name,
                layers=plane.layers,
                padding_layers=0,
                block_size=block,
                page_bytes=block * plane.cell_bytes // plane.layers,
                blocks_per_sequence=self.slot_cells(plane, length) // block,
                growth=growth if self.unified else Growth.constant(1),
            )
            count = self.cells(plane, stream_cells) if self.unified else slots
            yield Pool(plane.name, block, block * plane.cell_bytes, count, 0, (group,))
        if state:
            layers = sum(n for n, a in layer_caches(self.model, self.rank) if a.fixed_bytes())
            states = Group("states", layers, 0, 1, state // layers, 1, Growth.constant(1))
            yield Pool("states", 1, state, self.slots if self.unified else slots, 0, (states,))
