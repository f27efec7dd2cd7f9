"""A party's request to be enrolled: its public keys, signed by both. The private ones stay where they were made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from blindsight.errors import FormatError
from blindsight.keys import Identity, PublicIdentity, certificate_request, read_certificate_request

from ._dates import now_utc
from ._list import Date, Hex64, Name, Text
from ._names import contact_problem, name_problem
from ._signed import read_limited, signed_bytes, verified

__all__ = ["EnrolmentRequest"]

CONTEXT = b"blindsight enrolment request v1"
MAX_REQUEST_BYTES = 65_536


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1]
    federation: Name
    name: Name
    contact: Text
    public_key: Hex64
    certificate_request: Annotated[str, msgspec.Meta(max_length=16_384)]
    date_utc: Date


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request whose signatures hold: whoever sent it has both private keys.

    Attributes
    ----------
    data : bytes
        The file: JSON, in one line; it holds nothing secret.
    tls_key : EllipticCurvePublicKey

    Security
    --------
    It does not prove *who* sent it: compare :attr:`fingerprint` with the party by telephone.
    """

    content: _Content
    tls_key: ec.EllipticCurvePublicKey
    data: bytes

    @classmethod
    def make(
        cls,
        *,
        federation: str,
        name: str,
        contact: str,
        identity: Identity,
        tls_key: ec.EllipticCurvePrivateKey,
    ) -> EnrolmentRequest:
        """Make and sign a request, at the party."""
        content = _Content(
            version=1,
            federation=federation,
            name=name,
            contact=contact,
            public_key=identity.public.raw.hex(),
            certificate_request=certificate_request(name, tls_key).decode("ascii"),
            date_utc=now_utc(),
        )
        return cls.from_bytes(signed_bytes(content, identity, CONTEXT))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EnrolmentRequest:
        """Read a request from a file.

        Raises
        ------
        StoreError, FormatError, AuthenticationError
            It cannot be read, is malformed, or a signature does not hold.
        """
        try:
            return cls.from_bytes(read_limited(path, MAX_REQUEST_BYTES))
        except FormatError as error:
            raise FormatError(
                f"{Path(path).name!r} is not an enrolment request",
                got=f"{error.what}: {error.got}" if error.got else error.what,
                rule=error.rule,
                fix="make one at the party: blindsight party enrol NAME --home FOLDER",
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> EnrolmentRequest:
        """Read a request from untrusted bytes; errors as :meth:`read`."""
        content = verified(
            data, _Content, CONTEXT, what="The enrolment request", limit=MAX_REQUEST_BYTES, signer="public_key"
        )
        for problem in (
            name_problem(content.name), name_problem(content.federation), contact_problem(content.contact)
        ):  # fmt: skip
            if problem is not None:
                raise FormatError("The enrolment request cannot be used", got=problem)
        key = read_certificate_request(content.certificate_request.encode(), name=content.name)
        return cls(content, key, bytes(data))

    @property
    def name(self) -> str:
        """The party's name."""
        return self.content.name

    @property
    def federation(self) -> str:
        """What the party believes to join."""
        return self.content.federation

    @property
    def contact(self) -> str:
        """Whom to ring there."""
        return self.content.contact

    @property
    def public_key(self) -> str:
        """Ed25519, hexadecimal."""
        return self.content.public_key

    @property
    def fingerprint(self) -> str:
        """Of the Ed25519 key, for reading aloud."""
        return PublicIdentity(bytes.fromhex(self.content.public_key)).fingerprint
