"""llama.cpp: one contiguous cache, allocated in full before the first request.

There are no blocks and no utilisation flag: ``-c`` says how many cells there are, and they
are paid for whether or not a request ever fills them. So a capacity here answers "how large
may ``-c`` be", and its concurrency counts whole reservations.

Versions: "master", a build such as "b5200", or "ik" for the ik_llama.cpp fork with
``-mla 3`` ("ik-mla0" to "ik-mla3" name the other modes). The cells: `CellLayout`.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from kvsim.engines.base import Band, Capacity, Deployment, Engine, MemoryBudget, ResolvedDeployment
from kvsim.engines.common import (
    check_options,
    deployed_weight_bytes,
    extrapolated_band,
    gib_bytes,
    layout_ratio,
    read_data,
    refuse_unknown,
    resolve,
    tokens_at,
)
from kvsim.engines.llama_cpp.cells import CellLayout, read_build, split_layers
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.pools import KVPools
from kvsim.memory.rank import Rank
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.units import MIB

__all__ = ["LlamaCpp"]

_CACHE_TYPES = ("fp32", "fp16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_WORDS = {"fp32": "f32", "fp16": "f16"}
_QUANT_BLOCK = 32

_FLAGS = {
    "pipeline_parallel_size": "--split-mode layer",
    "dtype": "-m (the GGUF file)",
    "quantization": "-m (the GGUF file)",
    "kv_cache_dtype": "--cache-type-k",
    "kv_cache_dtype_v": "--cache-type-v",
    "max_model_len": "-c",
    "max_num_seqs": "-np",
    "max_num_batched_tokens": "-ub",
    "swa_full": "--swa-full",
    "flash_attention": "-fa",
    "kv_unified": "--kv-unified",
    "enable_prefix_caching": "--cache-prompt",
}
_HINTS = {
    "hf_overrides": "its GGUF file says what the model is: convert one that says otherwise",
    "rope_scaling": "its GGUF file says what the model is: convert one that says otherwise",
    "gpu_memory_utilization": "it takes exactly what -c asks for: set --max-model-len",
    "kv_cache_memory_bytes": "size the cache with -c: set --max-model-len",
    "max_total_tokens": "-c is what counts tokens: set --max-model-len (and --max-num-seqs)",
    "block_size": "its cache is contiguous, one token a cell: leave the block size out",
    "tensor_parallel_size": "it splits by layers: set --pipeline-parallel-size instead",
    "data_parallel_size": "start one server per replica",
    "disable_hybrid_kv_cache_manager": "its word for that is --swa-full",
}


class LlamaCpp(Engine):
    """llama.cpp and its ik fork; see the module for the versions."""

    name = "llama.cpp"
    newest_version = "master"

    def __init__(self, version: str = "") -> None:
        super().__init__(version.lower())
        self.build = read_build(self.version)
        self.data: dict[str, Any] = read_data("llama_cpp_overheads")

    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill this build's defaults; the cache is f16 whatever the model's dtype.

        ``max_model_len`` is one sequence's room: ``-c`` when unified, else ``-c`` over ``-np``.

        Raises
        ------
        InputError
            For a flag or cache type that llama.cpp lacks, or a contradiction.
        UnsupportedError
            For cross attention and DeepSeek-V4's compressed cache.
        """
        options, model = deployment.options, deployment.model
        check_options(self.name, options, _FLAGS, _HINTS)
        refuse_unknown(self.name, model)
        auto_slots = self.build.has("auto_slots") and options.max_num_seqs is None
        longest = model.max_position_embeddings
        if not self.build.has("context_of_model"):
            longest = min(longest, self.data["default_context_tokens"])
        key, value = _formats(deployment)
        named = options.model_copy(update={"kv_cache_dtype_v": value.name})
        resolved = resolve(
            replace(deployment, options=named),
            kv=key,
            max_model_len=longest,
            max_num_seqs=self.data["auto_slots"] if auto_slots else 1,
            max_num_batched_tokens=self.data["default_ubatch_tokens"],
            flash_attention=self.build.has("flash_auto") or self.build.is_fork,
            kv_unified=auto_slots or not self.build.has("streams"),
        )
        self._check(resolved)
        return resolved

    def _check(self, deployment: ResolvedDeployment) -> None:
        """Raise InputError for formats and flags that no llama.cpp of this build accepts."""
        options = deployment.options
        formats = _formats(deployment)
        for fmt, side in zip(formats, "kv", strict=True):
            _check_cache_type(deployment, fmt, side)
        self._check_values(deployment, formats[1])
        if not options.kv_unified and not self.build.has("streams"):
            raise InputError(
                f"llama.cpp {self.version} has one cache for all slots",
                where="--no-kv-unified",
                fix="leave it unified, or choose a newer build",
            )
        self.rank(deployment)

    def _check_values(self, deployment: ResolvedDeployment, fmt: KVFormat) -> None:
        """Raise InputError for a quantised V cache that would have to lie transposed."""
        flash_attention = deployment.options.flash_attention
        layout = self._layout(deployment, Rank())
        keeps_values = any(layout.widths(a)[1] for _, a in layer_caches(deployment.model))
        if fmt.scale_group and keeps_values and not flash_attention:
            raise InputError(
                f"a V cache in {fmt.name} needs flash attention",
                where="--cache-type-v",
                fix="turn flash attention on (-fa on) or keep V in f16",
            )

    def _layout(self, deployment: ResolvedDeployment, rank: Rank) -> CellLayout:
        options = deployment.options
        return CellLayout(
            model=deployment.model,
            rank=rank,
            build=self.build,
            formats=_formats(deployment),
            slots=options.max_num_seqs,
            ubatch=options.max_num_batched_tokens,
            unified=options.kv_unified,
            flash_attention=options.flash_attention,
            swa_full=options.swa_full,
        )

    def rank(self, deployment: ResolvedDeployment, stage: int = 0) -> Rank:
        """One device, with its layers under ``--split-mode layer``."""
        devices = deployment.options.pipeline_parallel_size
        layers = split_layers(deployment.model.num_layers, devices, stage)
        return replace(super().rank(deployment, stage), layers=layers)

    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes of one slot of ``max_model_len`` on that device: it limits ``-c``."""
        return self._layout(deployment, rank).slot_bytes(deployment.options.max_model_len)

    def kv_mib(
        self, deployment: ResolvedDeployment, *, device: int | None = None
    ) -> tuple[float, float]:
        """MiB of K and of V that a resolved deployment allocates, as the log prints them.

        Parameters
        ----------
        deployment : Deployment
            Resolved.
        device : int, optional
            One of the devices of ``--split-mode layer``; None adds them all.

        Returns
        -------
        tuple of float
            K and V, MiB. For MLA, K is the latent ("c^KV") and V its transposed copy.
        """
        rank = Rank() if device is None else self.rank(deployment, device)
        layout = self._layout(deployment, rank)
        length = deployment.options.max_model_len
        cells = [(plane, layout.cells(plane, length)) for plane in layout.planes()]
        key = sum(plane.key_bytes * count for plane, count in cells)
        value = sum(plane.value_bytes * count for plane, count in cells)
        return key / MIB, value / MIB

    def compute_buffer_bytes(self, deployment: ResolvedDeployment) -> int:
        """Scratch of one micro-batch: logits, or attention scores without flash attention.

        Notes
        -----
        ``4 * ubatch * (max(vocab + hidden, (heads + masks) * context) + hidden)`` bytes, all
        in f32; the scores only without flash attention. There is a mask for the full layers
        and one for the window layers.
        """
        model, options = deployment.model, deployment.options
        width = model.vocab_size + model.hidden_size
        if not options.flash_attention:
            caches = [attention for _, attention in layer_caches(model)]
            heads = max((attention.query_heads for attention in caches), default=0)
            masks = 1 + any(attention.recent_tokens for attention in caches)
            width = max(width, (heads + masks) * options.max_model_len)
        return 4 * options.max_num_batched_tokens * (width + model.hidden_size)

    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """What one card has left for KV; ``-c`` decides how much of it is taken."""
        total = deployment.accelerator.memory_bytes
        weights = deployed_weight_bytes(deployment, rank)
        activation = self.compute_buffer_bytes(deployment)
        context = self.data["cuda_context_gib"]
        non_torch = gib_bytes(context)
        return MemoryBudget(
            total_bytes=total,
            budget_bytes=total,
            weights_bytes=weights,
            activation_bytes=activation,
            non_torch_bytes=non_torch,
            cuda_graph_bytes=0,
            kv_cache_bytes=total - weights - activation - non_torch,
            provenance=(
                ("activation_bytes", "computed: the compute buffer of one micro-batch"),
                ("non_torch_bytes", context["source"]),
            ),
        )

    def kv_band(self, deployment: ResolvedDeployment, budget: MemoryBudget) -> Band:
        """How far what is left for KV may be from what is; its size follows from ``-c`` exactly."""
        return extrapolated_band(self.name, budget)

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """The largest ``-c`` that `kv_bytes` of one device hold at this ``-np``.

        ``max_concurrency`` counts slots of ``max_model_len`` tokens, fractions shown: what
        ``-np`` could be with that room for each.
        """
        length = deployment.options.max_model_len
        layout = self._layout(deployment, self.tightest_rank(deployment))
        stream_cells = layout.largest_context(kv_bytes, length)
        per_token = sum(plane.cell_bytes for plane in layout.planes())
        cells = layout.streams * stream_cells
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=deployment.options.kv_cache_dtype,
            bytes_per_token=per_token,
            max_model_len=length,
            max_concurrency=max(0, kv_bytes) / layout.slot_bytes(length),
            logged_tokens=cells,
            admission_tokens=tokens_at(kv_bytes, layout.slot_bytes(length), length),
            steady_tokens=tokens_at(kv_bytes, layout.kept_bytes(length), length),
            all_full_tokens=tokens_at(kv_bytes, layout.all_full_bytes(length), length),
            pools=KVPools(
                tuple(layout.pools(kv_bytes, length)),
                layout_ratio(deployment, per_token, layout.rank),
            ),
        )

    def command(self, deployment: Deployment) -> str:
        """A ``llama-server`` line; ``-c`` counts all slots where each has its own stream."""
        resolved = self.resolve(deployment)
        options, asked = resolved.options, deployment.options
        slots = 1 if options.kv_unified else options.max_num_seqs
        words = [f"llama-server -m {shlex.quote(f'{deployment.model.name}.gguf')} -ngl 999"]
        words.append(f"-c {options.max_model_len * slots}")
        words += [f"-np {asked.max_num_seqs}"] if asked.max_num_seqs else []
        words += [f"-ub {asked.max_num_batched_tokens}"] if asked.max_num_batched_tokens else []
        words += ["--split-mode layer"] if asked.pipeline_parallel_size > 1 else []
        words += ["--kv-unified"] if asked.kv_unified and asked.max_num_seqs else []
        words += ["--swa-full"] if asked.swa_full else []
        if asked.flash_attention is not None:
            words.append("-fa on" if asked.flash_attention else "-fa off")
        for fmt, side in zip(_formats(deployment), "kv", strict=True):
            name = _WORDS.get(fmt.name, fmt.name)
            words += [f"--cache-type-{side} {name}"] if name != "f16" else []
        return " ".join(words)


def _formats(deployment: Deployment) -> tuple[KVFormat, KVFormat]:
    """``--cache-type-k`` and ``--cache-type-v``: f16 each unless said."""
    options = deployment.options
    words = (options.kv_cache_dtype or "auto", options.kv_cache_dtype_v or "auto")
    key, value = (kv_format("fp16" if word == "auto" else word) for word in words)
    return key, value


def _check_cache_type(deployment: Deployment, fmt: KVFormat, side: str) -> None:
    """Raise InputError for an unknown type, or blocks of 32 that do not divide a head."""
    where = f"--cache-type-{side}"
    if fmt.name not in _CACHE_TYPES:
        words = ", ".join(_WORDS.get(name, name) for name in _CACHE_TYPES)
        raise InputError(f"llama.cpp has no {fmt.name} cache", where=where, fix=f"choose {words}")
    for _, attention in layer_caches(deployment.model):
        if not attention.keeps("kv"):
            continue
        dim = attention.vectors.key_dim if side == "k" else attention.vectors.value_dim
        if fmt.scale_group and dim % _QUANT_BLOCK:
            raise InputError(
                f"{fmt.name} stores blocks of {_QUANT_BLOCK}, which do not divide the head"
                f" size {dim} of {deployment.model.name}",
                where=where,
                fix="keep it in f16",
            )
