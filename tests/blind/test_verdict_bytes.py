"""Every byte that scorer and owner receive in verdict mode: what it tells each of them, with its key, and what not.

Two real processes, their link through relays and without TLS. All 64 records of a turn are one record, of three: two of
very different scores and the same verdict, one of the other verdict; or all are different. Controls: a scorer whose
masks are zero, and the other side's half of the result beside one's own.
"""

import secrets
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ._models import records, table_model
from ._recording import CHANCE, Relay, free_ports, holds, messages, told_apart

pytest.importorskip("spu", reason="verdicts need the extra mpc")

from blindsight.blind import plan

TESTS = str(Path(__file__).parents[1])
ROWS, TURNS, OTHER_TURNS = 64, 84, 24

COMMON = """
import struct, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from spu import libspu
from blind._models import table_model
from blindsight.blind import Comparison, MemoryTable, RecordOwner, Scorer

def send(data):
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()

def receive():
    return sys.stdin.buffer.read(struct.unpack("<Q", sys.stdin.buffer.read(8))[0])

def connect(rank):
    desc = libspu.link.Desc()
    desc.id, desc.recv_timeout_ms = sys.argv[3], 30000
    for i, address in enumerate(sys.argv[2].split(",")):
        desc.add_party(str(i), address)
    comparison = Comparison(libspu.link.create_brpc(desc, rank), transfer="softspoken")
    negative = comparison.negative
    def logged(words):
        own[:] = [words, negative(words)]
        return own[1]
    comparison.negative = logged
    return comparison

own = []  # words and half of the result, of the last comparison
def mine():
    return own[0].tobytes() + own[1].tobytes()
"""

SCORER = (
    COMMON
    + """
from blindsight.blind import _verdict
if sys.argv[5] == "unmasked":
    _verdict.os = type("Zeros", (), {"urandom": staticmethod(bytes)})
table = MemoryTable()
scorer = Scorer(table_model(4, 16), reveal="verdict", thresholds=[float(sys.argv[4])], table=table)
send(scorer.offer())
comparison = connect(0)
while (sealed := receive()):
    send(scorer.score(sealed))
    masks = b"".join(value[16:] for key, value in table._values.items() if key.startswith("verdict/"))
    scorer.compare(comparison)
    send(mine() + masks)
"""
)

OWNER = (
    COMMON
    + """
owner = RecordOwner(receive())
comparison = connect(1)
while (X := receive()):
    send(owner.seal(np.frombuffer(X).reshape(-1, 4)))
    found = owner.verdicts(receive(), comparison)
    send(found.astype(np.uint8).tobytes() + mine())
"""
)


class Side:
    def __init__(self, script, *arguments):
        command = [sys.executable, "-c", script, TESTS, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, data):
        self.process.stdin.write(struct.pack("<Q", len(data)) + data)
        self.process.stdin.flush()

    def receive(self):
        return self.process.stdout.read(int.from_bytes(self.process.stdout.read(8), "little"))

    def close(self):
        try:
            self.send(b"")
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()


@dataclass
class Turn:
    to_scorer: dict[str, bytes]
    to_owner: dict[str, bytes]
    scorer_words: np.ndarray
    scorer_half: np.ndarray
    masks: bytes
    owner_words: np.ndarray
    owner_half: np.ndarray
    verdicts: np.ndarray


class Pair:
    """Both processes, and the relays between them."""

    def __init__(self, threshold, *, masks="masked"):
        ports, name = free_ports(2), secrets.token_hex(16)
        self.relays = [Relay(port) for port in ports]
        own, relayed = [f"127.0.0.1:{port}" for port in ports], [f"127.0.0.1:{relay.port}" for relay in self.relays]
        self.scorer = Side(SCORER, f"{own[0]},{relayed[1]}", name, repr(threshold), masks)
        self.owner = Side(OWNER, f"{relayed[0]},{own[1]}", name)
        self.offer = self.scorer.receive()
        self.owner.send(self.offer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for side in (self.owner, self.scorer):
            side.close()
        for relay in self.relays:
            relay.close()

    def turn(self, X):
        streams = {
            "scorer": (self.relays[0].there, self.relays[1].back),
            "owner": (self.relays[1].there, self.relays[0].back),
        }
        before = {side: [len(stream) for stream in pair] for side, pair in streams.items()}
        self.owner.send(X.tobytes())
        sealed = self.owner.receive()
        self.scorer.send(sealed)
        answer = self.scorer.receive()
        self.owner.send(answer)
        outcome = np.frombuffer(self.owner.receive(), dtype=np.uint8)
        theirs = np.frombuffer(self.scorer.receive(), dtype=np.uint8)
        parts = {"scorer": {"sealed": sealed}, "owner": {"answer": answer}}
        for side, pair in streams.items():
            link = [bytes(stream[at:]) for stream, at in zip(pair, before[side], strict=True)]
            parts[side] |= {f"raw {i}": data for i, data in enumerate(link)}
            parts[side] |= {f"message {i}": message for i, message in enumerate(messages(link[0]))}
        n, words = len(X), np.ascontiguousarray
        return Turn(
            parts["scorer"],
            parts["owner"],
            words(theirs[: 8 * n]).view("<u8"),
            theirs[8 * n : 9 * n],
            theirs[9 * n :].tobytes(),
            words(outcome[n : 9 * n]).view("<u8"),
            outcome[9 * n :],
            outcome[:n],
        )


@pytest.fixture(scope="module")
def setting():
    """A model, three records by name, and others of the verdict 0; threshold; the integer scores of the others."""
    model = table_model(4, 16)
    X = records(model, 2000)
    scores = model.decision_function(X)
    order = np.argsort(scores)
    threshold = float(scores[order[1900]])
    cases = {"low": X[order[0]], "middle": X[order[1800]], "high": X[order[-1]]}
    others = X[order[: OTHER_TURNS * ROWS]][np.random.default_rng(0).permutation(OTHER_TURNS * ROWS)]
    return model, cases, threshold, others, np.rint(model.decision_function(others) / model.score_scale_)


@pytest.fixture(scope="module")
def masked(setting):
    """Turns of one record each, and its name; turns of other records."""
    _, cases, threshold, others, _ = setting
    names = np.random.default_rng(1).choice(list(cases), TURNS)
    with Pair(threshold) as pair:
        pair.turn(others[:ROWS])  # sets the link up
        turns = [pair.turn(np.tile(cases[name], (ROWS, 1))) for name in names]
        return names, turns, [pair.turn(part) for part in others.reshape(OTHER_TURNS, ROWS, -1)]


def owners_view(turn):
    """All that the owner receives, and what it computes from that with its key."""
    return turn.to_owner | {"words": turn.owner_words.tobytes(), "half": turn.owner_half.tobytes()}


def scorers_view(turn):
    return turn.to_scorer | {"words": turn.scorer_words.tobytes(), "half": turn.scorer_half.tobytes()}


def estimated(words, scores):
    """Correlation, over the second half of the records, of the scores and of what the first half teaches of them.

    The estimator looks at each bit of the owner's word, and at the word as the score that it would be without mask.
    """
    bits = np.unpackbits(words.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1).astype(float)
    views = np.column_stack([bits, words.view(np.int64) / 2.0**63, np.ones(len(words))])
    half = len(words) // 2
    found = views[half:] @ np.linalg.lstsq(views[:half], scores[:half], rcond=None)[0]
    return abs(np.corrcoef(found, scores[half:])[0, 1])


def test_verdicts_are_right(masked, setting):
    names, turns, others = masked
    for name, turn in zip(names, turns, strict=True):
        assert turn.verdicts.tolist() == [int(name == "high")] * ROWS
    assert not any(turn.verdicts.any() for turn in others)


def test_what_the_owner_receives_does_not_tell_two_scores_of_one_verdict_apart(masked):
    names, turns, _ = masked
    same = [(owners_view(turn), name == "low") for name, turn in zip(names, turns, strict=True) if name != "high"]
    assert told_apart(*zip(*same, strict=True)) > CHANCE
    leaking = [(log | {"half": bytes([low]) + log["half"][1:]}, low) for log, low in same]
    assert told_apart(*zip(*leaking, strict=True)) < CHANCE


def test_no_score_can_be_estimated_from_the_owners_words(masked, setting):
    """Correlations of chance over 768 records exceed .25 once in 10**11 runs."""
    _, _, others = masked
    words = np.concatenate([turn.owner_words for turn in others])
    assert estimated(words, setting[-1]) < 0.25


def test_with_masks_of_zero_the_owner_has_every_score(setting):
    """The controls: the same view tells the records apart, the same estimator is right, and rounding is exact."""
    model, cases, threshold, others, scores = setting
    bits = plan(model.encoder_, model.circuit_, thresholds=1).plain_bits
    names = np.random.default_rng(2).choice(["low", "middle"], 52)
    with Pair(threshold, masks="unmasked") as pair:
        turns = [pair.turn(np.tile(cases[name], (ROWS, 1))) for name in names]
        words = np.concatenate([pair.turn(part).owner_words for part in others.reshape(OTHER_TURNS, ROWS, -1)])
    assert not any(turn.verdicts.any() for turn in turns)
    assert told_apart([owners_view(turn) for turn in turns], names == "low") < CHANCE
    assert estimated(words, scores) > 0.99
    assert np.array_equal(np.rint(words / 2.0 ** (64 - bits)), scores)


def test_what_the_scorer_receives_does_not_tell_verdicts_or_scores_apart(masked):
    names, turns, others = masked
    for other in ("middle", "high"):
        pairs = [
            (scorers_view(t), name == "low") for name, t in zip(names, turns, strict=True) if name in ("low", other)
        ]
        assert told_apart(*zip(*pairs, strict=True)) > CHANCE
    # the owner's half beside its own, and every verdict is known; its own alone is a fair coin
    for name, turn in zip(names, turns, strict=True):
        assert ((turn.scorer_half ^ turn.owner_half) == int(name != "high")).all()
    coins = np.concatenate([turn.scorer_half for turn in (*turns, *others)])
    assert abs(coins.mean() - 0.5) < 3 / len(coins) ** 0.5  # six deviations: once in 5 * 10**8 runs


def test_neither_side_receives_the_others_words(masked):
    _, turns, others = masked
    turns = [*turns, *others]
    to_owner, to_scorer = (
        [b"".join(log.values()) for log in logs]
        for logs in ([turn.to_owner for turn in turns], [turn.to_scorer for turn in turns])
    )
    assert not holds(b"".join(to_owner), np.concatenate([turn.scorer_words for turn in turns])).any()
    assert not holds(b"".join(to_scorer), np.concatenate([turn.owner_words for turn in turns])).any()
    for log, turn in zip(to_owner, turns, strict=True):
        width = len(turn.masks) // ROWS
        assert 5 <= width <= 8
        # two masks at a time: one has so few bytes that it may stand there by chance
        assert not any(turn.masks[i * width : (i + 2) * width] in log for i in range(ROWS - 1))
