"""An accelerator as kvsim sees it: datasheet facts and measured coefficients, with sources."""

from __future__ import annotations

import re
from typing import Annotated

from kvsim.errors import InputError
from kvsim.specs.checked import (
    Checked,
    NonNegativeFloat,
    Parsed,
    PositiveFloat,
    PositiveInt,
    Within,
)
from kvsim.units import parse_bytes

__all__ = [
    "AcceleratorProfile",
    "ExpertRates",
    "FrontEnd",
    "HostCost",
    "Interconnect",
    "Link",
    "Price",
    "Quantity",
    "StepCoefficients",
]


AtLeastOne = Annotated[float, Within(least=1)]
Share = Annotated[float, Within(above=0, most=1)]
Bytes = Annotated[PositiveInt, Parsed(parse_bytes)]


class Quantity(Checked):
    """A number with where it comes from.

    Parameters
    ----------
    value : float
        In the unit that the field's name states.
    source : str
        Datasheet, measurement or log that gave it.
    confidence : str
        "high", "medium" or "low".
    """

    value: PositiveFloat
    source: str
    confidence: str = "high"


class ByteQuantity(Quantity):
    """A size in bytes; YAML may write it as "79.19 GiB"."""

    value: Bytes


class Interconnect(Checked):
    """How devices of one node reach each other; both directions added, bytes/s."""

    name: str
    bytes_per_s: NonNegativeFloat

    @property
    def is_switched(self) -> bool:
        """Whether NVSwitches join the devices ("NVLink4"): no bridge of a pair, no PCIe."""
        return re.match(r"NV(Link\d|Switch)", self.name) is not None

    @property
    def is_bridge(self) -> bool:
        """Whether it joins two devices and no more; others of the server talk over PCIe."""
        return "bridge" in self.name


class Price(Checked):
    """What an hour of one device costs to rent, low and high; those that ship in US dollars.

    Parameters
    ----------
    low, high : float
        The range found.
    note : str
        Where, and how sure that is.
    date : str
        When it was compiled.
    """

    low: PositiveFloat
    high: PositiveFloat
    note: str = ""
    date: str = ""

    @property
    def middle(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2

    @property
    def source(self) -> str:
        """Where and when; "" for a price of one's own."""
        return ", ".join(part for part in (self.note, self.date) if part)


class Link(Checked):
    """One collective's cost: ``seconds + bytes / bytes_per_s``, in up to two regimes.

    Parameters
    ----------
    seconds, bytes_per_s : float
        Start-up and rate of messages below `large_from_bytes` (of all, without it).
    large_from_bytes : int or None
        Size from which another algorithm carries the message: vLLM's own all-reduce hands
        over to NCCL at 8 MiB.
    large_seconds, large_bytes_per_s : float or None
        Start-up and rate of those.
    """

    seconds: NonNegativeFloat
    bytes_per_s: PositiveFloat
    large_from_bytes: Bytes | None = None
    large_seconds: NonNegativeFloat = 0.0
    large_bytes_per_s: PositiveFloat | None = None


class FrontEnd(Checked):
    """What stands between a client and an engine's queue: HTTP, tokeniser, detokeniser.

    ::

        client --transit--> [request + tokens] --> queue, prompt, first token, ...
        client <--transit-- [output tokens] <-----------------------'

    Parameters
    ----------
    transit_seconds : float
        Each way, for the first byte: HTTP and the hand-over between processes. Occupies nobody.
    request_seconds, token_seconds : float
        What taking a request in occupies its server for, and each token of its prompt.
    output_token_seconds : float
        What turning one output token into text and sending it occupies another server for.
    """

    transit_seconds: NonNegativeFloat = 0.0
    request_seconds: NonNegativeFloat = 0.0
    token_seconds: NonNegativeFloat = 0.0
    output_token_seconds: NonNegativeFloat = 0.0


class HostCost(Checked):
    """What one engine's host code adds to a step and to a request.

    Parameters
    ----------
    host_seconds : float
        What every step waits for the host, beside the device's time.
    sequence_seconds, batch_exponent : float
        What `n` running sequences add to it: ``sequence_seconds * n ** batch_exponent``.
    launch_seconds, sequence_launch_seconds : float
        What launching the kernels of one layer takes, one by one, and what each sequence of the
        step adds. A step that no CUDA graph replays takes at least that for every layer.
    expert_launch_seconds : float
        The same of a layer's routed experts, beside `launch_seconds`.
    graphs : bool
        Whether decode steps are replayed from CUDA graphs.
    front_end : FrontEnd
        What a request meets before the queue and after a step.
    source : str
        What it was fitted on.
    """

    host_seconds: NonNegativeFloat
    sequence_seconds: NonNegativeFloat = 0.0
    batch_exponent: Share = 1.0
    launch_seconds: NonNegativeFloat = 0.0
    sequence_launch_seconds: NonNegativeFloat = 0.0
    expert_launch_seconds: NonNegativeFloat = 0.0
    graphs: bool = True
    front_end: FrontEnd = FrontEnd()
    source: str = ""


class GemmRates(Checked):
    """What dense GEMMs reach, with weights of one format.

    Parameters
    ----------
    seconds : float
        What it adds to a layer: quantising activations, mostly.
    bytes_per_s, flops_per_s : float
        Rates of reading weights, and of multiplying with them.
    token_factors : mapping of int to float
        As those of `StepCoefficients`.
    """

    seconds: NonNegativeFloat
    bytes_per_s: PositiveFloat
    flops_per_s: PositiveFloat
    token_factors: dict[PositiveInt, PositiveFloat] = {}  # noqa: RUF012 - read into a dict of its own


class ExpertRates(Checked):
    """What the grouped GEMMs of routed experts reach, in one format.

    ``layer = seconds + pnorm(touched experts' bytes / BW, padded FLOPs / P)``

    Parameters
    ----------
    seconds : float
        A layer's start: choosing experts, sorting tokens by them, and the launches.
    bytes_per_s, flops_per_s : float
        Rates of reading experts, and of multiplying with them.
    """

    seconds: NonNegativeFloat
    bytes_per_s: PositiveFloat
    flops_per_s: PositiveFloat


class StepCoefficients(Checked):
    """Measured or fitted coefficients of the step-time model (``kvsim.steptime.model``).

    ``step = host + sequences * sequence + max(launches, layers * layer + pnorm(weights / BW,
    flops / P) + kv / BW_kv + attention flops / P_attn + collectives * link)``

    Parameters
    ----------
    engine, source, date, fitted_on : str
        Which engine's kernels; where the rows come from; when; which rows.
    derived_from : str
        The card that was measured, where its rates are restated by this one's datasheet.
    error_percent : float
        Mean absolute percentage error on those rows.
    weight_bytes_per_s, kv_bytes_per_s : float
        Achieved bandwidths when reading weights and KV cache.
    flops_per_s, attention_flops_per_s : float
        Achieved rates of bf16 GEMMs and of prefill attention.
    layer_seconds, host_seconds, sequence_seconds : float
        Fixed cost per layer; host cost per step, and per running sequence per step, where
        `engine` is none whose host costs are known.
    launch_seconds, sequence_launch_seconds : float
        As those of `HostCost`, where the host costs are these and every kernel is launched by
        itself; 0 where steps are replayed.
    kernels : str
        Which attention and which elementwise kernels the rates stand for, where that was chosen.
    norm : float
        Exponent of the p-norm that joins the two roofline arms; large is a hard max.
    collectives : mapping of int to Link
        All-reduce cost by tensor-parallel degree.
    engine_collectives : mapping of str to mapping of int to Link
        Those of other engines than `engine` whose own kernels differ, by name and degree.
    gemms : mapping of str to GemmRates
        Dense GEMMs in narrower formats, by the name of the weights' format or of what they
        compute in ("fp8", "fp8_block", "fp4").
    fp8_kv_speedup : float
        How much less time the KV term takes in fp8 than in bf16.
    head_seconds : float
        Decode attention's fixed cost of one KV head of one sequence in one layer.
    mixed_kv_factor, mixed_head_seconds : float
        In a step that prefills too: how many times longer reading KV takes, and what adds to
        `head_seconds`; kernels for both at once do not pack the heads that share K and V.
    elementwise_bytes_per_s : float or None
        Bandwidth that kernels without a matrix reach; None where their time is in what other
        coefficients were fitted to.
    attention_token_seconds : float
        Prefill attention's cost of one query head of one token in one layer, beside its FLOPs.
    experts : mapping of str to ExpertRates
        Routed experts by the format that they compute in ("bf16", "fp8", "fp4"); dense rates
        without.
    engine_experts : mapping of str to mapping of str to ExpertRates
        Those of other engines than `engine` that have grouped GEMMs of their own, by name and
        format.
    host_costs : mapping of str to HostCost
        Host costs of serving engines on this machine, by name: in place of the catalogue's
        (`kvsim.steptime.hosts`).
    token_factors : mapping of int to float
        Tile quantisation: what the GEMMs' arithmetic is multiplied by at so many tokens;
        linear in log2(tokens) between entries, level outside them.
    """

    engine: str
    source: str
    date: str
    fitted_on: str = ""
    kernels: str = ""
    derived_from: str = ""
    error_percent: NonNegativeFloat | None = None
    weight_bytes_per_s: PositiveFloat
    flops_per_s: PositiveFloat
    kv_bytes_per_s: PositiveFloat
    attention_flops_per_s: PositiveFloat
    layer_seconds: NonNegativeFloat
    host_seconds: NonNegativeFloat = 0.0
    sequence_seconds: NonNegativeFloat = 0.0
    launch_seconds: NonNegativeFloat = 0.0
    sequence_launch_seconds: NonNegativeFloat = 0.0
    elementwise_bytes_per_s: PositiveFloat | None = None
    norm: AtLeastOne = 2.2
    collectives: dict[int, Link] = {}  # noqa: RUF012 - read into a dict of its own
    engine_collectives: dict[str, dict[int, Link]] = {}  # noqa: RUF012 - read into a dict of its own
    gemms: dict[str, GemmRates] = {}  # noqa: RUF012 - read into a dict of its own
    fp8_kv_speedup: PositiveFloat = 2.0
    head_seconds: NonNegativeFloat = 0.0
    mixed_kv_factor: AtLeastOne = 1.0
    mixed_head_seconds: NonNegativeFloat = 0.0
    attention_token_seconds: NonNegativeFloat = 0.0
    experts: dict[str, ExpertRates] = {}  # noqa: RUF012 - read into a dict of its own
    engine_experts: dict[str, dict[str, ExpertRates]] = {}  # noqa: RUF012 - read into a dict of its own
    host_costs: dict[str, HostCost] = {}  # noqa: RUF012 - read into a dict of its own
    token_factors: dict[PositiveInt, PositiveFloat] = {}  # noqa: RUF012 - read into a dict of its own


class AcceleratorProfile(Checked):
    """One accelerator: `hardware_profiles/*.yaml` holds one each.

    Parameters
    ----------
    name : str
        "A100-SXM4-80GB": vendor's name, form factor and advertised memory.
    aliases : tuple of str
        Other names, lower case; "a100" is this card's if it is listed here.
    vendor : str
        Who makes it.
    product_name : str
        What its driver calls it, "NVIDIA H100 80GB HBM3", which is also what nodes of a cluster
        are labelled with; "" where that is not known.
    node_devices : int
        Devices of a server at most.
    advertised_memory_gb : float
        The number on the box, decimal GB.
    memory : ByteQuantity
        Bytes that the driver reports to a program: what engines divide.
    bandwidth : Quantity
        Memory bandwidth from the datasheet, bytes/s.
    flops : mapping of str to Quantity
        Dense arithmetic rate by dtype ("bf16", "fp16", "fp8", "int8"), FLOP/s.
    l2_bytes : int or None
        Last-level cache.
    interconnect : Interconnect
        Device-to-device link.
    pcie : str
        Host link, as the datasheet words it.
    tdp_watts : float or None
        Board power.
    price : Price or None
        Rental price range.
    coefficients : StepCoefficients or None
        Measured step-time coefficients; None falls back to its architecture's medians, marked so.
    """

    name: str
    aliases: tuple[str, ...] = ()
    vendor: str
    product_name: str = ""
    node_devices: PositiveInt = 8
    advertised_memory_gb: PositiveFloat
    memory: ByteQuantity
    bandwidth: Quantity
    flops: dict[str, Quantity]
    l2_bytes: Bytes | None = None
    interconnect: Interconnect
    pcie: str = ""
    tdp_watts: PositiveFloat | None = None
    price: Price | None = None
    notes: str = ""
    coefficients: StepCoefficients | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes that the driver reports to a program."""
        return int(self.memory.value)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Datasheet memory bandwidth, bytes/s."""
        return self.bandwidth.value

    @property
    def step_times(self) -> str:
        """How its step times are known: "measured", "derived from ...", or "assumed"."""
        if self.coefficients is None:
            return "assumed"
        sibling = self.coefficients.derived_from
        return f"derived from {sibling}" if sibling else "measured"

    def flops_per_s(self, dtype: str) -> float:
        """Datasheet dense rate for `dtype`; 16-bit floats stand in for each other.

        Raises
        ------
        InputError
            When the device has no rate for that dtype.
        """
        stand_in = {"bf16": "fp16", "fp16": "bf16", "fp32": "bf16", "fp4": "fp8"}
        for name in (dtype, stand_in.get(dtype, "bf16"), "bf16", "fp16"):
            if name in self.flops:
                return self.flops[name].value
        raise InputError(f"{self.name} has no arithmetic rate for {dtype}")
