"""The data owner's policy: what may be asked of this party at all. Enforced at the party, whatever is sent."""

from __future__ import annotations

import difflib
import os
import tomllib
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from blindsight.detectors import VotingForest, known_detectors
from blindsight.errors import BlindsightWarning, ParameterError, PolicyError
from blindsight.privacy import Unit

__all__ = ["Policy"]

MAX_POLICY_BYTES = 1 << 16
UNITS: tuple[Unit, ...] = ("record", "person", "party")
PURPOSES = ("fit", "threshold", "evaluation", "describe")

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

    def __post_init__(self) -> None:
        if not 3 <= self.minimum_survivors <= 256:
            raise ParameterError(
                "minimum_survivors is out of its domain",
                got=str(self.minimum_survivors),
                rule="3 to 256: the total of two parties shows each the other's",
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
        self._warn_misspelt()

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
                fix="see docs/sharp-edges.md, 'Policy'",
            ) from error

    def to_toml(self) -> str:
        """Write the policy as TOML, every key with its value."""
        import json
        from dataclasses import asdict

        # JSON's booleans, strings, numbers and arrays of strings are TOML's
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(self).items())

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
