"""The privacy that a caller asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from blindsight.errors import FormatError, ParameterError

from ._accountant import noise_multiplier_for, rho_total
from ._event import MAX_PARTIES, MAX_RECORDS_PER_PERSON, Event, Purpose, Trust, Unit
from ._plan import noisy_event, sampled_event
from ._source import NoiseSource

__all__ = ["DifferentialPrivacy"]

PURPOSES: tuple[Purpose, ...] = ("fit", "threshold", "evaluation", "describe")
MAX_JSON_BYTES = 4096
UNITS: tuple[Unit, ...] = ("record", "person", "party")
RECORDS_PER_PARTY = 1000


class _Json(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epsilon: float
    delta: float
    unit: Unit
    max_records_per_person: int | None
    shares: dict[str, float]
    colluders: int
    max_records_per_party: int | None = None
    trust: Trust = "federation"


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacy:
    """One epsilon over everything that a model, its threshold and its evaluation reveal.

    Parameters
    ----------
    epsilon : float
        Total, in [0.001, 1000]. Below 1 is strong; above 10 promises little.
    delta : float
        Total, in [1e-30, .1]; far below one over the number of units.
    unit : {"record", "person", "party"}
        Whose presence is hidden: one record, all records of one person at one party, or all that one party adds.
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
    max_records_per_party : int, optional
        For unit "party": how many records of a party are used in a sum over records (thresholds, evaluation, counts);
        1,000 if not given. The noise grows in proportion. Rounds of training are bounded by the update's norm
        instead, and use all records.
    trust : {"federation", "local"}
        "federation": the survivors' noise protects together, behind the mask. "local": each party adds as much noise
        as its own contribution needs, so that neither the other parties nor the masking need be trusted (local
        differential privacy between organisations); the total has as many times the variance as there are parties.

    Raises
    ------
    ParameterError
        A value is out of its domain.

    Privacy
    -------
    Adding or removing one unit, (epsilon, delta)-differential privacy of everything released under it
    together, towards whoever sees the totals, provided that at least ``threshold - colluders`` survivors draw
    their noise honestly. With ``trust="local"`` that proviso falls away. DP-SGD (rounds of training under unit "record"
    or "person") needs no trust either, and its noise is floating point. Unit "party" hides whether what a party adds
    is in the total; that it took part is public. A person known to several parties counts once at each: m parties, m
    times the sensitivity.
    """

    epsilon: float
    delta: float
    unit: Unit = "record"
    max_records_per_person: int | None = None
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"fit": 0.6, "threshold": 0.2, "evaluation": 0.2}, hash=False
    )
    colluders: int = 1
    max_records_per_party: int | None = None
    trust: Trust = "federation"

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ParameterError(f"{name} is not a number", got=repr(value)[:80])
            object.__setattr__(self, name, float(value))
        rho_total(self.epsilon, self.delta)  # checks both
        if self.unit not in UNITS:
            raise ParameterError(
                "The unit of privacy is unknown", got=repr(self.unit)[:80], rule=", ".join(UNITS), fix="unit='record'"
            )
        if self.trust not in ("federation", "local"):
            raise ParameterError("The trust is unknown", got=repr(self.trust)[:80], rule="'federation' or 'local'")
        self._settle_bound("max_records_per_person", "person", 1)
        self._settle_bound("max_records_per_party", "party", RECORDS_PER_PARTY)
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

    def _settle_bound(self, name: str, unit: Unit, default: int) -> None:
        bound = getattr(self, name)
        if bound is None and self.unit == unit:
            object.__setattr__(self, name, default)
        elif bound is not None and self.unit != unit:
            raise ParameterError(
                f"{name} is given for unit '{self.unit}'", got=str(bound)[:80], fix=f"leave it out, or unit='{unit}'"
            )
        elif bound is not None and (type(bound) is not int or not 1 <= bound <= MAX_RECORDS_PER_PERSON):
            raise ParameterError(
                f"{name} is out of its domain", got=repr(bound)[:80], rule=f"1..{MAX_RECORDS_PER_PERSON}"
            )

    @property
    def records_per_unit(self) -> int:
        """How many records of one unit enter a sum: 1, ``max_records_per_person`` or ``max_records_per_party``."""
        return self.max_records_per_person or self.max_records_per_party or 1

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
        whole: bool = False,
        source: NoiseSource | None = None,
    ) -> Event:
        """Plan one noisy sum that takes ``fraction`` of the purpose's share; see :func:`noisy_event`.

        ``sensitivity_l2`` is to one **record**, in grid units; or, with ``whole`` and for unit "party" alone, to one
        party's whole vector.
        """
        _check_fraction(fraction)
        if whole and self.unit != "party":
            raise ParameterError("A whole vector is bounded for parties alone", got=self.unit, fix="unit='party'")
        return noisy_event(
            query=query,
            purpose=purpose,
            unit=self.unit,
            max_records_per_person=self.max_records_per_person,
            max_records_per_party=None if whole else self.max_records_per_party,
            trust=self.trust,
            rho=self.rho_for(purpose) * fraction,
            sensitivity_l2=sensitivity_l2,
            coordinates=coordinates,
            threshold=threshold,
            colluders=self.colluders,
            grid=grid,
            source=source,
        )

    def sampled_event(
        self,
        *,
        query: str,
        purpose: Purpose,
        sampling_rate: float,
        steps: int,
        total_steps: int,
        coordinates: int,
        threshold: int,
        fraction: float = 1.0,
    ) -> Event:
        """Plan one round of DP-SGD, ``steps`` of the ``total_steps`` of a run that takes ``fraction`` of the purpose's
        share; see :func:`sampled_event` and :func:`noise_multiplier_for`.

        One noise multiplier holds for the whole run, so that stopping early costs less and nothing has to be planned
        anew.

        Raises
        ------
        ParameterError
            Unit "party", a value out of its domain, or ``shares`` give the purpose nothing.
        """
        _check_fraction(fraction)
        self.rho_for(purpose)
        if not 1 <= steps <= total_steps:
            raise ParameterError("A round has no steps", got=f"{steps} of {total_steps}", rule="1 <= steps <= total")
        return sampled_event(
            query=query,
            purpose=purpose,
            unit=self.unit,
            max_records_per_person=self.max_records_per_person,
            sampling_rate=sampling_rate,
            noise_multiplier=noise_multiplier_for(
                self.epsilon,
                self.delta,
                share=min(self.shares[purpose] * fraction, 1.0),
                sampling_rate=sampling_rate,
                total_steps=total_steps,
            ),
            steps=steps,
            coordinates=coordinates,
            threshold=threshold,
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
            max_records_per_party=self.max_records_per_party,
            trust=self.trust,
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


def _check_fraction(fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise ParameterError("A fraction of a share is out of its domain", got=repr(fraction), rule="0 < f <= 1")


def _sum(shares: Mapping[str, float]) -> float:
    return math.fsum(shares.values()) * (1.0 - 1e-12)  # .6 + .2 + .2 and its like are 1 up to rounding
