"""``preflight``: would a run work from here? One finding a line, each with its fix; nothing is changed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from blindsight._version import __version__
from blindsight.data import Schema, check
from blindsight.errors import BlindsightError
from blindsight.keys import (
    certificate_fingerprint,
    certificate_problems,
    read_certificate_file,
    read_tls_key,
    write_atomic,
)
from blindsight.privacy import Budget, Ledger, shown_epsilon
from blindsight.store import Store

from ._audit import AUDIT_FILE, AuditLog
from ._home import home_sealer, open_identity, open_store, read_party_file
from ._jobs import Jobs
from ._knock import Knock, knock
from ._policy import Policy
from .kits import LIST_FILE, ParticipantList, PinnedList, name_problem, read_plan
from .kits._names import address_problem, host_of

__all__ = ["PreflightFinding", "preflight"]

MIN_FREE_BYTES = 500_000_000
SKEW_WARNS_S, SKEW_FAILS_S = 30, 300
LAST_DAYS = 14
"""A certificate that ends within so many days is warned of."""


class PreflightFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One line.

    Parameters
    ----------
    what : str
    level : {"ok", "warn", "fail"}
    told : str
    fix : str or None
    """

    what: str
    level: Literal["ok", "warn", "fail"]
    told: str
    fix: str | None = None


Findings = list[PreflightFinding]


def preflight(
    folder: str | os.PathLike[str], *, key_file: str | os.PathLike[str] | None = None, timeout_s: float = 5.0
) -> Findings:
    """Look at a party's or a coordinator's folder, and knock at the coordinator's door; never raises.

    Parameters
    ----------
    folder : path-like
        With ``party.toml``: a party's. With ``federation.toml`` and ``tls.crt``: the coordinator's kit.
    key_file : path-like, optional
    timeout_s : float
        For each connection.

    Notes
    -----
    *Privacy*: findings about records and schema describe the records; they are for their owner.
    """
    folder = Path(folder)
    looks = _Looks(folder, key_file, timeout_s)
    if (folder / "party.toml").exists():
        plan = looks.party()
    elif (folder / "federation.toml").exists() and (folder / "tls.crt").exists():
        plan = looks.coordinator()
    else:
        return [_fail("folder", f"{folder} is neither a party's folder nor a coordinator's kit", "give it as --home")]
    findings: Findings = []
    for what, look in plan:
        try:
            findings += look()
        except BlindsightError as error:
            told = error.what + (f" ({error.got})" if error.got else "")
            findings.append(_fail(what, told, error.fix or error.rule or "see docs/federation.md"))
        except Exception as error:
            findings.append(_fail(what, f"{type(error).__name__}: {error}"[:300], "see docs/federation.md"))
    return findings


class _Looks:
    """One method a subject."""

    def __init__(self, folder: Path, key_file: str | os.PathLike[str] | None, timeout_s: float) -> None:
        self.folder, self.timeout_s = folder, timeout_s
        self.key_file = None if key_file is None else Path(key_file)
        self._knocks: list[Knock] | None = None

    def party(self) -> list[tuple[str, Callable[[], Findings]]]:
        return [
            ("versions", self._versions),
            ("disk", self._disk),
            ("permissions", self._permissions),
            ("names", self._party_names),
            ("list", self._party_list),
            ("TLS", lambda: self._tls(server=False)),
            ("policy", self._policy),
            ("schema", self._schema),
            ("ledger", self._ledger),
            ("audit log", self._audit),
            ("reachability", self._reachability),
            ("clock", self._clock),
        ]

    def coordinator(self) -> list[tuple[str, Callable[[], Findings]]]:
        return [
            ("versions", self._versions),
            ("disk", self._disk),
            ("permissions", self._permissions),
            ("names", self._plan_names),
            ("list", self._listing),
            ("TLS", lambda: self._tls(server=True)),
            ("reachability", self._resolvable),
            ("clock", self._clock),
        ]

    # -- both -------------------------------------------------------------------------------------------------------

    def _versions(self) -> Findings:
        from importlib import metadata

        told = ", ".join(f"{name} {metadata.version(name)}" for name in ("cryptography", "msgspec", "polars", "numpy"))
        return [_ok("versions", f"blindsight {__version__}, {told}")]

    def _disk(self) -> Findings:
        with tempfile.TemporaryDirectory(prefix=".preflight-", dir=self.folder) as scratch:
            write_atomic(Path(scratch) / "file", b"x")
            Store(Path(scratch) / "ledger.db").log("preflight").append(b"x")
        free = shutil.disk_usage(self.folder).free
        told = f"{self.folder} can be written, {free / 1e9:.1f} GB free"
        if free < MIN_FREE_BYTES:
            return [_fail("disk", told, "free at least 500 MB: a full disk stops the ledger")]
        return [_ok("disk", told)]

    def _permissions(self) -> Findings:
        if os.name != "posix":
            return [_warn("permissions", "not looked at on this system", "see that nobody else may read keys/")]
        private = [path for path in (self.folder / "keys").glob("*") if path.is_file()]
        private += [self.folder / name for name in ("tls.key", "ledger.db", AUDIT_FILE, "party.log", "policy.toml")]
        wide = [path.name for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
        if wide:
            return [_fail("permissions", f"open to others: {', '.join(wide)}", f"chmod 600 {' '.join(wide)}")]
        return [_ok("permissions", "keys, ledger and policy are their owner's alone")]

    def _listing(self) -> Findings:
        listing = ParticipantList.read(self.folder)
        found = [_ok("list", f"list {listing.serial} of '{listing.federation}', signed by {listing.fingerprint}")]
        if len(listing.parties) < 3:
            found.append(_fail("list", f"{len(listing.parties)} parties: no sum can run", "blindsight init add NAME"))
        return found

    def _tls(self, *, server: bool) -> Findings:
        listing = ParticipantList.read(self.folder)
        own = read_certificate_file(self.folder / "tls.crt")
        authority = read_certificate_file(self.folder / "authority.crt")
        key = read_tls_key(self.folder / "tls.key" if server else self.folder / "keys" / "tls.key")
        entry = listing.coordinator if server else listing.party(self._name())
        problems = certificate_problems(own, authority, server=server, name=None if server else self._name())
        if server:
            for address in listing.coordinator.addresses:
                if address.startswith("mqtts:"):
                    problems += certificate_problems(own, authority, server=False)
                    continue
                host = host_of(address)[0]
                problems += [
                    problem
                    for problem in certificate_problems(own, authority, server=True, name=host)
                    if problem not in problems
                ]
        if key.public_key() != own.public_key():
            problems.append("it is not for the private key here")
        if certificate_fingerprint(authority) != listing.content.authority:
            problems.append("the authority is not the one on the participant list")
        if entry is None or certificate_fingerprint(own) != entry.certificate:
            problems.append("the participant list names another certificate")
        if problems:
            fix = "ask the federation's operator for a new kit: blindsight init rotate"
            return [_fail("TLS", f"tls.crt: {'; '.join(problems)}", fix)]
        left = (own.not_valid_after_utc - datetime.now(UTC)).days
        told = f"certificate, key, authority and list belong together; valid for {left} days"
        if left < LAST_DAYS:
            return [_warn("TLS", told, "have it renewed: blindsight party enrol --new-tls-key, blindsight init rotate")]
        return [_ok("TLS", told)]

    def _clock(self) -> Findings:
        """Against the coordinator's clock where it answers; else against what certificates say is possible."""
        own, authority = (read_certificate_file(self.folder / name) for name in ("tls.crt", "authority.crt"))
        now = datetime.now(UTC)
        if not authority.not_valid_before_utc <= now <= authority.not_valid_after_utc or now < own.not_valid_before_utc:
            told = f"{now:%Y-%m-%d %H:%M} UTC is outside what the certificates allow"
            return [_fail("clock", told, "set the clock: timedatectl set-ntp true")]
        skews = [one.skew_s for one in self._all_knocks() if one.skew_s is not None]
        if not skews:
            return [_ok("clock", f"{now:%Y-%m-%d %H:%M} UTC, within the certificates' time; nothing to compare with")]
        skew = max(skews, key=abs)
        told = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
        if abs(skew) > SKEW_FAILS_S:
            return [_fail("clock", told, "set the clock here or there: timedatectl set-ntp true")]
        if abs(skew) > SKEW_WARNS_S:
            return [_warn("clock", told, "set the clock here or there: timedatectl set-ntp true")]
        return [_ok("clock", told)]

    # -- a party ----------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return read_party_file(self.folder).name

    def _party_names(self) -> Findings:
        settings = read_party_file(self.folder)
        if (problem := name_problem(settings.name)) is not None:
            return [_fail("names", problem, "correct name in party.toml")]
        wrong = [text for text in map(address_problem, settings.coordinator) if text is not None]
        if wrong:
            return [_fail("names", "; ".join(wrong), "correct coordinator in party.toml")]
        listing = ParticipantList.read(self.folder)
        if listing.party(settings.name) is None:
            told = f"'{settings.name}' is not on the participant list"
            return [_fail("names", told, "on it: " + ", ".join(party.name for party in listing.parties))]
        return [_ok("names", f"{settings.name} in '{listing.federation}'")]

    def _party_list(self) -> Findings:
        listing = ParticipantList.read(self.folder)
        entry = listing.party(self._name())
        if not (self.folder / "keys" / "identity").exists():
            return [_fail("list", "there is no identity in keys/", "blindsight party enrol, or use the kit itself")]
        sealer = home_sealer(self.folder / "keys", self.key_file)
        identity = open_identity(self.folder, sealer)
        if entry is None or entry.public_key != identity.public.raw.hex():
            told = f"it does not hold this party's key {identity.public.fingerprint}"
            return [_fail("list", told, "ring the federation's operator")]
        pinned = None
        if (self.folder / "ledger.db").exists():
            store = self._store()
            try:
                pinned = PinnedList(store).current()
            finally:
                store.close()
        if pinned is None:
            told = f"list {listing.serial} by {listing.fingerprint} is not accepted yet"
            return [_warn("list", told, "compare the fingerprint by telephone, then: blindsight party join . --home .")]
        if pinned.data != listing.data:
            told = f"{LIST_FILE} is list {listing.serial}; accepted is list {pinned.serial}"
            return [_fail("list", told, f"blindsight party accept with the newest list by {pinned.fingerprint}")]
        return self._listing()

    def _store(self) -> Store:
        return open_store(self.folder, home_sealer(self.folder / "keys", self.key_file))

    def _policy(self) -> Findings:
        policy = Policy.read(self.folder / "policy.toml")
        told = (
            f"readable: epsilon {policy.maximum_epsilon:g} at delta {policy.delta:g}, {len(policy.detectors)} detectors"
        )
        found = [_ok("policy", told)]
        if policy.allow_exact_sums:
            found.append(_warn("policy", "exact sums are allowed: releases about persons", "allow_exact_sums = false"))
        listing = ParticipantList.read(self.folder)
        own = {listing.coordinator.name, f"sha256:{listing.coordinator.certificate}"}
        if policy.askers and not own & set(policy.askers):
            told = f"no asker is the coordinator on the list, '{listing.coordinator.name}': it will be refused"
            found.append(_warn("policy", told, f'askers = ["{listing.coordinator.name}"]'))
        return found

    def _schema(self) -> Findings:
        schema = Schema.read(self.folder / "schema.toml")
        settings = read_party_file(self.folder)
        policy = Policy.read(self.folder / "policy.toml")
        found: Findings = []
        if schema.ranges != "declared":
            told = "its ranges were learned from records: differential privacy refuses them"
            found.append(_warn("schema", told, 'check that they are public, then: ranges = "declared"'))
        policy.check_columns(schema.feature_names)
        for name, named in (("data", settings.data), ("evaluation", settings.evaluation)):
            if named is None:
                continue
            path = self.folder / named
            if not path.exists():
                found.append(
                    _fail("schema", f"{name} = {named!r}: there is no such file", f"correct {name} in party.toml")
                )
                continue
            findings = check(schema, path)
            errors = [finding for finding in findings if finding.level == "error"]
            if errors:
                more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
                fix = f"blindsight schema check {self.folder / 'schema.toml'} {path}"
                found.append(_fail("schema", f"{path.name}: {errors[0].message}{more}", fix))
            else:
                notes = f", {len(findings)} remarks" if findings else ""
                found.append(_ok("schema", f"{path.name} fits {schema.digest()[:12]}, the same at every party{notes}"))
        return found

    def _ledger(self) -> Findings:
        if not (self.folder / "ledger.db").exists():
            return [_ok("ledger", "none yet: nothing was spent")]
        policy = Policy.read(self.folder / "policy.toml")
        store = self._store()
        try:
            told = []
            for unit in policy.units:
                budget = Budget(epsilon=policy.maximum_epsilon, delta=policy.delta, unit=unit)
                ledger = Ledger(store, budget, name=f"ledger.{unit}")
                ledger.verify()
                told.append(f"per {unit} {shown_epsilon(ledger.spent())} of {budget.epsilon:g}")
            waiting = sum(job.state == "waits" for job in Jobs(store, self._name(), "").all())
        finally:
            store.close()
        found = [_ok("ledger", f"intact; spent {', '.join(told)}")]
        if waiting:
            found.append(_warn("jobs", f"{waiting} wait for approval", f"blindsight jobs list --home {self.folder}"))
        return found

    def _audit(self) -> Findings:
        if not (self.folder / "ledger.db").exists():
            return [_ok("audit log", "none yet")]
        store = self._store()
        try:
            lines = AuditLog(self.folder / AUDIT_FILE, store).verify()
        finally:
            store.close()
        return [_ok("audit log", f"intact, {lines} lines")]

    def _reachability(self) -> Findings:
        return self._knocked(*self._all_knocks())

    def _knocked(self, *knocks: Knock) -> Findings:
        found = []
        for one in knocks:
            level = _ok if one.level == "ok" else _fail
            found.append(level("reachability", f"{one.address}: {one.told}", one.fix))
        for address in self._dialled():
            if address.startswith("flower:"):
                found.append(_ok("reachability", f"{address}: Flower's SuperNode dials there, nothing of ours does"))
        return found

    def _dialled(self) -> Sequence[str]:
        """The coordinator's addresses, for a party."""
        if not (self.folder / "party.toml").exists():
            return ()
        return read_party_file(self.folder).coordinator or ParticipantList.read(self.folder).coordinator.addresses

    def _knock(self, address: str, private_key: Path) -> Knock:
        return knock(
            address,
            certificate=self.folder / "tls.crt",
            private_key=private_key,
            authority=self.folder / "authority.crt",
            expected=ParticipantList.read(self.folder).coordinator.certificate,
            timeout_s=self.timeout_s,
        )

    def _all_knocks(self) -> list[Knock]:
        if self._knocks is None:
            self._knocks = [
                self._knock(address, self.folder / "keys" / "tls.key")
                for address in self._dialled()
                if not address.startswith("flower:")
            ]
        return self._knocks

    # -- the coordinator --------------------------------------------------------------------------------------------

    def _plan_names(self) -> Findings:
        plan = read_plan(self.folder / "federation.toml", look_for_schema=False)
        listing = ParticipantList.read(self.folder)
        if plan.name != listing.federation:
            return [_fail("names", f"federation.toml is of '{plan.name}', the list of '{listing.federation}'",
                          "put the two of one kit together")]  # fmt: skip
        return [_ok("names", f"{listing.coordinator.name} of '{listing.federation}', {len(listing.parties)} parties: "
                    + ", ".join(party.name for party in listing.parties))]  # fmt: skip

    def _resolvable(self) -> Findings:
        import socket

        found = []
        for address in ParticipantList.read(self.folder).coordinator.addresses:
            host, port = host_of(address)
            try:
                started = time.monotonic()
                socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                fix = "have the name entered in DNS: parties dial it"
                found.append(_fail("reachability", f"{host} has no address: {error.strerror or error}", fix))
            else:
                found.append(_ok("reachability", f"{host} resolves ({1000 * (time.monotonic() - started):.0f} ms)"))
                if address.startswith("mqtts:"):
                    found += self._knocked(self._knock(address, self.folder / "tls.key"))
        return found


def _ok(what: str, told: str, fix: str | None = None) -> PreflightFinding:
    return PreflightFinding(what=what, level="ok", told=told, fix=fix)


def _warn(what: str, told: str, fix: str) -> PreflightFinding:
    return PreflightFinding(what=what, level="warn", told=told, fix=fix)


def _fail(what: str, told: str, fix: str | None) -> PreflightFinding:
    return PreflightFinding(what=what, level="fail", told=told, fix=fix)
