"""What a softmax-attention layer caches, from a config's head counts and dimensions."""

from __future__ import annotations

from typing import Any

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields, canonical
from kvsim.specs.attention import (
    BlockSparseAttention,
    ChunkedAttention,
    CompressedLatentAttention,
    FullAttention,
    HeadAttention,
    LatentAttention,
    SlidingAttention,
    SourcedLatentAttention,
)

__all__ = ["attention_of", "compressed_of", "latent_of", "sourced_of"]

# Of DeepSeek-V4's compressed layers, only those that fold 4 tokens have a sparse indexer;
# the heavily compressed ones read every state.
_INDEXED_RATIO = 4


def attention_of(fields: Fields, family: Family, kind: str, own_heads: int = 0) -> HeadAttention:
    """Read the attention of a "full", "sliding", "chunked" or "block_sparse" layer.

    Parameters
    ----------
    fields, family : Fields, Family
        The config, and its architecture's facts.
    kind : str
        The layer's.
    own_heads : int
        KV heads of this layer where they are its own; 0: as the config says for all.

    Raises
    ------
    InputError
        When heads, KV heads or head dimensions are missing or do not fit.
    """
    heads = _heads(fields, kind)
    kv_heads = own_heads or _kv_heads(fields, kind, heads)
    if heads % kv_heads:
        raise fields.error(f"{heads} query heads cannot share {kv_heads} KV heads evenly")
    key_dim = _key_dim(fields, kind, heads)
    bias = _bias(fields, family)
    shape: dict[str, Any] = {
        "heads": heads,
        "kv_heads": kv_heads,
        "key_dim": key_dim,
        "value_dim": _value_dim(fields, kind, key_dim),
        "bias": bias,
        "output_bias": _output_bias(fields, family, bias),
        "output_gate": fields.flag("attn_output_gate", default=family.output_gate),
    }
    if kind == "sliding":
        return SlidingAttention(**shape, window=fields.integer("sliding_window"))
    if kind == "chunked":
        return ChunkedAttention(**shape, chunk=fields.integer("attention_chunk_size"))
    if kind == "block_sparse":
        return BlockSparseAttention(**{**shape, **_block_index(fields, kv_heads)})
    return FullAttention(**shape)


def latent_of(fields: Fields, *, shares_indexer: bool = False) -> LatentAttention:
    """Read multi-head latent attention; ``head_dim`` plays no part in it.

    A layer that shares an indexer reads the tokens it picks, and has none of its own.
    """
    picks = "index_topk" in fields
    indexed = picks and not shares_indexer
    fold = _index_fold(fields, shares_indexer=shares_indexer)
    return LatentAttention(
        heads=fields.integer("num_attention_heads"),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        rope_dim=fields.integer("qk_rope_head_dim", at_least=int(fold == 1)),
        nope_dim=fields.integer("qk_nope_head_dim"),
        value_dim=fields.integer("v_head_dim"),
        q_lora_rank=fields.optional_integer("q_lora_rank"),
        indexer_dim=fields.integer("index_head_dim") if indexed else None,
        indexer_heads=fields.integer("index_n_heads") if indexed else None,
        indexer_top_k=fields.integer("index_topk") if picks else None,
        index_fold=fold,
        output_gate=fields.flag("mla_use_output_gate"),
    )


def _index_fold(fields: Fields, *, shares_indexer: bool) -> int:
    """Tokens that share an index key; one where the config does not say.

    Known is what vLLM 0.33 computes (``vllm/models/glm5next``): keys that are compressed by a
    gate, with the unfinished fold always read, an indexer in each layer, and no rotary part.
    """
    if "index_kpool" not in fields:
        return 1
    for key in ("index_kpool_compress", "index_kpool_always_select_tail"):
        if not fields.flag(key, default=True):
            raise fields.error(f"{key} is false: what the indexer keeps then is not known")
    if shares_indexer:
        raise fields.error("a layer that folds index keys shares an earlier layer's indexer")
    if fields.integer("qk_rope_head_dim", at_least=0):
        raise fields.error(
            f"qk_rope_head_dim is {fields.get('qk_rope_head_dim')} where index_kpool folds keys",
            "known is 0",
        )
    return fields.integer("index_kpool", at_least=2)


def compressed_of(fields: Fields, ratio: int) -> CompressedLatentAttention:
    """Read DeepSeek-V4's compressed attention at one compression ratio."""
    indexed = ratio == _INDEXED_RATIO
    rank = fields.optional_integer("o_lora_rank")
    return CompressedLatentAttention(
        heads=fields.integer("num_attention_heads"),
        head_dim=fields.integer("head_dim"),
        rope_dim=fields.integer("qk_rope_head_dim"),
        window=fields.integer("sliding_window"),
        ratio=ratio,
        q_lora_rank=fields.optional_integer("q_lora_rank"),
        output_lora_rank=rank,
        output_groups=fields.integer("o_groups") if rank else None,
        indexer_dim=fields.integer("index_head_dim") if indexed else None,
        indexer_heads=fields.integer("index_n_heads") if indexed else None,
    )


def sourced_of(
    fields: Fields, ratio: int, *, is_source: bool, picks: bool
) -> SourcedLatentAttention:
    """Read a layer of DeepSeek-V4.1."""
    return SourcedLatentAttention(
        heads=fields.integer("num_attention_heads"),
        head_dim=fields.integer("head_dim"),
        rope_dim=fields.integer("qk_rope_head_dim"),
        window=fields.integer("sliding_window"),
        ratio=ratio,
        top_k=fields.integer("index_topk"),
        is_source=is_source,
        picks=picks,
        index_dim=fields.integer("index_head_dim"),
        index_heads=fields.integer("index_n_heads"),
        q_lora_rank=fields.integer("q_lora_rank"),
        output_lora_rank=fields.integer("o_lora_rank"),
        output_groups=fields.integer("o_groups"),
    )


def _block_index(fields: Fields, kv_heads: int) -> dict[str, int]:
    """Read what picks the blocks of MiniMax-M3's sparse layers."""
    sparse = fields.inner("sparse_attention_config")
    index_heads = sparse.integer("sparse_num_index_heads")
    if index_heads != kv_heads:
        raise sparse.error(
            f"{index_heads} index heads for {kv_heads} KV heads: each KV head has one"
        )
    return {
        "index_heads": index_heads,
        "index_dim": sparse.integer("sparse_index_dim"),
        "block": sparse.integer("sparse_block_size"),
        "top_blocks": sparse.integer("sparse_topk_blocks"),
    }


def _heads(fields: Fields, kind: str) -> int:
    heads = fields.integer("num_attention_heads")
    if kind != "sliding":
        return heads
    return _other_setting(fields, kind).integer(
        "num_attention_heads", fields.integer("swa_num_attention_heads", heads)
    )


def _other_setting(fields: Fields, kind: str) -> Fields:
    """Heads of the one kind of layer that Step 3.5 describes apart; empty for all others."""
    other = fields.inner("attention_other_setting")
    if not other.names() or other.text("attention_type") == f"{kind}_attention":
        return Fields(canonical(other.content), {}, other.where)
    raise other.error(f"attention_type is {other.text('attention_type')!r}", "known is sliding")


def _kv_heads(fields: Fields, kind: str, heads: int) -> int:
    if kind == "sliding":
        other = _other_setting(fields, kind)
        if "num_key_value_heads" in other:
            return other.integer("num_key_value_heads")
        if "swa_num_key_value_heads" in fields:
            return fields.integer("swa_num_key_value_heads")
    if kind == "full" and "num_global_key_value_heads" in fields:
        return fields.integer("num_global_key_value_heads")
    if fields.get("multi_query") is not None or "new_decoder_architecture" in fields:
        return _falcon_kv_heads(fields, heads)
    if "attn_config" in fields:
        return _mpt_kv_heads(fields, heads)
    return fields.integer("num_key_value_heads", heads)


def _falcon_kv_heads(fields: Fields, heads: int) -> int:
    """Falcon-7B lists 71 KV heads in places, and ``multi_query`` means one."""
    if fields.flag("new_decoder_architecture"):
        return fields.integer("num_key_value_heads", heads)
    if fields.flag("multi_query"):
        return 1
    return fields.integer("num_key_value_heads", heads)


def _mpt_kv_heads(fields: Fields, heads: int) -> int:
    attention = fields.inner("attn_config")
    kind = attention.text("attn_type", "multihead_attention")
    if kind not in {"multihead_attention", "multiquery_attention", "grouped_query_attention"}:
        raise attention.error(f"attn_type is {kind!r}, which is not known")
    window = attention.get("sliding_window_size")
    if window not in (None, -1):
        raise attention.error(f"sliding_window_size {window!r} of MPT is not known to kvsim")
    if kind == "multiquery_attention":
        return 1
    return attention.integer("kv_n_heads", heads)


def _key_dim(fields: Fields, kind: str, heads: int) -> int:
    if kind == "sliding" and "swa_head_dim" in fields:
        return fields.integer("swa_head_dim")
    if kind == "full" and "global_head_dim" in fields:
        return fields.integer("global_head_dim")
    if "head_dim" in fields:
        return fields.integer("head_dim")
    hidden = fields.integer("hidden_size")
    if hidden % heads:
        raise fields.error(
            f"hidden_size {hidden} is not a multiple of {heads} heads", "state head_dim"
        )
    return hidden // heads


def _value_dim(fields: Fields, kind: str, key_dim: int) -> int:
    name = "swa_v_head_dim" if kind == "sliding" else "v_head_dim"
    return fields.integer(name, key_dim)


def _bias(fields: Fields, family: Family) -> bool:
    named = ("attention_bias", "qkv_bias", "add_qkv_bias", "use_bias", "use_qkv_bias", "bias")
    spelled = next((key for key in named if key in fields), None)
    return fields.flag(spelled) if spelled else family.qkv_bias


def _output_bias(fields: Fields, family: Family, bias: bool) -> bool:
    return bias and (family.output_bias or family.bias_covers_output)
