"""AISimulate's Parquet tables: ``SYSTEM/OPERATION/ENGINE/RELEASE/*.parquet`` (Apache-2.0).

One folder a card (``h100_sxm``), one a kind of kernel, one an engine, and in it one a release.
Latencies are milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.calibrate.public.tables import GemmTable, KernelTables, Precision
from kvsim.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FOLDER", "read_all_reduce", "read_kernels", "read_table", "releases"]

FOLDER = "aisimulate"
_BF16_BYTES = 2
_HEAD_DIM = 128  # of the models whose steps are made up


def releases(folder: Path, system: str, kind: str, engine: str) -> list[Path]:
    """Folders of an engine's releases that were measured, by name; empty where none was."""
    return sorted(path for path in (folder / system / kind / engine).glob("*") if path.is_dir())


def read_table(folder: Path, system: str, kind: str, engine: str, name: str) -> pd.DataFrame:
    """Read ``SYSTEM/KIND/ENGINE/RELEASE/NAME.parquet``, the newest release by name.

    Raises
    ------
    InputError
        When there is no such table.
    MissingExtraError
        Without pyarrow.
    """
    try:
        import pandas as pd
        import pyarrow  # noqa: F401 - what pandas reads Parquet with
    except ImportError:
        raise MissingExtraError("pyarrow", "calibrate", "reading Parquet") from None
    found = [place / f"{name}.parquet" for place in releases(folder, system, kind, engine)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise InputError(f"no {system}/{kind}/{engine}/*/{name}.parquet", where=str(folder))
    return pd.read_parquet(found[-1])


def read_all_reduce(folder: Path, system: str, engine: str) -> dict[int, dict[int, float]]:
    """Seconds of an engine's own all-reduce in bf16, by degree and message bytes.

    Only replayed graphs count where the table has both. Sizes are elements in the table. An
    engine's rows contain its own fallback: NCCL's, where its kernel is switched off.
    """
    table = read_table(folder, system, "comm", engine, "custom_allreduce_perf")
    table = table[~table["kernel_source"].str.endswith("eager")]
    medians = table.groupby(["num_gpus", "message_size"], as_index=False)["latency"].median()
    times: dict[int, dict[int, float]] = {}
    for degree, elements, milliseconds in medians.itertuples(index=False):
        times.setdefault(int(degree), {})[_BF16_BYTES * int(elements)] = milliseconds * 1e-3
    return times


def read_kernels(
    folder: Path, system: str, precision: Precision | None = None, engine: str = "vllm"
) -> KernelTables:
    """Read an engine's GEMMs and attention on a card; of several kernels the fastest.

    Raises
    ------
    InputError
        When a table is missing, or holds no rows of that precision.
    """
    precision = precision or Precision()
    table = read_table(folder, system, "gemm", engine, "gemm_perf")
    table = table[table["gemm_dtype"] == precision.weights]
    if table.empty:
        raise InputError(f"no GEMMs of {precision.weights}", where=str(folder / system))
    sizes = table.groupby(["m", "n", "k"], as_index=False)["latency"].min()
    gemms = {(int(m), int(n), int(k)): 1e-3 * ms for m, n, k, ms in sizes.itertuples(index=False)}
    return KernelTables(
        gemm=GemmTable(gemms),
        decode=_attention(folder, system, engine, "generation", precision.kv),
        prefill=_attention(folder, system, engine, "context", precision.kv),
        precision=precision,
    )


def _attention(
    folder: Path, system: str, engine: str, phase: str, kv: str
) -> dict[tuple[int, int, int, int], float]:
    """Full attention of one layer, by (sequences, heads, KV heads, context); seconds."""
    table = read_table(folder, system, "attention", engine, f"{phase}_attention_perf")
    kept = table[
        (table["kv_cache_dtype"] == kv)
        & (table["window_size"] == 0)
        & (table["head_dim"] == _HEAD_DIM)
    ]
    keys = ["batch_size", "num_heads", "num_key_value_heads", "isl", "step"]
    fastest = kept.groupby(keys, as_index=False)["latency"].min()
    return {
        (int(batch), int(heads), int(kv_heads), int(isl + step)): 1e-3 * ms
        for batch, heads, kv_heads, isl, step, ms in fastest.itertuples(index=False)
    }
