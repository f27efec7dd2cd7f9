"""Operators as real processes with real TLS: answers, roles, budgets, and what happens when one dies."""

import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from blindsight.blind.mpc import MpcOwner, NodeConfig, TlsFiles, make_certificate
from blindsight.blind.mpc._certificates import pinned_context
from blindsight.blind.mpc._operator import MAX_PENDING
from blindsight.blind.mpc._program import Program
from blindsight.blind.mpc._wire import RunHeader, pack
from blindsight.errors import (
    AuthenticationError,
    BlindsightWarning,
    BudgetError,
    DataError,
    FormatError,
    ParameterError,
    PolicyError,
    ReleaseError,
    StoreError,
    UnavailableError,
    WireError,
)
from blindsight.keys import create_key_file

from ._nodes import Nodes
from .conftest import NetworkModel
from .test_deep import trained, turning


def client(nodes: Nodes, rank: int, name: str) -> httpx.Client:
    identity = nodes.identity(name)
    tls = TlsFiles(**identity, trusted=Path())
    context = pinned_context(tls, server=False, peers=[nodes.operators[rank].certificate])
    return httpx.Client(base_url=f"https://{nodes.addresses[rank]}", verify=context, timeout=20, trust_env=False)


def catch(do: Any, raised: list[Any]) -> None:
    try:
        do()
    except Exception as problem:
        raised.append(problem)


def test_scores_equal_the_clear_ones(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    table, X, _ = hospital
    model = detectors["ecod"]
    nodes.holder().share(model, "ecod")
    owner = nodes.owner("ecod")
    assert np.array_equal(owner.score(X), model.decision_function(table))
    assert np.array_equal(owner.score(X[:50], rows_per_run=20), model.decision_function(table[:50]))
    assert [node["link"] for node in owner.health()] == [True, True, True]


def test_verdicts_equal_the_clear_ones_and_bits_are_counted(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    table, X, _ = hospital
    model = detectors["mahalanobis"]
    holder = nodes.holder()
    holder.share(model, "bits", answer="verdict", bits_per_owner=len(X) + 10)
    owner = nodes.owner("bits")
    verdicts = owner.score(X)
    assert verdicts.dtype == np.int64
    assert np.array_equal(verdicts, model.predict(table))
    with pytest.raises(BudgetError, match="10 of"):
        owner.score(X[:11])
    holder.share(model, "bits", answer="verdict", bits_per_owner=len(X) + 10)  # under the same name: nothing comes back
    owner.refresh()
    with pytest.raises(BudgetError):
        owner.score(X[:11])
    assert np.array_equal(owner.score(X[:10]), verdicts[:10])
    assert np.array_equal(nodes.owner("bits", "other").score(X[:20]), verdicts[:20])


def test_a_network_in_one_bit(nodes: Nodes, hospital: Any) -> None:
    _, X, schema = hospital
    model = NetworkModel(schema, X, "relu", "inputs")
    nodes.holder().share(model, "network", answer="verdict")
    clear = model.decision_function(X)
    decided = np.abs(clear - model.threshold_) > 1e-3 * model.threshold_
    assert np.array_equal(nodes.owner("network").score(X)[decided] == 1, (clear > model.threshold_)[decided])


def test_windows_of_series_from_a_table_to_its_scores(nodes: Nodes) -> None:
    """A trained recurrent model and a table of two series, through real nodes: scores, and then one bit a record."""
    model, table = trained("LSTMAutoEncoder", window=3, hidden=2), turning()[-24:]
    clear, threshold = model.decision_function(table), model.threshold_
    holder = nodes.holder()
    with pytest.warns(BlindsightWarning, match="not secret"):
        holder.share(model, "series")
    scores = nodes.owner("series").score(table, rows_per_run=12)
    assert np.abs(scores - clear).max() <= 1e-3 * threshold
    with pytest.warns(BlindsightWarning, match="not secret"):
        holder.share(model, "series", answer="verdict")
    decided = np.abs(clear - threshold) > 1e-3 * threshold
    verdicts = nodes.owner("series").score(table, rows_per_run=12)
    assert np.array_equal(verdicts[decided], model.predict(table)[decided])
    assert 0 < verdicts.sum() < len(verdicts)
    with pytest.raises(DataError):
        nodes.owner("series").score(table.drop("heat"))


def test_owners_at_the_same_time_are_answered_in_turn(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    table, X, _ = hospital
    model = detectors["ecod"]
    nodes.holder().share(model, "together")
    found: dict[str, Any] = {}

    def ask(name: str, start: int) -> None:
        owner = nodes.owner("together", name)
        found[name] = np.concatenate([owner.score(X[start + i : start + i + 5]) for i in range(0, 15, 5)])

    threads = [threading.Thread(target=ask, args=pair) for pair in (("owner", 0), ("other", 40))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    clear = model.decision_function(table)
    assert np.array_equal(found["owner"], clear[:15])
    assert np.array_equal(found["other"], clear[40:55])


def test_a_run_id_is_used_once(nodes: Nodes, detectors: Any) -> None:
    """The bytes of a run, sent again as they were, are refused by every operator."""
    model = detectors["ecod"]
    key = nodes.holder().share(model, "once")
    program = nodes.owner("once").offer.program
    length = 3 * program.inputs * 16
    body = pack(RunHeader(id="ab" * 16, model=key, rows=3), [bytes(length)])
    results: list[Any] = [None] * 3

    def post(rank: int) -> None:
        with client(nodes, rank, "owner") as asking:
            results[rank] = asking.post("/v1/runs", content=body)

    for expected in (200, 409):
        threads = [threading.Thread(target=post, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [result.status_code for result in results] == [expected] * 3
    assert {result.json()["kind"] for result in results} == {ReleaseError.__name__}
    assert isinstance(program, Program)


def post_runs(nodes: Nodes, asked: list[tuple[int, str, str]], length: int, key: str) -> tuple[Any, list[Any]]:
    """Threads that each post one run (rank, client, id) and hold it open, and where their answers will be."""
    results: list[Any] = [None] * len(asked)

    def post(place: int) -> None:
        rank, name, run = asked[place]
        with client(nodes, rank, name) as asking:
            body = pack(RunHeader(id=run, model=key, rows=1), [bytes(length)])
            results[place] = asking.post("/v1/runs", content=body, timeout=60)

    threads = [threading.Thread(target=post, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    return threads, results


def sessions(nodes: Nodes) -> int:
    return sum(log.read_text().count('"event": "session"') for log in nodes.logs)


def test_a_run_of_two_owners_is_refused(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    """Another owner under the same id at one operator: it would be answered about the first one's record."""
    table, X, _ = hospital
    key = nodes.holder().share(detectors["ecod"], "mixed")
    length = nodes.owner("mixed").offer.program.inputs * 16
    asked = [(0, "owner", "ac" * 16), (1, "owner", "ac" * 16), (2, "other", "ac" * 16)]
    threads, results = post_runs(nodes, asked, length, key)
    for thread in threads:
        thread.join(60)
    assert [result.status_code for result in results] == [503] * 3
    assert np.array_equal(nodes.owner("mixed").score(X[:3]), detectors["ecod"].decision_function(table[:3]))


def test_one_owner_does_not_block_the_others(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    """Runs that reach some operators only are held for their owner alone, for a short time, and end no link."""
    table, X, _ = hospital
    model = detectors["ecod"]
    key = nodes.holder().share(model, "blocked")
    other = nodes.owner("blocked", "other")
    other.score(X[:2])
    length, before, started = other.offer.program.inputs * 16, sessions(nodes), time.monotonic()
    asked = [(0, "owner", "b0" * 16), (1, "owner", "b0" * 16)]  # never at operator 2
    asked += [(1, "owner", f"b{i}" * 16) for i in range(1, 1 + MAX_PENDING)]  # one too many for one owner
    threads, results = post_runs(nodes, asked, length, key)
    time.sleep(1.0)
    assert np.array_equal(other.score(X[:5]), model.decision_function(table[:5]))
    assert time.monotonic() - started < 10.0  # while the others are still held: connect_timeout_s is 15
    assert sum(thread.is_alive() for thread in threads) == len(asked) - 1
    for thread in threads:
        thread.join(40)
    assert time.monotonic() - started < 30.0
    assert [result.status_code for result in results] == [503] * len(asked)
    assert sum("Too many runs of this owner" in result.json()["what"] for result in results) == 1
    assert np.array_equal(other.score(X[:5]), model.decision_function(table[:5]))
    assert sessions(nodes) == before


def test_roles(nodes: Nodes, detectors: Any) -> None:
    nodes.holder().share(detectors["ecod"], "roles")
    with (
        client(nodes, 1, "owner") as owner,
        client(nodes, 1, "holder") as holder,
        client(nodes, 1, "operator-2") as two,
    ):
        assert owner.put("/v1/models", content=b"").status_code == 403
        assert holder.post("/v1/runs", content=b"").status_code == 403
        for asking in (owner, holder, two):  # only the first operator leads
            assert asking.post("/v1/operators/session", content=b"").status_code == 403
        assert two.get("/v1/models/roles").status_code == 403
        assert two.get("/v1/health").status_code == 200
    with pytest.raises(ParameterError, match="no model of this name"):
        nodes.owner("nothing")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stranger_does_not_get_through_the_handshake(nodes: Nodes) -> None:
    with client(nodes, 0, "stranger") as stranger, pytest.raises(httpx.HTTPError):
        stranger.get("/v1/health")
    with pytest.raises(UnavailableError):
        nodes.owner("ecod", "stranger")
    swapped = [*nodes.operators[1:], nodes.operators[0]]
    mixed = [
        type(o)(address=o.address, certificate=c.certificate) for o, c in zip(nodes.operators, swapped, strict=True)
    ]
    with pytest.raises(UnavailableError):
        MpcOwner(mixed, "ecod", **nodes.identity("owner"))
    without = ssl.create_default_context(cafile=str(nodes.operators[0].certificate))
    without.check_hostname = False
    with httpx.Client(verify=without, trust_env=False) as nobody, pytest.raises(httpx.HTTPError):
        nobody.get(f"https://{nodes.addresses[0]}/v1/health")
    gc.collect()  # httpcore leaves the socket of a refused handshake to the collector: its warning belongs to this test


def test_malformed_bodies(nodes: Nodes) -> None:
    with client(nodes, 0, "owner") as owner:
        bad = [b"", b"BSMP", b"x" * 100, pack(RunHeader(id="0" * 32, model="0" * 32, rows=1), [])]
        for body in bad:
            answer = owner.post("/v1/runs", content=body)
            assert (answer.status_code, answer.json()["kind"]) == (400, WireError.__name__)
        good = pack(RunHeader(id="0" * 32, model="0" * 32, rows=1), [b"1"])
        assert owner.post("/v1/runs", content=good).json()["kind"] == ParameterError.__name__
        assert owner.post("/v1/runs", content=iter([good])).status_code == 400  # chunked: no length
    head = "POST /v1/runs HTTP/1.1\r\nhost: x\r\n"
    requests = [f"{head}content-length: {1 << 40}\r\n\r\n"]  # refused at its header, before a byte of the body
    # a length is declared, and another framing lets the body go on after it: as long as one likes
    requests += [f"{head}content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n" + "ffff\r\n" + "x" * 0xFFFF + "\r\n"]
    context = pinned_context(
        TlsFiles(**nodes.identity("owner"), trusted=Path()), server=False, peers=[nodes.operators[0].certificate]
    )
    host, port = nodes.addresses[0].split(":")
    for request in requests:
        with socket.create_connection((host, int(port)), timeout=20) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(request.encode())
            assert tls.recv(100).startswith(b"HTTP/1.1 400")


def test_the_log_holds_no_value(nodes: Nodes) -> None:
    """Names, counts and times: every line is one of few kinds, with few fields."""
    import json

    fields = {"time", "level", "event", "rank", "protocol", "pid", "holder", "name", "model", "outcome", "run", "owner"}
    fields |= {"rows", "seconds", "path", "status", "kind", "logger"}
    for log in nodes.logs:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert lines
        assert {name for line in lines for name in line} <= fields


def test_an_owner_that_leaves_does_not_stop_the_others(nodes: Nodes, hospital: Any) -> None:
    _, X, schema = hospital
    model = NetworkModel(schema, X, "tanh", "inputs")
    nodes.holder().share(model, "left")
    impatient = nodes.owner("left", timeout_s=0.3)
    with pytest.raises(UnavailableError):
        impatient.score(np.tile(X, (10, 1)))
    scores = nodes.owner("left", "other").score(X[:5])
    assert np.abs(scores - model.decision_function(X[:5])).max() < 1e-3 * model.threshold_


@pytest.mark.slow
def test_a_killed_node_voids_the_run_and_a_new_run_works(tmp_path: Path, hospital: Any) -> None:
    """Node and its worker are killed while a run is under way; counts and shares of models outlast it."""
    _, X, schema = hospital
    for rank in range(3):
        create_key_file(tmp_path / f"seal-{rank}.key")
    nodes = Nodes(tmp_path, 3, more=lambda rank: f'key_file = "seal-{rank}.key"\n')
    try:
        model = NetworkModel(schema, X, "tanh", "inputs")
        many = np.tile(X, (8, 1))
        nodes.holder().share(model, "network", bits_per_owner=64 * (2 * len(many) + len(X)))
        owner = nodes.owner("network", timeout_s=60.0)
        first = owner.score(X[:2])
        for victim in (1, 0):
            raised: list[Any] = []

            asking = threading.Thread(target=catch, args=(lambda: owner.score(many), raised))
            asking.start()
            with client(nodes, 2, "owner") as watching:
                while not watching.get("/v1/health").json()["pending"]:
                    time.sleep(0.01)
            time.sleep(0.2)
            started = time.monotonic()
            nodes.kill(victim)
            asking.join(40)
            assert time.monotonic() - started < 15
            assert [type(error) for error in raised] == [UnavailableError]
            nodes.start(victim)
            nodes.wait()
            again = owner.score(X[:2])
            assert np.abs(again - first).max() < 1e-3 * model.threshold_
        # both void runs were charged at every operator that had their shares, and stay charged after its restart
        with pytest.raises(BudgetError):
            owner.score(X)
        assert nodes.close() == [0, 0, 0]
    finally:
        nodes.close()


def test_a_killed_worker_is_replaced(nodes: Nodes, detectors: Any, hospital: Any) -> None:
    """SPU ends its process where it cannot send: the node outlives it."""
    table, X, _ = hospital
    model = detectors["ecod"]
    nodes.holder().share(model, "replaced")
    owner = nodes.owner("replaced")
    owner.score(X[:3])
    parent = nodes.processes[2].pid
    children = Path(f"/proc/{parent}/task/{parent}/children")
    if not children.exists():
        pytest.skip("this system does not tell the children of a process")
    (worker,) = map(int, children.read_text().split())
    os.kill(worker, signal.SIGKILL)
    for _ in range(2):  # the first may find the link broken
        try:
            scores = owner.score(X[:3])
            break
        except UnavailableError:
            continue
    assert np.array_equal(scores, model.decision_function(table[:3]))


def test_only_a_holder_shares_and_none_takes_anothers_name(nodes: Nodes, detectors: Any) -> None:
    nodes.holder().share(detectors["ecod"], "mine")
    for name, refusal in (("rival", PolicyError), ("owner", AuthenticationError)):
        with pytest.raises(refusal):
            type(nodes.holder())(nodes.operators, **nodes.identity(name)).share(detectors["ecod"], "mine")


@pytest.mark.slow
def test_two_operators_run_cheetah(tmp_path: Path, detectors: Any, hospital: Any) -> None:
    table, X, _ = hospital
    nodes = Nodes(tmp_path, 2, run_timeout_s=60.0)
    try:
        model = detectors["ecod"]
        nodes.holder().share(model, "two", answer="verdict")
        owner = nodes.owner("two")
        assert owner.offer.program.protocol == "cheetah"
        assert np.array_equal(owner.score(X[:40]), model.predict(table[:40]))
    finally:
        assert nodes.close() == [0, 0]


def test_configurations_are_checked(nodes: Nodes, tmp_path: Path) -> None:
    text = (nodes.folder / "node-0.toml").read_text()
    config = NodeConfig.read(nodes.folder / "node-0.toml")
    assert (config.protocol, config.me.address) == ("aby3", nodes.addresses[0])
    for change, error in (
        (("rank = 0", "rank = 3"), FormatError),
        (("rank = 0", "rank = 0\nextra = 1"), FormatError),
        (("operator-1.crt", "operator-0.crt"), ParameterError),
        (("operator-1.crt", "nothing.crt"), StoreError),
        (("operator-1.crt", "operator-1.key"), FormatError),
        (('name = "other"', 'name = "owner"'), ParameterError),
        ((nodes.addresses[0], "nowhere"), ParameterError),
    ):
        place = nodes.folder / "changed.toml"
        place.write_text(text.replace(*change))
        with pytest.raises(error):
            NodeConfig.read(place)


def test_the_commands(tmp_path: Path, nodes: Nodes) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "blindsight", "mpc-node", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    keys = tmp_path / "keys"  # made, with the first
    made = run("certificate", "operator-9", "--output", str(keys))
    assert made.returncode == 0
    assert keys.stat().st_mode & 0o777 == 0o700
    assert (keys / "operator-9.key").stat().st_mode & 0o777 == 0o600
    assert run("certificate", "operator-9", "--output", str(keys)).returncode == 2
    checked = run("check", "--config", str(nodes.folder / "node-2.toml"))
    assert "Operator 2 of 3, ABY3" in checked.stdout
    assert run("serve", "--config", str(tmp_path / "absent.toml")).returncode == 2


def test_certificates_of_odd_names_are_refused(tmp_path: Path) -> None:
    for name in ("", "a/b", "x" * 65, "é"):
        with pytest.raises(ParameterError):
            make_certificate(name, tmp_path)
