"""Plain transformers: tensors that grow by concatenation, and no manager at all.

::

    DynamicCache, one layer, K         old [........]            n tokens
      torch.cat at each append         new [.........]           n + 1 tokens, both alive
    StaticCache                            [.........______]     max_length, from the start

There are no blocks and no admission check: what fits is what PyTorch can allocate. While a
layer appends, its old and its new tensor exist at once, so a batch needs one tensor of one
layer more than it keeps. See the transformers documentation, "Cache strategies", and
``DynamicLayer.update`` and ``StaticLayer`` in ``cache_utils.py``.

Versions: a release such as "4.57" or "5.0"; "5.0-static" for a StaticCache.
"""

from __future__ import annotations

from collections.abc import Collection

from kvsim.engines.base import Capacity, Deployment, GroupLayout, MemoryBudget
from kvsim.engines.common import (
    ReleasedEngine,
    check_kv_format,
    check_options,
    context_length,
    fill,
    gib_bytes,
    heaviest_stage,
    mean_token_bytes,
    mlp_activation_bytes,
    refuse_kinds,
    resolve_kv_format,
    stage_weight_bytes,
    tightest_stage,
    tokens_at,
)
from kvsim.memory.footprint import fixed_bytes, layer_caches
from kvsim.specs.attention import Attention
from kvsim.specs.precision import KVFormat, kv_format

__all__ = ["Transformers"]

_KV_FORMATS = ("bf16", "fp16", "fp32")
_STATIC = "-static"

_FLAGS = {
    "tensor_parallel_size": "tp_plan='auto'",
    "pipeline_parallel_size": "device_map='auto'",
    "dtype": "dtype",
    "quantization": "quantization_config",
    "kv_cache_dtype": "dtype (the cache has the model's)",
    "gpu_memory_utilization": "torch.cuda.set_per_process_memory_fraction",
    "max_model_len": "max_length",
    "max_num_seqs": "the batch",
    "max_num_batched_tokens": "prefill_chunk_size",
}
_HINTS = {
    "block_size": "its cache has no blocks: leave the block size out",
    "enable_prefix_caching": "it keeps nothing between calls of generate()",
    "data_parallel_size": "start one process per replica",
    "kv_cache_memory_bytes": "it has no pool to size: set --max-model-len and --max-num-seqs",
    "num_gpu_blocks_override": "its cache has no blocks",
}


class Transformers(ReleasedEngine):
    """``generate()`` of transformers with a DynamicCache, or a StaticCache."""

    name = "transformers"
    oldest_release, newest_version = "4.36", "5.0"
    data_name = "transformers_overheads"

    @property
    def is_static(self) -> bool:
        """Whether ``generate()`` is given a StaticCache."""
        return self.version.endswith(_STATIC)

    def _release_number(self) -> str:
        return self.version.removesuffix(_STATIC)

    def resolve(self, deployment: Deployment) -> Deployment:
        """Fill the defaults: one sequence, the model's length, one prefill for the prompt.

        Raises
        ------
        InputError
            For a flag that ``generate()`` has no word for, or a cache that is not in the
            model's compute dtype.
        UnsupportedError
            For DeepSeek's compressed and sparse caches.
        """
        options, model = deployment.options, deployment.model
        check_options(self.name, options, _FLAGS, _HINTS)
        refuse_kinds(self.name, model, "compressed_latent")
        fmt = resolve_kv_format(deployment)
        check_kv_format(self.name, "dtype", fmt, _KV_FORMATS)
        resolved = fill(
            deployment,
            max_model_len=model.max_position_embeddings,
            max_num_batched_tokens=options.max_model_len or model.max_position_embeddings,
            max_num_seqs=1,
            gpu_memory_utilization=1.0,
            kv_cache_dtype=fmt.name,
        )
        self._stage(resolved)
        return resolved

    def budget(self, deployment: Deployment) -> MemoryBudget:
        """Everything but the weights, the CUDA context and the prompt's activations."""
        return tightest_stage(deployment, self._stage_budget)

    def _stage_budget(self, deployment: Deployment, stage: int) -> MemoryBudget:
        options, total = deployment.options, deployment.accelerator.memory_bytes
        weights = stage_weight_bytes(deployment, stage)
        prompt = min(options.max_num_batched_tokens or 0, context_length(deployment))
        activation = mlp_activation_bytes(deployment.model, prompt, options.tensor_parallel_size)
        context = self.data["cuda_context_gib"]
        non_torch = gib_bytes(context)
        budget = int(total * (options.gpu_memory_utilization or 1.0))
        return MemoryBudget(
            total_bytes=total,
            budget_bytes=budget,
            weights_bytes=weights,
            activation_bytes=activation,
            non_torch_bytes=non_torch,
            cuda_graph_bytes=0,
            kv_cache_bytes=budget - weights - activation - non_torch,
            provenance=(
                ("activation_bytes", "computed: widest layer over one sequence's prompt"),
                ("non_torch_bytes", context["source"]),
            ),
        )

    def _stage(self, deployment: Deployment) -> Collection[int]:
        length = context_length(deployment)
        return heaviest_stage(
            deployment, lambda layers: self._kept_bytes(deployment, layers, length)
        )

    def _states(self, attention: Attention, context: int) -> int:
        """Entries that a layer keeps; old releases let sliding layers grow without end."""
        if self.since("window_layers") or not attention.grows:
            return attention.states(context)
        return context

    def _kept_bytes(
        self, deployment: Deployment, layers: Collection[int], context: int, *, full: bool = False
    ) -> int:
        """Bytes between two steps of one sequence; `full` keeps all tokens of all layers."""
        fmt, tp = resolve_kv_format(deployment), deployment.options.tensor_parallel_size
        kept = fixed_bytes(deployment.model, tp=tp, layers=layers)
        for count, attention in layer_caches(deployment.model, layers):
            states = context if full and attention.grows else self._states(attention, context)
            kept += count * states * sum(_vector_bytes(attention, fmt, tp))
        return kept

    def _append_bytes(
        self, deployment: Deployment, layers: Collection[int], context: int, *, full: bool = False
    ) -> int:
        """Bytes of the widest tensor of one layer, which exists twice while it grows."""
        if self.is_static:
            return 0
        fmt, tp = resolve_kv_format(deployment), deployment.options.tensor_parallel_size
        widest = 0
        for _, attention in layer_caches(deployment.model, layers):
            if attention.grows:
                states = context if full else self._states(attention, context)
                widest = max(widest, states * max(_vector_bytes(attention, fmt, tp)))
        return widest

    def _peak_bytes(self, deployment: Deployment, context: int, *, full: bool = False) -> int:
        layers = self._stage(deployment)
        kept = self._kept_bytes(deployment, layers, context, full=full)
        return kept + self._append_bytes(deployment, layers, context, full=full)

    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """Sequences of ``max_model_len`` whose peak `kv_bytes` of one rank hold.

        Admission counts the peak while a layer appends, steady what is kept between steps.
        transformers prints no size; ``logged_tokens`` is the admission figure.
        """
        length, layers = context_length(deployment), self._stage(deployment)
        peak = self._peak_bytes(deployment, length)
        everything = self._peak_bytes(deployment, length, full=True)
        fmt, tp = resolve_kv_format(deployment), deployment.options.tensor_parallel_size
        per_token = sum(
            count * sum(_vector_bytes(attention, fmt, tp))
            for count, attention in layer_caches(deployment.model, layers)
            if attention.grows
        )
        tokens = tokens_at(kv_bytes, peak, length)
        kept = self._kept_bytes(deployment, layers, length)
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=fmt.name,
            bytes_per_token=per_token,
            block_size=1,
            bytes_per_block=mean_token_bytes(kv_bytes, tokens, per_token),
            num_blocks=tokens,
            max_model_len=length,
            max_concurrency=max(0, kv_bytes) / peak,
            logged_tokens=tokens,
            admission_tokens=tokens,
            steady_tokens=tokens_at(kv_bytes, kept, length),
            all_full_tokens=tokens_at(kv_bytes, everything, length),
            groups=(GroupLayout("all layers", len(layers), 0, 1, per_token, length),),
        )

    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """What a sequence keeps; a StaticCache takes its whole length from the start."""
        held = context_length(deployment) if self.is_static else context
        return self._kept_bytes(deployment, self._stage(deployment), held)

    def command(self, deployment: Deployment) -> str:
        """The two calls, on one line of Python."""
        options, model = deployment.options, deployment.model
        load = [repr(model.hf_id or model.name), f"dtype={_torch_word(options.dtype)!r}"]
        load.append("tp_plan='auto'" if options.tensor_parallel_size > 1 else "device_map='auto'")
        if options.quantization:
            load.append(f"quantization_config={options.quantization!r}")
        length = context_length(deployment)
        generate = ["**inputs", f"max_length={length}"]
        generate += ["cache_implementation='static'"] if self.is_static else []
        if options.max_num_batched_tokens:
            generate.append(f"prefill_chunk_size={options.max_num_batched_tokens}")
        return (
            f"AutoModelForCausalLM.from_pretrained({', '.join(load)})"
            f".generate({', '.join(generate)})"
        )


def _torch_word(dtype: str | None) -> str:
    """Name of a dtype in torch; "auto" takes the checkpoint's."""
    if dtype is None:
        return "auto"
    name = kv_format(dtype).name
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(name, name)


def _vector_bytes(attention: Attention, fmt: KVFormat, tp: int) -> tuple[int, int]:
    """Bytes of K and of V that one entry takes in one layer of one rank.

    The model classes expand MLA before they cache it: a key and a value for every head.
    """
    stored = attention.expanded_vectors
    heads = stored.rank_heads(tp)
    return heads * fmt.vector_bytes(stored.key_dim), heads * fmt.vector_bytes(stored.value_dim)
