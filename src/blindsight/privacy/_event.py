"""One release, as a frozen value: what happened, apart from what it costs."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from blindsight.errors import FormatError, ParameterError

from ._gaussian import MIN_LOCAL_VARIANCE, distributed_rho, local_noise_variance, noise_variance
from ._source import NoiseSource

__all__ = ["Event", "exact_event", "noisy_event"]

Purpose = Literal["fit", "threshold", "evaluation", "describe"]
Unit = Literal["record", "person"]

MAX_EVENT_BYTES = 4096
MAX_TEXT_CHARS = 200
MAX_COORDINATES = 1 << 28
MAX_PARTIES = 10_000
MAX_RECORDS_PER_PERSON = 1 << 20


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release of one private sum, as executed.

    Make one with :func:`noisy_event` or :func:`exact_event`. Validated on construction, also when read from
    JSON: a noisy event cannot claim a smaller rho than its own sigma and sensitivity give.

    Attributes
    ----------
    query : str
        What was summed, for the reader: "ecod.histogram".
    purpose : {"fit", "threshold", "evaluation", "describe"}
    mechanism : {"distributed-discrete-gaussian", "exact-sum"}
    unit : {"record", "person"}
        Whose presence is hidden: one record; or all of one person's records *at one party*, up to the bound.
    max_records_per_person : int or None
        Contribution bound; None for unit "record".
    neighbouring : {"add-or-remove-one"}
        Two data sets are neighbours when one has one unit more.
    coordinates : int
        Length of the summed vector.
    threshold, colluders : int
        Fewest survivors for which the sum is opened; parties assumed to tell their noise.
    sensitivity_l2 : float
        Of the integer vector to one *unit*, in grid units (the contribution bound is in it).
    local_variance : float
        Each party's noise parameter sigma squared, grid units squared; 0 for exact sums.
    grid : float
        What one grid unit is worth in the query's own unit; 1 for counts.
    rho : float
        zCDP parameter of the sum as executed with ``threshold - colluders`` honest parties; 0 for exact sums.
    noise_source : {"secure", "insecure-seeded", "none"}
    trust : str
        Who must be trusted for the guarantee.
    """

    query: str
    purpose: Purpose
    mechanism: Literal["distributed-discrete-gaussian", "exact-sum"]
    unit: Unit
    max_records_per_person: int | None
    neighbouring: Literal["add-or-remove-one"]
    coordinates: int
    threshold: int
    colluders: int
    sensitivity_l2: float
    local_variance: float
    grid: float
    rho: float
    noise_source: Literal["secure", "insecure-seeded", "none"]
    trust: str

    def __post_init__(self) -> None:
        for name in ("query", "trust"):
            text = getattr(self, name)
            if not 0 < len(text) <= MAX_TEXT_CHARS or not text.isprintable():
                raise ParameterError(
                    f"An event's {name} is unusable",
                    got=repr(text)[:80],
                    rule=f"1 to {MAX_TEXT_CHARS} printable",
                )
        _check_integer("coordinates", self.coordinates, 1, MAX_COORDINATES)
        _check_integer("threshold", self.threshold, 1, MAX_PARTIES)
        _check_integer("colluders", self.colluders, 0, self.threshold - 1)
        if self.unit == "person":
            _check_integer("max_records_per_person", self.max_records_per_person, 1, MAX_RECORDS_PER_PERSON)
        elif self.max_records_per_person is not None:
            raise ParameterError("An event of unit 'record' has a contribution bound", rule="None for unit 'record'")
        for name in ("sensitivity_l2", "grid"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ParameterError(
                    f"An event's {name} is unusable",
                    got=repr(getattr(self, name)),
                    rule="finite and positive",
                )
        if self.exact:
            if (self.local_variance, self.rho, self.noise_source) != (0.0, 0.0, "none"):
                raise ParameterError("An exact sum claims noise", rule="variance 0, rho 0, source 'none'")
            return
        if self.noise_source == "none":
            raise ParameterError("A noisy sum names no noise source", rule="'secure' or 'insecure-seeded'")
        if not (math.isfinite(self.local_variance) and self.local_variance >= MIN_LOCAL_VARIANCE):
            raise ParameterError(
                "The local noise is too small for the bound on the sum",
                got=f"variance {self.local_variance!r}",
                rule=f"at least {MIN_LOCAL_VARIANCE:g} grid units squared",
            )
        cost = distributed_rho(
            sensitivity_l2=self.sensitivity_l2,
            local_variance=self.local_variance,
            parties=self.honest_parties,
            coordinates=self.coordinates,
        )
        if not (math.isfinite(self.rho) and self.rho >= cost * (1.0 - 1e-12)):
            raise ParameterError(
                "An event claims to cost less than its noise allows",
                got=f"rho = {self.rho!r}",
                rule=f"rho >= {cost!r}",
            )

    @property
    def exact(self) -> bool:
        """Whether the sum is released without noise."""
        return self.mechanism == "exact-sum"

    @property
    def honest_parties(self) -> int:
        """Fewest parties whose noise the adversary does not know."""
        return self.threshold - self.colluders

    @property
    def local_stddev_grid(self) -> float:
        """Each party's noise, in grid units."""
        return math.sqrt(self.local_variance)

    @property
    def total_stddev(self) -> float:
        """Least noise in the sum, in the query's own unit."""
        return math.sqrt(self.local_variance * self.honest_parties) * self.grid

    @property
    def guarantee(self) -> str:
        """One sentence for a privacy officer: what this release promises, and for whom."""
        if self.exact:
            return "exact sum, no differential privacy"
        if self.noise_source != "secure":
            return "no privacy guarantee: the noise came from a seeded source"
        who = (
            "one record"
            if self.unit == "record"
            else f"one person at one party (at most {self.max_records_per_person} of their records used)"
        )
        return (
            f"{self.rho:.6g}-zCDP for adding or removing {who}, with at least {self.threshold} survivors"
            f" and at most {self.colluders} of them colluding; trusted: {self.trust}"
        )

    def to_json(self) -> bytes:
        """Canonical JSON: keys sorted, no spaces, floats in their shortest exact form."""
        return msgspec.json.encode(self, order="sorted")

    @staticmethod
    def from_json(data: bytes) -> Event:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        FormatError
            Not an event: syntax, an unknown or missing field, a wrong type, or values that contradict each
            other.
        """
        if len(data) > MAX_EVENT_BYTES:
            raise FormatError("A ledger event is too long", got=f"{len(data)} bytes", rule=f"at most {MAX_EVENT_BYTES}")
        try:
            return msgspec.json.decode(data, type=Event)
        except (msgspec.MsgspecError, ParameterError) as error:
            raise FormatError("A ledger event is malformed", got=str(error)) from error

    def to_dp_event(self) -> Any:
        """Return the dp_accounting event: ``ZCDpEvent(rho)``, or ``NonPrivateDpEvent`` for an exact sum."""
        import dp_accounting

        return dp_accounting.NonPrivateDpEvent() if self.exact else dp_accounting.ZCDpEvent(self.rho)


TRUST = "the other survivors add their noise as agreed; secure aggregation shows their sum alone"


def noisy_event(
    *,
    query: str,
    purpose: Purpose,
    unit: Unit,
    max_records_per_person: int | None = None,
    rho: float,
    sensitivity_l2: float,
    coordinates: int,
    threshold: int,
    colluders: int = 0,
    grid: float = 1.0,
    source: NoiseSource | None = None,
) -> Event:
    """Plan a noisy sum that costs at most ``rho``: how much noise, and what that costs exactly.

    Parameters
    ----------
    rho : float
        What the release may cost (a share of ``rho_total``).
    sensitivity_l2 : float
        L2 sensitivity to one **record**, in grid units; for unit "person" it is multiplied by
        ``max_records_per_person``.
    threshold, colluders : int
        See :func:`local_noise_variance`.
    source : NoiseSource, optional
        Where the noise will come from; an insecure one marks the event.

    Returns
    -------
    Event
        With ``local_variance`` for ``discrete_gaussian`` and ``rho`` as executed, never above the one asked
        for.

    Raises
    ------
    ParameterError
        A value is out of its domain.

    Privacy
    -------
    A sum over k records of one person changes by at most k times the sensitivity to one record (triangle
    inequality), whatever the vectors.
    """
    per_unit = sensitivity_l2 * (max_records_per_person or 1)
    local = local_noise_variance(noise_variance(per_unit, rho), threshold, colluders)
    for _ in range(200):
        # The sum is not exactly Gaussian and square roots round: raise the noise until the cost fits.
        cost = distributed_rho(
            sensitivity_l2=per_unit,
            local_variance=local,
            parties=threshold - colluders,
            coordinates=coordinates,
        )
        if cost <= rho:
            break
        local *= max(1.0 + 2.0**-50, min(2.0, 1.0 + 4.0 * (cost / rho - 1.0)))
    else:
        raise ParameterError("No noise makes this query cost so little", got=f"rho = {rho!r}")
    return Event(
        query=query,
        purpose=purpose,
        mechanism="distributed-discrete-gaussian",
        unit=unit,
        max_records_per_person=max_records_per_person,
        neighbouring="add-or-remove-one",
        coordinates=coordinates,
        threshold=threshold,
        colluders=colluders,
        sensitivity_l2=float(per_unit),
        local_variance=float(local),
        grid=float(grid),
        rho=float(cost),
        noise_source="secure" if source is None or source.is_secure else "insecure-seeded",
        trust=TRUST,
    )


def exact_event(
    *,
    query: str,
    purpose: Purpose,
    unit: Unit = "record",
    max_records_per_person: int | None = None,
    sensitivity_l2: float,
    coordinates: int,
    threshold: int,
    colluders: int = 0,
    grid: float = 1.0,
) -> Event:
    """Describe the release of a sum without noise; it has no epsilon and is printed as what it is."""
    return Event(
        query=query,
        purpose=purpose,
        mechanism="exact-sum",
        unit=unit,
        max_records_per_person=max_records_per_person,
        neighbouring="add-or-remove-one",
        coordinates=coordinates,
        threshold=threshold,
        colluders=colluders,
        sensitivity_l2=float(sensitivity_l2 * (max_records_per_person or 1)),
        local_variance=0.0,
        grid=float(grid),
        rho=0.0,
        noise_source="none",
        trust="whoever sees the total, and whoever compares it with totals over other sets",
    )


def _check_integer(name: str, value: int | None, low: int, high: int) -> None:
    if value is None or isinstance(value, bool) or not low <= value <= high:
        raise ParameterError(f"An event's {name} is out of its domain", got=repr(value), rule=f"{low}..{high}")
