"""What an evaluation and a federation look like in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight import _html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._evaluation import Evaluation
    from ._federation import Federation

__all__ = ["evaluation_html", "federation_html", "plot_curves"]

MEASURES = (
    ("AUROC", "auroc"),
    ("average precision", "average_precision"),
    ("false positive rate", "false_positive_rate"),
    ("false negative rate", "false_negative_rate"),
)
MOST_POINTS = 200


def plot_curves(evaluation: Evaluation) -> Figure:
    """ROC and precision-recall curves side by side; without pyplot, so that no state is left behind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    exact = evaluation.noise_stddev == 0
    marker: Any = {} if exact else {"marker": "o", "markersize": 3}
    low, high = evaluation.intervals.get("auroc", (evaluation.auroc, evaluation.auroc))
    left.plot([0, 1], [0, 1], color="#8a949e", linewidth=1, linestyle=(0, (2, 3)))
    left.plot(*evaluation.roc.T, color=_html.BLUE, linewidth=2, **marker)
    left.set(xlabel="False positive rate", ylabel="True positive rate")
    left.set_title(f"AUROC {evaluation.auroc:.3f} [{low:.3f}, {high:.3f}]", fontsize=10)
    right.plot(*evaluation.precision_recall.T, color=_html.ORANGE, linewidth=2, **marker)
    right.set(xlabel="Recall", ylabel="Precision")
    right.set_title(f"average precision {evaluation.average_precision:.3f}", fontsize=10)
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def evaluation_html(evaluation: Evaluation) -> str:
    """A table of the measures with their intervals, and both curves."""
    rows = [
        (label, float(getattr(evaluation, name)), "{:.3f} to {:.3f}".format(*evaluation.intervals[name]))
        if name in evaluation.intervals
        else (label, float(getattr(evaluation, name)), "not known")
        for label, name in MEASURES
    ]
    noise = (
        "exact sums" if evaluation.noise_stddev == 0 else f"private sums, noise of ±{evaluation.noise_stddev:.3g} a bin"
    )
    whose = (
        f"everybody's records, by {noise}"
        if evaluation.source == "parties"
        else "a validation set of the coordinator's own, read exactly"
    )
    said = f"About {evaluation.normal:,.0f} normal and {evaluation.anomalous:,.0f} anomalous records: {whose}."
    if not evaluation.measurable:
        said += " Under this much noise the AUROC is not measurable."
    parts = [_html.text(said), _html.table(("measure", "value", "95% interval"), rows)]
    step = max(1, len(evaluation.roc) // MOST_POINTS)
    roc, pr = (np.vstack([curve[::step], curve[-1:]]) for curve in (evaluation.roc, evaluation.precision_recall))
    rates = {"xlabel": "False positive rate", "ylabel": "True positive rate"}
    parts += [
        _html.line_chart([(float(x), float(y)) for x, y in roc], diagonal=True, **rates),
        _html.line_chart(
            [(float(x), float(y)) for x, y in pr], xlabel="Recall", ylabel="Precision", color=_html.ORANGE
        ),
    ]
    if evaluation.breakdown:
        own = [
            (b.party, b.records, b.anomalous, _shown(b.auroc), _shown(b.false_positive_rate), float(b.own_threshold))
            for b in evaluation.breakdown.values()
        ]
        parts.append(_html.text("Each party's own figures, which stay at the party:"))
        parts.append(_html.table(("party", "records", "anomalous", "AUROC", "FPR", "own threshold"), own))
    return _html.block("Evaluation", *parts)


def _shown(value: float | None) -> object:
    return "one class" if value is None else float(value)


def federation_html(federation: Federation) -> str:
    """Who takes part and what was done so far, with what each run cost."""
    from blindsight.keys import PublicIdentity

    members = [(name, PublicIdentity(key).fingerprint) for name, key in federation._participants]
    runs = []
    for record in federation.history:
        asked = record.privacy
        cost = "exact sums" if asked is None else f"epsilon {asked['epsilon']:g} per {asked['unit']} asked for"
        what = record.kind if record.detector is None else f"{record.kind} {record.detector['name']}"
        runs.append((what, len(record.steps), cost, float(record.seconds), record.bytes_total))
    parts = [_html.table(("party", "key"), members)]
    if runs:
        parts.append(_html.table(("run", "sums", "privacy", "seconds", "bytes"), runs))
    ledgers = [
        (name, unit, float(ledger.spent()), float(ledger.budget.epsilon))
        for name, party in federation.parties.items()
        for unit, ledger in party.ledgers.items()
        if ledger.budget is not None and len(ledger.entries())
    ]
    if ledgers:
        parts.append(_html.table(("ledger of", "unit", "epsilon spent", "of"), ledgers))
    return _html.block(f"Federation '{federation.name}'", *parts)
