"""Several detectors side by side: one table and one plot, as a page or as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blindsight.errors import StoreError
from blindsight.keys import write_atomic

from ._figures import compare_axes, compare_figure
from ._words import describe_bytes

__all__ = ["Absent", "Compared", "render_compared", "write_compared"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How one detector did.

    Parameters
    ----------
    name : str
    measurable : bool
        False where noise drowns the AUROC.
    auroc, auroc_low, auroc_high : float
        With the ends of its 95% interval.
    average_precision, false_positive_rate, false_negative_rate : float
    seconds : float
        Of the fit.
    sums : int or None
        Private sums of fit, threshold and evaluation; None outside a federation.
    bytes_total : int or None
        Through the coordinator, both ways.
    epsilon : float or None
        Charged for this detector alone.
    roc : tuple of (false positive rate, true positive rate)
    """

    name: str
    measurable: bool
    auroc: float
    auroc_low: float
    auroc_high: float
    average_precision: float
    false_positive_rate: float
    false_negative_rate: float
    seconds: float
    roc: tuple[tuple[float, float], ...]
    sums: int | None = None
    bytes_total: int | None = None
    epsilon: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row of a table: name, AUROC, interval, AP, FPR, FNR, seconds, sums, bytes, epsilon."""
        return (
            self.name,
            f"{self.auroc:.3f}" if self.measurable else "not measurable",
            f"{self.auroc_low:.3f}-{self.auroc_high:.3f}" if self.measurable else "",
            f"{self.average_precision:.3f}",
            f"{self.false_positive_rate:.4f}",
            f"{self.false_negative_rate:.3f}",
            f"{self.seconds:.2f}",
            "" if self.sums is None else str(self.sums),
            "" if self.bytes_total is None else describe_bytes(self.bytes_total),
            "none" if self.epsilon is None else f"{self.epsilon:.3g}",
        )


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A detector that has no figures, and why.

    Parameters
    ----------
    name : str
    kind : {"left out", "refused"}
        Ruled out by schema or privacy before anything was asked; refused by a party's policy or budget.
    reason : str
    sums : int
        Sums that a party had charged before it was refused.
    epsilon : float or None
        What these cost; None where there were none, and for exact sums.
    """

    name: str
    kind: Literal["left out", "refused"]
    reason: str
    sums: int = 0
    epsilon: float | None = None

    @property
    def remark(self) -> str:
        """Why, and what it has cost."""
        if self.kind == "left out":
            return f"left out: {self.reason}"
        if not self.sums:
            return f"refused: {self.reason}; nothing was charged for it"
        cost = "" if self.epsilon is None else f", epsilon {self.epsilon:.3g} together"
        return f"refused: {self.reason}; charged before that: {self.sums} sum{'s' * (self.sums > 1)}{cost}"

    def cells(self) -> tuple[str, ...]:
        """The row of a table: name, nine empty cells, remark."""
        return (self.name, *[""] * 9, self.remark)


def render_compared(
    compared: Sequence[Compared], *, note: str, epsilon: float | None, absent: Sequence[Absent] = ()
) -> str:
    """Return one self-contained page: no script, nothing fetched, every value escaped.

    Parameters
    ----------
    absent : sequence of Absent
        Detectors that could not be fitted, or that a party refused.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blindsight.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figure = Markup(compare_figure(compared))  # noqa: S704 (matplotlib has escaped what it drew)
    return environment.get_template("compare.html.j2").render(
        compared=compared, note=note, epsilon=epsilon, figure=figure, absent=absent
    )


def write_compared(
    compared: Sequence[Compared],
    path: str | os.PathLike[str],
    *,
    note: str,
    epsilon: float | None,
    absent: Sequence[Absent] = (),
) -> None:
    """Write the page (.html) or the plot alone (.png, .svg).

    Raises
    ------
    StoreError
        It cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".html":
        write_atomic(path, render_compared(compared, note=note, epsilon=epsilon, absent=absent).encode("utf-8"))
        return
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7.6, 4.4))
    compare_axes(figure, compared)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StoreError("The plot could not be written", got=error.strerror or "an error") from error
