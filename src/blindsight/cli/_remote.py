"""Scoring a file at a service: piece by piece, going on where it stopped, no piece charged twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight.errors import DataError, FormatError, ParameterError, ProtocolError, StoreError

from ._options import sealer_of
from ._scores import ScoreWriter, VerdictWriter, largest

if TYPE_CHECKING:
    import numpy.typing as npt

    from blindsight.blind import RecordOwner
    from blindsight.service import Client, Comparisons
    from blindsight.store import Store

__all__ = ["Remote", "RemoteScoring", "score_remote"]

Progress = Callable[[int, int], None]
RESUME_SUFFIX = ".resume"
MANY = 50_000
"""Comparisons from which on the set-up of Ferret is worth its time and memory."""

RECHARGES = 2
"""How often a piece whose comparison broke off is sealed and charged anew."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Where to score, and as whom.

    Parameters
    ----------
    url : str
    model : str, optional
        Default: the only one that is served.
    token : str, optional
    certificate, private_key : Path, optional
        The client's own.
    authority : Path, optional
        That the service's certificate goes back to.
    link_host : str, optional
        For verdicts: own IP address that the scorer connects to. Default: the one that requests come from.
    link_port : int
        Own port; 0: any free one.
    """

    url: str
    model: str | None = None
    token: str | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    authority: Path | None = None
    link_host: str | None = None
    link_port: int = 0

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect."""
        from blindsight.service import Client

        pair = None
        if self.certificate is not None and self.private_key is not None:
            pair = self.certificate, self.private_key
        with Client(self.url, token=self.token, certificate=pair, authority=self.authority) as client:
            yield client


@dataclass(frozen=True, kw_only=True)
class RemoteScoring:
    """What it did.

    Parameters
    ----------
    writer : ScoreWriter or VerdictWriter
    model, version : str
    resumed_rows : int
        Scored by an earlier call.
    recharged_rows : int
        Charged once more, by this call or an earlier one, since the comparison that should have told their verdicts
        broke off.
    bits_released : int
        Charged to the account so far for this version of the model, by all calls.
    rows_to_extract : int
    """

    writer: ScoreWriter | VerdictWriter
    model: str
    version: str
    resumed_rows: int
    recharged_rows: int
    bits_released: int
    rows_to_extract: int


def score_remote(
    remote: Remote,
    *,
    input_path: Path,
    output: Path,
    home: Path,
    key_file: Path | None,
    progress: Progress,
    explain: int = 0,
) -> RemoteScoring:
    """Score a file as its owner, at a service; or learn verdicts, where the model reveals these.

    A file beside the output keeps every opened score, and before a piece is sent its sealed bytes and its idempotency
    key. A call that is killed anywhere is repeated with the same arguments and sends the very same bytes under the same
    key: the service answers, and does not charge, again. But an answer whose comparison broke off reveals no verdict
    any more: that piece is sealed and charged anew.

    Parameters
    ----------
    home : Path
        Keeps the owner's keys.
    key_file : Path, optional
        Seals them, and the file beside the output.
    progress : callable (rows done, rows in all)
    explain : int
        How many of each record's largest contributions to write beside its score; each record is then charged once
        more for every block of the encoding.

    Raises
    ------
    ParameterError
        The file beside the output belongs to another input, service, model or key.
    PolicyError
        Contributions are asked for, and the service gives none.
    BudgetError, UnavailableError, ...
        From the service.
    """
    from blindsight.blind import RecordOwner
    from blindsight.data import Schema, records
    from blindsight.store import Store

    sealer = sealer_of(key_file)
    state = output.with_name(output.name + RESUME_SUFFIX)
    with remote.client() as client:
        name = remote.model or _only_model(client)
        facts = client.facts(name)
        offer = client.offer(name)
        if hashlib.sha256(offer).hexdigest() != facts.offer_sha256:
            raise ProtocolError("The service changed its model just now", fix="try again")
        owner = RecordOwner(offer, home=home, sealer=sealer)
        try:
            schema = Schema.from_json(owner.schema)
        except FormatError as error:
            raise ProtocolError("The offer's schema cannot be used", got=error.got) from error
        step = client.rows_at_a_time(facts)
        if explain:
            step = min(step, client.explained_rows_at_a_time(facts, owner))
        about = {
            "input": _digest(input_path), "service": client.url, "model": name, "offer": facts.offer_sha256,
            "key": owner.key_id, "rows_at_a_time": step,
        }  # fmt: skip
        if explain:
            about["explained"] = "yes"
        total = _count_rows(input_path)
        client.register(name, owner)
        with Store(state, sealer) as store:
            _bind(store.table("run"), about, state)
            pieces = _Pieces(store, client, name, owner)
            thresholds = owner.parameters.thresholds
            parts = _Contributions(store, client, name, owner) if explain else None
            resumed = pieces.rows_done
            progress(resumed, total)
            with ExitStack() as stack:
                writer: ScoreWriter | VerdictWriter
                if not thresholds:
                    if facts.threshold is None:
                        raise ProtocolError("The service's facts are of another model than its offer")
                    writer = stack.enter_context(ScoreWriter(output, facts.threshold))
                else:
                    writer = stack.enter_context(VerdictWriter(output, thresholds))
                    links = client.comparisons(
                        name,
                        owner,
                        transfer="softspoken" if 0 < total * thresholds < MANY else "ferret",
                        link_host=remote.link_host,
                        link_port=remote.link_port,
                    )
                    pieces.links = stack.enter_context(links)
                for at, chunk in enumerate(records(schema, input_path, for_scoring=True, chunk_rows=step)):
                    found = pieces.piece(at, chunk.X)
                    if isinstance(writer, VerdictWriter) or parts is None:
                        writer.add(found)
                    else:
                        writer.add(found, largest(parts.piece(at, chunk.X), owner.contribution_names, explain))
                    if writer.rows > resumed:
                        progress(writer.rows, total)
            recharged = pieces.recharged
        for suffix in ("", "-wal", "-shm"):
            state.with_name(state.name + suffix).unlink(missing_ok=True)
        spent = client.account().get("spent", [])
        bits = next((int(s.get("bits", 0)) for s in spent if isinstance(s, dict) and s.get("model") == name), 0)
    return RemoteScoring(
        writer=writer,
        model=name,
        version=facts.version,
        resumed_rows=resumed,
        recharged_rows=recharged,
        bits_released=bits,
        rows_to_extract=facts.rows_to_extract,
    )


class _Pieces:
    """Scores or verdicts of a file, piece by piece; what would be lost by a crash is on disk first."""

    log, prefix = "scores", ""

    def __init__(self, store: Store, client: Client, model: str, owner: RecordOwner) -> None:
        self._opened, self._pending = store.log(self.log), store.table("pending")
        self._store, self._client, self._model, self._owner = store, client, model, owner
        self._done = [self._read(piece) for piece in self._opened.read()]
        self.links: Comparisons | None = None

    @property
    def rows_done(self) -> int:
        """Records that an earlier call has opened."""
        return sum(len(piece) for piece in self._done)

    @property
    def recharged(self) -> int:
        """Records that were charged once more."""
        return int(self._pending.get("recharged") or b"0")

    def piece(self, at: int, X: npt.NDArray[np.float64]) -> Any:
        """What came of the piece at a place, shape (n,) or (n, blocks): an earlier call's, or asked for now."""
        from blindsight.blind import ComparisonRefused

        if at < len(self._done):
            if len(self._done[at]) != len(X):
                raise StoreError("The file beside the output does not fit the input", fix="delete it and start again")
            return self._done[at]
        for attempt in range(RECHARGES + 1):
            sealed, key = self._sealed(X)
            try:
                found = self._ask(sealed, key)
            except ComparisonRefused:  # its comparison broke off, now or in an earlier call
                if attempt == RECHARGES:
                    raise
                self._finish(None, recharged=len(X))
                continue
            self._finish(found.astype(found.dtype.newbyteorder("<")).tobytes())
            return found
        raise AssertionError("every attempt returns or raises")

    def _read(self, piece: bytes) -> npt.NDArray[Any]:
        return np.frombuffer(piece, dtype="<i8" if self._owner.parameters.thresholds else "<f8")

    def _seal(self, X: npt.NDArray[np.float64]) -> bytes:
        return self._owner.seal(X, register=False)

    def _ask(self, sealed: bytes, key: str) -> Any:
        if self.links is None:
            return self._owner.open(self._client.score(self._model, sealed, key=key), sealed=sealed)
        self.links.connect()  # before anything is charged
        return self.links.verdicts(self._client.score(self._model, sealed, key=key), sealed)

    def _sealed(self, X: npt.NDArray[np.float64]) -> tuple[bytes, str]:
        """The bytes to send, and their idempotency key: an earlier call's, if that did not come to an end."""
        from blindsight.service import new_key

        sealed, key = self._pending.get(f"{self.prefix}sealed"), self._pending.get(f"{self.prefix}key")
        if sealed is None or key is None:
            sealed, key = self._seal(X), new_key().encode()
            with self._store.transaction():
                self._pending.put(f"{self.prefix}sealed", sealed)
                self._pending.put(f"{self.prefix}key", key)
        return sealed, key.decode()

    def _finish(self, opened: bytes | None, *, recharged: int = 0) -> None:
        with self._store.transaction():
            if opened is not None:
                self._opened.append(opened)
            if recharged:
                self._pending.put("recharged", str(self.recharged + recharged).encode())
            self._pending.delete(f"{self.prefix}sealed")
            self._pending.delete(f"{self.prefix}key")


class _Contributions(_Pieces):
    """The same of what each block of the encoding added to the scores; requests of their own."""

    log, prefix = "contributions", "explained-"

    def _read(self, piece: bytes) -> npt.NDArray[Any]:
        return np.frombuffer(piece, dtype="<f8").reshape(-1, len(self._owner.contribution_names))

    def _seal(self, X: npt.NDArray[np.float64]) -> bytes:
        return self._owner.seal(X, register=False, explain=True)

    def _ask(self, sealed: bytes, key: str) -> Any:
        return self._owner.open_contributions(self._client.score(self._model, sealed, key=key), sealed=sealed)


def _only_model(client: Client) -> str:
    names = [facts.name for facts in client.models()]
    if len(names) != 1:
        raise ParameterError(
            "The service has several models" if names else "The service has no model",
            got=", ".join(names)[:200] or None,
            fix="name one: --model-name",
        )
    return names[0]


def _bind(table: Any, about: dict[str, Any], state: Path) -> None:
    text = json.dumps(about, sort_keys=True).encode()
    present = table.get("about")
    if present is None:
        table.put("about", text)
    elif present != text:
        before = json.loads(present)
        changed = sorted(key for key in about.keys() | before.keys() if before.get(key) != about.get(key))
        raise ParameterError(
            f"'{state.name}' belongs to another run",
            got=f"another {', '.join(changed).replace('_', ' ')}",
            rule="one output, one input, one version of one model",
            fix="repeat the earlier command, or delete that file and start again",
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("The input cannot be read", got=f"{path}: {error.strerror}") from error


def _count_rows(path: Path) -> int:
    """Rows of the file, for a progress bar; 0 where they cannot be counted quickly."""
    import polars as pl

    try:
        scan = pl.scan_csv(path) if path.suffix.lower() == ".csv" else pl.scan_parquet(path)
        return int(scan.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError):
        return 0
