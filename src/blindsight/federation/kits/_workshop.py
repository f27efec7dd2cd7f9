"""Where kits are made: authority, federation key, every list so far. Kept by whoever runs ``init``, in no kit."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from blindsight.data import Schema
from blindsight.errors import AuthenticationError, ParameterError, StoreError
from blindsight.keys import (
    Authority,
    Identity,
    Sealer,
    certificate_fingerprint,
    create_key_file,
    pem_of,
    write_atomic,
    write_tls_key,
)

from ._broker import BROKER_FOLDER, acl, broker_readme, brokers_of, mosquitto_conf
from ._dates import now_utc
from ._list import LIST_FILE, ListedCoordinator, ListedParty, ParticipantList, RevokedParty
from ._names import MAX_PARTIES, contact_problem, host_of, name_problem, names_problems
from ._plan import FederationPlan, PlannedParty, read_plan
from ._request import EnrolmentRequest
from ._texts import BLANK_SCHEMA, coordinator_readme, party_readme, party_toml

__all__ = ["Workshop"]


class Workshop:
    """The folder that ``init`` made: ``authority/``, ``coordinator/``, a kit for each party, perhaps ``broker/``.

    Parameters
    ----------
    folder : path-like
        As :meth:`create` wrote it.

    Raises
    ------
    StoreError, FormatError, AuthenticationError
        It is not such a folder, or a file in it was changed.

    Security
    --------
    ``authority/`` holds the authority's TLS key (mode 0600) and the federation's Ed25519 key (sealed under
    ``home.key`` beside it). Whoever has it decides who takes part. Keep it away from the coordinator.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        own = self.folder / "authority"
        if not (own / "authority.key").is_file():
            raise StoreError(
                "There is no federation's authority here",
                got=str(self.folder)[:300],
                rule="the --output folder of 'blindsight init', with authority/ in it",
                fix="blindsight init federation.toml --output kits",
            )
        self._authority = Authority.load(own / "authority.crt", own / "authority.key")
        self._identity = Identity.load(own / "federation.identity", Sealer.from_key_file(own / "home.key"))
        self.plan = read_plan(own / "federation.toml", look_for_schema=False)
        self.current = self._newest()

    @classmethod
    def create(
        cls,
        plan: FederationPlan,
        output: str | os.PathLike[str],
        *,
        requests: Sequence[EnrolmentRequest] = (),
        make_keys: bool = False,
    ) -> Workshop:
        """Make the authority, the first list and every kit; all of it or nothing.

        Parameters
        ----------
        plan : FederationPlan
        output : path-like
            Must not exist, or be empty.
        requests : sequence of EnrolmentRequest
            Of parties that made their keys themselves.
        make_keys : bool
            Whether keys are made here for parties without a request. Where there are no requests at all they are.

        Raises
        ------
        ParameterError, AuthenticationError, StoreError
        """
        output = Path(output)
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise StoreError(
                "The output folder is not empty",
                got=str(output)[:300],
                rule="kits are never written over others",
                fix="choose another --output; to change a federation: blindsight init add, rotate or revoke",
            )
        by_name = _by_name(requests, plan)
        missing = [party.name for party in plan.parties if party.name not in by_name]
        if requests and missing and not make_keys:
            raise ParameterError(
                "Some parties have sent no request",
                got=", ".join(missing)[:300],
                rule="with --request, every party makes its own keys",
                fix="wait for theirs, or give --make-keys to make the missing ones here",
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".blindsight-init-", dir=output.parent))
        try:
            _make_authority(scratch / "authority", plan)
            self = cls.__new__(cls)
            self.folder, self.plan = scratch, plan
            own = scratch / "authority"
            self._authority = Authority.load(own / "authority.crt", own / "authority.key")
            self._identity = Identity.load(own / "federation.identity", Sealer.from_key_file(own / "home.key"))
            self._make_first(by_name)
            if output.exists():
                output.rmdir()
            os.rename(scratch, output)
        except OSError as error:
            raise StoreError("The kits could not be written", got=error.strerror or "an error") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return cls(output)

    # -- changing it ------------------------------------------------------------------------------------------------

    def add(self, name: str, *, contact: str, request: EnrolmentRequest | None = None) -> ParticipantList:
        """Enrol another party: its kit, and the next list.

        Raises
        ------
        ParameterError
            The name or contact cannot be used, or is taken.
        """
        taken = [party.name for party in self.current.parties]
        problems = [name_problem(name, reserved=[self.plan.coordinator.lower()]), contact_problem(contact)]
        problems += names_problems([*taken, name])
        if len(taken) >= MAX_PARTIES:
            problems.append(f"a federation has at most {MAX_PARTIES} parties")
        _raise_first(problems, "The party cannot be added")
        if request is not None:
            self._check_request(request, name)
        kit, party = self._party_kit(PlannedParty(name=name, contact=contact), request, name)
        return self._issue([*self.current.parties, party], self.current.revoked, kit, name, party)

    def rotate(self, name: str, *, request: EnrolmentRequest | None = None, identity: bool = False) -> ParticipantList:
        """Give a party a new certificate, for a new TLS key; and a new identity, where one is asked for or sent.

        Parameters
        ----------
        name : str
        request : EnrolmentRequest, optional
            Keys that the party made itself. Without it a TLS key is made here.
        identity : bool
            Without a request: whether a new Ed25519 identity is made here as well.
        """
        old = self._listed(name)
        if request is not None:
            self._check_request(request, name)
        kit, party = self._party_kit(
            PlannedParty(name=name, contact=request.contact if request is not None else old.contact),
            request,
            f"{name}-{self.current.serial + 1}",
            keep_identity=None if identity else old.public_key,
        )
        reason: Literal["identity rotated", "certificate rotated"] = (
            "certificate rotated" if party.public_key == old.public_key else "identity rotated"
        )
        others = [one for one in self.current.parties if one.name != name]
        return self._issue(
            [*others, party],
            [*self.current.revoked, self._gone(old, reason)],
            kit,
            f"{name}-{self.current.serial + 1}",
            party,
        )

    def rotate_coordinator(self) -> ParticipantList:
        """Give the coordinator a new TLS key and certificate, in a folder of their own among the kits."""
        serial = self.current.serial + 1
        folder = self.folder / f"coordinator-{serial}"
        if folder.exists():
            raise StoreError(f"There is a folder '{folder.name}' among the kits already", fix="move it away")
        kit = Path(tempfile.mkdtemp(prefix=".kit-", dir=self.folder))
        coordinator = self._coordinator_kit(kit)
        return self._issue(self.current.parties, self.current.revoked, kit, folder.name, None, coordinator=coordinator)

    def rotate_broker(self) -> Path:
        """Give the broker a new TLS key and certificate, in a folder of their own among the kits; return it.

        Raises
        ------
        ParameterError
            The federation has no broker.
        """
        if not brokers_of(self.current.coordinator.addresses):
            raise ParameterError(
                "The federation has no broker",
                rule="one of the coordinator's addresses is mqtts://host:port",
                fix="name one in authority/federation.toml, then: blindsight init rotate coordinator",
            )
        number = next(i for i in range(2, 10_000) if not (self.folder / f"{BROKER_FOLDER}-{i}").exists())
        kit = Path(tempfile.mkdtemp(prefix=".kit-", dir=self.folder))
        try:
            self._broker_keys(kit)
            self._finish_broker(kit, self.current)
            os.rename(kit, self.folder / f"{BROKER_FOLDER}-{number}")
        except BaseException:
            shutil.rmtree(kit, ignore_errors=True)
            raise
        return self.folder / f"{BROKER_FOLDER}-{number}"

    def revoke(self, name: str) -> ParticipantList:
        """Take a party off the list: its keys and its certificate are never good again."""
        old = self._listed(name)
        others = [one for one in self.current.parties if one.name != name]
        return self._issue(others, [*self.current.revoked, self._gone(old, "revoked")], None, "", None)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _make_first(self, requests: dict[str, EnrolmentRequest]) -> None:
        plan = self.plan
        folder = self.folder / "coordinator"
        folder.mkdir(mode=0o700)
        coordinator = self._coordinator_kit(folder)
        kits = {party.name: self._party_kit(party, requests.get(party.name), party.name) for party in plan.parties}
        listing = ParticipantList.sign(
            self._identity,
            federation=plan.name,
            serial=1,
            date_utc=now_utc(),
            coordinator=coordinator,
            authority=certificate_fingerprint(self._authority.certificate),
            parties=[party for _, party in kits.values()],
        )
        self.current = listing
        if brokers_of(plan.addresses):
            (self.folder / BROKER_FOLDER).mkdir(mode=0o700)
            self._broker_keys(self.folder / BROKER_FOLDER)
        self._keep(listing)
        for name, (kit, party) in kits.items():
            self._finish_kit(kit, party, listing)
            os.rename(kit, self.folder / name)
        self._refresh_coordinator(listing)

    def _coordinator_kit(self, folder: Path) -> ListedCoordinator:
        """Make the coordinator's TLS key and certificate."""
        plan = self.plan
        key = write_tls_key(folder / "tls.key")
        dialled = {address for address in plan.addresses if not address.startswith("mqtts:")}
        hosts = sorted({host_of(address)[0] for address in dialled}) or [plan.coordinator]
        certificate = self._authority.issue_server(
            plan.coordinator,
            key.public_key(),
            days=plan.validity_days,
            hosts=hosts,
            dials=len(dialled) < len(plan.addresses),
        )
        write_atomic(folder / "tls.crt", pem_of([certificate]), mode=0o644)
        return ListedCoordinator(
            name=plan.coordinator,
            contact=plan.contact,
            certificate=certificate_fingerprint(certificate),
            addresses=list(plan.addresses),
        )

    def _party_kit(
        self,
        party: PlannedParty,
        request: EnrolmentRequest | None,
        folder: str,
        *,
        keep_identity: str | None = None,
    ) -> tuple[Path, ListedParty]:
        """Make what of a kit does not depend on the list, in a folder that is renamed when all is done."""
        if (self.folder / folder).exists():
            raise StoreError(
                f"There is a folder '{folder}' among the kits already",
                rule="kits are never written over others",
                fix="move it away, once its owner has it",
            )
        kit = Path(tempfile.mkdtemp(prefix=".kit-", dir=self.folder))
        if request is not None:
            tls_key, public_key = request.tls_key, request.public_key
        else:
            (kit / "keys").mkdir(mode=0o700)
            tls_key = write_tls_key(kit / "keys" / "tls.key").public_key()
            public_key = keep_identity or _new_identity(kit / "keys")
        certificate = self._authority.issue_client(party.name, tls_key, days=self.plan.validity_days)
        write_atomic(kit / "tls.crt", pem_of([certificate]), mode=0o644)
        return kit, ListedParty(
            name=party.name,
            contact=party.contact,
            public_key=public_key,
            certificate=certificate_fingerprint(certificate),
        )

    def _finish_kit(self, kit: Path, party: ListedParty, listing: ParticipantList) -> None:
        from blindsight.federation._policy import Policy

        listing.write(kit / LIST_FILE)
        write_atomic(kit / "authority.crt", pem_of([self._authority.certificate]), mode=0o644)
        schema = self.folder / "authority" / "schema.toml"
        text = schema.read_bytes() if schema.is_file() else BLANK_SCHEMA.encode()
        write_atomic(kit / "schema.toml", text, mode=0o644)
        write_atomic(kit / "policy.toml", Policy().to_toml().encode())
        write_atomic(kit / "party.toml", party_toml(party.name, listing).encode())
        inside = (kit / "keys").is_dir()
        write_atomic(kit / "README.txt", party_readme(party, listing, keys_inside=inside).encode(), mode=0o644)

    def _issue(
        self,
        parties: Sequence[ListedParty],
        revoked: Sequence[RevokedParty],
        kit: Path | None,
        folder: str,
        party: ListedParty | None,
        *,
        coordinator: ListedCoordinator | None = None,
    ) -> ParticipantList:
        """Sign the next list; nothing else names its serial, even where two people do this at once."""
        try:
            listing = ParticipantList.sign(
                self._identity,
                federation=self.current.federation,
                serial=self.current.serial + 1,
                date_utc=now_utc(),
                coordinator=coordinator or self.current.coordinator,
                authority=self.current.content.authority,
                parties=parties,
                revoked=revoked,
            )
            if kit is not None and party is not None:
                self._finish_kit(kit, party, listing)
            elif kit is not None:
                self._finish_coordinator(kit, listing)
            self._keep(listing)
            if kit is not None:
                os.rename(kit, self.folder / folder)
        except BaseException:
            if kit is not None:
                shutil.rmtree(kit, ignore_errors=True)
            raise
        self.current = listing
        self._refresh_coordinator(listing)
        return listing

    def _keep(self, listing: ParticipantList) -> None:
        lists = self.folder / "authority" / "lists"
        lists.mkdir(exist_ok=True, mode=0o700)
        write_atomic(lists / f"participants-{listing.serial}.json", listing.data, mode=0o644, replace=False)

    def _refresh_coordinator(self, listing: ParticipantList) -> None:
        listing.write(self.folder / LIST_FILE)
        folder = self.folder / "coordinator"
        if folder.is_dir():  # else it has been moved to its machine: the new list is beside the kits
            self._finish_coordinator(folder, listing)
        if brokers_of(listing.coordinator.addresses):  # after it was moved, this is what to send there
            (self.folder / BROKER_FOLDER).mkdir(mode=0o700, exist_ok=True)
            self._finish_broker(self.folder / BROKER_FOLDER, listing)

    def _broker_keys(self, folder: Path) -> None:
        """Make the broker's TLS key and certificate, for its host names."""
        key = write_tls_key(folder / "tls.key")
        hosts = sorted({host for host, _ in brokers_of(self.current.coordinator.addresses)})
        certificate = self._authority.issue_server(
            BROKER_FOLDER, key.public_key(), days=self.plan.validity_days, hosts=hosts
        )
        write_atomic(folder / "tls.crt", pem_of([certificate]), mode=0o644)

    def _finish_broker(self, folder: Path, listing: ParticipantList) -> None:
        write_atomic(folder / "acl", acl(listing).encode(), mode=0o644)
        write_atomic(folder / "mosquitto.conf", mosquitto_conf(listing).encode(), mode=0o644)
        write_atomic(folder / "authority.crt", pem_of([self._authority.certificate]), mode=0o644)
        write_atomic(folder / "README.txt", broker_readme(listing).encode(), mode=0o644)

    def _finish_coordinator(self, folder: Path, listing: ParticipantList) -> None:
        listing.write(folder / LIST_FILE)
        schema = self.folder / "authority" / "schema.toml"
        if schema.is_file():
            write_atomic(folder / "schema.toml", schema.read_bytes(), mode=0o644)
        write_atomic(folder / "authority.crt", pem_of([self._authority.certificate]), mode=0o644)
        write_atomic(folder / "federation.toml", self.plan.text.encode(), mode=0o644)
        write_atomic(folder / "README.txt", coordinator_readme(listing).encode(), mode=0o644)

    def _newest(self) -> ParticipantList:
        found = {
            int(match[1]): path
            for path in (self.folder / "authority" / "lists").glob("participants-*.json")
            if (match := re.fullmatch(r"participants-([0-9]{1,7})\.json", path.name))
        }
        if not found:
            raise StoreError("The authority's folder holds no participant list", fix="restore authority/lists")
        listing = ParticipantList.read(found[max(found)])
        if listing.content.federation_key != self._identity.public.raw.hex() or listing.serial != max(found):
            raise AuthenticationError(
                "The newest participant list is not by this federation's key",
                got=f"serial {listing.serial}, {listing.fingerprint}",
                rule=self._identity.public.fingerprint,
                fix="restore authority/ from one copy",
            )
        return listing

    def _listed(self, name: str) -> ListedParty:
        party = self.current.party(name)
        if party is None:
            raise ParameterError(
                f"No party '{name[:64]}' is on the list",
                rule="on it: " + ", ".join(one.name for one in self.current.parties)[:300],
            )
        return party

    def _gone(
        self, old: ListedParty, reason: Literal["revoked", "certificate rotated", "identity rotated"]
    ) -> RevokedParty:
        return RevokedParty(
            name=old.name,
            public_key=old.public_key,
            certificate=old.certificate,
            reason=reason,
            serial=self.current.serial + 1,
            date_utc=now_utc(),
        )

    def _check_request(self, request: EnrolmentRequest, name: str) -> None:
        if request.name != name or request.federation != self.plan.name:
            raise ParameterError(
                "The request is for somebody else",
                got=f"'{request.name}' in '{request.federation}'",
                rule=f"'{name}' in '{self.plan.name}'",
            )
        gone = {one.public_key for one in self.current.revoked if one.reason != "certificate rotated"}
        others = {one.public_key for one in self.current.parties if one.name != name}
        if request.public_key in gone | others:
            raise AuthenticationError(
                "The request's key is revoked, or another party's",
                got=request.fingerprint,
                fix="have the party make new keys: blindsight party enrol, in a new folder",
            )


def _make_authority(folder: Path, plan: FederationPlan) -> None:
    folder.mkdir(mode=0o700)
    Authority.create(folder / "authority.crt", folder / "authority.key", name=plan.name, days=plan.authority_days)
    create_key_file(folder / "home.key")
    Identity.generate().save(folder / "federation.identity", Sealer.from_key_file(folder / "home.key"))
    text = plan.text
    write_atomic(folder / "federation.toml", text.encode())
    if plan.schema is not None:
        Schema.read(plan.schema)  # nobody is to be sent one that does not read
        write_atomic(folder / "schema.toml", plan.schema.read_bytes())


def _new_identity(keys: Path) -> str:
    create_key_file(keys / "home.key")
    identity = Identity.generate()
    identity.save(keys / "identity", Sealer.from_key_file(keys / "home.key"))
    return identity.public.raw.hex()


def _by_name(requests: Sequence[EnrolmentRequest], plan: FederationPlan) -> dict[str, EnrolmentRequest]:
    names = {party.name for party in plan.parties}
    found: dict[str, EnrolmentRequest] = {}
    for request in requests:
        problem = None
        if request.name not in names:
            problem = f"'{request.name}' is not in the federation file"
        elif request.federation != plan.name:
            problem = f"'{request.name}' asks to join '{request.federation}'"
        elif request.name in found:
            problem = f"two requests for '{request.name}'"
        elif request.public_key in {one.public_key for one in found.values()}:
            problem = f"'{request.name}' has the key of another party"
        if problem is not None:
            raise ParameterError("A request does not belong here", got=problem, rule=f"parties of '{plan.name}'")
        found[request.name] = request
    return found


def _raise_first(problems: Sequence[str | None], what: str) -> None:
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ParameterError(what, got="; ".join(found))
