"""Fleets in one process: minutes, memory, bytes and exactness of ECOD among 10 to 1,000 virtual parties.

UCI Adult (32,561 persons, 14 features), cut unevenly by a Dirichlet split (alpha 0.5, by income), 30% of the parties
drop out of the first sum, at any of its phases, half of them after having computed. Exact sums, so that the result can
be compared: every opened total with NumPy's sum over the survivors' records, integer for integer, and the model with
the fit of one detector on the survivors' records together, bit for bit.

Simulated: latency (median 50 ms), bandwidth (median 20 Mbit/s), slowness, who drops out, virtual seconds. Measured:
processor time and memory of this one process, in which all parties and the coordinator run; bytes; exactness. Every
number of parties runs in a process of its own, one after another. "party ms" is what one party computed on average,
both sums together; it is what a real party would compute.

    python benchmarks/simulate.py [--parties 10 100 300 1000] [--seed 7]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings

import numpy as np
import polars as pl

from _adbench import data_folder

NAMES = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]


def adult() -> pl.DataFrame:
    frame = pl.read_csv(data_folder() / "adult" / "adult.data", has_header=False, new_columns=NAMES)
    frame = frame.with_columns(pl.col(pl.String).str.strip_chars())
    frame = frame.drop_nulls("age")  # the file ends in an empty line
    return frame.with_columns((pl.col("income") == ">50K").cast(pl.Int8))


def measure(parties: int, seed: int) -> dict[str, object]:
    import blindsight as bs
    from blindsight.channels import SimulatedNetwork
    from blindsight.data import Split, partition, records

    warnings.simplefilter("ignore")
    seen = []

    class Watched(bs.ECOD):
        """The coordinator's ECOD; it shows what was opened."""

        def advance(self, query: object, total: object) -> None:
            seen.append((query, total))
            super().advance(query, total)

    table = adult()
    schema = bs.Schema.infer(table, label="income").declare()
    data = partition(table, schema, parties, Split(kind="dirichlet", alpha=0.5), seed=seed)
    began, wall = time.process_time(), time.perf_counter()
    federation = bs.Federation.simulated(
        data,
        schema=schema,
        network=SimulatedNetwork(dropout=0.3, dropouts_in="first"),
        seed=seed,
        policy=bs.Policy(allow_exact_sums=True, detectors=("ECOD",)),
        progress=lambda step, phase: print(f"  {parties}: {step}, {phase}", file=sys.stderr),
    )
    model = federation.fit(Watched(), privacy=None)
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    fleet = federation.fleet()

    integers = True
    for query, total in seen:
        expected = np.zeros(query.length, dtype=np.int64)
        for name in total.parties:
            for chunk in records(schema, data[name], warn=False):
                query.add(expected, chunk)
        integers &= bool(np.array_equal(total.values, expected))
    survivors = seen[0][1].parties
    central = bs.ECOD(schema=schema).fit(pl.concat([data[name] for name in survivors]))
    same = model.circuit_ == central.circuit_ and model.threshold_ == central.threshold_
    return {
        "parties": parties,
        "rows": [min(map(len, data.values())), max(map(len, data.values()))],
        "survivors": [len(total.parties) for _, total in seen],
        "answered": [(e.conversation, e.part, e.asked, e.answered) for e in fleet.exchanges],
        "cpu_min": cpu / 60,
        "wall_min": wall / 60,
        "party_ms": 1e3 * fleet.handlers_cpu_s / parties,
        "peak_gb": fleet.peak_bytes / 1e9,
        "virtual_s": fleet.virtual_s,
        "down_kb": fleet.party_received_bytes[1] / 1e3,
        "up_kb": fleet.party_sent_bytes[1] / 1e3,
        "integers": integers,
        "same": bool(same),
        "sums": len(seen),
    }


def dealing_ms(parties: int) -> float:
    """Processor time of sharing two secrets, the best of three."""
    from blindsight.securesum._shamir import deal

    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for secret in (bytes(32), b"\xff" * 32):
            deal(secret, threshold=2 * parties // 3 + 1, points=range(1, parties + 1))
        best = min(best, time.process_time() - began)
    return 1e3 * best


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.seed)))
        return 0
    print(
        f"{'parties':>8}{'rows each':>12}{'survivors':>11}{'CPU min':>9}{'wall min':>10}{'party ms':>10}{'peak GB':>9}"
        f"{'virtual s':>11}{'kB down':>9}{'kB up':>7}  totals  model"
    )
    good = True
    for parties in options.parties:
        command = [sys.executable, __file__, "--one", str(parties), "--seed", str(options.seed)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        got = json.loads(ran.stdout)
        good &= got["integers"] and got["same"]
        rows = f"{got['rows'][0]} to {got['rows'][1]}"
        survivors = ", ".join(map(str, got["survivors"]))
        print(
            f"{parties:>8}{rows:>12}{survivors:>11}{got['cpu_min']:>9.2f}{got['wall_min']:>10.2f}"
            f"{got['party_ms']:>10.0f}{got['peak_gb']:>9.2f}{got['virtual_s']:>11.0f}{got['down_kb']:>9.0f}"
            f"{got['up_kb']:>7.0f}  {'equal' if got['integers'] else 'DIFFER':<8}"
            f"{'equal' if got['same'] else 'DIFFERS'}",
            flush=True,
        )
        print(f"  {got['answered']}", file=sys.stderr)
    print(
        "a party deals its two secrets, threshold floor(2n/3) + 1: "
        + ", ".join(f"{dealing_ms(parties):.1f} ms among {parties:,}" for parties in options.parties)
    )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
