"""The record owner's side: seals records, opens scores."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.circuits import Encoder
from blindsight.data import Schema, records
from blindsight.errors import AuthenticationError, DataError, FormatError, ParameterError, StoreError, WireError
from blindsight.he import HeContext, SecretKey, check_residues, pack_residues, unpack_residues
from blindsight.keys import write_atomic

from ._columns import Columns
from ._envelope import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_ROWS,
    Header,
    Session,
    close_envelope,
    key_id_of,
    new_salt,
    open_envelope,
    private_bytes,
    public_bytes,
    split_envelope,
)
from ._offer import Offer
from ._plan import BlindParameters
from ._rows import Rows

__all__ = ["RecordOwner"]

MAGIC = b"BSOK1\n"
ENCODE_ROWS = 4096


class _Sealer(Protocol):
    def seal(self, plaintext: bytes, context: bytes) -> bytes: ...
    def open(self, sealed: bytes, context: bytes) -> bytes: ...


class RecordOwner:
    """Seals records for one scorer and opens its answers.

    Parameters
    ----------
    offer : bytes
        From :meth:`Scorer.offer`, fetched over an authenticated channel; read as untrusted.
    home : path-like, optional
        Folder in which the keys persist. Default: they live as long as this object.
    sealer : keys.Sealer, optional
        Seals the keys at rest. Without one the file has mode 0600 and nothing more.

    Security
    --------
    The secret key never leaves; records leave encrypted under it (BFV, 128 bits of security, symmetric). The scorer
    sees how many records there are, and when. Never tell it whether an answer decrypted well: that signal is an oracle.
    Not yet audited.
    """

    def __init__(self, offer: bytes, home: str | os.PathLike[str] | None = None, sealer: _Sealer | None = None) -> None:
        self._offer = Offer.decode(offer)
        self._digest = self._offer.digest
        self._context = HeContext(self.parameters.he)
        self._packing = (Columns if self.parameters.packing == "columns" else Rows)(self._context, self.parameters)
        if home is None:
            self._generate()
        else:
            self._load_or_create(Path(home), sealer)
        self._registered = False

    @property
    def key_id(self) -> str:
        """What the scorer counts bits under, hexadecimal. Not secret."""
        return self._key_id.hex()

    @property
    def parameters(self) -> BlindParameters:
        """How records are scored."""
        return self._offer.parameters

    @property
    def encoder(self) -> Encoder:
        """The public encoder."""
        return self._offer.encoder

    @property
    def schema(self) -> dict[str, Any]:
        """JSON form of the schema that the columns of ``X`` follow."""
        return self._offer.schema

    def seal(self, X: Any, *, register: bool | None = None) -> bytes:
        """Encrypt records for the scorer.

        Parameters
        ----------
        X : array of shape (n, d), or pandas, polars or Arrow table, dict of columns, or path of a file; n >= 1
            Arrays in schema order, categories as codes; tables by column name, checked against the offer's schema.
        register : bool, optional
            Send the public evaluation material along (some hundred kilobytes). Default: until a first answer has been
            opened.

        Returns
        -------
        bytes

        Raises
        ------
        DataError
            Wrong shape, empty, not finite, or not what the schema says.
        ParameterError
            More records than one message carries; the message says how many do.

        Privacy
        -------
        The length tells the number of records, nothing else.
        """
        rows = self._matrix(X)
        p = self.parameters
        registers = not self._registered if register is None else register
        body: list[bytes] = [public_bytes(self._mac_key), self._material] if registers else []
        step = max(1, ENCODE_ROWS // p.rows_per_ciphertext) * p.rows_per_ciphertext
        for start in range(0, len(rows), step):
            encoding = self.encoder.encode(rows[start : start + step])
            for at in range(0, len(encoding), p.rows_per_ciphertext):
                body += self._packing.seal(self._key, encoding[at : at + p.rows_per_ciphertext])
        salt = new_salt()
        header = Header(
            kind="sealed",
            offer=self._digest,
            key=self._key_id,
            request=salt,
            salt=salt,
            rows=len(rows),
            registers=registers,
        )
        return close_envelope(self._session, header, body)

    def open(self, answer: bytes, *, sealed: bytes | None = None) -> npt.NDArray[np.float64]:
        """Decrypt an answer.

        Parameters
        ----------
        answer : bytes
            From :meth:`Scorer.score`; untrusted.
        sealed : bytes, optional
            The request that it should answer. Give it where answers may be mixed up or replayed on the way.

        Returns
        -------
        ndarray of shape (n,), float64
            Equal to the model's ``decision_function``, bit for bit.

        Raises
        ------
        WireError
            Malformed.
        AuthenticationError
            Another offer, key, request, or a wrong MAC.
        """
        header, body = split_envelope(answer, "answer", offer=self._digest)
        if header.key != self._key_id:
            raise AuthenticationError(
                "The answer is for another key",
                got=header.key.hex(),
                rule=self.key_id,
                fix="open it with the home that sealed the request",
            )
        p = self.parameters
        groups = p.groups(header.rows)
        expected = groups * p.part_bytes + header.rows * len(self._context.primes) * p.he.residue_bytes
        if len(body) != expected or header.registers:
            raise WireError("An answer has the wrong length", got=f"{len(body)} bytes", rule=f"{expected} bytes")
        open_envelope(self._session, header, answer)
        if sealed is not None:
            request, _ = split_envelope(sealed, "sealed", offer=self._digest)
            if (request.request, request.rows) != (header.request, header.rows):
                raise AuthenticationError("The answer is to another request", fix="open each answer with its request")
        scores = np.empty(header.rows, dtype=np.int64)
        at = 0
        for g in range(groups):
            first_row = g * p.rows_per_ciphertext
            rows = min(p.rows_per_ciphertext, header.rows - first_row)
            size = rows * len(self._context.primes) * p.he.residue_bytes
            piece = body[at : at + size + p.part_bytes]
            scores[first_row : first_row + rows] = self._decrypt(piece, rows, size)
            at += size + p.part_bytes
        self._registered = True
        return scores * self._offer.score_scale

    def _decrypt(self, piece: memoryview, rows: int, size: int) -> npt.NDArray[np.int64]:
        context, p = self._context, self.parameters
        primes, width = len(context.primes), p.he.residue_bytes
        owed = self._packing.owed(rows)
        first = unpack_residues(piece[:size], (primes, rows), width)
        check_residues(first, context.primes)
        parts = np.zeros((2, primes, p.degree), dtype=np.uint64)
        parts[0][:, owed] = first
        parts[1] = unpack_residues(piece[size:], (primes, p.degree), width)
        return self._key.decrypt(parts)[owed]

    def _matrix(self, X: Any) -> npt.NDArray[np.float64]:
        if not isinstance(X, np.ndarray | list | tuple):
            X = np.concatenate([chunk.X for chunk in records(Schema.from_json(self.schema), X, for_scoring=True)])
        try:
            rows = np.asarray(X, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError("The records are not numbers", fix="give a float array in schema order") from error
        d, p = self.encoder.n_features, self.parameters
        if rows.ndim != 2 or rows.shape[1] != d or len(rows) == 0:
            raise DataError("The records have the wrong shape", got=str(rows.shape), rule=f"(n, {d}), n >= 1")
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            row, column = (int(v) for v in bad[0])
            raise DataError(
                f"Row {row}, column {column} is not finite",
                got=repr(float(rows[row, column])),
                rule="every value is a finite number",
                fix="drop the row, or set 'missing' in the schema",
            )
        group_bytes = p.ciphertexts_per_group * p.ciphertext_bytes
        room = MAX_MESSAGE_BYTES - 1024 - KEY_BYTES - len(self._material)
        most = min(MAX_ROWS, room // group_bytes * p.rows_per_ciphertext)
        if len(rows) > most:
            raise ParameterError(
                "One message cannot carry these records",
                got=f"{len(rows)} records",
                rule=f"at most {most} in a message of {MAX_MESSAGE_BYTES} bytes",
                fix="seal them in pieces"
                if most
                else "this encoding is too long for packing='columns': use packing='rows'",
            )
        return rows

    # -- keys

    def _generate(self) -> None:
        self._key = SecretKey.generate(self._context)
        self._mac_key = X25519PrivateKey.generate()
        width = self.parameters.he.residue_bytes
        pieces = []
        for _ in range(self.parameters.zeros):
            seed, c0 = self._key.encrypt_zero_seeded()
            pieces += [seed, pack_residues(c0, width)]
        self._adopt(b"".join(pieces))

    def _adopt(self, material: bytes) -> None:
        self._material = material
        public = public_bytes(self._mac_key)
        self._key_id = key_id_of(public, material)
        self._session = Session(self._mac_key, self._offer.scorer, offer=self._digest, owner_public=public)

    def _load_or_create(self, home: Path, sealer: _Sealer | None) -> None:
        path = home / f"blind-{self._digest.hex()[:32]}.key"
        context = b"blindsight blind owner v1 " + self._digest
        if not path.exists():
            self._generate()
            data = b"".join([MAGIC, private_bytes(self._mac_key), self._key.to_bytes(), self._material])
            data += hashlib.sha256(data).digest()
            try:
                home.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise StoreError("The folder for keys could not be made", got=error.strerror) from error
            write_atomic(path, data if sealer is None else sealer.seal(data, context), replace=False)
            return
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError("The key file could not be read", got=error.strerror) from error
        if sealer is not None:
            data = sealer.open(data, context)
        key_bytes = 8 * len(self._context.key_primes) * self._context.degree
        material_bytes = self.parameters.zeros * (64 + self.parameters.part_bytes)
        start = len(MAGIC) + KEY_BYTES
        if len(data) != start + key_bytes + material_bytes + 32 or not data.startswith(MAGIC):
            raise FormatError(
                f"{path.name!r} is not a key file of this offer",
                got=f"{len(data)} bytes",
                fix="give the sealer it was sealed with, if it was; else restore it from a copy",
            )
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise FormatError(f"{path.name!r} is damaged", fix="restore it from a copy")
        self._mac_key = X25519PrivateKey.from_private_bytes(data[len(MAGIC) : start])
        self._key = SecretKey.from_bytes(self._context, data[start : start + key_bytes])
        self._adopt(data[start + key_bytes : -32])

    def __repr__(self) -> str:
        return f"RecordOwner(key_id={self.key_id!r}, {self.parameters.packing}, keys=<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a RecordOwner holds a secret key and is not pickled")
