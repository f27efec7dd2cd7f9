"""The simulated network: its clock by hand, its dropouts by count, and that nothing but the seed decides."""

from __future__ import annotations

import pytest

from blindsight.channels import SimulatedChannel, SimulatedNetwork
from blindsight.errors import ParameterError

EVEN = {"spread": 0.0, "jitter": 0.0, "compute_s": 0.0, "compute_s_per_mb": 0.0}
PHASES = ("advertise", "share", "mask", "confirm", "unmask")


def echo(request: bytes) -> bytes:
    return request


def fleet(n: int, seed: int = 1, handler=echo, **network) -> SimulatedChannel:
    return SimulatedChannel({f"p{i:03d}": handler for i in range(n)}, SimulatedNetwork(**network), seed=seed)


def talk(channel: SimulatedChannel, conversation: str, timeout_s: float = 60.0) -> list[set[str]]:
    """Five exchanges, each with those who answered the one before."""
    here, answered = set(channel.parties), []
    for phase in PHASES:
        channel.mark(conversation, phase)
        here = set(channel.exchange(dict.fromkeys(here, b"x" * 1000), timeout_s))
        answered.append(here)
    return answered


def test_the_clock_is_latency_and_bytes_over_bandwidth():
    channel = fleet(1, latency_ms=100, bandwidth_mbit=8, coordinator_mbit=80, **EVEN)
    channel.exchange({"p000": bytes(1_000_000)}, 60)
    # out of the coordinator's line .1 s, on the way .1, into the party's line 1; and the same back
    assert channel.now_s == pytest.approx(2 * (0.1 + 0.1 + 1.0))
    assert channel.traffic.sent_bytes == channel.traffic.received_bytes == 1_000_000
    assert channel.party_bytes == {"p000": (1_000_000, 1_000_000)}


def test_the_coordinators_line_is_shared_by_all():
    alone, many = (fleet(n, latency_ms=0, bandwidth_mbit=1e6, coordinator_mbit=8, **EVEN) for n in (1, 10))
    for channel in (alone, many):
        channel.exchange(dict.fromkeys(channel.parties, bytes(100_000)), 60)
    assert alone.now_s == pytest.approx(0.2, rel=1e-3)
    assert many.now_s == pytest.approx(
        1.1, rel=1e-3
    )  # ten requests out; their answers come in meanwhile, the last after


def test_slow_parties_compute_longer():
    channel = fleet(1, latency_ms=0, bandwidth_mbit=1e6, coordinator_mbit=1e6, **{**EVEN, "compute_s": 3.0})
    channel.exchange({"p000": b""}, 60)
    assert channel.now_s == pytest.approx(3.0)


def test_a_late_answer_is_dropped_and_the_clock_stands_at_the_deadline():
    channel = fleet(20, latency_ms=1000, spread=1.0, jitter=0.0, compute_s=0.0)
    answers = channel.exchange(dict.fromkeys(channel.parties, b"x"), 2.0)
    assert 0 < len(answers) < 20
    assert channel.now_s == 2.0
    assert channel.history[0].late == 20 - len(answers)
    assert channel.traffic.received_bytes == len(answers)


def test_the_same_seed_gives_the_same_clock_and_the_same_dropouts():
    runs = []
    for seed in (1, 1, 2):
        channel = fleet(40, seed, dropout=0.5, latency_ms=200)
        runs.append((talk(channel, "fit"), talk(channel, "threshold"), channel.now_s))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][0] != runs[0][1], "each conversation draws its own"


def test_the_same_conversation_twice_is_two_and_more_parts_than_planned_are_answered():
    channel = fleet(50, dropout=0.3)
    first, again = talk(channel, "evaluation"), talk(channel, "evaluation")
    assert first != again
    assert len(again[-1]) == 35
    channel.mark("evaluation", "one more")
    assert len(channel.exchange(dict.fromkeys(channel.parties, b"x"), 60.0)) == 35


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
def test_exactly_that_many_drop_out_of_a_conversation(dropout):
    channel = fleet(50, dropout=dropout)
    assert len(talk(channel, "fit")[-1]) == 50 - int(dropout * 50)
    if dropout:
        gone = [exchange.absent + exchange.lost for exchange in channel.history]
        assert sum(gone) == int(dropout * 50)
        assert sum(count > 0 for count in gone) > 2, "in any phase"
        assert any(exchange.lost for exchange in channel.history), "some after having computed"


def test_dropouts_of_the_first_conversation_alone():
    channel = fleet(50, dropout=0.3, dropouts_in="first")
    assert len(talk(channel, "fit")[-1]) == 35
    assert len(talk(channel, "threshold")[-1]) == 50


def test_an_absent_party_is_never_asked_and_one_whose_answer_is_lost_is():
    asked = []

    def handler(request: bytes) -> bytes:
        asked.append(request)
        return request

    channel = fleet(50, dropout=0.9, handler=handler)
    talk(channel, "fit")
    assert len(asked) == sum(exchange.asked - exchange.absent for exchange in channel.history)


def test_a_handler_that_raises_is_a_party_that_does_not_answer(caplog):
    def broken(request: bytes) -> bytes:
        raise RuntimeError("no")

    channel = fleet(3, handler=broken)
    assert channel.exchange(dict.fromkeys(channel.parties, b"x"), 5.0) == {}
    assert (channel.history[0].failed, channel.now_s) == (3, 0.0), "nobody waits for it"
    assert "did not answer" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [{"latency_ms": -1}, {"bandwidth_mbit": 0}, {"dropout": 1.0}, {"spread": float("nan")}, {"dropouts_in": "never"},
     {"jitter": True}, {"compute_s": "1"}],
    ids=str,
)  # fmt: skip
def test_what_is_out_of_its_domain_is_refused(wrong):
    with pytest.raises(ParameterError):
        SimulatedNetwork(**wrong)
