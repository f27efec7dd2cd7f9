"""Everything a service's processes are told, as one frozen value that travels from parent to worker."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import msgspec

from blindsight.errors import FormatError, ParameterError
from blindsight.keys import Sealer, create_key_file
from blindsight.store import Store, open_store

__all__ = ["ENVIRONMENT", "LEAST_PORT", "Settings", "open_service_store"]

ENVIRONMENT = "BLINDSIGHT_SERVICE"
"""Environment variable in which a worker finds its settings."""

RECORD_BYTES = 1024
"""More than what is stored beside an answer."""

LEAST_PORT = 1024
"""Ports below are those of other services, which no link is made to."""

STORE_FILE, KEY_FILE = "service.db", "service.key"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a service runs.

    Parameters
    ----------
    home : str
        Folder of this machine: store and key file, unless named otherwise, and a certificate made for a first try.
    database : str, optional
        Path or URL of the store. Default: ``home/service.db``. Machines that share a database share the key file.
    key_file : str, optional
        Seals the store. Default: ``home/service.key``, made if absent.
    bits_per_account, bits_total, rows_per_account, rows_total : int, optional
        Budgets, for each model. None: counted, not limited.
    explanations : bool
        Whether contributions of single features may be asked for, at as many times the bits; of models that have them.
    allowed : tuple of str
        Names of other packages' detectors that model files may be of.
    max_keys : int
        Keys that one account may have registered for one model at a time.
    body_bytes : int
        Longest sealed request, in bytes.
    registration_bytes : int
        Longest registration.
    other_bytes : int
        Longest body of anything else.
    memory_bytes : int
        Bodies that one worker holds at a time, all together; what comes on top is asked to come back later. One account
        holds a quarter of it, or one longest body.
    header_seconds : float
        In which a connection's TLS handshake is done and each request's header has come.
    idle_seconds : float
        Longest pause inside a body.
    slowest_bytes_per_second : float
        A body that comes slower than this, from the sixteenth second on, is refused.
    connections : int
        Open connections of one worker.
    threads : int
        Requests that one worker computes at a time.
    device : str, optional
        Where models in columns multiply residues; see :class:`blindsight.blind.Scorer`.
    answer_seconds : float
        How long an answer stays available under its idempotency key.
    answer_bytes : int
        Answers that one account may have stored; the oldest go first.
    longest_answer_bytes : int
        Longest answer with contributions; a request for more records is refused. It has to fit into ``answer_bytes``
        and into one value of the store.
    attempts : int
        Times that a request is computed under one charge, where workers died before its answer was stored.
    key_check_memory_bytes : int
        Address space of the process that reads registrations.
    key_check_seconds : float
        Time for one of them.
    store_seconds : float
        How long a write waits for another process that holds the store.
    drain_seconds : float
        After SIGTERM, how long requests in flight may take.
    insecure : bool
        Plain HTTP, on the loopback address only.
    link_host : str
        Address on which the processes of comparison links listen, for models that reveal verdicts.
    link_name : str, optional
        Host name or address under which owners reach that. Default: ``link_host``, or the host that they ask the
        service under where ``link_host`` stands for every address.
    link_ports : (int, int), optional
        First and last port that they listen on. Default: free ones.
    link_peers : tuple of str
        Networks that a link's owner may name its address in. Default: the address that its request comes from, alone.
    links, links_per_account : int
        Comparison links at a time on this machine, over all workers, and of one account.
    link_connect_seconds : float
        How long the owner's end may take to appear.
    link_idle_seconds : float
        How long the owner may be silent on an open link.
    link_seconds : float
        After so long a link is closed at the end of its comparison, and its owner opens another.
    link_memory_bytes : int
        Address space of a link's process.
    """

    home: str
    database: str | None = None
    key_file: str | None = None
    bits_per_account: int | None = None
    bits_total: int | None = None
    rows_per_account: int | None = None
    rows_total: int | None = None
    explanations: bool = False
    allowed: tuple[str, ...] = ()
    max_keys: int = 8
    body_bytes: int = 64 << 20
    registration_bytes: int = 8 << 20
    other_bytes: int = 64 << 10
    memory_bytes: int = 512 << 20
    header_seconds: float = 10.0
    idle_seconds: float = 10.0
    slowest_bytes_per_second: float = 16384.0
    connections: int = 512
    threads: int = 2
    device: str | None = None
    answer_seconds: float = 3600.0
    answer_bytes: int = 256 << 20
    longest_answer_bytes: int = 128 << 20
    attempts: int = 8
    key_check_memory_bytes: int = 3 << 30
    key_check_seconds: float = 20.0
    store_seconds: float = 20.0
    drain_seconds: float = 30.0
    insecure: bool = False
    link_host: str = "127.0.0.1"
    link_name: str | None = None
    link_ports: tuple[int, int] | None = None
    link_peers: tuple[str, ...] = ()
    links: int = 4
    links_per_account: int = 2
    link_connect_seconds: float = 30.0
    link_idle_seconds: float = 60.0
    link_seconds: float = 3600.0
    link_memory_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        for name in ("max_keys", "body_bytes", "registration_bytes", "other_bytes", "memory_bytes", "header_seconds",
                     "idle_seconds", "connections", "threads", "answer_seconds", "answer_bytes",
                     "longest_answer_bytes", "attempts", "key_check_memory_bytes", "key_check_seconds",
                     "store_seconds", "drain_seconds", "links", "links_per_account", "link_connect_seconds",
                     "link_idle_seconds", "link_seconds", "link_memory_bytes"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is out of its domain", got=repr(getattr(self, name)), rule="above 0")
        check_links(self)
        if self._longest_body > self.memory_bytes:
            rule = f"at least the longest body, {self._longest_body}"
            raise ParameterError("memory_bytes is out of its domain", rule=rule)
        most = min(self.answer_bytes, Store.max_value_bytes) - RECORD_BYTES
        if self.longest_answer_bytes > most:
            raise ParameterError(
                "longest_answer_bytes is out of its domain",
                got=str(self.longest_answer_bytes),
                rule=f"at most {most}: less than answer_bytes and than a value of the store",
            )

    @property
    def _longest_body(self) -> int:
        return max(self.body_bytes, self.registration_bytes, self.other_bytes)

    @property
    def memory_bytes_per_account(self) -> int:
        """Bodies of one account that one worker holds at a time: a quarter of all, or one longest body."""
        return max(self.memory_bytes // 4, self._longest_body)

    def to_json(self) -> str:
        """For the environment of a worker."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What :meth:`to_json` wrote."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise FormatError(
                "A worker was started without its settings", rule=f"{ENVIRONMENT}, as `blindsight serve` sets it"
            ) from error

    @classmethod
    def from_environment(cls) -> Settings:
        """What the parent process has put there."""
        return cls.from_json(os.environ.get(ENVIRONMENT, ""))


def check_links(settings: Settings) -> None:
    """Refuse addresses, ports and networks that no link could use."""
    try:
        ipaddress.ip_address(settings.link_host)
    except ValueError as error:
        raise ParameterError(
            "link_host is no address", got=settings.link_host[:80], rule="an IP address of this machine, or 0.0.0.0"
        ) from error
    first, last = settings.link_ports or (LEAST_PORT, LEAST_PORT)
    if not LEAST_PORT <= first <= last <= 65535:
        raise ParameterError(
            "link_ports are out of their domain", got=f"{first}-{last}", rule=f"first-last, {LEAST_PORT} to 65535"
        )
    for network in settings.link_peers:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ParameterError(
                "A network of link_peers cannot be used", got=network[:80], rule="as 10.1.0.0/16 or 10.1.2.3"
            ) from error


def open_service_store(settings: Settings) -> Store:
    """Open the store, sealed; makes folder and key file where they are absent.

    Raises
    ------
    StoreError, FormatError, AuthenticationError, MissingExtraError
        As for :func:`blindsight.store.open_store`.
    """
    home = Path(settings.home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file = Path(settings.key_file) if settings.key_file else home / KEY_FILE
    if settings.key_file is None and not key_file.exists():
        create_key_file(key_file)
    return open_store(
        settings.database or home / STORE_FILE, Sealer.from_key_file(key_file), timeout_s=settings.store_seconds
    )
