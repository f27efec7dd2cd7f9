"""The constants of the planner's cost model, measured on this machine; ``blind/_planner_times.py`` holds them.

    python benchmarks/blind_costs.py [--only he,ckks,verdict,aby3,cheetah]

Every constant is the difference between two sizes of one circuit, or what is left of one; each time is the best of a
few runs, since other load only adds; of encryption, processor time on one thread. Models are drawn at random: no time
depends on the weights. MPC operators are threads of one process over memory links, so that no network is in it, and
share this machine's cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from blindsight.blind import Comparison, RecordOwner, Scorer
from blindsight.blind.mpc import open_memory_link, program_of
from blindsight.blind.mpc._engine import Engine
from blindsight.blind.mpc._shares import split
from blindsight.circuits import Activation, Dense, InnerProduct, Network, OneHotBins, Standardised

REPEATS = 4


class Schema:
    def to_json(self) -> dict[str, Any]:
        return {"version": 1}


def table(features: int, bins: int, high: int = 1 << 13) -> Any:
    encoder = OneHotBins(edges=(tuple(float(v) for v in np.linspace(-3, 3, bins - 1)),) * features)
    weights = np.random.default_rng(0).integers(high // 2, high, encoder.length)
    return SimpleNamespace(
        encoder_=encoder, circuit_=InnerProduct(weights=weights), score_scale_=1.0, schema_=Schema(), is_secret_=True,
        threshold_=float(features * high * 0.75),
    )  # fmt: skip


class RandomNetwork:
    """A fitted autoencoder as an engine sees it."""

    def __init__(self, inputs: int, hidden: int, kind: str) -> None:
        rng = np.random.default_rng(0)

        def dense(rows: int, columns: int) -> Dense:
            return Dense(weights=rng.normal(size=(rows, columns)) / columns, bias=rng.normal(size=rows) / 10)

        middle = (Activation(kind, 0.1) if kind == "square" else Activation(kind),) if kind else ()  # type: ignore[arg-type]
        layers = (dense(hidden, inputs), *middle, dense(inputs, hidden))
        self.network_ = Network(layers=layers, target="inputs")
        self.inputs_ = Standardised(offsets=(0.0,) * inputs, scales=(1.0,) * inputs, slots=(0,) * inputs, bound=4.0)
        self.schema_, self.is_secret_, self.threshold_ = Schema(), True, 1.0
        self.score_histogram_ = None

    network_: Any = None


def best(call: Callable[[], Any], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter) -> float:
    """Shortest time of a call, in milliseconds."""
    found = []
    for _ in range(repeats):
        start = clock()
        call()
        found.append(clock() - start)
    return min(found) * 1e3


def alone(call: Callable[[], Any]) -> float:
    """Shortest processor time of a call on one thread, in milliseconds: what waits for other load does not count."""
    return best(call, clock=time.process_time)


def phases(model: Any, packing: str, rows: int) -> tuple[float, float, float, Any]:
    """Milliseconds of sealing, answering and opening one request of a full group."""
    scorer = Scorer(model, packing=packing)
    owner = RecordOwner(scorer.offer())
    X = np.random.default_rng(1).normal(size=(rows, owner.encoder.n_features))
    sealed = owner.seal(X)
    answer = scorer.score(sealed)
    sealed = owner.seal(X, register=False)
    return (
        alone(lambda: owner.seal(X, register=False)),
        alone(lambda: scorer.score(sealed)),
        alone(lambda: owner.open(answer)),
        scorer,
    )


def line(name: str, *values: float) -> None:
    print(f"    {name:<28} {'  '.join(f'{value:.4g}' for value in values)}", flush=True)


def he() -> None:
    print("BFV: milliseconds an uploaded ciphertext (seal, answer), then an answer (mask and protect, open)")
    for degree, high in ((4096, 1 << 13), (8192, 1 << 36)):
        for packing, small, large in (("rows", (8, 64), (32, 512)), ("columns", (4, 16), (16, 32))):
            a = phases(table(*small, high=high), packing, 1)
            b = phases(table(*large, high=high), packing, 1)
            pa, pb = a[3].parameters, b[3].parameters
            assert pa.degree == pb.degree == degree, (pa.degree, pb.degree, degree)
            step = pb.ciphertexts_per_group - pa.ciphertexts_per_group
            seal, answer = (b[0] - a[0]) / step, (b[1] - a[1]) / step
            line(f"{packing} {degree}", seal, answer, a[1] - answer * pa.ciphertexts_per_group, b[2])


def ckks() -> None:
    print("CKKS, a group: seal ns an input, prime and coefficient; answer ns a product with a weight, a product of")
    print("residues, a coefficient of the rest; open ns a coefficient of an answer")
    small, large, square = (RandomNetwork(30, 4, ""), RandomNetwork(120, 60, ""), RandomNetwork(30, 20, "square"))
    for model in (small, large, square):
        seal, answer, opened, scorer = phases(model, "columns", 4096)
        p = scorer.parameters
        net = scorer._engine._network
        sizes = [(len(d), *d[0].shape) for d in (net.linear, net.first)] + (
            [(len(net.second), *net.second[0].shape)] if net.second is not None else []
        )
        print("     ", p.degree, p.count, p.kept, p.squares, sizes)
        line("seal, answer, open ms", seal, answer, opened)
        line("seal ns", seal * 1e6 / (p.entries * p.count * p.degree))
        line("open ns", opened * 1e6 / (p.kept * p.degree * p.parts))


POOLS = [ThreadPoolExecutor(1) for _ in range(3)]
"""A lasting thread for each operator: SPU's library now and then ends the process when its threads come and go."""


def together(count: int, do: Callable[[int], Any]) -> None:
    """Run every operator's part at once."""
    for future in [pool.submit(do, rank) for rank, pool in enumerate(POOLS[:count])]:
        future.result(timeout=300)


class Operators:
    """All operators as threads of this process."""

    def __init__(self, count: int, name: str) -> None:
        self.count, self.engines = count, [None] * count
        start = time.perf_counter()

        def opened(rank: int) -> None:
            self.engines[rank] = Engine(open_memory_link(name, count, rank))  # type: ignore[call-overload]

        self.each(opened)
        self.open_s = time.perf_counter() - start

    def each(self, do: Callable[[int], Any]) -> None:
        together(self.count, do)

    def measure(self, model: Any, rows: int, protocol: str, answer: str) -> tuple[float, float, float]:
        """Milliseconds of sharing the records, of one run, and of the first run, which sets the machine up."""
        program, secrets = program_of(model, protocol=protocol, answer=answer)  # type: ignore[arg-type]
        shares = [split(program, a, s) for a, s in zip(program.secrets(), secrets, strict=True)]
        for rank, engine in enumerate(self.engines):
            engine.load("m", program, [share[rank] for share in shares])  # type: ignore[attr-defined]
        values = np.zeros((rows, program.inputs), dtype=np.int64 if program.whole else np.float64)
        sealing = best(lambda: split(program, program.records(rows), values))
        records = split(program, program.records(rows), values)

        def run() -> None:
            self.each(lambda rank: self.engines[rank].run("r", "m", rows, records[rank]))  # type: ignore[attr-defined]

        first = best(run, 1)
        return sealing, best(run, 3), first


CASES: tuple[tuple[str, Callable[[], Any], int, str], ...] = (
    ("table 29 x 16", lambda: table(29, 16), 16, "score"),
    ("table 29 x 16", lambda: table(29, 16), 512, "score"),
    ("table 29 x 16", lambda: table(29, 16), 512, "verdict"),
    ("table 29 x 64", lambda: table(29, 64), 512, "score"),
    ("relu 29-10-29", lambda: RandomNetwork(29, 10, "relu"), 16, "score"),
    ("relu 29-10-29", lambda: RandomNetwork(29, 10, "relu"), 512, "score"),
    ("relu 29-40-29", lambda: RandomNetwork(29, 40, "relu"), 512, "score"),
    ("tanh 29-10-29", lambda: RandomNetwork(29, 10, "tanh"), 512, "score"),
)


def case(protocol: str, number: int) -> None:
    """Measure one case, in this process."""
    name, make, rows, answer = CASES[number]
    model = make()
    program = program_of(model, protocol=protocol, answer=answer)[0]  # type: ignore[arg-type]
    operators = Operators({"aby3": 3, "cheetah": 2}[protocol], "costs")
    line(f"{name} {rows} {answer} r{program.ring_bits}", *operators.measure(model, rows, protocol, answer))


def mpc(protocol: str) -> None:
    print(f"{protocol}: sizes; sharing ms, run ms, first run ms")
    for number in range(len(CASES)):  # each in a process of its own, so that set-up is paid by each
        subprocess.run([sys.executable, __file__, "--case", protocol, str(number)], timeout=300, check=True)


def verdict() -> None:
    print("comparison: set-up s, microseconds a comparison")
    found: list[Any] = [None, None]
    links: list[Any] = [None, None]

    def opened(rank: int) -> None:
        links[rank] = open_memory_link("costs-verdict", 2, rank)
        found[rank] = Comparison(links[rank])

    set_up = best(lambda: together(2, opened), 1)
    words = np.arange(4096, dtype=np.uint64)
    each = best(lambda: together(2, lambda rank: found[rank].negative(words)), 3)
    line("ferret", set_up / 1e3, each * 1e3 / len(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="he,ckks,verdict,aby3,cheetah")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        case(options.case[0], int(options.case[1]))
        return
    chosen = options.only.split(",")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, call in (
        ("he", he), ("ckks", ckks), ("verdict", verdict), ("aby3", lambda: mpc("aby3")),
        ("cheetah", lambda: mpc("cheetah")),
    ):  # fmt: skip
        if name in chosen:
            call()
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
