"""What a model's holder should hear before strangers get its public encoding."""

from __future__ import annotations

import warnings
from typing import Any

from blindsight.errors import BlindsightWarning

__all__ = ["warn_of_what_is_public"]


def warn_of_what_is_public(model: Any, hides: str, *, stacklevel: int = 2) -> None:
    """Warn where the public encoding tells something learned from records.

    Parameters
    ----------
    model
    hides : str
        What the engine hides, for people.
    stacklevel : int
        As for :func:`warnings.warn`, of the caller.
    """
    if not bool(getattr(model, "is_secret_", False)):
        warnings.warn(
            "The model is not secret: ranges, edges or scales were learned from data and are part of the public "
            f"encoder. {hides} To hide both, declare the ranges in the schema and leave edges and scales 'declared'.",
            BlindsightWarning,
            stacklevel=stacklevel + 1,
        )
    if bool(getattr(model, "is_personal_", False)):
        warnings.warn(
            "The model is one party's own, tuned on its records without differential privacy. What of that is in the "
            "public encoder, such as scales, goes to every owner of records: offer the shared model instead, or this "
            "one to that party's own people alone.",
            BlindsightWarning,
            stacklevel=stacklevel + 1,
        )
