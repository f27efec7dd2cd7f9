"""Scorer and owner in processes of their own, over TLS: real rows, and a link that breaks.

What each process receives is looked at in test_verdict_bytes.py.
"""

import os
import secrets
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blindsight.blind import ComparisonProcess, RecordOwner
from blindsight.errors import ProtocolError, UnavailableError

from ._models import records, table_model
from ._recording import free_ports

pytest.importorskip("spu", reason="verdicts need the extra mpc")

from blindsight.blind.mpc import TlsFiles, make_certificate

TESTS = str(Path(__file__).parents[1])
DATA = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "adbench"

SCORER = """
import struct, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from blind._models import table_model
import blindsight as bs
from blindsight.blind import ComparisonProcess, MemoryTable, Scorer
from blindsight.blind.mpc import TlsFiles

folder, kind = Path(sys.argv[2]), sys.argv[3]
table, thresholds, packing = MemoryTable(), [float(sys.argv[4])], "rows"
if kind == "file":
    model, thresholds, packing = bs.load(folder / "model.blindsight"), None, "columns"
else:
    model = table_model(4, 16)
scorer = Scorer(model, packing=packing, reveal="verdict", thresholds=thresholds, table=table)

def send(data):
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()

send(scorer.offer())

def connect(addresses, name):
    tls = TlsFiles(certificate=folder / "scorer.crt", private_key=folder / "scorer.key", trusted=folder / "both.pem")
    return ComparisonProcess(addresses, 0, tls=tls, name=name, transfer="softspoken", timeout_s=30)

comparison = None
while True:
    head = sys.stdin.buffer.read(9)
    if len(head) < 9:
        break
    command, payload = head[:1], sys.stdin.buffer.read(struct.unpack("<Q", head[1:])[0])
    if command == b"l":
        addresses, name = payload.decode().split(";")
        comparison = connect(addresses.split(","), name)
        send(str(comparison._channel.process_id("comparison")).encode())
    elif command == b"s":
        send(scorer.score(payload))
    elif command == b"c":
        try:
            scorer.compare(comparison)
            send(b"compared")
        except Exception as error:
            send(type(error).__name__.encode())
    elif command == b"m":
        send(b"".join(value for key, value in table._values.items() if key.startswith("verdict/")))
"""


class Remote:
    """The scorer's process."""

    def __init__(self, folder, kind, *, threshold=0.0):
        for end in ("scorer", "owner"):
            if not (folder / f"{end}.crt").exists():
                make_certificate(end, folder)
        (folder / "both.pem").write_bytes(b"".join((folder / f"{e}.crt").read_bytes() for e in ("scorer", "owner")))
        arguments = [TESTS, str(folder), kind, repr(threshold)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCORER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.offer = self.receive()

    def send(self, command, payload=b""):
        self.process.stdin.write(command + struct.pack("<Q", len(payload)) + payload)
        self.process.stdin.flush()

    def receive(self):
        size = int.from_bytes(self.process.stdout.read(8), "little")
        return self.process.stdout.read(size)

    def score(self, sealed):
        self.send(b"s", sealed)
        return self.receive()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


def connect_tls(remote, folder):
    """A fresh link to the scorer's process, and the process id of the scorer's end of it."""
    addresses, name = [f"127.0.0.1:{port}" for port in free_ports(2)], secrets.token_hex(16)
    remote.send(b"l", f"{','.join(addresses)};{name}".encode())
    tls = TlsFiles(certificate=folder / "owner.crt", private_key=folder / "owner.key", trusted=folder / "both.pem")
    comparison = ComparisonProcess(addresses, 1, tls=tls, name=name, transfer="softspoken", timeout_s=30)
    return comparison, int(remote.receive())


@pytest.mark.filterwarnings("ignore:Values lie outside")
def test_ten_thousand_real_rows_over_tls(tmp_path):
    import blindsight as bs

    if DATA.is_dir():
        with np.load(DATA / "10_cover.npz", allow_pickle=False) as data:
            X = data["X"].astype(np.float64)[:10_000]
    else:
        X = np.random.default_rng(0).standard_t(3, size=(10_000, 10))
    model = bs.Mahalanobis(schema=bs.Schema.infer(X).declare(), contamination=0.05).fit(X)
    model.save(tmp_path / "model.blindsight")
    remote = Remote(tmp_path, "file")
    try:
        comparison, _ = connect_tls(remote, tmp_path)
        owner = RecordOwner(remote.offer)
        sealed = owner.seal(X)
        answer = remote.score(sealed)
        remote.send(b"c")
        found = owner.verdicts(answer, comparison, sealed=sealed)
        assert remote.receive() == b"compared"
        comparison.close()
    finally:
        remote.close()
    assert np.array_equal(found, model.predict(X))
    assert 0 < found.sum() < len(X)


def test_a_reconnect_after_a_break_cannot_reuse_the_mask(tmp_path):
    """The link breaks when the mask is already spent; the owner comes back over a new one, and is refused."""
    model = table_model(4, 16)
    X = records(model, 50)
    threshold = float(np.median(model.decision_function(X)))
    remote = Remote(tmp_path, "table", threshold=threshold)
    try:
        first, theirs = connect_tls(remote, tmp_path)
        owner = RecordOwner(remote.offer)
        answer = remote.score(owner.seal(X))
        remote.send(b"m")
        assert len(remote.receive()) > 50  # the mask waits
        remote.send(b"c")

        class Breaks:
            """Sends the request, sees it granted, and then both ends of the link die."""

            send, receive = first.send, first.receive

            def negative(self, words):
                for end in (theirs, first._channel.process_id("comparison")):
                    os.kill(end, signal.SIGKILL)
                return first.negative(words)

        with pytest.raises(UnavailableError):
            owner.verdicts(answer, Breaks())
        assert remote.receive() == b"UnavailableError"  # and the scorer lives
        remote.send(b"m")
        assert len(remote.receive()) == 8  # a count, and no mask

        second, _ = connect_tls(remote, tmp_path)
        remote.send(b"c")
        with pytest.raises(ProtocolError, match="refuses"):
            owner.verdicts(answer, second)
        assert remote.receive() == b"PolicyError"
        sealed = owner.seal(X)
        answer = remote.score(sealed)
        remote.send(b"c")
        assert np.array_equal(owner.verdicts(answer, second), model.decision_function(X) > threshold)
        assert remote.receive() == b"compared"
        second.close()
    finally:
        remote.close()


TAKER = """
import sys, time
from blindsight.blind import plan
from blindsight.blind._verdict import Desk
from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.errors import PolicyError
from blindsight.store import Store
import numpy as np

with Store(sys.argv[1], timeout_s=60) as store:
    p = plan(OneHotBins(edges=((0.0,),)), InnerProduct(weights=np.array([0, 9])), packing="rows", thresholds=1)
    desk = Desk(p, (4,), store.table("blind"), "scope")
    print("ready", flush=True)
    for line in sys.stdin:
        salt, number = (bytes.fromhex(word) for word in line.split())
        try:
            print(desk.take(b"k" * 16, salt, number, 3).tobytes().hex(), flush=True)
        except PolicyError:
            print("none", flush=True)
"""


def test_of_two_processes_one_gets_the_mask(tmp_path):
    """Workers that race for the same answer's mask: exactly one of them has it, and after both died nobody does."""
    from blindsight.blind import plan
    from blindsight.blind._verdict import MAX_PENDING, Desk
    from blindsight.circuits import InnerProduct, OneHotBins
    from blindsight.errors import PolicyError
    from blindsight.store import Store

    path = tmp_path / "masks.db"
    p = plan(OneHotBins(edges=((0.0,),)), InnerProduct(weights=np.array([0, 9])), packing="rows", thresholds=1)
    with Store(path) as store:
        desk = Desk(p, (4,), store.table("blind"), "scope")
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", TAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        try:
            for taker in takers:
                assert taker.stdout.readline() == "ready\n"
            winners = []
            for _ in range(4):
                answers = []
                for _ in range(MAX_PENDING):
                    salt = os.urandom(16)
                    answers.append((salt, desk.keep(b"k" * 16, salt, [os.urandom(3 * p.share_bits // 8)])))
                told = "".join(f"{salt.hex()} {number.hex()}\n" for salt, number in answers)
                for taker in takers:
                    taker.stdin.write(told)
                    taker.stdin.flush()
                for _ in answers:
                    got = [taker.stdout.readline().strip() for taker in takers]
                    assert got.count("none") == 2, got
                    winners.append([word != "none" for word in got].index(True))
                    (words,) = (word for word in got if word != "none")
                    assert len(words) == 2 * 8 * 3
            assert len(set(winners)) > 1  # they did race
        finally:
            for taker in takers:
                taker.kill()
                taker.wait()
                taker.stdin.close()
                taker.stdout.close()
        for salt, number in answers:
            with pytest.raises(PolicyError):
                desk.take(b"k" * 16, salt, number, 3)
