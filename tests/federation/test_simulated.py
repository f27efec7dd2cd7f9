"""A fleet over a simulated network: the sums are the real ones, whoever drops out, and the seed decides who does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import blindsight as bs
from blindsight.channels import SimulatedNetwork
from blindsight.data import Split, partition
from blindsight.errors import ParameterError, SurvivorsError
from sample_tables import NUMBER_SCHEMA, make_table

PARTIES = 14
pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")  # a few records each


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return partition(make_table(700, 1), NUMBER_SCHEMA, PARTIES, Split(kind="dirichlet", alpha=0.5), seed=5)


def fleet(tables, seed=5, *, exact=True, timeout_s=60.0, **network) -> bs.Federation:
    return bs.Federation.simulated(
        tables,
        schema=NUMBER_SCHEMA,
        seed=seed,
        network=SimulatedNetwork(**network),
        timeout_s=timeout_s,
        policy=bs.Policy(allow_exact_sums=exact, detectors=("ECOD", "Mahalanobis"), maximum_epsilon=50.0),
    )


@pytest.mark.parametrize("detector", [bs.ECOD, bs.Mahalanobis])
@pytest.mark.parametrize("seed", [5, 6])
def test_the_model_is_that_of_the_survivors_records_together(tables, detector, seed):
    with fleet(tables, seed, dropout=0.3, dropouts_in="first") as federation:
        model = federation.fit(detector(), privacy=None)
        survivors = federation.history[0].steps[0].survivors
        report = federation.fleet()
    assert len(survivors) < PARTIES
    alone = detector(schema=NUMBER_SCHEMA).fit(pl.concat([tables[name] for name in survivors]))
    assert model.circuit_ == alone.circuit_
    assert model.threshold_ == alone.threshold_
    assert [e.part for e in report.exchanges[:5]] == ["advertise", "share", "mask", "confirm", "unmask"]
    first = report.exchanges[:5]
    assert sum(e.absent + e.lost for e in first) == int(0.3 * PARTIES)
    assert first[2].answered == len(survivors)
    assert report.virtual_s >= 60.0, "the coordinator waited for those who were gone"
    assert report.party_sent_bytes[1] > report.party_sent_bytes[0] / 2 > 0


def test_the_seed_decides_who_survives(tables):
    runs = []
    for seed in (5, 5, 8):
        with fleet(tables, seed, dropout=0.25, dropouts_in="first") as federation:
            federation.fit(bs.ECOD(), privacy=None)
            runs.append((federation.history[0].steps[0].survivors, federation.fleet().virtual_s))
    assert runs[0] == runs[1] != runs[2]


def test_with_noise_every_sum_may_lose_others(tables):
    privacy = bs.DifferentialPrivacy(epsilon=20.0, delta=1e-5)
    with fleet(tables, exact=False, dropout=0.2) as federation:
        model = federation.fit(bs.ECOD(), privacy=privacy)
        survivors = [step.survivors for step in federation.history[0].steps]
        charged = [party.ledgers["record"].entries() for party in federation.parties.values()]
    assert survivors[0] != survivors[1]
    assert np.isfinite(model.threshold_)
    assert all(len(entries) <= 2 for entries in charged), "who dropped out before masking was not charged"
    assert any(len(entries) < 2 for entries in charged)


def test_exact_sums_do_not_go_on_without_a_survivor_of_the_first(tables):
    with (
        fleet(tables, dropout=0.25) as federation,
        pytest.raises(SurvivorsError, match="other parties than an earlier"),
    ):
        federation.fit(bs.ECOD(), privacy=None)


def test_a_deadline_too_short_for_the_lines_leaves_too_few(tables):
    with (
        fleet(tables, latency_ms=500, timeout_s=0.6) as federation,
        pytest.raises(SurvivorsError, match="Too few parties"),
    ):
        federation.fit(bs.ECOD(), privacy=None)


def test_only_a_simulated_federation_has_a_fleet():
    data = {name: make_table(30, i) for i, name in enumerate("abc")}
    with bs.Federation.embedded(data, schema=NUMBER_SCHEMA) as federation, pytest.raises(ParameterError):
        federation.fleet()
