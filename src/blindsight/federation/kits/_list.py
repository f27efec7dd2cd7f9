"""The participant list: who takes part with which keys, signed by the federation's key, with a serial number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from blindsight.errors import FormatError
from blindsight.keys import Identity, PublicIdentity, write_atomic

from ._names import MAX_PARTIES, address_problem, contact_problem, name_problem, names_problems
from ._signed import read_limited, signed_bytes, verified

__all__ = ["LIST_FILE", "ListedCoordinator", "ListedParty", "ParticipantList", "RevokedParty"]

LIST_FILE = "participants.signed.json"
CONTEXT = b"blindsight participant list v1"
MAX_LIST_BYTES = 1 << 20

Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Date = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
Serial = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class ListedParty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One data owner: Ed25519 key of its sums, SHA-256 of its TLS certificate, both in hexadecimal."""

    name: Name
    contact: Text
    public_key: Hex64
    certificate: Hex64

    @property
    def fingerprint(self) -> str:
        """Of its Ed25519 key, for reading aloud."""
        return PublicIdentity(bytes.fromhex(self.public_key)).fingerprint


class RevokedParty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key or a certificate that is no longer good; it never comes back."""

    name: Name
    public_key: Hex64
    certificate: Hex64
    reason: Literal["revoked", "certificate rotated", "identity rotated"]
    serial: Serial
    date_utc: Date


class ListedCoordinator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom parties dial: its TLS certificate's SHA-256 and its addresses."""

    name: Name
    contact: Text
    certificate: Hex64
    addresses: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=8)]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1]
    federation: Name
    federation_key: Hex64
    serial: Serial
    date_utc: Date
    coordinator: ListedCoordinator
    authority: Hex64
    parties: Annotated[list[ListedParty], msgspec.Meta(max_length=MAX_PARTIES)]
    revoked: Annotated[list[RevokedParty], msgspec.Meta(max_length=4096)]


@dataclass(frozen=True)
class ParticipantList:
    """A list whose signature holds; made by :meth:`sign`, :meth:`read` or :meth:`from_bytes`.

    Attributes
    ----------
    data : bytes
        The file, as it was signed.

    Security
    --------
    That the signature holds says only that the list is by the key that it names. Whether that is *the* federation's
    key, a party knows from the fingerprint that it pinned: see :class:`PinnedList`.
    """

    content: _Content
    data: bytes

    @classmethod
    def sign(
        cls,
        identity: Identity,
        *,
        federation: str,
        serial: int,
        date_utc: str,
        coordinator: ListedCoordinator,
        authority: str,
        parties: Sequence[ListedParty],
        revoked: Sequence[RevokedParty] = (),
    ) -> ParticipantList:
        """Make and sign a list."""
        content = _Content(
            version=1,
            federation=federation,
            federation_key=identity.public.raw.hex(),
            serial=serial,
            date_utc=date_utc,
            coordinator=coordinator,
            authority=authority,
            parties=sorted(parties, key=lambda party: party.name),
            revoked=list(revoked),
        )
        return cls.from_bytes(signed_bytes(content, identity, CONTEXT))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ParticipantList:
        """Read a list from a file.

        Raises
        ------
        StoreError, FormatError, AuthenticationError
            It cannot be read, is malformed, or its signature does not hold.
        """
        path = Path(path)
        return cls.from_bytes(read_limited(path / LIST_FILE if path.is_dir() else path, MAX_LIST_BYTES))

    @classmethod
    def from_bytes(cls, data: bytes) -> ParticipantList:
        """Read a list from untrusted bytes; errors as :meth:`read`."""
        content = verified(
            data, _Content, CONTEXT, what="The participant list", limit=MAX_LIST_BYTES, signer="federation_key"
        )
        problem = _problem(content)
        if problem is not None:
            raise FormatError("The participant list contradicts itself", got=problem[:300])
        return cls(content, bytes(data))

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.content.federation

    @property
    def serial(self) -> int:
        """Number of this list; it only grows."""
        return self.content.serial

    @property
    def parties(self) -> tuple[ListedParty, ...]:
        """Who takes part, sorted by name."""
        return tuple(self.content.parties)

    @property
    def revoked(self) -> tuple[RevokedParty, ...]:
        """Keys and certificates that are no longer good."""
        return tuple(self.content.revoked)

    @property
    def coordinator(self) -> ListedCoordinator:
        """Whom parties dial."""
        return self.content.coordinator

    @property
    def fingerprint(self) -> str:
        """Of the federation's key: compared by telephone once, before it is pinned."""
        return PublicIdentity(bytes.fromhex(self.content.federation_key)).fingerprint

    @property
    def participants(self) -> list[tuple[str, bytes]]:
        """Names and raw Ed25519 keys, as steps hold them."""
        return [(party.name, bytes.fromhex(party.public_key)) for party in self.content.parties]

    @property
    def certificates(self) -> dict[str, str]:
        """SHA-256 of every party's TLS certificate, by name: what a channel admits."""
        return {party.name: party.certificate for party in self.content.parties}

    def party(self, name: str) -> ListedParty | None:
        """The entry of a party."""
        return next((party for party in self.content.parties if party.name == name), None)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it is public, hence readable by all."""
        write_atomic(path, self.data, mode=0o644)


def _problem(content: _Content) -> str | None:
    """What no honest list holds."""
    names = [party.name for party in content.parties]
    keys = [party.public_key for party in content.parties]
    certificates = [party.certificate for party in content.parties] + [content.coordinator.certificate]
    problems = [name_problem(name) for name in (*names, content.federation)]
    problems += [name_problem(content.coordinator.name) if content.coordinator.name != "coordinator" else None]
    problems += [contact_problem(party.contact) for party in content.parties]
    problems.append(contact_problem(content.coordinator.contact))
    problems += [address_problem(address) for address in content.coordinator.addresses]
    problems += names_problems([*names, content.coordinator.name])
    if names != sorted(names):
        problems.append("parties are not sorted by name")
    if len(set(keys)) != len(keys) or content.federation_key in keys:
        problems.append("two parties have one key")
    if len(set(certificates)) != len(certificates):
        problems.append("two have one certificate")
    gone = {one.certificate for one in content.revoked}
    gone_keys = {one.public_key for one in content.revoked if one.reason != "certificate rotated"}
    if gone & set(certificates) or gone_keys & set(keys):
        problems.append("what is revoked is listed as good")
    if any(one.serial > content.serial for one in content.revoked):
        problems.append("something was revoked by a later list")
    return next((problem for problem in problems if problem is not None), None)
