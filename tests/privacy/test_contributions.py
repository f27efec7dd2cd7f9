import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from blindsight.errors import DataError, ParameterError
from blindsight.privacy import ContributionBound, bound_contributions
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


@given(ids=ids_lists, bound=st.integers(1, 5), cuts=st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=200, deadline=None)
def test_streaming_does_not_depend_on_the_chunks(ids, bound, cuts):
    array = np.array(ids, dtype=np.int64)
    whole = ContributionBound(bound).keep(array)
    stream = ContributionBound(bound)
    pieces = [stream.keep(piece) for piece in np.split(array, sorted(min(c, len(ids)) for c in cuts))]
    assert np.array_equal(np.concatenate(pieces), whole)
    seen: dict[int, int] = {}
    for i, person in enumerate(ids):  # naive: the first ``bound`` of each
        assert whole[i] == (seen.get(person, 0) < bound)
        seen[person] = seen.get(person, 0) + 1


@given(ids=ids_lists, bound=st.integers(1, 3), gone=st.integers(0, 6), size=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_removing_a_person_changes_nobody_elses_records(ids, bound, gone, size):
    array = np.array(ids, dtype=np.int64)
    rest = array[array != gone]

    def run(values):
        stream = ContributionBound(bound)
        return np.concatenate([stream.keep(values[i : i + size]) for i in range(0, max(len(values), 1), size)])

    assert np.array_equal(run(array)[array != gone], run(rest))


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
    stream = ContributionBound(1)
    assert stream.keep(np.array(["ann", "bo"])).tolist() == [True, True]
    assert stream.keep(np.array(["ann", "a much longer name"], dtype=object)).tolist() == [False, True]
    assert stream.keep(np.array([], dtype=str)).tolist() == []


@pytest.mark.parametrize(
    "ids", [np.array([1.5, 2.0]), np.array([[1, 2]]), np.array(["a", None], dtype=object), np.array([True])], ids=str
)
def test_unusable_identifiers(ids):
    with pytest.raises(DataError, match="Person identifiers cannot be used"):
        bound_contributions(ids, 1)
    with pytest.raises(DataError, match="Person identifiers cannot be used"):
        ContributionBound(1).keep(ids)


@pytest.mark.parametrize("bound", [0, -1, True])
def test_bound_domain(bound):
    with pytest.raises(ParameterError, match="max_records"):
        ContributionBound(bound)
    with pytest.raises(ParameterError, match="max_records"):
        bound_contributions(np.array([1]), bound)
