"""The catalogue of accelerators: a name, an alias or a path in, a profile out.

A name is looked for in every folder of ``$KVSIM_PATH``, then in the shipped
``hardware_profiles/``; there by file name, then by the ``name``, ``product_name`` and
``aliases`` inside.
Letter case, punctuation and a leading vendor's name do not count, so that what a driver
prints ("NVIDIA A100-SXM4-80GB", "Tesla T4") is found.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, UnknownNameError, nearest
from kvsim.specs.files import once_per_file, read_text
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.precision import WEIGHT_FORMATS
from kvsim.specs.yaml_files import data_folder, read_described, read_yaml
from kvsim.units import GIB

__all__ = [
    "accelerator_names",
    "describe_accelerators",
    "find_accelerator",
    "larger_accelerators",
    "load_accelerator",
    "names_file",
    "siblings",
]

_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_VENDOR_WORDS = ("nvidia", "amd", "intel", "google", "apple", "geforce", "tesla", "instinct")

# A rate below this is one written in GB/s or TFLOP/s; a link of tensor parallelism over
# PCIe is the slowest number of a datasheet, at about 1e9; an old CPU's kernels reach less.
_LEAST_RATE = 1e7
_GREATEST_RATE = 1e19
# No part of a step takes longer than this, or is off by such a factor, on any device.
_LONGEST_SECONDS = 1.0
_LEAST_FACTOR, _GREATEST_FACTOR = 0.01, 100.0
# Google and AMD count a little more than the name on the box says.
_MEMORY_SLACK = 1.1


def find_accelerator(name_or_path: str | Path) -> AcceleratorProfile:
    """Find an accelerator by name, alias or path.

    Parameters
    ----------
    name_or_path : str or Path
        "a100", "H100-SXM5-80GB", "NVIDIA L4", or the path of a YAML file.

    Returns
    -------
    AcceleratorProfile
        The validated profile.

    Raises
    ------
    UnknownNameError
        When no profile has that name.
    InputError
        When the profile's file is broken, with its line and key.

    Examples
    --------
    >>> find_accelerator("a100").name, find_accelerator("Tesla T4").name
    ('A100-SXM4-80GB', 'T4')
    """
    text = str(name_or_path)
    if names_file(text):
        return load_accelerator(Path(text).expanduser())
    key = _key(text)
    if not key:
        raise InputError(f"{text!r} is not the name of an accelerator", fix="see `kvsim gpus`")
    for folder in _own_folders():
        path = _find_file(folder, key)
        if path is not None:
            return load_accelerator(path)
    shipped = _find_shipped(key)
    if shipped is not None:
        return load_accelerator(shipped)
    fix = "see `kvsim gpus`, or give the path of a YAML profile"
    raise UnknownNameError("accelerator", text, _known_words(), fix=fix)


def load_accelerator(path: str | os.PathLike[str]) -> AcceleratorProfile:
    """Read one profile and check that its numbers are in the units they claim.

    Raises
    ------
    InputError
        When the file is not a valid profile, or a number is implausible in its unit.
    """
    return _load(Path(path))


@once_per_file
def _load(path: Path) -> AcceleratorProfile:
    profile = read_described(path, AcceleratorProfile)
    for key, rate in _rates(profile):
        if not _LEAST_RATE <= rate <= _GREATEST_RATE:
            raise InputError(
                f"{key} = {rate:g} is not plausible",
                where=str(path),
                fix="write bytes/s or FLOP/s, such as 3.35e+12 for 3350 GB/s",
            )
    if profile.price and profile.price.low > profile.price.high:
        low, high = profile.price.low, profile.price.high
        raise InputError(f"price.low = {low:g} is above price.high = {high:g}", where=str(path))
    _check_coefficients(profile, path)
    advertised_bytes = profile.advertised_memory_gb * GIB
    if not 0.5 <= profile.memory_bytes / advertised_bytes <= _MEMORY_SLACK:
        raise InputError(
            f"memory = {profile.memory_bytes:,} bytes does not fit a device sold with "
            f"{profile.advertised_memory_gb:g} GB",
            where=str(path),
            fix='write the unit, such as "79.19 GiB"',
        )
    return profile


def siblings(profile: AcceleratorProfile) -> list[str]:
    """Names of the other shipped devices of the same family, sorted.

    Examples
    --------
    >>> siblings(find_accelerator("a100"))
    ['A100-PCIE-40GB', 'A100-PCIE-80GB', 'A100-SXM4-40GB']
    """
    family = _family(profile.name)
    folder = data_folder("hardware_profiles")
    names = (load_accelerator(path).name for path in folder.glob(f"{family.lower()}*.yaml"))
    return sorted(name for name in names if _family(name) == family and name != profile.name)


def larger_accelerators(profile: AcceleratorProfile) -> list[str]:
    """Names of the vendor's shipped cards with no less memory or bandwidth, the smallest first.

    Examples
    --------
    >>> larger_accelerators(find_accelerator("h100-nvl"))[:2]
    ['GH200-96GB', 'H20-96GB']
    """
    paths = sorted(data_folder("hardware_profiles").glob("*.yaml"))
    larger = {
        each.name: each.memory_bytes
        for each in map(load_accelerator, paths)
        if each.vendor == profile.vendor
        and each.memory_bytes >= profile.memory_bytes
        and each.bandwidth_bytes_per_s >= profile.bandwidth_bytes_per_s
    }
    return sorted(larger.keys() - {profile.name}, key=lambda name: (larger[name], name))


def accelerator_names() -> list[str]:
    """Names of all accelerators that can be asked for, sorted."""
    return sorted({profile.name for profile in _all_profiles()})


def describe_accelerators() -> list[dict[str, Any]]:
    """One row an accelerator, for a listing: sizes in bytes, rates in bytes/s and FLOP/s."""
    rows: dict[str, dict[str, Any]] = {}
    for profile in _all_profiles():
        rows.setdefault(profile.name, _describe(profile))
    return [rows[name] for name in sorted(rows)]


def _describe(profile: AcceleratorProfile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "aliases": list(profile.aliases),
        "vendor": profile.vendor,
        "memory_bytes": profile.memory_bytes,
        "bandwidth_bytes_per_s": profile.bandwidth_bytes_per_s,
        "flops_per_s": {dtype: rate.value for dtype, rate in profile.flops.items()},
        "interconnect": profile.interconnect.name,
        "interconnect_bytes_per_s": profile.interconnect.bytes_per_s,
        "tdp_watts": profile.tdp_watts,
        "price_usd_per_hour": [profile.price.low, profile.price.high] if profile.price else None,
        "coefficients": profile.coefficients.source if profile.coefficients else None,
        "step_times": profile.step_times,
        "memory_source": profile.memory.source,
    }


def names_file(text: str) -> bool:
    """Whether `find_accelerator` takes it for a path."""
    return text.endswith((".yaml", ".yml")) or os.sep in text


def _key(name: str) -> str:
    """Reduce a name to what identifies it: "NVIDIA A100-SXM4-80GB" to "a100sxm480gb"."""
    words = _PUNCTUATION.sub(" ", name.lower()).split()
    while len(words) > 1 and words[0] in _VENDOR_WORDS:
        words.pop(0)
    return "".join(words)


def _family(name: str) -> str:
    """Return "A100" of "A100-PCIE-40GB"; a first word without a digit is no family."""
    first = name.split("-")[0]
    return first if any(letter.isdigit() for letter in first) else name


def _own_folders() -> Iterator[Path]:
    """Yield the user's folders."""
    for entry in filter(None, os.environ.get("KVSIM_PATH", "").split(os.pathsep)):
        folder = Path(entry).expanduser()
        if not folder.is_dir():
            raise InputError(f"there is no folder {entry!r}", where="KVSIM_PATH")
        yield folder


def _find_file(folder: Path, key: str) -> Path | None:
    """Return the profile in `folder` that answers to `key`: by file name, then by content."""
    paths = sorted(folder.glob("*.yaml"))
    for path in paths:
        if _key(path.stem) == key:
            return path
    # Only a file that mentions the name can carry it: the others are not parsed.
    mentions = (path for path in paths if key in _squeezed(path))
    return next((path for path in mentions if key in map(_key, _words(read_yaml(path)))), None)


@once_per_file
def _squeezed(path: Path) -> str:
    """The letters and digits of a file."""
    return _PUNCTUATION.sub("", read_text(path).lower())


@functools.cache
def _find_shipped(key: str) -> Path | None:
    """Return the shipped profile that answers to `key`: no such file comes or goes."""
    return _find_file(data_folder("hardware_profiles"), key)


def _words(content: dict[str, Any]) -> list[str]:
    """Return the names and the aliases of an unvalidated profile."""
    aliases = content.get("aliases")
    names = filter(None, (content.get("name"), content.get("product_name")))
    return [*map(str, names), *map(str, aliases if isinstance(aliases, list) else ())]


def _all_profiles() -> Iterator[AcceleratorProfile]:
    """Yield every profile, the user's first; other YAML in a user's folder is passed over."""
    shipped = data_folder("hardware_profiles")
    for folder in (*_own_folders(), shipped):
        for path in sorted(folder.glob("*.yaml")):
            if folder == shipped or "bandwidth" in read_yaml(path):
                yield load_accelerator(path)


def _known_words() -> list[str]:
    return [word for profile in _all_profiles() for word in (profile.name, *profile.aliases)]


def _check_coefficients(profile: AcceleratorProfile, path: Path) -> None:
    """Refuse a time or a factor that no step has, and rates of what nobody knows."""
    _check_names(profile, path)
    for key, value in _coefficients(profile):
        if key.endswith("seconds") and value > _LONGEST_SECONDS:
            raise InputError(
                f"{key} = {value:g} s is not plausible",
                where=str(path),
                fix="write seconds, such as 4.0e-05 for 40 us",
            )
        is_factor = key.endswith(("_speedup", "_factor")) or ".token_factors." in key
        if is_factor and not _LEAST_FACTOR <= value <= _GREATEST_FACTOR:
            raise InputError(
                f"{key} = {value:g} is not plausible",
                where=str(path),
                fix=f"write a factor from {_LEAST_FACTOR:g} to {_GREATEST_FACTOR:g}",
            )


def _check_names(profile: AcceleratorProfile, path: Path) -> None:
    """Refuse rates of a format that does not exist: nothing would read them."""
    known = profile.coefficients
    if known is None:
        return
    narrow = sorted(name for name, each in WEIGHT_FORMATS.items() if each.bits_per_weight < 16)
    tables: tuple[tuple[str, Iterable[str], Sequence[str]], ...] = (
        ("gemms", known.gemms, [*narrow, "fp4"]),
        ("experts", known.experts, ["bf16", "fp8", "fp4"]),
    )
    for key, names, valid in tables:
        for name in names:
            if name not in valid:
                raise InputError(
                    f"coefficients.{key}.{name:.60} is no format",
                    where=str(path),
                    fix=f"nearest valid: {', '.join(nearest(name, valid) or valid)}",
                )


def _coefficients(profile: AcceleratorProfile) -> Iterator[tuple[str, float]]:
    """Yield every number of the coefficients with its key, those of inner tables too."""
    if profile.coefficients is None:
        return
    pending: list[tuple[str, Any]] = [
        ("coefficients", profile.coefficients.model_dump(exclude_none=True))
    ]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{key}.{name}", part) for name, part in value.items()]
        elif isinstance(value, int | float):
            yield key, value


def _rates(profile: AcceleratorProfile) -> Iterator[tuple[str, float]]:
    """Yield every rate of a profile with its key."""
    yield "bandwidth.value", profile.bandwidth.value
    for dtype, rate in profile.flops.items():
        yield f"flops.{dtype}.value", rate.value
    if profile.interconnect.bytes_per_s:
        yield "interconnect.bytes_per_s", profile.interconnect.bytes_per_s
    yield from (entry for entry in _coefficients(profile) if entry[0].endswith("_per_s"))
