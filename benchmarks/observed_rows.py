"""Rows of ``kv_capacity_observed.csv`` as deployments: what a real engine printed, and of what.

Nothing is dropped silently: a row that cannot be laid out or predicted says why.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, Engine, get_engine
from kvsim.errors import KVSimError
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import LayerGroup, ModelSpec
from kvsim.units import GIB, MIB

__all__ = ["Observation", "UnpredictableRowError", "observations"]

# What people call a file -> the catalogue's entry, where the name alone does not find it.
_MODELS = {
    r"^LLaMA-30B": "llama-30b",
    r"^LLaMA v2": "llama2-13b",
    r"^Meta_Llama_3.1_8b_it": "llama3.1-8b",
    r"DeepSeek[ -]V3 ?-?0324": "deepseek-v3",
    r"DeepSeek R1 BF16": "deepseek-r1",
    r"^DeepSeek-R1-Distill-Qwen-7B": "deepseek-r1-distill-qwen-7b",
    r"^Kimi[ -]K2[ -]Instruct": "kimi-k2",
    r"^Gemma-3-27B-It": "gemma3-27b",
    r"^GLM Z1 Rumination 32B": "glm-z1-rumination-32b",
    r"^Mixtral-8x7B finetune": "mixtral-8x7b",
    r"^Qwen3-32B \[": "qwen3-32b",
    r"^Qwen3-235B-A22B \[": "qwen3-235b-a22b",
    r"DeepSeek-V3.2-Exp": "deepseek-v3.2",
    r"Qwen3-Reranker-0.6B": "qwen3-0.6b",
    r"Qwen3-Omni-30B-A3B": "qwen3-30b-a3b",
}
# What logs call a card -> its profile, where a catalogue's rules do not find it.
_CARDS = {
    "H100": "H100-SXM5-80GB",
    "H100-80GB": "H100-SXM5-80GB",
    "H100-80GB-HBM3": "H100-SXM5-80GB",
    "H100 80GB": "H100-SXM5-80GB",
    "A100-80GB": "A100-SXM4-80GB",
    "RTX 5090 32GB": "RTX5090",
    "RTX 3090 24GB": "RTX3090",
}
# The card a layout is checked on where a log names none: layouts do not depend on it, but
# where it is older than Ampere.
_ANY_CARD = "H100-SXM5-80GB"
# TensorRT-LLM releases from which a model runs in PyTorch, as kvsim's rules describe.
_FIRST_PYTORCH_EXECUTOR = (0, 17)
# Later releases derive the logged size from the concurrency instead of multiplying it.
_LAST_TO_MULTIPLY = "0.19.0"
# FlashInfer became a dependency of vLLM's CUDA wheel in 0.11.1, and Unsloth turns its
# sampler on wherever it is installed and the card can run it.
_UNSLOTH_FLASHINFER_SINCE = (0, 11, 1)
_FLASHINFER_CARDS = ("L4", "A100", "H100", "RTX")


class UnpredictableRowError(Exception):
    """A row that cannot be predicted, with the reason."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One printed observation.

    Parameters
    ----------
    row : dict of str to str
        The row as read; empty means not stated.
    """

    row: dict[str, str]

    @property
    def name(self) -> str:
        """The row's id."""
        return self.row["id"]

    @property
    def engine_name(self) -> str:
        """One of kvsim's engine names; forks and wrappers count as what they wrap."""
        first = self.row["engine"].split()[0]
        return "llama.cpp" if first.startswith("llama") else first

    @property
    def is_consistent(self) -> bool:
        """Whether the row agrees with itself."""
        return self.row["consistent"] == "yes"

    def number(self, column: str) -> float | None:
        """Read a column as a number; None where it is not stated."""
        return float(self.row[column]) if self.row[column] else None

    def count(self, column: str) -> int | None:
        """Read a column as a whole number; None where it is not stated."""
        value = self.number(column)
        return None if value is None else int(value)

    def assumed(self, pattern: str) -> str | None:
        """Find an engine default among the row's ``assumed`` ones."""
        found = re.search(pattern, self.row["assumed"])
        return found.group(1) if found else None

    @property
    def version(self) -> str | None:
        """The release, stated, assumed or told by the log itself; None when unknown."""
        text = self.row["engine_version"] or self.assumed(r"engine_version=([\d.]+)") or ""
        release = re.match(r"v?\d+(\.\d+)+(\.post\d+|rc\d+(\.dev\d+)?)?", text)
        if release:
            return release.group(0)
        # Only V0 printed (or kept) CPU blocks; 0.6 is the middle of its time.
        printed_swap = re.search(r"# CPU blocks|cpu_kv_blocks", self.row["note"])
        return "0.6.3" if printed_swap and self.engine_name == "vllm" else None

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers, for comparison; empty when it is unknown."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version or "")[:3])

    @property
    def engine(self) -> Engine:
        """The engine at the row's release, or at the newest known when it is unknown."""
        if self.engine_name == "llama.cpp":
            return get_engine(self.engine_name, self._llama_build())
        if "Multiplying the GPU KV cache size" in self.row["note"]:
            return get_engine(self.engine_name, _LAST_TO_MULTIPLY)
        return get_engine(self.engine_name, self.version or "")

    @property
    def model(self) -> ModelSpec:
        """The model, from the catalogue.

        Raises
        ------
        UnpredictableRowError
            When the catalogue does not know it.
        """
        printed = self.row["model"]
        known = (entry for name, entry in _MODELS.items() if re.search(name, printed, re.I))
        try:
            return self._as_printed(find_model(next(known, printed)))
        except KVSimError as error:
            raise UnpredictableRowError(f"model not in the catalogue: {printed}") from error

    def _as_printed(self, model: ModelSpec) -> ModelSpec:
        """Leave out the layers or caches that the row's own note says the log left out."""
        groups = model.layer_groups
        if self.row["note"].startswith("SWA pool"):
            window = next(group for group in groups if "sliding" in group.name)
            groups = (window.model_copy(update={"layers": tuple(range(window.count))}),)
        if "omits the indexer" in self.row["note"]:
            groups = tuple(_without_indexer(group) for group in groups)
        return model.model_copy(update={"layer_groups": groups})

    @property
    def card(self) -> AcceleratorProfile | None:
        """The card, with the memory that the row states; None when the row does not tell."""
        name = re.sub(r"\s*\(.*\)$", "", self.row["gpu"]).strip()
        if not name or " or " in name:
            return None
        try:
            profile = find_accelerator(_CARDS.get(name, name))
        except KVSimError:
            return None
        stated = self.number("gpu_mem_gib")
        if stated is None:
            return profile
        memory = profile.memory.model_copy(
            update={"value": int(stated * GIB), "source": f"stated by the log of {self.name}"}
        )
        return profile.model_copy(update={"memory": memory})

    @property
    def utilisation(self) -> float | None:
        """``gpu_memory_utilization`` as stated or assumed."""
        text = self.assumed(r"gpu_memory_utilization=([\d.]+)")
        return self.number("mem_frac") or (float(text) if text else None)

    @property
    def kv_bytes_range(self) -> tuple[int, int] | None:
        """Bytes that would print as the row's KV size, whose last digit is rounded."""
        columns = ["kv_gib"] if self.row["kv_gib"] else ["kv_k_gib", "kv_v_gib"]
        if not self.row[columns[0]]:
            columns = ["implied_kv_gib"]
        printed = [self.row[column] for column in columns if self.row[column]]
        if not printed:
            return None
        # "19.53" is anything from 19.525 to 19.535; "42.8" was "42.80".
        half = sum(0.5 * 10.0 ** -max(2, len(text.partition(".")[2])) for text in printed)
        size = sum(map(float, printed))
        return int((size - half) * GIB), int((size + half) * GIB)

    @property
    def kv_gib(self) -> float | None:
        """KV GiB, printed (whole, or K and V apart) or implied by the printed blocks."""
        halves = (self.number("kv_k_gib") or 0) + (self.number("kv_v_gib") or 0)
        return self.number("kv_gib") or self.number("implied_kv_gib") or halves or None

    @property
    def printed_gib(self) -> float | None:
        """The row's KV size, GiB; llama.cpp prints MiB."""
        mib = self.number("kv_mib")
        return self.kv_gib if mib is None else mib * MIB / GIB

    @property
    def prints_counts(self) -> bool:
        """Whether the row prints anything to hold an engine's arithmetic against."""
        return any(self.row[name] for name in ("gpu_blocks", "kv_tokens", "max_concurrency"))

    def layout_deployment(self) -> Deployment:
        """Resolve the row's flags for its layout alone; a card and a fraction are stood in."""
        return self.deployment()

    def deployment(self) -> Deployment:
        """Resolve the row's flags on its card, or on any card where it names none."""
        card = self.card or find_accelerator(_ANY_CARD)
        options = EngineOptions(**self._options())
        return self.engine.resolve(Deployment(self.model, card, options))

    def obstacle(self) -> str | None:
        """Why this row's KV GiB cannot be predicted from model, card, flags and version."""
        if self.kv_gib is None:
            return "the row prints no KV size to compare with"
        if self.card is None:
            return f"card missing or ambiguous: {self.row['gpu'] or 'not stated'}"
        if self.version is None:
            return f"release missing: {self.row['engine_version'] or 'not stated'}"
        if self.engine_name == "tensorrt-llm" and self.release < _FIRST_PYTORCH_EXECUTOR:
            return "rules are those of the PyTorch executor, not of a compiled engine"
        if self.utilisation is None:
            return "flags missing: the utilisation is not stated"
        if self.is_unstated_multimodal:
            return "flags missing: an image model's encoder and sequence limits are not stated"
        return None

    @property
    def is_unstated_multimodal(self) -> bool:
        """Whether an encoder was profiled at limits that the row says nothing about."""
        said = self.row["max_num_seqs"] or "max_num_seqs" in self.row["assumed"]
        return not said and self.model.other_parameters > 0

    def _options(self) -> dict[str, object]:
        if self.engine_name == "llama.cpp":
            return self._llama_options()
        stated = {
            "tensor_parallel_size": self.count("tp") or 1,
            "pipeline_parallel_size": self.count("pp") or 1,
            "data_parallel_size": self.count("dp") or 1,
            "gpu_memory_utilization": self.utilisation,
            "max_model_len": self.count("max_model_len"),
            "max_num_seqs": self._batch("max_num_seqs"),
            "max_num_batched_tokens": self._batch("max_num_batched_tokens"),
            "block_size": self.count("block_size"),
            "dtype": self.row["dtype"] or None,
            "kv_cache_dtype": self.row["kv_cache_dtype"] or None,
        }
        if self.engine_name == "vllm":
            stated |= self._vllm_options()
        if self.engine_name == "sglang":
            stated |= self._sglang_options()
        return {name: value for name, value in stated.items() if value is not None}

    def _batch(self, column: str) -> int | None:
        text = self.row[column] or self.assumed(rf"{column}=(\d+)")
        return int(text) if text else None

    def _vllm_options(self) -> dict[str, object]:
        """Flags that hide in the free-text columns."""
        flags, quantization = self.row["other_flags"], self.row["weight_quant"]
        context = re.search(r"decode_context_parallel_size=(\d+)", flags)
        caching = re.search(r"enable_prefix_caching=(True|False)", flags)
        return {
            "decode_context_parallel_size": int(context.group(1)) if context else 1,
            "enable_prefix_caching": caching.group(1) == "True" if caching else None,
            "enforce_eager": self.row["enforce_eager"] == "True",
            "quantization": "fp8" if "runtime" in quantization else None,
            "enable_lora": "LoRA enabled" in flags,
            "flashinfer_sampler": "Unsloth" in flags and self._has_flashinfer(),
        }

    def _sglang_options(self) -> dict[str, object]:
        """DeepSeek-V3.2 keeps fp8 entries in pages of 64; a lone window pool has no ratio."""
        is_fp8_entry = "V3.2" in self.row["model"]
        return {
            "enable_dp_attention": "--enable-dp-attention" in self.row["other_flags"],
            "kv_cache_dtype": "fp8_ds_mla" if is_fp8_entry else None,
            "block_size": 64 if is_fp8_entry else None,
            "disable_hybrid_kv_cache_manager": self.row["note"].startswith("SWA pool"),
        }

    def _has_flashinfer(self) -> bool:
        runs = self.card is not None and self.card.name.startswith(_FLASHINFER_CARDS)
        return runs and self.release >= _UNSLOTH_FLASHINFER_SINCE

    def _llama_build(self) -> str:
        """Name the build: the ik fork by its MLA mode, anything else by its time."""
        mode = re.search(r"mla_attn=(\d)", self.row["other_flags"])
        if "ik fork" in self.row["engine"]:
            return f"ik-mla{mode.group(1)}" if mode else _llama_latent_build(self)
        # What wraps llama.cpp (Ollama, ipex-llm, bindings) carried builds of before 2025.
        return "b1000" if "2023" in self.row["engine"] else "b4000"

    def _llama_options(self) -> dict[str, object]:
        types = dict(re.findall(r"\b([KV]) \((\w+)\)", self.row["kv_detail"]))
        latent = re.search(r"c\^KV \((\w+)\)", self.row["kv_detail"])
        flash = re.search(r"flash_attn=(\d)", self.row["other_flags"])
        stated = {
            "max_model_len": self.count("n_ctx"),
            "kv_cache_dtype": latent.group(1) if latent else types.get("K"),
            "kv_cache_dtype_v": None if latent else types.get("V"),
            "flash_attention": flash.group(1) == "1" if flash else None,
        }
        return {name: value for name, value in stated.items() if value is not None}


def observations(data: Path) -> Iterator[Observation]:
    """Yield every row of the table in the reference folder."""
    path = data / "reference" / "kv_capacity_observed.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            yield Observation(row)


def _without_indexer(group: LayerGroup) -> LayerGroup:
    caches = (cache.model_copy(update={"indexer_dim": None}) for cache in group.caches)
    return group.model_copy(update={"caches": tuple(caches)})


def _llama_latent_build(row: Observation) -> str:
    """Mainline between its two MLA changes keeps K whole and V apart: 576 and 512 values."""
    keeps_both = row.row["n_embd_k_gqa"] == "576" and row.row["n_embd_v_gqa"] == "512"
    return "b5200" if keeps_both else "ik"
