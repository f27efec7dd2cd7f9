"""What a data owner brings to every sum: records, identity, policy, ledgers, and the log of what is done with them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from blindsight.data import Schema
from blindsight.errors import BlindsightError, PolicyError
from blindsight.keys import Identity
from blindsight.privacy import Budget, Ledger, NoiseSource, Unit
from blindsight.store import Store

from ._audit import AuditLog
from ._policy import Policy
from ._wire import Step

__all__ = ["Own"]

log = logging.getLogger(__name__)


class Own:
    """One data owner's side of everything; parameters are those of :class:`Party`.

    Attributes
    ----------
    sources : dict of "training", "evaluation" to table, array, path or None
        The records. They never leave but inside a masked sum.
    ledgers : mapping of unit to Ledger
        Under the policy that holds now.
    now : callable () -> datetime
    """

    def __init__(
        self,
        *,
        name: str,
        schema: Schema,
        identity: Identity,
        store: Store,
        policy: Policy,
        noise_source: NoiseSource | None,
        clock: Callable[[], datetime] | None,
        audit: AuditLog | None,
        policy_source: Callable[[], Policy] | None,
    ) -> None:
        self.name, self.schema, self.identity, self.store = name, schema, identity, store
        self.sources: dict[str, object] = {}
        self.noise_source = noise_source
        self.now = clock if clock is not None else lambda: datetime.now(UTC)
        self.audit = audit
        self._policy_source = policy_source
        self.use_policy(policy)

    def use_policy(self, policy: Policy) -> None:
        """Enforce another policy from the next message on."""
        self.policy = policy
        # costs per record and per person do not add up to one epsilon: each unit has an account of its own
        self.ledgers: Mapping[Unit, Ledger] = {
            unit: Ledger(
                self.store,
                Budget(epsilon=policy.maximum_epsilon, delta=policy.delta, unit=unit),
                name=f"ledger.{unit}",
            )
            for unit in policy.units
        }

    def reread_policy(self) -> None:
        """Take over a policy that was edited; refuse everything where it cannot be used."""
        if self._policy_source is None:
            return
        try:
            policy = self._policy_source()
        except BlindsightError as error:
            log.error("%s: %s", self.name, error)
            raise PolicyError(
                "This party's policy cannot be used, and lets nothing through", fix="its owner: blindsight preflight"
            ) from error
        if policy != self.policy:
            self.use_policy(policy)
            self.note("policy", digest=hashlib.sha256(policy.to_toml().encode()).hexdigest())

    def note(self, kind: str, **detail: object) -> None:
        """Write a line of the audit log; what cannot be written does not happen."""
        if self.audit is not None:
            self.audit.write(kind, **detail)

    def ledger(self, step: Step) -> Ledger:
        """The ledger that counts this unit; exact sums are written into the first one."""
        if step.privacy is None:
            return next(iter(self.ledgers.values()))
        return self.ledgers[step.privacy.unit]

    def dataset(self, step: Step) -> str:
        """Where the records are: a party without evaluation records evaluates on its training records."""
        return step.dataset if self.sources[step.dataset] is not None else "training"
