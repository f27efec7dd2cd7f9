"""How well a private evaluation knows the AUROC: few bins and none in the low half, against the earlier seventeen.

    python benchmarks/evaluation_noise.py

ECOD on simulated card payments of five banks; 200 draws of the noise on the same two histograms; the root mean square
error of the AUROC against the exact one, for several numbers of labelled anomalies and of noise (standard deviation on
each count). The estimator before: bin counts as released. The estimator now: tails made monotone.
"""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

import blindsight as bs
from blindsight.federation._curves import curves_of
from blindsight.federation._evaluation import TAIL_SHARES

BEFORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005])
DRAWS = 200


def counted(edges: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, scores, side="right"), minlength=edges.size + 1).astype(float)


def raw_auroc(normal: np.ndarray, anomalous: np.ndarray, stddev: float) -> float:
    n = max(normal.sum(), stddev * np.sqrt(normal.size), 1.0)
    a = max(anomalous.sum(), stddev * np.sqrt(normal.size), 1.0)
    return float(np.clip(anomalous @ ((np.cumsum(normal) - normal / 2) / n) / a, 0, 1))


def main() -> None:
    warnings.simplefilter("ignore")
    tables, schema = bs.simulate_card_payments(seed=0)
    rows = pl.concat(tables.values())
    label = next(column.name for column in schema.columns if column.role == "label")
    model = bs.ECOD(contamination=0.02, schema=schema).fit(rows)
    scores, labels = model.decision_function(rows) / model.score_scale_, rows[label].to_numpy() != 0
    generator = np.random.default_rng(0)
    grids = {
        name: np.unique(np.rint(np.quantile(scores, 1 - np.array(shares))).astype(np.int64))
        for name, shares in (("before", BEFORE), ("now", TAIL_SHARES))
    }
    print(f"{'anomalies':>9} {'noise':>6} {'AUROC':>6}   error before    error now")
    for anomalies in (30, 100, 300):
        chosen = np.concatenate([np.flatnonzero(~labels), np.flatnonzero(labels)[:anomalies]])
        few, truth = int(labels[chosen].sum()), roc_auc_score(labels[chosen], scores[chosen])
        for stddev in (3.0, 10.0):
            errors: dict[str, list[float]] = {"before": [], "now": []}
            for _ in range(DRAWS):
                for name, edges in grids.items():
                    parts = [counted(edges, scores[chosen][labels[chosen] == kind]) for kind in (False, True)]
                    noisy = [part + np.rint(generator.normal(0, stddev, part.size)) for part in parts]
                    estimate = (
                        raw_auroc(*noisy, stddev)
                        if name == "before"
                        else curves_of(edges, *noisy, stddev**2, 0.0).measures()["auroc"]
                    )
                    errors[name].append(estimate - truth)
            before, now = (np.sqrt(np.mean(np.square(errors[name]))) for name in ("before", "now"))
            print(f"{few:>9} {stddev:>6g} {truth:>6.3f} {before:>14.3f} {now:>12.3f}")


if __name__ == "__main__":
    main()
