"""A federation over channels that parties dial: real processes, real TLS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindsight import modelfile
from blindsight.channels import GrpcChannel, HttpsChannel, MemoryChannel
from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import AuthenticationError, ParameterError, SchemaError, SurvivorsError, UnavailableError
from blindsight.federation import Federation
from blindsight.federation._home import provision
from blindsight.testing import InsecureAuthority

from ._drive import EXACT, embedded, tables

CHANNELS = {"https": HttpsChannel, "grpc": GrpcChannel}


class Site:
    """Three banks' folders, and their processes."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        self.data, self.schema, self.folder = tables(3, rows=40), schema, folder
        paths = {}
        for name, table in self.data.items():
            paths[name] = folder / f"{name}.csv"
            table.write_csv(paths[name])
        self.participants = provision(
            folder / "home", data=paths, evaluation={}, schema=schema, policy=EXACT, key_file=None
        )
        authority = InsecureAuthority(folder)
        self.coordinator = authority.issue("coordinator", server=True)
        self.issued = {name: authority.issue(name) for name in self.data}
        self.prints = {name: one.fingerprint for name, one in self.issued.items()}

    @contextlib.contextmanager
    def parties(self, url: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        running = {}
        try:
            for name, one in self.issued.items():
                files = [
                    *("--certificate", str(one.certificate), "--private-key", str(one.private_key)),
                    *("--authority", str(one.authority)),
                ]
                command = [sys.executable, "-m", "blindsight.federation.worker", str(self.folder / "home" / name)]
                running[name] = subprocess.Popen([*command, "--url", url, *files])
            yield running
        finally:
            for process in running.values():
                process.terminate()
            statuses = {name: process.wait(30) for name, process in running.items()}
        assert set(statuses.values()) <= {0, -9}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, number_schema: Schema) -> Site:
    return Site(tmp_path_factory.mktemp("channels"), number_schema)


@pytest.mark.parametrize("kind", CHANNELS)
def test_the_model_is_the_embedded_one_bit_for_bit(site: Site, kind: str) -> None:
    inside = embedded(site.data, site.schema).fit(ECOD(contamination=0.05), privacy=None)
    channel = CHANNELS[kind](site.prints, **site.coordinator.files)
    with contextlib.ExitStack() as stack:
        stack.enter_context(channel)
        running = stack.enter_context(site.parties(channel.url))
        with Federation.over(channel, participants=site.participants, schema=site.schema, greeting_s=200) as federation:
            model = federation.fit(ECOD(contamination=0.05), privacy=None)
            assert federation.history[0].steps[0].survivors == sorted(site.data)
            # somebody else's key under a known name is found before anything is asked of it
            swapped = [(name, key[::-1] if name == "bank-01" else key) for name, key in site.participants]
            with pytest.raises(AuthenticationError, match="bank-01 does not answer with the identity"):
                Federation.over(channel, participants=swapped, schema=site.schema)
            running["bank-02"].kill()
            running["bank-02"].wait()
            with pytest.raises(UnavailableError, match=r"no answer from bank-02 within 1 s.*3 of 3"):
                Federation.over(channel, participants=site.participants, schema=site.schema, greeting_s=1.0)
    model.provenance_ = inside.provenance_ = model.certificate_ = inside.certificate_ = None
    assert modelfile.dumps(model) == modelfile.dumps(inside)


def test_lists_that_cannot_be_used(site: Site, number_schema: Schema, mixed_schema: Schema) -> None:
    federation = embedded(site.data, number_schema)
    listing, channel = federation._participants, federation._channel
    assert Federation.over(channel, participants=listing, schema=number_schema).greet() == sorted(site.data)
    for bad, error, words in (
        (listing[:2], SurvivorsError, "at least three"),
        ([*listing, ("bank-00", b"x" * 32)], ParameterError, "each name once"),
        ([*listing[:2], ("bank-02", listing[0][1])], ParameterError, "a public key of its own|key of its own"),
        ([*listing[:2], ("bank-02", b"short")], ParameterError, "32 bytes"),
        ([*listing, ("bank-03", b"x" * 32)], ParameterError, "does not know every participant.*bank-03"),
        ([*listing[:2], ("../evil", b"x" * 32)], ParameterError, "name cannot be used"),
    ):
        with pytest.raises(error, match=words):
            Federation.over(channel, participants=bad, schema=number_schema)
    with pytest.raises(SchemaError, match="another schema"):
        Federation.over(channel, participants=listing, schema=mixed_schema)
    silent = MemoryChannel(dict.fromkeys(site.data, lambda request: 1 / 0))
    with pytest.raises(UnavailableError, match="Too few parties"):
        Federation.over(silent, participants=listing, schema=number_schema, greeting_s=0.1)
