"""What holds in a federation: five parties of uneven size, one of which vanishes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight.data import Schema
from blindsight.detectors import Detector, SumDetector
from blindsight.privacy import DifferentialPrivacy

from ._faults import FaultyChannel
from ._kit import Check, Make, fitted, same_state
from ._sample import sample_records

if TYPE_CHECKING:
    import polars as pl

    from blindsight.federation import Federation

__all__ = ["CHECKS"]

SIZES = {"a": 10, "b": 60, "c": 21, "d": 33, "e": 1}
VANISHES = "d"


def _data(schema: Schema, *, extreme: float = 0.2) -> dict[str, pl.DataFrame]:
    data = {name: sample_records(schema, size, 20 + i, extreme=extreme) for i, (name, size) in enumerate(SIZES.items())}
    # no two parties need keep their columns in one order
    data["b"] = data["b"].select(reversed(data["b"].columns))
    return data


def _federation(make: Make, schema: Schema, data: dict[str, Any], **policy: Any) -> Federation:
    from blindsight.federation import Federation, Policy

    return Federation.embedded(
        data, schema=schema, policy=Policy(detectors=(*Policy().detectors, make().name), **policy)
    )


def _stack(data: dict[str, pl.DataFrame], names: str) -> pl.DataFrame:
    import polars as pl

    return pl.concat([data[name].select(data["a"].columns) for name in names])


def _check_federated(make: Make, schema: Schema) -> None:
    """Exact, with a dropout in the first sum: the fit on the survivors' rows, to the integer, if it is a sum."""
    data = _data(schema)
    federation = _federation(make, schema, data, allow_exact_sums=True)
    federation._channel = FaultyChannel(federation._channel, silent_from={VANISHES: 2})
    template = make()
    model = federation.fit(template, privacy=None)
    assert not hasattr(template, "schema_"), "Federation.fit clones its argument"
    _usable(model, schema, noisy=False)
    assert model.provenance_ is not None, "the model says where it is from"
    first = next(iter(model.provenance_["survivors"].values()))
    assert VANISHES not in first, "who vanished is not among the survivors"
    if isinstance(model, SumDetector):
        alone = fitted(make, schema, _stack(data, "abce"))
        same_state(model, alone, "federated with a dropout")
        assert model.threshold_ == alone.threshold_, "the thresholds differ"
        whole = _federation(make, schema, data, allow_exact_sums=True).fit(make(), privacy=None)
        same_state(whole, fitted(make, schema, _stack(data, "abcde")), "federated over five parties")


def _check_federated_private(make: Make, schema: Schema) -> None:
    """Under differential privacy, with a dropout: usable, certified, and within what was asked for."""
    data = _data(schema, extreme=0.0)
    federation = _federation(make, schema, data, maximum_epsilon=100.0)
    federation._channel = FaultyChannel(federation._channel, silent_from={VANISHES: 2})
    model = federation.fit(make(), privacy=DifferentialPrivacy(epsilon=50.0, delta=1e-6, unit="record"))
    _usable(model, schema, noisy=True)
    certificate = model.certificate_
    assert certificate is not None, "the model has a certificate"
    assert certificate["differential_privacy"] is True, "and it says that it is private"
    assert 0 < certificate["epsilon_spent"] <= 50.0, f"epsilon {certificate['epsilon_spent']} was spent, 50 asked for"
    for name, party in federation.parties.items():
        if name != VANISHES:
            assert 0 < party.ledgers["record"].spent(1e-6) <= 50.0, f"{name}'s ledger holds another epsilon"


def _usable(model: Detector, schema: Schema, *, noisy: bool) -> None:
    fresh = sample_records(schema, 50, 29)
    scores = model.decision_function(fresh)
    assert np.isfinite(scores).all(), "a score is not finite"
    assert math.isfinite(model.threshold_), "the threshold is not finite"
    assert set(np.unique(model.predict(fresh))) <= {0, 1}, "labels are 0 and 1"
    assert (model.score_histogram_.noise_variance > 0) == noisy, "the histogram does not know of its noise"


CHECKS: tuple[Check, ...] = (_check_federated, _check_federated_private)
