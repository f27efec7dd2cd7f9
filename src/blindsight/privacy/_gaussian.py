r"""What a sum of discrete Gaussians costs, and how much noise a query needs.

Concentrated differential privacy (zCDP, Bun and Steinke 2016, arXiv 1605.02065): a mechanism is rho-zCDP if
the Rényi divergence of every order alpha > 1 between its outputs on neighbouring data is at most rho * alpha.
"""

from __future__ import annotations

import math

from blindsight.errors import ParameterError

__all__ = ["distributed_rho", "local_noise_variance", "noise_variance", "sum_divergence"]

MIN_LOCAL_VARIANCE = 4.0
"""Local sigma of two grid units: from there on the sum of the parties' noise is one discrete Gaussian."""

MIN_PROVED_VARIANCE = 0.25


def sum_divergence(local_variance: float, parties: int) -> float:
    r"""Bound tau: twice the largest log-ratio of a sum of discrete Gaussians to one discrete Gaussian.

    Parameters
    ----------
    local_variance : float
        Parameter sigma squared of each summand N_Z(0, sigma^2), in grid units squared; at least .25.
    parties : int
        Number of summands n.

    Returns
    -------
    float
        :math:`\tau = 10 \sum_{k=1}^{n-1} \exp(-2 \pi^2 \sigma^2 k / (k + 1))`.

    Notes
    -----
    Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), Theorem 1. In short: by Poisson summation (as in the
    sampler's ``split_error``) adding N_Z(0, sigma^2) to N_Z(0, k sigma^2) gives N_Z(0, (k + 1) sigma^2) up to
    a factor :math:`(1 + e_k) / (1 - e_k)` at every point, :math:`e_k = 2 \sum_j \exp(-2 \pi^2 \sigma^2 j^2 k
    / (k + 1))`, whose logarithm is at most :math:`5 \exp(-2 \pi^2 \sigma^2 k / (k + 1))` for sigma >= 1/2.
    Convolution keeps such factors, so that they add up over k: at every point :math:`|\log P_{sum} /
    P_{N_Z(0, n \sigma^2)}| \le \tau / 2`.
    """
    _check_variance(local_variance, MIN_PROVED_VARIANCE)
    if parties < 1:
        raise ParameterError("A sum needs summands", got=f"{parties} parties", rule="at least 1")
    rate = -2.0 * math.pi**2 * local_variance
    return 10.0 * math.fsum(math.exp(rate * k / (k + 1)) for k in range(1, parties))


def distributed_rho(*, sensitivity_l2: float, local_variance: float, parties: int, coordinates: int) -> float:
    r"""The zCDP parameter rho of an integer sum with distributed discrete Gaussian noise.

    Parameters
    ----------
    sensitivity_l2 : float
        L2 sensitivity Delta of the integer vector to one unit, in grid units.
    local_variance : float
        Each party's noise parameter sigma squared, in grid units squared; at least .25.
    parties : int
        Number n of parties whose noise the adversary does not know: survivors less colluders.
    coordinates : int
        Length d of the vector.

    Returns
    -------
    float
        rho = eps^2 / 2 with :math:`eps = \Delta / (\sqrt{n} \sigma) + \tau \sqrt{d}`.

    Privacy
    -------
    Holds for the *sum*, for an adversary who sees nothing but the sum and up to all but n parties' noise.
    Noise of further survivors only helps (post-processing).

    Notes
    -----
    Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), Theorem 1, second expression. Proof: the noise P of each
    coordinate is within :math:`e^{\pm\tau/2}` of Q = N_Z(0, n sigma^2) everywhere, hence (tau/2)^2/2-zCDP
    close to it both ways (pure DP implies zCDP: Bun and Steinke 2016, Proposition 1.4); Q shifted by an
    integer s is s^2/(2 n sigma^2)-zCDP close to Q (Canonne, Kamath and Steinke 2020, arXiv 2004.00010);
    square roots of zCDP parameters obey the triangle inequality (the argument of group privacy in Bun and
    Steinke), which gives :math:`(|s| / \sqrt{n} \sigma + \tau)^2 / 2` per coordinate; summed over the
    coordinates by Cauchy-Schwarz. The theorem's first expression, sqrt(eps_0^2 + const * tau * d), is not
    used: from sigma = 2 on both agree to far more digits than are ever printed, and this one we can prove in
    five lines.
    """
    if not (math.isfinite(sensitivity_l2) and sensitivity_l2 > 0):
        raise ParameterError("A sensitivity is unusable", got=repr(sensitivity_l2), rule="finite and positive")
    if coordinates < 1:
        raise ParameterError("A query has no coordinates", got=str(coordinates), rule="at least 1")
    tau = sum_divergence(local_variance, parties)
    return 0.5 * (sensitivity_l2 / math.sqrt(parties * local_variance) + tau * math.sqrt(coordinates)) ** 2


def noise_variance(sensitivity_l2: float, rho: float) -> float:
    """Variance of one (discrete) Gaussian that makes a query rho-zCDP: sensitivity^2 / (2 rho).

    Canonne, Kamath and Steinke 2020 (arXiv 2004.00010); the same as for the continuous Gaussian
    (Bun and Steinke 2016, Proposition 1.6).
    """
    if not (math.isfinite(sensitivity_l2) and sensitivity_l2 > 0):
        raise ParameterError("A sensitivity is unusable", got=repr(sensitivity_l2), rule="finite and positive")
    if not (math.isfinite(rho) and rho > 0):
        raise ParameterError("A privacy parameter is unusable", got=f"rho = {rho!r}", rule="finite and positive")
    return sensitivity_l2**2 / (2.0 * rho)


def local_noise_variance(total_variance: float, threshold: int, colluders: int) -> float:
    """Each party's variance, such that the sum is noisy enough whoever drops out and whoever colludes.

    Parameters
    ----------
    total_variance : float
        Needed in the sum, in grid units squared.
    threshold : int
        Fewest survivors for which the sum is opened.
    colluders : int
        Parties that may tell the coordinator their noise.

    Returns
    -------
    float
        ``total_variance / (threshold - colluders)``, at least 4: below two grid units of local sigma the
        bound for the sum would not hold to any use, hence the noise is raised.

    Raises
    ------
    ParameterError
        No honest survivor would be left.
    """
    if colluders < 0 or threshold - colluders < 1:
        raise ParameterError(
            "No honest survivor would be left to hide the others",
            got=f"threshold {threshold}, colluders {colluders}",
            rule="0 <= colluders < threshold",
        )
    _check_variance(total_variance, 0.0)
    return max(MIN_LOCAL_VARIANCE, total_variance / (threshold - colluders))


def _check_variance(variance: float, low: float) -> None:
    if not (math.isfinite(variance) and variance >= low and variance > 0):
        raise ParameterError(
            "A noise variance is unusable",
            got=repr(variance),
            rule=f"finite, at least {low:g} grid units squared",
        )
