"""The public face of a federation: fit, describe, select features, evaluate."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import msgspec

from blindsight.channels import Channel, MemoryChannel, ProcessChannel, SimulatedChannel, SimulatedNetwork
from blindsight.data import Schema
from blindsight.detectors import Detector
from blindsight.errors import (
    ParameterError,
    SchemaError,
    UnavailableError,
)
from blindsight.keys import PublicIdentity, Sealer
from blindsight.privacy import DifferentialPrivacy
from blindsight.securesum import default_threshold
from blindsight.store import Store

from ._asked import asked_privacy, for_describing
from ._breakdown import evaluate_locally
from ._caveats import warn_of_few
from ._evaluation import Evaluation
from ._greeting import greet_parties
from ._home import check_enough, check_participant_list, lent, parties_in_memory, provision
from ._interrupts import interrupts_held
from ._journal import Journal, RunHeader
from ._party import Party
from ._plot import federation_html
from ._policy import Policy
from ._run import RunRecord, StepRecord
from ._runs import description_run, evaluation_run, fit_run, run_again, selection_run
from ._selection import FeatureSelection, check_count
from ._sending import chosen_receivers, send_to_parties
from ._simulated import FleetReport, fleet_report
from ._statistics import ColumnDescription
from ._wire import MAX_ENDED

__all__ = ["Federation"]

D = TypeVar("D", bound=Detector)
Sums = Literal["masked", "he", "paillier", "auto"]


class Federation:
    """Several data owners who learn totals over all their records and nothing else of each other's.

    Use :meth:`embedded` (all parties in this process), :meth:`processes` (each in its own, given only its own file) or
    :meth:`over` (parties that run elsewhere and dial a channel). The coordinator's part is the same for all.
    :meth:`simulated` has hundreds of parties in this process, over a network that is drawn from a seed.

    Parameters
    ----------
    channel : Channel
    participants : list of (name, raw Ed25519 public key)
        Sorted by name; the list that every party has pinned.
    schema : Schema
    name : str
    threshold : int, optional
        Parties needed to open a sum; floor(2n/3) + 1 by default, which tolerates 2t - n - 1 colluders, and at the
        least: parties refuse a lower one.
    sums : {"masked", "he", "paillier", "auto"}
        What hides the parties' vectors from the coordinator. "masked", the default, withstands 2t - n - 1 parties that
        collude with it. "he" (BFV) and "paillier" encrypt under one key that all parties hold: one party that colludes
        with the coordinator opens everything, so that every party's policy must allow it by name
        (``allow_shared_key_sums``). "auto" asks :func:`blindsight.securesum.choose_sum` for each sum, with the
        privacy's ``colluders``: masks, unless these are 0.
    timeout_s : float
        For each exchange; a party that takes longer has dropped out of that sum.
    progress : callable (step, phase), optional
    journal : Journal, optional
        Where runs are written down, so that a coordinator that was killed goes on with them: see :meth:`resume`.
    approval_timeout_s : float
        How long a run waits where a party's policy has a person approve it; then PendingError.

    Attributes
    ----------
    history : list of RunRecord
        Every run of this object, with its survivors, bytes, seconds and ledger events.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        participants: list[tuple[str, bytes]],
        schema: Schema,
        name: str = "federation",
        threshold: int | None = None,
        sums: Sums = "masked",
        timeout_s: float = 600.0,
        progress: Callable[[str, str], None] | None = None,
        journal: Journal | None = None,
        approval_timeout_s: float = 3600.0,
    ) -> None:
        check_enough(len(participants))
        if sums not in get_args(Sums):
            raise ParameterError(
                "Sums are not hidden this way", got=repr(sums)[:80], rule="sums is one of " + ", ".join(get_args(Sums))
            )
        self.schema = schema
        self.name = name
        self.sums: Sums = sums
        self.progress = progress
        self.history: list[RunRecord] = []
        self.parties: Mapping[str, Party] = {}
        self._channel = channel
        self._participants = sorted((name, bytes(key)) for name, key in participants)
        self._threshold = default_threshold(len(participants)) if threshold is None else threshold
        self._timeout_s = timeout_s
        self.journal = journal
        self._store: Store | None = None
        self._ended: deque[str] = deque(maxlen=MAX_ENDED)  # without a journal: runs that nobody will go on with
        self._exact_survivors = journal.exact_survivors(self.digest) if journal is not None else None
        self._approval_timeout_s = approval_timeout_s
        self._warned: dict[Any, Any] = {}
        self._recalls = True  # until a sum has gone through: what happened to ledgers before this coordinator began

    @property
    def digest(self) -> bytes:
        """SHA-256 of name, participants, threshold and schema: what a run is bound to."""
        terms = (self.name, self._participants, self._threshold, self.schema.digest())
        return hashlib.sha256(msgspec.msgpack.encode(terms)).digest()

    @property
    def exact_survivors(self) -> frozenset[str] | None:
        """Parties that every exact total is over; None while there is none."""
        return self._exact_survivors

    @exact_survivors.setter
    def exact_survivors(self, names: frozenset[str]) -> None:
        if self.journal is not None and names != self._exact_survivors:
            self.journal.keep_exact_survivors(self.digest, names)
        self._exact_survivors = names

    # -- making one -----------------------------------------------------------------------------------------------

    @classmethod
    def embedded(
        cls,
        data: Mapping[str, Any],
        *,
        schema: Schema,
        policy: Policy | Mapping[str, Policy] | None = None,
        home: str | os.PathLike[str] | None = None,
        sealer: Sealer | None = None,
        **options: Any,
    ) -> Federation:
        """All parties in this process, for trying things out and for one organisation's own silos.

        Every message is still bytes through the same protocol, and every party keeps its own ledger.

        Parameters
        ----------
        data : mapping of party name to table, array or path
        schema : Schema
            Common to all parties.
        policy : Policy or mapping of name to Policy, optional
            ``Policy()`` by default, which allows no exact sums.
        home : path, optional
            Folder with one sub-folder a party, for identities and ledgers that outlive this process. In memory
            otherwise.
        sealer : keys.Sealer, optional
            Seals what is kept in ``home``.
        **options
            As for the constructor: ``name``, ``threshold``, ``sums``, ``timeout_s``, ``progress``.
        """
        check_enough(len(data))
        parties = parties_in_memory(data, schema=schema, policy=policy, home=home, sealer=sealer)
        participants = [(name, party.public_key) for name, party in parties.items()]
        channel = MemoryChannel({name: party.handle for name, party in parties.items()})
        federation = cls(channel, participants=participants, schema=schema, **options)
        federation.parties = parties
        return federation

    @classmethod
    def simulated(
        cls,
        data: Mapping[str, Any],
        *,
        schema: Schema,
        network: SimulatedNetwork | None = None,
        seed: int,
        policy: Policy | Mapping[str, Policy] | None = None,
        timeout_s: float = 60.0,
        **options: Any,
    ) -> Federation:
        """A fleet in this process: hundreds of parties that answer over a simulated network.

        Parties, policies, ledgers, masks and messages are the real ones. When an answer arrives, who drops out and
        who is too late are drawn from ``seed``, on a clock that nobody waits for: see ``channels.SimulatedNetwork``,
        and :meth:`fleet` for what came of it. Keys and noise are from the system's generator, as everywhere.

        Parameters
        ----------
        data : mapping of party name to table
            :func:`blindsight.data.partition` cuts one table into many.
        schema : Schema
        network : SimulatedNetwork, optional
        seed : int
        policy : Policy or mapping of name to Policy, optional
        timeout_s : float
            Of each exchange, in simulated seconds.
        **options
            As for the constructor.

        Notes
        -----
        All parties' stores are in memory, and keep what they need to answer the newest sum again: a few hundred bytes
        for each peer. What fleets of several sizes took is in ``docs/scale.md`` (``benchmarks/simulate.py``).
        """
        check_enough(len(data))
        parties = parties_in_memory(data, schema=schema, policy=policy, home=None, sealer=None)
        participants = [(name, party.public_key) for name, party in parties.items()]
        channel = SimulatedChannel(
            {name: party.handle for name, party in parties.items()}, network or SimulatedNetwork(), seed=seed
        )
        told = options.pop("progress", None)

        def progress(step: str, phase: str) -> None:
            channel.mark(step, phase)
            if told is not None:
                told(step, phase)

        federation = cls(
            channel, participants=participants, schema=schema, timeout_s=timeout_s, progress=progress, **options
        )
        federation.parties = parties
        return federation

    def fleet(self) -> FleetReport:
        """What a simulated fleet did so far: virtual time, bytes a party, who was missing in which exchange.

        Raises
        ------
        ParameterError
            This federation was not made by :meth:`simulated`.
        """
        if not isinstance(self._channel, SimulatedChannel):
            raise ParameterError("This federation is not simulated", fix="bs.Federation.simulated(...)")
        return fleet_report(self._channel)

    @classmethod
    def processes(
        cls,
        data: Mapping[str, str | os.PathLike[str]],
        *,
        schema: Schema,
        home: str | os.PathLike[str],
        evaluation: Mapping[str, str | os.PathLike[str]] | None = None,
        policy: Policy | Mapping[str, Policy] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Federation:
        """Each party in an operating-system process of its own that is given only its own files.

        Parameters
        ----------
        data, evaluation : mapping of party name to path
        schema : Schema
        home : path
            Folder with one sub-folder a party: identity, policy, ledger. Reused when it exists. Beside them the
            coordinator's journal, ``coordinator.db``, so that a run that was killed can be resumed.
        policy : Policy or mapping of name to Policy, optional
        key_file : path, optional
            Seals what is kept in ``home``.
        **options
            As for the constructor.
        """
        check_enough(len(data))
        participants = provision(
            Path(home),
            data=data,
            evaluation=evaluation or {},
            schema=schema,
            policy=policy,
            key_file=key_file,
        )
        command = [sys.executable, "-m", "blindsight.federation.worker"]
        extra = ["--key-file", str(key_file)] if key_file is not None else []
        with interrupts_held():
            channel = ProcessChannel({name: [*command, str(Path(home) / name), *extra] for name in sorted(data)})
        store: Store | None = None
        try:
            if "journal" not in options:
                sealer = Sealer.from_key_file(Path(key_file)) if key_file is not None else None
                store = Store(Path(home) / "coordinator.db", sealer)
                options["journal"] = Journal(store)
            federation = cls(channel, participants=participants, schema=schema, **options)
            federation._store = store
            federation.greet()
        except BaseException:
            channel.close()
            if store is not None:
                store.close()
            raise
        return federation

    @classmethod
    def over(
        cls,
        channel: Channel,
        *,
        participants: Iterable[tuple[str, bytes]],
        schema: Schema,
        greeting_s: float = 60.0,
        **options: Any,
    ) -> Federation:
        """Parties that run elsewhere, reached through a channel.

        Parameters
        ----------
        channel : Channel
            Closed with the federation; not if this raises.
        participants : iterable of (name, raw Ed25519 public key)
            The list that every party has pinned: who answers under a name must be it.
        schema : Schema
            The one that every party has.
        greeting_s : float
            How long to wait for parties to appear.
        **options
            As for the constructor.

        Raises
        ------
        ParameterError, SurvivorsError
            The list cannot be used with this channel; it holds fewer than three.
        AuthenticationError, SchemaError
            A party has another identity or another schema.
        UnavailableError
            Fewer parties than the threshold have appeared; the message names the absent ones.
        """
        participants = check_participant_list(participants, channel.parties)
        federation = cls(channel, participants=participants, schema=schema, **options)
        present = federation.greet(greeting_s)
        if len(present) < federation._threshold:
            absent = sorted({name for name, _ in participants} - set(present))
            raise UnavailableError(
                "Too few parties have appeared",
                got=f"no answer from {', '.join(absent)} within {greeting_s:g} s",
                rule=f"{federation._threshold} of {len(participants)} open a sum",
                fix="start them, look into their logs, and run again",
            )
        return federation

    def greet(self, timeout_s: float | None = None) -> list[str]:
        """Ask every party who it is; return those that answered. A wrong key or schema is an error.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait for answers; that of every exchange otherwise.

        Raises
        ------
        AuthenticationError, SchemaError
        """
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        return greet_parties(self._channel, self._participants, self.schema, wait_s)

    # -- what it does ----------------------------------------------------------------------------------------------

    def fit(
        self,
        detector: D,
        *,
        privacy: DifferentialPrivacy | None,
        on_step: Callable[[StepRecord], None] | None = None,
        deliver: Callable[[Detector], None] | None = None,
        send_to: Iterable[str] | Literal["all"] = (),
    ) -> D:
        """Fit a clone of ``detector`` on everybody's records.

        Parameters
        ----------
        detector : Detector
            Not changed.
        privacy : DifferentialPrivacy or None
            Required: without it, ParameterError. None asks for exact sums, which every party's policy must allow.
        on_step : callable (StepRecord), optional
            Told after each sum, hence after each round of training: who survived, what crossed, what it cost.
        deliver : callable (Detector), optional
            Given the fitted model before the journal lets go of the run: killed at any point, either the model is
            where this has put it, or :meth:`resume` makes it again and charges nobody.
        send_to : iterable of str or "all"
            Parties that get the model, after ``deliver`` and before the journal lets go of the run: see
            :meth:`send_model`. What became of it at each is in ``history[-1].sent``.

        Returns
        -------
        Detector
            Fitted, with ``certificate_`` saying what was released and at what cost.

        Raises
        ------
        PolicyError, BudgetError, SurvivorsError, SchemaError
            Nothing further is released; the message names the party and the rule.
        ParameterError, ReleaseError
            A total is beyond what honest parties could reach (somebody sent more than the bound). The message names
            the round; what was released before is in ``history``.

        Notes
        -----
        Ctrl-C ends the run between two messages: every ledger holds what was charged until then, and ``history`` the
        sums that were completed. Nothing is refunded.
        """
        if not isinstance(detector, Detector):
            raise ParameterError(
                "fit needs a detector",
                got=getattr(detector, "__name__", type(detector).__name__),
                rule="an instance of ECOD, Mahalanobis or another Blindsight detector",
                fix="federation.fit(bs.ECOD(), privacy=...)",
            )
        privacy = asked_privacy(privacy, "fit")
        if detector.schema is not None and detector.schema.digest() != self.schema.digest():
            raise SchemaError(
                "The detector has another schema than the federation", fix="leave the detector's schema out"
            )
        model = fit_run(self, detector, privacy, on_step, deliver, send_to=self.receivers(send_to))
        warn_of_few(model)
        return model

    def send_model(self, model: Detector, to: Iterable[str] | Literal["all"] = "all") -> dict[str, str]:
        """Deliver a model that a run of this federation has released; each party checks it before it keeps it.

        Parameters
        ----------
        model : Detector
            As :meth:`fit` returned it.
        to : iterable of str or "all"
            Names of parties.

        Returns
        -------
        dict of party name to text
            "kept as version 3", or why not. A party that refuses or is silent is no error: deliver again later.

        Raises
        ------
        ParameterError
            The model is of no run of a federation, is too large for a message, or ``to`` names no party.

        Privacy
        -------
        Whoever gets the model learns what its certificate states. Who may have it is the caller's decision: a party
        decides what it keeps, not what others get.
        """
        return send_to_parties(self._channel, model, self.receivers(to), self._timeout_s)

    def receivers(self, to: Iterable[str] | Literal["all"]) -> list[str]:
        """Names of the parties that "all" or a list of names means, sorted.

        Raises
        ------
        ParameterError
            One is no party of this federation.
        """
        return chosen_receivers([name for name, _ in self._participants], to)

    def evaluate(
        self,
        model: Detector,
        data: Mapping[str, Any] | None = None,
        *,
        privacy: DifferentialPrivacy | EllipsisType | None = ...,
        validation: Any = None,
    ) -> Evaluation:
        """Measure a model on everybody's labelled records, from two privately summed score histograms.

        Parameters
        ----------
        model : Detector
        data : mapping of party name to table, optional
            Labelled records, embedded federations only. Otherwise each party's own evaluation data, or its training
            data if it has none: in-sample figures flatter.
        privacy : DifferentialPrivacy or None
            Required but for ``validation``. Give the one of the fit: its "evaluation" share is spent here. None asks
            for exact sums.
        validation : table, array or path, optional
            An independent labelled set that the caller holds, instead of the parties' records: measured exactly and
            locally; no party is asked and nothing is charged.

        Returns
        -------
        Evaluation
            With every party's own figures in ``breakdown`` where the parties are in this process.
        """
        if validation is not None:
            if data is not None or isinstance(privacy, DifferentialPrivacy):
                raise ParameterError(
                    "A validation set of one's own needs neither the parties' data nor a budget",
                    fix="federation.evaluate(model, validation=table)",
                )
            return evaluate_locally(model, self.schema, validation)
        privacy = asked_privacy(privacy, "evaluation")
        if data is not None:
            with lent(self.parties, data):
                return self.evaluate(model, privacy=privacy)
        return evaluation_run(self, model, privacy)

    def describe(self, *, privacy: DifferentialPrivacy | None) -> list[ColumnDescription]:
        """Private count, mean, variance, histogram and quantiles of every feature.

        Parameters
        ----------
        privacy : DifferentialPrivacy or None
            All of its epsilon is spent on this, half on histograms and half on moments, unless its ``shares`` give
            "describe" a part.

        Returns
        -------
        list of ColumnDescription
            One per feature, in the schema's order.
        """
        return description_run(self, for_describing(asked_privacy(privacy, "description")))

    def select_features(self, k: int, *, privacy: DifferentialPrivacy | None) -> FeatureSelection:
        """Choose k features that tell most and copy none, from two private sums; see ``detectors.select_features``.

        Parameters
        ----------
        k : int in [1, d]
        privacy : DifferentialPrivacy or None
            All of its epsilon is spent on this, a quarter on histograms and the rest on moments, unless its ``shares``
            give "describe" a part: ``{"describe": .2, "fit": .5, ...}`` leaves the rest for the fit that follows.

        Returns
        -------
        FeatureSelection
            Names by rank, and ``schema`` reduced to them, for the federation that is to fit on fewer features.

        Raises
        ------
        ParameterError
            k is out of its domain; nothing was sent.
        PolicyError, BudgetError, SurvivorsError, SchemaError
            As for :meth:`fit`; every party's policy must allow the purpose "describe".
        """
        check_count(self.schema, k)
        return selection_run(self, k, for_describing(asked_privacy(privacy, "selection")))

    # -- after a coordinator was killed -----------------------------------------------------------------------------

    def unfinished(self) -> list[RunHeader]:
        """Runs in the journal that were begun in this federation and have not ended, the oldest first."""
        headers = [] if self.journal is None else self.journal.headers()
        return [h for h in headers if h.outcome == "open" and h.federation == self.digest]

    def resume(
        self,
        run: str,
        *,
        on_step: Callable[[StepRecord], None] | None = None,
        deliver: Callable[[Detector], None] | None = None,
        send_to: Iterable[str] | Literal["all"] = (),
    ) -> Detector | Evaluation | FeatureSelection | list[ColumnDescription]:
        """Go on with a run whose coordinator was killed, and return what its call would have returned.

        Totals that were open are taken from the journal. A sum under way goes on after the last phase that was closed:
        with the same survivors, under the same release id. No party is charged a second time.

        Parameters
        ----------
        run : str
            Its id; see :meth:`unfinished`.
        on_step, deliver, send_to : optional
            As for :meth:`fit`.

        Raises
        ------
        ParameterError
            There is no journal, no such run, it has ended, or it belongs to another federation.
        ReleaseError
            The next request would be another one than the parties have seen.
        BlindsightError
            As for the call that began it.
        """
        if self.journal is None:
            raise ParameterError("This federation has no journal", fix="give it one: Federation(..., journal=...)")
        header = self.journal.header(run)
        if header.outcome != "open" or header.federation != self.digest:
            raise ParameterError(
                f"Run {run[:64]} cannot be resumed here",
                got=header.error or header.outcome if header.outcome != "open" else "begun in another federation",
                rule="a run that has not ended, with the same participants, threshold and schema",
                fix="start a new run",
            )
        return run_again(self, header, on_step=on_step, deliver=deliver, send_to=send_to)

    # -- inside -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End what the channel started, and close the journal that was opened for it."""
        self._channel.close()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return federation_html(self)

    def __repr__(self) -> str:
        names = ", ".join(f"{name} ({PublicIdentity(key).fingerprint})" for name, key in self._participants)
        return f"Federation({self.name!r}: {names})"
