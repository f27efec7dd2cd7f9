"""The attacks on CKKS answers: each recovers what it is after with its protection off, and fails with all of them on.

Correlations are over 435 or 4,096 numbers: by chance alone one exceeds .25 once in ten million runs or less.
"""

import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer
from blindsight.blind._ckks_protect import functionals
from blindsight.blind._envelope import Header, close_envelope, new_salt, split_envelope
from blindsight.blind._protect import Protections
from blindsight.errors import WireError
from blindsight.he import centred, unpack_residues

from .._networks import network_model, rows_of  # noqa: TID252 (shared by the folder above)
from ._adversary import ALL_ON, correlation

FEATURES = 29
FLOODED = Protections(owed_only=False)


class Adversary:
    def __init__(self, protections=ALL_ON, *, features=FEATURES, kind="quadratic"):
        self.model = network_model(kind, features)
        self.scorer = Scorer(self.model, packing="columns")
        self.scorer._protections = protections
        self.owner = RecordOwner(self.scorer.offer())
        self.key, self.context, self.parameters = self.owner._key, self.owner._context, self.owner.parameters

    def encrypt(self, slots):
        """Complex slots, shape (N / 2, entries), to residues (primes, entries, 2, N)."""
        p = self.parameters
        out = np.empty((p.count, p.entries, 2, p.degree), dtype=np.uint32)
        for j, column in enumerate(slots.T):
            plain, cipher = self.key._seal.Plaintext(), self.key._seal.Ciphertext()
            self.key._encoder.encode(column.astype(complex).tolist(), p.input_scale, plain)
            self.key._encryptor.encrypt_symmetric(plain, cipher)
            cipher.save(self.context.scratch.path)
            parts = self.context.format.read_ciphertext(self.context.scratch.read(), ntt=True)
            out[:, j] = parts.transpose(1, 0, 2)
        return out

    def ask(self, residues, rows):
        """What comes back: numbers of the first part, as many as there are, and the other parts."""
        owner, p, salt = self.owner, self.parameters, new_salt()
        names = {"offer": owner._digest, "key": owner._key_id, "request": salt, "salt": salt, "rows": rows}
        header = Header(kind="sealed", registers=True, **names)
        answer = self.scorer.score(close_envelope(owner._session, header, [owner.registration, residues.tobytes()]))
        _, body = split_envelope(answer, "answer", offer=owner._digest)
        size = len(body) - (p.parts - 1) * p.part_bytes
        first = unpack_residues(body[:size], (p.kept, size // p.kept // 4), 4).astype(np.uint64)
        rest = unpack_residues(body[size:], (p.parts - 1, p.kept, p.degree), 4).astype(np.uint64)
        return first, rest

    def polynomial(self, first, rest):
        """The opened polynomial, with zeros for what is not there of c_0."""
        p, parts = self.parameters, np.zeros((self.parameters.parts, self.parameters.kept, self.parameters.degree))
        parts = parts.astype(np.uint64)
        parts[1:] = rest
        parts[0][:, : first.shape[1] * (p.degree // first.shape[1]) : p.degree // first.shape[1]] = first
        return centred(self.key.phase(parts), self.context.kept_primes)

    def slots(self, polynomial):
        """Complex slots of a real polynomial."""
        n = len(polynomial)
        values = np.fft.ifft(polynomial * np.exp(1j * np.pi * np.arange(n) / n)) * n
        return values[[(pow(3, k, 2 * n) - 1) // 2 for k in range(n // 2)]] / self.parameters.answer_scale

    @property
    def matrix(self):
        (layer,) = self.model.network_.layers
        return layer.weights, layer.bias - self.model.network_.centre


# -- 1: a second number in every slot ----------------------------------------------------------------------------------


def imaginary_part(protections):
    """Records 0 + i y: the imaginary part of the score is 2 b' W y, beside the real one."""
    adversary = Adversary(protections)
    n = adversary.parameters.rows_per_ciphertext
    y = np.random.default_rng(0).normal(size=(n, FEATURES))
    first, rest = adversary.ask(adversary.encrypt(1j * y), n)
    found = adversary.slots(adversary.polynomial(first, rest)).imag
    weights, bias = adversary.matrix
    return correlation(found, 2 * y @ weights.T @ bias)


def test_imaginary_part():
    assert imaginary_part(FLOODED) > 0.99
    assert imaginary_part(ALL_ON) < 0.25


# -- 2: other records in slots that are not owed -----------------------------------------------------------------------


def slots_not_owed(protections):
    """One record is charged, and every slot holds another."""
    adversary = Adversary(protections)
    n = adversary.parameters.rows_per_ciphertext
    X = rows_of(adversary.model, n)
    first, rest = adversary.ask(adversary.encrypt(X), 1)
    assert adversary.scorer.bits_released() == adversary.parameters.charge_bits(1)
    found = adversary.slots(adversary.polynomial(first, rest)).real
    return correlation(found, adversary.model.decision_function(X)), first.shape[1]


def test_slots_not_owed():
    recovered, count = slots_not_owed(FLOODED)
    assert recovered > 0.99
    assert count == 8192
    recovered, count = slots_not_owed(ALL_ON)
    assert recovered < 0.25
    assert count == 1


@pytest.mark.parametrize(("rows", "owed"), [(1, 1), (2, 2), (3, 4), (1000, 1024), (4096, 4096)])
def test_only_owed_numbers_are_answered(rows, owed):
    adversary = Adversary(features=2)
    residues = adversary.encrypt(np.zeros((adversary.parameters.rows_per_ciphertext, 2)))
    assert adversary.ask(residues, rows)[0].shape[1] == owed


def test_functionals_do_not_see_imaginary_parts():
    """A polynomial of imaginary slots has a_j = a_{N-j} and a_0 = 0."""
    rng, p = np.random.default_rng(0), 132825089
    part = rng.integers(0, p, (1, 64), dtype=np.uint64)
    part[0, 33:] = part[0, 31:0:-1]
    part[0, 0] = 0
    for owed in (1, 2, 8, 32):
        assert not functionals(part, owed, (p,)).any()


# -- 3: parts without their masks --------------------------------------------------------------------------------------


def sidon(count):
    """Exponents whose pairwise sums all differ (Mian, Chowla)."""
    found, sums = [], set()
    candidate = 0
    while len(found) < count:
        new = {candidate + v for v in [*found, candidate]}
        if not new & sums:
            found.append(candidate)
            sums |= new
        candidate += 1
    return found


def unmasked_parts(protections, part):
    """c_0 = 0 and c_1 = K X**e_j: the last part lists the products of the weights' columns."""
    adversary = Adversary(protections)
    context, p, exponents = adversary.context, adversary.parameters, sidon(FEATURES)
    large = 1 << 28
    coefficients = np.zeros((FEATURES, p.count, p.degree), dtype=np.uint64)
    for j, e in enumerate(exponents):
        coefficients[j, :, e] = [large % q for q in context.primes]
    residues = np.zeros((p.count, FEATURES, 2, p.degree), dtype=np.uint32)
    cipher = context.load("Ciphertext", context.format.ciphertext(context.parms_id, coefficients[:16]))
    other = context.load("Ciphertext", context.format.ciphertext(context.parms_id, coefficients[16:]))
    for at, half in ((slice(0, 16), cipher), (slice(16, None), other)):
        context.evaluator.transform_to_ntt_inplace(half)
        half.save(context.scratch.path)
        size = len(coefficients[at])
        transformed = context.format.read_ciphertext(context.scratch.read(), parts=size, ntt=True)
        residues[:, at, part - 1] = transformed.transpose(1, 0, 2)
    _, rest = adversary.ask(residues, p.rows_per_ciphertext)
    values = centred(rest[1], context.kept_primes)
    gram = adversary.matrix[0].T @ adversary.matrix[0]
    pairs = [(i, j) for i in range(FEATURES) for j in range(i + 1)]
    found = [values[exponents[i] + exponents[j]] for i, j in pairs]
    return correlation(found, np.array([gram[i, j] * (1 if i == j else 2) for i, j in pairs]))


def test_unmasked_parts():
    assert unmasked_parts(Protections(rerandomise=False), 2) > 0.99
    assert unmasked_parts(ALL_ON, 2) < 0.25


def test_parts_of_equal_requests_share_nothing():
    adversary = Adversary(features=3, kind="square")
    residues = adversary.encrypt(np.zeros((adversary.parameters.rows_per_ciphertext, 3)))
    (_, one), (_, two) = adversary.ask(residues, 4), adversary.ask(residues, 4)
    assert one.shape[0] == 4
    assert (one == two).mean() < 0.001
    for part in (one + np.array(adversary.context.kept_primes, dtype=np.uint64)[:, None] - two)[:, 0]:
        # a difference of two masks is uniform: no short vector
        fraction = (part % np.uint64(adversary.context.primes[0])) / adversary.context.primes[0]
        assert abs(fraction.mean() - 0.5) < 0.02
        assert abs(fraction.std() - 12**-0.5) < 0.01


# -- 4: what is registered ---------------------------------------------------------------------------------------------


def test_equal_seeds_are_refused():
    adversary = Adversary(features=3)
    p, owner = adversary.parameters, adversary.owner
    size = p.material_bytes // p.zeros
    owner._adopt(owner._material[:size] * p.zeros)
    with pytest.raises(WireError, match="share a seed"):
        adversary.ask(adversary.encrypt(np.zeros((p.rows_per_ciphertext, 3))), 1)


def test_encryptions_of_something_else_do_not_unmask():
    """b_l = K for all l: the first part shows half of what the multipliers add up to, and no score any more."""
    adversary = Adversary()
    p, owner = adversary.parameters, adversary.owner
    size = p.material_bytes // p.zeros
    pieces = [owner._material[i * size : i * size + 64] for i in range(p.zeros)]
    shaped = np.full((p.kept, p.degree), 1 << 20, dtype="<u4").tobytes()
    owner._adopt(b"".join(seed + shaped for seed in pieces))
    adversary.scorer._protections = ALL_ON
    X = rows_of(adversary.model, p.rows_per_ciphertext)
    first, rest = adversary.ask(adversary.encrypt(X), p.rows_per_ciphertext)
    found = adversary.slots(adversary.polynomial(first, rest)).real
    assert correlation(found, adversary.model.decision_function(X)) < 0.25


def test_the_flood_has_the_planned_width():
    adversary = Adversary(features=2)
    p = adversary.parameters
    n = p.rows_per_ciphertext
    first, rest = adversary.ask(adversary.encrypt(np.zeros((n, 2))), n)
    opened = adversary.key.phase(np.concatenate([np.zeros_like(rest[:1]), rest]))
    primes = np.array(adversary.context.kept_primes, dtype=np.uint64)[:, None]
    owed = (first + functionals(opened, n, adversary.context.kept_primes)) % primes
    noise = centred(owed, adversary.context.kept_primes)[1:]  # a constant score is in the first number alone
    assert np.abs(noise).max() < 1.01 * p.flood_half_width
    assert abs(noise.std() / (p.flood_half_width / 3**0.5) - 1) < 0.05


def test_second_parts_that_the_weights_cancel_are_answered_like_others() -> None:
    """SEAL refuses ciphertexts of zeros: an owner would see for which inputs the secret layer gives zero."""
    attack = Adversary(features=4)
    p = attack.parameters
    residues = np.zeros((p.count, p.entries, 2, p.degree), dtype=np.uint32)
    residues[:, :, 0] = 5
    first, rest = attack.ask(residues, 1)
    assert first.shape == (p.kept, 1)
    assert rest.any(axis=(1, 2)).all()
