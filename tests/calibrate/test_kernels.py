"""Which kernels a device gets, and that each attends to what it is given.

The engines' own are stand-ins by their documentation; torch's flex_attention runs, uncompiled.
"""

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import needs

needs.need("torch")
import torch

from kvsim.calibrate.twin import kernels as known_kernels
from kvsim.calibrate.twin.attention import PrefillChunk, StepAttention, causal_after
from kvsim.calibrate.twin.chosen import chosen_kernels
from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.elementwise import Compiled, Elementwise, VllmOps, best_elementwise
from kvsim.calibrate.twin.engine_kernels import VllmFlash
from kvsim.calibrate.twin.kernels import KERNELS, best_kernel, plain_attention
from kvsim.calibrate.twin.paged import Blocks
from kvsim.calibrate.twin.torch_kernels import ByEqualLength, ByLikeLength, Flex, TorchVarlen
from kvsim.errors import UnsupportedError
from tests.support import engine_kernels

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
CPU = torch.device("cpu")
HEADS = Geometry(8, 2, 16, 4, torch.float32, CPU)


class Eager(Flex):
    """Not compiled: it computes the same."""

    @staticmethod
    def compiled(attention):
        return attention


class Wrong(ByLikeLength):
    """A kernel that forgets the last token."""

    name = "wrong"

    def plan(self, decodes):
        return super().plan(Decodes(decodes.tables, [length - 1 for length in decodes.lengths]))


def step_of(lengths, geometry=HEADS):
    """Blocks in reverse order, and random queries: (decodes, query, keys, values)."""
    size = geometry.block_size
    counts = [-(-length // size) for length in lengths]
    ids = iter(range(sum(counts) - 1, -1, -1))
    tables = [[next(ids) for _ in range(count)] for count in counts]
    random = torch.Generator().manual_seed(1)
    shape = (sum(counts), size, geometry.kv_heads, geometry.head_dim)
    keys, values = (torch.randn(shape, generator=random) for _ in range(2))
    query = torch.randn(len(lengths), geometry.heads, geometry.head_dim, generator=random)
    return Decodes(tables, lengths), query, keys, values


# --- attention -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ByLikeLength, ByEqualLength, Eager])
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=15)
def test_torchs_own_attend_by_the_definition(kind, lengths):
    decodes, *tensors = step_of(lengths)
    found = kind(HEADS).plan(decodes)(*tensors)
    torch.testing.assert_close(found, plain_attention(decodes, *tensors))


@pytest.mark.parametrize("kind", KERNELS[:4], ids=lambda kind: kind.name.split()[0])
@pytest.mark.parametrize("lengths", [[1], [4, 9, 4], [17, 3, 40, 8]])
def test_engines_kernels_get_what_their_documentation_asks_for(monkeypatch, kind, lengths):
    engine_kernels.install(monkeypatch)
    decodes, *tensors = step_of(lengths)
    found = kind(HEADS).plan(decodes)(*tensors)
    torch.testing.assert_close(found, plain_attention(decodes, *tensors))


@pytest.mark.parametrize(
    "chooser", ["vllm.attention.utils.fa_utils", "vllm.attention.backends.utils"]
)
def test_vllms_version_is_found_where_older_releases_have_it(monkeypatch, chooser):
    engine_kernels.install(monkeypatch, chooser)
    assert isinstance(best_kernel(HEADS, KERNELS).kernel, VllmFlash)


def test_what_a_library_prints_is_no_answer_and_any_failure_of_it_is_passed_over(capfd):
    class Loud(ByLikeLength):
        name = "loud"

        def __init__(self, geometry):
            os.write(1, b"INFO: platform found\n")
            raise Exception("out of shared memory of a block\nand more")

    found = best_kernel(HEADS, (Loud, ByLikeLength))
    assert found.passed_over == ("loud: out of shared memory of a block",)
    out, err = capfd.readouterr()
    assert out == ""
    assert "INFO: platform found" in err


def test_memory_that_is_short_says_nothing_of_a_kernel():
    class Large(ByLikeLength):
        def __init__(self, geometry):
            raise RuntimeError("CUDA out of memory. Tried to allocate 128.00 MiB")

    with pytest.raises(RuntimeError, match="out of memory"):
        best_kernel(HEADS, (Large, ByLikeLength))


def test_flex_has_whole_tiles_of_queries_and_blocks(monkeypatch):
    """Its compiled kernel refuses a sparsity whose blocks are no multiples of its tiles."""
    asked = []

    class Noted(Eager):
        @staticmethod
        def compiled(attention):
            def attend(*tensors, block_mask, kernel_options, **known):
                asked.append((block_mask.BLOCK_SIZE, kernel_options))
                return attention(*tensors, block_mask=block_mask, **known)

            return attend

    decodes, *tensors = step_of([5, 9])
    Noted(HEADS).plan(decodes)(*tensors)
    (((queries, slots), options),) = asked
    assert queries % options["BLOCK_M"] == slots % options["BLOCK_N"] == 0


def test_the_definition_is_torchs(monkeypatch):
    """One sequence, one KV head a query head: what torch computes of it."""
    geometry = HEADS._replace(kv_heads=8)
    decodes, query, keys, values = step_of([11], geometry)
    both = (each[decodes.tables[0]].flatten(0, 1)[:11].transpose(0, 1) for each in (keys, values))
    want = torch.nn.functional.scaled_dot_product_attention(query[0][:, None], *both)[:, 0]
    torch.testing.assert_close(plain_attention(decodes, query, keys, values)[0], want)


def test_the_best_kernel_that_is_there_is_taken_and_the_others_say_why(monkeypatch):
    for name in ("vllm", "flashinfer", "flash_attn"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(Flex, "compiled", staticmethod(Eager.compiled))
    found = best_kernel(HEADS, KERNELS)
    assert isinstance(found.kernel, Flex)
    assert [line.split(": ")[0] for line in found.passed_over] == [k.name for k in KERNELS[:4]]
    assert found.passed_over[1].endswith("flashinfer is not installed")
    engine_kernels.install(monkeypatch)
    assert isinstance(best_kernel(HEADS, KERNELS).kernel, VllmFlash)
    assert isinstance(best_kernel(HEADS, KERNELS[3:]).kernel, TorchVarlen)


def test_a_kernel_that_answers_wrongly_is_passed_over():
    found = best_kernel(HEADS, (Wrong, ByEqualLength))
    assert isinstance(found.kernel, ByEqualLength)
    (line,) = found.passed_over
    assert line.startswith("wrong: is off by ")
    with pytest.raises(UnsupportedError, match="no attention kernel runs on this device: wrong: "):
        best_kernel(HEADS, (Wrong,))


def test_a_cpu_gathers_by_like_length_and_fuses_nothing():
    found = chosen_kernels(HEADS)
    assert found.words == (
        "attention: torch scaled_dot_product_attention, gathered by like length;"
        " norms, rotary, gates: torch, not fused"
    )
    assert found.passed_over == ()


@pytest.mark.parametrize("cached", [0, 5])
def test_a_chunk_sees_what_is_cached_and_what_comes_before(monkeypatch, cached):
    """On a GPU the bias holds no tensor; torch spells it out where no flash kernel takes it."""
    decodes, _, keys, values = step_of([12])
    table, tokens = torch.tensor(decodes.tables[0]), 12 - cached
    pool = Blocks(keys[None].clone(), values[None].clone())
    slots = torch.tensor([4 * decodes.tables[0][at // 4] + at % 4 for at in range(cached, 12)])
    query, key, value = (torch.randn(tokens, heads, 16) for heads in (8, 2, 2))
    answers = []
    for device in ("cpu", "cuda"):
        mask = causal_after(cached, tokens, torch.device(device))
        chunk = PrefillChunk(0, tokens, cached, table, mask)
        answers.append(StepAttention(pool, slots, [chunk], None)(0, query, key, value))
    torch.testing.assert_close(*answers)
    for row in range(tokens):
        alone = Decodes(decodes.tables, [cached + row + 1])
        want = plain_attention(alone, query[row : row + 1], pool.keys[0], pool.values[0])
        torch.testing.assert_close(answers[0][row : row + 1], want)


# --- norms, rotary positions, gates --------------------------------------------------------


def test_vllms_operators_are_taken_where_they_are_and_agree(monkeypatch):
    engine_kernels.install(monkeypatch)
    found = best_elementwise(CPU, torch.float32, (VllmOps, Compiled))
    assert isinstance(found.kernels, VllmOps)
    assert found.passed_over == ()


def test_the_compiler_is_taken_where_it_works_and_else_nothing_is_fused(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert isinstance(best_elementwise(CPU, torch.float32, (VllmOps, Compiled)).kernels, Compiled)

    def without_triton(function, dynamic):
        raise RuntimeError("Cannot find a working triton installation.\nand more")

    monkeypatch.setattr(torch, "compile", without_triton)
    found = best_elementwise(CPU, torch.float32, (VllmOps, Compiled))
    assert type(found.kernels) is Elementwise
    assert found.passed_over[1] == "torch.compile: Cannot find a working triton installation."


def test_operators_that_answer_wrongly_are_passed_over(monkeypatch):
    engine_kernels.install(monkeypatch)
    operators = sys.modules["vllm._custom_ops"]
    monkeypatch.setattr(operators, "rms_norm", lambda out, *rest: out.zero_())
    found = best_elementwise(CPU, torch.float32, (VllmOps,))
    assert type(found.kernels) is Elementwise
    assert found.passed_over[0].startswith("vLLM's fused operators: is off by ")


def test_the_trial_is_of_the_geometry_that_was_asked_for(monkeypatch):
    asked = []

    class Noted(ByLikeLength):
        def plan(self, decodes):
            asked.append((self.geometry, decodes.lengths))
            return super().plan(decodes)

    geometry = HEADS._replace(head_dim=32, block_size=16)
    monkeypatch.setattr(known_kernels, "_TRIAL_LENGTHS", (2, 3))
    best_kernel(geometry, (Noted,))
    assert asked == [(geometry, (2, 3))]
