"""One service for the tests that only ask; those that kill and restart start their own."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra: serve")
pytest.importorskip("tenseal", reason="blind scoring needs the extra: he")

from blindsight.blind import RecordOwner

from ._running import Running, make_client_certificate, make_model


@pytest.fixture(scope="session")
def fitted():
    """A detector and its records."""
    return make_model()


@pytest.fixture(scope="session")
def running(tmp_path_factory, fitted):
    """A service with one worker, small limits, and a client authority."""
    service = Running(
        tmp_path_factory.mktemp("service"), workers=1, header_seconds=2.0, idle_seconds=2.0,
        body_bytes=4 << 20, registration_bytes=1 << 20, answer_seconds=600.0,
    )  # fmt: skip
    service.client_files = make_client_certificate(service.home, "hospital")
    service.client_authority = service.client_files[0]
    service.publish(fitted[0])
    with service:
        yield service


@pytest.fixture(scope="session")
def token(running):
    """Scopes score and register, of bank-a."""
    return running.token()


@pytest.fixture(scope="session")
def owner(running, token):
    """A record owner whose key bank-a has registered."""
    with running.client(token) as client:
        made = RecordOwner(client.offer("model"))
        client.register("model", made)
    return made
