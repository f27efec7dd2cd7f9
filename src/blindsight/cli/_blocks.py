"""Blocks of options that several commands take, each declared once, as a value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

__all__ = ["with_blocks"]

F = TypeVar("F", bound=Callable[..., Any])


def with_blocks(function: F) -> F:
    """Have the command line show the fields of each parameter that is a dataclass, in its place; give it as a value.

    Fields are annotated as a command's own parameters would be, and have defaults.
    """
    hints: dict[str, Any] = get_type_hints(function, include_extras=True)
    blocks: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    fields = {
        name: [(field.name, get_type_hints(block, include_extras=True)[field.name], field.default)
               for field in dataclasses.fields(block)]
        for name, block in blocks.items()
    }  # fmt: skip
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in blocks:
            shown.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, hint, default in fields[parameter.name]
        ]

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        made = {
            name: block(**{field: given.pop(field) for field, _, _ in fields[name]}) for name, block in blocks.items()
        }
        return function(**given, **made)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run  # type: ignore[return-value]
