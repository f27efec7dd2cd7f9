"""The data owner's policy: what may be asked of this party at all. Enforced at the party, whatever is sent."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path

import msgspec

from blindsight._names import PARTY_NAME
from blindsight.detectors import VotingForest, known_detectors
from blindsight.errors import BlindsightWarning, ParameterError, PolicyError
from blindsight.privacy import Event, Unit

from ._rules import Approval, Hours, Limit, asker_problem, check_names

__all__ = ["Policy"]

MAX_POLICY_BYTES = 1 << 16
UNITS: tuple[Unit, ...] = ("record", "person", "party")
PURPOSES = ("fit", "threshold", "evaluation", "describe")

_APPROVER = re.compile(PARTY_NAME)
_KEY = re.compile(r"[0-9a-f]{64}")

DEFAULT_DETECTORS = tuple(sorted(set(known_detectors()) - {VotingForest.name}))


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a data owner lets a federation compute on its records.

    Parameters
    ----------
    allow_exact_sums : bool
        Whether sums may be released without noise (``privacy=None``). They are releases about persons: a tail bin
        with a count of one says that somebody is there.
    detectors : tuple of str
        Detectors that may be fitted, by name: by default all of Blindsight's own whose updates are masked. Third
        parties' and brought ones run only where they are named here.
    purposes : tuple of str
        Of ``fit``, ``threshold``, ``evaluation``, ``describe``.
    units : tuple of str
        Privacy units that are enough, of ``record``, ``person`` and ``party``: ``("person",)`` refuses record-level
        releases. Each has its own account, since costs per record, per person and per party do not add up.
    minimum_survivors : int
        Fewest parties whose total may be opened; never below 3.
    minimum_colluders : int
        Fewest parties that a request must count as telling their noise (its ``colluders``). 1 by default: whoever of
        the parties receives the model knows its own noise, and 0 leaves no protection against it. Asked only where
        the parties' noise protects together, not of ``trust="local"``.
    maximum_epsilon : float
        Budget of this party's data set for all releases of one unit together, at ``delta``. It bounds what is charged,
        not what is asked for: a request of more goes through where its sums spend less than that.
    delta : float
        Probability at which the budget is stated.
    allow_unmasked_updates : bool
        Whether this party's update of a training round may go to the coordinator in the clear, for robust aggregation
        and votes. The coordinator then sees what this party alone contributed.
    allow_shared_key_sums : bool
        Whether this party's vectors may be hidden from the coordinator by encryption under one key that all parties
        hold (``sums="he"`` or ``"paillier"``) instead of by masks. One party that colludes with the coordinator then
        opens what every party alone contributed.
    columns : tuple of str or None
        Columns that a sum may read, by name; None: every one of the schema. A run under a schema that needs another
        one is refused, whoever wrote that schema.
    maximum_epsilon_per_run : float or None
        Most epsilon that one request (a fit with its threshold, an evaluation, a description) may ask for.
    minimum_noise : float
        Least noise of every sum: standard deviation of the noise that protects, over the L2 sensitivity; for DP-SGD
        the noise multiplier.
    askers : tuple of str
        Who may ask: names of coordinators, or ``sha256:`` and the fingerprint of a certificate, as the channel proves
        them. Empty: whoever the channel admits.
    hours : Hours or None
        When new sums may begin. What was begun goes on.
    limits : dict of detector name to dict of parameter to Limit
        ``{"IForest": {"trees": Limit(most=200)}}``; parts of the training as ``"training.rounds"``.
    approval : dict of detector name, "describe" or "default" to {"automatic", "by-hand", "four-eyes"}
        Whether a run waits for a person here. Automatic where nothing is said.
    approvers : dict of name to Ed25519 public key (64 hexadecimal digits)
        Who may approve. None named: whoever has this folder, with the party's own identity; not for four eyes.
    approval_hours : float
        How long a job waits before it expires, and how long an approval is good before it is used.
    keep_models : int
        How many delivered models are kept in the party's folder; the oldest ones give way. 0 refuses them.
    """

    allow_exact_sums: bool = False
    detectors: tuple[str, ...] = DEFAULT_DETECTORS
    purposes: tuple[str, ...] = PURPOSES
    units: tuple[Unit, ...] = ("record", "person")
    minimum_survivors: int = 3
    minimum_colluders: int = 1
    maximum_epsilon: float = 10.0
    delta: float = 1e-6
    allow_unmasked_updates: bool = False
    allow_shared_key_sums: bool = False
    columns: tuple[str, ...] | None = None
    maximum_epsilon_per_run: float | None = None
    minimum_noise: float = 0.0
    askers: tuple[str, ...] = ()
    hours: Hours | None = None
    limits: dict[str, dict[str, Limit]] = field(default_factory=dict)
    approval: dict[str, Approval] = field(default_factory=dict)
    approvers: dict[str, str] = field(default_factory=dict)
    approval_hours: float = 72.0
    keep_models: int = 10

    def __post_init__(self) -> None:
        if not 3 <= self.minimum_survivors <= 1024:
            raise ParameterError(
                "minimum_survivors is out of its domain",
                got=str(self.minimum_survivors),
                rule="3 to 1,024: the total of two parties shows each the other's",
            )
        if not 0 <= self.minimum_colluders <= 255:
            raise ParameterError(
                "minimum_colluders is out of its domain",
                got=str(self.minimum_colluders),
                rule="0 to 255: parties whose noise the adversary may know",
            )
        if not 0 < self.maximum_epsilon < 1000 or not 0 < self.delta < 0.1:
            raise ParameterError(
                "The policy's budget is out of its domain",
                got=f"maximum_epsilon = {self.maximum_epsilon!r}, delta = {self.delta!r}"[:120],
                rule="0 < maximum_epsilon < 1000, 0 < delta < 0.1",
                fix="maximum_epsilon = 10.0, delta = 1e-6",
            )
        if not self.units or not set(self.units) <= set(UNITS) or not set(self.purposes) <= set(PURPOSES):
            raise ParameterError(
                "The policy names an unknown unit or purpose",
                rule=f"units of {', '.join(UNITS)}; purposes of {', '.join(PURPOSES)}",
            )
        self._check_more()
        self._warn_misspelt()

    def _check_more(self) -> None:
        most = self.maximum_epsilon_per_run
        if most is not None and not 0 < most < 1000:
            raise ParameterError("maximum_epsilon_per_run is out of its domain", got=repr(most), rule="0 to 1000")
        if not (math.isfinite(self.minimum_noise) and 0 <= self.minimum_noise <= 1e6):
            raise ParameterError("minimum_noise is out of its domain", got=repr(self.minimum_noise), rule="0 to 1e6")
        if not 0 < self.approval_hours <= 24 * 365:
            raise ParameterError(
                "approval_hours is out of its domain", got=repr(self.approval_hours), rule="above 0, at most a year"
            )
        if not 0 <= self.keep_models <= 1000:
            raise ParameterError("keep_models is out of its domain", got=repr(self.keep_models), rule="0 to 1000")
        if self.columns is not None and not self.columns:
            raise ParameterError("The policy allows no column", got="columns = []", fix="leave the line out for all")
        for asker in self.askers:
            if asker_problem(asker):
                raise ParameterError(
                    "The policy names an asker that nobody can be",
                    got=repr(asker)[:100],
                    rule="a name, or sha256: and 64 hexadecimal digits",
                )
        for name, key in self.approvers.items():
            if not _APPROVER.fullmatch(name) or not _KEY.fullmatch(key):
                raise ParameterError(
                    "An approver of the policy cannot be used",
                    got=f"{name[:40]!r} = {key[:70]!r}",
                    rule="name = 64 hexadecimal digits of an Ed25519 public key",
                    fix="blindsight jobs key NAME prints the line",
                )
        if len(set(self.approvers.values())) != len(self.approvers):
            raise ParameterError("Two approvers of the policy have one key", rule="four eyes are two persons'")
        if "four-eyes" in self.approval.values() and len(self.approvers) < 2:
            raise ParameterError(
                "The policy asks for four eyes and names fewer than two approvers",
                got=str(len(self.approvers)),
                fix="blindsight jobs key NAME makes a key; its line belongs under [approvers]",
            )
        check_names(self.limits)

    def approval_of(self, detector: str | None) -> Approval:
        """Whether a run of this detector (None: a description) waits for a person."""
        key = "describe" if detector is None else detector
        return self.approval.get(key, self.approval.get("default", "automatic"))

    def check_columns(self, names: Collection[str]) -> None:
        """Raise PolicyError if a sum would read a column that is not allowed."""
        extra = sorted(set(names) - set(self.columns)) if self.columns is not None else []
        if extra:
            raise PolicyError(
                "The policy does not allow a column that this sum would read",
                got=", ".join(extra)[:300],
                rule="columns = " + ", ".join(self.columns or ())[:300],
                fix="agree on a schema without it, or have the data owner add it to 'columns'",
            )

    def check_epsilon(self, epsilon: float | None) -> None:
        """Raise PolicyError if one request asks for more epsilon than one may; None: exact sums."""
        most = self.maximum_epsilon_per_run
        if most is not None and epsilon is not None and epsilon > most:
            raise PolicyError(
                "The request asks for more epsilon than the policy allows at once",
                got=f"epsilon = {epsilon:g}",
                rule=f"maximum_epsilon_per_run = {most:g}",
                fix=f"ask for epsilon={most:g} or less",
            )

    def check_noise(self, event: Event) -> None:
        """Raise PolicyError if a sum would have less noise than the policy wants."""
        if event.exact or not self.minimum_noise:
            return  # exact sums have a rule of their own
        # of zCDP's rho = (sensitivity / deviation)^2 / 2: with the noise that protects, colluders' left out
        noise = event.noise_multiplier if event.sampled else 1 / math.sqrt(2 * event.rho)
        if noise is None or noise < self.minimum_noise:
            raise PolicyError(
                f"'{event.query}' would have too little noise",
                got=f"{noise or 0:.4g} times its sensitivity",
                rule=f"minimum_noise = {self.minimum_noise:g}",
                fix="ask for a smaller epsilon",
            )

    def _warn_misspelt(self) -> None:
        """An unknown name may be a third party's; one that is nearly ours is more likely misspelt."""
        known = known_detectors()
        for name in self.detectors:
            close = [] if name in known else difflib.get_close_matches(name[:80], known, n=1, cutoff=0.8)
            if close:
                warnings.warn(
                    f"The policy names an unknown detector '{name[:80]}': did you mean '{close[0]}'? "
                    "A detector of another package is meant by its exact name.",
                    BlindsightWarning,
                    stacklevel=4,
                )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Policy:
        """Read ``policy.toml``; every key is optional, an unknown one is an error."""
        path = Path(path)
        try:
            raw = path.read_bytes()
            if len(raw) > MAX_POLICY_BYTES:
                raise ValueError("the file is longer than 64 KiB")
            values = tomllib.loads(raw.decode("utf-8"))
            unknown = sorted(set(values) - {field.name for field in fields(cls)})
            if unknown:  # a misspelt limit must not become the default one
                raise ValueError(f"unknown key {unknown[0]!r}")
            return msgspec.convert(values, cls)
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"The policy '{path.name}' cannot be used",
                got=str(error)[:300],
                fix="see docs/federation.md, 'Policy'",
            ) from error

    def to_toml(self) -> str:
        """Write the policy as TOML: every key with its value; what is left open, as a remark."""
        # one by one: what msgspec reads leaves fields that have their default to the class, where it does not see them
        values = {field.name: msgspec.to_builtins(getattr(self, field.name)) for field in fields(self)}
        tables = ("hours", "limits", "approval", "approvers")
        lines = []
        for key, remark in REMARKS.items():
            lines += [f"# {line}" for line in remark.splitlines()]
            value = values.get(key)
            if key in tables:
                lines += _table(key, value) if value else [f"# {line}" for line in EXAMPLES[key].splitlines()]
            else:
                # JSON's booleans, strings, numbers and arrays of strings are TOML's
                lines.append(f"{key} = {json.dumps(value)}" if value is not None else f"# {EXAMPLES[key]}")
            lines.append("")
        return "\n".join(lines)

    def check(
        self,
        *,
        purpose: str,
        detector: str | None,
        unit: str | None,
        exact: bool,
        fewest_survivors: int,
        masked: bool = True,
        shared_key: bool = False,
        colluders: int | None = None,
    ) -> None:
        """Raise PolicyError if this policy refuses such a release.

        Parameters
        ----------
        purpose : str
        detector : str or None
            None for ``describe``.
        unit : str or None
            None for exact sums.
        exact : bool
            Whether no noise is asked for.
        fewest_survivors : int
            Smallest survivor set that the protocol would open.
        masked : bool
            Whether the coordinator learns the sum alone.
        shared_key : bool
            Whether all parties share the key that hides their vectors from it.
        colluders : int or None
            Parties assumed to tell their noise; None where no noise of others is relied on.
        """
        if purpose not in self.purposes:
            raise PolicyError(f"The policy does not allow '{purpose}'", rule="purposes = " + ", ".join(self.purposes))
        if detector is not None and detector not in self.detectors:
            raise PolicyError(
                f"The policy does not allow the detector '{detector}'",
                rule="detectors = " + ", ".join(self.detectors),
            )
        if exact and not self.allow_exact_sums:
            raise PolicyError(
                "The policy does not allow exact sums",
                got="privacy=None",
                rule="allow_exact_sums = false",
                fix="ask for differential privacy, or have the data owner set allow_exact_sums = true",
            )
        if unit is not None and unit not in self.units:
            raise PolicyError(
                f"The policy does not accept the privacy unit '{unit}'",
                rule="units = " + ", ".join(self.units),
                fix=f"ask for one of these, or have the data owner add '{unit}' to the policy",
            )
        if not masked and not self.allow_unmasked_updates:
            raise PolicyError(
                "The policy does not allow updates in the clear",
                got="an aggregation that reads every party's update",
                rule="allow_unmasked_updates = false",
                fix="use aggregation='mean', or have the data owner set allow_unmasked_updates = true",
            )
        if shared_key and not self.allow_shared_key_sums:
            raise PolicyError(
                "The policy does not allow sums under a shared key",
                got="sums='he' or 'paillier': one party that colludes with the coordinator opens every vector",
                rule="allow_shared_key_sums = false",
                fix="use sums='masked', or have the data owner set allow_shared_key_sums = true",
            )
        if fewest_survivors < self.minimum_survivors:
            raise PolicyError(
                "The release could be opened over too few parties",
                got=str(fewest_survivors),
                rule=f"minimum_survivors = {self.minimum_survivors}",
            )
        if colluders is not None and colluders < self.minimum_colluders:
            raise PolicyError(
                "The privacy asked for counts on too many parties to keep their noise to themselves",
                got=f"colluders={colluders}",
                rule=f"minimum_colluders = {self.minimum_colluders}",
                fix=f"ask for bs.DifferentialPrivacy(..., colluders={self.minimum_colluders}), or trust='local'",
            )


REMARKS = {
    "allow_exact_sums": "May totals be released without noise (privacy=None)? They are releases about persons.",
    "detectors": "What may be fitted, by name. Another package's runs only where it is named here.",
    "purposes": "Of fit, threshold, evaluation, describe.",
    "units": "Privacy units that are enough: record, person, party. Each has an account of its own.",
    "minimum_survivors": "Fewest parties whose total may be opened; never below 3.",
    "minimum_colluders": "Fewest parties that a request must count as telling their noise; 0 leaves no protection\n"
    "against whoever receives the model.",
    "maximum_epsilon": "Budget of these records for all releases of one unit together, at this delta.",
    "delta": "Probability at which the budget is stated.",
    "allow_unmasked_updates": "May updates go to the coordinator in the clear (median, Krum, votes)?",
    "allow_shared_key_sums": "May BFV or Paillier replace masks? One party that colludes with the coordinator then "
    "opens everything.",
    "columns": "Columns that a sum may read; without this line, every one of schema.toml.",
    "maximum_epsilon_per_run": "Most epsilon that one request may ask for; without this line, the whole budget.",
    "minimum_noise": "Least noise of every sum: standard deviation over sensitivity; DP-SGD: the noise multiplier.",
    "askers": 'Who may ask: names of coordinators, or "sha256:..." of a certificate. Empty: all the channel admits.',
    "approval_hours": "How long a job waits, and an approval is good before it is used.",
    "keep_models": "How many delivered models are kept here; the oldest give way. 0 refuses them.",
    "hours": "When new sums may begin; without this table, always. What was begun goes on.",
    "limits": 'What a detector\'s parameters may be; parts of the training as "training.rounds".',
    "approval": "Which runs wait for a person here: automatic, by-hand, four-eyes; by detector, describe, default.",
    "approvers": "Who may approve; 'blindsight jobs key NAME' prints the line. None: whoever has this folder.",
}
EXAMPLES = {
    "columns": 'columns = ["amount", "age"]',
    "maximum_epsilon_per_run": "maximum_epsilon_per_run = 1.0",
    "hours": '[hours]\nfrom = "08:00"\nto = "18:00"\ndays = ["mon", "tue", "wed", "thu", "fri"]\n'
    'zone = "Europe/Vienna"',
    "limits": '[limits.AutoEncoder]\n"training.rounds" = { most = 50 }',
    "approval": '[approval]\ndefault = "by-hand"\nECOD = "automatic"\nAutoEncoder = "four-eyes"',
    "approvers": '[approvers]\nalice = "0000000000000000000000000000000000000000000000000000000000000000"',
}


def _table(key: str, value: dict[str, object]) -> list[str]:
    """A table of plain values, or of tables of inline ones."""
    if key != "limits":
        return [f"[{key}]", *(f"{json.dumps(name)} = {json.dumps(item)}" for name, item in value.items())]
    lines = []
    for detector, limits in value.items():
        assert isinstance(limits, dict)
        lines.append(f"[limits.{json.dumps(detector)}]")
        for path, limit in limits.items():
            inside = ", ".join(f"{name} = {json.dumps(item)}" for name, item in limit.items() if item is not None)
            lines.append(f"{json.dumps(path)} = {{ {inside} }}")
    return lines
