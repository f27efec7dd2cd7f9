"""Knock at the coordinator's door, or its broker's: TCP, TLS with our certificate, one HEAD request for its clock."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

from .kits._names import host_of

__all__ = ["Knock", "knock"]

MAX_ANSWER_BYTES = 16_384
VERDICT_SECONDS = 0.5
_DATE = re.compile(rb"\r\n[Dd]ate:[ \t]*([^\r\n]{1,64})\r\n")


@dataclass(frozen=True, kw_only=True)
class Knock:
    """What happened.

    Parameters
    ----------
    address : str
    level : {"ok", "fail"}
    told : str
    fix : str or None
    skew_s : float or None
        This machine's clock minus the other's, in seconds; None where it did not say.
    """

    address: str
    level: Literal["ok", "fail"]
    told: str
    fix: str | None = None
    skew_s: float | None = None


def knock(
    address: str,
    *,
    certificate: Path,
    private_key: Path,
    authority: Path,
    expected: str,
    timeout_s: float,
) -> Knock:
    """Connect as the party would; never raises for what the other side does.

    Parameters
    ----------
    address : str
        ``https://host:port``, ``grpcs://host:port`` or, of a broker, ``mqtts://host:port``; only the first tells its
        clock.
    certificate, private_key, authority : Path
    expected : str
        SHA-256 of the certificate that must answer, hexadecimal. A broker may have any that the authority signed for
        its host: whether the coordinator is there is not asked, since a second connection would end the party's own.
    timeout_s : float
    """
    host, port = host_of(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=authority)
    context.load_cert_chain(certificate, private_key)
    grpc, broker = address.startswith("grpcs:"), address.startswith("mqtts:")
    whom = "broker" if broker else "coordinator"
    if grpc:
        context.set_alpn_protocols(["h2"])

    def failed(told: str, fix: str) -> Knock:
        return Knock(address=address, level="fail", told=told[:200], fix=fix)

    try:
        raw = socket.create_connection((host, port), timeout=timeout_s)
    except socket.gaierror as error:
        return failed(f"the name has no address ({error.strerror})", "correct it in party.toml, or have DNS mended")
    except OSError as error:
        fix = f"start the {whom}; let the firewall here pass outgoing TCP to {host}:{port}"
        return failed(f"no connection ({error.strerror or error})", fix)
    with raw:
        try:
            with context.wrap_socket(raw, server_hostname=host) as tls:
                shown = tls.getpeercert(binary_form=True) or b""
                if broker:
                    return _hear(address, tls)
                if hashlib.sha256(shown).hexdigest() != expected:
                    fix = "accept the newest participant list; else ring the federation's operator"
                    return failed("another certificate than the list names answers", fix)
                return _listen(address, tls) if grpc else _ask(address, host, tls)
        except ssl.SSLCertVerificationError as error:
            fix = "a proxy that opens TLS, or another server: ring the federation's operator"
            return failed(f"its certificate is not accepted: {error.verify_message}", fix)
        except OSError as error:  # ssl.SSLError is one
            newest = "kit" if broker else "participant list, which names this certificate"
            fix = f"see that the {whom} runs with the newest {newest}"
            return failed(f"TLS failed ({error})", fix)


def _listen(address: str, tls: ssl.SSLSocket) -> Knock:
    """A gRPC server speaks first, once it has accepted our certificate: settings (RFC 9113, section 3.4)."""
    sent = time.time()
    if not tls.recv(1):
        raise OSError("the coordinator ended the connection")
    told = f"TLS 1.3 with the listed certificate, answered after {1000 * (time.time() - sent):.0f} ms"
    return Knock(address=address, level="ok", told=told)


def _hear(address: str, tls: ssl.SSLSocket) -> Knock:
    """A broker waits for us to speak; one that does not accept our certificate says so at once, after the handshake."""
    tls.settimeout(VERDICT_SECONDS)
    try:
        if not tls.recv(1):
            raise OSError("the broker ended the connection")
    except TimeoutError:
        pass
    return Knock(
        address=address, level="ok", told="TLS 1.3 with a broker of the federation, which accepts our certificate"
    )


def _ask(address: str, host: str, tls: ssl.SSLSocket) -> Knock:
    """One HEAD request: in TLS 1.3 the other side judges our certificate only after the handshake."""
    sent = time.time()
    tls.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
        try:
            part = tls.recv(4096)
        except TimeoutError:  # it is there and speaks TLS, but not HTTP
            break
        if not part:
            break
        answer += part
    middle = (sent + time.time()) / 2
    told = f"TLS 1.3 with the listed certificate, answered after {1000 * (time.time() - sent):.0f} ms"
    match = _DATE.search(answer)
    skew = None
    if match is not None:
        try:
            # the header has whole seconds: half a one is no skew
            skew = middle - parsedate_to_datetime(match[1].decode("ascii")).timestamp() - 0.5
        except (ValueError, TypeError, OverflowError):
            skew = None
    return Knock(address=address, level="ok", told=told, skew_s=skew)
