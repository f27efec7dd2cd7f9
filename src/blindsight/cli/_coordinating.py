"""A federation whose parties dial in, as a command runs it: what it is told, and what runs beside it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.federation import CoordinatorSite, Federation
    from blindsight.privacy import DifferentialPrivacy

    from ._rounds import Rounds, RunListener
    from ._run_metrics import RunMetrics

__all__ = ["Meeting", "Running", "WaitOption", "coordinating", "terminated_as_interrupted", "where"]

WaitOption = Annotated[float, typer.Option("--wait-s", help="How long to wait for them.", min=0.1)]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Options of every command that opens sums."""

    quorum: Annotated[
        int | None, typer.Option(help="Begin once so many parties are connected.  [default: all of the list]", min=3)
    ] = None
    wait_s: WaitOption = 600.0
    deadline_s: Annotated[
        float,
        typer.Option("--deadline-s", help="For each exchange of a sum; who takes longer is left out of it.", min=0.1),
    ] = 600.0
    approval_s: Annotated[
        float, typer.Option("--approval-s", help="How long to wait where a person has to approve.", min=0.0)
    ] = 3600.0
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", help="Serve Prometheus metrics on 127.0.0.1:PORT while it runs.", min=0, max=65535
        ),
    ] = None
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", help="Tracking server of MLflow to log the run to.  [default: none]")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Options of every command that meets the parties: where, and what is kept of it."""

    url: Annotated[
        str | None, typer.Option("--url", help="Which of the list's addresses to serve.  [default: the first]")
    ] = None
    listen: Annotated[
        str | None, typer.Option("--listen", help="HOST:PORT to listen on, where that is not the address itself.")
    ] = None
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket", help="Over Flower: where its app connects, mode 0660.  [default: flower.sock in the kit]"
        ),
    ] = None
    journal: Annotated[
        str | None,
        typer.Option(
            "--journal", help="Path or postgresql:// URL of the journal.  [default: coordinator.db in the kit]"
        ),
    ] = None
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Key file that seals model and journal at rest.")
    ] = None

    def open(self, kit: Path) -> CoordinatorSite:
        """The coordinator's kit, where its parties come to it."""
        from blindsight.federation import open_coordinator

        return open_coordinator(
            kit,
            url=self.url,
            listen=_host_and_port(self.listen),
            socket=self.socket,
            key_file=self.key_file,
            journal=self.journal,
        )


@contextlib.contextmanager
def coordinating(
    kit: Path,
    screen: Screen,
    privacy: DifferentialPrivacy | None,
    running: Running,
    meeting: Meeting,
    *,
    about: dict[str, str],
    before: Callable[[Federation], None] | None = None,
) -> Iterator[tuple[CoordinatorSite, Federation, Rounds]]:
    """A federation whose parties have dialled in, and what shows its sums; ``before`` may refuse before they do."""
    from blindsight.federation import Federation, wait_for_parties

    from ._rounds import ROUNDS_FILE, Rounds

    with (
        terminated_as_interrupted(),
        _metrics(running.metrics_port, screen) as metrics,
        meeting.open(kit) as site,
        contextlib.ExitStack() as ending,
    ):
        federation = Federation(
            site.channel,
            participants=site.listing.participants,
            schema=site.schema,
            name=site.listing.federation,
            timeout_s=running.deadline_s,
            journal=site.journal,
            approval_timeout_s=running.approval_s,
        )
        listeners: list[RunListener] = [] if metrics is None else [metrics]
        if running.mlflow is not None:
            from ._run_mlflow import RunMlflow

            told = RunMlflow(
                running.mlflow,
                experiment=federation.name,
                run=lambda: federation.history[-1],
                parameters={**about, "privacy": "exact" if privacy is None else str(privacy)},
            )
            listeners.append(ending.enter_context(told))
        rounds = Rounds(
            kit / ROUNDS_FILE,
            run=lambda: federation.history[-1],
            delta=None if privacy is None else privacy.delta,
            quiet=screen.as_json,
            listeners=listeners,
        )
        federation.progress = rounds.phase
        if before is not None:
            before(federation)
        screen.say(f"{where(site)} for the {len(site.listing.parties)} parties of "
                   f"'{federation.name}', list {site.listing.serial}.")  # fmt: skip
        with rounds:
            wait_for_parties(federation, quorum=running.quorum or len(site.listing.parties),
                             wait_s=running.wait_s, tell=rounds.waits)  # fmt: skip
            yield site, federation, rounds


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does: the journal is written at every step, and the screen is put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def where(site: CoordinatorSite) -> str:
    """Where the coordinator is met."""
    scheme = site.channel.url.partition(":")[0]
    if scheme == "flower":
        return f"Listening on {getattr(site.channel, 'socket', site.channel.url)}"
    return f"{'Waiting at the broker' if scheme == 'mqtts' else 'Listening on'} {site.channel.url}"


@contextlib.contextmanager
def _metrics(port: int | None, screen: Screen) -> Iterator[RunMetrics | None]:
    """Metrics while the block runs, if a port is given."""
    if port is None:
        yield None
        return
    from ._run_metrics import RunMetrics

    with RunMetrics(port) as metrics:
        screen.say(f"Metrics: http://127.0.0.1:{metrics.port}/metrics")
        yield metrics


def _host_and_port(text: str | None) -> tuple[str, int] | None:
    from blindsight.errors import ParameterError

    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ParameterError("--listen cannot be read", got=repr(text)[:80], rule="HOST:PORT", fix="0.0.0.0:8443")
    return host.strip("[]"), int(port)
