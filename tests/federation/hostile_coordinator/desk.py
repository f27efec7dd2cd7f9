"""Letters over HTTPS, as docs/channels.md has them: whoever shows a listed certificate may ask for its letter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socketserver
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Kit:
    """The folder that ``blindsight init`` makes for a coordinator, read as docs/wire-formats.md describes its files."""

    folder: Path

    @property
    def listing(self) -> dict[str, Any]:
        """What the participant list says; its signature is the parties' to check."""
        signed: dict[str, Any] = json.loads((self.folder / "participants.signed.json").read_bytes())["signed"]
        return signed

    @property
    def names_by_certificate(self) -> dict[str, str]:
        """Whose each certificate is."""
        return {party["certificate"]: party["name"] for party in self.listing["parties"]}

    def tls(self) -> ssl.SSLContext:
        """The server's side: TLS 1.3, the kit's certificate, clients' of the kit's authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
        context.load_verify_locations(self.folder / "authority.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        return context


@dataclass
class _Letter:
    party: str
    body: bytes
    answer: bytes | None = None
    closed: bool = False


class Desk:
    """Hands out letters and takes answers, on 127.0.0.1.

    Parameters
    ----------
    kit : Kit
    port : int
    context : ssl.SSLContext, optional
        Another than the kit's.
    """

    def __init__(self, kit: Kit, port: int, *, context: ssl.SSLContext | None = None) -> None:
        self.kit = kit
        self.lie_about_length: int | None = None
        self.polls: list[str] = []
        self.strangers: list[str] = []
        self._letters: dict[str, _Letter] = {}
        self._changed = threading.Condition()
        self._leaving = False
        self._server = _Server(("127.0.0.1", port), self, context or kit.tls())
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def ask(self, party: str, body: bytes, timeout_s: float = 30.0) -> bytes:
        """One request, one answer.

        Raises
        ------
        TimeoutError
            None came, or the party said that there will be none.
        """
        return self.ask_all({party: body}, timeout_s)[party]

    def ask_all(self, bodies: Mapping[str, bytes], timeout_s: float = 30.0) -> dict[str, bytes]:
        """One request each, at the same time; all must answer."""
        ids = {secrets.token_hex(16): _Letter(party, body) for party, body in bodies.items()}
        with self._changed:
            self._letters.update(ids)
            self._changed.notify_all()
            closed = self._changed.wait_for(lambda: all(letter.closed for letter in ids.values()), timeout_s)
            for name in ids:
                del self._letters[name]
        silent = sorted(letter.party for letter in ids.values() if letter.answer is None)
        if not closed or silent:
            raise TimeoutError(f"no answer from {', '.join(silent)}")
        return {letter.party: letter.answer for letter in ids.values() if letter.answer is not None}

    def next_letter(self, party: str, wait_s: float) -> tuple[str, bytes] | None:
        """What lies ready for a party, within that time."""

        def ready() -> str | None:
            return next((k for k, one in self._letters.items() if one.party == party and not one.closed), None)

        with self._changed:
            self.polls.append(party)
            self._changed.notify_all()
            deadline = time.monotonic() + wait_s
            while not self._leaving and time.monotonic() < deadline:
                found = ready()
                if found is not None:
                    return found, self._letters[found].body
                self._changed.wait(min(0.2, deadline - time.monotonic()))
        return None

    def take(self, party: str, name: str, answer: bytes | None) -> None:
        """The first answer under a letter's id closes it; anything else is dropped."""
        with self._changed:
            letter = self._letters.get(name)
            if letter is not None and letter.party == party and not letter.closed:
                letter.answer, letter.closed = answer, True
                self._changed.notify_all()

    def wait_for(self, *parties: str, timeout_s: float = 60.0) -> None:
        """Until each of them has asked for work."""
        with self._changed:
            if not self._changed.wait_for(lambda: set(parties) <= set(self.polls), timeout_s):
                raise TimeoutError(f"only {sorted(set(self.polls))} came")

    def close(self) -> None:
        """End; every poll is told so."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], desk: Desk, context: ssl.SSLContext) -> None:
        self.desk, self.context = desk, context
        self._open: set[ssl.SSLSocket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.settimeout(30)
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            try:
                request.do_handshake()
            except OSError as error:
                self.desk.strangers.append(type(error).__name__)
                return
            super().finish_request(request, client_address)
        except OSError:  # the party went
            pass
        finally:
            self._open.discard(request)

    def shutdown_request(self, request: Any) -> None:
        request.close()

    def server_close(self) -> None:
        for request in list(self._open):  # ends their threads' reads
            with contextlib.suppress(OSError):
                request.shutdown(2)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        shown = hashlib.sha256(self.request.getpeercert(binary_form=True)).hexdigest()
        self.party = self.server.desk.kit.names_by_certificate.get(shown)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        desk = self.server.desk
        said = self.headers.get("x-blindsight-party", self.party)
        if self.party is None or said != self.party:
            self._reply(403, b'{"status":403,"title":"not on the list","rule":"docs/channels.md"}')
        elif self.path == "/v1/poll":
            prefer = self.headers.get("prefer", "wait=0")
            found = desk.next_letter(self.party, min(25.0, float(prefer.partition("wait=")[2] or 0)))
            if found is None:
                self.close_connection = desk._leaving
                self._reply(503 if desk._leaving else 204)
            else:
                self._reply(200, found[1], {"x-blindsight-id": found[0], "content-type": "application/octet-stream"})
        elif self.path.startswith("/v1/answers/"):
            desk.take(self.party, self.path.rpartition("/")[2], body)
            self._reply(204)
        elif self.path.startswith("/v1/failures/"):
            desk.take(self.party, self.path.rpartition("/")[2], None)
            self._reply(204)
        else:
            self._reply(404)

    def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response_only(status)
        self.send_header("date", formatdate(usegmt=True))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(self.server.desk.lie_about_length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Not to standard error."""
