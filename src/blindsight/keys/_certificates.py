"""X.509 certificates and requests as others send them: read strictly, named by fingerprint, checked in words."""

from __future__ import annotations

import datetime
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsight.errors import AuthenticationError, FormatError, StoreError

from ._atomic import write_atomic

__all__ = [
    "certificate_fingerprint",
    "certificate_names",
    "certificate_problems",
    "certificate_request",
    "pem_of",
    "read_certificate_file",
    "read_certificate_request",
    "read_tls_key",
    "write_tls_key",
]

MAX_PEM_BYTES = 16_384
"""Longest certificate, request or key that is read; real ones here have about 1 kB."""


def certificate_fingerprint(certificate: x509.Certificate | bytes) -> str:
    """SHA-256 of a certificate (or of its DER bytes), 64 hexadecimal digits."""
    der = certificate if isinstance(certificate, bytes) else certificate.public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def read_certificate_file(path: str | os.PathLike[str]) -> x509.Certificate:
    """Read the one certificate of a PEM file.

    Raises
    ------
    StoreError
        The file cannot be read.
    FormatError
        It is not exactly one certificate, or longer than 16 KiB.
    """
    data = _read(path, "certificate")
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        found = []
    if len(found) != 1:
        raise FormatError(
            f"{Path(path).name!r} is not a certificate", got=f"{len(found)} certificates", rule="one, X.509 in PEM"
        )
    return found[0]


def certificate_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that a certificate is good for, as text."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def certificate_problems(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    *,
    server: bool,
    at: datetime.datetime | None = None,
    name: str | None = None,
) -> list[str]:
    """Say in words why a certificate of this authority would not be accepted; empty where it would be.

    Parameters
    ----------
    certificate, authority : x509.Certificate
    server : bool
        Whether it is to be shown by the side that listens.
    at : datetime, optional
        The time to judge by; now.
    name : str, optional
        Host name or address that it must be good for, for a server; the common name that it must have, for a client.
    """
    at = at if at is not None else datetime.datetime.now(datetime.UTC)
    problems = []
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        problems.append("it was not issued by the federation's authority")
    for which, one in (("it", certificate), ("the authority's certificate", authority)):
        if at < one.not_valid_before_utc:
            problems.append(f"{which} is not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
        if at > one.not_valid_after_utc:
            problems.append(f"{which} expired on {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            problems.append("it may sign others, which only the authority's may")
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            problems.append("the authority's certificate may not sign others")
    except (x509.ExtensionNotFound, ValueError):
        usages = []
    if wanted not in usages:
        problems.append(f"it is not for a {'server' if server else 'client'}")
    if name is not None:
        good_for = certificate_names(certificate) if server else _common_names(certificate)
        if name not in good_for:
            problems.append(f"it is for {', '.join(good_for) or 'nobody'}, not for {name}")
    return problems


def _common_names(certificate: x509.Certificate) -> tuple[str, ...]:
    return tuple(str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def write_tls_key(path: str | os.PathLike[str]) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key and write it to a new PEM file of mode 0600.

    Raises
    ------
    StoreError
        The file exists or cannot be written.

    Security
    --------
    Not encrypted: TLS libraries read it themselves.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    write_atomic(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        replace=False,
    )
    return key


def read_tls_key(path: str | os.PathLike[str]) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key that :func:`write_tls_key` wrote.

    Raises
    ------
    StoreError
        It cannot be read, or others than its owner may read it.
    FormatError
        It is not such a key.
    """
    name = Path(path).name
    data = _read(path, "private key")
    if os.name == "posix" and (mode := stat.S_IMODE(os.stat(path).st_mode)) & 0o077:
        raise StoreError(
            f"The private key {name!r} is open to others",
            got=f"mode {mode:04o}",
            rule="its owner alone may read it",
            fix=f"chmod 600 {name}",
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError(f"{name!r} is not a private key of ours", rule="ECDSA on P-256, PKCS8 in PEM, not encrypted")
    return key


def certificate_request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PKCS10 request in PEM for a certificate of this name, signed by the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def read_certificate_request(pem: bytes, *, name: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request, whose holder has proved to have the private one.

    Parameters
    ----------
    pem : bytes
        Untrusted.
    name : str
        Common name that it must have. Nothing else of the request is used: what a certificate may do is the
        authority's to say.

    Raises
    ------
    FormatError
        Not a request, too long, of another kind of key, or for another name.
    AuthenticationError
        Its signature is not by its key.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise FormatError("A certificate request is too long", got=f"{len(pem)} bytes", rule=f"at most {MAX_PEM_BYTES}")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except Exception as error:  # ValueError, UnsupportedAlgorithm, TypeError: whatever a hostile file provokes
        raise FormatError("A certificate request is malformed", rule="PKCS10 in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError("A certificate request is for another kind of key", rule="ECDSA on P-256")
    if len(names) != 1 or names[0].value != name:
        raise FormatError(
            "A certificate request is for another name",
            got=", ".join(str(part.value)[:64] for part in names) or "no name",
            rule=f"the party's, {name}",
        )
    if not request.is_signature_valid:
        raise AuthenticationError("The signature of a certificate request is not by its key", fix="make a new request")
    return key


def _read(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"The {what} {Path(path).name!r} could not be read", got=error.strerror or type(error).__name__
        ) from error
    if len(data) > MAX_PEM_BYTES:
        raise FormatError(f"{Path(path).name!r} is not a {what}", rule=f"at most {MAX_PEM_BYTES} bytes")
    return data


def pem_of(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates in PEM, one after the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
