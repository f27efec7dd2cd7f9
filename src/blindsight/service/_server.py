"""Starts the service: a socket, TLS, and workers that are replaced when they die."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsight.channels import BACKLOG, listen
from blindsight.errors import MissingExtraError, ParameterError

from ._hosts import is_loopback
from ._metrics import DIRECTORY
from ._settings import ENVIRONMENT, Settings

__all__ = ["Address", "Tls", "check_installed", "serve"]

HEALTH_SECONDS = 60
NEEDED = ("fastapi", "h11", "prometheus_client", "uvicorn")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Paths of PEM files.

    Parameters
    ----------
    certificate, private_key : Path
        The service's own; certificate first, then the chain.
    client_authority : Path, optional
        Certificates that may sign those of clients. Default: no client certificates.
    """

    certificate: Path
    private_key: Path
    client_authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Context of the service: TLS 1.2 or later.

        Raises
        ------
        ParameterError
            The files do not hold a certificate and its key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.private_key)
            if self.client_authority is not None:
                context.load_verify_locations(self.client_authority)
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as error:
            raise ParameterError(
                "The certificate, its key or the clients' authority cannot be used",
                got=type(error).__name__,
                rule="PEM files; the key belongs to the certificate and has no passphrase",
            ) from error
        return context


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the service listens.

    Parameters
    ----------
    host : str
    port : int
        0: any free one.
    """

    host: str = "127.0.0.1"
    port: int = 8443


def check_installed() -> None:
    """Refuse before anything is published or listens: a worker would find out in a process of its own, and be replaced.

    Raises
    ------
    MissingExtraError
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "The scoring service needs an extra",
            got=f"not installed: {', '.join(missing)}",
            fix="pip install 'blindsight[serve]'",
        )


def _context(tls: Tls, _config: Any, _default: Any) -> ssl.SSLContext:
    return tls.context()


def serve(settings: Settings, address: Address, tls: Tls | None, *, workers: int, ready: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT; then requests in flight are finished.

    Parameters
    ----------
    settings : Settings
    address : Address
    tls : Tls, optional
        None asks for ``settings.insecure`` and a loopback address.
    workers : int
        Processes. One that dies is replaced.
    ready : callable
        Called with the URL once the socket listens.

    Raises
    ------
    ParameterError
        Plain HTTP on an address that others reach.
    UnavailableError
        The address is taken.
    MissingExtraError
        As :func:`check_installed`.
    """
    check_installed()
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from ._protocol import BoundedProtocol

    if tls is None and not (settings.insecure and is_loopback(address.host)):
        raise ParameterError(
            "The service does not speak plain HTTP",
            got=address.host,
            rule="a certificate; without one --insecure-loopback, on a loopback address only",
            fix="give --certificate and --private-key",
        )
    if tls is not None:
        tls.context()
    listener = listen(address.host, address.port, elsewhere="choose another --port")
    listener.set_inheritable(True)
    counts = tempfile.mkdtemp(prefix="blindsight-metrics-")
    os.environ[ENVIRONMENT] = settings.to_json()
    os.environ[DIRECTORY] = counts
    config = uvicorn.Config(
        "blindsight.service._app:create_app",
        factory=True,
        loop="blindsight.service._protocol:TimedLoop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        workers=workers,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        timeout_worker_healthcheck=HEALTH_SECONDS,
        h11_max_incomplete_event_size=16384,
        ssl_context_factory=None if tls is None else functools.partial(_context, tls),
    )
    scheme = "http" if tls is None else "https"
    host, port = listener.getsockname()[:2]
    try:
        ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        Multiprocess(config, sockets=[listener]).run()
    finally:
        listener.close()
        shutil.rmtree(counts, ignore_errors=True)
        for name in (ENVIRONMENT, DIRECTORY):
            os.environ.pop(name, None)
