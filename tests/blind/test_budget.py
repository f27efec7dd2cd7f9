"""Bits are counted for each key id, charged before an answer exists, and survive a restart."""

import numpy as np
import pytest

from blindsight.blind import BitBudget, Header, MemoryTable, RecordOwner, Scorer
from blindsight.blind._budget import BitLedger
from blindsight.blind._envelope import close_envelope, new_salt, split_envelope
from blindsight.errors import AuthenticationError, BudgetError, ParameterError, PolicyError, StoreError
from blindsight.store import Store

from ._models import quadratic_model, records, table_model
from ._networks import network_model, rows_of

MODEL = table_model(4, 16)
MODEL_BITS = Scorer(MODEL).parameters.charge_bits(1)


def test_every_answered_record_is_charged():
    scorer = Scorer(MODEL)
    owner, other = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 5)))
    scorer.score(other.seal(records(MODEL, 2)))
    assert scorer.bits_released(owner.key_id) == scorer.parameters.charge_bits(5)
    assert scorer.bits_released(other.key_id) == scorer.parameters.charge_bits(2)
    assert scorer.bits_released() == scorer.bits_released(owner.key_id) + scorer.bits_released(other.key_id)


def test_the_same_request_again_is_charged_again_and_masked_afresh():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(records(MODEL, 5))
    one, two = scorer.score(sealed), scorer.score(sealed)
    assert scorer.bits_released(owner.key_id) == 2 * scorer.parameters.charge_bits(5)
    assert one != two
    assert np.array_equal(owner.open(one), owner.open(two))


def test_an_exceeded_budget_refuses_names_what_is_left_and_charges_nothing():
    bits = Scorer(MODEL).parameters.charge_bits(7)
    scorer = Scorer(MODEL, budget=BitBudget(bits_per_owner=bits))
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 5)))
    with pytest.raises(BudgetError, match="at most 1 records") as caught:
        scorer.score(owner.seal(records(MODEL, 3)))
    assert owner.key_id in str(caught.value)
    assert scorer.bits_released(owner.key_id) == scorer.parameters.charge_bits(5)
    scorer.score(owner.seal(records(MODEL, 1)))
    stranger = RecordOwner(scorer.offer())
    scorer.score(stranger.seal(records(MODEL, 5)))


def test_the_total_holds_against_one_owner_under_many_keys():
    bits = Scorer(MODEL).parameters.charge_bits(5)
    scorer = Scorer(MODEL, budget=BitBudget(bits_total=bits))
    scorer.score(RecordOwner(scorer.offer()).seal(records(MODEL, 4)))
    with pytest.raises(BudgetError, match="in all"):
        scorer.score(RecordOwner(scorer.offer()).seal(records(MODEL, 4)))


@pytest.mark.parametrize("limit", ["bits_total", "rows_total"])
def test_a_refusal_by_the_total_tells_nothing_of_what_others_have_asked(limit):
    def refused(others: int) -> str:
        most = 10 * MODEL_BITS if limit == "bits_total" else 10
        ledger = BitLedger(BitBudget(**{limit: most}), MemoryTable(), "m")
        ledger.charge("other", others, Scorer(MODEL).parameters)
        with pytest.raises(BudgetError, match="in all") as caught:
            ledger.charge("me", 9, Scorer(MODEL).parameters)
        return str(caught.value)

    assert refused(2) == refused(3) == refused(10)


@pytest.mark.parametrize("name", ["total", "all", "owner/all"])
def test_no_name_of_an_owner_is_that_of_the_total(name):
    ledger, parameters = BitLedger(BitBudget(rows_per_owner=3), MemoryTable(), "m"), Scorer(MODEL).parameters
    ledger.charge("other", 2, parameters)
    assert ledger.rows(name) == ledger.spent(name) == 0
    ledger.charge(name, 3, parameters)
    assert ledger.rows(name) == 3
    assert ledger.rows() == 5
    assert ledger.spent() == ledger.spent(name) + ledger.spent("other")


def test_rows_of_approximate_scores_are_charged_as_many_as_leave():
    """An owner that seals 32 records and declares 17 gets 32 scores, and is charged for as many."""
    model = network_model("quadratic", 4)
    scorer = Scorer(model, packing="columns", budget=BitBudget(rows_per_owner=40))
    owner = RecordOwner(scorer.offer())
    p = scorer.parameters
    X = rows_of(model, 32)
    salt = new_salt()
    header = Header(
        kind="sealed", offer=owner._digest, key=owner._key_id, request=salt, salt=salt, rows=17, registers=True
    )
    body = [owner.registration, *owner._engine.seal(model.inputs_.encode(X))]
    answer = scorer.score(close_envelope(owner._session, header, body))
    _, told = split_envelope(answer, "answer", offer=owner._digest)
    opened = owner._engine.open(told, 32)
    assert np.all(np.abs(opened - model.decision_function(X)) < p.error(opened.max()))
    assert scorer.rows_answered(owner.key_id) == 32 == p.charge_rows(17) > 17
    with pytest.raises(BudgetError, match=r"8 of 40 left.*at most 8 records"):
        scorer.score(owner.seal(X[:9]))
    scorer.score(owner.seal(X[:8]))
    full = p.rows_per_ciphertext
    assert [p.charge_rows(n) for n in (0, 1, 3, full, full + 1, full + 5)] == [0, 1, 4, full, full + 1, full + 8]


def test_only_admitted_keys_register():
    table = MemoryTable()
    offer = Scorer(MODEL, table=table).offer()
    known, stranger = RecordOwner(offer), RecordOwner(offer)
    scorer = Scorer(MODEL, table=table, admit=[known.key_id])
    scorer.score(known.seal(records(MODEL, 1)))
    with pytest.raises(PolicyError, match="may not register"):
        scorer.score(stranger.seal(records(MODEL, 1)))
    assert scorer.bits_released(stranger.key_id) == 0


def test_registrations_are_limited():
    scorer = Scorer(MODEL, max_owners=1)
    scorer.score(RecordOwner(scorer.offer()).seal(records(MODEL, 1)))
    with pytest.raises(PolicyError, match="No more owners"):
        scorer.score(RecordOwner(scorer.offer()).seal(records(MODEL, 1)))


def test_a_restarted_scorer_knows_its_owners_and_their_bits(tmp_path):
    X = records(MODEL, 3)
    with Store(tmp_path / "scorer.db") as store:
        first = Scorer(MODEL, table=store.table("blind"))
        owner = RecordOwner(first.offer())
        owner.open(first.score(owner.seal(X)))
    with Store(tmp_path / "scorer.db") as store:
        bits = first.parameters.charge_bits(3)
        second = Scorer(MODEL, table=store.table("blind"), budget=BitBudget(bits_per_owner=2 * bits))
        assert second.offer() == first.offer()
        assert second.bits_released(owner.key_id) == bits
        sealed = owner.seal(X)
        assert len(sealed) < len(owner._material)  # no registration is sent again
        assert np.array_equal(owner.open(second.score(sealed)), MODEL.decision_function(X))
        with pytest.raises(BudgetError):
            second.score(sealed)


def test_a_model_has_its_own_count_in_a_shared_table():
    table = MemoryTable()
    one, two = Scorer(MODEL, table=table), Scorer(quadratic_model(2), table=table)
    owner = RecordOwner(one.offer())
    one.score(owner.seal(records(MODEL, 1)))
    assert two.bits_released() == 0
    with pytest.raises(AuthenticationError):
        two.score(owner.seal(records(MODEL, 1)))


class FullDisk(MemoryTable):
    """Refuses writes of bit counts once ``full`` is set."""

    full = False

    def put(self, key, value):
        if self.full and key.startswith("bits/"):
            raise StoreError("The disk is full")
        super().put(key, value)


def test_no_answer_without_a_written_charge():
    table = FullDisk()
    scorer = Scorer(MODEL, table=table)
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 1)))
    table.full = True
    computed = []
    scorer._engine._evaluate = lambda *args: computed.append(args)
    with pytest.raises(StoreError, match="disk is full"):
        scorer.score(owner.seal(records(MODEL, 1)))
    assert computed == []


def test_the_charge_stands_when_the_computation_fails():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 1)))

    def fail(*args):
        raise MemoryError

    scorer._engine._evaluate = fail
    with pytest.raises(MemoryError):
        scorer.score(owner.seal(records(MODEL, 1)))
    assert scorer.bits_released(owner.key_id) == 2 * scorer.parameters.charge_bits(1)


def test_a_damaged_count_stops_everything():
    table = MemoryTable()
    scorer = Scorer(MODEL, table=table)
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 1)))
    table.put(scorer._ledger._key(owner.key_id), b"-1")
    with pytest.raises(StoreError, match="damaged"):
        scorer.score(owner.seal(records(MODEL, 1)))


@pytest.mark.parametrize("value", [-1, 1.5, "7", True])
def test_unusable_budgets(value):
    with pytest.raises(ParameterError):
        BitBudget(bits_per_owner=value)


# -- extraction: what a budget is for --------------------------------------------------------------------------------


def extract_table(scorer, owner, model):
    """Read a table off exact scores: a base record, then one bin moved at a time. Returns a score function."""
    encoder = model.encoder_
    centres = [
        np.concatenate([[e[0] - 1], (np.array(e[1:]) + np.array(e[:-1])) / 2, [e[-1] + 1]]) for e in encoder.edges
    ]
    base = np.array([c[0] for c in centres])
    queries = [base]
    for f, c in enumerate(centres):
        for value in c[1:]:
            queries.append(base.copy())
            queries[-1][f] = value
    assert len(queries) == scorer.rows_to_extract
    scores = np.concatenate([owner.open(scorer.score(owner.seal(np.array([q])))) for q in queries])
    table, at = np.zeros(encoder.length), 1
    for f, c in enumerate(centres):
        moved = scores[at : at + len(c) - 1] - scores[0]
        table[encoder.offsets[f] + 1 : encoder.offsets[f] + len(c)] = moved
        at += len(c) - 1
    return lambda X: scores[0] + table[encoder.slots(X)].sum(axis=1)


def test_extraction_succeeds_in_the_predicted_number_of_rows():
    model = table_model(4, 8, bias=99)
    scorer = Scorer(model)
    assert scorer.rows_to_extract == 4 * 7 + 1
    stolen = extract_table(scorer, RecordOwner(scorer.offer()), model)
    X = records(model, 500)
    assert np.array_equal(stolen(X), model.decision_function(X))


def test_extraction_is_stopped_by_the_bit_budget():
    model = table_model(4, 8)
    enough = Scorer(model).parameters.charge_bits(1) * Scorer(model).rows_to_extract
    scorer = Scorer(model, budget=BitBudget(bits_per_owner=enough - 1))
    with pytest.raises(BudgetError):
        extract_table(scorer, RecordOwner(scorer.offer()), model)


def test_extraction_of_a_quadratic_succeeds_in_the_predicted_number_of_rows():
    model = quadratic_model(3)
    scorer = Scorer(model)
    owner = RecordOwner(scorer.offer())
    assert scorer.rows_to_extract == 10
    X = records(model, scorer.rows_to_extract, seed=3)
    scores = owner.open(scorer.score(owner.seal(X)))
    weights = np.linalg.solve(model.encoder_.encode(X).astype(float), scores)
    fresh = records(model, 200, seed=4)
    stolen = model.encoder_.encode(fresh) @ weights
    assert np.allclose(stolen, model.decision_function(fresh), rtol=1e-6, atol=1.0)


def test_the_count_is_of_the_model_whatever_the_packing():
    model, table = table_model(4, 8), MemoryTable()
    one = Scorer(model, packing="rows", table=table)
    one.score(RecordOwner(one.offer()).seal(records(model, 3)))
    other = Scorer(model, packing="columns", table=table)
    assert other.bits_released() == one.bits_released() > 0
