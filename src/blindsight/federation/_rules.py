"""Parts of a policy: hours, limits on parameters, who may ask, which jobs wait for a person."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from blindsight._names import PARTY_NAME
from blindsight.detectors import Training, known_detectors
from blindsight.errors import ParameterError, PolicyError

__all__ = ["Approval", "Asker", "Hours", "Limit", "asker_problem", "check_asker", "check_limits", "check_names"]

Approval = Literal["automatic", "by-hand", "four-eyes"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Clock = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d\Z")]
MAX_ITEMS = 256
_ASKER = re.compile(PARTY_NAME + r"|sha256:[0-9a-f]{64}")


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request, as the channel proved it.

    Parameters
    ----------
    name : str
    certificate : str or None
        SHA-256 of its TLS certificate, hexadecimal.
    """

    name: str
    certificate: str | None = None


class Hours(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"start": "from", "end": "to"}
):
    """When new sums may begin.

    Parameters
    ----------
    start, end : str
        ``"08:00"``, ``"18:00"``; in TOML ``from`` and ``to``. An end that is not after the start is on the next day:
        two equal ones are a whole day.
    days : tuple of str
        Of mon, tue, wed, thu, fri, sat, sun: the day on which the hours begin.
    zone : str
        ``"UTC"``, or a name of the time-zone database, such as ``"Europe/Vienna"``.
    """

    start: Clock = "00:00"
    end: Clock = "00:00"
    days: Annotated[tuple[Day, ...], msgspec.Meta(min_length=1, max_length=7)] = DAYS
    zone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"

    def __post_init__(self) -> None:
        self._zone()

    def _zone(self) -> tzinfo:
        if self.zone == "UTC":
            return UTC
        try:
            return ZoneInfo(self.zone)
        except (
            ValueError,
            OSError,
            KeyError,
        ) as error:  # an unusable name, one that is a folder, one that is not there
            raise ParameterError(
                "The policy's hours name an unknown time zone",
                got=repr(self.zone)[:80],
                rule="UTC, or a name such as 'Europe/Vienna'",
                fix="on systems without a time-zone database: pip install tzdata",
            ) from error

    def check(self, now: datetime) -> None:
        """Raise PolicyError where ``now`` (aware) is outside."""
        here = now.astimezone(self._zone())
        clock = here.strftime("%H:%M")
        if self.start < self.end:
            inside, day = self.start <= clock < self.end, here
        else:  # over midnight: the early hours belong to the day before
            inside = clock >= self.start or clock < self.end
            day = here if clock >= self.start else here - timedelta(days=1)
        if not inside or DAYS[day.weekday()] not in self.days:
            raise PolicyError(
                "The policy allows no new sum at this time",
                got=f"{DAYS[here.weekday()]} {clock}, {self.zone}",
                rule=f"hours: {self.start} to {self.end} on {', '.join(self.days)}, {self.zone}",
                fix="ask within these hours; what was begun within them goes on",
            )


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one parameter of a detector may be.

    Parameters
    ----------
    least, most : float, optional
        For numbers; of a list, every one.
    of : list, optional
        The values that are allowed.
    none : bool
        Whether the parameter may be left to the detector (None).
    """

    least: float | None = None
    most: float | None = None
    of: Annotated[list[str | int | float | bool], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)] | None = None
    none: bool = False

    def __post_init__(self) -> None:
        if self.least is None and self.most is None and self.of is None:
            raise ParameterError("A limit of the policy limits nothing", rule="least, most or of")
        for bound in (self.least, self.most):
            if bound is not None and not math.isfinite(bound):
                raise ParameterError("A limit of the policy is not finite", got=repr(bound))

    def allows(self, value: object) -> bool:
        """Whether a parameter may have this value."""
        if value is None:
            return self.none
        if isinstance(value, list | tuple):
            return all(self.allows(item) for item in value)
        if self.of is not None and not any(type(value) is type(one) and value == one for one in self.of):
            return False
        if self.least is None and self.most is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        parts = [f"at least {self.least:g}"] if self.least is not None else []
        parts += [f"at most {self.most:g}"] if self.most is not None else []
        parts += ["one of " + ", ".join(map(repr, self.of[:20]))] if self.of is not None else []
        return " and ".join(parts)


def check_limits(limits: dict[str, Limit], description: dict[str, Any]) -> None:
    """Refuse a detector a parameter of which is beyond its limit.

    Parameters
    ----------
    limits : mapping of parameter, as ``"bins"`` or ``"training.rounds"``, to Limit
    description : dict
        As ``detector_to_json`` gives it, hence with every parameter, also those that the request left out.

    Raises
    ------
    PolicyError
    """
    for path, limit in limits.items():
        value: Any = description["parameters"]
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise PolicyError(
                    f"The policy limits a parameter that '{description['name']}' does not have",
                    got=path,
                    rule=f"{path}: {limit}",
                    fix="have the data owner correct [limits] in the policy",
                )
            value = value[key]
        if not limit.allows(value):
            raise PolicyError(
                f"The policy does not allow this '{path}' of the detector '{description['name']}'",
                got=repr(value)[:80],
                rule=f"{path}: {limit}",
                fix="ask for a value within the limit",
            )


def check_names(limits: dict[str, dict[str, Limit]]) -> None:
    """Refuse a limit on a parameter that one of our detectors does not have: misspelt, it would limit nothing.

    Raises
    ------
    ParameterError
    """
    known = known_detectors()
    for detector, parameters in limits.items():
        cls = known.get(detector)
        if cls is None:
            continue  # another package's: looked at when it is asked for
        own = set(inspect.signature(cls.__init__).parameters) - {"self", "schema"}
        if "training" in own:
            own |= {f"training.{field.name}" for field in dataclasses.fields(Training)}
        for path in parameters:
            if path not in own:
                close = difflib.get_close_matches(path, own, n=1)
                raise ParameterError(
                    f"The policy limits an unknown parameter of {detector}",
                    got=repr(path)[:80],
                    rule="one of " + ", ".join(sorted(own)),
                    fix=f"did you mean {close[0]!r}?" if close else None,
                )


def check_asker(askers: tuple[str, ...], asker: Asker | None) -> None:
    """Refuse whoever the policy does not name; where it names nobody, the channel alone decides.

    Raises
    ------
    PolicyError
    """
    if not askers:
        return
    proved = {asker.name, f"sha256:{asker.certificate}"} if asker is not None else set()
    if not proved & set(askers):
        raise PolicyError(
            "The policy does not allow this asker",
            got=asker.name if asker is not None else "somebody whom the channel does not name",
            rule="askers = " + ", ".join(askers)[:300],
            fix="have the data owner add its name, or sha256: and its certificate's fingerprint, to 'askers'",
        )


def asker_problem(text: str) -> bool:
    """Whether an entry of ``askers`` is neither a name nor a fingerprint."""
    return not _ASKER.fullmatch(text)
