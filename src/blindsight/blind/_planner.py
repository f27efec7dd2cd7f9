"""The planner: what each engine would cost for a model, what it gives away, and which to take.

Sizes and bits follow from the parameters and are exact. Times and round trips are estimates, see ``_planner_times`` and
``_planner_rounds``.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from blindsight.circuits import Monomials
from blindsight.errors import CapacityError, NotFittedError, ParameterError

from ._envelope import MAX_ROWS
from ._planner_he import bfv_option, ckks_option, form_option
from ._planner_mpc import mpc_option
from ._planner_networks import has_network
from ._planner_option import Cost, Option
from ._planner_rounds import Connection
from ._planner_trust import Engine, Reveal, trust_of

__all__ = ["ENGINES", "Cost", "Option", "Survey", "survey"]

ENGINES: tuple[Engine, ...] = ("rows", "columns", "aby3", "cheetah")
MOST_MEASURED = 1024
QUICKER = 2
"""So many times as quick is much."""

LOOSE = 0.01
"""Of the threshold: above it a bound on errors says little."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Every option for one model.

    Parameters
    ----------
    model : str
        Name of the model's class.
    rows : int
        Of a batch.
    connection : Connection
        Between any two machines.
    secret : bool
        Whether the public encoding tells nothing learned from data. Otherwise no engine hides all of the model.
    options : tuple of Option
        For each thing to reveal: HE rows, HE columns, MPC with three operators, MPC with two.
    """

    model: str
    rows: int
    connection: Connection
    secret: bool
    options: tuple[Option, ...]

    def revealing(self, reveal: Reveal) -> tuple[Option, ...]:
        """Options that reveal scores, or verdicts."""
        return tuple(option for option in self.options if option.reveal == reveal)

    def recommended(self, reveal: Reveal = "score") -> Option | None:
        """The option to take; None where none can carry the model.

        Encryption before MPC, since no operators must be found that do not collude; then the shorter time for the batch
        over the connection, set-up included.
        """
        able = [option for option in self.revealing(reveal) if not option.refusal]
        encrypted = [option for option in able if option.engine in ("rows", "columns")]
        return min(encrypted or able, key=_seconds, default=None)

    def why(self, reveal: Reveal = "score") -> str:
        """Reason for the recommendation, in one sentence; or that there is none."""
        best = self.recommended(reveal)
        if best is None:
            return f"No engine carries {self.model} for {reveal}s: teach its scores to a table, TableStudent."
        others = [o for o in self.revealing(reveal) if not o.refusal and o is not best]
        if best.engine in ("rows", "columns"):
            reason = "no operators have to be trusted not to collude"
        else:
            reason = "encryption cannot carry it"
        if best.engine == "columns":
            reason += f" (--packing columns{' --scheme ckks' if best.error > 0 else ''})"
        text = f"{best.name}: {reason}; about {_seconds(best):.3g} s for {self.rows:,} records at {self.connection}"
        if others:
            text += " (" + ", ".join(f"{o.name} {_seconds(o):.3g} s" for o in others) + ")"
        if best.error > 0:
            text += f"; scores are off by at most {best.error:.2g} at the threshold of {best.threshold:.2g}"
            if reveal == "verdict":
                text += ", and a verdict may differ where the score is that close to it"
            if best.error > LOOSE * best.threshold:
                text += " (a worst case over all records inside the bounds: try it on your own)"
        return f"{text}.{self._why_not_exact(best, reveal)}"

    def _why_not_exact(self, best: Option, reveal: Reveal) -> str:
        """What approximate scores would save, where that is much."""
        for option in self.revealing(reveal):
            other = option.approximate
            if other is not None and QUICKER * _seconds(other) <= _seconds(best):
                return (
                    f" Where scores may be off by {other.error:.2g} at the threshold of {best.threshold:.2g}, take "
                    f"columns under CKKS (--packing columns --scheme ckks): about {_seconds(other):.3g} s."
                )
        return ""


def _seconds(option: Option) -> float:
    return math.inf if option.cost is None else option.cost.seconds


def survey(
    model: Any,
    *,
    rows: int = 1000,
    reveal: Iterable[Reveal] = ("score", "verdict"),
    connection: Connection | None = None,
    measure: int = 0,
) -> Survey:
    """Plan every engine for a fitted model.

    Parameters
    ----------
    model
        With ``encoder_`` and ``circuit_``, or with ``inputs_`` and ``network_``.
    rows : int
        Records of a batch, 1 to a million.
    reveal : iterable of {"score", "verdict"}
        What the owner shall learn. Verdicts are on one threshold.
    connection : Connection, optional
        Between any two machines. Default: 10 ms of round trip, 100 Mbit/s.
    measure : int
        Of networks under MPC: score so many records, drawn at random, in the operators' arithmetic on this machine, and
        say by how much they are off; takes seconds. What is measured is not proved.

    Raises
    ------
    ParameterError
        ``rows`` or ``measure`` is out of its domain.
    MissingExtraError
        Measuring needs the extra ``mpc``.
    NotFittedError
        The model is not fitted.

    Privacy
    -------
    The survey holds sizes of the weights, rounded up to powers of two, and their number, and for networks the largest
    error of a score at the threshold: it is for the model's holder. Nothing is released by it.
    """
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        raise ParameterError("rows is out of its domain", got=repr(rows)[:40], rule=f"1 to {MAX_ROWS}")
    if type(measure) is not int or not 0 <= measure <= MOST_MEASURED:
        raise ParameterError("measure is out of its domain", got=repr(measure)[:40], rule=f"0 to {MOST_MEASURED}")
    line, threshold = connection or Connection(), float(getattr(model, "threshold_", math.nan))
    options = tuple(
        _over(line, threshold, _option(model, engine, revealed, rows, measure))
        for revealed in reveal
        for engine in ENGINES
    )
    secret = bool(getattr(model, "is_secret_", False))
    return Survey(model=type(model).__name__, rows=rows, connection=line, secret=secret, options=options)


def _over(line: Connection, threshold: float, option: Option) -> Option:
    cost = option.cost and replace(option.cost, connection=line)
    other = option.approximate and _over(line, threshold, option.approximate)
    return replace(option, cost=cost, threshold=threshold, approximate=other)


def _option(model: Any, engine: Engine, reveal: Reveal, rows: int, measure: int) -> Option:
    whole = hasattr(model, "circuit_")
    if not whole and not has_network(model) and not hasattr(model, "score_histogram_"):
        raise NotFittedError("The model to plan for is not fitted", fix="fit it, or load a saved one")
    trust = trust_of(engine, reveal, approximate=not whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if engine == "aby3" or engine == "cheetah":
                return mpc_option(model, engine, reveal, rows, trust, measure)
            if not whole:
                return ckks_option(model, engine, reveal, rows, trust)
            form = None
            if engine == "columns" and reveal == "score" and isinstance(model.encoder_, Monomials):
                with contextlib.suppress(CapacityError, ParameterError):
                    form = form_option(model, rows)
            try:
                return replace(bfv_option(model, engine, reveal, rows, trust), approximate=form)
            except CapacityError:
                if form is None:
                    raise
                return form
    except NotFittedError:
        raise
    except (CapacityError, ParameterError) as error:
        refusal = "; ".join(part for part in (error.what, error.got, error.rule) if part)
    except ValueError as error:  # a program that its own description refuses
        refusal = f"The circuit does not fit a program: {error}"
    return Option(
        engine=engine, reveal=reveal, refusal=refusal, parameters=None, error=math.nan, bits=math.nan,
        rows_to_extract=0, cost=None, trust=trust,
    )  # fmt: skip
