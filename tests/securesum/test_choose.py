"""The chooser: what it rules out, what it takes, what it says; its bytes against those of real sums."""

from __future__ import annotations

import pytest

from blindsight.errors import ParameterError, SurvivorsError
from blindsight.securesum import choose_sum

from ._drive import make_sum


@pytest.mark.parametrize(
    ("method", "n", "length"),
    [("masked", 5, 1000), ("masked", 20, 10), ("he", 3, 3000), ("he", 20, 10), ("paillier", 3, 60)],
)
def test_bytes_are_those_of_a_real_sum(method: str, n: int, length: int) -> None:
    this = make_sum(n, length=length, bits=64, method=method)
    this.run()
    up = max(sum(len(m) for (_, name), m in this.sent.items() if name == who) for who in this.spec.names)
    down = max(sum(len(m) for (_, name), m in this.asked.items() if name == who) for who in this.spec.names)
    option = next(o for o in choose_sum(n, length, colluders=0).options if o.method == method)
    assert option.up_bytes == pytest.approx(up, rel=0.1)
    assert option.down_bytes == pytest.approx(down, rel=0.15)


def test_one_colluder_leaves_masks_alone() -> None:
    choice = choose_sum(20, 1000)
    assert choice.method == "masked"
    assert {o.method: o.refusal for o in choice.options} == {
        "masked": "",
        "he": "tolerates 0 colluders, not 1",
        "paillier": "tolerates 0 colluders, not 1",
    }
    assert "up to 7 of 20 parties may collude with the coordinator" in choice.why
    assert "he is out (tolerates 0 colluders, not 1)" in choice.why


def test_without_masks_the_quicker_scheme_is_taken_and_what_it_trusts_is_said() -> None:
    choice = choose_sum(5, 100_000, colluders=0, among=("he", "paillier"))
    assert choice.method == "he"
    assert "one that does opens every party's vector" in choice.why
    assert "masked is out (ruled out by the caller)" in choice.why
    assert "paillier would take" in choice.why
    assert choice.chosen.party_s < 5
    assert (
        choose_sum(5, 1 << 20, colluders=0, among=("paillier", "he")).options[2].refusal.startswith("at most 131,072")
    )


def test_masks_cost_more_with_every_dropout() -> None:
    none, some = (choose_sum(20, 1_000_000, dropouts=k).chosen for k in (0, 6))
    assert some.coordinator_s > none.coordinator_s


def test_what_no_sum_can_do_is_refused() -> None:
    with pytest.raises(SurvivorsError, match="2 of 5"):
        choose_sum(5, 10, dropouts=2)
    with pytest.raises(ParameterError, match="tolerates 2 colluders, not 3"):
        choose_sum(5, 10, colluders=3)
    with pytest.raises(ParameterError, match="No way to hide the vectors is left"):
        choose_sum(5, 10, among=("he",))
    for bad in ({"dropouts": -1}, {"colluders": -1}, {"megabits_per_second": 0}, {"among": ()}, {"among": ("ckks",)}):
        with pytest.raises(ParameterError):
            choose_sum(5, 10, **bad)
