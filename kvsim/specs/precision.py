"""Number formats: what one cached vector and one weight cost in bytes.

A KV format and a weight format are different things with different names in kvsim,
because a weight's dtype never decides the KV cache's: a checkpoint may ask for one beside it.
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError, UnknownNameError
from kvsim.units import ceil_div

__all__ = [
    "KV_FORMATS",
    "WEIGHT_FORMATS",
    "KVFormat",
    "WeightFormat",
    "kv_format",
    "kv_format_names",
    "weight_format",
    "weight_format_names",
]


# Elements that packed latent layouts have a place for apart from the latent.
_ROPE_PLACE = 64


class KVFormat(NamedTuple):
    """How the elements of K and V are stored.

    Parameters
    ----------
    name : str
        vLLM's ``--kv-cache-dtype`` word where it has one, else llama.cpp's.
    bits : int
        Bits per element, scales not counted.
    scale_bytes : int
        Bytes of one scale (and minimum, where the format keeps one).
    scale_group : int or None
        Elements that share a scale; 0 is one scale per head per token; None is a scale per
        tensor, which costs nothing that grows.
    rope_bits : int or None
        Bits of an MLA entry's rotary part where it is kept apart from the latent part.
    source : str
        Where the layout is written down.
    """

    name: str
    bits: int
    scale_bytes: int = 0
    scale_group: int | None = None
    rope_bits: int | None = None
    source: str = ""

    def vector_bytes(self, elements: int) -> int:
        """Bytes of one head's K (or V) of one token.

        Examples
        --------
        >>> kv_format("fp16").vector_bytes(128), kv_format("q8_0").vector_bytes(128)
        (256, 136)
        >>> kv_format("int8_per_token_head").vector_bytes(128)  # 128 + one fp32 scale
        132
        """
        content = ceil_div(elements * self.bits, 8)
        if self.scale_group is None or elements == 0:
            return content
        scales = 1 if self.scale_group == 0 else ceil_div(elements, self.scale_group)
        return content + scales * self.scale_bytes

    def latent_bytes(self, rank: int, rope_dim: int) -> int:
        """Bytes of one token's MLA entry in one layer: latent and rotary parts.

        A layout that keeps the rotary part apart has a place for 64 elements of it, which
        stays empty where there is none (GLM-5.3).

        Examples
        --------
        >>> kv_format("bf16").latent_bytes(512, 64), kv_format("fp8_ds_mla").latent_bytes(512, 64)
        (1152, 656)
        >>> kv_format("bf16").latent_bytes(512, 0), kv_format("fp8_ds_mla").latent_bytes(512, 0)
        (1024, 656)
        """
        if self.rope_bits is None:
            return self.vector_bytes(rank + rope_dim)
        return self.vector_bytes(rank) + ceil_div((rope_dim or _ROPE_PLACE) * self.rope_bits, 8)


class WeightFormat(NamedTuple):
    """How the quantisable matrices of a checkpoint are stored.

    Parameters
    ----------
    name : str
        vLLM's ``--quantization`` word where it has one.
    bits_per_weight : float
        Bits per weight *including* its share of scales and zero points.
    compute : str
        Dtype whose arithmetic rate a GEMM with these weights can use.
    quantises_head : bool
        Whether embeddings and the output head are quantised too (GGUF files do).
    source : str
        Where the layout is written down.
    """

    name: str
    bits_per_weight: float
    compute: str = "bf16"
    quantises_head: bool = False
    source: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is a float that engines compute in, and call no quantisation."""
        return self.name in ("fp32", "fp16", "bf16")


_VLLM = "vLLM 0.33 KV cache specs"
_OCP = "OCP microscaling"
_V4 = "config.json of DeepSeek-V4"
_GGML = "llama.cpp ggml block layouts"

KV_FORMATS: dict[str, KVFormat] = {
    fmt.name: fmt
    for fmt in (
        KVFormat("fp32", 32, source="IEEE 754"),
        KVFormat("fp16", 16, source="IEEE 754"),
        KVFormat("bf16", 16, source="bfloat16"),
        KVFormat("fp8_e4m3", 8, source=f"{_VLLM}: one scale a tensor"),
        KVFormat("fp8_e5m2", 8, source=f"{_VLLM}: one scale a tensor"),
        KVFormat("int8", 8, source="one scale a tensor"),
        KVFormat("int4", 4, source="one scale a tensor"),
        KVFormat("fp8_per_token_head", 8, 4, 0, source=f"{_VLLM}: fp32 scale per head per token"),
        KVFormat("int8_per_token_head", 8, 4, 0, source=f"{_VLLM}: fp32 scale per head per token"),
        KVFormat("int4_per_token_head", 4, 4, 0, source=f"{_VLLM}: fp32 scale per head per token"),
        KVFormat("nvfp4", 4, 1, 16, source=f"{_VLLM}: fp8 scale per group of 16"),
        KVFormat("mxfp8", 8, 1, 32, source="SGLang 0.5.23 pool: 1/32 of scales"),
        KVFormat("mxfp4", 4, 1, 32, source=f"{_OCP}: e8m0 scale per group of 32"),
        KVFormat("fp8_ds_mla", 8, 4, 128, 16, source=f"{_VLLM}: 512 fp8 + 4 fp32 + 64 bf16"),
        KVFormat("nvfp4_ds_mla", 4, 1, 16, 8, source=f"{_VLLM}: 352 bytes per entry"),
        KVFormat("q8_0", 8, 2, 32, source=_GGML),
        KVFormat("q5_1", 5, 4, 32, source=_GGML),
        KVFormat("q5_0", 5, 2, 32, source=_GGML),
        KVFormat("q4_1", 4, 4, 32, source=_GGML),
        KVFormat("q4_0", 4, 2, 32, source=_GGML),
        KVFormat("iq4_nl", 4, 2, 32, source=_GGML),
    )
}

_KV_ALIASES = {
    "float32": "fp32",
    "f32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "f16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "fp8": "fp8_e4m3",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}

WEIGHT_FORMATS: dict[str, WeightFormat] = {
    fmt.name: fmt
    for fmt in (
        WeightFormat("fp32", 32, "fp32", source="IEEE 754"),
        WeightFormat("fp16", 16, "fp16", source="IEEE 754"),
        WeightFormat("bf16", 16, "bf16", source="bfloat16"),
        WeightFormat("fp8", 8, "fp8", source="one scale a tensor or a channel"),
        WeightFormat("fp8_block", 8 + 32 / 128**2, "fp8", source="fp32 scale a 128x128 block"),
        WeightFormat("fp8_block_e8m0", 8 + 8 / 128**2, "fp8", source=f"{_V4}: 128x128 blocks"),
        WeightFormat("fp8_block32_e8m0", 8 + 8 / 32**2, "fp8", source=f"{_V4}.1: 32x32 blocks"),
        WeightFormat("mxfp8", 8 + 8 / 32, "fp8", source=f"{_OCP}: e8m0 scale per group of 32"),
        WeightFormat("int8", 8, "int8", source="w8a8: one scale an output channel"),
        WeightFormat("awq", 4 + (16 + 4) / 128, source="fp16 scale, int4 zero, groups of 128"),
        WeightFormat("gptq", 4 + (16 + 4) / 128, source="fp16 scale, int4 zero, groups of 128"),
        WeightFormat("int4", 4 + 16 / 32, source="compressed-tensors: bf16 scale per group of 32"),
        WeightFormat("bitsandbytes", 4 + 8 / 64 + 32 / (64 * 256), source="QLoRA: nested NF4"),
        WeightFormat("mxfp4", 4 + 8 / 32, source=f"{_OCP}: e8m0 scale per group of 32"),
        WeightFormat("nvfp4", 4 + 8 / 16, "fp4", source="fp8 scale per group of 16"),
        WeightFormat("w4a16_nvfp4", 4 + 8 / 16, source="ModelOpt: nvfp4, 16-bit activations"),
        WeightFormat("q8_0", 8.5, "fp16", True, source=_GGML),
        WeightFormat("q6_k", 6.5625, "fp16", True, source=_GGML),
        WeightFormat("q5_k_m", 5.69, "fp16", True, source=f"{_GGML}: Llama-class mixture"),
        WeightFormat("q4_k_m", 4.85, "fp16", True, source=f"{_GGML}: Llama-class mixture"),
        WeightFormat("q4_0", 4.5, "fp16", True, source=_GGML),
        WeightFormat("q3_k_m", 3.91, "fp16", True, source=f"{_GGML}: Llama-class mixture"),
        WeightFormat("q2_k", 2.96, "fp16", True, source=f"{_GGML}: Llama-class mixture"),
    )
}

_WEIGHT_ALIASES = {
    "float32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "fp8_dynamic": "fp8",
    "fbgemm_fp8": "fp8",
    "w8a8": "int8",
    "int8_w8a8": "int8",
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "bnb": "bitsandbytes",
    "nf4": "bitsandbytes",
    "modelopt_fp4": "nvfp4",
    "w4a16": "gptq",
}


def kv_format_names() -> list[str]:
    """Names of the KV formats, in the order in which they are declared."""
    return list(KV_FORMATS)


def weight_format_names() -> list[str]:
    """Names of the weight formats, in the order in which they are declared."""
    return list(WEIGHT_FORMATS)


def kv_format(name: str) -> KVFormat:
    """Find a KV format by name or alias.

    Raises
    ------
    UnknownNameError
        When no format has that name.

    Examples
    --------
    >>> kv_format("bfloat16").name, kv_format("fp8").name
    ('bf16', 'fp8_e4m3')
    """
    key = _KV_ALIASES.get(name.lower(), name.lower())
    if key not in KV_FORMATS:
        raise UnknownNameError("KV cache dtype", name, [*KV_FORMATS, *_KV_ALIASES])
    return KV_FORMATS[key]


def weight_format(name: str) -> WeightFormat:
    """Find a weight format by name or alias (hyphens count as underscores).

    Raises
    ------
    UnknownNameError
        When no format has that name.
    InputError
        When the name is empty.
    """
    if not name:
        raise InputError("a weight format needs a name")
    key = name.lower().replace("-", "_")
    key = _WEIGHT_ALIASES.get(key, key)
    if key not in WEIGHT_FORMATS:
        raise UnknownNameError("weight format", name, [*WEIGHT_FORMATS, *_WEIGHT_ALIASES])
    return WEIGHT_FORMATS[key]
