"""The model catalogue: every fact against the reference table, every way to say a name."""

import csv

import pytest
import yaml

from kvsim.catalog import models
from kvsim.catalog.models import describe_models, find_model, model_names, published_variants
from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.memory.footprint import bytes_per_token, fixed_bytes, layer_caches, sequence_bytes
from kvsim.memory.tensors import parameter_count
from kvsim.specs.attention import (
    ChunkedAttention,
    CompressedLatentAttention,
    CrossAttention,
    HeadAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.precision import WEIGHT_FORMATS, kv_format

BF16 = kv_format("bf16")
REFUSED = {"bert-base-uncased"}
READABLE = sorted(set(model_names()) - REFUSED)


@pytest.fixture(scope="module")
def facts(kvsim_data):
    with (kvsim_data / "reference" / "model_facts.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def differences(facts, column, measure):
    """Models whose measured value is not the column's, where the column says something."""
    found = {row["name"]: (row[column], measure(find_model(row["name"]))) for row in facts}
    return {name: pair for name, pair in found.items() if pair[0] and pair[0] != str(pair[1])}


def kv_elements(model, *, windowed):
    """K and V elements of one token, in the layers that have a window or in those without."""
    return sum(
        count * elements_of(cache)
        for count, cache in layer_caches(model)
        if not isinstance(cache, RecurrentState | CrossAttention)
        and isinstance(cache, SlidingAttention | ChunkedAttention) == windowed
    )


def elements_of(cache):
    if isinstance(cache, CompressedLatentAttention):
        return 0  # not a constant a token; the table leaves it out
    if isinstance(cache, LatentAttention):
        return cache.kv_lora_rank + cache.rope_dim
    return cache.kv_heads * (cache.key_dim + cache.value_dim)


def first_heads(model):
    return next(c.heads for g in model.layer_groups for c in g.caches if hasattr(c, "heads"))


def first_kv_heads(model):
    """KV heads of the first softmax layer; MLA's count is that of its queries."""
    caches = [cache for group in model.layer_groups for cache in group.caches]
    softmax = [cache for cache in caches if isinstance(cache, HeadAttention)]
    return softmax[0].kv_heads if softmax else first_heads(model)


# --- against the reference table ----------------------------------------------------------


def test_every_model_of_the_table_is_in_the_catalogue(facts):
    assert {row["name"] for row in facts} <= set(model_names())


@pytest.mark.parametrize("windowed", [False, True])
def test_kv_elements_per_token(facts, windowed):
    column = "kv_elems_per_token_" + ("windowed" if windowed else "growing")
    assert differences(facts, column, lambda m: kv_elements(m, windowed=windowed)) == {}


def test_kv_elements_are_what_the_footprint_counts(facts):
    """Two bytes per element, and the sparse indexer's 132 bytes per layer beside them."""
    for row in facts:
        if not row["kv_elems_per_token_growing"]:
            continue
        model = find_model(row["name"])
        elements = int(row["kv_elems_per_token_growing"]) + int(row["kv_elems_per_token_windowed"])
        indexer = 132 * model.num_layers if "indexer" in row["attention_kind"] else 0
        assert bytes_per_token(model, BF16) == 2 * elements + indexer, row["name"]


def test_fixed_state_bytes(facts):
    assert differences(facts, "fixed_state_bytes_per_seq", fixed_bytes) == {}


@pytest.mark.parametrize(
    ("column", "measure"),
    [
        ("layers", lambda m: m.num_layers),
        ("hidden_size", lambda m: m.hidden_size),
        ("vocab_size", lambda m: m.vocab_size),
        ("heads", first_heads),
        ("tie_embeddings", lambda m: m.tie_embeddings),
        ("max_position_embeddings", lambda m: m.max_position_embeddings),
    ],
)
def test_shape(facts, column, measure):
    assert differences(facts, column, measure) == {}


def test_kv_heads(facts):
    """DeepSeek-V4's one KV head is its shared state, which has no heads in kvsim."""
    found = differences(facts, "kv_heads", first_kv_heads)
    assert set(found) == {"deepseek-v4-flash"}


def test_hub_ids(facts):
    for row in facts:
        hf_id = row["hf_id"].split(" ")[0]
        if "/" in hf_id:
            assert find_model(hf_id).name == row["name"]


# --- against published configs ------------------------------------------------------------

# What a spec holds of where it came from, and not of the model.
PROVENANCE = {"name", "hf_id", "source", "weight_bytes_on_disk"}
# A name says that a checkpoint is NVFP4; which families NVIDIA spared, its config alone.
FORMAT = {"quantization", "family_formats", "declared_kv", "spared_parameters"}


@pytest.fixture(scope="module")
def published(kvsim_data):
    """The published configs of models that the catalogue knows: hub id to spec."""
    folders = sorted((kvsim_data / "reference" / "configs").glob("*--*"))
    names = {folder.name.replace("--", "/"): folder for folder in folders}
    return {name: find_model(names[name]) for name in names if is_known(name)}


def is_known(hf_id):
    try:
        find_model(hf_id)
    except UnknownNameError:
        return False
    return True


def test_a_published_config_reads_to_the_entrys_spec(published):
    assert len(published) > 40
    for hf_id, spec in published.items():
        entry = find_model(hf_id)
        apart = PROVENANCE | (FORMAT if hf_id.endswith("-NVFP4") else set())
        assert spec.model_dump(exclude=apart) == entry.model_dump(exclude=apart), hf_id


def test_a_published_variant_is_the_same_model_in_fewer_bits():
    """Every id in a head's `published` is understood as that entry in a narrower format."""
    listed = {head["name"]: head["published"] for head in describe_models() if "published" in head}
    assert len(listed) >= 14
    for name, ids in listed.items():
        entry = find_model(name)
        found = published_variants(entry)
        assert {hf_id for hf_id, _ in found} == set(ids)
        for hf_id, weights in found:
            variant = find_model(hf_id)
            assert (variant.layer_groups, variant.quantization) == (entry.layer_groups, weights)


def test_a_model_that_is_not_the_catalogues_has_no_published_variants():
    other = find_model("qwen3-32b").model_copy(update={"vocab_size": 151_937})
    assert published_variants(other) == []
    assert published_variants(find_model("qwen3-32b")) == [
        ("Qwen/Qwen3-32B-FP8", "fp8_block"),
        ("nvidia/Qwen3-32B-NVFP4", "nvfp4"),
    ]


# --- without the reference table ----------------------------------------------------------

# Bytes per token in bf16, each by hand; sources: the models' config.json files.
BYTES_PER_TOKEN = {
    "gpt2": 12 * 12 * (64 + 64) * 2,
    "llama2-7b": 32 * 32 * (128 + 128) * 2,  # 524,288
    "llama3.1-70b": 80 * 8 * (128 + 128) * 2,
    "falcon-7b": 32 * 1 * (64 + 64) * 2,
    "deepseek-v3": 61 * (512 + 64) * 2,  # 70,272
    "qwen3.5-27b": 16 * 4 * (256 + 256) * 2,
    "gemma4-26b-a4b": (5 * 2 * 1024 + 25 * 8 * 512) * 2,
    "gemma3n-e4b": 20 * 2 * (256 + 256) * 2,
    "gemma4-e2b": (3 * 1 * 1024 + 12 * 1 * 512) * 2,  # of 35 layers, 20 use others' K and V
    "gemma4-e4b": (4 * 2 * 1024 + 20 * 2 * 512) * 2,
    "granite-4.0-micro": 40 * 8 * (64 + 64) * 2,
    "kimi-k2.5": 61 * (512 + 64) * 2,
    "minimax-m2.7": 62 * 8 * (128 + 128) * 2,
    "qwen3.5-2b": 6 * 2 * (256 + 256) * 2,
    "qwen3.5-35b-a3b": 10 * 2 * (256 + 256) * 2,
    "seed-oss-36b": 64 * 8 * (128 + 128) * 2,
    "nemotron-h-56b": 10 * 8 * (128 + 128) * 2,
    "mimo-v2-flash": (9 * 4 + 39 * 8) * (192 + 128) * 2,
    "glm-z1-rumination-32b": 61 * 8 * (128 + 128) * 2,
}


@pytest.mark.parametrize("name", BYTES_PER_TOKEN)
def test_bytes_per_token(name):
    assert bytes_per_token(find_model(name), BF16) == BYTES_PER_TOKEN[name]


def test_mistral_v01_stops_growing_at_its_window():
    model = find_model("mistral-7b-v0.1")
    assert sequence_bytes(model, BF16, 32768) == sequence_bytes(model, BF16, 4096)


@pytest.mark.parametrize(
    ("name", "state_bytes"),
    [
        ("qwen3-next-80b-a3b", 36 * 2_146_304),
        ("qwen3.5-27b", 48 * 3_207_168),
        ("minimax-text-01", 70 * 64 * 128 * 128 * 4),
    ],
)
def test_state_bytes(name, state_bytes):
    assert fixed_bytes(find_model(name)) == state_bytes


def test_nemotron_h_56b_has_ten_attention_layers():
    model = find_model("nemotron-h-56b")
    assert {g.name: g.count for g in model.layer_groups} == {"mamba2": 54, "mlp": 54, "full": 10}


def test_encoder_only_is_refused_with_the_reason():
    with pytest.raises(UnsupportedError, match="bidirectional attention"):
        find_model("bert-base-uncased")


def test_whisper_has_cross_attention():
    (group,) = find_model("openai/whisper-large-v3").layer_groups
    assert [cache.kind for cache in group.caches] == ["full", "cross"]


# The published count is a name ("27B"), or counts what kvsim does not load.
LOOSE = {
    "deepseek-v4-pro": 0.02,
    "falcon-7b": 0.05,  # 7.22 billion with the tied head a second time
    "gemma4-26b-a4b": 0.02,
    "qwen3.5-2b": 0.11,  # the name leaves out the vision tower, as for 4B and 9B
    "qwen3.5-4b": 0.14,
    "qwen3.5-9b": 0.05,
    "qwen3.5-27b": 0.02,
    "qwen3.6-27b": 0.02,
}


@pytest.mark.parametrize("name", READABLE)
def test_parameter_count_is_near_the_published_one(name):
    """The shape of a model fixes its parameters: a wrong width or count would show here."""
    published = next(m["parameters"] for m in describe_models() if m["name"] == name)
    counted = parameter_count(find_model(name)) / 1e9
    assert counted == pytest.approx(published, rel=LOOSE.get(name, 0.0125))


@pytest.mark.parametrize("name", READABLE)
def test_entry_is_well_formed(name):
    model = find_model(name)
    layers = sorted(layer for group in model.layer_groups for layer in group.layers)
    assert layers == list(range(model.num_layers))
    firsts = [group.layers[0] for group in model.layer_groups]
    assert firsts == sorted(firsts)
    assert len({group.name for group in model.layer_groups}) == len(firsts)
    assert model.source
    assert model.quantization is None or model.quantization in WEIGHT_FORMATS


def test_an_entrys_head_is_what_the_whole_file_says():
    """A lookup reads only the lines above ``config:``."""
    for head in describe_models():
        text = (models._FOLDER / f"{head['name']}.yaml").read_text("utf-8")
        whole = yaml.safe_load(text)
        known = {"name", "hf_id", "aliases", "source", "confidence", "parameters", "published"}
        assert set(whole) <= known | {"other_parameters", "config"}
        assert {key: whole[key] for key in head} == head
        assert head["confidence"] in {"high", "medium"}


# --- names --------------------------------------------------------------------------------


def test_no_spelling_names_two_models():
    index = models._index(dots=True)
    assert {key: names for key, names in index.items() if len(names) > 1} == {}


def test_dots_are_forgiven_only_where_nothing_hangs_on_them():
    assert find_model("opt-13b").num_layers == 40
    assert find_model("opt-1.3b").num_layers == 24
    assert find_model("llama31-8b").name == "llama3.1-8b"
    with pytest.raises(InputError, match=r"opt-1\.3b or opt-13b"):
        find_model("o.pt-13b")


@pytest.mark.parametrize(
    ("spelling", "entry"),
    [
        ("llama2-7b", "llama2-7b"),
        ("Llama_2 7B", "llama2-7b"),
        ("meta-llama/Llama-2-7b-hf", "llama2-7b"),
        ("lmsys/vicuna-7b-v1.5", "llama2-7b"),
        ("META-LLAMA/llama-3.1-8b-instruct", "llama3.1-8b"),
        ("unsloth/Llama-3.2-1B-Instruct", "llama3.2-1b"),
        ("unsloth/Qwen3-4B-Base", "qwen3-4b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek-r1-distill-qwen-7b"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-12b"),
    ],
)
def test_spellings(spelling, entry):
    assert find_model(spelling).name == entry


@pytest.mark.parametrize(
    ("spelling", "base", "weights"),
    [
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama3.3-70b", "fp8"),
        ("unsloth/Llama-3.2-1B-Instruct-FP8-Block", "llama3.2-1b", "fp8_block"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8_block"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w8a8", "llama3.1-70b", "int8"),
        ("unsloth/phi-4-bnb-4bit", "phi-4", "bitsandbytes"),
        ("unsloth/qwen2.5-3b-instruct-unsloth-bnb-4bit", "qwen2.5-3b", "bitsandbytes"),
        ("Qwen/Qwen3-14B-AWQ", "qwen3-14b", "awq"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "llama2-7b", "gptq"),
        ("nvidia/DeepSeek-V3-0324-NVFP4", "deepseek-v3", "nvfp4"),
        ("openai/gpt-oss-20b-BF16", "gpt-oss-20b", None),
    ],
)
def test_a_variant_is_its_base_with_other_weights(spelling, base, weights):
    variant, plain = find_model(spelling), find_model(base)
    assert variant.layer_groups == plain.layer_groups
    assert (variant.name, variant.quantization) == (spelling, weights)
    assert f"{spelling} read as {base}" in variant.source


def test_a_tuning_suffix_is_left_out_and_said_so():
    assert "taking '-instruct' to change no shape" in find_model("phi-4-instruct").source


def test_unknown_names_list_the_nearest():
    with pytest.raises(UnknownNameError, match=r"llama2-7b.*kvsim models"):
        find_model("lama2-7b")


@pytest.mark.parametrize("name", ["llama", "7b", "qwen", "Qwen/Qwen9-5B-FP8", "-fp8"])
def test_a_part_of_a_name_is_no_name(name):
    with pytest.raises(UnknownNameError):
        find_model(name)


def test_an_empty_name_is_refused():
    with pytest.raises(InputError, match="needs a name"):
        find_model("  ")


# --- paths --------------------------------------------------------------------------------

CONFIG = """{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 9,
"num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 32}"""


def test_a_config_and_its_folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG)
    for path in (folder, folder / "config.json", str(folder)):
        assert find_model(path).layer_groups[0].count == 2


def test_a_catalogue_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "llama2-7b").mkdir()
    (tmp_path / "llama2-7b" / "config.json").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    assert find_model("llama2-7b").num_layers == 32
    assert find_model("./llama2-7b").num_layers == 2


def test_a_missing_path_is_named():
    with pytest.raises(InputError, match=r"nowhere/config\.json: no such file"):
        find_model("nowhere/config.json")


@pytest.mark.parametrize(
    "name", ["a" * 5000, "bad\0name", "\ud800", "x" * 300 + ".json", "~nobody-at-all/x"]
)
def test_hostile_names_are_input_errors(name):
    with pytest.raises(InputError):
        find_model(name)
