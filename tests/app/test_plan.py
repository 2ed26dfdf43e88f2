"""The Plan page without a browser: what it shows is what `kvsim.plan` says."""

import doctest
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from app.parts import command_line, deployment, flags, uploads, words
from app.state import BadValueError
from kvsim.cli import main as kvsim_command
from tests.support.app_pages import charts, checked, commands, errors, link_of, open_page, warnings

GIB = 2**30

LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}
PROFILE = """
name: Desk-16GB
vendor: somebody
advertised_memory_gb: 16
memory: {value: 15.6 GiB, source: measured}
bandwidth: {value: 3.0e+11, source: datasheet}
flops: {bf16: {value: 5.0e+13, source: datasheet}}
interconnect: {name: none, bytes_per_s: 0}
"""


def metric(app, label):
    (value,) = [each.value for each in app.metric if each.label == label]
    return value


# --- what is shown -----------------------------------------------------------------------------


def test_the_page_shows_the_plan():
    plan = kvsim.plan("llama3.1-8b", "A100-SXM4-80GB")
    app = open_page("plan")
    assert metric(app, "KV cache") == f"{plan.memory.kv_cache_bytes / GIB:,.2f} GiB"
    assert metric(app, "KV bytes per token") == f"{plan.kv_cache.bytes_per_token:,}"
    assert metric(app, "Tokens (engine's log)") == f"{plan.kv_cache.capacity_tokens:,}"
    assert plan.verdict in [done.value.replace("\\", "") for done in app.success]
    assert plan.command in commands(app)


def test_the_bars_of_a_card_add_up_to_its_memory():
    app = open_page("plan", gpu="l4,h200", engine="vllm,sglang")
    bars = [trace for trace in charts(app)[0]["data"] if trace["type"] == "bar"]
    cards = [kvsim.find_accelerator(name) for name in ("l4", "l4", "h200", "h200")]
    for at, card in enumerate(cards):
        total_gib = sum(bar["x"][at] for bar in bars)
        assert total_gib == pytest.approx(card.memory_bytes / GIB, abs=0.02)


def test_every_chosen_dtype_gets_a_line():
    app = open_page("plan", kv="auto,fp8,int8_per_token_head", gpu="a100")
    (figure,) = [each for each in charts(app) if "context of a request" in str(each["layout"])]
    lines = [trace["name"] for trace in figure["data"]]
    assert lines[:3] == ["bf16", "fp8_e4m3", "int8_per_token_head"]
    assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"


def test_the_ridge_is_marked():
    plan = kvsim.plan("llama3.1-8b", "A100-SXM4-80GB")
    figures = [each for each in charts(open_page("plan")) if "ridge" in str(each["data"])]
    (ridge,) = [trace for trace in figures[0]["data"] if "ridge" in trace["name"]]
    assert ridge["y"] == pytest.approx([plan.decode.ridge_point] * 2)


def test_what_does_not_fit_comes_with_what_would():
    plan = kvsim.plan("llama3-70b", "a100")
    app = open_page("plan", model="llama3-70b", gpu="a100")
    assert plan.verdict in errors(app)
    shown = [list(frame.value["flag"]) for frame in app.dataframe if "flag" in frame.value]
    assert shown == [[each.flag for each in plan.suggestions]]
    assert plan.suggestions
    assert len(charts(app)) == 1, "nothing is held, so there is nothing else to draw"


def test_an_engine_that_refuses_says_why_and_the_others_go_on():
    app = open_page("plan", engine="vllm,transformers", block_size=32)
    assert any("transformers" in text and "block-size" in text for text in errors(app))
    assert metric(app, "Blocks x tokens each").endswith("x 32")


def test_another_release_of_the_engine_has_other_rules():
    app = open_page("plan", gpu="a100", model="gpt-oss-20b", version="0.10.1", kv="auto")
    old = kvsim.plan("gpt-oss-20b", "A100-SXM4-80GB", engine_version="0.10.1")
    new = kvsim.plan("gpt-oss-20b", "A100-SXM4-80GB")
    assert old.kv_cache.capacity_tokens != new.kv_cache.capacity_tokens
    assert metric(app, "Tokens (engine's log)") == f"{old.kv_cache.capacity_tokens:,}"
    assert "--engine-version 0.10.1" in commands(app)[-1]
    assert link_of(app)["version"] == "0.10.1"
    unknown = open_page("plan", gpu="a100", version="<b>9</b>")
    assert any("rules are known for releases" in text for text in errors(unknown))


def test_without_a_card_there_is_a_hint():
    app = open_page("plan")
    app.multiselect(key="plan:gpu").set_value([]).run()
    assert "at least one card" in checked(app).info[0].value


def test_looking_closely_at_another_plan():
    app = open_page("plan", gpu="a100,l4")
    app.selectbox(key="plan:look").select("1").run()
    assert metric(checked(app), "KV cache") == (
        f"{kvsim.plan('llama3.1-8b', 'l4').memory.kv_cache_bytes / GIB:,.2f} GiB"
    )
    assert link_of(app)["look"] == "1"


def test_the_command_line_gives_the_same_plan(capsys):
    app = open_page("plan", model="llama2-7b", gpu="a100", tp=2, kv="fp8", max_model_len=2048)
    (line,) = commands(app)[-1].splitlines()
    with pytest.raises(SystemExit) as done:
        kvsim_command([*shlex.split(line)[1:], "--format", "json"])
    assert done.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert metric(app, "Tokens (engine's log)") == f"{answer['kv_cache']['capacity_tokens']:,}"
    assert answer["kv_cache"]["dtype"] == "fp8_e4m3"


# --- the state is in the link --------------------------------------------------------------------


def test_what_is_chosen_is_in_the_link_and_defaults_are_not():
    app = open_page("plan")
    assert link_of(app) == {}
    app.selectbox(key="plan:model").select("llama2-7b").run()
    app.session_state["all flags"] = True
    app.run()
    app.toggle(key="plan:enforce_eager").set_value(True).run()
    assert link_of(checked(app)) == {"model": "llama2-7b", "enforce_eager": "1"}


def test_flags_that_are_folded_away_still_count():
    app = open_page("plan", enforce_eager=1, max_model_len=4096)
    assert [each.key for each in app.toggle] == [], "nothing is drawn in a closed fold"
    for _ in range(2):
        assert "--enforce-eager --max-model-len 4096" in commands(app)[-1]
        assert link_of(app) == {"enforce_eager": "1", "max_model_len": "4096"}
        app.run()
    app.session_state["all flags"] = True
    assert checked(app.run()).number_input(key="plan:max_model_len").value == 4096
    app.number_input(key="plan:max_model_len").set_value(2048).run()
    app.session_state["all flags"] = False
    assert link_of(checked(app.run()))["max_model_len"] == "2048"


def test_a_link_opens_what_it_says():
    app = open_page("plan", model="meta-llama/Llama-2-7b-hf", gpu="h200", tp=2, max_num_seqs=64)
    assert app.selectbox(key="plan:model").value == "llama2-7b"
    assert app.multiselect(key="plan:gpu").value == ["H200-SXM-141GB"]
    assert app.number_input(key="plan:tp").value == 2
    assert "--tensor-parallel-size 2" in commands(app)[-1]
    assert "--max-num-seqs 64" in commands(app)[-1]


def test_coming_back_to_the_page_finds_it_as_it_was():
    app = open_page("plan", model="llama2-7b", tp=2)
    app.query_params.clear()
    app.switch_page("views/learn.py").run()
    app.query_params.clear()
    app.switch_page("views/plan.py").run()
    assert app.selectbox(key="plan:model").value == "llama2-7b"
    assert link_of(checked(app)) == {"model": "llama2-7b", "tp": "2"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", "llama3-8z", "did you mean"),
        ("model", "/etc/passwd", "unknown model"),
        ("model", "hf:somebody/something", "unknown model"),
        ("model", "../app", "unknown model"),
        ("gpu", "a100,nothing", "unknown gpu"),
        ("gpu", "/proc/self/environ", "unknown gpu"),
        ("tp", "two", "not a whole number"),
        ("tp", "0", "not from 1"),
        ("tp", "9" * 400, "not a whole number"),
        ("gpu_memory_utilization", "nan", "not from"),
        ("gpu_memory_utilization", "1e400", "not from"),
        ("enforce_eager", "perhaps", "neither 1 nor 0"),
        ("engine", "<script>alert(1)</script>", "unknown engine"),
        ("modle", "llama2-7b", "did you mean model"),
        ("kv", ",".join(["fp8", "int8", "int4", "fp16", "bf16", "fp32", "q8_0"]), "at most 6"),
    ],
)
def test_a_bad_link_is_told_and_the_default_stands(key, value, said):
    app = open_page("plan", **{key: value})
    assert any(said in text for text in warnings(app)), warnings(app)
    assert app.metric, "the page shows its default"
    assert key not in link_of(app)


def test_a_link_to_somebody_elses_upload_says_so():
    app = open_page("plan", model="uploaded")
    assert any("unknown model 'uploaded'" in text for text in warnings(app))


@pytest.mark.parametrize("field", deployment.FIELDS, ids=lambda field: field.key)
def test_every_default_survives_the_link(field):
    if field.default is not None:
        read = field.parse(field.write(field.default))
        assert (tuple(read) if isinstance(read, list) else read) == field.default


@given(st.text(max_size=40))
def test_no_text_of_a_link_raises_anything_but_a_bad_value(text):
    for field in deployment.FIELDS:
        try:
            value = field.parse(text)
        except BadValueError:
            continue
        assert field.parse(field.write(value)) == value


def test_every_option_of_an_engine_has_a_field():
    options = set(kvsim.plan("llama2-7b", "a100").options)
    assert options - {"kv_cache_dtype"} == set(flags.FLAGS)
    keys = [field.key for field in deployment.FIELDS]
    assert len(keys) == len(set(keys))


# --- uploads -------------------------------------------------------------------------------------


def upload(app, what, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    app.file_uploader(key=f"upload {what}").upload(name, content)
    return checked(app.run())


def test_an_uploaded_config_is_planned_and_stays_with_its_owner():
    app = upload(open_page("plan"), "model", "tiny.json", json.dumps(LLAMA_CONFIG))
    # TinyLlama's shape: 22 layers x 4 KV heads x (64 + 64) elements x 2 bytes
    assert metric(app, "KV bytes per token") == "22,528"
    assert commands(app)[-1].startswith("kvsim plan --model ./tiny.json")
    assert link_of(app)["model"] == "uploaded"
    other = open_page("plan", model="uploaded")
    assert metric(other, "KV bytes per token") == "131,072"


def test_an_uploaded_profile_is_planned():
    app = upload(open_page("plan", model="llama3.2-1b"), "gpu", "desk.yaml", PROFILE)
    bars = [trace for trace in charts(app)[0]["data"] if trace["type"] == "bar"]
    assert bars[0]["y"] == ["Desk-16GB"]
    assert commands(app)[-1].endswith("--gpu ./desk.yaml")


def test_two_uploads_of_one_name_are_two_models():
    app = upload(open_page("plan"), "model", "tiny.json", json.dumps(LLAMA_CONFIG))
    wider = LLAMA_CONFIG | {"num_key_value_heads": 8}
    other = upload(open_page("plan"), "model", "tiny.json", json.dumps(wider))
    assert metric(app, "KV bytes per token") == "22,528"
    assert metric(other, "KV bytes per token") == "45,056"


@pytest.mark.parametrize(
    ("what", "name", "content"),
    [
        ("model", "broken.json", "{"),
        ("model", "list.json", "[1, 2]"),
        ("model", "deep.json", "[" * 100_000),
        ("model", "binary.json", bytes(range(256))),
        ("model", "bert.json", '{"model_type": "bert"}'),
        ("model", "huge.json", json.dumps(LLAMA_CONFIG | {"hidden_size": 10**400})),
        ("gpu", "bomb.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        ("gpu", "code.yaml", "!!python/object/apply:os.system ['true']"),
        ("gpu", "empty.yaml", ""),
    ],
)
def test_a_hostile_file_is_one_line_and_nothing_else(what, name, content):
    app = upload(open_page("plan"), what, name, content)
    (message,) = errors(app)
    assert message.startswith(name)
    assert "/tmp" not in message
    assert "kvsim-upload-" not in message
    assert "\n" not in message
    assert app.metric, "the page still shows its plan"


def test_a_file_is_gone_when_it_has_been_read():
    seen = []

    def read(path):
        seen.append(path)
        return path.read_bytes()

    assert uploads.read_file(b"content", read, "x.json") == b"content"
    assert not seen[0].exists()
    assert not seen[0].parent.exists()


def test_a_large_file_is_refused():
    app = upload(open_page("plan"), "model", "big.json", b" " * (2**20 + 1))
    assert "1,048,577 bytes" in errors(app)[0]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.json", "etc-passwd.json"),
        ("<img src=x onerror=alert(1)>.json", "img-src-x-onerror-alert-1-.json"),
        ("![x](http://example.org/x.png).json", "x-http-example.org-x.png-.json"),
        ("", "upload"),
        ("\x00.json", "json"),
    ],
)
def test_a_name_is_made_harmless(name, safe):
    assert words.safe_name(name) == safe


@given(st.text())
def test_plain_text_has_no_live_punctuation(text):
    escaped = words.plain(text)
    assert escaped.replace("\\\\", "").replace("\\", "") == text.replace("\\", "")
    live = escaped.replace("\\\\", "")
    for mark in "![]()<>`*_:$#|~&":
        assert live.count(mark) == live.count("\\" + mark)


def test_the_examples_in_the_parts_hold():
    for module in (command_line, words):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed
