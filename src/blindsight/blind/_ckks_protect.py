"""What keeps a CKKS answer from telling more than the scores owed: the protections of ``_protect``, for several parts.

The evaluated ciphertext has parts ``(c_0, ..., c_D)``, D = 2 or 4, all functions of the secret weights and of residues
that the owner may shape at will; it is opened as ``c_0 + c_1 s + ... + c_D s**D``. What leaves is, modulo the product
q' of the kept primes:

1. **Owed numbers only.** A record lies in a slot as a *real* number. Real-slot polynomials are those with
   ``m_j = -m_{N-j}``; they have N / 2 coordinates, ``m_0`` and ``m_j - m_{N-j}``. Only these functionals of c_0 are
   sent: ``c_{0,0}`` and ``c_{0,j} - c_{0,N-j}``. The other N / 2 coordinates of c_0, where imaginary parts of slots
   are, do not enter the answer at all. Groups of fewer records repeat them with the period of the next power of two,
   n', so that the score is a polynomial in ``X**(N / 2n')``: then n' functionals are owed, at multiples of N / 2n'.
2. **Re-randomisation.** With encryptions of zero ``(b_l, a_l)`` modulo q' that the owner registered, ``a_l`` expanded
   from seeds here, and fresh multipliers ``u_{i,l}`` of 16 bits, ``sum_l u_{i,l} b_l`` is added to part i - 1 and
   ``sum_l u_{i,l} a_l`` to part i, for i = 1 .. D; and a small e_i to part i. That is zero times s**(i-1).
3. **Flood.** Uniform noise in [-W, W) on each owed number.

Security
--------
*The owner as an arbitrary adversary.* Part D has the mask ``sum u_{D,l} a_l``, uniform by the ring leftover hash lemma
(see ``_protect``, with the same assumption for uniform u: ``16 L >= log2 q' + 8``). Given all u_{j,l} with j > i, part
i is a constant plus ``sum u_{i,l} a_l`` with independent u_{i,l}, again uniform. So A = (c_1, .., c_D) as sent is
jointly uniform, whatever weights, uploads and b_l: I(w; A) = 0. Let B be the n' owed numbers: functions of everything,
modulo q', plus independent noise uniform on 2W values. Then I(w; A, B) = I(w; B | A) <= n' log2(q' / 2W), whatever
function of the weights B is: the argument asks nothing of the circuit, its depth, or how records lie in slots. This
is what :meth:`CkksParameters.charge_bits` counts. Inside this capacity an owner may learn any function that fits: real
parts of products with imaginary inputs, for one. What is assumed: BLAKE2Xb as a random oracle, and the lemma.
Seeds expand in NTT form here, so that searching seeds for one slot in which every a_l vanishes is feasible (some 2**27
tries for each): the errors e_i hide that slot, and must never be left out; see ``_protect``.

*An honest owner's answer* is the polynomial's value at the record as encrypted, noise included, which the owner knows:
nothing is relinearised or switched in between, so noise tells no more than a score at a neighbouring record would. Only
the last rounding depends on the weights in another way; the flood exceeds it by ``hiding_bits`` in every slot.

*Records* are hidden by RLWE, without circular security, since there is no evaluation key.

*IND-CPA-D* (Li, Micciancio, EUROCRYPT 2021): an approximate decryption shows its noise, and so the key. Opened scores
must never reach the model holder, not one of them, not rounded. Our messages have no place for them.
"""

from __future__ import annotations

import os
from collections import deque

import numpy as np
import numpy.typing as npt

from blindsight.errors import WireError
from blindsight.he import SEED_BYTES, CkksContext, add_mod, lift, uniform_below, unpack_residues

from ._ckks_plan import MULTIPLIER_BITS, RESIDUE_BYTES, SECOND_PART_NOISE, CkksParameters
from ._protect import Protections

__all__ = ["CkksRerandomiser", "finish", "functionals"]

Residues = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

MAX_READY_BYTES = 1 << 28


def functionals(part: Residues, owed: int, primes: tuple[int, ...]) -> Residues:
    """The ``owed`` coordinates of a polynomial's real slots, shape (primes, N) to (primes, owed)."""
    step = part.shape[1] // (2 * owed)
    p = np.asarray(primes, dtype=np.uint64)[:, None]
    out = part[:, : part.shape[1] // 2 : step].copy()
    out[:, 1:] += p - part[:, -step::-step][:, : owed - 1]
    return np.minimum(out, out - p)  # as in add_mod


class CkksRerandomiser:
    """One owner's encryptions of zero, transformed and ready to be combined.

    Parameters
    ----------
    context : CkksContext
    parameters : CkksParameters
    material : bytes-like
        From the owner: for each encryption its seed and its first part in NTT form.

    Raises
    ------
    WireError
        Two seeds are equal, or a residue is not reduced.
    """

    def __init__(self, context: CkksContext, parameters: CkksParameters, material: memoryview) -> None:
        p = parameters
        size = SEED_BYTES + p.part_bytes
        pieces = [material[i * size : (i + 1) * size] for i in range(p.zeros)]
        seeds = [bytes(piece[:SEED_BYTES]) for piece in pieces]
        if len(set(seeds)) != len(seeds):
            raise WireError("Two encryptions of zero share a seed", rule="pairwise different seeds")
        zeros = []
        for seed, piece in zip(seeds, pieces, strict=True):
            b = unpack_residues(piece[SEED_BYTES:], (p.kept, p.degree), RESIDUE_BYTES)
            zeros.append(context.expand_zero(seed, b))
        self._context, self._parts = context, p.parts
        self._digits = context.negacyclic.digits(np.stack(zeros))
        self._ready: deque[Residues] = deque()
        self._process = os.getpid()
        self._most = max(1, MAX_READY_BYTES // (8 * p.parts * p.kept * p.degree))

    def prepare(self, answers: int) -> None:
        """Make masks ahead of time, until there are this many, or 256 MB of them."""
        self._forget_after_fork()
        while len(self._ready) < min(answers, self._most):
            self._ready.append(self._mask())

    def take(self) -> Residues:
        """Return a mask, shape (parts, kept, N), reduced, which nobody gets again."""
        self._forget_after_fork()
        try:
            return self._ready.popleft()
        except IndexError:
            return self._mask()

    def _forget_after_fork(self) -> None:
        """A forked process has copies of the masks that its parent uses: two answers under one show the weights."""
        if self._process != os.getpid():
            self._ready.clear()
            self._process = os.getpid()

    def _mask(self) -> Residues:
        context = self._context
        primes = context.kept_primes
        mask = np.zeros((self._parts, len(primes), context.degree), dtype=np.uint64)
        for i in range(1, self._parts):
            spectrum = context.negacyclic.spectrum(self._multipliers())
            product = context.negacyclic.sum_of_products(spectrum, self._digits)
            mask[i - 1 : i + 1] = add_mod(mask[i - 1 : i + 1], product, primes)
            draws = np.frombuffer(os.urandom(context.degree), dtype=np.uint8)
            error = (draws % (2 * SECOND_PART_NOISE)).astype(np.int64) - SECOND_PART_NOISE
            mask[i] = add_mod(mask[i], lift(error, primes), primes)
        return mask

    def _multipliers(self) -> Floats:
        """Fresh uniform 16-bit signed coefficients from the operating system's generator; (L, N)."""
        shape = (len(self._digits), self._context.degree)
        draws = np.frombuffer(os.urandom(MULTIPLIER_BITS // 8 * shape[0] * shape[1]), dtype="<i2")
        return draws.reshape(shape).astype(np.float64)


def finish(
    context: CkksContext,
    parameters: CkksParameters,
    parts: Residues,
    mask: Residues | None,
    *,
    rows: int,
    protections: Protections,
) -> tuple[Residues, Residues]:
    """Turn evaluated parts, switched down, into what may leave the server.

    Parameters
    ----------
    parts : ndarray of shape (parts, kept, N), uint64
    mask : ndarray of the same shape, uint64
    rows : int
        Records of this group.

    Returns
    -------
    first : ndarray of shape (kept, owed), uint64
    others : ndarray of shape (parts - 1, kept, N), uint64
    """
    primes = context.kept_primes
    if mask is not None:
        parts = add_mod(parts, mask, primes)
    owed = parameters.owed(rows)
    first = functionals(parts[0], owed, primes) if protections.owed_only else parts[0]
    if protections.flood:
        width = parameters.flood_half_width
        first = add_mod(first, uniform_below(2 * width, first.shape[1], primes, -width), primes)
    return first, parts[1:]
