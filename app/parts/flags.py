"""Every flag of a serving engine as a field: its widget, its words, its name in a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

import kvsim
from app.state import Choice, Count, Field, Flag, PageState, Share, Words

__all__ = ["FLAGS", "ask", "given", "kept"]

_DEFAULT = "engine's default"


def _count(
    name: str, help_text: str, *, key: str = "", default: int | None = None, least: int = 1
) -> Count:
    return Count(key=key or name, label=name, help=help_text, default=default, least=least)


def _share(name: str, help_text: str) -> Share:
    return Share(key=name, label=name, help=help_text, least=0.01)


def _flag(name: str, help_text: str) -> Flag:
    return Flag(key=name, label=name, help=help_text)


def _choice(name: str, help_text: str, options: Callable[[], list[str]]) -> Choice:
    return Choice(key=name, label=name, help=help_text, options=options, empty=_DEFAULT)


def _words(name: str, help_text: str) -> Words:
    return Words(key=name, label=name, help=help_text)


def _yes_no() -> list[str]:
    return ["yes", "no"]


def _compute_dtypes() -> list[str]:
    return ["auto", "bf16", "fp16", "fp32"]


def _table(*fields: Field) -> dict[str, Field]:
    return {field.label: field for field in fields}


# option of kvsim.EngineOptions: the field that asks for it, most wanted first
FLAGS: dict[str, Field] = _table(
    _count("tensor_parallel_size", "Devices that split each layer.", key="tp", default=1),
    _count("pipeline_parallel_size", "Devices that share the layers out.", key="pp", default=1),
    _count("max_model_len", "Longest request, tokens."),
    _share("gpu_memory_utilization", "Share of the card's memory that the engine may use."),
    _choice("quantization", "Format of the weights.", kvsim.weight_format_names),
    _words("hf_overrides", "JSON: fields in place of those of the model's config."),
    _words("rope_scaling", "JSON: scaling of positions (vLLM to 0.11.0)."),
    _count("max_num_seqs", "Most requests that run at once."),
    _count("max_num_batched_tokens", "Most tokens in one step."),
    _count("block_size", "Tokens per block."),
    _choice("dtype", "Dtype of activations and unquantised weights.", _compute_dtypes),
    _count("kv_cache_memory_bytes", "KV bytes of one rank, instead of what is left."),
    _count("num_gpu_blocks_override", "Blocks, whatever fits."),
    _count("max_total_tokens", "SGLang, TensorRT-LLM: most tokens of the pool."),
    _count("data_parallel_size", "Replicas that share the experts.", key="dp", default=1),
    _count(
        "decode_context_parallel_size",
        "Ranks that share out a sequence's tokens.",
        key="dcp",
        default=1,
    ),
    _count("activation_bytes", "Instead of the predicted peak of activations.", least=0),
    _count("non_torch_bytes", "Instead of the predicted memory outside the framework.", least=0),
    _count("cuda_graph_bytes", "Instead of the predicted CUDA graphs.", least=0),
    _choice("enable_prefix_caching", "Share the blocks of equal prefixes.", _yes_no),
    _choice("async_scheduling", "Schedule the next step while one runs.", _yes_no),
    _choice("flashinfer_sampler", "Sample without sorting.", _yes_no),
    _choice("flash_attention", "llama.cpp's -fa.", _yes_no),
    _choice("kv_unified", "llama.cpp: one cache for all sequences.", _yes_no),
    _choice("kv_cache_dtype_v", "llama.cpp: format of V alone.", kvsim.kv_format_names),
    _share("swa_full_tokens_ratio", "SGLang: the window pool's share."),
    _count("max_lora_rank", "Largest adapter.", default=16),
    _flag("enforce_eager", "No CUDA graphs."),
    _flag("enable_expert_parallel", "Whole experts on each device."),
    _flag("enable_lora", "Keep room for adapters."),
    _flag("disable_hybrid_kv_cache_manager", "No window saving in vLLM."),
    _flag("swa_full", "llama.cpp: no window saving."),
    _flag("enable_dp_attention", "SGLang's attention by data parallelism."),
)


def ask(state: PageState, names: list[str], *, columns: int = 4) -> dict[str, Any]:
    """Draw the widgets of some options in rows, and return their values."""
    values: dict[str, Any] = {}
    for start in range(0, len(names), columns):
        row = names[start : start + columns]
        for column, name in zip(st.columns(columns), row, strict=False):
            with column:
                values[name] = state.ask(FLAGS[name].key)
    return values


def kept(state: PageState, names: list[str]) -> dict[str, Any]:
    """The values of options whose widgets are folded away."""
    return {name: state.keep(FLAGS[name].key) for name in names}


def given(values: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options that were set, sorted: yes and no become what they mean."""
    meant = {
        name: {"yes": True, "no": False}.get(value, value) if isinstance(value, str) else value
        for name, value in values.items()
        if value != FLAGS[name].default
    }
    return tuple(sorted(meant.items()))
