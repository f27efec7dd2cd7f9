"""What outlives a process: budgets, keys, answers, versions; workers that are killed, and ones that are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

from blindsight import modelfile
from blindsight.blind import RecordOwner
from blindsight.errors import BudgetError, ParameterError, PolicyError
from blindsight.service import Client, Models, RequestError, new_key
from blindsight.service._answers import Answers
from store import _postgres

from ._running import Running, make_model


def test_budgets_and_keys_survive_a_restart(tmp_path, fitted):
    model, X = fitted
    service = Running(tmp_path / "s", rows_per_account=7)
    service.publish(model)
    token, twin, other = service.token("bank-a"), service.token("bank-a"), service.token("bank-b")
    with service, service.client(token) as client:
        owner = RecordOwner(client.offer("model"))
        client.score_records("model", owner, X[:5])
        sealed, key = owner.seal(X[:1], register=False), new_key()
        answer = client.score("model", sealed, key=key)
        version = client.facts("model").version
    assert service.process is None
    with pytest.raises(httpx.TransportError):  # the port is given back
        httpx.get(f"{service.url}/healthz", verify=False, timeout=5)
    with service, service.client(twin) as client:
        assert client.facts("model").version == version
        spent = client.account()["spent"][0]
        assert spent["rows"] == 6
        assert spent["rows_limit"] == 7
        assert spent["bits"] > 0
        assert client.score("model", sealed, key=key) == answer  # kept, not charged
        assert client.account()["spent"][0]["rows"] == 6
        with pytest.raises(BudgetError, match="row budget"):
            client.score("model", owner.seal(X[:2], register=False))
        client.score("model", owner.seal(X[:1], register=False))
        with pytest.raises(BudgetError, match="row budget"):
            client.score("model", owner.seal(X[:1], register=False))
        with service.client(other) as neighbour:
            mine = RecordOwner(neighbour.offer("model"))
            assert len(neighbour.score_records("model", mine, X[:7])) == 7


def test_sigterm_finishes_what_is_in_flight(tmp_path, fitted):
    service = Running(tmp_path / "s", threads=1)
    service.publish(fitted[0])
    token = service.token()
    results: list[object] = []
    with service:
        with service.client(token) as client:
            owner = RecordOwner(client.offer("model"))
            client.register("model", owner)
            sealed = owner.seal(np.repeat(fitted[1][:8], 64, axis=0), register=False)  # a request of some length

        def ask() -> None:
            with service.client(token, retries=0) as one:
                try:
                    results.append(owner.open(one.score("model", sealed)))
                except Exception as error:
                    results.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        # in flight: the bodies have been taken, so the ledger has begun to count
        while time.monotonic() < deadline and not _charged(service, token):
            time.sleep(0.02)
        code = service.stop()
        for thread in threads:
            thread.join()
    assert code == 0
    answered = [r for r in results if isinstance(r, np.ndarray)]
    lines = [line for line in service.log_lines() if line.get("route", "").endswith("/score")]
    assert answered
    assert all(line["status"] == 200 for line in lines)  # none that had arrived was dropped
    assert any(line["event"] == "stopped" for line in service.log_lines())


def _charged(service: Running, token: str) -> bool:
    with service.client(token) as client:
        return client.account()["spent"][0]["rows"] > 0


def load_and_kill(service: Running, X, expected, *, clients: int, kills: int) -> None:
    """Clients that score single records until workers were killed: every answer right, every request charged once."""
    token = service.token("load")
    wrong: list[object] = []
    asked = [0] * clients
    enough = threading.Event()
    with service.client(token) as client:
        owner = RecordOwner(client.offer("model"))
        client.register("model", owner)
    lock = threading.Lock()

    def work(number: int) -> None:
        with service.client(token, retries=40) as client:
            while not enough.is_set():
                row = (number + clients * asked[number]) % len(X)
                asked[number] += 1
                with lock:
                    sealed = owner.seal(X[row : row + 1], register=False)
                try:
                    answer = client.score("model", sealed)
                    with lock:
                        opened = owner.open(answer, sealed=sealed)
                    if not np.array_equal(opened, expected[row : row + 1]):
                        wrong.append((row, opened))
                except Exception as error:
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    killed = 0
    for _ in range(kills):
        time.sleep(1.0)
        pids = service.worker_pids()
        if pids:
            killed += 1
            os.kill(pids[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (len(service.worker_pids()) < service.workers):
            time.sleep(0.1)
    enough.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert killed >= 1
    assert min(asked) > 0
    with service.client(token) as client:
        assert client.account()["spent"][0]["rows"] == sum(asked)


def test_killed_workers_lose_no_request_and_charge_none_twice(tmp_path, fitted):
    service = Running(tmp_path / "s", workers=2)
    service.publish(fitted[0])
    with service:
        load_and_kill(service, fitted[1], fitted[0].decision_function(fitted[1]), clients=6, kills=2)


COUNTS = """
import os, signal, sys
from blindsight.service._metrics import Metrics
metrics = Metrics()
with metrics.in_flight():
    metrics.refused("busy")
    if sys.argv[1] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdout.write(metrics.text().decode())
"""


def test_requests_of_a_killed_worker_are_not_counted_as_under_way(tmp_path):
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for fate, code in (("dies", -signal.SIGKILL), ("lives", 0)):
        done = subprocess.run(
            [sys.executable, "-c", COUNTS, fate], env=environment, stdout=subprocess.PIPE, timeout=60, check=False
        )
        assert done.returncode == code
    lines = done.stdout.decode().splitlines()
    assert "blindsight_in_flight 1.0" in lines
    assert 'blindsight_refused_total{kind="busy"} 2.0' in lines  # what it had counted stays


def test_two_services_share_one_postgresql(tmp_path, fitted):
    if _postgres.missing():
        pytest.skip(_postgres.missing())
    with _postgres.server() as url:
        one = Running(tmp_path / "one", database=url, rows_per_account=60)
        one.publish(fitted[0])
        two = Running(tmp_path / "two", database=url, rows_per_account=60, key_file=str(one.home / "service.key"))
        token = one.token()
        with one, two, one.client(token) as first, two.client(token) as second:
            assert first.offer("model") == second.offer("model")
            owner = RecordOwner(first.offer("model"))
            first.register("model", owner)
            X, expected = fitted[1], fitted[0].decision_function(fitted[1])
            assert np.array_equal(second.score_records("model", owner, X[:30]), expected[:30])
            sealed, key = owner.seal(X[:1], register=False), new_key()
            assert first.score("model", sealed, key=key) == second.score("model", sealed, key=key)
            refused = []

            def drain(client: Client) -> None:
                for _ in range(20):
                    try:
                        client.score("model", owner.seal(X[:1], register=False))
                    except BudgetError as error:
                        refused.append(error)

            threads = [threading.Thread(target=drain, args=(client,)) for client in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert first.account()["spent"][0]["rows"] == second.account()["spent"][0]["rows"] == 60
            assert len(refused) == 40 - 29


def test_versions_roll_back_and_a_second_model_is_computed_in_silence(tmp_path, fitted):
    model, X = fitted
    later, _ = make_model(seed=5)
    service = Running(tmp_path / "s")
    first = service.publish(model)
    token, admin = service.token(), service.token(scopes=["admin"])
    with service, service.client(token) as client:
        owner = RecordOwner(client.offer("model"))
        assert np.array_equal(client.score_records("model", owner, X[:2]), model.decision_function(X[:2]))
        second = service.publish(later)  # the running worker follows
        assert client.facts("model").version == second.id != first.id
        fresh = RecordOwner(client.offer("model"))
        if second.offer == first.offer:
            assert np.array_equal(client.score_records("model", owner, X[:2]), later.decision_function(X[:2]))
        else:
            with pytest.raises(RequestError, match="another version"):
                client.score("model", owner.seal(X[:1], register=False))
        assert np.array_equal(client.score_records("model", fresh, X[:2]), later.decision_function(X[:2]))
        with service.http(admin) as http:
            assert http.post("/v1/models/model/rollback").json() == {"model": "model", "version": first.id}
            assert http.post("/v1/models/model/rollback").status_code == 403  # there is none before
        assert np.array_equal(client.score_records("model", owner, X[:2]), model.decision_function(X[:2]))

        twin, _ = make_model(seed=9)
        rows_before = client.account()["spent"][0]["rows"]
        with service.store() as store:
            models = Models(store, service.settings)
            try:
                shadow = models.set_shadow("model", modelfile.dumps(twin))
            except PolicyError:
                shadow = models.set_shadow("model", modelfile.dumps(model))  # sizes differ: the same one again
        assert np.array_equal(client.score_records("model", owner, X[:3]), model.decision_function(X[:3]))
        lines = service.logged(lambda line: line["event"] == "shadow")
        assert lines
        assert lines[-1]["version"] == shadow.id
        assert lines[-1]["answer"] == "dropped"
        assert lines[-1]["ms"] > 0
        assert client.account()["spent"][0]["rows"] == rows_before + 3  # the second model charges nobody
        with service.store() as store:
            with pytest.raises(PolicyError, match="requests"):
                Models(store, service.settings).set_shadow("model", modelfile.dumps(make_model(features=3)[0]))
            assert Models(store, service.settings).set_shadow("model", None) is None


def test_a_device_serves_columns_and_leaves_rows_alone(tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    model, X = make_model(features=2)
    service = Running(tmp_path / "s", device="cpu")
    with service.store() as store:
        models = Models(store, service.settings)
        for packing in ("columns", "rows"):
            models.publish(packing, modelfile.dumps(model), packing=packing)
            scorer = models.current(packing).scorer
            device = getattr(scorer._engine.packing, "device", None)
            assert (None if device is None else device.name) == ("cpu" if packing == "columns" else None)
            owner = RecordOwner(scorer.offer())
            scorer.register(owner.registration)
            answer = scorer.score(owner.seal(X[:3], register=False))
            assert np.array_equal(owner.open(answer), model.decision_function(X[:3]))
    wrong = Running(tmp_path / "w", device="gpu")
    with wrong.store() as store, pytest.raises(ParameterError, match="device is out of its domain"):
        Models(store, wrong.settings).publish("m", modelfile.dumps(model), packing="columns")


def test_stored_answers_expire_and_are_bounded(tmp_path):
    service = Running(tmp_path / "s")
    with service.store() as store:
        charged = []

        def charge() -> int:
            charged.append(1)
            return 5

        answers = Answers(store, seconds=0.3, bytes_per_account=2500, attempts=2)
        record = answers.begin("a", "key", b"r" * 32, charge, ledger="w")
        assert answers.begin("a", "key", b"r" * 32, charge, ledger="w").attempts == 2  # a worker died: charged once
        with pytest.raises(RequestError, match="too often"):
            answers.begin("a", "key", b"r" * 32, charge, ledger="w")
        assert charged == [1]
        assert answers.finish("a", "key", record, b"one").answer == b"one"
        assert answers.finish("a", "key", record, b"two").answer == b"one"  # the first to write decides
        with pytest.raises(RequestError, match="another request"):
            answers.find("a", "key", b"s" * 32)
        assert answers.find("b", "key", b"s" * 32) is None
        time.sleep(0.4)
        assert answers.find("a", "key", b"r" * 32) is None
        late = answers.begin("a", "key", b"r" * 32, charge, ledger="w")
        assert len(charged) == 2
        with pytest.raises(RequestError, match="expired"):
            answers.finish("a", "key", record, b"late")  # its charge is gone, and so is its right to answer
        answers.finish("a", "key", late, b"fresh")
        keeping = Answers(store, seconds=60, bytes_per_account=2500, attempts=2)
        for i in range(10):
            begun = keeping.begin("a", f"k{i}", b"r" * 32, charge, ledger="w")
            keeping.finish("a", f"k{i}", begun, bytes(1000))
        kept = [i for i in range(10) if keeping.find("a", f"k{i}", b"r" * 32)]
        assert kept == [8, 9]
        time.sleep(0.4)
        answers.sweep()
        assert answers.find("a", "key", b"r" * 32) is None
        assert len(store.table("answers").keys()) == len(store.table("answers-by-age").keys()) == 2


def test_a_failing_store_answers_503_and_charges_nothing(tmp_path, fitted):
    service = Running(tmp_path / "s", store_seconds=1.0)
    service.publish(fitted[0])
    token = service.token()
    with service, service.client(token, retries=0) as client:
        owner = RecordOwner(client.offer("model"))
        client.register("model", owner)
        sealed = owner.seal(fitted[1][:1], register=False)
        with service.store() as store, store.transaction():  # another writer, for longer than a worker waits
            store.table("x").put("k", b"")
            response = None
            with service.http(token) as http:
                headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": new_key()}
                response = http.post("/v1/models/model/score", content=sealed, headers=headers, timeout=60)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "database" not in response.text
        assert client.account()["spent"][0]["rows"] == 0
        assert isinstance(owner.open(client.score("model", sealed)), np.ndarray)


def test_batches_in_columns(tmp_path):
    model, X = make_model(features=1)
    service = Running(tmp_path / "s")
    service.publish(model, packing="columns")
    with service, service.client(service.token()) as client:
        owner = RecordOwner(client.offer("model"))
        assert client.facts("model").packing == "columns"
        assert np.array_equal(client.score_records("model", owner, X), model.decision_function(X))
