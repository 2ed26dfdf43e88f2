"""Who ``simulator_speed.py`` times beside kvsim: DynoSim, and the plain engine of the tests."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType

from speed_cases import Case, Generated

from kvsim.simulator.prepare import Setup, prepare
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.workload.spec import build_workload

__all__ = ["dynosim", "dynosim_run", "oracle_run"]


def dynosim() -> ModuleType | None:
    """DynoSim's extension module, where it is installed."""
    try:
        return importlib.import_module("dynamo._core")
    except ImportError:
        return None


def dynosim_run(core: ModuleType, case: Case, requests: int, folder: Path) -> None:
    """The same requests through DynoSim, with the same pool and the same bounds of a step."""
    engine = {"engine": _engine(prepare(case.scenario_of(requests, folder)))}
    asked = case.asked
    if not isinstance(asked, Generated):
        core.run_mocker_trace_replay(
            [str(case.rival_file(requests, folder))],
            extra_engine_args=engine,
            trace_block_size=512,
            capture_planner_details=False,
        )
        return
    core.run_mocker_synthetic_trace_replay(
        asked.prompt_tokens,
        asked.output_tokens,
        requests,
        request_rate=float(asked.rate),
        extra_engine_args=engine,
        shared_prefix_ratio=asked.shared_tokens / asked.prompt_tokens,
        num_prefix_groups=asked.groups,
        capture_planner_details=False,
    )


def _engine(setup: Setup) -> dict[str, object]:
    """The deployment in DynoSim's words."""
    options = setup.deployment.options
    return {
        "backend": "vllm",
        "num_gpu_blocks": setup.num_blocks,
        "block_size": setup.curve.block_size,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enable_prefix_caching": options.enable_prefix_caching,
    }


def oracle_run(case: Case, requests: int, folder: Path) -> None:
    """Step through the requests with the plain engine of the tests."""
    oracle = importlib.import_module("oracle")
    scenario = case.scenario_of(requests, folder)
    setup = prepare(scenario)
    model, options = setup.deployment.model, setup.deployment.options
    reads = KVReadCurve.from_model(model, setup.kv, setup.rank)
    blocks, block_size = setup.num_blocks, setup.curve.block_size
    oracle.ENGINES["vllm-v1"](
        oracle.NamedBlocks(blocks, block_size, int(options.async_scheduling))
        if options.enable_prefix_caching
        else oracle.Blocks(blocks, [oracle.Group(block_size)]),
        oracle.Limits(
            options.max_num_seqs,
            options.max_num_batched_tokens,
            options.max_model_len,
            asynchronous=options.async_scheduling,
        ),
        oracle.Costs(setup.step_time, partial(prefill_pairs, model), reads.bytes_at),
        oracle.Arrivals(build_workload(scenario.workload, scenario.folder)),
    ).run()
