"""A real service in real processes, with real TLS, for the time of a test."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import blindsight as bs
from blindsight import modelfile
from blindsight.service import Client, Credentials, Models, Settings, make_certificate, open_service_store

START_SECONDS = 120.0

SCRIPT = """
import json
import sys
from pathlib import Path

from blindsight.service import Address, Settings, Tls, serve

if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    authority = told["authority"] and Path(told["authority"])
    tls = Tls(certificate=Path(told["certificate"]), private_key=Path(told["key"]), client_authority=authority)
    address, settings = Address(port=told["port"]), Settings.from_json(told["settings"])
    serve(settings, address, tls, workers=told["workers"], ready=lambda url: print(url, flush=True))
"""


def make_model(seed: int = 0, features: int = 4, rows: int = 400):
    """A fitted detector, and records like those it was fitted on."""
    rng = np.random.default_rng(seed)
    columns = tuple(bs.data.Column(name=f"x{i}", low=-4.0, high=4.0) for i in range(features))
    schema = bs.Schema(columns)
    X = np.clip(rng.normal(size=(rows, features)), -4, 4)
    return bs.ECOD(schema=schema, contamination=0.05).fit(X), X


class Running:
    """``blindsight serve`` of one home folder."""

    def __init__(self, home: Path, *, workers: int = 1, database: str | None = None, **settings) -> None:
        self.home, self.workers = home, workers
        self.settings = Settings(home=str(home), database=database, **settings)
        self.certificate, self.private_key = home / "tls.pem", home / "tls.key"
        self.client_authority: Path | None = None
        self.url = ""
        self.process: subprocess.Popen | None = None
        home.mkdir(parents=True, exist_ok=True)
        if not self.certificate.exists():
            make_certificate(self.certificate, self.private_key, ["127.0.0.1", "localhost"])

    # -- set-up, as the command line does it

    @contextlib.contextmanager
    def store(self):
        with open_service_store(self.settings) as store:
            yield store

    def publish(self, model, name: str = "model", packing: str = "rows", thresholds=None, scheme=None):
        with self.store() as store:
            models = Models(store, self.settings)
            return models.publish(name, modelfile.dumps(model), packing=packing, thresholds=thresholds, scheme=scheme)

    def token(self, account: str = "bank-a", scopes=("score", "register"), seconds: float = 3600.0) -> str:
        with self.store() as store:
            return Credentials(store).create_token(account, scopes, seconds=seconds)[1]

    # -- the process

    def start(self, port: int = 0) -> Running:
        path = self.home / "start.py"
        path.write_text(SCRIPT)
        told = {
            "certificate": str(self.certificate),
            "key": str(self.private_key),
            "authority": self.client_authority and str(self.client_authority),
            "settings": self.settings.to_json(),
            "port": port,
            "workers": self.workers,
        }
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with (self.home / "log.jsonl").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(path), json.dumps(told)],
                stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        try:
            self.url = self.process.stdout.readline().decode().strip()
            assert self.url.startswith("https://"), self.log()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if self.get("/readyz").status_code in (200, 503):
                    return
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        raise AssertionError(f"the service did not start:\n{self.log()}")

    def worker_pids(self) -> list[int]:
        """Children that serve: those of the supervisor, but for multiprocessing's own."""
        pids = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes()
                if parent == self.process.pid and b"resource_tracker" not in command and b"spawn_main" in command:
                    pids.append(int(entry.name))
        return sorted(pids)

    def memory_bytes(self) -> int:
        """Resident memory of all workers."""
        total = 0
        for pid in self.worker_pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        total += int(line.split()[1]) * 1024
        return total

    def stop(self, seconds: float = 40.0) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait(10)
        self.process.stdout.close()
        self.process = None
        return code

    def __enter__(self) -> Running:
        return self.start()

    def __exit__(self, *exception) -> None:
        self.stop()

    # -- talking to it

    def http(self, token: str | None = None, **options) -> httpx.Client:
        import ssl

        context = ssl.create_default_context(cafile=str(self.certificate))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=30, **options)

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        with self.http(token) as client:
            return client.get(path)

    def client(self, token: str | None, **options) -> Client:
        return Client(self.url, token=token, authority=self.certificate, **options)

    def log(self) -> str:
        path = self.home / "log.jsonl"
        return path.read_text() if path.exists() else ""

    def log_lines(self) -> list[dict]:
        lines = []
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def logged(self, wanted: Callable[[dict], bool], count: int = 1, *, seconds: float = 30.0) -> list[dict]:
        """The log lines that are wanted, once there are so many: the service writes them when it has answered."""
        deadline = time.monotonic() + seconds
        while True:
            lines = [line for line in self.log_lines() if wanted(line)]
            if len(lines) >= count or time.monotonic() > deadline:
                return lines
            time.sleep(0.05)


def make_client_certificate(folder: Path, name: str):
    """An authority and a certificate signed by it: paths of authority, certificate, key; and the DER form."""
    now = datetime.datetime.now(datetime.UTC)

    def build(subject, issuer, key, signer, *, authority):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {name}")])
    root = build(root_name, root_name, root_key, root_key, authority=True)
    own = build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), root_name, key, root_key, authority=False)
    paths = [folder / f"{name}-{part}.pem" for part in ("authority", "certificate", "key")]
    paths[0].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(own.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return (*paths, own.public_bytes(serialization.Encoding.DER))
