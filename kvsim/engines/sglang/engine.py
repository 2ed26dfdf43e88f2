"""SGLang: a fraction of what is free before the load, for weights and KV together.

::

    total
    ├── CUDA context                            gone before SGLang looks
    └── free before the load
        ├── x mem_fraction_static               weights, then the pools
        │     rest = free_after_weights - free_before_weights * (1 - fraction)
        └── x (1 - mem_fraction_static)         activations and CUDA graphs

The rest is one pool of token slots, or is cut between two pools (full and window layers) or
three (recurrent states). Rules are those of SGLang 0.5.23's ``memory_hook.py``
and ``pool_configurator.py``, and of ``model_runner.profile_max_num_token`` before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kvsim.engines.base import Capacity, Deployment, MemoryBudget, ResolvedDeployment
from kvsim.engines.common import (
    ReleasedEngine,
    check_kv_format,
    check_options,
    check_pool,
    declared_kv_format,
    deployed_weight_bytes,
    gib_bytes,
    layout_ratio,
    most_tokens,
    refuse_unknown,
    resolve,
)
from kvsim.engines.sglang.image_layers import (
    check_image_layers,
    check_page,
    step_tokens,
    text_positions,
)
from kvsim.engines.sglang.launch import FLAGS, launch_command
from kvsim.engines.sglang.lengths import check_length
from kvsim.engines.sglang.pools import (
    PoolLayout,
    PoolRules,
    PoolSizes,
    pool_layout,
    split_pools,
)
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.pools import KVPools
from kvsim.memory.rank import Rank
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.units import GIB, MIB, ceil_div

__all__ = ["SGLang"]

_KV_FORMATS = ("bf16", "fp16", "fp32", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "fp8_ds_mla")
_SPARSE_PAGE = 64

_HINTS = {
    "rope_scaling": "write --hf-overrides '{\"rope_scaling\": {...}}' (--json-model-override-args)",
    "kv_cache_memory_bytes": "its pool has a size in tokens: set --max-total-tokens, or"
    " --mem-fraction-static (--gpu-memory-utilization here)",
    "swa_full": "its word for that is --disable-hybrid-swa-memory",
    "kv_cache_dtype_v": "K and V share --kv-cache-dtype",
}


class SGLang(ReleasedEngine):
    """SGLang 0.4 to 0.5.23."""

    name = "sglang"
    oldest_release, newest_version = "0.4", "0.5.23"
    data_name = "sglang_overheads"

    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill SGLang's defaults for this card.

        ``max_num_seqs`` becomes the floor of SGLang's clamp; `running_limit` gives the
        limit that follows from a capacity.
        """
        options, model = deployment.options, deployment.model
        check_options(self.name, options, FLAGS, _HINTS)
        refuse_unknown(self.name, model, *(("kv fixed",) if model.encoder_tokens else ()))
        if model.encoder_tokens:
            check_image_layers(deployment, reserves_chunks=self.since("reserve_formula"))
        check_pool(options)
        check_length(deployment)
        _check_parallelism(options)
        sparse = any(a.keeps("indexer") for _, a in layer_caches(model))
        fmt = self._kv_format(deployment, sparse)
        check_kv_format(self.name, "--kv-cache-dtype", fmt, _KV_FORMATS)
        chunk = options.max_num_batched_tokens or self._device_class(deployment)["chunked_prefill"]
        resolved = resolve(
            deployment,
            kv=fmt,
            max_model_len=text_positions(deployment),
            max_num_batched_tokens=chunk,
            max_num_seqs=self.data["running_requests"]["least"],
            block_size=_SPARSE_PAGE if sparse else 1,
            enable_prefix_caching=not model.encoder_tokens,
            swa_full_tokens_ratio=self.data["swa_full_tokens_ratio"],
            gpu_memory_utilization=options.gpu_memory_utilization
            or self._default_fraction(deployment, chunk),
        )
        if model.encoder_tokens:
            check_page(resolved)
            whole = {"max_num_batched_tokens": step_tokens(deployment)}
            resolved = replace(resolved, options=resolved.options.model_copy(update=whole))
        self._layout(resolved, self.rank(resolved))
        return resolved

    def overrides(self, options: EngineOptions) -> Overrides | None:
        """``--json-model-override-args``, which merges a rope scaling into the config's own."""
        if options.hf_overrides is None:
            return None
        fields, flag = json.loads(options.hf_overrides), FLAGS["hf_overrides"]
        return Overrides(fields, flag, merges_rope=True, merges_deep=False)

    def _kv_format(self, deployment: Deployment, sparse: bool) -> KVFormat:
        """Sparse MLA keeps fp8 in 656-byte entries, and prefers fp8 on Blackwell."""
        blackwell = deployment.accelerator.name.startswith(("B200", "B300", "GB200", "GB300"))
        fmt = deployment.kv_format
        # mem_cache/kv_cache_dtype.py of 0.5.23: ModelOpt's "FP8" alone
        if declared_kv_format(deployment, ("modelopt",)) == "fp8_e4m3":
            fmt = kv_format("fp8_e4m3")
        if sparse and blackwell and deployment.options.kv_cache_dtype in (None, "auto"):
            fmt = kv_format("fp8_e4m3")
        return kv_format("fp8_ds_mla") if sparse and fmt.name == "fp8_e4m3" else fmt

    def _device_class(self, deployment: Deployment) -> dict[str, Any]:
        key = "reserve_formula" if self.since("reserve_formula") else "before"
        memory_gib = deployment.accelerator.memory_bytes / GIB
        rows: list[dict[str, Any]] = self.data["device_classes"][key]
        return next(row for row in rows if memory_gib < row["below_gib"])

    def _default_fraction(self, deployment: Deployment, chunk_tokens: int) -> float:
        """``mem_fraction_static`` where the user sets none."""
        if not self.since("reserve_formula"):
            tp = deployment.options.tensor_parallel_size
            steps = self.data["fraction_by_tp"]["values"]
            return float(next(fraction for least, fraction in steps if tp >= least))
        total_mib = deployment.accelerator.memory_bytes / MIB
        fraction = round((total_mib - self._reserve_mib(deployment, chunk_tokens)) / total_mib, 3)
        if fraction <= 0:
            raise InputError(
                f"SGLang would reserve all of {deployment.accelerator.name} for activations",
                where="--mem-fraction-static",
                fix="set --gpu-memory-utilization or a smaller --max-num-batched-tokens",
            )
        return fraction

    def _reserve_mib(self, deployment: Deployment, chunk_tokens: int) -> float:
        """Memory kept for activations and graphs: constant + chunk + ranks + graphs."""
        terms, options = self.data["reserve_mib"], deployment.options
        ranks = options.tensor_parallel_size * options.pipeline_parallel_size
        reserve = (
            terms["constant"]
            + terms["per_chunk_token"] * max(chunk_tokens, 2048)
            + terms["per_8_ranks"] * ranks / 8
            + self._graph_mib(deployment)
        )
        large = deployment.accelerator.memory_bytes > 60 * GIB
        return float(max(reserve, terms["floor_over_60_gib"]) if large else reserve)

    def _graph_mib(self, deployment: Deployment) -> float:
        terms, options = self.data["reserve_mib"], deployment.options
        if options.enforce_eager:
            return 0.0
        wide = options.tensor_parallel_size >= 4
        batch = self._device_class(deployment)["decode_batch_wide" if wide else "decode_batch"]
        graphs = terms["per_decode_sequence"] * batch
        if options.enable_dp_attention:
            over = "_over_300" if batch > 300 else ""
            per_sequence = terms[f"dp_attention_per_sequence{over}"]
            graphs += per_sequence * batch * options.data_parallel_size
        if self.since("prefill_graphs"):
            latent = any(a.keeps("latent") for _, a in layer_caches(deployment.model))
            plain = terms["prefill_graph"] * terms["prefill_graph_count"]
            graphs += terms["prefill_graphs_mla"] if latent else plain
        return float(graphs)

    def rank(self, deployment: ResolvedDeployment, stage: int = 0) -> Rank:
        """Attention is split over all ranks, or over those of one data-parallel group."""
        rank = super().rank(deployment, stage)
        return replace(rank, attention_tp=_attention_tp(deployment.options))

    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """``rest = free_after_weights - free_before_weights * (1 - fraction)`` of one rank.

        The budget includes the CUDA context, so that the terms add up to the total; what
        activations and graphs use lies outside it, in the remaining fraction.
        """
        options, total = deployment.options, deployment.accelerator.memory_bytes
        context, overhead = self._context(deployment), self.data["load_overhead_gib"]
        context_bytes, overhead_bytes = gib_bytes(context), gib_bytes(overhead)
        weights = deployed_weight_bytes(deployment, rank)
        usable = int((total - context_bytes) * options.gpu_memory_utilization)
        budget = context_bytes + usable
        return MemoryBudget(
            total_bytes=total,
            budget_bytes=budget,
            weights_bytes=weights,
            activation_bytes=0,
            non_torch_bytes=context_bytes + overhead_bytes,
            cuda_graph_bytes=0,
            kv_cache_bytes=budget - weights - context_bytes - overhead_bytes,
            provenance=(
                ("activation_bytes", "outside the budget, in 1 - mem_fraction_static"),
                ("cuda_graph_bytes", "outside the budget, in 1 - mem_fraction_static"),
                ("non_torch_bytes", f"{context['source']}; {overhead['source']}"),
            ),
        )

    def _context(self, deployment: ResolvedDeployment) -> dict[str, Any]:
        """GiB that are gone on this card before SGLang looks, and their source."""
        name = deployment.accelerator.name
        rows: list[dict[str, Any]] = self.data["cuda_context_gib"]
        return next(row for row in rows if name.startswith(tuple(row["cards"])))

    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes of a sequence of ``max_model_len`` on that rank."""
        local = ceil_div(deployment.options.max_model_len, rank.dcp)
        return self._layout(deployment, rank).bytes_at(local)

    def _sequences_in(self, deployment: ResolvedDeployment, rank: Rank, kv_bytes: int) -> float:
        """What the pool holds that runs out first: a rule cuts the bytes, not the need."""
        layout = self._layout(deployment, rank)
        if not (layout.full_bytes or layout.window_bytes):
            return super()._sequences_in(deployment, rank, kv_bytes)
        local = ceil_div(deployment.options.max_model_len, rank.dcp)
        return self._sizes(deployment, layout, kv_bytes).sequences(
            layout.full_tokens(local),
            layout.window_tokens(local),
            self._states_per_request(deployment.options),
        )

    def _layout(self, deployment: ResolvedDeployment, rank: Rank) -> PoolLayout:
        """What a token and a request take of each pool, on one rank."""
        return pool_layout(
            deployment.model,
            deployment.kv_format,
            rank,
            count_indexer=self.since("indexer_counted"),
            hybrid=not deployment.options.disable_hybrid_kv_cache_manager,
        )

    def sizes(self, deployment: ResolvedDeployment, kv_bytes: int) -> PoolSizes:
        """Tokens and states that `kv_bytes` of the tightest rank are cut into."""
        layout = self._layout(deployment, self.tightest_rank(deployment))
        return self._sizes(deployment, layout, kv_bytes)

    def _sizes(
        self, deployment: ResolvedDeployment, layout: PoolLayout, kv_bytes: int
    ) -> PoolSizes:
        options, page = deployment.options, deployment.options.block_size
        rules = PoolRules(
            page=page,
            window_ratio=options.swa_full_tokens_ratio,
            state_ratio=self.data["mamba_full_memory_ratio"],
            most_states=None if options.enable_prefix_caching else options.max_num_seqs,
            most_tokens=most_tokens(options, page),
        )
        return split_pools(layout, rules, max(0, kv_bytes))

    def running_limit(self, deployment: ResolvedDeployment, kv_bytes: int) -> int:
        """``max_running_requests`` as SGLang derives it, or the user's if that is less."""
        rule, options = self.data["running_requests"], deployment.options
        sizes = self.sizes(deployment, kv_bytes)
        context = options.max_model_len + deployment.model.encoder_tokens
        wanted = int(sizes.full_tokens / context * rule["per_context"])
        limit: int = min(max(wanted, rule["least"]), rule["most"], sizes.full_tokens // 2)
        if sizes.states is not None:
            limit = min(limit, sizes.states // self._states_per_request(options))
        explicit = options.max_num_seqs != rule["least"]
        return min(limit, options.max_num_seqs) if explicit else limit

    def _states_per_request(self, options: ResolvedOptions) -> int:
        """State slots of a running request: beside the radix cache two more, to track prefixes in.

        SGLang admits no more requests than ``max_mamba_cache_size`` over this ratio.
        """
        return int(self.data["mamba_slots_per_request"]) if options.enable_prefix_caching else 1

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Cut `kv_bytes` of one rank into SGLang's pools.

        ``logged_tokens`` is ``max_total_num_tokens``: the full-attention pool's. Admission
        asks both pools (a window and a page per request) and the state slots, three per request
        beside the radix cache.
        """
        options, length = deployment.options, deployment.options.max_model_len
        rank = self.tightest_rank(deployment)
        layout, sizes = self._layout(deployment, rank), self.sizes(deployment, kv_bytes)
        page, dcp = options.block_size, rank.dcp
        per_request, local = self._states_per_request(options), ceil_div(length, dcp)
        held = layout.full_tokens(local)
        admission = sizes.sequences(held, layout.window_tokens(local, page), per_request)
        steady = sizes.sequences(held, layout.window_tokens(local), per_request)
        all_full = sizes.sequences(held, local, per_request)
        token_bytes = layout.grown_bytes
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=options.kv_cache_dtype,
            bytes_per_token=token_bytes,
            max_model_len=length,
            max_concurrency=admission,
            logged_tokens=sizes.full_tokens * dcp,
            admission_tokens=int(admission * length),
            steady_tokens=int(steady * length),
            all_full_tokens=int(all_full * length),
            pools=KVPools(
                tuple(layout.pools(sizes, local, page, ranks=dcp, states=per_request)),
                layout_ratio(deployment, token_bytes / dcp, rank),
            ),
        )

    def command(self, deployment: Deployment) -> str:
        """A ``sglang.launch_server`` line with what the user set."""
        return launch_command(deployment, self.resolve(deployment).options.block_size)


def _attention_tp(options: EngineOptions) -> int:
    """Ranks that share one copy of the attention: all of them, or ``tp / dp``."""
    dp = options.data_parallel_size if options.enable_dp_attention else 1
    return options.tensor_parallel_size // dp


def _check_parallelism(options: EngineOptions) -> None:
    tp, dp = options.tensor_parallel_size, options.data_parallel_size
    if options.enable_dp_attention and tp % dp:
        raise InputError(
            f"attention cannot be dealt to dp={dp} groups of tp={tp} ranks",
            where="--enable-dp-attention",
            fix="choose a data-parallel size that divides the tensor-parallel size",
        )
    dcp = options.decode_context_parallel_size
    if _attention_tp(options) % dcp:
        raise InputError(
            f"--dcp-size {dcp} does not divide the {_attention_tp(options)} attention ranks",
            fix="choose a divisor",
        )
