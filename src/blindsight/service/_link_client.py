"""The record owner's end of comparison links: opened at a service, opened again when they break."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlsplit

from blindsight.blind import ComparisonProcess, ComparisonRefused, RecordOwner
from blindsight.blind.mpc import TlsFiles, make_certificate, peer_certificate
from blindsight.errors import BlindsightError, ProtocolError, UnavailableError

from ._link_messages import (
    ALIVE_SECONDS,
    Ended,
    LinkRequest,
    Opened,
    decode_event,
    encode_request,
)
from ._link_slots import free_port
from ._problems import Problem, error_of_problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blindsight.blind._verdict_comparison import Transfer

__all__ = ["SILENCE_SECONDS", "ComparisonLink", "Comparisons"]

ATTEMPTS = 3
"""Links that one answer is given: the first may have been closed for its age, or broken by what has passed."""

IDLE_SECONDS = 60.0
CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 4 * ALIVE_SECONDS
"""After so long without a line the service is taken to be gone."""

MAX_LINE_BYTES = 1 << 16


class Stream(Protocol):
    """An answer of the service that is being read."""

    def iter_raw(self) -> Iterator[bytes]:
        """Its bytes as they come."""

    def close(self) -> None:
        """Give it up."""

    extensions: dict[str, Any]


class ComparisonLink:
    """One link to a service's scorer; an end for :meth:`RecordOwner.verdicts`.

    Parameters
    ----------
    url : str
        Of the service.
    ask : callable
        Posts the request and returns the answer, whose body has only begun.
    transfer : {"ferret", "softspoken"}
        See :class:`blindsight.blind.Comparison`.
    host : str, optional
        Own IP address as the scorer reaches it. Default: the one that the service sees the request come from.
    port : int
        Own port, to listen on. 0: any free one.

    Raises
    ------
    UnavailableError
        The service gives no link now, or the ends did not find each other.
    RequestError, MissingExtraError, ...
        What the service said; SPU is not installed.

    Security
    --------
    A certificate for this link alone; its key lies in a file of mode 0600 until the link is open. The service's
    certificate for it, and its secret name, come over HTTPS. The process listens on the address that this machine has
    towards the service.
    """

    def __init__(
        self,
        url: str,
        ask: Callable[[bytes], Stream],
        *,
        transfer: Transfer = "ferret",
        host: str | None = None,
        port: int = 0,
    ) -> None:
        self._ended: Problem | None = None
        self._process = ComparisonProcess.prepared(1, quiet=True)
        self._stream: Stream | None = None
        self._reader: threading.Thread | None = None
        folder = Path(tempfile.mkdtemp(prefix="blindsight-link-"))
        try:
            own, there = _both_addresses(url)
            number = free_port(own, port)
            certificate, key = make_certificate("owner", folder, days=1)
            pem = certificate.read_bytes()
            request = LinkRequest(port=number, certificate=pem.decode("ascii"), host=host, transfer=transfer)
            self._stream = ask(encode_request(request))
            lines = _lines(self._stream)
            opened = decode_event(_first(lines))
            if not isinstance(opened, Opened):
                raise ProtocolError("The service did not begin with a comparison link's description")
            trusted = folder / "trusted.pem"
            trusted.write_bytes(peer_certificate(opened.certificate.encode()) + pem)
            self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
            self._reader.start()
            self._process.open(
                [f"{_bracketed(opened.host or there)}:{opened.port}", f"{_bracketed(own)}:{number}"],
                tls=TlsFiles(certificate=certificate, private_key=key, trusted=trusted),
                name=opened.name,
                transfer=transfer,
                timeout_s=IDLE_SECONDS,
            )
        except BaseException as error:
            self.close()
            if isinstance(error, UnavailableError) and self.trouble is not None:
                raise self.trouble from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def negative(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """See :meth:`Comparison.negative`."""
        return self._process.negative(words)

    def send(self, message: bytes) -> None:
        """See :meth:`Comparison.send`."""
        self._process.send(message)

    def receive(self) -> bytes:
        """See :meth:`Comparison.receive`."""
        return self._process.receive()

    @property
    def ended(self) -> bool:
        """Whether the service has ended it, or is gone."""
        return self._reader is not None and not self._reader.is_alive()

    @property
    def trouble(self) -> BlindsightError | None:
        """Why the service ended the link, if it did and said so."""
        return None if self._ended is None else error_of_problem(self._ended)

    @property
    def process_id(self) -> int:
        """Of the child process."""
        return self._process.process_id

    def close(self) -> None:
        """Leave: both ends' processes end."""
        self._process.kill()
        self._process.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            _hang_up(stream)
            if self._reader is not None:
                self._reader.join(SILENCE_SECONDS)
            stream.close()

    def _read(self, lines: Iterator[bytes]) -> None:
        """Follow the service's word; when there is no more of it, its end of the link is gone, and ours goes too."""
        try:
            for line in lines:
                event = decode_event(line)
                if isinstance(event, Ended):
                    self._ended = event.problem
                    break
        except Exception:  # noqa: S110 - of whatever kind, the answer is over: who compares gets an UnavailableError
            pass
        finally:
            self._process.kill()


class Comparisons:
    """Verdicts on answers of one model, over as many links as it takes, one at a time.

    Parameters
    ----------
    open_link : callable -> ComparisonLink
    owner : RecordOwner
    """

    def __init__(self, open_link: Callable[[], ComparisonLink], owner: RecordOwner) -> None:
        self._open_link, self._owner = open_link, owner
        self._link: ComparisonLink | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the link, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def connect(self) -> None:
        """Open a link if there is none, so that nothing is charged where none can be had.

        Raises
        ------
        MissingExtraError
            SPU is not installed.
        UnavailableError, RequestError, ...
            As for :class:`ComparisonLink`.
        """
        if self._link is not None and self._link.ended:
            self.close()
        if self._link is None:
            self._link = self._open_link()

    def verdicts(self, answer: bytes, sealed: bytes) -> npt.NDArray[np.int64]:
        """Learn the verdicts on an answer.

        Returns
        -------
        ndarray of shape (n,), int64
            How many of the secret thresholds each score exceeds.

        Raises
        ------
        ComparisonRefused
            Its mask is spent: a comparison of it broke off before. Seal the records again, which is charged again.
        UnavailableError
            No link held. Whether the mask is spent shows when the same answer is compared again.
        """
        trouble: BlindsightError | None = None
        for _ in range(ATTEMPTS):
            try:
                self.connect()
                assert self._link is not None
                return self._owner.verdicts(answer, self._link, sealed=sealed)
            except ComparisonRefused:  # the link is as good as before
                raise
            except UnavailableError as error:
                trouble = error if self._link is None else self._link.trouble or error
                self.close()
            except BaseException:
                self.close()
                raise
        assert trouble is not None
        raise trouble


def _both_addresses(url: str) -> tuple[str, str]:
    """This machine's address towards the service, and the service's."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS) as connection:
            return str(connection.getsockname()[0]), str(connection.getpeername()[0])
    except OSError as error:
        raise UnavailableError(
            "The service did not answer", got=type(error).__name__, fix="see that it runs, and try again"
        ) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _lines(stream: Stream) -> Iterator[bytes]:
    held = b""
    for piece in stream.iter_raw():
        *lines, held = (held + piece).split(b"\n")
        if len(held) > MAX_LINE_BYTES:
            raise ProtocolError("The service's word on a comparison link is too long")
        yield from lines


def _first(lines: Iterator[bytes]) -> bytes:
    trouble: Exception | None = None
    try:
        line = next(lines, None)
        if line is not None:
            return line
    except BlindsightError:
        raise
    except Exception as error:  # of the HTTP library, whose answer has broken off
        trouble = error
    raise UnavailableError(
        "The service broke off its answer", got=None if trouble is None else type(trouble).__name__, fix="try again"
    ) from trouble


def _hang_up(stream: Stream) -> None:
    """Cut the connection under an answer that another thread waits for: it is woken, and the service notices."""
    connection = stream.extensions.get("network_stream")
    raw = None if connection is None else connection.get_extra_info("socket")
    if isinstance(raw, socket.socket):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(raw, socket.SHUT_RDWR)  # not TLS's own, which is not for two threads
