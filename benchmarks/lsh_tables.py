"""Do counting tables on locality-sensitive hashes earn a detector of their own? Against KNN on clean normals, ADBench.

Each of L tables hashes a record into one of S slots by a few public random projections; parties sum how many records
fall into each slot, so tables merge by addition and a score is one inner product with the one-hot slots, as IForest's
is. Two families of hashes: the signs of K projections (ACE, Luo and Shrivastava 2017, arXiv 1706.06664) and K
projections cut into cells of one width (Datar et al. 2004), hashed into the slots; "four widths" shares the tables
among widths .5, 1, 2 and 4. Every variant is scored in two ways: by the mean count (ACE's) and by the mean of
-log(count), and the better one counts. Peer and tables see the same standardised features; what standardising costs in
privacy is not counted, which flatters the tables.

Trained on half of the normal rows. Sets above ``--rows`` are cut to as many training and test rows; wide sets are left
out. The best variant is chosen on these same sets: an upper bound of what one could ship.

    python benchmarks/lsh_tables.py [--sets 29] [--seeds 3] [--rows 3000] [--tables 50] [--slots 256]
"""

from __future__ import annotations

import argparse
import itertools
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

import blindsight as bs
from _adbench import Split, interval, load, sets, split

WIDE = 300
WIDTHS = (0.5, 1.0, 2.0, 4.0)
CELLS = [(k, (w,)) for k, w in itertools.product((2, 4, 8), WIDTHS[1:])] + [(k, WIDTHS) for k in (1, 2, 4, 8)]
OURS = ("ECOD", "IForest", "LODA", "RandomFeatures", "OCSVM", "Mahalanobis")
SEEDED = ("IForest", "LODA", "RandomFeatures", "OCSVM")
PEER = "PyOD KNN"


def signs(Z: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Slot of each record under one hash: which side of k planes through the mean it lies on."""
    return ((rng.normal(size=(k, Z.shape[1])) @ Z.T > 0) * (1 << np.arange(k))[:, None]).sum(axis=0)


def cells(Z: np.ndarray, k: int, width: float, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Slot of each record under one hash: its cell along k projections, hashed; a projection has deviation 1."""
    along = rng.normal(size=(k, Z.shape[1])) / np.sqrt(Z.shape[1]) @ Z.T
    cell = np.floor((along + width * rng.random((k, 1))) / width).clip(-1e6, 1e6).astype(np.int64)
    prime = (1 << 31) - 1
    mixed = np.zeros(Z.shape[0], dtype=np.int64)
    for row, multiplier in zip(cell, rng.integers(1, prime, k), strict=True):
        mixed = (mixed + (row % prime) * multiplier) % prime
    return mixed % slots


def table_scores(name: str, train: np.ndarray, test: np.ndarray, tables: int, slots: int, seed: int) -> np.ndarray:
    """Scores by mean count and by mean -log(count), shape (2, n_test)."""
    rng = np.random.default_rng(seed)
    both = np.concatenate([train, test])
    scores = np.zeros((2, len(test)))
    for t in range(tables):
        if name.startswith("signs"):
            slot = signs(both, int(name.split()[1]), rng)
        else:
            k, widths = CELLS[int(name.split()[1])]
            slot = cells(both, k, widths[t % len(widths)], slots, rng)
        counts = np.bincount(slot[: len(train)], minlength=slots)[slot[len(train) :]]
        scores[0] -= counts / len(train) / tables
        scores[1] -= np.log(np.maximum(counts, 0.5) / len(train)) / tables
    return scores


def variants(slots: int) -> dict[str, str]:
    """Name for the table: name for :func:`table_scores`."""
    bits = [k for k in (4, 6, 8, 10) if 1 << k <= slots]
    found = {f"signs of {k} projections": f"signs {k}" for k in bits}
    for i, (k, widths) in enumerate(CELLS):
        width = f"width {widths[0]:g}" if len(widths) == 1 else "four widths"
        found[f"cells, {k} projections, {width}"] = f"cells {i}"
    return found


def measure(part: Split, seed: int, options: argparse.Namespace) -> dict[str, float]:
    from pyod.models.knn import KNN

    mean, deviation = part.train.mean(axis=0), part.train.std(axis=0)
    # a constant column says nothing at scale 1e-12: leave it as it is
    train, test = ((X - mean) / np.where(deviation > 1e-9, deviation, 1.0) for X in (part.train, part.test))
    found = {PEER: roc_auc_score(part.labels, KNN().fit(train).decision_function(test))}
    for name in OURS:
        model = getattr(bs, name)(**({"seed": seed} if name in SEEDED else {})).fit(part.train)
        found[name] = roc_auc_score(part.labels, model.decision_function(part.test))
    for name, how in variants(options.slots).items():
        by_count, by_log = table_scores(how, train, test, options.tables, options.slots, seed)
        found[f"{name}, mean count"] = roc_auc_score(part.labels, by_count)
        found[f"{name}, mean log"] = roc_auc_score(part.labels, by_log)
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=29)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--tables", type=int, default=50)
    parser.add_argument("--slots", type=int, default=256)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: list[list[dict[str, float]]] = []
    for path in sets():
        X, y = load(path)
        if X.shape[1] > WIDE or len(results) == options.sets:
            continue
        seeds = []
        for seed in range(options.seeds):
            part = split(X, y, "normals", seed)
            rng = np.random.default_rng(seed)
            kept = [np.sort(rng.permutation(len(Z))[: options.rows]) for Z in (part.train, part.test)]
            part = Split(part.train[kept[0]], part.test[kept[1]], part.labels[kept[1]])
            if 0 < part.labels.sum() < len(part.labels):
                seeds.append(measure(part, seed, options))
        results.append(seeds)
    names = list(results[0][0])
    means = {name: np.array([np.mean([one[name] for one in seeds]) for seeds in results]) for name in names}
    tables = [name for name in names if name.endswith(("mean count", "mean log"))]
    print(
        f"{len(results)} sets of at most {WIDE} features, {options.seeds} seeds, trained on normals, "
        f"{options.tables} tables of {options.slots} slots"
    )
    for name in [PEER, *OURS, *sorted(tables, key=lambda n: -means[n].mean())]:
        difference = means[name] - means[PEER]
        low, high = interval(difference)
        print(f"{name:48s}{means[name].mean():7.3f}  {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}] to KNN")
    best = max(tables, key=lambda n: means[n].mean())
    for name in OURS:
        difference = means[best] - means[name]
        low, high = interval(difference)
        print(f"best tables minus {name:15s} {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
