"""What the networks' variants cost: activations, DeepSVDD, eight-bit and pruned copies, beside PyOD's, on ADBench.

Trained on normals, mean AUROC over the sets, same splits for all; a failure scores .5. Sets with more rows than
``--rows`` are cut to that many training and test rows. PyOD's DeepSVDD and AutoEncoder run with their defaults.

    python benchmarks/deep_variants.py [--seeds 1] [--sets 29] [--rows 10000]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from _adbench import interval, load, sets, split
from blindsight import modelfile
from blindsight.detectors import AutoEncoder, DeepSVDD, export

ACTIVATIONS = ("relu", "leaky", "tanh", "square")
COPIES: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8, half pruned": {"prune": 0.5},
    "int8, .8 pruned": {"prune": 0.8},
}


def peers(seed: int, features: int) -> dict[str, Callable[[], Any]]:
    from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
    from pyod.models.deep_svdd import DeepSVDD as PyodDeepSVDD

    return {
        "PyOD AutoEncoder": lambda: PyodAutoEncoder(verbose=0, random_state=seed),
        "PyOD DeepSVDD": lambda: PyodDeepSVDD(n_features=features, verbose=0, random_state=seed),
    }


def auroc(labels: np.ndarray, score: Callable[[], np.ndarray]) -> float:
    try:
        scores = score()
    except Exception:  # whatever a model does, the bar is the same for all
        return 0.5
    return float(roc_auc_score(labels, scores)) if np.isfinite(scores).all() else 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sets", type=int, default=29)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    sizes: dict[str, list[int]] = {}
    for path in sets()[: options.sets]:
        X, y = load(path)
        for seed in range(options.seeds):
            part = split(X, y, "normals", seed)
            draw = np.random.default_rng(seed)
            kept = [draw.permutation(len(Z))[: options.rows] for Z in (part.train, part.test)]
            train, test, labels = part.train[kept[0]], part.test[kept[1]], part.labels[kept[1]]

            def run(name: str, make: Callable[[], Any]) -> Any:
                started = time.perf_counter()
                model = make()

                def score() -> np.ndarray:
                    fitted = model.fit(train)  # noqa: B023 (called at once)
                    return np.asarray((fitted or model).decision_function(test))  # noqa: B023

                found.setdefault(name, []).append(auroc(labels, score))  # noqa: B023
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
                return model

            for activation in ACTIVATIONS:
                model = run(f"AutoEncoder, {activation}", lambda a=activation: AutoEncoder(activation=a, seed=seed))  # noqa: B023
                if activation != "relu":
                    continue
                for name, how in COPIES.items():
                    small = export(model, **how)
                    score = auroc(labels, lambda small=small: small.decision_function(test))  # noqa: B023
                    found.setdefault(f"AutoEncoder, {name}", []).append(score)
                    sizes.setdefault(name, []).append(len(modelfile.dumps(small)))
                sizes.setdefault("float32", []).append(len(modelfile.dumps(model)))
            run("DeepSVDD", lambda: DeepSVDD(seed=seed))  # noqa: B023
            for name, make in peers(seed, X.shape[1]).items():
                run(name, make)
    print(f"{options.seeds} seeds, {min(options.sets, len(sets()))} sets, trained on normals")
    reference = np.array(found["AutoEncoder, relu"]).reshape(-1, options.seeds).mean(axis=1)
    for name, values in found.items():
        by_set = np.array(values).reshape(-1, options.seeds).mean(axis=1)
        low, high = interval(by_set - reference)
        took = f"{seconds[name]:7.1f} s" if name in seconds else ""
        print(
            f"{name:30} {by_set.mean():.4f}  {by_set.mean() - reference.mean():+.4f} [{low:+.4f}, {high:+.4f}] {took}"
        )
    for name, lengths in sizes.items():
        print(f"model file, {name:20} {np.mean(lengths):12,.0f} bytes on average")


if __name__ == "__main__":
    main()
