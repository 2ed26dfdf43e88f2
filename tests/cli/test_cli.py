"""The command line: what goes to stdout, what to stderr, and with which exit code."""

import csv
import gc
import io
import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import kvsim.cli
from kvsim import Plan, accelerator_names, model_names, plan
from kvsim.cli import COMMANDS, cli
from kvsim.cli.options import COUNT, FRACTION, SIZE
from kvsim.cli.render import Bar, Part, Section, Table, emit, flatten
from kvsim.errors import InvariantError
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions

PLAN = ("plan", "--model", "llama2-7b", "--gpu", "a100")


@pytest.fixture
def run(run_kvsim, monkeypatch):
    """Run kvsim on a terminal of 80 columns: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "80")
    return run_kvsim


# --- the group -----------------------------------------------------------------------------


def test_help_lists_every_command_of_the_table(run):
    code, out, _ = run("--help")
    assert code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in out
        assert line in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name):
    command = cli.get_command(click.Context(cli), name)
    assert command.name == name
    assert command.help


def test_version(run):
    assert run("--version") == (0, f"kvsim {kvsim.__version__}\n", "")


def test_an_unknown_command_offers_its_neighbours(run):
    code, out, err = run("pln")
    assert (code, out) == (2, "")
    assert "did you mean plan" in err


def test_module_and_script_are_the_same(run):
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run("--version")[1]


# --- plan ----------------------------------------------------------------------------------

SECTIONS = (
    "Warnings",
    "Where the memory goes",
    "What the KV cache keeps of a sequence",
    "Capacity in tokens",
    "Blocks",
    "Concurrent requests",
    "Contiguous reservation against paging",
    "Decode at 2,048 tokens",
    "Keeping less",
    "Launch",
    "Where the numbers come from",
)


def test_plan_prints_every_section_in_eighty_columns(run):
    code, out, err = run(*PLAN)
    assert (code, err) == (0, "")
    positions = [out.index(f"\n{title}") for title in SECTIONS]
    assert positions == sorted(positions)
    assert "524,288 bytes per token" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines())
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("regime", ["admission", "steady", "all full"])
def test_every_regime_is_labelled(run, regime):
    assert f"\n  {regime} " in run(*PLAN)[1]


def test_a_pipe_gets_no_colours():
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", *PLAN], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout


def test_json_is_the_python_answer(run):
    code, out, _ = run(*PLAN, "--format", "json")
    assert code == 0
    assert Plan.from_dict(json.loads(out)) == plan("llama2-7b", "a100")


def test_csv_holds_the_same_leaves(run):
    rows = dict(csv.reader(io.StringIO(run(*PLAN, "--format", "csv")[1])))
    assert rows.pop("key") == "value"
    assert rows == dict(flatten(plan("llama2-7b", "a100").to_dict()))
    assert rows["kv_cache.bytes_per_token"] == "524288"


def test_markdown_tables_are_rectangular(run):
    out = run(*PLAN, "--format", "markdown")[1]
    tables = [block for block in out.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6
    for table in tables:
        widths = {len(row.split("|")) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_a_plan_that_does_not_fit_is_an_answer(run):
    code, out, err = run("plan", "--model", "llama3.1-70b", "--gpu", "h100")
    assert (code, err) == (0, "")
    assert "DOES NOT FIT" in out
    assert re.search(r"KV cache +over by [\d,.]+ GiB\n", out)  # no share of what is owed
    assert "-" not in re.findall(r"KV cache .*", out)[0]
    assert "--tensor-parallel-size" in out


def test_engine_all_prints_columns_and_refusals(run):
    code, out, _ = run(*PLAN, "--engine", "all", "--max-num-batched-tokens", "8k", "--swa-full")
    assert code == 0
    assert "engine by engine" in out
    assert "Engines that cannot" in out
    assert "vllm has no option like --swa-full" in " ".join(out.split())


@pytest.mark.parametrize("output_format", ["json", "markdown", "csv"])
def test_engine_all_in_every_format(run, output_format):
    code, out, _ = run(*PLAN, "--engine", "all", "--format", output_format)
    assert code == 0
    assert "sglang" in out


def test_long_and_short_flags_are_one(run):
    short = run(*PLAN, "--tp", "2", "--pp", "2", "--dp", "2", "--format", "json")
    long = run(
        *PLAN,
        *("--tensor-parallel-size", "2"),
        *("--pipeline-parallel-size", "2"),
        *("--data-parallel-size", "2"),
        *("--format", "json"),
    )
    assert short == long
    assert json.loads(short[1])["parallelism"] == {"tp": 2, "pp": 2, "dp": 2}


def test_every_engine_option_has_a_flag():
    flags = {option.name for option in cli.get_command(click.Context(cli), "plan").params}
    assert set(defaults(EngineOptions)) <= flags


@pytest.mark.parametrize("words", [PLAN, ("explain", "llama2-7b")])
def test_no_option_comes_from_the_environment(run, monkeypatch, words):
    """What is answered is what was typed: every flag of a command is set to nonsense here."""
    before = run(*words)
    command = cli.get_command(click.Context(cli), words[0])
    for option in command.params:
        monkeypatch.setenv(f"KVSIM_{words[0]}_{option.name}".upper(), "nonsense")
    assert before[0] == 0
    assert run(*words) == before


# --- bad input: one line, exit 2 -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("plan",), "--model"),
        ((*PLAN, "--gpu-memory-utilization", "nan"), "above 0 and at most 1"),
        ((*PLAN, "--gpu-memory-utilization", "1.5"), "above 0 and at most 1"),
        ((*PLAN, "--gpu-memory-utilization", "0"), "above 0 and at most 1"),
        ((*PLAN, "--gpu-memory-utilization", "ninety"), "above 0 and at most 1"),
        ((*PLAN, "--max-model-len", "0"), "whole number from 1"),
        ((*PLAN, "--max-model-len", "-1"), "whole number from 1"),
        ((*PLAN, "--max-model-len", "1" + "0" * 40), "whole number from 1"),
        ((*PLAN, "--max-model-len", "4096.5"), "whole number from 1"),
        ((*PLAN, "--kv-cache-memory-bytes", "20 parsecs"), "is not a size"),
        ((*PLAN, "--kv-cache-memory-bytes", "-1"), "is not a size"),
        ((*PLAN, "--kv-cache-memory-bytes", "0"), "is not a size"),
        ((*PLAN, "--kv-cache-memory-bytes", "inf"), "is not a size"),
        ((*PLAN, "--kv-cache-memory-bytes", "1e300"), "is not a size"),
        ((*PLAN, "--tp", "3"), "cannot be split over tp=3"),
        ((*PLAN, "--context-len", "5000"), "exceed max_model_len"),
        ((*PLAN, "--engine", "vlm"), "did you mean vllm"),
        ((*PLAN, "--engine-version", "one"), "--engine-version"),
        ((*PLAN, "--engine", "all", "--engine-version", "0.9"), "belongs to one engine"),
        ((*PLAN, "--swa-full"), "no option like --swa-full"),
        ((*PLAN, "--format", "yaml"), "--format"),
        ((*PLAN, "--gpuu", "x"), "--gpu"),
        (("plan", "--model", "llama2-7", "--gpu", "a100"), "did you mean llama2-7b"),
        (("plan", "--model", "llama2-7b", "--gpu", "b100"), "did you mean"),
        (("plan", "--model", "bert-base-uncased", "--gpu", "a100"), "bidirectional"),
        (("plan", "--model", "/nowhere/config.json", "--gpu", "a100"), "/nowhere"),
        (("explain", "llama2-7b", "--kv-cache-dtype", "fp7"), "fp8"),
        (("explain", "llama2-7b", "--tp", "5"), "tp=5"),
        (("models", "nonesuch"), "nonesuch"),
        (("gpus", "nonesuch"), "nonesuch"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, words, complaint):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert err.startswith("kvsim")


LONG = "x" * 5000


@pytest.mark.parametrize(
    "words",
    [
        (*PLAN, "--engine", "all", "--kv-cache-dtype-v", "q8_0", "--swa-full", "--enable-lora"),
        (*PLAN, "--engine", "all", "--tp", "3", "--swa-full", "--enable-dp-attention"),
        (*PLAN, "--engine", LONG),
        (*PLAN, "--dtype", LONG),
        (*PLAN, "--max-model-len", LONG),
        (*PLAN, "--retention", LONG),
        (*PLAN, f"--{LONG}"),
        (*PLAN, LONG),
        (LONG,),
        ("explain", LONG),
        ("gpus", LONG),
        ("simulate", LONG),
        ("simulate", "peer-w", "--set", f"{LONG}=1"),
        ("simulate", "peer-w", "--set", f"memory.allocator={LONG}"),
        ("simulate", "peer-w", "--set", f"scheduler={{a: [{LONG}]}}"),
        ("simulate", "peer-w", "--trace", LONG),
        ("simulate", "peer-w", "--output-dir", LONG),
        ("simulate", "peer-w", "--report", f"{LONG}.html"),
        (*PLAN, "--report", f"{LONG}.html"),
        ("simulate", "peer-w", "--output-dir", "a" * 256),
        ("simulate", "a" * 400),
        ("simulate", "a/" * 400),
        (*PLAN[:3], "--gpu", "a" * 400),
        ("plan", "--model", "a" * 400, "--gpu", "a100"),
        ("compare", "peer-w", "--vary", f"memory.allocator={','.join('abcdefghijkl')},{LONG}"),
        ("trace", "stats", LONG),
        ("trace", "convert", LONG, LONG, "--to", "vidur"),
        ("trace", "convert", __file__, LONG, "--to", "vidur"),
        ("validate", "--scenario", LONG),
        ("validate", "--profile", LONG),
        ("validate", "--engine-log", LONG, "--profile", "h100"),
        ("validate", "--bench", LONG, "--scenario", "peer-w"),
        ("calibrate", "-o", f"{LONG}.yaml", "--device", "cpu"),
        ("calibrate", "fit", "--gpu", "a100", "--rows", LONG),
        ("calibrate", "fit", "--gpu", "a100", "--tables", LONG),
    ],
)
def test_a_refusal_is_one_line_of_a_few_hundred_characters(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert 30 < len(err) < 600


def test_a_bug_exits_70(run, monkeypatch):
    def broken(*args, **options):
        raise InvariantError("free + held != total")

    monkeypatch.setattr("kvsim.planning.planner.plan", broken)
    assert run(*PLAN) == (70, "", "kvsim: free + held != total\n")


def test_an_interrupt_exits_130(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.planning.planner.plan", interrupted)
    code, out, err = run(*PLAN)
    assert (code, out) == (130, "")
    assert err.split() == ["kvsim:", "interrupted"]


# --- the types of options --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("32k", 32_000), ("32K", 32_768), ("1_000", 1000), ("1m", 10**6)]
)
def test_counts_read_as_in_vllm(text, number):
    """vLLM's human-readable integers: k is 10**3 and K is 2**10."""
    assert COUNT.convert(text, None, None) == number


def test_fractions_and_sizes():
    assert FRACTION.convert("0.9", None, None) == 0.9
    assert SIZE.convert("20GiB", None, None) == 20 * 2**30
    assert SIZE.convert("20GB", None, None) == 20 * 10**9


# --- lists and explanations ------------------------------------------------------------------


def test_gpus_lists_every_accelerator(run):
    content = json.loads(run("gpus", "--format", "json")[1])
    assert [row["name"] for row in content] == accelerator_names()


def test_gpus_takes_a_pattern(run):
    out = run("gpus", "a100")[1]
    assert out.startswith("4 accelerators")
    assert "A100-SXM4-40GB" in out
    assert "H100" not in out


def test_models_lists_every_model_by_any_name(run):
    rows = list(csv.DictReader(io.StringIO(run("models", "--format", "csv")[1])))
    assert [row["name"] for row in rows] == model_names()
    assert "llama3.1-8b" in run("models", "meta-llama/")[1]


def test_explain_substitutes_the_numbers(run):
    code, out, _ = run("explain", "llama2-7b")
    assert code == 0
    product = "32 layers x 32 KV heads x (128 + 128) x 2 bytes"
    assert f"{product} = 524,288 bytes per token" in " ".join(out.split())
    assert "Every regime: a sequence of 4,096 tokens keeps 2 GiB" in out


def test_explain_takes_dtype_context_and_tp(run):
    words = ("--kv-cache-dtype", "fp8", "--context-len", "1k", "--tp", "2", "--format", "json")
    content = json.loads(run("explain", "llama3.1-8b", *words)[1])
    assert content["kv_cache_dtype"] == "fp8_e4m3"
    assert content["context_bytes"] == 1000 * 32 * 4 * (128 + 128)


# --- rendering -----------------------------------------------------------------------------


@pytest.mark.parametrize("amounts", [(1, 1, 1), (0, 0, 5), (1, 10**9, 1), (3, 0, 4), (0, 0, 0)])
def test_a_bar_is_as_long_as_it_should_be(amounts):
    widths = Bar(tuple(Part(str(n), n, "") for n in amounts)).widths(72)
    assert sum(widths) == (72 if any(amounts) else 0)
    assert all(n or not width for n, width in zip(amounts, widths, strict=True))


def test_a_table_aligns_numbers_right_and_wraps_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    numbers = Table(("name", "count"), (("a", "1"), ("bb", "1,000")))
    words = Table(("name", "why"), (("a", "because it is so and was always so"),), words=True)

    @click.command()
    def show():
        emit([Section("T", (numbers, words))], None, "table")

    assert CliRunner().invoke(show).output.splitlines() == [
        "T",
        "  name   count",
        "  a          1",
        "  bb     1,000",
        "  name   why",
        "  a      because it is so and was always",
        "         so",
    ]


def commands(group, words=()):
    """Every command under a group that answers, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*words, name))
        if not isinstance(found, click.Group) or found.invoke_without_command:
            yield (*words, name), found


def test_every_command_answers_in_json():
    """But those whose answer is not data: a page in the browser, a line for the shell."""
    silent = {
        words
        for words, found in commands(cli)
        if not any(
            option.name == "output_format" and "json" in option.type.choices
            for option in found.params
        )
    }
    assert silent == {("dashboard",), ("completion",)}


def test_only_a_process_of_its_own_changes_the_collector(run_kvsim):
    """Who calls `main` with words has a process that goes on."""
    before = gc.get_threshold(), gc.get_freeze_count()
    assert run_kvsim("gpus")[0] == 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    code = """import gc, kvsim.cli
try:
    kvsim.cli.main()
except SystemExit:
    print(gc.get_threshold()[0], gc.get_freeze_count())"""
    words = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    threshold, frozen = map(int, done.stdout.split()[-2:])
    assert threshold > before[0][0]
    assert frozen > 10_000
