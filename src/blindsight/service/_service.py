"""What the service does, without HTTP: registers keys, answers requests, keeps answers, computes a second model."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blindsight.blind import key_id_of_registration, read_header
from blindsight.errors import BlindsightError, WireError
from blindsight.store import Store

from ._answers import Answers, Record
from ._credentials import Credentials
from ._keycheck import KeyCheck
from ._links import Links
from ._metrics import Metrics
from ._models import Models, Served
from ._problems import RequestError
from ._settings import Settings

__all__ = ["Answer", "Service"]

SHADOW_QUEUE = 4
logger = logging.getLogger("blindsight.service")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a request.

    Parameters
    ----------
    content : bytes
    version : str
        Of the model, or empty for an answer sent again.
    rows : int
    bits : int
        Charged now; 0 for an answer sent again or computed again.
    replayed : bool
    """

    content: bytes
    version: str
    rows: int
    bits: int
    replayed: bool


class _Decided(Exception):
    """Another process has answered this very request meanwhile."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Service:
    """One worker's part of the service; everything that lasts is in the store.

    Parameters
    ----------
    store : Store
    settings : Settings
    metrics : Metrics
    """

    def __init__(self, store: Store, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.credentials = Credentials(store)
        self.models = Models(store, settings)
        self.answers = Answers(
            store,
            seconds=settings.answer_seconds,
            bytes_per_account=settings.answer_bytes,
            attempts=settings.attempts,
        )
        self._keys = store.table("keys")
        self._check = KeyCheck(memory_bytes=settings.key_check_memory_bytes, seconds=settings.key_check_seconds)
        self.links = Links(self)
        self._shadows = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(SHADOW_QUEUE)

    def close(self) -> None:
        """End child processes and what is still computed beside."""
        self.links.close()
        self._shadows.shutdown(wait=False, cancel_futures=True)
        self._check.close()

    def load(self) -> list[str]:
        """Load every current model; returns the names."""
        names = self.models.names()
        for name in names:
            self.models.current(name)
        return names

    # -- keys

    def register(self, account: str, name: str, registration: bytes) -> str:
        """Have a registration read by the limited process, and keep it.

        Raises
        ------
        RequestError
            404, or 409: the account has too many keys for this model.
        WireError
            Malformed.
        """
        served = self.models.current(name)
        key_id = key_id_of_registration(served.scorer.parameters, registration).hex()
        if self.has_key(account, served, key_id):
            return key_id
        # what the child says is worth no more than what it read: the id is our own, its word is compared
        if self._check.check(served.scorer.offer(), registration) != key_id:
            raise WireError("The process that reads registrations took this one for another")
        with self._keys.transaction():
            kept = self.keys(account, served)
            if key_id in kept:
                return key_id
            if len(kept) >= self.settings.max_keys:
                raise RequestError(
                    409,
                    "too-many-keys",
                    "This account has as many keys registered for this model as it may",
                    rule=f"at most {self.settings.max_keys}",
                    fix="delete one that is no longer used: DELETE /v1/models/{name}/keys/{key_id}",
                )
            served.scorer.register(registration)
            self._keys.put(_key_entry(account, served, key_id), b"")
        return key_id

    def keys(self, account: str, served: Served) -> list[str]:
        """Key ids that an account has registered for a model."""
        prefix = _key_entry(account, served, "")
        return [entry[len(prefix) :] for entry in self._keys.keys(prefix)]

    def has_key(self, account: str, served: Served, key_id: str) -> bool:
        """Whether an account has registered this key for a model."""
        return self._keys.get(_key_entry(account, served, key_id)) is not None

    def forget(self, account: str, name: str, key_id: str) -> None:
        """Drop a key of an account.

        Raises
        ------
        RequestError
            404: the account has no such key.
        """
        served = self.models.current(name)
        with self._keys.transaction():
            if key_id not in self.keys(account, served):
                raise RequestError(404, "no-such-key", "This account has no such key")
            self._keys.delete(_key_entry(account, served, key_id))
            others = any(entry.endswith(f"/{served.version.offer}/{key_id}") for entry in self._keys.keys(""))
            if not others:
                served.scorer.forget(key_id)

    # -- scoring

    def score(self, account: str, name: str, key: str | None, sealed: bytes) -> Answer:
        """Answer a sealed request, once under each idempotency key.

        Parameters
        ----------
        account : str
            Charged.
        name : str
            The model's.
        key : str, optional
            Idempotency key. Without one every call is charged and nothing is kept.
        sealed : bytes

        Raises
        ------
        RequestError
            404: no such model. 409: the offer has changed, or the key is not registered. 422: the idempotency key was
            used for another request.
        BlindsightError
            As :meth:`Scorer.score`.
        """
        request = hashlib.sha256(name.encode() + b"\0" + sealed).digest()
        if key is not None:
            record = self.answers.find(account, key, request)
            if record is not None and record.answer is not None:
                return self._again(name, record.answer)
        header, _ = read_header(sealed)
        served = self.models.current(name)
        if header.offer != served.digest:
            raise RequestError(
                409,
                "offer-changed",
                "The request was sealed for another version of the model",
                rule=f"version {served.version.id} is served now",
                fix="fetch the present offer, register with it and seal again",
            )
        key_id = header.key.hex()
        if not self.has_key(account, served, key_id):
            raise RequestError(
                409,
                "key-not-registered",
                "The key that this request was sealed with is not registered by this account",
                got=key_id,
                fix="POST RecordOwner.registration to the model's keys first",
            )
        bits = 0
        begun: Record | None = None

        def settle(charge: Callable[[], int]) -> None:
            nonlocal bits, begun

            def count() -> int:
                nonlocal bits
                bits = charge()
                return bits

            if key is None:
                count()
                return
            begun = self.answers.begin(account, key, request, count, ledger=served.scorer.fingerprint)
            if begun.answer is not None:
                raise _Decided(begun.answer)

        started = time.perf_counter()
        try:
            content = served.scorer.score(sealed, account=account, settle=settle)
        except _Decided as decided:
            return self._again(name, decided.answer)
        finally:
            if bits:
                counted = served.scorer.parameters.charge_rows(header.rows)
                self.metrics.charged(name, account, bits, counted)
        self.metrics.computed(name, time.perf_counter() - started)
        if key is not None:
            assert begun is not None
            kept = self.answers.finish(account, key, begun, content)
            assert kept.answer is not None
            content = kept.answer
        self._beside(served, account, sealed)
        return Answer(content=content, version=served.version.id, rows=header.rows, bits=bits, replayed=False)

    def _again(self, name: str, content: bytes) -> Answer:
        self.metrics.replayed(name)
        return Answer(content=content, version="", rows=0, bits=0, replayed=True)

    # -- a second model

    def _beside(self, served: Served, account: str, sealed: bytes) -> None:
        """Compute the second model later, unless it is behind already; its answer is dropped."""
        if served.shadow is None or not self._room.acquire(blocking=False):
            return
        try:
            self._shadows.submit(self._shadow, served, account, sealed)
        except RuntimeError:  # shutting down
            self._room.release()

    def _shadow(self, served: Served, account: str, sealed: bytes) -> None:
        line: dict[str, object] = {"event": "shadow", "model": served.name, "version": served.shadow_id}
        started = time.perf_counter()
        try:
            assert served.shadow is not None
            served.shadow.score(sealed, account=account)
            line["answer"] = "dropped"
        except BlindsightError as error:
            line["trouble"] = type(error).__name__
        finally:
            self._room.release()
            seconds = time.perf_counter() - started
            line["ms"] = round(1000 * seconds, 2)
            self.metrics.shadowed(served.name, seconds)
            logger.info(line)


def _key_entry(account: str, served: Served, key_id: str) -> str:
    return f"{account}/{served.version.offer}/{key_id}"
