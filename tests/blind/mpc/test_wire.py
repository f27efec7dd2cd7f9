"""Messages to operators: what is written is read, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blind._models import quadratic_model, table_model
from blindsight.blind.mpc._wire import ModelHeader, Prepare, RunHeader, SessionHeader, pack, unpack
from blindsight.errors import WireError

pytest.importorskip("spu", reason="the extra 'mpc' is not installed")

from blindsight.blind.mpc import program_of
from blindsight.blind.mpc._offer import MpcOffer

RUN = RunHeader(id="0" * 32, model="f" * 32, rows=3)


def test_messages_survive() -> None:
    assert unpack(pack(RUN, [b"share"]), RunHeader, pieces="one") == (RUN, [b"share"])
    model = ModelHeader(name="fraud", id="1" * 32, bits_per_owner=5)
    assert unpack(pack(model, [b"offer", b"", b"s"]), ModelHeader, pieces="some") == (model, [b"offer", b"", b"s"])
    asked = Prepare(RUN, "e" * 64)
    assert unpack(pack(asked), Prepare) == (asked, [])


def test_the_bytes_of_a_message() -> None:
    """The test vector of docs/wire-blind.md, 'MPC'."""
    message = pack(SessionHeader(name="00112233445566778899aabbccddeeff"))
    assert message.hex() == (
        "42534d5035000000"  # BSMP, 53 bytes of header, no piece
        "82a474797065a773657373696f6ea46e616d65d920" + b"00112233445566778899aabbccddeeff".hex()
    )


@settings(max_examples=300)
@given(st.data())
def test_mutations_are_refused_or_say_something_valid(data: st.DataObject) -> None:
    message = bytearray(pack(RUN, [b"share of some length"]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 8))
    mutated = bytes(message[: len(message) - cut])
    try:
        header, pieces = unpack(mutated, RunHeader, pieces="one")
    except WireError:
        return
    assert pack(header, pieces) == mutated


@pytest.mark.parametrize("kind", [ModelHeader, SessionHeader, Prepare])
def test_another_kind_is_refused(kind: type) -> None:
    with pytest.raises(WireError):
        unpack(pack(RUN, [b"share"]), kind, pieces="some")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_offers_are_refused_or_consistent(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from([table_model(2, 4), quadratic_model(2)]))
    program, _ = program_of(model)
    offer = MpcOffer(program=program, inputs=model.encoder_, schema={}, score_scale=0.5, secret=True)
    encoded = bytearray(offer.encode())
    assert MpcOffer.decode(bytes(encoded)) == offer
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(32, 126))
    try:
        found = MpcOffer.decode(bytes(encoded))
    except WireError:
        return
    assert found.records(np.zeros((1, 2))).shape == (1, found.program.inputs)
