"""The privacy that a caller asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from blindsight.errors import FormatError, ParameterError

from ._accountant import rho_total
from ._event import MAX_PARTIES, MAX_RECORDS_PER_PERSON, Event, Purpose, Unit, noisy_event
from ._source import NoiseSource

__all__ = ["DifferentialPrivacy"]

PURPOSES: tuple[Purpose, ...] = ("fit", "threshold", "evaluation", "describe")
MAX_JSON_BYTES = 4096


class _Json(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epsilon: float
    delta: float
    unit: Unit
    max_records_per_person: int | None
    shares: dict[str, float]
    colluders: int


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacy:
    """One epsilon over everything that a model, its threshold and its evaluation reveal.

    Parameters
    ----------
    epsilon : float
        Total, in [0.001, 1000]. Below 1 is strong; above 10 promises little.
    delta : float
        Total, in [1e-30, .1]; far below one over the number of units.
    unit : {"record", "person"}
        Whose presence is hidden: one record, or all records of one person at one party.
    max_records_per_person : int, optional
        For unit "person": how many records of a person are used at each party; the others are left out. 1 if
        not given: the noise grows in proportion to the bound, so that a larger one pays only where most
        persons have that many records.
    shares : mapping of purpose to fraction
        How the budget is split over "fit", "threshold", "evaluation" (and "describe"); fractions add up to at
        most 1.
    colluders : int
        Parties whose noise is known to whoever looks at the totals; the others add correspondingly more. 1 by
        default, since a party knows its own noise and usually receives the model. 0 protects against everybody but
        the parties.

    Raises
    ------
    ParameterError
        A value is out of its domain.

    Privacy
    -------
    Adding or removing one unit, (epsilon, delta)-differential privacy of everything released under it
    together, towards whoever sees the totals, provided that at least ``threshold - colluders`` survivors draw
    their noise honestly. A person known to several parties counts once at each: m parties, m times the
    sensitivity.
    """

    epsilon: float
    delta: float
    unit: Unit = "record"
    max_records_per_person: int | None = None
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"fit": 0.6, "threshold": 0.2, "evaluation": 0.2}, hash=False
    )
    colluders: int = 1

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ParameterError(f"{name} is not a number", got=repr(value)[:80])
            object.__setattr__(self, name, float(value))
        rho_total(self.epsilon, self.delta)  # checks both
        if self.unit not in ("record", "person"):
            raise ParameterError(
                "The unit of privacy is unknown", got=repr(self.unit)[:80], rule="'record' or 'person'"
            )
        bound = self.max_records_per_person
        if bound is None and self.unit == "person":
            object.__setattr__(self, "max_records_per_person", 1)
        elif bound is not None and self.unit == "record":
            raise ParameterError(
                "max_records_per_person is given for unit 'record'",
                got=str(bound),
                fix="leave it out, or unit='person'",
            )
        elif bound is not None and (isinstance(bound, bool) or not 1 <= bound <= MAX_RECORDS_PER_PERSON):
            raise ParameterError(
                "max_records_per_person is out of its domain",
                got=repr(bound),
                rule=f"1..{MAX_RECORDS_PER_PERSON}",
            )
        if isinstance(self.colluders, bool) or not 0 <= self.colluders < MAX_PARTIES:
            raise ParameterError("colluders is out of its domain", got=repr(self.colluders), rule=">= 0")
        shares = {str(purpose): float(share) for purpose, share in self.shares.items()}
        unknown = sorted(set(shares) - set(PURPOSES))
        if unknown:
            raise ParameterError("shares has an unknown purpose", got=repr(unknown[0])[:80], rule=", ".join(PURPOSES))
        if not shares or not all(math.isfinite(s) and s > 0 for s in shares.values()) or _sum(shares) > 1.0:
            raise ParameterError(
                "shares do not split the budget",
                got=repr(shares)[:200],
                rule="positive, adding up to at most 1",
            )
        object.__setattr__(self, "shares", MappingProxyType(dict(sorted(shares.items()))))

    @property
    def records_per_unit(self) -> int:
        """How many records of one unit enter a sum: 1, or ``max_records_per_person``."""
        return self.max_records_per_person or 1

    @property
    def rho(self) -> float:
        """The whole budget as a zCDP parameter (see :func:`rho_total`)."""
        return rho_total(self.epsilon, self.delta)

    def rho_for(self, purpose: Purpose) -> float:
        """The part of ``rho`` for one purpose.

        Raises
        ------
        ParameterError
            ``shares`` gives that purpose nothing.
        """
        if purpose not in self.shares:
            raise ParameterError(
                f"The privacy budget has no share for {purpose!r}",
                got=", ".join(self.shares),
                fix=f"shares={{..., {purpose!r}: ...}}",
            )
        return self.rho * self.shares[purpose]

    def event(
        self,
        *,
        query: str,
        purpose: Purpose,
        sensitivity_l2: float,
        coordinates: int,
        threshold: int,
        grid: float = 1.0,
        fraction: float = 1.0,
        source: NoiseSource | None = None,
    ) -> Event:
        """Plan one noisy sum that takes ``fraction`` of the purpose's share; see :func:`noisy_event`.

        ``sensitivity_l2`` is to one **record**, in grid units.
        """
        if not 0.0 < fraction <= 1.0:
            raise ParameterError("A fraction of a share is out of its domain", got=repr(fraction), rule="0 < f <= 1")
        return noisy_event(
            query=query,
            purpose=purpose,
            unit=self.unit,
            max_records_per_person=self.max_records_per_person,
            rho=self.rho_for(purpose) * fraction,
            sensitivity_l2=sensitivity_l2,
            coordinates=coordinates,
            threshold=threshold,
            colluders=self.colluders,
            grid=grid,
            source=source,
        )

    def to_json(self) -> bytes:
        """Canonical JSON."""
        value = _Json(
            epsilon=self.epsilon,
            delta=self.delta,
            unit=self.unit,
            max_records_per_person=self.max_records_per_person,
            shares=dict(self.shares),
            colluders=self.colluders,
        )
        return msgspec.json.encode(value, order="sorted")

    @staticmethod
    def from_json(data: bytes) -> DifferentialPrivacy:
        """Read what :meth:`to_json` wrote; FormatError for anything else."""
        if len(data) > MAX_JSON_BYTES:
            raise FormatError("A privacy request is too long", got=f"{len(data)} bytes", rule=f"<= {MAX_JSON_BYTES}")
        try:
            return DifferentialPrivacy(**msgspec.structs.asdict(msgspec.json.decode(data, type=_Json)))
        except (msgspec.MsgspecError, ParameterError) as error:
            raise FormatError("A privacy request is malformed", got=str(error)) from error

    def __reduce__(self) -> tuple[object, ...]:
        return (DifferentialPrivacy.from_json, (self.to_json(),))


def _sum(shares: Mapping[str, float]) -> float:
    return math.fsum(shares.values()) * (1.0 - 1e-12)  # .6 + .2 + .2 and its like are 1 up to rounding
