import math
import os
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import chi2

from blindsight.errors import ParameterError
from blindsight.privacy import NoiseSource, discrete_gaussian, noise_max_abs, sampler_delta, sampler_tv
from blindsight.privacy import _sampler as internals
from blindsight.testing import InsecureSeededSource

FALSE_ALARM = 1e-7
"""Declared false-alarm rate of each chi-square test below, which draw from the system's randomness."""

VARIANCES = [0.25, 1.0, 4.0, 2.5**2, 1000.3, 2.0**18, 2.0**19 - 1, 2.0**19, 2.0**21 + 0.5]


def exact_cells(variance, cells):
    """Bounds and probabilities of about ``cells`` intervals of nearly equal probability, from the definition."""
    cut = math.ceil(12 * math.sqrt(variance))
    x = np.arange(-cut, cut + 1, dtype=np.float64)
    weights = np.exp(-(x**2) / (2 * variance))
    p = weights / math.fsum(weights)
    cumulative = np.cumsum(p)
    last = np.unique(np.searchsorted(cumulative, np.arange(1, cells) / cells))
    bounds = x[last]
    return bounds, np.diff(np.concatenate([[0.0], cumulative[last], [1.0]]))


def chi_square_p(draws, variance, cells=200):
    bounds, p = exact_cells(variance, cells)
    observed = np.bincount(np.searchsorted(bounds, draws, side="left"), minlength=p.size)
    expected = p * draws.size
    keep = expected > 10
    statistic = float(((observed - expected)[keep] ** 2 / expected[keep]).sum())
    return chi2.sf(statistic, int(keep.sum()) - 1)


@pytest.mark.parametrize("variance", VARIANCES)
def test_draws_follow_the_exact_distribution(variance):
    draws = discrete_gaussian(variance, 400_000)
    assert draws.dtype == np.int64
    assert chi_square_p(draws, variance) > FALSE_ALARM


@pytest.mark.parametrize("variance", [2.0**30, 2.0**48])
def test_split_draws_have_uniform_low_digits_and_the_right_spread(variance):
    draws = discrete_gaussian(variance, 400_000)
    counts = np.bincount(draws % 256, minlength=256)
    assert chi2.sf(float(((counts - 1562.5) ** 2 / 1562.5).sum()), 255) > FALSE_ALARM
    # sum of squares of standard normals; cells of equal probability by the normal law, exact to 1e-9 here
    assert chi2.sf(float((draws / math.sqrt(variance)) @ (draws / math.sqrt(variance))), draws.size) > FALSE_ALARM
    assert chi2.cdf(float((draws / math.sqrt(variance)) @ (draws / math.sqrt(variance))), draws.size) > FALSE_ALARM
    from scipy.stats import norm

    u = norm.cdf((draws + 0.5) / math.sqrt(variance))
    cells = np.bincount(np.minimum((u * 200).astype(int), 199), minlength=200)
    assert chi2.sf(float(((cells - 2000) ** 2 / 2000).sum()), 199) > FALSE_ALARM


def test_neighbouring_draws_are_independent():
    draws = np.sign(discrete_gaussian(50.0, 400_001))
    pairs = np.bincount((draws[:-1] * 3 + draws[1:] + 4).astype(int), minlength=9)
    p = np.array([np.mean(draws == s) for s in (-1, 0, 1)])
    expected = np.outer(p, p).ravel() * 400_000
    assert chi2.sf(float(((pairs - expected) ** 2 / expected).sum()), 4) > FALSE_ALARM


def test_the_test_has_power():
    """It rejects the rounded Gaussian and a variance off by six in a hundred (at three it misses 4 of 1,000)."""
    rng = np.random.default_rng(0)
    assert chi_square_p(np.rint(rng.normal(0, 2, 400_000)), 4.0) < FALSE_ALARM
    assert chi_square_p(discrete_gaussian(1.06 * 1000.3, 400_000), 1000.3) < FALSE_ALARM
    assert chi_square_p(discrete_gaussian(1000.3, 400_000) + 1, 1000.3) < FALSE_ALARM


@pytest.mark.parametrize("variance", [0.25, 4.0, 1000.3])
def test_thresholds_are_exact_to_128_bits(variance):
    """Against probabilities in 200-digit decimals, term by term."""
    table = internals._Table(Fraction(variance))
    with localcontext(Context(prec=200, Emin=-(10**6), Emax=10**6)):
        v = Decimal(variance)
        reach = 3 * table.cut
        weights = {x: (-Decimal(x * x) / (2 * v)).exp() for x in range(-reach, reach + 1)}
        total = sum(weights.values())
        outside = sum(w for x, w in weights.items() if abs(x) > table.cut) / total
        assert outside < Decimal(2) ** -100
        inside = sum(w for x, w in weights.items() if abs(x) <= table.cut)
        cumulative = Decimal(0)
        for i, threshold in enumerate(table.thresholds):
            cumulative += weights[i - table.cut] / inside
            assert abs(cumulative * 2**128 - threshold) <= Decimal("1.01")
    assert len(table.thresholds) == 2 * table.cut
    assert table.thresholds == sorted(table.thresholds)


class Words(NoiseSource):
    """Plays back given words."""

    def __init__(self, words):
        self.words = list(words)

    def uint64(self, size):
        out, self.words = self.words[:size], self.words[size:]
        return np.array(out, dtype=np.uint64)


def test_ties_of_the_upper_word_are_decided_by_the_lower():
    table = internals._Table(Fraction(4))
    for i in (table.cut - 3, table.cut, table.cut + 2):
        upper, lower = divmod(table.thresholds[i], 2**64)
        below = table.draw(1, Words([upper, lower - 1]))
        at = table.draw(1, Words([upper, lower]))
        assert below == i - table.cut
        assert at == i + 1 - table.cut


def test_every_word_gives_what_the_thresholds_say():
    table = internals._Table(Fraction(1000.3))
    rng = np.random.default_rng(1)
    words = [0, 2**64 - 1, *(int(u) for u in table.upper[::50]), *rng.integers(0, 2**64, 500, dtype=np.uint64).tolist()]
    for word in words:
        for low in (0, 2**63, 2**64 - 1):
            got = int(table.draw(1, Words([word, low]))[0])
            u = word * 2**64 + low
            ties = word in table.upper
            u = u if ties else word * 2**64
            assert got == sum(t <= u for t in table.thresholds) - table.cut


@pytest.mark.parametrize("variance", [0.25, 4.0, 2.0**19 - 1, 2.0**19, 2.0**34, 2.0**50])
def test_extreme_words_stay_within_the_stated_bound(variance):
    for word in (0, 2**64 - 1):
        draws = discrete_gaussian(variance, 3, Words([word] * 60))
        assert np.abs(draws).max() == noise_max_abs(variance)
    assert 11.5 < noise_max_abs(variance) / math.sqrt(variance) < 18.5


def test_split_error_is_a_bound_on_the_true_error():
    """The split with small numbers (s1 = 4k, k = 4), against the law summed up from the definition."""

    def law(variance, cut):
        x = np.arange(-cut, cut + 1)
        w = np.exp(-(x**2) / (2.0 * variance))
        return w / math.fsum(w)

    def ratio(k, s1_squared, s2_squared):
        cut = 400
        spread = np.zeros(2 * cut * k + 1)
        spread[::k] = law(s2_squared, cut)
        total = np.convolve(law(s1_squared, 500), spread)
        one = law(s1_squared + k * k * s2_squared, (total.size - 1) // 2)
        keep = one > 1e-30
        return np.abs(total[keep] / one[keep] - 1).max()

    assert ratio(4, 256.0, 16.0) < 1e-12  # s1 = 4k, k s2 = s1: nothing but rounding
    # With s1 = k/2 the error is visible, and the bound by Poisson summation holds and is not idle.
    r_squared_over_k_squared = (4.0 * 16 * 16) / (4.0 + 16 * 16) / 16
    e = 2.01 * math.exp(-2 * math.pi**2 * r_squared_over_k_squared)
    assert 0.3 * e < ratio(4, 4.0, 16.0) < 2.2 * e
    assert internals.split_error() < 2.0**-220
    assert internals.SPLIT_VARIANCE == (4 * internals.SPLIT) ** 2
    assert internals.TABLE_MAX_VARIANCE >= 2 * internals.SPLIT_VARIANCE  # k^2 s2^2 >= s1^2


@pytest.mark.parametrize("variance", VARIANCES)
def test_total_variation_is_tiny_and_scales_into_delta(variance):
    tv = sampler_tv(variance)
    assert 2.0**-101 < tv < 2.0**-97
    delta = sampler_delta(variance, coordinates=1000, parties=20, epsilon=1.0)
    assert delta == pytest.approx(tv * 1000 * 20 * (1 + math.e), rel=1e-12)
    assert delta < 1e-23
    assert math.isfinite(sampler_delta(variance, coordinates=1, parties=1, epsilon=1e6))


@pytest.mark.parametrize("variance", [0.0, 0.2, -1.0, math.nan, math.inf, 2.0**51])
def test_variance_domain(variance):
    with pytest.raises(ParameterError, match="noise variance is out of its domain"):
        discrete_gaussian(variance, 1)
    with pytest.raises(ParameterError):
        noise_max_abs(variance)
    with pytest.raises(ParameterError):
        sampler_tv(variance)


def test_sizes():
    assert discrete_gaussian(4.0, 0).shape == (0,)
    assert discrete_gaussian(4.0, internals.CHUNK + 7).shape == (internals.CHUNK + 7,)
    with pytest.raises(ParameterError, match="negative"):
        discrete_gaussian(4.0, -1)


def test_seeded_source_repeats_and_secure_does_not():
    one = discrete_gaussian(2.0**20, 1000, InsecureSeededSource(7))
    assert np.array_equal(one, discrete_gaussian(2.0**20, 1000, InsecureSeededSource(7)))
    assert not np.array_equal(one, discrete_gaussian(2.0**20, 1000, InsecureSeededSource(8)))
    assert not np.array_equal(discrete_gaussian(2.0**20, 1000), discrete_gaussian(2.0**20, 1000))
    assert not InsecureSeededSource(7).is_secure
    assert NoiseSource.secure().is_secure
    assert "Insecure" in repr(InsecureSeededSource(7))


def test_secure_source_never_repeats_within_its_stream():
    source = NoiseSource.secure()
    words = np.concatenate([source.uint64(1000) for _ in range(20)])
    assert np.unique(words).size == words.size


def test_secure_source_takes_a_new_key_in_time(monkeypatch):
    monkeypatch.setattr("blindsight.privacy._source.REKEY_BYTES", 8 * 100)
    drawn = []
    real = os.urandom
    monkeypatch.setattr("os.urandom", lambda n: drawn.append(n) or real(n))
    source = NoiseSource.secure()
    for _ in range(10):
        source.uint64(50)
    assert drawn == [32, 16] * 5
    assert source.uint64(1000).size == 1000  # a single large request is served by one fresh key


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_draws_other_noise(monkeypatch):
    source = NoiseSource.secure()
    before = source.uint64(4)
    monkeypatch.setattr(os, "getpid", lambda: -5)  # as seen after a fork, without one in this threaded process
    after = source.uint64(4)
    assert not np.array_equal(before, after)
    assert source._pid == -5
