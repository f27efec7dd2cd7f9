"""Metrics of a coordinator's run, as Prometheus reads them."""

from __future__ import annotations

import contextlib
import socket

import httpx
import pytest

from blindsight.cli import _metrics
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


def test_connections_beyond_a_few_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account on this machine that opens as many as it can takes no descriptor from the process."""
    monkeypatch.setattr(_metrics._Handler, "timeout", 60.0)
    with RunMetrics(0) as metrics, contextlib.ExitStack() as opened:

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", metrics.port), 20))

        held = [connect() for _ in range(4)]
        assert [connect().recv(1) for _ in range(16)] == [b""] * 16
        for connection in held:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.0 200 OK\r\n")
            while connection.recv(65_536):
                pass
        assert read(metrics.port)["blindsight_run_done"] == 0


def test_a_connection_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(_metrics._Handler, "timeout", 0.2)
    with RunMetrics(0) as metrics, socket.create_connection(("127.0.0.1", metrics.port), 20) as idle:
        idle.sendall(b"GET /metrics HTT")
        assert idle.recv(1) == b""
        assert read(metrics.port)["blindsight_run_done"] == 0
    assert capfd.readouterr().err == ""
