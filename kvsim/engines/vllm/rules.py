"""Which of vLLM's rules hold in a release, on a card: data, looked up."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from kvsim.engines.base import Deployment
from kvsim.engines.common import parse_release, read_data
from kvsim.errors import UnsupportedError
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.units import GIB

__all__ = [
    "NEWEST",
    "OLDEST",
    "Rules",
    "architecture",
    "card_class",
    "entry_at",
    "kernel_class",
    "parts_of",
]

_DATA = "vllm_rules"
NEWEST: str = read_data(_DATA)["newest"]
OLDEST: str = read_data(_DATA)["oldest"]
_LARGE_BYTES = 70 * GIB
_HUGE_BYTES = 160 * GIB
_BEFORE_AMPERE = ("volta", "turing")


def entry_at(entries: list[dict[str, Any]], release: tuple[int, ...]) -> dict[str, Any]:
    """Return the last of the entries whose ``since`` is not newer than the release.

    Examples
    --------
    >>> entries = [{"since": "0.1", "value": 1}, {"since": "0.20", "value": 2}]
    >>> entry_at(entries, (0, 9, 2))["value"], entry_at(entries, (0, 20))["value"]
    (1, 2)
    """
    held = [entry for entry in entries if parts_of(entry["since"]) <= release]
    return held[-1]


@cache
def parts_of(text: str) -> tuple[int, ...]:
    """Numbers of a release as the data files write it."""
    return tuple(int(part) for part in text.split("."))


def architecture(accelerator: AcceleratorProfile) -> str:
    """Name the card's generation ("turing", "hopper", ...), or "unknown".

    Raises
    ------
    UnsupportedError
        For a device that vLLM does not serve on.
    """
    if accelerator.vendor == "Apple":
        raise UnsupportedError(
            f"vLLM has no accounting for {accelerator.name}: choose engine llama.cpp"
        )
    names = read_data(_DATA)["architectures"]
    for generation, prefixes in names.items():
        if accelerator.name.upper().startswith(tuple(prefixes)):
            return str(generation)
    return "unknown"


def card_class(accelerator: AcceleratorProfile) -> str:
    """Class a card as vLLM's defaults do: "small", "large" (H100-like) or "huge"."""
    if accelerator.memory_bytes >= _HUGE_BYTES:
        return "huge"
    is_large = accelerator.memory_bytes >= _LARGE_BYTES and "a100" not in accelerator.name.lower()
    return "large" if is_large else "small"


def kernel_class(accelerator: AcceleratorProfile) -> str:
    """Name whose attention kernels run on a card: its generation, or "workstation".

    Blackwell's workstation and desktop cards (compute capability 12) lack what its datacentre
    cards (10) have.
    """
    generation = architecture(accelerator)
    if generation == "blackwell" and card_class(accelerator) != "huge":
        return "workstation"
    return generation


class Rules(NamedTuple):
    """The rules of one release.

    Parameters
    ----------
    release : tuple of int
        The release number; see `Rules.of`.
    """

    release: tuple[int, ...]

    @classmethod
    def of(cls, version: str) -> Rules:
        """Read a version as printed: "0.19.0", "0.8.5.post1", "0.26.1rc1.dev608", "0.10.x".

        Raises
        ------
        InputError
            When it is no release, or one whose rules are not known.
        """
        return cls(parse_release("vllm", version, OLDEST, NEWEST))

    @property
    def said(self) -> str:
        """The release as people write it."""
        return ".".join(map(str, self.release))

    def value(self, name: str) -> Any:
        """Value of a rule in this release."""
        return self.entry(name)["value"]

    def entry(self, name: str) -> dict[str, Any]:
        """Value, source and first release of a rule."""
        return entry_at(read_data(_DATA)[name], self.release)

    @staticmethod
    def first(name: str, part: str) -> str:
        """First release in which the list that a rule is has something in it."""
        entries = read_data(_DATA)[name]
        return str(next(entry["since"] for entry in entries if part in entry["value"]))

    def is_v0(self, model: ModelSpec, accelerator: AcceleratorProfile) -> bool:
        """Whether this release runs its old engine core for the model on the card."""
        if model.encoder_tokens and self.value("image_layers"):
            return True
        old_card = architecture(accelerator) in _BEFORE_AMPERE
        name = "engine_core_before_ampere" if old_card else "engine_core"
        return bool(self.value(name) == "v0")


def kernels_on(deployment: Deployment, rules: Rules, rule: str) -> dict[str, Any]:
    """What a rule says of the kernels of a model's attention on the card.

    Raises
    ------
    UnsupportedError
        For a release or a card whose layout is not known.
    """
    by_kernels, name = rules.value(rule), deployment.model.name
    if by_kernels is None:
        release = ".".join(map(str, rules.release))
        raise UnsupportedError(
            f"how vLLM {release} lays out the sparse attention of {name} is not known to kvsim;"
            f" choose release {NEWEST}"
        )
    found: dict[str, Any] | None = by_kernels.get(kernel_class(deployment.accelerator))
    if found is None:
        raise UnsupportedError(
            f"kvsim knows no kernels of vLLM for the sparse attention of {name} on"
            f" {deployment.accelerator.name}; choose one of the {' and '.join(by_kernels)} cards"
        )
    return found
