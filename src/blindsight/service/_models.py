"""Models that a service answers with: named, versioned, in the store, so that every worker has the same."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from blindsight import modelfile
from blindsight._names import MODEL_NAME
from blindsight.blind import BitBudget, BlindParameters, CkksParameters, KeyValue, MemoryTable, Model, Scorer
from blindsight.blind.mpc import import_spu
from blindsight.circuits import OneHot
from blindsight.errors import BlindsightError, BlindsightWarning, CapacityError, ParameterError, PolicyError, StoreError
from blindsight.store import Store

from ._problems import RequestError
from ._settings import Settings

__all__ = ["Facts", "Models", "Served", "Version"]

MAX_LOADED = 8
MAX_VERSIONS = 100
ENVELOPE_BYTES = 1024
logger = logging.getLogger("blindsight.service")
_NAME = re.compile(MODEL_NAME)

Packing = Literal["rows", "columns"]
Scheme = Literal["bfv", "ckks"]


class Version(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published model file.

    Parameters
    ----------
    id : str
        First 16 hexadecimal digits of the SHA-256 of packing, scheme, thresholds of verdicts, and file.
    packing : str
    offer : str
        SHA-256 of its offer, hexadecimal.
    published : float
        Seconds since 1970.
    thresholds : tuple of float, optional
        It reveals verdicts on these, or on the model's own where there are none. None: it reveals scores.
    scheme : str, optional
        As for :class:`Scorer`.
    """

    id: str
    packing: Packing
    offer: str
    published: float
    thresholds: tuple[float, ...] | None = None
    scheme: Scheme | None = None


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is served under a name: the last of ``history`` is current."""

    versions: tuple[Version, ...]
    history: tuple[str, ...]
    shadow: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What strangers with a credential may know of a model besides its offer.

    Parameters
    ----------
    name, version, packing, offer_sha256 : str
    rows_per_message : int
        What the service takes in one request, at most.
    explained_rows_per_message : int
        The same of records whose contributions are asked for; 0 where none are given.
    threshold : float, optional
        Score above which a record alerts. None where verdicts are revealed: it is secret.
    bits_per_record : float
        Charged, at most.
    rows_to_extract : int
        Well-chosen answers after which every score can be computed. Of verdicts as many times more as a score has bits:
        by that many shifted thresholds an owner finds one.
    registration_bytes : int
    parameters : str
        For people.
    thresholds : int
        0: scores are revealed. Otherwise verdicts: how many of so many secret thresholds a score exceeds.
    """

    name: str
    version: str
    packing: str
    offer_sha256: str
    rows_per_message: int
    threshold: float | None
    bits_per_record: float
    rows_to_extract: int
    registration_bytes: int
    parameters: str
    explained_rows_per_message: int = 0
    thresholds: int = 0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A version, loaded and ready.

    Parameters
    ----------
    name : str
    version : Version
    scorer : Scorer
    threshold : float
    shadow : Scorer, optional
        Computes on the same requests; its answers go nowhere.
    shadow_id : str, optional
    """

    name: str
    version: Version
    scorer: Scorer
    threshold: float
    shadow: Scorer | None = None
    shadow_id: str | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the offer."""
        return bytes.fromhex(self.version.offer)


class _Overlay(MemoryTable):
    """Reads through to another table and keeps what is written to itself: a shadow model charges nobody.

    Its counts and masks are nobody's, and would only grow: they are not kept.
    """

    NOT_KEPT = ("bits/", "rows/", "verdict/")

    def __init__(self, below: KeyValue) -> None:
        super().__init__()
        self._below = below

    def get(self, key: str) -> bytes | None:
        own = super().get(key)
        return self._below.get(key) if own is None and not key.startswith(self.NOT_KEPT) else own

    def put(self, key: str, value: bytes) -> None:
        if not key.startswith(self.NOT_KEPT):
            super().put(key, value)


class Models:
    """Published models.

    Parameters
    ----------
    store : Store
        Sealed: it holds the model files and the scorer's identity.
    settings : Settings
        Budgets.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._entries, self._files = store.table("models"), store.table("model-files")
        self._blind, self._settings = store.table("blind"), settings
        self._loaded: OrderedDict[tuple[str, str], tuple[Scorer, float]] = OrderedDict()
        self._shadows: OrderedDict[tuple[str, str], Scorer | None] = OrderedDict()
        self._lock = threading.RLock()

    # -- publishing; at the command line

    def publish(
        self,
        name: str,
        file: bytes,
        *,
        packing: Packing = "rows",
        thresholds: Sequence[float] | None = None,
        scheme: Scheme | None = None,
    ) -> Version:
        """Store a model file and make it the current version of a name; the current one again is a no-op.

        Parameters
        ----------
        name : str
        file : bytes
        packing : {"rows", "columns"}
        thresholds : sequence of float, optional
            Reveal verdicts on these, in place of scores; empty: on the model's own ``threshold_``.
        scheme : {"bfv", "ckks"}, optional
            As for :class:`Scorer`: "ckks" for quadratic forms too wide to be multiplied out.

        Raises
        ------
        ParameterError
            Unusable name, scheme or thresholds.
        FormatError, CapacityError, NotFittedError
            The file is not a model that can be scored blind, or that gives verdicts; or a group of its records is
            longer than a request may be.
        MissingExtraError
            Verdicts need the extra ``mpc``.

        Warns
        -----
        BlindsightWarning
            The model's public encoder tells something learned from data.
        """
        version = self._version(name, file, packing, thresholds, scheme)
        with self._entries.transaction():
            self._files.put(f"{name}/{version.id}", file)
            entry = self._entry(name) or _Entry(versions=(), history=())
            known = {v.id: v for v in entry.versions}
            known.setdefault(version.id, version)
            history = entry.history if entry.history[-1:] == (version.id,) else (*entry.history, version.id)
            history = history[-MAX_VERSIONS:]
            shadow = entry.shadow if entry.shadow and known[entry.shadow].offer == version.offer else None
            kept = tuple(v for v in known.values() if v.id in history or v.id == shadow)
            for dropped in known.keys() - {v.id for v in kept}:
                self._files.delete(f"{name}/{dropped}")
            self._write(name, _Entry(versions=kept, history=history, shadow=shadow))
        return version

    def roll_back(self, name: str, version_id: str | None = None) -> Version:
        """Serve an earlier version again: the one before the current, or the one named.

        Raises
        ------
        PolicyError
            There is none.
        """
        with self._entries.transaction():
            entry = self._known(name)
            if version_id is None:
                if len(entry.history) < 2:
                    raise PolicyError("There is no earlier version to go back to", got=name)
                history = entry.history[:-1]
            elif version_id in {v.id for v in entry.versions}:
                history = (*entry.history, version_id)[-MAX_VERSIONS:]
            else:
                raise PolicyError(f"Model '{name}' has no such version", got=version_id[:40], fix="list the models")
            by_id = {v.id: v for v in entry.versions}
            current = by_id[history[-1]]
            shadow = entry.shadow if entry.shadow and by_id[entry.shadow].offer == current.offer else None
            self._write(name, msgspec.structs.replace(entry, history=history, shadow=shadow))
        return current

    def set_shadow(self, name: str, file: bytes | None) -> Version | None:
        """Compute a second model on every request from now on, and send nothing of it; None ends that.

        Raises
        ------
        PolicyError
            Its offer is not the current one's: requests sealed for that cannot be computed with it.
        """
        with self._entries.transaction():
            entry = self._known(name)
            if file is None:
                self._write(name, msgspec.structs.replace(entry, shadow=None))
                return None
            current = next(v for v in entry.versions if v.id == entry.history[-1])
            version = self._version(name, file, current.packing, current.thresholds, current.scheme)
            if version.offer != current.offer:
                raise PolicyError(
                    "The second model cannot be computed on the first one's requests",
                    rule="same encoder, schema, score scale and sizes: equal offers",
                    fix="train it with the same detector, parameters and schema",
                )
            self._files.put(f"{name}/{version.id}", file)
            known = {v.id: v for v in entry.versions} | {version.id: version}
            self._write(name, msgspec.structs.replace(entry, versions=tuple(known.values()), shadow=version.id))
        return version

    def names(self) -> list[str]:
        """Names under which something is served."""
        return self._entries.keys()

    def history(self, name: str) -> tuple[tuple[Version, ...], str, str | None]:
        """Versions of a name, the current one's id, and the shadow's."""
        entry = self._known(name)
        return entry.versions, entry.history[-1], entry.shadow

    # -- serving

    def current(self, name: str) -> Served:
        """The current version of a name, loaded; asks the store each time, so that all workers agree.

        Raises
        ------
        RequestError
            404: there is no such model.
        """
        entry = self._entry(name) if _NAME.fullmatch(name) else None
        if entry is None:
            raise RequestError(404, "no-such-model", "There is no model of this name", fix="GET /v1/models lists them")
        version = next(v for v in entry.versions if v.id == entry.history[-1])
        with self._lock:
            kept = self._loaded.get((name, version.id))
            if kept is None:
                model = self._load(name, version.id)
                kept = self._scorer(model, version, self._blind), float(cast(Any, model).threshold_)
                if hashlib.sha256(kept[0].offer()).hexdigest() != version.offer:
                    raise StoreError("A stored model no longer makes the offer that it was published with")
                _keep(self._loaded, (name, version.id), kept)
            shadow = None if entry.shadow is None else self._shadow(name, entry.shadow, version)
        return Served(
            name=name,
            version=version,
            scorer=kept[0],
            threshold=kept[1],
            shadow=shadow,
            shadow_id=entry.shadow,
        )

    def facts(self, served: Served) -> Facts:
        """What may be told about it."""
        p = served.scorer.parameters
        rows = self._rows_per_message(p)
        return Facts(
            name=served.name,
            version=served.version.id,
            packing=p.packing,
            offer_sha256=served.version.offer,
            rows_per_message=rows,
            explained_rows_per_message=min(rows, served.scorer.rows_explained_at_a_time),
            threshold=None if p.thresholds else served.threshold,
            thresholds=p.thresholds,
            bits_per_record=float(p.answer_bits),
            rows_to_extract=served.scorer.rows_to_extract * _verdicts_a_score(p),
            registration_bytes=served.scorer.registration_bytes,
            parameters=p.describe(),
        )

    # -- private

    def _rows_per_message(self, p: BlindParameters | CkksParameters) -> int:
        return max(0, self._settings.body_bytes - 1024) // p.group_bytes * p.rows_per_ciphertext

    def _version(
        self,
        name: str,
        file: bytes,
        packing: Packing,
        thresholds: Sequence[float] | None,
        scheme: Scheme | None,
    ) -> Version:
        if not _NAME.fullmatch(name):
            raise ParameterError(
                "The model's name is unusable", got=repr(name)[:80], rule="1 to 64 of a-z, 0-9, '.', '_', '-'"
            )
        about = packing.encode() + b"\0" + (b"" if scheme is None else scheme.encode() + b"\0")
        if thresholds is not None:
            import_spu()  # better now than when an owner asks for a comparison
            if not all(math.isfinite(value) for value in thresholds):
                raise ParameterError("A threshold is not a finite number")
            thresholds = tuple(float(value) for value in thresholds)
            about += b"verdict" + repr(thresholds).encode() + b"\0"
        version = Version(
            id=hashlib.sha256(about + file).hexdigest()[:16],
            packing=packing,
            offer="",
            published=time.time(),
            thresholds=None if thresholds is None else tuple(thresholds),
            scheme=scheme,
        )
        scorer = self._scorer(self._model(file), version, self._blind, quiet=False)
        if not self._rows_per_message(scorer.parameters):
            p = scorer.parameters
            raise CapacityError(
                f"No request could carry records of this model in {p.packing}",
                got=f"{p.group_bytes:,} bytes for {p.rows_per_ciphertext:,} records",
                rule=f"at most {self._settings.body_bytes:,} bytes a request",
                fix="take rows; or longer requests, --body-mib; or, for a quadratic form, columns with --scheme ckks",
            )
        return msgspec.structs.replace(version, offer=hashlib.sha256(scorer.offer()).hexdigest())

    def _shadow(self, name: str, version_id: str, beside: Version) -> Scorer | None:
        """The second model; none where it cannot be loaded here, which is no reason to refuse the first."""
        if (name, version_id) not in self._shadows:
            scorer = None
            try:
                scorer = self._scorer(self._load(name, version_id), beside, _Overlay(self._blind))
            except BlindsightError as error:
                trouble = {"event": "shadow", "model": name, "version": version_id, "trouble": type(error).__name__}
                logger.warning(trouble)
            _keep(self._shadows, (name, version_id), scorer)
        return self._shadows[name, version_id]

    def _load(self, name: str, version_id: str) -> object:
        file = self._files.get(f"{name}/{version_id}")
        if file is None:
            raise StoreError("A published model file is missing from the store", got=f"{name}/{version_id}")
        return self._model(file)

    def _model(self, file: bytes) -> object:
        return modelfile.loads(file, allowed=frozenset(self._settings.allowed))

    def _scorer(self, model: object, version: Version, table: KeyValue, *, quiet: bool = True) -> Scorer:
        s = self._settings
        budget = BitBudget(
            bits_per_owner=s.bits_per_account,
            bits_total=s.bits_total,
            rows_per_owner=s.rows_per_account,
            rows_total=s.rows_total,
        )
        if isinstance(table, _Overlay):
            budget = BitBudget()
        with warnings.catch_warnings():
            if quiet:  # it warns where a model is published
                warnings.simplefilter("ignore", BlindsightWarning)
            return Scorer(
                cast(Model, model),
                packing=version.packing,
                scheme=version.scheme,
                reveal="score" if version.thresholds is None else "verdict",
                thresholds=version.thresholds or None,
                budget=budget,
                table=table,
                inline_registration=False,
                explanations=s.explanations and _has_contributions(model, version),
                longest_answer_bytes=s.longest_answer_bytes,
                max_owners=1_000_000,
                device=s.device if version.packing == "columns" else None,
            )

    def _entry(self, name: str) -> _Entry | None:
        value = self._entries.get(name)
        try:
            return None if value is None else msgspec.json.decode(value, type=_Entry)
        except msgspec.MsgspecError as error:
            raise StoreError("The list of a model's versions is damaged", got=name) from error

    def _known(self, name: str) -> _Entry:
        entry = self._entry(name) if _NAME.fullmatch(name) else None
        if entry is None:
            raise PolicyError("There is no model of this name", got=name[:80], fix="publish it first")
        return entry

    def _write(self, name: str, entry: _Entry) -> None:
        self._entries.put(name, msgspec.json.encode(entry))


def _has_contributions(model: object, version: Version) -> bool:
    """Whether features' parts of a score can be told apart: of others the service gives none, whatever it is asked."""
    one_hot = isinstance(getattr(model, "encoder_", None), OneHot)
    return one_hot and version.packing == "rows" and version.thresholds is None


def _verdicts_a_score(p: BlindParameters | CkksParameters) -> int:
    return p.plain_bits if p.thresholds and isinstance(p, BlindParameters) else 1


def _keep(cache: OrderedDict[Any, Any], key: object, value: object) -> None:
    cache[key] = value
    while len(cache) > MAX_LOADED:
        cache.popitem(last=False)
