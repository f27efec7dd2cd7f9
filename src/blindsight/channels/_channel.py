"""The interface of a channel, and the count of what crossed it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["MAX_MESSAGE_BYTES", "Channel", "Traffic"]

MAX_MESSAGE_BYTES = 1 << 30
"""Longest message that any channel carries."""


@dataclass
class Traffic:
    """Bytes that crossed a channel so far, counted at the coordinator's end."""

    sent_bytes: int = 0
    received_bytes: int = 0
    exchanges: int = 0


class Channel(ABC):
    """Carries bytes between one coordinator and named parties.

    Attributes
    ----------
    patience_s : float
        How long a party that is there may well take to answer a small question.
    """

    patience_s: float = 2.0

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    @abstractmethod
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""

    @abstractmethod
    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]: ...

    def exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        """Send each party its request and collect the answers that come within ``timeout_s`` seconds.

        Parameters
        ----------
        requests : mapping of party name to bytes
        timeout_s : float
            For the whole exchange.

        Returns
        -------
        dict of party name to bytes
            Without the parties that did not answer in time.
        """
        self.traffic.exchanges += 1
        self.traffic.sent_bytes += sum(len(request) for request in requests.values())
        answers = self._exchange(requests, timeout_s)
        self.traffic.received_bytes += sum(len(answer) for answer in answers.values())
        return answers

    def close(self) -> None:  # noqa: B027 (most channels hold nothing)
        """Release what the channel holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
