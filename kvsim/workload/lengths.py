"""How long prompts and outputs are: drawn apart, or as pairs seen together.

Pairs matter where the two are related: in the book-writing set of the reference traces their
rank correlation is 0.81, and drawing them apart would lose it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from kvsim.workload.base import Ints
from kvsim.workload.described import Described, Tokens
from kvsim.workload.distributions import RealDistribution
from kvsim.workload.streams import Streams

__all__ = ["IndependentLengths", "Lengths", "LengthsDraw", "PairDraw", "PairsFile"]


class LengthsDraw(Protocol):
    """Anything that draws (prompt, output) lengths."""

    def draw(self, streams: Streams, count: int) -> tuple[Ints, Ints]:
        """Return `count` prompt lengths and `count` output lengths, in tokens, at least 1."""
        ...


class IndependentLengths(Described):
    """Prompt and output drawn from a distribution each, from the streams of those names."""

    kind: Literal["independent"] = "independent"
    prompt: RealDistribution
    output: RealDistribution

    def draw(self, streams: Streams, count: int) -> tuple[Ints, Ints]:
        """Return `count` prompt and output lengths in tokens."""
        prompt = self.prompt.draw_tokens(streams.stream("prompts"), count)
        return prompt, self.output.draw_tokens(streams.stream("outputs"), count)


class PairsFile(Described):
    """(prompt, output) pairs drawn with replacement.

    Parameters
    ----------
    file : str, optional
        Any trace or length file that kvsim reads, relative to the scenario's folder.
    format : str, optional
        Its format by name; by default told by its content.
    pairs : sequence of (int, int), optional
        The pairs themselves, in place of a file.
    max_prompt_tokens, max_output_tokens : int, optional
        Longer lengths are clipped to this.
    """

    kind: Literal["pairs"]
    file: str | None = None
    format: str | None = None
    pairs: tuple[tuple[Tokens, Tokens], ...] | None = Field(default=None, min_length=1)
    max_prompt_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PairsFile:
        if (self.file is None) == (self.pairs is None):
            raise ValueError("give file or pairs, one of the two")
        return self

    def load(self, base_folder: Path) -> PairDraw:
        """Read the file (or take the pairs) and return what draws from it."""
        if self.pairs is not None:
            prompt, output = np.array(self.pairs, dtype=np.int64).T
        else:
            from kvsim.workload.traces import read_lengths

            prompt, output = read_lengths(base_folder / str(self.file), self.format)
        return PairDraw(
            _clipped(prompt, self.max_prompt_tokens), _clipped(output, self.max_output_tokens)
        )


def _clipped(lengths: Ints, most: int | None) -> Ints:
    return lengths if most is None else np.minimum(lengths, most)


@dataclass(frozen=True, eq=False)
class PairDraw:
    """Draws rows of two columns of equal length; the stream is "prompts"."""

    prompt_tokens: Ints
    output_tokens: Ints

    def draw(self, streams: Streams, count: int) -> tuple[Ints, Ints]:
        """Return `count` pairs as two arrays, in tokens."""
        row = streams.stream("prompts").integers(self._size, size=count)
        return self.prompt_tokens[row], self.output_tokens[row]

    @cached_property
    def _size(self) -> int:
        return len(self.prompt_tokens)


Lengths = Annotated[IndependentLengths | PairsFile, Field(discriminator="kind")]
