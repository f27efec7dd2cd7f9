from __future__ import annotations

import dataclasses
import math

import pytest

from blindsight import securesum
from blindsight.errors import ParameterError
from blindsight.securesum import Participant, SumSpec, default_threshold, smallest_width

from ._drive import make_sum

BASE = make_sum(5).spec


def test_public_names_are_sorted_and_there() -> None:
    assert securesum.__all__ == sorted(securesum.__all__)
    assert all(hasattr(securesum, name) for name in securesum.__all__)


@pytest.mark.parametrize(("n", "threshold", "colluders"), [(3, 3, 2), (4, 3, 1), (5, 4, 2), (6, 5, 3), (100, 67, 33)])
def test_default_threshold(n: int, threshold: int, colluders: int) -> None:
    assert default_threshold(n) == threshold == math.floor(2 * n / 3) + 1
    spec = make_sum(n).spec
    assert spec.tolerated_colluders == colluders == 2 * threshold - n - 1
    assert spec.min_survivors == max(threshold, 3)
    assert f"up to {colluders} of {n} parties may collude" in spec.trust


def test_two_of_three_is_labelled() -> None:
    spec = make_sum(3, threshold=2).spec
    assert spec.tolerated_colluders == 0
    assert spec.min_survivors == 3
    assert "no party may collude with the coordinator" in spec.trust


@pytest.mark.parametrize(("n", "threshold"), [(3, 1), (4, 2), (5, 3), (5, 6), (6, 4), (20, 13), (5, 0), (5, True)])
def test_other_thresholds_are_refused(n: int, threshold: int) -> None:
    with pytest.raises(ParameterError, match="threshold"):
        make_sum(n, threshold=threshold)


def test_the_largest_sum_and_one_party_more() -> None:
    parties = tuple(Participant(name=f"p{i:04d}", public_key=i.to_bytes(32, "big")) for i in range(1025))
    largest = dataclasses.replace(BASE, participants=parties[:1024], threshold=default_threshold(1024), max_abs=1000)
    assert (largest.threshold, largest.tolerated_colluders) == (683, 341)
    with pytest.raises(ParameterError, match="1024"):
        dataclasses.replace(largest, participants=parties, threshold=700)


@pytest.mark.parametrize("n", [1, 2])
def test_two_parties_are_refused_with_the_reason(n: int) -> None:
    with pytest.raises(ParameterError, match="of two, each learns the other's vector"):
        dataclasses.replace(BASE, participants=BASE.participants[:n], threshold=n)


@pytest.mark.parametrize("bits", [32, 64])
def test_overflow_is_refused_at_planning(bits: int) -> None:
    largest = ((1 << (bits - 1)) - 1) // 5
    assert dataclasses.replace(BASE, bits=bits, max_abs=largest).max_abs == largest
    with pytest.raises(ParameterError, match=rf"could overflow.*n \* max_abs < 2\*\*{bits - 1}"):
        dataclasses.replace(BASE, bits=bits, max_abs=largest + 1)


@pytest.mark.parametrize(("max_abs", "bits"), [(1, 32), (429_496_729, 32), (429_496_730, 64), (10**18, 64)])
def test_smallest_width(max_abs: int, bits: int) -> None:
    assert smallest_width(5, max_abs) == bits


@pytest.mark.parametrize(("max_abs", "bits"), [(1, 16), (6_553, 16), (6_554, 32), (429_496_730, 64)])
def test_smallest_width_where_sixteen_bits_will_do(max_abs: int, bits: int) -> None:
    assert smallest_width(5, max_abs, least=16) == bits


def test_sixteen_bits_are_for_masks_alone() -> None:
    assert dataclasses.replace(BASE, bits=16, max_abs=100).vector_bytes == 2 * BASE.length
    with pytest.raises(ParameterError, match="no such width"):
        dataclasses.replace(BASE, bits=16, max_abs=100, method="he")


def test_no_width_carries_a_huge_sum() -> None:
    with pytest.raises(ParameterError, match="could overflow"):
        smallest_width(5, 2**62)


@pytest.mark.parametrize(
    "change",
    [
        {"federation": ""},
        {"run": "a\nb"},
        {"step": "x" * 257},
        {"run": 3},
        {"participants": BASE.participants[::-1]},
        {"participants": (*BASE.participants[:4], BASE.participants[3])},
        {"participants": list(BASE.participants)},
        {
            "participants": (
                *BASE.participants[:4],
                Participant(name="z", public_key=BASE.identity("party-000")),
            )
        },
        {"length": 0},
        {"length": 2**24 + 1},
        {"length": 2.0},
        {"bits": 24},
        {"bits": True},
        {"max_abs": 0},
        {"max_abs": -1},
        {"max_abs": 1.5},
    ],
)
def test_bad_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        dataclasses.replace(BASE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "x" * 65, "a\0b", "\ud800", 7, None])
def test_bad_names_are_refused(name: object) -> None:
    with pytest.raises(ParameterError, match="name"):
        Participant(name=name, public_key=bytes(32))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "k" * 32, bytearray(32)])
def test_bad_keys_are_refused(key: object) -> None:
    with pytest.raises(ParameterError, match="Ed25519"):
        Participant(name="a", public_key=key)  # type: ignore[arg-type]


def test_digest_depends_on_every_field() -> None:
    changes: list[dict[str, object]] = [
        {"federation": "other"},
        {"run": "other"},
        {"step": "other"},
        {"length": 8},
        {"bits": 64},
        {"threshold": 5},
        {"max_abs": 1001},
        {"participants": BASE.participants[:4], "threshold": 4},
        {"participants": (*BASE.participants[:4], dataclasses.replace(BASE.participants[4], name="zed"))},
        {
            "participants": (
                *BASE.participants[:4],
                dataclasses.replace(BASE.participants[4], public_key=bytes(32)),
            )
        },
    ]
    digests = {dataclasses.replace(BASE, **change).digest for change in changes}  # type: ignore[arg-type]
    assert len(digests | {BASE.digest}) == len(changes) + 1
    assert dataclasses.replace(BASE).digest == BASE.digest


def test_digest_is_the_same_on_every_machine() -> None:
    spec = SumSpec(
        federation="f",
        run="r",
        step="s",
        participants=tuple(Participant(name=name, public_key=name.encode() * 32) for name in "abc"),
        length=10,
        bits=64,
        threshold=3,
        max_abs=1000,
    )
    assert spec.digest.hex() == "d7e6a02dd24b94436312b600fdb4d1ae7ddbd0aac18bdde96652709e519c7a66"


def test_stranger_is_named() -> None:
    with pytest.raises(ParameterError, match="'eve' takes no part"):
        BASE.identity("eve")
