"""What learned bin edges and scales buy: mean AUROC on the 29 ADBench sets as declared ranges get too wide.

Ranges are those that Schema.infer reads from the training rows, made 1, 4 and 16 times as wide and taken as declared
(downwards and upwards for linear columns, upwards for logarithmic ones). Sets above 10,000 rows are cut to 10,000.

    python benchmarks/learned_edges.py [--sets 29]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import roc_auc_score

import blindsight as bs
from _adbench import load, sets, split

ROWS = 10_000
FACTORS = (1, 4, 16)
PAIRS = {
    "ECOD": (bs.ECOD, {"edges": "learned"}),
    "COPOD": (bs.COPOD, {"edges": "learned"}),
    "HBOS": (bs.HBOS, {"edges": "learned"}),
    "RandomFeatures": (bs.RandomFeatures, {"scales": "learned"}),
    "OCSVM": (bs.OCSVM, {"scales": "learned"}),
}


def widened(schema: bs.Schema, factor: float) -> bs.Schema:
    columns = []
    for column in schema.columns:
        if column.role == "feature" and column.type == "number":
            span = column.high - column.low
            if column.scale == "log":
                column = replace(column, high=column.low + factor * span)
            else:
                more = (factor - 1) * span / 2
                column = replace(column, low=column.low - more, high=column.high + more)
        columns.append(column)
    return bs.Schema(tuple(columns))


def one(path: Path, setting: str) -> dict[tuple[str, int, bool], float]:
    warnings.simplefilter("ignore")
    X, y = load(path)
    if len(y) > ROWS:
        kept = np.sort(np.random.default_rng(0).permutation(len(y))[:ROWS])
        X, y = X[kept], y[kept]
    part = split(X, y, setting, 0)
    found = {}
    for factor in FACTORS:
        schema = widened(bs.Schema.infer(part.train), factor)
        for name, (make, learned) in PAIRS.items():
            for extra in ({}, learned):
                try:
                    scores = make(schema=schema, **extra).fit(part.train).decision_function(part.test)
                    found[name, factor, bool(extra)] = roc_auc_score(part.labels, scores)
                except bs.BlindsightError:  # the rule: a failure scores .5
                    found[name, factor, bool(extra)] = 0.5
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=29)
    options = parser.parse_args()
    for setting in ("unsupervised", "normals"):
        rows = Parallel(n_jobs=2)(delayed(one)(path, setting) for path in sets()[: options.sets])
        print(f"\n{setting}: mean AUROC, declared / learned, ranges as wide as ... times the data's")
        print(f"{'detector':16s}" + "".join(f"{factor:>16d}" for factor in FACTORS))
        for name in PAIRS:
            means = [
                [np.mean([row[name, factor, learned] for row in rows]) for learned in (False, True)]
                for factor in FACTORS
            ]
            print(f"{name:16s}" + "".join(f"   {a:.3f} / {b:.3f}" for a, b in means))
    return 0


if __name__ == "__main__":
    sys.exit(main())
