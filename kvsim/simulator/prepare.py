"""From a scenario to everything that follows from it before any request arrives."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Capacity, Deployment, Engine, get_engine
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.blame import blaming
from kvsim.simulator.scenario import Scenario
from kvsim.simulator.schedulers import SCHEDULERS, Scheduler
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.steptime.model import ConstantStepTime, StepTimeModel
from kvsim.workload.lengths import IndependentLengths

__all__ = ["Setup", "prepare"]


@dataclass(frozen=True)
class Setup:
    """What a scenario comes to, before any request: derived once, shared by replications.

    Parameters
    ----------
    scenario : Scenario
        The question.
    deployment : Deployment
        Model, card and flags, all defaults filled in.
    kv : KVFormat
        Format of K and V.
    curve : BlockCurve
        Blocks of one sequence.
    num_blocks : int
        Blocks of the pool.
    step_time : StepTimeModel or ConstantStepTime
        What a step costs.
    """

    scenario: Scenario
    deployment: Deployment
    kv: KVFormat
    curve: BlockCurve
    num_blocks: int
    step_time: StepTimeModel | ConstantStepTime

    @property
    def scheduler(self) -> type[Scheduler]:
        """Who decides each step."""
        return SCHEDULERS.find(self.scenario.scheduler.policy)

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""
        return self.deployment.options.tensor_parallel_size

    @property
    def token_bytes(self) -> int:
        """KV bytes of one more token of a short context, one rank, all layers."""
        return bytes_per_token(self.deployment.model, self.kv, tp=self.tp)

    @property
    def pool_slots(self) -> int:
        """Token slots of the pool."""
        return self.num_blocks * self.curve.block_size


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
        For names that no catalogue knows, flags that contradict, or a model that leaves no
        room for any KV cache.
    """
    with blaming(scenario, "engine.name"):
        engine = get_engine(scenario.engine.name, scenario.engine.version)
    with blaming(scenario, "model"):
        model = model or find_model(scenario.model)
    with blaming(scenario, "accelerator"):
        accelerator = accelerator or find_accelerator(scenario.accelerator)
    with blaming(scenario, "engine"):
        deployment = engine.resolve(Deployment(model, accelerator, scenario.engine.options))
        kv = kv_format(_kv_name(deployment))
    _refuse_overlong(scenario, deployment)
    curve, num_blocks = _pool(engine, deployment)
    return Setup(scenario, deployment, kv, curve, num_blocks, _step_time(scenario, deployment))


def _refuse_overlong(scenario: Scenario, deployment: Deployment) -> None:
    """Refuse lengths of which the shortest is too long; single long requests are counted."""
    lengths, most = scenario.workload.lengths, deployment.options.max_model_len
    if not isinstance(lengths, IndependentLengths) or most is None:
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


def _kv_name(deployment: Deployment) -> str:
    """Name of the KV format: "auto" is the compute dtype."""
    name = deployment.options.kv_cache_dtype or "auto"
    return name if name != "auto" else deployment.options.dtype or deployment.model.dtype


def _pool(engine: Engine, deployment: Deployment) -> tuple[BlockCurve, int]:
    """Blocks of one sequence, and of the pool: those stated, else the plan's."""
    stated = deployment.options.num_gpu_blocks_override
    budget = engine.budget(deployment) if stated is None else None
    capacity = engine.capacity(deployment, budget.kv_cache_bytes if budget else 0)
    num_blocks = capacity.num_blocks if stated is None else stated
    if num_blocks <= 0:
        raise InputError(
            f"{deployment.model.name} leaves no room for KV cache on {deployment.accelerator.name}",
            fix="see `kvsim plan` for what would make it fit, or set num_gpu_blocks_override",
        )
    return _block_curve(capacity), num_blocks


def _block_curve(capacity: Capacity) -> BlockCurve:
    """Blocks of one sequence, from the engine's groups."""
    if not capacity.groups:
        return BlockCurve(capacity.block_size)
    caps = [group.most_blocks for group in capacity.groups if group.most_blocks is not None]
    growing = len(capacity.groups) - len(caps)
    return BlockCurve(capacity.block_size, growing, tuple(sorted(caps)))


def _step_time(scenario: Scenario, deployment: Deployment) -> StepTimeModel | ConstantStepTime:
    if scenario.step_time.kind == "profile":
        return StepTimeModel.from_deployment(deployment, engine=scenario.engine.name)
    if scenario.step_time.seconds is None:
        raise InputError(
            "a constant step time needs its seconds",
            where=scenario.where("step_time"),
            fix="set step_time.seconds",
        )
    return ConstantStepTime(scenario.step_time.seconds)
