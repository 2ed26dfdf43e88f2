"""The one door through which a user's files come in: bounded, and one line when it stays shut."""

import os
import threading

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
