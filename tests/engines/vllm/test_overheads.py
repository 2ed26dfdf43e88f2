"""What is neither weights nor KV: each estimate's formula on sizes that are counted by hand."""

from dataclasses import replace

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.common import (
    check_kv_format,
    layout_ratio,
    mlp_activation_bytes,
    tokens_at,
)
from kvsim.engines.vllm.overheads import (
    ProfiledStep,
    activation_bytes,
    captured_graphs,
    cuda_graph_bytes,
    fused_all_reduce_bytes,
    lora_bytes,
    non_torch_bytes,
    profiled_step,
)
from kvsim.errors import InputError
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp, MoeMlp
from kvsim.specs.precision import kv_format
from kvsim.units import GIB, MIB

LLAMA = "llama3.1-8b"  # hidden 4,096, 32 layers, MLP 14,336, 32 / 8 heads of 128, 128,256 words


def resolved(model=LLAMA, gpu="h100", version="0.19.0", **options):
    engine = get_engine("vllm", version)
    spec = find_model(model) if isinstance(model, str) else model
    question = Deployment(spec, find_accelerator(gpu), EngineOptions(**options))
    return engine, engine.resolve(question)


def llama(mlp):
    """Llama 3.1 8B with another feed-forward block."""
    model = find_model(LLAMA)
    (group,) = model.layer_groups
    return model.model_copy(update={"layer_groups": (group.model_copy(update={"mlp": mlp}),)})


# --- the dummy step ---------------------------------------------------------------------------


def test_the_tensors_of_the_dummy_step():
    engine, deployment = resolved(max_num_batched_tokens=1000, max_num_seqs=64)
    assert profiled_step(deployment, Rank(), engine.rules) == ProfiledStep(
        logits_bytes=64 * 128_256 * 4,
        stream_bytes=1000 * 4096 * 2,
        width_bytes=1000 * 3 * 14_336 * 2,
        multimodal=False,
    )


def test_ranks_split_the_widest_layer_and_only_the_last_stage_has_logits():
    engine, deployment = resolved(
        max_num_batched_tokens=10, max_num_seqs=10, pipeline_parallel_size=2, dtype="float32"
    )
    ranks = (Rank(tp=8, pp=2, stage=stage) for stage in (0, 1))
    first, last = (profiled_step(deployment, rank, engine.rules) for rank in ranks)
    assert (first.logits_bytes, last.logits_bytes) == (0, 10 * 128_256 * 4)
    assert first.width_bytes == 10 * (3 * 14_336 // 8) * 4


@pytest.mark.parametrize(
    ("mlp", "elements"),
    [
        (DenseMlp(intermediate_size=8192), 3 * 8192),
        (DenseMlp(intermediate_size=8192, gated=False), 2 * 8192),
        # 2 experts of 6,000 are wider than the shared one; then the other way round
        (MoeMlp(experts=8, experts_per_token=2, intermediate_size=6000), 3 * 12_000),
        (
            MoeMlp(
                experts=8,
                experts_per_token=2,
                intermediate_size=3000,
                shared_intermediate_size=9000,
            ),
            3 * 9000,
        ),
        # four experts of 1,000 and their activations: the second GEMM gives rows of 4,096
        (
            MoeMlp(experts=8, experts_per_token=4, intermediate_size=1000),
            4 * (4096 + 1000),
        ),
        # queries, keys, values and output: (32 + 8 + 8 + 32) * 128
        (DenseMlp(intermediate_size=100), 80 * 128),
        (None, 80 * 128),
    ],
)
def test_the_widest_part_of_a_layer_counts(mlp, elements):
    """In 0.13, where experts do not work in the shared buffer yet."""
    options = {"version": "0.13.0", "max_num_batched_tokens": 256, "max_num_seqs": 1}
    engine, deployment = resolved(llama(mlp), **options)
    assert profiled_step(deployment, Rank(), engine.rules).width_bytes == 256 * elements * 2


def test_the_widest_layer_of_the_ranks_own_stage_counts():
    """Sixteen narrow layers before sixteen wide ones, on two stages."""
    model = find_model(LLAMA)
    (group,) = model.layer_groups
    groups = tuple(
        group.model_copy(update={"name": name, "layers": layers, "mlp": DenseMlp(**mlp)})
        for name, layers, mlp in (
            ("narrow", tuple(range(16)), {"intermediate_size": 5000}),
            ("wide", tuple(range(16, 32)), {"intermediate_size": 9000}),
        )
    )
    two = model.model_copy(update={"layer_groups": groups})
    engine, deployment = resolved(two, max_num_batched_tokens=256, max_num_seqs=1)
    widths = [
        profiled_step(deployment, rank, engine.rules).width_bytes
        for rank in (Rank(), Rank(pp=2, stage=0), Rank(pp=2, stage=1))
    ]
    assert widths == [256 * 3 * size * 2 for size in (9000, 5000, 9000)]
    packed = {"max_num_batched_tokens": 256, "max_num_seqs": 1, "quantization": "bitsandbytes"}
    _, unpacking = resolved(two, **packed)
    unpacked = profiled_step(unpacking, Rank(), engine.rules).width_bytes - widths[0]
    assert unpacked == 4096 * 9000 * 2


def test_bitsandbytes_unpacks_the_largest_matrix():
    """A matrix of 4,096 x 14,336 in 2 bytes, halved by two ranks."""
    options = {"max_num_batched_tokens": 256, "max_num_seqs": 1, "tensor_parallel_size": 2}
    engine, plain = resolved(**options)
    _, packed = resolved(quantization="bitsandbytes", **options)
    steps = [profiled_step(each, Rank(tp=2), engine.rules) for each in (plain, packed)]
    widths = [step.width_bytes for step in steps]
    assert widths[1] - widths[0] == 4096 * 14_336 * 2 // 2


def test_the_peak_is_the_larger_of_two_moments():
    """Coefficients of vllm_overheads.yaml; a GiB of each tensor makes the sums readable."""
    step = ProfiledStep(logits_bytes=GIB, stream_bytes=GIB, width_bytes=0, multimodal=False)
    assert activation_bytes(step, "sortless") == int(3.626 * GIB + 36.0 * MIB + 1.274 * GIB)
    assert activation_bytes(step, "sorting") == int((9.563 + 1.274) * GIB)
    wide = step._replace(width_bytes=20 * GIB)
    assert activation_bytes(wide, "sorting") == int((20 + 4.396) * GIB)
    seen = wide._replace(multimodal=True)
    assert activation_bytes(seen, "sorting") == int((20 + 4.396 + 3.312) * GIB)
    held = wide._replace(held_bytes=2 * GIB)
    assert activation_bytes(held, "sorting") == int((20 + 4.396 + 2) * GIB)
    assert activation_bytes(held._replace(encoder_bytes=27 * GIB), "sorting") == 27 * GIB
    headless = ProfiledStep(0, GIB, 0, multimodal=False)
    assert activation_bytes(headless, "sortless") == int(4.396 * GIB)


# --- outside torch ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "gpu", "options", "gib"),
    [
        ("0.17.0", "h100", {}, 0.13),
        ("0.19.0", "h100", {}, 0.25),
        ("0.19.0", "l4", {}, 0.21),
        # PCIe alone: 2 channels of NCCL's, where NVSwitches have 24
        ("0.19.0", "l4", {"tensor_parallel_size": 2}, 0.21 + 0.415 / 12),
        ("0.19.0", "a100", {"tensor_parallel_size": 2}, 0.21 + 0.415),
        ("0.19.0", "h100", {"tensor_parallel_size": 2}, 0.25 + 0.32 + 1.5),
        ("0.19.0", "h100", {"pipeline_parallel_size": 2}, 0.25 + 0.415),
        ("0.17.0", "h100", {"tensor_parallel_size": 2}, 0.13 + 0.32 + 1.5),
        ("0.16.0", "h100", {"tensor_parallel_size": 2}, 0.13 + 0.415),
    ],
)
def test_libraries_and_the_buffers_of_nccl(version, gpu, options, gib):
    engine, deployment = resolved(gpu=gpu, version=version, **options)
    assert non_torch_bytes(deployment, engine.rules) == pytest.approx(gib * GIB, abs=1)


@pytest.mark.parametrize(
    ("gpu", "options", "is_fused"),
    [
        ("h100", {"tensor_parallel_size": 8}, True),
        ("b200", {"tensor_parallel_size": 4}, True),
        ("h100", {}, False),
        ("h100-nvl-94gb", {"tensor_parallel_size": 2}, False),  # a bridge: no multicast
        ("a100", {"tensor_parallel_size": 2}, False),  # NVSwitch, but not 9.0
        ("l4", {"tensor_parallel_size": 2}, False),
        ("rtx-pro-6000", {"tensor_parallel_size": 2}, False),  # 12.0, over PCIe
        ("h100", {"tensor_parallel_size": 2, "enforce_eager": True}, False),  # not compiled
        ("h100", {"pipeline_parallel_size": 2}, False),  # sends, reduces nothing
    ],
)
def test_all_reduces_are_fused_behind_nvswitches(gpu, options, is_fused):
    engine, deployment = resolved(gpu=gpu, version="0.19.0", **options)
    assert fused_all_reduce_bytes(deployment, engine.rules) == 1.5 * GIB * is_fused


@pytest.mark.parametrize(("version", "is_fused"), [("0.19.0", False), ("0.21.0", True)])
def test_stages_of_ranks_fuse_their_all_reduces_since_0_21(version, is_fused):
    stages = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    engine, deployment = resolved(gpu="h100", version=version, **stages)
    assert bool(fused_all_reduce_bytes(deployment, engine.rules)) is is_fused


# --- graphs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "seqs", "graphs"),
    [
        # The bars that logs print: 51/51 of V1 in pieces, 35/35 of decode alone since 0.11, V0's
        ("0.10.2", 256, 51),
        ("0.19.0", 256, 51 + 35),
        ("0.19.0", 1024, 51 + 51),
        ("0.7.3", 256, 35),
        ("0.7.3", 1024, 35),
        # 1, 2, 4, 8, ..., 64: twice 32 sequences; decode, and V0, stop at 32
        ("0.19.0", 32, 3 + 8 + 3 + 4),
        ("0.7.3", 32, 3 + 4),
        # 1 and 2; 1, 2 and 4; then 1 alone
        ("0.19.0", 1, 2 + 1),
        ("0.19.0", 2, 3 + 2),
        ("0.7.3", 1, 1),
        # ... 256, 272, 288; 1, 2, 4, 8, ..., 144
        ("0.19.0", 144, 3 + 32 + 2 + 3 + 18),
    ],
)
def test_the_graphs_that_are_captured(version, seqs, graphs):
    engine, deployment = resolved("llama2-7b", version=version, max_num_seqs=seqs)
    assert captured_graphs(deployment, engine.rules) == graphs
    expected = int((303.6 + 6.39 * graphs) * MIB)
    assert cuda_graph_bytes(deployment, engine.rules) == expected


@pytest.mark.parametrize(
    ("gpu", "captures"), [("h100", True), ("mi300x", True), ("tpu-v6e", False), ("gaudi3", False)]
)
def test_devices_that_have_no_graphs_set_none_aside(gpu, captures):
    engine, deployment = resolved(gpu=gpu, version="0.21.0")
    assert bool(cuda_graph_bytes(deployment, engine.rules)) is captures
    source = dict(engine.budget(deployment).provenance)["cuda_graph"]
    assert (source == "none is captured") is not captures


# --- adapters ---------------------------------------------------------------------------------


def test_an_adapters_buffers_are_half_split_over_ranks_and_shared_by_stages():
    """32 layers of 81,920 elements a rank of the adapter, and the vocabulary's; A is whole on each
    of two ranks and B half: three quarters of both, and half of that on each of two stages."""
    elements = 32 * 81_920 + 2 * (128_256 + 4096)
    for sharding, share in (
        ({}, 1),
        ({"tensor_parallel_size": 2}, 3 / 4),
        ({"pipeline_parallel_size": 2}, 1 / 2),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 5 / 16),
    ):
        _, deployment = resolved(enable_lora=True, max_lora_rank=16, **sharding)
        assert lora_bytes(deployment) == 16 * elements * 2 * share
    assert lora_bytes(resolved()[1]) == 0


def test_experts_have_no_adapter_and_a_plain_mlp_has_two_maps():
    attention = 8192 + 2 * 5120 + 8192
    vocabulary = 2 * (128_256 + 4096)
    for mlp, ends in (
        (DenseMlp(intermediate_size=1000, gated=False), 2 * (4096 + 1000)),
        (MoeMlp(experts=8, experts_per_token=2, intermediate_size=1000), 0),
        (None, 0),
    ):
        _, deployment = resolved(llama(mlp), enable_lora=True, max_lora_rank=16)
        assert lora_bytes(deployment) == 16 * 2 * (32 * (attention + ends) + vocabulary)


# --- the estimate of engines without logs -----------------------------------------------------


def test_the_first_principles_estimate_of_a_forward_pass():
    """Two rows of the widest block over the ranks, four of the hidden state, 2 bytes each."""
    dense = llama(DenseMlp(intermediate_size=1001))
    assert mlp_activation_bytes(dense, 10, 1) == 2 * 10 * (2 * 1001 + 4 * 4096)
    assert mlp_activation_bytes(dense, 10, 2) == 2 * 10 * (2 * 501 + 4 * 4096)
    moe = MoeMlp(experts=8, experts_per_token=2, intermediate_size=300, shared_intermediate_size=50)
    assert mlp_activation_bytes(llama(moe), 10, 1) == 2 * 10 * (2 * 650 + 4 * 4096)
    assert mlp_activation_bytes(llama(None), 10, 1) == 2 * 10 * 4 * 4096


def test_a_layouts_bytes_over_the_models_own():
    """Llama 3.1 8B keeps 131,072 bytes a token; a model that keeps nothing has no ratio."""
    _, deployment = resolved()
    assert layout_ratio(deployment, 196_608, Rank()) == 1.5
    (group,) = deployment.model.layer_groups
    bare = group.model_copy(update={"caches": ()})
    model = deployment.model.model_copy(update={"layer_groups": (bare,)})
    assert layout_ratio(replace(deployment, model=model), 1, Rank()) == 1.0


@pytest.mark.parametrize(
    ("kv_bytes", "tokens"), [(-1, 0), (0, 0), (399, 0), (400, 1), (4000, 10), (10_000, 25)]
)
def test_tokens_of_whole_sequences_and_of_a_part(kv_bytes, tokens):
    """4,000 bytes a sequence of 10 tokens: 400 bytes each."""
    assert tokens_at(kv_bytes, 4000, 10) == tokens


def test_a_kv_format_that_an_engine_lacks_is_refused():
    check_kv_format("any", "--flag", kv_format("fp8"), ("bf16", "fp8_e4m3"))
    with pytest.raises(InputError, match="any has no fp8_e5m2 KV cache"):
        check_kv_format("any", "--flag", kv_format("fp8_e5m2"), ("bf16", "fp8_e4m3"))
