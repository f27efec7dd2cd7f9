"""The coordinator's kit as a running process needs it: a channel that parties dial, the list, journal and schema."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blindsight.channels import DialledChannel, FlowerChannel, GrpcChannel, HttpsChannel, MqttChannel
from blindsight.data import Schema
from blindsight.errors import BlindsightError, FormatError, ParameterError, SurvivorsError, UnavailableError
from blindsight.keys import Sealer, certificate_fingerprint, read_certificate_file, read_tls_key
from blindsight.store import Store, open_store

from ._alone import alone_in
from ._federation import Federation
from ._journal import Journal
from .kits import LIST_FILE, ParticipantList, PinnedList
from .kits._names import host_of

__all__ = ["CoordinatorSite", "open_coordinator", "wait_for_parties"]

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0
BREATH_SECONDS = 0.1

_CHANNELS: dict[str, type[HttpsChannel | GrpcChannel | MqttChannel]] = {
    "https": HttpsChannel,
    "grpcs": GrpcChannel,
    "mqtts": MqttChannel,
}


class CoordinatorSite:
    """What :func:`open_coordinator` opened; closes all of it.

    Attributes
    ----------
    listing : ParticipantList
        As it was when this was opened: runs are over its parties.
    schema : Schema
    channel : DialledChannel
    journal : Journal
        In ``coordinator.db`` of the kit.

    Security
    --------
    ``participants.signed.json`` is looked at every few seconds. A newer list by the pinned key exchanges the
    certificates of the channel while it runs: who was revoked is let in no longer, within that time.
    """

    def __init__(
        self,
        folder: Path,
        listing: ParticipantList,
        schema: Schema,
        channel: DialledChannel,
        held: contextlib.ExitStack,
        store: Store,
    ) -> None:
        self.listing, self.schema, self.channel = listing, schema, channel
        self.journal = Journal(store)
        self._store, self._held, self._file = store, held, folder / LIST_FILE
        self._seen = _stamp(self._file)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="blindsight-list", daemon=True)
        self._watcher.start()

    def follow(self) -> None:
        """Take the list over if its file has changed.

        Raises
        ------
        StoreError, FormatError, AuthenticationError
            It cannot be used, or is no successor of the present one, which goes on to hold.
        """
        stamp = _stamp(self._file)
        if stamp == self._seen:
            return
        self._seen = stamp
        new = ParticipantList.read(self._file)
        if not PinnedList(self._store).accept(new):
            return
        known = set(self.channel.parties)
        self.channel.replace_parties({name: print_ for name, print_ in new.certificates.items() if name in known})
        gone, came = sorted(known - set(new.certificates)), sorted(set(new.certificates) - known)
        log.warning(
            "participant list %d holds now%s%s",
            new.serial,
            f"; no longer let in: {', '.join(gone)}" if gone else "",
            f"; {', '.join(came)} take part from the next start on" if came else "",
        )

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            try:
                self.follow()
            except BlindsightError as error:
                log.warning("the participant list was changed and cannot be used; the one before holds: %s", error)

    def close(self) -> None:
        """End channel, watcher and store."""
        self._over.set()
        self._watcher.join()
        self.channel.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_coordinator(
    folder: str | os.PathLike[str],
    *,
    url: str | None = None,
    listen: tuple[str, int] | None = None,
    socket: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    journal: str | None = None,
) -> CoordinatorSite:
    """Open the coordinator's kit, and listen for its parties, or dial the broker at which they are met.

    Parameters
    ----------
    folder : path-like
        The kit that ``init`` made.
    url : str, optional
        Which of the list's addresses to serve; the first otherwise. Its scheme says which channel; ``mqtts`` is a
        broker's, which is dialled.
    listen : (host, port), optional
        Where to listen, if that is not the address itself: behind a firewall that forwards. Otherwise the address's
        port; on its host if that is an IP address of this machine's loopback, on all interfaces if not.
    socket : path-like, optional
        For an address ``flower://...``: where the app inside Flower connects; ``flower.sock`` in the kit otherwise.
    key_file : path-like, optional
        Seals journal and list at rest.
    journal : str, optional
        Path or URL of the store, as :func:`blindsight.store.open_store` takes it; ``coordinator.db`` in the kit
        otherwise. One coordinator runs on it at a time.

    Raises
    ------
    StoreError, FormatError, SchemaError, AuthenticationError
        A file is missing or malformed; certificate, key, authority and list do not belong together; the list is no
        successor of the one that was seen before; another process serves the kit.
    ParameterError
        ``url`` is none of the list's addresses; ``listen`` or ``socket`` is not for its kind.
    SurvivorsError
        The list holds fewer than three parties.
    UnavailableError, MissingExtraError
        The address cannot be listened on, or the broker is not there; the extra ``net`` is not installed.
    """
    folder = Path(folder)
    if not (folder / LIST_FILE).is_file():
        raise FormatError(
            "This is no coordinator's kit",
            got=str(folder)[:200],
            rule=f"{LIST_FILE} in it",
            fix="blindsight init FEDERATION.toml --output kits; then kits/coordinator",
        )
    listing = ParticipantList.read(folder)
    _check_kit(folder, listing)
    if len(listing.parties) < 3:
        raise SurvivorsError("The participant list holds too few parties", got=str(len(listing.parties)), rule="three")
    addresses = listing.coordinator.addresses
    if url is not None and url not in addresses:
        raise ParameterError("The list names no such address", got=url[:200], rule=", ".join(addresses))
    address = url or addresses[0]
    if address.startswith("mqtts:") and listen is not None:
        raise ParameterError(
            "A coordinator at a broker listens nowhere", got=f"{listen[0]}:{listen[1]}"[:200], fix="leave --listen out"
        )
    if not (folder / "schema.toml").is_file():
        raise FormatError(
            "The coordinator's kit has no schema.toml",
            rule="the schema that all parties have, byte for byte in what it means",
            fix="copy it from a party, or name it in federation.toml before 'blindsight init'",
        )
    schema = Schema.read(folder / "schema.toml")
    sealer = Sealer.from_key_file(key_file) if key_file is not None else None
    with contextlib.ExitStack() as opening:
        opening.enter_context(alone_in(folder))
        store = open_store(folder / "coordinator.db" if journal is None else journal, sealer)
        opening.callback(store.close)
        PinnedList(store).accept(listing)
        channel = _open_channel(folder, listing, address, listen, socket)
        return CoordinatorSite(folder, listing, schema, channel, opening.pop_all(), store)


def _open_channel(
    folder: Path,
    listing: ParticipantList,
    address: str,
    listen: tuple[str, int] | None,
    socket: str | os.PathLike[str] | None,
) -> DialledChannel:
    files: dict[str, Any] = {
        "certificate": folder / "tls.crt",
        "private_key": folder / "tls.key",
        "authority": folder / "authority.crt",
    }
    scheme = address.partition(":")[0]
    if (listen if scheme == "flower" else socket) is not None:
        raise ParameterError(
            "Where to listen is said in a way that is not for this address",
            got=address,
            rule="a socket (--socket) for flower://, host and port (--listen) for the others",
        )
    if scheme == "flower":
        return FlowerChannel(listing.certificates, **files, url=address, socket=socket)
    host, port = host_of(address) if scheme == "mqtts" else listen or _interface(address)
    return _CHANNELS[scheme](listing.certificates, **files, host=host, port=port)


def wait_for_parties(
    federation: Federation,
    *,
    quorum: int,
    wait_s: float,
    tell: Callable[[list[str], list[str]], None] | None = None,
) -> list[str]:
    """Wait until enough parties answer under their own identity; return their names.

    Parameters
    ----------
    federation : Federation
    quorum : int
        At least what opens a sum.
    wait_s : float
    tell : callable (present, absent), optional
        Told at first, and whenever somebody comes or goes.

    Raises
    ------
    ParameterError
        ``quorum`` is less than what opens a sum, or more than there are parties.
    UnavailableError
        Too few within ``wait_s``; it names the absent ones.
    AuthenticationError, SchemaError
        As :meth:`Federation.greet`.
    """
    names = [name for name, _ in federation._participants]
    if not federation._threshold <= quorum <= len(names):
        raise ParameterError(
            "The quorum cannot be used", got=str(quorum), rule=f"from {federation._threshold} to {len(names)}: "
            f"{federation._threshold} parties open a sum",
        )  # fmt: skip
    deadline, before, patience_s = time.monotonic() + wait_s, None, federation._channel.patience_s
    while True:
        present = federation.greet(max(BREATH_SECONDS, min(patience_s, deadline - time.monotonic())))
        absent = sorted(set(names) - set(present))
        if tell is not None and present != before:
            tell(present, absent)
        before = present
        if len(present) >= quorum:
            return present
        if time.monotonic() >= deadline:
            raise UnavailableError(
                "Too few parties have appeared",
                got=f"no answer from {', '.join(absent)} within {wait_s:g} s",
                rule=f"a quorum of {quorum} of {len(names)}; {federation._threshold} open a sum",
                fix="start them, look into their logs, and give the same command again",
            )
        time.sleep(BREATH_SECONDS)


def _check_kit(folder: Path, listing: ParticipantList) -> None:
    certificate, authority = read_certificate_file(folder / "tls.crt"), read_certificate_file(folder / "authority.crt")
    problem = None
    if certificate_fingerprint(certificate) != listing.coordinator.certificate:
        problem = "the participant list names another certificate for the coordinator"
    elif read_tls_key(folder / "tls.key").public_key() != certificate.public_key():
        problem = "tls.key is not the key of tls.crt"
    elif certificate_fingerprint(authority) != listing.content.authority:
        problem = "authority.crt is not the authority on the participant list"
    if problem is not None:
        raise FormatError(
            "The parts of the coordinator's kit do not belong together",
            got=problem,
            fix="use the newest kit and the newest list; blindsight preflight says more",
        )


def _interface(address: str) -> tuple[str, int]:
    """Where to listen for an address that parties dial."""
    host, port = host_of(address)
    try:
        return (host if ipaddress.ip_address(host).is_loopback else "0.0.0.0"), port  # noqa: S104 (parties dial in)
    except ValueError:
        return ("127.0.0.1" if host == "localhost" else "0.0.0.0"), port  # noqa: S104


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
