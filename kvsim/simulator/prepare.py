"""From a scenario to everything that follows from it before any request arrives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, ResolvedDeployment, get_engine
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.growth import BlockCurve
from kvsim.memory.pools import KVPools
from kvsim.memory.rank import Rank
from kvsim.planning.sizing import Sizing, overridden, size
from kvsim.planning.verdict import verdict
from kvsim.simulator.allocators import ALLOCATORS
from kvsim.simulator.blame import blaming
from kvsim.simulator.caching import caches_prefixes, says_caching
from kvsim.simulator.cautions import idle_keys, overrides_of_the_plan
from kvsim.simulator.scenario import Scenario
from kvsim.simulator.schedulers import SCHEDULERS, Scheduler
from kvsim.simulator.schedulers.steps import longest_chunk
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat
from kvsim.steptime.model import ConstantStepTime, StepTimeModel
from kvsim.workload.lengths import IndependentLengths

__all__ = ["Setup", "prepare"]

_LARGEST_BLOCK = 2**20  # tokens; engines' largest are of about a thousand


@dataclass(frozen=True)
class Setup:
    """What a scenario comes to, before any request: derived once, shared by replications.

    Parameters
    ----------
    scenario : Scenario
        The question.
    sizing : Sizing
        The plan's answer: the deployment with all defaults filled in, and its pools.
    pools : KVPools
        What the memory policy hands out: the engine's own pools, or the same bytes as one.
    step_time : StepTimeModel or ConstantStepTime
        What a step costs.
    """

    scenario: Scenario
    sizing: Sizing
    pools: KVPools
    step_time: StepTimeModel | ConstantStepTime

    @property
    def deployment(self) -> ResolvedDeployment:
        """Model, card and flags, all defaults filled in."""
        return self.sizing.deployment

    @property
    def kv(self) -> KVFormat:
        """Format of K and V."""
        return self.deployment.kv_format

    @property
    def curve(self) -> BlockCurve:
        """Blocks that a sequence draws from the first pool."""
        return self.pools.main.curve

    @property
    def num_blocks(self) -> int:
        """Blocks of the first pool that requests can be given."""
        return self.pools.main.given_blocks

    @property
    def is_async(self) -> bool:
        """Whether a step is scheduled while the one before it is computed."""
        return self.scheduler.plans_ahead and self.deployment.options.async_scheduling

    @property
    def caches_prefixes(self) -> bool:
        """Whether prefixes are kept and looked up."""
        return self.scenario.memory.caches_prefixes

    @property
    def chunk_tokens(self) -> int:
        """Tokens of which chunks of prompts are multiples, so that recurrent states are kept.

        A block that no step computes whole is computed in parts.
        """
        growths = (group.growth for group in self.pools.main.groups)
        block = next((growth.block_size for growth in growths if growth.is_state), 1)
        longest = longest_chunk(
            self.deployment.options.max_num_batched_tokens,
            self.scenario.scheduler.long_prefill_token_threshold,
        )
        return block if block <= longest else 1

    @property
    def scheduler(self) -> type[Scheduler]:
        """Who decides each step."""
        return SCHEDULERS.find(self.scenario.scheduler.policy)

    @property
    def rank(self) -> Rank:
        """Whose bytes a step reads: it passes through the layers of all stages."""
        return Rank(tp=self.deployment.options.tensor_parallel_size)

    @property
    def token_bytes(self) -> int:
        """KV bytes of one more token of a short context, one rank, all layers."""
        own = bytes_per_token(self.deployment.model, self.kv, self.rank)
        return round(own * self.pools.layout_ratio)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the numbers: sized again for it, so only when asked."""
        return (*overrides_of_the_plan(self.scenario, self.sizing), *self.idle_keys)

    @cached_property
    def idle_keys(self) -> tuple[str, ...]:
        """Those of the warnings that name a key which changes nothing here."""
        return tuple(idle_keys(self.scenario, self.sizing))

    @property
    def pool_slots(self) -> int:
        """Slots of all pools: tokens, where there is one and every layer keeps all of them."""
        return self.pools.slots

    @property
    def pool_tokens(self) -> int:
        """Tokens that the pools hold: slots, or what the engine logs where slots are no tokens."""
        is_plain = len(self.pools.pools) == 1 and self.pools.main.is_plain
        return self.pool_slots if is_plain else self.sizing.capacity.logged_tokens


def prepare(
    scenario: Scenario,
    *,
    model: ModelSpec | None = None,
    accelerator: AcceleratorProfile | None = None,
) -> Setup:
    """Derive everything that does not depend on a seed.

    Parameters
    ----------
    scenario : Scenario
        The question.
    model, accelerator : ModelSpec, AcceleratorProfile, optional
        In place of those that the scenario names.

    Raises
    ------
    InputError, UnsupportedError
        For names that no catalogue knows, flags that contradict, or a deployment that the
        plan says does not fit.
    """
    with blaming(scenario, "engine.name"):
        engine = get_engine(scenario.engine.name, scenario.engine.version)
    with blaming(scenario, "model"):
        spec = model or find_model(scenario.model)
    with blaming(scenario, "accelerator"):
        accelerator = accelerator or find_accelerator(scenario.accelerator)
    with blaming(scenario, "engine"):
        asked = Deployment(spec, accelerator, scenario.engine.options)
        asked = overridden(asked, model or scenario.model, engine)
        sizing = size(engine, asked)
        scenario, sizing = _caching_settled(scenario, sizing, asked)
    _refuse_overlong(scenario, sizing.deployment)
    _refuse_huge_blocks(scenario, sizing.deployment)
    _refuse_unfit(scenario, sizing)
    return Setup(
        scenario,
        sizing,
        _pools(scenario, sizing),
        _step_time(scenario, sizing),
    )


def _caching_settled(
    scenario: Scenario, sizing: Sizing, asked: Deployment
) -> tuple[Scenario, Sizing]:
    """Say whether prefixes are cached, where the scenario leaves that to its engine.

    The pool is laid out for what is simulated. Where nothing was said and caching is not modelled
    it stays as its engine has it, but for vLLM's, whose states a simulation without could not hold.
    """
    caches, is_said = caches_prefixes(scenario, sizing), says_caching(scenario)
    does_so = sizing.deployment.options.enable_prefix_caching
    if caches != does_so and (is_said or sizing.engine.name == "vllm"):
        options = asked.options.model_copy(update={"enable_prefix_caching": caches})
        sizing = size(sizing.engine, replace(asked, options=options))
    return (scenario.with_prefixes_cached() if caches and not is_said else scenario), sizing


def _refuse_overlong(scenario: Scenario, deployment: ResolvedDeployment) -> None:
    """Refuse lengths of which the shortest is too long; single long requests are counted."""
    lengths, most = scenario.workload.lengths, deployment.options.max_model_len
    if not isinstance(lengths, IndependentLengths):
        return
    prompt = lengths.prompt.least_tokens + getattr(scenario.workload.prefix, "tokens", 0)
    output = lengths.output.least_tokens
    if prompt + output > most:
        raise InputError(
            f"every request has at least {prompt:,} prompt and {output:,} output tokens, more"
            f" than max_model_len {most:,}",
            where=scenario.where("workload.lengths.prompt"),
            fix="shorten them or raise engine.max_model_len",
        )


def _refuse_huge_blocks(scenario: Scenario, deployment: ResolvedDeployment) -> None:
    """Refuse blocks of which a batch's counters, one per token of a block, would fill memory."""
    if deployment.options.block_size > _LARGEST_BLOCK:
        raise InputError(
            f"blocks of {deployment.options.block_size:,} tokens are too large to simulate",
            where=scenario.where("engine.block_size"),
            fix=f"choose at most {_LARGEST_BLOCK:,}",
        )


def _refuse_unfit(scenario: Scenario, sizing: Sizing) -> None:
    """Refuse what the plan says does not fit, in its words.

    A pool of a stated size may be larger than the card has room for: that is a question of
    what if, and a warning.
    """
    stated = sizing.deployment.options.pool_key
    decreed = sizing.deployment.options.pool_is_stated
    if sizing.fits or (decreed and sizing.capacity.holds_one and sizing.room_bytes):
        return
    key = f"engine.{stated}" if decreed and sizing.room_bytes else "model"
    raise InputError(
        f"{_names(sizing)}: {verdict(sizing)}",
        where=scenario.where(key),
        fix="`kvsim plan` says what would make it fit",
    )


def _names(sizing: Sizing) -> str:
    return f"{sizing.deployment.model.name} on {sizing.deployment.accelerator.name}"


def _pools(scenario: Scenario, sizing: Sizing) -> KVPools:
    """The engine's pools, or the same bytes for a policy that keeps a token's layers together."""
    if not ALLOCATORS.find(scenario.memory.allocator).contiguous:
        return sizing.pools
    model, fmt, ratio = sizing.deployment.model, sizing.kv_format, sizing.pools.layout_ratio
    token_bytes = bytes_per_token(model, fmt, sizing.rank)
    return sizing.pools.contiguous(ratio * token_bytes, sizing.fixed_bytes)


def _step_time(scenario: Scenario, sizing: Sizing) -> StepTimeModel | ConstantStepTime:
    if scenario.step_time.kind == "profile":
        return StepTimeModel.from_deployment(sizing.deployment, engine=sizing.engine)
    if scenario.step_time.seconds is None:
        raise InputError(
            "a constant step time needs its seconds",
            where=scenario.where("step_time"),
            fix="set step_time.seconds",
        )
    return ConstantStepTime(scenario.step_time.seconds)
