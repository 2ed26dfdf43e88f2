"""DeepSeek-V4.1 under vLLM: windows of every layer, states of the sources, rings, in one pool.

Rules of vLLM 0.33: models/deepseek_v41 (attention.py, compressor.py, sparse_mla.py and
nvidia/model.py), v1/attention/backends/mla/sparse_swa.py and v1/core/kv_cache_planning.py.
"""

from collections import Counter

import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, Deployment, get_engine
from kvsim.engines.vllm.layout import layout_of
from kvsim.engines.vllm.pages import PageSpec, layer_pages
from kvsim.errors import InputError, KVSimError, UnsupportedError
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB


def resolved(gpu="h200", version="0.33.0", **options):
    engine = get_engine("vllm", version)
    model = find_model("deepseek-v4.1-flash")
    return engine, engine.resolve(
        Deployment(model, find_accelerator(gpu), EngineOptions(**options))
    )


@pytest.mark.parametrize(
    ("question", "numbers", "layers", "block_bytes"),
    [
        (
            ("h200", None, 8, 16_384, 60 * GIB + 12_345),
            (550_976, 2_345_943, 143.185031185),
            [6, 6, 6, 6, 6, 5, 5, 8, 3],
            116_928,
        ),
        (
            ("h200", "fp8", 4, 1_000_000, 90 * GIB),
            (826_463, 42_944_297, 42.94429722),
            [6, 6, 6, 6, 6, 5, 5, 8, 3],
            116_928,
        ),
        (
            ("b300", None, 8, 16_384, 60 * GIB + 12_345),
            (472_930, 2_876_200, 175.549368968),
            [8, 8, 8, 8, 8, 8, 3],
            136_224,
        ),
        (
            ("b300", "nvfp4_ds_mla", 4, 1_000_000, 90 * GIB),
            (709_396, 68_217_713, 68.217713242),
            [8, 8, 8, 8, 8, 8, 3],
            136_224,
        ),
        (
            ("b300", "fp8_ds_mla", 8, 16_384, 60 * GIB + 12_345),
            (303_522, 2_280_102, 139.166437414),
            [10, 10, 10, 10, 8, 3],
            212_256,
        ),
    ],
)
def test_blocks_tokens_and_groups_are_those_of_vllms_planner(
    question, numbers, layers, block_bytes
):
    """``get_kv_cache_configs`` and ``get_kv_cache_capacity`` of 0.33.0, run on these specs."""
    gpu, kv, tp, length, kv_bytes = question
    engine, deployment = resolved(
        gpu,
        kv_cache_dtype=kv,
        tensor_parallel_size=tp,
        max_model_len=length,
        max_num_batched_tokens=8192,
    )
    layout = layout_of(deployment, engine.rules)
    assert [len(group.members) for group in layout.groups] == layers
    assert layout.bytes_per_block() == block_bytes
    capacity = engine.capacity(deployment, kv_bytes)
    blocks, tokens, concurrency = numbers
    assert (capacity.num_blocks, capacity.logged_tokens) == (blocks, tokens)
    assert capacity.max_concurrency == pytest.approx(concurrency, abs=1e-9)


def test_the_pages_of_each_card_by_hand():
    """Records of 584 bytes and pages in multiples of 576, or of 528 and 288 in multiples of 512.

    32 * 584 = 18,688 fill 33, 64 * 584 fill 65, 32 * 132 fill 8 and 64 * 132 fill 15 of 576;
    32 * 528 fill 33, 64 * 288 fill 36, 128 * 288 fill 72, 64 * 132 fill 17 and 128 * 132 fill 33
    of 512.
    """
    engine, deployment = resolved()
    assert Counter(page.spec for page in layer_pages(deployment, engine.rules)) == {
        PageSpec("window", 32, 33 * 576, 128): 40,
        PageSpec("full", 64, 33 * 576): 3,
        PageSpec("full", 64, 8 * 576): 3,
        PageSpec("full", 64, 65 * 576): 1,
        PageSpec("full", 64, 15 * 576): 1,
        PageSpec("ring", 8, 8 * 4096, 8): 3,
    }
    engine, deployment = resolved("b300")
    assert deployment.options.kv_cache_dtype == "nvfp4_ds_mla"
    # a block holds whole records of both sizes: 3,168 is 6 * 528 and 11 * 288
    assert Counter(page.spec for page in layer_pages(deployment, engine.rules)) == {
        PageSpec("window", 32, 33 * 512, 128, stride_bytes=3168): 40,
        PageSpec("full", 128, 36 * 512): 3,
        PageSpec("full", 128, 17 * 512): 3,
        PageSpec("full", 128, 72 * 512): 1,
        PageSpec("full", 128, 33 * 512): 1,
        PageSpec("ring", 8, 8 * 4096, 8): 3,
    }


def test_a_block_of_several_kernel_pages_holds_whole_ones():
    """Pages of 64 tokens, 33, 8, 65 and 15 times 576 bytes, whose common multiple is 17,160."""
    engine, deployment = resolved(block_size=128)
    assert layout_of(deployment, engine.rules).bytes_per_block() == 17_160 * 576


def test_a_pipeline_is_cut_where_a_source_begins():
    """40 layers, and 20 of them read the last source, layer 20."""
    engine, deployment = resolved(pipeline_parallel_size=2)
    layout = layout_of(deployment, engine.rules)
    held = [engine.rank(deployment, stage).layers_of(deployment.model) for stage in (0, 1)]
    assert [layout.bytes_per_block(layers) for layers in held] == [98_304, 57_024]


@pytest.mark.parametrize(
    ("gpu", "options", "said"),
    [
        ("h200", {"block_size": 96}, "no blocks of 96 tokens .*choose a multiple of 64"),
        ("b300", {"block_size": 64}, "no blocks of 64 tokens .*choose a multiple of 128"),
        ("h200", {"kv_cache_dtype": "nvfp4_ds_mla"}, "no nvfp4_ds_mla .*choose fp8_ds_mla"),
        ("b300", {"kv_cache_dtype": "bf16"}, "no bf16 KV .*fp8_ds_mla or nvfp4_ds_mla"),
        ("h200", {"dtype": "float16"}, "does not run in fp16"),
        ("h200", {"pipeline_parallel_size": 4}, "another of 4 pipeline stages .*choose 1 or 2"),
        ("h200", {"tensor_parallel_size": 16}, r"8 groups of heads .*choose one of \[1, 2, 4, 8\]"),
        (
            "h200",
            {"tensor_parallel_size": 8, "decode_context_parallel_size": 2},
            "cannot share the windows",
        ),
    ],
)
def test_what_its_kernels_lack_is_refused_with_the_choice(gpu, options, said):
    with pytest.raises(InputError, match=said):
        resolved(gpu, **options)


def test_a_card_and_a_release_whose_layout_is_not_known_are_refused():
    with pytest.raises(UnsupportedError, match="no kernels of vLLM for the sparse attention"):
        resolved("rtx-pro-6000")
    with pytest.raises(UnsupportedError, match=r"how vLLM 0\.32\.0 .*choose release 0\.33"):
        resolved(version="0.32.0")


def test_one_group_for_all_is_refused():
    engine, deployment = resolved(disable_hybrid_kv_cache_manager=True)
    with pytest.raises(UnsupportedError, match="--disable-hybrid-kv-cache-manager"):
        layout_of(deployment, engine.rules)


@pytest.mark.parametrize("engine", sorted(set(ENGINE_NAMES) - {"vllm"}))
def test_other_engines_refuse_it_by_its_word(engine):
    with pytest.raises(KVSimError, match=r"sourced MLA cache of deepseek-v4.1-flash") as refused:
        kvsim.plan("deepseek-v4.1-flash", "b300", engine=engine)
    assert "\n" not in str(refused.value)
