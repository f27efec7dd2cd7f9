"""Compressed updates: public places, exact bounds, and that what was not sent waits and is sent later."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blindsight.detectors import AutoEncoder, Training, detector_from_json, detector_to_json
from blindsight.detectors._round_vector import MAX_ROWS, RoundVector
from blindsight.errors import ParameterError
from blindsight.privacy import SampledNoise
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL, totals_of

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

from ._linear import SQUARE_SCHEMA, LineDetector  # noqa: E402 (needs torch)

COARSE = {"sent_fraction": 0.25, "grid_bits": 6}
TABLES = {name: make_table(60, place) for place, name in enumerate("abc")}


class Recorded(LineDetector):
    """Remembers what its training changed and what its vectors left over."""

    def _train(self, local, start, correction):
        trained = super()._train(local, start, correction)
        self.before.append(self._waiting(local))
        self.deltas.append(trained.flat - self._layout.flat(start))
        return trained


def run(training: Training, data, **more):
    model = Recorded(training=training)
    model.before, model.deltas = [], []
    model.run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA, **more))
    return model


def points(n: int = 40) -> np.ndarray:
    return np.round(np.random.default_rng(0).normal([1.0, 0.5], 0.3, size=(n, 2)), 3)


@pytest.mark.parametrize("more", [{"sent_fraction": 0.5}, {"grid_bits": 5}, {"sent_fraction": 0.5, "grid_bits": 5}])
def test_what_is_not_sent_waits_at_the_party(more) -> None:
    training = Training(rounds=6, sampling_rate=1.0, learning_rate=0.05, clip_norm=2.0, **more)
    memories: dict[str, dict[str, bytes]] = {"only": {}}
    model = run(training, {"only": points()}, memories=memories)
    start = LineDetector()
    start.begin(SQUARE_SCHEMA)
    moved = model.parameters_["layer.weight"][0] - start.parameters_["layer.weight"][0]
    waiting = np.frombuffer(memories["only"]["waiting"], dtype="<f4")
    # whatever training changed is in the model, or waits: nothing is lost and nothing is counted twice
    assert np.allclose(np.sum(model.deltas, axis=0), moved + waiting, atol=1e-5)
    assert any(held.any() for held in model.before[1:])
    assert np.abs(waiting).max() > 0


def test_rounds_that_send_half_come_to_where_whole_ones_do() -> None:
    plain = {"rounds": 120, "sampling_rate": 1.0, "learning_rate": 0.05, "clip_norm": 2.0}
    data = {"a": points(30), "b": points(50)}
    whole = run(Training(**plain, weighting="equal"), data).parameters_["layer.weight"][0]
    half = run(Training(**plain, sent_fraction=0.5, grid_bits=8), data).parameters_["layer.weight"][0]
    assert np.allclose(whole, half, atol=0.05)


def test_places_are_public_differ_by_round_and_reach_every_parameter() -> None:
    training = Training(sent_fraction=0.1)
    vectors = [RoundVector(training=training, size=500, seed=3, round_number=r) for r in range(120)]
    assert all(len(v.places) == v.sent == 50 == v.length - 2 for v in vectors)
    assert all((np.diff(v.places) > 0).all() for v in vectors)
    assert not np.array_equal(vectors[0].places, vectors[1].places)
    again = RoundVector(training=training, size=500, seed=3, round_number=7)
    assert np.array_equal(again.places, vectors[7].places)
    other = RoundVector(training=training, size=500, seed=4, round_number=7)
    assert not np.array_equal(other.places, vectors[7].places)
    counts = np.bincount(np.concatenate([v.places for v in vectors]), minlength=500)
    assert counts.min() >= 1
    assert counts.max() < 36


def test_the_places_of_a_seed_are_the_same_everywhere() -> None:
    vector = RoundVector(training=Training(sent_fraction=0.25), size=20, seed=5, round_number=2)
    assert vector.places.tolist() == PLACES


PLACES = [5, 7, 10, 13, 18]


@pytest.mark.parametrize("weighting", ["auto", "rows", "validation"])
@pytest.mark.parametrize("clip_norm", [1e-3, 5.0])
def test_every_vector_is_within_the_bounds_that_it_states(weighting, clip_norm) -> None:
    # totals_of holds each vector against length, max_abs and sensitivity
    training = Training(**{**SMALL, **COARSE, "clip_norm": clip_norm, "weighting": weighting})
    seen: list = []
    AutoEncoder(hidden=(4,), training=training).run(NUMBER_SCHEMA, totals_of(TABLES, NUMBER_SCHEMA, seen=seen))
    rounds = [query for query in seen if query.name.startswith("round/")]
    weight = {"auto": 1, "rows": MAX_ROWS, "validation": 1000}[weighting]
    assert {query.max_abs for query in rounds} == {weight * 64}
    assert {query.narrow for query in rounds} == {True}


def test_what_waits_is_bounded() -> None:
    training = Training(**{**SMALL, **COARSE, "rounds": 8, "clip_norm": 1e-3})
    memories: dict[str, dict[str, bytes]] = {name: {} for name in TABLES}
    AutoEncoder(hidden=(4,), training=training).run(NUMBER_SCHEMA, totals_of(TABLES, NUMBER_SCHEMA, memories=memories))
    for memory in memories.values():
        waiting = np.frombuffer(memory["waiting"], dtype="<f4")
        assert 0 < np.linalg.norm(waiting.astype(float)) <= 1e-3 / 0.25 * (1 + 1e-6)


def test_an_update_on_a_full_grid_is_as_it_was() -> None:
    whole = RoundVector(training=Training(), size=30)
    assert not whole.training.compresses
    assert whole.length == 32
    assert whole.max_abs == MAX_ROWS << 16
    memories: dict[str, dict[str, bytes]] = {name: {} for name in TABLES}
    seen: list = []
    model = AutoEncoder(hidden=(4,), training=Training(**SMALL))
    model.run(NUMBER_SCHEMA, totals_of(TABLES, NUMBER_SCHEMA, memories=memories, seen=seen))
    assert not any("waiting" in memory for memory in memories.values())
    assert not any(getattr(query, "narrow", False) for query in seen)


def test_a_forged_or_broken_memory_counts_as_none() -> None:
    for stored in (b"\0\0\0", np.full(2, np.nan, dtype="<f4").tobytes(), np.ones(3, dtype="<f4").tobytes()):
        training = Training(rounds=1, sampling_rate=1.0, **COARSE)
        model = run(training, {"only": points()}, memories={"only": {"waiting": stored}})
        assert not model.before[0].any()
        assert np.isfinite(model.parameters_["layer.weight"]).all()


def test_dp_sgd_updates_are_compressed_after_the_noise() -> None:
    pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
    noise = SampledNoise(sampling_rate=0.25, noise_multiplier=1.0)
    training = Training(rounds=3, sampling_rate=0.25, **COARSE).under_privacy()
    memories: dict[str, dict[str, bytes]] = {name: {} for name in TABLES}
    model = AutoEncoder(hidden=(4,), training=training)
    model.run(NUMBER_SCHEMA, totals_of(TABLES, NUMBER_SCHEMA, noise=noise, memories=memories))
    assert model.sampled_noise_
    assert all(memory["waiting"] for memory in memories.values())


@pytest.mark.parametrize(
    "wrong",
    [{"sent_fraction": 0.0}, {"sent_fraction": 1.1}, {"grid_bits": 3}, {"grid_bits": 17}, {"grid_bits": 8.0},
     {"sent_fraction": 0.5, "scaffold": True}, {"grid_bits": 8, "aggregation": "median"}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(ParameterError):
        Training(**wrong)


def test_compression_is_declared_with_the_other_parameters() -> None:
    model = AutoEncoder(training=Training(**COARSE))
    plain = json.loads(json.dumps(detector_to_json(model)))
    assert plain["parameters"]["training"]["grid_bits"] == 6
    assert detector_from_json(plain).training == model.training
    del plain["parameters"]["training"]["grid_bits"], plain["parameters"]["training"]["sent_fraction"]
    assert not detector_from_json(plain).training.compresses, "an older request asks for whole updates"
