"""Each party's own figures: exact, computed on its records, kept where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from blindsight.data import Schema
from blindsight.detectors import Detector, Total
from blindsight.errors import DataError, FormatError
from blindsight.store import Store

from ._evaluation import Evaluation, evaluation_from_total, evaluation_query
from ._steps import _detector_of
from ._wire import Step

__all__ = [
    "Breakdown",
    "breakdown_of",
    "evaluate_locally",
    "keep_breakdown",
    "keep_own_figures",
    "kept_breakdown",
    "kept_breakdowns",
]

TABLE = "breakdown"


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """How the model does on one party's own records. For that party's eyes.

    Parameters
    ----------
    party : str
    run : str
        The evaluation that asked.
    records, anomalous : int
        Of a detector of aligned windows: windows.
    auroc : float or None
        None where the party has one class only.
    false_positive_rate, false_negative_rate : float or None
        At the model's common threshold; None without records of that class.
    own_threshold : float
        The threshold that flags the model's ``contamination`` of this party's own records; the common one where there
        are none.
    own_false_positive_rate, own_false_negative_rate : float or None
        At ``own_threshold``.
    left_party : bool
        Always False: these figures are exact, and no message holds them.
    """

    party: str
    run: str
    records: int
    anomalous: int
    auroc: float | None
    false_positive_rate: float | None
    false_negative_rate: float | None
    own_threshold: float
    own_false_positive_rate: float | None
    own_false_negative_rate: float | None
    left_party: bool = False


def _labelled_scores(model: Detector, schema: Schema, source: Any) -> Iterator[tuple[Any, Any]]:
    for chunk in model._chunks(schema, source):
        if chunk.label is None:
            raise DataError("A breakdown needs labels", fix="add the label column")
        yield model._cases(chunk)


def breakdown_of(model: Detector, schema: Schema, source: Any, *, party: str, run: str) -> Breakdown:
    """Measure a model on one party's records, exactly."""
    from sklearn.metrics import roc_auc_score

    parts = list(_labelled_scores(model, schema, source))
    scores = np.concatenate([part[0] for part in parts])
    anomalous = np.concatenate([part[1] for part in parts])
    common_at = model.threshold_ / model.score_scale_
    # a party may be without a single aligned window
    own = float(np.quantile(scores, 1.0 - model.contamination, method="higher")) if len(scores) else common_at

    def rate(flagged: Any, among: Any) -> float | None:
        return float(flagged[among].mean()) if among.any() else None

    common = scores > common_at
    both = anomalous.any() and not anomalous.all()
    return Breakdown(
        party=party,
        run=run,
        records=len(scores),
        anomalous=int(anomalous.sum()),
        auroc=float(roc_auc_score(anomalous, scores)) if both else None,
        false_positive_rate=rate(common, ~anomalous),
        false_negative_rate=rate(~common, anomalous),
        own_threshold=own * model.score_scale_,
        own_false_positive_rate=rate(scores > own, ~anomalous),
        own_false_negative_rate=rate(~(scores > own), anomalous),
    )


def keep_breakdown(store: Store, breakdown: Breakdown) -> None:
    """Write a breakdown into the party's own store, which is sealed where the party's folder is."""
    store.table(TABLE).put(breakdown.run, json.dumps(asdict(breakdown)).encode())


def keep_own_figures(
    store: Store, step: Step, schema: Schema, source: Any, *, party: str, allowed: tuple[str, ...]
) -> None:
    """Measure the step's model on the party's own evaluation records, and keep the figures here.

    Privacy
    -------
    Nothing of this is in any message.
    """
    model = _detector_of(step, schema, frozenset(allowed))
    keep_breakdown(store, breakdown_of(model, schema, source, party=party, run=step.run))


def kept_breakdown(store: Store, run: str) -> Breakdown | None:
    """One evaluation's figures in a party's store; None where there are none.

    Raises
    ------
    FormatError
        The kept value is malformed.
    """
    value = store.table(TABLE).get(run)
    if value is None:
        return None
    try:
        return Breakdown(**json.loads(value))
    except (ValueError, TypeError) as error:
        raise FormatError("A kept breakdown is malformed", got=str(error)[:200]) from error


def kept_breakdowns(store: Store) -> list[Breakdown]:
    """Every breakdown that a party's store holds, by run."""
    kept = [kept_breakdown(store, run) for run in sorted(store.table(TABLE).keys())]
    return [breakdown for breakdown in kept if breakdown is not None]


def evaluate_locally(model: Detector, schema: Schema, source: Any) -> Evaluation:
    """Measure a model on a labelled set that the caller holds: exact, and nothing is asked of any party.

    Parameters
    ----------
    model : Detector
    schema : Schema
    source : table, array or path
        With the label column.
    """
    query = evaluation_query(model, private=False)
    values = np.zeros(query.length, dtype=np.int64)
    for chunk in model._chunks(schema, source):
        query.add(values, chunk)
    return evaluation_from_total(model, Total(values=values), None, source="validation set")
