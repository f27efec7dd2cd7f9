"""Blind equals clear: integer for integer where the circuit is whole, within a bound where it is a network."""

from typing import Any

import numpy as np
import pytest

import blindsight as bs
from blindsight.blind.mpc import program_of
from blindsight.blind.mpc._offer import MpcOffer
from blindsight.blind.mpc._shares import join
from blindsight.circuits import evaluate

from ._threads import Threads
from .conftest import NetworkModel


def scored(threads: Threads, name: str, model: Any, answer: Any, X: np.ndarray) -> np.ndarray:
    program, secrets = program_of(model, protocol="aby3" if threads.operators == 3 else "cheetah", answer=answer)
    inputs = model.encoder_ if program.whole else model.inputs_
    offer = MpcOffer(program=program, inputs=inputs, schema={}, score_scale=1.0, secret=True)
    assert MpcOffer.decode(offer.encode()).program == program
    threads.load(name, program, secrets)
    return join(program, len(X), threads.run(name, program, offer.records(X)))


@pytest.mark.parametrize("name", ["ecod", "iforest", "loda", "mahalanobis", "random_features"])
def test_whole_circuits_of_real_records_under_aby3(three: Threads, detectors: Any, hospital: Any, name: str) -> None:
    table, X, _ = hospital
    model = detectors[name]
    scores = scored(three, f"{name}-score", model, "score", X)
    assert scores.dtype == np.int64
    assert np.array_equal(scores, evaluate(model.encoder_, model.circuit_, X))
    verdicts = scored(three, f"{name}-verdict", model, "verdict", X)
    assert np.array_equal(verdicts, model.predict(table) == 1)
    assert 0 < verdicts.sum() < len(verdicts)


@pytest.mark.parametrize("name", ["ecod", "mahalanobis"])
def test_whole_circuits_of_real_records_under_cheetah(two: Threads, detectors: Any, hospital: Any, name: str) -> None:
    _, X, _ = hospital
    model, X = detectors[name], X[::12]
    scores = scored(two, f"{name}-score", model, "score", X)
    assert np.array_equal(scores, evaluate(model.encoder_, model.circuit_, X))


def test_verdicts_at_the_threshold_itself(three: Threads, two: Threads, detectors: Any, hospital: Any) -> None:
    """The threshold is set to a score that records have, one above, and one below."""
    _, X, _ = hospital
    model, X = detectors["ecod"], X[:24]
    scale, scores = model.score_scale_, evaluate(model.encoder_, model.circuit_, X)

    class Moved:
        encoder_, circuit_, score_scale_ = model.encoder_, model.circuit_, scale

    for shift in (-1, 0, 1):
        Moved.threshold_ = float((int(scores[5]) + shift) * scale)
        expected = scores * scale > Moved.threshold_
        for threads in (three, two):
            assert np.array_equal(scored(threads, "moved", Moved, "verdict", X), expected)
        assert expected[5] == (shift < 0)


@pytest.mark.parametrize("kind", ["relu", "leaky", "square", "tanh"])
def test_networks_within_a_thousandth_of_the_threshold(three: Threads, hospital: Any, kind: str) -> None:
    _, X, schema = hospital
    for target in ("inputs", "centre"):
        model = NetworkModel(schema, X, kind, target)
        scores = scored(three, f"{kind}-{target}", model, "score", X)
        clear = model.decision_function(X)
        near = clear <= 2 * model.threshold_  # further out an error grows with the score, and decides nothing
        assert np.abs(scores - clear)[near].max() <= 1e-3 * model.threshold_
        verdicts = scored(three, f"{kind}-{target}-v", model, "verdict", X)
        decided = np.abs(clear - model.threshold_) > 1e-3 * model.threshold_
        assert np.array_equal(verdicts[decided], (clear > model.threshold_)[decided])


def test_a_network_under_cheetah(two: Threads, hospital: Any) -> None:
    _, X, schema = hospital
    model = NetworkModel(schema, X, "relu", "inputs")
    scores = scored(two, "relu", model, "score", X[:64])
    assert np.abs(scores - model.decision_function(X[:64])).max() <= 1e-3 * model.threshold_


@pytest.mark.parametrize("name", ["AutoEncoder", "DeepSVDD"])
def test_trained_networks(three: Threads, hospital: Any, name: str) -> None:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    table, X, schema = hospital
    model = getattr(bs, name)(schema=schema, training=bs.Training(rounds=1)).fit(table)
    scores = scored(three, name, model, "score", X)
    clear = model.decision_function(table)
    assert np.abs(scores - clear).max() <= 1e-3 * model.threshold_
    verdicts = scored(three, f"{name}-v", model, "verdict", X)
    decided = np.abs(clear - model.threshold_) > 1e-3 * model.threshold_
    assert np.array_equal(verdicts[decided], (model.predict(table) == 1)[decided])


def test_a_steep_network_takes_the_larger_ring(three: Threads, hospital: Any) -> None:
    _, X, schema = hospital
    model = NetworkModel(schema, X, "relu", "inputs", gain=12.0)
    program, _ = program_of(model)
    assert (program.ring_bits, program.fraction_bits) == (128, 36)
    scores = scored(three, "steep", model, "score", X[:40])
    assert np.abs(scores - model.decision_function(X[:40])).max() <= 1e-3 * model.threshold_
