"""What an additively homomorphic scheme is to a sum under a shared key: sizes, a key, and adding without it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError

from ._spec import SumSpec

__all__ = ["MATERIAL_BYTES", "Accumulator", "Scheme", "SharedKey", "not_their_sum", "scheme_of"]

Ints = npt.NDArray[np.int64]

MATERIAL_BYTES = 32
"""The uniform secret that travels with every key: tags and derived randomness come from it."""


class SharedKey(Protocol):
    """The parties' side: whoever holds one can open every ciphertext made under it."""

    def encrypt(self, name: str, vector: Ints) -> bytes:
        """A party's vector, shape (length,), int64, checked before; ``Scheme.cipher_bytes`` long."""
        ...

    def decrypt(self, total: bytes, survivors: tuple[str, ...]) -> Ints:
        """The total, shape (length,), int64, of the sum of exactly the survivors' ciphertexts.

        Raises
        ------
        WireError
            Malformed: length, or a value out of its range.
        AuthenticationError
            Well-formed, and not the sum of exactly these parties' ciphertexts. Nothing is told of what it holds.
        """
        ...


class Accumulator(Protocol):
    """The coordinator's side: adds ciphertexts, and holds no key."""

    def add(self, ciphertext: bytes) -> None:
        """Add one party's; WireError if it is malformed, and then nothing is added."""
        ...

    def to_bytes(self) -> bytes:
        """The sum so far, ``Scheme.sum_bytes`` long."""
        ...


class Scheme(Protocol):
    """A scheme laid out for one specification. Making one imports nothing heavy."""

    blocks: int
    """Ciphertexts of one vector."""
    secret_bytes: int
    """Of the dealt secret, the uniform secret in front included."""
    public_bytes: int
    """Of what the coordinator needs to add; 0 where it needs nothing."""
    cipher_bytes: int
    sum_bytes: int

    def check_installed(self) -> None:
        """Raise MissingExtraError unless this process can compute with it."""
        ...

    def generate(self) -> tuple[bytes, bytes]:
        """A fresh key from the operating system's generator: secret and public part."""
        ...

    def public_of(self, secret: bytes) -> bytes:
        """The public part that belongs to a secret."""
        ...

    def open(self, secret: bytes, transcript: bytes) -> SharedKey:
        """Parse and check a secret; FormatError if no honest generator makes it."""
        ...

    def accumulator(self, public: bytes) -> Accumulator:
        """An empty sum; WireError if the public part is malformed."""
        ...


def not_their_sum(rule: str) -> AuthenticationError:
    """The refusal to decrypt; whose fault it is cannot be told, since the coordinator alone sees the ciphertexts."""
    return AuthenticationError(
        "The encrypted sum is not the sum of the survivors' ciphertexts",
        rule=f"{rule}; a party decrypts nothing else",
        fix="the coordinator, or a party that did not encrypt as agreed, is at fault: start a new sum through another "
        "coordinator; if that fails too, ask the parties what their software does",
    )


def scheme_of(spec: SumSpec) -> Scheme:
    """The scheme of a specification whose method is not "masked"."""
    if spec.method == "paillier":
        from ._paillier import PaillierScheme

        return PaillierScheme(spec)
    from ._bfv import BfvScheme

    return BfvScheme(spec)
