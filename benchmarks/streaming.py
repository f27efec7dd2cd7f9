"""Latency of one record: ``model.stream()`` beside ``decision_function`` of a table of one row.

python benchmarks/streaming.py
"""

from __future__ import annotations

import time
import warnings

import numpy as np

import blindsight as bs
from blindsight.data import Column, RollingState, Schema, rolling_features
from blindsight.detectors import (
    COPOD,
    HBOS,
    PCA,
    AutoEncoder,
    LSTMAutoEncoder,
    Mahalanobis,
    RandomFeatures,
    Training,
    TransformerAutoEncoder,
)

FEATURES = 20
SHORT = Training(rounds=1, learning_rate=0.05, clip_norm=1.0)


def microseconds(call, items) -> tuple[float, float]:
    """Median and 99th percentile of one call."""
    times = []
    for item in items:
        begin = time.perf_counter_ns()
        call(item)
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1e3, float(np.quantile(times, 0.99)) / 1e3


def line(name: str, times: tuple[float, float], table: float, same: str) -> None:
    print(f"{name:40s}{times[0]:12.1f}{times[1]:12.1f}{table:16.1f}{same:>8s}")


def main() -> None:
    warnings.simplefilter("ignore")
    schema = Schema(tuple(Column(name=f"x{i}", low=-6, high=6) for i in range(FEATURES)))
    generator = np.random.default_rng(0)
    X, fresh = generator.normal(size=(20_000, FEATURES)), generator.normal(size=(5_000, FEATURES))
    dicts = [dict(zip(schema.feature_names, row.tolist(), strict=True)) for row in fresh]
    lists = [list(record.values()) for record in dicts]
    print(f"one record of {FEATURES} features, microseconds")
    print(f"{'model and form of the record':40s}{'median':>12s}{'99th':>12s}{'table of one':>16s}{'equal':>8s}")
    for cls, options in (
        (bs.ECOD, {}),
        (COPOD, {}),
        (HBOS, {}),
        (PCA, {}),
        (Mahalanobis, {}),
        (RandomFeatures, {}),
        (AutoEncoder, {"training": SHORT}),
    ):
        model = cls(schema=schema, **options).fit(X)
        stream, expected = model.stream(), model.decision_function(fresh)
        table = microseconds(model.decision_function, list(fresh[:200, None]))[0]
        forms = {"dict": dicts, "list": lists, "array": list(fresh)} if cls is bs.ECOD else {"dict": dicts}
        for form, items in forms.items():
            some = items if cls is not AutoEncoder else items[:1000]
            same = [stream.score(item) for item in some] == expected[: len(some)].tolist()
            line(f"{cls.__name__}, {form}", microseconds(stream.score, some), table, "yes" if same else "NO")

    series = Schema((Column(name="t", role="time", type="number"), *schema.columns[:8]))
    rows = {"t": np.arange(20_000.0), **{f"x{i}": X[:, i] for i in range(8)}}
    records = [{name: float(values[at]) for name, values in rows.items()} for at in range(1000)]
    for cls in (LSTMAutoEncoder, TransformerAutoEncoder):
        model = cls(schema=series, window=32, training=SHORT).fit({k: v[:2000] for k, v in rows.items()})
        expected = model.decision_function({k: v[:1000] for k, v in rows.items()})
        first, again = model.stream(), model.stream()
        same = [first.score(record) for record in records] == expected.tolist()
        table = microseconds(model.decision_function, [{k: v[:32] for k, v in rows.items()}] * 20)[0]
        line(f"{cls.__name__}, 32 rows of 8", microseconds(again.score, records), table, "yes" if same else "NO")

    cards = Schema(
        (
            Column(name="t", role="time", type="number"),
            Column(name="terminal", role="entity", type="number"),
            Column(name="amount", low=0, high=500, scale="log"),
        )
    )
    options = {"schema": cards, "values": ["amount"], "windows": ["1h", "1d", "7d"]}
    payments = {
        "t": np.sort(generator.uniform(0, 60 * 86_400, 50_000)),
        "terminal": generator.integers(0, 1000, 50_000),
        "amount": generator.lognormal(3, 1, 50_000).clip(0, 500),
    }
    table, columns = rolling_features(payments, **options)
    model = bs.ECOD(schema=Schema((*cards.columns, *columns))).fit(table)
    expected, stream = model.decision_function(table), model.stream(RollingState(**options))
    items = [
        dict(zip(payments, row, strict=True)) for row in zip(*(v.tolist() for v in payments.values()), strict=True)
    ]
    same = [stream.score(item) for item in items] == expected.tolist()
    again = model.stream(RollingState(**options))
    line(
        f"ECOD on {len(columns)} rolling features, dict",
        microseconds(again.score, items),
        np.nan,
        "yes" if same else "NO",
    )


if __name__ == "__main__":
    main()
