"""Real-valued public inputs of any kind: standardised records, quantised ones, windows."""

from __future__ import annotations

from typing import Any

from ._quantised import Quantised, quantised_from_json, quantised_to_json
from ._standardised import Standardised, standardised_from_json, standardised_to_json
from ._windowed import Windowed, windowed_from_json, windowed_to_json

__all__ = ["Inputs", "inputs_from_json", "inputs_to_json"]

Inputs = Standardised | Quantised | Windowed
"""Real-valued public inputs, of a network or of a quadratic form."""


def inputs_to_json(value: Inputs) -> dict[str, Any]:
    """Plain JSON values; floats survive exactly (shortest round-trip form)."""
    if isinstance(value, Quantised):
        return quantised_to_json(value)
    return windowed_to_json(value) if isinstance(value, Windowed) else standardised_to_json(value)


def inputs_from_json(value: object) -> Inputs:
    """Rebuild inputs from untrusted JSON values; FormatError on anything malformed."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == Quantised.kind:
        return quantised_from_json(value)
    return windowed_from_json(value) if kind == Windowed.kind else standardised_from_json(value)
