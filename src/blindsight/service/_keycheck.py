"""Has strangers' registrations read by a limited process, and outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from blindsight.channels import ProcessChannel
from blindsight.errors import WireError

from ._keyworker import LENGTH
from ._problems import RequestError

__all__ = ["KeyCheck"]

NAME = "keys"
CHECKS_A_PROCESS = 64
"""After so many a fresh process takes over, whatever the last one looks like."""


class KeyCheck:
    """One child process at a time, started when needed.

    Parameters
    ----------
    memory_bytes : int
        Address space of the child.
    seconds : float
        Time for one registration, and on average a second of the processor at most.
    """

    def __init__(self, *, memory_bytes: int, seconds: float) -> None:
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._lock = threading.Lock()
        self._channel: ProcessChannel | None = None
        self._left = 0

    def check(self, offer: bytes, registration: bytes) -> str:
        """Return the key id of a registration.

        Raises
        ------
        WireError
            It is malformed, or the child did not survive it.
        RequestError
            503: other registrations are being read for too long.
        """
        if not self._lock.acquire(timeout=self._seconds):
            raise RequestError(503, "busy", "Other registrations are being read", headers={"Retry-After": "2"})
        try:
            channel = self._child()
            self._left -= 1
            frame = LENGTH.pack(len(offer)) + offer + registration
            answer = channel.exchange({NAME: frame}, self._seconds).get(NAME)
            if answer is None:
                self._end()
                raise WireError(
                    "The registration could not be read within the limits",
                    rule=f"{self._seconds:.0f} s and {self._memory_bytes >> 20} MiB",
                )
        finally:
            self._lock.release()
        text = answer[1:].decode("utf-8", "replace")
        if answer[:1] != b"+":
            raise WireError(text[:200], fix="send RecordOwner.registration as it is")
        return text

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _child(self) -> ProcessChannel:
        if self._channel is not None and self._left <= 0:
            self._end()
        if self._channel is None:
            cpu = max(2, round(self._seconds)) + CHECKS_A_PROCESS
            command = [sys.executable, "-m", "blindsight.service._keyworker", str(self._memory_bytes), str(cpu)]
            self._channel, self._left = ProcessChannel({NAME: command}), CHECKS_A_PROCESS
        return self._channel

    def _end(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._channel.process_id(NAME), signal.SIGKILL)  # it holds nothing that could be lost
            self._channel.close()
            self._channel = None
