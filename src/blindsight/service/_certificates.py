"""A certificate for a first try: self-signed, for the names given, in the service's own folder."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsight.keys import write_atomic

__all__ = ["make_certificate"]

LIFE_DAYS = 365


def make_certificate(certificate: Path, private_key: Path, names: list[str]) -> None:
    """Write a self-signed certificate (ECDSA on P-256, one year) and its key of mode 0600.

    Parameters
    ----------
    certificate, private_key : Path
        Neither may exist.
    names : list of str
        Host names and addresses, the first one also as common name.

    Security
    --------
    Clients trust it because they were given this very file as ``authority``. For strangers, get one from an authority
    that they know.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=LIFE_DAYS))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(private_key, encoded, replace=False)
    write_atomic(certificate, built.public_bytes(serialization.Encoding.PEM), 0o644, replace=False)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
