"""Tables of one model's layers in, whole steps out.

Formats: LLMServingSim's profiles (``CARD_MODEL_tpN_{dense,attention,per_sequence}.csv``),
kernel times in microseconds of a vLLM run of one decoder layer::

    step = layers * (2 norms + qkv + rotary + o + gate_up + activation + down + attention)
         + embedding + final norm      at so many tokens
         + output head + sampler       at so many sequences

Unlike the sums of `kvsim.calibrate.public.tables` these hold every kernel of a step, and attention
over decodes and a prefill chunk at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvsim.calibrate.csv_files import read_csv
from kvsim.calibrate.public.tables import interpolate
from kvsim.calibrate.rows import StepRows, rows_from_records
from kvsim.calibrate.shapes import DecoderShape
from kvsim.errors import InputError

__all__ = ["LayerTables", "layer_steps"]

_LAYER_OPS = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
_OUTER_OPS = ("embedding", "final_layernorm")
_HEAD_OPS = ("lm_head", "sampler")

# Mixed steps that serving makes; the tables hold every combination, fifty mixed for one other.
_MIXED = {
    (chunk, cached, decodes)
    for chunk in (128, 256, 512, 1024, 2048)
    for cached in (0, 1024)
    for decodes in (4, 16, 64, 128)
}
_BEYOND = 1.07  # how far above the dense tables a step may reach: 2,048 tokens and the decodes

Curve = Mapping[int, float]


@dataclass(frozen=True)
class LayerTables:
    """One model's layer times on one card at one tensor-parallel degree, seconds.

    Parameters
    ----------
    dense : mapping of str to mapping of int to float
        Each op's time by tokens.
    head : mapping of str to mapping of int to float
        Output head and sampler by sequences.
    attention : mapping of (chunk, cached, decodes, context) to float
        Attention of one layer: a prefill chunk after `cached` tokens beside `decodes`
        sequences of `context` tokens.
    tp : int
        Ranks that the layer was split over; collectives are not in the tables.
    """

    dense: Mapping[str, Curve]
    head: Mapping[str, Curve]
    attention: Mapping[tuple[int, int, int, int], float]
    tp: int

    @classmethod
    def read(cls, folder: Path, prefix: str, tp: int = 1) -> LayerTables:
        """Read ``{prefix}_tp{tp}_*.csv``.

        Raises
        ------
        InputError
            When a file, a column or an op is missing.
        """
        stem = f"{prefix}_tp{tp}"
        dense = _read_ops(folder / f"{stem}_dense.csv", "tokens", (*_LAYER_OPS, *_OUTER_OPS))
        head = _read_ops(folder / f"{stem}_per_sequence.csv", "sequences", _HEAD_OPS)
        return cls(dense, head, _read_attention(folder / f"{stem}_attention.csv"), tp)

    def layer_seconds(self, tokens: int) -> float:
        """Every op of one layer but attention."""
        return sum(n * _interpolate(self.dense[op], tokens) for op, n in _LAYER_OPS.items())

    def outer_seconds(self, tokens: int, sequences: int) -> float:
        """What happens once a step: embedding, final norm, output head, sampler."""
        inner = sum(_interpolate(self.dense[op], tokens) for op in _OUTER_OPS)
        return inner + sum(_interpolate(self.head[op], sequences) for op in _HEAD_OPS)


def _read_ops(path: Path, size: str, ops: tuple[str, ...]) -> dict[str, dict[int, float]]:
    times: dict[str, dict[int, float]] = {}
    for row in read_csv(path, ("layer", size, "time_us")):
        microseconds = row.number("time_us")
        times.setdefault(row["layer"], {})[row.whole(size)] = microseconds * 1e-6
    missing = [op for op in ops if op not in times]
    if missing:
        raise InputError(f"no rows for {', '.join(missing)}", where=str(path))
    return times


def _read_attention(path: Path) -> dict[tuple[int, int, int, int], float]:
    sizes = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    times = {}
    for row in read_csv(path, (*sizes, "time_us")):
        chunk, cached, decodes, context = (row.whole(name) for name in sizes)
        times[chunk, cached, decodes, context] = row.number("time_us") * 1e-6
    return times


def layer_steps(tables: LayerTables, shape: DecoderShape, memory_bytes: float) -> StepRows:
    """Make up every step that the attention table holds and the card's memory allows.

    Parameters
    ----------
    tables : LayerTables
        One card, one degree.
    shape : DecoderShape
        The model that was profiled.
    memory_bytes : float
        Memory of the card; steps whose weights and KV take over 90 % of it are left out.
    """
    return rows_from_records(list(_records(tables, shape, memory_bytes)))


def _records(
    tables: LayerTables, shape: DecoderShape, memory_bytes: float
) -> Iterator[dict[str, str | float]]:
    most_tokens = _BEYOND * max(tables.dense["qkv_proj"])
    for (chunk, cached, decodes, context), attention in tables.attention.items():
        if not 0 < chunk + decodes <= most_tokens:
            continue
        if chunk and decodes and (chunk, cached, decodes) not in _MIXED:
            continue
        record = _record(tables, shape, (chunk, cached, decodes, context), attention)
        if float(record["weight_bytes"]) + float(record["kv_bytes"]) < 0.9 * memory_bytes:
            yield record


def _record(
    tables: LayerTables,
    shape: DecoderShape,
    step: tuple[int, int, int, int],
    attention: float,
) -> dict[str, str | float]:
    """One step: `step` is (prefill chunk, cached tokens, decodes, context)."""
    chunk, cached, decodes, context = step
    tokens, sequences = chunk + decodes, decodes + (chunk > 0)
    heads, kv_heads = shape.heads // tables.tp, shape.kv_heads // tables.tp
    body = shape.layer_parameters(tables.tp) * shape.layers
    head = shape.vocab_size * shape.hidden_size // tables.tp
    pairs = chunk * cached + chunk * (chunk + 1) / 2
    inner = shape.layers * (tables.layer_seconds(tokens) + attention)
    return {
        "model": f"{shape.name} tp{tables.tp}",
        "phase": "mixed" if chunk and decodes else "prefill" if chunk else "decode",
        "layers": shape.layers,
        "tokens": tokens,
        "sequences": sequences,
        "weight_bytes": 2.0 * (body + head),
        "flops": 2.0 * (body * tokens + head * sequences),
        "kv_bytes": 4.0 * decodes * context * kv_heads * shape.head_dim * shape.layers,
        "kv_heads": kv_heads * shape.layers,
        "attention_flops": 4.0 * pairs * heads * shape.head_dim * shape.layers,
        "query_tokens": float(chunk * heads * shape.layers),
        "tp": 1,  # collectives are not in the tables
        "message_bytes": 0.0,
        "seconds": inner + tables.outer_seconds(tokens, sequences),
    }


def _interpolate(times: Curve, size: int) -> float:
    """Linear between the table's sizes, level below them and in proportion above."""
    largest = max(times)
    return times[largest] * size / largest if size > largest else interpolate(times, size)
