"""What an evaluation and a federation look like in a notebook."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight import _html
from blindsight.detectors import detector_to_json, known_detectors
from blindsight.privacy import shown_epsilon

from ._certificate import epsilon_by_party
from ._run import RunRecord

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
    rows = [_measured(evaluation, label, name) for label, name in MEASURES]
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
        said += (
            " Under this much noise the AUROC is not measurable."
            if evaluation.both_classes
            else " One class has no record, as released: there is nothing to rank against."
        )
    parts = [_html.text(said), _html.table(("measure", "value", "95% interval"), rows)]
    if not evaluation.both_classes:
        return _html.block("Evaluation", *parts, *_own_figures(evaluation))
    step = max(1, len(evaluation.roc) // MOST_POINTS)
    roc, pr = (np.vstack([curve[::step], curve[-1:]]) for curve in (evaluation.roc, evaluation.precision_recall))
    rates = {"xlabel": "False positive rate", "ylabel": "True positive rate"}
    parts += [
        _html.line_chart([(float(x), float(y)) for x, y in roc], diagonal=True, **rates),
        _html.line_chart(
            [(float(x), float(y)) for x, y in pr], xlabel="Recall", ylabel="Precision", color=_html.ORANGE
        ),
    ]
    return _html.block("Evaluation", *parts, *_own_figures(evaluation))


def _measured(evaluation: Evaluation, label: str, name: str) -> tuple[object, ...]:
    value = float(getattr(evaluation, name))
    if not math.isfinite(value) or (name == "auroc" and not evaluation.measurable):
        return label, "not measurable", ""
    if name not in evaluation.intervals:
        return label, value, "not known"
    return label, value, "{:.3f} to {:.3f}".format(*evaluation.intervals[name])


def _own_figures(evaluation: Evaluation) -> list[str]:
    if not evaluation.breakdown:
        return []
    own = [
        (b.party, b.records, b.anomalous, _shown(b.auroc), _shown(b.false_positive_rate), float(b.own_threshold))
        for b in evaluation.breakdown.values()
    ]
    return [
        _html.text("Each party's own figures, which stay at the party:"),
        _html.table(("party", "records", "anomalous", "AUROC", "FPR", "own threshold"), own),
    ]


def _shown(value: float | None) -> object:
    return "one class" if value is None else float(value)


def federation_html(federation: Federation) -> str:
    """Who takes part and what was done so far, with what each run cost."""
    from blindsight.keys import PublicIdentity

    members = [(name, PublicIdentity(key).fingerprint) for name, key in federation._participants]
    names = [name for name, _ in members]
    # a run without a sum released nothing: what was refused is no line of what was given away
    runs = [_run_row(record, names) for record in federation.history if record.steps]
    refused = [record for record in federation.history if not record.steps]
    parts = [_html.table(("party", "key"), members)]
    if runs:
        headings = ("run", "what", "sums", "parties", "privacy asked for", "epsilon spent", "seconds", "bytes")
        parts.append(_html.table(headings, runs))
    if refused:
        parts.append(_html.text(f"Refused or interrupted, nothing released: {_counted(refused)}."))
    ledgers = [
        (name, unit, float(ledger.spent()), float(ledger.budget.epsilon))
        for name, party in federation.parties.items()
        for unit, ledger in party.ledgers.items()
        if ledger.budget is not None and len(ledger.entries())
    ]
    if ledgers:
        parts.append(_html.table(("ledger of", "unit", "epsilon spent", "of"), ledgers))
    return _html.block(f"Federation '{federation.name}'", *parts)


def _run_row(record: RunRecord, parties: Sequence[str]) -> tuple[object, ...]:
    """What tells one run from another: its name in ledgers and certificates, the parameters chosen, what it cost."""
    asked = record.privacy
    privacy, spent = "none: exact sums", "none"
    if asked is not None:
        privacy = f"epsilon {asked['epsilon']:g} per {asked['unit']} at delta {asked['delta']:g}"
        privacy += ", trust='local'" if asked["trust"] == "local" else ""
        spent = shown_epsilon(max(epsilon_by_party(record.steps, parties, asked["delta"]).values()))
    least = min(len(step.survivors) for step in record.steps)
    return (
        record.run,
        record.kind if record.detector is None else f"{record.kind} {_called(record.detector)}",
        len(record.steps),
        f"{least} of {len(parties)}",
        privacy,
        spent,
        float(record.seconds),
        record.bytes_total,
    )


def _counted(records: Sequence[RunRecord]) -> str:
    """``2 x fit ECOD, 1 x evaluate ECOD``."""
    what = Counter(
        record.kind if record.detector is None else f"{record.kind} {_called(record.detector)}" for record in records
    )
    return ", ".join(f"{count} x {name}" for name, count in what.items())


def _called(detector: Mapping[str, Any]) -> str:
    """A detector's name with the parameters that are not its defaults: ``ECOD(bins=16)``."""
    known = known_detectors().get(detector["name"])
    usual = {} if known is None else _flat(detector_to_json(known())["parameters"])
    own = {key: value for key, value in _flat(detector["parameters"]).items() if usual.get(key, ...) != value}
    name = str(detector["name"])
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in own.items())})" if own else name


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        flat |= {f"{key}.{part}": inner for part, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat
