"""How long to wait before trying again."""

from __future__ import annotations

import secrets

__all__ = ["Backoff"]

FIRST_SECONDS = 0.1


class Backoff:
    """Doubling waits up to a cap, each drawn from its upper half: parties that lost one server do not return as one.

    Parameters
    ----------
    cap_s : float
    """

    def __init__(self, cap_s: float) -> None:
        self._cap_s = cap_s
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def failed(self) -> float:
        """Count a failure; return how many seconds to wait."""
        wait_s = min(self._cap_s, FIRST_SECONDS * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return wait_s * (0.5 + secrets.randbelow(1000) / 2000)

    def worked(self) -> None:
        """Start anew after a success."""
        self._failures = 0
