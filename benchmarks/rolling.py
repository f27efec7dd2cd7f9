"""Rolling features: does it help ECOD to know what happened lately at this terminal, to this customer?

fraud_handbook: card transactions, fitted on the first half in time, scored on the second; scenario 1 is a large amount,
2 a compromised terminal, 3 a stolen card. PaySim: mobile money, receivers as entities.

    python benchmarks/rolling.py
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

import blindsight as bs
from blindsight.data import Column, RollingState, Schema, rolling_features

DATA = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def handbook() -> tuple[pl.DataFrame, Schema]:
    path = next((DATA / "fraud_handbook").glob("*.npz"))
    with np.load(path, allow_pickle=False) as file:
        table = pl.DataFrame({name: file[name] for name in file.files}).with_columns(
            hour=(pl.col("time_s") % 86_400) / 3600.0, amount=pl.col("amount").cast(pl.Float64)
        )
    schema = Schema(
        (
            Column(name="time_s", role="time", type="number"),
            Column(name="terminal_id", role="entity", type="number"),
            Column(name="customer_id", role="entity", type="number"),
            Column(name="amount", low=0, high=1000, scale="log"),
            Column(name="hour", low=0, high=24),
            Column(name="fraud", role="label"),
        )
    )
    return table.sort("time_s", maintain_order=True), schema


def paysim() -> tuple[pl.DataFrame, Schema]:
    table = pl.read_csv(next((DATA / "paysim").glob("*.csv")))
    schema = Schema(
        (
            Column(name="step", role="time", type="number"),
            Column(name="nameDest", role="entity", type="text"),
            Column(name="amount", low=0, high=1e7, scale="log"),
            Column(name="type", type="category", categories=("CASH_IN", "CASH_OUT", "DEBIT", "PAYMENT", "TRANSFER")),
            Column(name="isFraud", role="label"),
        )
    )
    return table.sort("step", maintain_order=True), schema


def measure(title: str, table: pl.DataFrame, schema: Schema, options: dict, scenario: str | None) -> None:
    begin = time.perf_counter()
    rolled, columns = rolling_features(table, schema=schema, values=["amount"], **options)
    seconds = time.perf_counter() - begin
    half = table.height // 2
    label = schema.label.name
    labels = table[label].to_numpy()[half:].astype(int)
    kinds = {"all": labels > 0}
    if scenario is not None:
        of = table[scenario].to_numpy()[half:]
        kinds |= {f"scenario {k}": of == k for k in sorted(set(of[labels > 0].tolist()))}
    print(f"\n{title}: {table.height:,} rows, {labels.mean():.2%} fraud in the scored half")
    print(f"{len(columns)} rolling features in {seconds:.1f} s")
    print(f"{'ECOD on':34s}" + "".join(f"{'AUROC ' + k:>18s}" for k in kinds) + f"{'average precision':>20s}")
    sets = {"the record alone": []}
    for statistic in ("count", "sum", "mean", "ratio", "gap"):
        sets[f"and {statistic}s"] = [c for c in columns if f"_{statistic}" in c.name]
    sets["and sums, means, ratios"] = [c for c in columns if any(f"_{s}_" in c.name for s in ("sum", "mean", "ratio"))]
    sets["and all of them"] = list(columns)
    for name, extra in sets.items():
        wide = Schema((*schema.columns, *extra))
        model = bs.ECOD(schema=wide).fit(rolled[:half])
        scores = model.decision_function(rolled[half:])
        normal = labels == 0
        aurocs = [
            roc_auc_score(np.r_[np.zeros(normal.sum()), np.ones(k.sum())], np.r_[scores[normal], scores[k]])
            for k in kinds.values()
        ]
        line = "".join(f"{value:18.3f}" for value in aurocs)
        print(f"{name:34s}{line}{average_precision_score(labels, scores):20.4f}")

    state = RollingState(schema=schema, values=["amount"], **options)
    rows = list(table[: min(50_000, half)].iter_rows(named=True))
    begin = time.perf_counter()
    got = [state.push(row) for row in rows]
    each = (time.perf_counter() - begin) / len(rows)
    names = [column.name for column in columns]
    same = all(
        list(a.values()) == list(b) for a, b in zip(got, rolled[: len(rows)].select(names).iter_rows(), strict=True)
    )
    print(f"the stream: {each * 1e6:.0f} us a record, {len(rows):,} records, equal to the table: {same}")


def main() -> None:
    warnings.simplefilter("ignore")
    options = {"windows": ("1h", "1d", "7d", "30d"), "most": 1000}
    measure("fraud_handbook", *handbook(), options, "scenario")
    # a PaySim step is an hour, and windows are in its own unit
    measure("PaySim", *paysim(), {"windows": (1, 24), "most": 1000}, None)


if __name__ == "__main__":
    main()
