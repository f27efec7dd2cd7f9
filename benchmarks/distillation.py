"""A table student beside its teacher: AUROC of both and rank correlation, on ADBench sets, both settings.

python benchmarks/distillation.py [--sets 20] [--rounds 8]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import blindsight as bs
from _adbench import interval, load, sets, split

ROWS = 10_000
TEACHERS = {"ECOD": bs.ECOD, "RandomFeatures": bs.RandomFeatures, "Mahalanobis": bs.Mahalanobis}


def teachers() -> dict[str, object]:
    try:
        import torch  # noqa: F401
    except ImportError:
        return dict(TEACHERS)
    return {**TEACHERS, "AutoEncoder": bs.AutoEncoder}


def one(path: Path, setting: str, rounds: int) -> dict[str, tuple[float, float, float]]:
    warnings.simplefilter("ignore")
    X, y = load(path)
    if len(y) > ROWS:
        kept = np.sort(np.random.default_rng(0).permutation(len(y))[:ROWS])
        X, y = X[kept], y[kept]
    part = split(X, y, setting, 0)
    found = {}
    for name, make in teachers().items():
        try:
            teacher = make().fit(part.train)
        except bs.BlindsightError:
            continue
        student = bs.TableStudent(teacher=teacher, rounds=rounds).fit(part.train)
        a, b = (model.decision_function(part.test) for model in (teacher, student))
        found[name] = (roc_auc_score(part.labels, a), roc_auc_score(part.labels, b), float(spearmanr(a, b)[0]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    for setting in ("unsupervised", "normals"):
        jobs = [(path, setting, options.rounds) for path in sets()[: options.sets]]
        rows = Parallel(n_jobs=2)(delayed(one)(*job) for job in jobs)
        print(f"\n{setting}: mean over {len(rows)} sets")
        print(f"{'teacher':16s}{'its AUROC':>12s}{'student':>12s}{'difference':>30s}{'Spearman':>12s}")
        for name in teachers():
            table = np.array([row[name] for row in rows if name in row])
            difference = table[:, 1] - table[:, 0]
            low, high = interval(difference)
            print(
                f"{name:16s}{table[:, 0].mean():12.3f}{table[:, 1].mean():12.3f}"
                f"{difference.mean():+12.3f} [{low:+.3f}, {high:+.3f}]{table[:, 2].mean():12.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
