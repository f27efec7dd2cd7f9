import copy
import dataclasses
import math
import pickle

import pytest

import blindsight.privacy as package
from blindsight.errors import FormatError, ParameterError
from blindsight.privacy import DifferentialPrivacy, epsilon_of, rho_total


def test_all_is_sorted():
    constants_first = sorted(package.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert package.__all__ == constants_first


def test_defaults():
    dp = DifferentialPrivacy(epsilon=1, delta=1e-6)
    assert (dp.unit, dp.max_records_per_person, dp.records_per_unit, dp.colluders) == ("record", None, 1, 1)
    assert dict(dp.shares) == {"fit": 0.6, "threshold": 0.2, "evaluation": 0.2}
    assert isinstance(dp.epsilon, float)


def test_person_without_a_bound_uses_one_record_each():
    dp = DifferentialPrivacy(epsilon=1, delta=1e-6, unit="person")
    assert dp.max_records_per_person == dp.records_per_unit == 1
    assert DifferentialPrivacy(epsilon=1, delta=1e-6, unit="person", max_records_per_person=5).records_per_unit == 5


def test_shares_of_one_epsilon():
    dp = DifferentialPrivacy(epsilon=1, delta=1e-6)
    assert dp.rho == rho_total(1.0, 1e-6)
    assert dp.rho_for("fit") == pytest.approx(0.6 * dp.rho)
    events = [
        dp.event(query="q", purpose=p, sensitivity_l2=math.sqrt(21), coordinates=1344, threshold=3)
        for p in ("fit", "threshold", "evaluation")
    ]
    assert 0.999 < epsilon_of(events, 1e-6) <= 1.0
    with pytest.raises(ParameterError, match="no share for 'describe'"):
        dp.rho_for("describe")


def test_many_fractions_of_a_share_stay_within_it():
    dp = DifferentialPrivacy(epsilon=0.5, delta=1e-6, unit="person", max_records_per_person=3, shares={"describe": 1.0})
    events = [
        dp.event(query="q", purpose="describe", sensitivity_l2=1.0, coordinates=64, threshold=3, fraction=1 / 30)
        for _ in range(30)
    ]
    assert epsilon_of(events, 1e-6) <= 0.5
    with pytest.raises(ParameterError, match="fraction"):
        dp.event(query="q", purpose="describe", sensitivity_l2=1.0, coordinates=64, threshold=3, fraction=1.1)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.inf},
        {"epsilon": math.nan},
        {"epsilon": "1"},
        {"epsilon": True},
        {"delta": 0.0},
        {"delta": 1.0},
        {"unit": "household"},
        {"max_records_per_person": 3},
        {"unit": "person", "max_records_per_person": 0},
        {"unit": "person", "max_records_per_person": True},
        {"shares": {}},
        {"shares": {"fit": 0.9, "threshold": 0.2}},
        {"shares": {"fit": 0.0}},
        {"shares": {"fit": math.nan}},
        {"shares": {"training": 1.0}},
        {"colluders": -1},
        {"colluders": True},
    ],
    ids=str,
)
def test_domains(kwargs):
    with pytest.raises(ParameterError):
        DifferentialPrivacy(**{"epsilon": 1.0, "delta": 1e-6, **kwargs})


def test_frozen_all_the_way_down():
    shares = {"fit": 0.5, "threshold": 0.5}
    dp = DifferentialPrivacy(epsilon=1, delta=1e-6, shares=shares)
    shares["fit"] = 5.0
    assert dp.shares["fit"] == 0.5
    with pytest.raises(TypeError):
        dp.shares["fit"] = 5.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        dp.epsilon = 5.0
    assert hash(dp) == hash(copy.deepcopy(dp))


def test_round_trips():
    dp = DifferentialPrivacy(epsilon=0.7, delta=1e-7, unit="person", max_records_per_person=4, colluders=1)
    assert DifferentialPrivacy.from_json(dp.to_json()) == dp
    assert pickle.loads(pickle.dumps(dp)) == dp
    assert copy.deepcopy(dp) == dp
    assert dataclasses.replace(dp, epsilon=2.0).epsilon == 2.0


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"x" * 5000, b"\xff"])
def test_other_bytes_are_refused(data):
    with pytest.raises(FormatError):
        DifferentialPrivacy.from_json(data)


def test_values_from_outside_are_checked():
    good = DifferentialPrivacy(epsilon=1, delta=1e-6).to_json()
    with pytest.raises(FormatError):
        DifferentialPrivacy.from_json(good.replace(b'"delta":1e-6', b'"delta":0.9'))
    with pytest.raises(FormatError):
        DifferentialPrivacy.from_json(good.replace(b'"colluders":1', b'"colluders":1,"more":1'))
