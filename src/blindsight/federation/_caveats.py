"""What a fitted model's user is warned of: too few records for its noise, or too few at all."""

from __future__ import annotations

import warnings

from blindsight.detectors import Detector
from blindsight.errors import BlindsightWarning

__all__ = ["FEW_RECORDS", "warn_of_few"]

FEW_RECORDS = 50
"""Fewest records, all parties together, below which a fit warns: at the usual contamination of 2% the threshold then
stands on a single record."""


def warn_of_few(model: Detector, *, whose: str = "The federation", stacklevel: int = 3) -> None:
    """Warn once where a fitted model has fewer records than its noise needs, or fewer than 50.

    Parameters
    ----------
    model : Detector
        Fitted.
    whose : str
        Who has the records: the beginning of the sentence.
    stacklevel : int

    Privacy
    -------
    Goes by ``n_records_`` and the noise's variance, which the model releases; ± is two standard deviations of the
    noise in the count.
    """
    error = 2.0 * model.n_records_deviation_
    floor = model.noise_floor(model.noise_variance_) if model.noise_variance_ != 0 or error > 0 else 0
    count = f"{max(model.n_records_, 0):,.0f}" + (f" (± {error:,.0f})" if error > 0 else "")
    if model.n_records_ < floor:
        warnings.warn(
            f"{whose} has about {count} usable {model._counted}; at this epsilon "
            f"{type(model).__name__} needs about {floor:,} before its noise stops mattering. "
            "The model stands and its privacy holds, but expect it to rank worse: ask for a larger epsilon, "
            "fewer features, or more parties.",
            BlindsightWarning,
            stacklevel=stacklevel,
        )
    elif model.n_records_ < FEW_RECORDS:
        warnings.warn(
            f"{whose} has about {count} {model._counted} in all, fewer than {FEW_RECORDS}: the "
            f"threshold of {type(model).__name__} stands on single ones, and both it and the scores will change with "
            "every further one. Fit on more records before anybody acts on its alerts.",
            BlindsightWarning,
            stacklevel=stacklevel,
        )
