"""Verdicts: the owner learns how many secret thresholds a score exceeds, the scorer learns nothing.

The scorer evaluates the circuit as for a score. It then switches the answer to words modulo ``2**b`` and adds to each
owed coefficient of the first part a mask r, uniform in ``Z_{2**b}``. The owner decrypts without rounding: its word is

    c0' + r + <c1', s>  =  2**(b-k) (score + noise) + r,      |noise| < 1/2,

and the scorer's is ``-r - 2**(b-k) (tau + 1/2)``. Their sum, as a signed word, is not negative exactly if
``score > tau``: one comparison of :class:`Comparison`, whose result only the owner gets to see. With several thresholds
the scorer has a word for each, and the owner the same word each time.

Security
--------
*The owner, following the protocol*, sees c1', a function of the statistically uniform A of ``_protect``, and
``c0' + r``, which is uniform and independent of everything: of score, noise, weights and thresholds it learns the
verdict alone.

*The owner as an arbitrary adversary* may encrypt anything and add anything to its word: it learns the sign of one
linear functional of the weights (modulo q) against a threshold shifted as it likes. That is one bit for each threshold,
which is what the budget charges; k of them, honestly paid for, make a score. An owner that *breaks* the comparison (it
is semi-honest) learns the scorer's words at most, hence thresholds and a flooded coefficient: ``capacity_bits``, as
much as a score would have told. For that case alone the flood is kept.

*A mask is spent before its comparison starts*: it is removed from the table first, durably. A second comparison under
the same r, with a shifted word, would be a second bit of the same score; a few dozen would be a binary search.

*The scorer* sees the ciphertexts, and its side of a semi-honest comparison. Were it to break that, it would learn the
owner's words, which are linear in the owner's key.

Not yet audited.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError, PolicyError, StoreError, WireError
from blindsight.he import WORD_BITS, HeContext, SecretKey, pack_residues, switch_to_words, unpack_residues

from ._budget import KeyValue
from ._plan import MAX_THRESHOLDS, BlindParameters

__all__ = ["NUMBER_BYTES", "Desk", "integer_thresholds", "owner_words", "share_answer", "verdict_bytes"]

Residues = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint64]

NUMBER_BYTES = 8
SALT_BYTES = 16
MAX_PENDING = 16
"""Answers of one owner that may wait for their comparison; a further one burns the oldest."""


def integer_thresholds(thresholds: Sequence[float], scale: float, low: int, high: int) -> tuple[int, ...]:
    """For each threshold t the integer tau with ``score > tau`` exactly if ``score * scale > t`` in float64.

    Parameters
    ----------
    thresholds : sequence of float
        Finite or infinite, strictly increasing, 1 to 15.
    scale : float
        ``decision_function`` is the integer score times this.
    low, high : int
        Bounds of the score; every tau is in ``[low - 1, high]``.

    Raises
    ------
    ParameterError
    """
    values = [float(t) for t in thresholds]
    if not 1 <= len(values) <= MAX_THRESHOLDS or any(not a < b for a, b in itertools.pairwise(values)):
        raise ParameterError(
            "thresholds are out of their domain",
            got=f"{len(values)} values",
            rule=f"1 to {MAX_THRESHOLDS}, strictly increasing",
        )
    if any(math.isnan(value) for value in values):
        raise ParameterError("A threshold is not a number")
    return tuple(_last_not_above(value, scale, low - 1, high) for value in values)


def _last_not_above(threshold: float, scale: float, low: int, high: int) -> int:
    """Largest integer v in [low, high] with ``v * scale <= threshold``, or low; products of float64 are monotone."""
    while low < high:
        middle = (low + high + 1) // 2
        if middle * scale <= threshold:
            low = middle
        else:
            high = middle - 1
    return low


def share_answer(
    context: HeContext, p: BlindParameters, first: Residues, second: Residues
) -> tuple[list[bytes], bytes]:
    """Turn a finished answer into the owner's share, and the mask that is the scorer's.

    Parameters
    ----------
    first, second : ndarray of shape (primes, owed) and (primes, N), uint64
        From ``_protect.finish``.

    Returns
    -------
    pieces : list of bytes
        For the answer.
    mask : bytes
        r, little-endian, ``share_bits`` each.
    """
    width = p.share_bits // 8
    words = switch_to_words(first, context.primes, p.share_bits)
    mask = os.urandom(words.size * width)
    shared = words + unpack_residues(mask, words.shape, width)  # what is beyond share_bits is cut off in packing
    return [
        pack_residues(shared, width),
        pack_residues(switch_to_words(second, context.primes, p.share_bits), width),
    ], mask


def verdict_bytes(p: BlindParameters, rows: int) -> int:
    """Length of the body of an answer to be compared."""
    return NUMBER_BYTES + (rows + p.groups(rows) * p.degree) * (p.share_bits // 8)


def owner_words(key: SecretKey, p: BlindParameters, piece: memoryview, owed: npt.NDArray[np.intp]) -> Words:
    """Decrypt one group without rounding: the owner's words, shape (owed,), in the top ``share_bits`` of 64."""
    width = p.share_bits // 8
    cut = len(owed) * width
    first = unpack_residues(piece[:cut], (len(owed),), width).astype(np.uint64)
    second = unpack_residues(piece[cut:], (p.degree,), width).astype(np.uint64)
    return (first + key.multiply(second)[owed]) << np.uint64(WORD_BITS - p.share_bits)


class Desk:
    """The scorer's masks that wait for their comparison, each to be used once.

    Parameters
    ----------
    parameters : BlindParameters
    thresholds : tuple of int
        From :func:`integer_thresholds`. Secret.
    table : KeyValue
        Where masks wait; sealed at rest if it is to be more than a process's memory. An old copy of it put back would
        bring spent masks back: keep it where that cannot happen.
    scope : str
        Names offer, weights and thresholds.
    """

    def __init__(self, parameters: BlindParameters, thresholds: tuple[int, ...], table: KeyValue, scope: str) -> None:
        self._parameters, self._table, self._scope = parameters, table, scope
        shift = WORD_BITS - parameters.plain_bits
        half = 1 << shift - 1
        self._offsets = [((tau << shift) + half) % (1 << WORD_BITS) for tau in thresholds]

    def keep(self, key: bytes, salt: bytes, masks: list[bytes]) -> bytes:
        """Let an answer's masks wait; returns its number, which the answer carries."""
        with self._table.transaction():
            count = self._table.get(self._place(key))
            if count is not None and len(count) != NUMBER_BYTES:
                raise StoreError("A count of comparisons is damaged")
            number = int.from_bytes(count or b"", "little") + 1
            self._table.put(self._place(key), number.to_bytes(NUMBER_BYTES, "little"))
            self._table.put(self._place(key, number), b"".join([salt, *masks]))
        return number.to_bytes(NUMBER_BYTES, "little")

    def take(self, key: bytes, salt: bytes, number: bytes, rows: int) -> Words:
        """Spend an answer's masks: the scorer's words for its comparison, shape (thresholds x rows,).

        Raises
        ------
        PolicyError
            There is no such mask, or it is spent. One that is asked for with another number of records is spent by it.
        StoreError
            It could not be removed; nothing may be compared.
        """
        place, width = self._place(key, int.from_bytes(number, "little")), self._parameters.share_bits // 8
        with self._table.transaction():
            kept = self._table.get(place)
            if kept is None or kept[:SALT_BYTES] != salt:
                raise PolicyError(
                    "There is no mask for this comparison",
                    rule=f"each answer is compared once, whether that succeeds or not; the last {MAX_PENDING} wait",
                    fix="seal the records again",
                )
            self._table.delete(place)
        if len(kept) != SALT_BYTES + rows * width:
            raise WireError("A comparison is about another number of records", got=str(rows))
        mask = unpack_residues(memoryview(kept)[SALT_BYTES:], (rows,), width).astype(np.uint64)
        mask <<= np.uint64(WORD_BITS - self._parameters.share_bits)
        offsets = np.array(self._offsets, dtype=np.uint64)
        return np.asarray((np.uint64(0) - mask[None, :] - offsets[:, None]).reshape(-1))

    def forget(self, key: bytes) -> None:
        """Drop the masks that wait for an owner. Answers to it are numbered on: none takes an older one's number."""
        with self._table.transaction():
            for number in range(MAX_PENDING):
                self._table.delete(self._place(key, number))

    def _place(self, key: bytes, number: int | None = None) -> str:
        slot = "count" if number is None else str(number % MAX_PENDING)
        return f"verdict/{self._scope}/{key.hex()}/{slot}"
