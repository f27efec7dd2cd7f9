"""One release, as a frozen value: what happened, apart from what it costs."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from blindsight.errors import FormatError, ParameterError

from ._gaussian import MIN_LOCAL_VARIANCE, distributed_rho

__all__ = ["Event", "Trust", "Unit"]

Purpose = Literal["fit", "threshold", "evaluation", "describe"]
Unit = Literal["record", "person", "party"]
Trust = Literal["federation", "local"]
Mechanism = Literal["distributed-discrete-gaussian", "local-discrete-gaussian", "sampled-gaussian", "exact-sum"]

MAX_EVENT_BYTES = 4096
MAX_TEXT_CHARS = 200
MAX_COORDINATES = 1 << 28
MAX_PARTIES = 10_000
MAX_RECORDS_PER_PERSON = 1 << 20
MIN_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER = 2.0**-4, 2.0**24
MAX_STEPS = 1 << 32


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A release of one private sum, or one round of DP-SGD, as executed.

    Make one with :func:`noisy_event`, :func:`sampled_event` or :func:`exact_event`. Validated on construction,
    also when read from JSON: a noisy event cannot claim a smaller rho than its own sigma and sensitivity give.

    Attributes
    ----------
    query : str
        What was summed, for the reader: "ecod.histogram".
    purpose : {"fit", "threshold", "evaluation", "describe"}
    mechanism : {"distributed-discrete-gaussian", "local-discrete-gaussian", "sampled-gaussian", "exact-sum"}
        Integer noise whose *sum* protects; integer noise of which each party adds enough alone; floating-point
        Gaussian noise in the gradients of Poisson-sampled batches (DP-SGD), added by each party alone; no noise.
    unit : {"record", "person", "party"}
        Whose presence is hidden: one record; all of one person's records *at one party*, up to the bound; or what
        one party adds, as a whole.
    max_records_per_person : int or None
        Contribution bound; None for any unit but "person".
    neighbouring : {"add-or-remove-one"}
        Two data sets are neighbours when one has one unit more.
    coordinates : int
        Length of the summed vector.
    threshold, colluders : int
        Fewest survivors for which the sum is opened; parties assumed to tell their noise.
    sensitivity_l2 : float
        Of the integer vector to one *unit*, in grid units (the contribution bound is in it). 1 for
        "sampled-gaussian", whose noise is stated over its sensitivity.
    local_variance : float
        Each party's noise parameter sigma squared, grid units squared; 0 without integer noise.
    grid : float
        What one grid unit is worth in the query's own unit; 1 for counts.
    rho : float
        zCDP parameter of the sum as executed with :attr:`honest_parties`; 0 for exact sums and for
        "sampled-gaussian", which zCDP does not describe.
    noise_source : {"secure", "insecure-seeded", "floating-point", "none"}
    trust : str
        Who must be trusted for the guarantee.
    max_records_per_party : int or None
        Contribution bound for unit "party"; None where the party's vector is bounded as a whole.
    sampling_rate, noise_multiplier, steps : float, float, int, or None
        Of "sampled-gaussian" alone: Poisson rate, noise over sensitivity, and number of steps.
    """

    query: str
    purpose: Purpose
    mechanism: Mechanism
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
    noise_source: Literal["secure", "insecure-seeded", "floating-point", "none"]
    trust: str
    max_records_per_party: int | None = None
    sampling_rate: float | None = None
    noise_multiplier: float | None = None
    steps: int | None = None

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
            raise ParameterError(
                f"An event of unit '{self.unit}' has a contribution bound per person", rule="None but for unit 'person'"
            )
        if self.max_records_per_party is not None:
            if self.unit != "party":
                raise ParameterError(
                    f"An event of unit '{self.unit}' has a contribution bound per party", rule="for unit 'party'"
                )
            _check_integer("max_records_per_party", self.max_records_per_party, 1, MAX_RECORDS_PER_PERSON)
        for name in ("sensitivity_l2", "grid"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ParameterError(
                    f"An event's {name} is unusable",
                    got=repr(getattr(self, name)),
                    rule="finite and positive",
                )
        if self.sampled:
            self._check_sampled()
            return
        if (self.sampling_rate, self.noise_multiplier, self.steps) != (None, None, None):
            raise ParameterError("A sum without sampling states a sampling rate", rule="'sampled-gaussian' alone does")
        if self.exact:
            if (self.local_variance, self.rho, self.noise_source) != (0.0, 0.0, "none"):
                raise ParameterError("An exact sum claims noise", rule="variance 0, rho 0, source 'none'")
            return
        if self.noise_source not in ("secure", "insecure-seeded"):
            raise ParameterError("A noisy sum names no integer noise", rule="'secure' or 'insecure-seeded'")
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

    def _check_sampled(self) -> None:
        rate, multiplier, steps = self.sampling_rate, self.noise_multiplier, self.steps
        if rate is None or not 0.0 < rate <= 1.0:
            raise ParameterError("An event's sampling_rate is out of its domain", got=repr(rate), rule="0 < rate <= 1")
        if multiplier is None or not MIN_NOISE_MULTIPLIER <= multiplier <= MAX_NOISE_MULTIPLIER:
            raise ParameterError(
                "An event's noise_multiplier is out of its domain",
                got=repr(multiplier),
                rule=f"{MIN_NOISE_MULTIPLIER:g} to {MAX_NOISE_MULTIPLIER:g}",
            )
        _check_integer("steps", steps, 1, MAX_STEPS)
        if self.unit == "party":
            raise ParameterError("DP-SGD does not hide a party", rule="unit 'record' or 'person'")
        if (self.local_variance, self.rho, self.noise_source) != (0.0, 0.0, "floating-point"):
            raise ParameterError(
                "A sampled event claims integer noise", rule="variance 0, rho 0, source 'floating-point'"
            )

    @property
    def sampled(self) -> bool:
        """Whether this is a round of DP-SGD."""
        return self.mechanism == "sampled-gaussian"

    @property
    def exact(self) -> bool:
        """Whether the sum is released without noise."""
        return self.mechanism == "exact-sum"

    @property
    def honest_parties(self) -> int:
        """Fewest parties whose noise the adversary does not know."""
        return 1 if self.mechanism == "local-discrete-gaussian" else self.threshold - self.colluders

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
        if self.noise_source == "insecure-seeded":
            return "no privacy guarantee: the noise came from a seeded source"
        if self.sampled:
            return (
                f"{self.steps} steps of DP-SGD at sampling rate {self.sampling_rate:.6g} and noise multiplier"
                f" {self.noise_multiplier:.6g}, for adding or removing {self._who}; trusted: {self.trust};"
                " the noise is floating point, not integer"
            )
        who_else = (
            ""
            if self.mechanism == "local-discrete-gaussian"
            else f", with at least {self.threshold} survivors and at most {self.colluders} of them colluding"
        )
        return f"{self.rho:.6g}-zCDP for adding or removing {self._who}{who_else}; trusted: {self.trust}"

    @property
    def _who(self) -> str:
        if self.unit == "record":
            return "one record"
        if self.unit == "person":
            return f"one person at one party (at most {self.max_records_per_person} of their records used)"
        if self.max_records_per_party is None:
            return "what one party adds"
        return f"what one party adds (at most {self.max_records_per_party} of its records used)"

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
        """Return the dp_accounting event: ``ZCDpEvent(rho)``, ``NonPrivateDpEvent`` for an exact sum, or the
        self-composed Poisson-sampled Gaussian of DP-SGD."""
        import dp_accounting

        if self.sampled:
            gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(self.sampling_rate, gaussian)
            return dp_accounting.SelfComposedDpEvent(sampled, self.steps)
        return dp_accounting.NonPrivateDpEvent() if self.exact else dp_accounting.ZCDpEvent(self.rho)


def _check_integer(name: str, value: int | None, low: int, high: int) -> None:
    if value is None or isinstance(value, bool) or not low <= value <= high:
        raise ParameterError(f"An event's {name} is out of its domain", got=repr(value), rule=f"{low}..{high}")
