"""What a subsample per tree does to IForest: mean AUROC on ADBench by the part of the records that each tree sees.

Exact sums on every set, and epsilon 1 (delta 1e-6, unit record, three parties, .8 of the budget for the fit) on those
of more than 1,000 rows, fitted on every row or on half of the normal ones. Sets above ``--rows`` are cut to as many.

    python benchmarks/subsample.py [--sets 29] [--seeds 2] [--rows 5000]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

import blindsight as bs
from _adbench import Split, interval, load, sets, split

PARTS = (1.0, 0.5, 0.2, 0.1)
PRIVACY = bs.DifferentialPrivacy(epsilon=1.0, delta=1e-6, shares={"fit": 0.8, "threshold": 0.2})


def measure(part: Split, seed: int, *, private: bool) -> list[float]:
    schema = bs.Schema.infer(part.train).declare()
    silos = np.array_split(np.random.default_rng(seed).permutation(len(part.train)), 3)
    data = {f"party-{i}": part.train[rows] for i, rows in enumerate(silos)}
    found = []
    for subsample in PARTS:
        detector = bs.IForest(subsample=subsample, seed=seed, schema=schema)
        if private:
            with bs.Federation.embedded(data, schema=schema, policy=bs.Policy(detectors=("IForest",))) as federation:
                model = federation.fit(detector, privacy=PRIVACY)
        else:
            model = detector.fit(part.train)
        found.append(float(roc_auc_score(part.labels, model.decision_function(part.test))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=29)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=5_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for setting in ("unsupervised", "normals"):
        for private in (False, True):
            table = []
            for path in sets(1_000 if private else 0)[: options.sets]:
                X, y = load(path)
                areas = []
                for seed in range(options.seeds):
                    rows = np.random.default_rng(seed).permutation(len(X))[: options.rows]
                    areas.append(measure(split(X[rows], y[rows], setting, seed), seed, private=private))
                table.append(np.mean(areas, axis=0))
            means = np.array(table)
            print(f"{setting}, {'epsilon 1' if private else 'exact'}: {len(table)} sets, {options.seeds} seeds")
            for subsample, column in zip(PARTS, means.T, strict=True):
                change = column - means[:, 0]
                low, high = interval(change)
                by = f"{change.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
                print(f"  a tree sees {subsample:4.0%} of the records: {column.mean():.4f}  {by}")


if __name__ == "__main__":
    main()
