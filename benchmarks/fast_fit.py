"""ECOD from Parquet: rows per second of fitting and scoring on one core, and peak memory as rows grow; beside PyOD.

Each figure comes from a process of its own, pinned to one core. PyOD keeps every row, so it gets the largest sample
that it finishes in reasonable time, from memory, which flatters it.

    python benchmarks/fast_fit.py [--rows 1000000 20000000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FEATURES = 10
PYOD_ROWS = 100_000


def write(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"x{j}" for j in range(FEATURES)]
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([(name, pa.float64()) for name in names]), compression="none") as writer:
        for start in range(0, rows, 500_000):
            block = rng.normal(size=(min(500_000, rows - start), FEATURES))
            writer.write_table(pa.table({name: block[:, j] for j, name in enumerate(names)}), row_group_size=250_000)


def child(task: str, path: str) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    import blindsight as bs
    from blindsight.data import Column

    schema = bs.Schema(tuple(Column(name=f"x{j}", low=-6.0, high=6.0) for j in range(FEATURES)))
    result = {}
    if task == "fit":
        bs.ECOD(schema=schema)._validate()
        started = time.perf_counter()
        bs.ECOD(schema=schema).fit(path)
    elif task == "score":
        model = bs.ECOD(schema=schema).fit(np.random.default_rng(1).normal(size=(100_000, FEATURES)))
        X = np.random.default_rng(2).normal(size=(1_000_000, FEATURES))
        started = time.perf_counter()
        model.decision_function(X)
    else:
        from pyod.models.ecod import ECOD

        X = np.random.default_rng(2).normal(size=(PYOD_ROWS, FEATURES))
        detector = ECOD()
        started = time.perf_counter()
        detector.fit(X)
        result["fit_seconds"] = time.perf_counter() - started
        started = time.perf_counter()
        detector.decision_function(X)
    result["seconds"] = time.perf_counter() - started
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def measure(task: str, path: str = "") -> dict[str, float]:
    out = subprocess.run([sys.executable, __file__, "--child", task, path], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return 0
    print(f"ECOD, {FEATURES} features, one core; two passes over the file (counts, then the score histogram)")
    peaks: list[float] = []
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            path = Path(folder) / f"{rows}.parquet"
            write(path, rows)
            got = measure("fit", str(path))
            peaks.append(got["peak_mib"])
            speeds.append(rows / got["seconds"])
            print(f"fit   {rows:>11,} rows  {rows / got['seconds']:>12,.0f} rows/s  peak {got['peak_mib']:6.0f} MiB")
            path.unlink()
    if len(peaks) > 1:
        print(f"peak memory, {options.rows[-1]:,} rows over {options.rows[0]:,}: {peaks[-1] / peaks[0]:.2f}")
    got = measure("score")
    print(f"score {1_000_000:>11,} rows  {1_000_000 / got['seconds']:>12,.0f} rows/s  (from memory)")
    peer = measure("pyod")
    print(
        f"PyOD  {PYOD_ROWS:>11,} rows  {PYOD_ROWS / peer['fit_seconds']:>12,.0f} rows/s fit, "
        f"{PYOD_ROWS / peer['seconds']:,.0f} rows/s scored  (from memory)"
    )
    ours = 1_000_000 / got["seconds"]
    print(f"scoring, Blindsight over PyOD: {ours / (PYOD_ROWS / peer['seconds']):.1f} times")
    met = min(speeds) >= 1e6 and ours >= 1e6 and (len(peaks) < 2 or peaks[-1] <= 1.2 * peaks[0])
    print(f"bars, 1,000,000 rows/s fitted and scored, peak memory at most 1.2 times: {'met' if met else 'MISSED'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
