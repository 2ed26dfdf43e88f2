"""One key for one fact: however it is said there is one answer, and two answers are refused."""

from __future__ import annotations

import pytest
import yaml

from kvsim import InputError, compare, load_scenario, simulate, with_overrides
from kvsim.cli.scenario_options import chosen_scenario
from kvsim.simulator.facts import key_of
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import EngineSpec, MemorySpec, Scenario
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions

BARE = {
    "model": "llama3.1-8b",
    "accelerator": "h100",
    "engine": {"max_model_len": 4096},
    "workload": {
        "arrivals": {"kind": "poisson", "rate": 20},
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 200},
            "output": {"kind": "fixed", "tokens": 60},
        },
        "prefix": {"kind": "groups", "groups": 2, "tokens": 128},
        "requests": 40,
    },
}


@pytest.fixture
def file(tmp_path):
    """Write a scenario: the bare one, with sections changed."""

    def write(**sections):
        path = tmp_path / "mine.yaml"
        content = {**BARE, **sections}
        engine = {**BARE["engine"], **sections.get("engine", {})}
        path.write_text(yaml.safe_dump(content | {"engine": engine}, sort_keys=False))
        return path

    return write


def sections(key, value):
    """What a file says that states a dotted key."""
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def asked(path, *settings, trace=None, **flags):
    """The scenario of a command line."""
    return chosen_scenario(str(path), settings, {**flags, "trace": trace})


def answer(scenario):
    """All that a fact could move."""
    setup = prepare(scenario)
    return (
        setup.num_blocks,
        setup.curve,
        scenario.memory,
        setup.deployment,
        scenario.run,
        simulate(scenario).summary,
    )


# fact: flag, key, another spelling of the key, value, the value of the other spelling
FACTS = {
    "pool": ("num_gpu_blocks_override", "engine.num_gpu_blocks_override", "memory.num_blocks", 300),
    "block": ("block_size", "engine.block_size", "memory.block_size", 32),
    "caching": ("enable_prefix_caching", "engine.enable_prefix_caching", "memory.allocator", True),
    "seqs": ("max_num_seqs", "engine.max_num_seqs", "max-num-seqs", 4),
    "dtype": ("kv_cache_dtype", "engine.kv_cache_dtype", "kv-cache-dtype", "fp8"),
    "engine": ("engine", "engine.name", "engine", "sglang"),
    "version": ("engine_version", "engine.version", "engine-version", "0.10.0"),
    "model": ("model", "model", "model", "qwen3-8b"),
    "gpu": ("gpu", "accelerator", "gpu", "a100"),
    "seed": ("seed", "run.seed", "seed", 5),
    "runs": ("replications", "run.replications", "replications", 2),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_has_one_answer_however_it_is_said(file, fact):
    flag, key, other, value = FACTS[fact]
    said = "prefix" if other == "memory.allocator" else value
    bare = load_scenario(file())
    expected = answer(load_scenario(file(**sections(key, value))))
    told = [
        asked(file(), **{flag: value}),
        asked(file(), f"{key}={value}"),
        asked(file(), f"{flag}={value}"),
        asked(file(), f"{other}={said}"),
        load_scenario(file(), {other: said}),
        with_overrides(bare, {key: value}),
        with_overrides(bare, {flag.replace("_", "-"): value}),
        with_overrides(bare, {other: said}),
    ]
    if "." in other:
        told.append(load_scenario(file(**sections(other, said))))
        told.append(
            bare.model_copy(update={"memory": MemorySpec(**sections(other, said)["memory"])})
        )
    for scenario in told:
        assert answer(scenario) == expected
    assert answer(bare) != expected


@pytest.mark.parametrize("spelling", ["engine", "memory"])
def test_a_scenario_made_in_python_keeps_the_engines_key(spelling):
    made = {
        "engine": {
            "engine": EngineSpec(
                max_model_len=2048,
                num_gpu_blocks_override=90,
                block_size=32,
                enable_prefix_caching=True,
            )
        },
        "memory": {
            "engine": EngineSpec(max_model_len=2048),
            "memory": MemorySpec(num_blocks=90, block_size=32, allocator="prefix"),
        },
    }[spelling]
    scenario = Scenario(
        model="llama3.1-8b",
        accelerator="h100",
        workload=load_scenario("peer-w").workload,
        **made,
    )
    assert scenario.engine.num_gpu_blocks_override == 90
    assert scenario.engine.block_size == 32
    assert scenario.engine.enable_prefix_caching is True
    assert scenario.memory == MemorySpec(allocator="prefix")
    setup = prepare(scenario)
    assert (setup.num_blocks, setup.curve.block_size) == (90 - 1, 32)  # less the null block


@pytest.mark.parametrize(
    "memory", [{"num_blocks": 90, "block_size": 32, "allocator": "prefix"}, {"allocator": "grow"}]
)
def test_what_is_written_down_is_read_again(file, tmp_path, memory):
    first = load_scenario(file(memory=memory))
    (tmp_path / "again.yaml").write_text(first.to_yaml())
    again = load_scenario(tmp_path / "again.yaml", {"name": first.name})
    assert again.to_yaml() == first.to_yaml()
    assert again.model_dump() == first.model_dump()


# --- prefix caching and the memory policy --------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "memory", "override", "allocator", "caching"),
    [
        ({}, {}, {}, "paged", None),
        ({}, {"allocator": "paged"}, {}, "paged", None),
        ({"enable_prefix_caching": False}, {}, {}, "paged", False),
        ({"enable_prefix_caching": False}, {"allocator": "grow"}, {}, "grow", False),
        ({"enable_prefix_caching": True}, {"allocator": "prefix"}, {}, "prefix", True),
        ({}, {"allocator": "grow"}, {"enable_prefix_caching": True}, "prefix", True),
        ({}, {"allocator": "grow"}, {"enable_prefix_caching": False}, "grow", False),
        ({}, {"allocator": "prefix"}, {"enable_prefix_caching": False}, "paged", False),
        ({}, {"allocator": "prefix"}, {"enable_prefix_caching": None}, "paged", None),
        ({"enable_prefix_caching": False}, {}, {"memory.allocator": "prefix"}, "prefix", True),
        ({"enable_prefix_caching": False}, {}, {"memory.allocator": "grow"}, "grow", False),
        ({"enable_prefix_caching": True}, {}, {"memory.allocator": "paged"}, "paged", None),
        ({"enable_prefix_caching": True}, {}, {"memory": {"eviction": "fifo"}}, "prefix", True),
        ({}, {"allocator": "prefix"}, {"memory": {"eviction": "fifo"}}, "prefix", True),
        ({}, {"allocator": "prefix"}, {"engine": {"name": "sglang"}}, "paged", None),
    ],
)
def test_caching_and_the_memory_policy(file, engine, memory, override, allocator, caching):
    path = file(engine=engine, memory=memory)
    before = load_scenario(path)
    for scenario in (load_scenario(path, override), with_overrides(before, override)):
        assert scenario.memory.allocator == allocator
        assert scenario.engine.enable_prefix_caching is caching


# --- layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "file_says", "flags", "settings", "blocks"),
    [
        ("memory.num_blocks", 3700, {"num_gpu_blocks_override": 1000}, (), 1000),
        ("memory.num_blocks", 3700, {}, ("engine.num_gpu_blocks_override=1000",), 1000),
        ("engine.num_gpu_blocks_override", 3700, {}, ("memory.num_blocks=1000",), 1000),
        ("memory.num_blocks", 7, {"num_gpu_blocks_override": 8}, ("memory.num_blocks=9",), 9),
        ("memory.num_blocks", 3700, {}, ("num-gpu-blocks-override=null",), None),
        ("engine.num_gpu_blocks_override", 3700, {}, ("memory.num_blocks=null",), None),
        ("memory.num_blocks", 3700, {}, ("memory={eviction: fifo}",), 3700),
        ("memory.num_blocks", 3700, {}, ("engine={name: vllm}",), None),
        ("memory.num_blocks", 3700, {}, ("memory={num_blocks: null}", "engine={}"), None),
    ],
)
def test_the_last_word_wins(file, key, file_says, flags, settings, blocks):
    path = file(**sections(key, file_says))
    assert asked(path, *settings, **flags).engine.num_gpu_blocks_override == blocks


def test_a_block_size_over_the_files(file):
    path = file(memory={"block_size": 16})
    assert prepare(asked(path, "engine.block_size=32")).curve.block_size == 32
    assert prepare(load_scenario(path, {"block-size": 32})).curve.block_size == 32


def test_flags_give_way_to_settings(file):
    scenario = asked(
        file(), "memory.allocator=grow", "gpu=h200", "seed=7",
        enable_prefix_caching=True, gpu="a100", seed=5,
    )  # fmt: skip
    assert scenario.memory.allocator == "grow"
    assert (scenario.accelerator, scenario.run.seed) == ("h200", 7)


# --- contradictions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "memory", "words"),
    [
        (
            {"num_gpu_blocks_override": 10},
            {"num_blocks": 20},
            "line 23: memory.num_blocks = 20 contradicts"
            " engine.num_gpu_blocks_override = 10 ({path}, line 5)",
        ),
        (
            {"block_size": 16},
            {"block_size": 32},
            "line 23: memory.block_size = 32 contradicts engine.block_size = 16 ({path}, line 5)",
        ),
        (
            {"enable_prefix_caching": False},
            {"allocator": "prefix"},
            "line 23: memory.allocator = 'prefix' contradicts"
            " engine.enable_prefix_caching = False ({path}, line 5)",
        ),
        (
            {"enable_prefix_caching": True},
            {"allocator": "reserve-max"},
            "line 23: memory.allocator = 'reserve-max' contradicts"
            " engine.enable_prefix_caching = True ({path}, line 5)",
        ),
    ],
)
def test_a_file_that_contradicts_itself(file, engine, memory, words):
    path = file(engine=engine, memory=memory)
    with pytest.raises(InputError) as refused:
        load_scenario(path)
    said = str(refused.value)
    assert said == f"{path}, {words.format(path=path)}; leave one of the two out"
    with pytest.raises(InputError, match=r"contradicts .*; leave one of the two out"):
        load_scenario(path, {"workload.requests": 5})
    with pytest.raises(InputError, match="contradicts"):
        Scenario.model_validate(BARE | {"engine": engine, "memory": memory})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("engine.num_gpu_blocks_override=10", "memory.num_blocks=20"),
        ("num-gpu-blocks-override=10", "memory={num_blocks: 20}"),
        ("block_size=16", "memory.block_size=32"),
        ("enable-prefix-caching=true", "memory.allocator=paged"),
        ("max-num-seqs=3", "engine.max_num_seqs=4"),
        ("gpu=a100", "accelerator=h100"),
        ("engine=vllm", "engine.name=sglang"),
    ],
)
def test_settings_that_contradict_each_other(run_kvsim, file, first, second):
    path = str(file())
    for one, other in ((first, second), (second, first)):
        code, out, err = run_kvsim("simulate", path, "--set", one, "--set", other)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"--set {one}" in err
        assert f"--set {other}" in err
        assert "contradicts" in err


def test_the_same_value_in_two_spellings_is_no_contradiction(file):
    both = {
        "memory.num_blocks": 40,
        "num_gpu_blocks_override": 40,
        "gpu": "l4",
        "accelerator": "l4",
    }
    path = file(engine={"block_size": 32}, memory={"block_size": 32})
    scenario = load_scenario(path, both)
    assert (scenario.engine.num_gpu_blocks_override, scenario.engine.block_size) == (40, 32)


def test_a_python_scenario_that_contradicts_itself():
    scenario = load_scenario("peer-w")
    engine = EngineSpec(num_gpu_blocks_override=10)
    words = "memory.num_blocks = 20 contradicts engine.num_gpu_blocks_override = 10"
    with pytest.raises(InputError, match=words):
        Scenario(
            model="llama3.1-8b",
            accelerator="h100",
            workload=scenario.workload,
            engine=engine,
            memory=MemorySpec(num_blocks=20),
        )
    with pytest.raises(InputError, match=words):
        scenario.model_copy(update={"engine": engine, "memory": MemorySpec(num_blocks=20)})


# --- where it was said ---------------------------------------------------------------------


def test_where_names_the_spelling_that_was_given(file):
    path = file(memory={"num_blocks": 40, "allocator": "prefix"})
    scenario = load_scenario(path)
    for key in ("engine.num_gpu_blocks_override", "memory.num_blocks"):
        assert scenario.where(key) == f"{path}, line 22: memory.num_blocks"
    assert scenario.where("engine.enable_prefix_caching") == f"{path}, line 23: memory.allocator"
    changed = with_overrides(scenario, {"num-gpu-blocks-override": 50})
    assert changed.where("engine.num_gpu_blocks_override").endswith("blocks-override=50")
    assert changed.where("memory.num_blocks").endswith("blocks-override=50")
    uncached = with_overrides(scenario, {"enable_prefix_caching": False})
    assert uncached.where("memory.allocator") == "override enable_prefix_caching=False"


def test_a_block_that_the_engine_lacks_is_placed_where_it_was_said(file):
    path = file(memory={"block_size": 20})
    with pytest.raises(InputError, match=r"line 22: memory.block_size: vLLM has no blocks of 20"):
        prepare(load_scenario(path))


def test_a_flag_that_another_engine_lacks_is_placed_where_it_was_said(file):
    path = file(memory={"block_size": 16})
    with pytest.raises(InputError, match=r"line 22: memory.block_size: llama.cpp has no option"):
        prepare(load_scenario(path, {"engine": "llama.cpp"}))


# --- names of flags ------------------------------------------------------------------------


def test_no_flag_hides_a_section():
    assert not Scenario.model_fields.keys() & set(defaults(EngineOptions))
    assert all(key_of(name) == f"engine.{name}" for name in defaults(EngineOptions))


@pytest.mark.parametrize(
    ("name", "near"),
    [("max-num-seq", "max_num_seqs"), ("gpus", "gpu"), ("acelerator", "accelerator")],
)
def test_an_unknown_name_has_its_nearest_among_both(name, near):
    with pytest.raises(InputError, match=f"override {name}=1: .*nearest valid: .*{near}"):
        load_scenario("peer-w", {name: 1})


def test_engines_and_cards_are_compared_by_the_names_of_their_flags(run_kvsim):
    short = ("azure-conversation", "--set", "workload.requests=20")
    code, out, _ = run_kvsim("compare", *short, "--vary", "engine=vllm,sglang,tensorrt-llm")
    assert code == 0
    assert out.splitlines()[1].split() == ["engine", "vllm", "sglang", "tensorrt-llm"]
    scenario = load_scenario("azure-conversation", {"workload.requests": 20})
    found = compare(scenario, {"gpu": ["a100", "h100"], "max-num-seqs": [8]})
    assert [variant.label for variant in found.variants] == ["a100, 8", "h100, 8"]
    record = found.to_dict()["variants"][1]
    assert record["overrides"] == {"gpu": "h100", "max-num-seqs": 8}
    plain = compare(scenario, {"accelerator": ["a100", "h100"], "engine.max_num_seqs": [8]})
    assert [v.runs.summary for v in found.variants] == [v.runs.summary for v in plain.variants]


@pytest.mark.parametrize(
    "vary",
    [
        {"gpu": ["a100", "h100"], "accelerator": ["l4"]},
        {"max-num-seqs": [8, 16], "engine.max_num_seqs": [32]},
        {"num_gpu_blocks_override": [80, 90], "memory.num_blocks": [80]},
    ],
)
def test_a_fact_is_varied_under_one_name(vary):
    first, second = vary
    with pytest.raises(InputError, match=f"vary {second}: varied twice: {first} is the same"):
        compare(load_scenario("peer-w"), vary)


def test_a_seed_beside_varied_seeds_gives_way():
    scenario = load_scenario("peer-w", {"workload.requests": 20})
    found = compare(scenario, {"seed": [1, 2]}, seed=5)
    assert [variant.runs.first.recording.seed for variant in found.variants] == [1, 2]


# ---- flags' names in a file ---------------------------------------------------------------


SHORT = """
question: flags
model: llama3.1-8b
{lines}
workload:
  arrivals: {{kind: poisson, rate: 2}}
  lengths: {{prompt: {{kind: fixed, tokens: 100}}, output: {{kind: fixed, tokens: 10}}}}
  requests: 5
"""


def short_file(folder, *lines):
    path = folder / "short.yaml"
    path.write_text(SHORT.format(lines="\n".join(lines)))
    return path


def test_a_file_may_call_keys_by_their_flags(tmp_path):
    said = load_scenario(short_file(tmp_path, "gpu: h100", "engine: sglang", "max_model_len: 4096"))
    assert (said.accelerator, said.engine.name, said.engine.max_model_len) == (
        "h100", "sglang", 4096
    )  # fmt: skip


def test_a_flag_in_a_file_that_its_section_contradicts_is_refused(tmp_path):
    path = short_file(tmp_path, "gpu: h100", "accelerator: a100")
    with pytest.raises(InputError, match="gpu = 'h100' contradicts accelerator = 'a100'"):
        load_scenario(path)


@pytest.mark.parametrize("section", ["engine", "memory"])
@pytest.mark.parametrize("given", [None, 5, "paged", []])
def test_a_copy_with_a_section_that_is_none_is_refused(section, given):
    with pytest.raises(InputError, match=f"{section} = .*: should be a mapping"):
        load_scenario("peer-w").model_copy(update={section: given})


@pytest.mark.parametrize("given", [{"num_blocks": -1}, {"blocks": 5}])
def test_a_copy_with_a_wrong_value_says_which(given):
    (key,) = given
    with pytest.raises(InputError, match=key):
        load_scenario("peer-w").model_copy(update={"memory": given})


def test_blocks_too_large_to_count_are_refused():
    huge = with_overrides(load_scenario("peer-w"), {"block_size": 16 * 10**11})
    with pytest.raises(InputError, match="too large to simulate; choose at most 1,048,576"):
        prepare(huge)


def test_counts_are_read_as_flags_read_them():
    said = load_scenario("peer-w", {"max_model_len": "8k", "kv_cache_memory_bytes": "20GiB"})
    assert (said.engine.max_model_len, said.engine.kv_cache_memory_bytes) == (8000, 20 * 2**30)
