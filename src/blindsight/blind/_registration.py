"""What an owner sends once, so that answers to it can be masked: its public key and encryptions of zero."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.errors import WireError

from ._engine import AnyParameters
from ._engines import mask_reader
from ._envelope import KEY_BYTES, Session, key_id_of
from ._offer import Offer

__all__ = ["RegistrationCheck", "key_id_of_registration", "registration_bytes"]


def registration_bytes(parameters: AnyParameters) -> int:
    """Length of a registration."""
    return KEY_BYTES + parameters.material_bytes


def key_id_of_registration(parameters: AnyParameters, registration: bytes) -> bytes:
    """Key id that a registration commits to; looks at its length and nothing else.

    Raises
    ------
    WireError
        It has the wrong length.
    """
    if len(registration) != registration_bytes(parameters):
        raise WireError(
            "A registration has the wrong length",
            got=f"{len(registration)} bytes",
            rule=f"{registration_bytes(parameters)} bytes for this offer",
            fix="send RecordOwner.registration, made for the scorer's present offer",
        )
    return key_id_of(bytes(registration[:KEY_BYTES]), memoryview(registration)[KEY_BYTES:])


class RegistrationCheck:
    """Reads registrations for one offer as strictly as scoring does, without a scorer, its model or its identity.

    Made for a process with little memory and time that may die of what it reads: SEAL's loader runs here first.

    Parameters
    ----------
    offer : bytes
    """

    def __init__(self, offer: bytes) -> None:
        decoded = Offer.decode(offer)
        self._parameters, self._digest = decoded.parameters, decoded.digest
        self._read = mask_reader(self._parameters)

    def check(self, registration: bytes) -> str:
        """Return the key id.

        Parameters
        ----------
        registration : bytes
            ``RecordOwner.registration``; untrusted.

        Raises
        ------
        WireError, AuthenticationError
            Malformed: length, a residue out of range, equal seeds, a public key of small order.
        """
        key_id = key_id_of_registration(self._parameters, registration)
        public = bytes(registration[:KEY_BYTES])
        Session(X25519PrivateKey.generate(), public, offer=self._digest, owner_public=public)
        self._read(memoryview(registration)[KEY_BYTES:])
        return key_id.hex()
