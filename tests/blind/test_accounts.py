"""What a service asks of a scorer: accounts in place of keys, charges that it settles itself, keys that come first."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from blindsight.blind import BitBudget, RecordOwner, RegistrationCheck, Scorer, read_header
from blindsight.errors import AuthenticationError, BudgetError, PolicyError, WireError

from ._models import records, table_model

MODEL = table_model(4, 16)


def test_rows_are_a_budget_of_their_own():
    scorer = Scorer(MODEL, budget=BitBudget(rows_per_owner=5, rows_total=7))
    one, two = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    scorer.score(one.seal(records(MODEL, 4)))
    with pytest.raises(BudgetError, match=r"row budget.*1 of 5 left.*at most 1 records"):
        scorer.score(one.seal(records(MODEL, 2)))
    scorer.score(two.seal(records(MODEL, 3)))
    with pytest.raises(BudgetError, match="in all"):
        scorer.score(two.seal(records(MODEL, 1)))
    assert scorer.rows_answered(one.key_id) == 4
    assert scorer.rows_answered() == 7


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_owner_whose_registration_is_being_read_holds_nobody_up(forgotten):
    scorer = Scorer(MODEL)
    quick, slow = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    scorer.register(slow.registration)
    scorer.score(quick.seal(records(MODEL, 1)))
    reading, go_on, read = threading.Event(), threading.Event(), scorer._engine.masks

    def slowly(material):
        reading.set()
        assert go_on.wait(30)
        return read(material)

    scorer._engine.masks = slowly
    X = records(MODEL, 2)
    with ThreadPoolExecutor(3) as pool:
        try:
            waiting = [pool.submit(scorer.score, slow.seal(X, register=False)) for _ in range(2)]
            assert reading.wait(30)
            between = pool.submit(scorer.score, quick.seal(X, register=False)).result(timeout=30)
            assert np.array_equal(quick.open(between), MODEL.decision_function(X))
            if forgotten:
                scorer.forget(slow.key_id)
        finally:
            go_on.set()
        for answer in waiting:
            if forgotten:
                with pytest.raises(AuthenticationError, match="not registered"):
                    answer.result(timeout=30)
            else:
                assert np.array_equal(slow.open(answer.result(timeout=30)), MODEL.decision_function(X))
    assert len(scorer._owners) == 2 - forgotten


def test_an_account_without_a_name_is_an_account():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(records(MODEL, 1)), account="")
    assert scorer.bits_released("") == scorer.bits_released() > 0
    assert scorer.bits_released(owner.key_id) == 0


def test_an_account_is_charged_whatever_its_keys():
    bits = Scorer(MODEL).parameters.charge_bits(3)
    scorer = Scorer(MODEL, budget=BitBudget(bits_per_owner=bits))
    one, two = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    scorer.score(one.seal(records(MODEL, 2)), account="bank")
    with pytest.raises(BudgetError, match="to owner bank"):
        scorer.score(two.seal(records(MODEL, 2)), account="bank")
    assert scorer.bits_released("bank") == scorer.bits_released()
    assert scorer.bits_released(one.key_id) == 0


def test_whoever_settles_decides_whether_it_is_charged():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(records(MODEL, 2))
    scorer.score(sealed, settle=lambda charge: charge())
    bits = scorer.bits_released()
    assert bits == scorer.parameters.charge_bits(2)
    answer = scorer.score(sealed, settle=lambda charge: None)
    assert scorer.bits_released() == bits
    assert np.array_equal(owner.open(answer), MODEL.decision_function(records(MODEL, 2)))

    def refuse(charge):
        raise PolicyError("not now")

    scorer._engine.answer = None  # would be called if anything were computed
    with pytest.raises(PolicyError, match="not now"):
        scorer.score(sealed, settle=refuse)


def test_nothing_is_settled_for_a_request_that_does_not_authenticate():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    sealed = bytearray(owner.seal(records(MODEL, 1)))
    sealed[-1] ^= 1
    settled = []
    with pytest.raises(AuthenticationError):
        scorer.score(bytes(sealed), settle=settled.append)
    assert settled == []


def test_keys_may_have_to_come_first():
    scorer = Scorer(MODEL, inline_registration=False)
    owner = RecordOwner(scorer.offer())
    with pytest.raises(WireError, match="carries a registration"):
        scorer.score(owner.seal(records(MODEL, 1)))
    with pytest.raises(AuthenticationError, match="not registered"):
        scorer.score(owner.seal(records(MODEL, 1), register=False))
    assert RegistrationCheck(scorer.offer()).check(owner.registration) == owner.key_id
    assert scorer.register(owner.registration) == scorer.register(owner.registration) == owner.key_id
    sealed = owner.seal(records(MODEL, 1), register=False)
    assert read_header(sealed)[0].key.hex() == owner.key_id
    owner.open(scorer.score(sealed))
    scorer.forget(owner.key_id)
    scorer.forget(owner.key_id)
    with pytest.raises(AuthenticationError, match="not registered"):
        scorer.score(owner.seal(records(MODEL, 1), register=False))


def test_registrations_are_read_strictly():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    check, good = RegistrationCheck(scorer.offer()), owner.registration
    assert len(good) == scorer.registration_bytes
    seed = 64 + scorer.parameters.part_bytes
    for bad in (
        good[:-1],
        good + b"\0",
        b"",
        bytes(32) + good[32:],  # a public key of small order
        good[:96] + b"\xff" * 12 + good[108:],  # residues that are not reduced
        good[:32] + good[32 : 32 + seed] * scorer.parameters.zeros,  # equal seeds
    ):
        with pytest.raises((WireError, AuthenticationError)):
            check.check(bad)
