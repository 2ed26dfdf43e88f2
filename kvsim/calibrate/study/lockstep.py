"""Generate greedily with any of the caches, step by step, and time every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvsim.calibrate.study.caches import CACHES, BatchCache, NoCache
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.errors import InvariantError

__all__ = ["Lockstep", "StudyStep", "equal_texts", "prompts", "time_cached", "time_uncached"]


@dataclass(frozen=True, slots=True)
class StudyStep:
    """One step of a batch that advances together.

    Parameters
    ----------
    context : int
        Tokens per sequence that attention sees, the new one included.
    computed : int
        Tokens per sequence that the step computes.
    seconds : float
        How long it took.
    held_bytes, peak_bytes, copied_bytes : int
        K and V held after it; most held so far; copied so far.
    """

    context: int
    computed: int
    seconds: float
    held_bytes: int
    peak_bytes: int
    copied_bytes: int


class Lockstep:
    """A batch of equally long sequences that all produce a token per step.

    Parameters
    ----------
    decoder : Decoder
        The model.
    cache : BatchCache
        What is kept between steps.
    text : int64 Tensor (batch, tokens)
        The prompts.
    """

    def __init__(self, decoder: Decoder, cache: BatchCache, text: Tensor) -> None:
        self.decoder, self.cache, self.text = decoder, cache, text

    def step(self) -> None:
        """Compute what is not cached, and append the likeliest token to every sequence."""
        cache, batch = self.cache, self.cache.batch
        new = self.text[:, cache.cached_tokens :]
        tokens = new.shape[1]
        start = cache.cached_tokens
        positions = torch.arange(start, start + tokens, device=new.device).repeat(batch)
        last = torch.arange(1, batch + 1, device=new.device) * tokens - 1
        with torch.inference_mode():
            cache.begin(tokens)
            logits = self.decoder.logits(new.flatten(), positions, cache, last)
            cache.end(tokens)
            self.text = torch.cat([self.text, logits.argmax(dim=-1)[:, None]], dim=1)


def prompts(decoder: Decoder, batch: int, tokens: int, seed: int = 0) -> Tensor:
    """Random prompts, (batch, tokens), the same ones for the same seed."""
    random = torch.Generator().manual_seed(seed)
    text = torch.randint(decoder.shape.vocabulary, (batch, tokens), generator=random)
    return text.to(decoder.device)


def equal_texts(decoder: Decoder, text: Tensor, tokens: int) -> Tensor:
    """Generate with all four caches and return the one text that they agree on.

    Raises
    ------
    InvariantError
        When a cache leads to another text than recomputing everything does.
    """
    texts = {}
    for kind in CACHES:
        loop = Lockstep(decoder, kind(decoder, len(text), text.shape[1] + tokens), text)
        for _ in range(tokens):
            loop.step()
        texts[kind.name] = loop.text
    for name, found in texts.items():
        if not torch.equal(found, texts[NoCache.name]):
            raise InvariantError(f"the {name} cache generates other tokens than no cache does")
    return texts[NoCache.name]


def time_cached(loop: Lockstep, tokens: int, now: Callable[[], float]) -> list[StudyStep]:
    """Generate `tokens` tokens per sequence and time every step, the prompt's included."""
    steps, mark = [], now()
    for _ in range(tokens):
        before = loop.cache.cached_tokens
        loop.step()
        mark, last = now(), mark
        cache = loop.cache
        computed = cache.cached_tokens - before
        memory = cache.held_bytes, cache.peak_bytes, cache.copied_bytes
        steps.append(StudyStep(cache.cached_tokens, computed, mark - last, *memory))
    return steps


def time_uncached(
    decoder: Decoder,
    batch: int,
    contexts: Sequence[int],
    now: Callable[[], float],
    repeats: int = 3,
) -> list[StudyStep]:
    """Time a step without a cache at some contexts: it depends on nothing that went before."""
    steps = []
    for context in contexts:
        laps = []
        for _ in range(repeats):
            loop = Lockstep(
                decoder, NoCache(decoder, batch, context), prompts(decoder, batch, context)
            )
            start = now()
            loop.step()
            laps.append(now() - start)
        steps.append(StudyStep(context, context, min(laps), 0, 0, 0))
    return steps
