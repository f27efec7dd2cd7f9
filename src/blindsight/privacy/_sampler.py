r"""Integer noise: the discrete Gaussian N_Z(0, variance), by inverse CDF on 128-bit thresholds.

:math:`P(X = x) \propto \exp(-x^2 / (2 \sigma^2))` for every integer x (Canonne, Kamath and Steinke 2020,
arXiv 2004.00010, definition 1). Nothing here is floating point but the variance itself, which is taken as the
exact rational that the float is.

*Small variance* (below 2**19). The cumulative probabilities of all x with \|x\| <= cut are computed in
416-bit fixed point and rounded to 128 bits; ``cut`` is such that less than 2**-100 of the mass lies outside.
A draw is a uniform 128-bit word looked up between them. Its upper 64 bits decide unless they equal those of a
threshold, which happens less often than once in 2**49 draws; only then are the lower 64 bits drawn.

*Large variance.* X = L + 128 R, with L ~ N_Z(0, 2**18) and R ~ N_Z(0, (variance - 2**18) / 2**14),
recursively. The sum's law is within a factor (1 + e) / (1 - e), e < 2**-220, of N_Z(0, variance) at every
point: see :func:`split_error`.

Both errors, and the one of a uniform 128-bit word falling between thresholds, are in :func:`sampler_tv`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._source import NoiseSource

__all__ = ["discrete_gaussian", "noise_max_abs", "sampler_delta", "sampler_tv"]

Ints = npt.NDArray[np.int64]

MAX_VARIANCE = 2.0**50
TABLE_MAX_VARIANCE = 1 << 19
SPLIT = 128
SPLIT_VARIANCE = 1 << 18  # (4 * SPLIT)**2
TAIL_BITS = 100
WORD_BITS = 128
CHUNK = 1 << 16

_FIXED_BITS = 416
_DECIMAL = Context(prec=140, Emin=-(10**9), Emax=10**9)


class _Table:
    """Thresholds of one discrete Gaussian; ``thresholds[i] = floor(2**128 * P(X <= low + i))``."""

    def __init__(self, variance: Fraction) -> None:
        self.cut = _cut(variance)
        one = 1 << _FIXED_BITS
        with localcontext(_DECIMAL):
            exponent = Decimal(-variance.denominator) / Decimal(2 * variance.numerator)
            q = int(exponent.exp() * one)
        # exp(-(x+1)^2 / 2v) = exp(-x^2 / 2v) * q^(2x+1): two products per entry, each off by less than
        # 2**-415.
        step, square = q, (q * q) >> _FIXED_BITS
        mass = [one]
        for _ in range(self.cut):
            mass.append((mass[-1] * step) >> _FIXED_BITS)
            step = (step * square) >> _FIXED_BITS
        total = 2 * sum(mass) - one
        cumulative, thresholds = 0, []
        for x in range(-self.cut, self.cut):
            cumulative += mass[abs(x)]
            thresholds.append((cumulative << WORD_BITS) // total)
        self.thresholds = thresholds
        self.upper = np.array([t >> 64 for t in thresholds], dtype=np.uint64)

    def draw(self, size: int, source: NoiseSource) -> Ints:
        words = source.uint64(size)
        index = np.searchsorted(self.upper, words, side="left")
        ties = np.flatnonzero(self.upper[np.minimum(index, self.upper.size - 1)] == words)
        if ties.size:
            for i, low in zip(ties, source.uint64(ties.size), strict=True):
                index[i] = bisect_right(self.thresholds, (int(words[i]) << 64) | int(low))
        return index.astype(np.int64, copy=False) - self.cut


@lru_cache(maxsize=16)
def _table(variance: Fraction) -> _Table:
    return _Table(variance)


def discrete_gaussian(variance_grid: float, size: int, source: NoiseSource | None = None) -> Ints:
    """Draw integer noise.

    Parameters
    ----------
    variance_grid : float
        The parameter sigma squared in grid units squared, in [0.25, 2**50]. (The variance of the integer
        variable; they agree to 1e-8 from sigma = 1.1 on.)
    size : int
        Number of independent draws.
    source : NoiseSource, optional
        ``NoiseSource.secure()`` if not given.

    Returns
    -------
    ndarray of shape (size,), int64
        Never beyond ``noise_max_abs(variance_grid)``.

    Raises
    ------
    ParameterError
        The variance is out of its domain.

    Security
    --------
    The law is within :func:`sampler_tv` of the exact discrete Gaussian. The time taken depends on ``size``
    and, by cache effects of the table look-up, faintly on the values drawn: do not share the machine with an
    adversary who times it.
    """
    variance = _variance(variance_grid)
    if size < 0:
        raise ParameterError("The number of draws is negative", got=str(size), rule="size >= 0")
    source = NoiseSource.secure() if source is None else source
    out = np.empty(size, dtype=np.int64)
    for start in range(0, size, CHUNK):  # chunks keep words, table and result in cache
        stop = min(size, start + CHUNK)
        out[start:stop] = _draw(variance, stop - start, source)
    return out


def _draw(variance: Fraction, size: int, source: NoiseSource) -> Ints:
    if variance < TABLE_MAX_VARIANCE:
        return _table(variance).draw(size, source)
    low = _table(Fraction(SPLIT_VARIANCE)).draw(size, source)
    return low + SPLIT * _draw(_rest(variance), size, source)


def _rest(variance: Fraction) -> Fraction:
    return (variance - SPLIT_VARIANCE) / SPLIT**2


def _variance(variance_grid: float) -> Fraction:
    if not (math.isfinite(variance_grid) and 0.25 <= variance_grid <= MAX_VARIANCE):
        raise ParameterError(
            "A noise variance is out of its domain",
            got=repr(variance_grid),
            rule=f"0.25 <= variance <= {MAX_VARIANCE:g} grid units squared",
            fix="choose another grid for the query",
        )
    return Fraction(variance_grid)


def _cut(variance: Fraction) -> int:
    # P(|X| > c) <= 2 exp(-(c + 1)^2 / 2v): N_Z(0, v) is subgaussian with parameter v (Canonne et al. 2020).
    sigma = math.sqrt(variance)
    return math.ceil(sigma * math.sqrt(2 * math.log(2) * (TAIL_BITS + 1)))


def noise_max_abs(variance_grid: float) -> int:
    """Largest absolute value that :func:`discrete_gaussian` can return: about 12 sigma, at most 17.

    For the overflow check of a masked sum: each party adds at most this to each coordinate.
    """
    variance, scale, bound = _variance(variance_grid), 1, 0
    while variance >= TABLE_MAX_VARIANCE:
        bound += scale * _cut(Fraction(SPLIT_VARIANCE))
        scale, variance = scale * SPLIT, _rest(variance)
    return bound + scale * _cut(variance)


def split_error() -> float:
    r"""Bound e on the relative error of one split of a large variance.

    Notes
    -----
    Let L ~ N_Z(0, s1^2), Y ~ k N_Z(0, s2^2) and v = s1^2 + k^2 s2^2. Completing the square, :math:`P(L + Y =
    z) \propto e^{-z^2/2v} \sum_{y \in kZ} e^{-(y - cz)^2 / 2r^2}` with :math:`r^2 = s_1^2 k^2 s_2^2 / v`. By
    Poisson summation the sum over y is :math:`(r \sqrt{2\pi} / k) (1 + \theta)` with :math:`|\theta| \le e =
    2 \sum_{j \ge 1} e^{-2 \pi^2 r^2 j^2 / k^2}`, whatever z. Here s1 = 4k and k^2 s2^2 >= s1^2, so that r^2
    >= 8 k^2 and e < 2.01 exp(-16 pi^2) < 2**-220.
    """
    return 2.01 * math.exp(-16 * math.pi**2)


def sampler_tv(variance_grid: float) -> float:
    """Bound on the total-variation distance of one draw from the exact discrete Gaussian; below 2**-97.

    The cut tail, the rounding of each threshold to 128 bits, and the splits.
    """
    variance, total = _variance(variance_grid), 0.0
    while True:
        split = variance >= TABLE_MAX_VARIANCE
        cut = _cut(Fraction(SPLIT_VARIANCE) if split else variance)
        total += 2.0**-TAIL_BITS + (2 * cut + 1) * 2.0**-WORD_BITS * 1.01
        if not split:
            return total
        error = split_error()
        total += error / (1 - error)
        variance = _rest(variance)


def sampler_delta(variance_grid: float, *, coordinates: int, parties: int, epsilon: float) -> float:
    """What the sampler adds to delta: total variation x coordinates x parties x (1 + e^epsilon)."""
    return sampler_tv(variance_grid) * coordinates * parties * (1.0 + math.exp(min(epsilon, 700.0)))
