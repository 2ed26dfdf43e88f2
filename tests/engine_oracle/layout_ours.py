"""kvsim's own layout of a case."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.engine import VLLM
from kvsim.engines.vllm.layout import layout_of
from kvsim.errors import UnsupportedError
from kvsim.specs.engine_options import EngineOptions
from tests.engine_oracle.layout_cases import RELEASE, Case, Planned

__all__ = ["config_of", "plan_here"]


def config_of(model: str) -> dict[str, Any]:
    """Return the ``config.json`` that the catalogue keeps of a model."""
    text = files("kvsim.catalog").joinpath("data", f"{model}.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)["config"]
    return config


def plan_here(case: Case) -> Planned:
    """Plan a case as kvsim does.

    Raises
    ------
    KVSimError
        For what kvsim refuses.
    """
    engine = get_engine("vllm", RELEASE)
    assert isinstance(engine, VLLM)
    asked = Deployment(find_model(case.model), find_accelerator(case.card), _options(case))
    deployment = engine.resolve(asked)
    layout = layout_of(deployment, engine.rules)
    capacity = engine.capacity(deployment, case.kv_bytes)
    if not capacity.holds_one:
        raise UnsupportedError("a sequence of --max-model-len does not fit")
    ranks = [engine.rank(deployment, stage) for stage in range(case.pp)]
    return Planned(
        capacity.num_blocks,
        capacity.logged_tokens,
        capacity.max_concurrency,
        tuple(layout.bytes_per_block(rank.layers_of(deployment.model)) for rank in ranks),
        tuple(
            sorted(
                (len(group.members), group.spec.block_size, group.block_bytes())
                for group in layout.groups
            )
        ),
    )


def _options(case: Case) -> EngineOptions:
    return EngineOptions(
        tensor_parallel_size=case.tp,
        pipeline_parallel_size=case.pp,
        decode_context_parallel_size=case.dcp,
        kv_cache_dtype=case.kv_dtype,
        block_size=case.block_size,
        max_model_len=case.max_model_len,
        enable_prefix_caching=case.caches_prefixes,
        kv_cache_memory_bytes=case.kv_bytes,
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_num_seqs=case.max_num_seqs,
    )
