"""Links between the processes of a secure computation: SPU's own, over TLS with both sides' certificates pinned."""

from __future__ import annotations

import functools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from blindsight.errors import MissingExtraError, ParameterError, UnavailableError

from ._certificates import TlsFiles, read_certificate, read_certificates

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LastingThread", "Link", "import_spu", "open_link", "open_memory_link"]

T = TypeVar("T")
Link = Any
"""``spu.libspu.link.Context``: rank, world_size, all_gather(text), barrier(), stop_link()."""

MAX_PARTIES = 3
MAX_TIMEOUT_S = 3600.0
CONNECT_INTERVAL_MS = 250
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
ADDRESS = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,253}:[0-9]{1,5}")


@functools.cache
def import_spu() -> Any:
    """Import SPU's library and keep it quiet; MissingExtraError where the extra ``mpc`` is not installed."""
    try:
        from spu import libspu
    except ImportError as error:
        raise MissingExtraError(
            "Multi-party computation needs SecretFlow SPU", fix="pip install 'blindsight[mpc]' on Python 3.10 or 3.11"
        ) from error
    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.log_level = libspu.logging.LogLevel.ERROR
    with tempfile.TemporaryDirectory() as folder:  # it insists on a file, in the working folder by default
        options.system_log_path = os.path.join(folder, "spu.log")
        libspu.logging.setup_logging(options)
    return libspu


class LastingThread:
    """One thread, as long as the process, for all calls of one link.

    SPU's library now and then ends the process when threads that have called it come and go.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def start(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call a function once all earlier calls have ended."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()


def open_link(
    addresses: Sequence[str],
    rank: int,
    *,
    tls: TlsFiles,
    name: str,
    timeout_s: float = 30.0,
    connect_timeout_s: float = 30.0,
    thread: LastingThread | None = None,
) -> Link:
    """Connect to the other parties and wait until all are there.

    Parameters
    ----------
    addresses : sequence of str
        ``host:port`` of each party's link, by rank; at its own rank the address to listen on.
    rank : int
        Which of them this process is.
    tls : TlsFiles
        Own certificate and key; ``trusted`` holds the certificates of exactly the parties of this link.
    name : str
        Name of this link: every party gives the same. Secret and random: see *Security*.
    timeout_s : float
        Longest wait for a message, or ``connect_timeout_s`` if that is longer; a party that is silent for longer fails
        the computation.
    connect_timeout_s : float
        Longest wait for the others to appear.
    thread : LastingThread, optional
        Where to connect, and from where the caller will use the link; a fresh one if None.

    Returns
    -------
    Link

    Raises
    ------
    ParameterError
        A parameter is out of its domain.
    UnavailableError
        The others did not come, or did not authenticate.

    Security
    --------
    What is sent goes over TLS, to a process that has proved one of the trusted certificates. What is *received* is
    weaker: brpc, underneath, takes connections without TLS on the same port, a party is taken by its word for which
    rank it has, and the name of a message is ``name`` and a count. So ``name`` must be fresh randomness, known to the
    parties alone (32 hexadecimal digits agreed over an authenticated channel): without it nobody can put a message into
    the computation. A firewall in front of the port that lets in the other parties alone is still advised.

    An error while sending ends the process (yacl's ``exit_if_async_error``), and after an UnavailableError a thread may
    go on trying for a while: run a link in a process of its own, and end it by ``os._exit``.
    """
    _check(addresses, rank, name, (timeout_s, connect_timeout_s))
    for path in (tls.certificate, tls.trusted):
        _readable(path)
    read_certificate(tls.certificate)
    read_certificates(tls.trusted)
    libspu = import_spu()
    desc = libspu.link.Desc()
    desc.id = name
    for party, address in enumerate(addresses):
        desc.add_party(f"party-{party}", address)
    # one clock for both: yacl waits for the others' first message as long as for any other
    desc.recv_timeout_ms = desc.http_timeout_ms = int(max(timeout_s, connect_timeout_s) * 1000)
    desc.connect_retry_interval_ms = CONNECT_INTERVAL_MS
    desc.connect_retry_times = max(2, int(connect_timeout_s * 1000 / CONNECT_INTERVAL_MS))
    desc.enable_ssl = True
    for options in (desc.client_ssl_opts, desc.server_ssl_opts):
        options.cert.certificate_path = str(tls.certificate)
        options.cert.private_key_path = str(tls.private_key)
        options.verify.ca_file_path = str(tls.trusted)
        options.verify.verify_depth = 1
    # yacl gives a failed handshake up to 12 s an attempt, whatever it is told, so that only a clock of ours bounds it
    connecting = (thread or LastingThread()).start(libspu.link.create_brpc, desc, rank)
    try:
        return connecting.result(connect_timeout_s)
    except (RuntimeError, TimeoutError):  # the binding's errors have C++ traces in them, which help nobody
        raise UnavailableError(
            "The other parties of a secure computation could not be reached",
            rule=f"all within {connect_timeout_s:g} s, each with its pinned certificate",
            fix="look whether every operator is up, then try again",
        ) from None


def open_memory_link(name: str, size: int, rank: int) -> Link:
    """Link between threads of one process, for tests; every thread gives the same name and size."""
    _check([f"thread-{party}:0" for party in range(size)], rank, name, (1.0,))
    libspu = import_spu()
    desc = libspu.link.Desc()
    desc.id = name
    for party in range(size):
        desc.add_party(f"party-{party}", f"{name}-{party}")
    return libspu.link.create_mem(desc, rank)


def _check(addresses: Sequence[str], rank: int, name: str, timeouts: tuple[float, ...]) -> None:
    if not 2 <= len(addresses) <= MAX_PARTIES or not 0 <= rank < len(addresses):
        raise ParameterError(
            "A link has an impossible number of parties, or rank",
            got=f"{len(addresses)} parties, rank {rank}",
            rule="two or three parties, ranks from 0",
        )
    if not NAME.fullmatch(name):
        raise ParameterError("A link's name cannot be used", rule="1 to 64 letters, digits, -, _ and .")
    for address in addresses:
        if not ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65_535:
            raise ParameterError("A link's address cannot be used", got=repr(address)[:80], rule="host:port")
    if len(set(addresses)) != len(addresses):
        raise ParameterError("Two parties of a link have the same address", got=", ".join(addresses)[:200])
    for value in timeouts:
        if not 0.1 <= value <= MAX_TIMEOUT_S:
            raise ParameterError(
                "A time-out is out of its domain", got=f"{value} s", rule=f"0.1 to {MAX_TIMEOUT_S:g} s"
            )


def _readable(path: Path) -> None:
    if not path.is_file():
        raise ParameterError("A file of a link does not exist", got=path.name)
