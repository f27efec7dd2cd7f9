"""What differential privacy adds: the noise is really there, persons are really bounded, the certificate says so."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from scipy import stats

import blindsight as bs
from blindsight.data import Column, Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import BlindsightWarning
from blindsight.federation import Federation, Policy
from blindsight.privacy import Event, epsilon_of, shown_epsilon
from sample_tables import make_table

from ._drive import charges, dp, embedded, faulty, numpy_counts, stacked, tables

FALSE_ALARM = 1e-6
"""Probability with which each statistical test here fails although all is well."""

FLOOR = "ignore:The federation has about"


@pytest.mark.filterwarnings(FLOOR)
@pytest.mark.parametrize("survivors", [5, 4])
def test_the_noise_is_in_the_totals_with_the_variance_that_is_stated(survivors: int, number_schema: Schema) -> None:
    data = tables(5, rows=20)
    federation = embedded(data, number_schema, Policy())
    if survivors == 4:
        faulty(federation, silent_from={"bank-03": 2})
    model = federation.fit(ECOD(bins=1024), privacy=dp(1.0))
    names = [name for name in data if survivors == 5 or name != "bank-03"]
    noise = model.totals_ - numpy_counts(stacked(data, names), bins=1024)
    event = federation.history[0].steps[0].event
    assert model.noise_variance_ == pytest.approx(event["local_variance"] * survivors)
    # a sum of discrete Gaussians of sigma >= 2 is a discrete Gaussian up to 1e-30: the sum of squares is chi-square
    low, high = stats.chi2.ppf([FALSE_ALARM / 4, 1 - FALSE_ALARM / 4], noise.size)
    assert low < float(noise @ noise) / model.noise_variance_ < high
    limit = stats.norm.isf(FALSE_ALARM / 4) * np.sqrt(model.noise_variance_ / noise.size)
    assert abs(noise.mean()) < limit
    # neighbouring coordinates are independent
    correlation = float(noise[1:] @ noise[:-1]) / (model.noise_variance_ * np.sqrt(noise.size - 1))
    assert abs(correlation) < stats.norm.isf(FALSE_ALARM / 4) * 1.1


@pytest.mark.filterwarnings(FLOOR)
def test_each_party_draws_its_own_noise_anew(number_schema: Schema) -> None:
    data = tables(3, rows=20)
    totals = [embedded(data, number_schema, Policy()).fit(ECOD(bins=16), privacy=dp(1.0)).totals_ for _ in range(3)]
    assert not np.array_equal(totals[0], totals[1])
    assert not np.array_equal(totals[1], totals[2])


@pytest.mark.filterwarnings(FLOOR)
def test_the_honest_survivors_alone_carry_the_noise(number_schema: Schema) -> None:
    """With colluders allowed for, each party adds more."""
    data = tables(5, rows=10)
    variances = {}
    for colluders in (0, 2):
        federation = embedded(data, number_schema, Policy(minimum_colluders=0))
        federation.fit(ECOD(bins=8), privacy=dp(1.0, colluders=colluders))
        variances[colluders] = federation.history[0].steps[0].event["local_variance"]
    assert variances[2] == pytest.approx(2 * variances[0], rel=1e-6)  # threshold 4: 4 against 2 honest


@pytest.mark.filterwarnings(FLOOR)
@pytest.mark.parametrize("bound", [1, 3])
def test_a_person_counts_at_most_as_often_as_stated(bound: int, mixed_schema: Schema) -> None:
    """One person holds 5,000 records with an age that nobody else has; only ``bound`` of them may be counted."""
    data = tables(3, rows=30)
    whale = make_table(5000, 9).with_columns(age=pl.lit(119.0), customer=pl.lit(777_777, dtype=pl.Int64))
    order = np.random.default_rng(0).permutation(5000 + len(data["bank-01"]))
    data["bank-01"] = pl.concat([data["bank-01"], whale])[order]
    federation = embedded(data, mixed_schema, Policy(maximum_epsilon=500, units=("person",)))
    rho_heavy = dp(400.0, unit="person", max_records_per_person=bound, shares={"fit": 0.9, "threshold": 0.1})
    model = federation.fit(ECOD(bins=8), privacy=rho_heavy)
    last_inner_bin = model.totals_[6]
    deviation = np.sqrt(model.noise_variance_)
    assert deviation < 40
    assert abs(last_inner_bin - bound) < 6 * deviation + 3 < 1000
    event = federation.history[0].steps[0].event
    assert event["sensitivity_l2"] == pytest.approx(bound * 2.0)  # four features
    assert event["unit"] == "person"
    assert event["max_records_per_person"] == bound


@pytest.mark.filterwarnings(FLOOR)
def test_one_epsilon_covers_fit_threshold_and_evaluation(number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=60), number_schema, Policy())
    privacy = dp(2.0)
    model = federation.fit(ECOD(bins=8), privacy=privacy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bs.BlindsightWarning)  # so few anomalies may drown in the noise
        federation.evaluate(model, privacy=privacy)
    for party in federation.parties.values():
        ledger = party.ledgers["record"]
        events = [entry.event for entry in ledger.entries()]
        assert [event.purpose for event in events] == ["fit", "threshold", "evaluation"]
        assert 1.9 < epsilon_of(events, 1e-6) <= 2.0
        assert ledger.spent(1e-6) <= 2.0
        ledger.verify()
    # what is stored is what was sent: every charge has its output
    assert all(entry.output_sha256 for entry in federation.parties["bank-00"].ledgers["record"].entries())


@pytest.mark.filterwarnings(FLOOR)
def test_the_certificate_says_what_was_released(number_schema: Schema, tmp_path: object) -> None:
    federation = embedded(tables(5, rows=30), number_schema, Policy(), name="clearing-house")
    model = federation.fit(Mahalanobis(contamination=0.03), privacy=dp(3.0, colluders=1))
    path = f"{tmp_path}/m"
    model.save(path)
    for certificate in (model.certificate_, bs.load(path).certificate_):
        assert certificate is not None
        assert certificate["differential_privacy"] is True
        assert certificate["epsilon_asked"] == 3.0
        assert 0 < certificate["epsilon_spent"] <= 3.0
        assert certificate["delta"] == 1e-6
        assert certificate["unit"] == "record"
        assert certificate["neighbouring"] == "add-or-remove-one"
        assert "does not cover" in certificate["statement"]
        assert "one record" in certificate["statement"]
        assert "collude" in certificate["trust"]
        events = [Event.from_json(_json(e)) for e in certificate["events"]]
        assert [e.purpose for e in events] == ["fit", "threshold"]
        assert all(e.colluders == 1 and e.noise_source == "secure" for e in events)
        assert epsilon_of(events, 1e-6) == pytest.approx(certificate["epsilon_spent"])
    assert model.provenance_ is not None
    assert model.provenance_["parties"] == sorted(federation.parties)
    assert model.provenance_["federation"] == "clearing-house"


@pytest.mark.filterwarnings(FLOOR)
def test_the_certificate_says_against_whom_it_does_not_hold(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=20), number_schema, Policy(minimum_colluders=0))
    against = {
        (0, "federation"): "against a party, which knows its own noise, it does not hold",
        (1, "federation"): "against whoever knows the noise of more than 1 of them it does not hold",
        (0, "local"): "neither the other parties nor the masking is trusted",
    }
    for (colluders, trust), words in against.items():
        certificate = federation.fit(ECOD(bins=8), privacy=dp(1.0, colluders=colluders, trust=trust)).certificate_
        assert certificate is not None
        told = certificate["statement"]
        assert words in told
        assert ("it does not hold" in told) == (trust == "federation")


def _json(event: dict) -> bytes:
    import json

    return json.dumps({k: v for k, v in event.items() if k != "guarantee"}).encode()


def test_the_certificate_of_exact_sums_promises_nothing(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    model = federation.fit(ECOD(), privacy=None)
    certificate = model.certificate_
    assert certificate is not None
    assert certificate["differential_privacy"] is False
    assert certificate["epsilon_spent"] is None
    assert certificate["statement"].startswith("Exact sums, no differential privacy")
    assert "count of one" in certificate["statement"]
    assert all("no differential privacy" in e["guarantee"] for e in certificate["events"])
    entries = federation.parties["bank-00"].ledgers["record"].entries()
    assert [entry.event.exact for entry in entries] == [True, True]
    assert federation.parties["bank-00"].ledgers["record"].spent() == 0.0


@pytest.mark.parametrize("detector", [ECOD(), Mahalanobis()], ids=["ECOD", "Mahalanobis"])
def test_fewer_rows_than_epsilon_can_carry_are_warned_about_with_the_floor(
    detector: bs.Detector, number_schema: Schema
) -> None:
    federation = embedded(tables(3, rows=10), number_schema, Policy())
    with pytest.warns(BlindsightWarning, match=r"about [\d,]+ \(± [\d,]+\) usable records; at .* needs about [\d,]+"):
        model = federation.fit(detector, privacy=dp(0.2))
    assert model.noise_floor(model.noise_variance_) > model.n_records_
    assert np.isfinite(model.decision_function(make_table(20, 3))).all()
    assert np.isfinite(model.threshold_)


def test_enough_rows_are_not_warned_about(number_schema: Schema) -> None:
    embedded(tables(3, rows=4000), number_schema, Policy()).fit(ECOD(bins=16), privacy=dp(8.0))


@pytest.mark.filterwarnings(FLOOR)
def test_a_party_lost_after_charging_is_charged_once(number_schema: Schema) -> None:
    federation: Federation = embedded(tables(5, rows=30), number_schema, Policy())
    faulty(federation, tamper=lambda k, name, answer: None if name == "bank-01" and k >= 2 else answer)
    model = federation.fit(ECOD(bins=8), privacy=dp(1.0))
    assert model.provenance_ is not None
    # it charged and drew in the first sum, then its answer was lost; it never heard of the second
    assert charges(federation) == {**dict.fromkeys(federation.parties, 2), "bank-01": 1}
    assert "bank-01" not in model.provenance_["survivors"]["fit"]


@pytest.mark.filterwarnings("ignore:The federation has about")
@pytest.mark.parametrize("contamination", [0.02, 0.05])
def test_the_noisy_threshold_flags_about_what_was_asked(contamination: float) -> None:
    """Mean of sixty federations of 10,000 records: within a fifth, five deviations of that mean.

    A tail shrunk by clipping its noise fails this.
    """
    schema = Schema(tuple(Column(name=f"x{j}", low=-6.0, high=6.0) for j in range(5)))
    shares = []
    for seed in range(60):
        X = np.random.default_rng(seed).normal(size=(10_000, 5))
        data = dict(zip("abc", np.array_split(X, 3), strict=True))
        model = Federation.embedded(data, schema=schema).fit(ECOD(contamination=contamination), privacy=dp(1))
        shares.append(model.predict(X).mean())
    assert abs(np.mean(shares) / contamination - 1) < 0.2


@pytest.mark.filterwarnings(FLOOR)
def test_the_certificate_says_what_was_asked_and_what_was_spent(number_schema: Schema) -> None:
    """Also that the least noise there is keeps a large epsilon from being spent."""
    federation = embedded(tables(4, rows=60), number_schema, Policy(maximum_epsilon=900))
    small = federation.fit(ECOD(bins=8), privacy=dp(2.0)).certificate_
    large = federation.fit(ECOD(bins=8), privacy=dp(400.0)).certificate_
    assert small is not None
    assert large is not None
    spent = shown_epsilon(small["epsilon_spent"])
    assert f"Of the epsilon 2 asked for, this run (fit, threshold) spent {spent}." in small["statement"]
    assert f"by at most a factor e^{spent}," in small["statement"], "one number for one thing"
    assert "could not spend more" not in small["statement"]
    assert large["epsilon_spent"] < 200
    assert f"spent {shown_epsilon(large['epsilon_spent'])}. It could not spend more" in large["statement"]
