"""Rounds of training where every party is a process of its own; one is killed in the middle of a round."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.federation import Federation, Policy, open_party
from blindsight.federation._wire import Reply, decode_reply

from ._drive import dp, embedded, faulty, tables
from .test_rounds import PLUGIN, round_mean

POLICY = Policy(
    allow_exact_sums=True,
    detectors=("RoundMean",),
    units=("record", "person", "party"),
    allow_unmasked_updates=True,
)


@pytest.fixture
def running(
    tmp_path: Path, number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Federation, dict[str, Any], Path]]:
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN), prepend=os.pathsep)
    data, paths = tables(4, rows=40), {}
    for name, table in data.items():
        paths[name] = tmp_path / f"{name}.parquet"
        table.write_parquet(paths[name])
    home = tmp_path / "home"
    with Federation.processes(paths, schema=number_schema, home=home, policy=POLICY, timeout_s=60) as federation:
        yield federation, data, home
    sys.modules.pop("round_mean", None)


def test_the_model_is_the_embedded_one_bit_for_bit(running: tuple, number_schema: Schema) -> None:
    federation, data, _ = running
    for masked in (True, False):
        detector = round_mean(rounds=2, masked=masked)
        model = federation.fit(detector, privacy=None)
        inside = embedded(data, number_schema, POLICY).fit(detector, privacy=None)
        model.provenance_ = inside.provenance_ = model.certificate_ = inside.certificate_ = None
        assert modelfile.dumps(model) == modelfile.dumps(inside)


@pytest.mark.parametrize(("phase", "charged"), [("mask", 1), ("confirm", 2)])
def test_a_party_killed_in_a_round_drops_out_and_resumes(phase: str, charged: int, running: tuple) -> None:
    """Killed before it is asked to train, or after its vector has left; asked again, it owes nothing twice."""
    federation, data, home = running
    channel = faulty(federation)
    victim = federation._channel._inner.process_id("bank-01")  # type: ignore[attr-defined]

    def kill(step: str, now: str) -> None:
        if (step, now) == ("round/1", phase):
            os.kill(victim, signal.SIGKILL)

    federation.progress = kill
    model = federation.fit(round_mean(rounds=3), privacy=dp(4.0, unit="record"))
    assert np.isfinite(model.mean_).all()
    steps = federation.history[0].steps
    survivors = [name for name in data if name != "bank-01"]
    assert [step.survivors for step in steps[2:]] == [survivors] * 2
    assert ("bank-01" in steps[1].survivors) == (phase == "confirm")

    party = open_party(home / "bank-01")
    ledger = party.ledgers["record"]
    assert len(ledger.entries()) == charged
    masking = channel.requests[7]["bank-01"]
    answer = party.handle(masking)
    assert isinstance(decode_reply(answer), Reply)
    if phase == "confirm":
        assert answer == channel.answers[7]["bank-01"], "the same bytes"
    assert party.handle(masking) == answer
    assert len(ledger.entries()) == 2
    assert party._releases.memory.load(federation.history[0].run)["rounds"] == b"\x02"
    ledger.verify()
