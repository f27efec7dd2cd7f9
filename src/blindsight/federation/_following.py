"""The participants that a party sums with: a list fixed once, or the newest one by the federation's pinned key."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from blindsight.errors import AuthenticationError, ReleaseError
from blindsight.store import Store

from .kits import ParticipantList, PinnedList

__all__ = ["Participants"]

_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


class Participants:
    """Names and Ed25519 keys that steps must hold, in a party's store.

    Parameters
    ----------
    store : Store
    name : str
    public_key : bytes
        The party's own entry, which every list must hold.
    """

    def __init__(self, store: Store, name: str, public_key: bytes) -> None:
        self._store = store
        self._table = store.table("participants")
        self._own = (name, public_key)
        self._lists = PinnedList(store)

    def pin(self, participants: Sequence[tuple[str, bytes]]) -> None:
        """Fix an unsigned list for good.

        Raises
        ------
        AuthenticationError
        """
        listed = [(name, bytes(key)) for name, key in participants]
        self._check_own(listed)
        try:
            self._table.put_once("pinned", msgspec.msgpack.encode(listed))
        except ReleaseError as error:
            raise AuthenticationError(
                "Another participant list is pinned at this party",
                rule="a coordinator cannot enrol parties on its own",
                fix="pin a new list in a new home folder, after checking its keys with the other parties",
            ) from error

    def follow(self, listing: ParticipantList, *, fingerprint: str | None = None) -> bool:
        """Accept a signed list; return whether it is new here. Sums that begin from now on are over its parties.

        Raises
        ------
        AuthenticationError
            As :meth:`PinnedList.accept`; or the list does not hold this party with its own key; or an unsigned list of
            other parties is pinned. Everything is as it was.
        """
        self._check_own(listing.participants)
        encoded = msgspec.msgpack.encode(listing.participants)
        with self._store.transaction():
            if self._lists.current() is None:
                self.pin(listing.participants)  # an unsigned list of the same parties may become a signed one
            changed = self._lists.accept(listing, fingerprint=fingerprint)
            self._table.put("pinned", encoded)
        return changed

    @property
    def listing(self) -> ParticipantList | None:
        """The signed list, if there is one."""
        return self._lists.current()

    def current(self) -> list[tuple[str, bytes]]:
        """Return what is pinned now; another process of the same party may have accepted a newer list.

        Raises
        ------
        AuthenticationError
            Nothing is.
        """
        pinned = self._table.get("pinned")
        if pinned is None:
            raise AuthenticationError(
                "No participant list is pinned at this party",
                fix="pin the list that all parties agreed on",
            )
        return _decoder.decode(pinned)

    def _check_own(self, listed: Sequence[tuple[str, bytes]]) -> None:
        if self._own not in listed:
            raise AuthenticationError(
                f"The participant list does not hold {self._own[0]} with its own key",
                fix="have the list made from the parties' own public keys",
            )
