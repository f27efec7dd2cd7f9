"""Multi-party scores of trained autoencoders of windows and images, beside those in the clear, on real records.

    python benchmarks/mpc_sequences.py [--protocol cheetah] [--windows 100] [--size small] [--only LSTM,Transformer]

LSTM and Transformer: the valve rig SKAB, each machine on the scale of its own first 400 rows, which they are trained
on; scored are windows of one machine before and after its first anomaly. Convolution: scikit-learn's digits, trained
on nine of them; scored are some of all. Operators are threads of this process over memory links: every record is
shared, computed on and opened, and what is compared is arithmetic; no network is in the times. ``small`` is what
CHEETAH does in seconds.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

import blindsight as bs
from blindsight.blind.mpc import open_memory_link, program_of
from blindsight.blind.mpc._engine import Engine
from blindsight.blind.mpc._offer import MpcOffer
from blindsight.blind.mpc._records import records_of
from blindsight.blind.mpc._shares import join, split
from blindsight.detectors import ConvAutoEncoder, LSTMAutoEncoder, Training, TransformerAutoEncoder
from sequences import skab

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"LSTM": {}, "Transformer": {}, "Conv": {}},
    "small": {
        "LSTM": {"hidden": 8, "window": 8},
        "Transformer": {"width": 8, "window": 8},
        "Conv": {"filters": 4, "code": 8},
    },
}
CONTAMINATION = 0.02
POOLS = [ThreadPoolExecutor(1) for _ in range(3)]
"""A lasting thread for each operator: SPU's library now and then ends the process when its threads come and go."""


def together(count: int, do: Any) -> list[Any]:
    """What every operator returns."""
    futures = [pool.submit(do, rank) for rank, pool in enumerate(POOLS[:count])]
    return [future.result() for future in futures]


def series(kind: Any, options: dict[str, Any], windows: int) -> tuple[Any, Any, np.ndarray]:
    """A model trained on SKAB; rows of one machine, and which of them are scored."""
    table, schema, first = skab()
    training = Training(rounds=10, learning_rate=0.2, clip_norm=10.0)
    model = kind(contamination=CONTAMINATION, interval=1.0, schema=schema, training=training, **options)
    model.fit(table.filter(pl.Series(first)))
    machine = table.filter(pl.col("machine") == 3)
    begin = int(machine["anomaly"].arg_max() or 0)
    start = max(begin - windows // 2, 0)
    before = machine[max(start - model.span + 1, 0) : start + windows]
    return model, before, np.arange(before.height) >= before.height - windows


def images(options: dict[str, Any], count: int) -> tuple[Any, Any, np.ndarray]:
    """A model trained on the digits 1 to 9; images of all."""
    from sklearn.datasets import load_digits

    X, digit = load_digits(return_X_y=True)
    schema = bs.Schema.infer(X).declare()
    training = Training(rounds=10, learning_rate=0.2, clip_norm=10.0)
    model = ConvAutoEncoder(shape=(8, 8), contamination=CONTAMINATION, schema=schema, training=training, **options)
    model.fit(X[digit > 0])
    chosen = X[np.random.default_rng(0).permutation(len(X))[:count]]
    return model, chosen, np.ones(len(chosen), dtype=bool)


def compare(name: str, model: Any, X: Any, scored: np.ndarray, protocol: Any, engines: list[Engine]) -> None:
    """Score with operators, and print what differs from the clear."""
    clear, alerts = model.decision_function(X)[scored], model.predict(X)[scored] == 1
    for answer in ("score", "verdict"):
        program, secrets = program_of(model, protocol=protocol, answer=answer)
        offer = MpcOffer(
            program=program, inputs=model.inputs_, schema=model.schema_.to_json(), score_scale=1.0, secret=True
        )
        shares = [split(program, a, s) for a, s in zip(program.secrets(), secrets, strict=True)]
        model_name = f"{name}-{answer}"
        for rank, engine in enumerate(engines):
            engine.load(model_name, program, [share[rank] for share in shares])
        n, pieces = records_of(offer, X, len(scored))
        found = np.empty(n)
        ((place, encoded),) = pieces
        found[place] = np.nan
        encoded, rows = encoded[scored[place]], np.arange(n)[place][scored[place]]
        start = time.perf_counter()
        program.compiled(len(encoded))
        compiled_s = time.perf_counter() - start
        spent = []
        for repeat in range(2):  # the first sets the machine up
            records = split(program, program.records(len(encoded)), encoded)
            run = f"{model_name}-{repeat}"

            def one(rank: int, run: str = run, name: str = model_name, own: Any = records, n: int = len(rows)) -> bytes:
                return engines[rank].run(run, name, n, own[rank])

            start, work = time.perf_counter(), time.process_time()
            answers = together(len(engines), one)
            spent.append((time.perf_counter() - start, time.process_time() - work))
            found[rows] = join(program, len(encoded), answers)
        result = found[scored]
        wall, processor = (value / len(encoded) * 1e3 for value in min(spent))
        if answer == "score":
            said = f"largest difference {np.abs(result - clear).max() / model.threshold_:.1e} of the threshold"
        else:
            far = np.abs(clear - model.threshold_) > 1e-3 * model.threshold_
            wrong = (result == 1) != alerts
            said = f"{int(wrong.sum())} of {len(clear)} verdicts differ, {int((wrong & far).sum())} off the threshold"
            said += f" ({int(alerts.sum())} alerts)"
        form = f"{program.inputs} numbers, ring {program.ring_bits}, {program.fraction_bits} bits"
        times = f"{wall:.1f} ms a window, {processor:.1f} of processors; compiled in {compiled_s:.1f} s"
        print(f"{name:12s} {answer:8s} {form}: {said}; {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", default="aby3", choices=["aby3", "cheetah"])
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--only", default="LSTM,Transformer,Conv")
    parser.add_argument("--size", default="default", choices=list(SIZES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    count = 3 if options.protocol == "aby3" else 2
    engines = together(count, lambda rank: Engine(open_memory_link("sequences", count, rank)))
    print(f"{options.protocol}, {options.size} sizes; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    kinds = {"LSTM": LSTMAutoEncoder, "Transformer": TransformerAutoEncoder}
    for name in options.only.split(","):
        size = SIZES[options.size][name]
        made = images(size, options.windows) if name == "Conv" else series(kinds[name], size, options.windows)
        compare(name, *made, options.protocol, engines)


if __name__ == "__main__":
    main()
