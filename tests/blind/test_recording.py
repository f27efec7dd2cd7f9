"""The tools of the tests on received bytes, on logs whose secrets are known."""

import numpy as np

from ._recording import CHANCE, holds, told_apart


def test_guesses_on_logs_of_chance_are_right_half_the_time() -> None:
    """Unlike lengths and missing messages included: p-values are as they should be."""
    rng = np.random.default_rng(3)
    values = []
    for _ in range(60):
        coins = rng.integers(0, 2, 60)
        logs = [{"a": rng.bytes(200 + int(rng.integers(9)))} for _ in coins]
        for log in logs[::3]:
            log["b"] = rng.bytes(8)
        values.append(told_apart(logs, coins, extra=rng.normal(size=(60, 3))))
    assert min(values) > CHANCE
    # the share of p-values below .3 is at most .3, and not much smaller: outside of this once in a million
    assert 1 <= sum(value < 0.3 for value in values) <= 38


def test_a_leak_of_one_word_is_found_wherever_it_is() -> None:
    rng = np.random.default_rng(4)
    coins = rng.integers(0, 2, 60)
    words = [rng.bytes(8), rng.bytes(8)]
    quiet = [{"a": rng.bytes(4_096), "b": rng.bytes(8)} for _ in coins]
    assert told_apart(quiet, coins) > CHANCE
    for at in (0, 1_999, 4_088):
        leaking = [
            log | {"a": log["a"][:at] + words[c] + log["a"][at + 8 :]} for log, c in zip(quiet, coins, strict=True)
        ]
        assert told_apart(leaking, coins) < CHANCE
    longer = [log | {"a": log["a"] + bytes(c)} for log, c in zip(quiet, coins, strict=True)]
    assert told_apart(longer, coins) < CHANCE
    computed = coins[:, None] + 0.1 * rng.normal(size=(60, 1))
    assert told_apart(quiet, coins, extra=computed) < CHANCE


def test_words_are_found_at_any_place_in_either_order() -> None:
    rng = np.random.default_rng(5)
    words = rng.integers(0, 1 << 63, 5, dtype=np.uint64)
    log = bytearray(rng.bytes((1 << 22) + 5))
    assert not holds(bytes(log), words).any()
    log[3:11] = words[0].tobytes()
    log[(1 << 21) - 3 : (1 << 21) + 5] = words[2].tobytes()  # across the border of two pieces
    log[-8:] = words[4].byteswap().tobytes()
    assert holds(bytes(log), words).tolist() == [True, False, True, False, True]
    assert not holds(b"short", words).any()
