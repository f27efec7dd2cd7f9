"""Three sites watch one kind of machine: which detector of its temperature is worth its price?

Each site has a machine of its own, read every five minutes: a daily cycle, a slow drift, noise; and, in its last third,
a few hours of labelled trouble: the temperature climbs and falls back, sticks, or swings. (Synthetic, after the machine
temperature of the Numenta Anomaly Benchmark.) Two detectors are fitted by all three sites together and measured on
the last third: ECOD on summaries of windows, one masked sum; and an LSTM autoencoder over the same windows, trained in
rounds. Exact sums: every site's policy allows them here.

    pip install 'blindsight[deep]'
    python examples/time_series.py
"""

import time
import warnings

import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score

import blindsight as bs
from blindsight.data import Column, window_table
from blindsight.detectors import ECOD, LSTMAutoEncoder, Training

warnings.simplefilter("ignore", bs.BlindsightWarning)
torch.set_num_threads(1)
WINDOW, DAY, DAYS = 24, 288, 21  # two hours, in readings; readings of a day


def machine(seed: int) -> pl.DataFrame:
    """Three weeks of one machine's temperature, and which readings are trouble."""
    generator = np.random.default_rng(seed)
    n = DAY * DAYS
    when = np.arange(n)
    daily = 4 * np.sin(2 * np.pi * (when / DAY + generator.random()))
    heat = 80 + daily + np.cumsum(generator.normal(0, 0.02, n)) + generator.normal(0, 0.4, n)
    trouble = np.zeros(n, dtype=int)
    for k, start in enumerate(2 * n // 3 + np.array([1, 3, 5]) * DAY + generator.integers(0, DAY, 3)):
        hours = slice(start, start + 36)
        trouble[hours] = 1
        if k == 0:
            heat[hours] += 8 * np.sin(np.linspace(0, np.pi, 36))  # climbs and falls back
        elif k == 1:
            heat[hours] = heat[start]  # sticks
        else:
            heat[hours] += 3 * np.sin(np.arange(36) * 1.3)  # swings
    return pl.DataFrame({"minute": 5.0 * when, "heat": heat, "trouble": trouble})


schema = bs.Schema(
    (
        Column(name="minute", role="time", type="number"),
        Column(name="heat", low=60.0, high=100.0),
        Column(name="trouble", role="label"),
    )
)
sites = {name: machine(seed) for seed, name in enumerate(("north", "south", "west"))}
before = {name: table[: 2 * len(table) // 3] for name, table in sites.items()}
policy = bs.Policy(allow_exact_sums=True)


def summaries(table: pl.DataFrame) -> tuple[pl.DataFrame, bs.Schema]:
    """One row for the window that ends with each reading: each site makes its own."""
    return window_table(table, schema, length=WINDOW)


started = time.perf_counter()
window_schema = summaries(before["north"])[1]  # follows from the declared range alone
simple = bs.Federation.embedded({n: summaries(t)[0] for n, t in before.items()}, schema=window_schema, policy=policy)
ecod = simple.fit(ECOD(), privacy=None)
ecod_s, started = time.perf_counter() - started, time.perf_counter()
deep = bs.Federation.embedded(before, schema=schema, policy=policy)
training = Training(rounds=6, local_epochs=2, learning_rate=0.2, clip_norm=5.0)
lstm = deep.fit(LSTMAutoEncoder(window=WINDOW, stride=6, hidden=8, normalise="none", training=training), privacy=None)
lstm_s = time.perf_counter() - started

areas: dict[str, list[float]] = {"ECOD": [], "LSTM": []}
for name, table in sites.items():  # each on its own machine
    after = slice(2 * len(table) // 3, None)
    truth = table["trouble"].to_numpy()[after]
    scores = {
        # the first readings have no window before them, and lie long before the last third
        "ECOD": np.concatenate([np.zeros(WINDOW - 1), ecod.decision_function(summaries(table)[0])])[after],
        "LSTM": lstm.decision_function(table)[after],
    }
    for kind, values in scores.items():
        areas[kind].append(roc_auc_score(truth, values))
    print(f"{name:6} " + "  ".join(f"{kind} AUROC {areas[kind][-1]:.3f}" for kind in areas))

mean = {kind: float(np.mean(values)) for kind, values in areas.items()}
for kind, seconds, federation in (("ECOD", ecod_s, simple), ("LSTM", lstm_s, deep)):
    run = federation.history[0]
    print(f"{kind}: mean AUROC {mean[kind]:.3f}; {len(run.steps)} sums, {run.bytes_total:,} bytes, {seconds:.1f} s")
winner, loser = sorted(mean, key=mean.__getitem__, reverse=True)
print(f"{winner} is better here, by {mean[winner] - mean[loser]:.3f}.")
if winner == "ECOD":
    print("The simple one wins: no round of training is worth its cost on these machines.")
