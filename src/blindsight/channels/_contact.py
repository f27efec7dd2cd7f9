"""Whether a party's coordinator is there, and when it was last heard of: for whoever watches the party."""

from __future__ import annotations

import time
from collections import Counter

__all__ = ["Contact"]


class Contact:
    """Written by a party's end of a channel, which is given it; read from any thread.

    Attributes
    ----------
    connected : bool
        Over HTTPS, the coordinator has answered the newest question; over gRPC, a stream stands; over MQTT and Flower,
        a session does, of whose carrier only MQTT finds out when it has gone.
    failures : Counter of str
        Ends of connections, and attempts at one, by the name of the error. There are few.
    """

    def __init__(self) -> None:
        self.connected = False
        self.failures: Counter[str] = Counter()
        self._last: float | None = None

    @property
    def seconds(self) -> float | None:
        """Since something came from the coordinator; None where nothing ever did."""
        return None if self._last is None else time.monotonic() - self._last

    def heard(self) -> None:
        """Something came from the coordinator, whose certificate was compared."""
        self._last = time.monotonic()
        self.connected = True

    def lost(self, error: Exception) -> None:
        """The connection is over, or there was none."""
        self.connected = False
        self.failures[type(error).__name__] += 1
