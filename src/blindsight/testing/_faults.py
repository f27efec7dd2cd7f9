"""A channel that loses and alters messages, for tests of what a federation does then."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from blindsight.channels import Channel

__all__ = ["FaultyChannel"]


class FaultyChannel(Channel):
    """Wraps a channel; the exchanges of a run are numbered from 0, five to a sum.

    Parameters
    ----------
    inner : Channel
    silent_from : mapping of party name to int
        The party gets nothing and says nothing from that exchange on.
    tamper : callable (exchange, party, answer) -> bytes or None, optional
        Replaces an answer; None loses it after the party has done its work.
    """

    def __init__(
        self,
        inner: Channel,
        *,
        silent_from: Mapping[str, int] | None = None,
        tamper: Callable[[int, str, bytes], bytes | None] | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._silent_from = dict(silent_from or {})
        self._tamper = tamper
        self.requests: list[dict[str, bytes]] = []
        self.answers: list[dict[str, bytes]] = []

    @property
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""
        return self._inner.parties

    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        number = len(self.requests)
        asked = {
            name: request for name, request in requests.items() if number < self._silent_from.get(name, number + 1)
        }
        answers: dict[str, bytes] = {}
        for name, answer in self._inner.exchange(asked, timeout_s).items():
            altered = answer if self._tamper is None else self._tamper(number, name, answer)
            if altered is not None:
                answers[name] = altered
        self.requests.append(dict(requests))
        self.answers.append(dict(answers))
        return answers

    def close(self) -> None:
        """Close the inner channel."""
        self._inner.close()
