"""The attacks of test_attacks.py against every other engine, packing and kind of answer; what makes no sense is named.

| attack | BFV rows | BFV columns | CKKS columns | explanations | verdicts | MPC |
|---|---|---|---|---|---|---|
| coefficients that are not owed | monomial | here | slots, imaginary parts | here | 1 | 2 |
| second part without its mask | done | done; seeded: here | done | here | here | 2 |
| known noise | done | done | 3 | here | 1 | 2 |
| `a` of one's own | 4 | done | 4 | 4 | 4 | 2 |
| equal seeds | here | done | refused | here | here | 2 |
| seeds searched for | 5 | 5 | done | 5 | 5 | 2 |
| `b` of one's own | 6 | done | done | 6 | 1 | 2 |
| inconsistent shares | | | | | | test_review_shares.py |
| extraction by honest questions | test_budget.py | as rows | as rows | test_explain.py | here | as rows |

"Done": in test_attacks.py and test_ckks_attacks.py. 1: the first part of a verdict's answer is under a one-time pad, so
that nothing is in it with all other protections off (here). 2: an operator's answer is one share of one number a
record, and no ciphertext of the owner's is ever computed on. 3: an honest CKKS answer *is* its score with that noise: a
score at a neighbouring record. 4: the registration has no place for an ``a``, in any packing; columns alone take second
parts of *data* as they are. 5: the argument is the same in every ring; CKKS has the smallest primes, where the search
is feasible. 6: reading the multipliers off the first part takes all of its coefficients; rows show a few.

Correlations are over 200 numbers or more: by chance alone one exceeds .5 once in 10**13 runs.
"""

import numpy as np
import pytest

from blindsight.blind import BitBudget, RecordOwner, Scorer
from blindsight.blind._protect import Protections
from blindsight.errors import BudgetError, WireError
from blindsight.he import switch_to_words

from .._models import records, table_model  # noqa: TID252 (shared by the folder above)
from ._adversary import ALL_ON, Adversary, correlation
from ._ring import constant, divide, phase, small_phase

NONE = Protections(owed_only=False, rerandomise=False, flood=False)
BLOCKS, BINS = 4, 50
LIMIT = 0.5


def adversary_of(model, protections, **options):
    scorer = Scorer(model, **options)
    scorer._protections = protections
    return Adversary(scorer)


# -- coefficients that are not owed


def columns_of_one_record(protections):
    """One record is paid for; each coefficient of entry j holds K at a place of its own, hidden in the noise."""
    model = table_model(10, 20)
    adversary = adversary_of(model, protections, packing="columns")
    context, p, m = adversary.context, adversary.parameters, adversary.parameters.entries
    large = context.modulus >> p.plain_bits + 3
    queries = np.stack([adversary.key.encrypt_zero() for _ in range(m)])
    for j in range(m):
        part = queries[j, 0] + constant(context, large, j)
        queries[j, 0] = part % np.array(context.primes, dtype=np.uint64)[:, None]
    first, second = adversary.ask(queries, 1)
    assert adversary.scorer.bits_released() == p.charge_bits(1)
    known = np.zeros((2, len(context.primes), p.degree), dtype=np.uint64)
    known[0][:, : first.shape[1]], known[1] = first, second
    return correlation([v / large for v in phase(context, known, adversary.secret)[:m]], model.circuit_.weights)


def test_columns_of_one_record():
    assert columns_of_one_record(Protections(owed_only=False)) > 0.9
    assert columns_of_one_record(ALL_ON) < LIMIT


def explained_monomial(protections):
    """K X**0, hidden in the noise: block after block, the coefficients that hold no contribution are its weights."""
    model = table_model(BLOCKS, BINS)
    adversary = adversary_of(model, protections, explanations=True)
    context, p = adversary.context, adversary.parameters
    large = context.modulus >> p.plain_bits + 3
    seed, c0 = adversary.key.encrypt_zero_seeded()
    c0 = (c0 + constant(context, large)) % np.array(context.primes, dtype=np.uint64)[:, None]
    guess = np.zeros(p.entries)
    for b, (first, second) in enumerate(adversary.ask_explained([(seed, c0)], 1)):
        parts = np.zeros((2, len(context.primes), p.degree), dtype=np.uint64)
        parts[0][:, : first.shape[1]], parts[1] = first, second
        known = np.array([float(v) / large for v in phase(context, parts, adversary.secret)[: p.entries]])[::-1]
        guess[b * BINS : (b + 1) * BINS] = known[b * BINS : (b + 1) * BINS]
    return correlation(guess, model.circuit_.weights)


def test_explained_monomial():
    assert explained_monomial(Protections(owed_only=False)) > 0.9
    assert explained_monomial(ALL_ON) < LIMIT


# -- second parts without their masks


def unmasked_explanations(protections):
    """Each block's second part is its weights times the polynomial behind the seed."""
    model = table_model(BLOCKS, BINS)
    adversary = adversary_of(model, protections, explanations=True)
    context, m = adversary.context, adversary.parameters.entries
    seed, c0 = adversary.key.encrypt_zero_seeded()
    behind = context.expand(seed, c0)[1]
    guess = np.zeros(m)
    for b, (_, second) in enumerate(adversary.ask_explained([(seed, c0)], 1)):
        quotient = np.array(divide(context, second, behind)[m - 1 :: -1], dtype=float)
        guess[b * BINS : (b + 1) * BINS] = quotient[b * BINS : (b + 1) * BINS]
    return correlation(guess, model.circuit_.weights)


def unmasked_seeded_columns(protections):
    """N equations for m weights, modulo the first prime: the second part is a combination of what the seeds give."""
    model = table_model(10, 20)
    adversary = adversary_of(model, protections, packing="columns", upload="seeded")
    context, m = adversary.context, adversary.parameters.entries
    pieces = [adversary.key.encrypt_zero_seeded() for _ in range(m)]
    _, second = adversary.ask_seeded(pieces, 1)
    behind = np.stack([context.expand(seed, c0)[1, 0, :m] for seed, c0 in pieces]).T
    return correlation(solved(behind, second[0, :m], context.primes[0]), model.circuit_.weights)


def solved(matrix, right, p):
    """Gauss and Jordan modulo a prime of 30 bits, centred."""
    table = np.column_stack([matrix, right]).astype(np.int64)
    for i in range(len(table)):
        pivot = i + int(np.flatnonzero(table[i:, i])[0])
        table[[i, pivot]] = table[[pivot, i]]
        table[i] = table[i] * pow(int(table[i, i]), -1, p) % p
        others = np.arange(len(table)) != i
        table[others] = (table[others] - table[others, i : i + 1] * table[i]) % p
    return np.where(table[:, -1] > p // 2, table[:, -1] - p, table[:, -1]).astype(float)


def unmasked_verdict_words(protections):
    """c1_j = K X**j: switched to words, the second part of a verdict's answer lists the weights."""
    model = table_model(10, 20)
    adversary = adversary_of(model, protections, packing="columns", reveal="verdict", thresholds=[1.0])
    context, p, m = adversary.context, adversary.parameters, adversary.parameters.entries
    queries = np.zeros((m, 2, len(context.primes), context.degree), dtype=np.uint64)
    for j in range(m):
        queries[j, 1] = constant(context, context.modulus >> 16, j)
    _, second = adversary.ask_words(queries, p.degree)
    return correlation((second[:m] << np.uint64(64 - p.share_bits)).view(np.int64), model.circuit_.weights)


@pytest.mark.parametrize("attack", [unmasked_explanations, unmasked_seeded_columns, unmasked_verdict_words])
def test_unmasked_second_parts(attack):
    assert attack(Protections(rerandomise=False)) > 0.9
    assert attack(ALL_ON) < LIMIT


def test_a_guess_of_the_model_cannot_be_checked_against_verdicts_in_rows():
    """Rows take no second part of the owner's making: without the mask it could try models, with it not even that."""
    model = table_model(4, 16)
    agree = []
    for protections in (Protections(rerandomise=False), ALL_ON):
        adversary = adversary_of(model, protections, reveal="verdict", thresholds=[1.0])
        context, p = adversary.context, adversary.parameters
        seed, c0 = adversary.key.encrypt_zero_seeded()
        body = seed + c0.astype("<u8").view(np.uint8).reshape(*c0.shape, 8)[..., : adversary.width].tobytes()
        answer = adversary.scorer.score(adversary.message(body, 1))[:-16]
        width = p.share_bits // 8
        tail = np.frombuffer(answer[-p.degree * width :], dtype=np.uint8).reshape(-1, width)
        guessed = np.zeros(p.degree, dtype=np.int64)
        guessed[: p.entries] = model.circuit_.weights[::-1]
        cipher = context.prepare_cipher(context.seeded_ciphertext(seed, c0))
        product = context.inner_product([cipher], [context.prepare_plain(guessed)])[1]
        expected = switch_to_words(product, context.primes, p.share_bits)
        agree.append((tail == expected[:, None].view(np.uint8)[:, :width]).all(axis=1).mean())
    assert agree[0] == 1.0
    assert agree[1] < 0.01


# -- known noise, and what lies under a one-time pad


def known_noise_of_explanations(switches):
    """Honest encryptions of zero: every contribution is 0, its noise the block's weights against known noise."""
    model = table_model(BLOCKS, BINS)
    adversary = adversary_of(model, ALL_ON, explanations=True)
    context, p, secret = adversary.context, adversary.parameters, adversary.secret
    rows = p.rows_per_ciphertext
    owed = adversary.scorer._engine.packing.owed(rows)
    queries = [adversary.key.encrypt_zero_seeded() for _ in range(2 * BINS // rows)]
    noise = [small_phase(context, context.expand(*query), secret) for query in queries]
    equations = np.array([row for one in noise for row in one[: rows * p.entries].reshape(rows, p.entries)])
    found = []
    for protections in switches:
        adversary.scorer._protections = protections
        right = np.zeros((len(queries), BLOCKS, rows))
        for i, query in enumerate(queries):
            for b, (first, second) in enumerate(adversary.ask_explained([query], rows)):
                parts = np.zeros((2, len(context.primes), p.degree), dtype=np.uint64)
                parts[0][:, owed], parts[1] = first, second
                measured = phase(context, parts, secret)
                right[i, b] = [float(measured[at]) for at in owed]
        guess = [
            np.linalg.lstsq(equations[:, b * BINS : (b + 1) * BINS], right[:, b].ravel(), rcond=None)[0]
            for b in range(BLOCKS)
        ]
        found.append(correlation(np.concatenate(guess), model.circuit_.weights))
    return found


def test_known_noise_of_explanations():
    off, on = known_noise_of_explanations([Protections(flood=False, rerandomise=False), ALL_ON])
    assert off > 0.9
    assert on < LIMIT


def test_what_is_under_a_verdicts_mask_needs_no_other_protection():
    """All others off, and the weights in plain sight of the noise: the first part shows nothing of them."""
    model = table_model(10, 20)
    adversary = adversary_of(model, NONE, packing="columns", reveal="verdict", thresholds=[1.0])
    context, p, m = adversary.context, adversary.parameters, adversary.parameters.entries
    queries = np.zeros((m, 2, len(context.primes), context.degree), dtype=np.uint64)
    for j in range(m):
        queries[j, 0] = constant(context, context.modulus >> 16, j)
        queries[j, 1] = constant(context, 1, p.degree - 1)
    first, _ = adversary.ask_words(queries, p.degree)
    assert correlation((first[:m] << np.uint64(64 - p.share_bits)).view(np.int64), model.circuit_.weights) < LIMIT


# -- what is registered


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": "columns", "upload": "seeded"},
        {"explanations": True},
        {"reveal": "verdict", "thresholds": [1.0]},
        {"packing": "columns", "reveal": "verdict", "thresholds": [1.0]},
    ],
    ids=["rows", "seeded columns", "explanations", "verdicts in rows", "verdicts in columns"],
)
def test_equal_seeds_are_refused(options):
    model = table_model(2, 8)
    scorer = Scorer(model, **options)
    owner = RecordOwner(scorer.offer())
    size = owner.parameters.material_bytes // owner.parameters.zeros
    owner._adopt(owner._material[:size] + owner._material[:size] + owner._material[2 * size :])
    with pytest.raises(WireError, match="share a seed"):
        scorer.score(owner.seal(records(model, 1), explain="explanations" in options))
    assert scorer.bits_released() == 0


# -- extraction by verdicts, in bits


def test_verdicts_sell_a_score_bit_by_bit_and_the_budget_counts_them():
    """An owner that adds to its word moves the threshold by as much: k verdicts on one record are its score of k bits.

    It is the same price as the score's, and a budget of one bit less stops it.
    """
    pytest.importorskip("spu", reason="verdicts need the extra mpc")
    from .._verdicts import both, ends  # noqa: TID252

    model = table_model(3, 8)
    low, high = model.circuit_.bounds(model.encoder_)
    X = records(model, 3)
    true = np.rint(model.decision_function(X) / model.score_scale_).astype(np.int64)
    tau = int(np.median(true))
    steps = (high - low).bit_length()
    pair = ends()

    def search(budget):
        thresholds = [tau * model.score_scale_]
        scorer = Scorer(model, reveal="verdict", thresholds=thresholds, budget=BitBudget(bits_per_owner=budget))
        owner = RecordOwner(scorer.offer())
        shift = np.uint64(64 - scorer.parameters.plain_bits)

        class Shifts:
            send, receive, by = pair[1].send, pair[1].receive, np.zeros(len(X), dtype=np.int64)

            def negative(self, words):
                return pair[1].negative(words + (self.by.view(np.uint64) << shift))

        moved = Shifts()
        least, most = np.full(len(X), low - 1), np.full(len(X), low - 1 + (1 << steps))  # least < score <= most
        for _ in range(steps):
            middle = (least + most) // 2
            moved.by = tau - middle
            answer = scorer.score(owner.seal(X))
            above, _ = both(lambda: scorer.compare(pair[0]), lambda answer=answer: owner.verdicts(answer, moved))
            least, most = np.where(above == 1, middle, least), np.where(above == 1, most, middle)
        return most, scorer.bits_released()

    found, bits = search(len(X) * steps)
    assert np.array_equal(found, true)
    assert bits == len(X) * steps
    assert bits <= Scorer(model).parameters.charge_bits(len(X))
    with pytest.raises(BudgetError):
        search(len(X) * steps - 1)
