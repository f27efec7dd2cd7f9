"""Mutual TLS 1.3, and who somebody is by the SHA-256 of their certificate."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import ssl
from collections.abc import Iterable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blindsight.errors import StoreError

__all__ = ["certificate_expired", "certificate_fingerprint", "mutual_context", "peer_fingerprint", "read_pem"]

log = logging.getLogger(__name__)

Pathlike = str | os.PathLike[str]


def certificate_fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate's DER bytes, in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def peer_fingerprint(scope: MutableMapping[str, Any]) -> str:
    """SHA-256 of the certificate that a request's connection showed, in hexadecimal; empty without one."""
    certificate = scope.get("state", {}).get("peer_certificate")
    return certificate_fingerprint(certificate) if certificate else ""


@functools.lru_cache(maxsize=1024)
def _not_after(certificate: bytes) -> datetime:
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def certificate_expired(certificate: bytes) -> bool:
    """Whether a certificate, in DER, has expired since its connection was made."""
    return datetime.now(UTC) > _not_after(certificate)


class _NotedHandshake(ssl.SSLObject):
    """Says in the log why a handshake failed; asyncio keeps it to itself."""

    def do_handshake(self) -> None:
        """As ssl's."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or "an error"
            log.warning("a TLS handshake was refused: %s", why)
            raise


def mutual_context(
    *, certificate: Pathlike, private_key: Pathlike, trusted: Iterable[Pathlike], server: bool, check_name: bool
) -> ssl.SSLContext:
    """TLS 1.3 context of one side that shows its certificate and demands the other's.

    Parameters
    ----------
    certificate, private_key : path
        PEM files: own certificate, with its chain; key without a passphrase.
    trusted : iterable of path
        PEM files: authorities, or the very certificates that the other side may show.
    server : bool
        Which side it is for.
    check_name : bool
        Whether the other side's certificate must hold the host name that was dialled. For dialling sides only.

    Raises
    ------
    StoreError
        A file cannot be read, or does not hold what it should.

    Security
    --------
    Sessions are never resumed: every connection shows a certificate that is valid then.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = check_name
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0
        context.sslobject_class = _NotedHandshake
    _load(context.load_cert_chain, certificate, "The certificate {} or its key could not be used", private_key)
    for path in trusted:
        _load(context.load_verify_locations, path, "The trusted certificates in {} could not be used")
    return context


def read_pem(path: Pathlike) -> bytes:
    """A PEM file's bytes, for a library that takes these.

    Raises
    ------
    StoreError
        It cannot be read just now.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{Path(path).name!r} cannot be read", got=error.strerror or "an error") from error


def _load(load: Any, path: Pathlike, what: str, *more: Pathlike) -> None:
    try:
        load(path, *more)
    except (OSError, ssl.SSLError) as error:  # SSLError is an OSError: its number is no file's
        raise StoreError(
            what.format(repr(Path(path).name)),
            got=str(error)[:120],
            rule="PEM files; the key belongs to the certificate and has no passphrase",
        ) from error
