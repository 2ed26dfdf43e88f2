"""The law of every reader: what it cannot read it refuses in one line, and nothing else escapes."""

from kvsim.errors import KVSimError

LONGEST_LINE = 1500


def read_or_refused(call, *arguments, **named):
    """Return (what was read, ""), or (None, the one line that says why not)."""
    try:
        return call(*arguments, **named), ""
    except KVSimError as error:
        line = str(error)
    assert line
    assert len(line.splitlines()) == 1, repr(line)
    assert len(line) <= LONGEST_LINE, f"{len(line)} characters: {line[:200]}"
    return None, line


def refused(run, *words):
    """The one line on stderr with which a command refuses its words."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err
