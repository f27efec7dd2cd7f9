"""Verdicts through the service: time and memory of a comparison link, records a second, and what a death leaves behind.

A service of two workers and its client are processes of this machine, joined by HTTPS and by links with mutual TLS.
"end to end" is from records to verdicts, sealing included, over a link that is open; "without sealing" is what is left
of it when the requests are sealed before. "gone after" is from the kill of the owner's link process, in the middle of a
comparison, to the end of the scorer's: SPU alone would wait for half a minute.

    python benchmarks/verdict_service.py [--rows 16384] [--features 29] [--transfer softspoken ferret]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from blindsight.blind import RecordOwner
from blindsight.errors import UnavailableError
from service._running import Running, make_model


def scorers(service: Running) -> list[int]:
    """Link processes of the service's workers."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent in service.worker_pids() and b"verdict_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def peak_bytes(pid: int) -> int:
    """Most resident memory so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


class Killed:
    """An owner's end whose process is killed when its comparison has begun."""

    def __init__(self, link) -> None:
        self._link, self.at = link, 0.0
        self.send, self.receive = link.send, link.receive

    def negative(self, words):
        os.kill(self._link.process_id, signal.SIGKILL)
        self.at = time.perf_counter()
        return self._link.negative(words)


def measure(service: Running, client, owner: RecordOwner, X, expected, transfer: str) -> int:
    """One kind of transfer; prints a line and returns how many verdicts were wrong."""
    step = client.rows_at_a_time(client.facts("model"))
    with client.comparisons("model", owner, transfer=transfer) as links:
        started = time.perf_counter()
        links.connect()
        opened = time.perf_counter() - started
        wrong, seal = 0, 0.0
        started = time.perf_counter()
        for at in range(0, len(X), step):
            begun = time.perf_counter()
            sealed = owner.seal(X[at : at + step], register=False)
            seal += time.perf_counter() - begun
            found = links.verdicts(client.score("model", sealed), sealed)
            wrong += int((found != expected[at : at + step]).sum())
        seconds = time.perf_counter() - started
        (scorer,) = scorers(service)
        memory, own = peak_bytes(scorer), peak_bytes(links._link.process_id)
        sealed = owner.seal(X[:1], register=False)
        end = Killed(links._link)
        with contextlib.suppress(UnavailableError):
            owner.verdicts(client.score("model", sealed), end, sealed=sealed)
        links.close()
        while scorers(service):
            time.sleep(0.005)
        gone = time.perf_counter() - end.at
    print(
        f"{transfer:10}  link open after {opened:5.1f} s   {len(X) / seconds:7,.0f} rows/s end to end   "
        f"{len(X) / (seconds - seal):7,.0f} without sealing   {memory >> 20:5} MiB scorer's, {own >> 20:5} MiB owner's "
        f"process   gone after {gone:.2f} s   {wrong} wrong",
        flush=True,
    )
    return wrong


def main() -> int:
    """Run, print, and fail if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--features", type=int, default=29)
    parser.add_argument("--transfer", nargs="+", default=["softspoken", "ferret"], choices=["softspoken", "ferret"])
    options = parser.parse_args()
    model, X = make_model(features=options.features, rows=4000)
    X = np.resize(X, (options.rows, options.features))
    expected = model.predict(X)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        service = Running(Path(folder), workers=2, body_bytes=256 << 20)
        service.publish(model, packing="columns", thresholds=())
        with service, service.client(service.token()) as client:
            owner = RecordOwner(client.offer("model"))
            client.register("model", owner)
            print(client.facts("model").parameters)
            for transfer in options.transfer:
                wrong += measure(service, client, owner, X, expected, transfer)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
