"""Every attack is carried out: it recovers the weights with its protection off, and fails with all of them on.

``scorer._protections`` and the server's zeros are switched in here alone; there is no public way to do it. Weights are
drawn at random, 465 to 1,344 of them: by chance alone a correlation exceeds .2 once in 60,000 runs or less.
"""

import itertools

import numpy as np
import pytest

from blindsight.blind import Scorer
from blindsight.blind._protect import Protections, Rerandomiser
from blindsight.errors import WireError

from .._models import quadratic_model, table_model  # noqa: TID252 (shared by the folder above)
from ._adversary import ALL_ON, Adversary, correlation
from ._ring import compose, constant, divide, phase, small_phase, times


def switched(model, packing, protections):
    scorer = Scorer(model, packing=packing)
    scorer._protections = protections
    return scorer


# -- 1: a large monomial hidden in the noise ---------------------------------------------------------------------------


def large_noise_monomial(protections):
    """One query: K in coefficient 0, too small to be a message. The product's coefficients are K times the weights."""
    model = table_model(21, 64)
    weights = model.circuit_.weights
    adversary = Adversary(switched(model, "rows", protections))
    context, p = adversary.context, adversary.parameters
    large = context.modulus >> p.plain_bits + 3
    seed, c0 = adversary.key.encrypt_zero_seeded()
    for at in (0, 1345, 2690):  # one for each owed coefficient
        c0 = (c0 + constant(context, large, at)) % np.array(context.primes, dtype=np.uint64)[:, None]
    first, second = adversary.ask_seeded([(seed, c0)], 3)
    stride = p.entries
    parts = np.zeros((2, len(context.primes), p.degree), dtype=np.uint64)
    parts[1] = second
    if first.shape[1] == p.degree:
        parts[0] = first
        noise = phase(context, parts, adversary.secret)
        # three shifted copies of the reversed weights; the first N coefficients hold the first one up to X**1344
        guess = [0.0] * stride
        known = np.array([float(v) / large for v in noise])
        for j in range(stride):
            guess[j] = known[stride - 1 - j]
        return correlation(guess, weights)
    owed = np.arange(1, 4) * stride - 1
    parts[0][:, owed] = first
    noise = phase(context, parts, adversary.secret)
    guess = np.full(stride, float(np.mean([noise[i] / large for i in owed])))
    for r, i in enumerate(owed):
        guess[r] = noise[i] / large  # at coefficient r (m + 1), the monomial meets weight r
    return correlation(guess, weights)


def test_large_noise_monomial():
    assert large_noise_monomial(Protections(owed_only=False)) > 0.9
    assert large_noise_monomial(ALL_ON) < 0.2


# -- 2: the second part without a mask ---------------------------------------------------------------------------------


def unmasked_second_part_columns(protections):
    """Chosen second parts come back as weights."""
    model = quadratic_model(29)
    adversary = Adversary(switched(model, "columns", protections))
    _, second = adversary.ask(queries_of_monomials(adversary), 4096)
    values = compose(second[:, : adversary.parameters.entries], adversary.context.primes)
    return correlation([v / 64 for v in values], model.circuit_.weights)


def unmasked_second_part_rows(protections):
    """The second part is weights times the polynomial behind the seed: divide."""
    model = table_model(21, 64)
    adversary = Adversary(switched(model, "rows", protections))
    context, m = adversary.context, adversary.parameters.entries
    seed, c0 = adversary.key.encrypt_zero_seeded()
    _, second = adversary.ask_seeded([(seed, c0)], 3)
    quotient = divide(context, second, context.expand(seed, c0)[1])
    return correlation(quotient[m - 1 :: -1], model.circuit_.weights)


@pytest.mark.parametrize("attack", [unmasked_second_part_columns, unmasked_second_part_rows])
def test_unmasked_second_part(attack):
    assert attack(Protections(rerandomise=False)) > 0.9
    assert attack(ALL_ON) < 0.2


# -- 3: known noise ----------------------------------------------------------------------------------------------------


def known_noise(packing, switches):
    """Honest encryptions of zero: every score is 0, but the noise of the answers is the weights against known noise."""
    model = quadratic_model(29, levels=15) if packing == "columns" else table_model(12, 40)
    adversary = Adversary(Scorer(model, packing=packing))
    context, p, secret = adversary.context, adversary.parameters, adversary.secret
    rows = p.rows_per_ciphertext
    owed = adversary.scorer._engine.packing.owed(rows)
    equations, queries = [], []
    if packing == "columns":
        queries = [np.stack([adversary.key.encrypt_zero() for _ in range(p.entries)])]
        equations = list(np.array([small_phase(context, query, secret) for query in queries[0]]).T)
    else:
        for _ in range(2 * p.entries // rows):
            queries.append(adversary.key.encrypt_zero_seeded())
            noise = small_phase(context, context.expand(*queries[-1]), secret)
            equations += [noise[r * p.entries : (r + 1) * p.entries] for r in range(rows)]
    found = []
    for protections in switches:
        adversary.scorer._protections = protections
        right = []
        for query in queries:
            first, second = adversary.ask(query, rows) if packing == "columns" else adversary.ask_seeded([query], rows)
            parts = np.zeros((2, len(context.primes), p.degree), dtype=np.uint64)
            parts[0][:, owed], parts[1] = first, second
            measured = phase(context, parts, secret)
            right += [float(measured[i]) for i in owed]
        guess = np.linalg.lstsq(np.array(equations), np.array(right), rcond=None)[0]
        found.append(correlation(guess, model.circuit_.weights))
    return found


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_known_noise_deconvolution(packing):
    off, flood_alone, on = known_noise(
        packing, [Protections(flood=False, rerandomise=False), Protections(rerandomise=False), ALL_ON]
    )
    assert off > 0.9
    assert flood_alone < 0.2
    assert on < 0.2


# -- 4: encryptions of zero whose `a` the owner shapes ---------------------------------------------------------------


def queries_of_monomials(adversary):
    """c0_j = 0 and c1_j = 64 X**j: the answer's second part, without its mask, lists the weights."""
    context, m = adversary.context, adversary.parameters.entries
    queries = np.zeros((m, 2, len(context.primes), context.degree), dtype=np.uint64)
    for j in range(m):
        queries[j, 1] = constant(context, 64, j)
    return queries


def shaped_a(*, accepted):
    """a = 0 modulo all primes but the last (SEAL refuses a = 0): in the first there is no mask at all."""
    model = quadratic_model(29)
    adversary = Adversary(Scorer(model, packing="columns"))
    scorer, context, m = adversary.scorer, adversary.context, adversary.parameters.entries
    if accepted:  # what a server that takes unseeded encryptions of zero would hold
        zero = adversary.key.encrypt_zero().copy()
        zero[1, :-1] = 0
        rerandomiser = Rerandomiser(context, adversary.zeros)
        rerandomiser._ciphers = [context.prepare_cipher(context.ciphertext(zero)) for _ in adversary.zeros]
        scorer._owners[adversary.owner._key_id] = (_session_of(adversary), rerandomiser)
    _, second = adversary.ask(queries_of_monomials(adversary), 4096)
    p = context.primes[0]
    values = [v - p if v > p // 2 else v for v in second[0].tolist()]
    return correlation([v / 64 for v in values[:m]], model.circuit_.weights)


def test_zero_a_key():
    assert shaped_a(accepted=True) > 0.9
    assert shaped_a(accepted=False) < 0.2


def test_the_format_has_no_place_for_an_a():
    adversary = Adversary(Scorer(table_model(4, 16)))
    body = bytes(adversary.parameters.ciphertext_bytes)
    with pytest.raises(WireError, match="length"):
        adversary.scorer.score(adversary.message(body, 1, extra=bytes(adversary.parameters.part_bytes)))


def equal_seeds(scorer_takes_them):
    """One seed for all: the a_l merge, and with b_l = K the first part shows the sum of all multipliers."""
    model = quadratic_model(29)
    large = 1 << 68

    def zeros(adversary):
        seed = adversary.zeros[0][0]
        return [(seed, constant(adversary.context, large)) for _ in adversary.zeros]

    adversary = Adversary(Scorer(model, packing="columns"), zeros=zeros)
    context, m = adversary.context, adversary.parameters.entries
    if scorer_takes_them:
        accepted = Rerandomiser(context, adversary.zeros[:1])
        accepted._ciphers *= len(adversary.zeros)
        adversary.scorer._owners[adversary.owner._key_id] = (_session_of(adversary), accepted)
    first, second = adversary.ask(queries_of_monomials(adversary), 4096)
    total = np.array([round(v / large) for v in compose(first, context.primes)])
    a = context.expand(*adversary.zeros[0])[1]
    masked = times(context, a, total)
    modulus = np.array(context.primes, dtype=np.uint64)[:, None]
    left = compose(((second + modulus) - masked)[:, :m] % modulus, context.primes)
    return correlation([v / 64 for v in left], model.circuit_.weights)


def _session_of(adversary):
    from blindsight.blind._envelope import Session, public_bytes

    public = public_bytes(adversary.owner._mac_key)
    scorer = adversary.scorer
    return Session(scorer._private, public, offer=scorer._digest, owner_public=public)


def test_equal_seeds():
    assert equal_seeds(scorer_takes_them=True) > 0.9
    with pytest.raises(WireError, match="share a seed"):
        equal_seeds(scorer_takes_them=False)


# -- 5: encryptions of zero whose `b` the owner shapes -----------------------------------------------------------------


def shaped_b(monkeypatch, *, textbook):
    """b = K: the first part shows K u + flood, hence u, hence the second part without its mask.

    Succeeds against the textbook mask (one encryption of zero, ternary multiplier), although its `a` is seeded.
    """
    model = quadratic_model(29)
    with monkeypatch.context() as patch:
        if textbook:

            def ternary(self):
                silent = np.zeros(self._context.degree, dtype=np.int64)
                u = np.random.default_rng().integers(-1, 2, self._context.degree)
                return [u] + [silent] * (len(self._ciphers) - 1)

            patch.setattr(Rerandomiser, "_multipliers", ternary)
        large = 1 << 72

        def zeros(adversary):
            # K for the first and nothing for the others: K u of 16-bit u fills the room above the flood
            shaped = [constant(adversary.context, large if i == 0 else 0) for i in range(len(adversary.zeros))]
            return [(seed, b) for (seed, _), b in zip(adversary.zeros, shaped, strict=True)]

        adversary = Adversary(Scorer(model, packing="columns"), zeros=zeros)
        context, m = adversary.context, adversary.parameters.entries
        first, second = adversary.ask(queries_of_monomials(adversary), 4096)
    u = np.array([round(v / large) for v in compose(first, context.primes)])
    assert np.abs(u).max() > (0 if textbook else 1000)  # the first multiplier is read off, in both cases
    masked = times(context, context.expand(*adversary.zeros[0])[1], u)
    modulus = np.array(context.primes, dtype=np.uint64)[:, None]
    left = compose(((second + modulus) - masked)[:, :m] % modulus, context.primes)
    return correlation([v / 64 for v in left], model.circuit_.weights)


def test_shaped_b(monkeypatch):
    assert shaped_b(monkeypatch, textbook=True) > 0.9
    assert shaped_b(monkeypatch, textbook=False) < 0.2


# -- what the protections are not to break ----------------------------------------------------------------------------


def test_second_parts_of_equal_requests_share_nothing():
    model = table_model(4, 16)
    adversary = Adversary(Scorer(model))
    pieces = [adversary.key.encrypt_zero_seeded()]
    (_, one), (_, two) = adversary.ask_seeded(pieces, 1), adversary.ask_seeded(pieces, 1)
    assert (one == two).mean() < 0.001
    # a difference of two masks is as spread out as one: no short vector
    difference = compose(
        (one + np.array(adversary.context.primes, dtype=np.uint64)[:, None] - two)
        % np.array(adversary.context.primes, dtype=np.uint64)[:, None],
        adversary.context.primes,
    )
    assert np.median([abs(v) for v in difference]) > adversary.context.modulus / 8


def test_prepared_masks_are_exact_fresh_and_used_once():
    model = table_model(4, 16)
    adversary = Adversary(Scorer(model))
    pieces = [adversary.key.encrypt_zero_seeded()]
    adversary.ask_seeded(pieces, 1)
    _, rerandomiser = adversary.scorer._owners[adversary.owner._key_id]
    adversary.scorer.prepare(adversary.owner.key_id, 2)
    kept = list(rerandomiser._ready)
    assert len(kept) == 2
    assert all((adversary.key.decrypt(mask) == 0).all() for mask in kept)
    seconds = [adversary.ask_seeded(pieces, 1)[1] for _ in range(3)]
    assert not rerandomiser._ready
    assert all((a == b).mean() < 0.001 for a, b in itertools.pairwise(seconds))


def test_only_owed_coefficients_are_answered():
    model = table_model(4, 16)
    adversary = Adversary(Scorer(model))
    for rows in (1, 63, 64):
        first, _ = adversary.ask_seeded([adversary.key.encrypt_zero_seeded()], rows)
        assert first.shape[1] == rows


def test_the_flood_has_the_planned_width():
    """Encryptions of zero score 0: what is left in an owed coefficient is flood, to all that matters."""
    adversary = Adversary(Scorer(quadratic_model(2), packing="columns"))
    context, p = adversary.context, adversary.parameters
    queries = np.stack([adversary.key.encrypt_zero() for _ in range(p.entries)])
    first, second = adversary.ask(queries, p.degree)
    noise = np.array([float(v) for v in phase(context, np.stack([first, second]), adversary.secret)])
    assert np.abs(noise).max() < p.flood_half_width * 1.0001
    # uniform: standard deviation W / sqrt 3, of 4,096 draws; 5% is more than six deviations of its estimate
    assert abs(noise.std() / (p.flood_half_width / 3**0.5) - 1) < 0.05


def test_fresh_noise_is_within_the_bound_that_the_flood_is_computed_from():
    adversary = Adversary(Scorer(table_model(4, 16)))
    for _ in range(10):
        noise = phase(adversary.context, adversary.key.encrypt_zero(), adversary.secret)
        assert max(abs(v) for v in noise) <= 21
