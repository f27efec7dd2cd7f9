"""A PostgreSQL server of the test's own: temporary folder, own socket and port, not run as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Where Debian keeps what is not on the path."""


def missing() -> str:
    """Why there is no server here; empty if there is one."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed (extra: serve)"
    if _binary("initdb") is None:
        return "PostgreSQL's initdb is not installed"
    if os.name != "posix" or (os.getuid() == 0 and shutil.which("runuser") is None):
        return "no user to run PostgreSQL as"
    return ""


def _binary(name: str) -> str | None:
    places = [str(folder / name) for folder in FOLDERS if (folder / name).exists()]
    return places[0] if places else shutil.which(name)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """URL of a fresh server's database; the server ends with the block."""
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="blindsight-pg-"))
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
        common = {"env": environment, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(
            [*as_user, _binary("initdb"), "-D", str(data), "-U", "blindsight", "-A", "trust", "-E", "UTF8", "-N"],
            check=True, timeout=120, **common,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [*as_user, _binary("postgres"), "-D", str(data), "-p", str(port), "-k", str(folder),
             "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB"],
            **common,
        )  # fmt: skip
        try:
            url = f"postgresql://blindsight@127.0.0.1:{port}/postgres"
            _wait(url, process)
            yield url
        finally:
            # `runuser` passes no signal on; the server's own file names it
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), 2)  # SIGINT: fast shutdown
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL took too long to start"
            time.sleep(0.1)
