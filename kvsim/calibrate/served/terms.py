"""The terms that a server's own requests can tell, and an accelerator with other values of them.

::

    send ──transit──▶ | token x prompt | ──▶ queue ─▶ step, step, ... ──transit──▶ client
                                                      │
              host + sequences * sequence + launches + decode (weights, KV) + prefill (GEMMs)

A vector of values, one a term, makes a changed `AcceleratorProfile`; nothing else is changed, and
nothing is simulated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kvsim.calibrate.fit import gemms_beside, round_significant
from kvsim.specs.hardware import AcceleratorProfile, HostCost, StepCoefficients

__all__ = ["TERMS", "Server", "Term"]

_WRITTEN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Term:
    """One value that may be learned.

    Parameters
    ----------
    name : str
        "host_seconds"; of a factor on several rates what they are rates of: "prefill".
    fields : tuple of str
        What it sets, or multiplies.
    place : str
        Where they are: in the engine's "host" costs, in its "front_end", or "rates" of the
        accelerator, which it multiplies.
    unit : str
        "s" or "x", a factor.
    spread : float
        How far from the value known before it may well be: a prior standard deviation, in its
        unit. What the requests do not tell more narrowly than half of this they do not tell.
    high : float
        Largest value that is believed.
    low : float
        Smallest.
    scan : tuple of float
        Values that the search tries first: a term that costs nothing below a threshold has no
        slope to follow there.
    """

    name: str
    fields: tuple[str, ...]
    place: Literal["host", "front_end", "rates"]
    unit: Literal["s", "x"]
    spread: float
    high: float
    low: float = 0.0
    scan: tuple[float, ...] = ()


TERMS = (
    Term("host_seconds", ("host_seconds",), "host", "s", 1.5e-3, 0.05),
    Term("sequence_seconds", ("sequence_seconds",), "host", "s", 3e-5, 1e-3),
    Term("transit_seconds", ("transit_seconds",), "front_end", "s", 0.01, 0.5),
    Term("token_seconds", ("token_seconds",), "front_end", "s", 5e-6, 1e-4),
    Term("prefill", ("flops_per_s", "attention_flops_per_s"), "rates", "x", 0.3, 3.0, 0.2),
    Term(
        "launch_seconds", ("launch_seconds",), "host", "s", 2e-4, 5e-3,
        scan=(1e-4, 2e-4, 4e-4, 8e-4),
    ),
    Term("decode", ("weight_bytes_per_s", "kv_bytes_per_s"), "rates", "x", 0.15, 3.0, 0.2),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of a server before its requests are looked at.

    Parameters
    ----------
    accelerator : AcceleratorProfile
        The card.
    coefficients : StepCoefficients
        Its step times; its architecture's medians where nobody measured it.
    engine : str
        Name of the serving engine.
    host : HostCost
        What its host costs on this card.
    """

    accelerator: AcceleratorProfile
    coefficients: StepCoefficients
    engine: str
    host: HostCost

    def value(self, term: Term) -> float:
        """What is known of a term, in its unit; a factor is 1."""
        if term.place == "rates":
            return 1.0
        holder = self.host if term.place == "host" else self.host.front_end
        return float(getattr(holder, term.fields[0]))

    def changed(
        self, terms: Sequence[Term], values: Sequence[float], *, learned: str = "", **facts: Any
    ) -> AcceleratorProfile:
        """Return the accelerator with other values of some terms.

        Parameters
        ----------
        terms, values : sequence of Term, sequence of float
            Which, and what each becomes, in its unit.
        learned : str
            What they were learned from: the source of the host costs, and of the coefficients
            beside their own.
        facts : mapping
            Other fields of the coefficients: `date`, `fitted_on`, `error_percent`.
        """
        places: Mapping[str, dict[str, Any]] = {"host": {}, "front_end": {}, "rates": {}}
        for term, value in zip(terms, values, strict=True):
            for name in term.fields:
                known = getattr(self.coefficients, name) if term.place == "rates" else 1.0
                # as a profile writes it, so that what is read again is the same server
                places[term.place][name] = round_significant(known * value, _WRITTEN_DIGITS)
        if learned:
            facts["source"] = f"{self.coefficients.source}; then {learned}"
            places["host"]["source"] = learned
        front_end = self.host.front_end.model_copy(update=places["front_end"])
        host = self.host.model_copy(update={**places["host"], "front_end": front_end})
        costs = {**self.coefficients.host_costs, self.engine: host}
        rates = self.coefficients.model_copy(update=places["rates"])
        gemms = gemms_beside(rates, self.coefficients)
        changes = {"gemms": gemms, "host_costs": costs, **facts}
        return self.accelerator.model_copy(
            update={"coefficients": rates.model_copy(update=changes)}
        )
