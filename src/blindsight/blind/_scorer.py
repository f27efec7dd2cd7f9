"""The model holder's side: answers sealed records without seeing them, and without a secret key."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.circuits import Encoder, InnerProduct, encoder_to_json
from blindsight.errors import (
    AuthenticationError,
    BlindsightWarning,
    CapacityError,
    NotFittedError,
    ParameterError,
    PolicyError,
    StoreError,
    WireError,
)
from blindsight.he import SEED_BYTES, HeContext, add_mod, pack_residues, scale_up, unpack_residues

from ._budget import BitBudget, BitLedger, KeyValue, MemoryTable
from ._columns import Columns
from ._envelope import (
    KEY_BYTES,
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
from ._plan import BlindParameters, Packing, Upload, plan
from ._protect import Mask, Protections, Rerandomiser, finish
from ._rows import Rows

__all__ = ["Model", "Scorer"]

MAX_KEPT_OWNERS = 64


class Model(Protocol):
    """What a scorer asks of a fitted model."""

    encoder_: Encoder
    circuit_: InnerProduct
    score_scale_: float
    schema_: Any

    @property
    def is_secret_(self) -> bool:
        """Whether the public encoder tells nothing learned from data."""


class Scorer:
    """Scores sealed records with a secret model.

    Parameters
    ----------
    model : Model
        Any fitted detector: ``encoder_``, ``circuit_``, ``score_scale_``, ``schema_``, ``is_secret_``.
    packing : {"rows", "columns"}
        See :func:`plan`.
    upload : {"seeded", "unseeded"}, optional
    budget : BitBudget, optional
        Default: bits are counted, not limited.
    table : KeyValue, optional
        Where identity, registrations and bits released persist: ``store.table("blind")`` of a store that is sealed at
        rest. Default: memory, so that a restarted scorer makes a new offer.
    admit : collection of str, optional
        Key ids (hexadecimal) that may register. Default: anyone; then only ``budget.bits_total`` bounds one who
        registers again and again.
    max_owners : int
        Registrations kept.

    Warns
    -----
    BlindsightWarning
        The model's ranges are learned: its public encoder tells much of it, whatever the encryption hides.

    Security
    --------
    What leaves is described in ``_protect``. A request that is sent again is charged and re-randomised again: no answer
    is kept, and none is free. No secret key of an owner ever reaches this side. Not yet audited.
    """

    def __init__(
        self,
        model: Model,
        *,
        packing: Packing = "rows",
        upload: Upload | None = None,
        budget: BitBudget | None = None,
        table: KeyValue | None = None,
        admit: Collection[str] | None = None,
        max_owners: int = 10_000,
    ) -> None:
        if hasattr(model, "score_histogram_") and not hasattr(model, "circuit_"):
            raise CapacityError(
                f"{type(model).__name__} cannot be scored blind",
                rule="a blind score is one inner product of a public encoding with secret weights",
                fix="teach its scores to a table, TableStudent, and offer that; or score where the model is",
            )
        if not hasattr(model, "circuit_"):
            raise NotFittedError(
                "The model to score with is not fitted", fix="fit it, or load a saved one with blindsight.load"
            )
        encoder, circuit = model.encoder_, model.circuit_
        circuit.check(encoder)
        if not bool(model.is_secret_):
            warnings.warn(
                "The model is not secret: ranges, edges or scales were learned from data and are part of the public "
                "encoder. Blind scoring hides the records, not the model. To hide both, declare the ranges in the "
                "schema and leave edges and scales 'declared'.",
                BlindsightWarning,
                stacklevel=2,
            )
        self.parameters: BlindParameters = plan(encoder, circuit, packing=packing, upload=upload)
        self._table: KeyValue = table if table is not None else MemoryTable()
        self._private = self._identity()
        self._offer = Offer(
            parameters=self.parameters,
            encoder=encoder,
            schema=dict(model.schema_.to_json()),
            score_scale=float(model.score_scale_),
            secret=bool(model.is_secret_),
            scorer=public_bytes(self._private),
        ).encode()
        Offer.decode(self._offer.encoded)  # what we offer, an owner accepts
        self._digest = self._offer.digest
        self._scope = self._digest.hex()[:16]
        self._context = HeContext(self.parameters.he)
        if self._context.modulus < self.parameters.least_modulus:
            raise CapacityError("SEAL found smaller primes than planned")
        self._packing = (Columns if packing == "columns" else Rows)(self._context, self.parameters)
        self._evaluate = self._packing.prepare(np.asarray(circuit.weights))
        bias = np.array([circuit.bias], dtype=np.int64)
        self._bias = scale_up(bias, self._context.primes, self.parameters.plain_bits)
        # by model, not by offer: answers in another packing tell about the same weights
        state = hashlib.sha256(json.dumps(encoder_to_json(encoder), sort_keys=True).encode())
        state.update(np.asarray(circuit.weights).astype("<i8").tobytes() + str(circuit.bias).encode())
        self._ledger = BitLedger(budget or BitBudget(), self._table, state.hexdigest()[:16])
        self._admit = None if admit is None else frozenset(admit)
        if type(max_owners) is not int or max_owners < 1:
            raise ParameterError("max_owners is out of its domain", got=repr(max_owners), rule="an integer >= 1")
        self._max_owners = max_owners
        self._owners: OrderedDict[bytes, tuple[Session, Rerandomiser]] = OrderedDict()
        self._lock = threading.RLock()
        self._protections = Protections()

    # -- what the holder may ask

    def offer(self) -> bytes:
        """Return what a record owner needs: public encoder, parameters, schema, score scale. Never weights."""
        return self._offer.encoded

    def bits_released(self, key_id: str | None = None) -> int:
        """Bits charged so far to one owner's key id, or to all."""
        return self._ledger.spent(key_id)

    @property
    def rows_to_extract(self) -> int:
        """Well-chosen exact scores after which an owner can compute every score itself.

        One-hot blocks: sum of (slots - 1), and 1. Otherwise all entries. No encryption changes this; a budget below
        ``rows_to_extract`` records does.
        """
        return self._offer.encoder.freedom()

    def prepare(self, key_id: str, answers: int) -> None:
        """Compute masks for an owner's next answers while there is time; without this they are computed when needed.

        Parameters
        ----------
        key_id : str
            Of an owner that has registered and asked since this scorer started.
        answers : int
            Answer ciphertexts, at most 1,024 (see ``parameters.groups(rows)``).

        Raises
        ------
        ParameterError
            The key id is not one of them.
        """
        kept = next((value for key, value in self._owners.items() if key.hex() == key_id), None)
        if kept is None:
            raise ParameterError("The key id is not known here", got=key_id, rule="an owner that has asked before")
        kept[1].prepare(answers)

    # -- scoring

    def score(self, sealed: bytes) -> bytes:
        """Answer a sealed request.

        Parameters
        ----------
        sealed : bytes
            From :meth:`RecordOwner.seal`; untrusted.

        Returns
        -------
        bytes
            For :meth:`RecordOwner.open`.

        Raises
        ------
        WireError, ProtocolError
            Malformed.
        AuthenticationError
            Another offer, an unknown key id, or a wrong MAC.
        PolicyError
            The key id is not admitted, or there are too many owners.
        BudgetError
            The bit budget does not carry the request. Nothing was computed.

        Privacy
        -------
        Charges ``parameters.charge_bits(rows)`` before anything is computed, and gives nothing back, not even when the
        body then turns out to be malformed. Every call charges, a retry as well.
        """
        header, body = split_envelope(sealed, "sealed", offer=self._digest)
        p = self.parameters
        groups = p.groups(header.rows)
        registration = self._registration_bytes if header.registers else 0
        group_bytes = p.ciphertexts_per_group * p.ciphertext_bytes
        if len(body) != registration + groups * group_bytes:
            raise WireError(
                "A sealed request has the wrong length",
                got=f"{len(body)} bytes",
                rule=f"{registration + groups * group_bytes} bytes for {header.rows} records",
            )
        session, rerandomiser = self._owner(header, body[:registration], sealed)
        self._ledger.charge(header.key.hex(), header.rows, p)
        pieces: list[bytes] = []
        for g in range(groups):
            start = registration + g * group_bytes
            rows = min(p.rows_per_ciphertext, header.rows - g * p.rows_per_ciphertext)
            pieces += self._answer(body[start : start + group_bytes], rows, rerandomiser)
        reply = Header(
            kind="answer",
            offer=self._digest,
            key=header.key,
            request=header.request,
            salt=new_salt(),
            rows=header.rows,
        )
        return close_envelope(session, reply, pieces)

    def _answer(self, body: memoryview, rows: int, rerandomiser: Rerandomiser) -> list[bytes]:
        context, p = self._context, self.parameters
        terms: Mask = ([], [])
        ready = None
        if self._protections.rerandomise:
            ready = rerandomiser.take()
            if ready is None:
                terms = rerandomiser.terms()
        product = self._evaluate(body, terms)
        if ready is not None:
            product = add_mod(product, ready, context.primes)
        first, second = finish(
            context,
            p,
            product,
            owed=self._packing.owed(rows),
            bias=self._bias,
            protections=self._protections,
        )
        width = p.he.residue_bytes
        return [pack_residues(first, width), pack_residues(second, width)]

    # -- owners

    @property
    def _registration_bytes(self) -> int:
        return KEY_BYTES + self.parameters.zeros * (SEED_BYTES + self.parameters.part_bytes)

    def _owner(self, header: Header, registration: memoryview, sealed: bytes) -> tuple[Session, Rerandomiser]:
        """Authenticate a request and return its owner's keys; registers a new owner."""
        name = f"owner/{self._scope}/{header.key.hex()}"
        with self._lock:
            kept = self._owners.get(header.key)
            if kept is not None:
                self._owners.move_to_end(header.key)
                open_envelope(kept[0], header, sealed)
                return kept
            stored = self._table.get(name)
            if stored is not None and len(stored) != self._registration_bytes:
                raise StoreError("A stored registration is damaged", fix="the owner may register again with a new key")
            if stored is None and not registration:
                raise AuthenticationError(
                    "The key id is not registered here",
                    got=header.key.hex(),
                    fix="seal again with register=True",
                )
            material = memoryview(stored) if stored is not None else registration
            public = bytes(material[:KEY_BYTES])
            if key_id_of(public, material[KEY_BYTES:]) != header.key:
                raise AuthenticationError(
                    "A registration does not belong to its key id",
                    rule="the key id is the hash of the registration",
                    fix="seal again with register=True",
                )
            session = Session(self._private, public, offer=self._digest, owner_public=public)
            open_envelope(session, header, sealed)
            if stored is None:
                self._admit_new(header.key.hex())
            rerandomiser = Rerandomiser(self._context, self._zeros(material[KEY_BYTES:]))
            if stored is None:
                self._table.put(f"owners/{self._scope}", str(self._count_owners() + 1).encode())
                self._table.put(name, bytes(material))
            self._owners[header.key] = session, rerandomiser
            while len(self._owners) > MAX_KEPT_OWNERS:
                self._owners.popitem(last=False)
            return session, rerandomiser

    def _zeros(self, material: memoryview) -> list[tuple[bytes, np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]]]:
        p = self.parameters
        size, shape = SEED_BYTES + p.part_bytes, (len(p.he.prime_bits), p.degree)
        return [
            (bytes(piece[:SEED_BYTES]), unpack_residues(piece[SEED_BYTES:], shape, p.he.residue_bytes))
            for piece in (material[i * size : (i + 1) * size] for i in range(p.zeros))
        ]

    def _admit_new(self, key_id: str) -> None:
        if self._admit is not None and key_id not in self._admit:
            raise PolicyError(
                "This key id may not register",
                got=key_id,
                rule="the scorer admits listed key ids only",
                fix="give RecordOwner.key_id to the model's holder and ask to be listed",
            )
        if self._count_owners() >= self._max_owners:
            raise PolicyError("No more owners may register", rule=f"at most {self._max_owners}")

    def _count_owners(self) -> int:
        value = self._table.get(f"owners/{self._scope}") or b"0"
        if not value.isdigit():
            raise StoreError("The count of owners is damaged")
        return int(value)

    def _identity(self) -> X25519PrivateKey:
        stored = self._table.get("identity")
        if stored is None:
            key = X25519PrivateKey.generate()
            self._table.put("identity", private_bytes(key))
            return key
        if len(stored) != KEY_BYTES:
            raise StoreError("The scorer's stored identity is damaged")
        return X25519PrivateKey.from_private_bytes(stored)

    def __repr__(self) -> str:
        return f"Scorer({self.parameters.describe()})"
