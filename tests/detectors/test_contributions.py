"""Contributions in the clear add up to the score."""

import numpy as np
import pytest

import blindsight as bs
from blindsight.errors import CapacityError, NotFittedError


def records(n=400):
    return np.random.default_rng(5).normal(size=(n, 4)) * [1.0, 2.0, 0.5, 3.0]


@pytest.mark.parametrize(
    "detector",
    [bs.ECOD(), bs.COPOD(), bs.HBOS(), bs.LODA(projections=9), bs.IForest(trees=7)],
    ids=lambda detector: type(detector).__name__,
)
def test_contributions_add_up_to_the_score(detector):
    X = records()
    model = detector.fit(X)
    parts = model.contributions(X[:50])
    assert parts.shape == (50, len(model.contribution_names))
    whole = np.rint(parts / model.score_scale_)
    assert np.array_equal(whole * model.score_scale_, parts)
    scores = (whole.sum(axis=1) + model.circuit_.bias) * model.score_scale_
    assert np.array_equal(scores, model.decision_function(X[:50]))


def test_a_record_that_is_far_out_in_one_feature_is_explained_by_it():
    X = records()
    model = bs.ECOD().fit(X)
    far = np.zeros((1, 4))
    far[0, 2] = X[:, 2].max()
    assert model.contribution_names == model.schema_.feature_names
    assert model.contributions(far).argmax() == 2


def test_a_students_bias_is_what_contributions_leave_out():
    X = records()
    student = bs.TableStudent(teacher=bs.Mahalanobis().fit(X), rounds=3).fit(X)
    assert student.circuit_.bias != 0
    rest = student.decision_function(X) - student.contributions(X).sum(axis=1)
    assert np.allclose(rest, student.circuit_.bias * student.score_scale_)


def test_others_refuse_by_name():
    with pytest.raises(CapacityError, match="PCA has no contributions"):
        bs.PCA().fit(records()).contributions(records(3))
    with pytest.raises(NotFittedError):
        bs.ECOD().contributions(records(3))
