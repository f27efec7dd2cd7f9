"""Unit "party", and noise that is enough at each party alone."""

import math

import numpy as np
import pytest

from blindsight.errors import FormatError, ParameterError
from blindsight.privacy import DifferentialPrivacy, Event, discrete_gaussian, epsilon_of, noisy_event

QUERY = {"query": "q", "purpose": "fit", "sensitivity_l2": 3.0, "coordinates": 5, "threshold": 4}


def dp(**kwargs):
    return DifferentialPrivacy(**{"epsilon": 1.0, "delta": 1e-6, **kwargs})


def test_a_party_counts_with_a_bounded_number_of_records_or_with_a_bounded_vector():
    privacy = dp(unit="party")
    assert (privacy.max_records_per_party, privacy.records_per_unit) == (1000, 1000)
    by_records, whole = privacy.event(**QUERY), privacy.event(**QUERY, whole=True)
    assert by_records.sensitivity_l2 == 3000
    assert whole.sensitivity_l2 == 3
    assert by_records.local_variance == pytest.approx(10**6 * whole.local_variance, rel=1e-6)
    assert "at most 1000 of its records" in by_records.guarantee
    assert "what one party adds," in whole.guarantee
    assert by_records.rho == pytest.approx(whole.rho, rel=1e-3)
    with pytest.raises(ParameterError, match="for parties alone"):
        dp().event(**QUERY, whole=True)


@pytest.mark.parametrize("unit", ["record", "person", "party"])
def test_local_noise_is_the_full_noise(unit):
    together, alone = (dp(unit=unit, colluders=0, trust=trust).event(**QUERY) for trust in ("federation", "local"))
    assert alone.local_variance == pytest.approx(4 * together.local_variance, rel=1e-4)
    assert alone.honest_parties == 1
    assert alone.rho == pytest.approx(alone.sensitivity_l2**2 / (2 * alone.local_variance))
    assert "survivors" not in alone.guarantee
    assert "nobody else need be trusted" in alone.guarantee


def test_the_true_delta_of_one_partys_own_noise_is_below_the_stated_one():
    """The hockey-stick divergence of one vector alone: what holds when everybody else colludes."""
    event = noisy_event(
        query="q", purpose="fit", unit="party", rho=0.1, sensitivity_l2=2.0, coordinates=1, threshold=4, trust="local"
    )
    delta = 1e-3
    epsilon = epsilon_of([event], delta)
    x = np.arange(-200, 201)
    law = np.exp(-(x**2) / (2 * event.local_variance))
    law /= law.sum()
    true_delta = np.maximum(law[2:] - math.exp(epsilon) * law[:-2], 0).sum() + law[:2].sum()
    assert 0.0 < true_delta <= delta
    assert abs(discrete_gaussian(event.local_variance, 4000).std() / event.local_stddev_grid - 1) < 0.1


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_records_per_party": 5},
        {"unit": "person", "max_records_per_party": 5},
        {"unit": "party", "max_records_per_person": 5},
        {"unit": "party", "max_records_per_party": 0},
        {"unit": "party", "max_records_per_party": True},
        {"trust": "nobody"},
    ],
    ids=str,
)
def test_domains(kwargs):
    with pytest.raises(ParameterError):
        dp(**kwargs)


def test_round_trips():
    privacy = dp(unit="party", max_records_per_party=50, trust="local")
    assert DifferentialPrivacy.from_json(privacy.to_json()) == privacy
    event = privacy.event(**QUERY)
    assert Event.from_json(event.to_json()) == event
    with pytest.raises(FormatError):
        Event.from_json(event.to_json().replace(b'"party"', b'"record"'))
    # a smaller share of the noise may not be claimed to be enough alone
    distributed = dp(unit="party").event(**QUERY).to_json()
    with pytest.raises(FormatError, match="cost less than its noise allows"):
        Event.from_json(distributed.replace(b"distributed-discrete", b"local-discrete"))
