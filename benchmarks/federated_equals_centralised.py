"""Federated equals centralised, integer for integer, against a computation that imports no detector of Blindsight.

The peer computes ECOD's table with ``np.histogram`` and Mahalanobis' moments with ``np.cov`` from all rows in one
place. Parties: 3, 5, 20; rows split evenly, skewed by value (sorted along the first principal component) and skewed
by size (each party half of the next one).

    python benchmarks/federated_equals_centralised.py
"""

from __future__ import annotations

import sys
import warnings

import numpy as np

from _adbench import data_folder, load

TABLE_UNIT = 2.0**-10


def silos(X: np.ndarray, parties: int, how: str) -> list[np.ndarray]:
    rng = np.random.default_rng(parties)
    order = rng.permutation(len(X))
    if how == "by value":
        standard = (X - X.mean(0)) / np.maximum(X.std(0), 1e-9)
        axis = np.linalg.svd(standard, full_matrices=False)[2][0]
        order = np.argsort(standard @ axis, kind="stable")
    if how == "by size":
        weights = 2.0 ** np.minimum(np.arange(parties), 6)
        cuts = np.cumsum(weights / weights.sum() * len(X)).astype(int)[:-1]
        return [X[rows] for rows in np.split(order, cuts)]
    return [X[rows] for rows in np.array_split(order, parties)]


def edges_of(column) -> np.ndarray:
    """62 even bins over the declared range, on the declared scale."""
    position = np.linspace(0.0, 1.0, 63)
    if column.scale == "log":
        position = np.expm1(position * np.log1p(1000.0)) / 1000.0
    edges = column.low + position * (column.high - column.low)
    edges[-1] = column.high
    return edges


def central_ecod(X: np.ndarray, schema) -> tuple[np.ndarray, np.ndarray]:
    """Counts and integer table from np.histogram alone."""
    counts, table = [], []
    for x, column in zip(X.T, schema.features, strict=True):
        edges = edges_of(column)
        # np.histogram closes its last bin on the right, ours are open there: an edge at infinity gives the outer bins
        got = np.histogram(x, bins=np.concatenate([[-np.inf], edges, [np.inf]]))[0]
        tail = np.minimum(np.cumsum(got), np.cumsum(got[::-1])[::-1])
        counts.append(got)
        table.append(-np.log(np.clip(tail, 0.5, len(x)) / len(x)))
    return np.concatenate(counts), np.rint(np.concatenate(table) / TABLE_UNIT).astype(np.int64)


def central_moments(X: np.ndarray, schema) -> np.ndarray:
    """Integer totals that np.mean and np.cov of the quantised records imply."""
    q = np.empty(X.shape)
    for f, column in enumerate(schema.features):
        position = (X[:, f] - column.low) / (column.high - column.low)
        if column.scale == "log":
            position = np.log1p(1000.0 * np.maximum(position, 0)) / np.log1p(1000.0)
        q[:, f] = np.rint(np.clip(127 * (2 * position - 1), -127, 127))
    n, d = q.shape
    mean, covariance = q.mean(axis=0), np.atleast_2d(np.cov(q.T, bias=True))
    second = np.empty((d + 1, d + 1))
    second[0, 0] = n * 127.0**2
    second[0, 1:] = second[1:, 0] = n * 127.0 * mean
    second[1:, 1:] = n * (covariance + np.outer(mean, mean))
    upper = np.triu_indices(d + 1)
    factors = np.where(upper[0] == upper[1], 5, 7)
    # the true values are integers: rounding undoes np.cov's floating point
    return factors * np.rint(second[upper]).astype(np.int64)


def main() -> int:
    import blindsight as bs

    warnings.simplefilter("ignore", bs.BlindsightWarning)
    failures = 0
    heads = ("ECOD counts", "ECOD table", "moments", "circuit")
    print(f"{'set':14s}{'parties':>8s}  {'split':9s}" + "".join(f"{head:>12s}" for head in heads))
    for name in ("38_thyroid", "6_cardio", "27_PageBlocks"):
        X, _ = load(data_folder() / "adbench" / f"{name}.npz")
        schema = bs.Schema.infer(X).declare()
        counts, table = central_ecod(X, schema)
        moments = central_moments(X, schema)
        central = bs.Mahalanobis(schema=schema).fit(X)
        for parties in (3, 5, 20):
            for how in ("even", "by value", "by size"):
                data = {f"party-{i:02d}": rows for i, rows in enumerate(silos(X, parties, how))}
                policy = bs.Policy(allow_exact_sums=True)
                with bs.Federation.embedded(data, schema=schema, policy=policy) as federation:
                    ecod = federation.fit(bs.ECOD(), privacy=None)
                    quadratic = federation.fit(bs.Mahalanobis(), privacy=None)
                checks = (
                    np.array_equal(ecod.totals_, counts),
                    np.array_equal(ecod.circuit_.weights, table),
                    np.array_equal(quadratic.totals_, moments),
                    quadratic.circuit_ == central.circuit_,
                )
                failures += not all(checks)
                words = ["equal" if check else "DIFFERS" for check in checks]
                print(f"{name:14s}{parties:>8d}  {how:9s}" + "".join(f"{word:>12s}" for word in words))
    print("all equal, integer for integer" if not failures else f"{failures} differ")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
