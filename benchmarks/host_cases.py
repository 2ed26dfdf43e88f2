"""Runs of real engines that say what their hosts cost, as scenarios: see `fit_hosts`."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from kvsim import KVSimError
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.scenario import Scenario

__all__ = [
    "Case",
    "at_the_cap",
    "campaigns",
    "replays",
    "stages",
    "static_batches",
    "steps_of_2023",
]

_ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
_FORMATS = {"fp8": "fp8", "fp4": "nvfp4", "int4": "awq"}
_STAGE_MODELS = {
    "meta-llama/Llama-2-7b-hf": "llama2-7b",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
}
_WAVES = 10
# Who made the tables ran some; all others are InferenceX's, whose scripts are public: SGLang has a
# `--scheduler-recv-interval` there, on B200, by the number of clients.
_ITS_OWN = "aic-auto-gap-analysis"
_MANY_CLIENTS = 16
_POLLS = {False: 10, True: 30}
# SGLang computes all prompts that wait before it decodes, so clients with equal lengths stay in
# step: the mean TTFT is half of all prompts' time. In its runs with powers of two it is that; in no
# other.
_IN_STEP = 128  # tokens, of which all those lengths are multiples
_LLAMA_BATCH = 64
_CHUNKS_PER_TOKEN = 2  # of the stages' generator: an inter-token latency is half a step


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what served what, and what was measured.

    Parameters
    ----------
    name, model, version : str
        The row; whose model, left out together; the engine's release.
    setup : Setup
        The scenario, prepared.
    measured : dict of str to float
        Milliseconds by the summary's key.
    output_tokens : float
        Mean output, where TTFT and TPOT imply an E2E that was not written down; else 0.
    """

    name: str
    model: str
    version: str
    setup: Setup
    measured: dict[str, float]
    output_tokens: float = 0.0


def _case(name: str, model: str, content: dict[str, Any], measured: dict[str, float]) -> Case:
    scenario = Scenario.model_validate({"name": name, "model": model.split(" ")[0], **content})
    version = str(content["engine"].get("version", ""))
    return Case(name, model, version, prepare(scenario), measured)


def campaigns(
    folder: Path, backend: str, most_clients: int, *, its_own_release: bool = False
) -> Iterator[Case]:
    """Yield closed loops of clients without attention data parallelism.

    They are prepared for the newest release, or for the one that served where it is known.
    """
    path = folder / "reference/gpu/aisimulate/silicon_2026.csv"
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            plain = row["mode"] == "agg" and float(row["attention_dp_size"] or 1) == 1
            if not (plain and row["backend"] == backend and row["silicon_tpot_ms"]):
                continue
            named = re.search(r"_c(\d+)_", row["id"] + "_")
            clients = int(named[1]) if named else int(float(row["batch_size"]))
            if clients > most_clients or float(row["tp_size"]) > 8 or not row["backend_version"]:
                continue
            try:
                yield _campaign(row, clients, row["backend_version"] if its_own_release else "")
            except KVSimError:
                continue  # does not fit as the row says, or the release did not know the model


def _campaign(row: dict[str, str], clients: int, release: str) -> Case:
    prompt, output = int(row["isl"]), int(row["osl"])
    is_its_own = _ITS_OWN in row["silicon_data_source"]
    options: dict[str, Any] = {
        "name": _ENGINES[row["backend"]],
        "version": release,
        "tensor_parallel_size": int(float(row["tp_size"])),
        "max_model_len": int(1.2 * (prompt + output)) + 64,
    }
    fmt = _FORMATS.get(row["precision"])
    if fmt and fmt not in row["model_path"].lower():
        options |= {"quantization": fmt, "kv_cache_dtype": "bfloat16"}
    if float(row["moe_ep_size"] or 1) > 1 and row["backend"] == "vllm":
        options["enable_expert_parallel"] = True
    is_sglang = row["backend"] == "sglang"
    in_step = is_its_own and is_sglang and prompt % _IN_STEP == 0
    lengths = _fixed if in_step else _within_a_tenth
    content: dict[str, Any] = {
        "accelerator": row["system"].removesuffix("_sxm"),
        "engine": options,
        "memory": {"allocator": "paged"},
        "workload": {
            "arrivals": {"kind": "closed_loop", "clients": clients},
            "lengths": {"prompt": lengths(prompt), "output": lengths(output)},
            "requests": max(20, _WAVES * clients),
        },
    }
    if is_sglang and not is_its_own and row["system"].startswith("b200"):
        interval = _POLLS[clients >= _MANY_CLIENTS]
        content["scheduler"] = {"policy": {"name": "sglang", "scheduler_recv_interval": interval}}
    measured = {
        "mean_tpot_ms": float(row["silicon_tpot_ms"]),
        "mean_ttft_ms": float(row["silicon_ttft_ms"]),
    }
    made = _case(row["id"], row["model_path"], content, measured)
    return replace(made, version=row["backend_version"], output_tokens=output)


def _within_a_tenth(tokens: int) -> dict[str, Any]:
    return {"kind": "uniform", "low": max(2, tokens * 9 // 10), "high": max(2, tokens * 11 // 10)}


def _fixed(tokens: int) -> dict[str, Any]:
    return {"kind": "fixed", "tokens": tokens}


def steps_of_2023(folder: Path) -> Iterator[Case]:
    """Yield Splitwise's static batches of Llama-2-70B on A100, time per token."""
    path = folder / "reference/gpu/splitwise/perf_model.csv"
    points: dict[tuple[str, ...], list[float]] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            key = row["model"], row["hardware"], row["tensor_parallel"], row["batch_size"]
            if key[:2] == ("llama2-70b", "a100-80gb") and row["prompt_size"] == "512":
                points.setdefault(key, []).append(float(row["token_time"]))
    for (model, _, tp, batch), seconds in points.items():
        if int(batch) > 32:
            continue  # as large batches of the paper: other figures, of several runs
        engine = {"name": "vllm", "version": "0.2.2", "tensor_parallel_size": int(tp)}
        content = _static("a100", engine, 512, 128, int(batch))
        measured = {"mean_tpot_ms": median(seconds)}
        yield _case(f"splitwise tp{tp} b{batch}", f"{model} tp{tp}", content, measured)


def static_batches(folder: Path, framework: str, engine: dict[str, Any]) -> Iterator[Case]:
    """Yield LLM-Inference-Bench's static batches on one A100 or H100, whole latencies.

    Of llama.cpp a batch is one of its prompt's tokens (``llama-bench -b``): one sequence decodes,
    and its largest batch says most of that.
    """
    path = folder / "reference/gpu/llm_inference_bench/all_results.csv"
    cards = {"Nvidia A100 GPU": "a100", "Nvidia H100 GPU": "h100"}
    models = {
        "mistralai/Mistral-7B-v0.1": "mistral-7b",
        "meta-llama/Llama-2-7b-hf": "llama2-7b",
        "meta-llama/Meta-Llama-3-8B": "llama3-8b",
    }
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            card, model = cards.get(row["Hardware"]), models.get(row["Model"])
            wanted = row["Framework"] == framework and row["Num of Hardware"] == "1"
            length, batch = int(row["Input Output Length"]), int(row["Batch Size"])
            if not (card and model and wanted) or length > 1024:
                continue
            if framework == "llama.cpp" and batch != _LLAMA_BATCH:
                continue
            sequences = 1 if framework == "llama.cpp" else batch
            content = _static(card, engine, length, length, sequences)
            measured = {"mean_e2el_ms": 1e3 * float(row["Latency"])}
            yield _case(f"{model} {card} {length} b{batch}", model, content, measured)


def _static(card: str, engine: dict[str, Any], prompt: int, output: int, batch: int) -> Any:
    lengths = {
        "prompt": {"kind": "fixed", "tokens": prompt},
        "output": {"kind": "fixed", "tokens": output},
    }
    return {
        "accelerator": card,
        "engine": {"max_model_len": 4096, **engine},
        "memory": {"allocator": "paged"},
        "workload": {"arrivals": {"kind": "at_once"}, "lengths": lengths, "requests": batch},
    }


def stages(folder: Path) -> Iterator[Case]:
    """Yield load stages of inference-perf that were no overload.

    Its client counted tokens by encoding the text anew: of Llama-2-7B 22 % too few. Each token
    came in two chunks, so that the inter-token latency says how many there were: 250.
    """
    path = folder / "reference/served/inference-perf_h100_vllm0.15.1_stages.csv"
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            ttft, e2el = float(row["ttft_mean_s"]), float(row["e2e_mean_s"])
            if ttft > 2:
                continue
            gap = float(row["itl_mean_s"]) * _CHUNKS_PER_TOKEN
            output = round((e2el - ttft) / gap) + 1
            prompt = round(float(row["prompt_mean"]))
            shared = (prompt - 1) // 16 * 16
            options = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
            engine = {
                "name": "vllm",
                "version": row["engine_version"],
                "tensor_parallel_size": int(row["tensor_parallel"]),
                **{name: int(row[name]) for name in options},
            }
            lengths = {
                "prompt": {"kind": "fixed", "tokens": prompt - shared},
                "output": {"kind": "fixed", "tokens": output},
            }
            content = {
                "accelerator": "h100",
                "engine": engine,
                "memory": {"allocator": "prefix"},
                "workload": {
                    "arrivals": {"kind": "constant", "rate": float(row["rate_per_s"])},
                    "lengths": lengths,
                    "prefix": {"kind": "groups", "groups": 100, "tokens": shared},
                    "requests": min(int(row["requests"]), 500),
                },
            }
            measured = {
                "mean_ttft_ms": 1e3 * ttft,
                "mean_tpot_ms": 1e3 * gap,
                "mean_e2el_ms": 1e3 * e2el,
            }
            name = f"{row['experiment'][16:]} {row['rate_per_s']}/s"
            yield _case(name, _STAGE_MODELS[row["model"]], content, measured)


def replays(folder: Path, scratch: Path, only: str = "") -> Iterator[Case]:
    """Yield open loops of single requests at their own send times; `only` some of their names."""
    for path in sorted((folder / "reference/served").glob("qwen3-14b*_sweep_[rt]*.csv.gz")):
        if only in path.name:
            rows = _requests(path)
            yield _of_requests(path, rows, {"trace": {"file": str(_trace(path, rows, scratch))}})


def at_the_cap(folder: Path) -> Iterator[Case]:
    """Yield the runs whose driver held requests back: closed loops of 256 clients."""
    for path in sorted((folder / "reference/served").glob("qwen3-14b*_w?_sweep_*.csv.gz")):
        rows = _requests(path)
        pairs = [[int(r["prompt_tokens"]), max(1, int(r["output_tokens"]))] for r in rows[::10]]
        workload = {
            "arrivals": {"kind": "closed_loop", "clients": 256},
            "lengths": {"kind": "pairs", "pairs": pairs},
            "requests": min(len(rows), 8000),
        }
        yield _of_requests(path, rows, workload)


def _requests(path: Path) -> list[dict[str, float]]:
    with gzip.open(path, "rt") as lines:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


def _trace(path: Path, rows: list[dict[str, float]], scratch: Path) -> Path:
    trace = scratch / f"{path.name}.jsonl"
    head = {"schema": "kvsim-trace/1", "hash_block_size": 16}
    requests = (
        {
            "arrival_seconds": row["send_seconds"],
            "prompt_tokens": int(row["prompt_tokens"]),
            "output_tokens": max(1, int(row["output_tokens"])),
        }
        for row in rows
    )
    trace.write_text("\n".join(map(json.dumps, (head, *requests))), "utf-8")
    return trace


def _of_requests(path: Path, rows: list[dict[str, float]], workload: dict[str, Any]) -> Case:
    engine = {
        "name": "vllm",
        "version": "0.23.0",
        "max_model_len": 40960,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "num_gpu_blocks_override": 18038,
    }
    content = {
        "accelerator": "h100",
        "engine": engine,
        "memory": {"allocator": "prefix"},
        "workload": workload,
    }
    gaps = [
        (row["e2e_seconds"] - row["ttft_seconds"]) / (row["output_tokens"] - 1)
        for row in rows
        if row["output_tokens"] > 1
    ]
    measured = {
        "mean_ttft_ms": 1e3 * sum(row["ttft_seconds"] for row in rows) / len(rows),
        "mean_tpot_ms": 1e3 * sum(gaps) / len(gaps),
        "mean_e2el_ms": 1e3 * sum(row["e2e_seconds"] for row in rows) / len(rows),
    }
    return _case(
        path.name.removesuffix(".csv.gz").split("0.23.0_")[1], "qwen3-14b", content, measured
    )
