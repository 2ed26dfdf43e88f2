"""What a study generates."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StudyPlan"]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What is generated.

    Parameters
    ----------
    model : str
        Catalogue name or path.
    device : str
        "cpu", "cuda", "cuda:1".
    tokens, batches : tuple of int
        Answers' lengths at which numbers are taken; sequences side by side.
    prompt_tokens : int
        Prompt of every sequence.
    checked_tokens : int
        Tokens that the four caches must generate alike.
    quick : bool
        Whether the decoder is shrunk to a size that a CPU generates with in seconds.
    """

    model: str = "gpt2"
    device: str = "cpu"
    tokens: tuple[int, ...] = (50, 100, 200, 400, 700, 1000)
    batches: tuple[int, ...] = (1, 4, 16)
    prompt_tokens: int = 16
    checked_tokens: int = 32
    quick: bool = False

    @classmethod
    def quickly(cls, model: str = "gpt2", device: str = "cpu") -> StudyPlan:
        """The same question in less than a minute of a CPU."""
        return cls(model, device, (50, 100, 200, 400), (1, 4), quick=True)
