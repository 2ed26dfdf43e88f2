"""Tables of one layer's GEMMs and element-wise ops in (no attention), layers out.

Format: vidur's ``mlp_median_*.csv``, medians of kernel times in milliseconds by model,
tensor-parallel degree and tokens, with a resolution of 1 us.
"""

from __future__ import annotations

from pathlib import Path

from kvsim.calibrate.csv_files import CsvRow, read_csv
from kvsim.calibrate.rows import StepRows, rows_from_records
from kvsim.errors import InputError

__all__ = ["read_layers"]

_OPS = {
    "input_layernorm_ms": 1,
    "attn_pre_proj_ms": 1,
    "attn_rope_ms": 1,
    "attn_post_proj_ms": 1,
    "post_attention_layernorm_ms": 1,
    "mlp_up_proj_ms": 1,
    "mlp_act_ms": 1,
    "mlp_down_proj_ms": 1,
    "add_ms": 2,  # runs twice per layer, is listed once
}
_SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "tp", "num_tokens")


def read_layers(path: Path) -> StepRows:
    """Read each row as a step of one layer without attention.

    Raises
    ------
    InputError
        When the file or a column is missing, or a cell is no number.
    """
    rows = read_csv(path, ("model", "use_gated_mlp", *_SHAPE, *_OPS))
    return rows_from_records([_record(row) for row in rows])


def _record(row: CsvRow) -> dict[str, str | float]:
    heads, kv_heads, hidden, inner, tp, tokens = (row.whole(name) for name in _SHAPE)
    if min(heads, tp, tokens) < 1:
        raise InputError("n_head, tp and num_tokens are at least 1", where=row.where)
    head_dim = hidden // heads
    matrices = 3 if row["use_gated_mlp"] == "True" else 2
    attention = (2 * heads + 2 * kv_heads) * head_dim * hidden
    parameters = (attention + matrices * hidden * inner) / tp
    # a blank is an op that the model does not have (phi-2's second norm)
    milliseconds = sum(n * row.number(op) for op, n in _OPS.items() if row[op])
    return {
        "model": row["model"],
        "phase": "prefill",
        "layers": 1,
        "tokens": tokens,
        "sequences": 1,
        "weight_bytes": 2.0 * parameters,
        "flops": 2.0 * parameters * tokens,
        "kv_bytes": 0.0,
        "kv_heads": kv_heads / tp,
        "attention_flops": 0.0,
        "query_tokens": 0.0,
        "tp": 1,  # collectives are not in the tables
        "message_bytes": 0.0,
        "seconds": milliseconds * 1e-3,
    }
