"""What lies ready for each party, and what came back: the part that every channel which parties dial has in common."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["ID_BYTES", "Desk", "Letter"]

ID_BYTES = 16


@dataclass(frozen=True)
class Letter:
    """A request to one party, under a name that no other request ever has."""

    id: str
    body: bytes


class Desk:
    """One request a party at a time, open until it is answered or its deadline has passed.

    No sockets and no threads of its own; safe to use from several. A request may be handed out any number of times
    while it is open, so that a connection may break at any point; the first answer under its id closes it, and
    whatever comes under another id is not kept.

    Parameters
    ----------
    parties : iterable of str
    wake : callable (party)
        Told, from the thread that exchanges, when something lies ready for a party.
    """

    def __init__(self, parties: Iterable[str], wake: Callable[[str], None]) -> None:
        self._parties = frozenset(parties)
        self._wake = wake
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._open: dict[str, Letter] = {}
        self._answers: dict[str, bytes] = {}
        self._closed = False

    def exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        """Lay requests out and wait for answers; exchanges from several threads take turns."""
        deadline = time.monotonic() + timeout_s
        if not self._turn.acquire(timeout=max(0.0, timeout_s)):
            return {}
        try:
            with self._changed:
                if self._closed:
                    return {}
                self._answers = {}
                self._open = {
                    name: Letter(secrets.token_hex(ID_BYTES), bytes(body))
                    for name, body in requests.items()
                    if name in self._parties
                }
                asked = list(self._open)
            for name in asked:
                self._wake(name)
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self._open, max(0.0, deadline - time.monotonic()))
                self._open = {}
                answers, self._answers = self._answers, {}
            return answers
        finally:
            self._turn.release()

    def letter(self, party: str) -> Letter | None:
        """What lies ready for a party."""
        with self._changed:
            return self._open.get(party)

    def is_open(self, party: str, letter_id: str) -> bool:
        """Whether an answer under this id would be kept."""
        letter = self.letter(party)
        return letter is not None and letter.id == letter_id

    def answer(self, party: str, letter_id: str, body: bytes | None) -> bool:
        """Take an answer, or None where the party says that there will be none; False if nobody waits for it."""
        with self._changed:
            letter = self._open.get(party)
            if letter is None or letter.id != letter_id:
                return False
            del self._open[party]
            if body is not None:
                self._answers[party] = body
            self._changed.notify_all()
            return True

    def withdraw(self, party: str) -> None:
        """Wait for this party no longer."""
        with self._changed:
            if self._open.pop(party, None) is not None:
                self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing will be laid out any more."""
        return self._closed

    def close(self) -> None:
        """End a running exchange with what it has, and every later one at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
