"""Heads of ledgers: countersigned in every sum; an old copy is found by the others and by its owner."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from blindsight.cli import app
from blindsight.data import Schema
from blindsight.detectors import ECOD
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    BudgetError,
    FormatError,
    ParameterError,
    RefusedError,
    ReleaseError,
    WireError,
)
from blindsight.federation import Federation, Policy, provision
from blindsight.federation._heads import HeadRelay, Heads, behind, read_statement, witness_message
from blindsight.federation._wire import Continue, Ledgers, decode_reply, decode_request, encode
from blindsight.keys import Identity
from blindsight.privacy import Budget, Ledger, Position
from blindsight.securesum._spec import MAX_PARTICIPANTS
from blindsight.store import Store
from sample_tables import NUMBER_SCHEMA

from ._drive import charges, dp, embedded, faulty, tables
from .hostile_coordinator import heads as hostile

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")
DATA = tables(4, rows=10)
NAMES = sorted(DATA)


def opened(home: Path) -> Federation:
    return embedded(DATA, NUMBER_SCHEMA, Policy(), home=home)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four parties after two runs; and the same with bank-00's folder put back to after the first."""
    folder = tmp_path_factory.mktemp("heads")
    federation = opened(folder / "now")
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    shutil.copytree(folder / "now" / "bank-00", folder / "old")
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    shutil.copytree(folder / "now", folder / "back")
    shutil.rmtree(folder / "back" / "bank-00")
    shutil.copytree(folder / "old", folder / "back" / "bank-00")
    return folder / "now", folder / "back"


@pytest.fixture
def restored(homes: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(homes[1], tmp_path / "own"))


def test_every_sum_leaves_heads_and_countersignatures(homes: tuple[Path, Path]) -> None:
    for name, party in opened(homes[0]).parties.items():
        others = [other for other in NAMES if other != name]
        assert sorted(party.heads.kept()) == others
        signed = party.heads.countersigned()
        assert signed is not None
        statement, by = signed
        assert (statement.party, by) == (name, others)
        # signed before the last sum was charged: one charge and one output are missing
        assert party.heads.positions()["record"].count == statement.ledgers["record"].count + 2 == 8
        assert party.heads.lost() == {}


def test_the_others_refuse_an_old_copy_and_say_whose(restored: Path) -> None:
    federation = opened(restored)
    federation._recalls = False  # a coordinator that has run all the time
    before = charges(federation)
    with pytest.raises(RefusedError, match="bank-00, per record: 4 lines, 6 seen before"):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    after = charges(federation)
    assert {name for name in NAMES if after[name] != before[name]} <= {"bank-00"}, "nobody else has paid"
    told = (restored / "bank-01" / "audit.jsonl").read_text().splitlines()[-1]
    assert "The ledger of another party is an old copy" in told


def test_its_owner_is_told_by_the_others_and_can_write_it_off(restored: Path) -> None:
    federation = opened(restored)
    before = charges(federation)
    with pytest.raises(ReleaseError, match="The ledger of bank-00 is an old copy: others have seen a newer one"):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    assert charges(federation) == before
    federation = opened(restored)
    with pytest.raises(ReleaseError, match="signed by its own key"):  # remembered: refused at the very beginning
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    victim = federation.parties["bank-00"]
    assert list(victim.heads.lost()) == ["record"]
    charged = victim.write_off()
    assert 9 < charged["record"] < 10
    assert victim.ledgers["record"].remaining() == 0
    victim.ledgers["record"].verify()
    assert victim.heads.lost() == {}
    with pytest.raises(ParameterError, match="No ledger of bank-00 is known here to be an old copy"):
        victim.write_off()
    with pytest.raises(BudgetError, match="does not carry"):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    victim.use_policy(Policy(maximum_epsilon=20.0))  # its owner's decision
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    kept = read_statement(federation.parties["bank-01"].heads.kept()["bank-00"])
    assert kept.ledgers["record"].written_off == 1
    for party in federation.parties.values():
        party.use_policy(Policy(maximum_epsilon=20.0, allow_exact_sums=True))
    federation.fit(ECOD(bins=8), privacy=None)
    for step in federation.history[-1].steps:
        assert step.survivors == NAMES[1:], "which exact sums were made is lost as well"
    assert "lost with a newer copy" in str(victim.last_error)


def test_as_long_a_ledger_with_other_lines_is_found(restored: Path) -> None:
    federation = opened(restored)
    federation._recalls = False
    victim = federation.parties["bank-00"].ledgers["record"]
    (event,) = {entry.event for entry in victim.entries() if entry.event.query == "fit"}
    victim.reserve("other/fit", event)
    victim.record_output("other/fit", b"x")
    with pytest.raises(RefusedError, match="other lines than the 6 seen before"):
        federation.fit(ECOD(bins=8), privacy=dp(1.0))
    victim.reserve("another/fit", event)  # longer now: only its owner can see that it is another
    with pytest.raises(RefusedError, match="other lines than the first 6 that were signed for"):
        opened(restored).fit(ECOD(bins=8), privacy=dp(1.0))


def test_a_coordinator_can_neither_frame_a_party_nor_keep_heads_back(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(DATA, number_schema, Policy(), home=tmp_path)
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    old = federation.parties["bank-01"].heads.kept()["bank-00"]
    plain = type(federation._channel)

    def meddled(change: Callable[[Ledgers, str], Ledgers | None]) -> Federation:
        class Meddling(plain):  # type: ignore[misc, valid-type]
            def _exchange(self, requests: Any, timeout_s: float) -> dict[str, bytes]:
                altered = {}
                for name, data in requests.items():
                    if b"ledgers" in data and b"heads" in data:
                        message = msgspec.msgpack.decode(data, type=Continue)
                        changed = change(message.ledgers or Ledgers(), name)
                        data = encode(msgspec.structs.replace(message, ledgers=changed))
                    altered[name] = data
                return dict(super()._exchange(altered, timeout_s))

        handlers = {name: party.handle for name, party in federation.parties.items()}
        other = Federation(
            Meddling(handlers), participants=federation._participants, schema=number_schema, name=federation.name
        )
        other._recalls = False
        return other

    def outcome(change: Callable[[Ledgers, str], Ledgers | None]) -> str:
        with pytest.raises(BlindsightError) as caught:
            meddled(change).fit(ECOD(bins=8), privacy=dp(1.0))
        return str(caught.value)

    before = charges(federation)
    # an old statement, played back: refused as what it is, and nobody is said to have been rolled back
    told = outcome(lambda said, name: Ledgers(heads={**said.heads, "bank-00": old}))
    assert "is of another sum" in told
    assert "old copy" not in told
    told = outcome(lambda said, name: Ledgers(heads={**said.heads, "bank-00": said.heads["bank-02"]}))
    assert "is not by its key" in told
    assert "holds no heads of ledgers" in outcome(lambda said, name: None)
    after = charges(federation)
    assert all(after[name] == before[name] for name in NAMES if name != "bank-00"), "refused before it was charged"
    assert after["bank-00"] <= before["bank-00"] + 2  # who does not look at its own
    told = outcome(lambda said, name: Ledgers(heads={k: v for k, v in said.heads.items() if k != "bank-00"}))
    assert "A survivor's ledger has shown no head in this sum. Got: bank-00" in told


def test_behind_by_cases() -> None:
    def at(count: int, head: str = "a", written_off: int = 0) -> dict[Any, Position]:
        return {"record": Position(count=count, head=head * 64, written_off=written_off)}

    assert behind(at(3), at(3)) is None
    assert behind(at(3), at(4, "b")) is None
    assert behind(at(3), at(1, "b", written_off=1)) is None
    assert "2 lines, 3 seen" in (behind(at(3), at(2)) or "")
    assert "other lines" in (behind(at(3), at(3, "b")) or "")
    assert "0 losses written off, 1 seen" in (behind(at(3, written_off=1), at(9)) or "")


def test_a_write_off_is_charged_even_where_nothing_is_left() -> None:
    for unit in ("record", "person", "party"):
        ledger = Ledger(Store(None), Budget(epsilon=1.0, delta=1e-6, unit=unit))  # type: ignore[arg-type]
        assert 0.99 < ledger.write_off("why") <= 1.0
        assert ledger.spent() <= 1.0
        assert ledger.write_off("why") == 0.0
        assert (ledger.position().written_off, ledger.verify()) == (2, 2)
        assert [ledger.head_at(i) for i in (2, 3)] == [ledger.head(), None]
    with pytest.raises(ParameterError, match="Without a budget"):
        Ledger(Store(None)).write_off("why")


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_no_bytes_pass_for_a_statement(noise: bytes, place: int, value: int) -> None:
    heads = Heads(Store(None), "a", IDENTITY)
    good = heads.state("run/fit", b"request")
    assert read_statement(good).party == "a"
    altered = bytearray(good)
    altered[place % len(good)] = value
    for data in (noise, bytes(altered), good + noise):
        if data != good:
            with pytest.raises((FormatError, AuthenticationError)):
                read_statement(data)
    heads.remind({"b": noise})  # passed over


IDENTITY = Identity.generate()


def test_the_vector_of_the_document() -> None:
    """By the package, and by the code that was written from the document alone."""
    text = (Path(__file__).parents[2] / "docs" / "wire-formats.md").read_text(encoding="utf-8")
    part = text.partition("Test vector: `bank-a`")[2]
    statement, signature = (block.partition("```")[0].replace("\n", "") for block in part.split("```text\n")[1:3])
    expected = statement.encode() + b"\n"
    keys = [Ed25519PrivateKey.from_private_bytes(bytes(range(start, start + 32))) for start in (0, 32)]
    assert Heads(Store(None), "bank-a", Identity(keys[0])).state("run/fit", b"request") == expected
    assert keys[1].sign(witness_message(expected, "bank-b")).hex() == signature
    apart = hostile.state(
        keys[0],
        party="bank-a",
        release="run/fit",
        request=hashlib.sha256(b"request").hexdigest(),
        ledgers={unit: hostile.position() for unit in hostile.UNITS},
    )
    assert apart == expected
    assert keys[1].sign(hostile.countersigned(expected, "bank-b")).hex() == signature


def test_there_is_room_for_the_heads_of_the_largest_sum() -> None:
    def told(n: int) -> bytes:
        return encode(Continue("run/fit", b"", Ledgers(heads={f"party-{i}": bytes(4096) for i in range(n)})))

    assert isinstance(decode_request(told(MAX_PARTICIPANTS)), Continue)
    with pytest.raises(WireError, match="1024"):
        decode_request(told(MAX_PARTICIPANTS + 1))


def test_the_relay_passes_on_what_it_is_told_and_to_nobody_else() -> None:
    relay = HeadRelay(("a", "b", "c"))
    relay.take("a", Ledgers(recalled={"b": b"1", "x": b"2"}, heads={"a": b"A", "b": b"not its own"}))
    relay.take("c", Ledgers(recalled={"b": b"1", "a": b"3"}, signatures={"a": b"s" * 64}))
    relay.take("c", None)
    again = HeadRelay(("a", "b", "c"), relay.dump())
    assert again.recalled("b") == Ledgers(recalled={"a": b"1"})
    assert again.recalled("c") is None
    assert again.heads() == Ledgers(heads={"a": b"A"})
    assert again.signatures("a") == Ledgers(signatures={"c": b"s" * 64})


def test_the_same_requests_again_get_the_same_bytes(number_schema: Schema) -> None:
    federation = embedded(DATA, number_schema, Policy())
    plain, channel = federation._channel, faulty(federation)
    federation._recalls = False
    federation.fit(ECOD(bins=8), privacy=dp(1.0))
    victim = federation.parties["bank-00"]
    other = Federation(plain, participants=federation._participants, schema=number_schema, name=federation.name)
    other.fit(ECOD(bins=8), privacy=dp(1.0))  # ledgers have grown since: what is asked again is no old copy
    for i in range(5, 10):  # the run's last sum: that another run began does not end it
        answer = victim.handle(channel.requests[i]["bank-00"])
        assert answer == channel.answers[i]["bank-00"], i
        assert "refusal" not in str(type(decode_reply(answer)))


def test_ledger_heads_and_write_off_from_the_command_line(tmp_path: Path) -> None:
    files = {}
    for name, table in DATA.items():
        files[name] = tmp_path / f"{name}.csv"
        table.write_csv(files[name])
    home = tmp_path / "home"
    provision(home, data=files, evaluation={}, schema=NUMBER_SCHEMA, policy=Policy(), key_file=None)
    embedded(DATA, NUMBER_SCHEMA, Policy(), home=home).fit(ECOD(bins=8), privacy=dp(1.0))

    def run(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(app, ["ledger", *arguments, "--json"])
        return done.exit_code, msgspec.json.decode(done.stdout or done.stderr)

    code, told = run("heads", "--home", str(home))
    assert code == 0
    first = told["parties"][0]
    assert first["ledgers"]["record"]["count"] == 4
    assert first["countersigned"]["by"] == NAMES[1:]
    assert CliRunner().invoke(app, ["ledger", "heads", "--home", str(home / "bank-00")]).exit_code == 0
    own = str(home / "bank-00")
    code, told = run("write-off", "--home", own)
    assert (code, "--anyway" in told["error"]["fix"]) == (2, True)
    code, told = run("write-off", "--home", own, "--anyway")
    assert (code, sorted(told["written_off"])) == (0, ["person", "record"])
    assert run("write-off", "--home", str(home))[0] == 2
