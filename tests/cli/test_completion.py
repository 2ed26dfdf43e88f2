"""Shell completion: names of models, cards and engines, and the line that switches it on."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kvsim import accelerator_names, model_names
from kvsim.cli import cli
from kvsim.engines import ENGINE_NAMES


def complete(line):
    """Ask as bash does: the words before the cursor, the last one unfinished."""
    words = line.split(" ")
    environment = {
        "_KVSIM_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    answer = CliRunner().invoke(cli, prog_name="kvsim", env=environment)
    return [row.split(",", 1)[1] for row in answer.output.splitlines()]


def test_commands_complete():
    assert complete("kvsim pl") == ["plan"]


def test_models_complete():
    offered = complete("kvsim plan --model llama2")
    assert offered == [name for name in model_names() if name.startswith("llama2")]
    assert "llama2-7b" in offered


def test_models_of_explain_complete():
    assert "gpt-oss-20b" in complete("kvsim explain gpt-o")


def test_a_path_is_left_to_the_shell():
    assert complete("kvsim plan --model ./mod") == ["./mod"]


def test_accelerators_complete_in_any_case():
    offered = complete("kvsim plan --gpu h100")
    assert offered == [name for name in accelerator_names() if name.startswith("H100")]


def test_engines_complete():
    assert complete("kvsim plan --engine ") == [*ENGINE_NAMES, "all"]


@pytest.mark.parametrize("line", ["scenarios", "simulate", "compare", "simulate --workload"])
def test_scenarios_complete(line):
    assert complete(f"kvsim {line} peer") == ["peer-w"]


def test_examples_of_traces_complete():
    assert complete("kvsim cache-curve conv") == ["conversations"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_names_the_shell(shell):
    answer = CliRunner().invoke(cli, ["completion", shell])
    assert answer.exit_code == 0
    assert f"_KVSIM_COMPLETE={shell}_source kvsim" in answer.output


def test_bash_accepts_the_script():
    environment = os.environ | {"_KVSIM_COMPLETE": "bash_source"}
    done = subprocess.run(
        [sys.executable, "-c", "from kvsim.cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o nosort -F _kvsim_completion kvsim" in done.stdout
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
