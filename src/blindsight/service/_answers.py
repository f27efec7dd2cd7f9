"""Answers kept under their idempotency keys, for a while: sent again, charged once."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec

from blindsight.errors import StoreError
from blindsight.store import Store

from ._problems import RequestError

__all__ = ["Answers", "Record"]

MAX_KEY_CHARS = 128
SWEEP = 16


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known under one idempotency key.

    Parameters
    ----------
    request : bytes
        SHA-256 of what was asked.
    charge : bytes
        Names the charge that was made when the record was.
    bits : int
        That charge.
    ledger : str
        Fingerprint of the weights that the charge was for.
    expires : float
    attempts : int
        Times that the computation was begun.
    answer : bytes, optional
        Present once it is decided; the one answer that leaves under this charge.
    """

    request: bytes
    charge: bytes
    bits: int
    expires: float
    ledger: str = ""
    attempts: int = 1
    answer: bytes | None = None


_decoder = msgspec.msgpack.Decoder(Record)


class Answers:
    """Records of requests and their answers, by account and idempotency key.

    Parameters
    ----------
    store : Store
    seconds : float
        How long a record is kept.
    bytes_per_account : int
        Above this an account's oldest records go.
    attempts : int
        Computations under one charge.

    Notes
    -----
    A record is written in the transaction that charges, and its answer is written before any byte of it leaves. So a
    worker that dies in between leaves a charge without an answer, and whoever sends the request again gets it computed
    for nothing; of two that compute at a time, the first to write decides, and both send what it wrote. Under one
    charge one answer leaves. Once a record is gone, its key is as good as new and charged again.
    """

    def __init__(self, store: Store, *, seconds: float, bytes_per_account: int, attempts: int) -> None:
        self._records, self._order = store.table("answers"), store.table("answers-by-age")
        self._places, self._bytes = store.table("answers-places"), store.table("answers-bytes")
        self._seconds, self._most_bytes, self._attempts = seconds, bytes_per_account, attempts

    def find(self, account: str, key: str, request: bytes) -> Record | None:
        """Return the record under a key.

        Raises
        ------
        RequestError
            422: another request was sent under this key.
        """
        record = self._get(_name(account, key))
        if record is None or record.expires < time.time():
            return None
        if record.request != request:
            raise RequestError(
                422,
                "idempotency-key-reused",
                "The idempotency key was used for another request",
                rule="one key, one request",
                fix="make a new random key for each request",
            )
        return record

    def begin(self, account: str, key: str, request: bytes, charge: Callable[[], int], *, ledger: str) -> Record:
        """Charge and write a record, or count another attempt under a charge that has no answer yet.

        Parameters
        ----------
        charge : callable -> int
            Charges, in the same transaction, and returns the bits.
        ledger : str
            Fingerprint of the weights that are charged for. A charge for others, made before another version was
            published, pays for no answer of these: it is made anew.

        Raises
        ------
        RequestError
            422: another request under this key. 409: it was tried too often.
        """
        name = _name(account, key)
        with self._records.transaction():
            record = self.find(account, key, request)
            if record is None or (record.answer is None and record.ledger != ledger):
                self._drop(name)
                record = Record(
                    request=request,
                    charge=secrets.token_bytes(16),
                    bits=charge(),
                    ledger=ledger,
                    expires=time.time() + self._seconds,
                )
                self._put(account, name, record)
            elif record.answer is None:
                if record.attempts >= self._attempts:
                    raise RequestError(
                        409,
                        "too-many-attempts",
                        "This request was begun too often without an answer",
                        rule=f"{self._attempts} computations under one charge",
                        fix="seal it again and send it under a new key; that is charged again",
                    )
                record = msgspec.structs.replace(record, attempts=record.attempts + 1)
                self._put(account, name, record)
        return record

    def finish(self, account: str, key: str, begun: Record, answer: bytes) -> Record:
        """Write the answer, or return the record in which another process has written one.

        Raises
        ------
        RequestError
            409: the record expired meanwhile, so that this answer may not leave.
        """
        name = _name(account, key)
        with self._records.transaction():
            record = self._get(name)
            if record is None or record.charge != begun.charge:
                raise RequestError(409, "answer-expired", "The answer came after its idempotency key had expired")
            if record.answer is None:
                record = msgspec.structs.replace(record, answer=answer)
                self._put(account, name, record)
                self._trim(account, keep=name)
        return record

    def sweep(self, most: int = 256) -> int:
        """Remove records that have expired, at most so many of each account; returns how many."""
        removed, now = 0, time.time()
        for account in self._bytes.keys(""):
            for entry in self._order.keys(f"{account}/", most=most):
                _, expires, name = entry.split("/", 2)
                if float(expires) > now:
                    break
                with self._records.transaction():
                    removed += self._drop(name)
        return removed

    # -- private

    def _get(self, name: str) -> Record | None:
        value = self._records.get(name)
        try:
            return None if value is None else _decoder.decode(value)
        except msgspec.MsgspecError as error:
            raise StoreError("A stored answer is damaged") from error

    def _put(self, account: str, name: str, record: Record) -> None:
        self._drop(name)
        value = msgspec.msgpack.encode(record)
        entry = f"{account}/{record.expires:020.6f}/{name}"
        self._records.put(name, value)
        self._order.put(entry, b"")
        self._places.put(name, f"{len(value)} {entry}".encode())
        self._count(account, len(value))

    def _drop(self, name: str) -> int:
        place = self._places.get(name)
        if place is None:
            return 0
        size, entry = place.decode().split(" ", 1)
        self._records.delete(name)
        self._order.delete(entry)
        self._places.delete(name)
        self._count(entry.split("/", 1)[0], -int(size))
        return 1

    def _count(self, account: str, change: int) -> int:
        total = int(self._bytes.get(account) or b"0") + change
        self._bytes.put(account, str(total).encode())
        return total

    def _trim(self, account: str, keep: str) -> None:
        for entry in self._order.keys(f"{account}/", most=SWEEP):
            if int(self._bytes.get(account) or b"0") <= self._most_bytes:
                return
            name = entry.split("/", 2)[2]
            if name != keep:
                self._drop(name)


def _name(account: str, key: str) -> str:
    return f"{account}.{hashlib.sha256(key.encode()).hexdigest()}"
