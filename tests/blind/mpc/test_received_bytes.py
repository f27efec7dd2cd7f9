"""Every byte that each operator receives, written down: no record in it, nor anything that depends on one.

Operators are real processes (``_recorded_node``): HTTPS as ever, its contents recorded after TLS; their links through
relays, without TLS. Two records of very different values and of one verdict are sent, by the throw of a coin. With
masks of zero the same tests find the record; and two operators' logs together have it.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from blind._models import records, table_model
from blind._networks import NetworkModel
from blind._recording import CHANCE, holds, holds_neighbours, messages, told_apart
from blindsight.blind.mpc import MpcOwner, _client
from blindsight.circuits import Activation, Dense, Network, Standardised, evaluate

from ._recorded import Received, RecordedNodes

ROWS, INPUTS = 2, 6
RUNS, UNMASKED_RUNS = 52, 50


class ListeningOwner(MpcOwner):
    """Keeps what the operators answer."""

    answers: tuple[bytes, ...] = ()

    def _each(self, method: str, path: str, bodies: Any, timeout_s: float) -> list[tuple[bytes, dict[str, str]]]:
        found = super()._each(method, path, bodies, timeout_s)
        self.answers = tuple(body for body, _ in found)
        return found


@dataclass
class Session:
    nodes: RecordedNodes
    owner: ListeningOwner
    model: NetworkModel
    records: tuple[np.ndarray, np.ndarray]

    @property
    def ranks(self) -> range:
        return range(self.nodes.count)

    def run(self, count: int, seed: int) -> tuple[np.ndarray, list[list[Received]], list[dict[str, bytes]]]:
        """Coins; for each operator what it received in each run; and what the owner received."""
        coins = np.random.default_rng(seed).integers(0, 2, count)
        operators: list[list[Received]] = [[] for _ in self.ranks]
        owner = []
        marks = [self.nodes.mark(rank) for rank in self.ranks]
        for coin in coins:
            assert self.owner.score(self.records[coin]).tolist() == [0] * ROWS
            owner.append({f"answer of {rank}": answer for rank, answer in enumerate(self.owner.answers)})
            for rank in self.ranks:
                operators[rank].append(self.nodes.received(rank, marks[rank]))
                marks[rank] = self.nodes.mark(rank)
        return coins, operators, owner

    def shares(self, rank: int) -> list[np.ndarray]:
        """Pieces of each run's records that an operator was sent, (rows, inputs, pieces), read as documented."""
        found = []
        for body in self.nodes.received(rank).bodies(b"/v1/runs"):
            magic, size, pieces = struct.unpack_from("<4sHH", body)
            (length,) = struct.unpack_from("<Q", body, 8 + size)
            assert (magic, pieces, len(body)) == (b"BSMP", 1, 16 + size + length)
            found.append(np.frombuffer(body[-length:], dtype="<u8").reshape(ROWS, INPUTS, -1))
        return found


def in_the_ring(values: np.ndarray) -> np.ndarray:
    """Fixed point of 20 bits, two's complement, as documented."""
    return np.trunc(np.asarray(values) * 2.0**20).astype(np.int64).view(np.uint64).ravel()


@pytest.fixture(scope="module", params=[3, pytest.param(2, marks=pytest.mark.slow)], ids=["aby3", "cheetah"])
def session(request: Any, tmp_path_factory: Any) -> Any:
    rng = np.random.default_rng(0)
    layers = (
        Dense(weights=rng.normal(size=(3, INPUTS)), bias=rng.normal(size=3)),
        Activation("relu", 0.1),
        Dense(weights=rng.normal(size=(INPUTS, 3)), bias=rng.normal(size=INPUTS)),
    )
    inputs = Standardised(offsets=(0.0,) * INPUTS, scales=(1.0,) * INPUTS, slots=(0,) * INPUTS, bound=8.0)
    model = NetworkModel(inputs, Network(layers=layers, target="inputs"), threshold_=12345.678)
    near, far = rng.uniform(-1.0, 1.0, size=(ROWS, INPUTS)), rng.uniform(4.0, 7.0, size=(ROWS, INPUTS))
    assert model.decision_function(near).max() < 0.5 * model.decision_function(far).min()
    nodes = RecordedNodes(tmp_path_factory.mktemp("recorded"), request.param)
    try:
        nodes.holder().share(model, "network", answer="verdict")
        owner = ListeningOwner(nodes.operators, "network", **nodes.identity("owner"))
        assert owner.score(near).tolist() == [0] * ROWS  # sets the link up
        yield Session(nodes, owner, model, (near, far))
    finally:
        nodes.close()


def test_no_operator_tells_two_records_apart(session: Session) -> None:
    coins, operators, owner = session.run(RUNS, 1)
    words = [in_the_ring(record)[:1].tobytes() for record in session.records]
    for received in operators:
        parts = [run.parts() for run in received]
        assert min(map(len, parts)) > 8
        assert told_apart(parts, coins) > CHANCE
        # the same test sees a word of the record in one message over the link
        name = max(
            (name for name in parts[0] if name.startswith("from ")),
            key=lambda n: min(len(p.get(n, b"")) for p in parts),
        )
        leaking = [run | {name: run[name][:8] + words[c] + run[name][16:]} for run, c in zip(parts, coins, strict=True)]
        assert told_apart(leaking, coins) < CHANCE
    assert told_apart(owner, coins) > CHANCE  # two records of one verdict: all that the owner learns is that
    pieces = 2 if session.nodes.count == 3 else 1
    assert all(len(answer) == ROWS * pieces and set(answer) <= {0, 1} for run in owner for answer in run.values())


def test_no_operator_receives_a_record_or_a_weight(session: Session) -> None:
    first, _, last = session.model.network_.layers
    threshold = np.array([session.model.threshold_])
    secret = [*session.records, *(a for layer in (first, last) for a in (layer.weights, layer.bias)), threshold]
    scores = [session.model.decision_function(record) for record in session.records]
    floats = np.concatenate([value.astype(np.float64).ravel() for value in [*secret, *scores]]).view(np.uint64)
    words = np.concatenate([in_the_ring(value) for value in secret])
    for rank in session.ranks:
        log = session.nodes.received(rank).everything
        # nor the piece of a record that it was not given, nor what its own pieces add up to
        mine, theirs = (np.array(session.shares(r)) for r in (rank, (rank + 1) % session.nodes.count))
        unknown = [floats, theirs[..., -1].ravel()]
        unknown += [mine.sum(axis=-1, dtype=np.uint64).ravel()] if session.nodes.count == 3 else []
        found = holds(log, np.concatenate([mine.ravel(), *unknown]))
        assert found[: mine.size].all()
        assert not found[mine.size :].any()
        assert not holds_neighbours(log, words)
    assert holds(log[:999] + floats[7:8].tobytes(), floats).sum() == 1
    assert holds_neighbours(log[:999] + words[-2:].tobytes(), words)


def test_two_operators_together_have_the_record(session: Session) -> None:
    """Any two logs of ABY3's, both of CHEETAH's; one alone adds up to nothing."""
    sent = [session.shares(rank)[0] for rank in session.ranks]
    record = in_the_ring(session.records[0]).reshape(ROWS, INPUTS)
    for rank in session.ranks:
        alone = sent[rank].sum(axis=2, dtype=np.uint64)
        assert np.array_equal(alone + sent[(rank + 1) % session.nodes.count][:, :, -1], record)
        assert not (alone == record).any()


def test_without_masks_the_same_tests_find_the_record(session: Session, monkeypatch: Any) -> None:
    """The owner shares x as x, 0 and 0: the answers are as right as before."""

    def unmasked(program: Any, argument: Any, values: np.ndarray) -> list[bytes]:
        shares = np.zeros((program.operators, values.size), dtype=np.uint64)
        shares[0] = in_the_ring(values)
        if program.operators == 2:
            return [share.tobytes() for share in shares]
        return [np.stack([shares[i], shares[(i + 1) % 3]], axis=1).tobytes() for i in range(3)]

    monkeypatch.setattr(_client, "split", unmasked)
    coins, operators, _ = session.run(UNMASKED_RUNS, 2)
    told = [told_apart([run.parts() for run in received], coins) < CHANCE for received in operators]
    record = in_the_ring(session.records[coins[0]])
    found = [bool(holds(received[0].everything, record).all()) for received in operators]
    # the first operator holds x and 0, the last 0 and x, what lies between nothing
    assert told == found == ([True, False, True] if session.nodes.count == 3 else [True, False])


def test_the_links_logs_hold_what_is_computed(session: Session) -> None:
    """The messages after a product add up to it: relays record the protocol itself. No one of them has a score."""
    if session.nodes.count == 2:
        pytest.skip("CHEETAH's products travel encrypted")
    model = table_model(3, 8)
    X = records(model, 5)
    session.nodes.holder().share(model, "table")
    owner = session.nodes.owner("table")
    owner.score(X)
    marks = [session.nodes.mark(rank) for rank in session.ranks]
    assert np.array_equal(owner.score(X), model.decision_function(X))
    words = []
    for rank in session.ranks:
        stream = session.nodes.received(rank, marks[rank]).links[f"from {(rank + 1) % 3}"]
        (share,) = [message for message in messages(stream) if len(message) == 8 * len(X)]
        words.append(np.frombuffer(share, dtype="<u8"))
    whole = evaluate(model.encoder_, model.circuit_, X) - model.circuit_.bias
    assert np.array_equal(np.add.reduce(words).view(np.int64), whole)
    assert not any(np.isin(word, whole.view(np.uint64)).any() for word in words)
