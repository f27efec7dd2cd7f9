"""Every detector against the whole suite; and the suite against detectors that break it."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.circuits import InnerProduct
from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis, SumQuery
from blindsight.testing import check_detector, detector_checks


@pytest.mark.parametrize("name", detector_checks())
@pytest.mark.parametrize("case", ["ECOD/numbers", "ECOD/mixed", "Mahalanobis/numbers", "clipped/numbers"])
def test_conformance(name: str, case: str, number_schema: Schema, mixed_schema: Schema) -> None:
    detector, kind = case.split("/")
    make = {"ECOD": ECOD, "Mahalanobis": Mahalanobis, "clipped": lambda: Mahalanobis(norm_clip=0.4)}[detector]
    detector_checks()[name](make, mixed_schema if kind == "mixed" else number_schema)


class Understated(ECOD):
    """Says that a record adds half of what it adds."""

    def fit_query(self, schema: Schema) -> SumQuery:
        query = super().fit_query(schema)
        return SumQuery(
            name="fit", length=query.length, sensitivity_l2=query.sensitivity_l2 / 2, max_abs=1, add=query.add
        )


class Transductive(ECOD):
    """Scores depend on the batch, as PyOD's ECOD's do."""

    def _integer_scores(self, X: np.ndarray) -> np.ndarray:
        return super()._integer_scores(X) + len(X)


class Rounded(Mahalanobis):
    """A fit that is no sum: totals forget their last bits."""

    def _absorb(self, total: object) -> None:
        super()._absorb(total)  # type: ignore[arg-type]
        self.totals_ = self.totals_ // 1000 * 1000


class Keeper(ECOD):
    """Keeps its training rows."""

    def fit(self, X: object, y: object = None) -> Keeper:
        super().fit(X)
        self.rows_ = X
        return self


class Widened(ECOD):
    """Claims bounds that a score can exceed."""

    def _build(self, schema: Schema, total: object) -> tuple[object, InnerProduct, float]:
        encoder, circuit, scale = super()._build(schema, total)  # type: ignore[arg-type]
        return encoder, Narrow(weights=circuit.weights), scale


class Narrow(InnerProduct):
    def bounds(self, encoder: object) -> tuple[int, int]:
        low, high = super().bounds(encoder)  # type: ignore[arg-type]
        return low, (low + high) // 2


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Understated, "sensitivity"),
        (Transductive, "batches"),
        (Transductive, "circuit"),
        (Rounded, "sums"),
        (Keeper, "no_rows_kept"),
        (Widened, "bounds"),
    ],
)
def test_the_suite_finds(broken: type, check: str, number_schema: Schema) -> None:
    with pytest.raises(AssertionError):
        detector_checks()[check](broken, number_schema)


def test_check_detector_names_the_check(number_schema: Schema) -> None:
    class Stateful(ECOD):
        def __init__(self, *, contamination: float = 0.1, bins: int = 64, schema: Schema | None = None) -> None:
            super().__init__(contamination=contamination, bins=bins, schema=schema)
            self.cache_ = 1

    with pytest.raises(AssertionError, match=r"^parameters: a constructor only stores"):
        check_detector(Stateful, number_schema)
