"""Preflight: every line goes wrong once, and says how to mend it; the door is a real one."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from blindsight.federation import accept_list, join, open_site, preflight
from blindsight.federation.kits import ParticipantList, Workshop
from blindsight.keys import Authority, read_tls_key
from sample_tables import make_table

Findings = dict[str, list[tuple[str, str, str | None]]]


def looked(folder: Path) -> Findings:
    found: Findings = {}
    for finding in preflight(folder, timeout_s=2.0):
        found.setdefault(finding.what, []).append((finding.level, finding.told, finding.fix))
        assert finding.level == "ok" or finding.fix, finding
    return found


@contextmanager
def door(kits: Path, *, kit: str = "coordinator", skew_s: float = 0.0, says: bytes | None = None) -> Iterator[str]:
    """The coordinator's server, as far as somebody who knocks sees of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(kits / kit / "tls.crt", kits / kit / "tls.key")
    context.load_verify_locations(kits / "authority" / "authority.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    closed = threading.Event()

    def serve() -> None:
        while not closed.is_set():
            try:
                raw, _ = listener.accept()
            except TimeoutError:
                continue
            raw.settimeout(5)
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(4096)
                    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=skew_s)
                    answer = f"HTTP/1.1 404 Not Found\r\nDate: {format_datetime(now, usegmt=True)}\r\n\r\n".encode()
                    tls.sendall(answer if says is None else says)
            except OSError:
                raw.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        closed.set()
        thread.join(20)
        listener.close()


@pytest.fixture
def kit(folder: Path) -> Path:
    """A party that has joined, with records."""
    kit = folder / "kits" / "bank-a"
    make_table(30, 1).write_csv(kit / "records.csv")
    join(kit, kit)
    dial(kit, "https://127.0.0.1:1")
    return kit


def dial(kit: Path, address: str) -> None:
    lines = (kit / "party.toml").read_text().splitlines()
    lines = [f'coordinator = ["{address}"]' if line.startswith("coordinator") else line for line in lines]
    (kit / "party.toml").write_text("\n".join(lines) + "\n")


def test_a_party_with_everything_in_order(folder: Path, kit: Path) -> None:
    with door(folder / "kits") as address:
        dial(kit, address)
        found = looked(kit)
    assert {level for lines in found.values() for level, _, _ in lines} == {"ok"}
    assert list(found) == ["versions", "disk", "permissions", "names", "list", "TLS", "policy", "schema", "ledger",
                           "audit log", "reachability", "clock"]  # fmt: skip
    assert "TLS 1.3 with the listed certificate" in found["reachability"][0][1]
    assert "the coordinator's" in found["clock"][0][1]
    site = open_site(kit)
    assert site.addresses == (address,)
    assert site.coordinator.certificate == ParticipantList.read(kit).coordinator.certificate


def test_preflight_changes_nothing(folder: Path) -> None:
    kit = folder / "kits" / "bank-b"
    before = {path: path.read_bytes() for path in kit.rglob("*") if path.is_file()}
    found = looked(kit)
    assert {path: path.read_bytes() for path in kit.rglob("*") if path.is_file()} == before
    assert found["list"][0][0] == "warn"
    assert "is not accepted yet" in found["list"][0][1]
    assert found["schema"] == [("fail", "data = 'records.csv': there is no such file", "correct data in party.toml")]


def test_nobody_there_another_server_and_another_clock(folder: Path, kit: Path, workshop: Workshop) -> None:
    (line,) = looked(kit)["reachability"]
    assert (line[0], line[1]) == ("fail", "https://127.0.0.1:1: no connection (Connection refused)")
    assert "outgoing TCP to 127.0.0.1:1" in str(line[2])
    dial(kit, "flower://nowhere.invalid:9443")
    (line,) = looked(kit)["reachability"]
    assert (line[0], "Flower's SuperNode dials there" in str(line[1])) == ("ok", True)
    dial(kit, "https://nowhere.invalid:8443")
    assert "the name has no address" in looked(kit)["reachability"][0][1]
    for skew, level in ((120.0, "warn"), (-4000.0, "fail")):
        with door(folder / "kits", skew_s=skew) as address:
            dial(kit, address)
            found = looked(kit)
        assert found["clock"][0][0] == level
        assert "timedatectl" in str(found["clock"][0][2])
    for says in (b"", b"\x00" * 50_000, b"HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n"):
        with door(folder / "kits", says=says) as address:
            dial(kit, address)
            found = looked(kit)
        assert (found["reachability"][0][0], found["clock"][0][0]) == ("ok", "ok"), says
    workshop.rotate_coordinator()  # the party has not accepted the new list
    with door(folder / "kits", kit="coordinator-2") as address:
        dial(kit, address)
        assert "another certificate than the list names answers" in looked(kit)["reachability"][0][1]
        accept_list(folder / "kits", kit)
        assert looked(kit)["reachability"][0][0] == "ok"


def test_a_server_that_is_not_of_this_federation(folder: Path, kit: Path, workshop: Workshop) -> None:
    other = Workshop.create(workshop.plan, folder / "second")
    with door(other.folder) as address:
        dial(kit, address)
        line = looked(kit)["reachability"][0]
    assert line[0] == "fail"
    assert "its certificate is not accepted" in line[1]


def rewritten(kit: Path, workshop: Workshop, days: float) -> None:
    """A certificate of the federation's authority for the key that is here, which ends in so many days."""
    own = workshop.folder / "authority"
    authority = Authority.load(own / "authority.crt", own / "authority.key")
    key = read_tls_key(kit / "keys" / "tls.key")
    certificate = authority.issue_client("bank-a", key.public_key(), days=1)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(
            certificate.issuer, certificate.subject, certificate.public_key(), certificate.serial_number,
            now - datetime.timedelta(days=40), now + datetime.timedelta(days=days), list(certificate.extensions),
        )
    )  # fmt: skip
    signed = builder.sign(authority._key, certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    (kit / "tls.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def test_an_expired_certificate_and_one_that_ends_soon(folder: Path, kit: Path, workshop: Workshop) -> None:
    rewritten(kit, workshop, -1)
    ((level, told, fix),) = looked(kit)["TLS"]
    assert level == "fail"
    assert "it expired on 20" in told
    assert "init rotate" in str(fix)
    workshop.rotate("bank-a")
    short = folder / "kits" / "authority" / "federation.toml"
    short.write_text(short.read_text().replace("validity_days = 30", "validity_days = 3"))
    Workshop(folder / "kits").rotate("bank-a")
    join(folder / "kits" / "bank-a-3", kit)
    ((level, told, fix),) = looked(kit)["TLS"]
    assert level == "warn"
    assert "valid for 2 days" in told
    assert "--new-tls-key" in str(fix)


@pytest.mark.parametrize(
    ("file", "text", "what", "level", "told"),
    [
        ("policy.toml", "maximum_epsilon = ", "policy", "fail", "policy 'policy.toml' cannot be used"),
        ("policy.toml", "allow_exact_sums = true", "policy", "warn", "exact sums are allowed"),
        ("policy.toml", 'askers = ["hub"]', "policy", "warn", "no asker is the coordinator on the list"),
        ("policy.toml", 'columns = ["age"]', "schema", "fail", "does not allow a column"),
        ("schema.toml", "version = 1", "schema", "fail", "schema"),
        ("schema.toml", None, "schema", "fail", "cannot be read"),
        ("records.csv", "age,amount\n1,2\n", "schema", "fail", "Column 'balance' (feature) is missing"),
        ("party.toml", "name = 'bank-z'\ndata = 'records.csv'", "names", "fail", "not on the participant list"),
        ("party.toml", "name = 'a/b'\ndata = 'x'", "names", "fail", "party.toml of 'bank-a' cannot be used"),
        ("party.toml", "name = 'bank-a'\ndata = 'x'\ncoordinator = ['http://x']", "names", "fail", "is no address"),
        ("party.toml", "name = 'bank-a'\ndata = 3", "names", "fail", "cannot be used"),
        ("participants.signed.json", "{}", "list", "fail", "participant list is malformed"),
        ("tls.crt", "nonsense", "TLS", "fail", "is not a certificate"),
        ("keys/tls.key", "nonsense", "TLS", "fail", "not a private key of ours"),
        ("keys/identity", "nonsense", "list", "fail", "not sealed by Blindsight"),
        ("audit.jsonl", "{}\n", "audit log", "fail", "malformed"),
        ("ledger.db", "nonsense", "ledger", "fail", "could not be"),
    ],
)
def test_what_is_wrong_in_a_folder(kit: Path, file: str, text: str | None, what: str, level: str, told: str) -> None:
    for more in (f"{file}-wal", f"{file}-shm"):
        (kit / more).unlink(missing_ok=True)
    if text is None:
        (kit / file).unlink()
    else:
        (kit / file).write_text(text)
        (kit / file).chmod(0o600)
    found = looked(kit)[what]
    assert any(one == level and told in line for one, line, _ in found), found


def test_permissions_and_a_rolled_back_list(folder: Path, kit: Path, workshop: Workshop) -> None:
    (kit / "keys" / "tls.key").chmod(0o644)
    (line,) = looked(kit)["permissions"]
    assert line == ("fail", "open to others: tls.key", "chmod 600 tls.key")
    (kit / "keys" / "tls.key").chmod(0o600)
    old = (kit / "participants.signed.json").read_bytes()
    workshop.add("bank-d", contact="x")
    accept_list(folder / "kits", kit)
    (kit / "participants.signed.json").write_bytes(old)
    (line,) = looked(kit)["list"]
    assert (line[0], line[1]) == ("fail", "participants.signed.json is list 1; accepted is list 2")


def test_a_coordinators_kit(folder: Path, workshop: Workshop) -> None:
    kit = folder / "kits" / "coordinator"
    found = looked(kit)
    assert [level for level, _, _ in found["TLS"] + found["names"] + found["list"] + found["clock"]] == ["ok"] * 4
    assert (kit / "schema.toml").read_bytes() == (folder / "schema.toml").read_bytes()
    workshop.revoke("bank-c")
    found = looked(kit)
    assert found["list"][-1][:2] == ("fail", "2 parties: no sum can run")
    (kit / "federation.toml").write_text((kit / "federation.toml").read_text().replace("card-fraud", "other"))
    assert "federation.toml is of 'other'" in looked(kit)["names"][0][1]


def test_neither_a_party_nor_a_coordinator(tmp_path: Path) -> None:
    (finding,) = preflight(tmp_path)
    assert (finding.what, finding.level) == ("folder", "fail")
