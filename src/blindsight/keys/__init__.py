"""Identities of parties, certificates, sealing at rest, and writing files so that they are never half there."""

from ._atomic import write_atomic
from ._authority import Authority
from ._certificates import (
    certificate_fingerprint,
    certificate_names,
    certificate_problems,
    certificate_request,
    pem_of,
    read_certificate_file,
    read_certificate_request,
    read_tls_key,
    write_tls_key,
)
from ._identity import Identity, PublicIdentity
from ._sealer import Sealer, create_key_file, is_sealed
from ._self_signed import write_self_signed

__all__ = [
    "Authority",
    "Identity",
    "PublicIdentity",
    "Sealer",
    "certificate_fingerprint",
    "certificate_names",
    "certificate_problems",
    "certificate_request",
    "create_key_file",
    "is_sealed",
    "pem_of",
    "read_certificate_file",
    "read_certificate_request",
    "read_tls_key",
    "write_atomic",
    "write_self_signed",
    "write_tls_key",
]
