"""A certificate for a first try: self-signed, for the names given, in the service's own folder."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from blindsight.keys import write_self_signed

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
    write_self_signed(
        certificate,
        private_key,
        name=names[0],
        days=LIFE_DAYS,
        extensions=[
            (x509.SubjectAlternativeName([_name(name) for name in names]), False),
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ],
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
