"""What holds for detectors that are a secret inner product on a public encoding; and who refuses to be one."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import numpy as np

from blindsight.circuits import InnerProduct, Windowed
from blindsight.data import Schema
from blindsight.detectors import CircuitDetector
from blindsight.errors import BlindsightError, CapacityError, MissingExtraError

from ._kit import ROWS, Check, Make, expect, fitted
from ._sample import sample_chunk, sample_records

__all__ = ["CHECKS", "check_blind", "check_operators"]


def _fitted(make: Make, schema: Schema, seed: int) -> CircuitDetector:
    model = fitted(make, schema, sample_records(schema, ROWS, seed))
    assert isinstance(model, CircuitDetector)
    return model


def _check_bounds(make: Make, schema: Schema) -> None:
    """The static bounds hold for every record at all: engines choose their parameters by them."""
    model = _fitted(make, schema, 8)
    low, high = model.circuit_.bounds(model.encoder_)
    assert -(2**62) < low <= high < 2**62, "scores fit in int64"
    for seed in range(5):
        table = sample_records(schema, 400, 100 + seed, extreme=(0.0, 0.2, 0.5, 0.8, 1.0)[seed])
        scores = model.decision_function(table) / model.score_scale_
        assert scores.min() >= low - 0.5, "a score lies below the static bound"
        assert scores.max() <= high + 0.5, "a score lies above the static bound"


def _check_circuit(make: Make, schema: Schema) -> None:
    """The score is one integer inner product on a public encoding."""
    model = _fitted(make, schema, 9)
    table = sample_records(schema, ROWS, 9)
    assert isinstance(model.circuit_, InnerProduct), "the circuit is an inner product"
    weights = model.circuit_.weights
    assert weights.dtype == np.int64, "weights are int64"
    assert weights.shape == (model.encoder_.length,), "one weight per slot"
    assert not weights.flags.writeable, "weights are read-only"
    assert type(model.circuit_.bias) is int, "the bias is an integer"
    assert model.score_scale_ > 0, "higher is more anomalous"
    assert model.encoder_.same_form(model._expected_encoder()), "the encoder follows from schema, parameters and state"
    shown = repr(model.circuit_)
    assert str(int(weights[np.argmax(np.abs(weights))])) not in shown or abs(weights).max() < 10, "repr shows the model"
    some = 12
    e = model.encoder_.encode(sample_chunk(schema, table).X)
    assert np.abs(e).max() <= model.encoder_.max_abs, "the encoding keeps its bound"
    by_hand = [
        sum(int(a) * int(w) for a, w in zip(row, weights, strict=True)) + model.circuit_.bias for row in e[:some]
    ]
    scores = model.decision_function(table)
    assert np.array_equal(np.array(by_hand, dtype=np.float64) * model.score_scale_, scores[:some]), (
        "decision_function is not <e(x), w> + b"
    )
    whole = e.astype(object) @ weights.astype(object) + model.circuit_.bias if e.size < 1 << 20 else None
    assert whole is None or np.array_equal(whole.astype(np.float64) * model.score_scale_, scores), "nor for the rest"


def check_blind(make: Make, schema: Schema) -> None:
    """Scored blind, the scores are those of decision_function, exactly; or the model is refused by name."""
    try:
        from blindsight.blind import RecordOwner, Scorer
    except (ImportError, MissingExtraError) as error:
        raise SkipTest(f"blind scoring is not installed: {error}") from error
    model = fitted(make, schema, sample_records(schema, ROWS, 15))
    if not isinstance(model, CircuitDetector):
        text = expect(BlindsightError, lambda: Scorer(model), "blind scoring of what is no inner product")
        assert type(model).__name__ in text, f"the refusal does not name {type(model).__name__}: {text}"
        return
    try:
        scorer = Scorer(model)
    except CapacityError:
        return  # refused by name: no parameters at 128-bit security carry this circuit
    except MissingExtraError as error:
        raise SkipTest(str(error)) from error
    table = sample_records(schema, 6, 16)
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(sample_chunk(schema, table).X)
    opened = owner.open(scorer.score(sealed))
    assert np.array_equal(opened, model.decision_function(table)), "blind scores differ from decision_function"


def check_operators(make: Make, schema: Schema) -> None:
    """What says of itself that operators score it is a network that gives the scores of decision_function."""
    made = make()
    if not (getattr(made, "feed_forward", False) or getattr(made, "by_operators", False)):
        return
    try:
        from blindsight.blind.mpc import program_of
        from blindsight.blind.mpc._offer import MpcOffer
        from blindsight.blind.mpc._records import records_of
    except (ImportError, MissingExtraError) as error:
        raise SkipTest(f"blind scoring is not installed: {error}") from error
    model: Any = fitted(make, schema, sample_records(schema, ROWS, 17))
    program, secrets = program_of(model)
    shapes = [argument.shape for argument in program.secrets()]
    assert [secret.shape for secret in secrets] == shapes, "the secrets are those of the program"
    offer = MpcOffer(
        program=program, inputs=model.inputs_, schema=dict(schema.to_json()), score_scale=1.0, secret=model.is_secret_
    )
    assert MpcOffer.decode(offer.encode()) == offer, "the offer survives"
    table = sample_records(schema, 12, 18)
    scores = model.decision_function(table)
    X = table if isinstance(model.inputs_, Windowed) else sample_chunk(schema, table).X
    n, pieces = records_of(offer, X, 5)
    found = np.full(n, np.nan)
    for place, encoded in pieces:
        found[place] = model.network_.scores(encoded)
    assert np.allclose(found, scores, rtol=1e-5, atol=1e-5), "the network's scores are those of decision_function"


CHECKS: tuple[Check, ...] = (_check_bounds, _check_circuit)
