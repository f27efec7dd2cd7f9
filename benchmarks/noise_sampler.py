"""Integer noise: draws per second of the discrete Gaussian sampler, beside two peers in the same run.

Peers: ``numpy`` is ``rint(Generator.normal)``, neither cryptographic nor a discrete Gaussian: the floor that any
sampler pays. ``exact python`` is the rejection sampler of Canonne, Kamath and Steinke 2020 (arXiv 2004.00010,
algorithms 1 to 3) in exact rational arithmetic, written here from the paper, with the same source of bits.

Run: ``python benchmarks/noise_sampler.py``. Takes about 20 seconds, one thread.
"""

from __future__ import annotations

import math
import secrets
import time
from fractions import Fraction

import numpy as np

from blindsight.privacy import NoiseSource, discrete_gaussian, noise_max_abs, sampler_tv

SECONDS = 1.0
BATCH = 1_000_000


def bernoulli(p: Fraction) -> bool:
    return secrets.randbelow(p.denominator) < p.numerator


def bernoulli_exp(gamma: Fraction) -> bool:
    """Algorithm 1: true with probability exp(-gamma)."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1)):
            return False
        gamma -= 1
    k = 1
    while bernoulli(gamma / k):
        k += 1
    return k % 2 == 1


def discrete_laplace(t: int) -> int:
    """Algorithm 2 with s = 1."""
    while True:
        u = secrets.randbelow(t)
        if not bernoulli_exp(Fraction(u, t)):
            continue
        v = 0
        while bernoulli_exp(Fraction(1)):
            v += 1
        negative = secrets.randbelow(2) == 1
        if negative and u + t * v == 0:
            continue
        return -(u + t * v) if negative else u + t * v


def exact_gaussian(variance: Fraction) -> int:
    """Algorithm 3."""
    t = math.isqrt(math.floor(variance)) + 1
    while True:
        y = discrete_laplace(t)
        if bernoulli_exp((abs(y) - variance / t) ** 2 / (2 * variance)):
            return y


def rate(draw, size: int) -> float:
    draw(size)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        draw(size)
        count += size
    return count / (time.perf_counter() - start)


def main() -> None:
    source, rng = NoiseSource.secure(), np.random.default_rng()
    print(f"{'sigma':>12} {'draws/s':>12} {'numpy':>12} {'exact python':>13} {'TV of a draw':>13} {'max |draw|':>12}")
    for variance in (4.0, 100.0, 1e4, 2.0**18, 2.0**19, 2.0**30, 2.0**48):
        sigma = math.sqrt(variance)
        ours = rate(lambda n, v=variance: discrete_gaussian(v, n, source), BATCH)
        numpy = rate(lambda n, s=sigma: np.rint(rng.normal(0.0, s, n)).astype(np.int64), BATCH)
        exact = rate(lambda n, v=Fraction(variance): [exact_gaussian(v) for _ in range(n)], 200)
        print(
            f"{sigma:>12.6g} {ours:>12,.0f} {numpy:>12,.0f} {exact:>13,.0f}"
            f" {f'2^{math.log2(sampler_tv(variance)):.1f}':>13} {noise_max_abs(variance):>12,}"
        )


if __name__ == "__main__":
    main()
