"""The residue product of columns on NumPy, on torch's CPU and, where there is one, on a GPU: rows a second.

    python benchmarks/residue_device.py [--rows 4096,16384,65536] [--repeats 3]

BFV columns as a Mahalanobis form of 29 features has them: 465 entries, N = 4096, three primes. The clock runs from the
bytes of sealed records, unseeded, to reduced residues of the answers, copies to and from the device included; masking,
flood and MAC, which stay on the CPU, are not in it (benchmarks/fast_blind.py has them). Ciphertexts are random
residues, as fresh ones look, four different groups of 4,096 rows in turn. Every result is compared with NumPy's. The
median of a few runs, by the clock and in processor time, which other load disturbs less. CUDA is measured where
``torch.cuda.is_available()``; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from blindsight.blind import plan
from blindsight.blind._columns import Columns
from blindsight.blind._device import open_device
from blindsight.circuits import InnerProduct, Monomials
from blindsight.he import HeContext

FEATURES, GROUPS, SCORE_BITS = 29, 4, 35


def median(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    found, used = [], []
    for _ in range(repeats):
        start, start_used = time.perf_counter(), time.process_time()
        call()
        found.append(time.perf_counter() - start)
        used.append(time.process_time() - start_used)
    return statistics.median(found), statistics.median(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", default="4096,16384,65536")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import torch

    rng = np.random.default_rng(0)
    encoder = Monomials(lows=(-4.0,) * FEATURES, highs=(4.0,) * FEATURES, logs=(False,) * FEATURES)
    form = rng.normal(size=encoder.length)
    limit = 2.0**SCORE_BITS / encoder.max_abs - form.size  # scores as large as the detector makes them
    weights = np.rint(form / np.abs(form).sum() * limit).astype(np.int64)
    p = plan(encoder, InnerProduct(weights=weights, bias=0), packing="columns", upload="unseeded")
    context = HeContext(p.he)
    groups = []
    for _ in range(GROUPS):
        parts = [rng.integers(0, prime, (p.entries, 2 * p.degree), dtype=np.uint32) for prime in context.primes]
        groups.append(memoryview(np.stack(parts).tobytes()))
    cores = os.cpu_count() or 1
    print(f"{p.entries} entries, N={p.degree}, {len(context.primes)} primes; {p.group_bytes / 1e6:.1f} MB a group")
    print(f"{cores} processors, load {os.getloadavg()[0]:.1f}; NumPy {np.__version__}, torch {torch.__version__}")
    names = ["cpu"]
    if torch.cuda.is_available():
        names.append("cuda")
        print(f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name(0)}")
    else:
        print("no CUDA device: none is measured")
    cases: list[tuple[str, Any, int, Any]] = [
        ("NumPy, 1 thread", threadpool_limits(1), 0, Columns(context, p)),
        ("NumPy, all threads", nullcontext(), 0, Columns(context, p, threads=cores)),
    ]
    for name in names:
        columns = Columns(context, p, device=open_device(name))
        if name == "cpu":
            cases.append(("torch cpu, 1 thread", nullcontext(), 1, columns))
        cases.append((f"torch {name}" + (", all threads" if name == "cpu" else ""), nullcontext(), cores, columns))
    expected: list[np.ndarray] = []
    wrong = False
    for name, limits, torch_threads, columns in cases:
        with limits:
            if torch_threads:
                torch.set_num_threads(torch_threads)
            evaluate = columns.prepare(weights)
            found = [evaluate(body, ([], []), False) for body in groups]
            expected = expected or found
            same = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            wrong |= not same
            for rows in (int(value) for value in options.rows.split(",")):

                def run(evaluate: Any = evaluate, count: int = -(-rows // p.degree)) -> None:
                    for g in range(count):
                        evaluate(groups[g % GROUPS], ([], []), False)

                seconds, used = median(run, options.repeats)
                print(
                    f"  {name:24s} rows {rows:6d}  {seconds * 1e3:9.1f} ms  {rows / seconds:11,.0f} rows/s"
                    f"  (processors {used * 1e3:8.1f} ms)  {'equal' if same else 'NOT EQUAL'}",
                    flush=True,
                )
    print(f"load {os.getloadavg()[0]:.1f}")
    if wrong:
        sys.exit("a device's residues differ from NumPy's")


if __name__ == "__main__":
    main()
