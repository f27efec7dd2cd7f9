import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

import blindsight.store as package
from blindsight.errors import AuthenticationError, FormatError, ParameterError, ReleaseError, StoreError
from blindsight.store import Store


class XorSealer:
    """A transparent stand-in: keyed, bound to its context, and easily seen through by nobody but the test."""

    def __init__(self, key: int) -> None:
        self.key = key

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        return bytes(b ^ self.key for b in context + b"\0" + plaintext)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        plain = bytes(b ^ self.key for b in sealed)
        if not plain.startswith(context + b"\0"):
            raise AuthenticationError("wrong key or place")
        return plain[len(context) + 1 :]


def test_all_is_sorted():
    assert package.__all__ == sorted(package.__all__)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.mark.parametrize("sealer", [None, XorSealer(0x5A)])
def test_logs_and_tables_survive_reopening(path, sealer):
    with Store(path, sealer) as store:
        assert [store.log("a").append(p) for p in (b"one", b"", b"three")] == [0, 1, 2]
        store.log("b").append(b"other")
        store.table("t").put("k", b"v1")
        store.table("t").put("k", b"v2")
        store.table("t").put_once("once", b"x")
    with Store(path, sealer) as store:
        assert store.log("a").read() == [b"one", b"", b"three"]
        assert store.log("a").read(2) == [b"three"]
        assert len(store.log("a")) == 3
        assert store.log("b").read() == [b"other"]
        assert store.table("t").get("k") == b"v2"
        assert store.table("t").get("absent") is None
        assert store.table("u").get("k") is None
        assert store.table("t").keys() == ["k", "once"]


def test_memory_stores_are_separate():
    one, two = Store(), Store()
    one.table("t").put("k", b"v")
    assert two.table("t").get("k") is None
    one.close()
    two.close()


def test_put_once_binds(path):
    table = Store(path).table("t")
    table.put_once("id", b"v")
    table.put_once("id", b"v")
    with pytest.raises(ReleaseError, match="'id' of 't' is already bound to another value"):
        table.put_once("id", b"w")
    assert table.get("id") == b"v"


def test_transaction_is_all_or_nothing(path):
    store = Store(path)

    def fails():
        with store.transaction():
            store.log("a").append(b"1")
            store.table("t").put("k", b"v")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert store.log("a").read() == []
    assert store.table("t").get("k") is None
    with store.transaction():
        assert store.in_transaction
        store.log("a").append(b"1")
        with store.transaction():
            store.table("t").put("k", b"v")
    assert not store.in_transaction
    assert store.log("a").read() == [b"1"]
    assert store.table("t").get("k") == b"v"


def test_swallowed_inner_failure_undoes_everything(path):
    store = Store(path)
    store.table("t").put("k", b"old")

    def at_the_end():
        with store.transaction():
            store.log("a").append(b"1")
            with pytest.raises(ReleaseError):
                store.table("t").put_once("k", b"new")

    def in_the_middle():
        with store.transaction():
            with pytest.raises(ReleaseError):
                store.table("t").put_once("k", b"new")
            store.log("a").append(b"2")  # must not be committed on its own

    with pytest.raises(StoreError, match="nothing of it was kept"):
        at_the_end()
    with pytest.raises(StoreError, match="outside a live transaction"):
        in_the_middle()
    assert store.log("a").read() == []
    store.log("a").append(b"3")
    assert store.log("a").read() == [b"3"]


def test_other_process_locks(path):
    one, two = Store(path), Store(path, timeout_s=0.05)
    with one.transaction():
        one.log("a").append(b"1")
        with pytest.raises(StoreError, match=r"another process holds it.*nothing was written.*try again"):
            two.log("a").append(b"2")
        assert two.log("a").read() == []  # readers go on
    assert two.log("a").append(b"2") == 1


def test_threads_take_turns(path):
    store = Store(path)

    def work():
        for _ in range(20):
            with store.transaction():
                n = int(store.table("t").get("n") or b"0")
                store.table("t").put("n", str(n + 1).encode())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.table("t").get("n") == b"80"


def test_sealed_values_are_not_readable_and_cannot_be_moved(path):
    secret = b"a value nobody should read"
    with Store(path, XorSealer(0x77)) as store:
        store.table("t").put("a", secret)
        store.table("t").put("b", b"other")
        store.log("s").append(secret)
        store.log("s").append(b"second")
    assert all(secret not in file.read_bytes() for file in path.parent.iterdir())
    with sqlite3.connect(path) as db:
        value = db.execute("SELECT value FROM cell WHERE name = 'a'").fetchone()[0]
        db.execute("UPDATE cell SET value = ? WHERE name = 'b'", (value,))
        db.execute("UPDATE log SET position = 2 WHERE position = 0")
        db.execute("UPDATE log SET position = 0 WHERE position = 1")
        db.execute("UPDATE log SET position = 1 WHERE position = 2")
    db.close()
    with Store(path, XorSealer(0x77)) as store:
        assert store.table("t").get("a") == secret
        with pytest.raises(AuthenticationError):
            store.table("t").get("b")
        with pytest.raises(AuthenticationError):
            store.log("s").read()


def test_sealing_is_for_life(path, tmp_path):
    Store(path, XorSealer(1)).close()
    with pytest.raises(FormatError, match=r"'state.db' is sealed.*no sealer.*passphrase or key file"):
        Store(path)
    with pytest.raises(AuthenticationError):
        Store(path, XorSealer(2))
    Store(tmp_path / "plain.db").close()
    with pytest.raises(FormatError, match="is not sealed"):
        Store(tmp_path / "plain.db", XorSealer(1))


def test_foreign_files_are_refused(path, tmp_path):
    path.write_bytes(b"this is no database at all, but long enough to be read as a page header" * 20)
    with pytest.raises(StoreError, match="damaged or not a store"):
        Store(path)
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE notes (x)")
    db.commit()
    db.close()
    with pytest.raises(FormatError, match=r"'other.db' is not a store of this version"):
        Store(other)
    Store(tmp_path / "new.db").close()
    db = sqlite3.connect(tmp_path / "new.db")
    db.execute("PRAGMA user_version=99")
    db.commit()
    db.close()
    with pytest.raises(FormatError, match="version 99"):
        Store(tmp_path / "new.db")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"'x.db' could not be opened.*check that the folder exists"):
        Store(tmp_path / "nowhere" / "x.db")


def test_log_gap_is_noticed(path):
    with Store(path) as store:
        for payload in (b"0", b"1", b"2"):
            store.log("s").append(payload)
    db = sqlite3.connect(path)
    db.execute("DELETE FROM log WHERE position = 1")
    db.commit()
    db.close()
    with Store(path) as store, pytest.raises(StoreError, match="lacks position 1"):
        store.log("s").read()


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_files_are_private(path):
    old = os.umask(0)
    try:
        store = Store(path)
        store.log("s").append(b"x")
        assert {f.name for f in path.parent.iterdir()} >= {"state.db", "state.db-wal"}
        assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in path.parent.iterdir())
        store.close()
    finally:
        os.umask(old)


@pytest.mark.parametrize("name", ["", "A", "a/b", "a|b", "x" * 65, "ü", ".a"])
def test_names_are_checked(name):
    with Store() as store:
        with pytest.raises(ParameterError, match="unusable name"):
            store.log(name)
        with pytest.raises(ParameterError, match="unusable name"):
            store.table(name)


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 513])
def test_keys_are_checked(key):
    with Store() as store:
        with pytest.raises(ParameterError, match="key of the store is unusable"):
            store.table("t").put(key, b"")
        with pytest.raises(ParameterError, match="key of the store is unusable"):
            store.table("t").get(key)


def test_too_large_value_is_refused(monkeypatch):
    monkeypatch.setattr("blindsight.store._store.MAX_VALUE_BYTES", 10)
    with Store() as store, pytest.raises(ParameterError, match="too large"):
        store.log("s").append(bytes(11))


def test_closed_store_says_so(path):
    store = Store(path)
    store.close()
    with pytest.raises(StoreError, match="it is closed"):
        store.log("s").read()
    with pytest.raises(StoreError, match="it is closed"):
        store.log("s").append(b"")


def test_full_disk_keeps_everything_written_before(path):
    with Store(path) as store:
        kept = []
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 3}")

        def fill():
            for i in range(100):
                store.log("s").append(bytes([i]) * 1000)
                kept.append(bytes([i]) * 1000)

        with pytest.raises(StoreError, match=r"the disk is full.*all earlier entries are intact.*free some space"):
            fill()
        assert kept
        assert store.log("s").read() == kept
        store._db.execute("PRAGMA max_page_count=100000")
        store.log("s").append(b"after")
    with Store(path) as store:
        assert store.log("s").read() == [*kept, b"after"]


FULL_DISK = """
import resource, sys
from blindsight.errors import StoreError
from blindsight.store import Store
store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for i in range(1000):
        store.log("s").append(bytes([i % 256]) * 5000)
        print(i, flush=True)
except StoreError as error:
    print(str(error))
    assert len(store.log("s").read()) == i
else:
    sys.exit("never full")
"""


def test_full_disk_of_a_real_process(path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    *confirmed, message = done.stdout.splitlines()
    assert "the disk is full or failing" in message
    assert "all earlier entries are intact" in message
    with Store(path) as store:
        payloads = store.log("s").read()
    assert [p[0] for p in payloads] == [int(i) % 256 for i in confirmed]
    assert len(payloads) > 3


FORK = """
import os, sys
from blindsight.errors import StoreError
from blindsight.store import Store
store = Store(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        store.log("s").append(b"child")
    except StoreError as error:
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert store.log("s").append(b"parent") == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_is_refused(path):
    subprocess.run([sys.executable, "-c", FORK, str(path)], timeout=60, check=True)


def test_a_second_store_of_the_process_loses_no_write_of_the_first(path):
    """Its opening and closing of the file dropped the first one's locks: the next process took the log away."""
    first = Store(path)
    first.table("t").put("k", b"here")
    second = Store(path)
    other = (
        "import sys; from pathlib import Path; from blindsight.store import Store\n"
        "with Store(Path(sys.argv[1])) as store:\n"
        "    print(store.table('t').get('after'))\n"
        "    store.table('t').put('k', b'there')\n"
    )

    def elsewhere() -> str:
        command = [sys.executable, "-c", other, str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert elsewhere() == "None\n"
    assert first.table("t").get("k") == second.table("t").get("k") == b"there"
    first.table("t").put("after", b"written")
    assert elsewhere() == "b'written'\n"
    second.close()
    first.table("t").put("after", b"again")
    assert elsewhere() == "b'again'\n"
    first.close()


def test_a_link_to_a_file_that_is_not_there_makes_a_private_one(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "kept.db")
    with Store(tmp_path / "link.db") as store:
        store.table("t").put("k", b"v")
    assert stat.S_IMODE((tmp_path / "kept.db").stat().st_mode) == 0o600


def test_repr_shows_place_not_values(path):
    with Store(path, XorSealer(1)) as store:
        store.table("t").put("k", b"hidden")
        assert "sealed" in repr(store)
        assert "hidden" not in repr(store)


def test_a_returned_write_is_on_disk(path):
    """A power cut cannot be tested here; the settings that SQLite promises durability for can."""
    with Store(path) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
