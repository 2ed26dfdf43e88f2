"""llama.cpp: one contiguous cache, allocated in full before the first request.

There are no blocks and no utilisation flag: ``-c`` says how many cells there are, and they
are paid for whether or not a request ever fills them. So a capacity here answers "how large
may ``-c`` be", and its concurrency counts whole reservations.

Versions: "master", a build such as "b5200", or "ik" for the ik_llama.cpp fork with
``-mla 3`` ("ik-mla0" to "ik-mla3" name the other modes). The cells: `CellLayout`.
"""

from __future__ import annotations

from typing import Any

from kvsim.engines.base import Capacity, Deployment, Engine, GroupLayout, MemoryBudget
from kvsim.engines.common import (
    check_options,
    context_length,
    fill,
    gib_bytes,
    mean_token_bytes,
    read_data,
    refuse_kinds,
    stage_weight_bytes,
    tightest_stage,
    tokens_at,
)
from kvsim.engines.llama_cpp.cells import CellLayout, read_build, split_layers
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
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
    "gpu_memory_utilization": "it takes exactly what -c asks for: set --max-model-len",
    "kv_cache_memory_bytes": "size the cache with -c: set --max-model-len",
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

    def resolve(self, deployment: Deployment) -> Deployment:
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
        refuse_kinds(self.name, model, "compressed_latent", "cross")
        auto_slots = self.build.has("auto_slots") and options.max_num_seqs is None
        longest = model.max_position_embeddings
        if not self.build.has("context_of_model"):
            longest = min(longest, self.data["default_context_tokens"])
        resolved = fill(
            deployment,
            max_model_len=longest,
            max_num_seqs=self.data["auto_slots"] if auto_slots else 1,
            max_num_batched_tokens=self.data["default_ubatch_tokens"],
            flash_attention=self.build.has("flash_auto") or self.build.is_fork,
            kv_unified=auto_slots or not self.build.has("streams"),
            kv_cache_dtype="auto",
            kv_cache_dtype_v="auto",
        )
        self._check(resolved)
        return resolved

    def _check(self, deployment: Deployment) -> None:
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
        split_layers(deployment.model.num_layers, options.pipeline_parallel_size, 0)

    def _check_values(self, deployment: Deployment, fmt: KVFormat) -> None:
        """Raise InputError for a quantised V cache that would have to lie transposed."""
        flash_attention = bool(deployment.options.flash_attention)
        layout = self._layout(deployment, range(deployment.model.num_layers))
        keeps_values = any(layout.widths(a)[1] for _, a in layer_caches(deployment.model))
        if fmt.scale_group and keeps_values and not flash_attention:
            raise InputError(
                f"a V cache in {fmt.name} needs flash attention",
                where="--cache-type-v",
                fix="turn flash attention on (-fa on) or keep V in f16",
            )

    def _layout(self, deployment: Deployment, layers: range) -> CellLayout:
        options = deployment.options
        return CellLayout(
            model=deployment.model,
            layers=layers,
            build=self.build,
            formats=_formats(deployment),
            slots=options.max_num_seqs or 1,
            ubatch=options.max_num_batched_tokens or 0,
            unified=bool(options.kv_unified),
            flash_attention=bool(options.flash_attention),
            swa_full=options.swa_full,
        )

    def _heaviest(self, deployment: Deployment) -> CellLayout:
        """The device with the most KV bytes per token: it limits ``-c`` on equal cards."""
        model, devices = deployment.model, deployment.options.pipeline_parallel_size
        stages = (split_layers(model.num_layers, devices, device) for device in range(devices))
        layouts = (self._layout(deployment, layers) for layers in stages)
        return max(layouts, key=lambda layout: layout.all_full_bytes(1))

    def kv_mib(self, deployment: Deployment, *, device: int | None = None) -> tuple[float, float]:
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
        layers = range(deployment.model.num_layers)
        if device is not None:
            devices = deployment.options.pipeline_parallel_size
            layers = split_layers(deployment.model.num_layers, devices, device)
        layout = self._layout(deployment, layers)
        cells = [
            (plane, layout.cells(plane, context_length(deployment))) for plane in layout.planes()
        ]
        key = sum(plane.key_bytes * count for plane, count in cells)
        value = sum(plane.value_bytes * count for plane, count in cells)
        return key / MIB, value / MIB

    def compute_buffer_bytes(self, deployment: Deployment) -> int:
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
            width = max(width, (heads + masks) * context_length(deployment))
        return 4 * (options.max_num_batched_tokens or 0) * (width + model.hidden_size)

    def budget(self, deployment: Deployment) -> MemoryBudget:
        """What the fullest card has left for KV; ``-c`` decides how much of it is taken."""
        return tightest_stage(deployment, self._device_budget)

    def _device_budget(self, deployment: Deployment, device: int) -> MemoryBudget:
        total = deployment.accelerator.memory_bytes
        weights = stage_weight_bytes(deployment, device)
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

    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """The largest ``-c`` that `kv_bytes` of one device hold at this ``-np``.

        ``max_concurrency`` counts slots of ``max_model_len`` tokens, fractions shown: what
        ``-np`` could be with that room for each.
        """
        length, layout = context_length(deployment), self._heaviest(deployment)
        planes = layout.planes()
        cells = layout.streams * layout.largest_context(kv_bytes, length)
        per_token = sum(plane.cell_bytes for plane in planes)
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=layout.formats[0].name,
            bytes_per_token=per_token,
            block_size=1,
            bytes_per_block=mean_token_bytes(kv_bytes, cells, per_token),
            num_blocks=cells,
            max_model_len=length,
            max_concurrency=max(0, kv_bytes) / layout.slot_bytes(length),
            logged_tokens=cells,
            admission_tokens=tokens_at(kv_bytes, layout.slot_bytes(length), length),
            steady_tokens=tokens_at(kv_bytes, layout.kept_bytes(length), length),
            all_full_tokens=tokens_at(kv_bytes, layout.all_full_bytes(length), length),
            groups=tuple(
                GroupLayout(
                    name=plane.name,
                    layers=plane.layers,
                    padding_layers=0,
                    block_size=1,
                    page_bytes=plane.cell_bytes // plane.layers,
                    blocks_per_sequence=layout.slot_cells(plane, length),
                )
                for plane in planes
            ),
        )

    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """Cells in use when unified; a slot's whole reservation, however short, when not."""
        layout = self._heaviest(deployment)
        if layout.unified:
            return layout.kept_bytes(context)
        return layout.slot_bytes(context_length(deployment))

    def command(self, deployment: Deployment) -> str:
        """A ``llama-server`` line; ``-c`` counts all slots where each has its own stream."""
        resolved = self.resolve(deployment)
        options, asked = resolved.options, deployment.options
        slots = 1 if options.kv_unified else options.max_num_seqs or 1
        words = [f"llama-server -m {deployment.model.name}.gguf -ngl 999"]
        words.append(f"-c {context_length(resolved) * slots}")
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
