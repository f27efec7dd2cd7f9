"""``blindsight serve`` and ``blindsight score --server``: the commands, in processes of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import blindsight as bs
from blindsight.blind import RecordOwner, read_header
from blindsight.cli import app
from blindsight.errors import UnavailableError
from blindsight.service import Client
from blindsight.store import Store

from ._running import Running, make_client_certificate

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(*words: object, token: str | None = None, check: bool = True):
    """Run a command that ends by itself, in this process: an interpreter each would cost seconds."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"BLINDSIGHT_TOKEN": token or ""})
    assert not check or done.exit_code == 0, done.stderr
    return done


@pytest.fixture
def table(tmp_path, fitted):
    X = fitted[1]
    path = tmp_path / "data.csv"
    pl.DataFrame({f"x{i}": X[:, i] for i in range(X.shape[1])}).write_csv(path)
    return path


@pytest.mark.parametrize(
    "words",
    [["run"], ["models"], ["rollback"], ["shadow"], ["token", "create"], ["token", "list"], ["token", "revoke"]],
    ids=" ".join,
)
def test_every_command_has_help_json_and_an_example(words):
    text = " ".join(run("serve", *words, "--help").stdout.split())
    assert f"Example: blindsight serve {' '.join(words)}" in text
    assert "--json" in text
    assert "--home" in text


def test_serve_publishes_makes_a_certificate_answers_and_ends(tmp_path, fitted):
    model, X = fitted
    model.save(tmp_path / "Fraud.blindsight")
    home = tmp_path / "service"
    made = json.loads(run("serve", "token", "create", "bank-a", "--days", "1", "--home", home, "--json").stdout)
    process = subprocess.Popen(
        [sys.executable, "-m", "blindsight", "serve", str(tmp_path / "Fraud.blindsight"), "--home", str(home),
         "--port", "0", "--workers", "1", "--rows-per-account", "12", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["fraud"]
        from blindsight.service import Client

        with Client(told["url"], token=made["token"], authority=told["certificate"], retries=30) as client:
            owner = RecordOwner(client.offer("fraud"))
            assert np.array_equal(client.score_records("fraud", owner, X[:3]), model.decision_function(X[:3]))
            shown = json.loads(run("serve", "models", "--home", home, "--json").stdout)
            assert [(s["model"], s["role"]) for s in shown] == [("fraud", "current")]
            run("serve", "shadow", "fraud", tmp_path / "Fraud.blindsight", "--home", home)
            client.score_records("fraud", owner, X[:1])
            refused = run("serve", "rollback", "fraud", "--home", home, check=False)
            assert refused.exit_code == 3
            listed = run("serve", "token", "list", "--home", home).stdout
            assert made["id"] in listed
            assert made["token"].split("_")[2] not in listed
            run("serve", "token", "revoke", made["id"], "--home", home)
            state = json.loads(run("serve", "token", "list", "--home", home, "--json").stdout)
            assert [s["state"] for s in state] == ["revoked"]
            with pytest.raises(Exception, match="no credential that is valid"):
                client.models()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stdout.close()


def test_usage_of_serve(tmp_path):
    for words in (
        ["--home", tmp_path / "empty"],
        ["none.blindsight", "--home", tmp_path / "none"],
        ["--certificate", "x.pem", "--home", tmp_path],
        ["--insecure-loopback", "--host", "0.0.0.0", "--home", tmp_path],
        ["none.blindsight", "--threshold", "1", "--home", tmp_path],
        ["none.blindsight", "--scheme", "bgv", "--home", tmp_path],
        ["--link-ports", "80-90", "--home", tmp_path],
        ["--link-ports", "nine", "--home", tmp_path],
        ["--link-peer", "everybody", "--home", tmp_path],
        ["token", "create", "Not A Name", "--home", tmp_path],
        ["token", "create", "a", "--scope", "root", "--home", tmp_path],
        ["token", "revoke", "nothing", "--home", tmp_path],
    ):
        assert run("serve", *words, check=False).exit_code == 2, words


def test_serve_publishes_verdicts(tmp_path, fitted):
    pytest.importorskip("spu", reason="verdicts need the extra: mpc")
    fitted[0].save(tmp_path / "fraud.blindsight")
    home = tmp_path / "service"
    words = ["serve", tmp_path / "fraud.blindsight", "--home", home, "--verdict"]
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that the command ends when it has published
        words += ["--port", str(taken.getsockname()[1])]
        published = []
        for more in ([], ["--threshold", "2", "--threshold", "5.5"], ["--packing", "columns"]):
            done = run(*words, *more, check=False)
            assert done.exit_code == 75, done.stderr
            assert "for verdicts" in done.stdout + done.stderr
            published = json.loads(run("serve", "models", "--home", home, "--json").stdout)
        assert [p["reveals"] for p in published] == ["verdicts"] * 3
        assert len({p["version"] for p in published}) == 3
        for more in (["--threshold", "5", "--threshold", "5"], ["--threshold", "nan"], ["--threshold", "inf"]):
            assert run(*words, *more, check=False).exit_code == 2, more


def test_a_certificate_is_allowed_by_its_file(tmp_path):
    _, certificate, _, _ = make_client_certificate(tmp_path, "bank")
    made = run("serve", "token", "create", "bank", "--certificate", certificate, "--home", tmp_path / "s", "--json")
    assert json.loads(made.stdout)["kind"] == "certificate"
    assert "token" not in json.loads(made.stdout)


def test_score_at_a_server(running, fitted, table, tmp_path):
    model, X = fitted
    done = run(
        "score", table, "--server", running.url, "--blind", "--authority", running.certificate,
        "--home", tmp_path / "owner", "--json", token=running.token("cli"),
    )  # fmt: skip
    value = json.loads(done.stdout)
    scores = pl.read_csv(tmp_path / "data.scores.csv")
    assert np.array_equal(scores["score"], model.decision_function(X))
    assert np.array_equal(scores["alert"], model.predict(X))
    assert value["records"] == len(X)
    assert value["resumed_rows"] == 0
    assert value["bits_charged_so_far"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "data.scores.csv", "owner"]


@pytest.fixture(scope="module")
def several(tmp_path_factory, fitted):
    """A service that explains a table, and has a quadratic form and a network under CKKS beside it."""
    pytest.importorskip("torch", reason="networks need the extra: deep")
    X = fitted[1]
    schema = fitted[0].schema_
    service = Running(tmp_path_factory.mktemp("several"), explanations=True)
    service.others = {
        "form": bs.Mahalanobis(schema=schema, contamination=0.05).fit(X),
        "network": bs.AutoEncoder(
            schema=schema, hidden=(2,), activation="square", scales="declared", training=bs.Training(rounds=1)
        ).fit(X),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bs.BlindsightWarning)
        service.publish(fitted[0], "table")
        service.publish(service.others["form"], "form", "columns", scheme="ckks")
        service.publish(service.others["network"], "network", "columns")
    with service:
        yield service


def at(service: Running, model: str, *words: object) -> list[object]:
    return ["--server", service.url, "--blind", "--authority", service.certificate, "--model-name", model, *words]


@pytest.mark.parametrize("name", ["form", "network"])
def test_approximate_scores_at_a_server(several, fitted, table, tmp_path, name):
    X, model = fitted[1], several.others[name]
    token = several.token(f"cli-{name}")
    run("score", table, *at(several, name), "--home", tmp_path / "owner", token=token)
    scores, clear = pl.read_csv(tmp_path / "data.scores.csv")["score"].to_numpy(), model.decision_function(X)
    assert not np.array_equal(scores, clear)  # exact ones are of the other scheme
    assert np.all(np.abs(scores - clear) <= 2e-3 * np.maximum(model.threshold_, clear))
    with several.client(token) as client:
        spent = {s["model"]: s["rows"] for s in client.account()["spent"]}
        assert "CKKS" in client.facts(name).parameters
    assert spent == {"form": 0, "network": 0, "table": 0} | {name: 512}  # 400 records count as the next power of two


def test_contributions_of_a_file_at_a_server(several, fitted, table, tmp_path, monkeypatch):
    """The answer to a request for contributions is lost: the same command goes on, and nothing is charged twice."""
    model, X = fitted
    token, output = several.token("cli-explains"), tmp_path / "out.csv"
    words = ["score", table, *at(several, "table"), "--home", tmp_path / "owner", "--output", output, "--json"]
    sent = Client.score

    def lost(self, name, sealed, **options):
        answer = sent(self, name, sealed, **options)
        if read_header(sealed)[0].kind == "explain":
            raise UnavailableError("lost")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Client, "score", lost)
        assert run(*words, "--explain", 2, token=token, check=False).exit_code == 75
    without = run(*words, token=token, check=False)
    assert "another explained" in json.loads(without.stderr)["error"]["got"]
    done = json.loads(run(*words, "--explain", 2, token=token).stdout)
    assert done["resumed_rows"] == len(X)
    found, parts = pl.read_csv(output), model.contributions(X)
    order = np.argsort(-parts, axis=1, kind="stable")
    names = np.array(model.contribution_names)
    assert np.array_equal(found["score"], model.decision_function(X))
    for k in range(2):
        assert found[f"because_{k + 1}"].to_list() == names[order[:, k]].tolist()
        assert np.array_equal(found[f"contribution_{k + 1}"], np.take_along_axis(parts, order, axis=1)[:, k])
    with several.client(token) as client:
        p = RecordOwner(client.offer("table")).parameters
        spent = next(s for s in client.account()["spent"] if s["model"] == "table")
        assert spent["bits"] == p.charge_bits(len(X)) + p.charge_bits(len(X) * len(names))


def test_contributions_in_python_and_where_there_are_none(several, running, fitted, table):
    model, X = fitted
    with several.client(several.token("python")) as client:
        owner = RecordOwner(client.offer("table"))
        assert np.array_equal(client.contributions("table", owner, X[:5]), model.contributions(X[:5]))
        assert client.contributions("table", owner, X[:0]).shape == (0, len(owner.contribution_names))
    for service, name in ((several, "form"), (running, "model")):
        refused = run("score", table, *at(service, name), "--explain", 1, token=service.token("none"), check=False)
        assert refused.exit_code == 3
        assert "serve --explanations" in refused.stderr


def test_usage_of_score_at_a_server(running, table):
    common = ["--server", running.url, "--authority", running.certificate]
    assert run("score", table, *common, check=False).exit_code == 2  # without --blind
    assert run("score", table, *common, "--blind", "--model", "m", check=False).exit_code == 2
    assert run("score", table, "--input", table, *common, "--blind", check=False).exit_code == 2
    assert run("score", table, *common, "--blind", "--bit-budget", "5", check=False).exit_code == 2
    stranger = run("score", table, *common, "--blind", "--json", token="bst_0123456789abcdef_x", check=False)
    assert stranger.exit_code == 2
    assert json.loads(stranger.stderr)["error"]["kind"] == "AuthenticationError"


def test_an_interrupted_file_goes_on_and_no_piece_is_charged_twice(tmp_path, fitted, table):
    model, X = fitted
    service = Running(tmp_path / "s", body_bytes=1 << 18)  # pieces of a few records
    service.publish(model)
    token = service.token("cli")
    output = tmp_path / "out.csv"
    words = ["score", str(table), "--server", "URL", "--blind", "--authority", str(service.certificate),
             "--home", str(tmp_path / "owner"), "--output", str(output), "--json"]  # fmt: skip

    def command() -> list[str]:
        return [sys.executable, "-m", "blindsight", *(service.url if word == "URL" else word for word in words)]

    def rows() -> int:
        with service.client(token) as client:
            return client.account()["spent"][0]["rows"]

    environment = ENVIRONMENT | {"BLINDSIGHT_TOKEN": token}
    with service:
        port = int(service.url.rsplit(":", 1)[1])
        process = subprocess.Popen(command(), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while rows() < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()  # between any two instructions
        process.wait()
        assert 100 <= rows() < len(X)
        assert not output.exists()
        assert (tmp_path / "out.csv.resume").exists()

        # the answer to a piece is lost: its charge was made, its bytes and its key are on disk
        with Store(tmp_path / "out.csv.resume") as store:
            if store.table("pending").get("sealed") is None:
                with service.client(token) as client:
                    done = sum(len(p) // 8 for p in store.log("scores").read())
                    step = client.rows_at_a_time(client.facts("model"))
                    owner = RecordOwner(client.offer("model"), home=tmp_path / "owner")
                    sealed = owner.seal(X[done : done + step], register=False)
                    client.score("model", sealed, key="lost-answer")
                store.table("pending").put("sealed", sealed)
                store.table("pending").put("key", b"lost-answer")

        other = [*command()]
        changed = tmp_path / "other.csv"
        changed.write_text(table.read_text() + "0,0,0,0\n")
        other[other.index(str(table))] = str(changed)
        refused = subprocess.run(other, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 2
        assert "belongs to another run" in json.loads(refused.stderr)["error"]["what"]

        # and the service dies and comes back meanwhile
        again = subprocess.Popen(command(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def bounce() -> None:
            time.sleep(1.5)
            with contextlib.suppress(IndexError):
                os.kill(service.worker_pids()[0], signal.SIGKILL)

        thread = threading.Thread(target=bounce)
        thread.start()
        out, err = again.communicate(timeout=120)
        thread.join()
        assert again.returncode == 0, err
        assert json.loads(out)["resumed_rows"] > 0
        assert np.array_equal(pl.read_csv(output)["score"], model.decision_function(X))
        assert not list(tmp_path.glob("out.csv.resume*"))
        service.wait_ready()
        assert rows() == len(X)  # each record once, whatever was killed
        assert port == int(service.url.rsplit(":", 1)[1])


def test_without_its_extra_the_service_says_so_before_it_publishes(fitted, tmp_path, monkeypatch):
    model, home, find = tmp_path / "m.blindsight", tmp_path / "service", importlib.util.find_spec
    fitted[0].save(model)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    done = run("serve", "run", model, "--home", home, check=False)
    assert done.exit_code == 2
    assert "not installed: fastapi" in done.stderr
    assert "pip install 'blindsight[serve]'" in done.stderr
    assert not home.exists()
