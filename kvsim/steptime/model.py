"""How long one engine step takes, term by term, and which resource binds it.

::

    step = host + sequences ** e * sequence            the engine's own code (`hosts`)
         + max(launches, device)                       of every kernel: 0 where a graph is replayed

  device = layers * layer                              starts
         + tokens * elementwise bytes / BW_e           norms, rotary, activations
         + pnorm(weight bytes / BW, tile * flops / P)  every GEMM, for decode and prefill tokens
         + expert layers * start + pnorm(touched bytes / BW_x, padded flops / P_x)    experts
         + kv bytes / BW_kv + heads * head             decode attention, KV heads of all sequences
         + pairs * flops a pair / P_attn + tokens * c  prefill attention (causal)
         + collectives * (a + bytes / BW_link)         two all-reduces per layer; pipeline hops

The KV term is linear and stands outside the p-norm, so a run of k replayed decode steps at a
constant batch sums in closed form: ``k * seconds without KV reads + kv_seconds_per_byte * sum of
bytes``. Steps that are launched kernel by kernel are level until attention outlasts the launches.
Coefficients are measured (``hardware_profiles``); a device without any takes the median
efficiency of its class, and `StepTimeModel.provenance` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from kvsim.engines.base import Deployment, Engine
from kvsim.memory.rank import Rank
from kvsim.memory.weights import weight_reads
from kvsim.specs.hardware import (
    ExpertRates,
    FrontEnd,
    GemmRates,
    HostCost,
    Link,
    StepCoefficients,
)
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import weight_format
from kvsim.steptime.defaults import class_coefficients
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.steptime.rank_work import RankWork
from kvsim.steptime.rates import (
    coefficients_of,
    expert_rates,
    gemm_rates,
    host_of,
    kv_rate,
    layer_seconds,
    links_of,
    stored_as,
)
from kvsim.steptime.terms import (
    collective_seconds,
    compute_seconds,
    expert_padding,
    head_seconds,
    kv_seconds,
    nearest_link,
    prefill_attention_seconds,
    roofline_seconds,
    tile_factor,
    weight_seconds,
)

__all__ = [
    "ConstantStepTime",
    "KVReadCurve",
    "RankWork",
    "StepCost",
    "StepLoad",
    "StepTimeModel",
    "class_coefficients",
    "prefill_pairs",
]


class StepLoad(NamedTuple):
    """What one step has to do.

    Parameters
    ----------
    tokens : int
        Tokens computed: one a decoding sequence, and the prefill tokens.
    sequences : int
        Sequences in the step, decoding and prefilling.
    kv_read_bytes : float
        KV bytes that the decoding sequences read, on one rank.
    prefill_pairs : float
        Query-key pairs of the prefill chunks, averaged over the layers (`prefill_pairs`).
    """

    tokens: int
    sequences: int
    kv_read_bytes: float = 0.0
    prefill_pairs: float = 0.0


class StepCost(NamedTuple):
    """The terms of one step, seconds.

    `weight_seconds` and `compute_seconds` are the two arms that `roofline_seconds` joins;
    the sum does not count them again. `launch_seconds` is what the device waits for launches:
    what they take beyond all that it does meanwhile, attention included.
    """

    host_seconds: float = 0.0
    layer_seconds: float = 0.0
    roofline_seconds: float = 0.0
    weight_seconds: float = 0.0
    compute_seconds: float = 0.0
    kv_seconds: float = 0.0
    prefill_attention_seconds: float = 0.0
    collective_seconds: float = 0.0
    sequence_seconds: float = 0.0
    launch_seconds: float = 0.0
    elementwise_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.worked_seconds + self.launch_seconds

    @property
    def worked_seconds(self) -> float:
        """All but the wait for launches: the device's seconds, and the ends of the step."""
        return self.device_seconds + self.host_seconds + self.sequence_seconds

    @property
    def device_seconds(self) -> float:
        """What the device computes, between the ends of the step."""
        return (
            self.layer_seconds
            + self.roofline_seconds
            + self.kv_seconds
            + self.prefill_attention_seconds
            + self.collective_seconds
            + self.elementwise_seconds
        )

    @property
    def resource_seconds(self) -> dict[str, float]:
        """Seconds that each resource is needed for: bandwidth, compute, link, host."""
        return {
            "bandwidth": self.weight_seconds + self.kv_seconds + self.elementwise_seconds,
            "compute": self.compute_seconds + self.prefill_attention_seconds,
            "link": self.collective_seconds,
            "host": self.host_seconds
            + self.layer_seconds
            + self.sequence_seconds
            + self.launch_seconds,
        }

    @property
    def bound_by(self) -> str:
        """What most of the step waits for: "bandwidth", "compute", "link" or "host"."""
        shares = self.resource_seconds
        return max(shares, key=lambda name: shares[name])


@dataclass(frozen=True)
class StepTimeModel:
    """Step time of one replica: a model, its sharding and a device's coefficients.

    Build it with `from_deployment`. All sizes are those of the one rank that a step waits
    for. With pipeline stages a step is a full round of the pipeline: weights of all stages
    are read in turn, while the stages share the sequences' arithmetic and KV reads.

    Parameters
    ----------
    coefficients : StepCoefficients
        Rates and fixed costs.
    host : HostCost
        What the engine's own code adds.
    provenance : str
        Where the coefficients come from, one line; it starts with "assumed" for a device
        without measurements.
    model : ModelSpec
        The model, in the deployment's weight format.
    work : RankWork
        What the model asks of one rank.
    tp, pp : int
        Tensor- and pipeline-parallel degrees.
    gemms : GemmRates
        Rates of dense GEMMs in this weight format.
    layer_seconds : float
        The mean fixed cost of a layer.
    experts : ExpertRates
        Rates of routed experts in this weight format.
    links : mapping of int to Link
        All-reduces of the engine, by degree.
    kv_seconds_per_byte : float
        Seconds that one more KV byte read on a rank adds to a step.
    graphs : bool
        Whether decode steps are replayed from CUDA graphs.
    """

    coefficients: StepCoefficients
    host: HostCost
    provenance: str
    model: ModelSpec
    work: RankWork
    tp: int
    pp: int
    gemms: GemmRates
    layer_seconds: float
    experts: ExpertRates
    links: Mapping[int, Link]
    kv_seconds_per_byte: float
    graphs: bool = True
    _read_bytes: dict[int, tuple[float, float]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _bare_costs: dict[StepLoad, StepCost] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_deployment(
        cls,
        deployment: Deployment,
        coefficients: StepCoefficients | None = None,
        *,
        engine: Engine | None = None,
    ) -> StepTimeModel:
        """Build the model of a deployment.

        Parameters
        ----------
        deployment : Deployment
            Resolved or not; a missing dtype is the model's own.
        coefficients : StepCoefficients, optional
            Instead of the profile's; without either, its architecture's medians.
        engine : Engine, optional
            Serving engine whose host costs and collectives count; those of the
            coefficients without.

        Raises
        ------
        UnknownNameError
            For a dtype or a weight or KV format that no table holds.
        InputError
            When KV heads cannot be split over the tensor-parallel ranks.
        """
        options = deployment.options
        chosen, kernels = coefficients_of(deployment.accelerator, coefficients)
        host = host_of(chosen, engine, is_async=bool(options.async_scheduling))
        model = stored_as(deployment)
        weights = weight_format(model.quantization or model.dtype)
        work = RankWork.from_model(model, Rank(tp=options.tensor_parallel_size))
        gemms = gemm_rates(chosen, weights, deployment.accelerator)
        experts = expert_rates(chosen, weights, deployment.accelerator, engine)
        return cls(
            coefficients=chosen,
            host=host,
            provenance=f"{kernels}; host: {host.source}" if host.source else kernels,
            model=model,
            work=work,
            tp=options.tensor_parallel_size,
            pp=options.pipeline_parallel_size,
            gemms=gemms,
            layer_seconds=layer_seconds(chosen, gemms, experts, work),
            experts=experts,
            links=links_of(chosen, engine),
            kv_seconds_per_byte=kv_seconds(1.0, kv_rate(chosen, deployment.kv_format)),
            graphs=host.graphs and not options.enforce_eager,
        )

    @property
    def front_end(self) -> FrontEnd:
        """What a request meets before the engine's queue and after a step."""
        return self.host.front_end

    def cost(self, load: StepLoad) -> StepCost:
        """Every term of one step; remembered without attention, as a run asks for it twice."""
        if load.kv_read_bytes or load.prefill_pairs:
            return self._cost(load)
        cost = self._bare_costs.get(load)
        if cost is None:
            cost = self._bare_costs[load] = self._cost(load)
        return cost

    def _cost(self, load: StepLoad) -> StepCost:
        """Work every term out."""
        rates, gemms, work = self.coefficients, self.gemms, self.work
        # p stages share the arithmetic as soon as there are p sequences to keep them busy
        busy = min(self.pp, max(1, load.sequences))
        tile = tile_factor(load.tokens, gemms.token_factors)
        dense_bytes, expert_bytes = self._weight_bytes(load.tokens)
        weight = weight_seconds(dense_bytes, gemms.bytes_per_s)
        flops = work.body_flops * load.tokens + work.head_flops * load.sequences
        compute = tile * compute_seconds(flops / busy, gemms.flops_per_s)
        reading = weight_seconds(expert_bytes, self.experts.bytes_per_s)
        multiplying = self._expert_seconds(load.tokens) / busy
        layers = work.layers * self.layer_seconds
        roofline = roofline_seconds(weight, compute, rates.norm)
        roofline += roofline_seconds(reading, multiplying, rates.norm)
        host = self.host
        cost = StepCost(
            host_seconds=host.host_seconds,
            layer_seconds=layers,
            roofline_seconds=roofline,
            weight_seconds=weight + reading,
            compute_seconds=compute + multiplying,
            kv_seconds=self._kv_seconds(load, busy),
            prefill_attention_seconds=self._prefill_attention_seconds(load) / busy,
            collective_seconds=self._collective_seconds(load.tokens),
            sequence_seconds=host.sequence_seconds * load.sequences**host.batch_exponent,
            elementwise_seconds=self._elementwise_seconds(load.tokens) / busy,
        )
        waited = self.launches(load) - cost.device_seconds
        return cost._replace(launch_seconds=max(0.0, waited))

    def seconds(self, load: StepLoad) -> float:
        """Duration of one step."""
        return self.cost(load).seconds

    def _weight_bytes(self, tokens: int) -> tuple[float, float]:
        """Weight bytes that one rank reads for so many tokens: dense ones, and touched experts."""
        shape = tokens if self.work.expert_layers else 1  # without experts all is read
        if shape not in self._read_bytes:
            reads = weight_reads(self.model, Rank(tp=self.tp))
            experts = reads.expert_bytes_of(shape)
            self._read_bytes[shape] = reads.bytes_of(shape) - experts, experts
        return self._read_bytes[shape]

    def _expert_seconds(self, tokens: int) -> float:
        """Arithmetic of routed experts, whose rows are computed in whole tiles."""
        flops = sum(
            each.flops * tokens * expert_padding(tokens, each.used, each.units)
            for each in self.work.experts
        )
        return compute_seconds(flops, self.experts.flops_per_s)

    def _kv_seconds(self, load: StepLoad, busy: int) -> float:
        """Decode attention: the bytes read, and the start of every sequence's tiles."""
        rates = self.coefficients
        mixed = load.tokens > load.sequences
        start = rates.head_seconds + (rates.mixed_head_seconds if mixed else 0.0)
        starts = head_seconds(load.sequences, self.work.kv_heads, start)
        factor = rates.mixed_kv_factor if mixed else 1.0
        return factor * self.kv_seconds_per_byte * load.kv_read_bytes + starts / busy

    def _prefill_attention_seconds(self, load: StepLoad) -> float:
        """Prefill attention: its pairs' FLOPs, and the cost of each token's query heads."""
        rates = self.coefficients
        pairs = prefill_attention_seconds(
            load.prefill_pairs, self.work.pair_flops, rates.attention_flops_per_s
        )
        # each sequence decodes one token; what is left over is prefill
        queries = max(0, load.tokens - load.sequences) * self.work.query_heads
        return pairs + queries * rates.attention_token_seconds

    def _elementwise_seconds(self, tokens: int) -> float:
        """Norms, rotary and activation functions, beside their launches."""
        rate = self.coefficients.elementwise_bytes_per_s
        return tokens * self.work.elementwise_bytes / rate if rate else 0.0

    def launches(self, load: StepLoad) -> float:
        """What launching every kernel takes: nothing where a CUDA graph replays the step."""
        if self.graphs and load.tokens == load.sequences:
            return 0.0
        host, work = self.host, self.work
        each = host.launch_seconds + load.sequences * host.sequence_launch_seconds
        return work.layers * each + work.expert_layers * host.expert_launch_seconds

    def _collective_seconds(self, tokens: int) -> float:
        """Two all-reduces per layer, and a hop to the next stage after each but the last."""
        message = tokens * self.work.message_bytes
        links = self.links
        total = 0.0
        if self.tp > 1 and (link := nearest_link(links, self.tp)):
            total += collective_seconds(2 * self.work.layers, message, link)
        if self.pp > 1 and (hop := nearest_link(links, 2)):
            total += collective_seconds(self.pp - 1, message, hop)
        return total


@dataclass(frozen=True, slots=True)
class ConstantStepTime:
    """Every step takes the same time: a replica with it is an M/D/1 server.

    Parameters
    ----------
    constant_seconds : float
        Duration of a step, whatever it does.
    """

    constant_seconds: float
    kv_seconds_per_byte: float = 0.0
    provenance: str = "constant"
    front_end: ClassVar[FrontEnd] = FrontEnd()

    def cost(self, load: StepLoad) -> StepCost:
        """All of it is host time."""
        return StepCost(host_seconds=self.constant_seconds)

    def seconds(self, load: StepLoad) -> float:
        """Duration of one step."""
        return self.constant_seconds
