"""Poisoning: 1 of 10 parties lies in every round of an autoencoder's training; AUROC with and without each defence.

The liar scales its update (x 20), flips its sign (x -5), or trains on its own anomalies labelled as nothing. *Patched*
liars run our client with their training patched, so that the client's clipping still binds them; *forged* ones send
any integers at all, which no masked sum can stop: the norm check refuses the round, and says so without a name.
Robust aggregation sees every update and gives up masking.

    python benchmarks/poisoning.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from _adbench import data_folder, load, split

SETS = ("6_cardio", "38_thyroid", "31_satimage-2", "27_PageBlocks")
PARTIES = 10
WIDE_CLIP = 1e3
ATTACKS = ("none", "scaled x 20", "flipped x -5")
DEFENCES: dict[str, dict[str, Any]] = {
    "no bound": {"clip_norm": WIDE_CLIP},
    "norm bound (default)": {},
    "median": {"aggregation": "median", "clip_norm": WIDE_CLIP},
    "trimmed mean": {"aggregation": "trimmed-mean", "clip_norm": WIDE_CLIP},
    "Krum": {"aggregation": "krum", "clip_norm": WIDE_CLIP},
}
FACTORS = {"none": 1.0, "scaled x 20": 20.0, "flipped x -5": -5.0}


def run(part: Any, seed: int, attack: str, extra: dict[str, Any]) -> float:
    """Train with ten parties, the first of which multiplies its update before the client clips and rounds it."""
    import blindsight as bs
    from blindsight.data import records
    from blindsight.detectors import Local, Total

    schema = bs.Schema.infer(part.train).declare()
    order = np.random.default_rng(seed).permutation(len(part.train))
    silos = [part.train[rows] for rows in np.array_split(order, PARTIES)]
    model = bs.AutoEncoder(seed=seed, training=bs.Training(rounds=20, local_epochs=2, **extra))
    memories: list[dict[str, bytes]] = [{} for _ in silos]
    caches: list[dict[str, object]] = [{} for _ in silos]

    def total_of(query: Any) -> Total:
        if not hasattr(query, "update"):
            total = np.zeros(query.length, dtype=np.int64)
            for silo in silos:
                for chunk in records(schema, silo, warn=False):
                    query.add(total, chunk)
            return Total(values=total)
        vectors = []
        for i, silo in enumerate(silos):
            caches[i]["poison"] = FACTORS[attack] if i == 0 else 1.0
            local = Local(
                records=lambda silo=silo: records(schema, silo, warn=False), memory=memories[i], cache=caches[i]
            )
            vectors.append(query.update(local).values)
        stacked = np.array(vectors)
        return Total(values=stacked.sum(axis=0) if query.masked else stacked)

    model.run(schema, total_of)
    return float(roc_auc_score(part.labels, np.nan_to_num(model.decision_function(part.test))))


def main() -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"AutoEncoder, {PARTIES} parties, one of them hostile; mean AUROC on {len(SETS)} sets, {options.seeds} seeds")
    print(f"{'':24s}" + "".join(f"{attack:>16s}" for attack in ATTACKS))
    for name, extra in DEFENCES.items():
        means = []
        for attack in ATTACKS:
            values = []
            for file in SETS:
                for seed in range(options.seeds):
                    part = split(*load(data_folder() / "adbench" / f"{file}.npz"), "normals", seed)
                    values.append(run(part, seed, attack, extra))
            means.append(np.mean(values))
        print(f"{name:24s}" + "".join(f"{mean:16.3f}" for mean in means), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
