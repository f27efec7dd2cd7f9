"""The service under load: 50 clients at a time for 60 seconds, every answer checked, latency and memory watched.

    python benchmarks/service_load.py [--seconds 60] [--clients 50] [--rate 10] [--workers 2]

Two loads. *Paced*: each client asks for single records at random times, so that all of them together ask for --rate a
second; p99 is held against the median of one client alone. *Saturated*: every client asks again at once; there the
queue decides, and what counts is that every answer is right and nothing grows. Client processes share the cores with
the service.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from blindsight.blind import RecordOwner
from service._running import Running, make_model

BAR = 5.0
FEATURES = 29


def ask(told: dict, seed: int, clients: int, seconds: float, rate: float | None, results) -> None:
    """One process of several clients (threads would share sealing): sealed ahead, opened afterwards."""
    import threading

    from blindsight.service import Client

    model, X = make_model(features=FEATURES)
    expected = model.decision_function(X)
    rng = np.random.default_rng(seed)
    owner = RecordOwner(Path(told["offer"]).read_bytes(), home=told["home"])
    pool = [(row, owner.seal(X[row : row + 1], register=False)) for row in rng.integers(len(X), size=24)]
    times: list[tuple[float, float]] = []
    answers: list[tuple[int, bytes]] = []
    errors: list[str] = []

    def client(number: int) -> None:
        pace = np.random.default_rng((seed, number))
        with Client(told["url"], token=told["token"], authority=told["authority"], retries=4) as one:
            one.facts("model")  # the handshake is not what is measured
            ready.wait()
            end, sent = time.monotonic() + seconds, 0
            at = time.monotonic() + (pace.exponential(1 / rate) if rate else 0.0)
            while at < end:
                time.sleep(max(0.0, at - time.monotonic()))
                row, sealed = pool[(number + sent) % len(pool)]
                started = time.monotonic()
                try:
                    answer = one.score("model", sealed)
                    times.append((at if rate else started, time.monotonic()))
                    answers.append((row, answer))
                except Exception as error:
                    errors.append(f"{type(error).__name__}: {error}"[:200])
                sent += 1
                at = max(at + pace.exponential(1 / rate), 0.0) if rate else time.monotonic()

    ready = threading.Event()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, told["start"] - time.monotonic()))
    ready.set()
    for thread in threads:
        thread.join()
    wrong = sum(not np.array_equal(owner.open(answer), expected[row : row + 1]) for row, answer in answers)
    results.put((times, len(answers), wrong, errors))


def load(service: Running, told: dict, *, clients: int, seconds: float, rate: float | None, processes: int) -> dict:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    shares = [clients // processes + (i < clients % processes) for i in range(processes)]
    told = told | {"start": time.monotonic() + 8.0}
    each = None if rate is None else rate / clients
    children = [
        context.Process(target=ask, args=(told, i, share, seconds, each, results)) for i, share in enumerate(shares)
    ]
    for child in children:
        child.start()
    memory = []
    gathered = []
    while len(gathered) < len(children):
        try:
            gathered.append(results.get(timeout=1.0))
        except Exception:
            memory.append(service.memory_bytes())
            if all(child.exitcode for child in children):
                raise
    for child in children:
        child.join()
    spans = [span for times, *_ in gathered for span in times]
    latencies = np.array([end - start for start, end in spans]) * 1000
    return {
        "latencies": latencies,
        "answers": sum(count for _, count, _, _ in gathered),
        "wrong": sum(wrong for _, _, wrong, _ in gathered),
        "errors": [text for *_, errors in gathered for text in errors],
        "memory": memory,
        "rate": len(spans) / seconds,
    }


def show(name: str, done: dict, alone: float) -> None:
    low, mid, p95, p99 = (float(np.percentile(done["latencies"], q)) for q in (5, 50, 95, 99))
    memory = done["memory"]
    quarter = max(1, len(memory) // 4)
    first, last = max(memory[quarter : 2 * quarter] or memory), max(memory[-quarter:])
    print(f"{name}: {done['answers']} answers, {done['rate']:.1f} a second; wrong {done['wrong']}, "
          f"failed {len(done['errors'])}")  # fmt: skip
    print(f"  ms: p5 {low:.0f}, median {mid:.0f}, p95 {p95:.0f}, p99 {p99:.0f}; "
          f"p99 / unloaded median = {p99 / alone:.1f}")  # fmt: skip
    print(f"  workers' memory: {first >> 20} MiB in the second quarter, {last >> 20} MiB in the last")
    for text in done["errors"][:3]:
        print(f"  {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of all clients together, paced")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{platform.machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; "
          f"{options.workers} workers, SQLite, TLS; ECOD of {FEATURES} features, BFV rows, "
          "one record a request")  # fmt: skip
    model, _ = make_model(features=FEATURES)
    with tempfile.TemporaryDirectory() as folder:
        service = Running(Path(folder) / "service", workers=options.workers, threads=1)
        service.publish(model)
        token = service.token("load")
        with service:
            with service.client(token) as client:
                offer = Path(folder) / "offer"
                offer.write_bytes(client.offer("model"))
                owner = RecordOwner(offer.read_bytes(), home=Path(folder) / "owner")
                client.register("model", owner)
            told = {
                "url": service.url, "token": token, "authority": str(service.certificate),
                "offer": str(offer), "home": str(Path(folder) / "owner"),
            }  # fmt: skip
            alone = load(service, told, clients=1, seconds=min(15.0, options.seconds), rate=None, processes=1)
            median = float(np.median(alone["latencies"]))
            print(f"one client, one request after the other: median {median:.0f} ms, "
                  f"{alone['rate']:.1f} a second; wrong {alone['wrong']}")  # fmt: skip
            paced = load(
                service, told, clients=options.clients, seconds=options.seconds, rate=options.rate, processes=2
            )
            show(f"paced, {options.clients} clients for {options.seconds:.0f} s", paced, median)
            full = load(service, told, clients=options.clients, seconds=options.seconds, rate=None, processes=2)
            show(f"saturated, {options.clients} clients for {options.seconds:.0f} s", full, median)
            with service.client(token) as client:
                rows = client.account()["spent"][0]["rows"]
            print(f"load after {os.getloadavg()[0]:.1f}; records charged {rows}")
    counted = alone["answers"] + paced["answers"] + full["answers"]
    failed = len(paced["errors"]) + len(full["errors"])
    p99 = float(np.percentile(paced["latencies"], 99))
    bad = alone["wrong"] + paced["wrong"] + full["wrong"]
    if bad or failed or rows != counted:
        print(f"NOT MET: {bad} wrong, {failed} failed, {rows} charged for {counted} answered")
        return 1
    print(f"every answer right and charged once; bar p99 <= {BAR:.0f} x unloaded median (paced): "
          f"{'met' if p99 <= BAR * median else 'NOT MET'}")  # fmt: skip
    return 0 if p99 <= BAR * median else 1


if __name__ == "__main__":
    sys.exit(main())
