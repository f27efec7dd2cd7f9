"""Verdicts: one bit a record. Set-up, speed, bytes, and whether every verdict equals ``predict``.

Scorer and owner are processes of their own on this machine, joined by a link with mutual TLS. "scored and compared" is
from the sealed records' arrival at the scorer to the verdicts at the owner; sealing is apart, and in "end to end". The
bytes of the link are counted in a second run through a forwarding socket (TLS included); "up" and "down" are the sealed
records and the answer.

    python benchmarks/verdicts.py [--rows 16384] [--transfer ferret softspoken]
    python benchmarks/verdicts.py --every --rows 10000      # instead: every integer circuit, in rows; nothing is timed
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import secrets
import select
import socket
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from _adbench import data_folder, load

TIMEOUT_S = 120.0
MESSAGE = 1 << 27
"""Bytes of a message of ``--every``, unless a single group of records is longer."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Counter:
    """Forwards a port and counts what crosses, both ways."""

    def __init__(self, target: int) -> None:
        self.target, self.count = target, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:  # not there yet: the link tries again
            client.close()
            return
        with contextlib.suppress(OSError), client, server:  # one side's end breaks the connection off
            while True:
                for source, sink in ((client, server), (server, client)):
                    if select.select([source], [], [], 0.0005)[0]:
                        data = source.recv(1 << 18)
                        if not data:
                            return
                        self.count += len(data)
                        sink.sendall(data)


def tls(folder: str, name: str):
    from blindsight.blind.mpc import TlsFiles

    return TlsFiles(
        certificate=Path(folder) / f"{name}.crt",
        private_key=Path(folder) / f"{name}.key",
        trusted=Path(folder) / "both.pem",
    )


def scorer_process(pipe, folder: str) -> None:
    """The model holder: knows the model and the threshold, never a record, a score or a verdict."""
    import blindsight as bs
    from blindsight.blind import ComparisonProcess, Scorer

    comparison = scorer = None
    while (message := pipe.recv()) is not None:
        command, *rest = message
        if command == "model":
            scorer = Scorer(bs.load(rest[0]), packing=rest[1], reveal="verdict")
            pipe.send_bytes(scorer.offer())
        elif command == "link":
            addresses, name, transfer = rest
            comparison = ComparisonProcess(
                addresses, 0, tls=tls(folder, "scorer"), name=name, transfer=transfer, timeout_s=TIMEOUT_S
            )
        elif command == "score":
            started = time.perf_counter()
            answer = scorer.score(pipe.recv_bytes())
            pipe.send(time.perf_counter() - started)
            pipe.send_bytes(answer)
            scorer.compare(comparison)
        elif command == "unlink":
            comparison.close()


def connect(pipe, folder: str, transfer: str, *, counted: bool):
    """A fresh link; with counters in between, if wanted."""
    from blindsight.blind import ComparisonProcess

    ports, name = free_ports(2), secrets.token_hex(16)
    counters = [Counter(port) for port in ports] if counted else []
    mine = [f"127.0.0.1:{port}" for port in ports]
    other = [f"127.0.0.1:{counter.port}" for counter in counters] or mine
    started = time.perf_counter()
    pipe.send(("link", [mine[0], other[1]], name, transfer))
    comparison = ComparisonProcess(
        [other[0], mine[1]], 1, tls=tls(folder, "owner"), name=name, transfer=transfer, timeout_s=TIMEOUT_S
    )
    return comparison, counters, time.perf_counter() - started


def once(pipe, owner, comparison, X):
    """One request: verdicts, seconds to seal, to score, and from sealed to verdicts; bytes up and down."""
    started = time.perf_counter()
    sealed = owner.seal(X)
    sealed_at = time.perf_counter()
    pipe.send(("score",))
    pipe.send_bytes(sealed)
    score_s, answer = pipe.recv(), pipe.recv_bytes()
    verdicts = owner.verdicts(answer, comparison, sealed=sealed)
    done = time.perf_counter()
    return verdicts, sealed_at - started, score_s, done - sealed_at, len(sealed), len(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--transfer", nargs="+", default=["ferret", "softspoken"])
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    import blindsight as bs
    from blindsight.blind.mpc import make_certificate

    warnings.simplefilter("ignore", bs.BlindsightWarning)
    n = options.rows
    cover, _ = load(data_folder() / "adbench" / "10_cover.npz")
    cover = cover[np.random.default_rng(0).permutation(len(cover))]
    wide = np.random.default_rng(0).standard_t(4, size=(n, 29))
    cases = []
    for name, make, X in (
        ("Mahalanobis, 10 features of cover", bs.Mahalanobis, cover[:n]),
        ("ECOD, 10 features of cover", bs.ECOD, cover[:n]),
        ("Mahalanobis, 29 synthetic features", bs.Mahalanobis, wide),
    ):
        model = make(schema=bs.Schema.infer(X).declare(), contamination=0.05).fit(X)
        cases.append((name, model, X))
    context = multiprocessing.get_context("spawn")
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for end in ("scorer", "owner"):
            make_certificate(end, folder)
        pems = [(Path(folder) / f"{end}.crt").read_bytes() for end in ("scorer", "owner")]
        (Path(folder) / "both.pem").write_bytes(b"".join(pems))
        here, there = context.Pipe()
        process = context.Process(target=scorer_process, args=(there, folder))
        process.start()
        if options.every:
            failures += every(here, folder, cover[:n], options.only)
        for transfer in () if options.every else options.transfer:
            failures += measure(here, folder, transfer, cases, n)
        here.send(None)
        process.join(30)
    print("all verdicts equal predict" if not failures else f"{failures} FAILURES")
    return int(failures > 0)


def measure(pipe, folder: str, transfer: str, cases, n: int) -> int:
    """Time every case over one link, then count the bytes of the first over another; returns the cases that fail."""
    import blindsight as bs

    comparison, _, seconds = connect(pipe, folder, transfer, counted=False)
    print(f"{transfer}: link and oblivious transfers set up in {seconds:.1f} s")
    print(
        f"  {'model':36s}{'entries':>8s}{'wrong':>6s}{'seal rows/s':>12s}{'score ms':>9s}"
        f"{'scored+compared rows/s':>23s}{'end to end rows/s':>18s}{'up KB/row':>10s}{'down B/row':>11s}"
    )
    failures = 0
    for name, model, X in cases:
        path = str(Path(folder) / "model.blindsight")
        model.save(path)
        pipe.send(("model", path, "columns"))
        owner = bs.blind.RecordOwner(pipe.recv_bytes())
        once(pipe, owner, comparison, X[:100])  # registers, and compiles
        runs = [once(pipe, owner, comparison, X) for _ in range(3)]
        wrong = sum(int((run[0] != model.predict(X)).sum()) for run in runs)
        failures += wrong > 0
        seal_s, score_s, rest_s = (min(run[i] for run in runs) for i in (1, 2, 3))
        print(
            f"  {name:36s}{model.encoder_.length:8d}{wrong:6d}{n / seal_s:12,.0f}{score_s * 1e3:9.1f}"
            f"{n / rest_s:23,.0f}{n / (seal_s + rest_s):18,.0f}{runs[0][4] / n / 1e3:10.2f}{runs[0][5] / n:11.1f}"
        )
    pipe.send(("unlink",))
    comparison.close()
    name, model, X = cases[0]
    path = str(Path(folder) / "model.blindsight")
    model.save(path)
    pipe.send(("model", path, "columns"))
    owner = bs.blind.RecordOwner(pipe.recv_bytes())
    counted, counters, _ = connect(pipe, folder, transfer, counted=True)
    before = sum(counter.count for counter in counters)
    once(pipe, owner, counted, X[:4096])
    first = sum(counter.count for counter in counters)
    once(pipe, owner, counted, X)
    total = sum(counter.count for counter in counters)
    print(
        f"  link: {before / 1e6:.1f} MB at set-up; {(first - before) / 4096:.0f} bytes a verdict in the first request "
        f"of 4,096 rows, {(total - first) / n:.0f} in one of {n:,} after it"
    )
    pipe.send(("unlink",))
    counted.close()
    return failures


def every(pipe, folder: str, X: np.ndarray, only: list[str] | None) -> int:
    """Compare the verdicts of every integer circuit with ``predict``; returns how many circuits fail."""
    import blindsight as bs

    schema = bs.Schema.infer(X).declare()
    kinds = (bs.ECOD, bs.COPOD, bs.HBOS, bs.LODA, bs.IForest, bs.Mahalanobis, bs.PCA, bs.RandomFeatures, bs.OCSVM)
    makers = {kind.__name__: (lambda kind=kind: kind(schema=schema)) for kind in kinds}
    makers["TableStudent"] = lambda: bs.TableStudent(teacher=bs.Mahalanobis(schema=schema).fit(X), schema=schema)
    comparison, _, _ = connect(pipe, folder, "softspoken", counted=False)
    failures = 0
    for name, make in makers.items():
        if only and name not in only:
            continue
        model = make().fit(X)
        path = str(Path(folder) / "model.blindsight")
        model.save(path)
        pipe.send(("model", path, "rows"))
        owner = bs.blind.RecordOwner(pipe.recv_bytes())
        p = owner.parameters
        step = max(1, MESSAGE // p.group_bytes) * p.rows_per_ciphertext
        found = [once(pipe, owner, comparison, X[at : at + step])[0] for at in range(0, len(X), step)]
        expected = model.predict(X)
        wrong = int((np.concatenate(found) != expected).sum())
        failures += wrong > 0
        print(f"{name:16s}{model.encoder_.length:8,d} entries  {int(expected.sum()):6,d} alerts  "
              f"{wrong} of {len(X):,} verdicts differ", flush=True)  # fmt: skip
    pipe.send(("unlink",))
    comparison.close()
    return failures


if __name__ == "__main__":
    sys.exit(main())
