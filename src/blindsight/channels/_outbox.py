"""What a party has answered and not yet delivered; the part that every party that dials out has in common."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ._contact import Contact
from ._desk import Letter

__all__ = ["Outbox"]

log = logging.getLogger(__name__)


class Outbox:
    """One answer at a time; the last is kept, so that a request handed out twice is not computed twice.

    Parameters
    ----------
    name : str
        Of the party, for the log.
    contact : Contact, optional
        Is told of the coordinator whatever is heard here.
    """

    def __init__(self, name: str, contact: Contact | None = None) -> None:
        self._name = name
        self._contact = contact if contact is not None else Contact()
        self._id = ""
        self._body: bytes | None = None
        self.waiting = False
        self._reached = False
        self._failure = ""

    def fill(self, letter: Letter, handler: Callable[[bytes], bytes]) -> None:
        """Have a request answered, unless it is the one that was answered last."""
        if letter.id != self._id:
            self._id, self._body = "", None
            try:
                self._body = bytes(handler(letter.body))
            except Exception:
                log.exception("%s cannot answer a request", self._name)
            self._id = letter.id
        self.waiting = True

    def refuse(self, letter_id: str) -> None:
        """Say of a request that there will be no answer."""
        self._id, self._body, self.waiting = letter_id, None, True

    def next(self) -> tuple[str, bytes | None]:
        """Id and answer to deliver; None says that there is none."""
        return self._id, self._body

    def done(self, letter_id: str) -> None:
        """The coordinator has it, or does not want it any more."""
        if letter_id == self._id:
            self.waiting = False

    def give_up(self) -> None:
        """The answer cannot be delivered: say that there is none."""
        self._body = None

    def failed(self, error: Exception, before: int) -> None:
        """Say in the log what went wrong: loudly for the first failure in a row, for another one, and now and then."""
        self._contact.lost(error)
        kind = f"{type(error).__name__} {getattr(error, 'what', '')}"
        level = logging.WARNING if before % 100 == 0 or kind != self._failure else logging.DEBUG
        self._failure = kind
        log.log(level, "%s cannot reach its coordinator, and tries again: %s", self._name, error)

    def heard(self) -> None:
        """Something came over a connection that was reached before."""
        self._contact.heard()

    def reached(self, failures: int) -> None:
        """Say in the log that the coordinator answers again."""
        self._contact.heard()
        if failures:
            log.warning("%s has reached its coordinator again after %d failures", self._name, failures)
        elif not self._reached:
            log.info("%s has reached its coordinator", self._name)
        self._reached = True
