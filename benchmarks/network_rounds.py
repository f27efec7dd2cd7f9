"""Round trips of each engine: how much longer an answer takes for each millisecond between the machines.

    python benchmarks/network_rounds.py [--only aby3,cheetah,comparison] [--repeats 3]     # half an hour

The constants of ``blind/_planner_rounds.py``. Each program runs without delay and with an emulated round trip of 400
ms, in real operator processes behind the relay of benchmarks/mpc.py. The number of round trips is the difference of the
shortest times over 400 ms: load on this machine only adds, and is small beside so long a delay. The relay does not
hold back TCP's own handshake, which is one more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import blindsight as bs
from blindsight.circuits import Activation, Dense, InnerProduct, Monomials, Network, OneHotBins, Standardised
from mpc import Operators, relay

FEATURES, BINS = 8, 8
RTT_S = 0.4
ROWS = (1, 1000)


def dense(rng: np.random.Generator, outputs: int, inputs: int, size: float = 1.0) -> Dense:
    return Dense(weights=rng.normal(size=(outputs, inputs)) * size, bias=rng.normal(size=outputs) / 10)


def network(*kinds: str, size: float = 1.0) -> Any:
    """Dense layers of the same width with activations of these kinds before the last; none: one layer."""
    rng = np.random.default_rng(0)
    layers: list[Any] = []
    for kind in kinds:
        layers.append(dense(rng, FEATURES, FEATURES, size))
        if kind != "none":
            layers.append(Activation(kind, 0.1) if kind == "square" else Activation(kind))
    layers.append(dense(rng, FEATURES, FEATURES, size))
    return SimpleNamespace(
        network_=Network(layers=tuple(layers), target="inputs"),
        inputs_=Standardised(offsets=(0.0,) * FEATURES, scales=(1.0,) * FEATURES, slots=(0,) * FEATURES, bound=4.0),
        threshold_=1.0,
        is_secret_=True,
        schema_=SimpleNamespace(to_json=dict),
    )


def integer(encoder: Any) -> Any:
    weights = np.random.default_rng(0).integers(1, 1000, encoder.length)
    return SimpleNamespace(
        encoder_=encoder,
        circuit_=InnerProduct(weights=weights),
        score_scale_=1.0,
        threshold_=2000.0,
        is_secret_=True,
        schema_=SimpleNamespace(to_json=dict),
    )


def windows() -> dict[str, Any]:
    """Networks of windows: barely trained, since rounds do not depend on the weights."""
    t = np.arange(200.0)
    series = np.stack([np.sin(t / 5), np.cos(t / 7)], axis=1)
    training = bs.Training(rounds=1)
    return {
        "lstm-2": bs.LSTMAutoEncoder(hidden=4, window=2, training=training).fit(series),
        "lstm-4": bs.LSTMAutoEncoder(hidden=4, window=4, training=training).fit(series),
        "block-4": bs.TransformerAutoEncoder(width=4, window=4, training=training).fit(series),
    }


def programs(protocol: str) -> dict[str, tuple[Any, str]]:
    """Name to model and answer."""
    edges = (tuple(float(v) for v in np.linspace(-3, 3, BINS - 1)),) * FEATURES
    table = integer(OneHotBins(edges=edges))
    form = integer(Monomials(lows=(-4.0,) * FEATURES, highs=(4.0,) * FEATURES, logs=(False,) * FEATURES))
    found = {
        "inner-product": (table, "score"),
        "inner-product-verdict": (table, "verdict"),
        "quadratic": (form, "score"),
        "quadratic-verdict": (form, "verdict"),
        "dense": (network(), "score"),
        "dense-dense": (network("none"), "score"),
        "dense-verdict": (network(), "verdict"),
        **{f"dense-{kind}-dense": (network(kind), "score") for kind in ("relu", "leaky", "square", "tanh")},
    }
    for name, model in windows().items():
        found[name] = (model, "score")
    if protocol == "aby3":
        found["dense-relu-dense-wide"] = (network("relu", size=300), "score")
        found["dense-tanh-dense-wide"] = (network("tanh", size=300), "score")
    return found


def shortest(call: Callable[[], Any], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def set_up(count: int, rtt_s: float) -> tuple[float, int]:
    """Seconds to the first answer of fresh operators, their link and the protocol's set-up included; bytes on links."""
    with tempfile.TemporaryDirectory() as folder:
        operators = Operators(count, Path(folder) / "operators")
        try:
            operators.holder().share(network("relu"), "first")
            owner = operators.owner("first")
            operators.delay_s.value = rtt_s / 2
            start = time.perf_counter()
            owner.score(np.zeros((1, FEATURES)))
            return time.perf_counter() - start, operators.between()
        finally:
            operators.close()


def mpc(protocol: str, count: int, repeats: int, matching: str) -> None:
    print(f"\n{protocol}: shortest ms without delay, with 400 ms, round trips", flush=True)
    if matching in "set-up":
        first_answer(count, repeats)
    X = np.random.default_rng(1).normal(size=(max(ROWS), FEATURES))
    with tempfile.TemporaryDirectory() as folder:
        operators = Operators(count, Path(folder) / "operators")
        try:
            for name, (model, answer) in programs(protocol).items():
                if matching in name:
                    one(operators, name, model, answer, X, repeats)
        finally:
            operators.close()


def first_answer(count: int, repeats: int) -> None:
    first = [[set_up(count, rtt) for _ in range(repeats)] for rtt in (0.0, RTT_S)]
    report("first answer, set-up included", *(min(seconds for seconds, _ in found) for found in first))
    print(f"    bytes on the links until then: {max(moved for found in first for _, moved in found):,}", flush=True)


def one(operators: Operators, name: str, model: Any, answer: str, X: np.ndarray, repeats: int) -> None:
    operators.delay_s.value = 0.0
    operators.holder().share(model, name, answer=answer)  # type: ignore[arg-type]
    owner = operators.owner(name)
    if not hasattr(model, "encoder_") and len(model.network_.shapes[0]) > 1:
        X = X[:8, :2]
    for rows in ROWS if len(X) > 8 else (8,):
        operators.delay_s.value = 0.0

        def run(rows: int = rows) -> None:
            owner.score(X[:rows], rows_per_run=rows)

        run()  # compiles
        near = shortest(run, repeats)
        operators.delay_s.value = RTT_S / 2
        report(f"{name}, {rows} rows", near, shortest(run, repeats))


def report(name: str, near_s: float, far_s: float) -> None:
    rounds = (far_s - near_s) / RTT_S
    print(f"    {name:36s} {near_s * 1e3:8.1f} {far_s * 1e3:9.1f} {rounds:8.1f}", flush=True)


def end(pipe: Any, folder: str, rank: int, addresses: list[str], name: str) -> None:
    """One side of comparisons, as asked over the pipe."""
    from blindsight.blind import ComparisonProcess
    from blindsight.blind.mpc import TlsFiles

    me = ("scorer", "owner")[rank]
    tls = TlsFiles(
        certificate=Path(folder) / f"{me}.crt",
        private_key=Path(folder) / f"{me}.key",
        trusted=Path(folder) / "both.pem",
    )
    start = time.perf_counter()
    comparison = ComparisonProcess(addresses, rank, tls=tls, name=name, timeout_s=300, connect_timeout_s=60)
    pipe.send(time.perf_counter() - start)
    while (words := pipe.recv()) is not None:
        start = time.perf_counter()
        comparison.negative(np.arange(words, dtype=np.uint64))
        pipe.send(time.perf_counter() - start)
    comparison.close()


class Comparisons:
    """Scorer and owner of verdicts, each behind a relay."""

    def __init__(self, folder: str, number: int, rtt_s: float) -> None:
        import socket

        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        seen, real = ports[:2], ports[2:]
        self.delay_s = multiprocessing.Value("d", rtt_s / 2)
        self.bytes = counted = multiprocessing.Array("q", 2)
        pairs = list(zip(seen, real, strict=True))
        self._relay = multiprocessing.Process(target=relay, args=(pairs, self.delay_s, counted), daemon=True)
        self._relay.start()
        self._pipes, self._processes = [], []
        for rank in range(2):
            mine, other = multiprocessing.Pipe()
            addresses = [f"127.0.0.1:{(real if party == rank else seen)[party]}" for party in range(2)]
            process = multiprocessing.Process(target=end, args=(other, folder, rank, addresses, f"{number:032x}"))
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)
        self.set_up_s = max(pipe.recv() for pipe in self._pipes)
        self.set_up_bytes = sum(self.bytes)

    def compare(self, words: int) -> float:
        for pipe in self._pipes:
            pipe.send(words)
        return max(pipe.recv() for pipe in self._pipes)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)
        self._relay.terminate()


def comparison(repeats: int) -> None:
    from blindsight.blind.mpc import make_certificate

    print("\ncomparison of verdicts (ferret): shortest ms without delay, with 400 ms, round trips", flush=True)
    prepared: dict[float, list[float]] = {0.0: [], RTT_S: []}
    runs: dict[tuple[float, int], list[float]] = {}
    moved = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scorer", "owner"):
            make_certificate(name, Path(folder))
        both = b"".join((Path(folder) / f"{name}.crt").read_bytes() for name in ("scorer", "owner"))
        (Path(folder) / "both.pem").write_bytes(both)
        for number in range(repeats):
            for rtt in (0.0, RTT_S):
                pair = Comparisons(folder, 2 * number + (rtt > 0), rtt)
                prepared[rtt].append(pair.set_up_s)
                moved = pair.set_up_bytes
                for words in (64, 1024, 16384):
                    pair.compare(words)
                    runs.setdefault((rtt, words), []).extend(pair.compare(words) for _ in range(2))
                pair.close()
    report("set-up", min(prepared[0.0]), min(prepared[RTT_S]))
    print(f"    bytes until then: {moved:,}", flush=True)
    for words in (64, 1024, 16384):
        report(f"{words} words", min(runs[0.0, words]), min(runs[RTT_S, words]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="aby3,cheetah,comparison")
    parser.add_argument("--matching", default="", help="Programs whose names hold this.")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"blindsight {bs.__version__}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    chosen = options.only.split(",")
    for protocol, count in (("aby3", 3), ("cheetah", 2)):
        if protocol in chosen:
            mpc(protocol, count, options.repeats, options.matching)
    if "comparison" in chosen:
        comparison(options.repeats)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
