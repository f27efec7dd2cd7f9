"""Who may ask for what: bearer tokens and client certificates, each of an account, expiring and revocable."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from typing import Literal

import msgspec

from blindsight._names import MODEL_NAME
from blindsight.errors import ParameterError, StoreError
from blindsight.store import Store

__all__ = ["SCOPES", "Credential", "Credentials", "Scope", "fingerprint_of"]

Scope = Literal["score", "register", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("score", "register", "metrics", "admin")

PREFIX = "bst"
MAX_TOKEN_CHARS = 128
_ACCOUNT = re.compile(MODEL_NAME)
_ID = re.compile(r"[0-9a-f]{16}")


class Credential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token or certificate, without what it takes to use it.

    Parameters
    ----------
    id : str
        Names it in lists and logs; not secret.
    account : str
        Whom its use is charged to. One account may have several credentials, so that they can be exchanged.
    scopes : tuple of str
    kind : {"token", "certificate"}
    created, expires : float
        Seconds since 1970.
    revoked : float, optional
    """

    id: str
    account: str
    scopes: tuple[Scope, ...]
    kind: Literal["token", "certificate"]
    created: float
    expires: float
    revoked: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether it counts at that moment."""
        return self.revoked is None and now < self.expires


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    credential: Credential
    digest: bytes


_decoder = msgspec.msgpack.Decoder(_Stored)


class Credentials:
    """All credentials, in the store.

    Security
    --------
    A token is ``bst_<id>_<secret>`` with 32 bytes from the operating system; the store has its SHA-256 alone (a secret
    that long needs no slow hash), compared in constant time. A certificate is known by the SHA-256 of its DER form.
    The store is asked at every request, so that a revocation counts at once in every process.
    """

    def __init__(self, store: Store) -> None:
        self._table = store.table("credentials")

    def create_token(self, account: str, scopes: Collection[str], *, seconds: float) -> tuple[Credential, str]:
        """Make a token; the text is returned once and kept nowhere.

        Raises
        ------
        ParameterError
            Unusable account, unknown scope, or a life that is not positive.
        """
        secret = secrets.token_urlsafe(32)
        credential = self._new(secrets.token_hex(8), account, scopes, "token", seconds)
        self._put(credential, hashlib.sha256(secret.encode()).digest())
        return credential, f"{PREFIX}_{credential.id}_{secret}"

    def allow_certificate(self, der: bytes, account: str, scopes: Collection[str], *, seconds: float) -> Credential:
        """Let the holder of a certificate's private key in; the service's CA must have signed it as well."""
        digest = hashlib.sha256(der).digest()
        credential = self._new(fingerprint_of(der), account, scopes, "certificate", seconds)
        self._put(credential, digest)
        return credential

    def all(self) -> list[Credential]:
        """Every credential, oldest first."""
        stored = (self._get(key) for key in self._table.keys(""))
        return sorted((s.credential for s in stored if s is not None), key=lambda c: (c.created, c.id))

    def revoke(self, credential_id: str) -> Credential:
        """Make a credential useless from now on.

        Raises
        ------
        ParameterError
            There is none of that id.
        """
        with self._table.transaction():
            stored = self._get(credential_id) if _ID.fullmatch(credential_id) else None
            if stored is None:
                raise ParameterError("There is no such credential", got=credential_id[:40], fix="list them first")
            credential = stored.credential
            if credential.revoked is None:
                credential = msgspec.structs.replace(credential, revoked=time.time())
                self._put(credential, stored.digest)
        return credential

    def of_token(self, token: str) -> Credential | None:
        """The valid credential of a token, or None."""
        parts = token.split("_", 2)
        if len(token) > MAX_TOKEN_CHARS or len(parts) != 3 or parts[0] != PREFIX or not _ID.fullmatch(parts[1]):
            return None
        stored = self._get(parts[1])
        digest = hashlib.sha256(parts[2].encode()).digest()
        if stored is None or stored.credential.kind != "token" or not hmac.compare_digest(stored.digest, digest):
            return None
        return stored.credential if stored.credential.is_valid(time.time()) else None

    def is_valid(self, credential_id: str) -> bool:
        """Whether a credential still counts."""
        stored = self._get(credential_id)
        return stored is not None and stored.credential.is_valid(time.time())

    def of_certificate(self, der: bytes) -> Credential | None:
        """The valid credential of a certificate whose key the peer has proved to hold, or None."""
        stored = self._get(fingerprint_of(der))
        if stored is None or stored.credential.kind != "certificate":
            return None
        if not hmac.compare_digest(stored.digest, hashlib.sha256(der).digest()):
            return None
        return stored.credential if stored.credential.is_valid(time.time()) else None

    def _new(
        self, name: str, account: str, scopes: Collection[str], kind: Literal["token", "certificate"], seconds: float
    ) -> Credential:
        if not _ACCOUNT.fullmatch(account):
            raise ParameterError(
                "The account's name is unusable", got=repr(account)[:80], rule="1 to 64 of a-z, 0-9, '.', '_', '-'"
            )
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ParameterError("The scopes cannot be used", got=repr(unknown)[:80], rule=", ".join(SCOPES))
        if not 0 < seconds < 10 * 366 * 86400:
            raise ParameterError("The credential's life is out of range", got=repr(seconds), rule="up to ten years")
        now = time.time()
        kept = tuple(scope for scope in SCOPES if scope in scopes)
        return Credential(id=name, account=account, scopes=kept, kind=kind, created=now, expires=now + seconds)

    def _put(self, credential: Credential, digest: bytes) -> None:
        self._table.put(credential.id, msgspec.msgpack.encode(_Stored(credential=credential, digest=digest)))

    def _get(self, key: str) -> _Stored | None:
        value = self._table.get(key)
        if value is None:
            return None
        try:
            return _decoder.decode(value)
        except msgspec.MsgspecError as error:
            raise StoreError("A stored credential is damaged", got=key) from error


def fingerprint_of(der: bytes) -> str:
    """First 16 hexadecimal digits of a certificate's SHA-256; the whole digest is compared where it counts."""
    return hashlib.sha256(der).hexdigest()[:16]
