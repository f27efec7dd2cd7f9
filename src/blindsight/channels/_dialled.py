"""What every channel that parties dial has in common: who is who, and what lies ready for whom."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from ._channel import Channel
from ._desk import Desk
from ._roll import Roll

__all__ = ["DialledChannel"]


class DialledChannel(Channel):
    """A channel at which parties arrive and leave as they like, each under its certificate.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of each party's certificate (of its DER bytes), in hexadecimal.

    Attributes
    ----------
    url : str
        What parties dial.
    """

    url: str

    def __init__(self, parties: Mapping[str, str]) -> None:
        super().__init__()
        self._roll = Roll(parties)
        self._desk = Desk(parties, self._wake)

    @property
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""
        return self._roll.names

    def replace_parties(self, parties: Mapping[str, str]) -> None:
        """Accept other certificates for the same names from now on; a name that is left out is revoked.

        Parameters
        ----------
        parties : mapping of name to str
            As for the constructor.

        Raises
        ------
        ParameterError
            A name that this channel was not made for; a malformed fingerprint. Nothing has changed then.
        """
        for name in self._roll.replace(parties):
            if name not in parties:
                self._desk.withdraw(name)
            self._drop(name)

    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        return self._desk.exchange(requests, timeout_s)

    @abstractmethod
    def _wake(self, party: str) -> None:
        """Something lies ready for a party; called from the thread that exchanges."""

    @abstractmethod
    def _drop(self, party: str) -> None:
        """A party's certificate is no longer accepted: end what runs under it."""
