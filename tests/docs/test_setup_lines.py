"""The lines of the README that install something, and whether CI ran them."""

import os
from pathlib import Path

import pytest
from readme_commands import README, Shown, compare, main, setup_lines

TEXT = README.read_text("utf-8")


@pytest.mark.ci
def test_ci_ran_every_line_that_installs_something():
    ran = Path(os.environ["KVSIM_SETUP_LINES"]).read_text("utf-8").splitlines()
    assert [line for line in setup_lines(TEXT) if line not in ran] == []


def test_the_lines_are_found_in_blocks_and_in_sentences():
    assert setup_lines(
        "Type\n```sh\npip install -e . && kvsim gpus\nkvsim models\n"
        "apt-get install chromium  # a browser\n```\nor `pip install -e\n'.[hub]'`, never `pip`;\n"
        "`pip install -e '.[hub]'`.\n"
        "```console\n$ kvsim study\nno torch: pip install 'kvsim[calibrate]'\n```\n"
    ) == [
        "pip install -e . && kvsim gpus",
        "apt-get install chromium",
        "pip install -e '.[hub]'",
    ]


def test_the_two_commands_are_among_them():
    assert len(setup_lines(TEXT)) > 2
    assert all(line.startswith("pip install -e") for line in setup_lines(TEXT))


@pytest.mark.parametrize(
    ("printed", "wrong"),
    [
        ("Collecting\nfits\nblocks 7\nmore\n", ""),
        ("Collecting\nfits\nblocks 8\nmore\n", "shown: blocks 7\nprinted: blocks 8"),
        ("Collecting\nfits\n", "shown: blocks 7\nprinted: None"),
        ("Collecting\n", "never printed: fits"),
    ],
)
def test_what_was_printed_is_compared_behind_the_installer(printed, wrong):
    assert compare(printed.splitlines(), Shown("kvsim", ("fits", "blocks 7"), cut=True)) == wrong


def test_a_whole_block_admits_nothing_more():
    whole = Shown("kvsim", ("fits",), cut=False)
    assert compare(["fits"], whole) == ""
    assert compare(["fits", "more"], whole) == "shown: None\nprinted: more"


def test_the_command_says_by_its_exit_code_whether_they_agree(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("nothing\n")
    assert main(["compare", str(log)]) == 1
    assert main(["setup"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == setup_lines(TEXT)
