"""The participant list that a party has accepted: one federation key for good, serials that only grow."""

from __future__ import annotations

from blindsight.errors import AuthenticationError
from blindsight.store import Store

from ._list import ParticipantList

__all__ = ["PinnedList"]

TABLE = "participant-list"


class PinnedList:
    """What one party has accepted, in its store.

    Parameters
    ----------
    store : Store
        The party's; several processes may share it.

    Security
    --------
    The federation's key is pinned with the first list (trust on first use): its fingerprint is to be compared by
    telephone. Afterwards only lists by that key count, and never an older one than was seen.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table(TABLE)

    def current(self) -> ParticipantList | None:
        """Return the list that was accepted last; None before the first."""
        data = self._table.get("current")
        return None if data is None else ParticipantList.from_bytes(data)

    def accept(self, new: ParticipantList, *, fingerprint: str | None = None) -> bool:
        """Accept a list if it is the first one or follows the present one; return whether anything changed.

        Parameters
        ----------
        new : ParticipantList
        fingerprint : str, optional
            What was heard by telephone; must be the federation key's.

        Raises
        ------
        AuthenticationError
            It is signed by another key, is older than the present one, differs from it under the same serial, or
            brings back a key that was revoked. The present list is as it was.
        """
        if fingerprint is not None and _plain(fingerprint) != _plain(new.fingerprint):
            raise AuthenticationError(
                "The federation's key is not the one that was given",
                got=f"the list is signed by {new.fingerprint}",
                rule=f"given: {fingerprint[:80]}",
                fix="ring the federation's operator; accept nothing until the fingerprints agree",
            )
        with self._store.transaction():
            old = self.current()
            if old is not None:
                if new.data == old.data:
                    return False
                _check_follows(old, new)
            self._table.put("current", new.data)
        return True


def _check_follows(old: ParticipantList, new: ParticipantList) -> None:
    if new.content.federation_key != old.content.federation_key or new.federation != old.federation:
        raise AuthenticationError(
            "Another federation's key is pinned at this party",
            got=f"a list of '{new.federation}' by {new.fingerprint}",
            rule=f"pinned: '{old.federation}', {old.fingerprint}",
            fix="ring the federation's operator; for another federation use another folder",
        )
    if new.serial < old.serial:
        raise AuthenticationError(
            "This participant list is older than one that was accepted",
            got=f"serial {new.serial}",
            rule=f"serial {old.serial} was accepted; serials only grow, so that nobody who was revoked comes back",
            fix="ask for the newest list",
        )
    if new.serial == old.serial:
        raise AuthenticationError(
            "Two different participant lists have one serial number",
            got=f"serial {new.serial}, dated {new.content.date_utc} and {old.content.date_utc}",
            rule="one serial, one list",
            fix="ring the federation's operator: its key signed both",
        )
    gone = {one.public_key for one in old.revoked if one.reason != "certificate rotated"}
    back = sorted(party.name for party in new.parties if party.public_key in gone)
    forgotten = gone - {one.public_key for one in new.revoked}
    if back or forgotten:
        raise AuthenticationError(
            "This participant list forgets a revocation",
            got=", ".join(back) or f"{len(forgotten)} revoked keys are missing",
            rule="what is revoked stays revoked",
            fix="ring the federation's operator",
        )


def _plain(fingerprint: str) -> str:
    return "".join(c for c in fingerprint.lower() if c.isalnum())
