"""Compressed rounds in masked sums: fewer bytes, the same totals whoever drops out, the same charges and policies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blindsight.data import Schema
from blindsight.detectors import AutoEncoder, Training
from blindsight.errors import ParameterError, PolicyError
from blindsight.federation import Federation, Policy
from blindsight.federation._rules import Limit
from blindsight.federation._steps import spec_of

from ._drive import dp, embedded, faulty, tables

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")

POLICY = Policy(allow_exact_sums=True, detectors=("AutoEncoder",), units=("record", "party"), maximum_epsilon=100.0)
PLAIN = {"rounds": 2, "sampling_rate": 0.5, "learning_rate": 0.1, "clip_norm": 5.0, "weighting": "equal"}


def fit(federation: Federation, privacy=None, **more):
    model = AutoEncoder(hidden=(16,), scales="declared", training=Training(**PLAIN, **more))
    return federation.fit(model, privacy=privacy)


def up(federation: Federation) -> int:
    """Bytes that all parties sent in the second round."""
    return federation.history[0].steps[-2].received_bytes


def test_a_quarter_on_eight_bits_is_a_sixteenth_of_the_vector(number_schema: Schema) -> None:
    sent = {}
    for name, more in {
        "whole": {},
        "narrow": {"grid_bits": 8},
        "both": {"grid_bits": 8, "sent_fraction": 0.25},
    }.items():
        federation = embedded(tables(4), number_schema, POLICY)
        model = fit(federation, **more)
        size = model.describe_state()["parameters"]
        step = federation.history[0].steps[-2]
        sent[name] = (step.length, up(federation))
        assert step.step == "round/1"
        assert step.survivors == sorted(federation.parties)
    # 64 bits, 16 bits, and 16 bits of a quarter of the parameters; everything else a round sends is the same
    assert sent["whole"][0] == sent["narrow"][0] == size + 2
    assert sent["both"][0] == -(-size // 4) + 2
    assert sent["whole"][1] - sent["narrow"][1] == pytest.approx(4 * 6 * (size + 2), abs=40)
    assert sent["whole"][1] - sent["both"][1] == pytest.approx(4 * (8 * (size + 2) - 2 * sent["both"][0]), abs=40)


def test_a_total_in_sixteen_bits_is_the_survivors_sum(number_schema: Schema) -> None:
    federation = embedded(tables(6), number_schema, POLICY)
    faulty(federation, silent_from={"bank-04": 2})  # from the first sum's masks on
    model = fit(federation, sent_fraction=0.5, grid_bits=8)
    same = embedded({name: table for name, table in tables(6).items() if name != "bank-04"}, number_schema, POLICY)
    expected = fit(same, sent_fraction=0.5, grid_bits=8)
    for name, array in expected.parameters_.items():
        assert np.array_equal(array, model.parameters_[name]), name


def test_the_width_holds_every_partys_largest_vector_with_its_noise(number_schema: Schema) -> None:
    seen = []

    class Watched(AutoEncoder):
        def advance(self, query, total):
            seen.append((query, total))
            super().advance(query, total)

    federation = embedded(tables(5), number_schema, POLICY)
    model = Watched(hidden=(4,), scales="declared", training=Training(**PLAIN, grid_bits=8))
    federation.fit(model, privacy=dp(30.0, unit="party"))
    rounds = [(query, total) for query, total in seen if query.name.startswith("round/")]
    events = [entry.event for entry in federation.parties["bank-00"].ledgers["party"].entries()]
    by_name = {event.query: event for event in events}
    for query, total in rounds:
        event = by_name[query.name]
        assert event.sensitivity_l2 == query.sensitivity_l2 < 257, "on a grid of 256, one party moves the total by that"
        assert total.noise_variance == pytest.approx(5 * event.local_variance)
        assert np.abs(total.values).max() < 2**31


@pytest.mark.parametrize(("grid_bits", "parties", "bits"), [(16, 5, 64), (15, 5, 32), (8, 5, 16), (8, 200, 32)])
def test_the_ring_is_as_narrow_as_the_bounds_allow(grid_bits, parties, bits, number_schema: Schema) -> None:
    from blindsight.detectors import detector_to_json
    from blindsight.federation._steps import as_asked
    from blindsight.federation._wire import Step
    from blindsight.securesum import default_threshold

    training = Training(**PLAIN, grid_bits=grid_bits)
    model = as_asked(AutoEncoder(hidden=(4,), scales="declared", training=training), number_schema, None)
    model.begin(number_schema)
    step = Step(
        federation="f", run="r", step="round/0", purpose="fit", part="", dataset="training",
        participants=[(f"p{i:04d}", i.to_bytes(32, "big")) for i in range(parties)],
        threshold=default_threshold(parties), schema_digest=number_schema.digest(),
        detector=detector_to_json(model), model=None, privacy=None,
    )  # fmt: skip
    query = model._round_query()
    spec = spec_of(step, query)
    assert spec.bits == bits
    assert parties * query.max_abs < 2 ** (bits - 1)
    assert spec.max_abs >= query.max_abs


def test_dp_sgd_is_charged_the_same_whatever_is_sent(number_schema: Schema) -> None:
    pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
    spent = []
    for more in ({}, {"sent_fraction": 0.25, "grid_bits": 8}):
        federation = embedded(tables(4, rows=60), number_schema, POLICY)
        certificate = fit(federation, dp(20.0), **more).certificate_
        spent.append(certificate["epsilon_spent"])
    assert spent[0] == spent[1]


def test_a_policy_limits_it_like_every_parameter(number_schema: Schema) -> None:
    limited = replace(POLICY, limits={"AutoEncoder": {"training.grid_bits": Limit(least=16)}})
    federation = embedded(tables(3), number_schema, limited)
    with pytest.raises(PolicyError, match="grid_bits"):
        fit(federation, grid_bits=8)
    fit(federation)


def test_control_variates_cannot_be_compressed() -> None:
    with pytest.raises(ParameterError, match="cannot be compressed"):
        Training(scaffold=True, sent_fraction=0.5)
