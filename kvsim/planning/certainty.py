"""How sure a KV size is, in one sentence."""

from __future__ import annotations

from kvsim.engines.base import Band
from kvsim.units import GIB

__all__ = ["certainty"]


def certainty(band: Band, kv_bytes: int) -> str:
    """Say within what most start-ups like this one lie; "" of a size that was given."""
    if not band.within_bytes:
        return ""
    near = f" ({band.within_bytes / kv_bytes:.1%})" if kv_bytes > 0 else ""
    had = f"{band.start_ups} had just this" if band.start_ups else "none had all of this"
    return (
        f"KV cache {kv_bytes / GIB:,.2f} GiB ± {band.within_bytes / GIB:,.2f}{near},"
        f" {'extrapolated' if band.is_extrapolated else f'{band.share:.0%} sure'}:"
        f" of {band.source} that were compared {had}: {', '.join(band.like)}."
    )
