import math

import dp_accounting
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import FormatError, ParameterError
from blindsight.privacy import Event, NoiseSource, distributed_rho, exact_event, noisy_event
from blindsight.testing import InsecureSeededSource


def noisy(**kwargs):
    values = {
        "query": "ecod.histogram",
        "purpose": "fit",
        "unit": "record",
        "rho": 0.0146,
        "sensitivity_l2": math.sqrt(21),
        "coordinates": 21 * 64,
        "threshold": 3,
    }
    return noisy_event(**{**values, **kwargs})


def exact(**kwargs):
    values = {"query": "ecod.histogram", "purpose": "fit", "sensitivity_l2": 1.0, "coordinates": 4, "threshold": 3}
    return exact_event(**{**values, **kwargs})


@settings(max_examples=200, deadline=None)
@given(
    rho=st.floats(1e-8, 50.0),
    sensitivity=st.floats(0.5, 1e6),
    coordinates=st.integers(1, 10**6),
    threshold=st.integers(1, 100),
    colluders=st.integers(0, 99),
    records=st.none() | st.integers(1, 100),
)
def test_planned_events_never_cost_more_than_asked_and_little_less(
    rho, sensitivity, coordinates, threshold, colluders, records
):
    colluders = min(colluders, threshold - 1)
    e = noisy(
        rho=rho,
        sensitivity_l2=sensitivity,
        coordinates=coordinates,
        threshold=threshold,
        colluders=colluders,
        unit="person" if records else "record",
        max_records_per_person=records,
    )
    assert e.rho <= rho
    assert e.rho == distributed_rho(
        sensitivity_l2=sensitivity * (records or 1),
        local_variance=e.local_variance,
        parties=threshold - colluders,
        coordinates=coordinates,
    )
    if e.local_variance > 4.0 and rho > 1e-6:
        assert e.rho >= rho * (1 - 1e-4)
    assert Event.from_json(e.to_json()) == e


def test_small_noise_is_raised_to_two_grid_units():
    e = noisy(rho=50.0, sensitivity_l2=1.0, coordinates=1)
    assert e.local_variance == 4.0
    assert e.rho == pytest.approx(1 / (2 * 12))
    assert e.local_stddev_grid == 2.0


def test_person_level_multiplies_the_sensitivity():
    one, five = noisy(), noisy(unit="person", max_records_per_person=5)
    assert five.sensitivity_l2 == pytest.approx(5 * one.sensitivity_l2)
    assert five.local_variance == pytest.approx(25 * one.local_variance)
    assert "at most 5 of their records" in five.guarantee


def test_total_stddev_is_in_the_querys_unit():
    e = noisy(grid=0.25, threshold=5, colluders=1)
    assert e.honest_parties == 4
    assert e.total_stddev == pytest.approx(math.sqrt(e.local_variance * 4) * 0.25)


def test_guarantees_say_what_they_are():
    assert "3 survivors" in noisy().guarantee
    assert "0.0146-zCDP for adding or removing one record" in noisy().guarantee
    assert exact().guarantee == "exact sum, no differential privacy"
    seeded = noisy(source=InsecureSeededSource(1))
    assert seeded.noise_source == "insecure-seeded"
    assert seeded.guarantee.startswith("no privacy guarantee")
    assert noisy(source=NoiseSource.secure()).noise_source == "secure"


def test_dp_accounting_events():
    assert noisy().to_dp_event() == dp_accounting.ZCDpEvent(noisy().rho)
    assert exact().to_dp_event() == dp_accounting.NonPrivateDpEvent()


def test_json_is_canonical():
    data = noisy().to_json()
    keys = list(msgspec.json.decode(data))
    assert keys == sorted(keys)
    assert b" " not in data.replace(noisy().trust.encode(), b"")
    assert msgspec.json.decode(data)["rho"] == noisy().rho  # exact round trip of the float


CHANGES = [
    {"rho": 0.001},  # claims to be cheaper than its noise
    {"rho": -1.0},
    {"local_variance": 3.9},
    {"local_variance": 1e308},
    {"sensitivity_l2": 0.0},
    {"sensitivity_l2": 1e9},
    {"grid": 0.0},
    {"coordinates": 0},
    {"coordinates": 1 << 40},
    {"threshold": 0},
    {"threshold": 10**9},
    {"colluders": 3},
    {"colluders": -1},
    {"unit": "person"},
    {"unit": "household"},
    {"max_records_per_person": 5},
    {"purpose": "fun"},
    {"mechanism": "exact-sum"},
    {"mechanism": "laplace"},
    {"neighbouring": "replace-one"},
    {"noise_source": "none"},
    {"query": ""},
    {"query": "x" * 201},
    {"query": "a\nb"},
    {"trust": ""},
    {"extra": 1},
    {"rho": "0.1"},
    {"rho": None},
    {"coordinates": 1.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_contradictions_and_strangers_are_refused(change):
    values = {**msgspec.json.decode(noisy().to_json()), **change}
    if change == {"local_variance": 1e308}:  # more noise than needed only makes the claim weaker: allowed
        assert Event.from_json(msgspec.json.encode(values)).rho == noisy().rho
        return
    with pytest.raises(FormatError, match="malformed"):
        Event.from_json(msgspec.json.encode(values))


@pytest.mark.parametrize("change", [{"rho": 0.1}, {"local_variance": 4.0}, {"noise_source": "secure"}], ids=str)
def test_exact_sums_cannot_claim_noise(change):
    values = {**msgspec.json.decode(exact().to_json()), **change}
    with pytest.raises(FormatError, match="claims noise"):
        Event.from_json(msgspec.json.encode(values))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"rho":NaN}', b"x" * 5000])
def test_other_bytes_are_refused(data):
    with pytest.raises(FormatError):
        Event.from_json(data)


def test_missing_fields_are_refused():
    values = msgspec.json.decode(noisy().to_json())
    for name in values:
        with pytest.raises(FormatError):
            Event.from_json(msgspec.json.encode({k: v for k, v in values.items() if k != name}))


def test_impossible_requests():
    with pytest.raises(ParameterError):
        noisy(rho=0.0)
    with pytest.raises(ParameterError):
        noisy(colluders=3)
    with pytest.raises(ParameterError, match="contribution bound"):
        noisy(max_records_per_person=2)
    with pytest.raises(ParameterError, match="max_records_per_person"):
        noisy(unit="person")
