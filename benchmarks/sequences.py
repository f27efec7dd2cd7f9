"""Sequences and images: windowed autoencoders beside ECOD, flat and on window summaries; by point and range-adjusted.

SKAB (34 runs of a valve rig, one run one machine): every machine is scaled by its own first 400 rows, all detectors are
fitted on those, and scored on what comes after. NAB machine temperature: fitted on the first 15 %, scored after it.
scikit-learn's digits: fitted on nine digits, the tenth is the anomaly.

    python benchmarks/sequences.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.metrics import f1_score, roc_auc_score

import blindsight as bs
from blindsight.data import Column, Schema, window_table
from blindsight.detectors import AutoEncoder, ConvAutoEncoder, LSTMAutoEncoder, Training, TransformerAutoEncoder

DATA = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WINDOW = 32
CONTAMINATION = 0.02
"""Of the fitted rows, which hold no anomaly: the threshold is their 98th percentile."""


def adjusted(labels: np.ndarray, flags: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Point adjustment (Xu et al. 2018, arXiv 1802.03903): a range counts as found whole where one point of it is."""
    flags = flags.copy()
    border = np.concatenate([[False], np.diff(series) != 0, [False]])
    edges = np.flatnonzero((np.diff(np.concatenate([[0], labels, [0]])) != 0) | border)
    for first, last in itertools.pairwise(edges):
        if labels[first] and flags[first:last].any():
            flags[first:last] = True
    return flags


def show(title: str, rows: list[tuple[str, float, float, float, float]]) -> None:
    """Print the mean over seeds, and the least and greatest AUROC."""
    print(f"\n{title}")
    print(
        f"{'detector':38s}{'AUROC':>8s}{'least':>8s}{'most':>8s}{'F1':>8s}{'F1 adj.':>9s}{'seconds':>9s}{'seeds':>7s}"
    )
    for name in dict.fromkeys(row[0] for row in rows):
        found = np.array([row[1:] for row in rows if row[0] == name])
        auroc, f1, f1_adjusted, seconds = found.mean(axis=0)
        least, most = found[:, 0].min(), found[:, 0].max()
        print(
            f"{name:38s}{auroc:8.3f}{least:8.3f}{most:8.3f}{f1:8.3f}{f1_adjusted:9.3f}{seconds:9.1f}{len(found):7d}",
            flush=True,
        )


def skab() -> tuple[pl.DataFrame, Schema, np.ndarray]:
    frames = []
    for number, path in enumerate(sorted((DATA / "skab" / "data").glob("[vo]*/*.csv"))):
        frame = pl.read_csv(path, separator=";")
        channels = frame.columns[1:9]
        first = frame[:400]
        frame = frame.select(
            pl.Series("second", np.arange(frame.height)),
            pl.lit(number).alias("machine"),
            *[((pl.col(c) - first[c].mean()) / max(first[c].std(), 1e-3)).alias(c) for c in channels],
            pl.col("anomaly").cast(pl.Int64),
        )
        frames.append(frame)
    table = pl.concat(frames)
    schema = Schema(
        (
            Column(name="second", role="time", type="number"),
            Column(name="machine", role="entity", type="number"),
            *(Column(name=c, low=-10, high=10) for c in channels),
            Column(name="anomaly", role="label"),
        )
    )
    return table, schema, (table["second"] < 400).to_numpy()


def nab() -> tuple[pl.DataFrame, Schema, np.ndarray]:
    name = "realKnownCause/machine_temperature_system_failure.csv"
    # the series goes through the end of summer time: an hour comes twice
    frame = pl.read_csv(DATA / "nab" / "data" / name).sort("timestamp", maintain_order=True)
    windows = json.loads((DATA / "nab" / "labels" / "combined_windows.json").read_text())[name]
    when = frame["timestamp"].str.to_datetime()
    label = np.zeros(frame.height, dtype=np.int64)
    for begin, end in windows:
        first, last = pl.Series([begin, end]).str.to_datetime()
        label |= ((when >= first) & (when <= last)).to_numpy()
    table = pl.DataFrame({"when": when, "temperature": frame["value"], "anomaly": label})
    schema = Schema(
        (
            Column(name="when", role="time", type="text"),
            Column(name="temperature", low=0, high=120),
            Column(name="anomaly", role="label"),
        )
    )
    return table, schema, np.arange(frame.height) < 0.15 * frame.height


def score(
    title: str,
    table: pl.DataFrame,
    schema: Schema,
    first: np.ndarray,
    training: Training,
    options: list[dict],
    seeds: int,
) -> None:
    fit, labels = table.filter(pl.Series(first)), table["anomaly"].to_numpy()[~first]
    series = table["machine"].to_numpy()[~first] if "machine" in table.columns else np.zeros(len(labels))
    rows = []

    def add(name: str, scores: np.ndarray, threshold: float, seconds: float) -> None:
        flags = scores > threshold
        after = adjusted(labels, flags, series)
        rows.append((name, roc_auc_score(labels, scores), f1_score(labels, flags), f1_score(labels, after), seconds))

    def run(name: str, make, derive=None) -> None:
        begin = time.perf_counter()
        train, whole, under = fit, table, schema
        if derive is not None:
            (train, under), (whole, _) = derive(fit), derive(table)
        model = make(under).fit(train)
        scores = model.decision_function(whole)
        if derive is not None:
            # rows before the first window of a series have the score of that window
            full = np.full(table.height, np.nan)
            full[whole["row"].to_numpy()] = scores
            scores = pl.Series(full).fill_nan(None).fill_null(strategy="backward").to_numpy()
        add(name, scores[~first], model.threshold_, time.perf_counter() - begin)

    def summaries(t: pl.DataFrame):
        return window_table(t, schema, length=WINDOW)

    def short(t: pl.DataFrame):
        return window_table(t, schema, length=8)

    def flat(t: pl.DataFrame):
        return window_table(t, schema, length=WINDOW, summaries=("all",))

    ecod = {"contamination": CONTAMINATION, "bins": 128}
    deep = {"contamination": CONTAMINATION, "training": training}
    run("ECOD, row by row", lambda s: bs.ECOD(schema=s, **ecod))
    run(f"ECOD, summaries of {WINDOW} rows", lambda s: bs.ECOD(schema=s, **ecod), summaries)
    run("ECOD, summaries of 8 rows", lambda s: bs.ECOD(schema=s, **ecod), short)
    for seed in range(seeds):
        deep["seed"] = seed
        for cls in (LSTMAutoEncoder, TransformerAutoEncoder):
            for option in options:
                label = ", ".join(f"{k}={v}" for k, v in option.items())
                run(f"{cls.name} {label}".strip(), lambda s, c=cls, o=option: c(schema=s, window=WINDOW, **o, **deep))
        run(
            "ConvAutoEncoder on windows",
            lambda s: ConvAutoEncoder(schema=s, channels=s.n_features // WINDOW, scales="learned", **deep),
            flat,
        )
    generator = np.random.default_rng(0)
    noise = generator.random(len(labels))
    add("random scores", noise, 1 - CONTAMINATION, 0.0)
    show(f"{title}: {int(first.sum())} rows to fit on, {len(labels)} scored, {labels.mean():.1%} anomalous", rows)


def digits(training: Training) -> None:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    schema = Schema(tuple(Column(name=f"p{i}", low=0, high=16) for i in range(64)))
    generator = np.random.default_rng(0)
    makes = {
        "ECOD": lambda: bs.ECOD(schema=schema, bins=18),
        "Mahalanobis": lambda: bs.Mahalanobis(schema=schema),
        "AutoEncoder, learned scales": lambda: AutoEncoder(schema=schema, training=training),
        "AutoEncoder, declared scales": lambda: AutoEncoder(schema=schema, training=training, scales="declared"),
        "ConvAutoEncoder (8, 8)": lambda: ConvAutoEncoder(schema=schema, shape=(8, 8), training=training),
        "ConvAutoEncoder (64,)": lambda: ConvAutoEncoder(schema=schema, training=training),
    }
    found = {name: [] for name in makes}
    for digit in range(10):
        train = (y != digit) & (generator.random(len(y)) < 0.5)
        for name, make in makes.items():
            model = make().fit(X[train])
            found[name].append(roc_auc_score(y[~train] == digit, model.decision_function(X[~train])))
    print("\nscikit-learn digits, AUROC by the digit that is the anomaly (half of the other nine to fit on)")
    print(f"{'detector':38s}" + "".join(f"{digit:6d}" for digit in range(10)) + f"{'mean':>8s}")
    for name, values in found.items():
        print(f"{name:38s}" + "".join(f"{value:6.3f}"[0:6].rjust(6) for value in values) + f"{np.mean(values):8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all")
    parser.add_argument("--only", choices=("skab", "nab", "digits"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds = 2 if options.quick else 20
    training = Training(rounds=rounds, learning_rate=0.2, clip_norm=10.0)
    if options.only in (None, "skab"):
        score("SKAB", *skab(), training, [{}, {"horizon": 1}], 1)
    if options.only in (None, "nab"):
        score("NAB machine temperature", *nab(), training, [{}], 3)
    if options.only in (None, "digits"):
        digits(Training(rounds=2 * rounds, learning_rate=0.2, clip_norm=10.0))


if __name__ == "__main__":
    main()
