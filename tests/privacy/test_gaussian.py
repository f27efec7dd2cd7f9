"""Every formula against a naive re-implementation, and the bounds against distributions summed up term by term."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from blindsight.errors import ParameterError
from blindsight.privacy import distributed_rho, local_noise_variance, noise_variance, sum_divergence


def naive_tau(variance, n):
    total = 0.0
    for k in range(1, n):
        total += math.exp(-2 * math.pi * math.pi * variance * k / (k + 1))
    return 10 * total


def naive_rho(sensitivity, variance, n, d):
    eps = sensitivity / (math.sqrt(n) * math.sqrt(variance)) + naive_tau(variance, n) * math.sqrt(d)
    return eps * eps / 2


def log_pmf(variance, cut):
    """N_Z(0, variance) on -cut .. cut, from the definition."""
    x = np.arange(-cut, cut + 1)
    weights = -(x**2) / (2.0 * variance)
    return weights - logsumexp(weights)


def summed(variance, n):
    """Law of the sum of n discrete Gaussians, by direct convolution: relative accuracy also in the tails."""
    p = np.exp(log_pmf(variance, int(16 * math.sqrt(variance * n)) + 6))
    law = p
    for _ in range(n - 1):
        law = np.convolve(law, p)
    return law


def divergence(law, shift, alpha):
    """Rényi divergence of order alpha between the law moved by ``shift`` and itself."""
    p, q = law[shift:], law[:-shift]
    keep = (p > 1e-250) & (q > 1e-250)
    return logsumexp(alpha * np.log(p[keep]) + (1 - alpha) * np.log(q[keep])) / (alpha - 1)


CASES = [(v, n) for v in (0.25, 0.36, 0.64, 1.0, 4.0) for n in (1, 2, 3, 8)]


@pytest.mark.parametrize(("variance", "n"), CASES)
def test_formulas_equal_the_naive_ones(variance, n):
    assert sum_divergence(variance, n) == pytest.approx(naive_tau(variance, n), rel=1e-12, abs=0)
    for sensitivity, d in [(1.0, 1), (4.58, 1344), (0.1, 10**6)]:
        got = distributed_rho(sensitivity_l2=sensitivity, local_variance=variance, parties=n, coordinates=d)
        assert got == pytest.approx(naive_rho(sensitivity, variance, n, d), rel=1e-12)


@pytest.mark.parametrize(("variance", "n"), CASES)
def test_tau_bounds_the_log_ratio_to_one_discrete_gaussian(variance, n):
    law = summed(variance, n)
    one = log_pmf(variance * n, (law.size - 1) // 2)
    keep = law > 1e-100
    ratio = np.abs(np.log(law[keep]) - one[keep]).max()
    assert ratio <= sum_divergence(variance, n) / 2 + 1e-13  # rounding of the logarithms


def test_tau_is_not_idle():
    # At sigma = 1/2 the sum is visibly no discrete Gaussian, and the bound is within a small factor.
    law = summed(0.25, 2)
    ratio = np.abs(np.log(law[law > 1e-100]) - log_pmf(0.5, (law.size - 1) // 2)[law > 1e-100]).max()
    assert 0.2 < 2 * ratio / sum_divergence(0.25, 2) <= 1.0


@pytest.mark.parametrize(("variance", "n"), CASES)
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_rho_bounds_the_renyi_divergence_of_the_true_sum(variance, n, shift):
    law = summed(variance, n)
    rho = distributed_rho(sensitivity_l2=shift, local_variance=variance, parties=n, coordinates=1)
    for alpha in (1.01, 1.2, 1.7, 2.0, 3.0, 6.0):
        if (alpha * shift) ** 2 < 60 * variance * n:  # beyond, the sum's mass lies where the law underflows
            assert divergence(law, shift, alpha) <= alpha * rho * (1 + 1e-9)


def test_one_gaussian_of_the_same_variance_would_be_too_optimistic():
    # Hence the term in tau: the plain formula is exceeded by the true sum.
    law = summed(0.36, 8)
    assert max(divergence(law, 1, a) / a for a in (1.2, 2.0, 3.0)) > 1.01 / (2 * 8 * 0.36)


def test_rho_bounds_a_vector_of_coordinates():
    variance, n, shifts = 0.64, 3, np.array([1, 2, 1, 0, 3])
    law = summed(variance, n)
    rho = distributed_rho(
        sensitivity_l2=float(np.linalg.norm(shifts)), local_variance=variance, parties=n, coordinates=shifts.size
    )
    for alpha in (1.2, 2.0, 3.0):
        assert sum(divergence(law, s, alpha) for s in shifts if s) <= alpha * rho


def test_from_two_grid_units_on_the_sum_is_as_good_as_gaussian():
    rho = distributed_rho(sensitivity_l2=0.1, local_variance=4.0, parties=100, coordinates=10**6)
    assert rho == pytest.approx(0.1**2 / (2 * 400), rel=1e-8)


def test_noise_variance_inverts_the_gaussian_cost():
    for sensitivity, rho in [(1.0, 0.5), (4.58, 0.0146), (30.0, 100.0)]:
        variance = noise_variance(sensitivity, rho)
        cost = distributed_rho(sensitivity_l2=sensitivity, local_variance=variance, parties=1, coordinates=50)
        assert cost == pytest.approx(rho, rel=1e-12)


def test_local_noise_covers_dropouts_and_colluders():
    assert local_noise_variance(700.0, 7, 0) == 100.0
    assert local_noise_variance(700.0, 7, 2) == 140.0
    assert local_noise_variance(1.0, 3, 0) == 4.0  # raised to two grid units
    for threshold, colluders in [(0, 0), (3, 3), (2, 5), (3, -1)]:
        with pytest.raises(ParameterError, match="No honest survivor"):
            local_noise_variance(1.0, threshold, colluders)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_domains(bad):
    with pytest.raises(ParameterError):
        noise_variance(bad, 1.0)
    with pytest.raises(ParameterError):
        noise_variance(1.0, bad)
    with pytest.raises(ParameterError):
        local_noise_variance(bad, 3, 0)
    with pytest.raises(ParameterError):
        sum_divergence(bad, 3)
    with pytest.raises(ParameterError):
        distributed_rho(sensitivity_l2=bad, local_variance=4.0, parties=3, coordinates=1)


def test_empty_sums_and_queries():
    with pytest.raises(ParameterError):
        sum_divergence(4.0, 0)
    with pytest.raises(ParameterError):
        distributed_rho(sensitivity_l2=1.0, local_variance=4.0, parties=3, coordinates=0)
