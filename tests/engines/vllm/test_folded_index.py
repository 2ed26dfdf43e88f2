"""GLM-5.3 under vLLM: latents, index keys of four tokens, rings and states in one pool.

Rules of vLLM 0.33: models/glm5next, models/config.py (Glm5NextModelConfig),
v1/attention/backends/mla, platforms/interface.py (_align_hybrid_block_size) and
v1/core/kv_cache_planning.py.
"""

import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, Deployment, get_engine
from kvsim.engines.vllm.layout import layout_of
from kvsim.errors import InputError, KVSimError, UnsupportedError
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB


def resolved(model="glm-5.3-flash", gpu="h200", version="0.33.0", **options):
    engine = get_engine("vllm", version)
    found = find_model(model) if isinstance(model, str) else model
    question = Deployment(found, find_accelerator(gpu), EngineOptions(**options))
    return engine, engine.resolve(question)


NINE = [9, 9, 8, 8, 22, 11]
TWELVE = [12, 11, 11, 22, 11]
# Card, KV dtype, tp, length, GiB of KV cache, prefix caching: blocks, tokens, concurrency; layers
# of the groups, tokens and bytes of a block.
PLANNED = {
    ("h200", "auto", 1, 16_384, 60, True): (
        (1272, 1_225_908, 74.823529412),
        (NINE, 4352, 50_620_416),
    ),
    ("h200", "bf16", 8, 16_384, 60, True): (
        (8626, 3_623_804, 221.179487179),
        (NINE, 640, 7_468_032),
    ),
    ("h200", "fp8", 4, 100_001, 40, True): (
        (3288, 5_572_937, 55.728813559),
        (NINE, 2176, 13_060_608),
    ),
    ("h200", "fp8_ds_mla", 8, 8192, 40, True): (
        (4428, 2_015_232, 246.0),
        (TWELVE, 1152, 9_698_304),
    ),
    ("b300", "auto", 4, 1_048_576, 100, True): (
        (7943, 16_825_937, 16.046464646),
        (NINE, 2176, 13_516_800),
    ),
    ("b300", "bf16", 2, 16_384, 60, False): (
        (2482, 3_128_083, 190.923076923),
        (NINE, 2176, 25_952_256),
    ),
    ("rtx-pro-6000", "auto", 8, 8192, 20, True): (
        (1937, 933_406, 113.941176471),
        (TWELVE, 1280, 11_083_776),
    ),
}


@pytest.mark.parametrize("question", PLANNED)
def test_blocks_tokens_and_groups_are_those_of_vllms_planner(question):
    """``get_kv_cache_configs`` and ``get_kv_cache_capacity`` of 0.33.0, on the specs of its layers.

    Blocks are whole pages of 64 index keys apart, too (`tests.engine_oracle.layout`).
    """
    gpu, kv, tp, length, kv_gib, prefix = question
    (blocks, tokens, concurrency), (layers, block, block_bytes) = PLANNED[question]
    engine, deployment = resolved(
        gpu=gpu,
        kv_cache_dtype=kv,
        tensor_parallel_size=tp,
        max_model_len=length,
        enable_prefix_caching=prefix,
    )
    layout = layout_of(deployment, engine.rules)
    assert [len(group.members) for group in layout.groups] == layers
    assert [group.spec.kind for group in layout.groups][-2:] == ["full", "ring"]
    assert (layout.groups[-2].spec.block_size, layout.bytes_per_block()) == (block, block_bytes)
    capacity = engine.capacity(deployment, kv_gib * GIB)
    assert (capacity.num_blocks, capacity.logged_tokens) == (blocks, tokens)
    assert capacity.max_concurrency == pytest.approx(concurrency, abs=1e-9)


@pytest.mark.parametrize(
    ("gpu", "asked", "kv", "block"),
    [
        ("h200", None, "bf16", 128),
        ("h200", "fp8", "fp8_e4m3", 128),
        ("b300", None, "fp8_e4m3", 128),
        ("rtx-pro-6000", None, "fp8_ds_mla", 256),
        ("rtx-pro-6000", "fp8", "fp8_ds_mla", 256),
    ],
)
def test_the_card_decides_the_layout_of_a_latent_and_the_least_block(gpu, asked, kv, block):
    options = resolved(gpu=gpu, kv_cache_dtype=asked)[1].options
    assert (options.kv_cache_dtype, options.block_size) == (kv, block)


def test_a_ring_is_one_block_whatever_the_length():
    """Four tokens, a key and a gate's score of 128 bf16 elements each: 2,048 bytes."""
    engine, deployment = resolved(tensor_parallel_size=8)
    ring = layout_of(deployment, engine.rules).groups[-1]
    reserve = layout_of(deployment, engine.rules).reserve
    assert (ring.spec.block_size, ring.spec.page_bytes, len(ring.members)) == (4, 2048, 11)
    assert [ring.spec.admission_pages(n, reserve) for n in (1, 4, 5, 100_000)] == [1, 1, 1, 1]
    assert [ring.spec.growth(100_000, reserve).blocks_at(n) for n in (1, 100_000)] == [1, 1]


@pytest.mark.parametrize(
    ("gpu", "options", "said"),
    [
        ("h200", {"block_size": 32}, "no blocks of 32 tokens .*choose a multiple of 64"),
        ("rtx-pro-6000", {"block_size": 128}, "choose a multiple of 256"),
        ("b300", {"kv_cache_dtype": "fp8_ds_mla"}, "no fp8_ds_mla KV cache .*fp8_e4m3, bf16"),
        ("rtx-pro-6000", {"kv_cache_dtype": "bf16"}, "no bf16 KV cache .*choose fp8_ds_mla"),
        ("h200", {"dtype": "float16"}, "--dtype: .*in fp16 is not known.*bfloat16"),
        ("h200", {"pipeline_parallel_size": 2}, "does not cut glm-5.3-flash into pipeline stages"),
        (
            "h200",
            {"tensor_parallel_size": 8, "decode_context_parallel_size": 2},
            "--decode-context-parallel-size: .*is not known",
        ),
    ],
)
def test_what_its_kernels_lack_is_refused_with_the_choice(gpu, options, said):
    with pytest.raises(InputError, match=said):
        resolved(gpu=gpu, **options)


def test_a_card_and_a_release_whose_layout_is_not_known_are_refused():
    with pytest.raises(UnsupportedError, match="no kernels of vLLM for the sparse attention"):
        resolved(gpu="a100-80gb")
    with pytest.raises(UnsupportedError, match=r"how vLLM 0\.32\.0 .*choose release 0\.33"):
        resolved(version="0.32.0")


@pytest.mark.parametrize("engine", sorted(set(ENGINE_NAMES) - {"vllm"}))
def test_other_engines_refuse_it_by_its_word(engine):
    with pytest.raises(KVSimError, match=r"MLA \+ indexer cache of glm-5.3-flash") as refused:
        kvsim.plan("glm-5.3-flash", "b300", engine=engine)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("version", "gpu", "tp", "kv", "block"),
    [
        ("0.19.0", "a100-80gb", 2, "auto", 960),  # multiples of 64
        ("0.26.0", "a100-80gb", 2, "auto", 944),  # of 16, the block
        # get_preferred_block_size of the first of _get_backend_priorities (platforms/cuda.py)
        ("0.20.2", "h100", 2, "auto", 944),  # of FlashAttention's 16
        ("0.26.0", "h100", 2, "fp8", 1920),  # of FlashMLA's 64
        ("0.26.0", "b200", 1, "auto", 1888),  # of FlashInfer's 32
        ("0.26.0", "b200", 2, "fp8", 1888),
        ("0.26.0", "rtx-pro-6000", 2, "auto", 944),  # of Triton's 16
        ("0.27.1", "h100", 2, "auto", 1024),  # of 128
        ("0.27.1", "b200", 1, "auto", 1920),
        ("0.33.0", "a100-80gb", 1, "auto", 1920),
    ],
)
def test_blocks_of_latents_beside_states_come_in_the_kernels_multiples(version, gpu, tp, kv, block):
    """Kimi-Linear: (3 * 4,096 * 3 * 2 + 32 * 128 * 128 * 4) / 1,152 bytes is 1,884.4 tokens.

    Of 576 bytes in fp8 two ranks hold as many.
    """
    options = {"tensor_parallel_size": tp, "max_model_len": 8192, "kv_cache_dtype": kv}
    engine, deployment = resolved("kimi-linear-48b-a3b", gpu, version, **options)
    groups = layout_of(deployment, engine.rules).groups
    assert {g.spec.block_size for g in groups if g.spec.kind == "full"} == {block}


def test_a_block_that_is_asked_for_is_a_unit_of_one_that_holds_a_state():
    """Qwen3.5-27B: 783 tokens and more; 0.20 and later round up to multiples of --block-size.

    0.33 also rounds up to 64, of which checkpoints of a prefill are multiples (lcm of 48 and 64).
    """
    asked = {("0.19.0", 32): 784, ("0.32.0", 32): 800, ("0.33.0", 32): 832, ("0.33.0", 48): 960}
    for (version, size), block in asked.items():
        engine, deployment = resolved("qwen3.5-27b", "h200", version, block_size=size)
        groups = layout_of(deployment, engine.rules).groups
        assert {g.spec.block_size for g in groups if g.spec.kind == "full"} == {block}


@pytest.mark.parametrize(
    ("model", "gpu", "version", "length", "planned"),
    [
        # 16 full layers and three groups of 16 states: 316 + 3 x 3 blocks of 832 tokens
        ("qwen3.5-27b", "h200", "0.33.0", 262_144, (787, 634_791, 2.421538462, 832)),
        # no kernel of FlashInfer's: 335 + 3 x 2 blocks of 784 tokens
        ("qwen3.5-27b", "a100-80gb", "0.33.0", 262_144, (835, 641_906, 2.448680352, 784)),
        ("qwen3.5-27b", "h200", "0.32.0", 262_144, (835, 641_906, 2.448680352, 784)),
        # Mamba-2's own kernels save states on any card: 8 + 6 x 3 blocks of 1,040 tokens
        ("nemotron-h-8b", "h200", "0.33.0", 8192, (2520, 793_993, 96.923076923, 1040)),
        ("nemotron-h-8b", "a100-80gb", "0.32.0", 8192, (2520, 793_993, 96.923076923, 1040)),
        # Mamba-2's states of every block, of whole chunks of 128 tokens: 8 + 6 x 8 blocks of 1,152
        # (planned by 0.26.0 and by 0.27.1: v1/core/kv_cache_utils.py)
        ("nemotron-h-8b", "h200", "0.26.0", 8192, (2275, 332_800, 40.625, 1152)),
        ("nemotron-h-8b", "h200", "0.27.1", 2048, (2275, 332_800, 162.5, 1152)),
        # without prefix caching, 8 + 6
        ("nemotron-h-8b", "h200", "0.25.1", 8192, (2520, 1_474_560, 180.0, 1040)),
        # two states until 0.31: 8 + 6 x 2
        ("nemotron-h-8b", "h200", "0.31.0", 8192, (2520, 1_032_192, 126.0, 1040)),
    ],
)
def test_a_prefills_checkpoint_is_charged_where_the_release_has_one(
    model, gpu, version, length, planned
):
    """vLLM 0.33's get_kv_cache_configs and get_kv_cache_capacity, on specs with the checkpoints
    and blocks of each release's layers and _align_hybrid_block_size; 40 GiB."""
    engine, deployment = resolved(model, gpu, version, max_model_len=length)
    capacity = engine.capacity(deployment, 40 * GIB)
    blocks, tokens, concurrency, block = planned
    assert (capacity.num_blocks, capacity.logged_tokens) == (blocks, tokens)
    assert capacity.max_concurrency == pytest.approx(concurrency, abs=1e-9)
    assert capacity.block_size == block


@pytest.mark.parametrize(
    ("gpu", "tp", "prefix", "planned"),
    [
        ("h200", 8, True, (2528, 1_336_088, 81.548387097, 768)),
        ("h200", 16, True, (5056, 1_593_028, 97.230769231, 384)),
        ("b300", 8, False, (2528, 1_656_750, 101.12, 768)),
    ],
)
def test_kimi_k3_is_charged_a_prefills_checkpoint(kvsim_data, gpu, tp, prefix, planned):
    """The same planner on Kimi-K3's specs: three states a sequence, blocks in multiples of 128."""
    model = find_model(str(kvsim_data / "reference/configs/moonshotai--Kimi-K3"))
    engine, deployment = resolved(
        model, gpu, tensor_parallel_size=tp, max_model_len=16_384, enable_prefix_caching=prefix
    )
    capacity = engine.capacity(deployment, 50 * GIB)
    blocks, tokens, concurrency, block = planned
    assert (capacity.num_blocks, capacity.logged_tokens) == (blocks, tokens)
    assert capacity.max_concurrency == pytest.approx(concurrency, abs=1e-9)
    assert capacity.block_size == block


def test_no_checkpoint_is_charged_where_no_kernel_saves_one():
    def states(gpu="h200", version="0.33.0", model="glm-5.3-flash", **options):
        engine, deployment = resolved(model, gpu, version, **options)
        layout = layout_of(deployment, engine.rules)
        spec = next(g.spec for g in layout.groups if g.spec.kind == "state")
        return spec.admission_pages(1, layout.reserve), spec.growth(1, layout.reserve).blocks_at(1)

    assert states() == (3, 1)
    assert states(enable_prefix_caching=False) == (1, 1)
    # Kimi-Linear's gate is not bounded
    assert states(model="kimi-linear-48b-a3b") == (2, 1)
    bounded = find_model("glm-5.3-flash").group("gated_delta_net_moe")
    kimi = find_model("kimi-linear-48b-a3b")
    groups = [
        group.model_copy(update={"caches": bounded.caches}) if "delta" in group.name else group
        for group in kimi.layer_groups
    ]
    kimi = kimi.model_copy(update={"layer_groups": tuple(groups)})
    assert states(model=kimi) == states(model=kimi, version="0.29.0") == (3, 1)
    assert states(model=kimi, version="0.28.0") == (2, 1)
    assert states("a100-80gb", model=kimi) == (2, 1)
    assert states(model=kimi, dtype="float16") == (2, 1)
