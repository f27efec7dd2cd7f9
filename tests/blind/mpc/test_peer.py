"""Asking operators that fail in the middle of a handshake."""

import gc
import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blindsight.blind.mpc import MpcHolder, OperatorAddress, make_certificate
from blindsight.blind.mpc._peer import _raised
from blindsight.errors import BudgetError, UnavailableError

ASKED = 12


def test_a_refusal_leaves_no_socket_of_another_handshake_open(tmp_path: Path, monkeypatch: Any) -> None:
    """One operator breaks off while the handshakes of the two others are under way: all sockets are closed, not left
    to the collector."""
    for name in ("operator", "holder"):
        make_certificate(name, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "operator.crt", tmp_path / "operator.key")
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)

    def shake(connection: socket.socket) -> None:
        with connection:
            time.sleep(0.06)
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1000)
            except OSError:
                return

    def break_off(connection: socket.socket) -> None:
        with connection:
            time.sleep(0.03)

    def serve(server: socket.socket, answer: Any) -> None:
        for _ in range(ASKED):
            try:
                answering = threading.Thread(target=answer, args=(server.accept()[0],), daemon=True)
            except OSError:
                return
            answering.start()

    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    for server, answer in zip(servers, (shake, shake, break_off), strict=True):
        threading.Thread(target=serve, args=(server, answer), daemon=True).start()
    operators = [
        OperatorAddress(address=f"127.0.0.1:{server.getsockname()[1]}", certificate=tmp_path / "operator.crt")
        for server in servers
    ]
    holder = MpcHolder(operators, certificate=tmp_path / "holder.crt", private_key=tmp_path / "holder.key")
    for _ in range(ASKED):
        with pytest.raises(UnavailableError):
            holder.health()
    for server in servers:
        server.close()
    gc.collect()
    assert not [str(one.exc_value) for one in left]


def test_an_operators_words_reach_a_terminal_without_what_it_would_obey() -> None:
    body = json.dumps(
        {"kind": "BudgetError", "what": "no\x1b[2J more\r\n", "got": "\x07" * 900, "fix": "é, 名"}
    ).encode()
    error = _raised("host:1", 403, body)
    assert isinstance(error, BudgetError)
    assert error.what == "Operator host:1: no [2J more  "
    assert error.got == " " * 500
    assert error.fix == "é, 名"
    assert isinstance(_raised("host:1", 500, b'{"kind": "SystemExit", "what": "x"}'), UnavailableError)


def test_an_operator_that_trickles_its_answer_holds_nobody(tmp_path: Path) -> None:
    """Every byte comes in time, the answer never ends: given up after three time-outs, with a clear word."""
    for name in ("operator", "holder"):
        make_certificate(name, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "operator.crt", tmp_path / "operator.key")
    server = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        for _ in range(3):
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
            try:
                tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                for _ in range(200):
                    tls.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                return

    threading.Thread(target=trickle, daemon=True).start()
    address = OperatorAddress(address=f"127.0.0.1:{server.getsockname()[1]}", certificate=tmp_path / "operator.crt")
    holder = MpcHolder([address] * 3, certificate=tmp_path / "holder.crt", private_key=tmp_path / "holder.key")
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="in time"):
        holder._each("GET", "/v1/health", [None] * 3, 0.5)
    assert time.monotonic() - started < 6
    server.close()
