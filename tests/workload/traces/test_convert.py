"""Conversion keeps what the target can say; the command line shows and converts."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kvsim.cli.trace import command
from kvsim.errors import InputError, UnsupportedError
from kvsim.studies.cache.policies import hit_ratio
from kvsim.workload.traces import open_trace
from kvsim.workload.traces.convert import ConvertInterrupted, convert_trace

ROWS = [
    {"timestamp": 0, "input_length": 1300, "output_length": 500, "hash_ids": [0, 1, 2]},
    {"timestamp": 1500, "input_length": 1024, "output_length": 5, "hash_ids": [0, 3]},
    {"timestamp": 1500, "input_length": 40, "output_length": 0, "hash_ids": [4]},
]


@pytest.fixture
def mooncake(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


def rows_of(path):
    trace = open_trace(path)
    reading = trace.reading()
    return [row[1:] for row in trace.rows(reading)], reading.hash_block_size


def test_there_and_back_is_the_same_bytes(mooncake, tmp_path):
    ours, back = tmp_path / "ours", tmp_path / "back"
    report = convert_trace(mooncake, ours, "kvsim")
    assert report.lines() == ["1 row dropped: no output token"]
    assert rows_of(ours) == rows_of(mooncake)
    convert_trace(ours, back, "mooncake")
    assert back.read_text() == "".join(f"{json.dumps(row)}\n" for row in ROWS[:2])


def test_vidur_keeps_times_and_lengths(mooncake, tmp_path):
    convert_trace(mooncake, tmp_path / "v.csv", "vidur")
    assert (tmp_path / "v.csv").read_text().splitlines() == [
        "arrived_at,num_prefill_tokens,num_decode_tokens",
        "0.0,1300,500",
        "1.5,1024,5",
    ]


def test_finer_identities_become_blocks_of_512(tmp_path):
    """Two prompts of 1,040 tokens that share 700: one block of 512, not two."""
    shared, path = list(range(43)), tmp_path / "fine.jsonl"
    keys = ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids")
    rows = [
        dict(zip(keys, (chat, -1, 0, 1040, 3, shared + list(range(own, own + 22))), strict=True))
        for chat, own in ((0, 100), (1, 200))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    convert_trace(path, tmp_path / "m", "mooncake")
    found, _ = rows_of(tmp_path / "m")
    assert [list(row[3]) for row in found] == [[0, 1, 2], [0, 3, 4]]


def test_no_identities_become_identities_that_nobody_shares(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1000,1\n1,1000,1\n")
    convert_trace(path, tmp_path / "m", "mooncake")
    found, _ = rows_of(tmp_path / "m")
    assert hit_ratio([row[3] for row in found], None) == 0.0
    assert [len(row[3]) for row in found] == [2, 2]


def test_conversations_are_written_at_their_recorded_times(tmp_path):
    turn = {"type": "n", "hash_ids": [1], "think_time": 5, "in": 70}
    talk = {"block_size": 64, "hash_id_scope": "local"}
    talks = [
        {**talk, "requests": [{**turn, "t": 0, "out": 3}, {**turn, "t": 20, "out": 0}]},
        {**talk, "requests": [{**turn, "t": 10, "out": 4}]},
    ]
    (tmp_path / "w").write_text("\n".join(map(json.dumps, talks)))
    report = convert_trace(tmp_path / "w", tmp_path / "k", "kvsim")
    found, size = rows_of(tmp_path / "k")
    assert size == 64
    assert [row[:3] for row in found] == [(0.0, 70, 3), (10.0, 70, 4), (20.0, 70, 1)]
    assert found[0][3] == found[2][3] != found[1][3]
    assert report.notes == {"no output token; written with one": 1}


def test_what_has_no_arrivals_cannot_be_converted(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n1,2\n")
    with pytest.raises(UnsupportedError, match="no requests with arrival times"):
        convert_trace(path, tmp_path / "x", "vidur")
    assert not (tmp_path / "x").exists()


def test_a_failure_leaves_no_file_and_the_old_one_alone(mooncake, tmp_path):
    with mooncake.open("a") as file:
        file.write('{"timestamp": 0, "input_length": 5, "output_length": 1}\n')
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(InputError, match="goes back"):
        convert_trace(mooncake, target, "kvsim")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "out"]
    with pytest.raises(InputError, match="its folder does not exist"):
        convert_trace(mooncake, tmp_path / "no" / "x", "kvsim")


@pytest.fixture
def interrupted(mooncake, monkeypatch):
    """Press Ctrl-C when the third row is asked for."""
    from kvsim.workload.traces import convert

    whole = convert._rows

    def rows(trace, reading):
        yield from whole(trace, reading)
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "_rows", rows)
    return mooncake


@pytest.mark.parametrize("to", ["kvsim", "vidur", "mooncake"])
def test_ctrl_c_keeps_whole_lines_beside_the_old_file(interrupted, tmp_path, to):
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(ConvertInterrupted) as cut:
        convert_trace(interrupted, target, to)
    assert cut.value.requests == 2
    assert re.fullmatch(r"out\.\w+\.partial", cut.value.partial.name)
    rows, _ = rows_of(cut.value.partial)
    assert [row[1:3] for row in rows] == [(1300, 500), (1024, 5)]
    assert target.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", "out", cut.value.partial.name}


def test_ctrl_c_before_the_first_line_leaves_nothing(mooncake, tmp_path, monkeypatch):
    def rows(trace, reading):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("kvsim.workload.traces.convert._rows", rows)
    with pytest.raises(KeyboardInterrupt):
        convert_trace(mooncake, tmp_path / "out", "kvsim")
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_convert_command_says_what_an_interrupt_left(interrupted, tmp_path):
    target = str(tmp_path / "out")
    shown = CliRunner().invoke(command, ["convert", str(interrupted), target, "--to", "vidur"])
    assert shown.exit_code == 130
    (kept,) = tmp_path.glob("out.*.partial")
    assert f"interrupted: 2 requests are in {kept}; {target} was not written" in shown.stderr


def test_two_interrupted_conversions_to_one_target_are_both_kept(interrupted, tmp_path):
    kept = set()
    for to in ("vidur", "mooncake"):
        with pytest.raises(ConvertInterrupted) as cut:
            convert_trace(interrupted, tmp_path / "out", to)
        kept.add(cut.value.partial)
    assert kept == set(tmp_path.glob("out.*.partial"))
    assert len(kept) == 2


def test_a_conversion_amid_another_to_the_same_target_is_its_own(mooncake, tmp_path, monkeypatch):
    from kvsim.workload.traces import convert

    whole, target = convert._rows, tmp_path / "out"

    def rows(trace, reading):
        monkeypatch.setattr(convert, "_rows", whole)
        first, *rest = whole(trace, reading)
        yield first
        convert_trace(mooncake, target, "mooncake")
        assert target.read_text().startswith("{")
        yield from rest

    monkeypatch.setattr(convert, "_rows", rows)
    convert_trace(mooncake, target, "vidur")
    assert rows_of(target)[0][0][1] == 1300
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", "out"}


SIGNALLED = """
import os, signal, sys
from kvsim.cli import main
from kvsim.workload.traces import convert

whole = convert._rows
def rows(trace, reading):
    yield from whole(trace, reading)
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal was not raised where it came")
convert._rows = rows

main(["trace", "convert", *sys.argv[1:], "--to", "vidur"])
"""


def test_convert_command_tells_text_and_json(mooncake, tmp_path):
    with mooncake.open("a") as file:
        file.write('{"timestamp": 1, "timestamp": 2, "input_length": 4, "output_length": 1}\n')
    words = ["convert", str(mooncake), str(tmp_path / "out"), "--to", "vidur"]
    shown = CliRunner().invoke(command, words)
    assert shown.stdout == f"{tmp_path / 'out'}: 2 requests as vidur, read as mooncake\n"
    assert "line 4: the key 'timestamp' is given twice" in shown.stderr

    said = json.loads(CliRunner().invoke(command, [*words, "--format", "json"]).stdout)
    assert (said["file"], said["format"]) == (str(tmp_path / "out"), "vidur")
    assert said["read"]["examples"] == [{"line": 4, "reason": "the key 'timestamp' is given twice"}]
    assert (said["read"]["rows"], said["read"]["malformed"]) == (2, 1)


def test_what_a_format_has_no_place_for_is_counted(tmp_path):
    row = {"arrival_seconds": 0.0, "prompt_tokens": 32, "output_tokens": 2, "session": 3}
    rows = [row | {"block_ids": [1, 2]}, row | {"block_ids": [1, 4]}, row]
    source = tmp_path / "s.jsonl"
    header = {"schema": "kvsim-trace/1", "hash_block_size": 16}
    source.write_text("".join(f"{json.dumps(each)}\n" for each in (header, *rows)))

    def noted(to):
        return dict(convert_trace(source, tmp_path / "out", to).notes)

    assert noted("kvsim") == {}
    assert noted("vidur") == {
        "vidur has no place for prefix, session": 2,
        "vidur has no place for session": 1,
    }
    assert noted("mooncake") == {
        "mooncake has no place for session": 3,
        "blocks of 16 tokens became blocks of 512": 2,
    }


def test_sigterm_keeps_what_is_written(mooncake, tmp_path):
    command = [sys.executable, "-c", SIGNALLED, str(mooncake), str(tmp_path / "out")]
    left = subprocess.run(command, capture_output=True, text=True, check=False)
    assert left.returncode == 143
    (kept,) = tmp_path.glob("out.*.partial")
    assert f"interrupted: 2 requests are in {kept}" in left.stderr
    assert len(kept.read_text().splitlines()) == 3


def test_a_link_stays_a_link_and_a_pipe_a_pipe(mooncake, tmp_path):
    import os

    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    convert_trace(mooncake, tmp_path / "link", "vidur")
    assert (tmp_path / "link").is_symlink()
    assert rows_of(tmp_path / "real")[0][0][1] == 1300

    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    convert_trace(mooncake, tmp_path / "pipe", "vidur")
    assert os.read(reader, 10_000).decode() == (tmp_path / "real").read_text()
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_stats_command_tells_table_and_json(mooncake):
    shown = CliRunner().invoke(command, ["stats", str(mooncake)])
    assert shown.exit_code == 0, shown.output
    assert "m.jsonl: 2 requests, mooncake" in shown.output
    assert "1 row dropped: no output token" in shown.output
    told = json.loads(
        CliRunner().invoke(command, ["stats", str(mooncake), "--format", "json"]).output
    )
    assert told["sharing"]["hit_ratio_blocks"] == pytest.approx(1 / 5)
    assert told["prompt_tokens"]["mean"] == 1162.0
    assert told["arrivals"]["requests_per_second"] == pytest.approx(1 / 1.5)
    assert told["report"]["dropped"] == {"no output token": 1}


def test_stats_command_tells_servegen_clients(tmp_path):
    (tmp_path / "chunk-0-trace.csv").write_text("0,0.5,1,Gamma,1,2\n")
    dataset = {"0": {"input_tokens": "{10: 1}", "output_tokens": "{20: 1}"}}
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps(dataset))
    shown = CliRunner().invoke(command, ["stats", str(tmp_path), "--format", "json"])
    assert json.loads(shown.output)["mean_output_tokens"] == 20.0
    assert "1 clients, servegen" in CliRunner().invoke(command, ["stats", str(tmp_path)]).output


def test_convert_command_says_what_it_wrote(mooncake, tmp_path):
    shown = CliRunner().invoke(
        command, ["convert", str(mooncake), str(tmp_path / "v"), "--to", "vidur"]
    )
    assert shown.exit_code == 0, shown.output
    assert "2 requests as vidur, read as mooncake" in shown.output
