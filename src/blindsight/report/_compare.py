"""Several detectors side by side: one table that is the figures' legend, as a page; or the curves as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blindsight.errors import StoreError
from blindsight.keys import write_atomic
from blindsight.privacy import shown_epsilon

from ._figures import compare_axes, compare_figures, legend_mark
from ._words import describe_bytes

__all__ = ["OVERLAP", "About", "Absent", "Compared", "compared_table", "overlap", "render_compared", "write_compared"]

OVERLAP = "Where intervals overlap, these records do not tell which is better."


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How one detector did.

    Parameters
    ----------
    name : str
    measurable : bool
        False where noise drowns the AUROC, or where one class has no record.
    auroc, auroc_low, auroc_high : float
        With the ends of its 95% interval.
    average_precision, false_positive_rate, false_negative_rate : float or None
        None where there is no record to measure it on.
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
    average_precision: float | None
    false_positive_rate: float | None
    false_negative_rate: float | None
    seconds: float
    roc: tuple[tuple[float, float], ...]
    sums: int | None = None
    bytes_total: int | None = None
    epsilon: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row of a table: name, AUROC, interval, AP, FPR, FNR, seconds, sums, bytes, epsilon; "" for none."""
        return (
            self.name,
            f"{self.auroc:.3f}" if self.measurable else "not measurable",
            f"{self.auroc_low:.3f}-{self.auroc_high:.3f}" if self.measurable else "",
            "" if self.average_precision is None else f"{self.average_precision:.3f}",
            "" if self.false_positive_rate is None else f"{self.false_positive_rate:.4f}",
            "" if self.false_negative_rate is None else f"{self.false_negative_rate:.3f}",
            f"{self.seconds:.2f}",
            "" if self.sums is None else str(self.sums),
            "" if self.bytes_total is None else describe_bytes(self.bytes_total),
            "" if self.epsilon is None else shown_epsilon(self.epsilon),
        )


HEADINGS = ("Detector", "AUROC", "95% interval", "AP", "FPR", "FNR", "Seconds", "Sums", "Bytes", "Epsilon")


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
        cost = "" if self.epsilon is None else f", epsilon {shown_epsilon(self.epsilon)} together"
        return f"refused: {self.reason}; charged before that: {self.sums} sum{'s' * (self.sums > 1)}{cost}"


@dataclass(frozen=True, kw_only=True)
class About:
    """What stands above a comparison.

    Parameters
    ----------
    note : str
        Whose records, and how they were measured.
    created_utc : str
    records : str
        How many were fitted and how many measured, in words; "" if unknown.
    epsilon : float or None
        Charged for all detectors together.
    warnings : tuple of str
        That came up.
    """

    note: str
    created_utc: str = ""
    records: str = ""
    epsilon: float | None = None
    warnings: tuple[str, ...] = ()


def ranked(compared: Sequence[Compared]) -> list[Compared]:
    """The best AUROC first, and last what could not be measured."""
    return sorted(compared, key=lambda one: (not one.measurable, -one.auroc))


def compared_table(compared: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, the best first; a column in which nobody has a value is left out."""
    rows = [one.cells() for one in ranked(compared)]
    kept = [place for place in range(len(HEADINGS)) if any(row[place] for row in rows)]
    return [HEADINGS[place] for place in kept], [[row[place] for place in kept] for row in rows]


def overlap(compared: Sequence[Compared]) -> bool:
    """Whether another detector's interval reaches that of the best."""
    shown = [one for one in ranked(compared) if one.measurable]
    return any(one.auroc_high >= shown[0].auroc_low for one in shown[1:])


def render_compared(compared: Sequence[Compared], *, about: About, absent: Sequence[Absent] = ()) -> str:
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
    environment.filters["epsilon"] = shown_epsilon
    order = ranked(compared)
    headings, rows = compared_table(compared)
    marks = [Markup(legend_mark(place)) if one.measurable else "" for place, one in enumerate(order)]  # noqa: S704
    return environment.get_template("compare.html.j2").render(
        compared=order,
        headings=headings,
        rows=list(zip(marks, rows, strict=True)),
        about=about,
        # matplotlib has escaped what it drew
        figures=[Markup(svg) for svg in compare_figures(order)],  # noqa: S704
        absent=absent,
        overlap=OVERLAP if overlap(compared) else "",
    )


def write_compared(
    compared: Sequence[Compared],
    path: str | os.PathLike[str],
    *,
    about: About,
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
        write_atomic(path, render_compared(compared, about=about, absent=absent).encode("utf-8"))
        return
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7.6, 4.4))
    compare_axes(figure.add_axes((0.09, 0.12, 0.50, 0.84)), ranked(compared))
    if any(one.measurable for one in compared):
        figure.legend(loc="center left", bbox_to_anchor=(0.6, 0.52), title="AUROC", frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StoreError("The plot could not be written", got=error.strerror or "an error") from error
