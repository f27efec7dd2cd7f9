"""Scorer and owner in processes of their own: over TLS with real rows, and with every received byte logged."""

import contextlib
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from blindsight.blind import ComparisonProcess, RecordOwner
from blindsight.errors import ProtocolError, UnavailableError

from ._models import records, table_model

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
from blindsight.blind import Comparison, ComparisonProcess, MemoryTable, Scorer
from blindsight.blind.mpc import TlsFiles

folder, kind, addresses, name, plain = Path(sys.argv[2]), sys.argv[3], sys.argv[4].split(","), sys.argv[5], sys.argv[6]
table, thresholds, packing = MemoryTable(), [float(sys.argv[7])], "rows"
if kind == "file":
    model, thresholds, packing = bs.load(folder / "model.blindsight"), None, "columns"
else:
    model = table_model(4, 16)
scorer = Scorer(model, packing=packing, reveal="verdict", thresholds=thresholds, table=table)

def send(data):
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()

send(scorer.offer())

def connect(name):
    if plain == "plain":
        from spu import libspu
        desc = libspu.link.Desc()
        desc.id, desc.recv_timeout_ms = name, 30000
        for i, address in enumerate(addresses):
            desc.add_party(str(i), address)
        return Comparison(libspu.link.create_brpc(desc, 0), transfer="softspoken")
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
        addresses = addresses.split(",")
        comparison = connect(name)
        if plain != "plain":
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


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class Remote:
    """The scorer's process; keeps every byte that it was sent and that it sent, apart from the link's."""

    def __init__(self, folder, kind, addresses, name, *, plain=False, threshold=0.0):
        for end in ("scorer", "owner"):
            if not (folder / f"{end}.crt").exists():
                make_certificate(end, folder)
        (folder / "both.pem").write_bytes(b"".join((folder / f"{e}.crt").read_bytes() for e in ("scorer", "owner")))
        arguments = [TESTS, str(folder), kind, ",".join(addresses), name, "plain" if plain else "tls", repr(threshold)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCORER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.to_scorer, self.to_owner = bytearray(), bytearray()
        self.offer = self.receive()

    def send(self, command, payload=b""):
        self.process.stdin.write(command + struct.pack("<Q", len(payload)) + payload)
        self.process.stdin.flush()
        self.to_scorer += payload

    def receive(self):
        size = int.from_bytes(self.process.stdout.read(8), "little")
        data = self.process.stdout.read(size)
        self.to_owner += data
        return data

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
    remote = Remote(tmp_path, "file", [], "")
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
    remote = Remote(tmp_path, "table", [], "", threshold=threshold)
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


class Proxy:
    """Forwards one port to another, and keeps what goes there (and, apart, what comes back)."""

    def __init__(self, target):
        self.target, self.there, self.back = target, bytearray(), bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client:
                        self.there += data
                        server.sendall(data)
                    else:
                        self.back += data
                        client.sendall(data)

    def close(self):
        self.listener.close()


OWNER = """
import struct, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from spu import libspu
from blind._models import table_model, records
from blindsight.blind import Comparison, RecordOwner

def send(data):
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()

def receive():
    return sys.stdin.buffer.read(struct.unpack("<Q", sys.stdin.buffer.read(8))[0])

desc = libspu.link.Desc()
desc.id, desc.recv_timeout_ms = sys.argv[3], 30000
for i, address in enumerate(sys.argv[2].split(",")):
    desc.add_party(str(i), address)
comparison = Comparison(libspu.link.create_brpc(desc, 1), transfer="softspoken")
owner = RecordOwner(receive())
negative, log = comparison.negative, []

def logged(words):
    log[:] = [words, negative(words)]
    return log[1]

comparison.negative = logged
while (X := receive()):
    X = np.frombuffer(X).reshape(64, -1)
    send(owner.seal(X))
    found = owner.verdicts(receive(), comparison)
    send(found.astype(np.uint8).tobytes() + log[0].tobytes() + np.packbits(log[1], bitorder="little").tobytes())
"""


def test_every_received_byte(tmp_path):
    """What each process receives: neither the other's words, nor anything that differs between scores or verdicts."""
    model = table_model(4, 16)
    X = records(model, 2000)
    scores = model.decision_function(X)
    order = np.argsort(scores)
    # two records of very different scores and the same verdict; and one of the other verdict
    cases = {"low": X[order[0]], "middle": X[order[1800]], "high": X[order[-1]]}
    threshold = float(scores[order[1900]])
    expected = {"low": 0, "middle": 0, "high": 1}

    ports, name = free_ports(2), secrets.token_hex(16)
    proxies = [Proxy(port) for port in ports]  # each side reaches the other through one
    mine, other = [f"127.0.0.1:{port}" for port in ports], [f"127.0.0.1:{proxy.port}" for proxy in proxies]
    remote = Remote(tmp_path, "table", [], "", plain=True, threshold=threshold)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, TESTS, f"{other[0]},{mine[1]}", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def tell(data):
        owner.stdin.write(struct.pack("<Q", len(data)) + data)
        owner.stdin.flush()

    def hear():
        return owner.stdout.read(int.from_bytes(owner.stdout.read(8), "little"))

    streams = [(proxies[0].there, proxies[1].back), (proxies[1].there, proxies[0].back)]  # to scorer, to owner

    def received(since):
        """Bytes that came over the link since then, at the scorer and at the owner."""
        return [
            b"".join(bytes(s[at:]) for s, at in zip(*ends, strict=True)) for ends in zip(streams, since, strict=True)
        ]

    logs = {case: ([], []) for case in cases}
    try:
        remote.send(b"l", f"{mine[0]},{other[1]};{name}".encode())
        tell(remote.offer)
        for turn in range(61):  # the first also sets the link up
            case = list(cases)[turn % 3]
            before = [[len(stream) for stream in pair] for pair in streams]
            tell(np.tile(cases[case], (64, 1)).tobytes())
            sealed = hear()
            answer = remote.score(sealed)
            remote.send(b"m")
            mask = remote.receive()[-64 * 5 :]
            remote.send(b"c")
            tell(answer)
            outcome = hear()
            assert remote.receive() == b"compared"
            verdicts, words, half = outcome[:64], np.frombuffer(outcome[64 : 64 + 512], dtype="<u8"), outcome[-8:]
            assert verdicts == bytes([expected[case]]) * 64
            at_scorer, at_owner = received(before)
            assert min(len(at_scorer), len(at_owner)) > 64 * 16
            # the owner never receives a mask, nor the scorer a word of the owner's or its half of the verdicts
            for i in range(64):
                assert mask[5 * i : 5 * i + 5] not in at_owner + answer
                assert words[i : i + 1].tobytes()[3:] not in at_scorer + sealed
            assert half not in at_scorer + sealed
            if turn:
                logs[case][0].append(payloads(at_scorer))
                logs[case][1].append(payloads(at_owner) + answer[200:])
                assert 5_000 < len(logs[case][0][-1]) < len(at_scorer)
        tell(b"")
        owner.wait(timeout=20)
    finally:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()
        remote.close()
        for proxy in proxies:
            proxy.close()

    low, middle, high = (logs[case] for case in cases)
    leaks = [data[:-64] + bytes([1]) * 64 for data in high[0]]  # as if the verdicts were in it
    assert distinguishes(low[0], leaks)
    assert not distinguishes(low[1], middle[1])  # the owner's view of two scores under one verdict
    assert not distinguishes(low[0], middle[0])
    assert not distinguishes(low[0], high[0])  # the scorer's view of two verdicts


def payloads(log):
    """What the links' messages carry, without their frames, names and counters: brpc's baidu_std, yacl's Push."""
    values, at = [], 0
    while (at := log.find(b"PRPC", at)) >= 0:
        body, meta = struct.unpack_from(">II", log, at + 4)
        message = log[at + 12 + meta : at + 12 + body]
        message = message.removeprefix(b"\x08\x01")  # rank, where not 0; then name, then value
        if message[:1] == b"\x12" and not message[2:].startswith(b"ACK"):
            value = message[2 + message[1] :]
            assert value[:1] == b"\x1a"
            values.append(value[2 + (value[1] > 127) + (len(value) > 16_386) :])
        at += 4
    return b"".join(values)


def distinguishes(one, two):
    """Whether two groups of logs differ in their bytes, or lengths, more than in 4,000 other divisions into groups."""
    logs = [np.frombuffer(log, dtype=np.uint8) for log in (*one, *two)]
    views = np.array([np.append(np.bincount(log, minlength=256), len(log)) for log in logs], dtype=float)
    views /= np.maximum(views.std(axis=0), 1e-9)
    rng = np.random.default_rng(0)

    def distance(labels):
        return float(np.abs(views[labels].mean(axis=0) - views[~labels].mean(axis=0)).max())

    labels = np.arange(len(logs)) < len(one)
    return distance(labels) > max(
        distance(other)
        for other in (rng.permutation(labels) for _ in range(4000))
        if not (np.array_equal(other, labels) or np.array_equal(other, ~labels))
    )
