"""The two ways to a product in rows agree: by SEAL alone, and with owed coefficients as inner products of residues."""

import numpy as np
import pytest

from blindsight.blind import plan
from blindsight.blind._rows import Rows
from blindsight.circuits import InnerProduct
from blindsight.errors import WireError
from blindsight.he import HeContext, pack_residues

from ._models import StandInModel, quadratic_model, table_model


def silent() -> StandInModel:
    encoder = table_model(3, 4).encoder_
    return StandInModel(encoder, InnerProduct(weights=np.zeros(encoder.length, dtype=np.int64)))


MODELS = {
    "three records": lambda: table_model(21, 64),
    "negative weights": lambda: quadratic_model(29),
    "two ciphertexts": lambda: table_model(70, 64),
    "heavy weights, degree 8192": lambda: quadratic_model(3, high=1 << 38, levels=15),
    "no weights": silent,
}


def rows_of(model):
    parameters = plan(model.encoder_, model.circuit_)
    packing = Rows(HeContext(parameters.he), parameters)
    return packing, packing.prepare(np.asarray(model.circuit_.weights))


def upload(packing, rng):
    """One group of ciphertexts such as a hostile owner sends: any reduced residues, any seed."""
    context, width = packing.context, packing.parameters.residue_bytes
    pieces = []
    for _ in range(packing.parameters.ciphertexts_per_group):
        c0 = np.stack([rng.integers(0, p, context.degree) for p in context.primes]).astype(np.uint64)
        c0[:, :5] = np.array(context.primes, dtype=np.uint64)[:, None] - np.uint64(1)
        pieces += [rng.bytes(64), pack_residues(c0, width)]
    return b"".join(pieces)


@pytest.mark.parametrize("name", MODELS)
def test_both_ways_agree(name):
    packing, evaluate = rows_of(MODELS[name]())
    p = packing.parameters
    body = memoryview(upload(packing, np.random.default_rng(0)))
    whole, owed_only = evaluate(body, ([], []), False), evaluate(body, ([], []), True)
    owed = packing.owed(p.rows_per_ciphertext)
    assert np.array_equal(owed_only[1], whole[1])
    assert np.array_equal(owed_only[0][:, owed], whole[0][:, owed])
    assert not np.delete(owed_only[0], owed, axis=1).any()
    if name != "no weights":
        assert np.delete(whole[0], owed, axis=1).any()


@pytest.mark.parametrize("owed_only", [False, True])
def test_residues_that_are_not_reduced_are_refused_either_way(owed_only):
    packing, evaluate = rows_of(table_model(70, 64))
    body = bytearray(upload(packing, np.random.default_rng(0)))
    evaluate(memoryview(body), ([], []), owed_only)
    body[-6:] = b"\xff" * 6  # the last ciphertext's last coefficient, which no record's encoding reaches
    with pytest.raises(WireError, match="not reduced"):
        evaluate(memoryview(body), ([], []), owed_only)
