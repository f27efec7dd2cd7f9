"""What every database behind the store must do: the same tests against SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from blindsight.blind import BitBudget, BlindParameters
from blindsight.blind._budget import BitLedger, MemoryTable
from blindsight.errors import AuthenticationError, BudgetError, FormatError, ParameterError, ReleaseError, StoreError
from blindsight.store import open_store

from . import _postgres
from .test_store import XorSealer


@pytest.fixture(scope="module")
def postgres():
    reason = _postgres.missing()
    if reason:
        pytest.skip(reason)
    with _postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    import psycopg

    url = request.getfixturevalue("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS blindsight CASCADE")
    return url


@pytest.mark.parametrize("sealer", [None, XorSealer(0x5A)], ids=["plain", "sealed"])
def test_logs_and_tables_survive_reopening(where, sealer):
    with open_store(where, sealer) as store:
        assert [store.log("a").append(p) for p in (b"one", b"", b"three")] == [0, 1, 2]
        store.log("b").append(b"other")
        store.table("t").put("k", b"v1")
        store.table("t").put("k", b"v2")
        store.table("t").put_once("once", b"\0\xff%s?")
    with open_store(where, sealer) as store:
        assert store.log("a").read() == [b"one", b"", b"three"]
        assert store.log("a").read(2) == [b"three"]
        assert len(store.log("a")) == 3
        assert store.table("t").get("k") == b"v2"
        assert store.table("t").get("once") == b"\0\xff%s?"
        assert store.table("u").get("k") is None


def test_keys_by_prefix_are_sorted_by_code_point(where):
    with open_store(where) as store:
        table = store.table("t")
        for key in ("a/2", "a/10", "a", "a0", "B", "ä", "a/\U0001f600", "b/1", "a_b", "a%b"):
            table.put(key, b"")
        assert table.keys() == sorted(table.keys())
        assert set(table.keys("a/")) == {"a/10", "a/2", "a/\U0001f600"}
        assert table.keys("a/", most=1) == ["a/10"]
        assert table.keys("a%") == ["a%b"]
        assert table.keys("zz") == []


def test_delete(where):
    with open_store(where) as store:
        table = store.table("t")
        table.put("k", b"v")
        table.delete("k")
        table.delete("k")
        assert table.get("k") is None
        table.put_once("k", b"w")
        with pytest.raises(ReleaseError):
            table.put_once("k", b"x")


def test_a_failed_transaction_leaves_nothing(where):
    with open_store(where) as store:
        store.table("t").put("kept", b"1")

        def fails():
            with store.transaction():
                store.table("t").put("k", b"v")
                store.table("t").delete("kept")
                store.log("a").append(b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        assert store.table("t").keys() == ["kept"]
        assert store.log("a").read() == []
        with store.table("t").transaction():
            store.table("t").put("k", b"v")
        assert store.table("t").get("k") == b"v"


def test_another_writer_waits_and_gives_up_with_a_reason(where):
    with open_store(where) as one, open_store(where, timeout_s=0.2) as two:
        with one.transaction():
            one.log("a").append(b"1")
            with pytest.raises(StoreError, match="another process holds it"):
                two.log("a").append(b"2")
            assert two.log("a").read() == []  # readers go on
        assert two.log("a").append(b"2") == 1


def test_sealing_is_for_life(where):
    open_store(where, XorSealer(1)).close()
    with pytest.raises(FormatError, match="is sealed"):
        open_store(where)
    with pytest.raises(AuthenticationError):
        open_store(where, XorSealer(2))


def test_closed_store_says_so(where):
    store = open_store(where)
    store.close()
    with pytest.raises(StoreError, match="it is closed"):
        store.table("t").get("k")
    with pytest.raises(StoreError, match="it is closed"):
        store.table("t").put("k", b"")


COUNT = """
import sys
from blindsight.store import open_store
with open_store(sys.argv[1], timeout_s=60) as store:
    table = store.table("t")
    for _ in range(40):
        with table.transaction():
            table.put("n", str(int(table.get("n") or b"0") + 1).encode())
            store.log("s").append(b"x")
"""


def test_processes_take_turns(where):
    children = [subprocess.Popen([sys.executable, "-c", COUNT, where]) for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    with open_store(where) as store:
        assert store.table("t").get("n") == b"120"
        assert len(store.log("s")) == 120


def test_a_budget_holds_over_several_writers(where):
    parameters = BlindParameters(
        packing="rows", upload="seeded", entries=64, degree=4096, plain_bits=20, weight_bits=20
    )
    bits = parameters.charge_bits(1)
    budget = BitBudget(bits_total=25 * bits, rows_per_owner=15)
    refused, done = [], []

    def work(owner: str) -> None:
        with open_store(where, timeout_s=60) as store:
            ledger = BitLedger(budget, store.table("blind"), "m")
            for _ in range(20):
                try:
                    ledger.charge(owner, 1, parameters)
                    done.append(owner)
                except BudgetError:
                    refused.append(owner)

    threads = [threading.Thread(target=work, args=(owner,)) for owner in ("a", "a", "b", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_store(where) as store:
        ledger = BitLedger(budget, store.table("blind"), "m")
        assert ledger.spent() == 25 * bits == len(done) * bits
        assert ledger.spent("a") + ledger.spent("b") == ledger.spent()
        assert ledger.rows("a") <= 15
        assert ledger.rows("b") <= 15
        assert len(refused) == 80 - 25


def test_a_memory_table_undoes_a_failed_transaction():
    table = MemoryTable()
    table.put("kept", b"1")

    def fails():
        with table.transaction():
            table.put("kept", b"2")
            with table.transaction():
                table.put("new", b"3")
                table.delete("kept")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert table.get("kept") == b"1"
    assert table.get("new") is None


def test_urls():
    with pytest.raises(ParameterError, match="store's URL"):
        open_store("mysql://host/db")
    with pytest.raises(ParameterError, match="store's URL"):
        open_store("sqlite://")


def test_an_absent_server_is_a_store_error_without_the_password():
    pytest.importorskip("psycopg", reason="extra: serve")
    with pytest.raises(StoreError, match=r"cannot be reached") as caught:
        open_store("postgresql://user:hunter2@127.0.0.1:1/none", timeout_s=2)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_stricter_default_of_the_server_reads_nothing_stale(postgres, level):
    import psycopg

    url = postgres + "?options=-c%20default_transaction_isolation%3D" + level.replace(" ", "%5C%20")
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW transaction_isolation").fetchone() == (level,)
    with open_store(url) as one, open_store(url) as two:
        one.table("level").put("n", b"1")
        read = []

        def wait_and_add() -> None:
            with two.transaction():  # begun while the other one holds the lock
                read.append(two.table("level").get("n"))
                two.table("level").put("n", read[0] + b"+1")

        thread = threading.Thread(target=wait_and_add)
        with one.transaction():
            one.table("level").put("n", b"2")
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
        thread.join()
        assert read == [b"2"]
        assert one.table("level").get("n") == b"2+1"


def test_a_connection_that_was_cut_is_made_again(postgres):
    import psycopg

    with open_store(postgres) as store:
        store.table("cut").put("k", b"v")
        others = "pid <> pg_backend_pid() AND datname IS NOT NULL"
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute(cut)
        assert store.table("cut").get("k") == b"v"
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute(cut)
        store.table("cut").put("k", b"w")

        def loses_it():
            with store.transaction():
                store.table("cut").put("k", b"x")
                with psycopg.connect(postgres, autocommit=True) as other:
                    other.execute(cut)
                store.table("cut").put("k", b"y")

        with pytest.raises(StoreError, match="cannot be reached"):
            loses_it()
        assert store.table("cut").get("k") == b"w"
        assert "postgresql 127.0.0.1/postgres" in repr(store)


def test_a_coordinators_journal_goes_on_where_it_was(where):
    from blindsight.federation import Journal, RunHeader
    from blindsight.federation._journal import SumJournal

    with open_store(where) as store:
        journal = Journal(store)
        first = journal.begin(RunHeader(run="r", kind="evaluate", federation=b"f", model=b"long"))
        begun = journal.sum("r", first, "fit", b"request")
        begun.keep(b"state", b"ledgers")
        journal.keep_exact_survivors(b"f", frozenset("abc"))
    with open_store(where) as store:
        journal = Journal(store)
        assert [header.outcome for header in journal.headers()] == ["open"]
        owner = journal.claim("r")
        kept = journal.sum("r", owner, "fit", b"request")
        assert (kept.state, kept.ledgers, journal.exact_survivors(b"f")) == (b"state", b"ledgers", frozenset("abc"))
        with pytest.raises(ReleaseError, match="in another form before"):
            journal.sum("r", owner, "fit", b"another")
        with open_store(where) as store:  # the first process was only slow
            slow = Journal(store)
            slow_sum = SumJournal(slow, "r", "fit", first, begun._kept)
            for write in (
                lambda: slow.sum("r", first, "threshold", b"request"),
                lambda: slow_sum.keep(b"another"),
                lambda: slow.end("r", first, {}, error="refused there"),
            ):
                with pytest.raises(StoreError, match="taken over by another coordinator"):
                    write()
        assert journal.sum("r", owner, "fit", b"request").state == b"state"
        assert [(header.outcome, header.model) for header in journal.headers()] == [("open", b"long")]
        journal.end("r", owner, {})
        with pytest.raises(ParameterError, match="has ended"):
            journal.claim("r")
        assert [(header.outcome, header.model) for header in journal.headers()] == [("done", None)]
