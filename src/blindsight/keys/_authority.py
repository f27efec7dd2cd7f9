"""A certificate authority of one federation: says which TLS key belongs to which name, and nothing else."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsight.errors import AuthenticationError, ParameterError

from ._atomic import write_atomic
from ._certificates import pem_of, read_certificate_file, read_tls_key, write_tls_key

__all__ = ["Authority"]

CLOCK_MINUTES = 5
"""A certificate is valid this long before it was made: clocks differ."""
MAX_DAYS = 3650


class Authority:
    """Signs TLS certificates for clients and servers; made by :meth:`create` or :meth:`load`.

    Security
    --------
    ECDSA on P-256 with SHA-256. Certificates are for TLS alone: leaf certificates say CA:FALSE, and either client or
    server; both for a coordinator that dials a broker. Whoever has the authority's key can get into the federation's
    channels, but not into its sums: a party believes the signed participant list, which this key does not sign.
    """

    __slots__ = ("_certificate", "_key")

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate, self._key = certificate, key

    @classmethod
    def create(
        cls,
        certificate: str | os.PathLike[str],
        private_key: str | os.PathLike[str],
        *,
        name: str,
        days: int,
    ) -> Authority:
        """Make a key (mode 0600) and its self-signed certificate, in two new PEM files.

        Raises
        ------
        ParameterError
            The number of days is out of its domain.
        StoreError
            A file exists or cannot be written.
        """
        _check_days(days)
        key = write_tls_key(private_key)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority"[:64])])
        usage = _usage(signs_certificates=True)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signed = (
            _builder(subject, subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(own, critical=False)
            .sign(key, hashes.SHA256())
        )
        write_atomic(certificate, pem_of([signed]), mode=0o644, replace=False)
        return cls(signed, key)

    @classmethod
    def load(cls, certificate: str | os.PathLike[str], private_key: str | os.PathLike[str]) -> Authority:
        """Read what :meth:`create` wrote.

        Raises
        ------
        StoreError, FormatError
            A file cannot be read, is open to others, or is something else.
        AuthenticationError
            The key is not that of the certificate.
        """
        authority = cls(read_certificate_file(certificate), read_tls_key(private_key))
        if authority._key.public_key() != authority._certificate.public_key():
            raise AuthenticationError(
                "The authority's key and certificate do not belong together",
                got=f"{Path(certificate).name}, {Path(private_key).name}",
                fix="restore both from one copy",
            )
        return authority

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._certificate

    def issue_client(self, name: str, public_key: ec.EllipticCurvePublicKey, *, days: int) -> x509.Certificate:
        """Certify a party's key: for the side that dials out."""
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._issue(name, public_key, days, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_server(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        days: int,
        hosts: Sequence[str],
        dials: bool = False,
    ) -> x509.Certificate:
        """Certify the key of the side that listens, for these host names and addresses.

        One that ``dials`` as well, a coordinator that meets its parties at a broker, is also good for a client.
        """
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        client = [ExtendedKeyUsageOID.CLIENT_AUTH] if dials else []
        return self._issue(name, public_key, days, names, ExtendedKeyUsageOID.SERVER_AUTH, *client)

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        days: int,
        names: x509.SubjectAlternativeName,
        *purposes: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        _check_days(days)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = _builder(subject, self._certificate.subject, public_key, days)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (names, False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())

    def __repr__(self) -> str:
        return f"Authority({self._certificate.subject.rfc4514_string()}, private=<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an Authority holds a private key and is not pickled; use load")


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=CLOCK_MINUTES))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise ParameterError("A certificate's life is out of its domain", got=str(days), rule=f"1 to {MAX_DAYS} days")
