"""Stand-ins for the kernels of vLLM, FlashInfer, flash-attn and torch, by their documentation.

Each takes what the real one takes, in its shapes and dtypes, checks that, and answers by plain
arithmetic, so that what is handed to it is tested though no card is here.
"""

import sys
from types import ModuleType, SimpleNamespace

from tests.support import needs

needs.need("torch")
import itertools

import torch

from kvsim.calibrate.twin.decodes import Decodes
from kvsim.calibrate.twin.kernels import plain_attention


def by_tables(query, keys, values, tables, lengths):
    """Attention of one query a sequence through a padded int32 table."""
    assert tables.dtype == lengths.dtype == torch.int32
    assert keys.shape == values.shape
    assert keys.ndim == 4  # blocks, tokens, KV heads, head size
    decodes = Decodes(tables.tolist(), lengths.tolist())
    return plain_attention(decodes, query, keys, values).to(query.dtype)


def vllm_varlen(
    q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, *, seqused_k, block_table, causal, fa_version
):
    """``vllm.vllm_flash_attn.flash_attn_varlen_func``, queries of length one."""
    assert (max_seqlen_q, causal, fa_version) == (1, True, 3)
    assert cu_seqlens_q.tolist() == list(range(len(q) + 1))
    assert max_seqlen_k == int(seqused_k.max())
    return by_tables(q, k, v, block_table, seqused_k)


def torch_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa, seqused_k, block_table
):
    """``torch.nn.attention.varlen.varlen_attn`` with pages."""
    assert (cu_seq_k, max_q, enable_gqa) == (None, 1, True)
    assert cu_seq_q.tolist() == list(range(len(query) + 1))
    assert max_k == int(seqused_k.max())
    return by_tables(query, key, value, block_table, seqused_k)


def with_kvcache(q, k_cache, v_cache, *, cache_seqlens, block_table, causal):
    """``flash_attn.flash_attn_with_kvcache``: (batch, 1, heads, size)."""
    assert causal
    assert q.shape[1] == 1
    return by_tables(q[:, 0], k_cache, v_cache, block_table, cache_seqlens)[:, None]


class DecodeWrapper:
    """``flashinfer.BatchDecodeWithPagedKVCacheWrapper``."""

    def __init__(self, workspace, layout, *, use_tensor_cores):
        assert (workspace.dtype, layout) == (torch.uint8, "NHD")
        assert not workspace.any()  # "must be initialized to 0 for its first use"
        self.use_tensor_cores = use_tensor_cores

    def plan(
        self, indptr, indices, last_page_len, heads, kv_heads, head_dim, page_size,
        *, q_data_type, kv_data_type,
    ):  # fmt: skip
        assert self.use_tensor_cores == (heads > kv_heads)
        assert {each.dtype for each in (indptr, indices, last_page_len)} == {torch.int32}
        self.shape = (page_size, kv_heads, head_dim)
        ends = indptr.tolist()
        pages = [indices[a:b].tolist() for a, b in itertools.pairwise(ends)]
        tails = zip(pages, last_page_len.tolist(), strict=True)
        self.decodes = Decodes(pages, [(len(ids) - 1) * page_size + last for ids, last in tails])

    def run(self, query, cache):
        keys, values = cache
        assert keys.shape[1:] == self.shape
        return plain_attention(self.decodes, query, keys, values).to(query.dtype)


class VllmOperators:
    """``vllm._custom_ops``: they write into what they are given."""

    @staticmethod
    def rms_norm(out, x, weight, epsilon):
        out.copy_(torch.nn.functional.rms_norm(x, weight.shape, weight, eps=epsilon))

    @classmethod
    def fused_add_rms_norm(cls, x, residual, weight, epsilon):
        residual += x
        cls.rms_norm(x, residual, weight, epsilon)

    @staticmethod
    def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox):
        assert is_neox
        cosine, sine = (each[positions][:, None] for each in cos_sin_cache.chunk(2, dim=-1))
        for flat in (query, key):
            heads = flat.view(len(flat), -1, head_size)
            first, second = (half.clone() for half in heads.chunk(2, dim=-1))
            heads[..., : head_size // 2] = first * cosine - second * sine
            heads[..., head_size // 2 :] = second * cosine + first * sine


def module(name, **content):
    made = ModuleType(name)
    made.__dict__.update(content)
    return made


def install(monkeypatch, chooser="vllm.v1.attention.backends.fa_utils"):
    """Let every library be there; vLLM's choice of a version where some release has it."""
    for name, content in {
        "vllm": {},
        "vllm.vllm_flash_attn": {"flash_attn_varlen_func": vllm_varlen},
        **{".".join(chooser.split(".")[:n]): {} for n in range(2, chooser.count(".") + 1)},
        chooser: {"get_flash_attn_version": lambda: 3},
        "vllm._custom_ops": {
            name: getattr(VllmOperators, name)
            for name in ("rms_norm", "fused_add_rms_norm", "rotary_embedding")
        },
        "flashinfer": {"BatchDecodeWithPagedKVCacheWrapper": DecodeWrapper},
        "flash_attn": {"flash_attn_with_kvcache": with_kvcache},
    }.items():
        monkeypatch.setitem(sys.modules, name, module(name, **content))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", torch_varlen)

    def silu_and_mul(out, raised):
        gate, up = raised.chunk(2, dim=-1)
        out.copy_(torch.nn.functional.silu(gate) * up)

    monkeypatch.setattr(torch.ops, "_C", SimpleNamespace(silu_and_mul=silu_and_mul))
