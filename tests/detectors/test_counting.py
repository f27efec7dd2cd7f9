"""Counts per block of any one-hot encoding: what is summed, and how a noisy total is read."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.circuits import OneHot
from blindsight.data import records
from blindsight.detectors import (
    ECOD,
    LODA,
    OCSVM,
    PCA,
    Detector,
    IForest,
    RandomFeatures,
    TableStudent,
    Total,
    local_total,
)
from blindsight.detectors._counting import CountingDetector
from blindsight.detectors._counts import BlockCounts
from blindsight.detectors._features import count_query
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

TABLE = make_table(300, 0)


def detectors() -> list[CountingDetector]:
    return [ECOD(bins=8), IForest(trees=5, depth=3), LODA(projections=7, bins=6)]


@pytest.mark.parametrize("model", detectors(), ids=lambda model: model.name)
def test_the_sum_is_that_of_the_encodings_and_a_record_attains_the_sensitivity(model: CountingDetector) -> None:
    model.begin(MIXED_SCHEMA)
    encoder = model.encoder(MIXED_SCHEMA)
    query = count_query("any", encoder)
    chunk = next(iter(records(MIXED_SCHEMA, TABLE)))
    total = np.zeros(query.length, dtype=np.int64)
    query.add(total, chunk)
    assert (total == encoder.encode(chunk.X).sum(axis=0)).all()
    one = np.zeros(query.length, dtype=np.int64)
    query.add(one, next(iter(records(MIXED_SCHEMA, TABLE[:1]))))
    assert np.linalg.norm(one) == pytest.approx(query.sensitivity_l2, rel=1e-12)
    assert one.max() == query.max_abs


@pytest.mark.parametrize("model", detectors(), ids=lambda model: model.name)
def test_a_score_is_the_sum_or_mean_of_the_tables(model: CountingDetector) -> None:
    model.set_params(schema=MIXED_SCHEMA).fit(TABLE)
    encoder = model.encoder_
    assert isinstance(encoder, OneHot)
    counts = BlockCounts.read(encoder, Total(values=model.totals_))
    tables = np.concatenate(model._tables(MIXED_SCHEMA, encoder, counts))
    X = next(iter(records(MIXED_SCHEMA, TABLE))).X
    scores = encoder.encode(X) @ tables / (encoder.blocks if model.mean_of_blocks else 1)
    assert np.allclose(model.decision_function(TABLE), scores, atol=2.0**-11 * encoder.blocks)
    assert counts.n == model.n_records_ == len(TABLE)


def test_noisy_counts_are_made_consistent_block_by_block() -> None:
    model = ECOD(bins=8, schema=MIXED_SCHEMA).fit(TABLE)
    encoder = model.encoder(MIXED_SCHEMA)
    noise = np.rint(np.random.default_rng(0).normal(0, 5, encoder.length)).astype(np.int64)
    noisy = model.totals_ + noise
    read = BlockCounts.read(encoder, Total(values=noisy, noise_variance=25.0))
    parts = np.split(noisy, encoder.offsets[1:])
    assert any((part < 0).any() for part in parts), "there is something to mend"
    assert read.n == pytest.approx(np.mean([part.sum() for part in parts]))
    assert read.deviation == 5.0
    for block, part in zip(read.blocks, parts, strict=True):
        assert block.shape == part.shape
        assert (block >= 0).all()
        assert block.sum() == pytest.approx(read.n)


def test_counts_of_nobody_are_those_of_one() -> None:
    encoder = ECOD(bins=8).fit(TABLE).encoder_
    assert isinstance(encoder, OneHot)
    assert BlockCounts.read(encoder, Total(values=np.zeros(encoder.length, dtype=np.int64))).n == 1.0


def counters() -> list[Detector]:
    teacher = ECOD(schema=NUMBER_SCHEMA).fit(TABLE)
    return [
        *detectors(),
        PCA(),
        RandomFeatures(features=64),
        OCSVM(features=64, rounds=2),
        TableStudent(teacher=teacher),
    ]


@pytest.mark.parametrize("model", counters(), ids=lambda model: model.name)
def test_the_noise_of_the_number_of_records_is_what_it_says(model: Detector) -> None:
    """Over many noised totals: its stated deviation, within what sixty draws can be off."""
    generator = np.random.default_rng(0)

    def fitted(share: float) -> Detector:
        def total_of(query: object) -> Total:
            values = local_total(query, NUMBER_SCHEMA, TABLE).values  # type: ignore[arg-type]
            deviation = share * query.sensitivity_l2  # type: ignore[attr-defined]
            noise = np.rint(generator.normal(0, deviation, values.size)) if share else np.zeros(values.size)
            return Total(values=values + noise.astype(np.int64), noise_variance=deviation**2)

        return model.unfitted_copy().run(NUMBER_SCHEMA, total_of)

    exact = fitted(0.0)
    assert exact.n_records_ == pytest.approx(len(TABLE))
    assert exact.n_records_deviation_ == 0.0
    noised = [fitted(0.8) for _ in range(60)]
    stated = noised[0].n_records_deviation_
    assert 0 < stated < 60, "the count stays clear of 0, where it is cut off"
    measured = np.std([each.n_records_ for each in noised])
    # a standard deviation of 60 draws is off by more than 40% in one case of a hundred thousand
    assert 0.6 * stated < measured < 1.4 * stated
