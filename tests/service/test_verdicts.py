"""Verdicts through the service: real workers, TLS, real comparison processes; ends that are killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from blindsight import modelfile
from blindsight.blind import ComparisonProcess, ComparisonRefused, RecordOwner
from blindsight.cli import app
from blindsight.errors import AuthenticationError, BudgetError, ParameterError, UnavailableError
from blindsight.service import Credentials, RequestError, Settings, open_service_store
from blindsight.service._link_messages import Ended, LinkRequest, Ready
from blindsight.service._link_slots import Slots, free_port
from blindsight.service._links import FOLDER
from blindsight.service._metrics import Metrics
from blindsight.service._service import Service

from ._running import Running
from .test_access import problem

pytest.importorskip("spu", reason="verdicts need the extra: mpc")

from blindsight.blind.mpc import TlsFiles, make_certificate

BITS = 360
SOON_S = 8.0
"""For a process to be gone. SPU itself would wait for half a minute."""


@pytest.fixture(scope="module")
def service(tmp_path_factory, fitted):
    """Two workers; verdicts in rows, bands in columns, and scores."""
    running = Running(
        tmp_path_factory.mktemp("verdicts"), workers=2, body_bytes=1 << 18, registration_bytes=1 << 20,
        bits_per_account=BITS, links=3,
    )  # fmt: skip
    model, X = fitted
    running.bands = [float(v) for v in np.quantile(model.decision_function(X), [0.3, 0.6, 0.9])]
    running.publish(model, thresholds=())
    running.publish(model, "bands", thresholds=running.bands)
    running.publish(model, "scores")
    with running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with service.client(service.token("bank-a")) as made:
        yield made


@pytest.fixture(scope="module")
def owner(client):
    made = RecordOwner(client.offer("bands"))
    client.register("bands", made)
    return made


@pytest.fixture(scope="module")
def link(client, owner):
    """A link that most tests share."""
    with client.comparisons("bands", owner, transfer="softspoken") as made:
        yield made


def asked(client, owner, X):
    sealed = owner.seal(X, register=False)
    return sealed, client.score("bands", sealed)


def processes() -> dict[int, int]:
    """Every comparison's process on this machine, ours or not, and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if b"blindsight.blind.verdict_worker" in (entry / "cmdline").read_bytes():
                found[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def scorers_of(service) -> dict[int, int]:
    """Those of a service, each with its worker."""
    workers = service.worker_pids()
    return {pid: parent for pid, parent in processes().items() if parent in workers}


def gone(pid: int) -> bool:
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        if pid not in processes():
            return True
        time.sleep(0.05)
    return False


def comparisons(service, count: int, *, account: str = "bank-a") -> list[dict]:
    """The last log lines about comparisons of the account, once there are so many."""
    return service.logged(
        lambda line: line.get("event") == "comparison" and line["account"] == account, count, seconds=SOON_S
    )[-count:]


def bits_of(client) -> dict[str, int]:
    return {s["model"]: s["bits"] for s in client.account()["spent"]}


class Watched:
    """An owner's end that does something in the middle of a comparison: its request is granted, the mask is spent."""

    def __init__(self, end, middle=lambda: None) -> None:
        self._end, self._middle, self.sent = end, middle, []
        self.receive = end.receive

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self._end.send(message)

    def negative(self, words):
        self._middle()
        return self._end.negative(words)


# -- what is told


def test_facts_and_offer_keep_the_thresholds(service, client, owner, fitted):
    facts = client.facts("bands")
    assert (facts.threshold, facts.thresholds, facts.bits_per_record) == (None, 3, 3.0)
    assert client.facts("scores").thresholds == 0
    assert facts.rows_to_extract > client.facts("scores").rows_to_extract
    told = json.dumps([client.offer("bands").hex(), *(service.get(path, client._http.headers["authorization"][7:]).text
                       for path in ("/v1/models", "/v1/models/bands", "/v1/account"))])  # fmt: skip
    for value in (*service.bands, fitted[0].threshold_):
        assert np.float64(value).tobytes().hex() not in told
    assert "bands" in told
    assert str(service.bands[0]) not in told
    with pytest.raises(ParameterError, match="verdicts, not scores"):
        owner.open(asked(client, owner, fitted[1][:1])[1])


# -- verdicts, and one comparison for each answer


def test_bands_equal_the_clear_scores(service, client, owner, link, fitted):
    model, X = fitted
    before = bits_of(client)
    sealed, answer = asked(client, owner, X[:80])
    expected = (model.decision_function(X[:80])[:, None] > np.array(service.bands)).sum(axis=1)
    assert np.array_equal(link.verdicts(answer, sealed), expected)
    assert set(expected) == {0, 1, 2, 3}
    spent = bits_of(client)
    assert spent["bands"] - before["bands"] == 240  # three bits a record
    assert spent["model"] == spent["bands"] == spent["scores"]  # the same weights have one count
    (done,) = comparisons(service, 1)
    assert (done["outcome"], done["rows"], done["account"], done["model"]) == ("done", 80, "bank-a", "bands")
    allowed = {"time", "level", "event", "link", "model", "account", "outcome", "ms", "rows"}
    assert set(done) == allowed  # no verdict, and nothing to make one of
    metrics = service.get("/metrics", service.token(scopes=["metrics"])).text
    assert 'blindsight_verdicts_total{model="bands"} 80.0' in metrics
    assert "blindsight_comparison_links 1.0" in metrics


def test_an_answer_is_compared_once_whoever_asks_again(service, client, owner, link, fitted):
    X, before = fitted[1][:2], len(comparisons(service, 1))
    sealed, answer = asked(client, owner, X)
    link.verdicts(answer, sealed)
    sealed, answer = asked(client, owner, X)
    watched = Watched(link._link)
    first = owner.verdicts(answer, watched, sealed=sealed)
    with pytest.raises(ComparisonRefused, match="seal the records again"):  # a new request about it
        link.verdicts(answer, sealed)
    link._link.send(watched.sent[0])  # and the old one, replayed
    assert link._link.receive() == b"\x00"
    link._link.send(b"no request at all")
    assert link._link.receive() == b"\x00"
    sealed, answer = asked(client, owner, X)
    assert np.array_equal(link.verdicts(answer, sealed), first)  # the link is as good as before
    lines = comparisons(service, before + 6)[-5:]
    assert [line["outcome"] for line in lines] == ["done", "refused", "refused", "refused", "done"]
    assert [line.get("trouble") for line in lines[1:4]] == ["PolicyError", "PolicyError", "WireError"]


def test_a_link_is_for_its_accounts_keys(service, link, fitted):
    with service.client(service.token("bank-b")) as other:
        theirs = RecordOwner(other.offer("bands"))
        other.register("bands", theirs)
        sealed, answer = asked(other, theirs, fitted[1][:1])
    with pytest.raises(ComparisonRefused):
        theirs.verdicts(answer, link._link, sealed=sealed)


def test_budgets_hold(service, fitted):
    with service.client(service.token("poor")) as poor:
        owner = RecordOwner(poor.offer("bands"))
        poor.register("bands", owner)
        for rows in (80, BITS // 3 - 80):
            assert poor.score("bands", owner.seal(fitted[1][:rows], register=False))
        with pytest.raises(BudgetError):
            poor.score("bands", owner.seal(fitted[1][:1], register=False))


# -- ends that die in the middle


def test_a_worker_is_killed_in_the_middle(service, fitted):
    """The owner's process ends at once, the piece is sealed and charged anew, the other worker answers."""
    model, X = fitted
    killed: list[int] = []

    class Owner(RecordOwner):
        def verdicts(self, answer, comparison, *, sealed=None):
            def kill() -> None:
                if not killed:
                    ((scorer, worker),) = scorers_of(service).items() - before.items()
                    killed.extend([scorer, comparison.process_id])
                    os.kill(worker, signal.SIGKILL)

            return super().verdicts(answer, Watched(comparison, kill), sealed=sealed)

    before, seen = scorers_of(service), []
    with service.client(service.token("bank-c")) as client:
        owner = Owner(client.offer("model"))
        found = client.verdicts("model", owner, X[:90], transfer="softspoken",
                                progress=lambda done, of: seen.append((done, of)))  # fmt: skip
        assert np.array_equal(found, model.predict(X[:90]))
        assert 0 < found.sum() < 90
        step = client.rows_at_a_time(client.facts("model"))
        assert seen == [(min(start + step, 90), 90) for start in range(0, 90, step)]
        assert len(seen) > 1
        rows = next(s["rows"] for s in client.account()["spent"] if s["model"] == "model")
    assert rows == 90 + step  # the first piece was charged twice
    for pid in killed:
        assert gone(pid)
    service.wait_ready()


OWNER = """
import sys, time
from blindsight.blind import RecordOwner
from blindsight.cli import app

def verdicts(self, answer, comparison, *, sealed=None, real=RecordOwner.verdicts):
    class End:
        send, receive = comparison.send, comparison.receive

        def negative(self, words):
            print(comparison.process_id, flush=True)
            time.sleep(60)

    return real(self, answer, End() if pieces.pop(0) else comparison, sealed=sealed)

pieces = [0, 1]
RecordOwner.verdicts = verdicts
app(sys.argv[1:])
"""


def test_a_file_whose_owner_is_killed_in_the_middle_goes_on(service, fitted, tmp_path):
    """The second piece's mask is spent, its comparison is not: no process is left, and the same command goes on."""
    model, X = fitted[0], fitted[1][:100]
    data, output = tmp_path / "data.csv", tmp_path / "out.csv"
    pl.DataFrame({f"x{i}": X[:, i] for i in range(X.shape[1])}).write_csv(data)
    words = ["score", str(data), "--server", service.url, "--blind", "--authority", str(service.certificate),
             "--model-name", "model", "--home", str(tmp_path / "owner"), "--output", str(output), "--json"]  # fmt: skip
    token = service.token("cli")
    (tmp_path / "owner.py").write_text(OWNER)
    before = scorers_of(service)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "owner.py"), *words], env=os.environ | {"BLINDSIGHT_TOKEN": token},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        own = int(process.stdout.readline())
        (scorer,) = scorers_of(service).keys() - before.keys()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert gone(own)
    assert gone(scorer)
    done, broken = comparisons(service, 2, account="cli")
    assert (done["outcome"], broken["outcome"], broken["trouble"]) == ("done", "broken", "UnavailableError")

    done = CliRunner().invoke(app, words, env={"BLINDSIGHT_TOKEN": token})
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    written = pl.read_csv(output)
    assert written.columns == ["row", "verdict"]
    assert np.array_equal(written["verdict"], model.predict(X))
    with service.client(token) as client:
        step = client.rows_at_a_time(client.facts("model"))
    assert told["resumed_rows"] == step
    assert told["recharged_rows"] == len(X) - step
    assert told["bits_charged_so_far"] == len(X) + len(X) - step
    assert told["bands"] == [len(X) - int(written["verdict"].sum()), int(written["verdict"].sum())]
    assert told["alerts"] == told["bands"][1] > 0
    assert "threshold" not in told
    assert not list(tmp_path.glob("out.csv.resume*"))


# -- who may have a link, and how many


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    certificate, _ = make_certificate("owner", tmp_path_factory.mktemp("pem"), days=1)
    return certificate.read_text()


def post(service, token, body, *, model="bands", kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with service.http(token) as http:
        return http.post(f"/v1/models/{model}/comparisons", content=content, headers={"Content-Type": kind})


NO_REQUESTS: list[bytes | dict[str, object]] = [
    b"",
    b"[]",
    b"{",
    b"\xff",
    b'{"port":9000}',
    {"port": 22},
    {"port": 65536},
]
NO_REQUESTS += [{"port": "9000"}, {"more": 1}, {"transfer": "emp"}, {"certificate": "x" * 9000}]
NO_REQUESTS += [{"host": "localhost"}, {"host": ""}, {"host": "fe80::1%eth0"}]


def test_requests_for_links_that_are_refused(service, pem, tmp_path):
    token, good = service.token("links"), {"port": 9000, "certificate": pem}
    problem(post(service, None, good), 401, "unauthenticated")
    problem(post(service, service.token(scopes=["register"]), good), 403, "insufficient-scope")
    problem(post(service, token, good, model="none"), 404, "no-such-model")
    problem(post(service, token, good, model="scores"), 409, "reveals-scores")
    problem(post(service, token, good, kind="text/plain"), 415, "media-type")
    problem(post(service, token, b" " * 70_000), 413, "too-long")
    for wrong in NO_REQUESTS:
        body = good | wrong if isinstance(wrong, dict) else wrong
        problem(post(service, token, body), 422, "invalid")
    for address in ("127.0.0.2", "10.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "224.0.0.1"):
        told = problem(post(service, token, good | {"host": address}), 403, "link-address")
        assert "the address that the request comes from" in told["rule"]
    for wrong in ("x", pem + pem, pem[:200], service.certificate.read_text()):  # the last may vouch for others
        problem(post(service, token, good | {"certificate": wrong}), 400, "WireError")
    assert not [line for line in service.log_lines() if line.get("account") == "links" and line.get("event") == "link"]


def test_links_are_bounded_of_an_account_and_in_all(service, pem):
    """Slots that another process holds count as a worker's do."""
    slots = Slots(service.home / FOLDER, most=3, most_of_one=3, host="127.0.0.1")
    held = []
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RequestError):
            while True:
                held.append(slots.take("greedy"))
                stack.callback(held[-1].release)
        good = {"port": 9000, "certificate": pem}
        response = post(service, service.token("other"), good)
        problem(response, 503, "too-many-links")
        assert response.headers["retry-after"] == "2"
        problem(post(service, service.token("greedy"), good), 429, "too-many-links")
    assert len(held) >= 2  # the third may be another test's


# -- one worker's part, without HTTP


def test_a_silent_owner_loses_its_link(tmp_path, fitted):
    settings = Settings(home=str(tmp_path / "home"), link_idle_seconds=1.0)
    events, home = [], tmp_path / "owner"
    home.mkdir()
    certificate, key = make_certificate("owner", home, days=1)
    with open_service_store(settings) as store:
        service = Service(store, settings, Metrics())
        service.models.publish("m", modelfile.dumps(fitted[0]), thresholds=[])
        credential, _ = service.credentials.create_token("a", ["score"], seconds=60)
        request = LinkRequest(port=free_port("127.0.0.1"), certificate=certificate.read_text(), transfer="softspoken")
        link = service.links.open(credential, "m", request, "127.0.0.1", events.append)
        (home / "trusted.pem").write_text(link.opened.certificate + certificate.read_text())
        own = ComparisonProcess(
            [f"127.0.0.1:{link.opened.port}", f"127.0.0.1:{request.port}"], 1, name=link.opened.name,
            tls=TlsFiles(certificate=certificate, private_key=key, trusted=home / "trusted.pem"),
            transfer="softspoken",
        )  # fmt: skip
        link.join()
        own.kill()
        own.close()
        service.close()
    assert isinstance(events[0], Ready)
    assert isinstance(events[1], Ended)
    assert "silent for too long" in events[1].problem.what
    assert len(events) == 2
    assert not list((tmp_path / "home" / FOLDER).glob("slot-*/*"))  # keys are deleted


def test_an_owner_that_never_comes_leaves_nothing(tmp_path, fitted, pem):
    before = set(processes())  # other tests of this process may still hold theirs
    settings, events = Settings(home=str(tmp_path), link_connect_seconds=0.5, links=1), []
    with open_service_store(settings) as store:
        service = Service(store, settings, Metrics())
        service.models.publish("m", modelfile.dumps(fitted[0]), thresholds=[])
        credential, _ = service.credentials.create_token("a", ["score"], seconds=60)
        request = LinkRequest(port=free_port("127.0.0.1"), certificate=pem)
        link = service.links.open(credential, "m", request, "127.0.0.1", events.append)
        with pytest.raises(RequestError, match="As many"):
            service.links.open(credential, "m", request, "127.0.0.1", events.append)
        link.join()
        assert [event.problem.kind for event in events] == ["UnavailableError"]
        again = service.links.open(credential, "m", request, "127.0.0.1", events.append)
        service.close()  # while it opens
        again.join()
        assert events[1:] == [Ended()]
    assert os.getpid() not in {parent for pid, parent in processes().items() if pid not in before}


# -- the end; the service is gone after this


@pytest.fixture(scope="module")
def second(service, owner):
    """Another link of the account, under another token."""
    with (
        service.client(service.token("bank-a")) as client,
        client.comparisons("bands", owner, transfer="softspoken") as made,
    ):
        yield made


def test_a_revoked_credential_ends_its_link(service, client, owner, link, second, fitted):
    """Paid for or not: the link goes, and there is no other; the answer may be compared under another token."""
    sealed, answer = asked(client, owner, fitted[1][:2])
    link.connect()
    token = client._http.headers["authorization"].removeprefix("Bearer ")
    with service.store() as store:
        Credentials(store).revoke(token.split("_")[1])
    with pytest.raises(AuthenticationError):
        link.verdicts(answer, sealed)
    assert len(second.verdicts(answer, sealed)) == 2


def test_sigterm_ends_links_at_once(service, second):
    second.connect()
    own, scorers = second._link.process_id, scorers_of(service)
    assert own in processes()
    assert scorers
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < SOON_S
    for pid in (own, *scorers):
        assert gone(pid)
    with pytest.raises(UnavailableError):
        second._link.receive()
