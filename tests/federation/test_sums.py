"""Masked, BFV and Paillier sums in a federation: the same model from all three, and the policy that has to allow it."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import ParameterError, PolicyError, SurvivorsError
from blindsight.federation import Policy
from blindsight.securesum import names_shared_key

from ._drive import PHASES, dp, embedded, faulty, nothing_charged, numpy_counts, stacked, tables

SHARED = Policy(allow_exact_sums=True, allow_shared_key_sums=True)


def test_ecod_is_the_same_model_however_its_sums_are_hidden(number_schema: Schema) -> None:
    data = tables(3)
    detector = ECOD(bins=8)
    masked = embedded(data, number_schema).fit(detector, privacy=None)
    for sums in ("he", "paillier"):
        federation = embedded(data, number_schema, SHARED, sums=sums)
        model = federation.fit(detector, privacy=None)
        assert np.array_equal(model.totals_, masked.totals_)
        assert np.array_equal(model.totals_, numpy_counts(stacked(data), 8))
        assert model.circuit_ == masked.circuit_
        assert model.threshold_ == masked.threshold_
        assert np.array_equal(model.score_histogram_.counts, masked.score_histogram_.counts)
        assert [step.sums for step in federation.history[0].steps] == [sums, sums]


@pytest.mark.parametrize("sums", ["he", "paillier"])
def test_a_policy_that_does_not_name_it_refuses_before_anything_is_charged(sums: str, number_schema: Schema) -> None:
    for policy in (Policy(allow_exact_sums=True), {"bank-01": Policy(allow_exact_sums=True), "bank-00": SHARED}):
        federation = embedded(tables(3), number_schema, policy, sums=sums)
        with pytest.raises(PolicyError, match=r"sums under a shared key.*colludes with the coordinator") as caught:
            federation.fit(ECOD(), privacy=None)
        assert "allow_shared_key_sums = false" in str(caught.value)
        assert nothing_charged(federation)


@pytest.mark.filterwarnings("ignore:The federation has about")  # at trust="local" the noise decides whether it does
def test_the_certificate_names_who_can_open_everything(number_schema: Schema) -> None:
    policy = Policy(allow_shared_key_sums=True)
    said = {}
    for trust in ("federation", "local"):
        model = embedded(tables(3), number_schema, policy, sums="he").fit(ECOD(bins=8), privacy=dp(trust=trust))
        certificate = model.certificate_
        assert certificate is not None
        assert names_shared_key(certificate["trust"])
        assert (
            "no party may collude with the coordinator: one that does opens every party's vector"
            in (certificate["trust"])
        )
        assert "the coordinator and any one of them together open every party's vector" in certificate["statement"]
        said[trust] = certificate["statement"]
    assert "and epsilon does not hold there" in said["federation"]
    assert "each party's own noise keeps epsilon even there" in said["local"]
    masked = embedded(tables(3), number_schema).fit(ECOD(bins=8), privacy=dp())
    assert masked.certificate_ is not None
    assert not names_shared_key(masked.certificate_["trust"])
    assert "shared one key" not in masked.certificate_["statement"]


@pytest.mark.parametrize("phase", range(5), ids=PHASES)
@pytest.mark.parametrize("gone", ["bank-00", "bank-02"])
def test_a_dropout_at_each_phase_keeps_the_survivor_rules(phase: int, gone: str, number_schema: Schema) -> None:
    """bank-00 draws the key; bank-02 is anybody."""
    data = tables(5, rows=20)
    federation = embedded(data, number_schema, SHARED, sums="he")
    faulty(federation, silent_from={gone: phase})
    if phase <= 2:
        model = federation.fit(ECOD(bins=8), privacy=None)
        survivors = [name for name in data if name != gone]
        assert [step.survivors for step in federation.history[0].steps] == [survivors, survivors]
        assert np.array_equal(model.totals_, numpy_counts(stacked(data, survivors), 8))
    else:
        with pytest.raises(SurvivorsError, match="over other parties than an earlier one"):
            federation.fit(ECOD(bins=8), privacy=None)
        assert [len(step.survivors) for step in federation.history[0].steps] == [5]


def test_of_three_parties_none_may_vanish(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=20), number_schema, SHARED, sums="he")
    faulty(federation, silent_from={"bank-01": 2})
    with pytest.raises(SurvivorsError, match="missing bank-01"):
        federation.fit(ECOD(bins=8), privacy=None)


def test_auto_takes_masks_and_needs_no_permission(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, sums="auto")
    federation.fit(ECOD(bins=8), privacy=None)
    assert {step.sums for step in federation.history[0].steps} == {"masked"}


def test_an_unknown_way_to_hide_sums_is_refused(number_schema: Schema) -> None:
    with pytest.raises(ParameterError, match="masked, he, paillier, auto"):
        embedded(tables(3), number_schema, sums="plain")
