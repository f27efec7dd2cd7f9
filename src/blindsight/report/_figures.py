"""Figures as inline SVG: text stays text, colours are told apart by colour-blind readers, no plotting state is kept."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight.privacy import shown_epsilon

from ._record import Blind, Budget, Comparison, Curve, Histogram, MeasuredEvaluation, Stage

if TYPE_CHECKING:
    from ._compare import Compared

__all__ = [
    "blind_figure",
    "budget_figure",
    "compare_axes",
    "compare_figures",
    "cost_figure",
    "even_bins",
    "left_out",
    "legend_mark",
    "loss_figure",
    "roc_figure",
    "score_figure",
]

BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
"""Okabe and Ito, 2008."""
INK, FAINT = "#1f2933", "#c9d1d9"
WIDTH = 5.0
"""Inches of a figure: as wide as a phone shows at the size of its own letters; a screen shows it larger."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a party named '$x' is a name, not a formula
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.title_fontsize": 9.0,
    "path.simplify": True,
}


def roc_figure(comparison: Comparison | None, evaluation: MeasuredEvaluation | None, *, exact: bool) -> str:
    """ROC of local, federated and centralised models in the clear, and the one from sums of labelled records.

    Two or more parties alone are one band, from the worst to the best of them at every rate: their lines would lie
    upon each other and upon the federated one.
    """
    curves = comparison.curves if comparison is not None else ()
    local = [curve for curve in curves if curve.kind == "local"]
    measured = evaluation if evaluation is not None and evaluation.measurable else None
    entries = sum(curve.kind != "local" for curve in curves) + bool(local) + (measured is not None)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        if len(local) == 1:
            axes.plot(*np.array(local[0].roc).T, color=ORANGE, linewidth=1.5, label=_named(local[0]))
        elif local:
            grid = np.unique(np.concatenate([np.array(curve.roc)[:, 0] for curve in local]))
            found = np.array([np.interp(grid, *np.array(curve.roc).T) for curve in local])
            low, high = min(curve.auroc for curve in local), max(curve.auroc for curve in local)
            axes.fill_between(
                grid,
                found.min(axis=0),
                found.max(axis=0),
                color=ORANGE,
                alpha=0.45,
                linewidth=0,
                label=f"{len(local)} parties alone, worst to best: {low:.3f} to {high:.3f}",
            )
        for curve in curves:
            if curve.kind == "federated":
                axes.plot(*np.array(curve.roc).T, color=BLUE, linewidth=2.0, label=_named(curve))
            elif curve.kind == "centralised":
                axes.plot(*np.array(curve.roc).T, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=_named(curve))
        if measured is not None:
            axes.plot(
                *np.array(measured.roc).T,
                color=VERMILLION,
                linewidth=1.5,
                marker="o",
                markersize=3,
                label=f"federated, {'exact' if exact else 'private'} sums: {measured.auroc:.3f}",
            )
        _rates(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", title="AUROC", alignment="left")

    return _svg(draw, "roc", (WIDTH, 4.6 + 0.2 * entries), "ROC curves")


def _named(curve: Curve) -> str:
    return f"{curve.kind}: {_short(curve.name)}, {curve.auroc:.3f}"


def _rates(axes: Any) -> None:
    axes.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        xlabel="False positive rate (normal records that would alert)",
        ylabel="True positive rate (anomalies found)",
    )
    axes.set_aspect("equal", anchor="W")


PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, INK)
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))


def _look(place: int) -> dict[str, Any]:
    """How the detector of this rank is drawn, in every figure and in the table: colour and, beyond seven, dashes."""
    return {"color": PALETTE[place % len(PALETTE)], "linestyle": DASHES[place // len(PALETTE) % len(DASHES)]}


def legend_mark(place: int) -> str:
    """The line of the detector of this rank, as inline SVG for a table."""
    look = _look(place)
    dashes = "" if look["linestyle"] == "solid" else ",".join(f"{3 * part:g}" for part in look["linestyle"][1])
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        '<svg viewBox="0 0 36 12" aria-hidden="true">'
        f'<path d="M0 6H36" stroke="{look["color"]}" stroke-width="4" fill="none"{dashed}/></svg>'
    )


def compare_axes(axes: Any, compared: Sequence[Compared]) -> None:
    """Draw the ROC curves of several detectors, the best first."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    for place, one in enumerate(compared):
        if one.measurable:
            axes.plot(*np.array(one.roc).T, linewidth=1.8, label=f"{_short(one.name)}, {one.auroc:.3f}", **_look(place))
    _rates(axes)


def compare_figures(compared: Sequence[Compared]) -> list[str]:
    """ROC curves, and for several detectors AUROC with its interval, as inline SVG; none where nothing was measured.

    Parameters
    ----------
    compared : sequence of Compared
        The best first.
    """
    shown = [one for one in compared if one.measurable]
    if not shown:
        return []

    def intervals(figure: Any) -> None:
        axes = figure.subplots()
        for place, one in enumerate(compared):
            if one.measurable:
                look = _look(place)
                axes.plot([one.auroc_low, one.auroc_high], [-place, -place], linewidth=2.2, **look)
                axes.plot(one.auroc, -place, marker="o", markersize=6, color=look["color"])
        axes.set_yticks([-place for place in range(len(shown))], [_short(one.name) for one in shown])
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="AUROC with its 95% interval", ylim=(-len(shown) + 0.4, 0.6))
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)

    roc = _svg(
        lambda figure: compare_axes(figure.subplots(), compared), "compare", (WIDTH, 4.6), "ROC curves of the detectors"
    )
    if len(shown) == 1:
        return [roc]
    height = min(1.0 + 0.36 * len(shown), 7.0)
    return [roc, _svg(intervals, "intervals", (WIDTH, height), "AUROC of the detectors with its interval")]


def budget_figure(budgets: tuple[Budget, ...]) -> str:
    """Epsilon spent against each party's budget."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shown = budgets[:20]
        places = np.arange(len(shown))[::-1]
        limits = np.array([b.limit for b in shown])
        before = np.array([min(b.spent_before, b.spent) for b in shown])
        spent = np.array([b.spent for b in shown])
        axes.barh(places, limits, height=0.56, facecolor="white", edgecolor=INK, linewidth=0.9, label="budget")
        if before.any():
            axes.barh(places, before, height=0.56, color=SKY, label="spent before")
        axes.barh(places, spent - before, left=before, height=0.56, color=BLUE, label="spent by this run")
        for place, budget in zip(places, shown, strict=True):
            axes.text(
                budget.limit + 0.015 * limits.max(),
                place,
                f"{shown_epsilon(budget.spent)} of {budget.limit:g}",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(places, [f"{_short(b.party)}, per {b.unit}" for b in shown])
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="epsilon", xlim=(0, limits.max() * 1.16), ylim=(-0.6, len(shown) - 0.4))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    height = 1.35 + 0.42 * min(len(budgets), 20)
    return _svg(draw, "budget", (WIDTH, height), "Privacy budget spent by party")


def score_figure(histogram: Histogram, threshold: float, *, noisy: bool) -> str:
    """Released score histogram with the threshold."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        edges, counts = even_bins(histogram)
        axes.stairs(counts, edges, fill=True, color=SKY)
        axes.stairs(counts, edges, color=BLUE, linewidth=1)
        axes.set_xlim(edges[0], max(edges[-1], threshold + 0.05 * abs(threshold)))
        axes.axvline(threshold, color=VERMILLION, linewidth=1.6)
        axes.text(
            threshold,
            1.01,
            f"alerts above {threshold:.2f}",
            transform=axes.get_xaxis_transform(),
            color=VERMILLION,
            ha="center",
            va="bottom",
            fontsize=9,
        )
        axes.set(xlabel="anomaly score", ylabel="training records" + (" (noisy)" if noisy else ""))

    return _svg(draw, "scores", (WIDTH, 2.9), "Distribution of scores and the threshold")


def even_bins(histogram: Histogram, bins: int = 24) -> tuple[list[float], list[float]]:
    """Move the released counts onto bins of one width, up to where they stand out of their noise.

    The released grid is finer where scores are small, so that its bare counts would draw a wrong shape.

    Returns
    -------
    edges : list of bins + 1 floats
    counts : list of bins floats, never negative
    """
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    cumulative = np.maximum.accumulate(np.cumsum(counts)[:-1])
    significant = np.flatnonzero(counts[1:-1] > 3 * histogram.noise_stddev) if len(edges) > 1 else np.array([])
    last = min(int(significant[-1]) + 2, len(edges) - 1) if significant.size else len(edges) - 1
    first = min(int(significant[0]), last - 1) if significant.size else 0
    low, high = float(edges[max(first, 0)]), float(edges[last])
    grid = np.linspace(low, max(high, low + 1e-9), bins + 1)
    return grid.tolist(), np.maximum(np.diff(np.interp(grid, edges, cumulative)), 0.0).tolist()


def left_out(histogram: Histogram) -> tuple[float, float]:
    """Records, as released, below and above what :func:`even_bins` draws; never negative."""
    edges, _ = even_bins(histogram)
    cumulative = np.cumsum(histogram.counts)[:-1]
    below, above = np.interp((edges[0], edges[-1]), histogram.edges, cumulative)
    return max(float(below), 0.0), max(float(sum(histogram.counts) - above), 0.0)


def blind_figure(blind: Blind) -> str:
    """Scores computed under encryption against the same scores in the clear."""

    def draw(figure: Any) -> None:
        axes, below = figure.subplots(2, 1, height_ratios=(3, 1))
        clear, opened = np.array(blind.sample).T
        low, high = float(min(clear.min(), opened.min())), float(max(clear.max(), opened.max()))
        margin = 0.04 * max(high - low, 1e-9)
        span = (low - margin, high + margin)
        axes.plot(span, span, color=FAINT, linewidth=1)
        axes.plot(clear, opened, linestyle="none", marker="o", markersize=3, color=BLUE, alpha=0.7)
        axes.set(xlim=span, ylim=span, xlabel="score in the clear", ylabel="score, blind")
        axes.set_aspect("equal", anchor="W")
        parts = (
            ("owner seals", blind.seal_seconds, GREEN),
            ("holder scores", blind.score_seconds, BLUE),
            ("owner opens", blind.open_seconds, SKY),
        )
        places = np.arange(3)[::-1]
        per_record = [1000 * seconds / max(blind.records, 1) for _, seconds, _ in parts]
        below.barh(places, per_record, height=0.6, color=[color for _, _, color in parts])
        for place, value in zip(places, per_record, strict=True):
            below.text(value + 0.03 * max([*per_record, 1e-9]), place, f"{value:.2f}", va="center", fontsize=9)
        below.set_yticks(places, [name for name, _, _ in parts])
        below.tick_params(axis="y", length=0)
        below.set(xlabel="milliseconds a record", xlim=(0, 1.25 * max([*per_record, 1e-9])))

    return _svg(draw, "blind", (WIDTH, 5.2), "Blind scores against clear scores, and the time they take")


def cost_figure(stages: tuple[Stage, ...]) -> str:
    """Seconds and bytes of every sum."""

    def draw(figure: Any) -> None:
        shown = stages[:20]
        places = np.arange(len(shown))[::-1]
        upper, lower = figure.subplots(2, 1)
        seconds = [stage.seconds for stage in shown]
        kilobytes = [(stage.sent_bytes + stage.received_bytes) / 1000 for stage in shown]
        for axes, values, color, label in (
            (upper, seconds, BLUE, "seconds, all parties and coordinator"),
            (lower, kilobytes, GREEN, "kilobytes through the coordinator"),
        ):
            axes.barh(places, values, height=0.56, color=color)
            top = max([*values, 1e-9])
            for place, value in zip(places, values, strict=True):
                axes.text(value + 0.02 * top, place, f"{value:.3g}", va="center", fontsize=9)
            axes.set(xlabel=label, xlim=(0, top * 1.2))
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(places, [_short(stage.step, 32) for stage in shown])

    return _svg(draw, "cost", (WIDTH, 1.4 + 0.6 * min(len(stages), 20)), "Time and bytes of every private sum")


def loss_figure(losses: Sequence[tuple[int, float]]) -> str:
    """Privately summed validation loss by round."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        x, y = np.array(losses, dtype=float).T
        best, step = int(np.argmin(y)), max(1, len(x) // 200)  # a page has room for a few hundred points
        axes.plot(x[::step], y[::step], color=BLUE, linewidth=1.8, marker="o" if len(x) <= 60 else None, markersize=3)
        axes.plot(x[best], y[best], marker="o", markersize=7, color=VERMILLION)
        axes.annotate(
            "smallest", (x[best], y[best]), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9
        )
        axes.set(xlabel="round", ylabel="mean loss")
        axes.margins(y=0.2)

    return _svg(draw, "loss", (WIDTH, 2.4), "Validation loss by round")


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(draw: Callable[[Any], None], name: str, size_inches: tuple[float, float], title: str) -> str:
    """Render one figure without pyplot, so that no state is left behind and no window can open."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # ids are unique in the page and equal from run to run
    style: Any = {**STYLE, "svg.hashsalt": f"blindsight-{name}"}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the measuring font lacks: the reader's font draws
        figure = Figure(figsize=size_inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # its '*' rule would reach the whole page
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=3)  # an HTML parser knows them
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    # two decimals of a point are enough to draw; inside tags only, so that no label loses a digit
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.group()), text).strip()
