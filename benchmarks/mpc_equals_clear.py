"""Every integer circuit on 10,000 real records under ABY3: the very integers of the clear, and the very verdicts.

    python benchmarks/mpc_equals_clear.py [--protocol cheetah] [--rows 10000] [--only TableStudent]

Operators are threads of this process, over memory links: what is compared is arithmetic, not a network.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import blindsight as bs
from _adbench import data_folder, load
from blindsight.blind.mpc import open_memory_link, program_of
from blindsight.blind.mpc._engine import Engine
from blindsight.blind.mpc._offer import MpcOffer
from blindsight.blind.mpc._shares import join, split
from blindsight.circuits import evaluate

ELEMENTS = 1 << 22
"""Most numbers shared at once: 64 MiB for each operator of ABY3."""


POOLS = [ThreadPoolExecutor(1) for _ in range(3)]
"""A lasting thread for each operator: SPU's library now and then ends the process when its threads come and go."""


def together(count: int, do: Callable[[int], Any]) -> list[Any]:
    """What every operator returns."""
    futures = [pool.submit(do, rank) for rank, pool in enumerate(POOLS[:count])]
    return [future.result() for future in futures]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", default="aby3", choices=["aby3", "cheetah"])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X, _ = load(data_folder() / "adbench" / "10_cover.npz")
    X = X[np.random.default_rng(0).permutation(len(X))[: options.rows]]
    schema = bs.Schema.infer(X).declare()
    count = 3 if options.protocol == "aby3" else 2
    engines = together(count, lambda rank: Engine(open_memory_link("equal", count, rank)))
    print(f"{len(X)} records of cover, {X.shape[1]} features, {options.protocol}")
    kinds = (bs.ECOD, bs.COPOD, bs.HBOS, bs.LODA, bs.IForest, bs.Mahalanobis, bs.PCA, bs.RandomFeatures, bs.OCSVM)
    makers = {kind.__name__: (lambda kind=kind: kind(schema=schema)) for kind in kinds}
    makers["TableStudent"] = lambda: bs.TableStudent(teacher=bs.Mahalanobis(schema=schema).fit(X), schema=schema)
    for kind, make in makers.items():
        if options.only and kind not in options.only:
            continue
        model = make().fit(X)
        clear, alerts = evaluate(model.encoder_, model.circuit_, X), model.predict(X) == 1
        for answer in ("score", "verdict"):
            program, secrets = program_of(model, protocol=options.protocol, answer=answer)
            offer = MpcOffer(program=program, inputs=model.encoder_, schema={}, score_scale=1.0, secret=True)
            shares = [split(program, a, s) for a, s in zip(program.secrets(), secrets, strict=True)]
            name = f"{kind}-{answer}"
            for rank, engine in enumerate(engines):
                engine.load(name, program, [share[rank] for share in shares])
            rows = max(1, min(len(X), 2048, ELEMENTS // program.inputs))
            parts, start = [], time.perf_counter()
            for first in range(0, len(X), rows):
                part = offer.records(X[first : first + rows])
                records = split(program, program.records(len(part)), part)
                run = f"{name}-{first}"

                def one(rank: int, run: str = run, name: str = name, part: Any = part, own: Any = records) -> bytes:
                    return engines[rank].run(run, name, len(part), own[rank])

                parts.append(join(program, len(part), together(count, one)))
            spent = time.perf_counter() - start
            wrong = int((np.concatenate(parts) != (clear if answer == "score" else alerts)).sum())
            told = f"{program.inputs} numbers a record"
            print(f"{kind:16s} {answer:8s} {wrong:6d} of {len(X)} differ   {told:28s} {spent:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
