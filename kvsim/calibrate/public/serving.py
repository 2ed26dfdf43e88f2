"""Served runs at fixed concurrency, and what the kernels alone take in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvsim.calibrate.csv_files import CsvRow, read_csv
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import StepCoefficients
from kvsim.specs.precision import kv_format
from kvsim.steptime.model import KVReadCurve, StepLoad, StepTimeModel, prefill_pairs

__all__ = ["Kernels", "ServedRun", "Terms", "read_served"]

_ENGINES = {"trtllm": "tensorrt-llm"}
# A run whose mean TTFT exceeds the time to prefill all its prompts at once waited for memory
# or for slots: its batch is not its concurrency.
_WAITED = 1.5
_WAITED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ServedRun:
    """One run at fixed concurrency.

    Parameters
    ----------
    engine, version, model, card : str
        What served what on what; `card` is the table's word ("h100_sxm").
    quantization : str or None
        Weight format, None for the model's own.
    kv_cache_dtype : str
        Format of K and V.
    tp : int
        Tensor-parallel ranks.
    concurrency, prompt_tokens, output_tokens : int
        The load.
    ttft_seconds, tpot_seconds : float
        Means that were measured.
    """

    engine: str
    version: str
    model: str
    card: str
    quantization: str | None
    kv_cache_dtype: str
    tp: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float
    tpot_seconds: float


def read_served(path: Path) -> list[ServedRun]:
    """Read the runs of ``silicon_e2e.csv`` that tensor parallelism alone describes.

    Raises
    ------
    InputError
        For a missing column or a cell that is no number.
    """
    columns = ("backend", "model_path", "system", "tp_size", "silicon_tpot_ms", "osl")
    return [_run(row) for row in read_csv(path, columns) if _is_plain(row)]


def _is_plain(row: CsvRow) -> bool:
    """Whether attention and experts are spread over the same ranks."""
    experts = 1
    for column in ("moe_tp_size", "moe_ep_size"):
        experts *= row.whole(column) if row[column] else 1
    return experts <= row.whole("tp_size")


def _run(row: CsvRow) -> ServedRun:
    model = row["model_path"]
    quantised = bool(row["gemm_quant_mode"]) and "gpt-oss" not in model
    # ModelOpt's FP8 checkpoints ask for an fp8 cache, which vLLM's "auto" follows.
    fp8_cache = model.startswith("nvidia/") and model.endswith("FP8")
    return ServedRun(
        engine=_ENGINES.get(row["backend"], row["backend"]),
        version=row["backend_version"],
        model=model,
        card=row["system"],
        quantization="fp8" if quantised else None,
        kv_cache_dtype="fp8" if fp8_cache else "bf16",
        tp=row.whole("tp_size"),
        concurrency=row.whole("concurrency" if row["concurrency"] else "batch_size"),
        prompt_tokens=row.whole("isl"),
        output_tokens=row.whole("osl"),
        ttft_seconds=row.number("silicon_ttft_ms") * 1e-3,
        tpot_seconds=row.number("silicon_tpot_ms") * 1e-3,
    )


@dataclass(frozen=True, slots=True)
class Terms:
    """What the kernels take in a run, seconds.

    Parameters
    ----------
    decode : float
        A decode step of all sequences at the mean context.
    prompt : float
        What one more prompt adds to a step.
    """

    decode: float
    prompt: float

    def waited(self, run: ServedRun) -> bool:
        """Whether the run's requests waited for memory or slots."""
        return run.ttft_seconds > _WAITED * run.concurrency * self.prompt + _WAITED_SECONDS


class Kernels:
    """Step-time models without host costs, built once a deployment.

    Parameters
    ----------
    coefficients : mapping of str to StepCoefficients
        Kernel rates by the table's word for the card.
    """

    def __init__(self, coefficients: Mapping[str, StepCoefficients]) -> None:
        bare = {"host_seconds": 0.0, "sequence_seconds": 0.0}
        self._rates = {card: c.model_copy(update=bare) for card, c in coefficients.items()}
        self._built: dict[tuple[str, ...], tuple[StepTimeModel, KVReadCurve]] = {}

    def covers(self, run: ServedRun) -> bool:
        """Whether there are coefficients for the run's card."""
        return run.card in self._rates

    def terms(self, run: ServedRun) -> Terms:
        """Kernel time of the run's steps."""
        steps, reads = self._model(run)
        batch, prompt = run.concurrency, run.prompt_tokens
        thirds = (prompt + run.output_tokens * part // 6 for part in (1, 3, 5))
        kv_bytes = batch * sum(map(reads.bytes_at, thirds)) / 3
        decode = steps.seconds(StepLoad(batch, batch, kv_bytes))
        pairs = prefill_pairs(steps.model, 0, prompt)
        mixed = steps.seconds(StepLoad(batch + prompt, batch + 1, kv_bytes, pairs))
        return Terms(decode, mixed - decode)

    def expert_layers(self, run: ServedRun) -> int:
        """Layers with routed experts of the run's model."""
        return self._model(run)[0].work.expert_layers

    def _model(self, run: ServedRun) -> tuple[StepTimeModel, KVReadCurve]:
        key = (run.model, run.card, run.quantization or "", run.kv_cache_dtype, str(run.tp))
        if key not in self._built:
            options = EngineOptions(
                tensor_parallel_size=run.tp,
                quantization=run.quantization,
                kv_cache_dtype=run.kv_cache_dtype,
            )
            card = find_accelerator(run.card.removesuffix("_sxm"))
            deployment = Deployment(find_model(run.model), card, options)
            steps = StepTimeModel.from_deployment(deployment, self._rates[run.card])
            fmt = kv_format(run.kv_cache_dtype)
            self._built[key] = steps, KVReadCurve.from_model(deployment.model, fmt, Rank(tp=run.tp))
        return self._built[key]
