"""vLLM imported where there is no GPU: what stands in for the card, and for what is compiled.

Nothing of the engine's Python is replaced. In place of the rest:

- its compiled extensions (``vllm._C*``, ``vllm._moe_C*``, ``vllm_flash_attn``'s): empty modules,
  and ``torch.ops`` namespaces that have every operator, none of which is called;
- the platform: vLLM's own for CUDA, of which only what is read from the card is given (name,
  compute capability, memory, count);
- packages of CUDA kernels and of media (`_ABSENT`): modules that have every name;
- process groups: the size and the rank that a case asks for;
- ``torch.cuda``'s streams and events, which layers make and do not use here;
- the tokenizer, from which DeepSeek-V4.1 makes a table of its vocabulary: none;
- the registry's inspection of a class in a process of its own: in this process.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .vllm_stub import VARIABLE as SOURCES

__all__ = ["CARDS", "SOURCES", "Card", "import_engine", "on_no_device", "set_groups"]

_ABSENT = {
    "av",
    "compressed_tensors",
    "cuda",
    "cutlass",
    "cv2",
    "deep_gemm",
    "flash_mla",
    "flashinfer",
    "llguidance",
    "lmformatenforcer",
    "mistral_common",
    "model_hosting_container_standards",
    "multipart",
    "numba",
    "openai_harmony",
    "opentelemetry",
    "outlines_core",
    "ray",
    "soundfile",
    "timm",
    "torchvision",
    "xgrammar",
}
_COMPILED = (
    "vllm._C",
    "vllm._C_stable_libtorch",
    "vllm._flashkda_C",
    "vllm._flashmla_C",
    "vllm._flashmla_extension_C",
    "vllm._moe_C",
    "vllm._moe_C_stable_libtorch",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
)
_PROCESSORS = 132
_ENGRAM_TOKENS = 99_092
# Models whose config's class lies beside their weights.
_REMOTE_CONFIGS = ("minimax_m3", "minimax_text_01")
_GROUPS = ("_WORLD", "_TP", "_ETP", "_DCP", "_PP", "_DP", "_EP", "_EPLB", "_PCP")


class Card(NamedTuple):
    """What vLLM reads from a card.

    Parameters
    ----------
    name : str
        As the driver prints it.
    capability : tuple of int
        Compute capability.
    memory_bytes : int
        Of one card.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int


# By the names of kvsim's profiles.
CARDS = {
    "a100-80gb": Card("NVIDIA A100-SXM4-80GB", (8, 0), 80 << 30),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30),
    "h200": Card("NVIDIA H200", (9, 0), 140 << 30),
    "b200": Card("NVIDIA B200", (10, 0), 178 << 30),
    "b300": Card("NVIDIA B300", (10, 3), 268 << 30),
    "rtx-pro-6000": Card("NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), 95 << 30),
}


class _Any(type):
    """A class that has every attribute, is subscriptable, and makes instances that do, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Any(name, (_Thing,), {})
        setattr(cls, name, made)
        return made

    def __getitem__(cls, item: object) -> Any:
        return cls


class _Thing(metaclass=_Any):
    def __init__(self, *args: object, **named: object) -> None: ...

    def __call__(self, *args: object, **named: object) -> Any:
        return _Thing()

    def __iter__(self) -> Iterator[Any]:
        return iter(())  # of what is listed as it is imported

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Thing()


class _Module(types.ModuleType):
    __path__: Sequence[str] = []
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Any(name, (_Thing,), {})
        setattr(self, name, made)
        return made


class _Finder:
    """Finds a module that has every name below the packages that are absent."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.split(".")[0] in _ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


class _Operators:
    """A namespace of ``torch.ops`` that has every operator."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Thing()


class _Group:
    """A process group of which this process is one rank."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self.world_size = size
        self.rank = self.rank_in_group = self.local_rank = rank
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.ranks = list(range(size))
        self.device_group = self.cpu_group = types.SimpleNamespace(
            barrier=lambda: None, rank=lambda: rank, size=lambda: size, world_size=size
        )
        self.device_communicator = None
        self.unique_name = "group"


def set_groups(tp: int, pp: int, stage: int, dcp: int) -> None:
    """Be rank 0 of `tp`, on one of `pp` stages."""
    from vllm.distributed import parallel_state

    for name in _GROUPS:
        setattr(parallel_state, name, _Group(1))
    parallel_state._TP = parallel_state._ETP = _Group(tp)
    parallel_state._PP = _Group(pp, stage)
    parallel_state._DCP = _Group(dcp)
    parallel_state._EP = _Group(tp)


def on_no_device() -> Any:
    """Make tensors for which a layer names the card without memory, like all others."""
    import torch
    from torch.overrides import TorchFunctionMode

    numbers = (torch.Tensor.tolist, torch.Tensor.item)

    class OnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in numbers:  # read from a tensor that has none
                return _zeros(tuple(args[0].shape))
            named = dict(kwargs or {})
            if named.get("device") is not None:
                named["device"] = "meta"
            return func(*args, **named)

    return OnMeta()


def _zeros(shape: tuple[int, ...]) -> Any:
    return [_zeros(shape[1:]) for _ in range(shape[0])] if shape else 0.0


def import_engine(card: Card) -> None:
    """Make ``vllm`` importable from the folder that `SOURCES` names, as on `card`.

    Raises
    ------
    ImportError
        When the folder, or a package that its Python asks for, is missing.
    """
    folder = Path(os.environ[SOURCES])
    if not (folder / "vllm" / "__init__.py").is_file():
        raise ImportError(f"{SOURCES}={folder} holds no package vllm")
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "CRITICAL",
        "CUDA_VISIBLE_DEVICES": "",  # Triton is then taken without a driver
        "VLLM_HAS_FLASHINFER_CUBIN": "1",  # and FlashInfer without a compiler
    }
    os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})
    sys.path.insert(0, str(folder))
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]
    sys.modules.update({name: types.ModuleType(name) for name in _COMPILED})
    _set_platform(card)
    _replace_operators(card)
    _replace_readers()


def _set_platform(card: Card) -> None:
    import vllm.platforms as platforms
    from vllm.platforms.interface import DeviceCapability

    platforms.vllm_version_matches_substr = lambda text: False
    # Its module reads the platform while it is imported.
    from vllm.platforms import cuda

    read: dict[str, Callable[..., Any]] = {
        "get_device_capability": lambda cls, device_id=0: DeviceCapability(*card.capability),
        "get_device_name": lambda cls, device_id=0: card.name,
        "get_device_total_memory": lambda cls, device_id=0: card.memory_bytes,
        "device_count": lambda cls: 64,
        "num_compute_units": lambda cls, device_id=0: _PROCESSORS,
        "is_fully_connected": lambda cls, device_ids: True,
        "is_integrated_gpu": lambda cls, device_id=0: False,
        "log_warnings": lambda cls: None,
    }
    made = {name: classmethod(function) for name, function in read.items()}
    platforms._current_platform = type("CardPlatform", (cuda.CudaPlatformBase,), made)()
    from vllm.distributed import parallel_state

    parallel_state.in_the_same_node_as = lambda group, source_rank=0: [True] * group.size()


def _replace_operators(card: Card) -> None:
    import torch
    import vllm._custom_ops  # noqa: F401 - registers what the real namespaces have: it comes first

    for name in ("_C", "_moe_C", "_C_cache_ops", "_C_stable_libtorch", "_flashkda_C"):
        setattr(torch.ops, name, _Operators())
    for name in ("Stream", "Event"):
        setattr(torch.cuda, name, _Thing)
    import flashinfer.utils
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    BatchMLAPagedAttentionWrapper.run = _with_scales
    flashinfer.utils.get_trtllm_gen_multi_ctas_kv_counter_bytes = lambda *sizes: 0  # of a buffer
    torch.cuda.current_device = torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.empty_cache = lambda: None
    torch.cuda.current_stream = lambda device=None: _Thing()
    torch.cuda.get_device_properties = lambda device=None: types.SimpleNamespace(
        name=card.name, total_memory=card.memory_bytes, multi_processor_count=_PROCESSORS
    )


def _with_scales(self: object, *, ckv_scale_arr: object = None) -> None:
    """Stand for FlashInfer 0.6.18, by whose new argument its kernels are known to be there."""


def _replace_readers() -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
    from vllm.model_executor.models import registry
    from vllm.models.deepseek_v41.common import engram
    from vllm.v1.attention.ops.cp_common import DirectCPWorkspace
    from vllm.v1.worker.workspace import init_workspace_manager

    init_workspace_manager(torch.device("meta"))
    registry._run_in_subprocess = lambda function: function()
    for name in _REMOTE_CONFIGS:
        AutoConfig.register(name, type("Config", (PreTrainedConfig,), {"model_type": name}))
    AutoTokenizer.from_pretrained = lambda *args, **named: _Thing()
    engram.build_compressed_token_map = lambda tokenizer: ([0] * _ENGRAM_TOKENS, _ENGRAM_TOKENS)
    DirectCPWorkspace._allocate = lambda self, shape, dtype: 2 * (torch.empty(shape, dtype=dtype),)
