"""Every exception that Blindsight raises on purpose.

::

    BlindsightError
    ├── InputError (ValueError)        what the caller gave cannot be used
    │   ├── DataError                  a record, column or file breaks its schema
    │   ├── SchemaError                the schema itself is wrong
    │   └── ParameterError             an option is out of its domain
    ├── NotFittedError (ValueError, AttributeError, as sklearn's)  a model was used before it was fitted
    ├── NotKeptError (AttributeError)  PyOD has this attribute; a model of ours deliberately does not
    ├── MissingExtraError (ImportError) an optional dependency is not installed
    ├── RefusedError                   a rule said no; nothing was computed or released (exit code 3)
    │   ├── PolicyError                the data owner's policy
    │   ├── BudgetError                the privacy or bit budget
    │   ├── SurvivorsError             too few parties remain
    │   └── ReleaseError               a release is bound to another survivor set or data version
    ├── ProtocolError                  another party's bytes are not what the protocol says
    │   ├── WireError                  malformed: length, type, shape, range
    │   └── AuthenticationError        signature, MAC, key or identity does not match
    ├── FormatError                    a file of ours is malformed or of another version
    │   └── UnknownDetectorError       it names a detector that is not known, or not allowed, here
    ├── StoreError                     the ledger or journal could not be written or read
    ├── CapacityError                  no parameters at 128-bit security can carry this circuit
    └── UnavailableError               try again later (exit code 75)
        └── PendingError               a person at a party has yet to approve

Every message answers four questions: what is wrong, what was got, which rule says so, how to mend it.
"""

from __future__ import annotations

from ._text import printable

__all__ = [
    "AuthenticationError",
    "BlindsightError",
    "BlindsightWarning",
    "BudgetError",
    "CapacityError",
    "DataError",
    "FormatError",
    "InputError",
    "MissingExtraError",
    "NotFittedError",
    "NotKeptError",
    "ParameterError",
    "PendingError",
    "PolicyError",
    "ProtocolError",
    "RefusedError",
    "ReleaseError",
    "SchemaError",
    "StoreError",
    "SurvivorsError",
    "UnavailableError",
    "UnknownDetectorError",
    "WireError",
]


class BlindsightError(Exception):
    """Base of every error; the message is composed from its four parts.

    Parameters
    ----------
    what : str
        The problem, naming column, row, party or layer. A full sentence without the final stop.
    got, rule, fix : str, optional
        The value found, the rule it breaks, and what to do about it. Never a secret: no key, no mask,
        and a record's value only where the record's owner reads the message.

    Notes
    -----
    Any part may hold words of another party, and ends in logs and on terminals. So none of them holds a character that
    a terminal obeys, and what stands on lines of its own is indented: it passes for no line of a log.
    """

    def __init__(self, what: str, *, got: str | None = None, rule: str | None = None, fix: str | None = None) -> None:
        what, (got, rule, fix) = _shown(what), (None if part is None else _shown(part) for part in (got, rule, fix))
        self.what, self.got, self.rule, self.fix = what, got, rule, fix
        parts = [what.rstrip(".")]
        if got is not None:
            parts.append(f"Got: {got.rstrip('.')}")
        if rule is not None:
            parts.append(f"Rule: {rule.rstrip('.')}")
        if fix is not None:
            parts.append(f"Fix: {fix.rstrip('.')}")
        super().__init__(". ".join(parts) + ".")


def _shown(text: str) -> str:
    return "\n    ".join(map(printable, text.splitlines()))


class InputError(BlindsightError, ValueError):
    """What the caller gave cannot be used."""


class DataError(InputError):
    """A record, a column or a file breaks its schema."""


class SchemaError(InputError):
    """The schema itself is wrong."""


class ParameterError(InputError):
    """An option is out of its domain."""


class NotFittedError(BlindsightError, ValueError, AttributeError):
    """A model was used before it was fitted.

    Has the bases of ``sklearn.exceptions.NotFittedError`` rather than that class itself: importing it costs a second,
    which every command would pay.
    """


class NotKeptError(BlindsightError, AttributeError):
    """PyOD keeps this attribute; a model of ours does not, because it would hold something about single records."""


class MissingExtraError(BlindsightError, ImportError):
    """An optional dependency is not installed; the message holds the exact install command."""


class RefusedError(BlindsightError):
    """A rule said no. Nothing was computed, charged or released beyond what the message says."""


class PolicyError(RefusedError):
    """The data owner's policy refuses."""


class BudgetError(RefusedError):
    """The privacy budget, or the bit budget of an owner, does not carry the request."""


class SurvivorsError(RefusedError):
    """Too few parties remain to open a sum."""


class ReleaseError(RefusedError):
    """A release is already bound to another survivor set, request or data version."""


class ProtocolError(BlindsightError):
    """Another party's bytes are not what the protocol says."""


class WireError(ProtocolError):
    """Malformed bytes: length, type, shape, range or version."""


class AuthenticationError(ProtocolError):
    """A signature, MAC, key or identity does not match."""


class FormatError(BlindsightError):
    """A file of ours is malformed, truncated or of another version."""


class UnknownDetectorError(FormatError):
    """A file or request names a detector that is not known here, or another package's that is not allowed here."""


class StoreError(BlindsightError):
    """The ledger or journal could not be written or read; the message says what is safe."""


class CapacityError(BlindsightError):
    """No parameters at 128-bit security can carry this circuit."""


class UnavailableError(BlindsightError):
    """Something outside did not answer; trying again later may work."""


class PendingError(UnavailableError):
    """A person has yet to approve, at the party that the message names; nothing was computed. Asking again is right."""


class BlindsightWarning(UserWarning):
    """A result stands, but the reader should know something about it."""
