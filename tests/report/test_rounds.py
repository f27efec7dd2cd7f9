"""Many rounds become few lines, and nothing of them is lost on the way."""

from __future__ import annotations

import msgspec
import pytest

from blindsight.report import Stage, render
from blindsight.report._rounds import grouped, losses_of

from ._runs import full_run


def stage(step: str, *, kind: str = "fit", dropped: dict[str, str] | None = None, loss: float | None = None) -> Stage:
    parties = ("a", "b", "c", "d")
    return Stage(
        kind=kind,
        step=step,
        purpose="fit",
        coordinates=10,
        participants=parties,
        survivors=tuple(name for name in parties if name not in (dropped or {})),
        dropped=dropped or {},
        sent_bytes=100,
        received_bytes=50,
        seconds=0.5,
        exact=False,
        noise_stddev=0.0,
        guarantee="",
        loss=loss,
    )


def a_fit(rounds: int) -> tuple[Stage, ...]:
    stages = [stage("prepare")]
    for number in range(rounds):
        stages.append(stage(f"round/{number}", dropped={"d": "silent"} if number == 3 else None))
        stages.append(stage(f"loss/{number}", loss=1.0 / (1 + number)))
    return (*stages, stage("threshold"))


def test_rounds_are_put_together() -> None:
    stages = a_fit(30)
    together = grouped(stages)
    assert [one.step for one in together] == [
        "prepare",
        "round/0 to 29 (30 sums)",
        "loss/0 to 29 (30 sums)",
        "threshold",
    ]
    for field in ("sent_bytes", "received_bytes", "seconds"):
        assert sum(getattr(one, field) for one in together) == sum(getattr(one, field) for one in stages)
    assert together[1].survivors == ("a", "b", "c")
    assert together[1].dropped == {"d": "1 of 30 rounds; first: silent"}
    assert together[2].survivors == ("a", "b", "c", "d")


def test_single_sums_and_other_runs_stay_apart() -> None:
    stages = (stage("fit"), stage("threshold"), stage("evaluation", kind="evaluate"), stage("fit"), stage("round/0"))
    assert grouped(stages) == stages
    twice = (stage("round/0"), stage("evaluation", kind="evaluate"), stage("round/0"))
    assert grouped(twice) == twice


def test_losses_are_those_that_were_released() -> None:
    assert losses_of(a_fit(3)) == ((0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3)))
    assert losses_of((stage("fit"), stage("round/0"))) == ()


def test_a_page_of_many_rounds_is_small_and_draws_the_loss() -> None:
    run = msgspec.structs.replace(full_run(), stages=a_fit(2000))
    page = render(run)
    assert len(page) < 300_000
    assert "round/0 to 1999 (2000 sums)" in page
    assert "Loss by round" in page
    assert "in the updates" in page
    assert "Loss by round" not in render(full_run())
