"""The suite that every detector is held against, ours and third parties'.

``check_detector(MyDetector, schema)`` runs what applies; ``detector_checks(MyDetector)`` gives the single checks by
name, for ``pytest.mark.parametrize``. A check fails with an AssertionError that says what does not hold.

==========  =========================================================================================================
all         parameters, unfitted, batches, reload, pyod, no_rows_kept, bad_inputs; every state on the way: states,
            malformed_states, bounds_of_sums, bounds_of_updates; federated, federated_private; blind, operators
circuit     bounds, circuit: for a :class:`CircuitDetector`, however it is fitted
sum         sums, forget_refusals, merge_refusals: for a :class:`SumDetector`
==========  =========================================================================================================
"""

from __future__ import annotations

import functools
import warnings
from unittest import SkipTest

from blindsight.data import Schema
from blindsight.detectors import CircuitDetector, Detector, SumDetector
from blindsight.errors import BlindsightWarning

from . import _checks_all, _checks_circuit, _checks_federated, _checks_state, _checks_sum
from ._kit import Check, Make

__all__ = ["Check", "check_detector", "detector_checks"]

_GROUPS: tuple[tuple[type[Detector], tuple[Check, ...]], ...] = (
    (Detector, _checks_all.CHECKS),
    (SumDetector, _checks_sum.CHECKS),
    (CircuitDetector, _checks_circuit.CHECKS),
    (
        Detector,
        (
            *_checks_state.CHECKS,
            *_checks_federated.CHECKS,
            _checks_circuit.check_blind,
            _checks_circuit.check_operators,
        ),
    ),
)


def detector_checks(make: Make | None = None) -> dict[str, Check]:
    """The single checks by name, in the order in which they help most.

    Parameters
    ----------
    make : callable () -> Detector, optional
        Only the checks that apply to what it makes; all of them otherwise.
    """
    kind = Detector if make is None else type(make())
    return {
        _name(check): _quiet(check)
        for group, checks in _GROUPS
        if make is None or issubclass(kind, group)
        for check in checks
    }


def check_detector(make: Make, schema: Schema) -> None:
    """Hold a detector against everything that applies to it.

    Parameters
    ----------
    make : callable () -> Detector
        A class, or a function that returns an unfitted detector. It is fitted a few dozen times: give a small network
        and few rounds. A detector of another package must be installed under the entry point that bears its ``name``.
    schema : Schema
        With declared ranges; records are made from it by :func:`sample_records`.

    Raises
    ------
    AssertionError
        The message names the check and what does not hold.
    """
    for name, check in detector_checks(make).items():
        try:
            check(make, schema)
        except SkipTest:
            continue
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def _name(check: Check) -> str:
    return check.__name__.removeprefix("_").removeprefix("check_")


def _quiet(check: Check) -> Check:
    """Values outside the ranges, and noise above the records, are meant here."""

    @functools.wraps(check)
    def quiet(make: Make, schema: Schema) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlindsightWarning)
            check(make, schema)

    return quiet
