"""Seeds that were searched for: all of an owner's ``a_l`` are 0 at one and the same NTT slot of one prime.

There any combination of them is 0, whatever the multipliers: the mask is not uniform but absent, and an answer would
show a value of a polynomial in the weights, exactly, beside what was charged. Each a_l can be searched for by itself,
at 2**27 starts of BLAKE2Xb for a slot of a 27-bit prime: minutes for all of them, not the 2**(27 L) of all at once.
What covers the slot is the small error e on each part: 4 bits in each coefficient fill the 27 bits of a slot, and of
some hundred more.
"""

import struct

import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer, _ckks_protect
from blindsight.he import pack_residues

from .._networks import network_model  # noqa: TID252 (shared by the folder above)
from .test_ckks_attacks import Adversary

PRIME, SLOT = 133644289, 1
FOUND = (7060381, 64989371, 144887100, 234990076)
SUFFIX = 0x7265766965770000
INPUTS = (3, 1, 4, 1)


class Searcher(Adversary):
    def __init__(self):
        self.model = network_model("quadratic", len(INPUTS))
        self.scorer = Scorer(self.model, packing="columns", tolerance=1e4)
        self.owner = RecordOwner(self.scorer.offer())
        self.key, self.context, self.parameters = self.owner._key, self.owner._context, self.owner.parameters
        assert (self.parameters.zeros, self.context.primes[0], self.parameters.kept) == (len(FOUND), PRIME, 2)
        b = np.ones((self.parameters.kept, self.parameters.degree), dtype=np.uint64)
        seeds = [struct.pack("<8Q", number, SUFFIX, *[0] * 6) for number in FOUND]
        assert all(self.transformed(self.context.expand_zero(seed, b))[1, 0, SLOT] == 0 for seed in seeds)
        self.owner._adopt(b"".join(seed + pack_residues(b, 4) for seed in seeds))

    def transformed(self, parts):
        """Residues in NTT form."""
        context = self.context
        cipher = context.load("Ciphertext", context.format.ciphertext(context.last_parms_id, parts))
        context.evaluator.transform_to_ntt_inplace(cipher)
        cipher.save(context.scratch.path)
        return context.format.read_ciphertext(context.scratch.read(), parts=len(parts), ntt=True)

    def seen(self):
        """What the last part of an answer shows at the slot, to a request whose second parts are constants."""
        p = self.parameters
        residues = np.zeros((p.count, p.entries, 2, p.degree), dtype=np.uint32)
        residues[:, :, 1] = np.array(INPUTS)[None, :, None]
        _, rest = self.ask(residues, 1)
        return int(self.transformed(rest)[1, 0, SLOT])

    @property
    def hidden(self):
        """The quadratic form of the weights at those constants."""
        network = self.scorer._engine._network
        weights = sum(digit * 2.0 ** (16 * i) for i, digit in enumerate(network.linear))
        outputs = [sum(int(w) * x for w, x in zip(row, INPUTS, strict=True)) for row in weights]
        return sum(value**2 for value in outputs) % PRIME


@pytest.fixture(scope="module")
def searcher():
    return Searcher()


def test_without_the_error_the_slot_shows_the_weights(searcher, monkeypatch):
    monkeypatch.setattr(_ckks_protect, "lift", lambda e, primes: np.zeros((len(primes), *e.shape), dtype=np.uint64))
    assert {searcher.seen() for _ in range(3)} == {searcher.hidden}


def test_with_it_the_slot_shows_nothing(searcher):
    seen = [searcher.seen() for _ in range(12)]
    assert searcher.hidden not in seen
    assert len(set(seen)) == len(seen)
    assert np.ptp(seen) > PRIME / 8  # uniform values are so close together once in 2**30 runs
