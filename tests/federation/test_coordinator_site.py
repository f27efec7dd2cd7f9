"""The coordinator's kit, opened: who is let in as the list changes, waiting for a quorum, and what preflight finds."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from blindsight.channels import GrpcChannel, mutual_context, serve
from blindsight.errors import AuthenticationError, FormatError, ParameterError, UnavailableError
from blindsight.federation import (
    Federation,
    accept_list,
    join,
    open_coordinator,
    open_site,
    preflight,
    wait_for_parties,
)
from blindsight.federation.kits import LIST_FILE, ParticipantList, Workshop
from sample_tables import make_table

HERE = ("127.0.0.1", 0)


def joined(folder: Path, name: str) -> Path:
    kit = folder / "kits" / name
    make_table(30, 1).write_csv(kit / "records.csv")
    join(kit, kit)
    return kit


def polled(kit: Path, url: str) -> int:
    """The status that a party's question gets."""
    context = mutual_context(
        certificate=kit / "tls.crt",
        private_key=kit / "keys" / "tls.key",
        trusted=[kit / "authority.crt"],
        server=False,
        check_name=True,
    )
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=20) as client:
        answer = client.post("/v1/poll", headers={"prefer": "wait=0"})
    assert "date" in answer.headers  # by it a party's preflight compares clocks
    return answer.status_code


def test_the_list_is_followed_while_it_runs(folder: Path, workshop: Workshop) -> None:
    kit, gone = folder / "kits" / "coordinator", folder / "kits" / "bank-c"
    first = ParticipantList.read(kit)
    with open_coordinator(kit, listen=HERE) as site:
        assert polled(gone, site.channel.url) == 204
        workshop.revoke("bank-c")  # writes the next list into the kit
        site.follow()
        assert polled(gone, site.channel.url) == 403
        assert polled(folder / "kits" / "bank-a", site.channel.url) == 204
        first.write(kit / LIST_FILE)  # somebody puts the old list back
        with pytest.raises(AuthenticationError, match="older than one that was accepted"):
            site.follow()
        assert polled(gone, site.channel.url) == 403
    with pytest.raises(AuthenticationError, match="older than one that was accepted"):
        open_coordinator(kit, listen=HERE)


def test_waiting_for_a_quorum_names_the_absent(folder: Path) -> None:
    with open_coordinator(folder / "kits" / "coordinator", listen=HERE) as site:
        federation = Federation(
            site.channel, participants=site.listing.participants, schema=site.schema, journal=site.journal
        )
        party, stop = open_site(joined(folder, "bank-a")), threading.Event()
        thread = threading.Thread(
            target=serve, args=(party.handler, site.channel.url), kwargs={**party.options, "stop": stop}
        )
        thread.start()
        told: list[tuple[list[str], list[str]]] = []
        with pytest.raises(UnavailableError, match="no answer from bank-b, bank-c"):
            wait_for_parties(federation, quorum=3, wait_s=2.0, tell=lambda *who: told.append(who))
        assert told[-1] == (["bank-a"], ["bank-b", "bank-c"])
        stop.set()
        thread.join()
        for quorum in (2, 4):
            with pytest.raises(ParameterError, match=r"quorum cannot be used.*from 3 to 3"):
                wait_for_parties(federation, quorum=quorum, wait_s=0.1)


def test_a_party_that_serves_expects_the_coordinator_of_the_newest_list(folder: Path, workshop: Workshop) -> None:
    kit = joined(folder, "bank-a")
    site = open_site(kit)
    old = workshop.current.coordinator.certificate
    assert (site.options["coordinator"](), site.coordinator.certificate) == (old, old)
    new = workshop.rotate_coordinator().coordinator.certificate
    accept_list(folder / "kits", kit)  # by another process, as 'blindsight party accept' does
    assert new != old
    assert (site.options["coordinator"](), site.coordinator.certificate) == (new, new)


def test_parts_that_do_not_belong_together(folder: Path, workshop: Workshop) -> None:
    kit, other = folder / "kits" / "coordinator", folder / "kits" / "bank-a"
    workshop.rotate_coordinator()  # into a kit of its own; the list names its certificate
    with pytest.raises(FormatError, match="names another certificate for the coordinator"):
        open_coordinator(kit, listen=HERE)
    kit = folder / "kits" / "coordinator-2"
    (kit / "schema.toml").rename(kit / "elsewhere.toml")
    with pytest.raises(FormatError, match=r"no schema\.toml"):
        open_coordinator(kit, listen=HERE)
    (kit / "tls.key").write_bytes((other / "keys" / "tls.key").read_bytes())
    with pytest.raises(FormatError, match=r"tls\.key is not the key of tls\.crt"):
        open_coordinator(kit, listen=HERE)


def test_preflight_at_the_door_of_both_channels(folder: Path) -> None:
    kit = joined(folder, "bank-a")

    def looked(url: str) -> dict[str, tuple[str, str]]:
        lines = (kit / "party.toml").read_text().splitlines()
        lines = [f'coordinator = ["{url}"]' if line.startswith("coordinator") else line for line in lines]
        (kit / "party.toml").write_text("\n".join(lines) + "\n")
        return {one.what: (one.level, one.told) for one in preflight(kit)}

    coordinator = folder / "kits" / "coordinator"
    with open_coordinator(coordinator, listen=HERE) as site:
        found = looked(site.channel.url)
        assert (found["reachability"][0], found["clock"][0]) == ("ok", "ok")
        assert "the coordinator's" in found["clock"][1]
    files = {"certificate": "tls.crt", "private_key": "tls.key", "authority": "authority.crt"}
    with GrpcChannel(site.listing.certificates, **{key: coordinator / name for key, name in files.items()}) as channel:
        found = looked(channel.url)
        assert (found["reachability"][0], found["clock"][0]) == ("ok", "ok")


def test_the_journal_may_be_elsewhere(folder: Path, tmp_path: Path) -> None:
    kit, elsewhere = folder / "kits" / "coordinator", tmp_path / "journal.db"
    with open_coordinator(kit, listen=HERE, journal=f"sqlite:///{elsewhere}") as site:
        assert site.journal.headers() == []
    assert elsewhere.is_file()
    assert not (kit / "coordinator.db").exists()
    with pytest.raises(ParameterError, match="The store's URL cannot be used"):
        open_coordinator(kit, listen=HERE, journal="mysql://somewhere")
