"""The one certificate that a party lets a coordinator have, beside the authority that signed it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable

from blindsight.errors import AuthenticationError, ParameterError, UnavailableError

from ._tls import certificate_fingerprint

__all__ = [
    "AnotherCertificate",
    "Expected",
    "PinnedObject",
    "expected_now",
    "fetch_pinned",
    "pin_context",
    "still_expected",
]

Expected = str | Callable[[], str] | None
"""SHA-256 of the coordinator's certificate in hexadecimal, what gives it when it is needed, or nothing to compare."""

_PRINT = re.compile(r"[0-9a-f]{64}")


def expected_now(expected: Expected) -> str | None:
    """The fingerprint that holds now.

    Raises
    ------
    ParameterError
        It is malformed.
    """
    if expected is None:
        return None
    print_ = (expected() if callable(expected) else expected).replace(":", "").lower()
    if not _PRINT.fullmatch(print_):
        raise ParameterError(
            "The fingerprint of the coordinator cannot be used",
            got=print_[:80],
            rule="SHA-256 of its certificate: 64 hexadecimal digits",
        )
    return print_


def still_expected(pinned: str | None, expected: Expected) -> None:
    """Refuse to go on over a connection whose certificate was good when it was made, and is not any more.

    Raises
    ------
    AuthenticationError
    """
    if pinned is not None and expected_now(expected) != pinned:
        raise AuthenticationError(
            "The coordinator of this connection has been replaced",
            rule="the newest participant list names another certificate",
            fix="the party connects again",
        )


class AnotherCertificate(ssl.SSLCertVerificationError):
    """The other side's certificate is good, and not the one that is pinned."""


class PinnedObject(ssl.SSLObject):
    """A connection that ends in the handshake if the other side's certificate is another than ``pinned``.

    Security
    --------
    Compared as soon as the handshake is complete, before a byte of ours has left; the chain was checked by then.
    """

    pinned = ""

    def do_handshake(self) -> None:
        """As ssl's."""
        super().do_handshake()
        shown = certificate_fingerprint(self.getpeercert(binary_form=True) or b"")
        if shown != self.pinned:
            raise AnotherCertificate(_another(shown, self.pinned))


def pin_context(context: ssl.SSLContext, pinned: str | None) -> ssl.SSLContext:
    """Have every connection of a context compare certificates; unchanged where there is nothing to compare."""
    if pinned is not None:
        context.sslobject_class = type("PinnedObject", (PinnedObject,), {"pinned": pinned})
    return context


def fetch_pinned(context: ssl.SSLContext, host: str, port: int, pinned: str, *, timeout_s: float) -> bytes:
    """The certificate, in PEM, that a server shows, if it is the one that is pinned.

    For a library that does not tell whom it talks to: given this very certificate as the only one to trust, it talks to
    nobody else.

    Raises
    ------
    UnavailableError
        Nobody answers, or the handshake failed.
    AuthenticationError
        Another certificate answers.
    """
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True) or b""
    except ssl.SSLError as error:
        told = getattr(error, "verify_message", None) or error.reason or type(error).__name__
        raise UnavailableError("The coordinator's TLS is not accepted", got=str(told)[:200]) from error
    except OSError as error:
        raise UnavailableError("The coordinator cannot be reached", got=str(error)[:200]) from error
    if certificate_fingerprint(shown) != pinned:
        raise AuthenticationError(
            "Another coordinator answers", got=_another(certificate_fingerprint(shown), pinned),
            fix="accept the newest participant list; else ring the federation's operator",
        )  # fmt: skip
    return ssl.DER_cert_to_PEM_cert(shown).encode("ascii")


def _another(shown: str, pinned: str) -> str:
    return f"the coordinator shows the certificate {shown[:16]}, and the one that is expected is {pinned[:16]}"
