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

import math
from typing import NamedTuple

from kvsim.engines.base import Capacity, Deployment, MemoryBudget, ResolvedDeployment
from kvsim.engines.common import (
    ReleasedEngine,
    check_kv_format,
    check_options,
    deployed_weight_bytes,
    gib_bytes,
    layout_ratio,
    mlp_activation_bytes,
    refuse_unknown,
    resolve,
    tokens_at,
)
from kvsim.errors import UnsupportedError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import Growth
from kvsim.memory.pools import Group, KVPools, Pool
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
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
    "hf_overrides": "edit the model's config.json",
    "rope_scaling": "edit the model's config.json",
    "block_size": "its cache has no blocks: leave the block size out",
    "enable_prefix_caching": "it keeps nothing between calls of generate()",
    "data_parallel_size": "start one process per replica",
    "kv_cache_memory_bytes": "it has no pool to size: set --max-model-len and --max-num-seqs",
    "num_gpu_blocks_override": "its cache has no blocks",
    "max_total_tokens": "it has no pool to size: set --max-model-len and --max-num-seqs",
}


class _Tensors(NamedTuple):
    """What the layers of one kind keep of a sequence.

    Parameters
    ----------
    name : str
        The kind.
    layers : int
        How many they are.
    token_bytes : int
        Bytes of one token, all of them; 0 where nothing grows.
    widest_bytes : int
        Bytes of one token in the wider of K and V of one layer.
    window : int or None
        Tokens that they keep; None keeps all.
    constant_bytes : int
        Bytes whatever the length: states, an encoder's output.
    """

    name: str
    layers: int
    token_bytes: int
    widest_bytes: int
    window: int | None
    constant_bytes: int

    def kept_tokens(self, context: int) -> int:
        """Tokens kept of so many."""
        return context if self.window is None else min(context, self.window)

    def kept_bytes(self, context: int) -> int:
        """Bytes kept between two steps."""
        return self.kept_tokens(context) * self.token_bytes + self.constant_bytes

    def growth(self, unit: int, reserved: int | None) -> Growth:
        """The same in units of so many bytes; `reserved` tokens are taken at once, if any."""
        if reserved is not None or not self.token_bytes:
            return Growth.constant(self.kept_bytes(reserved or 0) // unit)
        fixed = self.constant_bytes // unit
        return Growth(1, self.window, fixed, self.token_bytes // unit)


def _kept_bytes(tensors: list[_Tensors], context: int) -> int:
    return sum(each.kept_bytes(context) for each in tensors)


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

    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill the defaults: one sequence, the model's length, one prefill for the prompt.

        Raises
        ------
        InputError
            For a flag that ``generate()`` has no word for, or a cache that is not in the
            model's compute dtype.
        UnsupportedError
            For DeepSeek's compressed and sparse caches, and for Llama 3.2 Vision where it is
            not served.
        """
        options, model = deployment.options, deployment.model
        check_options(self.name, options, _FLAGS, _HINTS)
        refuse_unknown(self.name, model, "kv fixed")
        if model.encoder_tokens:
            self._check_image_layers(model)
        fmt = deployment.kv_format
        check_kv_format(self.name, "dtype", fmt, _KV_FORMATS)
        length = options.max_model_len or model.max_position_embeddings
        resolved = resolve(
            deployment, kv=fmt, max_model_len=length, max_num_batched_tokens=length, max_num_seqs=1
        )
        self._tensors(resolved, self.rank(resolved))
        return resolved

    def _check_image_layers(self, model: ModelSpec) -> None:
        """Refuse Llama 3.2 Vision before it was there, and in a cache of one length for all layers.

        Source: ``MllamaPreTrainedModel``: "static cache cannot have different shapes for each
        layer" (`_supports_static_cache`, `_can_compile_fullgraph`).
        """
        if not self.since("image_layers"):
            raise UnsupportedError(
                f"transformers {self.version} has no {model.name}: choose --engine-version 4.45 or"
                " newer"
            )
        if self.is_static:
            raise UnsupportedError(
                f"a StaticCache has one length for all layers, and those of {model.name} keep text"
                f" or an image: choose --engine-version {self._release_number()}"
            )

    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """Everything but the weights, the CUDA context and the prompt's activations."""
        options, total = deployment.options, deployment.accelerator.memory_bytes
        weights = deployed_weight_bytes(deployment, rank)
        prompt = min(options.max_num_batched_tokens, options.max_model_len)
        activation = mlp_activation_bytes(deployment.model, prompt, rank.tp)
        context = self.data["cuda_context_gib"]
        non_torch = gib_bytes(context)
        budget = int(total * options.gpu_memory_utilization)
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

    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes that a sequence of ``max_model_len`` takes of that rank while a layer appends."""
        tensors, length = self._tensors(deployment, rank), deployment.options.max_model_len
        return _kept_bytes(tensors, length) + self._append_bytes(tensors, length)

    def _tensors(self, deployment: ResolvedDeployment, rank: Rank) -> list[_Tensors]:
        """What each kind of layer of one rank keeps."""
        return [
            self._kept(count, attention, deployment.kv_format, rank.tp)
            for count, attention in layer_caches(deployment.model, rank)
        ]

    def _kept(self, count: int, attention: Attention, fmt: KVFormat, tp: int) -> _Tensors:
        """What `count` layers keep; old releases let sliding layers grow without end."""
        key, value = _vector_bytes(attention, fmt, tp)
        name = attention.label
        constant = count * attention.fixed_bytes(tp)
        if not attention.grows:
            constant += count * attention.states(1) * (key + value)
            return _Tensors(name, count, 0, 0, None, constant)
        window = attention.recent_tokens if self.since("window_layers") else None
        name += "" if window is None else f", window {window}"
        return _Tensors(name, count, count * (key + value), max(key, value), window, constant)

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Sequences of ``max_model_len`` whose peak `kv_bytes` of one rank hold.

        Admission counts the peak while a layer appends, steady what is kept between steps.
        transformers prints no size; ``logged_tokens`` is the admission figure.
        """
        length, rank = deployment.options.max_model_len, self.tightest_rank(deployment)
        tensors = self._tensors(deployment, rank)
        full = [each._replace(window=None) for each in tensors]
        kept = _kept_bytes(tensors, length)
        peak = kept + self._append_bytes(tensors, length)
        everything = _kept_bytes(full, length) + self._append_bytes(full, length)
        per_token = sum(each.token_bytes for each in tensors)
        tokens = tokens_at(kv_bytes, peak, length)
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=deployment.options.kv_cache_dtype,
            bytes_per_token=per_token,
            max_model_len=length,
            max_concurrency=max(0, kv_bytes) / peak,
            logged_tokens=tokens,
            admission_tokens=tokens,
            steady_tokens=tokens_at(kv_bytes, kept, length),
            all_full_tokens=tokens_at(kv_bytes, everything, length),
            pools=KVPools(
                (self._heap(tensors, kv_bytes, length),),
                layout_ratio(deployment, per_token, rank),
            ),
        )

    def _append_bytes(self, tensors: list[_Tensors], context: int) -> int:
        """Bytes of the widest tensor of one layer, which exists twice while it grows."""
        if self.is_static:
            return 0
        return max((each.kept_tokens(context) * each.widest_bytes for each in tensors), default=0)

    def _heap(self, tensors: list[_Tensors], kv_bytes: int, length: int) -> Pool:
        """All of the memory, in the largest unit that every tensor is a whole number of.

        The copies of a layer that appends have their share beside it, as at the longest length.
        A StaticCache takes its whole length from the start.
        """
        sizes = [size for each in tensors for size in (each.token_bytes, each.constant_bytes)]
        unit, kept = math.gcd(*sizes), _kept_bytes(tensors, length)
        usable = max(0, kv_bytes) * kept // (kept + self._append_bytes(tensors, length))
        groups = tuple(
            Group(
                name=each.name,
                layers=each.layers,
                padding_layers=0,
                block_size=1,
                page_bytes=(each.token_bytes or each.constant_bytes) // each.layers,
                blocks_per_sequence=each.kept_bytes(length) // unit,
                growth=each.growth(unit, length if self.is_static else None),
            )
            for each in tensors
        )
        return Pool("heap", 1, unit, usable // unit, 0, groups)

    def command(self, deployment: Deployment) -> str:
        """The two calls, on one line of Python."""
        options, model = deployment.options, deployment.model
        load = [repr(model.hf_id or model.name), f"dtype={_torch_word(options.dtype)!r}"]
        load.append("tp_plan='auto'" if options.tensor_parallel_size > 1 else "device_map='auto'")
        if "quantization" in deployment.launched:
            load.append(f"quantization_config={options.quantization!r}")
        length = self.resolve(deployment).options.max_model_len
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
