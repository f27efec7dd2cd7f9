"""Public inputs of a network that looks at windows: rows standardised one by one, and the window by itself if asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from blindsight.errors import FormatError, ParameterError

from ._encoding import Floats, number
from ._standardised import Standardised, standardised_from_json, standardised_to_json

__all__ = ["DEVIATION_FLOOR", "Windowed", "windowed_from_json", "windowed_to_json"]

DEVIATION_FLOOR = 0.05
"""Added to the deviation of a window's channel that is scaled by its own: a constant channel stays near zero."""

MAX_WINDOW, MAX_HORIZON = 1024, 256
MAX_WIDTH = 1 << 20
KEYS = {"kind", "rows", "window", "horizon", "by_window", "interval", "tolerance"}


@dataclass(frozen=True, kw_only=True)
class Windowed:
    """Windows of records that follow each other, row after row; the one that ends with a record is that record's.

    Parameters
    ----------
    rows : Standardised
        What becomes of each record.
    window, horizon : int
        Records that the network looks at, 2 to 1,024, and records after them that it foretells, 0 to 256.
    by_window : bool
        Move and scale every input of a record by its mean and deviation over the records looked at (Kim et al. 2022,
        RevIN, without learned parameters).
    interval : float, optional
        Declared distance between records in the time column's unit: a window crosses no larger one.
    tolerance : float in [0, .5)
        Fraction of the interval by which a distance may be off.
    """

    kind: ClassVar[str] = "windows"

    rows: Standardised
    window: int
    horizon: int
    by_window: bool
    interval: float | None
    tolerance: float

    def __post_init__(self) -> None:
        if not 2 <= self.window <= MAX_WINDOW or not 0 <= self.horizon <= MAX_HORIZON:
            raise ParameterError("A window's length is out of its domain", got=f"{self.window} and {self.horizon}")
        if self.interval is not None and not (math.isfinite(self.interval) and self.interval > 0):
            raise ParameterError("interval is out of its domain", got=str(self.interval))
        if not 0 <= self.tolerance < 0.5:
            raise ParameterError("tolerance is out of its domain", got=str(self.tolerance))
        if self.width > MAX_WIDTH:
            raise ParameterError("The inputs are too wide", got=f"{self.width}", rule=f"at most {MAX_WIDTH}")

    @property
    def span(self) -> int:
        """Records that one score depends on."""
        return self.window + self.horizon

    @property
    def n_features(self) -> int:
        """Number of input features d of a record."""
        return self.rows.n_features

    @property
    def width(self) -> int:
        """Number of inputs m of a window."""
        return self.span * self.rows.width

    @property
    def reach(self) -> Floats:
        """Largest absolute value of each input, shape (m,)."""
        if not self.by_window:
            return np.full(self.width, self.rows.max_abs)
        seen = min(2 * self.rows.max_abs / DEVIATION_FLOOR, math.sqrt(self.window - 1))  # of n numbers, by Samuelson
        later = 2 * self.rows.max_abs / DEVIATION_FLOOR
        each = np.where(np.arange(self.span) < self.window, seen, later)
        return np.repeat(each, self.rows.width)

    @property
    def max_abs(self) -> float:
        """Largest absolute value of any input."""
        return float(self.reach.max())

    def encode(self, X: Floats) -> Floats:
        """Map windows of feature rows, (n, span, d), to (n, m) inputs, float64."""
        n = len(X)
        flat = self.rows.encode(X.reshape(n * self.span, self.n_features))
        return self.joined(flat.reshape(n, self.span, self.rows.width))

    def joined(self, Z: Floats) -> Floats:
        """Windows of input rows, (n, span, inputs of a row), as (n, m)."""
        if self.by_window:
            seen = Z[:, : self.window]
            mean = seen.mean(axis=1, keepdims=True)
            deviation = np.sqrt(((seen - mean) ** 2).mean(axis=1, keepdims=True))
            Z = (Z - mean) / (deviation + DEVIATION_FLOOR)
        return Z.reshape(len(Z), self.width)


def windowed_to_json(value: Windowed) -> dict[str, Any]:
    """Plain JSON values; floats survive exactly (shortest round-trip form)."""
    return {
        "kind": value.kind,
        "rows": standardised_to_json(value.rows),
        "window": value.window,
        "horizon": value.horizon,
        "by_window": value.by_window,
        "interval": value.interval,
        "tolerance": value.tolerance,
    }


def windowed_from_json(value: object) -> Windowed:
    """Rebuild windows from untrusted JSON values; FormatError on anything malformed."""
    try:
        if not isinstance(value, dict) or set(value) != KEYS or value["kind"] != Windowed.kind:
            raise TypeError
        if type(value["by_window"]) is not bool:
            raise TypeError
        if any(type(value[name]) is not int for name in ("window", "horizon")):
            raise TypeError
        interval = value["interval"]
        return Windowed(
            rows=standardised_from_json(value["rows"]),
            window=value["window"],
            horizon=value["horizon"],
            by_window=value["by_window"],
            interval=None if interval is None else number(interval),
            tolerance=number(value["tolerance"]),
        )
    except (TypeError, OverflowError, ParameterError) as error:
        raise FormatError(
            "The description of a network's windows is malformed",
            rule="docs/wire-blind.md, 'MPC'",
            fix="ask the model's holder for a fresh copy",
        ) from error
