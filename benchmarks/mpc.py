"""Multi-party scoring: real operator processes with TLS, with 0, 10 and 50 ms of emulated round trip.

    python benchmarks/mpc.py            # everything: about ten minutes
    python benchmarks/mpc.py --quick    # no delay only, 1,000 rows
    python benchmarks/mpc.py --rows 1,1000 --repeats 5     # what the planner's estimates are held against
    python benchmarks/mpc.py --deep     # instead: LSTM, Transformer, convolution; under CHEETAH small ones

A ReLU autoencoder 29-10-29 under ABY3 (three operators) and CHEETAH (two), beside one of the same size with a square
activation in CKKS columns, which cannot do ReLU; a quadratic of 29 features beside BFV columns; all in the same run.
Times are the owner's: from feature rows to answers, sharing, TLS and opening included. The round trip is emulated by a
TCP relay in front of every operator that holds each way back for half of it (a network emulator in the kernel needs
rights that a container has not), for operators' links and HTTPS alike; it counts bytes. Beside each time stands the
planner's estimate of it, for the same round trip and a line that carries any number of bytes (of 10,000 records in
three runs, as an owner sends them by default; here they are one).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import blindsight as bs
from blindsight.blind import Connection, RecordOwner, Scorer, survey
from blindsight.blind.mpc import MpcHolder, MpcOwner, OperatorAddress, make_certificate
from blindsight.circuits import (
    Activation,
    Block,
    Convolution,
    Dense,
    Enlarge,
    Lstm,
    Network,
    Repeat,
    Reshape,
    Shift,
    Standardised,
    Windowed,
)
from blindsight.errors import BlindsightError

FEATURES, HIDDEN = 29, 10
REPEATS = 3


def relay(pairs: list[tuple[int, int]], delay_s: Any, counted: Any) -> None:
    """Relay each (listening port, target port) on 127.0.0.1, holding bytes back for ``delay_s`` each way."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, index: int) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while (item := await queue.get())[1]:
                wait = item[0] - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                writer.write(item[1])
                await writer.drain()
            writer.close()

        writing = asyncio.ensure_future(write())
        try:
            while data := await reader.read(1 << 18):
                counted[index] += len(data)
                queue.put_nowait((time.monotonic() + delay_s.value, data))
        except ConnectionError:
            pass
        queue.put_nowait((0.0, b""))
        with contextlib.suppress(ConnectionError):
            await writing

    async def serve() -> None:
        def handler(index: int, target: int) -> Any:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    onward = await asyncio.open_connection("127.0.0.1", target)
                except OSError:
                    writer.close()
                    return
                await asyncio.gather(pump(reader, onward[1], index), pump(onward[0], writer, index))

            return handle

        servers = [
            await asyncio.start_server(handler(i, target), "127.0.0.1", port) for i, (port, target) in enumerate(pairs)
        ]
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(serve())


class Operators:
    """Operator processes behind relays."""

    def __init__(self, count: int, folder: Path) -> None:
        folder.mkdir()
        sockets = [socket.socket() for _ in range(4 * count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        seen, real = ports[: 2 * count], ports[2 * count :]
        self.folder, self.count = folder, count
        self.delay_s = multiprocessing.Value("d", 0.0)
        self.bytes = multiprocessing.Array("q", 2 * count)
        pairs = list(zip(seen, real, strict=True))
        self._relay = multiprocessing.Process(target=relay, args=(pairs, self.delay_s, self.bytes), daemon=True)
        self._relay.start()
        names = [f"operator-{rank}" for rank in range(count)]
        for name in (*names, "owner", "holder"):
            make_certificate(name, folder)
        entries = "".join(
            f'[[operators]]\naddress = "127.0.0.1:{seen[r]}"\nlink = "127.0.0.1:{seen[count + r]}"\n'
            f'certificate = "{name}.crt"\n'
            for r, name in enumerate(names)
        )
        entries += "".join(
            f'[[clients]]\nname = "{n}"\nrole = "{n}"\ncertificate = "{n}.crt"\n' for n in ("owner", "holder")
        )
        self._processes = []
        for r, name in enumerate(names):
            (folder / f"{r}.toml").write_text(
                f'rank = {r}\nprivate_key = "{name}.key"\nstate = "state-{r}"\nlisten = "127.0.0.1:{real[r]}"\n'
                f'link_listen = "127.0.0.1:{real[count + r]}"\nrun_timeout_s = 600\nconnect_timeout_s = 60\n{entries}'
            )
            command = [sys.executable, "-m", "blindsight", "mpc-node", "serve", "--config", f"{r}.toml"]
            log = (folder / f"{r}.log").open("wb")
            self._processes.append(subprocess.Popen(command, cwd=folder, stderr=log))
        self._addresses = [
            OperatorAddress(address=f"127.0.0.1:{seen[r]}", certificate=folder / f"{name}.crt")
            for r, name in enumerate(names)
        ]
        for _ in range(200):
            try:
                self.holder().health()
                break
            except BlindsightError:
                time.sleep(0.2)

    def _own(self, name: str) -> dict[str, Any]:
        return {"certificate": self.folder / f"{name}.crt", "private_key": self.folder / f"{name}.key"}

    def holder(self) -> MpcHolder:
        return MpcHolder(self._addresses, **self._own("holder"))

    def owner(self, name: str) -> MpcOwner:
        return MpcOwner(self._addresses, name, **self._own("owner"), timeout_s=900)

    def between(self) -> int:
        """Bytes over the operators' links so far, TLS included."""
        return sum(self.bytes[self.count :])

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait()
        self._relay.terminate()


def autoencoder(activation: Any = "relu") -> Any:
    """Weights as large as training leaves them; drawn, since only their size matters for time."""
    rng = np.random.default_rng(0)
    layers = (
        Dense(weights=rng.normal(size=(HIDDEN, FEATURES)) / FEATURES**0.5, bias=rng.normal(size=HIDDEN) * 0.1),
        Activation(activation, -0.1) if activation == "square" else Activation(activation),
        Dense(weights=rng.normal(size=(FEATURES, HIDDEN)) / HIDDEN**0.5, bias=rng.normal(size=FEATURES) * 0.1),
    )
    network = Network(layers=layers, target="inputs")
    inputs = Standardised(offsets=(0.0,) * FEATURES, scales=(1.0,) * FEATURES, slots=(0,) * FEATURES, bound=20.0)
    typical = network.scores(inputs.encode(rng.normal(size=(5000, FEATURES))))
    return SimpleNamespace(
        network_=network,
        inputs_=inputs,
        threshold_=float(np.quantile(typical, 0.98)),
        is_secret_=True,
        schema_=SimpleNamespace(to_json=dict),
        decision_function=lambda X: network.scores(inputs.encode(X)),
    )


def deep(kind: str, window: int = 32, hidden: int = 32, width: int = 16) -> Any:
    """A model with drawn weights, of default size unless told, on windows of rows of 8 inputs or images of 8 x 8."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) / shape[-1] ** 0.5

    def dense(outputs: int, inputs: int) -> Dense:
        return Dense(weights=draw(outputs, inputs), bias=draw(outputs))

    def recurrent(hidden: int, inputs: int) -> Lstm:
        return Lstm(inputs=draw(4 * hidden, inputs), states=draw(4 * hidden, hidden), bias=draw(4 * hidden))

    def block(w: int) -> Block:
        names = {"into": (3 * w, w), "out": (w, w), "up": (2 * w, w), "down": (w, 2 * w)}
        weights = {name: draw(*shape) for name, shape in names.items()}
        return Block(heads=2, **weights, **{f"{name}_bias": draw(shape[0]) for name, shape in names.items()})

    def convolution(filters: int, channels: int, stride: int = 1) -> Convolution:
        return Convolution(weights=draw(filters, channels, 3, 3) / 3, bias=draw(filters), stride=stride)

    features = 64 if kind == "convolution" else 8
    rows = Standardised(offsets=(0.0,) * features, scales=(1.0,) * features, slots=(0,) * features, bound=4.0)
    inputs: Any = rows
    if kind == "convolution":
        leaky = Activation("leaky")
        layers: tuple[Any, ...] = (
            convolution(8, 1, 2), leaky, convolution(16, 8, 2), leaky, Reshape(shape=(64,)), dense(16, 64),
            dense(64, 16), leaky, Reshape(shape=(16, 2, 2)), Enlarge(sides=(4, 4)), convolution(8, 16), leaky,
            Enlarge(sides=(8, 8)), convolution(1, 8),
        )  # fmt: skip
        shape: tuple[int, ...] = (1, 8, 8)
    else:
        inputs = Windowed(rows=rows, window=window, horizon=0, by_window=False, interval=None, tolerance=0.1)
        shape = (window, 8)
        layers = (recurrent(hidden, 8), Repeat(rows=window), recurrent(hidden, hidden), dense(8, hidden))
        if kind == "transformer":
            layers = (
                dense(width, 8), Shift(values=draw(window, width)), block(width), Reshape(shape=(window * width,)),
                dense(width, window * width), Activation("tanh"), dense(window * width, width),
                Reshape(shape=(window, width)), Shift(values=draw(window, width)), block(width), dense(8, width),
            )  # fmt: skip
    network = Network(layers=layers, target="inputs", shape=shape)

    def scores(X: np.ndarray) -> np.ndarray:
        if inputs is rows:
            return network.scores(rows.encode(X))
        places = np.maximum(np.arange(len(X))[:, None] + np.arange(1 - window, 1), 0)
        return network.scores(inputs.encode(X[places]))

    X = rng.normal(size=(100, features))
    schema = bs.Schema.infer(X).declare()
    return SimpleNamespace(
        network_=network, inputs_=inputs, schema_=schema, is_secret_=True, decision_function=scores,
        threshold_=float(np.quantile(scores(X), 0.98)), X=X,
    )  # fmt: skip


def measure_deep(protocol: str, sizes: dict[str, int]) -> None:
    """Recurrent layers, attention and convolutions."""
    with tempfile.TemporaryDirectory() as folder:
        operators = Operators(3 if protocol == "ABY3" else 2, Path(folder) / "operators")
        try:
            for kind in ("lstm", "transformer", "convolution"):
                model = deep(kind, **sizes)
                operators.holder().share(model, kind)
                owner, clear = operators.owner(kind), model.decision_function(model.X)

                def error(answers: np.ndarray, clear: np.ndarray = clear, scale: float = model.threshold_) -> str:
                    return f"largest error {np.abs(answers - clear[: len(answers)]).max() / scale:.1e} of the threshold"

                for rows in (1, 16) if protocol == "ABY3" else (1,):
                    owner.score(model.X[:rows], rows_per_run=rows)  # compiles for this many records
                    for rtt_ms in (0.0, 10.0):
                        operators.delay_s.value = rtt_ms / 2e3
                        planned = planned_ms(model, protocol, "score", rows, rtt_ms)
                        what = f"{protocol} {kind}, score"
                        measure(what, operators, owner, model.X[:rows], rtt_ms, error, planned=planned)
                    operators.delay_s.value = 0.0
        finally:
            operators.close()


def planned_ms(model: Any, protocol: str, reveal: Any, rows: int, rtt_ms: float) -> float:
    """The planner's estimate of a batch, without set-up; its connection is as wide as it takes."""
    found = survey(model, rows=rows, reveal=[reveal], connection=Connection(round_trip_ms=rtt_ms, mbit=1e6))
    cost = next(o for o in found.options if o.engine == protocol.lower()).cost
    assert cost is not None
    return cost.batch_s * 1e3


def measure(
    what: str,
    operators: Operators,
    owner: MpcOwner,
    X: np.ndarray,
    rtt_ms: float,
    check: Any,
    *,
    repeats: int = REPEATS,
    planned: float = float("nan"),
) -> None:
    times = []
    moved = operators.between()
    for _ in range(repeats):
        start = time.perf_counter()
        answers = owner.score(X, rows_per_run=len(X))
        times.append(time.perf_counter() - start)
    moved = (operators.between() - moved) // repeats
    best = float(np.median(times))
    print(
        f"{what:34s} rows {len(X):6d}  round trip {rtt_ms:3.0f} ms  {best * 1e3:9.1f} ms"
        f" (planner {planned:9.1f})"
        f"  {best / len(X) * 1e3:8.3f} ms/row  links {moved / len(X):9.0f} B/row  {check(answers)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", default="1,1000,10000", help="Of a batch; CHEETAH takes no more than 1,000.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="Of each measurement.")
    parser.add_argument("--deep", action="store_true")
    options = parser.parse_args()
    quick = options.quick
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(10_000, FEATURES)) * 1.5
    load = f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    print(f"{load}; median of {options.repeats}; set-up before the clock")
    if options.deep:
        measure_deep("ABY3", {})
        measure_deep("CHEETAH", {"window": 8, "hidden": 8, "width": 8})
        return
    model = autoencoder()
    clear = model.decision_function(X)
    start = time.perf_counter()
    model.decision_function(X)
    print(f"NumPy in the clear: {(time.perf_counter() - start) / len(X) * 1e6:.2f} us/row")
    schema = bs.Schema.infer(X).declare()
    quadratic = bs.Mahalanobis(schema=schema).fit(X)

    def error(answers: np.ndarray) -> str:
        worst = np.abs(answers - clear[: len(answers)]).max() / model.threshold_
        return f"largest error {worst:.1e} of the threshold"

    def wrong(answers: np.ndarray) -> str:
        return f"{int((answers != (clear[: len(answers)] > model.threshold_)).sum())} verdicts differ"

    def exact(answers: np.ndarray) -> str:
        return "exact" if np.array_equal(answers, quadratic.decision_function(X[: len(answers)])) else "NOT EXACT"

    for protocol, count in (("ABY3", 3), ("CHEETAH", 2)):
        sizes = [int(rows) for rows in options.rows.split(",")]
        sizes = [rows for rows in sizes if rows <= 1000 or not (quick or count == 2)]
        with tempfile.TemporaryDirectory() as folder:
            operators = Operators(count, Path(folder) / "operators")
            try:
                holder = operators.holder()
                holder.share(model, "scores")
                holder.share(model, "verdicts", answer="verdict")
                holder.share(quadratic, "quadratic")
                owners = {name: operators.owner(name) for name in ("scores", "verdicts", "quadratic")}
                start = time.perf_counter()
                owners["verdicts"].score(X[:1])
                print(f"{protocol}: first answer, with link and set-up, after {time.perf_counter() - start:.1f} s")
                for owner in owners.values():
                    for rows in sizes:
                        owner.score(X[:rows], rows_per_run=rows)  # compiles for this many records
                for rtt_ms in (0.0,) if quick else (0.0, 10.0, 50.0):
                    operators.delay_s.value = rtt_ms / 2e3
                    for rows in sizes:
                        part = X[:rows]
                        cases = [
                            ("scores", "autoencoder, score", model, "score", error),
                            ("verdicts", "autoencoder, verdict", model, "verdict", wrong),
                            ("quadratic", "quadratic, score", quadratic, "score", exact),
                        ]
                        for name, what, fitted, reveal, check in cases:
                            measure(
                                f"{protocol} {what}", operators, owners[name], part, rtt_ms, check,
                                repeats=options.repeats,
                                planned=planned_ms(fitted, protocol, reveal, rows, rtt_ms),
                            )  # fmt: skip
                print(f"load {os.getloadavg()[0]:.1f}")
            finally:
                operators.close()
    square = autoencoder("square")
    expected = square.decision_function(X)

    def near(answers: np.ndarray) -> str:
        scale = np.maximum(expected[: len(answers)], square.threshold_)
        worst = (np.abs(answers - expected[: len(answers)]) / scale).max()
        return f"largest error {worst:.1e} of the threshold, or of the score"

    for rows in (1000, 4096):
        encrypted("BFV columns, quadratic, score", quadratic, X[:rows], exact)
        encrypted("CKKS columns, square autoencoder", square, X[:rows], near)


def encrypted(name: str, fitted: Any, X: np.ndarray, check: Any) -> None:
    """The same records under homomorphic encryption: sealed, scored and opened in this process, no network."""
    scorer = Scorer(fitted, packing="columns")
    record_owner = RecordOwner(scorer.offer())
    record_owner.open(scorer.score(record_owner.seal(X[:8])))
    start = time.perf_counter()
    answers = record_owner.open(scorer.score(record_owner.seal(X)))
    spent = time.perf_counter() - start
    line = f"{name:34s} rows {len(X):6d}  {'':18s}  {spent * 1e3:9.1f} ms"
    print(f"{line}  {spent / len(X) * 1e3:8.3f} ms/row  {check(answers)}")


if __name__ == "__main__":
    main()
