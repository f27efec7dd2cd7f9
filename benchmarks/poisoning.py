"""Poisoning: 1 of 10 parties lies in every round of an autoencoder's training; AUROC with and without each defence.

The liar multiplies the change that its training made by 20, or by -5, and then runs our client, whose clipping still
binds it: what a data owner can do who patches the training alone. A forged vector, which no client made, is a case of
its own: under masking only the norm of the mean can be checked, and the round is refused without a name (last lines).
Robust aggregation sees every update and gives up masking; here without a norm bound, to show what it does by itself.

    python benchmarks/poisoning.py [--seeds 3] [--sets 4]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from _adbench import data_folder, load, split
from blindsight.errors import ParameterError

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


def fit(part: Any, seed: int, factor: float, extra: dict[str, Any], forged: int = 1) -> Any:
    """Train with ten parties; the first multiplies its change by ``factor``, or its finished vector by ``forged``."""
    import blindsight as bs
    from blindsight.data import records
    from blindsight.detectors import Local, SumQuery, Total

    class Poisoned(bs.AutoEncoder):
        def _train(self, local: Local, start: Any, correction: Any) -> Any:
            trained = super()._train(local, start, correction)
            before = self._layout.flat(start)
            change = (trained.flat - before) * local.cache.get("factor", 1.0)
            return dataclasses.replace(trained, flat=before + change)

    schema = bs.Schema.infer(part.train).declare()
    order = np.random.default_rng(seed).permutation(len(part.train))
    silos = [part.train[rows] for rows in np.array_split(order, PARTIES)]
    model = Poisoned(seed=seed, training=bs.Training(rounds=20, local_epochs=2, **extra))
    memories: list[dict[str, bytes]] = [{} for _ in silos]
    caches: list[dict[str, object]] = [{} for _ in silos]
    caches[0]["factor"] = factor

    def total_of(query: Any) -> Total:
        if isinstance(query, SumQuery):
            total = np.zeros(query.length, dtype=np.int64)
            for silo in silos:
                for chunk in records(schema, silo, warn=False):
                    query.add(total, chunk)
            return Total(values=total)
        vectors = []
        for silo, memory, cache in zip(silos, memories, caches, strict=True):
            local = Local(records=lambda silo=silo: records(schema, silo, warn=False), memory=memory, cache=cache)
            vectors.append(query.update(local).values)
        vectors[0][:-2] *= forged  # all but the weight and the mark of privacy
        names = tuple(f"party-{i}" for i in range(len(silos)))
        stacked = np.array(vectors)
        return Total(values=stacked.sum(axis=0) if query.masked else stacked, parties=names)

    return model.run(schema, total_of)


def run(part: Any, seed: int, attack: str, extra: dict[str, Any]) -> float:
    model = fit(part, seed, FACTORS[attack], extra)
    return float(roc_auc_score(part.labels, np.nan_to_num(model.decision_function(part.test))))


def main() -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", type=int, default=len(SETS))
    options = parser.parse_args()
    print(
        f"AutoEncoder, {PARTIES} parties, one of them hostile; mean AUROC on {options.sets} sets, {options.seeds} seeds"
    )
    print(f"{'':24s}" + "".join(f"{attack:>16s}" for attack in ATTACKS))
    for name, extra in DEFENCES.items():
        means = []
        for attack in ATTACKS:
            values = []
            for file in SETS[: options.sets]:
                for seed in range(options.seeds):
                    part = split(*load(data_folder() / "adbench" / f"{file}.npz"), "normals", seed)
                    values.append(run(part, seed, attack, extra))
            means.append(np.mean(values))
        print(f"{name:24s}" + "".join(f"{mean:16.3f}" for mean in means), flush=True)
    part = split(*load(data_folder() / "adbench" / f"{SETS[0]}.npz"), "normals", 0)
    try:
        fit(part, 0, 1.0, {}, forged=1000)
    except ParameterError as error:
        print(f"a forged vector, 1,000 times as long, masked: {error}")
        return 0
    print("a forged vector, 1,000 times as long, masked: NOT REFUSED")
    return 1


if __name__ == "__main__":
    sys.exit(main())
