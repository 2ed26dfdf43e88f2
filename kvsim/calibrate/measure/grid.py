"""What to time: the grid of cases for a device, its bytes and its expected minutes.

Sizes that a device's memory cannot hold are left out; inputs take turns over at least four
times the last-level cache, except where ``--quick`` caps them on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kvsim.calibrate.measure.attention import (
    DecodeCase,
    LaunchedDecodeCase,
    PagedDecodeCase,
    PrefillCase,
)
from kvsim.calibrate.measure.bandwidth import CopyCase, ReadCase
from kvsim.calibrate.measure.case import ELEMENT_BYTES, Case
from kvsim.calibrate.measure.collective import (
    MESSAGE_BYTES,
    AllReduceCase,
    ReplayedAllReduceCase,
    degrees,
)
from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.layers import LaunchedLayersCase, LayersCase, ReplayedLayersCase
from kvsim.calibrate.measure.overhead import HostCase, LaunchCase, ReplayCase
from kvsim.calibrate.measure.timing import FULL_PACE, QUICK_PACE, Pace
from kvsim.calibrate.shapes import LLAMA_3_8B, PUBLIC_SHAPES, DecoderShape
from kvsim.units import GIB, MIB, ceil_div

__all__ = ["Grid", "Plan", "plan_cases"]

_CACHES = 4  # times the last-level cache that inputs must exceed
_MOST_SETS = 1024
_MOST_CALL_BYTES = 8 * GIB
_FREE_SHARE = 0.6
# Torch's import, the device's context and the trial of every kernel; what torch's compiler has made
# once is on the disk, and the first time takes it up to a minute more.
_START_SECONDS = {"cuda": 20.0, "mps": 5.0, "cpu": 3.0}
_SECONDS_PER_CASE = {"cuda": 0.15, "mps": 0.15, "cpu": 0.01}  # allocation, warm-up, capture
_ROUGH_RATES = {"cuda": (2e12, 3e14), "mps": (2e11, 1e13), "cpu": (8e9, 3e10)}  # bytes, FLOPs
_CAPPED_BYTES = 32 * MIB
_LEAST_ROTATION = GIB  # of a GPU: ROCm reports an L2 of 4 MiB, and not the 256 MiB behind it
_LINK_SECONDS = 30.0  # starting the ranks
_FILL_BYTES_PER_S = {"cuda": 2e11, "mps": 2e10, "cpu": 1e9}
_LLAMA_2_7B = PUBLIC_SHAPES[0]
_SMALL = DecoderShape("small", 1024, 16, 4, 2816, 4, head_dim=64)
_TINY = DecoderShape("tiny", 512, 8, 4, 1408, 4, head_dim=64)
_MINI = DecoderShape("mini", 128, 4, 2, 384, 4, head_dim=32)
_SMALL_STEP = 3  # every third token count will do for the small shape
_LAUNCHED_STEP = 4  # and every fourth to see that launches and device overlap


@dataclass(frozen=True, slots=True)
class Grid:
    """Sizes to combine.

    Parameters
    ----------
    buffers : tuple of int
        Bytes to copy and to read.
    shapes : tuple of DecoderShape
        Decoders whose layers and GEMMs are timed.
    small : DecoderShape
        One whose layers take little but what every layer takes: at few token counts it tells
        that fixed cost from the reading of weights, which grows with the layers alike.
    depths : tuple of int
        Layers of a stack.
    tokens : tuple of int
        Rows of the GEMMs.
    batches, contexts, kv_heads : tuples of int
        Decode attention.
    head_dim : int
        Of all attention.
    prompts : tuple of int
        Prefill attention.
    sequences : tuple of int
        Host work.
    vocabulary : int
        Logits of a sequence.
    """

    buffers: tuple[int, ...]
    shapes: tuple[DecoderShape, ...]
    small: DecoderShape
    depths: tuple[int, ...]
    tokens: tuple[int, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    prompts: tuple[int, ...]
    sequences: tuple[int, ...]
    vocabulary: int


_GRIDS = {
    ("gpu", False): Grid(
        buffers=(256 * MIB, GIB, 4 * GIB),
        shapes=(LLAMA_3_8B, _LLAMA_2_7B),
        small=_SMALL,
        depths=(2, 8),
        tokens=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        batches=(1, 4, 16, 64, 256),
        contexts=(128, 512, 2048, 8192, 32768),
        kv_heads=(4, 8, 32),
        head_dim=128,
        prompts=(128, 256, 512, 1024, 2048, 4096, 8192),
        sequences=(1, 4, 16, 64, 256),
        vocabulary=32_000,
    ),
    ("gpu", True): Grid(
        buffers=(GIB,),
        shapes=(LLAMA_3_8B,),
        small=_SMALL,
        depths=(2, 8),
        tokens=(1, 16, 64, 256, 1024, 4096),
        batches=(1, 16, 64),
        contexts=(512, 4096),
        kv_heads=(8, 32),
        head_dim=128,
        prompts=(512, 2048, 8192),
        sequences=(1, 16, 64),
        vocabulary=32_000,
    ),
    ("cpu", False): Grid(
        buffers=(256 * MIB, GIB),
        shapes=(_SMALL, _TINY),
        small=_MINI,
        depths=(2, 8),
        tokens=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        batches=(1, 4, 16),
        contexts=(128, 512, 2048, 8192),
        kv_heads=(4, 8),
        head_dim=64,
        prompts=(64, 128, 256, 512, 1024, 2048),
        sequences=(1, 4, 16, 64),
        vocabulary=32_000,
    ),
    ("cpu", True): Grid(
        buffers=(48 * MIB,),
        shapes=(_TINY,),
        small=_MINI,
        depths=(2, 6),
        tokens=(1, 2, 8, 64, 256),
        batches=(1, 8),
        contexts=(128, 1024),
        kv_heads=(4, 8),
        head_dim=64,
        prompts=(64, 256, 512),
        sequences=(1, 16),
        vocabulary=2048,
    ),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases of a session, in order.

    Parameters
    ----------
    cases : tuple of Case
        What to time.
    pace : Pace
        How long each.
    kind : str
        Of the device.
    notes : tuple of str
        What the grid leaves out, and why.
    least_bytes : int
        What a case that `rotates` has to allocate, so that no cache holds it.
    shape : DecoderShape
        Whose heads the kernels are chosen for.
    """

    cases: tuple[Case, ...]
    pace: Pace
    kind: str
    notes: tuple[str, ...] = ()
    least_bytes: int = 0
    shape: DecoderShape = LLAMA_3_8B

    @property
    def is_quick(self) -> bool:
        """Whether it is a coarse look."""
        return self.pace == QUICK_PACE

    @property
    def buffer_bytes(self) -> float:
        """Most bytes that one case allocates."""
        return max(case.buffer_bytes for case in self.cases)

    @property
    def expected_seconds(self) -> float:
        """What the session should take, without what makes a machine slow."""
        filled = sum(case.buffer_bytes for case in self.cases) / _FILL_BYTES_PER_S[self.kind]
        ranks = {case.ranks for case in self.cases if isinstance(case, AllReduceCase)}
        local = [case for case in self.cases if not isinstance(case, AllReduceCase)]
        timed = sum(self.pace.expected_seconds(self._run_seconds(case)) for case in local)
        begun = _START_SECONDS[self.kind] + len(local) * _SECONDS_PER_CASE[self.kind]
        return begun + timed + filled + len(ranks) * _LINK_SECONDS

    def _run_seconds(self, case: Case) -> float:
        """What a case's inputs take in turn, roughly: on a CPU that is most of it."""
        bytes_per_s, flops_per_s = _ROUGH_RATES[self.kind]
        return case.calls_in_turn * max(case.moved_bytes / bytes_per_s, case.flops / flops_per_s)

    def summary(self) -> list[dict[str, Any]]:
        """One entry per kind and dtype: cases, and the least and most bytes of one call."""
        groups: dict[tuple[str, str], list[Case]] = {}
        for case in self.cases:
            groups.setdefault((case.kind, case.dtype), []).append(case)
        return [
            {
                "kind": kind,
                "dtype": dtype,
                "cases": len(cases),
                "least_bytes": min(case.moved_bytes for case in cases),
                "most_bytes": max(case.moved_bytes for case in cases),
                "buffer_bytes": max(case.buffer_bytes for case in cases),
            }
            for (kind, dtype), cases in groups.items()
        ]


def plan_cases(facts: DeviceFacts, *, quick: bool) -> Plan:
    """Choose the grid of a device.

    Parameters
    ----------
    facts : DeviceFacts
        Its memory bounds the grid, its cache the rotation.
    quick : bool
        A coarse grid with few samples.
    """
    kind = "cpu" if facts.kind == "cpu" else "gpu"
    planner = _Planner(facts, _GRIDS[kind, quick], quick)
    wanted = list(planner.cases())
    room = _FREE_SHARE * facts.free_bytes
    kept = tuple(case for case in wanted if case.buffer_bytes <= room)
    notes = list(planner.notes())
    if left_out := len(wanted) - len(kept):
        notes.append(f"{left_out} cases need more than {room / GIB:.1f} GiB and are left out")
    pace = QUICK_PACE if quick else FULL_PACE
    notes_said, shape = tuple(notes), planner.grid.shapes[0]
    return Plan(kept, pace, facts.kind, notes_said, planner.least_bytes, shape)


@dataclass(frozen=True, slots=True)
class _Planner:
    """Combines the sizes of a grid for one device."""

    facts: DeviceFacts
    grid: Grid
    quick: bool

    @property
    def capped(self) -> bool:
        """Whether inputs rotate over less than they should: a CPU's caches are large."""
        return self.quick and self.facts.kind == "cpu"

    @property
    def rotation_bytes(self) -> int:
        """Bytes over which inputs take turns."""
        enough = _CACHES * self.facts.l2_bytes
        if self.facts.kind != "cpu":
            return max(enough, _LEAST_ROTATION)
        return min(enough, _CAPPED_BYTES) if self.capped else enough

    @property
    def least_bytes(self) -> int:
        """The least rotation that no cache holds; of AMD's cards the whole, see above."""
        if self.facts.vendor == "AMD":
            return self.rotation_bytes
        return min(self.rotation_bytes, _CACHES * self.facts.l2_bytes)

    def notes(self) -> Iterator[str]:
        """What the sizes do not reach."""
        if self.rotation_bytes < _CACHES * self.facts.l2_bytes:
            yield (
                f"--quick rotates inputs over {self.rotation_bytes // MIB} MiB, less than four"
                " times the cache: rates of short reads may be those of the cache"
            )

    def cases(self) -> Iterator[Case]:
        """Every case, cheap and telling ones first."""
        yield from self._bandwidth()
        yield from self._overhead()
        yield from self._gemms(self.facts.dtype, self._ends() if self.quick else self.grid.tokens)
        yield from self._layers()
        yield from self._decodes(self.facts.dtype)
        yield from self._launched_decodes()
        yield from self._prefills()
        yield from self._other_dtypes()
        yield from self._collectives()

    def _bandwidth(self) -> Iterator[Case]:
        for size in self.grid.buffers:
            yield CopyCase(dtype=self.facts.dtype, buffer=size)
            yield ReadCase(dtype=self.facts.dtype, buffer=size)

    def _overhead(self) -> Iterator[Case]:
        yield LaunchCase(dtype=self.facts.dtype)
        if self.facts.kind == "cuda":
            yield ReplayCase(dtype=self.facts.dtype)
        for sequences in self.grid.sequences:
            yield HostCase(
                dtype=self.facts.dtype, sequences=sequences, vocabulary=self.grid.vocabulary
            )

    def _gemms(self, dtype: str, tokens: tuple[int, ...]) -> Iterator[Case]:
        sizes = dict.fromkeys(size for shape in self.grid.shapes for size in shape.gemms(1))
        for (n, k), m in product(sizes, tokens):
            case = GemmCase(dtype=dtype, m=m, n=n, k=k)
            yield replace(case, sets=self._sets(n * k * ELEMENT_BYTES[dtype]))

    def _layers(self) -> Iterator[Case]:
        dtype, grid = self.facts.dtype, self.grid
        stacks = [
            *product(grid.shapes, grid.depths, grid.tokens),
            *product((grid.small,), grid.depths, grid.tokens[::_SMALL_STEP]),
        ]
        for shape, depth, tokens in stacks:
            sizes: dict[str, Any] = {
                "dtype": dtype,
                "shape": shape,
                "layers": depth,
                "tokens": tokens,
            }
            if self.facts.kind != "cuda":
                yield LayersCase(**sizes)
                continue
            yield ReplayedLayersCase(**sizes)
            if tokens == grid.tokens[0]:  # launching does not ask how many
                yield LaunchedLayersCase(**sizes)
            if shape is grid.shapes[0] and tokens in grid.tokens[::_LAUNCHED_STEP]:
                yield LayersCase(**sizes)

    def _decodes(self, dtype: str, *, thin: bool = False) -> Iterator[Case]:
        """Contiguous and paged caches of every size that is no trifle and no monster."""
        grid, step = self.grid, 2 if thin else 1
        for batch, context, heads in product(
            grid.batches[::step], grid.contexts[::step], grid.kv_heads[::step]
        ):
            case = DecodeCase(
                dtype=dtype, batch=batch, context=context, kv_heads=heads, head_dim=grid.head_dim
            )
            sets = self._sets(case.moved_bytes)
            enough = 2 * sets * case.moved_bytes >= self.rotation_bytes
            if not enough or case.moved_bytes > _MOST_CALL_BYTES:
                continue
            if dtype != "fp8":
                yield replace(case, sets=sets)
            sizes = {**case.sizes(), "sets": max(2, sets)}
            yield PagedDecodeCase(dtype=dtype, **sizes)

    def _launched_decodes(self) -> Iterator[Case]:
        """What launching attention takes: it may ask how many sequences there are."""
        if self.facts.kind != "cuda":
            return
        grid, shape = self.grid, self.grid.shapes[0]
        for batch in grid.batches:
            yield LaunchedDecodeCase(
                dtype=self.facts.dtype,
                batch=batch,
                context=grid.contexts[0],
                kv_heads=shape.kv_heads,
                head_dim=grid.head_dim,
            )

    def _prefills(self) -> Iterator[Case]:
        heads = self.grid.shapes[0].heads
        for batch, prompt in product((1, 4), self.grid.prompts):
            if batch * prompt <= max(self.grid.prompts):
                yield PrefillCase(
                    dtype=self.facts.dtype,
                    batch=batch,
                    prompt=prompt,
                    heads=heads,
                    head_dim=self.grid.head_dim,
                )

    def _other_dtypes(self) -> Iterator[Case]:
        """A thinner look at the other dtypes: GEMMs at both ends, and decode attention."""
        for dtype in self.facts.dtypes[1:]:
            yield from self._gemms(dtype, self._ends())
            if self.facts.kind != "cpu":
                yield from self._decodes(dtype, thin=True)

    def _collectives(self) -> Iterator[Case]:
        if self.facts.kind != "cuda":
            return
        for ranks, message in product(degrees(self.facts.count), MESSAGE_BYTES):
            for case in (AllReduceCase, ReplayedAllReduceCase):
                yield case(dtype=self.facts.dtype, ranks=ranks, message=message)

    def _ends(self) -> tuple[int, int]:
        """Few tokens and many: tensor cores take 8-bit products of 16 rows and more."""
        return 16, self.grid.tokens[-1]

    def _sets(self, each_bytes: float) -> int:
        """Inputs that take turns, so that together they exceed the rotation."""
        return max(1, min(_MOST_SETS, ceil_div(self.rotation_bytes, max(1, int(each_bytes)))))
