"""The model holder's side: answers sealed records without seeing them, and without a secret key."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.errors import (
    AuthenticationError,
    CapacityError,
    ParameterError,
    PolicyError,
    StoreError,
    WireError,
)
from blindsight.he import CkksContext, HeContext, pack_residues

from ._bfv import BfvScorer
from ._budget import BitBudget, BitLedger, KeyValue, MemoryTable
from ._caveats import warn_of_what_is_public
from ._ckks_plan import CkksParameters
from ._engine import Masks, Priced
from ._engines import Model, Scheme, serve
from ._envelope import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
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
from ._explain import Explainer, rows_of_one_answer
from ._offer import Offer
from ._plan import BlindParameters, Packing, Upload
from ._protect import Protections, Rerandomiser
from ._registration import key_id_of_registration, registration_bytes
from ._verdict import Desk, integer_thresholds, share_answer
from ._verdict_exchange import ComparisonEnd
from ._verdict_exchange import answer as answer_comparison

__all__ = ["Scorer"]

MAX_KEPT_OWNERS = 64


class Scorer:
    """Scores sealed records with a secret model.

    Parameters
    ----------
    model : Model
        Any fitted detector: ``encoder_``, ``circuit_``, ``score_scale_``, ``schema_``, ``is_secret_``. Or a network of
        dense layers and at most one square activation, in columns: ``network_`` and ``inputs_`` in place of the first
        three; its scores are approximate.
    packing : {"rows", "columns"}
        See :func:`plan`.
    scheme : {"bfv", "ckks"}, optional
        Default: BFV for integer circuits, whose scores are then exact, CKKS for networks. "ckks" for a quadratic form
        (Mahalanobis, PCA) in columns: approximate, and an input a feature in place of one for every pair of them.
    upload : {"seeded", "unseeded"}, optional
    reveal : {"score", "verdict"}
        What the owner learns. "verdict": whether the score exceeds a threshold that stays secret, and nothing else; see
        :meth:`compare`.
    thresholds : sequence of float, optional
        For verdicts, in units of ``decision_function``: up to 15, increasing; the owner learns how many of them the
        score exceeds, and is charged a bit for each. Default: the model's ``threshold_``: verdicts then equal
        ``predict``.
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
    tolerance : float, optional
        Under CKKS: the largest error of scores up to 1,000 tolerances. Default: a thousandth of ``threshold_``.
    threads : int
        For products of residues in columns.
    device : {"cpu", "cuda", "cuda:0", ..}, optional
        Where torch computes these products instead: the same integers; see docs/blind.md. Default: NumPy, here.
    longest_answer_bytes : int
        Of an answer with contributions: a request for more records is refused, before it is charged.
    explanations : bool
        Whether contributions may be asked for (``RecordOwner.seal(X, explain=True)``): every block's part of a score,
        at ``blocks * answer_bits`` bits a record. One-hot encodings in rows; see ``_explain``.
    inline_registration : bool
        Whether a sealed request may carry its owner's registration. False: :meth:`register` comes first, in a process
        of the caller's choosing.

    Warns
    -----
    BlindsightWarning
        The model's ranges are learned: its public encoder tells much of it, whatever the encryption hides.

    Security
    --------
    What leaves is described in ``_protect`` and ``_ckks_protect``. A request that is sent again is charged and
    re-randomised again: no answer is kept, and none is free. No secret key of an owner ever reaches this side. Not yet
    audited.
    """

    def __init__(
        self,
        model: Model,
        *,
        packing: Packing = "rows",
        scheme: Scheme | None = None,
        upload: Upload | None = None,
        reveal: Literal["score", "verdict"] = "score",
        thresholds: Sequence[float] | None = None,
        budget: BitBudget | None = None,
        table: KeyValue | None = None,
        admit: Collection[str] | None = None,
        max_owners: int = 10_000,
        tolerance: float | None = None,
        threads: int = 1,
        device: str | None = None,
        explanations: bool = False,
        longest_answer_bytes: int = MAX_MESSAGE_BYTES,
        inline_registration: bool = True,
    ) -> None:
        taus = _thresholds(model, reveal, thresholds)
        served = serve(
            model,
            scheme=scheme,
            packing=packing,
            upload=upload,
            thresholds=len(taus),
            tolerance=tolerance,
            threads=threads,
            device=device,
        )
        warn_of_what_is_public(model, "Blind scoring hides the records, not the model.")
        self.parameters: BlindParameters | CkksParameters = served.parameters
        self._engine, self._freedom = served.engine, served.freedom
        self._explainer = (
            Explainer(served.engine, served.encoder, getattr(model, "circuit_", None)) if explanations else None
        )
        self._longest_answer_bytes = min(longest_answer_bytes, MAX_MESSAGE_BYTES)
        self._table: KeyValue = table if table is not None else MemoryTable()
        self._private = self._identity()
        self._offer = Offer(
            parameters=self.parameters,
            encoder=served.encoder,
            schema=dict(model.schema_.to_json()),
            score_scale=served.score_scale,
            secret=bool(model.is_secret_),
            scorer=public_bytes(self._private),
        ).encode()
        Offer.decode(self._offer.encoded)  # what we offer, an owner accepts
        self._digest = self._offer.digest
        self._scope = self._digest.hex()[:16]
        # by model, not by offer: answers in another packing tell about the same weights
        self.fingerprint: str = served.fingerprint
        self._desk = (
            Desk(self.parameters, taus, self._table, self._desk_scope(taus))
            if taus and isinstance(self.parameters, BlindParameters)
            else None
        )
        self._ledger = BitLedger(budget or BitBudget(), self._table, served.fingerprint)
        self._admit = None if admit is None else frozenset(admit)
        if type(max_owners) is not int or max_owners < 1:
            raise ParameterError("max_owners is out of its domain", got=repr(max_owners), rule="an integer >= 1")
        self._max_owners = max_owners
        self._inline = inline_registration
        self._owners: OrderedDict[bytes, tuple[Session, Masks]] = OrderedDict()
        self._lock = threading.RLock()

    # -- what the holder may ask

    @property
    def _context(self) -> HeContext | CkksContext:
        return self._engine.context

    @property
    def _protections(self) -> Protections:
        """Switched in the tests that attack alone."""
        return self._engine.protections

    @_protections.setter
    def _protections(self, value: Protections) -> None:
        self._engine.protections = value

    def offer(self) -> bytes:
        """Return what a record owner needs: public encoder, parameters, schema, score scale. Never weights."""
        return self._offer.encoded

    def bits_released(self, key_id: str | None = None) -> int:
        """Bits charged so far to one owner's key id (or account, see :meth:`score`), or to all."""
        return self._ledger.spent(key_id)

    def rows_answered(self, key_id: str | None = None) -> int:
        """Records charged so far to one owner, or to all: of approximate scores, ``parameters.charge_rows`` of each
        request.
        """
        return self._ledger.rows(key_id)

    @property
    def registration_bytes(self) -> int:
        """Length of an owner's registration."""
        return registration_bytes(self.parameters)

    @property
    def rows_to_extract(self) -> int:
        """Well-chosen exact scores after which an owner can compute every score itself.

        One-hot blocks: sum of (slots - 1), and 1. Other encodings: all entries. Networks: coefficients of the quadratic
        form; with a square activation, weights. Where contributions may be asked for: as many explained records as the
        largest block has slots. No encryption changes this; a budget below ``rows_to_extract`` records does.
        """
        return self._freedom if self._explainer is None else self._explainer.rows_to_extract

    @property
    def rows_explained_at_a_time(self) -> int:
        """Most records whose contributions one request may ask for; 0 where none are given."""
        if self._explainer is None:
            return 0
        price = self._explainer.price
        return rows_of_one_answer(price.parameters, price.blocks, self._longest_answer_bytes)

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
        with self._lock:
            kept = next((value for key, value in self._owners.items() if key.hex() == key_id), None)
        if kept is None:
            raise ParameterError("The key id is not known here", got=key_id, rule="an owner that has asked before")
        kept[1].prepare(answers)

    # -- scoring

    def score(
        self,
        sealed: bytes,
        *,
        account: str | None = None,
        settle: Callable[[Callable[[], int]], object] | None = None,
    ) -> bytes:
        """Answer a sealed request.

        Parameters
        ----------
        sealed : bytes
            From :meth:`RecordOwner.seal`; untrusted.
        account : str, optional
            Whom to charge, where one owner may have several keys. Default: the key id.
        settle : callable, optional
            Called once the request has been authenticated and before anything is computed, with the function that
            charges for it. It calls that, or knows that the charge for this very request was made and that no answer
            to it ever left, nor will but one. An exception from it ends the request. Default: charge.

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
            The key id is not admitted, there are too many owners, or contributions are asked for and not given.
        BudgetError
            The bit budget does not carry the request. Nothing was computed.

        Privacy
        -------
        Charges ``parameters.charge_bits(rows)``, of contributions as much for every block, before anything is computed,
        and gives nothing back, not even when the body then turns out to be malformed. Every call charges, a retry as
        well.
        """
        header, body = split_envelope(sealed, "sealed", "explain", offer=self._digest)
        p = self.parameters
        explainer = self._explains(header)
        groups = p.groups(header.rows)
        if header.registers and not self._inline:
            raise WireError(
                "A request carries a registration",
                rule="keys are registered first, by themselves",
                fix="register RecordOwner.registration, then seal with register=False",
            )
        registration = registration_bytes(self.parameters) if header.registers else 0
        group_bytes = p.group_bytes
        if len(body) != registration + groups * group_bytes:
            raise WireError(
                "A sealed request has the wrong length",
                got=f"{len(body)} bytes",
                rule=f"{registration + groups * group_bytes} bytes for {header.rows} records",
            )
        session, rerandomiser = self._owner(header, body[:registration], sealed)
        price: Priced = p if explainer is None else explainer.price

        def charge() -> int:
            return self._ledger.charge(header.key.hex() if account is None else account, header.rows, price)

        charge() if settle is None else settle(charge)
        pieces: list[bytes] = []
        masks: list[bytes] = []
        for g in range(groups):
            start = registration + g * group_bytes
            rows = min(p.rows_per_ciphertext, header.rows - g * p.rows_per_ciphertext)
            group = body[start : start + group_bytes]
            if explainer is None:
                pieces += self._answer(group, rows, rerandomiser, masks)
            else:
                pieces += explainer.answer(group, rows, cast(Rerandomiser, rerandomiser))
        salt = new_salt()
        if self._desk is not None:
            pieces.insert(0, self._desk.keep(header.key, salt, masks))
        reply = Header(
            kind="answer" if explainer is None else "explained",
            offer=self._digest,
            key=header.key,
            request=header.request,
            salt=salt,
            rows=header.rows,
        )
        return close_envelope(session, reply, pieces)

    def compare(self, comparison: ComparisonEnd, *, admit: Callable[[str], bool] | None = None) -> Header:
        """Serve one comparison, so that an owner learns verdicts on an answer of :meth:`score`; waits for it to ask.

        Parameters
        ----------
        comparison : ComparisonProcess or Comparison
            Rank 0 of a link to the owner, who calls :meth:`RecordOwner.verdicts` on the other end.
        admit : callable, optional
            Told the key id of a request that has been authenticated; False refuses it. Default: every registered key's.

        Returns
        -------
        Header
            What was compared: key id, number of records, and as ``request`` the answer's salt.

        Raises
        ------
        ParameterError
            This scorer reveals scores.
        PolicyError
            The answer has been compared before, or too many others have been answered since; or the key is not
            admitted.
        AuthenticationError, WireError
            What came is not a request of a registered owner.
        UnavailableError
            The owner went away. Its mask is spent and its bits are charged: it must seal again.

        Privacy
        -------
        Bits were charged by :meth:`score`. The scorer learns neither scores nor verdicts.
        """
        if self._desk is None:
            raise ParameterError("This scorer reveals scores", fix="Scorer(model, reveal='verdict')")

        def authenticate(header: Header, message: bytes) -> Session:
            session, _ = self._owner(header, memoryview(b""), message)
            if admit is not None and not admit(header.key.hex()):
                raise PolicyError("This key may not ask for comparisons over this link", got=header.key.hex())
            return session

        return answer_comparison(comparison, self._desk, authenticate, offer=self._digest)

    @property
    def reveals_verdicts(self) -> bool:
        """Whether owners learn verdicts, by :meth:`compare`, and not scores."""
        return self._desk is not None

    def _explains(self, header: Header) -> Explainer | None:
        """What answers a request for contributions; None for one for scores."""
        if header.kind != "explain":
            return None
        if self._explainer is None:
            raise PolicyError(
                "This scorer gives no contributions",
                rule="a number for each block of the encoding gives the model away as many times faster",
                fix="seal without explain=True; or the model's holder makes a Scorer(model, explanations=True)",
            )
        most = self.rows_explained_at_a_time
        if header.rows > most:
            raise WireError("One answer cannot carry these contributions", got=f"{header.rows}", rule=f"at most {most}")
        return self._explainer

    def _answer(self, body: memoryview, rows: int, rerandomiser: Any, masks: list[bytes]) -> list[bytes]:
        first, others = self._engine.answer(body, rows, rerandomiser)
        if self._desk is not None and isinstance(self._engine, BfvScorer):
            pieces, mask = share_answer(self._engine.context, self._engine.parameters, first, others)
            masks.append(mask)
            return pieces
        width = self.parameters.residue_bytes
        return [pack_residues(first, width), pack_residues(others, width)]

    # -- owners

    def register(self, registration: bytes) -> str:
        """Keep an owner's registration that :class:`RegistrationCheck` has passed, in a process that may die of it.

        Only its length is looked at here. Keeping the same registration twice is a no-op.

        Returns
        -------
        str
            Its key id.

        Raises
        ------
        WireError
            It has the wrong length.
        PolicyError
            The key id is not admitted, or there are too many owners.
        """
        key = key_id_of_registration(self.parameters, registration)
        self._keep(key, bytes(registration))
        return key.hex()

    def forget(self, key_id: str) -> None:
        """Drop a registration, and masks that wait; what it was charged stays. A no-op where there is none.

        Raises
        ------
        ParameterError
            This is no key id.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", key_id):
            raise ParameterError("This is no key id", got=repr(key_id)[:60], rule="32 hexadecimal digits")
        with self._table.transaction():
            if self._desk is not None:
                self._desk.forget(bytes.fromhex(key_id))
            if self._table.get(self._place(key_id)) is not None:
                self._table.delete(self._place(key_id))
                self._table.put(f"owners/{self._scope}", str(max(0, self._count_owners() - 1)).encode())
        with self._lock:
            self._owners.pop(bytes.fromhex(key_id), None)

    def _owner(self, header: Header, registration: memoryview, sealed: bytes) -> tuple[Session, Masks]:
        """Authenticate a request and return its owner's keys; registers a new owner."""
        name = self._place(header.key.hex())
        with self._lock:
            kept = self._owners.get(header.key)
            if kept is not None:
                self._owners.move_to_end(header.key)
        if kept is not None:
            open_envelope(kept[0], header, sealed)  # not under the lock: a MAC over megabytes would hold up others
            return kept
        stored = self._table.get(name)
        if stored is not None and len(stored) != registration_bytes(self.parameters):
            raise StoreError("A stored registration is damaged", fix="the owner may register again with a new key")
        if stored is None and not registration:
            raise _not_registered(header)
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
        rerandomiser = self._engine.masks(material[KEY_BYTES:])
        if stored is None:
            self._keep(header.key, bytes(material))
        with self._lock:
            if self._table.get(name) is None:  # forgotten meanwhile
                raise _not_registered(header)
            kept = self._owners.setdefault(header.key, (session, rerandomiser))  # of two that read it, the first
            self._owners.move_to_end(header.key)
            while len(self._owners) > MAX_KEPT_OWNERS:
                self._owners.popitem(last=False)
        return kept

    def _desk_scope(self, taus: tuple[int, ...]) -> str:
        """Name of the masks' place, another one for other weights or thresholds: a share of one is not compared with
        the threshold of another. Under a key, since names of entries are readable and thresholds can be guessed.
        """
        about = self._digest + self.fingerprint.encode() + repr(taus).encode()
        return hmac.new(private_bytes(self._private), b"blindsight masks v1" + about, hashlib.sha256).hexdigest()[:16]

    def _place(self, key_id: str) -> str:
        return f"owner/{self._scope}/{key_id}"

    def _keep(self, key: bytes, material: bytes) -> None:
        """Store a registration, once, however many processes are at it."""
        with self._table.transaction():
            if self._table.get(self._place(key.hex())) is None:
                self._admit_new(key.hex())
                self._table.put(f"owners/{self._scope}", str(self._count_owners() + 1).encode())
                self._table.put(self._place(key.hex()), material)

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
        with self._table.transaction():
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


def _not_registered(header: Header) -> AuthenticationError:
    return AuthenticationError(
        "The key id is not registered here", got=header.key.hex(), fix="seal again with register=True"
    )


def _thresholds(model: Model, reveal: str, thresholds: Sequence[float] | None) -> tuple[int, ...]:
    if reveal not in ("score", "verdict") or (reveal == "score" and thresholds is not None):
        raise ParameterError(
            "reveal is out of its domain", got=repr(reveal), rule="'score', or 'verdict' with or without thresholds"
        )
    if reveal == "score":
        return ()
    if not hasattr(model, "circuit_"):
        raise CapacityError(
            f"{type(model).__name__} gives no verdicts under encryption alone",
            rule="a comparison needs the exact score of an integer circuit",
            fix="use MPC, or reveal='score'",
        )
    if thresholds is None:
        if not hasattr(model, "threshold_"):
            raise ParameterError("The model has no threshold_", fix="give thresholds=[...]")
        thresholds = [float(model.threshold_)]
    low, high = model.circuit_.bounds(model.encoder_)
    return integer_thresholds(thresholds, float(model.score_scale_), low, high)
