"""All parties in this process; still, only bytes cross."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from ._channel import Channel

__all__ = ["MemoryChannel"]

log = logging.getLogger(__name__)


class MemoryChannel(Channel):
    """Calls each party's handler in turn.

    Parameters
    ----------
    handlers : mapping of name to callable bytes -> bytes
        A handler that raises counts as a party that did not answer; the error goes to the log.
    """

    def __init__(self, handlers: Mapping[str, Callable[[bytes], bytes]]) -> None:
        super().__init__()
        self._handlers = dict(sorted(handlers.items()))

    @property
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""
        return tuple(self._handlers)

    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        deadline = time.monotonic() + timeout_s
        answers = {}
        for name, request in sorted(requests.items()):
            try:
                answer = self._handlers[name](request)
            except Exception:
                log.exception("party %s did not answer", name)
                continue
            if time.monotonic() <= deadline:
                answers[name] = answer
        return answers
