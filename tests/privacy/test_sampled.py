"""DP-SGD's events: what they cost, alone and beside integer noise, against dp_accounting itself."""

import re

import dp_accounting
import msgspec
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from blindsight.errors import BudgetError, FormatError, ParameterError
from blindsight.privacy import (
    Budget,
    DifferentialPrivacy,
    Event,
    Ledger,
    epsilon_of,
    noise_multiplier_for,
    noisy_event,
    rho_total,
    sampled_event,
)
from blindsight.store import Store

ADD_REMOVE = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def sampled(rate=0.01, multiplier=1.0, steps=1000, **kwargs):
    values = {"query": "round/0", "purpose": "fit", "unit": "record", "coordinates": 10, "threshold": 3}
    return sampled_event(**{**values, **kwargs}, sampling_rate=rate, noise_multiplier=multiplier, steps=steps)


def noisy(rho):
    return noisy_event(
        query="q", purpose="threshold", unit="record", rho=rho, sensitivity_l2=5.0, coordinates=1, threshold=3
    )


def directly(events, delta):
    """dp_accounting with its own grid of orders."""
    accountant = RdpAccountant(neighboring_relation=ADD_REMOVE)
    for event in events:
        accountant.compose(event.to_dp_event())
    return accountant.get_epsilon(delta)


# (noise multiplier, sampling rate, steps) -> epsilon at delta 1e-5 by RDP, as noted when the library was chosen
@pytest.mark.parametrize(("case", "known"), [((1.0, 0.01, 1000), 2.10), ((5.0, 1.0, 30), 5.25)])
def test_known_figures(case, known):
    multiplier, rate, steps = case
    assert epsilon_of([sampled(rate, multiplier, steps)], 1e-5) == pytest.approx(known, abs=0.006)


@pytest.mark.parametrize(
    "parts",
    [
        [(0.01, 1.0, 1000)],
        [(0.1, 3.0, 100), (0.1, 3.0, 200)],
        [(0.1, 3.0, 100), (0.02, 0.8, 50)],
        [(1.0, 20.0, 10)],
    ],
    ids=str,
)
@pytest.mark.parametrize("rho", [0.0, 0.02])
def test_against_dp_accounting_alone_and_beside_integer_noise(parts, rho):
    events = [sampled(*part) for part in parts] + ([noisy(rho)] if rho else [])
    got, other = epsilon_of(events, 1e-6), directly(events, 1e-6)
    assert got == pytest.approx(other, rel=2e-3)


def test_renyi_accounting_is_an_upper_bound_of_the_tight_one():
    event = sampled(0.1, 3.0, 300)
    pld = PLDAccountant(ADD_REMOVE)
    pld.compose(event.to_dp_event())
    assert pld.get_epsilon(1e-6) < epsilon_of([event], 1e-6) < 1.25 * pld.get_epsilon(1e-6)


def test_rounds_compose_to_the_run():
    rounds = [sampled(0.1, 4.0, 10) for _ in range(30)]
    assert epsilon_of(rounds, 1e-6) == epsilon_of([sampled(0.1, 4.0, 300)], 1e-6)
    assert epsilon_of(rounds[:5], 1e-6) < epsilon_of(rounds, 1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.01, 1000), (0.1, 30), (0.5, 60), (1.0, 20)])
def test_a_calibrated_run_and_the_rest_of_the_budget_stay_within_epsilon(epsilon, rate, steps):
    delta, share = 1e-6, 0.6
    multiplier = noise_multiplier_for(epsilon, delta, share=share, sampling_rate=rate, total_steps=steps)
    rest = noisy(rho_total(epsilon, delta) * (1 - share))
    accountant = RdpAccountant([1 + 0.1 * k for k in range(1, 100)] + list(range(12, 600)), ADD_REMOVE)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)), steps)
    accountant.compose(rest.to_dp_event())
    whole = epsilon_of([sampled(rate, multiplier, steps), rest], delta)
    assert whole <= epsilon
    assert accountant.get_epsilon(delta) <= epsilon * 1.002
    # at most 10% of the noise is given away for being composable with anything
    assert epsilon_of([sampled(rate, multiplier * 0.9, steps), rest], delta) > epsilon * 0.995


def test_two_sampled_runs_and_a_sum_share_one_epsilon():
    """What calibrating each against a zCDP remainder would not give."""
    for epsilon in (1.0, 8.0):
        parts = [(0.3, 0.01, 2000), (0.4, 0.5, 10)]
        events = [
            sampled(rate, noise_multiplier_for(epsilon, 1e-6, share=s, sampling_rate=rate, total_steps=steps), steps)
            for s, rate, steps in parts
        ]
        events.append(noisy(rho_total(epsilon, 1e-6) * 0.3))
        assert 0.85 * epsilon < epsilon_of(events, 1e-6) <= epsilon


def test_the_request_plans_one_noise_for_all_rounds():
    dp = DifferentialPrivacy(epsilon=3, delta=1e-6)
    plan = {"purpose": "fit", "sampling_rate": 0.1, "total_steps": 300, "coordinates": 7, "threshold": 4}
    rounds = [dp.sampled_event(query=f"round/{i}", steps=10, **plan) for i in range(30)]
    assert len({event.noise_multiplier for event in rounds}) == 1
    others = [
        dp.event(query="t", purpose=p, sensitivity_l2=1.0, coordinates=64, threshold=4)
        for p in ("threshold", "evaluation")
    ]
    assert 2.9 < epsilon_of([*rounds, *others], 1e-6) <= 3.0
    smaller = dp.sampled_event(query="round/0", steps=10, fraction=0.5, **plan)
    assert smaller.noise_multiplier > rounds[0].noise_multiplier
    for bad in ({"steps": 0}, {"steps": 301}, {"steps": 1, "purpose": "describe"}, {"steps": 1, "fraction": 0.0}):
        with pytest.raises(ParameterError):
            dp.sampled_event(query="round/0", **{**plan, **bad})
    with pytest.raises(ParameterError, match="does not hide a party"):
        DifferentialPrivacy(epsilon=3, delta=1e-6, unit="party").sampled_event(query="round/0", steps=1, **plan)


def test_what_no_noise_can_do_is_refused():
    with pytest.raises(ParameterError, match="fewer rounds, or give the fit a larger share"):
        noise_multiplier_for(0.001, 1e-6, share=1e-9, sampling_rate=1.0, total_steps=10**9)
    with pytest.raises(ParameterError, match="share"):
        noise_multiplier_for(1.0, 1e-6, share=0.0, sampling_rate=1.0, total_steps=1)


@pytest.mark.parametrize(("share", "rate", "steps"), [(0.6, 0.05, 1000), (1.0, 0.05, 10), (0.2, 1.0, 30)])
def test_the_smallest_epsilon_that_is_named_is_the_smallest(share, rate, steps):
    plan = {"share": share, "sampling_rate": rate, "total_steps": steps}
    with pytest.raises(ParameterError) as caught:
        noise_multiplier_for(0.002, 1e-6, **plan)
    named = float(re.search(r"ask for epsilon=([\d.e-]+\d) or more", str(caught.value))[1])
    assert 0.002 < named < 0.02
    multiplier = noise_multiplier_for(named, 1e-6, **plan)
    assert epsilon_of([sampled(rate, multiplier, steps)], 1e-6) <= named
    with pytest.raises(ParameterError, match="smallest epsilon"):
        noise_multiplier_for(named * 0.99, 1e-6, **plan)


def test_the_guarantee_says_what_it_is():
    text = sampled(unit="person", max_records_per_person=5).guarantee
    assert "1000 steps of DP-SGD at sampling rate 0.01 and noise multiplier 1" in text
    assert "at most 5 of their records" in text
    assert "each party draws its own floating-point Gaussian noise; nobody else need be trusted" in text
    assert "the noise is floating point" in text


CHANGES = [
    {"sampling_rate": 0.0},
    {"sampling_rate": 1.5},
    {"noise_multiplier": 0.0},
    {"noise_multiplier": 1e9},
    {"steps": 0},
    {"steps": 1.5},
    {"rho": 0.1},
    {"local_variance": 5.0},
    {"noise_source": "secure"},
    {"noise_source": "none"},
    {"unit": "party"},
    {"mechanism": "exact-sum"},
    {"mechanism": "distributed-discrete-gaussian"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_contradictions_are_refused(change):
    values = {**msgspec.json.decode(sampled().to_json()), **change}
    with pytest.raises(FormatError, match="malformed"):
        Event.from_json(msgspec.json.encode(values))


@pytest.mark.parametrize("name", ["sampling_rate", "noise_multiplier", "steps"])
def test_each_of_the_three_is_needed(name):
    values = msgspec.json.decode(sampled().to_json())
    del values[name]
    with pytest.raises(FormatError):
        Event.from_json(msgspec.json.encode(values))


def test_round_trip_and_older_ledgers():
    assert Event.from_json(sampled().to_json()) == sampled()
    assert "steps" not in msgspec.json.decode(noisy(0.01).to_json()), "lines written before are what they were"


def test_the_ledger_composes_both_kinds_and_names_what_is_affordable():
    ledger = Ledger(Store(None), Budget(epsilon=2.0, delta=1e-6))
    ledger.reserve("run/round/0", sampled(0.1, 4.0, 100))
    ledger.reserve("run/threshold", noisy(0.01))
    assert ledger.spent() == epsilon_of([sampled(0.1, 4.0, 100), noisy(0.01)], 1e-6)
    with pytest.raises(BudgetError, match="the largest affordable epsilon is") as caught:
        ledger.reserve("run/round/1", sampled(0.1, 4.0, 300))
    affordable = float(str(caught.value).split("largest affordable epsilon is ")[1].rstrip("."))
    assert 0.1 < affordable < 2.0
    assert affordable == pytest.approx(ledger.remaining(), abs=1e-4)
    ledger.check(noisy(rho_total(affordable, 1e-6)))
    with pytest.raises(BudgetError):
        ledger.check(noisy(rho_total(affordable * 1.02, 1e-6)))
    assert ledger.verify() == 2


def test_orders_cover_what_budgets_need():
    """The best order of pure zCDP at epsilon .05 lies inside the grid for sampled events."""
    rho = rho_total(0.05, 1e-6)
    orders = 1 + np.logspace(-1, 5, 5000)
    best = orders[np.argmin(rho * orders + np.log1p(-1 / orders) - np.log(1e-6 * orders) / (orders - 1))]
    assert best < 1024


def test_large_budgets_use_fractional_orders_whose_series_fail_for_much_noise() -> None:
    multiplier = noise_multiplier_for(50.0, 1e-5, share=0.6, sampling_rate=0.5, total_steps=10)
    assert 0 < epsilon_of([sampled(0.5, multiplier, 10)], 1e-5) <= 50.0
