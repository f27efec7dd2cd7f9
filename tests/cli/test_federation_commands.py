"""``init``, ``party``, ``jobs`` and ``preflight`` as people type them: exit codes, messages, one whole round."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from blindsight.channels import Contact, MemoryChannel
from blindsight.cli import _party_metrics
from blindsight.cli._party_metrics import PartyMetrics
from blindsight.detectors import ECOD
from blindsight.errors import PendingError
from blindsight.federation import Federation, open_party, open_site
from blindsight.federation.kits import ParticipantList
from sample_tables import NUMBER_SCHEMA, make_table

from .conftest import Done, invoke

NAMES = ("bank-a", "bank-b", "bank-c")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Three parties whose keys were made where they stay, and who have joined."""
    folder = tmp_path_factory.mktemp("site")
    NUMBER_SCHEMA.write(folder / "schema.toml")
    parties = "".join(f'[[parties]]\nname = "{name}"\ncontact = "somebody at {name}"\n' for name in NAMES)
    (folder / "federation.toml").write_text(
        'name = "card-fraud"\nschema = "schema.toml"\n[coordinator]\naddresses = ["https://127.0.0.1:8443"]\n' + parties
    )
    requests = []
    for i, name in enumerate(NAMES):
        done = invoke("party", "enrol", name, "--federation", "card-fraud", "--home", folder / name)
        assert done.code == 0, done.err
        make_table(40, i).write_csv(folder / name / "records.csv")
        requests += ["--request", folder / name / "request.json"]
    done = invoke("init", folder / "federation.toml", "--output", folder / "kits", *requests)
    assert done.code == 0, done.err
    assert "Keys were made HERE" not in done.out
    for name in NAMES:
        listing = ParticipantList.read(folder / "kits")
        done = invoke("party", "join", folder / "kits" / name, "--home", folder / name, "--fingerprint",
                      listing.fingerprint)  # fmt: skip
        assert done.code == 0, done.err
    return folder


def test_show_prints_fingerprints_for_the_telephone(site: Path) -> None:
    done = invoke("init", "show", site / "kits" / "participants.signed.json")
    assert done.code == 0
    listing = ParticipantList.read(site / "kits")
    assert f"Federation key  {listing.fingerprint}" in done.out
    for party in listing.parties:
        assert party.fingerprint in done.out
    value = invoke("init", "show", site / "kits", "--json").value
    assert value["serial"] == 1
    assert value["fingerprints"] == {party.name: party.fingerprint for party in listing.parties}


def test_refusals_have_exit_codes_and_fixes(site: Path, tmp_path: Path) -> None:
    def refused(code: int, match: str, *words: object) -> Done:
        done = invoke(*words)
        assert done.code == code, (done.out, done.err)
        assert match in done.err + done.out, done.err
        assert done.err.count("Traceback") == 0
        return done

    refused(2, "is not empty", "init", site / "federation.toml", "--output", site / "kits")
    refused(2, "could not be read", "init", tmp_path / "none.toml")
    refused(2, "no federation's authority", "init", "revoke", "bank-a", "--kits", tmp_path)
    refused(2, "name cannot be used", "party", "enrol", "a/b", "--federation", "x", "--home", tmp_path / "p")
    refused(2, "not the one that was given", "party", "join", site / "kits" / "bank-a", "--home", site / "bank-a",
            "--fingerprint", "1111-2222")  # fmt: skip
    refused(2, "no party's folder", "party", "accept", site / "kits", "--home", tmp_path)
    tampered = (site / "kits" / "participants.signed.json").read_text().replace("bank-c", "bank-x")
    (tmp_path / "list.json").write_text(tampered)
    refused(2, "does not hold", "init", "show", tmp_path / "list.json")
    refused(2, "does not hold", "party", "accept", tmp_path / "list.json", "--home", site / "bank-a")
    refused(4, "neither a party's folder nor", "preflight", "--home", tmp_path)
    refused(2, "no party's folder", "party", "audit", "verify", "--home", tmp_path)
    refused(2, "No job begins with 'x'", "jobs", "show", "x", "--home", site / "bank-a")
    refused(2, "--state is unknown", "jobs", "list", "--state", "odd", "--home", site / "bank-a")
    refused(2, "--output cannot be used", "party", "mock", "--output", site / "bank-a" / "records.csv", "--home",
            site / "bank-a")  # fmt: skip


def test_add_revoke_accept(tmp_path: Path, site: Path) -> None:
    plan = (site / "federation.toml").read_text()
    (tmp_path / "federation.toml").write_text(plan)
    (tmp_path / "schema.toml").write_bytes((site / "schema.toml").read_bytes())
    kits = tmp_path / "kits"
    assert (
        "Keys were made HERE for bank-a, bank-b, bank-c"
        in invoke("init", "make", tmp_path / "federation.toml", "--output", kits).out
    )
    assert invoke("party", "join", kits / "bank-a", "--home", kits / "bank-a").code == 0
    done = invoke("init", "add", "bank-d", "--contact", "Dora", "--kits", kits, "--json")
    assert done.value["list"]["serial"] == 2
    done = invoke("party", "accept", kits / "participants.signed.json", "--home", kits / "bank-a")
    assert done.code == 0
    assert "New: bank-d" in done.out
    assert invoke("init", "rotate", "coordinator", "--kits", kits).code == 0
    assert invoke("init", "rotate", "bank-b", "--kits", kits, "--identity").code == 0
    done = invoke("init", "revoke", "bank-c", "--kits", kits)
    assert done.code == 0
    done = invoke("init", "revoke", "bank-d", "--kits", kits)
    assert done.code == 4, "a list of two stands, and says that no sum can run"
    assert "Only 2 parties are left" in done.out
    done = invoke("party", "accept", kits, "--home", kits / "bank-a", "--json")
    assert (done.value["gone"], done.value["new_identity"]) == (["bank-c", "bank-d"], ["bank-b"])
    old = kits / "authority" / "lists" / "participants-2.json"
    done = invoke("party", "accept", old, "--home", kits / "bank-a")
    assert done.code == 2
    assert "older than one that was accepted" in done.err


def test_preflight_says_what_to_mend(site: Path) -> None:
    done = invoke("preflight", "--home", site / "bank-b", "--timeout", "0.5", "--json")
    assert done.code == 4
    levels = {finding["what"]: finding["level"] for finding in done.value["findings"]}
    assert levels.pop("reachability") == "fail", "no coordinator runs"
    assert set(levels.values()) == {"ok"}
    text = invoke("preflight", "--home", site / "bank-b", "--timeout", "0.5")
    assert "fix: start the coordinator" in text.out
    assert "1 to mend, 0 to look at." in text.out


def test_mock_records(site: Path, tmp_path: Path) -> None:
    done = invoke("party", "mock", "--home", site / "bank-a", "--output", tmp_path / "mock.csv", "--rows", 20)
    assert done.code == 0
    assert "no record was read" in done.out
    assert "no control" in done.out
    assert len((tmp_path / "mock.csv").read_text().splitlines()) == 21
    assert invoke("schema", "check", site / "schema.toml", tmp_path / "mock.csv").code == 0


def test_metrics_of_a_party_whose_store_cannot_be_read(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    party = open_site(site / "bank-c")
    with PartyMetrics(party, Contact(), 0) as metrics:

        def scrape() -> str:
            return httpx.get(f"http://127.0.0.1:{metrics.port}/metrics", trust_env=False, timeout=20).text

        metrics.handler(b"junk")
        monkeypatch.setattr(_party_metrics, "FRESH_S", 600.0)
        found = scrape()
        for line in (
            'answers_total{answer="refusal"} 1.0', 'refusals_total{reason="WireError"} 1.0', "state_readable 1.0",
            "connected 0.0", "audit_lines 1.0", 'epsilon_spent{unit="person"} 0.0',
            'bytes_total{direction="received"} 4.0',
        ):  # fmt: skip
            assert f"\nblindsight_party_{line}\n" in found, found
        party.party._own.store.close()
        assert scrape().endswith("state_readable 1.0\n"), "what was read a moment ago"
        monkeypatch.setattr(_party_metrics, "FRESH_S", -1.0)
        found = scrape()
        assert "blindsight_party_state_readable 0.0\n" in found
        assert 'blindsight_party_answers_total{answer="refusal"} 1.0\n' in found
        assert "blindsight_party_audit_lines" not in found


def test_a_job_from_inbox_to_done(site: Path, tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("four random words here\n")
    passphrase.chmod(0o600)
    lines = []
    for who in ("alice", "bob"):
        done = invoke("jobs", "key", who, "--output", tmp_path / who, "--passphrase-file", passphrase, "--json")
        assert done.code == 0, done.err
        lines.append(done.value["line"])
    home = site / "bank-b"
    for name in NAMES:
        (site / name / "policy.toml").write_text("allow_exact_sums = true\n")
    (home / "policy.toml").write_text(
        'allow_exact_sums = true\n[approval]\nECOD = "four-eyes"\n[approvers]\n' + "\n".join(lines) + "\n"
    )
    parties = {name: open_party(site / name) for name in NAMES}  # the parties' processes
    channel = MemoryChannel({name: party.handle for name, party in parties.items()})
    listing = ParticipantList.read(home)
    federation = Federation(
        channel,
        participants=listing.participants,
        schema=NUMBER_SCHEMA,
        name=listing.federation,
        approval_timeout_s=0.0,
    )
    with pytest.raises(PendingError, match=r"waits for approval at bank-b.*blindsight jobs approve"):
        federation.fit(ECOD(bins=8), privacy=None)
    done = invoke("jobs", "list", "--home", home, "--state", "waits")
    assert "waits for approval" in done.out
    (job,) = invoke("jobs", "list", "--home", home, "--json").value["jobs"]
    shown = invoke("jobs", "show", job["id"][:6], "--home", home)
    assert shown.code == 0
    for part in ("fit ECOD", "bins = 8", "age, amount, balance", "exact sums", "bank-a, bank-b, bank-c", "four-eyes"):
        assert part in shown.out, part
    options = ("--home", home, "--passphrase-file", passphrase)
    wrong = invoke("jobs", "approve", job["id"], "--as", "alice", "--key", tmp_path / "bob", *options)
    assert wrong.code == 2
    assert "may not decide with this key" in wrong.err
    one = invoke("jobs", "approve", job["id"], "--as", "alice", "--key", tmp_path / "alice", *options)
    assert "1 of 2 approvals; another person's is needed" in one.out
    done = invoke("jobs", "approve", job["id"], "--as", "bob", "--key", tmp_path / "bob", "--note", "fine", *options)
    assert "2 of 2 approvals. It goes on" in done.out
    passphrase.chmod(0o644)
    assert "open to others" in invoke("jobs", "refuse", job["id"], "--key", tmp_path / "bob", *options).err
    # the coordinator asks for the same run again, as one that resumes does
    federation = Federation(
        channel,
        participants=listing.participants,
        schema=NUMBER_SCHEMA,
        name=listing.federation,
        approval_timeout_s=0.0,
    )
    with pytest.raises(PendingError):
        federation.fit(ECOD(bins=8), privacy=None)  # another run is another job
    jobs = invoke("jobs", "list", "--home", home, "--json").value["jobs"]
    assert [one["state"] for one in jobs] == ["waits", "waits"]
    second = jobs[-1]["id"]
    passphrase.chmod(0o600)
    assert (
        invoke("jobs", "refuse", second, "--as", "bob", "--key", tmp_path / "bob", "--note", "no", *options).code == 0
    )
    done = invoke("party", "audit", "verify", "--home", home, "--json")
    assert done.value["intact"]
    kinds = [json.loads(line)["kind"] for line in (home / "audit.jsonl").read_text().splitlines()]
    assert kinds == ["waits", "approved", "approved", "waits", "declined"]
    shown = invoke("party", "audit", "show", "--home", home)
    assert "approver=alice" in shown.out
    text = (home / "audit.jsonl").read_text()
    (home / "audit.jsonl").write_text(text.replace("alice", "carol"))
    done = invoke("party", "audit", "verify", "--home", home)
    assert done.code == 4
    assert "chain is broken" in done.out
    (home / "audit.jsonl").write_text(text)
    assert invoke("party", "audit", "verify", "--home", home, "--seen-head", "0" * 64).code == 4
    assert invoke("party", "audit", "verify", "--home", home, "--seen-head", "odd").code == 2
