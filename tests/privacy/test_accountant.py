import math
import subprocess
import sys

import numpy as np
import pytest

from blindsight.errors import ParameterError
from blindsight.privacy import _accountant as internals
from blindsight.privacy import epsilon_of, exact_event, noisy_event, rho_total, shown_epsilon


def event(rho, **kwargs):
    values = {"query": "q", "purpose": "fit", "unit": "record", "sensitivity_l2": 5.0, "coordinates": 1, "threshold": 3}
    return noisy_event(**{**values, "rho": rho, **kwargs})


def naive_epsilon(rho, delta):
    """Bun and Steinke 2016 to (epsilon, delta) by Canonne, Kamath and Steinke 2020, on a fine grid of orders."""
    a = 1.0 + np.logspace(-2, 4, 200_001)
    return float(np.min(a * rho + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)))


def simple_epsilon(rho, delta):
    """Bun and Steinke 2016, Proposition 1.3: weaker, and easily believed."""
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-5])
@pytest.mark.parametrize("rho", [1e-4, 1e-3, 0.0244, 0.2, 2.0])
def test_epsilon_against_naive_formulas(rho, delta):
    e = event(rho)
    got = epsilon_of([e], delta)
    assert naive_epsilon(e.rho, delta) * (1 - 1e-9) <= got <= naive_epsilon(e.rho, delta) * 1.001
    assert got < simple_epsilon(e.rho, delta)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_rho_total_is_the_largest_that_fits(epsilon, delta):
    rho = rho_total(epsilon, delta)
    assert epsilon_of([event(rho)], delta) <= epsilon
    assert naive_epsilon(rho * 1.003, delta) > epsilon  # no more than .3% is left on the table
    assert simple_epsilon(rho, delta) > epsilon


def test_known_figure():
    # delta 1e-6, epsilon 1: rho = .024355 by naive_epsilon; pinned so that a change is noticed
    assert rho_total(1.0, 1e-6) == pytest.approx(0.024355, rel=3e-4)


def test_events_compose_by_adding_rho():
    parts = [event(0.01), event(0.004, purpose="threshold"), event(0.006, purpose="evaluation")]
    whole = event(sum(p.rho for p in parts))
    assert epsilon_of(parts, 1e-6) == pytest.approx(epsilon_of([whole], 1e-6), rel=1e-9)
    assert epsilon_of(parts[:1], 1e-6) < epsilon_of(parts[:2], 1e-6) < epsilon_of(parts, 1e-6)


def test_no_event_costs_nothing_and_exact_sums_have_no_epsilon():
    exact = exact_event(query="q", purpose="fit", sensitivity_l2=1.0, coordinates=1, threshold=3)
    assert epsilon_of([], 1e-6) == 0.0
    assert epsilon_of([exact], 1e-6) == 0.0
    assert epsilon_of([exact, event(0.01)], 1e-6) == epsilon_of([event(0.01)], 1e-6)


def test_the_true_delta_of_the_true_sum_is_below_the_stated_one():
    """End to end: the hockey-stick divergence of the summed noise, term by term, at the epsilon that is printed."""
    for shift in (1, 2):
        e = event(0.3, sensitivity_l2=float(shift), threshold=4, colluders=1)
        delta = 1e-3
        epsilon = epsilon_of([e], delta)
        cut = 100
        x = np.arange(-cut, cut + 1)
        p = np.exp(-(x**2) / (2 * e.local_variance))
        p /= p.sum()
        law = np.convolve(np.convolve(p, p), p)  # three honest parties
        true_delta = np.maximum(law[shift:] - math.exp(epsilon) * law[:-shift], 0).sum() + law[:shift].sum()
        assert 0.0 < true_delta <= delta


def test_the_samplers_delta_is_taken_off(monkeypatch):
    e = event(0.02)
    before = epsilon_of([e], 1e-6)
    monkeypatch.setattr(
        internals, "sampler_delta", lambda v, *, coordinates, parties, epsilon: 2e-7 * math.exp(epsilon)
    )
    after = epsilon_of([e], 1e-6)
    assert after > before
    left = 1e-6 - 2e-7 * math.exp(after)
    assert after == pytest.approx(internals._epsilon(e.rho, left), rel=1e-6)
    assert after >= internals._epsilon(e.rho, left)
    monkeypatch.setattr(internals, "sampler_delta", lambda v, *, coordinates, parties, epsilon: 2e-6)
    assert epsilon_of([e], 1e-6) == math.inf


@pytest.mark.parametrize("delta", [0.0, -1e-6, 0.5, 1.0, math.nan, 1e-40])
def test_delta_domain(delta):
    with pytest.raises(ParameterError, match="delta is out of its domain"):
        epsilon_of([event(0.1)], delta)
    with pytest.raises(ParameterError, match="delta is out of its domain"):
        rho_total(1.0, delta)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 1e4])
def test_epsilon_domain(epsilon):
    with pytest.raises(ParameterError, match="epsilon is out of its domain"):
        rho_total(epsilon, 1e-6)


def test_dp_accounting_is_loaded_only_when_asked():
    code = "import sys, blindsight.privacy; sys.exit('dp_accounting' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (0.0, "0"), (0.88654, "0.887"), (0.8871, "0.888"), (0.99999995, "1"), (1.0 + 1e-10, "1"), (1.0001, "1.01"),
        (12.34, "12.4"), (123.4, "124"), (2000.0, "2000"), (0.00012345, "0.000124"),
    ],
)  # fmt: skip
def test_an_epsilon_is_shown_one_way_and_never_as_less(epsilon: float, words: str) -> None:
    assert shown_epsilon(epsilon) == words
    assert float(words) >= epsilon * (1 - 1e-5)


def test_an_unbounded_epsilon_is_no_number() -> None:
    assert "bounds nothing" in shown_epsilon(math.inf)
