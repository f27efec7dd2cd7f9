"""Compressed updates of an autoencoder: AUROC and bytes a round, against whole updates in the same run.

Three ADBench sets, trained on half of their normal rows, cut unevenly between five parties (Dirichlet, alpha 0.5, by
tenths of the first column), tested on the rest. Every fit is a whole federation in one process: masked sums of real
messages. "kB up" is what one party sends in a round of training, everything included (keys, shares, signatures,
vector), counted at the coordinator; "vector" is the masked vector's own part of it. What goes down, the model above
all, is not compressed.

    python benchmarks/compression.py [--seeds 2] [--rounds 25] [--epsilon 4] [--sets cardio ...]

``--epsilon`` repeats it under DP-SGD (unit "record").
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from _adbench import load, sets, split

WHOLE = "whole, 64 bits"
VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "grid of 8 bits": {"grid_bits": 8},
    "a half": {"sent_fraction": 0.5},
    "a quarter": {"sent_fraction": 0.25},
    "a quarter, 8 bits": {"sent_fraction": 0.25, "grid_bits": 8},
    "a tenth, 8 bits": {"sent_fraction": 0.1, "grid_bits": 8},
}
PARTIES = 5


def fit(path: Any, seed: int, rounds: int, epsilon: float | None, extra: dict[str, Any]) -> tuple[float, float, float]:
    """AUROC, bytes that a party sends in a round, and bytes of its vector."""
    import blindsight as bs
    from blindsight.data import Split, partition

    X, y = load(path)
    part = split(X, y, "normals", seed)
    names = [f"x{i}" for i in range(X.shape[1])]
    train = pl.DataFrame(dict(zip(names, part.train.T, strict=True)))
    schema = bs.Schema.infer(train).declare()
    data = partition(train, schema, PARTIES, Split(kind="dirichlet", alpha=0.5), seed=seed)
    training = bs.Training(rounds=rounds, local_epochs=2, learning_rate=0.1, clip_norm=2.0, weighting="equal", **extra)
    privacy = None
    if epsilon is not None:
        training = bs.Training(
            rounds=rounds, sampling_rate=0.1, learning_rate=0.2, clip_norm=1.0, weighting="equal", **extra
        )
        privacy = bs.DifferentialPrivacy(epsilon=epsilon, delta=1e-5)
    policy = bs.Policy(allow_exact_sums=True, detectors=("AutoEncoder",), maximum_epsilon=100.0, delta=1e-5)
    with bs.Federation.embedded(data, schema=schema, policy=policy) as federation:
        model = federation.fit(bs.AutoEncoder(hidden=(64, 16), training=training, seed=seed), privacy=privacy)
        steps = [step for step in federation.history[0].steps if step.step.startswith("round/")]
    sent = float(np.mean([step.received_bytes / len(step.survivors) for step in steps]))
    bits = 16 if extra.get("grid_bits", 16) < 16 else 64
    test = pl.DataFrame(dict(zip(names, part.test.T, strict=True)))
    return float(roc_auc_score(part.labels, model.decision_function(test))), sent, steps[0].length * bits / 8


def main() -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--epsilon", type=float)
    parser.add_argument("--sets", nargs="+", default=["cardio", "satimage-2", "PageBlocks"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    options = parser.parse_args()
    how = "without privacy" if options.epsilon is None else f"DP-SGD, epsilon {options.epsilon:g} per record"
    print(f"AutoEncoder (64, 16), {PARTIES} parties, {options.rounds} rounds, {options.seeds} seeds, {how}: AUROC")
    chosen = [path for path in sets() if path.stem.partition("_")[2] in options.sets]
    print(
        f"{'a round sends':20s}"
        + "".join(f"{path.stem.partition('_')[2]:>12s}" for path in chosen)
        + f"{'mean':>8s}{'- whole':>9s}{'vector kB':>11s}{'kB up':>8s}"
    )
    whole = None
    for name in options.variants:
        found = np.array(
            [
                [fit(path, seed, options.rounds, options.epsilon, VARIANTS[name]) for seed in range(options.seeds)]
                for path in chosen
            ]
        )
        areas = found[:, :, 0].mean(axis=1)
        whole = areas.mean() if name == WHOLE else whole
        difference = f"{areas.mean() - whole:+9.3f}" if whole is not None else f"{'':9s}"
        print(
            f"{name:20s}"
            + "".join(f"{area:12.3f}" for area in areas)
            + f"{areas.mean():8.3f}{difference}{found[:, :, 2].mean() / 1e3:11.1f}{found[:, :, 1].mean() / 1e3:8.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
