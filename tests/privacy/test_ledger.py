import hashlib
import sqlite3

import msgspec
import pytest

from blindsight.errors import BudgetError, FormatError, ParameterError, ReleaseError, StoreError
from blindsight.keys import Sealer, create_key_file
from blindsight.privacy import Budget, DifferentialPrivacy, Ledger, discrete_gaussian, exact_event
from blindsight.privacy._chain import GENESIS, line_hash
from blindsight.store import Store

DP = DifferentialPrivacy(epsilon=1.0, delta=1e-6)


def event(purpose="fit", dp=DP, **kwargs):
    values = {"query": "ecod.histogram", "sensitivity_l2": 4.6, "coordinates": 1344, "threshold": 3}
    return dp.event(**{**values, "purpose": purpose, **kwargs})


EXACT = exact_event(query="ecod.histogram", purpose="fit", sensitivity_l2=4.6, coordinates=1344, threshold=3)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
def ledger(store):
    return Ledger(store, Budget(epsilon=1.0, delta=1e-6))


def test_one_epsilon_covers_fit_threshold_and_evaluation(ledger):
    for purpose in ("fit", "threshold", "evaluation"):
        entry = ledger.reserve(f"run/{purpose}", event(purpose))
        assert entry.output_sha256 is None
    assert 0.999 < ledger.spent() <= 1.0
    assert ledger.spent(1e-9) > 1.0  # the same events read at another delta
    assert [e.event.purpose for e in ledger.entries()] == ["fit", "threshold", "evaluation"]
    assert ledger.remaining() == 0.0
    assert ledger.verify() == 3


def test_the_whole_way(ledger, store):
    ledger.reserve("run/1", event())
    assert ledger.output("run/1") is None
    noisy = discrete_gaussian(event().local_variance, 1344).tobytes()
    ledger.record_output("run/1", noisy)
    assert ledger.output("run/1") == noisy
    again = Ledger(store, Budget(epsilon=1.0, delta=1e-6))
    assert again.output("run/1") == noisy
    assert again.entries()[0].output_sha256 == hashlib.sha256(noisy).hexdigest()
    assert again.verify() == 2


def test_a_retry_is_charged_once(ledger):
    first = ledger.reserve("run/1", event())
    spent = ledger.spent()
    assert ledger.reserve("run/1", event()) == first
    ledger.record_output("run/1", b"out")
    ledger.record_output("run/1", b"out")
    assert ledger.reserve("run/1", event()).output_sha256 == hashlib.sha256(b"out").hexdigest()
    assert ledger.spent() == spent
    assert ledger.verify() == 2


def test_an_id_is_bound_to_its_event(ledger):
    ledger.reserve("run/1", event())
    for other in (event(coordinates=1345), event("threshold"), EXACT):
        with pytest.raises(ReleaseError, match=r"'run/1' is already bound to another request.*new release id"):
            ledger.reserve("run/1", other)
    assert len(ledger.entries()) == 1


def test_one_release_has_one_output(ledger):
    ledger.reserve("run/1", event())
    ledger.record_output("run/1", b"first draw")
    with pytest.raises(ReleaseError, match=r"already has another output.*could be averaged.*stored one"):
        ledger.record_output("run/1", b"second draw")
    assert ledger.output("run/1") == b"first draw"
    assert ledger.verify() == 2


def test_nothing_is_stored_without_a_charge(ledger):
    with pytest.raises(ReleaseError, match="never charged"):
        ledger.record_output("run/1", b"out")
    assert ledger.output("run/1") is None
    assert ledger.verify() == 0


def test_refusal_names_the_largest_affordable_epsilon(ledger):
    ledger.reserve("run/fit", event("fit"))
    before = ledger.spent()
    with pytest.raises(BudgetError) as refused:
        ledger.reserve("run/again", event("fit"))
    message = str(refused.value)
    assert "does not carry 'ecod.histogram'" in message
    assert "nothing was charged" in message
    assert ledger.spent() == before
    affordable = float(message.split("largest affordable epsilon is ")[1].rstrip("."))
    assert affordable == pytest.approx(ledger.remaining(), abs=1e-4)
    whole = {"shares": {"fit": 1.0}, "delta": 1e-6}
    with pytest.raises(BudgetError):
        ledger.reserve("run/more", event(dp=DifferentialPrivacy(epsilon=affordable + 0.01, **whole)))
    ledger.reserve("run/less", event(dp=DifferentialPrivacy(epsilon=affordable, **whole)))
    assert 0.999 < ledger.spent() <= 1.0


def test_reserved_without_output_stays_spent(store):
    Ledger(store, Budget(epsilon=1.0, delta=1e-6)).reserve("run/1", event())
    again = Ledger(store, Budget(epsilon=1.0, delta=1e-6))
    assert again.spent() > 0.7
    with pytest.raises(BudgetError):
        again.reserve("run/2", event())


def test_units_do_not_mix(ledger):
    person = event(dp=DifferentialPrivacy(epsilon=1.0, delta=1e-6, unit="person"))
    with pytest.raises(BudgetError, match=r"another unit.*unit 'record'"):
        ledger.reserve("run/1", person)
    free = Ledger(Store())
    free.reserve("a", person)
    free.reserve("b", event())
    with pytest.raises(ParameterError, match="do not add up"):
        free.spent(1e-6)


def test_exact_sums_are_recorded_and_printed_as_what_they_are(ledger):
    entry = ledger.reserve("run/exact", EXACT)
    assert entry.event.guarantee == "exact sum, no differential privacy"
    assert ledger.spent() == 0.0
    assert ledger.entries() == [entry]
    assert ledger.remaining() == pytest.approx(1.0, abs=1e-6)


def test_without_a_budget_everything_is_recorded():
    ledger = Ledger(Store())
    for i in range(5):
        ledger.reserve(f"run/{i}", event())
    assert ledger.spent(1e-6) > 1.0
    assert ledger.remaining() == float("inf")
    with pytest.raises(ParameterError, match="needs a delta"):
        ledger.spent()


def test_reserve_refuses_to_wait_for_an_outer_commit(ledger, store):
    with store.transaction(), pytest.raises(StoreError, match="inside an open transaction"):
        ledger.reserve("run/1", event())
    ledger.reserve("run/1", event())
    with store.transaction():  # an output may be stored together with other state
        ledger.record_output("run/1", b"out")
        store.table("party").put("step", b"1")
    assert ledger.output("run/1") == b"out"


def test_two_processes_share_one_budget(tmp_path):
    budget = Budget(epsilon=1.0, delta=1e-6)
    one, two = (Ledger(Store(tmp_path / "l.db"), budget) for _ in range(2))
    one.reserve("a", event())
    with pytest.raises(BudgetError):
        two.reserve("b", event())
    two.record_output("a", b"out")
    assert one.output("a") == b"out"
    assert one.head() == two.head()


def test_two_ledgers_of_one_store_are_separate(store):
    budget = Budget(epsilon=1.0, delta=1e-6)
    Ledger(store, budget, name="patients").reserve("a", event())
    assert Ledger(store, budget, name="machines").spent() == 0.0


@pytest.mark.parametrize("release_id", ["", "x" * 201, "a\nb", 5])
def test_release_ids(ledger, release_id):
    with pytest.raises(ParameterError, match="release id is unusable"):
        ledger.reserve(release_id, event())
    with pytest.raises(ParameterError, match="release id is unusable"):
        ledger.record_output(release_id, b"")


@pytest.mark.parametrize("kwargs", [{"epsilon": 0.0}, {"delta": 2.0}, {"unit": "household"}], ids=str)
def test_budget_domain(kwargs):
    with pytest.raises(ParameterError):
        Budget(**{"epsilon": 1.0, "delta": 1e-6, **kwargs})


# -- the hash chain


@pytest.fixture
def written(tmp_path):
    """A ledger of four lines, closed; returns its path and head."""
    path = tmp_path / "l.db"
    with Store(path) as store:
        ledger = Ledger(store, Budget(epsilon=1.0, delta=1e-6))
        for purpose in ("fit", "threshold"):
            ledger.reserve(f"run/{purpose}", event(purpose))
            ledger.record_output(f"run/{purpose}", purpose.encode())
        return path, ledger.head()


def tamper(path, *statements):
    db = sqlite3.connect(path)
    for statement, values in statements:
        db.execute(statement, values)
    db.commit()
    db.close()


def lines(path):
    db = sqlite3.connect(path)
    rows = [row[0] for row in db.execute("SELECT payload FROM log ORDER BY position")]
    db.close()
    return rows


def test_head_covers_every_line(written):
    path, head = written
    assert head == line_hash(lines(path)[-1])
    assert len({line_hash(line) for line in lines(path)}) == 4
    assert Ledger(Store()).head() == GENESIS
    with Store(path) as store:
        assert Ledger(store).verify(head) == 4
        assert Ledger(store).verify(GENESIS) == 4


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: {**d, "time_utc": "2020-01-01T00:00:00Z"},
        lambda d: {**d, "release_id": "run/other"},
        lambda d: {**d, "previous": "0" * 64},
        lambda d: {**d, "sequence": 7},
    ],
)
def test_a_changed_line_is_noticed(written, position, change):
    path, _ = written
    changed = msgspec.json.encode(change(msgspec.json.decode(lines(path)[position])), order="sorted")
    tamper(path, ("UPDATE log SET payload = ? WHERE position = ?", (changed, position)))
    with Store(path) as store:
        ledger = Ledger(store, Budget(epsilon=1.0, delta=1e-6))
        with pytest.raises(FormatError, match=r"hash chain is broken at line|contradicts"):
            ledger.verify()
        with pytest.raises(FormatError):  # and nothing more is released on it
            ledger.reserve("run/next", event("evaluation"))


def test_a_cheaper_event_is_noticed_even_where_the_chain_is_rewritten(written):
    path, _ = written
    line = msgspec.json.decode(lines(path)[0])
    line["event"]["rho"] /= 10
    tamper(
        path,
        ("DELETE FROM log WHERE position > 0", ()),
        ("UPDATE log SET payload = ?", (msgspec.json.encode(line, order="sorted"),)),
    )
    with Store(path) as store, pytest.raises(FormatError, match="cost less than its noise allows"):
        Ledger(store).entries()


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"null", b"\xff", b"x" * 10_000, b'{"sequence":0}', b"[1,2]"], ids=lambda b: repr(b[:12])
)
def test_malformed_lines(written, payload):
    path, _ = written
    tamper(path, ("UPDATE log SET payload = ? WHERE position = 3", (payload,)))
    with Store(path) as store, pytest.raises(FormatError, match="ledger line"):
        Ledger(store).verify()


def test_non_canonical_json_is_refused(written):
    path, _ = written
    spaced = lines(path)[3].replace(b",", b", ")
    tamper(path, ("UPDATE log SET payload = ? WHERE position = 3", (spaced,)))
    with Store(path) as store, pytest.raises(FormatError, match="canonical"):
        Ledger(store).verify()


def test_a_removed_or_swapped_line_is_noticed(written):
    path, _ = written
    tamper(path, ("DELETE FROM log WHERE position = 1", ()))
    with Store(path) as store, pytest.raises(StoreError, match="lacks position 1"):
        Ledger(store).verify()
    tamper(path, ("UPDATE log SET position = position - 1 WHERE position > 1", ()))
    with Store(path) as store, pytest.raises(FormatError, match="broken at line 1"):
        Ledger(store).verify()


def test_a_cut_tail_is_noticed_by_whoever_saw_the_head(written):
    path, head = written
    tamper(
        path,
        ("DELETE FROM log WHERE position >= 2", ()),
        ("DELETE FROM cell WHERE name = 'run/threshold'", ()),
    )
    with Store(path) as store:
        ledger = Ledger(store)
        assert ledger.verify() == 2  # consistent in itself, hence countersigned heads
        with pytest.raises(FormatError, match=r"does not contain a head that was seen before.*old copy"):
            ledger.verify(head)


def test_a_changed_output_is_noticed(written):
    path, _ = written
    tamper(path, ("UPDATE cell SET value = x'00' WHERE name = 'run/fit'", ()))
    with Store(path) as store:
        for call in (lambda: Ledger(store).verify(), lambda: Ledger(store).output("run/fit")):
            with pytest.raises(FormatError, match=r"output of release 'run/fit' is not the one.*other bytes"):
                call()


def test_a_removed_or_added_output_is_noticed(written):
    path, _ = written
    tamper(path, ("UPDATE cell SET name = 'run/else' WHERE name = 'run/fit'", ()))
    with Store(path) as store, pytest.raises(FormatError, match="Got: nothing"):
        Ledger(store).verify()
    tamper(
        path,
        ("INSERT INTO cell SELECT tab, 'run/fit', value FROM cell WHERE name = 'run/else'", ()),
    )
    with Store(path) as store, pytest.raises(FormatError, match=r"does not know.*run/else"):
        Ledger(store).verify()


def test_sealed_ledger_hides_releases_and_outputs(tmp_path):
    create_key_file(tmp_path / "k")
    path = tmp_path / "l.db"
    with Store(path, Sealer.from_key_file(tmp_path / "k")) as store:
        ledger = Ledger(store, Budget(epsilon=1.0, delta=1e-6))
        ledger.reserve("run/1", event())
        ledger.record_output("run/1", b"the noisy output")
        assert ledger.verify() == 2
    assert b"the noisy output" not in path.read_bytes()
    assert b"ecod.histogram" not in path.read_bytes()
    with Store(path, Sealer.from_key_file(tmp_path / "k")) as store:
        assert Ledger(store).output("run/1") == b"the noisy output"


def test_full_disk_charges_all_or_nothing(ledger, store):
    free = Ledger(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 4}")
    confirmed = []

    def fill():
        for i in range(100):
            free.reserve(f"run/{i}", EXACT)
            confirmed.append(f"run/{i}")
            free.record_output(f"run/{i}", bytes(1500))

    with pytest.raises(StoreError, match=r"disk is full.*nothing of this step was kept; all earlier entries"):
        fill()
    assert confirmed
    store._db.execute("PRAGMA max_page_count=100000")
    assert [e.release_id for e in free.entries()] == confirmed
    free.verify()
    free.reserve("after", event())
    free.verify()
