"""What a detector looks like in a notebook: parameters, and what the release says, in words; no weight, no count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsight import _html
from blindsight.privacy import shown_epsilon

if TYPE_CHECKING:
    from ._base import Detector

__all__ = ["detector_html"]


def detector_html(detector: Detector) -> str:
    """Parameters, and once fitted features, threshold and certificate."""
    name = type(detector).__name__
    parameters = [(key, repr(value)) for key, value in detector.get_params(deep=False).items() if key != "schema"]
    if not detector._is_fitted():
        return _html.block(f"{name}, not fitted", _html.table((), parameters))
    schema, certificate = detector.schema_, detector.certificate_
    facts = [
        ("features", ", ".join(schema.feature_names)),
        ("ranges", schema.ranges),
        ("records", f"about {detector.n_records_:,.0f}"),
        ("threshold_", f"{detector.threshold_:.4g}, which {detector.contamination:g} of the records exceed"),
        ("can be scored blind", _blind(detector)),
    ]
    if certificate is None:
        said = "Fitted alone, with exact sums: no differential privacy, and nothing of it was released."
    else:
        spent = certificate.get("epsilon_spent")
        unit = certificate.get("unit")
        cost = (
            ""
            if spent is None
            else f"Epsilon {shown_epsilon(spent)} per {unit} at delta {certificate.get('delta'):g}. "
        )
        said = cost + str(certificate.get("statement", ""))
    return _html.block(f"{name}, fitted", _html.table((), [*parameters, *facts]), _html.text(said))


def _blind(detector: Detector) -> str:
    if getattr(detector, "feed_forward", False):
        return "with one square activation at most under CKKS, else by MPC"
    if getattr(detector, "by_operators", False):
        return "by MPC"
    if not hasattr(detector, "circuit_"):
        return "no: distil it into a TableStudent"
    return "yes, and the model stays secret" if detector.is_secret_ else "yes, but the model does not stay secret"
