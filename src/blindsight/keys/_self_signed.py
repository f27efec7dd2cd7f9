"""Self-signed certificates for TLS: trusted by those who were given the file, and by nobody else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ._atomic import write_atomic

__all__ = ["write_self_signed"]

CLOCK_MINUTES = 5
"""A certificate is valid this long before it was made: clocks differ."""


def write_self_signed(
    certificate: Path, private_key: Path, *, name: str, days: int, extensions: Sequence[tuple[x509.ExtensionType, bool]]
) -> None:
    """Write a fresh P-256 key, mode 0600, and its certificate (ECDSA, SHA-256).

    Parameters
    ----------
    certificate, private_key : Path
        PEM files; neither may exist.
    name : str
        Common name.
    days : int
        Life.
    extensions : sequence of (extension, critical)
        What the certificate may be used for. ``BasicConstraints(ca=False)`` where it may vouch for nobody else.

    Raises
    ------
    StoreError
        A file exists, or cannot be written.

    Security
    --------
    The key is written unencrypted, since the libraries that use it read it themselves.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=CLOCK_MINUTES))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signed = builder.sign(key, hashes.SHA256())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(private_key, encoded, replace=False)
    write_atomic(certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o644, replace=False)
