"""Identities of parties, certificates, sealing at rest, and writing files so that they are never half there."""

from ._atomic import write_atomic
from ._identity import Identity, PublicIdentity
from ._sealer import Sealer, create_key_file, is_sealed
from ._self_signed import write_self_signed

__all__ = ["Identity", "PublicIdentity", "Sealer", "create_key_file", "is_sealed", "write_atomic", "write_self_signed"]
