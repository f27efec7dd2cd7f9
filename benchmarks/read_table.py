"""Reading by schema: rows a second on one core, and peak memory at 1 and 20 million rows.

    python benchmarks/read_table.py [--rows 20] [--folder /tmp]

Every line is a process of its own, bound to one core where the system allows it. The files are warm in the
page cache, so the figures are those of decoding and validation, not of the disk. Peers that do no validation are
measured in the same run: polars reading the whole file at once, and pandas reading CSV in chunks.
Needs 2 GB in the folder for 20 million rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import json, os, sys, time
kind, path = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

def peak_mib():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024

import numpy as np
import polars as pl
if kind == "blindsight":
    from blindsight.data import Column, Schema, read_table
    schema = Schema([Column(name=f"x{i}", low=-8, high=8) for i in range(10)])
elif kind == "pandas":
    import pandas as pd
before, start, rows, total = peak_mib(), time.perf_counter(), 0, 0.0
if kind == "blindsight":
    for chunk in read_table(path, schema):
        rows += len(chunk)
        total += float(chunk.X[0, 0])
elif kind == "polars":
    frame = pl.read_parquet(path) if path.endswith("parquet") else pl.read_csv(path)
    rows = len(frame.to_numpy())
else:
    for frame in pd.read_csv(path, chunksize=65_536):
        rows += len(frame.to_numpy())
seconds = time.perf_counter() - start
print(json.dumps({"rows": rows, "seconds": seconds, "before": before, "peak": peak_mib()}))
"""


def write(folder: Path, millions: int) -> list[Path]:
    """Write one million rows as CSV and Parquet, and the same rows repeated as a long Parquet file."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    frame = pl.DataFrame({f"x{i}": rng.standard_normal(1_000_000) for i in range(10)})
    short, text, long = folder / "1m.parquet", folder / "1m.csv", folder / f"{millions}m.parquet"
    frame.write_parquet(short, row_group_size=262_144)
    frame.write_csv(text)
    pl.concat([pl.scan_parquet(short)] * millions).sink_parquet(long, row_group_size=262_144)
    return [short, long, text]


def measure(kind: str, path: Path) -> float:
    """Read one file in one process, print a line of the table, return the peak in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    got = json.loads(done.stdout)
    rate = got["rows"] / got["seconds"] / 1e6
    size = path.stat().st_size / got["rows"]
    print(
        f"{kind:<11} {path.name:<12} {got['rows']:>11,} rows  {size:5.0f} B/row  {rate:7.2f} M rows/s"
        f"  peak {got['peak']:6.0f} MiB (imports {got['before']:.0f})"
    )
    return float(got["peak"])


def main() -> None:
    """Write the files, measure, compare with the bars, remove the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20, help="millions of rows of the long file")
    parser.add_argument("--folder", default=None, help="where to write the files for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        short, long, text = write(Path(folder), options.rows)
        peaks = [measure("blindsight", path) for path in (short, long)]
        measure("polars", short)
        measure("blindsight", text)
        measure("polars", text)
        measure("pandas", text)
    print(f"peak at {options.rows} million rows / peak at 1 million: {peaks[1] / peaks[0]:.2f} (bar: at most 1.20)")


if __name__ == "__main__":
    main()
