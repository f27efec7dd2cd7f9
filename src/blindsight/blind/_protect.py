"""What keeps an answer from telling more than the scores owed: three protections, applied to every answer.

The owner sends ciphertexts ``(c0_j, c1_j)``, which it may shape at will; the plain answer is the linear combination
``(sum w_j c0_j, sum w_j c1_j)`` with the secret weights. Sent as it is, it shows them. So:

1. **Owed coefficients only.** Of the first part only the coefficients that hold a score are sent. The others hold
   partial sums of w (and a random *plaintext* on top of them hides multiples of q / t only).
2. **Re-randomisation.** ``sum_l u_l z_l`` is added, where the z_l are L encryptions of zero that the owner registered
   and the u_l are fresh polynomials with coefficients uniform in ``[-2**15, 2**15)``; a small e on the second part.
3. **Flood.** Uniform noise in [-W, W) on each owed coefficient.

Security
--------
*The owner as an arbitrary adversary*: it knows the secret key and the noise of every ciphertext, and may send any
residues at all. Write ``z_l = (b_l, a_l)``. The answer is

* ``A = sum w_j c1_j + sum u_l a_l + e``, all coefficients, and
* ``B_i = (sum w_j c0_j + sum u_l b_l)_i + scaled bias + flood_i``, owed coefficients i.

The a_l are expanded here, from pairwise different seeds, by BLAKE2Xb: as random-oracle outputs they are independent and
uniform, but for what trying many seeds can do. For one a_l, 2**g tries multiply its luck by 2**g; yet each a_l can be
tried by itself, and one residue of one transformed coefficient (an NTT slot) of all L of them can so be brought to
zero at the price of L log-of-prime-sized searches, not of their product. In such a slot the u_l mask nothing. *The
small error e is what hides it*: transformed, its N independent coefficients spread over every slot, and no few dozen
slots that can be searched for show anything through it. e is part of the argument and must never be left out
(``tests/blind/attacks/test_review_seeds.py``). Nobody can send an ``a``; a = 0, or an ``a`` of chosen shape, would
void the mask.

The b_l cannot be checked without a zero-knowledge proof, and are taken to be arbitrary. This rules out the textbook
mask, one z with ternary u and security from LWE: with b = K (a large constant) and c0_j = 0, B shows K u + flood, hence
u, hence ``A - u a``, hence w; ``tests/blind/attacks`` does it. Here L is such that ``sum u_l a_l`` is *statistically*
uniform (16 L bits of entropy a coefficient, at least 8 above log2 q): leftover hash lemma for u -> sum u_l a_l over R_q
(Micciancio, FOCS 2002; for rings: Lyubashevsky, Peikert, Regev, EUROCRYPT 2013, section 7; Stehle, Steinfeld, EUROCRYPT
2011. We count entropy; that no ideal of the split ring R_q spoils the count is argued there for Gaussian u and assumed
here for uniform u). Then A is uniform whatever w and the c1_j are, I(w; A) = 0, and by the chain rule

    I(w; A, B) = I(w; A) + I(w; B | A) <= 0 + (number of owed coefficients) * log2(q / 2W),

since B is computed modulo q under independent noise uniform on 2W values. That is ``answer_bits`` for each owed
coefficient: the very bits that the budget counts, for any owner, any b_l, c0_j and c1_j. Inside this capacity it may
read *any* linear functional of w (one weight, by encrypting a monomial or by hiding a multiple of one in the noise): a
score is nothing else, and the budget is there for it. Even where B is spent on learning the u_l, at least
``L - answer_bits / 16`` of them stay unknown, and A is then hidden by Module-LWE of that rank with error e.

*An honest owner's ciphertexts* carry noise ``sum w_j e_j`` with known e_j; the flood hides it up to ``hiding_bits``
(Gentry, STOC 2009, on circuit privacy; Bourse, Del Pino, Minelli, Wee, CRYPTO 2016).

*Not covered*: that enough scores *are* the model; one owner under several key ids (``Scorer(admit=...)``,
``BitBudget(bits_total=...)``); timing.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import WireError
from blindsight.he import HeContext, NttCipher, NttPlain, add_mod, lift, uniform_below

from ._plan import SECOND_PART_NOISE, BlindParameters

__all__ = ["Mask", "Protections", "Rerandomiser", "finish"]

Residues = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Mask = tuple[list[NttCipher], list[NttPlain | None]]
"""Encryptions of zero and their fresh multipliers."""

MAX_READY = 1024


@dataclass(frozen=True, kw_only=True)
class Protections:
    """Switches for the tests that attack: every one is on, and no public option turns one off."""

    owed_only: bool = True
    rerandomise: bool = True
    flood: bool = True


class Rerandomiser:
    """One owner's encryptions of zero, transformed and ready to be combined.

    Parameters
    ----------
    context : HeContext
    zeros : sequence of (seed, first part of shape (primes, N))
        From the owner: seeds are expanded here, residues are checked here.

    Raises
    ------
    WireError
        Two seeds are equal (their sum would be one encryption with a short multiplier), or a residue is not reduced.
    """

    def __init__(self, context: HeContext, zeros: list[tuple[bytes, npt.NDArray[np.unsignedinteger[Any]]]]) -> None:
        if len({seed for seed, _ in zeros}) != len(zeros):
            # equal a_l would merge into one encryption with a short multiplier: the textbook mask, which falls
            raise WireError("Two encryptions of zero share a seed", rule="pairwise different seeds")
        self._context = context
        self._ciphers = [context.prepare_cipher(context.seeded_ciphertext(seed, c0)) for seed, c0 in zeros]
        self._ready: deque[Residues] = deque(maxlen=MAX_READY)
        self._process = os.getpid()

    def prepare(self, answers: int) -> None:
        """Make masks ahead of time, until there are this many (at most 1,024; 200 kB each, or 500)."""
        self._forget_after_fork()
        while len(self._ready) < min(answers, MAX_READY):
            self._ready.append(self._with_error(self._context.inner_product(*self.terms())))

    def take(self) -> Residues | None:
        """Return a mask made ahead, shape (2, primes, N), which nobody gets again; None if there is none."""
        self._forget_after_fork()
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    def _forget_after_fork(self) -> None:
        """A forked process has copies of the masks that its parent uses: two answers under one show the weights."""
        if self._process != os.getpid():
            self._ready.clear()
            self._process = os.getpid()

    def terms(self) -> Mask:
        """Encryptions of zero and fresh multipliers, for one answer only; :meth:`complete` adds the error."""
        return self._ciphers, [self._context.prepare_plain(u) for u in self._multipliers()]

    def complete(self, product: Residues, ready: Residues | None) -> Residues:
        """Add a mask made ahead; to a product that has the :meth:`terms` of one already, its error."""
        return self._with_error(product) if ready is None else add_mod(product, ready, self._context.primes)

    def _with_error(self, product: Residues) -> Residues:
        primes = self._context.primes
        draws = np.frombuffer(os.urandom(self._context.degree), dtype=np.uint8)
        error = (draws % (2 * SECOND_PART_NOISE)).astype(np.int64) - SECOND_PART_NOISE
        return np.stack([product[0], add_mod(product[1], lift(error, primes), primes)])

    def _multipliers(self) -> list[Ints]:
        """Fresh uniform 16-bit signed coefficients from the operating system's generator; (L, N)."""
        shape = (len(self._ciphers), self._context.degree)
        draws = np.frombuffer(os.urandom(2 * shape[0] * shape[1]), dtype="<i2").reshape(shape)
        return [row.astype(np.int64) for row in draws]


def finish(
    context: HeContext,
    parameters: BlindParameters,
    product: Residues,
    *,
    owed: npt.NDArray[np.intp],
    bias: Residues,
    protections: Protections,
) -> tuple[Residues, Residues]:
    """Turn a re-randomised product into what may leave the server.

    Parameters
    ----------
    product : ndarray of shape (2, primes, N), uint64
    owed : ndarray of int
        Coefficients that hold an owed score.
    bias : ndarray of shape (primes, 1), uint64
        The circuit's bias, scaled up.

    Returns
    -------
    first : ndarray of shape (primes, len(owed)), uint64
    second : ndarray of shape (primes, N), uint64
    """
    primes = context.primes
    first, second = product[0].copy(), product[1]
    first[:, owed] = add_mod(first[:, owed], bias, primes)
    if protections.owed_only:
        first = first[:, owed]
    if protections.flood:
        width = parameters.flood_half_width
        first = add_mod(first, uniform_below(2 * width, first.shape[1], primes, -width), primes)
    return first, second
