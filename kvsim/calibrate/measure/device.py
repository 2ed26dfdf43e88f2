"""Which device is measured: its name, memory, caches and clocks, as torch and the driver say."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvsim.calibrate.measure.workspace import load_torch
from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, UnknownNameError, UnsupportedError, first_line
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.units import MIB, parse_bytes

__all__ = [
    "KINDS",
    "DeviceFacts",
    "available_bytes",
    "cuda_dtypes",
    "driver_answers",
    "find_device",
    "physical_bytes",
    "shipped_profile",
    "vendor_of",
]

KINDS = ("cuda", "cpu", "mps")
_NAMED = re.compile(rf"({'|'.join(KINDS)})(?::(\d+))?")

_UNKNOWN_CACHE = 32 * MIB
_SAME_MEMORY = 0.1  # a card of the same name and another size is another card
_OF_NO_KIND = re.compile(r"\d+(GB|GiB)|HBM\w*|SXM\d*|OAM|MIG|\d+g\.\d+gb", re.IGNORECASE)
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is known of a device before anything is timed.

    Parameters
    ----------
    kind : str
        "cuda", "cpu" or "mps".
    name : str
        What the driver or the operating system calls it.
    count : int
        Devices of that kind that this process sees.
    memory_bytes : int
        Bytes that the driver reports to a program.
    free_bytes : int
        Of those, free once torch has started on the device.
    l2_bytes : int
        Last-level cache.
    dtypes : tuple of str
        What it computes in: the first is measured, the others are compared with it.
    torch_version, driver : str
        Software below kvsim.
    clocks : str
        Clocks and power limit at the start, as the driver words them; kvsim never sets any.
    uuid : str
        What tells it from another card of its name; "" where the driver says none.
    index : int
        Which of the devices that this process sees is measured, counted from 0.
    """

    kind: str
    name: str
    count: int
    memory_bytes: int
    free_bytes: int
    l2_bytes: int
    dtypes: tuple[str, ...]
    torch_version: str
    driver: str = ""
    clocks: str = ""
    uuid: str = ""
    index: int = 0

    @property
    def torch_name(self) -> str:
        """What torch calls it: "cuda:1"."""
        return f"{self.kind}:{self.index}" if self.kind == "cuda" else self.kind

    @property
    def vendor(self) -> str:
        """Who makes it."""
        return vendor_of(self.kind, self.name)

    @property
    def context_bytes(self) -> int:
        """Bytes that are gone before the first tensor: the context, and other programs."""
        return self.memory_bytes - self.free_bytes

    @property
    def dtype(self) -> str:
        """The dtype that coefficients are measured in."""
        return self.dtypes[0]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "dtypes": list(self.dtypes), "context_bytes": self.context_bytes}


def find_device(name: str | None = None) -> DeviceFacts:
    """Look at a device; without a name, at a GPU if there is one, else at the CPU.

    Parameters
    ----------
    name : str, optional
        Torch's: "cuda", "cuda:1", "cpu", "mps". Devices that CUDA_VISIBLE_DEVICES hides are not
        counted.

    Raises
    ------
    MissingExtraError
        Without torch.
    InputError
        For another name, and when this torch sees no such device.
    UnsupportedError
        When it does not answer.
    """
    asked = None if name is None else _parsed(name)
    torch = load_torch()
    present = _present(torch)
    chosen, index = asked or (present[0], 0)
    if chosen not in present:
        raise InputError(
            f"torch {torch.__version__} sees no {chosen} device",
            where="--device",
            fix=f"there is {' and '.join(present)}",
        )
    try:
        if chosen == "cuda":
            return _cuda(torch, index)
        return {"mps": _mps, "cpu": _cpu}[chosen](torch)
    except RuntimeError as error:
        raise UnsupportedError(
            f"the {chosen} device does not answer: {first_line(error)}"
        ) from None


def _parsed(name: str) -> tuple[str, int]:
    """Kind and index of a device."""
    found = _NAMED.fullmatch(name)
    if found is None or (found[2] and found[1] != "cuda"):
        raise InputError(
            f"{name!r} is no device", where="--device", fix="choose cuda, cuda:1, cpu or mps"
        )
    return found[1], int(found[2] or 0)


def _present(torch: Any) -> list[str]:
    """Kinds that this torch can use, the fastest first."""
    mps = getattr(torch.backends, "mps", None)
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": mps is not None and mps.is_available(),
        "cpu": True,
    }
    return [kind for kind, there in found.items() if there]


def _cuda(torch: Any, index: int) -> DeviceFacts:
    torch.cuda.init()
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(
            f"there is no cuda:{index}: torch sees {count} of them",
            where="--device",
            fix=f"choose cuda:0 to cuda:{count - 1}" if count > 1 else "choose cuda",
        )
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    uuid = str(getattr(properties, "uuid", None) or "")
    driver, clocks = _driver(uuid)
    runtime = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return DeviceFacts(
        kind="cuda",
        name=properties.name,
        count=count,
        memory_bytes=int(total),
        free_bytes=int(free),
        l2_bytes=int(getattr(properties, "L2_cache_size", 0)) or _UNKNOWN_CACHE,
        dtypes=cuda_dtypes(torch, index),
        torch_version=torch.__version__,
        driver=f"{driver}, {runtime}" if driver else runtime,
        clocks=clocks,
        uuid=uuid,
        index=index,
    )


def cuda_dtypes(torch: Any, device: Any) -> tuple[str, ...]:
    """16-bit floats by compute capability: bf16 since 8.0, products in fp8 since 8.9."""
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip:
        return ("bf16", "fp16")
    if capability < (8, 0):
        return ("fp16",)
    return ("bf16", "fp16", "fp8") if capability >= (8, 9) else ("bf16", "fp16")


def _driver(uuid: str) -> tuple[str, str]:
    """Driver version and clocks; empty without nvidia-smi."""
    found = driver_answers(_QUERY, uuid)
    if not found:
        return "", ""
    clocks = ", ".join(f"{name} {found[name]}" for name in _QUERY[1:])
    return f"driver {found[_QUERY[0]]}", clocks


def driver_answers(fields: Sequence[str], uuid: str) -> dict[str, str]:
    """What nvidia-smi says of a card, which is only asked; empty where it says nothing.

    Parameters
    ----------
    fields : sequence of str
        Names that ``nvidia-smi --help-query-gpu`` lists.
    uuid : str
        The card's, as torch has it; "" asks for the first.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    command += [f"--id=GPU-{uuid}"] if uuid else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split("\n")[0].split(",")]
    if done.returncode or len(values) != len(fields):
        return {}
    return dict(zip(fields, values, strict=True))


def _mps(torch: Any) -> DeviceFacts:
    limit = getattr(torch.mps, "recommended_max_memory", physical_bytes)
    memory = int(limit())
    held = int(getattr(torch.mps, "driver_allocated_memory", int)())
    return DeviceFacts(
        kind="mps",
        name=_output("sysctl", "-n", "machdep.cpu.brand_string") or "Apple GPU",
        count=1,
        memory_bytes=memory,
        free_bytes=memory - held,
        l2_bytes=_UNKNOWN_CACHE,
        dtypes=("fp16", "fp32"),
        torch_version=torch.__version__,
        driver=f"macOS {platform.mac_ver()[0]}",
    )


def _cpu(torch: Any) -> DeviceFacts:
    memory = physical_bytes()
    return DeviceFacts(
        kind="cpu",
        name=f"{_cpu_name()} one thread",
        count=1,
        memory_bytes=memory,
        free_bytes=min(memory, available_bytes(memory)),
        l2_bytes=_cpu_cache_bytes(),
        dtypes=("fp32", "bf16"),
        torch_version=torch.__version__,
        driver=f"{platform.system()} {platform.release()}",
    )


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def physical_bytes() -> int:
    """Return the memory of this machine, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes(otherwise: int) -> int:
    """What Linux would still hand out; elsewhere all of it."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")))
    return int(found.group(1)) * 1024 if found else otherwise


def _cpu_name() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _text(Path("/proc/cpuinfo")))
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _cpu_cache_bytes() -> int:
    """Return the largest cache that Linux lists."""
    sizes = [_text(path).strip() for path in _CPU_CACHES.glob("index*/size")]
    return max((parse_bytes(size) for size in sizes if size), default=_UNKNOWN_CACHE)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def vendor_of(kind: str, name: str) -> str:
    """Who makes a device; torch calls AMD's cards "cuda" too, and a CPU may be anybody's.

    Examples
    --------
    >>> vendor_of("cuda", "AMD Instinct MI300X"), vendor_of("cuda", "NVIDIA L4")
    ('AMD', 'NVIDIA')
    """
    if kind == "cuda":
        return "AMD" if name.startswith("AMD") else "NVIDIA"
    return "Apple" if kind == "mps" else "unknown"


def shipped_profile(facts: DeviceFacts) -> AcceleratorProfile | None:
    """Find the catalogue's profile of a device: by its name, less what says nothing of its kind.

    "NVIDIA H100 80GB HBM3" is an alias, and would be an H100 without its last two words, too.
    "NVIDIA H200 NVL" is no H200: that word is another card. "NVIDIA A10-24Q" is no A10, and a MIG
    slice not the whole: their memory differs.
    """
    if facts.kind == "cpu":
        return None
    words = facts.name.replace("-", " ").split()
    while words:
        try:
            profile = find_accelerator(" ".join(words))
        except (UnknownNameError, InputError):
            if not _OF_NO_KIND.fullmatch(words.pop()):
                return None
            continue
        same = abs(profile.memory_bytes / facts.memory_bytes - 1) < _SAME_MEMORY
        return profile if same else None
    return None
