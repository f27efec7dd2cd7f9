"""The 29 tabular sets of ADBench, found by BLINDSIGHT_DATA or beside the checkout; never copied into the project."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def data_folder() -> Path:
    folder = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "adbench").is_dir():
        sys.exit("skipped: the folder with the adbench sets is absent; set BLINDSIGHT_DATA")
    return folder


def sets(minimum_rows: int = 0) -> list[Path]:
    """Files, smallest first."""
    files = sorted((data_folder() / "adbench").glob("*.npz"), key=lambda path: path.stat().st_size)
    return [path for path in files if len(load(path)[1]) >= minimum_rows]


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        return data["X"].astype(np.float64), data["y"].astype(np.int64)


def split(X: np.ndarray, y: np.ndarray, setting: str, seed: int) -> Split:
    """``unsupervised``: fit and score everything; ``normals``: fit on half of the normal rows, score the rest."""
    if setting == "unsupervised":
        return Split(X, X, y)
    normal = np.flatnonzero(y == 0)
    chosen = np.random.default_rng(seed).permutation(normal)[: len(normal) // 2]
    rest = np.setdiff1d(np.arange(len(y)), chosen)
    return Split(X[chosen], X[rest], y[rest])


def interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean over data sets."""
    rng = np.random.default_rng(seed)
    means = differences[rng.integers(0, len(differences), (10_000, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
