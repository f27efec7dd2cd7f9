"""A real broker for tests: mosquitto, as a process of its own on the loopback, ended by its process id."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ._authority import InsecureAuthority

__all__ = ["NO_MOSQUITTO", "Mosquitto", "free_port"]

_PATH = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
NO_MOSQUITTO = None if _PATH else "mosquitto is not installed: apt-get install mosquitto"
"""Why tests that need a broker skip; None where there is one."""
START_SECONDS = 10.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Mosquitto:
    """Runs until it is closed; may be stopped and started at the same port.

    Parameters
    ----------
    settings : Path
        Its configuration file; paths in it are relative to its folder.
    port : int
        That it listens on.
    """

    def __init__(self, settings: Path, port: int) -> None:
        self.settings, self.port = settings, port
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    def open_to_all(cls, folder: Path, authority: InsecureAuthority, more: str = "") -> Self:
        """A broker that lets everybody read and write everything: what holds then is what the two ends do."""
        issued, port = authority.issue("broker", server=True), free_port()
        settings = folder / "mosquitto.conf"
        settings.write_text(
            f"listener {port} 127.0.0.1\ncertfile {issued.certificate}\nkeyfile {issued.private_key}\n"
            "tls_version tlsv1.3\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"{more}"
            f"user {getpass.getuser()}\n"  # it would give up root, and could not read its key then
        )
        return cls(settings, port)

    @classmethod
    def of_kit(cls, folder: Path, port: int) -> Self:
        """The broker of a kit, with its own settings; only the user is this one."""
        settings = folder / "as-this-user.conf"
        settings.write_text(f"{(folder / 'mosquitto.conf').read_text()}\nuser {getpass.getuser()}\n")
        return cls(settings, port)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert _PATH is not None, NO_MOSQUITTO
        with (self.settings.parent / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_PATH, "-c", self.settings.name], cwd=self.settings.parent, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                assert self._process.poll() is None, f"mosquitto has ended:\n{self.told()}"
                assert time.monotonic() < deadline, f"mosquitto does not listen:\n{self.told()}"
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL it: connections are reset, and what it held for anybody is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reload(self) -> None:
        """Have it read its settings and access list again, soon."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def told(self) -> str:
        """What it has written so far."""
        return (self.settings.parent / "mosquitto.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
