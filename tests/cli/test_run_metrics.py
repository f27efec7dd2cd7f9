"""Metrics of a coordinator's run, as Prometheus reads them."""

from __future__ import annotations

import httpx
import pytest

from blindsight.cli._rounds import Rounds
from blindsight.cli._run_metrics import RunMetrics
from blindsight.detectors import ECOD
from blindsight.errors import UnavailableError
from blindsight.federation import Federation, Policy
from blindsight.privacy import DifferentialPrivacy
from blindsight.testing import FaultyChannel
from sample_tables import NUMBER_SCHEMA, make_table


def read(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=20).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_a_run_as_prometheus_sees_it(tmp_path) -> None:
    data = {name: make_table(400, place) for place, name in enumerate("abcd")}
    federation = Federation.embedded(data, schema=NUMBER_SCHEMA, policy=Policy())
    federation._channel = FaultyChannel(federation._channel, silent_from={"d": 7})  # in the threshold's sum
    with RunMetrics(0) as metrics:
        rounds = Rounds(
            tmp_path / "rounds.jsonl", run=lambda: federation.history[-1], delta=1e-6, quiet=True, listeners=[metrics]
        )
        rounds.waits(list("abc"), ["d"])
        assert read(metrics.port)["blindsight_run_parties_connected"] == 3
        privacy = DifferentialPrivacy(epsilon=2.0, delta=1e-6)
        model = federation.fit(ECOD(bins=8), privacy=privacy, on_step=rounds.done)
        rounds.ends("done")
        found = read(metrics.port)
        with pytest.raises(UnavailableError, match="cannot be served"):
            RunMetrics(metrics.port)
    steps = federation.history[-1].steps
    assert [len(step.survivors) for step in steps] == [4, 3]
    assert found['blindsight_run_sums_total{purpose="fit"}'] == 1
    assert found["blindsight_run_survivors"] == 3
    assert found['blindsight_run_dropouts_total{party="d"}'] == 1
    assert found['blindsight_run_bytes_total{direction="sent"}'] == sum(step.sent_bytes for step in steps)
    assert found['blindsight_run_epsilon{unit="record"}'] == pytest.approx(model.certificate_["epsilon_spent"])
    assert found["blindsight_run_done"] == 1
    with pytest.raises(httpx.ConnectError):
        read(metrics.port)
