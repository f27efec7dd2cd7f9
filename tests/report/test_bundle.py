"""The sign-off bundle: what is in it, that the same facts make the same bytes, and that changes are found."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import zipfile
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from blindsight import modelfile
from blindsight.cli import app
from blindsight.data import Column, Schema
from blindsight.detectors import ECOD
from blindsight.errors import AuthenticationError, FormatError, ParameterError
from blindsight.federation import Federation, Policy, read_ledger_export
from blindsight.keys import Identity
from blindsight.privacy import ACCOUNTING_ERROR, DifferentialPrivacy
from blindsight.report import check_bundle, make_bundle, read_bundle, write_bundle, write_run
from blindsight.report._record import parse_run
from blindsight.report._signed_ledgers import with_ledgers
from sample_tables import NUMBER_SCHEMA, make_table

from ._runs import PARTIES, bare_run, budget, full_run

ALICE = ("alice", Identity.generate())


@pytest.fixture(scope="module")
def federation() -> Federation:
    data = {name: make_table(400, place) for place, name in enumerate(PARTIES)}
    federation = Federation.embedded(data, schema=NUMBER_SCHEMA, policy=Policy())
    federation.fit(ECOD(bins=8), privacy=DifferentialPrivacy(epsilon=2.0, delta=1e-6))
    return federation


@pytest.fixture(scope="module")
def exports(federation: Federation) -> dict[str, bytes]:
    return {name: party.export_ledgers() for name, party in federation.parties.items()}


def test_a_ledger_export_holds_and_nothing_else_passes(federation: Federation, exports: dict[str, bytes]) -> None:
    keys = {name: party.public_key for name, party in federation.parties.items()}
    export = read_ledger_export(exports["bank-a"], keys=keys)
    run = federation.history[0].run
    assert [entry.release_id for entry in export.of_run(run)] == [f"{run}/fit", f"{run}/threshold"]
    assert export.budgets["record"][0] == pytest.approx(federation.parties["bank-a"].ledgers["record"].spent())
    assert (export.countersigners, export.heads["record"][0]) == (["bank-b", "bank-c"], 4)
    for other in ({**keys, "bank-a": keys["bank-b"]}, {"bank-a": keys["bank-a"]}):
        with pytest.raises(AuthenticationError):
            read_ledger_export(exports["bank-a"], keys=other)
    for old, new in (
        (b'"record":{"delta":1e-6', b'"record":{"delta":1e-9'),
        (b'"party":"bank-a"', b'"party":"bank-b"'),
    ):
        assert old in exports["bank-a"]
        with pytest.raises((AuthenticationError, FormatError)):
            read_ledger_export(exports["bank-a"].replace(old, new))
    with pytest.raises(FormatError, match="malformed"):
        read_ledger_export(b"{}")


def test_an_export_that_lacks_a_countersigned_head_is_refused(federation: Federation) -> None:
    from blindsight.federation._ledger_export import export_ledgers
    from blindsight.privacy import Ledger
    from blindsight.store import Store

    party = federation.parties["bank-a"]
    empty = {"record": Ledger(Store(None))}
    data = export_ledgers("bank-a", party._own.identity, empty, party.heads)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="lacks a head that it had countersigned"):
        read_ledger_export(data)


def test_what_is_in_a_bundle(federation: Federation, exports: dict[str, bytes], tmp_path: Path) -> None:
    (record,) = federation.history
    model = ECOD(bins=8, schema=NUMBER_SCHEMA).fit(make_table(50, 1))
    model.provenance_ = {"run": record.run}
    run = full_run(runs=(record.run,), delivered={"bank-a": "kept as version 1", "bank-b": "did not answer"})
    options = {
        "model": modelfile.dumps(model),
        "ledgers": [exports["bank-a"], exports["bank-b"]],
        "policies": {"bank-a": Policy().to_toml().encode()},
        "signer": ALICE,
    }
    bundle = make_bundle(run, **options)  # type: ignore[arg-type]
    assert sorted(bundle) == [
        "assessment.md", "data-flow.html", "ledgers/bank-a.json", "ledgers/bank-b.json", "manifest.json",
        "manifest.sig", "model.json", "policies/bank-a.toml", "report.html", "run.json",
    ]  # fmt: skip
    paths = [write_bundle(make_bundle(run, **options), tmp_path / name) for name in ("1.zip", "2.zip")]  # type: ignore[arg-type]
    assert paths[0].read_bytes() == paths[1].read_bytes(), "the same facts, the same bytes"
    found = check_bundle(read_bundle(paths[0]), signer_key=ALICE[1].public.raw.hex())
    assert (found.problems, found.signer, found.without) == ((), "alice", ("bank-c",))
    page, draft = bundle["data-flow.html"].decode(), bundle["assessment.md"].decode()
    assert "kept as version 1" in page
    assert json.loads(bundle["model.json"])["sha256"] in page
    assert page.count("zCDP for adding or removing one record") == 4
    for heading in ("(Art. 35(7)(a))", "(Art. 35(7)(b))", "(Art. 35(7)(c))", "(Art. 35(7)(d))"):
        assert heading in draft
    assert draft.count("TO BE COMPLETED") > 20
    assert "Undefined" not in draft


def test_no_page_states_less_epsilon_than_was_spent() -> None:
    run = full_run(
        privacy=msgspec.structs.replace(full_run().privacy, epsilon_spent=0.8874, epsilon_asked=0.88712),
        budgets=tuple(budget(party=name, spent=2.3412, spent_before=1.4562) for name in PARTIES),
    )
    bundle = make_bundle(run)
    names = ("report.html", "data-flow.html", "assessment.md")
    pages = {
        name: re.sub(r"<[^>]*>", " ", bundle[name].decode()) for name in names
    }  # attributes hold places of drawings
    for name, page in pages.items():
        assert "0.888" in page, name
        assert not re.findall(r"0\.887|2\.34|1\.45", page), name
    assert "2.35 of 10" in pages["report.html"]
    assert "1.46" in pages["report.html"]


def test_a_ledgers_epsilon_is_rounded_up_in_a_bundle(federation: Federation, exports: dict[str, bytes]) -> None:
    spent = read_ledger_export(exports["bank-a"]).budgets["record"][0]
    bundle = make_bundle(full_run(runs=(federation.history[0].run,)), ledgers=[exports["bank-a"]])
    for name in ("data-flow.html", "assessment.md"):
        (shown,) = re.findall(r"[Pp]er record: epsilon ([0-9.]+) of", bundle[name].decode())
        assert float(shown) >= spent * (1 - ACCOUNTING_ERROR), name


def test_the_report_in_a_bundle_shows_the_ledgers_that_were_given(
    federation: Federation, exports: dict[str, bytes]
) -> None:
    record = federation.history[0].run
    coordinators = full_run(runs=(record,), budgets=(), ledger=())
    given = [exports["bank-a"], exports["bank-b"]]
    bundle = make_bundle(coordinators, ledgers=given)
    report, flow, draft = (bundle[name].decode() for name in ("report.html", "data-flow.html", "assessment.md"))
    assert "not at hand" not in report
    assert "Privacy budget spent by party" in report
    assert "Of the known budgets the fullest is bank-" in report
    assert report.count(f"<code>{record}/<wbr>fit</code>") == 2
    assert report.count("From the signed ledgers of bank-a, bank-b.") == 2
    assert report.count("Ledger of bank-c: not given.") == 2
    assert "<b>bank-c</b>: not given." in flow
    assert "bank-c: not given." in draft
    assert parse_run(bundle["run.json"]) == coordinators, "what the coordinator wrote stays as it was"
    for name in ("report.html", "data-flow.html", "assessment.md"):
        assert "not given" not in make_bundle(coordinators, ledgers=list(exports.values()))[name].decode().replace(
            "| not given | fingerprints", ""
        ), name
    alone = make_bundle(coordinators)
    assert alone["report.html"].decode().count("not at hand") == 2
    assert "bank-a: not given. bank-b: not given. bank-c: not given." in alone["assessment.md"].decode()


def test_a_signed_ledger_says_what_the_ledger_itself_says(federation: Federation, exports: dict[str, bytes]) -> None:
    run = full_run(runs=(federation.history[0].run,), ledger=(), budgets=(budget(spent=9.0), budget(party="bank-b")))
    merged, without = with_ledgers(run, [read_ledger_export(exports["bank-a"])])
    ledger = federation.parties["bank-a"].ledgers["record"]
    (own,) = [account for account in merged.budgets if account.party == "bank-a"]
    assert (own.unit, own.spent, own.spent_before) == ("record", pytest.approx(ledger.spent()), 0.0)
    assert [(c.release, c.rho, c.output_stored) for c in merged.ledger] == [
        (entry.release_id, entry.event.rho, entry.output_sha256 is not None) for entry in ledger.entries()
    ]
    assert all(c.output_stored for c in merged.ledger)
    assert without == ("bank-c",)
    later, _ = with_ledgers(full_run(runs=("another",), ledger=()), [read_ledger_export(exports["bank-a"])])
    assert later.ledger == ()
    assert later.budgets[-1].spent_before == pytest.approx(later.budgets[-1].spent)


def schema_of_persons(**changes: str) -> Schema:
    columns = (
        Column(name="amount", low=0.0, high=1000.0),
        Column(name="customer", role="person", type="text"),
        Column(name="fraud", role="label"),
        Column(name="iban", role="identifier", type="text"),
    )
    return Schema(columns=columns, **changes)  # type: ignore[arg-type]


def test_what_was_read_is_told_by_role() -> None:
    schema = schema_of_persons()
    facts = msgspec.structs.replace(full_run().model, schema_digest=schema.digest(), features=("amount",))
    run = full_run(model=facts, evaluation=None)
    bundle = make_bundle(run, schema=schema)
    assert Schema.from_toml(bundle["schema.toml"].decode()) == schema
    assert check_bundle(bundle).problems == ()
    draft = bundle["assessment.md"].decode()
    assert "about 23,994 records, as released; of each person at most 4 are used." in draft
    assert "| person | customer | yes, to tell whose record it is: of each person at most 4 are used." in draft
    assert "| label | fraud | loaded and checked" in draft
    assert "This run evaluated nothing" in draft
    assert "| identifier | iban | no |" in draft
    assert "features were read" not in draft
    assert "Evaluation read it" in make_bundle(full_run(model=facts), schema=schema)["assessment.md"].decode()
    by_record = msgspec.structs.replace(full_run().privacy, unit="record", max_records_per_person=None)
    draft = make_bundle(full_run(model=facts, privacy=by_record), schema=schema)["assessment.md"].decode()
    assert "this run did not count by persons" in draft
    assert "of each person at most" not in draft.partition("**Flow")[0]
    unknown = make_bundle(run)["assessment.md"].decode()
    assert "the schema is not in this bundle: TO BE COMPLETED" in unknown
    assert "| person | (name not at hand) | yes" in unknown


def test_only_the_runs_own_declared_schema_goes_in() -> None:
    learned = schema_of_persons(ranges="learned")
    facts = msgspec.structs.replace(full_run().model, schema_digest=learned.digest(), features=("amount",))
    bundle = make_bundle(full_run(model=facts), schema=learned)
    assert "schema.toml" not in bundle
    assert "| identifier | iban | no |" in bundle["assessment.md"].decode()
    with pytest.raises(ParameterError, match="schema is of another run"):
        make_bundle(full_run(), schema=learned)
    facts = msgspec.structs.replace(facts, schema_digest=schema_of_persons().digest())
    bundle = make_bundle(full_run(model=facts), schema=schema_of_persons())
    for other, told in ((learned.to_toml().encode(), "not the schema that run.json names"), (b"\xff", "schema.toml: ")):
        assert any(told in problem for problem in check_bundle({**bundle, "schema.toml": other}).problems)


def test_what_the_bundle_cannot_tell_is_left_to_complete() -> None:
    draft = make_bundle(full_run())["assessment.md"].decode()
    (keys,) = re.findall(r"^\| Parties' private keys .*$", draft, re.MULTILINE)
    assert "rest on its operator too" in keys
    assert keys.endswith("TO BE COMPLETED |")
    (approval,) = re.findall(r"^\| Approval by a person .*$", draft, re.MULTILINE)
    assert "not in this bundle" in approval
    assert "audit.jsonl" in approval
    assert "names nobody whom it was sent to" in draft
    sent = make_bundle(full_run(delivered={"bank-b": "did not answer", "bank-a": "kept as version 1"}))
    draft = sent["assessment.md"].decode()
    assert "sent to: bank-a (kept as version 1); bank-b (did not answer). Whether to others later" in draft
    assert "names nobody" not in draft


def test_a_bundle_is_its_owners_alone_and_so_is_what_is_unpacked(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        path = write_bundle(make_bundle(bare_run()), tmp_path / "bundle.zip")
        (tmp_path / "bundle.zip").chmod(0o644)
        write_bundle(make_bundle(bare_run()), path)  # over an older one, which was open
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o600}


def test_every_change_is_found(federation: Federation, exports: dict[str, bytes]) -> None:
    run = full_run(runs=(federation.history[0].run,))
    bundle = make_bundle(run, ledgers=[exports["bank-a"]], signer=ALICE)

    def problems(**changes: bytes | None) -> str:
        changed = {**bundle, **{name.replace("__", "/").replace("_", "."): data for name, data in changes.items()}}
        return "; ".join(check_bundle({k: v for k, v in changed.items() if v is not None}).problems)

    assert problems() == ""
    assert "report.html: changed" in problems(report_html=b"x")
    assert "run.json: missing" in problems(run_json=None)
    assert "other.txt: not in the manifest" in problems(other_txt=b"x")
    assert "signature of 'alice' does not hold" in problems(manifest_sig=b"\0" * 64)
    swapped = {**bundle, "ledgers/bank-a.json": exports["bank-b"]}
    assert any("the ledger of bank-b" in problem for problem in check_bundle(swapped).problems)
    forged = json.loads(bundle["manifest.json"])
    forged["files"]["report.html"]["sha256"] = "0" * 64
    assert "does not hold" in problems(manifest_json=json.dumps(forged).encode())
    other = Identity.generate().public.raw.hex()
    assert "not by the key that was given" in "".join(check_bundle(bundle, signer_key=other).problems)
    assert "signed by nobody" in "".join(check_bundle(make_bundle(run), signer_key=other).problems)
    with pytest.raises(FormatError, match="no manifest"):
        check_bundle({})


def test_a_bundle_without_its_run_cannot_hide_whose_ledgers_are_missing() -> None:
    bundle = {name: data for name, data in make_bundle(bare_run()).items() if name != "run.json"}
    manifest = json.loads(bundle["manifest.json"])
    del manifest["files"]["run.json"]
    bundle["manifest.json"] = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert any("whose ledgers are missing" in problem for problem in check_bundle(bundle).problems)


def test_what_does_not_belong_to_the_run_is_refused(exports: dict[str, bytes]) -> None:
    with pytest.raises(ParameterError, match="does not belong to this run"):
        make_bundle(full_run(), ledgers=[exports["bank-a"], exports["bank-a"]])
    with pytest.raises(ParameterError, match="does not belong to this run"):
        make_bundle(full_run(), policies={"bank-x": b""})
    model = ECOD(bins=8, schema=NUMBER_SCHEMA).fit(make_table(50, 1))
    with pytest.raises(ParameterError, match="another run"):
        make_bundle(full_run(runs=("0123",)), model=modelfile.dumps(model))


def test_texts_from_anywhere_are_no_markup() -> None:
    nasty = "<script>|x|</script> # y"
    run = bare_run(title=nasty, parties=(nasty, "b", "c"), delivered={nasty: "kept"}, runs=(nasty,))
    bundle = make_bundle(run)
    assert b"<script>" not in bundle["data-flow.html"]
    assert "\\<script\\>\\|x\\|" in bundle["assessment.md"].decode()
    many = bare_run(parties=tuple(f"party-{i}" for i in range(40)))
    assert "and 33 more" in make_bundle(many)["data-flow.html"].decode()


@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c", "a\\b", "x y"])
def test_only_plain_archives_are_read(name: str, tmp_path: Path) -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(name, b"x")
    (tmp_path / "b.zip").write_bytes(raw.getvalue())
    with pytest.raises(FormatError, match="no sign-off bundle"):
        read_bundle(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 1_000_000)
    with pytest.raises(FormatError, match="compressed"):
        read_bundle(tmp_path / "c.zip")
    (tmp_path / "d.zip").write_bytes(b"PK")
    with pytest.raises(FormatError):
        read_bundle(tmp_path / "d.zip")


def test_an_archive_cannot_be_larger_inside_than_outside(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("a", b"0" * 100_000)
        (entry,) = archive.infolist()
        for name in ("b", "c"):  # the same bytes once more
            other = zipfile.ZipInfo(name)
            other.header_offset, other.CRC = entry.header_offset, entry.CRC
            other.file_size = other.compress_size = entry.file_size
            archive.filelist.append(other)
    (tmp_path / "e.zip").write_bytes(raw.getvalue())
    with pytest.raises(FormatError, match="overlap"):
        read_bundle(tmp_path / "e.zip")


def test_what_a_bundle_says_cannot_paint_over_what_was_found(federation: Federation) -> None:
    bundle = make_bundle(full_run(runs=(federation.history[0].run,)), signer=("alice\x1b[2J\nbob", ALICE[1]))
    bundle["x\x1b[1A\ny"] = b""
    found = check_bundle(bundle)
    assert found.signer.isprintable()
    assert found.problems
    assert all(problem.isprintable() for problem in found.problems)


def test_a_long_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        for number in range(1001):
            archive.writestr(f"f{number}", b"")

    def never(*_: object) -> None:
        raise AssertionError("the directory was read")

    monkeypatch.setattr(zipfile, "ZipFile", never)
    with pytest.raises(FormatError, match="too many files"):
        read_bundle(tmp_path / "f.zip")


def test_from_the_command_line(federation: Federation, exports: dict[str, bytes], tmp_path: Path) -> None:
    facts = msgspec.structs.replace(full_run().model, schema_digest=NUMBER_SCHEMA.digest())
    write_run(full_run(runs=(federation.history[0].run,), model=facts), tmp_path / "run.json")
    (tmp_path / "bank-a").mkdir()
    (tmp_path / "schema.toml").write_text("version = 1\n")  # blank, as in a kit that was given none
    (tmp_path / "bank-a" / "schema.toml").write_text(f"# our secret\n{NUMBER_SCHEMA.to_toml()}")
    (tmp_path / "a.json").write_bytes(exports["bank-a"])
    (tmp_path / "policy.toml").write_text(Policy().to_toml())
    (tmp_path / "pass").write_text("a passphrase\n")
    (tmp_path / "pass").chmod(0o600)
    secret = ["--passphrase-file", str(tmp_path / "pass")]

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(arguments))
        return done.exit_code, done.stdout + done.stderr

    key, bundle = str(tmp_path / "alice.key"), str(tmp_path / "bundle.zip")
    assert run("jobs", "key", "alice", "--output", key, *secret)[0] == 0
    code, told = run(
        "report", str(tmp_path), "--bundle", bundle, "--ledger", str(tmp_path / "a.json"), "--policy",
        f"bank-a={tmp_path / 'policy.toml'}", "--sign-as", "alice", "--key", key, *secret, "--json",
    )  # fmt: skip
    assert (code, len(json.loads(told)["files"])) == (0, 9), told
    assert read_bundle(bundle)["schema.toml"] == NUMBER_SCHEMA.to_toml().encode()
    code, told = run("verify-bundle", bundle)
    assert (code, "signed by alice" in told, "Without the ledgers of bank-b, bank-c" in told) == (0, True, True)
    code, told = run("verify-bundle", bundle, "--signer-key", "0" * 64, "--json")
    assert (code, json.loads(told)["intact"]) == (4, False)
    assert run("report", str(tmp_path), "--bundle", bundle, "--sign-as", "alice")[0] == 2
