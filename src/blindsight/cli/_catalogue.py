"""What each detector costs: sums, bytes, budget, encryption; as facts, before anything is fitted."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blindsight.errors import BlindsightError

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.detectors import Detector
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["Entry", "catalogue"]

WORD_BYTES = 8
"""A masked sum sends 64-bit words."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One detector.

    Parameters
    ----------
    name, about : str
    kind : str
        "one sum", "rounds" or "other".
    sums : int or None
        Private sums of a whole fit, thresholds included, at most; None where only the data decide.
    bytes_per_sum : int or None
        Bytes of the longest masked vector that one party sends; None without a schema, or where it does not fit it.
    epsilon : str
        How the budget is spent; "refused" where differential privacy is, "" where the schema does not fit.
    blind : str
        How it can be scored blind, or that it cannot.
    extra : str
        What must be installed besides the core: "" or an extra's name.
    installed : bool
    note : str
        Why the schema does not fit it; "" otherwise.
    """

    name: str
    about: str
    kind: str
    sums: int | None
    bytes_per_sum: int | None
    epsilon: str
    blind: str
    extra: str
    installed: bool
    note: str


def catalogue(
    schema: Schema | None,
    privacy: DifferentialPrivacy | None,
    *,
    parties: int,
    allowed: frozenset[str] = frozenset(),
) -> list[Entry]:
    """Every known detector with its default parameters, by name.

    Parameters
    ----------
    schema : Schema, optional
        For bytes and for what does not fit it.
    privacy : DifferentialPrivacy, optional
        For the budget of each sum.
    parties : int
    allowed : frozenset of str
        Other packages' detectors that may be loaded, and are then listed too.
    """
    from blindsight.detectors import known_detectors

    known = known_detectors(allowed=allowed)
    return [_entry(cls, schema, privacy, parties) for _, cls in sorted(known.items(), key=_caseless)]


def _caseless(item: tuple[str, object]) -> str:
    return item[0].lower()


def _entry(cls: type[Detector], schema: Schema | None, privacy: DifferentialPrivacy | None, parties: int) -> Entry:
    from blindsight.detectors import CircuitDetector, SumDetector

    extra = "deep" if _needs_torch(cls) else ""
    installed = not extra or importlib.util.find_spec("torch") is not None
    training = getattr(cls(), "training", None) or getattr(cls, "default_training", None)
    rounds = getattr(cls(), "rounds", None) if training is None else training.rounds
    by_operators = "MPC" if getattr(cls, "by_operators", False) else "refused"
    by_network = "MPC; CKKS if square" if getattr(cls, "feed_forward", False) else by_operators
    bytes_per_sum, note, blind = None, "", "BFV" if issubclass(cls, CircuitDetector) else by_network
    if schema is not None and installed:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bytes_per_sum = WORD_BYTES * _longest(cls(), schema)
                if issubclass(cls, SumDetector):
                    blind = _engine(cls(), schema)
        except BlindsightError as error:
            note, blind = error.what, ""
    one_sum = issubclass(cls, SumDetector)
    if note:
        epsilon = ""
    elif not extra and _is_exact_only(cls()):
        epsilon = "refused"
    else:
        epsilon = _epsilon(rounds, privacy, parties)
    return Entry(
        name=cls.name,
        about=(cls.__doc__ or "").strip().split("\n")[0],
        kind="one sum" if one_sum else "other" if rounds is None else "rounds",
        sums=2 if one_sum else None if rounds is None else _sums(rounds, training),
        bytes_per_sum=bytes_per_sum,
        epsilon=epsilon,
        blind=blind,
        extra=extra,
        installed=installed,
        note=note,
    )


def _is_exact_only(detector: Detector) -> bool:
    """Whether no noise could make its update private, whatever the schema."""
    from blindsight.data import Column, Schema

    try:
        detector.begin(Schema((Column(name="x", low=0.0, high=1.0),)))
        return bool(getattr(detector.next_query(), "exact_only", False))
    except BlindsightError:
        return False  # it needs other columns than one number: nothing is known of it


def _needs_torch(cls: type[Detector]) -> bool:
    return any(base.__name__ == "TorchDetector" for base in cls.__mro__)


def _sums(rounds: int, training: object) -> int:
    """One sum ahead, one a round, one of losses a round with patience, and the score histogram."""
    return 2 + rounds * (2 if getattr(training, "patience", 0) else 1)


def _longest(detector: Detector, schema: Schema) -> int:
    """Coordinates of the longest sum whose length follows from schema and parameters alone."""
    detector.begin(schema)
    query = detector.next_query()
    longest = query.length if query is not None else 0
    initial = getattr(detector, "_initial", None)
    if callable(initial):
        try:
            parameters = initial(schema)
        except TypeError:
            return longest
        longest = max(longest, sum(int(np.asarray(array).size) for array in dict(parameters).values()))
    return longest


def _engine(detector: Detector, schema: Schema) -> str:
    """Plan blind scoring of a model fitted on a few made-up records: its form is that of any other."""
    from blindsight.errors import CapacityError, MissingExtraError

    try:
        from blindsight.blind import plan
    except (ImportError, MissingExtraError):
        return "BFV (extra: he)"
    generator = np.random.default_rng(0)
    columns = []
    for column in schema.features:
        if column.type == "category":
            columns.append(generator.integers(len(column.categories or ()), size=200).astype(np.float64))
        else:
            columns.append(generator.uniform(column.low or 0.0, column.high or 0.0, size=200))
    model = detector.set_params(schema=schema).fit(np.column_stack(columns))
    try:
        planned = plan(model.encoder_, model.circuit_)
    except CapacityError:
        return "refused: too large"
    except MissingExtraError:
        return "BFV (extra: he)"
    return f"BFV, {planned.he.degree}" if hasattr(getattr(planned, "he", None), "degree") else "BFV"


def _epsilon(rounds: int | None, privacy: DifferentialPrivacy | None, parties: int) -> str:
    if privacy is None:
        return "once" if rounds is None else "every round"
    from blindsight.privacy import epsilon_of
    from blindsight.securesum import default_threshold

    fit = privacy.event(
        query="fit", purpose="fit", sensitivity_l2=1.0, coordinates=1, threshold=default_threshold(parties)
    )
    spent = epsilon_of([fit], privacy.delta)
    if rounds is None:
        return f"{spent:.2g} in one sum"
    one = privacy.event(
        query="fit", purpose="fit", sensitivity_l2=1.0, coordinates=1, threshold=default_threshold(parties),
        fraction=1.0 / rounds,
    )  # fmt: skip
    return f"{spent:.2g} over {rounds} rounds ({epsilon_of([one], privacy.delta):.2g} one alone)"
