"""The coordinator's end over gRPC: one stream for each party, dialled by the party.

Wire format: docs/channels.md, 'gRPC'.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blindsight.errors import MissingExtraError, UnavailableError, WireError

from ._channel import MAX_MESSAGE_BYTES
from ._desk import Letter
from ._dialled import DialledChannel
from ._frames import MAX_FRAME_BYTES, Frame, Kind, parts_of
from ._listen import listen
from ._reception import Reception
from ._tls import Pathlike, mutual_context

__all__ = ["GrpcChannel"]

log = logging.getLogger(__name__)

SERVICE, METHOD = "blindsight.v1.Courier", "Stream"
PARTY_KEY = "x-blindsight-party"
KEEPALIVE_SECONDS = 20.0
SPARE_STREAMS = 8


class _Line:
    """One party's stream: what its writer waits for."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.done: deque[str] = deque()
        self.handed = ""
        self.over = False
        self.why: tuple[str, str] | None = None

    def end(self, status: str = "", text: str = "") -> None:
        """Have the writer end the stream, with this status unless it ends for another reason already."""
        with self.changed:
            if not self.over and status:
                self.why = (status, text)
            self.over = True
            self.changed.notify_all()

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()


class GrpcChannel(DialledChannel):
    """A gRPC server that parties dial; a party is whoever shows its certificate.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of each party's certificate (of its DER bytes), in hexadecimal.
    certificate, private_key : path
        The coordinator's own, in PEM; the certificate names the host that parties dial.
    authority : path
        Certificates, in PEM, that may sign those of parties.
    host : str
    port : int
        0: any free one; see ``url``.
    max_message_bytes : int
        Longest answer that is kept, from 1 to 2^30.
    keepalive_s : float
        How often a quiet connection is tried; one that does not answer for half as long has ended.

    Raises
    ------
    MissingExtraError
        The extra ``net`` is not installed.
    StoreError, UnavailableError
        A file cannot be used; the address cannot be listened on.

    Security
    --------
    Mutual TLS. gRPC speaks 1.3 with itself and lets a client choose 1.2; why a handshake failed it writes to standard
    error, not to the log. A certificate on no list, or one that has expired since, ends the stream with
    PERMISSION_DENIED and a line in the log. Of each party at most one request, one answer and one frame are held.
    """

    def __init__(
        self,
        parties: Mapping[str, str],
        *,
        certificate: Pathlike,
        private_key: Pathlike,
        authority: Pathlike,
        host: str = "127.0.0.1",
        port: int = 0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_SECONDS,
    ) -> None:
        super().__init__(parties)
        try:
            import grpc
        except ImportError as error:
            raise MissingExtraError("A channel over gRPC needs grpcio", fix="pip install 'blindsight[net]'") from error
        # gRPC reads the files without complaint, and fails later without a word
        mutual_context(
            certificate=certificate, private_key=private_key, trusted=[authority], server=True, check_name=False
        )
        self._max_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._readers: set[threading.Thread] = set()
        listen(host, port).close()  # says why not, where it is not possible
        streams = 2 * len(parties) + SPARE_STREAMS
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="blindsight-grpc")
        self._server = grpc.server(
            self._pool,
            handlers=[
                grpc.method_handlers_generic_handler(
                    SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(self._stream)}
                )
            ],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
                ("grpc.max_metadata_size", 8192),
                ("grpc.max_concurrent_streams", 4),
                ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
                ("grpc.keepalive_timeout_ms", int(keepalive_s * 500)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", int(keepalive_s * 500)),
            ],
            maximum_concurrent_rpcs=streams,
        )
        credentials = grpc.ssl_server_credentials(
            [(Path(private_key).read_bytes(), Path(certificate).read_bytes())],
            root_certificates=Path(authority).read_bytes(),
            require_client_auth=True,
        )
        name = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_secure_port(f"{name}:{port}", credentials)
        except RuntimeError as error:
            self._pool.shutdown()
            raise UnavailableError("The address cannot be listened on", got=f"{name}:{port}") from error
        self._server.start()
        self.url = f"grpcs://{name}:{bound}"

    def close(self) -> None:
        """End every stream, and wait for the server's threads."""
        self._desk.close()
        for line in self._all_lines():
            line.end("UNAVAILABLE", "the coordinator is leaving")
        self._server.stop(1.0).wait()
        self._pool.shutdown()
        for reader in list(self._readers):
            reader.join()

    def _all_lines(self) -> list[_Line]:
        with self._lock:
            return list(self._lines.values())

    def _wake(self, party: str) -> None:
        with self._lock:
            line = self._lines.get(party)
        if line is not None:
            line.wake()

    def _drop(self, party: str) -> None:
        with self._lock:
            line = self._lines.get(party)
        if line is not None:
            line.end("PERMISSION_DENIED", "this certificate is on no list any more")

    # -- a party's stream, in threads of the server's pool ------------------------------------------------------------

    def _stream(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Serve one stream until either side ends it."""
        import grpc

        certificate = _certificate(context)
        who, why = self._roll.who(certificate)
        if who is None:
            log.warning("a stranger was refused: %s", why)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"this certificate is on no list here: {why}")
            return
        claimed = dict(context.invocation_metadata()).get(PARTY_KEY, who)
        if claimed != who:
            log.warning("%s was refused: it calls itself %r", who, str(claimed)[:64])
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"this certificate is {who}'s")
        line = _Line()
        with self._lock:
            older, self._lines[who] = self._lines.get(who), line
        if older is not None:
            older.end("ABORTED", "the party has asked again on another connection")
        if self._desk.closed or not context.add_callback(line.end):
            line.end("UNAVAILABLE", "the coordinator is leaving")
        context.send_initial_metadata(())  # tells the party that it has been let in
        reader = threading.Thread(target=self._read, args=(who, frames, line), name="blindsight-grpc-read", daemon=True)
        self._readers.add(reader)
        reader.start()
        try:
            yield from self._write(who, line, certificate)
        finally:
            line.end()
            with self._lock:
                if self._lines.get(who) is line:
                    del self._lines[who]
        if line.why is not None:
            context.abort(getattr(grpc.StatusCode, line.why[0]), line.why[1])

    def _write(self, who: str, line: _Line, certificate: bytes) -> Iterator[bytes]:
        """What the party is sent, as it comes up. The library asks for the next frame when the last has gone."""
        while True:
            with line.changed:
                line.changed.wait_for(lambda: line.over or line.done or self._fresh(who, line) is not None)
                if line.over:
                    return
                done = [line.done.popleft() for _ in range(len(line.done))]
            for letter_id in done:
                yield Frame(Kind.DONE, letter_id).encode()
            letter = self._fresh(who, line)
            if letter is None:
                continue
            if self._roll.who(certificate)[0] != who:
                line.end("PERMISSION_DENIED", "this certificate has expired, or is on no list any more")
                return
            line.handed = letter.id
            for part in parts_of(letter.id, letter.body):
                if line.over or not self._desk.is_open(who, letter.id):
                    break
                yield part.encode()

    def _fresh(self, who: str, line: _Line) -> Letter | None:
        """What lies ready and has not gone over this stream yet."""
        letter = self._desk.letter(who)
        return letter if letter is not None and letter.id != line.handed else None

    def _read(self, who: str, frames: Iterator[bytes], line: _Line) -> None:
        """Take what the party sends, a frame at a time; the library holds the next back until it is asked for."""
        import grpc

        reception = Reception(self._desk, who, self._max_bytes)
        try:
            for data in frames:
                letter_id = reception.take(Frame.decode(data))
                if letter_id is not None:
                    with line.changed:
                        line.done.append(letter_id)
                        line.changed.notify_all()
        except WireError as error:
            log.warning("the stream of %s is ended: %s", who, error)
            line.end("INVALID_ARGUMENT", str(error))
        except grpc.RpcError:
            pass  # the stream has ended
        except Exception as error:  # what the library raises of a stream that has ended has no type of its own
            if not line.over:
                log.debug("the stream of %s has ended: %s", who, error)
        finally:
            line.end()
            self._readers.discard(threading.current_thread())


def _certificate(context: Any) -> bytes:
    """The client's certificate in DER, or nothing."""
    found = context.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(found[0].decode()) if found else b""
