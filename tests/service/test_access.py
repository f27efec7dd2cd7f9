"""Who gets in: tokens, their scopes, expiry and revocation, client certificates; and what strangers are told."""

from __future__ import annotations

import ssl
import time

import httpx
import numpy as np
import pytest

from blindsight.blind import RecordOwner
from blindsight.errors import AuthenticationError, ParameterError, UnavailableError
from blindsight.service import Address, Client, Credentials, RequestError, Settings, Tls, serve

from ._running import make_client_certificate


def problem(response: httpx.Response, status: int, kind: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == status
    assert told["type"] == f"urn:blindsight:problem:{kind}"
    assert told["request_id"] == response.headers["x-request-id"]
    return told


def test_scores_over_tls_equal_the_model(running, token, owner, fitted):
    model, X = fitted
    seen = []
    with running.client(token) as client:
        scores = client.score_records("model", owner, X[:20], progress=lambda done, of: seen.append((done, of)))
        facts = client.facts("model")
    assert np.array_equal(scores, model.decision_function(X[:20]))
    assert seen == [(20, 20)]
    assert facts.threshold == model.threshold_


def test_without_a_credential_nothing_but_health_is_told(running):
    assert running.get("/healthz").json() == {"status": "ok"}
    assert running.get("/readyz").json() == {"status": "ready"}
    for path in ("/v1/models", "/v1/models/model", "/v1/models/model/offer", "/v1/account", "/metrics"):
        response = running.get(path)
        problem(response, 401, "unauthenticated")
        assert "Bearer" in response.headers["www-authenticate"]


@pytest.mark.parametrize("text", ["x", "bst_0123456789abcdef_AAAA", "bst_0_", "bst_" + "f" * 500, "é"])
def test_wrong_tokens(running, text):
    with running.http() as http:
        response = http.get("/v1/models", headers={"Authorization": f"Bearer {text}".encode()})
    problem(response, 401, "unauthenticated")


def test_a_token_with_another_tokens_secret(running, token):
    other = running.token("bank-b")
    mixed = "_".join([*token.split("_", 2)[:2], other.split("_", 2)[2]])
    problem(running.get("/v1/models", mixed), 401, "unauthenticated")


def test_scopes(running):
    score, register = running.token(scopes=["score"]), running.token(scopes=["register"])
    metrics, admin = running.token(scopes=["metrics"]), running.token(scopes=["admin"])
    assert running.get("/v1/models", score).status_code == 200
    problem(running.get("/v1/models/model/keys", score), 403, "insufficient-scope")
    with running.http(register) as http:
        problem(http.post("/v1/models/model/score", content=b"x"), 403, "insufficient-scope")
        problem(http.post("/v1/models/model/rollback"), 403, "insufficient-scope")
    problem(running.get("/metrics", score), 403, "insufficient-scope")
    for token in (metrics, admin):
        assert b"blindsight_requests_total" in running.get("/metrics", token).content


def test_a_token_expires(running):
    short = running.token(seconds=1.0)
    assert running.get("/v1/models", short).status_code == 200
    time.sleep(1.2)
    problem(running.get("/v1/models", short), 401, "unauthenticated")


def test_a_revoked_token_ends_at_once(running):
    with running.store() as store:
        credentials = Credentials(store)
        made, text = credentials.create_token("bank-z", ["score"], seconds=60)
        assert running.get("/v1/models", text).status_code == 200
        credentials.revoke(made.id)
        assert not next(c for c in credentials.all() if c.id == made.id).is_valid(time.time())
    problem(running.get("/v1/models", text), 401, "unauthenticated")


def test_the_store_holds_no_token(running, token):
    secret = token.split("_", 2)[2].encode()
    for file in running.home.glob("service.db*"):
        assert secret not in file.read_bytes()
    assert secret.decode() not in running.log()


def test_unusable_credentials_are_refused(running):
    with running.store() as store:
        credentials = Credentials(store)
        for account, scopes, seconds in (("A b", ["score"], 1), ("a", ["root"], 1), ("a", [], 1), ("a", ["score"], 0)):
            with pytest.raises(ParameterError):
                credentials.create_token(account, scopes, seconds=seconds)
        with pytest.raises(ParameterError, match="no such credential"):
            credentials.revoke("0" * 16)


def test_a_client_certificate_is_a_credential(running, fitted, tmp_path):
    _, certificate, key, der = running.client_files
    with running.client(None, certificate=(certificate, key)) as client, pytest.raises(AuthenticationError):
        client.models()  # signed by the right authority, and nobody has allowed it
    with running.store() as store:
        made = Credentials(store).allow_certificate(der, "hospital", ["score", "register"], seconds=600)
    with running.client(None, certificate=(certificate, key)) as client:
        assert client.account()["account"] == "hospital"
        owner = RecordOwner(client.offer("model"))
        scores = client.score_records("model", owner, fitted[1][:2])
    assert np.array_equal(scores, fitted[0].decision_function(fitted[1][:2]))
    _, stranger, stranger_key, _ = make_client_certificate(tmp_path, "stranger")
    with (
        running.client(None, certificate=(stranger, stranger_key), retries=0) as client,
        pytest.raises((UnavailableError, AuthenticationError)),
    ):
        client.models()
    with running.store() as store:
        Credentials(store).revoke(made.id)
    with running.client(None, certificate=(certificate, key)) as client, pytest.raises(AuthenticationError):
        client.models()


def test_a_client_refuses_a_service_that_it_does_not_know(running, token, tmp_path):
    authority, *_ = make_client_certificate(tmp_path, "nobody")
    with (
        Client(running.url, token=token, authority=authority) as client,
        pytest.raises(AuthenticationError, match="certificate is not trusted"),
    ):
        client.models()
    with pytest.raises(ParameterError, match="plain HTTP"):
        Client("http://example.org", token=token)


def test_old_tls_is_refused(running):
    context = ssl.create_default_context(cafile=str(running.certificate))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(base_url=running.url, verify=context) as http:
        assert http.get("/healthz").status_code == 200
    plain = running.url.replace("https", "http")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{plain}/healthz")


def test_plain_http_needs_to_be_asked_for_and_loopback(tmp_path):
    for settings, host in ((Settings(home=str(tmp_path)), "127.0.0.1"),
                           (Settings(home=str(tmp_path), insecure=True), "0.0.0.0")):  # fmt: skip
        with pytest.raises(ParameterError, match="does not speak plain HTTP"):
            serve(settings, Address(host=host, port=0), None, workers=1, ready=print)
    tls = Tls(certificate=tmp_path / "none.pem", private_key=tmp_path / "none.key")
    with pytest.raises(ParameterError, match="cannot be used"):
        tls.context()


def test_another_accounts_key_is_not_ones_own(running, owner, fitted):
    sealed = owner.seal(fitted[1][:1], register=False)
    with running.client(running.token("bank-b")) as client:
        assert client._json(client._send("GET", "/v1/models/model/keys"))["keys"] == []
        with pytest.raises(RequestError, match="not registered by this account"):
            client.score("model", sealed)
        with pytest.raises(RequestError, match="no such key"):
            client.forget("model", owner.key_id)


def test_keys_are_limited_and_can_be_given_back(running):
    with running.client(running.token("bank-c")) as client:
        offer = client.offer("model")
        owners = [RecordOwner(offer) for _ in range(running.settings.max_keys + 1)]
        for owner in owners[:-1]:
            client.register("model", owner)
        client.register("model", owners[0])  # again: nothing changes
        with pytest.raises(RequestError, match="as many keys"):
            client.register("model", owners[-1])
        client.forget("model", owners[0].key_id)
        client.register("model", owners[-1])


def test_logs_name_accounts_and_sizes_and_no_values(running, owner, fitted):
    token = running.token("bank-a")
    credential = token.split("_")[1]
    with running.client(token) as client:
        client.score_records("model", owner, fitted[1][:1])
    (line,) = running.logged(lambda line: line.get("credential") == credential and "rows" in line)
    assert line["account"] == "bank-a"
    assert line["status"] == 200
    assert line["rows"] == 1
    assert line["ms"] > 0
    allowed = {"time", "level", "event", "request_id", "method", "route", "status", "ms", "in", "out", "account",
               "credential", "model", "rows", "bits", "replayed"}  # fmt: skip
    assert set(line) == allowed


def test_request_ids_are_the_clients_where_usable(running):
    with running.http() as http:
        assert (
            http.get("/healthz", headers={"X-Request-Id": "from-client-1"}).headers["x-request-id"] == "from-client-1"
        )
        odd = http.get("/healthz", headers={"X-Request-Id": 'a"b{}'}).headers["x-request-id"]
    assert odd.isalnum()


def test_unknown_paths_and_methods_are_problems(running, token):
    problem(running.get("/nowhere", token), 404, "not-found")
    with running.http(token) as http:
        response = http.put("/v1/models")
        problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == "GET"
        problem(http.get("/v1/models/none"), 404, "no-such-model")
        problem(http.get("/v1/models/UPPER"), 422, "invalid")
