"""An owner that shares its records inconsistently: what it opens is still no more than it is charged."""

import secrets

import numpy as np
import pytest

from blindsight.blind.mpc import program_of

from .._models import table_model  # noqa: TID252 (shared by the folder above)
from .._networks import network_model  # noqa: TID252

pytest.importorskip("spu", reason="the extra 'mpc' is not installed")

from ..mpc._threads import Threads  # noqa: TID252

ROWS = 64


@pytest.fixture(scope="module")
def three():
    return Threads(3)


@pytest.mark.parametrize("kind", ["table", "network"])
@pytest.mark.parametrize("answer", ["score", "verdict"])
def test_inconsistent_shares_open_one_number_a_record(three, kind, answer):
    """Each piece of an answer is held by two operators. Were they to differ, six numbers would be opened and not one.

    They agree whatever the owner sends, since the first product with a secret weight shares anew.
    """
    model = table_model(3, 8) if kind == "table" else network_model("square")
    if kind == "table":
        object.__setattr__(model, "threshold_", float(np.median(model.decision_function(np.zeros((1, 3))))))
    program, weights = program_of(model, answer=answer)
    name = f"{kind}-{answer}"
    three.load(name, program, weights)
    honest = three.run(name, program, np.zeros(program.records(ROWS).shape, np.int64 if program.whole else float), name)
    size = 2 * program.records(ROWS).size * program.ring_bits // 8
    shares = [secrets.token_bytes(size) for _ in range(3)]  # no two operators hold the same of anything
    answers = three.each(lambda rank: three.engines[rank].run("forged " + name, name, ROWS, shares[rank]))
    assert [len(a) for a in answers] == [len(a) for a in honest]
    pieces = [np.frombuffer(a, dtype=np.uint8).reshape(ROWS, 2, -1) for a in answers]
    for rank in range(3):
        assert np.array_equal(pieces[rank][:, 1], pieces[(rank + 1) % 3][:, 0])
    if answer == "verdict":
        assert max(int(piece.max()) for piece in pieces) == 1
