"""Verdicts: equal to predict in every case, one bit a record, a mask spent before its comparison starts."""

import dataclasses
import math
import os
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.blind import BitBudget, BlindParameters, ComparisonRefused, MemoryTable, RecordOwner, Scorer, plan
from blindsight.blind._plan import FRESH_NOISE
from blindsight.blind._verdict import (
    MAX_PENDING,
    Desk,
    integer_thresholds,
    owner_words,
    share_answer,
    verdict_bytes,
)
from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.errors import (
    AuthenticationError,
    BudgetError,
    CapacityError,
    ParameterError,
    PolicyError,
    ProtocolError,
    UnavailableError,
    WireError,
)
from blindsight.he import HeContext, SecretKey, add_mod
from blindsight.store import Store

from ._models import StandInModel, quadratic_model, records, table_model

pytest.importorskip("spu", reason="verdicts need the extra mpc")

from ._verdicts import OWNER, SCORER, both, ends, verdicts

MODEL = table_model(4, 16)


@pytest.fixture(scope="module")
def pair():
    return ends()


def middle(model):
    return [float(np.median(model.decision_function(records(model, 200))))]


# -- the same verdicts


@pytest.mark.parametrize(
    ("model", "packing", "sizes"),
    [
        (table_model(21, 64, bias=-12345), "rows", [1, 3, 7]),
        (quadratic_model(29, bias=777), "rows", [9]),
        (table_model(70, 64), "rows", [2]),
        (table_model(5, 16, bias=3), "columns", [1, 100]),
        (quadratic_model(4, bias=-3), "columns", [4097]),
        (quadratic_model(3, high=1 << 34, levels=15), "rows", [5]),
        (quadratic_model(3, high=1 << 34, levels=15), "columns", [5]),
    ],
    ids=["tables", "quadratics", "long", "columns", "two groups", "wide rows", "wide columns"],
)
def test_verdicts_equal_scores_above_the_threshold(pair, model, packing, sizes):
    threshold = middle(model)
    scorer = Scorer(model, packing=packing, reveal="verdict", thresholds=threshold)
    owner = RecordOwner(scorer.offer())
    for n in sizes:
        X = records(model, n, seed=n)
        assert np.array_equal(verdicts(scorer, owner, X, pair), model.decision_function(X) > threshold[0])


def one_feature(scores, scale=1.0):
    """A model whose record i has exactly ``scores[i]``."""
    edges = (tuple(float(i) for i in range(len(scores) - 1)),)
    model = StandInModel(OneHotBins(edges=edges), InnerProduct(weights=np.array(scores)), scale)
    X = np.arange(len(scores))[:, None] - 0.5
    assert model.decision_function(X).tolist() == [s * scale for s in scores]
    return model, X


@pytest.mark.parametrize("packing", ["rows", "columns"])
@pytest.mark.parametrize("bits", [4, 18, 30, 38])
def test_the_boundary(pair, packing, bits):
    """Scores at and around the threshold, at the extremes, and the threshold at and beyond them."""
    low, high = -(1 << bits) - 3, (1 << bits) + 5
    for tau in (low - 1, low, -1, 0, 1, high - 1, high):
        scores = sorted({low, high, *(min(max(tau + i, low), high) for i in (-2, -1, 0, 1, 2))})
        model, X = one_feature(scores)
        scorer = Scorer(model, packing=packing, reveal="verdict", thresholds=[float(tau)])
        assert verdicts(scorer, RecordOwner(scorer.offer()), X, pair).tolist() == [int(s > tau) for s in scores]


@pytest.mark.parametrize("threshold", [-math.inf, -5.0, 5.0, math.inf])
def test_thresholds_that_all_or_none_exceed(pair, threshold):
    model, X = one_feature([-4, 0, 4])
    scorer = Scorer(model, reveal="verdict", thresholds=[threshold])
    assert verdicts(scorer, RecordOwner(scorer.offer()), X, pair).tolist() == [int(threshold < 0)] * 3


def test_every_score_against_every_threshold(pair):
    """Exhaustive for a circuit of scores -8 .. 7, all 17 thresholds, fifteen of them at a time as bands."""
    model, X = one_feature(list(range(-8, 8)), scale=0.1)
    products = [v * 0.1 for v in range(-9, 8)]
    for thresholds in (products[:15], products[2:]):
        scorer = Scorer(model, packing="columns", reveal="verdict", thresholds=thresholds)
        bands = verdicts(scorer, RecordOwner(scorer.offer()), X, pair)
        assert bands.tolist() == [sum(score > t for t in thresholds) for score in model.decision_function(X)]


FITTED = {
    "ECOD": {},
    "COPOD": {},
    "HBOS": {},
    "LODA": {"projections": 8},
    "IForest": {"trees": 8, "depth": 5},
    "Mahalanobis": {},
    "PCA": {},
    "RandomFeatures": {},
    "OCSVM": {},
    "TableStudent": {"rounds": 2},
}


@pytest.mark.parametrize("name", FITTED)
def test_fitted_detectors_predict(pair, name):
    """Every detector whose circuit is whole."""
    import blindsight as bs

    X = np.random.default_rng(0).standard_t(3, size=(500, 5))
    schema = bs.Schema.infer(X).declare()
    more = dict(FITTED[name])
    if name == "TableStudent":
        more["teacher"] = bs.Mahalanobis(schema=schema).fit(X)
    model = getattr(bs, name)(schema=schema, contamination=0.1, **more).fit(X)
    rows = X[:60]
    scorer = Scorer(model, packing="columns" if name in ("ECOD", "Mahalanobis") else "rows", reveal="verdict")
    found = verdicts(scorer, RecordOwner(scorer.offer()), rows, pair)
    assert found.dtype == np.int64
    assert np.array_equal(found, model.predict(rows))
    assert 0 < found.sum() < len(rows)


def test_every_whole_circuit_is_among_them():
    import blindsight as bs
    from blindsight.detectors import CircuitDetector

    public = [getattr(bs, name) for name in bs.__all__]
    assert {cls.__name__ for cls in public if isinstance(cls, type) and issubclass(cls, CircuitDetector)} <= {*FITTED}


@settings(max_examples=200, deadline=None)
@given(
    scale=st.floats(1e-12, 1e6),
    low=st.integers(-50, 0),
    size=st.integers(0, 60),
    at=st.integers(-60, 60),
    nudge=st.sampled_from([-1, 0, 1]),
)
def test_integer_thresholds_agree_with_float64(scale, low, size, at, nudge):
    high, threshold = low + size, at * scale
    if nudge:
        threshold = float(np.nextafter(threshold, math.inf * nudge))
    (tau,) = integer_thresholds([threshold], scale, low, high)
    assert low - 1 <= tau <= high
    assert [v > tau for v in range(low, high + 1)] == [v * scale > threshold for v in range(low, high + 1)]


@pytest.mark.parametrize("thresholds", [[], [1.0, 1.0], [2.0, 1.0], [math.nan], list(range(16))])
def test_unusable_thresholds(thresholds):
    with pytest.raises(ParameterError):
        Scorer(MODEL, reveal="verdict", thresholds=thresholds)
    with pytest.raises(ParameterError):
        Scorer(MODEL, reveal="both")
    with pytest.raises(ParameterError, match="threshold_"):
        Scorer(MODEL, reveal="verdict")
    with pytest.raises(ParameterError):
        Scorer(MODEL, thresholds=[1.0])


# -- the noise, bounded by the parameters


def carried():
    for packing in ("rows", "columns"):
        for degree in (4096, 8192):
            for plain_bits in (20, 30, 40, 46, 48, 50, 56):
                for weight_bits in (10, 30, 45):
                    try:
                        p = BlindParameters(
                            packing=packing,
                            upload="seeded",
                            entries=64,
                            degree=degree,
                            plain_bits=plain_bits,
                            weight_bits=weight_bits,
                            thresholds=1,
                        )
                    except CapacityError:
                        continue
                    yield p


def test_the_worst_noise_stays_below_half_a_score_unit():
    cases = list(carried())
    assert len({(p.packing, p.degree, p.share_bits) for p in cases}) >= 8
    for p in cases:
        primes = HeContext(p.he).primes
        q = math.prod(primes)
        assert q >= p.least_modulus
        noise = (FRESH_NOISE << p.weight_bits) + p.mask_noise + p.flood_half_width
        words = Fraction(noise << p.share_bits, q) + len(primes) * (p.degree + 1)
        assert words < Fraction(1 << p.share_bits, 2 << p.plain_bits)


@pytest.mark.parametrize("case", range(3))
def test_the_worst_noise_carries_over(case):
    """An answer made by hand with the largest noise of either sign, compared in the clear."""
    p = [p for p in carried() if p.weight_bits == 10 and p.plain_bits in (20, 40, 46) and p.degree == 4096][case]
    context = HeContext(p.he)
    key = SecretKey.generate(context)
    q, k = context.modulus, p.plain_bits
    noise = (FRESH_NOISE << p.weight_bits) + p.mask_noise + p.flood_half_width
    top = (1 << k - 2) - 1
    zero = key.encrypt_zero()
    fresh = 21
    for tau in (-top, 0, 5, top):
        scores = [s for s in (-top, tau - 1, tau, tau + 1, top) if -top <= s <= top]
        phases = [q * s // (1 << k) + sign * (noise - fresh - 1) for s in scores for sign in (-1, 1)]
        error = np.array([[v % prime for v in phases] for prime in context.primes], dtype=np.uint64)
        owed = np.arange(len(phases))
        first = add_mod(zero[0][:, owed], error, context.primes)
        pieces, mask = share_answer(context, p, first, zero[1])
        desk = Desk(p, (tau,), MemoryTable(), "test")
        number = desk.keep(b"k" * 16, b"s" * 16, [mask])
        theirs = desk.take(b"k" * 16, b"s" * 16, number, len(phases))
        mine = owner_words(key, p, memoryview(b"".join(pieces)), owed)
        positive = (mine + theirs).view(np.int64) > 0
        assert positive.tolist() == [s > tau for s in scores for _ in range(2)]


def test_verdicts_get_a_bit_more_where_the_difference_needs_it():
    model, _ = one_feature([-(1 << 25), 1 << 25])
    scores, verdict = (plan(model.encoder_, model.circuit_, thresholds=m) for m in (0, 1))
    assert verdict.plain_bits == scores.plain_bits + 1
    assert verdict.answer_bits == 1
    assert verdict.capacity_bits > verdict.plain_bits
    assert "shares of" in verdict.describe()


def test_what_words_cannot_carry_is_refused():
    model = quadratic_model(3, high=1 << 38, levels=15)
    assert plan(model.encoder_, model.circuit_, packing="columns").degree == 8192
    with pytest.raises(CapacityError, match="128-bit"):
        plan(model.encoder_, model.circuit_, packing="columns", thresholds=1)


# -- one bit, once


def test_one_bit_a_record_and_threshold():
    for thresholds in ([1.0], [1.0, 2.0, 3.0]):
        scorer = Scorer(MODEL, reveal="verdict", thresholds=thresholds, budget=BitBudget(bits_per_owner=20))
        owner = RecordOwner(scorer.offer())
        scorer.score(owner.seal(records(MODEL, 5)))
        assert scorer.bits_released(owner.key_id) == scorer.bits_released() == 5 * len(thresholds)
        with pytest.raises(BudgetError, match=f"at most {20 // len(thresholds) - 5} records"):
            scorer.score(owner.seal(records(MODEL, 16)))


def test_a_second_comparison_is_refused_and_the_link_lives_on(pair):
    scorer = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL))
    owner = RecordOwner(scorer.offer())
    X = records(MODEL, 5)
    answer = scorer.score(owner.seal(X))
    first, _ = both(lambda: scorer.compare(pair[0]), lambda: owner.verdicts(answer, pair[1]))

    def refused():
        with pytest.raises(PolicyError, match="compared once"):
            scorer.compare(pair[0])

    def refusal():
        with pytest.raises(ProtocolError, match="refuses"):
            owner.verdicts(answer, pair[1])

    both(refused, refusal)
    assert np.array_equal(verdicts(scorer, owner, X, pair), first)


class BreaksOff:
    """The scorer's end of a comparison whose link breaks at its very start."""

    rank = 0

    def __init__(self, end, table):
        self.send, self.receive, self._table, self.left = end.send, end.receive, table, None

    def negative(self, words):
        self.left = [key for key in self._table._values if key.startswith("verdict/") and not key.endswith("count")]
        raise UnavailableError("The link broke")


def test_a_mask_is_gone_before_its_comparison_and_stays_gone(tmp_path, pair):
    table = MemoryTable()
    scorer = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL), table=table)
    owner = RecordOwner(scorer.offer())
    answer = scorer.score(owner.seal(records(MODEL, 5)))
    charged = scorer.bits_released()
    assert sum(key.startswith("verdict/") for key in table._values) == 2  # the mask, and the count
    broken, mine = BreaksOff(pair[0], table), BreaksOff(pair[1], table)

    def breaks():
        with pytest.raises(UnavailableError):
            scorer.compare(broken)

    def breaks_here():
        with pytest.raises(UnavailableError):
            owner.verdicts(answer, mine)

    both(breaks, breaks_here)
    assert broken.left == []

    again = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL), table=table)
    assert again.offer() == scorer.offer()

    def refused():
        with pytest.raises(PolicyError, match="seal the records again"):
            again.compare(pair[0])

    def refusal():
        with pytest.raises(ProtocolError):
            owner.verdicts(answer, pair[1])

    both(refused, refusal)
    assert again.bits_released() == charged  # neither refunded nor charged twice


def test_masks_wait_through_a_restart_and_are_spent_for_good(tmp_path, pair):
    X, threshold = records(MODEL, 5), middle(MODEL)
    with Store(tmp_path / "scorer.db") as store:
        scorer = Scorer(MODEL, reveal="verdict", thresholds=threshold, table=store.table("blind"))
        owner = RecordOwner(scorer.offer())
        answer = scorer.score(owner.seal(X))
    with Store(tmp_path / "scorer.db") as store:
        scorer = Scorer(MODEL, reveal="verdict", thresholds=threshold, table=store.table("blind"))
        found, _ = both(lambda: scorer.compare(pair[0]), lambda: owner.verdicts(answer, pair[1]))
        assert np.array_equal(found, MODEL.decision_function(X) > threshold[0])
    with Store(tmp_path / "scorer.db") as store:
        assert not [key for key in store.table("blind").keys("verdict/") if not key.endswith("count")]


def test_only_the_last_answers_wait():
    table = MemoryTable()
    desk = Desk(plan(MODEL.encoder_, MODEL.circuit_, thresholds=1), (0,), table, "scope")
    key, mask = b"k" * 16, os.urandom(5)
    numbers = [(salt, desk.keep(key, salt, [mask])) for salt in (os.urandom(16) for _ in range(MAX_PENDING + 1))]
    with pytest.raises(PolicyError):
        desk.take(key, *numbers[0], 1)
    assert len(desk.take(key, *numbers[-1], 1)) == 1
    with pytest.raises(PolicyError):
        desk.take(key, *numbers[-1], 1)
    with pytest.raises(PolicyError):
        desk.take(b"j" * 16, *numbers[-2], 1)
    with pytest.raises(WireError):
        desk.take(key, *numbers[-2], 2)
    with pytest.raises(PolicyError):  # asking for another number of records has spent it
        desk.take(key, *numbers[-2], 1)


def test_a_stranger_on_the_link_spends_nothing(pair):
    scorer = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL))
    owner, stranger = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    X = records(MODEL, 2)
    answer = scorer.score(owner.seal(X))
    scorer.score(stranger.seal(X))
    stranger._key_id, honest = owner._key_id, stranger._key_id

    def refused():
        with pytest.raises(AuthenticationError):
            scorer.compare(pair[0])

    def forged():
        session = owner._session
        owner._session = stranger._session  # the owner's message, under another's key
        try:
            with pytest.raises(AuthenticationError):  # the answer already does not open
                owner.verdicts(answer, pair[1])
            pair[1].send(compare_message(owner, stranger._session, answer))
            assert pair[1].receive() == b"\0"
        finally:
            owner._session = session

    both(refused, forged)
    stranger._key_id = honest
    found, _ = both(lambda: scorer.compare(pair[0]), lambda: owner.verdicts(answer, pair[1]))
    assert len(found) == 2


def compare_message(owner, session, answer):
    from blindsight.blind._envelope import Header, close_envelope, new_salt, split_envelope

    about, body = split_envelope(answer, "answer", offer=owner._digest)
    header = Header(
        kind="compare", offer=about.offer, key=about.key, request=about.salt, salt=new_salt(), rows=about.rows
    )
    return close_envelope(session, header, [bytes(body[:8])])


def test_garbage_on_the_link_is_refused(pair):
    scorer = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL))
    for garbage in (b"", b"BSBL", os.urandom(300), RecordOwner(scorer.offer()).seal(records(MODEL, 1))):

        def refused():
            with pytest.raises(ProtocolError):
                scorer.compare(pair[0])

        def send(garbage=garbage):
            pair[1].send(garbage)
            return pair[1].receive()

        assert both(refused, send)[0] == b"\0"


def test_scores_and_verdicts_are_not_mixed_up(pair):
    verdict, score = Scorer(MODEL, reveal="verdict", thresholds=[1.0]), Scorer(MODEL)
    for scorer, use, other in (
        (verdict, lambda o, a: o.open(a), "verdicts"),
        (score, lambda o, a: o.verdicts(a, pair[1]), "scores"),
    ):
        owner = RecordOwner(scorer.offer())
        answer = scorer.score(owner.seal(records(MODEL, 1)))
        with pytest.raises(ParameterError, match=other):
            use(owner, answer)
    with pytest.raises(ParameterError, match="scores"):
        score.compare(pair[0])


def test_mutated_answers_are_refused(pair):
    scorer = Scorer(MODEL, reveal="verdict", thresholds=[1.0])
    owner = RecordOwner(scorer.offer())
    answer = scorer.score(owner.seal(records(MODEL, 2)))
    assert len(answer) > verdict_bytes(scorer.parameters, 2)
    rng = np.random.default_rng(5)
    for _ in range(50):
        mutant = bytearray(answer)
        mutant[int(rng.integers(len(mutant)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(ProtocolError):
            owner.verdicts(bytes(mutant), pair[1])
    with pytest.raises(WireError):
        owner.verdicts(answer[:-1], pair[1])


def test_the_offer_tells_how_many_thresholds_and_not_which():
    offers = set()
    table = MemoryTable()
    for threshold in (1.0, 5.0):
        scorer = Scorer(MODEL, reveal="verdict", thresholds=[threshold], table=table)
        assert RecordOwner(scorer.offer()).parameters.thresholds == 1
        offers.add(scorer.offer())
    assert len(offers) == 1
    assert Scorer(MODEL, table=table).offer() not in offers


def test_an_answer_of_one_version_is_not_compared_with_anothers_threshold(pair):
    """Other weights or thresholds behind the same offer, in one table: the mask is not found, and not spent."""
    table, X = MemoryTable(), records(MODEL, 3)
    one = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL), table=table)
    owner = RecordOwner(one.offer())
    other_weights = dataclasses.replace(
        MODEL, circuit_=InnerProduct(weights=MODEL.circuit_.weights[::-1].copy(), bias=MODEL.circuit_.bias)
    )
    for other in (
        Scorer(MODEL, reveal="verdict", thresholds=[middle(MODEL)[0] + 1], table=table),
        Scorer(other_weights, reveal="verdict", thresholds=middle(MODEL), table=table),
    ):
        assert other.offer() == one.offer()
        answer = one.score(owner.seal(X))

        def refused(other=other) -> None:
            with pytest.raises(PolicyError, match="no mask"):
                other.compare(pair[0])

        def ask(answer=answer) -> None:
            with pytest.raises(ComparisonRefused):
                owner.verdicts(answer, pair[1])

        both(refused, ask)
        mine, _ = both(lambda: one.compare(pair[0]), lambda answer=answer: owner.verdicts(answer, pair[1]))
        assert np.array_equal(mine, MODEL.decision_function(X) > middle(MODEL)[0])
    again = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL), table=table)  # as another worker does
    answer = one.score(owner.seal(X))
    both(lambda: again.compare(pair[0]), lambda: owner.verdicts(answer, pair[1]))


def test_masks_go_with_their_registration(pair):
    table = MemoryTable()
    scorer = Scorer(MODEL, reveal="verdict", thresholds=[1.0], table=table)
    assert scorer.reveals_verdicts
    owner = RecordOwner(scorer.offer())
    for _ in range(3):
        scorer.score(owner.seal(records(MODEL, 1)))
    assert len([key for key in table._values if key.startswith("verdict/")]) == 4
    scorer.forget(owner.key_id)
    assert [key.split("/")[-1] for key in table._values if key.startswith("verdict/")] == ["count"]


def test_who_may_compare_can_be_narrowed(pair):
    scorer = Scorer(MODEL, reveal="verdict", thresholds=[1.0])
    owner = RecordOwner(scorer.offer())
    answer, seen = scorer.score(owner.seal(records(MODEL, 1))), []

    def refused() -> None:
        with pytest.raises(PolicyError, match="may not ask"):
            scorer.compare(pair[0], admit=lambda key_id: seen.append(key_id) or False)

    def ask() -> None:
        with pytest.raises(ComparisonRefused):
            owner.verdicts(answer, pair[1])

    both(refused, ask)
    assert seen == [owner.key_id]
    both(lambda: scorer.compare(pair[0], admit=lambda _: True), lambda: owner.verdicts(answer, pair[1]))


# -- nothing but the verdict


def test_shares_are_uniform_whatever_the_score():
    """The owner's words over 4,096 records of the lowest score, and of the highest: both uniform, byte by byte."""
    from scipy.stats import chisquare, kstest

    model, X = one_feature([0, (1 << 18) - 1])
    scorer = Scorer(model, packing="columns", reveal="verdict", thresholds=[1000.0])
    p = scorer.parameters
    owner = RecordOwner(scorer.offer())
    width = p.share_bits // 8
    for record in X:
        owned, masks = [], []
        for _ in range(4):
            answer = scorer.score(owner.seal(np.tile(record, (4096, 1))))
            body = owner._authentic(answer, None)[1]
            owned.append(owner_words(owner._key, p, body[8:], np.arange(4096)))
            (place,) = [k for k in scorer._table._values if k.startswith("verdict/") and not k.endswith("count")][-1:]
            masks.append(np.frombuffer(scorer._table.get(place)[16:], dtype=np.uint8))
        words = np.concatenate(owned)
        assert not (words & np.uint64((1 << 64 - p.share_bits) - 1)).any()
        octets = words[:, None].view(np.uint8)[:, 8 - width :]
        for column in octets.T:
            assert chisquare(np.bincount(column, minlength=256)).pvalue > 1e-6
        assert kstest(words / 2.0**64, "uniform").pvalue > 1e-6
        assert len(np.unique(words)) == len(words)
        assert chisquare(np.bincount(np.concatenate(masks), minlength=256)).pvalue > 1e-6


def test_shares_do_not_correlate_with_scores(pair):
    model = quadratic_model(4)
    scorer = Scorer(model, packing="columns", reveal="verdict", thresholds=middle(model))
    owner = RecordOwner(scorer.offer())
    X = records(model, 4096)
    answer = scorer.score(owner.seal(X))
    body = owner._authentic(answer, None)[1]
    words = owner_words(owner._key, scorer.parameters, body[8:], np.arange(4096))
    scores = model.decision_function(X)
    bits = np.unpackbits(words[:, None].view(np.uint8), axis=1)[:, : scorer.parameters.share_bits]
    bits = bits[:, bits.std(axis=0) > 0]
    correlations = [abs(np.corrcoef(bit, scores)[0, 1]) for bit in bits.T]
    assert len(correlations) > 30
    assert max(correlations) < 6 / math.sqrt(4096)


def test_halves_of_the_result_are_uniform_and_the_scorer_keeps_its_own(pair):
    """All verdicts equal: each side's half of them is still a fair coin."""
    n = 4096
    mine, theirs = both(
        lambda: pair[0].negative(np.zeros(n, dtype=np.uint64)), lambda: pair[1].negative(np.full(n, -1).view(np.uint64))
    )
    assert (mine ^ theirs).all()
    for half in (mine, theirs):
        assert abs(half.mean() - 0.5) < 6 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("n", [1, 63, 65, 700, 5000])
def test_comparisons_of_any_length(pair, n):
    rng = np.random.default_rng(n)
    total = rng.integers(-(1 << 63), 1 << 63, n, dtype=np.int64)
    total[: min(n, 5)] = [1, -1, 0, (1 << 63) - 1, -(1 << 63)][: min(n, 5)]
    share = rng.integers(0, 1 << 64, n, dtype=np.uint64)
    mine, theirs = both(lambda: pair[0].negative(share), lambda: pair[1].negative(total.view(np.uint64) - share))
    assert np.array_equal(mine ^ theirs, total < 0)


@pytest.mark.slow
def test_ferret_compares_as_softspoken_does():
    """The transfer that is meant for long links; its set-up takes seconds."""
    pair = ends("ferret")
    rng = np.random.default_rng(7)
    for n in (4096, 100):
        total = rng.integers(-(1 << 63), 1 << 63, n, dtype=np.int64)
        total[:5] = [1, -1, 0, (1 << 63) - 1, -(1 << 63)]
        share = rng.integers(0, 1 << 64, n, dtype=np.uint64)
        other = total.view(np.uint64) - share
        mine, theirs = both(partial(pair[0].negative, share), partial(pair[1].negative, other))
        assert np.array_equal(mine ^ theirs, total < 0)
    X = records(MODEL, 20)
    scorer = Scorer(MODEL, reveal="verdict", thresholds=middle(MODEL))
    found = verdicts(scorer, RecordOwner(scorer.offer()), X, pair)
    assert np.array_equal(found, MODEL.decision_function(X) > middle(MODEL)[0])


def test_both_sides_must_run_the_same_program():
    from blindsight.blind import Comparison
    from blindsight.blind.mpc import open_memory_link

    def make(rank):
        return Comparison(open_memory_link("differs", 2, rank), transfer=("ferret", "softspoken")[rank])

    for future in [side.submit(make, rank) for rank, side in enumerate((SCORER, OWNER))]:
        with pytest.raises(ProtocolError, match="another program"):
            future.result(timeout=60)


def test_a_broken_comparison_would_still_meet_the_flood():
    """Even with its mask taken off, a share is as wide as an exact answer's: capacity_bits, no more."""
    scorer = Scorer(MODEL, reveal="verdict", thresholds=[1.0])
    p = scorer.parameters
    assert p.hiding_bits > 16
    owner = RecordOwner(scorer.offer())
    n = p.rows_per_ciphertext
    answer = scorer.score(owner.seal(np.tile(records(MODEL, 1), (n, 1))))
    header, body = owner._authentic(answer, None)
    words = owner_words(owner._key, p, body[8:], owner._engine.packing.owed(n))
    unmasked = words + scorer._desk.take(header.key, header.salt, bytes(body[:8]), n)
    scores = unmasked.view(np.int64) / 2.0 ** (64 - p.plain_bits)
    assert np.abs(scores - np.rint(scores - 0.5) - 0.5).max() < 0.5  # all the same verdict, and yet
    width = 2 * p.flood_half_width * 2.0 ** (p.plain_bits - p.modulus_bits)
    assert scores.std() > 0.6 * width / math.sqrt(12)
