"""Cards, models and deployments made for one question: shared by the tests of the engines."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kvsim.engines.base import Capacity, Deployment, Engine
from kvsim.specs.attention import Attention, FullAttention, LatentAttention, SlidingAttention
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec, MoeMlp
from kvsim.units import GIB


def card(gib: float = 80, name: str = "card") -> AcceleratorProfile:
    """An accelerator with so much memory; the rest of it plays no part."""
    return AcceleratorProfile(
        name=name,
        vendor="any",
        advertised_memory_gb=gib,
        memory={"value": round(gib * GIB), "source": "test"},
        bandwidth={"value": 1e12, "source": "test"},
        flops={"bf16": {"value": 1e14, "source": "test"}},
        interconnect={"name": "none", "bytes_per_s": 0},
    )


def model_of(
    *groups: tuple[int, Attention],
    hidden: int = 4096,
    mlp: DenseMlp | MoeMlp | None = None,
    vocab: int = 32000,
    context: int = 131072,
    **spec: Any,
) -> ModelSpec:
    """A model of ``(layers, cache)`` groups, by default with an MLP four times as wide."""
    mlp = mlp or DenseMlp(intermediate_size=4 * hidden)
    layer_groups, start = [], 0
    for number, (count, cache) in enumerate(groups):
        layers = tuple(range(start, start + count))
        layer_groups.append(
            LayerGroup(name=f"group {number}", layers=layers, caches=(cache,), mlp=mlp)
        )
        start += count
    return ModelSpec(
        name="model",
        hidden_size=hidden,
        vocab_size=vocab,
        max_position_embeddings=context,
        layer_groups=tuple(layer_groups),
        **spec,
    )


def full(
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int | None = None,
    kind: type[FullAttention] = FullAttention,
    **more: Any,
) -> FullAttention:
    """Attention with a K and a V for every token, or a kind made of it."""
    return kind(
        heads=heads, kv_heads=kv_heads, key_dim=key_dim, value_dim=value_dim or key_dim, **more
    )


def latent(heads: int = 128, **more: Any) -> LatentAttention:
    """DeepSeek's MLA: rank 512, rope 64, 128 each of un-rotated key and value."""
    return LatentAttention(
        heads=heads, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128, **more
    )


def resolved(
    engine: Engine, model: ModelSpec, accelerator: AcceleratorProfile | None = None, **options: Any
) -> Deployment:
    """The model on the card, with all of the engine's defaults filled in."""
    return engine.resolve(Deployment(model, accelerator or card(), EngineOptions(**options)))


def capacities_of_print(
    engine: Engine, deployment: Deployment, gib: float, rounding: float = 0.005
) -> tuple[Any, ...]:
    """Capacities of the least and the most bytes that print as `gib`."""
    ends = (gib - rounding, gib + rounding)
    return tuple(engine.capacity(deployment, round(end * GIB)) for end in ends)


def observed_rows(folder: Path, engine: str) -> list[dict[str, str]]:
    """Consistent rows of the observed capacities whose engine's name begins so."""
    path = folder / "reference" / "kv_capacity_observed.csv"
    with path.open(newline="", encoding="utf-8") as lines:
        return [
            row
            for row in csv.DictReader(lines)
            if row["engine"].startswith(engine) and row["consistent"] == "yes"
        ]


def mixed_model(fulls: int, windows: int, dim: int, window: int) -> ModelSpec:
    """A model of full layers, and of window layers beside them where there are any."""
    sliding = full(8, 4, dim, kind=SlidingAttention, window=window)
    return model_of((fulls, full(8, 8, dim)), *([(windows, sliding)] if windows else []))


# Models drawn by hypothesis: layers of each kind, the size of a head, the window.
MIXED = st.builds(
    mixed_model, st.integers(1, 12), st.integers(0, 12), st.integers(1, 256), st.integers(1, 5000)
)


def regimes_in_order(
    engine: Engine, deployment: Deployment, kv_bytes: int, more: int
) -> tuple[Capacity, Capacity]:
    """Check the law of the three regimes; the capacities of `kv_bytes` and of `more` beside."""
    small, large = (engine.capacity(deployment, size) for size in (kv_bytes, kv_bytes + more))
    assert small.all_full_tokens <= small.admission_tokens <= small.steady_tokens
    assert small.admission_tokens <= large.admission_tokens
    return small, large
