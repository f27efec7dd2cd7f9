"""Torch modules that others bring: an installed package's entry point, loaded only where its name is allowed.

A package declares, in its pyproject.toml::

    [project.entry-points."blindsight.modules"]
    my-net = "my_package:make"

``make(n_inputs, **arguments)`` returns a ``torch.nn.Module`` that keeps the contract of ``_torch``. Every party must
have the package installed and the name in its policy; nothing of the code ever travels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from blindsight.data import Schema
from blindsight.errors import ParameterError

from ._torch import TorchDetector
from ._training import Training

if TYPE_CHECKING:
    import torch

__all__ = ["ModuleDetector", "brought_modules", "module_detector"]

ENTRY_POINT_GROUP = "blindsight.modules"

MAX_ARGUMENTS = 32


class ModuleDetector(TorchDetector):
    """A detector around a module that somebody else wrote; made by :func:`module_detector`.

    Parameters
    ----------
    arguments : tuple
        Names and plain values in turn, ``("width", 16, "depth", 2)``: what the factory gets besides ``n_inputs``.
    contamination, training, scales, seed, schema
        As for :class:`AutoEncoder`.
    """

    default_training = Training(rounds=30, learning_rate=0.1, clip_norm=10.0)
    factory: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        *,
        arguments: tuple[Any, ...] = (),
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "learned",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.arguments = arguments
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        fine = isinstance(self.arguments, tuple) and len(self.arguments) <= 2 * MAX_ARGUMENTS
        names = self.arguments[::2] if fine else ()
        if not fine or len(self.arguments) % 2 or not all(isinstance(n, str) and n.isidentifier() for n in names):
            raise ParameterError(
                "arguments is malformed", got=repr(self.arguments)[:80], rule='names and values in turn: ("width", 16)'
            )

    def _module(self, schema: Schema) -> torch.nn.Module:
        given = dict(zip(self.arguments[::2], self.arguments[1::2], strict=True))
        try:
            made: Any = type(self).factory(self._width(schema), **given)
        except TypeError as error:
            raise ParameterError(
                f"The module '{self.name}' cannot be made", got=str(error)[:200], rule="factory(n_inputs, **arguments)"
            ) from error
        if not callable(getattr(made, "losses", None)) or not callable(getattr(made, "named_parameters", None)):
            raise ParameterError(
                f"The entry point '{self.name}' makes no module with losses",
                got=type(made).__name__,
                rule="a torch.nn.Module with losses(z) -> one number a record",
            )
        module: torch.nn.Module = made
        return module


def brought_modules(allowed: frozenset[str]) -> dict[str, type[ModuleDetector]]:
    """Detectors around the installed modules whose names are allowed; no other entry point is loaded."""
    return {entry.name: _class_of(entry) for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name in allowed}


def module_detector(name: str) -> type[ModuleDetector]:
    """Detector class around one installed module, by name.

    Raises
    ------
    ParameterError
        No installed package has an entry point of that name.
    """
    found = brought_modules(frozenset({name}))
    if name not in found:
        installed = sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))
        raise ParameterError(
            f"No installed package brings a module '{name}'",
            got=", ".join(installed)[:200] or "none installed",
            rule=f"an entry point in the group '{ENTRY_POINT_GROUP}'",
            fix="install the package that has it",
        )
    return found[name]


@cache
def _class_of(entry: EntryPoint) -> type[ModuleDetector]:
    members = {"name": entry.name, "factory": staticmethod(entry.load()), "__doc__": ModuleDetector.__doc__}
    return type(entry.name, (ModuleDetector,), members)
