"""Numbers that vLLM 0.33.0's planning gave on an H100, kept for where it cannot be run.

::

    KVSIM_VLLM=FOLDER python -m tests.engine_oracle.layout_known     writes the table again
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from tests.engine_oracle.layout_cases import GIB, Case, Planned

__all__ = ["CASES", "read_known"]

_TABLE = Path(__file__).with_name("layout_known.csv")
CASES = (
    Case("llama3-8b"),
    Case("llama3-8b", tp=16, dcp=2),
    Case("mistral-7b-v0.1"),
    Case("falcon-40b", tp=2, kv_dtype="fp8", max_model_len=2048),
    Case("whisper-large-v3", tp=2, max_model_len=448),
    Case("gemma3-27b", pp=3),
    Case("gemma3n-e4b", kv_dtype="fp8", block_size=32),
    Case("gemma4-26b-a4b", tp=2),
    Case("gemma4-31b", kv_dtype="fp8"),
    Case("gemma4-31b", kv_dtype="fp8", block_size=32),
    Case("phi-4-mini"),
    Case("gpt-oss-20b", tp=2, pp=4),
    Case("llama4-scout", tp=8),
    Case("mimo-v2-flash", tp=4),
    Case("minimax-m3", kv_dtype="fp8"),
    Case("deepseek-v3", kv_dtype="fp8"),
    Case("deepseek-v3", tp=8, dcp=4),
    Case("deepseek-v3.2", kv_dtype="fp8", pp=2),
    Case("glm-5.2", tp=8),
    Case("glm-5.3-flash"),
    Case("glm-5.3-flash", tp=8, kv_dtype="fp8", block_size=64),
    Case("deepseek-v4-flash"),
    Case("deepseek-v4-pro", tp=8, pp=2),
    Case("deepseek-v4.1-flash", tp=4),
    Case("deepseek-v4.1-flash", block_size=128),
    Case("deepseek-v4.1-flash", pp=2),
    Case("kimi-linear-48b-a3b", tp=4),
    Case("jamba-v0.1", block_size=64),
    Case("granite-4.0-h-small", tp=16, kv_dtype="fp8"),
    Case("nemotron-h-8b", block_size=256),
    Case("nemotron-h-8b", caches_prefixes=False),
    Case("nemotron-3-nano-30b-a3b", pp=2),
    Case("nemotron-nano-9b-v2", pp=4),
    Case("mistral-small-3.2-24b", tp=16, dcp=2, kv_dtype="fp8"),
    Case("qwen3-next-80b-a3b", tp=2),
    Case("qwen3.5-27b", block_size=32, kv_bytes=20 * GIB),
    Case("qwen3.5-9b", tp=8, dcp=2),
    Case("qwen3.6-35b-a3b", caches_prefixes=False, kv_dtype="fp8"),
)


def read_known() -> dict[Case, Planned]:
    """Return the engine's numbers of `CASES`."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = [[json.loads(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    width = len(Case._fields)
    return {Case(*row[:width]): _planned(row[width:]) for row in rows}


def _planned(cells: list[object]) -> Planned:
    *numbers, stage_bytes, groups = cells
    return Planned(*numbers, tuple(stage_bytes), tuple(map(tuple, groups)))  # type: ignore


def main() -> int:
    """Ask the engine, and write what it says."""
    from tests.engine_oracle.layout import ready
    from tests.engine_oracle.layout_engine import plan_in_engine
    from tests.engine_oracle.layout_ours import config_of

    if error := ready("h100"):
        print(error, file=sys.stderr)
        return 2
    with _TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Case._fields, *Planned._fields])
        for case in CASES:
            planned = plan_in_engine(case, config_of(case.model))
            writer.writerow([json.dumps(value) for value in (*case, *planned)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
