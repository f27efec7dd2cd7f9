"""What shares tell, and what is found out of an operator that does not follow the protocol."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from blind._models import StandInModel, records, table_model
from blindsight.blind.mpc import program_of
from blindsight.blind.mpc._shares import join, share_bytes, split, spu_share
from blindsight.errors import ParameterError, ProtocolError, WireError

from ._threads import Threads


@pytest.fixture(scope="module")
def model() -> StandInModel:
    return table_model(5, 16)


@pytest.mark.parametrize("protocol", ["aby3", "cheetah"])
def test_one_operators_share_is_uniform_whatever_the_record(model: StandInModel, protocol: Any) -> None:
    program, _ = program_of(model, protocol=protocol)
    argument = program.records(400)
    for values in (np.zeros(argument.shape, dtype=np.int64), model.encoder_.encode(records(model, 400))):
        for share in split(program, argument, values):
            counts = np.bincount(np.frombuffer(share, dtype=np.uint8), minlength=256)
            assert chisquare(counts).pvalue > 1e-6
            assert (
                abs(
                    np.corrcoef(np.frombuffer(share, "<i8")[: values.size], values.ravel() + np.arange(values.size))[
                        0, 1
                    ]
                )
                < 0.05
            )
        once, twice = split(program, argument, values), split(program, argument, values)
        assert all(a != b for a, b in zip(once, twice, strict=True))


def test_two_operators_of_aby3_together_have_the_records(model: StandInModel) -> None:
    """What the honest majority is for: operators 0 and 1 hold all three pieces."""
    program, _ = program_of(model)
    values = model.encoder_.encode(records(model, 50))
    argument = program.records(50)
    zero, one, _ = (np.frombuffer(s, "<u8").reshape(50, -1, 2) for s in split(program, argument, values))
    assert np.array_equal((zero[:, :, 0] + zero[:, :, 1] + one[:, :, 1]).view(np.int64), values)
    assert not np.array_equal((zero[:, :, 0] + zero[:, :, 1]).view(np.int64), values)


def test_both_operators_of_cheetah_together_have_the_records(model: StandInModel) -> None:
    program, _ = program_of(model, protocol="cheetah")
    values = model.encoder_.encode(records(model, 50))
    zero, one = (np.frombuffer(s, "<u8").reshape(values.shape) for s in split(program, program.records(50), values))
    assert np.array_equal((zero + one).view(np.int64), values)


def test_shares_of_two_owners_are_not_computed_on_together(three: Threads, model: StandInModel) -> None:
    """Operators that name different owners of a run stop before anything is computed."""
    program, secrets = program_of(model)
    three.load("owned", program, secrets)
    shares = split(program, program.records(1), model.encoder_.encode(records(model, 1)))
    for owners, agreed in (("aaa", True), ("aab", False)):
        answers = three.each(
            lambda rank, owners=owners: three.engines[rank].run("r", "owned", 1, shares[rank], owner=owners[rank])
        )
        assert [isinstance(answer, ProtocolError) for answer in answers] == [not agreed] * 3


def test_a_lie_in_the_opening_is_found_out_under_aby3(three: Threads, model: StandInModel) -> None:
    program, secrets = program_of(model)
    three.load("opened", program, secrets)
    answers = three.run("opened", program, model.encoder_.encode(records(model, 8)))
    join(program, 8, answers)
    for rank in range(3):
        for byte in (0, 8):  # either of its two pieces
            forged = [bytearray(answer) for answer in answers]
            forged[rank][byte] ^= 1
            with pytest.raises(WireError, match="contradict"):
                join(program, 8, [bytes(answer) for answer in forged])


def test_a_verdict_opens_one_bit(three: Threads, two: Threads, model: StandInModel) -> None:
    """All that the owner gets for a record are bits, one uniform one from each piece."""
    object.__setattr__(model, "threshold_", float(np.median(model.decision_function(records(model, 999)))))
    X = records(model, 600)
    for threads, protocol in ((three, "aby3"), (two, "cheetah")):
        program, secrets = program_of(model, protocol=protocol, answer="verdict")
        threads.load("bits", program, secrets)
        answers = threads.run("bits", program, model.encoder_.encode(X))
        for answer in answers:
            bits = np.frombuffer(answer, dtype=np.uint8)
            assert set(bits) == {0, 1}
            assert abs(bits.mean() - 0.5) < 0.08
        assert np.array_equal(join(program, 600, answers), model.decision_function(X) > model.threshold_)


def test_shares_of_a_wrong_length_are_refused(model: StandInModel) -> None:
    program, _ = program_of(model)
    argument = program.records(3)
    with pytest.raises(WireError):
        spu_share(program, argument, bytes(share_bytes(program, argument) - 1))
    with pytest.raises(WireError):
        join(program, 3, [bytes(48), bytes(48), bytes(47)])
    with pytest.raises(WireError):
        join(program, 3, [bytes(48), bytes(48)])
    with pytest.raises(ParameterError):
        split(program, argument, np.zeros((3, 1), dtype=np.int64))
