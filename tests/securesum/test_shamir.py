from __future__ import annotations

import itertools
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import ParameterError, WireError
from blindsight.securesum._shamir import BLOCK, PRIME, SHARE_BYTES, Recombiner, _evaluate_all, deal, parse_share


def naive_open(points: list[int], shares: list[int], prime: int) -> int:
    """Lagrange interpolation at zero with exact fractions, reduced at the end."""
    total = 0
    for i, share in enumerate(shares):
        weight = Fraction(1)
        for j, other in enumerate(points):
            if j != i:
                weight *= Fraction(other, other - points[i])
        total += share * weight.numerator * pow(weight.denominator, -1, prime)
    return total % prime


def test_prime_is_prime_and_holds_every_secret() -> None:
    assert PRIME > (1 << 256) - 1
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):  # Miller-Rabin
        x = pow(base, odd, PRIME)
        assert x in (1, PRIME - 1) or any(pow(x, 1 << i, PRIME) == PRIME - 1 for i in range(1, twos))


def naive_values(coefficients: list[int], points: list[int]) -> list[int]:
    """The definition of a polynomial, highest degree first."""
    top = len(coefficients) - 1
    return [sum(c * pow(x, top - i, PRIME) for i, c in enumerate(coefficients)) % PRIME for x in points]


@settings(max_examples=60, deadline=None)
@given(
    coefficients=st.lists(st.integers(0, PRIME - 1) | st.just(PRIME - 1), min_size=1, max_size=70),
    points=st.lists(st.integers(1, 1024) | st.integers(1, PRIME - 1), min_size=1, max_size=5),
)
def test_values_in_lanes_are_those_of_the_polynomial(coefficients: list[int], points: list[int]) -> None:
    assert _evaluate_all(coefficients, points) == naive_values(coefficients, points)


def test_full_lanes_do_not_run_into_each_other() -> None:
    for length in (1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK):
        for points in ([1], [1023, 1024], [PRIME - 1]):
            worst = [PRIME - 1] * length
            assert _evaluate_all(worst, points) == naive_values(worst, points)


@settings(max_examples=60, deadline=None)
@given(
    secret=st.binary(min_size=32, max_size=32),
    points=st.lists(st.integers(1, 300), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_any_threshold_shares_open_the_secret(secret: bytes, points: list[int], data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, len(points)))
    shares = deal(secret, threshold=threshold, points=points)
    chosen = data.draw(st.permutations(range(len(points))))[:threshold]
    opened = Recombiner([points[i] for i in chosen]).open([shares[i] for i in chosen])
    assert opened == secret
    naive = naive_open([points[i] for i in chosen], [int.from_bytes(shares[i], "big") for i in chosen], PRIME)
    assert naive == int.from_bytes(secret, "big")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_extreme_secrets(secret: bytes) -> None:
    shares = deal(secret, threshold=3, points=range(1, 6))
    for chosen in itertools.combinations(range(5), 3):
        assert Recombiner([i + 1 for i in chosen]).open([shares[i] for i in chosen]) == secret


@settings(max_examples=30, deadline=None)
@given(one=st.integers(0, (1 << 255) - 1), other=st.integers(0, (1 << 255) - 1))
def test_sharing_is_linear(one: int, other: int) -> None:
    dealt = [deal(value.to_bytes(32, "big"), threshold=2, points=[1, 2, 3]) for value in (one, other)]
    added = [
        ((parse_share(a) + parse_share(b)) % PRIME).to_bytes(SHARE_BYTES, "big") for a, b in zip(*dealt, strict=True)
    ]
    assert Recombiner([1, 3]).open([added[0], added[2]]) == (one + other).to_bytes(32, "big")


def test_fewer_shares_fit_any_secret() -> None:
    """Perfect secrecy: for t-1 shares and any other secret, a polynomial exists that explains both."""
    points = [1, 2, 3]
    shares = [parse_share(share) for share in deal(b"\x07" * 32, threshold=3, points=points)]
    for other in (0, 1, 2**255 + 9):
        # the third share that makes the first two open to `other`
        c = [p.numerator * pow(p.denominator, -1, PRIME) for p in (Fraction(3), Fraction(-3), Fraction(1))]
        third = (other - c[0] * shares[0] - c[1] * shares[1]) * pow(c[2], -1, PRIME) % PRIME
        whole = [value.to_bytes(SHARE_BYTES, "big") for value in (shares[0], shares[1], third)]
        assert Recombiner(points).open(whole) == other.to_bytes(32, "big")


def test_same_secret_is_never_dealt_twice_the_same() -> None:
    dealt = {share for _ in range(50) for share in deal(bytes(32), threshold=2, points=[1, 2])}
    assert len(dealt) == 100


def test_wrong_shares_do_not_open_to_the_secret() -> None:
    shares = deal(b"\x42" * 32, threshold=3, points=[1, 2, 3])
    wrong = ((parse_share(shares[0]) - 1) % PRIME).to_bytes(SHARE_BYTES, "big")
    expected = (int.from_bytes(b"\x42" * 32, "big") - 3) % PRIME  # the first of three weights at zero is 3
    assert Recombiner([1, 2, 3]).open([wrong, *shares[1:]]) == expected.to_bytes(32, "big")


def test_value_above_32_bytes_is_refused() -> None:
    with pytest.raises(WireError, match="no 32-byte secret"):
        Recombiner([1]).open([(1 << 256).to_bytes(SHARE_BYTES, "big")])


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_malformed_share(share: bytes) -> None:
    with pytest.raises(WireError, match="share is malformed"):
        parse_share(share)


def test_number_of_shares_must_fit() -> None:
    with pytest.raises(WireError, match="number of shares"):
        Recombiner([1, 2]).open([bytes(33)])


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [PRIME], [-1, 2]])
def test_points_are_checked(points: list[int]) -> None:
    with pytest.raises(ParameterError, match="points"):
        Recombiner(points)
    with pytest.raises(ParameterError, match="points"):
        deal(bytes(32), threshold=1, points=points)


def test_dealing_is_checked() -> None:
    with pytest.raises(ParameterError, match="threshold"):
        deal(bytes(32), threshold=0, points=[1])
    with pytest.raises(ParameterError, match="threshold"):
        deal(bytes(32), threshold=2, points=[1])
    with pytest.raises(ParameterError, match="32 bytes"):
        deal(bytes(31), threshold=1, points=[1])


def test_a_hundred_holders_take_milliseconds() -> None:
    start = time.perf_counter()
    shares = deal(bytes(32), threshold=67, points=range(1, 101))
    recombiner = Recombiner(range(1, 68))
    assert recombiner.open(shares[:67]) == bytes(32)
    assert time.perf_counter() - start < 0.5  # about 4 ms; Flower's takes 617 ms
