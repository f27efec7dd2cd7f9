"""Sealing by one owner at work in two processes, which share its key through a folder: SEAL's binding holds Python's
lock, so that two threads of one process seal no faster than one."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from typing import Any

import numpy as np

REPEATS = 3


def _seal(barrier: Any, offer: bytes, home: str, X: np.ndarray, pipe: Any) -> None:
    from threadpoolctl import threadpool_limits

    from blindsight.blind import RecordOwner

    owner = RecordOwner(offer, home)
    with threadpool_limits(1):
        owner.seal(X, register=False)
        barrier.wait()
        start, used = time.perf_counter(), time.process_time()
        for _ in range(REPEATS):
            owner.seal(X, register=False)
        pipe.send((time.perf_counter() - start, time.process_time() - used))


def two_processes(offer: bytes, X: np.ndarray) -> tuple[float, float]:
    """Rows sealed in a second by two processes: by the clock, and as if neither had ever waited for a core."""
    from blindsight.blind import RecordOwner

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as home:
        RecordOwner(offer, home)
        barrier = context.Barrier(2)
        ends = [context.Pipe(duplex=False) for _ in range(2)]
        workers = [context.Process(target=_seal, args=(barrier, offer, home, X, end)) for _, end in ends]
        for worker in workers:
            worker.start()
        times = np.array([start.recv() for start, _ in ends])
        for worker in workers:
            worker.join()
    clock, used = REPEATS * 2 * len(X) / times.max(axis=0)
    return float(clock), float(used)


def load_note() -> str:
    """What other load there is, for a figure by the clock; and for which processor NumPy's BLAS takes this one."""
    from threadpoolctl import threadpool_info

    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    blas = [str(info.get("architecture")) for info in threadpool_info() if "numpy" in str(info.get("filepath"))]
    loaded = ", a LOADED machine" if load > cores else ""
    return f"load average {load:.1f} on {cores} cores{loaded}; NumPy's BLAS: {', '.join(blas) or 'not OpenBLAS'}"
