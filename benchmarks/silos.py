"""When parties differ: local, federated, centralised, for each detector; and what each remedy for rounds is worth.

Part 1: five silos skewed by value (sorted along the first principal component with 30% noise, then cut), ADBench sets,
trained on half of the normal rows, scored on everybody's remaining traffic. Sum-based detectors must equal the
centralised fit, integer for integer.
Part 2: an autoencoder on NSL-KDD (five skewed silos, normal rows) and on NAB's CPU hosts (one host a party, windows of
24 values, the first half to train, the second to test on one's own traffic), with and without each remedy.

    python benchmarks/silos.py [--sets 8] [--seeds 3] [--part 1 2] [--remedies FedAvg Reptile]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from _adbench import data_folder, interval, load, sets, split

SUMS = ("ECOD", "COPOD", "HBOS", "IForest", "LODA", "PCA", "Mahalanobis", "RandomFeatures", "OCSVM")
ROUNDS = ("AutoEncoder",)
PARTIES = 5


def skewed(X: np.ndarray, parties: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each party: sorted along the first principal component plus 30% noise, cut into equal parts."""
    rng = np.random.default_rng(seed)
    standard = (X - X.mean(0)) / np.maximum(X.std(0), 1e-9)
    axis = np.linalg.svd(standard[rng.permutation(len(X))[:2000]], full_matrices=False)[2][0]
    place = standard @ axis
    noisy = place + 0.3 * place.std() * rng.normal(size=len(X))
    return np.array_split(np.argsort(noisy, kind="stable"), parties)


def federate(data: dict[str, Any], schema: Any, detector: Any) -> Any:
    import blindsight as bs

    policy = bs.Policy(allow_exact_sums=True, detectors=(detector.name,))
    with bs.Federation.embedded(data, schema=schema, policy=policy) as federation:
        return federation.fit(detector, privacy=None)


def compare_detectors(options: argparse.Namespace) -> bool:
    import blindsight as bs

    chosen = [path for path in sets(1_000) if load(path)[0].shape[1] <= 100][: options.sets]
    results: dict[str, list[list[float]]] = {name: [] for name in (*SUMS, *ROUNDS)}
    unequal = 0
    for path in chosen:
        for seed in range(options.seeds):
            X, y = load(path)
            rows = np.random.default_rng(seed).permutation(len(X))[:20_000]
            part = split(X[rows], y[rows], "normals", seed)
            schema = bs.Schema.infer(part.train).declare()
            silos = [part.train[index] for index in skewed(part.train, PARTIES, seed)]
            data = {f"party-{i}": silo for i, silo in enumerate(silos)}
            for name in results:
                detector = getattr(bs, name)(schema=schema)
                central = clone(detector).fit(part.train)
                federated = federate(data, schema, detector)
                local = [clone(detector).fit(silo) for silo in silos]
                if name in SUMS:
                    same = federated.circuit_ == central.circuit_ and federated.threshold_ == central.threshold_
                    unequal += not same
                auc = [
                    np.mean([roc_auc_score(part.labels, model.decision_function(part.test)) for model in local]),
                    roc_auc_score(part.labels, federated.decision_function(part.test)),
                    roc_auc_score(part.labels, central.decision_function(part.test)),
                ]
                results[name].append([float(value) for value in auc])
    print(f"five skewed silos, {len(chosen)} sets, {options.seeds} seeds: mean AUROC on everybody's traffic")
    print(f"{'detector':16s}{'local':>8s}{'federated':>11s}{'central':>9s}   federated - local, 95%")
    for name, values in results.items():
        table = np.array(values).reshape(len(chosen), options.seeds, 3).mean(axis=1)
        gain = table[:, 1] - table[:, 0]
        low, high = interval(gain)
        mean = table.mean(axis=0)
        print(f"{name:16s}{mean[0]:8.3f}{mean[1]:11.3f}{mean[2]:9.3f}   {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    print(f"sum-based fits that differ from the centralised one: {unequal}")
    return unequal == 0


# -- part 2


def nslkdd(seed: int) -> tuple[list[Any], list[tuple[Any, np.ndarray]], Any]:
    """Five skewed silos of normal connections; everybody is tested on all of KDDTest+."""
    import polars as pl

    import blindsight as bs

    folder = data_folder() / "nslkdd"
    with (folder / "field_names.csv").open() as file:
        fields = [(row[0], row[1] == "continuous") for row in csv.reader(file)][:41]
    kinds = {**{name: pl.Float64 if number else pl.String for name, number in fields}, "kind": pl.String}

    def read(name: str) -> tuple[Any, np.ndarray]:
        table = pl.read_csv(folder / name, has_header=False, new_columns=[*kinds, "difficulty"]).drop("difficulty")
        table = table.cast(kinds)  # type: ignore[arg-type]
        return table.drop("kind"), (table["kind"] != "normal").to_numpy()

    (X, y), (T, t) = read("KDDTrain+_20Percent.txt"), read("KDDTest+.txt")
    schema = bs.Schema.infer(X).declare()
    normal = X.filter(~y)
    numbers = normal.select([name for name, number in fields if number]).to_numpy()
    silos = [normal[index] for index in skewed(numbers, PARTIES, seed)]
    return silos, [(T, t)] * PARTIES, schema


def nab_hosts(seed: int) -> tuple[list[Any], list[tuple[Any, np.ndarray]], Any]:
    """CPU utilisation of AWS hosts in percent, windows of 24 values; each host is tested on its own second half."""
    import blindsight as bs
    from blindsight.data import Column

    del seed
    folder = data_folder() / "nab"
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text())
    trains, tests = [], []
    for path in sorted((folder / "data" / "realAWSCloudwatch").glob("ec2_cpu_utilization_*.csv")):
        with path.open() as file:
            rows = list(csv.reader(file))[1:]
        values = np.array([float(row[1]) for row in rows])
        stamps = np.array([np.datetime64(row[0]) for row in rows])
        label = np.zeros(len(values), dtype=bool)
        for start, end in windows[f"realAWSCloudwatch/{path.name}"]:
            label |= (stamps >= np.datetime64(start[:19])) & (stamps <= np.datetime64(end[:19]))
        X = np.lib.stride_tricks.sliding_window_view(values, 24).copy()
        y = label[23:]
        half = len(X) // 2
        if y[half:].any() and not y[half:].all():
            trains.append(X[:half][~y[:half]])
            tests.append((X[half:], y[half:]))
    schema = bs.Schema(tuple(Column(name=f"t{j}", low=0.0, high=100.0) for j in range(24)))
    return trains, tests, schema


TRAINING: dict[str, Any] = {"rounds": 20, "local_epochs": 4}
REMEDIES: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedProx, mu .1": {"proximal": 0.1},
    "SCAFFOLD": {"scaffold": True},
    "FedAvgM": {"server": "fedavgm"},
    "FedAdam": {"server": "fedadam", "server_rate": 0.02},
    "FedYogi": {"server": "fedyogi", "server_rate": 0.02},
    "Reptile, step .5": {"server": "reptile", "server_rate": 0.5},
    "equal weights": {"weighting": "equal"},
    "validation weights": {"weighting": "validation"},
    "jitter below 2,000 rows": {"augment": "jitter", "augment_below": 2_000},
    "mixup below 2,000 rows": {"augment": "mixup", "augment_below": 2_000},
}
TUNED = ("FedAvg", "Reptile, step .5")
"""Also measured after some epochs at each party, which is what Reptile's start is for."""
Measured = dict[str, list[float]]


def measure_remedies(
    silos: list[Any], tests: list[tuple[Any, np.ndarray]], schema: Any, seed: int, wanted: list[str]
) -> Measured:
    """Mean and worst AUROC over the parties, each on its own test records, by remedy."""
    import blindsight as bs

    data = {f"party-{i}": silo for i, silo in enumerate(silos)}
    found: Measured = {}

    def note(what: str, models: list[Any]) -> None:
        areas = [
            float(roc_auc_score(t, model.decision_function(T))) for model, (T, t) in zip(models, tests, strict=True)
        ]
        found[what] = [float(np.mean(areas)), float(np.min(areas))]
        print(f"  seed {seed}: {what} {np.mean(areas):.3f}", file=sys.stderr)

    def make(scales: str = "declared", **extra: Any) -> Any:
        return bs.AutoEncoder(seed=seed, scales=scales, schema=schema, training=bs.Training(**{**TRAINING, **extra}))

    def asked(name: str) -> bool:
        return not wanted or any(name.startswith(prefix) for prefix in wanted)

    if not wanted:
        note("local only", [make().fit(silo) for silo in silos])
        note("centralised", [make().fit(stack(silos))] * len(silos))
    for name, extra in REMEDIES.items():
        if not asked(name):
            continue
        model = federate(data, schema, make(**extra))
        note(name, [model] * len(silos))
        if name in TUNED:
            note(f"{name} + fine-tuned", [model.personalise(silo, epochs=5) for silo in silos])
        if name == "FedAvg":
            note("FedAvg + distilled", [model.personalise(silo, epochs=5, distil=1.0) for silo in silos])
    if wanted:
        return found
    model = federate(data, schema, make(scales="learned"))
    note("scales learned together", [model] * len(silos))
    model = federate(data, schema, make(scales="local"))
    note("scales of one's own", [model.localise(silo) for silo in silos])
    note("flat ECOD, federated", [federate(data, schema, bs.ECOD(schema=schema))] * len(silos))
    return found


def stack(silos: list[Any]) -> Any:
    import polars as pl

    return pl.concat(silos) if isinstance(silos[0], pl.DataFrame) else np.concatenate(silos)


def compare_remedies(options: argparse.Namespace) -> None:
    for title, make_data in (("NSL-KDD, five skewed silos", nslkdd), ("NAB, one CPU host a party", nab_hosts)):
        print(f"  {title}", file=sys.stderr)
        found = [measure_remedies(*make_data(seed), seed, options.remedies) for seed in range(options.seeds)]
        rounds, epochs = TRAINING["rounds"], TRAINING["local_epochs"]
        print(f"\n{title}: AutoEncoder, {rounds} rounds of {epochs} epochs, AUROC on one's own tests")
        print(f"{'':28s}{'mean':>7s}{'+-':>7s}{'worst party':>13s}   ({options.seeds} seeds; +- is between seeds)")
        for name in found[0]:
            table = np.array([values[name] for values in found])
            print(f"{name:28s}{table[:, 0].mean():7.3f}{table[:, 0].std():7.3f}{table[:, 1].mean():13.3f}")


def main() -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--remedies", nargs="+", default=[], help="part 2: only those whose names begin so")
    options = parser.parse_args()
    equal = compare_detectors(options) if 1 in options.part else True
    if 2 in options.part:
        compare_remedies(options)
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
