"""One seed, many named random streams.

A simulation owns one `Streams`. Every draw goes through a stream with a name, so that two
policies compared under one seed meet the same requests, whatever else each of them draws.
"""

from __future__ import annotations

import hashlib

import numpy as np

from kvsim.errors import InputError

__all__ = ["Streams"]


def _key(name: str) -> tuple[int, ...]:
    """Turn a name into spawn-key words that depend on nothing but the name."""
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[at : at + 4], "little") for at in (0, 4, 8, 12))


class Streams:
    """Named independent random generators, spawned from one seed.

    Parameters
    ----------
    seed : int
        Non-negative. Everything random in a run follows from it.

    Notes
    -----
    The generator of a name is ``PCG64(SeedSequence(seed, spawn_key=sha256(name)))``, so it
    does not depend on which other names were asked for, nor on their order. Asking twice for
    a name gives the same generator, already advanced: use one `Streams` for one run.

    Raises
    ------
    InputError
        For a seed that is negative or not an integer.

    Examples
    --------
    >>> Streams(7).stream("arrivals").integers(1000) == Streams(7).stream("arrivals").integers(1000)
    np.True_
    """

    def __init__(self, seed: int = 0, *, _path: tuple[int, ...] = ()) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InputError(f"seed {seed!r} is not a non-negative integer", where="seed")
        self.seed = int(seed)
        self._path = _path
        self._generators: dict[str, np.random.Generator] = {}

    def stream(self, name: str) -> np.random.Generator:
        """Return the generator called `name`, the same object each time."""
        if name not in self._generators:
            sequence = np.random.SeedSequence(self.seed, spawn_key=(*self._path, *_key(name)))
            self._generators[name] = np.random.Generator(np.random.PCG64(sequence))
        return self._generators[name]

    def child(self, name: str) -> Streams:
        """Return a family of streams of its own: the draws of one client, one replica."""
        return Streams(self.seed, _path=(*self._path, *_key(name)))
