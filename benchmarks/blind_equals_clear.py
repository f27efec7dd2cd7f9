"""Blind equals clear: 10,000 real rows, owner and scorer in separate processes, every circuit, both packings.

The scorer's process gets the model and bytes; the owner's process has the key. Checked, of every integer circuit in
rows and in columns: scores equal ``decision_function`` exactly; neither a record nor a weight is found in the bytes
that crossed (in the first 4 MiB of the first request and answer); the scorer's process holds no secret key; another
owner's key does not open the answer. Under CKKS, of quadratic forms: scores are within a thousandth of the threshold,
or of the score where that is larger. Of networks: within as much of what the network gives in float64; what they differ
by from ``decision_function``, which rounds, is printed.

    python benchmarks/blind_equals_clear.py [--rows 10000] [--only IForest]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from _adbench import data_folder, load

MESSAGE = 1 << 28
"""Bytes of a message, unless a single group of records is longer."""

LOOK = 1 << 22
LONGEST = 1 << 30
TOLERANCE = 1e-3


class Sent(NamedTuple):
    """What one model's scoring came to."""

    scores: np.ndarray
    up: int
    down: int
    seconds: float
    leak: bool
    keys: int
    wrong: str
    upload: str


def scorer_process(pipe: Any, path: str, packing: str, scheme: str | None, upload: str | None) -> None:
    """The model holder: knows the model, never a record or a secret key."""
    import gc

    import blindsight as bs
    from blindsight.he import CkksKey, SecretKey

    warnings.simplefilter("ignore", bs.BlindsightWarning)
    scorer = bs.blind.Scorer(bs.load(path), packing=packing, scheme=scheme, upload=upload)
    pipe.send_bytes(scorer.offer())
    while request := pipe.recv_bytes():
        started = time.process_time()
        pipe.send_bytes(scorer.score(request))
        pipe.send(time.process_time() - started)
    pipe.send(sum(type(thing) in (SecretKey, CkksKey) for thing in gc.get_objects()))


def found(secret: np.ndarray, captured: bytes) -> bool:
    """Whether any run of eight consecutive values of ``secret`` crossed, in any of the usual encodings."""
    runs = [secret.ravel()[i : i + 8] for i in range(0, min(secret.size - 8, 1_000), 8)]
    return any(
        np.ascontiguousarray(run.astype(kind)).tobytes() in captured
        for run in runs
        if len(np.unique(run)) > 4
        for kind in ("<f8", "<f4", "<i8", "<i4", "<i2", ">f8", ">i4")
    )


def score(model: Any, rows: np.ndarray, packing: str, scheme: str | None = None) -> Sent:
    """Seal here, score in another process, open here."""
    import blindsight as bs

    context = multiprocessing.get_context("spawn")
    upload = None
    if packing == "columns" and scheme is None and hasattr(model, "circuit_"):
        p = bs.blind.plan(model.encoder_, model.circuit_, packing="columns")
        upload = "unseeded" if p.group_bytes < LONGEST - (1 << 20) else "seeded"
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.blindsight")
        model.save(path)
        here, there = context.Pipe()
        process = context.Process(target=scorer_process, args=(there, path, packing, scheme, upload))
        process.start()
        offer = here.recv_bytes()
        owner = bs.blind.RecordOwner(offer)
        p = owner.parameters
        step = max(1, MESSAGE // p.group_bytes) * p.rows_per_ciphertext
        scores, captured, up, down, seconds = [], offer, 0, 0, 0.0
        for first in range(0, len(rows), step):
            sealed = owner.seal(rows[first : first + step])
            here.send_bytes(sealed)
            answer = here.recv_bytes()
            seconds += here.recv()
            scores.append(owner.open(answer, sealed=sealed))
            up, down = up + len(sealed), down + len(answer)
            if not first:
                captured += sealed[:LOOK] + answer[:LOOK]
        here.send_bytes(b"")
        keys = here.recv()
        process.join()
    secret = model.circuit_.weights if hasattr(model, "circuit_") else model.network_.layers[0].weights
    stranger = bs.blind.RecordOwner(offer)
    try:
        stranger.open(answer)
        wrong = "OPENED"
    except bs.BlindsightError:
        wrong = "refused"
    leak = found(rows, captured) or found(np.asarray(secret), captured)
    return Sent(np.concatenate(scores), up, down, seconds, leak, keys, wrong, getattr(p, "upload", ""))


def line(name: str, packing: str, sent: Sent, count: int, result: str) -> None:
    print(
        f"{name:15s}{packing:>9s}{sent.upload:>10s}{sent.leak!s:>7s}{sent.keys:>6d}{sent.wrong:>11s}"
        f"{sent.up / count:10,.0f}{sent.down / count:8,.0f}{count / sent.seconds:10,.0f}  {result}",
        flush=True,
    )


def main() -> int:
    import blindsight as bs

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    warnings.simplefilter("ignore", bs.BlindsightWarning)
    X, _ = load(data_folder() / "adbench" / "10_cover.npz")
    X = X[np.random.default_rng(0).permutation(len(X))[: options.rows]]
    schema = bs.Schema.infer(X).declare()
    print(
        f"{len(X)} rows of cover, {X.shape[1]} features; rows/s of the scorer's processor time, masks and all counted"
    )
    print(
        f"{'detector':15s}{'packing':>9s}{'upload':>10s}{'leak':>7s}{'keys':>6s}{'wrong key':>11s}"
        f"{'up B/row':>10s}{'down':>8s}{'rows/s':>10s}  result"
    )
    network = {"hidden": (10,), "activation": "square", "schema": schema}
    kinds = [bs.ECOD, bs.COPOD, bs.HBOS, bs.Mahalanobis, bs.PCA, bs.RandomFeatures, bs.OCSVM, bs.LODA, bs.IForest]
    makers = {
        "AutoEncoder": lambda: bs.AutoEncoder(**network),
        "DeepSVDD": lambda: bs.DeepSVDD(**network),
        "TableStudent": lambda: bs.TableStudent(teacher=bs.AutoEncoder(**network).fit(X), schema=schema),
        **{kind.__name__: (lambda kind=kind: kind(schema=schema)) for kind in kinds},
    }
    failures = 0
    for name, make in makers.items():
        if options.only and name not in options.only:
            continue
        model = make().fit(X)
        clear = model.decision_function(X)
        for packing in ("rows", "columns") if hasattr(model, "circuit_") else ("columns",):
            sent = score(model, X, packing)
            if hasattr(model, "circuit_"):  # exact
                differ = int((sent.scores != clear).sum())
                failures += differ
                result = f"{differ} of {len(X)} scores differ"
            else:
                scale = np.maximum(clear, model.threshold_)
                error = np.abs(sent.scores - model.network_.scores(model.inputs_.encode(X))) / scale
                failures += int((error > TOLERANCE).sum())
                rounded = (np.abs(sent.scores - clear) / scale).max()
                result = f"{error.max():.1e} of threshold or score at most; {rounded:.1e} with the detector's rounding"
            failures += sent.leak + (sent.keys != 0) + (sent.wrong != "refused")
            line(name, packing, sent, len(X), result)
        if name in ("Mahalanobis", "PCA"):
            sent = score(model, X, "columns", "ckks")
            error = np.abs(sent.scores - clear) / np.maximum(clear, model.threshold_)
            failures += int((error > TOLERANCE).sum()) + sent.leak + (sent.keys != 0) + (sent.wrong != "refused")
            line(name, "CKKS", sent, len(X), f"{error.max():.1e} of threshold or score at most")
    print("all as they should be" if not failures else f"{failures} FAILURES")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
