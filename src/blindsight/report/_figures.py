"""Figures as inline SVG: text stays text, colours are told apart by colour-blind readers, no plotting state is kept."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._record import Blind, Budget, Comparison, Histogram, MeasuredEvaluation, Stage

if TYPE_CHECKING:
    from ._compare import Compared

__all__ = [
    "blind_figure",
    "budget_figure",
    "compare_axes",
    "compare_figure",
    "cost_figure",
    "even_bins",
    "loss_figure",
    "roc_figure",
    "score_figure",
]

BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
"""Okabe and Ito, 2008."""
INK, FAINT = "#1f2933", "#c9d1d9"
LOCAL = (SKY, ORANGE, GREEN, PURPLE)
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a party named '$x' is a name, not a formula
    "font.family": "sans-serif",
    "font.size": 10.0,
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
    "path.simplify": True,
}


def roc_figure(comparison: Comparison | None, evaluation: MeasuredEvaluation | None, *, exact: bool) -> str:
    """ROC of local, federated and centralised models in the clear, and the one from sums of labelled records."""

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.09, 0.12, 0.50, 0.84))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        local = 0
        dash: Any
        for curve in comparison.curves if comparison is not None else ():
            x, y = np.array(curve.roc).T
            if curve.kind == "local":
                color, width, dash = LOCAL[local % len(LOCAL)], 1.3, "solid"
                local += 1
            elif curve.kind == "federated":
                color, width, dash = BLUE, 2.6, "solid"
            else:
                color, width, dash = INK, 1.5, (0, (4, 2))
            axes.plot(
                x,
                y,
                color=color,
                linewidth=width,
                linestyle=dash,
                label=f"{curve.kind}: {_short(curve.name)}, {curve.auroc:.3f}",
            )
        if evaluation is not None and evaluation.measurable:
            x, y = np.array(evaluation.roc).T
            axes.plot(
                x,
                y,
                color=VERMILLION,
                linewidth=1.5,
                marker="o",
                markersize=3,
                label=f"federated, {'exact' if exact else 'private'} sums: {evaluation.auroc:.3f}",
            )
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            xlabel="False positive rate (normal records that would alert)",
            ylabel="True positive rate (anomalies found)",
        )
        axes.set_aspect("equal", anchor="W")
        figure.legend(*axes.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.6, 0.52), title="AUROC")

    return _svg(draw, "roc", (7.6, 4.4), "ROC curves")


PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, INK)
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))


def compare_axes(figure: Any, compared: Sequence[Compared]) -> None:
    """Draw several detectors' ROC curves into a figure; told apart by colour and, beyond seven, by dashes."""
    axes = figure.add_axes((0.09, 0.12, 0.50, 0.84))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    shown = [one for one in sorted(compared, key=lambda one: -one.auroc) if one.measurable]
    for place, one in enumerate(shown):
        x, y = np.array(one.roc).T
        axes.plot(
            x,
            y,
            color=PALETTE[place % len(PALETTE)],
            linestyle=DASHES[place // len(PALETTE) % len(DASHES)],
            linewidth=1.8,
            label=f"{_short(one.name)}, {one.auroc:.3f}",
        )
    axes.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        xlabel="False positive rate (normal records that would alert)",
        ylabel="True positive rate (anomalies found)",
    )
    axes.set_aspect("equal", anchor="W")
    if shown:
        figure.legend(*axes.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.6, 0.52), title="AUROC")


def compare_figure(compared: Sequence[Compared]) -> str:
    """ROC curves of several detectors as inline SVG."""
    return _svg(lambda figure: compare_axes(figure, compared), "compare", (7.6, 4.4), "ROC curves of the detectors")


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
                f"{budget.spent:.2f} of {budget.limit:g}",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(places, [f"{_short(b.party)}, per {b.unit}" for b in shown])
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="epsilon", xlim=(0, limits.max() * 1.16), ylim=(-0.6, len(shown) - 0.4))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    height = 1.35 + 0.42 * min(len(budgets), 20)
    return _svg(draw, "budget", (7.6, height), "Privacy budget spent by party")


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

    return _svg(draw, "scores", (7.6, 2.7), "Distribution of scores and the threshold")


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


def blind_figure(blind: Blind) -> str:
    """Scores computed under encryption against the same scores in the clear."""

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.1, 0.17, 0.42, 0.76))
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
        right = figure.add_axes((0.68, 0.32, 0.28, 0.42))
        places = np.arange(3)[::-1]
        per_record = [1000 * seconds / max(blind.records, 1) for _, seconds, _ in parts]
        right.barh(places, per_record, height=0.6, color=[color for _, _, color in parts])
        for place, value in zip(places, per_record, strict=True):
            right.text(value + 0.03 * max([*per_record, 1e-9]), place, f"{value:.2f}", va="center", fontsize=9)
        right.set_yticks(places, [name for name, _, _ in parts])
        right.tick_params(axis="y", length=0)
        right.set(xlabel="milliseconds a record", xlim=(0, 1.25 * max([*per_record, 1e-9])))

    return _svg(draw, "blind", (7.6, 3.2), "Blind scores against clear scores, and the time they take")


def cost_figure(stages: tuple[Stage, ...]) -> str:
    """Seconds and bytes of every sum."""

    def draw(figure: Any) -> None:
        shown = stages[:20]
        places = np.arange(len(shown))[::-1]
        left, right = figure.subplots(1, 2, sharey=True)
        seconds = [stage.seconds for stage in shown]
        kilobytes = [(stage.sent_bytes + stage.received_bytes) / 1000 for stage in shown]
        for axes, values, color, label in (
            (left, seconds, BLUE, "seconds, all parties and coordinator"),
            (right, kilobytes, GREEN, "kilobytes through the coordinator"),
        ):
            axes.barh(places, values, height=0.56, color=color)
            top = max([*values, 1e-9])
            for place, value in zip(places, values, strict=True):
                axes.text(value + 0.02 * top, place, f"{value:.3g}", va="center", fontsize=9)
            axes.set(xlabel=label, xlim=(0, top * 1.2))
            axes.tick_params(axis="y", length=0)
        left.set_yticks(places, [_short(stage.step, 32) for stage in shown])

    return _svg(draw, "cost", (7.6, 1.2 + 0.38 * min(len(stages), 20)), "Time and bytes of every private sum")


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

    return _svg(draw, "loss", (7.6, 2.4), "Validation loss by round")


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
        figure = Figure(figsize=size_inches, layout=None if name in ("roc", "blind", "compare") else "constrained")
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
