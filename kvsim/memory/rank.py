"""One rank's place in a deployment: what splits a model's layers, and which of them it holds.

::

    tp = 2, pp = 2       stage 0             stage 1
                         layers 0 to 15      layers 16 to 31, output head
                         ├── rank            ├── rank        each holds half of the heads
                         └── rank            └── rank        of every layer of its stage

The ranks of a stage are alike, so one of them stands for all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kvsim.errors import InputError
from kvsim.specs.model import ModelSpec

__all__ = ["Rank"]


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank's place in a deployment; the default holds the whole model.

    Parameters
    ----------
    tp, pp : int
        Tensor-parallel ranks; pipeline stages.
    stage : int
        This rank's stage, from 0.
    ep : int
        Expert-parallel ranks (vLLM: ``tp * dp``); 1 splits every expert over `tp` instead.
    dcp : int
        Ranks that the tokens of a sequence are dealt over.
    attention_tp : int or None
        Ranks that share one copy of the attention, where data-parallel attention makes them
        fewer than `tp`; None is `tp`.
    layers : range or None
        Layers of the stage, where the engine deals them otherwise than vLLM.

    Raises
    ------
    InputError
        For a degree below 1 or a stage outside the pipeline.
    """

    tp: int = 1
    pp: int = 1
    stage: int = 0
    ep: int = 1
    dcp: int = 1
    attention_tp: int | None = None
    layers: range | None = None

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep", "dcp", "attention_tp"):
            degree = getattr(self, name)
            if degree is not None and degree < 1:
                raise InputError(
                    f"{name}={degree} is no number of ranks", fix=f"choose {name}=1 or more"
                )
        if not 0 <= self.stage < self.pp:
            nearest = min(max(0, self.stage), self.pp - 1)
            raise InputError(
                f"stage {self.stage} is not one of the {self.pp} stages",
                fix=f"choose stage {nearest}, the nearest",
            )

    @property
    def attention_ranks(self) -> int:
        """Ranks that share one copy of the attention."""
        return self.tp if self.attention_tp is None else self.attention_tp

    @property
    def is_first(self) -> bool:
        """Whether its stage holds the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether its stage holds the output head."""
        return self.stage == self.pp - 1

    def layers_of(self, model: ModelSpec) -> range:
        """Layers of the rank's stage: the engine's, or as vLLM deals them out.

        vLLM gives every stage ``num_layers // pp``; the remainder goes one each to the stages
        before the last, backwards, because the last one already holds the output head.

        Parameters
        ----------
        model : ModelSpec
            The model.

        Returns
        -------
        range
            Layer indices.

        Raises
        ------
        InputError
            When there are more stages than layers.

        Examples
        --------
        Seven layers on four stages, six on four: 2 2 2 1 and 1 2 2 1.
        """
        if self.layers is not None:
            return self.layers
        if self.pp > model.num_layers:
            raise InputError(
                f"pp={self.pp} does not divide the {model.num_layers} layers of {model.name}",
                fix=f"choose pp from 1 to {model.num_layers}",
            )
        base, extra = divmod(model.num_layers, self.pp)
        first_longer = self.pp - 1 - extra
        start = base * self.stage + max(0, self.stage - first_longer)
        is_longer = first_longer <= self.stage < self.pp - 1
        return range(start, start + base + is_longer)

    def count_of(self, model: ModelSpec, layers: Collection[int]) -> int:
        """How many of some layers of the model the rank holds."""
        if self.pp == 1 and self.layers is None:
            return len(layers)
        mine = self.layers_of(model)
        return sum(layer in mine for layer in layers)
