"""Every detector against the whole suite; and the suite against detectors that break it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from blindsight.circuits import InnerProduct
from blindsight.data import Schema
from blindsight.detectors import (
    COPOD,
    ECOD,
    HBOS,
    LODA,
    OCSVM,
    PCA,
    AutoEncoder,
    DeepSVDD,
    Detector,
    IForest,
    Mahalanobis,
    RandomFeatures,
    State,
    SumQuery,
    TableStudent,
    Total,
    Training,
    _registry,
)
from blindsight.testing import check_detector, detector_checks
from sample_tables import MIXED_SCHEMA, make_table


@functools.cache
def _teacher() -> Detector:
    """What the student of the mixed schema learns from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ECOD(schema=MIXED_SCHEMA).fit(make_table(200, seed=1))


FEW = Training(rounds=2, sampling_rate=0.5)
EARLY = Training(rounds=2, sampling_rate=0.5, patience=1, scaffold=True, server="fedadam")
DEEP = frozenset({"AutoEncoder", "DeepSVDD"})

# name: (make, schema); add a detector here, with as few rounds and as small a network as shows what it does
CASES: dict[str, tuple[Callable[[], Detector], str]] = {
    "ECOD/numbers": (ECOD, "number"),
    "ECOD/mixed": (ECOD, "mixed"),
    "ECOD/learned": (lambda: ECOD(bins=16, edges="learned"), "mixed"),
    "COPOD/mixed": (COPOD, "mixed"),
    "HBOS/mixed": (HBOS, "mixed"),
    "IForest/numbers": (lambda: IForest(trees=20, depth=5), "number"),
    "IForest/mixed": (IForest, "mixed"),
    "IForest/learned": (lambda: IForest(trees=10, depth=8, scales="learned"), "mixed"),
    "IForest/subsample": (lambda: IForest(trees=10, depth=5, subsample=0.3), "mixed"),
    "LODA/numbers": (lambda: LODA(projections=20, bins=16), "number"),
    "LODA/mixed": (LODA, "mixed"),
    "LODA/learned": (lambda: LODA(projections=20, scales="learned"), "mixed"),
    "PCA/numbers": (PCA, "number"),
    "RandomFeatures/numbers": (lambda: RandomFeatures(features=64), "number"),
    "RandomFeatures/learned": (lambda: RandomFeatures(features=64, scales="learned"), "number"),
    "OCSVM/numbers": (lambda: OCSVM(features=64, rounds=3), "number"),
    "OCSVM/learned": (lambda: OCSVM(features=64, rounds=3, scales="learned"), "number"),
    "TableStudent/mixed": (lambda: TableStudent(teacher=_teacher(), bins=8, rounds=3), "mixed"),
    "AutoEncoder/numbers": (lambda: AutoEncoder(hidden=(3,), training=FEW), "number"),
    "AutoEncoder/early": (lambda: AutoEncoder(hidden=(3,), scales="declared", training=EARLY), "number"),
    "DeepSVDD/numbers": (lambda: DeepSVDD(hidden=(4, 2), training=FEW), "number"),
    "Mahalanobis/numbers": (Mahalanobis, "number"),
    "Mahalanobis/clipped": (lambda: Mahalanobis(norm_clip=0.4), "number"),
}


@pytest.mark.parametrize(
    ("case", "check"), [(case, check) for case, (make, _) in CASES.items() for check in detector_checks(make)]
)
def test_conformance(case: str, check: str, number_schema: Schema, mixed_schema: Schema) -> None:
    if case.partition("/")[0] in DEEP:
        pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    make, kind = CASES[case]
    detector_checks(make)[check](make, {"number": number_schema, "mixed": mixed_schema}[kind])


def test_the_checks_of_a_kind_are_those_that_apply() -> None:
    class ByRounds(Detector):
        pass

    ByRounds.__abstractmethods__ = frozenset()
    of_sums, of_rounds = detector_checks(ECOD), detector_checks(ByRounds)
    assert set(of_sums) == set(detector_checks())
    assert set(of_sums) - set(of_rounds) == {
        "sums",
        "forget_refusals",
        "merge_refusals",
        "bounds",
        "circuit",
    }


class Understated(ECOD):
    """Says that a record adds half of what it adds."""

    def fit_query(self, schema: Schema) -> SumQuery:
        query = super().fit_query(schema)
        return SumQuery(
            name="fit", length=query.length, sensitivity_l2=query.sensitivity_l2 / 2, max_abs=1, add=query.add
        )


class Overspending(ECOD):
    """Asks for the whole share of the fit twice."""

    def _next_fit_query(self) -> SumQuery:
        query = self.fit_query(self.schema_)
        name = "again" if hasattr(self, "_once") else "fit"
        return SumQuery(name=name, length=query.length, sensitivity_l2=query.sensitivity_l2, max_abs=1, add=query.add)

    def _advance_fit(self, query: SumQuery, total: Total) -> None:
        if query.name == "fit":
            self._once = True
        else:
            super()._advance_fit(query, total)


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


class Trusting(ECOD):
    """Takes whatever a state holds besides its own."""

    def _load(self, state: State) -> None:
        known = {"encoder", "bias", "score_scale", "noise_variance"}
        super()._load(
            State(
                values={k: v for k, v in state.values.items() if k in known},
                arrays={k: v for k, v in state.arrays.items() if k in {"weights", "totals"}},
            )
        )


class Forgetful(ECOD):
    """Its dump lacks what it needs to go on."""

    def _dump(self) -> State:
        return State(values={"noise_variance": 0.0})


class Dice(ECOD):
    """Its state is not a function of the totals."""

    def _absorb(self, total: Total) -> None:
        super()._absorb(total)
        self.totals_ = self.totals_ + np.random.default_rng().integers(2, size=self.totals_.size)


class Fragile(ECOD):
    """Cannot be fitted on few records."""

    def _absorb(self, total: Total) -> None:
        super()._absorb(total)
        if self.totals_.sum() < 20 * self.n_features_in_:
            self._adopt(self.encoder_, self.circuit_, float("nan"))


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Understated, "bounds_of_sums"),
        (Overspending, "bounds_of_sums"),
        (Transductive, "batches"),
        (Transductive, "circuit"),
        (Rounded, "sums"),
        (Keeper, "no_rows_kept"),
        (Widened, "bounds"),
        (Trusting, "malformed_states"),
        (Forgetful, "states"),
        (Dice, "states"),
        (Fragile, "bad_inputs"),
    ],
)
def test_the_suite_finds(
    broken: type[Detector], check: str, number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    # loaded by name, it is the broken one as well
    monkeypatch.setattr(_registry, "known_detectors", lambda *, allowed=None: {broken.name: broken})
    with pytest.raises(AssertionError):
        detector_checks()[check](broken, number_schema)


def test_check_detector_names_the_check(number_schema: Schema) -> None:
    class Stateful(ECOD):
        def __init__(self, *, contamination: float = 0.1, bins: int = 64, schema: Schema | None = None) -> None:
            super().__init__(contamination=contamination, bins=bins, schema=schema)
            self.cache_ = 1

    with pytest.raises(AssertionError, match=r"^parameters: a constructor only stores"):
        check_detector(Stateful, number_schema)
