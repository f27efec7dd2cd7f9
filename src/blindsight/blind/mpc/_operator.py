"""What one operator does: keeps shares of models, takes shares of records, runs, hands shares of answers back.

The first operator (rank 0) leads: it opens links and says which run is next, so that all run the same in the same
order. It learns no more than the others by it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blindsight.blind._budget import BitBudget, BitLedger, KeyValue
from blindsight.blind._engine import ByRecord
from blindsight.errors import (
    BlindsightError,
    ParameterError,
    PolicyError,
    ReleaseError,
    UnavailableError,
    WireError,
)

from ._config import NodeConfig
from ._offer import MpcOffer
from ._process import WorkerProcess
from ._program import Program
from ._shares import share_bytes
from ._wire import ModelHeader, RunHeader, pack, unpack
from .worker import Load, Open, Run

__all__ = ["Operator", "Peer"]

MAX_MODELS = 16
"""Of one holder; a further one replaces the oldest of the same holder."""

MAX_PENDING = 4
"""Runs of one owner that wait or run."""

MAX_AHEAD = 8
"""Runs of other owners, each of the longest time, for which a run waits once every operator has its shares."""

MAX_SEEN = 100_000

Log = Callable[[dict[str, Any]], None]


class Peer(Protocol):
    """Another operator, as the first one asks it."""

    async def prepare(self, run: RunHeader, owner: str) -> str:
        """Wait until the run's shares are there; return the name of the open link, or nothing."""

    async def session(self, name: str) -> None:
        """Open a link under that name."""

    async def execute(self, run: RunHeader, owner: str, session: str) -> None:
        """Take part in a run until it is done."""

    async def void(self, run: RunHeader, owner: str) -> None:
        """Give up a run that has not started."""

    async def abort(self, session: str) -> None:
        """Give a link up."""


@dataclass(frozen=True)
class _Model:
    name: str
    offer: bytes
    program: Program
    shares: list[bytes]
    bits_per_owner: int | None


def _model_of(header: ModelHeader, pieces: list[bytes]) -> _Model:
    offer, *shares = pieces
    return _Model(header.name, offer, MpcOffer.decode(offer).program, shares, header.bits_per_owner)


@dataclass(frozen=True)
class _Price(ByRecord):
    program: Program

    @property
    def answer_bits(self) -> float:
        """As many bits as the program opens."""
        return self.program.bits_per_row


@dataclass
class _Run:
    header: RunHeader
    owner: str
    certificate: str
    share: bytes
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    prepared: bool = False
    started: bool = False

    def expire(self) -> None:
        """Fail unless the first operator has asked for it."""
        if not self.prepared:
            self.fail(UnavailableError("A run did not start in time", fix="try again with fresh shares"))

    def fail(self, error: BlindsightError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # its owner may have gone: then nobody asks


class Operator:
    """State of one node; used from one event loop.

    Parameters
    ----------
    config : NodeConfig
    counts : KeyValue
        Bits and records released by owner and model's name.
    peers : list of Peer
        The other operators, for the first one; empty at the others.
    log : callable
        Takes one event; never gets a value, a share or a key.
    kept : KeyValue, optional
        Where shares of models outlast a restart: a table that is sealed at rest. None: they are kept in memory.

    Security
    --------
    An operator holds shares only. What it sends to a record's owner is its share of the answer, once: a run's id is
    used up when its shares arrive. Bits are charged before anything is computed and never given back.
    """

    def __init__(
        self, config: NodeConfig, counts: KeyValue, peers: list[Peer], log: Log, *, kept: KeyValue | None = None
    ) -> None:
        self._config, self._counts, self._peers, self._log, self._kept = config, counts, peers, log, kept
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._runs: dict[str, _Run] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._arrived = asyncio.Condition()
        self._worker = WorkerProcess(config.threads)
        self._session = ""
        self._turn = asyncio.Lock()
        self._turn_of: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        for key in self._index():
            header, pieces = unpack((kept.get(f"model/{key}") or b"") if kept else b"", ModelHeader, pieces="some")
            self._models[key] = _model_of(header, pieces)

    def _index(self) -> list[str]:
        value = (self._kept.get("index") if self._kept else None) or b""
        return value.decode().split()

    # -- models

    def share_model(self, holder: str, header: ModelHeader, pieces: list[bytes]) -> None:
        """Keep this operator's shares of a model; they replace an older model of that name.

        Raises
        ------
        WireError
            Offer or shares are malformed.
        PolicyError
            Another holder has a model of that name.
        ParameterError
            The program is for another protocol.
        """
        offer, *shares = pieces
        program = MpcOffer.decode(offer).program
        if program.protocol != self._config.protocol:
            raise ParameterError(
                "The model was shared for another protocol",
                got=program.protocol,
                rule=f"{self._config.protocol}: there are {len(self._config.operators)} operators",
            )
        arguments = program.secrets()
        if [len(share) for share in shares] != [share_bytes(program, argument) for argument in arguments]:
            raise WireError("A model's shares have the wrong lengths", got=f"{len(shares)} shares")
        key = f"holder/{header.name}"
        known = self._counts.get(key)
        if known is not None and known != holder.encode():
            raise PolicyError("Another holder has shared a model of this name", got=header.name)
        if header.id in self._models:
            raise ReleaseError("A model's id was used before", rule="each sharing has a fresh one")
        self._counts.put(key, holder.encode())
        self._models[header.id] = _model_of(header, pieces)
        own = [k for k, model in self._models.items() if self._counts.get(f"holder/{model.name}") == holder.encode()]
        for gone in own[:-MAX_MODELS]:
            del self._models[gone]
            if self._kept:
                self._kept.put(f"model/{gone}", b"")
        if self._kept:
            self._kept.put(f"model/{header.id}", pack(header, pieces))
            self._kept.put("index", " ".join(self._models).encode())
        self._log({"event": "model", "holder": holder, "name": header.name, "model": header.id[:8]})

    def offer_of(self, name: str) -> tuple[str, bytes]:
        """Id and offer of the newest model of a name; ParameterError where there is none."""
        for key in reversed(self._models):
            if self._models[key].name == name:
                return key, self._models[key].offer
        raise ParameterError(
            "There is no model of this name here",
            got=name[:80],
            fix="ask its holder to share it; a node without a key_file forgets its shares when it restarts",
        )

    # -- runs

    async def answer(self, owner: str, certificate: str, header: RunHeader, share: bytes) -> bytes:
        """Take an owner's shares, run when all operators have theirs, and return this operator's share of the answers.

        Parameters
        ----------
        owner : str
            This operator's name for it.
        certificate : str
            Fingerprint of its certificate: what all operators know it by.
        header : RunHeader
        share : bytes

        Raises
        ------
        ReleaseError
            The run's id was used before.
        BudgetError
            The owner's bits are used up.
        ParameterError, WireError
            Unknown model, too many records, or a share of the wrong length.
        UnavailableError
            Too many runs of this owner wait, its shares did not reach every operator, or another operator failed: the
            run is void; a new one with fresh shares may work.
        """
        model = self._models.get(header.model)
        if model is None:
            raise ParameterError("The model is not here any more", fix="fetch its offer again")
        expected = share_bytes(model.program, model.program.records(header.rows))
        if len(share) != expected:
            raise WireError("A share has the wrong length", got=f"{len(share)} bytes", rule=f"{expected} bytes")
        if header.id in self._seen:
            raise ReleaseError("A run's id was used before", rule="each run has a fresh one, and fresh shares")
        if sum(run.certificate == certificate for run in self._runs.values()) >= MAX_PENDING:
            raise UnavailableError("Too many runs of this owner wait", rule=f"at most {MAX_PENDING}")
        self._charge(owner, model, header.rows)
        self._seen[header.id] = None
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        run = _Run(header, owner, certificate, share)
        self._runs[header.id] = run
        started = time.monotonic()
        outcome = "failed"
        clock = asyncio.get_running_loop().call_later(self._config.connect_timeout_s, run.expire)
        try:
            async with self._arrived:
                self._arrived.notify_all()
            if self._config.rank == 0:
                await self._lead(run)
            async with asyncio.timeout(MAX_AHEAD * self._config.run_timeout_s):
                result = await run.answer
            outcome = "done"
            return result
        except TimeoutError as error:
            raise UnavailableError("A run did not start in time", fix="try again with fresh shares") from error
        finally:
            clock.cancel()
            del self._runs[header.id]
            run.fail(UnavailableError("The run was given up"))
            self._log(
                {
                    "event": "run",
                    "run": header.id[:8],
                    "model": header.model[:8],
                    "owner": owner,
                    "rows": header.rows,
                    "seconds": round(time.monotonic() - started, 3),
                    "outcome": outcome,
                }
            )

    def _charge(self, owner: str, model: _Model, rows: int) -> None:
        budget = BitBudget(bits_per_owner=model.bits_per_owner)
        BitLedger(budget, self._counts, model.name).charge(owner, rows, _Price(model.program))

    async def _lead(self, run: _Run) -> None:
        run.prepared = True  # the first operator waits for the others, not they for it
        try:
            await self._everywhere(run)
            async with self._turn_of[run.certificate], self._turn:  # one run of an owner in the queue at a time
                open_at = await self._everywhere(run)  # at once: it only might have gone in the meantime
                await self._compute(run, open_at)
        except (BlindsightError, asyncio.CancelledError):
            voids = (peer.void(run.header, run.certificate) for peer in self._peers)
            await asyncio.gather(*voids, return_exceptions=True)
            raise

    async def _everywhere(self, run: _Run) -> list[str]:
        """Wait until all operators have a run's shares; names of the links that they have open."""
        return await _all([peer.prepare(run.header, run.certificate) for peer in self._peers])

    async def _compute(self, run: _Run, open_at: list[str]) -> None:
        try:
            if not self._linked or any(session != self._session for session in open_at):
                name = secrets.token_hex(16)
                await _all([self.open_session(name), *(peer.session(name) for peer in self._peers)])
            session = self._session
            operators: list[Operator | Peer] = [self, *self._peers]
            await _all([operator.execute(run.header, run.certificate, session) for operator in operators])
        except BlindsightError as error:
            await self._give_up(run, error)
            raise
        except asyncio.CancelledError:  # the owner has gone in the middle of a computation
            await self._give_up(run, UnavailableError("The run was given up"))
            raise

    async def _give_up(self, run: _Run, error: BlindsightError) -> None:
        """Close the link everywhere: one operator may be in the middle of a computation that will never end."""
        run.fail(error)
        session, self._session = self._session, ""
        await self._renew()
        if session:
            await asyncio.gather(*(peer.abort(session) for peer in self._peers), return_exceptions=True)

    # -- what the first operator asks

    async def prepare(self, header: RunHeader, owner: str) -> str:
        """Wait until a run's shares are here; return the name of the open link, or nothing.

        Parameters
        ----------
        header : RunHeader
        owner : str
            Fingerprint of the certificate of the owner who sent the first operator its shares.

        Raises
        ------
        UnavailableError
            They did not come in time, are gone, or came from another owner.
        """
        try:
            async with asyncio.timeout(self._config.connect_timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: header.id in self._seen)
        except TimeoutError as error:
            raise UnavailableError(
                "An owner's shares did not reach every operator", got=f"none at operator {self._config.rank}"
            ) from error
        self._same(header, owner).prepared = True
        return self._session if self._linked else ""

    async def open_session(self, name: str) -> None:
        """Open a link in a worker that never had one."""
        self._session = ""
        if self._worker.opened or not self._worker.alive:
            await self._renew()
        config, worker = self._config, self._worker
        worker.opened = True
        addresses = [operator.link for operator in config.operators]
        addresses[config.rank] = config.link_listen or addresses[config.rank]
        tls = config.tls(self._trusted())
        await worker.ask(
            Open(
                addresses=addresses,
                rank=config.rank,
                certificate=str(tls.certificate),
                private_key=str(tls.private_key),
                trusted=str(tls.trusted),
                name=name,
                timeout_s=config.run_timeout_s,
                connect_timeout_s=config.connect_timeout_s,
            ),
            config.connect_timeout_s + 10.0,
        )
        self._session = name
        self._log({"event": "session", "outcome": "open"})

    async def execute(self, header: RunHeader, owner: str, session: str) -> None:
        """Take part in a run; its answer goes to the owner's waiting request.

        Raises
        ------
        ReleaseError
            It was executed before.
        UnavailableError, ProtocolError
            The link is another, or the run failed.
        """
        run = self._same(header, owner)
        worker, model = self._worker, self._models.get(header.model)
        if not self._linked or session != self._session or model is None:
            raise UnavailableError("The operators' link is not open")
        if run.started:
            raise ReleaseError("A run was started before", rule="every run's shares are used once")
        run.started = True
        try:
            if header.model not in worker.loaded:
                load = Load(model=header.model, program=model.program.encode(), shares=model.shares)
                await worker.ask(load, self._config.run_timeout_s)
                worker.loaded.add(header.model)
            request = Run(run=header.id, owner=owner, model=header.model, rows=header.rows, records=run.share)
            answer = await worker.ask(request, self._config.run_timeout_s)
        except BlindsightError as error:
            worker.kill()
            failure = UnavailableError(
                f"The computation failed at operator {self._config.rank}",
                got=error.what[:300],
                fix="try again: the run is void, nothing was opened",
            )
            run.fail(failure)
            raise failure from error
        if not run.answer.done():
            run.answer.set_result(answer)

    async def void(self, header: RunHeader, owner: str) -> None:
        """Give up a run that the first operator will not start, if it is here."""
        run = self._runs.get(header.id)
        if run is not None and (run.header, run.certificate) == (header, owner) and not run.started:
            run.fail(UnavailableError("The run was given up", fix="try again with fresh shares"))

    async def abort(self, session: str) -> None:
        """Give the link of that name up."""
        if session == self._session:
            self._session = ""
            await self._renew()
            self._log({"event": "session", "outcome": "given up"})

    @property
    def _linked(self) -> bool:
        return bool(self._session) and self._worker.alive

    async def _renew(self) -> None:
        """Start a worker ahead of the next link: importing SPU and JAX takes seconds."""
        old, self._worker = self._worker, WorkerProcess(self._config.threads)
        await old.close()

    def _same(self, header: RunHeader, owner: str) -> _Run:
        """The run that is meant: operators that mixed two owners' shares would answer one about the other's."""
        run = self._runs.get(header.id)
        if run is None or run.header != header or run.certificate != owner:
            raise UnavailableError("A run's shares are not here, or are for another run or of another owner")
        return run

    def _trusted(self) -> Path:
        """File with the other operators' certificates, for the link."""
        config = self._config
        others = [o for rank, o in enumerate(config.operators) if rank != config.rank]
        path = config.path(config.state) / "link-trusted.pem"
        path.write_bytes(b"".join(config.path(o.certificate).read_bytes() for o in others))
        return path

    def health(self) -> dict[str, Any]:
        """What anyone who may connect may know."""
        return {
            "rank": self._config.rank,
            "protocol": self._config.protocol,
            "models": len(self._models),
            "pending": len(self._runs),
            "link": self._linked,
        }

    async def close(self) -> None:
        """End the worker; what still waits fails."""
        for run in self._runs.values():
            run.fail(UnavailableError("The operator shuts down"))
        await self._worker.close()


async def _all(parts: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results of all; on the first error the others are cancelled, and it is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
