"""Deployments screened, then searched cheapest first until no other can be cheaper.

::

    all               closed form: unfit, unreachable or the same as another; not simulated
    what is left      throughput under overload: what each costs at least
    cheapest first    two at a time: what it sustains, the fleet that it takes
    the rest          not searched, once it cannot be cheaper than what was found
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kvsim.runs.copies import at_once, gather
from kvsim.search.fleet_option import FleetOption, costs_more, ranked
from kvsim.search.question import Question
from kvsim.simulator.replica import Watch
from kvsim.units import digits

__all__ = ["Told", "Work"]

_SIMULATIONS = 20  # of a search, about
_AT_A_TIME = 2  # the same for any number of cores, so that the same ones are searched

Told = Callable[[str, int, int, FleetOption | None], None]
"""``told(stage, done, of, best)``: how far the work is, and the cheapest so far."""


@dataclass
class Work:
    """The deployments of one question, each searched by one of some processes.

    Parameters
    ----------
    question : Question
        What is asked of them.
    watch : callable, optional
        See `kvsim.simulate`; called in this process alone.
    jobs : int, optional
        See `kvsim.replicate`: a deployment is searched by one process, since each rate follows
        from the rates before it.
    told : callable, optional
        Told how far the work is.

    Attributes
    ----------
    known : list of FleetOption
        All deployments, as far as they are known.
    done : set of int
        Numbers of those that are settled.
    interrupted : bool
        Whether an interrupt ended the work.
    """

    question: Question
    watch: Watch | None = None
    jobs: int | None = None
    told: Told | None = None
    known: list[FleetOption] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    interrupted: bool = False
    _kept: list[tuple[tuple[Any, ...], FleetOption]] = field(default_factory=list)

    def run(self, options: Sequence[FleetOption], *, search_all: bool) -> None:
        """Settle more of them beside those that are known; an interrupt keeps what is settled.

        Parameters
        ----------
        options : sequence of FleetOption
            As `Question.described` makes them.
        search_all : bool
            Whether to search whatever runs: what cannot be cheaper, what no empty server can do,
            and what is the same as another.
        """
        new = range(len(self.known), len(self.known) + len(options))
        self.known += options
        self.interrupted = True
        with suppress(KeyboardInterrupt):
            self._screen(new, search_all=search_all)
            self._do(self.question.loaded, self._left)
            self._search(search_all=search_all)
            self.interrupted = False

    @property
    def answers(self) -> list[FleetOption]:
        """Those that are settled, in the order given."""
        return [self.known[number] for number in sorted(self.done)]

    @property
    def all_answers(self) -> list[FleetOption]:
        """All of them; of those that are not settled, that they are not."""
        return [
            option
            if number in self.done
            else replace(option, ruled_out="unsearched", problem="not searched: interrupted")
            for number, option in enumerate(self.known)
        ]

    def _screen(self, numbers: range, *, search_all: bool) -> None:
        """Leave out, in closed form, what cannot be an answer, or what cannot be run alone."""
        for place, number in enumerate(self._in_order(numbers)):
            option, setup = self.question.screened(self.known[number], bounded=not search_all)
            if setup is not None and not search_all:
                own = self.question.identity(setup)
                twin = next((other for identity, other in self._kept if identity == own), None)
                if twin is None:
                    self._kept.append((own, option))
                else:
                    option = _same(option, twin)
            self._take(number, option)
            self._tell("screened", place + 1)

    def _search(self, *, search_all: bool) -> None:
        """Search what is left, cheapest first."""
        while self._left:
            for number in () if search_all else self._left:
                option = self.known[number]
                found = next(
                    (each for each in ranked(self.answers) if costs_more(option, each)), None
                )
                if found is not None:
                    self._take(number, _too_dear(option, found))
            now = self._left[:_AT_A_TIME]
            self._do(self.question.searched, now)
            self._tell("searched", len(self.done))

    @property
    def _left(self) -> list[int]:
        """Numbers of those that are not settled, the one that may be cheapest first."""
        return self._in_order(set(range(len(self.known))) - self.done)

    def _in_order(self, numbers: Iterable[int]) -> list[int]:
        """By what they may cost, then by what sets them apart: not by the order given."""

        def rank(number: int) -> tuple[float, str]:
            option = self.known[number]
            return option.least_cost, f"{option.accelerator} {option.label}"

        return sorted(numbers, key=rank)

    def _take(self, number: int, option: FleetOption) -> None:
        self.known[number] = option
        if option.problem:
            self.done.add(number)

    def _tell(self, stage: str, done: int) -> None:
        if self.told is not None:
            self.told(stage, done, len(self.known), next(iter(ranked(self.answers)), None))

    def _do(self, what: Callable[..., FleetOption], numbers: Sequence[int]) -> None:
        """Do one thing with some of them; an interrupt keeps what is finished."""
        answers: dict[int, FleetOption] = {}
        requests = _SIMULATIONS * self.question.settings.requests * len(numbers)
        try:
            gather(
                answers,
                lambda place: what(self.known[numbers[place]], self.watch),
                lambda place: what(self.known[numbers[place]]),
                tasks=len(numbers),
                processes=at_once(self.jobs, requests),
            )
        finally:
            for place, option in answers.items():
                self._take(numbers[place], option)
                if what == self.question.searched:
                    self.done.add(numbers[place])


def _same(option: FleetOption, twin: FleetOption) -> FleetOption:
    """Say that another one is the same deployment."""
    return replace(option, ruled_out="same", problem=f"the same deployment as {twin.label}")


def _too_dear(option: FleetOption, best: FleetOption) -> FleetOption:
    """Say that no search could make it the cheapest."""
    least = f"{option.least_devices:,} devices"
    rate = option.throughput
    overload = f"at {digits(rate or 0.0)} requests/s under overload it takes"
    why = "one replica is" if rate is None else overload
    most = (best.cost_per_hour or (0.0, 0.0))[1]
    same = (option.accelerator, option.price) == (best.accelerator, best.price)
    enough = f"{best.devices:,} are enough" if same else f"{most:,.2f} is enough"
    spent = "" if same else f", {option.least_cost:,.2f} an hour"
    return replace(
        option,
        ruled_out="dear",
        problem=f"cannot be cheaper: {why} {least} or more{spent}, and {enough}",
    )
