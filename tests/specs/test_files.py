"""The one door through which a user's files come in: bounded, and one line when it stays shut."""

import os
import threading
from pathlib import Path

import pytest

from kvsim.errors import InputError
from kvsim.specs import files
from kvsim.specs.files import open_binary, read_start, read_text


def refusal(call, *arguments, **named):
    with pytest.raises(InputError) as error:
        call(*arguments, **named)
    return str(error.value)


def piped(path):
    """Stream a pipe's content."""
    with open_binary(path) as stream:
        return stream.read(1)


def test_text_comes_without_its_mark_and_with_its_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä\r\nb\r".encode())
    assert read_text(path) == "ä\r\nb\r"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x" * 11, "is larger than 10 bytes"),
        (b"a\0b", "is a binary file, not text"),
        (b"a\xffb", "cannot be read as text (byte 1 is not UTF-8)"),
        (b"a\xff\0", "cannot be read as text (byte 1 is not UTF-8)"),
    ],
)
def test_what_is_no_small_text(tmp_path, content, said):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert refusal(read_text, path, max_bytes=10) == f"{path}: {said}"


def test_bytes_that_are_not_utf_8_may_be_let_through(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"a\xffb")
    assert read_text(path, undecodable="replace") == "a\ufffdb"


def test_a_file_of_the_largest_size_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 10)
    assert read_text(path, max_bytes=10) == "x" * 10


def test_a_pointer_says_how_to_fetch_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert refusal(read_text, path) == (
        f"{path}: is a git-LFS pointer; run `git lfs pull` to fetch it"
    )


def test_what_is_not_there_or_no_file(tmp_path):
    absent = tmp_path / "absent"
    assert refusal(read_text, absent) == f"{absent}: no such file"
    assert refusal(read_start, absent, 4) == f"{absent}: no such file"
    assert refusal(piped, absent) == f"{absent}: no such file"
    assert refusal(read_text, tmp_path).endswith("cannot be read as text (Is a directory)")
    assert refusal(read_start, tmp_path, 4) == f"{tmp_path}: cannot be read: Is a directory"
    assert refusal(piped, tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize("call", [read_text, piped, lambda path: read_start(path, 4)])
def test_a_name_that_no_file_can_have(tmp_path, call):
    line = refusal(call, tmp_path / "a\0\nb")
    assert "\n" not in line
    assert "null" in line


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")  # noqa: PTH110
def test_a_device_without_end_ends(monkeypatch):
    zero, endless = files.Path("/dev/zero"), 2**60
    assert refusal(read_text, zero, max_bytes=endless) == "/dev/zero: is a binary file, not text"
    assert refusal(piped, zero) == (
        "/dev/zero: is a pipe or a device, not a file; save it to a file"
    )
    assert read_start(zero, 3) == b"\0\0\0"


def test_text_may_come_through_a_pipe(tmp_path):
    """``kvsim validate --engine-log <(zcat vllm.log.gz)``."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("x" * 100_000,))
    writer.start()
    assert read_text(pipe) == "x" * 100_000
    writer.join()
    assert refusal(piped, pipe).endswith("is a pipe or a device, not a file; save it to a file")


# --- what is made of a file is remembered, and never stale ---


class Upper:
    """Reads in capitals; `reads` counts how often."""

    def __init__(self, monkeypatch, settle_ns=None):
        self.reads = 0
        self.of = files.once_per_file(self._read)
        if settle_ns is not None:
            monkeypatch.setattr(files, "_TICK_NS", settle_ns)

    def _read(self, path):
        self.reads += 1
        return read_text(path).upper()


AT_ONCE = -(2**62)  # as if every file had last changed long ago


def test_a_file_that_stays_is_read_once(tmp_path, monkeypatch):
    upper = Upper(monkeypatch, AT_ONCE)
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    for _ in range(3):
        assert (upper.of(tmp_path / "a"), upper.of(tmp_path / "b")) == ("ONE", "TWO")
    assert upper.reads == 2


def test_a_file_that_is_written_or_replaced_is_read_again(tmp_path, monkeypatch):
    upper = Upper(monkeypatch, AT_ONCE)
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    assert upper.of(path) == "ONE"
    path.write_text("longer")
    assert upper.of(path) == "LONGER"
    os.utime(path, ns=(1, 1))
    other.write_text("LENGTH")  # of the same size and time
    os.utime(other, ns=(1, 1))
    assert upper.of(path) == "LONGER"
    other.replace(path)
    assert upper.of(path) == "LENGTH"
    path.unlink()
    assert refusal(upper.of, path) == f"{path}: no such file"


def test_the_same_relative_name_elsewhere_is_another_file(tmp_path, monkeypatch):
    upper = Upper(monkeypatch, AT_ONCE)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    for name in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / name)
        assert upper.of(Path("a")) == name.upper()


def test_a_file_of_this_very_moment_is_not_trusted(tmp_path, monkeypatch):
    """Two contents of one size within one tick of the file system's clock look alike."""
    path = tmp_path / "a"
    path.write_text("one")
    first = path.stat()
    monkeypatch.setattr(files, "_identity", lambda _: files._Identity(1, 1, 3, *times_of(first)))
    upper = Upper(monkeypatch)
    assert upper.of(path) == "ONE"
    path.write_text("two")
    assert upper.of(path) == "TWO"


def times_of(found):
    return found.st_mtime_ns, found.st_ctime_ns


def test_a_pipe_is_read_each_time(tmp_path, monkeypatch):
    upper = Upper(monkeypatch, AT_ONCE)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for said in ("one", "two"):
        writer = threading.Thread(target=path.write_text, args=(said,))
        writer.start()
        assert upper.of(path) == said.upper()
        writer.join()


def test_many_files_do_not_stay_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_KEPT", 2)
    upper = Upper(monkeypatch, AT_ONCE)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
        upper.of(tmp_path / name)
    upper.of(tmp_path / "c")
    assert upper.reads == 3
    upper.of(tmp_path / "a")
    assert upper.reads == 4
