"""What a detector trained by rounds has become so far, as plain values, and back from an untrusted file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._inputs import own_scaling
from ._parameters import Parameters, dequantised, untrusted_weights
from ._preparation import Preparation
from ._queries import Total
from ._state import State, nonnegative

if TYPE_CHECKING:
    from ._rounds import RoundDetector

__all__ = ["dump_rounds", "load_rounds"]


def dump_rounds(model: RoundDetector) -> State:
    """Return everything fitted but schema, parameters, histogram, certificate and provenance."""
    values: dict[str, Any] = {
        "round": model.round_,
        "stopped": model.stopped_,
        "loss_due": model.loss_due_,
        "stale": model.stale_,
        "best_loss": model.best_loss_ if math.isfinite(model.best_loss_) else None,
        "noise_variance": model.noise_variance_,
        "sampled_noise": model.sampled_noise_,
        "mean_rows": model.mean_rows_,
        "personal": model.is_personal_,
        "scales": {name: scale for name, (_, scale) in model.quantised_.items()},
    }
    arrays: dict[str, npt.NDArray[Any]] = {}
    if model.preparation_ is not None:
        values["preparation_noise_variance"] = model.preparation_.noise_variance
        arrays["preparation"] = model.preparation_.counts
    if model.local_scaling_ is not None:
        values["local_centres"] = list(model.local_scaling_.centres)
        values["local_scales"] = list(model.local_scaling_.scales)
    if not model.is_blank or model.is_personal_:
        for name in model._layout.shapes:
            held = model.quantised_.get(name)
            arrays[f"p.{name}"] = model.parameters_[name] if held is None else held[0]
    if model.control_ is not None and not model._can_score():
        arrays["control"] = model.control_
    return State(values=values, arrays=arrays)


def load_rounds(model: RoundDetector, state: State) -> None:
    """Take what :func:`dump_rounds` returned into a settled model; TypeError, ValueError, KeyError or a
    BlindsightError on anything that does not fit."""
    values, arrays = dict(state.values), dict(state.arrays)
    model.round_ = _whole(values.pop("round"), model._training.rounds)
    model.stale_ = _whole(values.pop("stale"), model._training.rounds)
    flags = [values.pop(name) for name in ("stopped", "loss_due", "sampled_noise", "personal")]
    if not all(type(flag) is bool for flag in flags):
        raise ValueError("a flag is not true or false")
    model.stopped_, model.loss_due_, model.sampled_noise_, model.is_personal_ = flags
    best, rows = values.pop("best_loss"), values.pop("mean_rows")
    model.best_loss_ = math.inf if best is None else nonnegative(best)
    model.mean_rows_ = None if rows is None else nonnegative(rows, low=1.0)
    model.noise_variance_ = nonnegative(values.pop("noise_variance"))
    counts = arrays.pop("preparation", None)
    if counts is not None:
        noise = nonnegative(values.pop("preparation_noise_variance"))
        model.preparation_ = Preparation.from_total(model.schema_, Total(values=counts, noise_variance=noise))
    if (counts is not None) != (model.scales == "learned" and model.mean_rows_ is not None):
        raise ValueError("the preparation does not fit the detector's parameters")
    _load_local(model, values)
    _load_parameters(model, values.pop("scales"), arrays)
    control = arrays.pop("control", None)
    if (control is not None) != (model._training.scaffold and not model._can_score()):
        raise ValueError("the control variate does not fit the detector's parameters")
    if control is not None:
        model.control_ = untrusted_weights(control, (model._size,))
    if values or arrays:
        raise ValueError("the state has unknown parts")


def _load_local(model: RoundDetector, values: dict[str, Any]) -> None:
    centres, scales = values.pop("local_centres", None), values.pop("local_scales", None)
    if centres is None and scales is None:
        return
    for part in (centres, scales):
        if not isinstance(part, list) or len(part) != model.n_features_in_:
            raise ValueError("the local scales are malformed")
    if not all(type(c) is float and -2.0 <= c <= 3.0 for c in centres):
        raise ValueError("the local scales are malformed")
    model.local_scaling_ = own_scaling(
        model.schema_, tuple(centres), tuple(nonnegative(scale, low=1e-6) for scale in scales)
    )


def _load_parameters(model: RoundDetector, scales: object, arrays: dict[str, npt.NDArray[Any]]) -> None:
    if not isinstance(scales, dict) or not set(scales) <= set(model._layout.shapes):
        raise ValueError("the scales of the parameters are malformed")
    if model.is_blank and not model.is_personal_:
        return
    found: Parameters = {}
    for name, shape in model._layout.shapes.items():
        array = arrays.pop(f"p.{name}")
        if name not in scales:
            found[name] = untrusted_weights(array, shape)
            continue
        scale = nonnegative(scales[name], low=1e-30)
        if array.dtype != np.int8 or array.shape != shape:
            raise ValueError(f"the parameter {name} has another form than the network's")
        model.quantised_[name] = (array, scale)
        found[name] = dequantised(array, scale)
    model.parameters_ = found


def _whole(value: object, high: int) -> int:
    if type(value) is not int or not 0 <= value <= high:
        raise ValueError("a count is out of range")
    return value
