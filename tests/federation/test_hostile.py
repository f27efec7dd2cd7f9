"""Parties that answer garbage, and a coordinator that asks for it."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import PolicyError, ProtocolError, ReleaseError, SurvivorsError
from blindsight.federation import Federation
from blindsight.federation._steps import query_of, spec_of
from blindsight.federation._wire import Begin, Continue, Hello, Refusal, Reply, Step, decode_reply, encode
from blindsight.securesum import Phase
from blindsight.securesum._wire import encode_request
from sample_tables import NUMBER_SCHEMA, make_table

from ._drive import charges, embedded, faulty, nothing_charged, numpy_counts, stacked, tables

pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")  # few records make quick tests

GARBAGE = {
    "empty": b"",
    "noise": os.urandom(200),
    "zeros": bytes(5000),
    "text": b"HTTP/1.1 200 OK\r\n\r\n",
    "greeting": encode(Hello()),
    "empty reply": encode(Reply(b"")),
    "noise reply": encode(Reply(os.urandom(300))),
    "nested": b"\x91" * 100_000,
}


@pytest.mark.parametrize("phase", range(5))
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_party_that_answers_garbage_is_a_dropout(kind: str, phase: int, number_schema: Schema) -> None:
    data = tables(5, rows=8)
    federation = embedded(data, number_schema)
    channel = faulty(
        federation, tamper=lambda k, name, answer: GARBAGE[kind] if name == "bank-03" and k % 5 == phase else answer
    )
    model = federation.fit(ECOD(bins=8), privacy=None)
    # after masking its vector is in the totals already; only its signature or its shares are missing
    survivors = [name for name in data if name != "bank-03" or phase > 2]
    assert np.array_equal(model.totals_, numpy_counts(stacked(data, survivors), 8))
    assert "bank-03" in federation.history[0].steps[0].dropped
    assert len(federation.history[0].steps[0].dropped["bank-03"]) < 4000
    assert len(channel.requests) == 10


@pytest.mark.parametrize("phase", range(5))
def test_bit_flips_on_the_wire_never_give_a_wrong_total(phase: int, number_schema: Schema) -> None:
    data = tables(4, rows=6)
    generator = np.random.default_rng(phase)
    for _ in range(6):
        federation = embedded(data, number_schema)

        def flip(k: int, name: str, answer: bytes) -> bytes:
            if name != "bank-02" or k != phase:
                return answer
            altered = bytearray(answer)
            bit = int(generator.integers(8 * len(answer)))
            altered[bit // 8] ^= 1 << (bit % 8)
            return bytes(altered)

        faulty(federation, tamper=flip)
        try:
            model = federation.fit(ECOD(bins=4), privacy=None)
        except SurvivorsError:
            continue
        first = federation.history[0].steps[0].survivors
        assert np.array_equal(model.totals_, numpy_counts(stacked(data, first), 4))


@pytest.mark.parametrize("kind", ["SystemExit", "BlindsightWarning", "PolicyError", "x" * 64])
def test_a_refusal_of_any_kind_is_an_error_of_ours(kind: str, number_schema: Schema) -> None:
    answer = encode(Refusal(kind, "no thanks"))
    federation = embedded(tables(4, rows=6), number_schema)
    faulty(federation, tamper=lambda k, name, a: answer if name == "bank-02" and k % 5 == 2 else a)
    federation.fit(ECOD(bins=4), privacy=None)
    assert federation.history[0].steps[0].dropped["bank-02"] == "mask: bank-02: no thanks."
    first = embedded(tables(4, rows=6), number_schema)
    faulty(first, tamper=lambda k, name, a: answer if name == "bank-02" and k == 0 else a)
    with pytest.raises(PolicyError if kind == "PolicyError" else ProtocolError, match="bank-02: no thanks"):
        first.fit(ECOD(bins=4), privacy=None)
    assert nothing_charged(first)


# -- a hostile coordinator


def a_step(federation: Federation) -> Step:
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(), privacy=None)
    return msgspec.msgpack.decode(channel.requests[0]["bank-00"], type=Begin).step


FEDERATION = embedded(tables(3, rows=6), NUMBER_SCHEMA)
STEP = a_step(FEDERATION)
MODEL = ECOD(schema=NUMBER_SCHEMA).fit(make_table(30, 1))

PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_a_party_raise(data: bytes) -> None:
    assert isinstance(decode_reply(FEDERATION.parties["bank-00"].handle(data)), Refusal)


@given(st.dictionaries(st.sampled_from(Step.__struct_fields__), PLAIN, min_size=1, max_size=2))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_step_makes_a_party_raise_or_charge(changes: dict[str, Any]) -> None:
    value = {**msgspec.to_builtins(STEP, builtin_types=(bytes,)), **changes}
    request = msgspec.msgpack.encode({"type": "begin", "step": value})
    answer = decode_reply(FEDERATION.parties["bank-00"].handle(request))
    assert isinstance(answer, Reply | Refusal)
    if isinstance(answer, Refusal):
        assert answer.error("x")
    assert nothing_charged(FEDERATION)


@pytest.mark.parametrize("purpose", ["threshold", "evaluation"])
@pytest.mark.parametrize("field", ["score_scale", "noise_variance", "histogram", "bias"])
def test_a_poisoned_model_does_not_end_a_party(purpose: str, field: str) -> None:
    """An unfinished or absurd model must be refused, not crash whoever reads it."""
    model = modelfile.loads(modelfile.dumps(MODEL))
    if field == "histogram":
        del model.score_histogram_
        model.noise_variance_ = 1.0
    elif field == "bias":
        object.__setattr__(model.circuit_, "bias", 1 << 40)
    else:
        setattr(model, {"score_scale": "score_scale_"}.get(field, "noise_variance_"), 1e-90)
    step = msgspec.structs.replace(
        STEP,
        step=f"{purpose}-{field}",
        purpose=purpose,  # type: ignore[arg-type]
        part=purpose,
        dataset="evaluation" if purpose == "evaluation" else "training",
        model=modelfile.dumps(model),
    )
    answer = decode_reply(FEDERATION.parties["bank-00"].handle(encode(Begin(step))))
    assert isinstance(answer, Reply | Refusal)
    good = msgspec.structs.replace(STEP, step=f"ok-{purpose}-{field}")
    again = decode_reply(FEDERATION.parties["bank-00"].handle(encode(Begin(good))))
    assert isinstance(again, Reply), "the party still serves"


def test_a_release_that_was_never_begun_is_refused() -> None:
    answer = decode_reply(FEDERATION.parties["bank-00"].handle(encode(Continue("run/none", b"x"))))
    error = answer.error("bank-00")  # type: ignore[union-attr]
    assert isinstance(error, ReleaseError)
    assert "never begun here" in str(error)


def test_a_second_survivor_set_is_refused_and_nothing_more_is_charged(number_schema: Schema) -> None:
    """The coordinator runs a sum to the confirmation, then asks to confirm another set for the same release."""
    data = tables(5, rows=6)
    federation = embedded(data, number_schema)
    channel = faulty(federation, silent_from=dict.fromkeys(data, 4))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(), privacy=None)
    confirm = msgspec.msgpack.decode(channel.requests[3]["bank-00"], type=Continue)
    before = charges(federation)
    victim = federation.parties["bank-00"]
    assert victim.handle(encode(confirm)) == channel.answers[3]["bank-00"], "the same set again gets the same bytes"
    step = msgspec.msgpack.decode(channel.requests[0]["bank-00"], type=Begin).step
    spec = spec_of(step, query_of(step, number_schema, allowed=frozenset({"ECOD"})))
    fewer = {name: b"" for name in spec.names if name != "bank-04"}
    request = encode(Continue(confirm.release_id, encode_request(spec, Phase.CONFIRM, fewer)))
    error = decode_reply(victim.handle(request)).error("bank-00")  # type: ignore[union-attr]
    assert isinstance(error, ReleaseError)
    assert "answered before, to another request" in str(error)
    assert "new release with fresh noise and a new charge" in str(error)
    assert charges(federation) == before == dict.fromkeys(data, 1)
