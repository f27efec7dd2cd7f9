"""Blind equals clear: 1,000 real rows, owner and scorer in separate processes, both detectors, both packings.

The scorer's process gets the model and bytes; the owner's process has the key. Checked: scores equal
``decision_function`` exactly; neither a record nor a weight is found in any byte that crossed; the scorer's process
holds no secret key; another owner's key does not open the answer.

    python benchmarks/blind_equals_clear.py
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from _adbench import data_folder, load

ROWS = 1_000


def scorer_process(pipe, path: str, packing: str) -> None:
    """The model holder: knows the model, never a record or a secret key."""
    import gc

    import blindsight as bs
    from blindsight.he import SecretKey

    scorer = bs.blind.Scorer(bs.load(path), packing=packing)
    pipe.send_bytes(scorer.offer())
    while request := pipe.recv_bytes():
        started = time.perf_counter()
        pipe.send_bytes(scorer.score(request))
        pipe.send(time.perf_counter() - started)
    pipe.send(sum(isinstance(thing, SecretKey) for thing in gc.get_objects()))


def found(secret: np.ndarray, captured: bytes) -> bool:
    """Whether any run of eight consecutive values of ``secret`` crossed, in any of the usual encodings."""
    runs = [secret.ravel()[i : i + 8] for i in range(0, min(secret.size - 8, 4_000), 8)]
    return any(
        np.ascontiguousarray(run.astype(kind)).tobytes() in captured
        for run in runs
        if len(np.unique(run)) > 4
        for kind in ("<f8", "<f4", "<i8", "<i4", "<i2", ">f8", ">i4")
    )


def main() -> int:
    import blindsight as bs

    warnings.simplefilter("ignore", bs.BlindsightWarning)
    context = multiprocessing.get_context("spawn")
    X, _ = load(data_folder() / "adbench" / "6_cardio.npz")
    schema = bs.Schema.infer(X).declare()
    rows = X[:ROWS]
    failures = 0
    print(
        f"{'detector':12s}{'packing':>9s}{'exact':>7s}{'leak':>6s}{'keys at scorer':>16s}{'wrong key':>11s}"
        f"{'up KiB':>9s}{'down KiB':>9s}{'score ms':>10s}"
    )
    for make in (bs.ECOD, bs.Mahalanobis):
        model = make(schema=schema).fit(X)
        clear = model.decision_function(rows)
        for packing in ("rows", "columns"):
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "model.blindsight")
                model.save(path)
                here, there = context.Pipe()
                process = context.Process(target=scorer_process, args=(there, path, packing))
                process.start()
                offer = here.recv_bytes()
                owner = bs.blind.RecordOwner(offer)
                sealed = owner.seal(rows)
                here.send_bytes(sealed)
                answer, seconds = here.recv_bytes(), here.recv()
                scores = owner.open(answer)
                here.send_bytes(b"")
                keys = here.recv()
                process.join()
            captured = sealed + answer
            leak = found(rows, captured) or found(model.circuit_.weights, offer + captured)
            stranger = bs.blind.RecordOwner(offer)
            try:
                stranger.open(answer)
                wrong = "OPENED"
            except bs.BlindsightError:
                wrong = "refused"
            exact = bool(np.array_equal(scores, clear))
            failures += (not exact) + leak + (keys != 0) + (wrong != "refused")
            print(
                f"{type(model).__name__:12s}{packing:>9s}{exact!s:>7s}{leak!s:>6s}{keys:>16d}{wrong:>11s}"
                f"{len(sealed) / 1024:9.0f}{len(answer) / 1024:9.0f}{seconds * 1e3:10.1f}"
            )
    print(f"{ROWS} rows of cardio each; " + ("all as they should be" if not failures else f"{failures} FAILURES"))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
