"""What ``make gpu-check`` times itself: decode attention by size, and layers beside attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, NamedTuple

from kvsim.calibrate.measure.attention import DecodeCase, LaunchedDecodeCase, PagedDecodeCase
from kvsim.calibrate.measure.case import Call, Case, LocalCase
from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.grid import Plan
from kvsim.calibrate.measure.layers import LaunchedLayersCase, LayersCase, ReplayedLayersCase
from kvsim.calibrate.measure.timing import QUICK_PACE
from kvsim.calibrate.measure.workspace import Workspace
from kvsim.calibrate.shapes import LLAMA_3_8B
from kvsim.units import GIB, MIB, ceil_div

SHAPE = LLAMA_3_8B  # whose heads and layers these are
ROOM = 0.6  # of what is free: the share that kvsim's own grid takes
_CACHES = 4  # times the last-level cache that inputs must exceed
_VOCABULARY = 128


class Sizes(NamedTuple):
    """Sizes of decode attention on a kind of device.

    Parameters
    ----------
    batches, contexts : tuple of int
        To combine.
    most_bytes, rotation_bytes : int
        Of one call at most, and over which inputs take turns at least.
    """

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    most_bytes: int
    rotation_bytes: int


class Stack(NamedTuple):
    """A few layers and their attention, which both are timed alone and in turn."""

    layers: int
    batch: int
    context: int


SIZES = {
    "cuda": Sizes((1, 16, 64), (1024, 8192, 32768), 8 * GIB, GIB),
    "cpu": Sizes((1, 4), (512, 2048), 256 * MIB, 32 * MIB),
}
STACK = Stack(layers=4, batch=16, context=2048)


def decode_cases(facts: DeviceFacts) -> Iterator[DecodeCase]:
    """Yield decode attention by batch and context, as far as memory goes."""
    sizes = SIZES[facts.kind]
    enough = sizes.rotation_bytes
    if facts.kind != "cpu":  # a CPU's cache would take minutes
        enough = max(enough, _CACHES * facts.l2_bytes)
    for batch, context in product(sizes.batches, sizes.contexts):
        case = DecodeCase(dtype=facts.dtype, batch=batch, context=context, **_heads())
        sets = ceil_div(enough, max(1, int(case.moved_bytes)))
        case = replace(case, sets=sets)
        fits = case.buffer_bytes <= ROOM * facts.free_bytes
        if fits and case.moved_bytes <= sizes.most_bytes:
            yield case


def _heads() -> dict[str, int]:
    group = SHAPE.heads // SHAPE.kv_heads
    return {"kv_heads": SHAPE.kv_heads, "group": group, "head_dim": SHAPE.head_dim}


def overlap_cases(facts: DeviceFacts) -> dict[str, LocalCase]:
    """The same few layers and their attention, alone and in turn, replayed and launched."""
    layers, batch, context = STACK
    stack: dict[str, Any] = {"shape": SHAPE, "layers": layers, "tokens": batch}
    stack["dtype"] = facts.dtype
    decode: dict[str, Any] = {"batch": batch, "context": context, "sets": layers, **_heads()}
    decode["dtype"] = facts.dtype
    return {
        "layers replayed": ReplayedLayersCase(**stack),
        "layers launched": LayersCase(**stack),
        "layers' launches": LaunchedLayersCase(**stack),
        "attention replayed": PagedDecodeCase(**decode),
        "attention's launches": LaunchedDecodeCase(**decode),
        "both replayed": ReplayedTurnsCase(
            dtype=facts.dtype, stack=LayersCase(**stack), decode=PagedDecodeCase(**decode)
        ),
        "both launched": TurnsCase(
            dtype=facts.dtype, stack=LayersCase(**stack), decode=PagedDecodeCase(**decode)
        ),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsCase(LocalCase):
    """A decode step of a few layers: each runs its GEMMs and then its attention over blocks.

    Parameters
    ----------
    stack : LayersCase
        The layers; its tokens are the decodes' sequences.
    decode : PagedDecodeCase
        Their attention, a pool for each layer.
    """

    kind: ClassVar[str] = "turns"
    captured: ClassVar[bool] = False
    stack: LayersCase
    decode: PagedDecodeCase

    @property
    def buffer_bytes(self) -> float:
        """Weights and pools."""
        return self.stack.buffer_bytes + self.decode.buffer_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call, the whole stack, as `LayersCase` has it but for what attends."""
        from kvsim.calibrate.twin.blueprint import Blueprint

        torch, shape, tokens = space.torch, self.stack.shape, self.stack.tokens
        blueprint = Blueprint(
            layers=self.stack.layers,
            hidden=shape.hidden_size,
            intermediate=shape.intermediate_size,
            vocabulary=_VOCABULARY,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            longest=1,
        )
        decoder, attend = space.decoder(blueprint, self.dtype), self.decode.step(space)
        ids = torch.randint(_VOCABULARY, (tokens,), device=space.device)
        positions = torch.zeros(tokens, dtype=torch.int64, device=space.device)
        last = torch.zeros(1, dtype=torch.int64, device=space.device)
        return [lambda: decoder.logits(ids, positions, attend, last)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedTurnsCase(TurnsCase):
    """The same step replayed from a CUDA graph."""

    kind: ClassVar[str] = "turns_graph"
    captured: ClassVar[bool] = True


def expected_seconds(cases: Sequence[Case], kind: str) -> float:
    """What a process should take that starts, and times some cases quickly."""
    return Plan(tuple(cases), QUICK_PACE, kind).expected_seconds
