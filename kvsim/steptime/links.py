"""What an all-reduce costs on a fabric that nobody measured.

Fitted links are ``a + bytes / bandwidth``. Of a fabric the start-up is taken as it was measured,
and the bandwidth as a share of what the fabric is advertised with, both directions added:

==================  ==================================================================
switched or direct  medians of A100, H100, H200, B200 and B300 (NVLink 3 to 5)
PCIe x16            RTX PRO 6000 (PCIe 5.0), by the generation's rate
bridge of a pair    two cards as over a switch; more: pairs first, then across them over PCIe,
                    half of the message a card
==================  ==================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.specs.hardware import AcceleratorProfile, Link
from kvsim.units import MIB

__all__ = [
    "FAST_LINK_BYTES_PER_S",
    "NVLINK",
    "PCIE",
    "FabricLink",
    "credible_link",
    "fabric_links",
    "pcie_bytes_per_s",
]

FAST_LINK_BYTES_PER_S = 200e9  # NVLink, Infinity Fabric, ICI; a PCIe card has far less
_LARGE_BYTES = 8 * MIB  # from here engines' own kernels hand over to NCCL
# Both directions of 16 lanes: the generation's GT/s, both ways, 128b/130b left aside.
_PCIE_BYTES_PER_S = {"Gen3": 32e9, "Gen4": 64e9, "Gen5": 128e9, "Gen6": 256e9}
_USUAL_PCIE = "Gen4"


class FabricLink(NamedTuple):
    """An all-reduce on a fabric: start-up seconds, and shares of its advertised bytes/s."""

    seconds: float
    share: float
    large_seconds: float
    large_share: float

    def on(self, bytes_per_s: float) -> Link:
        """The link of a fabric that is advertised with so many bytes/s."""
        return Link(
            seconds=self.seconds,
            bytes_per_s=self.share * bytes_per_s,
            large_from_bytes=_LARGE_BYTES,
            large_seconds=self.large_seconds,
            large_bytes_per_s=self.large_share * bytes_per_s,
        )


# By degree; `tests/steptime/test_links.py` recomputes both from the shipped profiles.
NVLINK = {
    2: FabricLink(4.18e-6, 0.262, 6.72e-6, 0.283),
    4: FabricLink(4.23e-6, 0.207, 11.1e-6, 0.236),
    8: FabricLink(4.67e-6, 0.180, 12.1e-6, 0.215),
}
PCIE = {
    2: FabricLink(4.54e-6, 0.3176, 17.59e-6, 0.2878),
    4: FabricLink(13.37e-6, 0.1205, 23.41e-6, 0.1498),
    8: FabricLink(26.05e-6, 0.0824, 50.76e-6, 0.1055),
}


def pcie_bytes_per_s(accelerator: AcceleratorProfile) -> float:
    """Both directions of the card's PCIe slot, 16 lanes; generation 4 where none is stated."""
    generation = accelerator.pcie.partition(" ")[0]
    return _PCIE_BYTES_PER_S.get(generation, _PCIE_BYTES_PER_S[_USUAL_PCIE])


def fabric_links(accelerator: AcceleratorProfile) -> dict[int, Link]:
    """All-reduce by degree, from the fabric between the cards of a server."""
    fabric, slot = accelerator.interconnect, pcie_bytes_per_s(accelerator)
    over_pcie = {degree: link.on(slot) for degree, link in PCIE.items()}
    if fabric.is_bridge:
        pair = NVLINK[2].on(fabric.bytes_per_s)
        return {2: pair, 4: _over_pairs(pair, over_pcie[2]), 8: _over_pairs(pair, over_pcie[4])}
    if fabric.bytes_per_s < FAST_LINK_BYTES_PER_S:
        return over_pcie
    return {degree: link.on(fabric.bytes_per_s) for degree, link in NVLINK.items()}


def _over_pairs(pair: Link, across: Link) -> Link:
    """An all-reduce in bridged pairs, and then of each card's half across them."""

    def rate(within: float, between: float) -> float:
        return 1 / (1 / within + 0.5 / between)

    return Link(
        seconds=pair.seconds + across.seconds,
        bytes_per_s=rate(pair.bytes_per_s, across.bytes_per_s),
        large_from_bytes=_LARGE_BYTES,
        large_seconds=pair.large_seconds + across.large_seconds,
        large_bytes_per_s=rate(
            pair.large_bytes_per_s or pair.bytes_per_s,
            across.large_bytes_per_s or across.bytes_per_s,
        ),
    )


def credible_link(measured: Link, expected: Link) -> Link:
    """What was measured, unless it carries less than half of what the fabric is known to.

    Eight L40S of one table reduce 1.1 GB/s where PCIe 4.0 carries 6.8: their machine has no
    direct way between cards. TensorRT-LLM's published throughput on others contradicts it.
    """
    return measured if measured.bytes_per_s > expected.bytes_per_s / 2 else expected
