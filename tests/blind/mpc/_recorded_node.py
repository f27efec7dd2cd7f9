"""An operator that writes down what it receives, and whose links have no TLS, so that relays can: for tests alone.

``python _recorded_node.py serve CONFIG LOG`` is the node, ``python _recorded_node.py worker THREADS`` its worker. Both
are the product's own but for what is replaced here. What comes over HTTPS is written after TLS, at the border to the
application: method, path, headers and body of every request, headers and body of every answer to the first operator.
"""

import itertools
import struct
import sys
from pathlib import Path
from typing import Any

FRAME = struct.Struct("<cIQ")
"""Kind (h: head, b: body), number of the exchange, length."""


def serve(config: str, log: str) -> None:
    from blindsight.blind.mpc import NodeConfig, _http, _peer, _process

    numbers = itertools.count()

    def write(kind: bytes, number: int, data: bytes) -> None:
        with Path(log).open("ab") as file:
            file.write(FRAME.pack(kind, number, len(data)) + data)

    channel, application, ask = _process.ProcessChannel, _http.application, _peer.ask

    def own_worker(commands: dict[str, list[str]]) -> Any:
        return channel({name: [sys.executable, __file__, "worker", words[-1]] for name, words in commands.items()})

    def recorded(*arguments: Any) -> Any:
        inner = application(*arguments)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            number = next(numbers)
            if scope["type"] == "http":
                head = [scope["method"].encode(), scope["raw_path"], scope["query_string"]]
                write(b"h", number, b"\n".join([*head, *(b": ".join(pair) for pair in scope["headers"])]))

            async def hear() -> Any:
                message = await receive()
                if message.get("body"):
                    write(b"b", number, message["body"])
                return message

            await inner(scope, hear, send)

        return app

    async def heard(*arguments: Any, **options: Any) -> Any:
        data, headers = await ask(*arguments, **options)
        number = next(numbers)
        write(b"h", number, repr(headers).encode())
        write(b"b", number, data)
        return data, headers

    _process.ProcessChannel = own_worker  # type: ignore[assignment]
    _http.application, _peer.ask = recorded, heard
    _http.serve_node(NodeConfig.read(config))


def work() -> None:
    from blindsight.blind.mpc import _link, worker

    def plain_link(
        addresses: list[str], rank: int, *, name: str, timeout_s: float, connect_timeout_s: float, thread: Any, tls: Any
    ) -> Any:
        libspu = _link.import_spu()
        desc = libspu.link.Desc()
        desc.id = name
        for party, address in enumerate(addresses):
            desc.add_party(f"party-{party}", address)
        desc.recv_timeout_ms = desc.http_timeout_ms = int(max(timeout_s, connect_timeout_s) * 1000)
        return thread.start(libspu.link.create_brpc, desc, rank).result(connect_timeout_s)

    worker.open_link = plain_link
    sys.argv = sys.argv[1:]  # the worker reads its number of threads
    worker.main()


def exchanges(log: bytes) -> list[tuple[bytes, bytes]]:
    """Head and body of every exchange in what was written."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(log):
        kind, number, size = FRAME.unpack_from(log, at)
        at += FRAME.size
        found.setdefault(number, [b"", b""])[kind == b"b"] += log[at : at + size]
        at += size
    return [(head, body) for head, body in found.values()]


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else work()
