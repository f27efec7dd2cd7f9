"""A certificate authority for tests of channels: short-lived certificates, keys on disk without a passphrase."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsight.channels import certificate_fingerprint

__all__ = ["InsecureAuthority", "Issued"]

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """Files of one certificate and its key, and the certificate's fingerprint."""

    certificate: Path
    private_key: Path
    authority: Path
    fingerprint: str

    @property
    def files(self) -> dict[str, Path]:
        """As the keyword arguments of channels."""
        return {"certificate": self.certificate, "private_key": self.private_key, "authority": self.authority}


class InsecureAuthority:
    """Issues certificates into a folder.

    Parameters
    ----------
    folder : Path
    name : str
        Of its own files, and its common name.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        authority = (
            self._builder(self._name, self._key.public_key(), now + HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.crt"
        self.certificate.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, server: bool = False, lasts: datetime.timedelta = HOUR) -> Issued:
        """Make a key and a certificate: of a party, or of a server on the loopback addresses.

        Parameters
        ----------
        name : str
        server : bool
        lasts : timedelta
            From now; a negative one has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        # a party's certificate names the loopback addresses too: only its usage keeps it from being a server's
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            self._builder(subject, key.public_key(), datetime.datetime.now(datetime.UTC) + lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Issued(*paths, self.certificate, certificate_fingerprint(der))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(datetime.datetime.now(datetime.UTC), until) - HOUR)
            .not_valid_after(until)
        )
