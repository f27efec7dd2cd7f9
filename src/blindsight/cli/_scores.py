"""Scores or verdicts into a file, chunk by chunk, with row numbers. CSV or Parquet; never a half-written file."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError, StoreError

from ._exits import DISK_FULL

__all__ = ["ScoreWriter", "VerdictWriter", "largest"]

TOP = 10
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Writer:
    """Appends frames of rows to a file that appears under its name only when everything is in it.

    Parameters
    ----------
    path : Path
        Ends in .csv, .parquet or .pq.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in (".csv", ".parquet", ".pq"):
            raise ParameterError(
                "--output is of an unknown kind", got=path.suffix or "no suffix", rule=".csv, .parquet or .pq"
            )
        self.path = path
        self.rows = self.alerts = 0
        self._parquet = path.suffix.lower() != ".csv"

    def __enter__(self) -> Self:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix=".scores-", dir=self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        self._parts: list[Path] = []
        self._whole = Path(self._folder.name) / "scores.csv"
        return self

    def _append(self, columns: dict[str, Any], count: int) -> None:
        """Write the next ``count`` rows, with their numbers."""
        import polars as pl

        frame = pl.DataFrame({"row": np.arange(self.rows, self.rows + count, dtype=np.int64), **columns})
        try:
            if self._parquet:
                self._parts.append(Path(self._folder.name) / f"{len(self._parts):08d}.parquet")
                frame.write_parquet(self._parts[-1])
            else:
                with self._whole.open("ab") as file:
                    frame.write_csv(file, include_header=self.rows == 0)
        except OSError as error:
            raise self._unwritable(error) from error
        self.rows += count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as trouble:
            raise self._unwritable(trouble) from trouble
        finally:
            with contextlib.suppress(OSError):
                self._folder.cleanup()

    def _finish(self) -> None:
        import polars as pl

        if self._parquet:
            self._whole = Path(self._folder.name) / "scores.parquet"
            pl.scan_parquet(self._parts).sink_parquet(self._whole)
        with self._whole.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._whole, self.path)

    def _unwritable(self, error: OSError) -> StoreError:
        told = error.strerror or str(error)[:200] or type(error).__name__
        # polars gives the number in words alone
        full = error.errno in FULL or any(f"os error {number}" in str(error) for number in FULL)
        return StoreError(
            f"The scores '{self.path.name}' could not be written{f': {DISK_FULL}' if full else ''}",
            got=told,
            rule="an earlier file of that name is left as it was",
            fix="free disk space, or choose another folder",
        )

    def summary(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"output": str(self.path), "records": self.rows, "alerts": self.alerts}


class ScoreWriter(_Writer):
    """Writes ``row, score, alert`` and remembers the highest scores.

    Parameters
    ----------
    path : Path
        Ends in .csv, .parquet or .pq. Appears under this name only when everything is in it.
    threshold : float
        Records with a higher score alert.

    Attributes
    ----------
    rows, alerts : int
    top : list of (row, score)
        The highest scores so far, at most ten.
    """

    def __init__(self, path: Path, threshold: float) -> None:
        super().__init__(path)
        self.threshold = threshold
        self.top: list[tuple[int, float]] = []

    def add(self, scores: npt.NDArray[np.float64], more: dict[str, Any] | None = None) -> None:
        """Append the scores of the next rows, shape (n,), and further columns of as many."""
        alert = scores > self.threshold
        best = np.argsort(-scores, kind="stable")[:TOP]
        candidates = self.top + [(self.rows + int(i), float(scores[i])) for i in best]
        self.top = sorted(candidates, key=lambda pair: (-pair[1], pair[0]))[:TOP]
        self._append({"score": scores, "alert": alert.astype(np.int8), **(more or {})}, len(scores))
        self.alerts += int(alert.sum())

    def summary(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        top = [{"row": row, "score": score, "alert": int(score > self.threshold)} for row, score in self.top]
        return super().summary() | {"threshold": self.threshold, "top": top}


class VerdictWriter(_Writer):
    """Writes ``row, verdict``: how many of the model's secret thresholds the score exceeds; 0 or 1 where it has one.

    Parameters
    ----------
    path : Path
        As for :class:`ScoreWriter`.
    thresholds : int

    Attributes
    ----------
    rows, alerts : int
        Of these, those with a verdict above 0.
    bands : list of int
        Records with each verdict, from 0 to ``thresholds``.
    """

    def __init__(self, path: Path, thresholds: int) -> None:
        super().__init__(path)
        self.bands = [0] * (thresholds + 1)

    def add(self, verdicts: npt.NDArray[np.int64]) -> None:
        """Append the verdicts of the next rows, shape (n,)."""
        counts = np.bincount(verdicts, minlength=len(self.bands))
        self._append({"verdict": verdicts.astype(np.int8)}, len(verdicts))
        self.bands = [had + int(more) for had, more in zip(self.bands, counts, strict=True)]
        self.alerts = self.rows - self.bands[0]

    def summary(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return super().summary() | {"bands": self.bands}


def largest(parts: npt.NDArray[np.float64], names: Sequence[str], count: int) -> dict[str, Any]:
    """Columns ``because_1, contribution_1, because_2, ..``: each record's largest contributions, with their names.

    Parameters
    ----------
    parts : ndarray of shape (n, blocks), float64
    names : sequence of str
        Of the blocks.
    count : int
        At most as many as there are blocks.
    """
    order = np.argsort(-parts, axis=1, kind="stable")[:, :count]
    columns: dict[str, Any] = {}
    for k in range(order.shape[1]):
        columns[f"because_{k + 1}"] = [names[block] for block in order[:, k]]
        columns[f"contribution_{k + 1}"] = np.take_along_axis(parts, order[:, k : k + 1], axis=1)[:, 0]
    return columns
