"""Self-signed certificates for processes that pin each other's: whoever holds the key of a listed certificate is it."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blindsight.channels import certificate_fingerprint as fingerprint_of_der
from blindsight.channels import mutual_context
from blindsight.errors import FormatError, ParameterError, StoreError, WireError
from blindsight.keys import write_self_signed

__all__ = [
    "TlsFiles",
    "certificate_fingerprint",
    "make_certificate",
    "peer_certificate",
    "pinned_context",
    "read_certificate",
    "read_certificates",
]

MAX_CERTIFICATE_BYTES = 16_384
VALID_DAYS = 825
"""Longest life that common verifiers accept."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where a process finds its certificate, its private key and the certificates that it trusts.

    Parameters
    ----------
    certificate, private_key : Path
        PEM files; the key unencrypted, since the libraries underneath read it themselves: mode 0600.
    trusted : Path
        PEM file with the self-signed certificates of exactly the peers.
    """

    certificate: Path
    private_key: Path
    trusted: Path


def make_certificate(name: str, folder: str | os.PathLike[str], *, days: int = VALID_DAYS) -> tuple[Path, Path]:
    """Write ``name.crt`` and ``name.key``: a fresh P-256 key and its self-signed certificate.

    Parameters
    ----------
    name : str
        1 to 64 letters, digits, ``-``, ``_`` or ``.``; becomes the common name.
    folder : path-like
        Must exist; files of these names must not.
    days : int
        How long the certificate is valid.

    Returns
    -------
    certificate, private_key : Path

    Raises
    ------
    ParameterError
        The name or the number of days cannot be used.
    StoreError
        A file exists or cannot be written.

    Security
    --------
    ECDSA over P-256, which is not post-quantum. The key file has mode 0600 and is not encrypted.
    """
    if not 1 <= len(name) <= 64 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise ParameterError(
            "A certificate's name cannot be used", got=repr(name)[:80], rule="1 to 64 of letters, digits, -, _ and ."
        )
    if not 1 <= days <= VALID_DAYS:
        raise ParameterError("A certificate's life is out of its domain", got=str(days), rule=f"1 to {VALID_DAYS} days")
    paths = Path(folder) / f"{name}.crt", Path(folder) / f"{name}.key"
    nobody_else = x509.BasicConstraints(ca=False, path_length=None)
    write_self_signed(*paths, name=name, days=days, extensions=[(nobody_else, True)])
    return paths


def read_certificate(path: str | os.PathLike[str]) -> x509.Certificate:
    """Read one self-signed certificate from a PEM file.

    Raises
    ------
    StoreError
        The file cannot be read.
    FormatError
        It does not hold one certificate, or one that cannot be pinned: see :func:`read_certificates`.
    """
    found = read_certificates(path)
    if len(found) != 1:
        raise FormatError(f"{Path(path).name!r} does not hold one certificate", got=f"{len(found)} certificates")
    return found[0]


def read_certificates(path: str | os.PathLike[str]) -> list[x509.Certificate]:
    """Read the certificates of a PEM file, each of which stands for its own key alone.

    Raises
    ------
    StoreError
        The file cannot be read.
    FormatError
        It holds none, or one that is not self-signed, or that may vouch for others.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CERTIFICATE_BYTES + 1)
    except OSError as error:
        raise StoreError(f"The certificate {name!r} could not be read", got=error.strerror or "") from error
    try:
        return _pinnable(data)
    except Exception as error:  # ValueError, TypeError, InvalidSignature: whatever a hostile file provokes
        raise FormatError(
            f"{name!r} is not a certificate that can be pinned",
            rule="self-signed X.509 in PEM, with basic constraints that say CA:FALSE",
            fix="make one with 'blindsight mpc-node certificate'",
        ) from error


def peer_certificate(pem: bytes) -> bytes:
    """Read the one certificate that a peer has sent, and write it anew.

    Parameters
    ----------
    pem : bytes
        Untrusted.

    Returns
    -------
    bytes
        PEM, with nothing beside the certificate.

    Raises
    ------
    WireError
        It is not one certificate as :func:`make_certificate` writes them: P-256, self-signed, CA:FALSE, valid now.
    """
    now = datetime.datetime.now(datetime.UTC)
    try:
        (certificate,) = _pinnable(pem)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise ValueError
    except Exception as error:  # as above
        raise WireError(
            "The certificate for a link cannot be pinned",
            rule=f"one X.509 certificate in PEM, at most {MAX_CERTIFICATE_BYTES} bytes: P-256, self-signed, basic "
            "constraints that say CA:FALSE, valid now",
            fix="make one with blindsight.blind.mpc.make_certificate; compare the clocks",
        ) from error
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pinnable(data: bytes) -> list[x509.Certificate]:
    """Certificates that stand for their own key alone; any exception where there is another."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise ValueError
    found = x509.load_pem_x509_certificates(data)
    for certificate in found:
        certificate.verify_directly_issued_by(certificate)
        # TLS takes a pinned authority's word for any other key
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError
    return found


def certificate_fingerprint(certificate: x509.Certificate | bytes) -> str:
    """SHA-256 of a certificate (or of its DER bytes) in hexadecimal."""
    der = certificate if isinstance(certificate, bytes) else certificate.public_bytes(serialization.Encoding.DER)
    return fingerprint_of_der(der)


def pinned_context(tls: TlsFiles, *, server: bool, peers: Iterable[Path]) -> ssl.SSLContext:
    """TLS context of one side that shows its certificate and accepts only the given ones, whatever their host name.

    Parameters
    ----------
    tls : TlsFiles
        Own certificate and key.
    server : bool
        Which side it is for.
    peers : iterable of Path
        Certificates that the other side may show.
    """
    trusted = list(peers)
    for path in trusted:
        read_certificate(path)
    # a pinned key is stronger than a name
    return mutual_context(
        certificate=tls.certificate, private_key=tls.private_key, trusted=trusted, server=server, check_name=False
    )
