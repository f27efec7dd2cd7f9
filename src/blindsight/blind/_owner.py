"""The record owner's side: seals records, opens scores."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.circuits import Encoder, Inputs
from blindsight.data import Schema, records
from blindsight.errors import AuthenticationError, DataError, FormatError, ParameterError, StoreError, WireError
from blindsight.he import CkksContext, CkksKey, HeContext, SecretKey
from blindsight.keys import write_atomic

from ._bfv import BfvOwner
from ._ckks_plan import CkksParameters
from ._engines import owner_engine
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
from ._explain import explained_bytes, one_hot_rows, rows_of_one_answer
from ._offer import Offer
from ._plan import BlindParameters
from ._verdict import NUMBER_BYTES, owner_words, verdict_bytes
from ._verdict_exchange import ComparisonEnd
from ._verdict_exchange import ask as ask_comparison

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
    The secret key never leaves; records leave encrypted under it (BFV or CKKS, 128 bits of security, symmetric). The
    scorer sees how many records there are, and when. Never tell it whether an answer decrypted well: that signal is an
    oracle. With CKKS never tell it a score either, however rounded: scores carry noise, and noise the key (IND-CPA-D,
    see ``_ckks_protect``). Not yet audited.
    """

    def __init__(self, offer: bytes, home: str | os.PathLike[str] | None = None, sealer: _Sealer | None = None) -> None:
        self._offer = Offer.decode(offer)
        self._digest = self._offer.digest
        self._engine = owner_engine(self._offer)
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
    def registration(self) -> bytes:
        """What a scorer must have of this owner before it answers: public key and encryptions of zero. Not secret."""
        return public_bytes(self._mac_key) + self._material

    @property
    def parameters(self) -> BlindParameters | CkksParameters:
        """How records are scored."""
        return self._offer.parameters

    @property
    def _context(self) -> HeContext | CkksContext:
        return self._engine.context

    @property
    def _key(self) -> SecretKey | CkksKey:
        return self._engine.key

    @property
    def encoder(self) -> Encoder | Inputs:
        """The public encoder."""
        return self._offer.encoder

    @property
    def schema(self) -> dict[str, Any]:
        """JSON form of the schema that the columns of ``X`` follow."""
        return self._offer.schema

    @property
    def contribution_names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`open_contributions`: of features, where the encoding's blocks are features.

        Raises
        ------
        CapacityError
            This scorer's answers cannot be explained.
        """
        return one_hot_rows(self.parameters, self.encoder)[1].block_names(Schema.from_json(self.schema).feature_names)

    def seal(self, X: Any, *, register: bool | None = None, explain: bool = False) -> bytes:
        """Encrypt records for the scorer.

        Parameters
        ----------
        X : array of shape (n, d), or pandas, polars or Arrow table, dict of columns, or path of a file; n >= 1
            Arrays in schema order, categories as codes; tables by column name, checked against the offer's schema.
        register : bool, optional
            Send the public evaluation material along (some hundred kilobytes). Default: until a first answer has been
            opened.
        explain : bool
            Ask for contributions, for :meth:`open_contributions`, in place of scores. The scorer must allow it, and
            charges each record once for every block.

        Returns
        -------
        bytes

        Raises
        ------
        CapacityError
            Contributions of this encoding, or in this packing, cannot be told apart.
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
        if explain:
            one_hot = one_hot_rows(p, self.encoder)
            most = rows_of_one_answer(one_hot[0], one_hot[1].blocks)
            if len(rows) > most:
                raise ParameterError(
                    "One answer cannot carry these contributions",
                    got=f"{len(rows)} records",
                    rule=f"at most {most}",
                    fix="seal them in pieces",
                )
        registers = not self._registered if register is None else register
        body: list[bytes] = [public_bytes(self._mac_key), self._material] if registers else []
        step = max(1, ENCODE_ROWS // p.rows_per_ciphertext) * p.rows_per_ciphertext
        for start in range(0, len(rows), step):
            encoding = self.encoder.encode(rows[start : start + step])
            for at in range(0, len(encoding), p.rows_per_ciphertext):
                body += self._engine.seal(encoding[at : at + p.rows_per_ciphertext])
        salt = new_salt()
        header = Header(
            kind="explain" if explain else "sealed",
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
            Equal to the model's ``decision_function``, bit for bit; of a network (CKKS) within
            ``parameters.error(score)``, and the detector's own rounding.

        Raises
        ------
        WireError
            Malformed.
        AuthenticationError
            Another offer, key, request, or a wrong MAC.
        """
        if self.parameters.thresholds:
            raise ParameterError(
                "This scorer reveals verdicts, not scores", fix="owner.verdicts(answer, comparison), see Comparison"
            )
        header, body = self._authentic(answer, sealed)
        p = self.parameters
        groups = p.groups(header.rows)
        scores = np.empty(header.rows)
        at = 0
        for g in range(groups):
            first_row = g * p.rows_per_ciphertext
            rows = min(p.rows_per_ciphertext, header.rows - first_row)
            size = p.answer_bytes(rows)
            scores[first_row : first_row + rows] = self._engine.open(body[at : at + size], rows)
            at += size
        self._registered = True
        return scores

    def open_contributions(self, answer: bytes, *, sealed: bytes | None = None) -> npt.NDArray[np.float64]:
        """Decrypt what each block of the encoding added to each score.

        Parameters
        ----------
        answer : bytes
            From :meth:`Scorer.score` of a request that was sealed with ``explain=True``; untrusted.
        sealed : bytes, optional
            The request that it should answer.

        Returns
        -------
        ndarray of shape (n, blocks), float64
            Equal to the model's ``contributions``, bit for bit: whole numbers of the score scale that add up to the
            integer score, less the circuit's bias. Named by ``contribution_names``.

        Raises
        ------
        CapacityError
            This scorer's answers cannot be explained.
        WireError
            Malformed.
        AuthenticationError
            Another offer, key, request, or a wrong MAC.
        """
        p, encoder = one_hot_rows(self.parameters, self.encoder)
        header, body = self._authentic(answer, sealed, blocks=encoder.blocks)
        parts = np.empty((header.rows, encoder.blocks))
        at = 0
        for first_row in range(0, header.rows, p.rows_per_ciphertext):
            rows = min(p.rows_per_ciphertext, header.rows - first_row)
            size = p.answer_bytes(rows)
            for block in range(encoder.blocks):
                parts[first_row : first_row + rows, block] = self._engine.open(body[at : at + size], rows)
                at += size
        self._registered = True
        return parts

    def verdicts(
        self, answer: bytes, comparison: ComparisonEnd, *, sealed: bytes | None = None
    ) -> npt.NDArray[np.int64]:
        """Learn the verdicts on an answer, by one comparison with the scorer.

        Parameters
        ----------
        answer : bytes
            From :meth:`Scorer.score` of a scorer that reveals verdicts; untrusted. Each answer can be compared once,
            whether that succeeds or not.
        comparison : ComparisonProcess or Comparison
            Rank 1 of a link to the scorer, which calls :meth:`Scorer.compare` on the other end.
        sealed : bytes, optional
            The request that it should answer.

        Returns
        -------
        ndarray of shape (n,), int64
            How many of the scorer's secret thresholds each record's score exceeds. With one, the model's, equal to its
            ``predict``.

        Raises
        ------
        ParameterError
            This scorer reveals scores.
        WireError
            Malformed.
        AuthenticationError
            Another offer, key, request, or a wrong MAC.
        ComparisonRefused
            The answer was compared before, or is none of this scorer's.
        UnavailableError
            The scorer went away. The answer is spent: seal the records again.

        Security
        --------
        Do not tell the scorer the verdicts of records whose secrecy matters: with them it could probe the key by
        answers of its own making.
        """
        engine = self._engine
        if not self.parameters.thresholds or not isinstance(engine, BfvOwner):
            raise ParameterError("This scorer reveals scores", fix="owner.open(answer)")
        p = engine.parameters
        header, body = self._authentic(answer, sealed)
        words = np.empty(header.rows, dtype=np.uint64)
        at, width = NUMBER_BYTES, p.share_bits // 8
        for first_row in range(0, header.rows, p.rows_per_ciphertext):
            rows = min(p.rows_per_ciphertext, header.rows - first_row)
            size = (rows + p.degree) * width
            owed = engine.packing.owed(rows)
            words[first_row : first_row + rows] = owner_words(engine.key, p, body[at : at + size], owed)
            at += size
        verdicts = ask_comparison(comparison, self._session, header, bytes(body[:NUMBER_BYTES]), words, p)
        self._registered = True
        return verdicts

    def _authentic(self, answer: bytes, sealed: bytes | None, *, blocks: int = 0) -> tuple[Header, memoryview]:
        """Header and body of an answer, or of contributions, once its length, key, MAC and request are right."""
        header, body = split_envelope(answer, "explained" if blocks else "answer", offer=self._digest)
        if header.key != self._key_id:
            raise AuthenticationError(
                "The answer is for another key",
                got=header.key.hex(),
                rule=self.key_id,
                fix="open it with the home that sealed the request",
            )
        p = self.parameters
        if isinstance(p, BlindParameters) and p.thresholds:
            expected = verdict_bytes(p, header.rows)
        elif isinstance(p, BlindParameters) and blocks:
            expected = explained_bytes(p, blocks, header.rows)
        else:
            full, rest = divmod(header.rows, p.rows_per_ciphertext)
            expected = full * p.answer_bytes(p.rows_per_ciphertext) + (p.answer_bytes(rest) if rest else 0)
        if len(body) != expected or header.registers:
            raise WireError("An answer has the wrong length", got=f"{len(body)} bytes", rule=f"{expected} bytes")
        open_envelope(self._session, header, answer)
        if sealed is not None:
            request, _ = split_envelope(sealed, "explain" if blocks else "sealed", offer=self._digest)
            if (request.request, request.rows) != (header.request, header.rows):
                raise AuthenticationError("The answer is to another request", fix="open each answer with its request")
        return header, body

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
        group_bytes = p.group_bytes
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
        self._mac_key = X25519PrivateKey.generate()
        self._adopt(self._engine.generate())

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
            data = b"".join([MAGIC, private_bytes(self._mac_key), self._engine.key_bytes(), self._material])
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
        key_bytes, material_bytes = self._engine.key_length, self.parameters.material_bytes
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
        self._engine.restore(data[start : start + key_bytes])
        self._adopt(data[start + key_bytes : -32])

    def __repr__(self) -> str:
        return f"RecordOwner(key_id={self.key_id!r}, {self.parameters.packing}, keys=<redacted>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a RecordOwner holds a secret key and is not pickled")
