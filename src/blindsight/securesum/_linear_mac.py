"""A tag on each encrypted vector whose sum is the tag of the sum: the coordinator can add, and forge nothing.

The homomorphic MAC of Agrawal and Boneh, *Homomorphic MACs: MAC-Based Integrity for Network Coding* (ACNS 2009),
section 3, with coefficients that are all one: the tag of a vector v by party i is ``<r, v> + b_i``, where r is
expanded from a key that every party holds and the coordinator lacks, and b_i is one fresh value per party. As b_i
hides ``<r, v>``, all tags together say nothing of r, so that another vector passes under another tag with probability
1 / p for each word. A tag has four words for each prime p of the ciphertext's modulus; with primes of 33 bits a
forgery passes with probability 2**-128 at most.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from blindsight.he import add_mod, dot_mod

from ._agreement import derive
from ._keystream import Keystream

__all__ = ["TAG_WORDS", "LinearMac", "add_tags", "tag_bytes"]

Residues = npt.NDArray[np.uint64]

TAG_WORDS = 4
_WORD_BYTES = 8
_PAD_BYTES = 16
"""A pad is 128 uniform bits modulo p: 2**-80 from uniform."""


def tag_bytes(primes: int) -> int:
    """Bytes of a tag."""
    return primes * TAG_WORDS * _WORD_BYTES


def add_tags(one: Residues, other: Residues, primes: Sequence[int]) -> Residues:
    """Sum of two tags, shape (primes, words)."""
    return add_mod(one, other, primes)


class LinearMac:
    """Tags under the parties' shared secret.

    Parameters
    ----------
    secret : bytes
        32 bytes that all parties hold and the coordinator lacks.
    transcript : bytes
        Of this sum; another sum has other keys.
    primes : sequence of int
        Of at most 44 bits.
    """

    def __init__(self, secret: bytes, transcript: bytes, primes: Sequence[int]) -> None:
        self._secret, self._transcript, self._primes = secret, transcript, tuple(primes)

    def unpadded(self, parts: Iterable[Residues]) -> Residues:
        """``<r, v>`` modulo each prime, shape (primes, words).

        Parameters
        ----------
        parts : iterable of ndarray of shape (2, primes, N), uint64
            The ciphertexts of a vector in their order; reduced; N <= 4096.
        """
        stream = Keystream(derive(self._secret, self._transcript, "linear tag"))
        totals = [np.zeros(TAG_WORDS, dtype=np.uint64) for _ in self._primes]
        for part in parts:
            for polynomial in part:
                for i, p in enumerate(self._primes):
                    drawn = stream.take(_WORD_BYTES * TAG_WORDS * polynomial.shape[-1])
                    # 64 bits modulo p: no residue is more likely than (1 + 2**-20) / p, which is all a forger gains
                    rows = np.frombuffer(drawn, dtype="<u8").reshape(TAG_WORDS, -1) % np.uint64(p)
                    product = dot_mod(rows, polynomial[i].astype(np.int64), p)
                    totals[i] = (totals[i] + product) % np.uint64(p)
        return np.stack(totals)

    def pad(self, name: str) -> Residues:
        """b_i of one party, shape (primes, words)."""
        stream = Keystream(derive(self._secret, self._transcript, "linear tag pad", name.encode()))
        return np.array(
            [[int.from_bytes(stream.take(_PAD_BYTES), "little") % p for _ in range(TAG_WORDS)] for p in self._primes],
            dtype=np.uint64,
        )

    def tag(self, name: str, parts: Iterable[Residues]) -> Residues:
        """The tag of a party's ciphertexts, shape (primes, words)."""
        return add_tags(self.unpadded(parts), self.pad(name), self._primes)

    def holds(self, tag: Residues, parts: Iterable[Residues], names: Iterable[str]) -> bool:
        """Whether ``parts`` is the sum of exactly the ciphertexts of ``names``, and ``tag`` the sum of their tags."""
        expected = self.unpadded(parts)
        for name in names:
            expected = add_tags(expected, self.pad(name), self._primes)
        return hmac.compare_digest(expected.astype("<u8").tobytes(), tag.astype("<u8").tobytes())

    def __repr__(self) -> str:
        return "LinearMac(<redacted>)"
