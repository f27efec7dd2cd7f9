"""Explanations: what each block of a one-hot encoding adds to a score, opened to the record's owner alone.

A record's score is the sum over blocks b of one weight, ``w_b[state of b]``: of the feature's bin, the projection's
bin, the tree's leaf. The contribution of block b is the score under the weights of block b alone, all others 0, and no
bias. So the scorer answers one sealed group once for each block, as it would for that circuit in rows: each answer is
one product, re-randomised by fresh multipliers and flooded by itself.

*No block disturbs another.* In rows record r has a monomial ``X**(r m + p)`` for each slot p that holds its 1, and
block b's polynomial is ``sum_j w_j X**(m - 1 - j)`` over the slots j of block b. A term of their product is
``w_j X**(r m + p + m - 1 - j)``. It falls on record s's coefficient ``s m + m - 1``, modulo N and with a sign, only if
``r m + p - j = s m`` or ``= s m + N``. Since p and j lie in 0 .. m - 1, the first asks for r = s and p = j: the one
slot of block b that holds record s's 1. The second asks for ``r m + p >= N``, and no coefficient of a message lies
there. An encoding longer than N has one record, cut every N slots, and this holds for each piece with m = N.

Privacy
-------
``blocks * answer_bits`` bits a record: each answer is bounded as in ``_protect``, the second parts are masked by
independent multipliers and stay jointly uniform, and the bounds of several answers add up. Contributions give the model
away faster than scores: one record tells a weight of every block, and as many records as the largest block has slots
tell them all. A scorer gives none unless it was made with ``explanations=True``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from blindsight.circuits import Encoder, InnerProduct, Inputs, OneHot
from blindsight.errors import CapacityError
from blindsight.he import NttPlain, pack_residues

from ._bfv import BfvScorer
from ._ckks import CkksScorer
from ._ckks_plan import CkksParameters
from ._engine import ByRecord
from ._envelope import MAX_MESSAGE_BYTES
from ._plan import BlindParameters
from ._protect import Mask, Rerandomiser, finish
from ._rows import Rows

__all__ = ["ENVELOPE_BYTES", "Explainer", "Price", "explained_bytes", "one_hot_rows", "rows_of_one_answer"]

ENVELOPE_BYTES = 1024
"""More than prefix, header and MAC of a message."""


def one_hot_rows(
    parameters: BlindParameters | CkksParameters, encoder: Encoder | Inputs
) -> tuple[BlindParameters, OneHot]:
    """Return both where contributions can be told apart; CapacityError, naming what is in the way, where not."""
    rule = "contributions are told apart for one-hot encodings, in packing='rows', where scores are revealed"
    if not isinstance(encoder, OneHot) or not isinstance(parameters, BlindParameters):
        raise CapacityError(
            "This model's scores cannot be explained blind",
            got=f"an encoding of kind {encoder.kind}",
            rule=rule,
            fix="teach its scores to a table, TableStudent, and explain that",
        )
    if parameters.packing != "rows" or parameters.thresholds:
        got = "verdicts" if parameters.thresholds else f"packing {parameters.packing}"
        raise CapacityError("Blind scores of this kind cannot be explained", got=got, rule=rule)
    return parameters, encoder


def explained_bytes(p: BlindParameters, blocks: int, rows: int) -> int:
    """Length of the body of an answer with the contributions of this many records."""
    full, rest = divmod(rows, p.rows_per_ciphertext)
    return blocks * (full * p.answer_bytes(p.rows_per_ciphertext) + (p.answer_bytes(rest) if rest else 0))


def rows_of_one_answer(p: BlindParameters, blocks: int, most_bytes: int = MAX_MESSAGE_BYTES) -> int:
    """Most records whose contributions one answer of at most so many bytes carries."""
    group = blocks * p.answer_bytes(p.rows_per_ciphertext)
    return max(0, most_bytes - ENVELOPE_BYTES) // group * p.rows_per_ciphertext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price(ByRecord):
    """What explained records cost, for a ledger; one record releases a number for each block.

    Parameters
    ----------
    parameters : BlindParameters
    blocks : int
    """

    parameters: BlindParameters
    blocks: int

    @property
    def answer_bits(self) -> float:
        """Bits of one record's contributions."""
        return self.blocks * self.parameters.answer_bits


class Explainer:
    """The model holder's side.

    Parameters
    ----------
    engine : BfvScorer
        In rows; its protections apply to every answer.
    encoder : OneHot
    circuit : InnerProduct
        Secret.

    Raises
    ------
    CapacityError
        The encoding is not one-hot, or records do not lie in rows.
    """

    def __init__(self, engine: BfvScorer | CkksScorer, encoder: Encoder | Inputs, circuit: InnerProduct | None) -> None:
        parameters, one_hot = one_hot_rows(engine.parameters, encoder)
        assert isinstance(engine, BfvScorer)
        assert isinstance(engine.packing, Rows)
        assert circuit is not None
        self._engine, self._rows = engine, engine.packing
        self.price = Price(parameters=parameters, blocks=one_hot.blocks)
        self.rows_to_extract = max(one_hot.sizes)
        self._plains: list[list[NttPlain | None]] = []
        for offset, size in zip(one_hot.offsets.tolist(), one_hot.sizes, strict=True):
            alone = np.zeros_like(circuit.weights)
            alone[offset : offset + size] = circuit.weights[offset : offset + size]
            self._plains.append(self._rows.plains(alone))
        self._no_bias = np.zeros((len(engine.context.primes), 1), dtype=np.uint64)

    def answer(self, body: memoryview, rows: int, masks: Rerandomiser) -> list[bytes]:
        """Evaluate one group for every block; pieces of the answer's body, block after block."""
        engine, context, width = self._engine, self._engine.context, self.price.parameters.residue_bytes
        ciphers = self._rows.ciphers(body)
        pieces: list[bytes] = []
        for plains in self._plains:
            masked = engine.protections.rerandomise
            ready = masks.take() if masked else None
            terms: Mask = masks.terms() if masked and ready is None else ([], [])
            product = context.inner_product([*ciphers, *terms[0]], [*plains, *terms[1]])
            if masked:
                product = masks.complete(product, ready)
            first, second = finish(
                context,
                self.price.parameters,
                product,
                owed=self._rows.owed(rows),
                bias=self._no_bias,
                protections=engine.protections,
            )
            pieces += [pack_residues(first, width), pack_residues(second, width)]
        return pieces
