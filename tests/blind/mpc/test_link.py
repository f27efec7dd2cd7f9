"""Links between real processes: who is let in, and how long one waits."""

import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("spu", reason="the extra 'mpc' is not installed")

from blindsight.blind.mpc import TlsFiles, make_certificate, open_link
from blindsight.blind.mpc._certificates import read_certificate
from blindsight.errors import FormatError, ParameterError, StoreError
from blindsight.service import make_certificate as make_authority

from ._nodes import free_ports

CHILD = """
import os, sys
from pathlib import Path
from blindsight.blind.mpc import TlsFiles, open_link
from blindsight.errors import UnavailableError
folder, rank, name, trusted, link, patience, *addresses = sys.argv[1:]
own = Path(folder, name + ".crt"), Path(folder, name + ".key")
tls = TlsFiles(certificate=own[0], private_key=own[1], trusted=Path(folder, trusted))
try:
    opened = open_link(addresses, int(rank), tls=tls, name=link, timeout_s=4, connect_timeout_s=float(patience))
    print(*opened.all_gather("hello " + rank), sep=",", flush=True)
    opened.stop_link()
except UnavailableError:
    print("unavailable", flush=True)
except RuntimeError:
    print("silence", flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("link")
    for name in "abz":
        make_certificate(name, made)
    (made / "ab").write_bytes((made / "a.crt").read_bytes() + (made / "b.crt").read_bytes())
    (made / "abz").write_bytes((made / "ab").read_bytes() + (made / "z.crt").read_bytes())
    return made


def outcome(folder: Path, *sides: tuple[str, str, str], patience_s: float = 30.0) -> list[str]:
    """Start one process for each (certificate, trusted, link name); what each printed."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(rank), *side, str(patience_s), *addresses],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank, side in enumerate(sides)
    ]
    return [process.communicate(timeout=60)[0].strip() for process in processes]


def test_two_that_trust_each_other(folder: Path) -> None:
    name = secrets.token_hex(16)
    assert outcome(folder, ("a", "ab", name), ("b", "ab", name)) == ["hello 0,hello 1"] * 2


def test_a_certificate_that_is_not_pinned_is_not_let_in(folder: Path) -> None:
    name = secrets.token_hex(16)
    started = time.monotonic()
    assert outcome(folder, ("a", "ab", name), ("z", "abz", name), patience_s=5.0) == ["unavailable"] * 2
    assert time.monotonic() - started < 30


def test_whoever_does_not_know_the_links_name_is_not_heard(folder: Path) -> None:
    sides = ("a", "ab", "0" * 32), ("b", "ab", "1" * 32)
    assert outcome(folder, *sides, patience_s=12.0) == ["silence"] * 2


def test_nonsense_is_refused_before_anything_is_opened(folder: Path) -> None:
    tls = TlsFiles(certificate=folder / "a.crt", private_key=folder / "a.key", trusted=folder / "ab")
    here = ["127.0.0.1:1", "127.0.0.1:2"]
    for addresses, rank, name, timeout in (
        (here[:1], 0, "x", 1.0),
        (here, 2, "x", 1.0),
        (here, 0, "", 1.0),
        (here, 0, "a b", 1.0),
        (here, 0, "x", 0.0),
        (["127.0.0.1", "127.0.0.1:2"], 0, "x", 1.0),
        (["127.0.0.1:70000", "127.0.0.1:2"], 0, "x", 1.0),
        ([here[0]] * 2, 0, "x", 1.0),
    ):
        with pytest.raises(ParameterError):
            open_link(addresses, rank, tls=tls, name=name, timeout_s=timeout)
    absent = TlsFiles(certificate=folder / "no.crt", private_key=folder / "a.key", trusted=folder / "ab")
    with pytest.raises((ParameterError, StoreError)):
        open_link(here, 0, tls=absent, name="x")


def test_an_authority_is_not_pinned(folder: Path, tmp_path: Path) -> None:
    """TLS would take its word for any other key; nor is a bundle with one in it."""
    make_authority(tmp_path / "ca.crt", tmp_path / "ca.key", ["x"])
    with pytest.raises(FormatError, match="CA:FALSE"):
        read_certificate(tmp_path / "ca.crt")
    (tmp_path / "both").write_bytes((folder / "a.crt").read_bytes() + (tmp_path / "ca.crt").read_bytes())
    tls = TlsFiles(certificate=folder / "a.crt", private_key=folder / "a.key", trusted=tmp_path / "both")
    with pytest.raises(FormatError, match="CA:FALSE"):
        open_link(["127.0.0.1:1", "127.0.0.1:2"], 0, tls=tls, name="x", connect_timeout_s=1)
