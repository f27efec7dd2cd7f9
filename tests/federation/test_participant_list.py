"""The signed participant list: what a party accepts, and what it refuses for good."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from blindsight.channels import MemoryChannel
from blindsight.detectors import ECOD
from blindsight.errors import AuthenticationError, FormatError, StoreError, SurvivorsError
from blindsight.federation import Federation, Party, Policy, _enrol, _home, accept_list, join, open_party
from blindsight.federation._wire import Begin, Refusal, Reply, decode_reply, encode
from blindsight.federation.kits import ListedParty, ParticipantList, PinnedList, RevokedParty, Workshop
from blindsight.federation.kits._list import ListedCoordinator
from blindsight.keys import Identity
from blindsight.store import Store
from sample_tables import NUMBER_SCHEMA, make_table

from ._drive import embedded, faulty, tables

SIGNER = Identity.generate()
OWN = [Identity.generate() for _ in range(5)]
DATE = "2026-05-04T09:00:00Z"


def entry(i: int, **changes: str) -> ListedParty:
    values = {
        "name": f"bank-{i:02d}",
        "contact": "x",
        "public_key": OWN[i].public.raw.hex(),
        "certificate": f"{i:064x}",
    }
    return ListedParty(**{**values, **changes})


def listed(
    serial: int,
    parties: Sequence[int | ListedParty] = (0, 1, 2),
    *,
    signer: Identity = SIGNER,
    revoked: Sequence[RevokedParty] = (),
    date: str = DATE,
    **changes: object,
) -> ParticipantList:
    coordinator = ListedCoordinator(name="coordinator", contact="x", certificate="f" * 64, addresses=["https://h:1"])
    return ParticipantList.sign(
        signer,
        federation=str(changes.get("federation", "federation")),
        serial=serial,
        date_utc=date,
        coordinator=coordinator,
        authority="a" * 64,
        parties=[entry(p) if isinstance(p, int) else p for p in parties],
        revoked=revoked,
    )


SAMPLE = listed(1)


def gone(i: int, serial: int, reason: str = "revoked") -> RevokedParty:
    return RevokedParty(
        name=f"bank-{i:02d}",
        public_key=OWN[i].public.raw.hex(),
        certificate=f"{i:064x}",
        reason=reason,  # type: ignore[arg-type]
        serial=serial,
        date_utc=DATE,
    )


def test_every_changed_byte_is_noticed() -> None:
    data = bytearray(SAMPLE.data)
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises((FormatError, AuthenticationError)):
            ParticipantList.from_bytes(bytes(changed))
    assert ParticipantList.from_bytes(SAMPLE.data) == SAMPLE


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"serial":1', '"serial":2'), "does not hold"),
        (lambda text: text.replace("bank-02", "bank-09"), "does not hold"),
        (lambda text: text.replace('"version":1', '"version":2'), "malformed"),
        (lambda text: text.replace('"version":1', '"version":1,"extra":1'), "malformed"),
        (lambda text: text.replace(":", ": "), "canonical|malformed"),
        (lambda text: text.strip(), "canonical"),
        (lambda text: "", "malformed"),
        (lambda text: "[" * 500_000, "malformed"),
        (lambda text: text + " " * (1 << 20), "too long"),
    ],
)
def test_lists_that_were_altered(change, match: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(change(SAMPLE.data.decode()))
    with pytest.raises((FormatError, AuthenticationError), match=match):
        ParticipantList.read(tmp_path / "list")


@pytest.mark.parametrize(
    ("parties", "revoked", "match"),
    [
        ([0, 0, 1], (), "one name"),
        ([0, 1, entry(2, name="BANK-00")], (), "one name"),
        ([0, 1, entry(2, name="a/b")], (), "is no name"),
        ([0, 1, entry(2, public_key=OWN[0].public.raw.hex())], (), "one key"),
        ([0, 1, entry(2, public_key=SIGNER.public.raw.hex())], (), "one key"),
        ([0, 1, entry(2, certificate=f"{0:064x}")], (), "one certificate"),
        ([0, 1, entry(2, certificate="f" * 64)], (), "one certificate"),
        ([0, 1, entry(2, contact="a\nb")], (), "contact"),
        ([0, 1, 2], (gone(2, 1),), "revoked is listed as good"),
        ([0, 1, 2], (gone(3, 2),), "by a later list"),
    ],
)
def test_lists_that_no_honest_signer_signs(parties, revoked, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        listed(1, parties, revoked=revoked)


def test_what_follows_what() -> None:
    pinned = PinnedList(Store(None))
    assert pinned.current() is None
    with pytest.raises(AuthenticationError, match="not the one that was given"):
        pinned.accept(listed(3), fingerprint="1234")
    assert pinned.accept(listed(3), fingerprint=SIGNER.public.fingerprint.replace("-", " ").upper())
    assert not pinned.accept(listed(3)), "the same again changes nothing"
    with pytest.raises(AuthenticationError, match=r"older than one that was accepted.*serial 2.*serial 3"):
        pinned.accept(listed(2))
    with pytest.raises(AuthenticationError, match="Two different participant lists have one serial"):
        pinned.accept(listed(3, date="2027-01-01T00:00:00Z"))
    with pytest.raises(AuthenticationError, match=r"Another federation's key is pinned.*another folder"):
        pinned.accept(listed(9, signer=Identity.generate()))
    with pytest.raises(AuthenticationError, match="Another federation's key"):
        pinned.accept(listed(9, federation="other"))
    assert pinned.accept(listed(7, [0, 1, 3], revoked=[gone(2, 7)])), "serials may be skipped"
    for back in (listed(8, [0, 1, 2, 3]), listed(8, [0, 1, 3])):
        with pytest.raises(AuthenticationError, match="forgets a revocation"):
            pinned.accept(back)
    assert pinned.current() == listed(7, [0, 1, 3], revoked=[gone(2, 7)])


# -- at a party


def party(i: int, store: Store | None = None, **options: object) -> Party:
    return Party(
        name=f"bank-{i:02d}",
        data=make_table(20, i),
        schema=NUMBER_SCHEMA,
        identity=OWN[i],
        policy=Policy(allow_exact_sums=True),
        store=store or Store(None),
    )


def begin(listing: ParticipantList, run: str = "1") -> Begin:
    """The first step of a fit over a list's parties."""
    federation = embedded(tables(3, rows=6), NUMBER_SCHEMA)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(bins=8), privacy=None)
    step = msgspec.msgpack.decode(channel.requests[0]["bank-00"], type=Begin).step
    threshold = 2 * len(listing.parties) // 3 + 1
    return Begin(msgspec.structs.replace(step, participants=listing.participants, run=run, threshold=threshold))


def test_a_party_follows_its_federations_key_alone() -> None:
    one = party(0)
    with pytest.raises(AuthenticationError, match="does not hold bank-00 with its own key"):
        one.follow(listed(1, [1, 2, 3]))
    assert one.listing is None
    assert one.follow(listed(1), fingerprint=SIGNER.public.fingerprint)
    with pytest.raises(AuthenticationError, match="Another federation's key"):
        one.follow(listed(2, signer=Identity.generate()))
    assert isinstance(decode_reply(one.handle(encode(begin(listed(1))))), Reply)
    fresh = party(0)
    fresh.pin([("bank-00", OWN[0].public.raw), ("z", OWN[4].public.raw)])
    with pytest.raises(AuthenticationError, match="Another participant list is pinned"):
        fresh.follow(listed(1))
    assert fresh.listing is None


def test_new_sums_are_over_the_new_list_and_begun_ones_go_on_where_it_only_adds() -> None:
    store = Store(None)
    one = party(0, store)
    one.follow(listed(1))
    old = begin(listed(1), "old")
    first = one.handle(encode(old))
    assert isinstance(decode_reply(first), Reply)
    # another process of the same party accepts the list: the running one sees it
    other = party(0, store)
    assert other.follow(listed(2, [0, 1, 2, 3]))
    assert one.handle(encode(old)) == first, "begun, and everybody in it is who they were"
    late = decode_reply(one.handle(encode(begin(listed(1), "late"))))
    assert isinstance(late, Refusal)
    assert "not the ones pinned" in late.what
    assert isinstance(decode_reply(one.handle(encode(begin(listed(2, [0, 1, 2, 3]), "new")))), Reply)
    other.follow(listed(3, [0, 1, 3], revoked=[gone(2, 3)]))
    refused = decode_reply(one.handle(encode(old)))
    assert isinstance(refused, Refusal)
    assert "not the ones pinned" in refused.what, "bank-02 was revoked: what it began with us ends"


def test_exact_sums_stay_bound_to_the_first_survivors_whatever_the_list_says() -> None:
    parties = [party(i) for i in range(4)]

    def federation(listing: ParticipantList) -> Federation:
        names = [one.name for one in listing.parties]
        there = [one for one in parties if one.name in names]
        for one in there:
            one.follow(listing)
        channel = MemoryChannel({one.name: one.handle for one in there})
        return Federation(channel, participants=listing.participants, schema=NUMBER_SCHEMA)

    federation(listed(1)).fit(ECOD(bins=8), privacy=None)
    with pytest.raises(SurvivorsError, match=r"This exact total is over other parties than an earlier one"):
        federation(listed(2, [0, 1, 2, 3])).fit(ECOD(bins=8), privacy=None)


def joined(folder: Path) -> Path:
    """A party's folder that follows the first list."""
    kit = folder / "kits" / "bank-a"
    make_table(20, 1).write_csv(kit / "records.csv")
    join(kit, kit)
    return kit


def test_a_list_at_a_folder(folder: Path, workshop: Workshop) -> None:
    kit = joined(folder)
    running = open_party(kit)
    newer = workshop.add("bank-d", contact="x")
    new, old = accept_list(folder / "kits" / "participants.signed.json", kit)
    assert (new.serial, old.serial if old else None) == (2, 1)
    assert running.listing == newer, "a running process needs no restart"
    older = folder / "kits" / "authority" / "lists" / "participants-1.json"
    with pytest.raises(AuthenticationError, match="older"):
        accept_list(older, kit)
    (kit / "participants.signed.json").write_bytes(older.read_bytes())
    with pytest.raises(AuthenticationError, match="older"):
        open_party(kit)
    with pytest.raises(StoreError, match="no party's folder"):
        accept_list(older, folder)
    revoked = workshop.revoke("bank-a")
    with pytest.raises(AuthenticationError, match=f"revoked by list {revoked.serial}"):
        accept_list(folder / "kits", kit)


def test_a_list_is_accepted_while_the_folder_is_opened(
    folder: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = joined(folder)
    newer, read = workshop.add("bank-d", contact="x"), ParticipantList.read
    lists = [read(kit)]

    def read_and_accept(path: Path) -> ParticipantList:
        """The first time another process comes in between."""
        if not lists:
            return read(path)
        older = lists.pop()
        accept_list(folder / "kits" / "participants.signed.json", kit)
        return older

    monkeypatch.setattr(_home.ParticipantList, "read", read_and_accept)
    assert open_party(kit).listing == newer
    assert not lists


def test_the_list_that_was_taken_is_the_one_that_is_told(
    folder: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kit, signed = joined(folder), folder / "kits" / "participants.signed.json"
    read = ParticipantList.read
    lists = [read(kit)]
    workshop.add("bank-d", contact="x")

    def read_between(path: Path) -> ParticipantList:
        """Another process has accepted the second list, and written the third, which it has yet to pin."""
        if not lists:
            return read(path)
        older = lists.pop()
        accept_list(signed, kit)
        workshop.add("bank-e", contact="x")
        (kit / signed.name).write_bytes(signed.read_bytes())
        return older

    monkeypatch.setattr(_home.ParticipantList, "read", read_between)
    caplog.clear()
    assert open_party(kit).listing == read(kit)
    assert f"bank-a follows participant list 3 by {read(kit).fingerprint}" in caplog.text


def test_a_list_that_cannot_be_written_is_not_accepted(
    folder: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = joined(folder)
    workshop.add("bank-d", contact="x")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_enrol, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            accept_list(folder / "kits" / "participants.signed.json", kit)
    assert open_party(kit).listing == ParticipantList.read(kit)
    assert accept_list(folder / "kits" / "participants.signed.json", kit)[0].serial == 2


def test_the_file_is_plain_json_that_anybody_can_read() -> None:
    value = json.loads(SAMPLE.data)
    assert set(value) == {"signature", "signed"}
    assert value["signed"]["parties"][0]["name"] == "bank-00"
