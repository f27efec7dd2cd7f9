"""What an operator that does not follow the protocol can do, and what it can learn by it: docs/threat-model.md.

Operator 1 of ABY3 computes on another piece of a record than it was given. So its one message of the product, to
operator 0, is wrong by an amount that it chooses, from its own shares alone; all that follows is consistent, and the
score moves by that amount. Products of replicated shares leave a single party no more than such additions (Chida et
al., CRYPTO 2018, section 4); of SPU's conversions and truncations nobody has shown as much.
"""

from typing import Any

import numpy as np
import pytest

from blind._models import StandInModel, records, table_model
from blindsight.blind.mpc import program_of
from blindsight.blind.mpc._program import Program
from blindsight.blind.mpc._shares import join, split
from blindsight.circuits import evaluate

from ._threads import Threads

LIAR = 1


@pytest.fixture(scope="module")
def model() -> StandInModel:
    model = table_model(5, 16)
    object.__setattr__(model, "threshold_", float(np.median(model.decision_function(records(model, 999)))))
    return model


class Operators:
    """Three operators of whom one deviates: it knows its own shares, and what an owner shows of an answer."""

    def __init__(self, threads: Threads, name: str, model: StandInModel, answer: Any) -> None:
        self.threads, self.name, self.model = threads, name, model
        self.program, secrets = program_of(model, answer=answer)
        self.weights = np.frombuffer(threads.load(name, self.program, secrets)[LIAR][0], "<u8").reshape(-1, 2)
        self.runs = 0

    def answers(self, X: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """What the owner opens where the score of each record is to be moved by so much."""
        values = self.model.encoder_.encode(X)
        shares = split(self.program, self.program.records(len(X)), values)
        shares[LIAR] = self.lie(shares[LIAR], shifts)
        self.runs += 1
        found = self.threads.each(
            lambda rank: self.threads.engines[rank].run(f"lie {self.runs}", self.name, len(X), shares[rank])
        )
        return join(self.program, len(X), found)

    def lie(self, share: bytes, shifts: np.ndarray) -> bytes:
        """Its share of the records, one entry of each changed. Its term of the product is x_1 (w_1 + w_2) + x_2 w_1."""
        factors = self.weights.sum(axis=1, dtype=np.uint64)
        entry = int(np.flatnonzero(factors & np.uint64(1))[0])  # odd: it can be divided by
        inverse = pow(int(factors[entry]), -1, 2**64)
        pieces = np.frombuffer(share, "<u8").reshape(len(shifts), -1, 2).copy()
        pieces[:, entry, 0] += np.array([int(shift) * inverse % 2**64 for shift in shifts], dtype=np.uint64)
        return pieces.tobytes()


def integer_scores(model: StandInModel, X: np.ndarray) -> np.ndarray:
    return evaluate(model.encoder_, model.circuit_, X)


def test_it_moves_each_score_by_what_it_chooses(three: Threads, model: StandInModel) -> None:
    """Nobody notices: the owner compares what it is sent, and finds it consistent."""
    operators = Operators(three, "moved-scores", model, "score")
    X, shifts = records(model, 6), np.array([0, 1, -1, 12345, -(2**40), 2**50])
    assert np.array_equal(operators.answers(X, shifts), integer_scores(model, X) + shifts)


def test_it_turns_verdicts_as_it_likes(three: Threads, model: StandInModel) -> None:
    operators = Operators(three, "turned-verdicts", model, "verdict")
    X = records(model, 40)
    honest = model.decision_function(X) > model.threshold_
    assert 0 < honest.sum() < 40
    assert np.array_equal(operators.answers(X, np.zeros(40, dtype=int)), honest)
    wanted = ~honest
    assert np.array_equal(operators.answers(X, np.where(wanted, 2**40, -(2**40))), wanted)


def test_reactions_to_turned_verdicts_tell_the_score(three: Threads, model: StandInModel) -> None:
    """An owner who lets its verdict be seen, and has the same record scored again, gives a bit of the score each time.

    The operator halves an interval: after as many reactions as the interval has bits it has the record's exact distance
    from the threshold. That is one bit a reaction, of its choice, and without reactions none.
    """
    operators = Operators(three, "reactions", model, "verdict")
    X = records(model, 4, seed=7)
    tau = int(np.floor(model.threshold_ / model.score_scale_))
    distance = integer_scores(model, X) - tau  # what no operator may know
    low, high = np.full(len(X), -(2**17)), np.full(len(X), 2**17)  # low < distance <= high
    reactions = 0
    while (high - low > 1).any():
        middle = (low + high) // 2
        above = operators.answers(X, -middle).astype(bool)  # score - middle > tau
        low, high = np.where(above, middle, low), np.where(above, high, middle)
        reactions += 1
    assert np.array_equal(high, distance)
    assert reactions == 18


def test_under_cheetah_it_changes_the_opening_itself(two: Threads, model: StandInModel) -> None:
    """Nobody else holds its share of an answer: adding to it is not found out, under ABY3 it is (test_shares.py)."""
    X = records(model, 8)
    honest = integer_scores(model, X)
    for answer in ("score", "verdict"):
        program, secrets = program_of(model, protocol="cheetah", answer=answer)
        assert isinstance(program, Program)
        two.load(f"opening-{answer}", program, secrets)
        shares = two.run(f"opening-{answer}", program, model.encoder_.encode(X))
        if answer == "score":
            moved = (np.frombuffer(shares[0], "<u8") + np.uint64(5)).tobytes()
            assert np.array_equal(join(program, 8, [moved, shares[1]]), honest + 5)
        else:
            turned = bytes(bit ^ 1 for bit in shares[0])
            verdicts = model.decision_function(X) > model.threshold_
            assert np.array_equal(join(program, 8, [turned, shares[1]]), ~verdicts)
