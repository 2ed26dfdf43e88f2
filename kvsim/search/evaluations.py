"""So many points of a space that is too large to search whole, chosen by what was found before.

A sampler of Optuna (tree-structured Parzen estimators: Bergstra et al., NeurIPS 2011) proposes
points; each is settled as those of a whole search are, and the sampler hears what it costs. Which
points are tried follows from the seed alone: they are proposed in turn, two before each hearing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kvsim.errors import InputError, MissingExtraError
from kvsim.search.fleet_option import FleetOption
from kvsim.search.space import Space
from kvsim.search.work import Work

__all__ = ["evaluate"]

_AT_A_TIME = 2
_ASKED_IN_VAIN = 20  # proposals for each evaluation: those that were tried before are only heard
_NO_ANSWER = 1e12  # what a point that is no answer costs: more than any fleet


def evaluate(work: Work, space: Space, evaluations: int, *, search_all: bool) -> None:
    """Settle so many points of a space.

    Parameters
    ----------
    work : Work
        Settles them, and keeps them.
    space : Space
        Where they are.
    evaluations : int
        How many, fewer than the space has.
    search_all : bool
        As `Work.run`.

    Raises
    ------
    InputError
        For a number below 1.
    MissingExtraError
        Without the package optuna.
    """
    if evaluations < 1:
        raise InputError(f"{evaluations} evaluations try nothing", where="evaluations")
    study = _study(work.question.settings.first_seed(work.question.scenario))
    tried: dict[int, int] = {}  # place in the space: number of the work
    with suppress(KeyboardInterrupt):
        for _ in range(_ASKED_IN_VAIN * evaluations):
            if len(tried) >= evaluations:
                return
            wanted = min(_AT_A_TIME, evaluations - len(tried))
            trials = [study.ask() for _ in range(wanted)]
            places = [_place(trial, space) for trial in trials]
            new = [place for place in dict.fromkeys(places) if place not in tried]
            tried |= {place: len(work.known) + at for at, place in enumerate(new)}
            values = [space.values(place) for place in new]
            work.run([work.question.described(each) for each in values], search_all=search_all)
            if work.interrupted:
                return
            for trial, place in zip(trials, places, strict=True):
                study.tell(trial, _heard(work.known[tried[place]]))
        return
    work.interrupted = True


def _study(seed: int) -> Any:
    """A study that is silent and kept in memory."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "optimize", "trying some points of a space") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))


def _place(trial: Any, space: Space) -> int:
    """The place in the space that a trial proposes: the last key's values are the fastest."""
    place = 0
    for key, values in space.vary.items():
        chosen = trial.suggest_categorical(key, list(range(len(values))))
        place = place * len(values) + int(chosen)
    return place


def _heard(option: FleetOption) -> float:
    """What a point costs by its middle price; of one that is too dear, what it costs at least."""
    if option.price is None or option.ruled_out not in ("", "dear"):
        return _NO_ANSWER
    devices = option.devices or option.least_devices
    return devices * option.price.middle
