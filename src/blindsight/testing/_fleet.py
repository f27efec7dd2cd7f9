"""A real fleet of Flower's on this machine: a SuperLink and its SuperNodes, with TLS and node keys, and no internet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ._authority import InsecureAuthority
from ._mosquitto import free_port

__all__ = ["FlowerFleet", "flower_bin"]

START_SECONDS = 60.0
END_SECONDS = 15.0


def flower_bin() -> Path | None:
    """Where Flower's commands are: ``BLINDSIGHT_FLOWER``, or the environment ``flower`` inside ours; None without."""
    told = os.environ.get("BLINDSIGHT_FLOWER")
    for folder in [Path(told)] if told else [Path(sys.prefix) / "flower" / "bin"]:
        if (folder / "flower-superlink").is_file():
            return folder
    return None


class FlowerFleet:
    """Started when made, ended when closed: every process, and what those started.

    Parameters
    ----------
    commands : Path
        Folder of Flower's commands.
    folder : Path
        For keys, certificates, logs and whatever Flower keeps.
    agents : mapping of str to Path
        Socket of each party's process; a SuperNode is started for each.
    """

    def __init__(self, commands: Path, folder: Path, agents: Mapping[str, Path]) -> None:
        self._commands, self._folder, self._agents = commands, folder, dict(agents)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(exist_ok=True)
        self._home = folder / "home"
        self._home.mkdir()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        issued = InsecureAuthority(self._folder).issue("superlink", server=True)
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        self._process(
            "superlink",
            "flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--ssl-ca-certfile", issued.authority,
            "--ssl-certfile", issued.certificate, "--ssl-keyfile", issued.private_key, "--enable-supernode-auth",
            "--isolation", "subprocess", "--disable-runtime-dependency-installation",
            "--database", self._folder / "superlink.db",
        )  # fmt: skip
        (self._home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self._address}"\n'
            f'root-certificates = "{issued.authority}"\n'
        )
        self._wait_for(port)
        for name, agent in self._agents.items():
            key, public = self._node_key(name)
            self.flwr("supernode", "register", str(public), "here")
            self._process(
                name,
                "flower-supernode", "--root-certificates", issued.authority, "--superlink", self._address,
                "--auth-supernode-private-key", key, "--host", "127.0.0.1", "--port", str(free_port()),
                "--isolation", "subprocess", "--node-config", f'agent="{agent}"',
            )  # fmt: skip

    def flwr(self, *arguments: str) -> str:
        """Run ``flwr``; its standard output.

        Raises
        ------
        RuntimeError
            It failed; with what it said.
        """
        done = subprocess.run(
            [self._commands / "flwr", *arguments], env=self._environment("flwr"), capture_output=True, text=True,
            timeout=START_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def run(self, app: Path, **config: object) -> int:
        """``flwr run`` an app; the run's id."""
        settings = " ".join(f"{key.replace('_', '-')}={json.dumps(value)}" for key, value in config.items())
        told = self.flwr("run", str(app), "here", "--run-config", settings, "--format", "json")
        return int(json.loads(told[told.index("{") :])["run-id"])

    def status(self, run: int) -> str:
        """Of a run, as ``flwr list`` says it: ``running``, ``finished:completed``, ..."""
        told = self.flwr("list", "here", "--run-id", str(run), "--format", "json")
        return str(json.loads(told[told.index("{") :])["runs"][0]["status"])

    def told(self, name: str) -> str:
        """What a process (``superlink``, or a party's SuperNode) has said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything that was started here, and what that started in turn."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._processes.clear()

    def _left(self) -> Iterator[int]:
        """Processes that those started which were started here, and that outlived them; known by their environment."""
        mark = f"\0FLWR_HOME={self._folder}/".encode()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and mark in b"\0" + (folder / "environ").read_bytes():
                    yield int(folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _process(self, name: str, command: str, *arguments: object) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._commands / command, *map(str, arguments)],
                env=self._environment(name), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _environment(self, name: str) -> dict[str, str]:
        home = self._home if name == "flwr" else self._folder / f"{name}-home"
        home.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {
            **kept,
            "PATH": f"{self._commands}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # a second otherwise, for every message
            "NO_COLOR": "1",
        }

    def _node_key(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP384R1())
        private, public = self._folder / f"{name}.node", self._folder / f"{name}.node.pub"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        private.chmod(0o600)
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        )
        return private, public

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if self._processes["superlink"].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"flower-superlink did not start:\n{self.told('superlink')[-3000:]}") from None
                time.sleep(0.1)
            else:
                return
