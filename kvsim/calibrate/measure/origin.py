"""Which device and software rows come from: the head of their CSV says it.

::

    # device: NVIDIA H200
    # uuid: GPU-6f2a...
    # torch: 2.13.0+cu130
    # driver: driver 580.159.03, CUDA 13.0
    # kernels: attention: FlashInfer ...; norms, rotary, gates: torch.compile
    kind,dtype,buffer,...

Rows of two devices, or of one before and after an update, are fitted as if they were one: so a
session goes on with its own rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.errors import InputError

__all__ = ["Origin"]

_MARK = "# "


class Origin(NamedTuple):
    """A device and the software below kvsim."""

    device: str
    uuid: str
    torch: str
    driver: str
    kernels: str

    @classmethod
    def of(cls, facts: DeviceFacts, kernels: Kernels) -> Origin:
        """That of a device, and of what runs on it."""
        return cls(facts.name, facts.uuid, facts.torch_version, facts.driver, kernels.words)

    @classmethod
    def read(cls, text: str, where: str) -> Origin:
        """That of a CSV's text.

        Raises
        ------
        InputError
            When its head does not say all of it.
        """
        said = dict(_pairs(text))
        missing = [name for name in cls._fields if name not in said]
        if missing:
            raise InputError(
                f"its head does not say {missing[0]}, so whose rows these are is not known",
                where=where,
                fix="name another profile with -o, or time all of it",
            )
        return cls(**{name: said[name] for name in cls._fields})

    @property
    def head(self) -> str:
        """The lines that stand before a CSV's header."""
        return "".join(f"{_MARK}{name}: {value}\n" for name, value in self._asdict().items())

    def differences(self, other: Origin) -> Iterator[tuple[str, str, str]]:
        """Yield each field in which another differs: its name, this one's value and the other's."""
        for name, here, there in zip(self._fields, self, other, strict=True):
            if here != there:
                yield name, here, there

    def refuse_other(self, other: Origin, path: Path) -> None:
        """Refuse to go on with the rows of another.

        Raises
        ------
        InputError
            With the first difference.
        """
        for name, here, there in self.differences(other):
            raise InputError(
                f"its rows are of {name} {there or 'unknown'!r}, and this is {here!r}",
                where=f"--resume {path}",
                fix="name another profile with -o",
            )


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith(_MARK):
            return
        name, _, value = line.removeprefix(_MARK).partition(": ")
        yield name, value
