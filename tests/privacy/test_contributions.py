import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from blindsight.errors import DataError, ParameterError
from blindsight.privacy import bound_contributions
from blindsight.testing import InsecureSeededSource

ids_lists = st.lists(st.integers(0, 6), max_size=60)


def used(ids, mask):
    return {person: int(mask[ids == person].sum()) for person in np.unique(ids).tolist()}


@given(ids=ids_lists, bound=st.integers(1, 5), text=st.booleans())
@settings(max_examples=100, deadline=None)
def test_each_person_keeps_as_many_as_allowed(ids, bound, text):
    array = np.array([f"p{i}" for i in ids] if text else ids, dtype=str if text else np.int64)
    mask = bound_contributions(array, bound)
    assert mask.dtype == np.bool_
    for person, count in used(array, mask).items():
        assert count == min(bound, int((array == person).sum()))


def test_choice_is_uniform():
    ids = np.repeat(np.arange(40_000), 4)
    mask = bound_contributions(ids, 1).reshape(-1, 4)
    counts = mask.sum(axis=0)
    assert counts.sum() == 40_000
    assert chi2.sf(float(((counts - 10_000) ** 2 / 10_000).sum()), 3) > 1e-7  # declared false-alarm rate


def test_seeded_choice_repeats():
    ids = np.repeat(np.arange(100), 4)
    masks = [bound_contributions(ids, 2, InsecureSeededSource(3)) for _ in range(2)]
    assert np.array_equal(*masks)


def test_object_strings_and_string_widths_are_one_person():
    ids = np.array(["ann", "bo", "ann", "a much longer name"], dtype=object)
    mask = bound_contributions(ids, 1)
    assert mask[1]
    assert mask[3]
    assert mask[0] != mask[2]
    assert bound_contributions(np.array([], dtype=str), 1).tolist() == []


@pytest.mark.parametrize(
    "ids", [np.array([1.5, 2.0]), np.array([[1, 2]]), np.array(["a", None], dtype=object), np.array([True])], ids=str
)
def test_unusable_identifiers(ids):
    with pytest.raises(DataError, match="Person identifiers cannot be used"):
        bound_contributions(ids, 1)


@pytest.mark.parametrize("bound", [0, -1, True])
def test_bound_domain(bound):
    with pytest.raises(ParameterError, match="max_records"):
        bound_contributions(np.array([1]), bound)
