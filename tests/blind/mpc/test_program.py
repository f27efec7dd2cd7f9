"""Descriptions of programs: what is refused, by name, and that all operators compare what they run."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blind._models import table_model
from blindsight.blind.mpc import Program, program_of
from blindsight.blind.mpc._describe import whole_threshold
from blindsight.blind.mpc._program import FRACTION_BITS, Step, check_protocol
from blindsight.circuits import Dense, Network, Standardised
from blindsight.errors import CapacityError, ParameterError, ProtocolError, WireError

from ._threads import Threads
from .conftest import NetworkModel


@pytest.mark.parametrize("name", ["semi2k", "SEMI2K", "ref2k", "securenn", ""])
def test_other_protocols_are_refused(name: Any) -> None:
    with pytest.raises(CapacityError, match="not used here"):
        check_protocol(name)
    with pytest.raises(CapacityError):
        program_of(table_model(2, 4), protocol=name)
    encoded = program_of(table_model(2, 4))[0].encode().replace(b'"aby3"', f'"{name}"'.encode())
    with pytest.raises(WireError):
        Program.decode(encoded)


def test_semi2k_is_refused_for_its_reason() -> None:
    with pytest.raises(CapacityError, match="rank 0 unmask everything"):
        check_protocol("semi2k")


def test_a_model_without_a_circuit_is_refused_by_name() -> None:
    class LSTM:
        pass

    with pytest.raises(CapacityError, match="LSTM cannot be scored"):
        program_of(LSTM())


def test_a_network_that_outgrows_every_ring_names_its_layer(hospital: Any) -> None:
    class Huge:
        inputs_ = Standardised(offsets=(0.0,) * 4, scales=(1.0,) * 4, slots=(0,) * 4, bound=20.0)
        network_ = Network(
            layers=(
                Dense(weights=np.full((3, 4), 1.0), bias=np.zeros(3)),
                Dense(weights=np.full((2, 3), 1e15), bias=np.zeros(2)),
                Dense(weights=np.full((4, 2), 1e-15), bias=np.zeros(4)),
            ),
            target="inputs",
        )

    with pytest.raises(CapacityError, match=r"layer 2 \(dense\)"):
        program_of(Huge())
    _, X, schema = hospital
    with pytest.raises(CapacityError, match="every ring of cheetah"):
        program_of(NetworkModel(schema, X, "relu", "inputs", gain=12.0), protocol="cheetah")


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e3), st.integers(-3, 3))
def test_the_whole_threshold_decides_as_floats_do(threshold: float, scale: float, shift: int) -> None:
    whole = whole_threshold(threshold, scale)
    score = int(np.clip(int(threshold / scale) + shift, -(2**61), 2**61))
    assert (score > whole) == (score * scale > threshold)


def test_descriptions_survive_and_reject_mutations() -> None:
    program, _ = program_of(table_model(3, 8))
    with pytest.raises(ParameterError, match="no threshold"):
        program_of(table_model(3, 8), answer="verdict")
    assert Program.decode(program.encode()) == program
    good = msgspec.json.decode(program.encode())
    for change in (
        {"inputs": 0},
        {"inputs": 1 << 21},
        {"ring_bits": 128},
        {"fraction_bits": 3},
        {"form": "network"},
        {"steps": [{"kind": "relu", "outputs": 0}]},
        {"answer": "all"},
        {"protocol": "semi2k"},
        {"extra": 1},
    ):
        with pytest.raises(WireError):
            Program.decode(msgspec.json.encode(good | change))
    with pytest.raises(WireError):
        Program.decode(program.encode() + b" ")


def test_too_many_records_are_refused() -> None:
    program, _ = program_of(table_model(3, 8))
    with pytest.raises(ParameterError):
        program.records(1 << 15)
    with pytest.raises(ValueError, match="too many weights"):
        Program(protocol="aby3", answer="score", form="quadratic", inputs=5000)
    assert all(f % 2 == 0 for bits in FRACTION_BITS.values() for f in bits)


def test_operators_compare_what_they_run(three: Threads) -> None:
    """One operator was given another model's program: nobody computes anything."""
    model = table_model(3, 8)
    program, secrets = program_of(model)
    three.load("compared", program, secrets)
    other = Program(protocol="aby3", answer="score", form="inner_product", inputs=program.inputs)
    verdict, more = program_of(type("M", (), {**vars(model), "threshold_": 1.0}), answer="verdict")
    assert other == program
    three.engines[1].load("compared", verdict, [bytes(8 * 2 * a.size) for a in verdict.secrets()])
    assert len(more) == len(secrets) + 1
    found = three.run("compared", program, model.encoder_.encode(np.zeros((2, 3))))
    assert all(isinstance(error, ProtocolError) and "do not agree" in str(error) for error in found)
    assert program.digest(2) != verdict.digest(2) != verdict.digest(3)


def test_steps_of_no_width_are_refused() -> None:
    with pytest.raises(ValueError, match="dense step"):
        Program(protocol="aby3", answer="score", form="network", inputs=3, steps=(Step("dense", 0),), target="inputs")
