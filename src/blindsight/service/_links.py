"""The scorer's ends of comparison links: each a child process, and a thread of the worker that serves it."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blindsight.blind import ComparisonProcess
from blindsight.blind.mpc import TlsFiles, make_certificate, peer_certificate
from blindsight.errors import BlindsightError, ProtocolError, RefusedError, StoreError, UnavailableError

from ._link_messages import Compared, Ended, Event, LinkRequest, Opened, Ready, Refused, peer_address
from ._link_slots import Slot, Slots
from ._models import Served
from ._problems import RequestError, problem_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ._credentials import Credential
    from ._service import Service

__all__ = ["Link", "Links"]

FOLDER = "links"
MAX_REFUSALS = 16
"""On one link; an owner that goes on after so many is not one that lost its place."""

JOIN_SECONDS = 10.0
logger = logging.getLogger("blindsight.service")


class _Asked:
    """A link on which the next request has been received already."""

    def __init__(self, process: ComparisonProcess, message: bytes) -> None:
        self._process, self._message = process, message
        self.send = process.send
        self.granted = False

    def receive(self) -> bytes:
        return self._message

    def negative(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        self.granted = True  # both sides are inside the protocol now: after a failure the link is out of step
        return self._process.negative(words)


class Link:
    """One link, from the request for it to its end.

    Parameters
    ----------
    service : Service
    credential : Credential
    model : str
    slot : Slot
    addresses : (str, str)
        Where the scorer's end listens, and the owner's.
    request : LinkRequest
    theirs : bytes
        The owner's certificate, PEM.
    tell : callable
        Told every event, from another thread; an :class:`Ended` is the last.

    Security
    --------
    Certificates and the link's name are made for this link alone, and reach the owner over the service's HTTPS. The
    scorer's private key lies in a file of mode 0600 until the link ends.
    """

    def __init__(
        self,
        service: Service,
        credential: Credential,
        model: str,
        *,
        slot: Slot,
        addresses: tuple[str, str],
        request: LinkRequest,
        theirs: bytes,
        tell: Callable[[Event], None],
    ) -> None:
        self._service, self._credential, self._model = service, credential, model
        self._slot, self._addresses, self._request, self._tell = slot, addresses, request, tell
        self.id = secrets.token_hex(8)
        certificate, key = make_certificate("scorer", slot.folder, days=1)
        trusted = slot.folder / "trusted.pem"
        trusted.write_bytes(certificate.read_bytes() + theirs)
        self._tls = TlsFiles(certificate=certificate, private_key=key, trusted=trusted)
        name = secrets.token_hex(16)
        settings = service.settings
        wildcard = ipaddress.ip_address(settings.link_host).is_unspecified
        self.opened = Opened(
            name=name,
            certificate=certificate.read_text("ascii"),
            port=slot.port,
            host=settings.link_name or (None if wildcard else settings.link_host),
        )
        self._lock = threading.Lock()
        self._process: ComparisonProcess | None = None
        self._busy = self._finishing = self._over = False
        self._refusals = 0
        self._thread = threading.Thread(target=self._run, name=f"link-{self.id}", daemon=True)

    def start(self) -> None:
        """Start process and thread."""
        self._thread.start()

    def finish(self) -> None:
        """End the link, after its comparison if one is under way."""
        with self._lock:
            self._finishing = True
            if self._busy:
                return
        self.end()

    def end(self) -> None:
        """End the link at once, and whatever it is about; returns before it has."""
        with self._lock:
            self._over = True
            process = self._process
        if process is not None:
            process.kill()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(JOIN_SECONDS)

    # -- the thread

    def _run(self) -> None:
        problem, started = None, time.monotonic()
        self._log("link", state="opening")
        try:
            with self._service.metrics.linked():
                self._serve(started)
        except BlindsightError as error:
            problem = problem_of(error, self.id)
        except Exception as error:
            logger.exception({"event": "crash", "link": self.id})
            problem = problem_of(StoreError("The service failed", got=type(error).__name__), self.id)
        finally:
            if self._process is not None:
                self._process.kill()  # it holds nothing that could be lost
                self._process.close()
            self._slot.release()
            if self._over:
                problem = None  # we ended it ourselves
            self._log("link", state="ended", seconds=round(time.monotonic() - started, 3),
                      **({} if problem is None else {"trouble": problem.kind}))  # fmt: skip
            self._service.links.forget(self)
            self._tell(Ended(problem=problem))

    def _serve(self, started: float) -> None:
        settings = self._service.settings
        with self._lock:
            if self._over:
                return
            process = self._process = ComparisonProcess.prepared(0, memory_bytes=settings.link_memory_bytes, quiet=True)
        process.open(
            self._addresses,
            tls=self._tls,
            name=self.opened.name,
            transfer=self._request.transfer,
            timeout_s=settings.link_idle_seconds,
            connect_timeout_s=settings.link_connect_seconds,
        )
        self._log("link", state="ready", seconds=round(time.monotonic() - started, 3))
        self._tell(Ready())
        while time.monotonic() - started < settings.link_seconds and self._next(process):
            pass

    def _next(self, process: ComparisonProcess) -> bool:
        """Wait for a request and serve it; whether to go on."""
        message = process.receive(self._service.settings.link_idle_seconds)
        with self._lock:
            if self._over or self._finishing:
                return False
            self._busy = True
        asked, started = _Asked(process, message), time.perf_counter()
        try:
            rows = self._compare(asked)
        except BlindsightError as error:
            refused = isinstance(error, RefusedError | ProtocolError | StoreError) and not asked.granted
            self._count("refused" if refused else "broken", started, trouble=type(error).__name__)
            self._refusals += 1
            if not refused or self._refusals >= MAX_REFUSALS:
                raise
            self._tell(Refused(problem=problem_of(error, self.id)))
        else:
            self._count("done", started, rows=rows)
            self._tell(Compared(rows=rows))
        finally:
            with self._lock:
                self._busy = False
        return not self._finishing

    def _compare(self, asked: _Asked) -> int:
        service, account = self._service, self._credential.account
        served = service.models.current(self._model)  # it may have changed since the last one
        if not service.credentials.is_valid(self._credential.id):
            raise UnavailableError("The credential that opened this link is no longer valid")
        if not served.scorer.reveals_verdicts:
            raise UnavailableError("The model no longer reveals verdicts")
        header = served.scorer.compare(asked, admit=lambda key_id: service.has_key(account, served, key_id))
        return header.rows

    def _count(self, outcome: str, started: float, **more: object) -> None:
        seconds = time.perf_counter() - started
        self._service.metrics.compared(self._model, outcome, seconds, int(str(more.get("rows", 0))))
        self._log("comparison", outcome=outcome, ms=round(1000 * seconds, 2), **more)

    def _log(self, event: str, **more: object) -> None:
        line = {"event": event, "link": self.id, "model": self._model, "account": self._credential.account}
        logger.info(line | more)


class Links:
    """All links of one worker.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._slots = Slots(
            Path(settings.home) / FOLDER, most=settings.links, most_of_one=settings.links_per_account,
            host=settings.link_host, ports=settings.link_ports,
        )  # fmt: skip
        self._open: set[Link] = set()
        self._lock = threading.Lock()

    def open(
        self, credential: Credential, model: str, request: LinkRequest, peer: str, tell: Callable[[Event], None]
    ) -> Link:
        """Take a slot and start the scorer's end of a link.

        Parameters
        ----------
        credential : Credential
        model : str
        request : LinkRequest
        peer : str
            The address that the request comes from.
        tell : callable
            See :class:`Link`.

        Raises
        ------
        RequestError
            404: no such model. 409: it reveals scores. 403, 422: the address or the certificate cannot be used. 429,
            503: there are too many links.
        """
        settings = self._service.settings
        served: Served = self._service.models.current(model)
        if not served.scorer.reveals_verdicts:
            raise RequestError(
                409,
                "reveals-scores",
                "This model reveals scores, which need no comparison",
                fix="open its answers with RecordOwner.open",
            )
        host = peer_address(request.host, peer, settings.link_peers)
        theirs = peer_certificate(request.certificate.encode())
        slot = self._slots.take(credential.account)
        try:
            own = f"[{settings.link_host}]" if ":" in settings.link_host else settings.link_host
            addresses = f"{own}:{slot.port}", f"{host}:{request.port}"
            link = Link(
                self._service, credential, model, slot=slot, addresses=addresses, request=request, theirs=theirs,
                tell=tell,
            )  # fmt: skip
            with self._lock:
                self._open.add(link)
            link.start()
        except BaseException:
            slot.release()
            raise
        return link

    def forget(self, link: Link) -> None:
        """A link has ended."""
        with self._lock:
            self._open.discard(link)

    def close(self) -> None:
        """End every link, and wait."""
        with self._lock:
            links = list(self._open)
        for link in links:
            link.end()
        for link in links:
            link.join()
