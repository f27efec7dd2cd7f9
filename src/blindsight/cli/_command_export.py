"""``blindsight export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._exits import command
from ._options import AllowOption, JsonOption, KeyFileOption, sealer_of, writable_target
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.detectors import Detector

__all__ = ["export"]


@command
def export(
    model: Annotated[Path, typer.Option(help="Model file of a network.")],
    output: Annotated[Path, typer.Option(help="Model file to write.")],
    int8: Annotated[bool, typer.Option("--int8/--float32", help="Keep weights in eight bits.")] = True,
    prune: Annotated[float, typer.Option(help="Part of each matrix, its smallest weights, that becomes zero.")] = 0.0,
    test: Annotated[
        Path | None, typer.Option(help="Labelled records, CSV or Parquet, on which the cost in AUROC is measured.")
    ] = None,
    allow: AllowOption = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a smaller copy of a network, pruned and in eight-bit weights, and say what it saves and what it costs."""
    from blindsight import modelfile
    from blindsight.detectors import export as smaller
    from blindsight.errors import ParameterError

    screen = Screen(as_json=json_output)
    writable_target(output, "--output", sources=[model, test, key_file])
    if not int8 and prune == 0.0:
        raise ParameterError("Nothing would become smaller", got="--float32 and no --prune", fix="--prune 0.5")
    sealer = sealer_of(key_file)
    whole = modelfile.load(model, sealer=sealer, allowed=frozenset(allow or ()))
    copy = smaller(whole, int8=int8, prune=prune)  # refuses what is no network
    facts = {name: _facts(one, test) for name, one in (("model", whole), ("copy", copy))}
    copy.save(output, sealer=sealer)
    screen.table(
        f"{whole.name}, smaller",
        [("", "left"), ("Bytes", "right"), ("Compressed", "right"), ("AUROC", "right"), ("FPR", "right"),
         ("FNR", "right")],
        [
            (name, f"{one['bytes']:,}", f"{one['compressed']:,}", _shown(one["auroc"]),
             _shown(one["false_positive_rate"]), _shown(one["false_negative_rate"]))
            for name, one in facts.items()
        ],
    )  # fmt: skip
    cost = None
    if test is None:
        screen.say("What it costs in AUROC was not measured: give labelled records with --test.")
    elif facts["model"]["auroc"] is None:
        screen.say(f"What it costs in AUROC cannot be measured: '{test.name}' holds one class only.")
    else:
        cost = facts["model"]["auroc"] - facts["copy"]["auroc"]
        screen.say(f"It costs {cost:+.4f} of AUROC on the {facts['copy']['records']:,} records of '{test.name}'.")
    screen.say("The threshold is still the whole model's; in Python, copy.calibrate(records) reads a new one.")
    screen.say(f"Wrote {output}.")
    screen.result({"output": str(output), "auroc_cost": cost, **facts})


def _facts(model: Detector, test: Path | None) -> dict[str, Any]:
    """Bytes of the file, as it is and as any packer would leave it; and exact figures on one's own records."""
    import zlib

    from blindsight import modelfile
    from blindsight.federation import breakdown_of

    data = modelfile.dumps(model)
    facts: dict[str, Any] = {"bytes": len(data), "compressed": len(zlib.compress(data, 9))}
    names = ("records", "auroc", "false_positive_rate", "false_negative_rate")
    if test is None:
        return facts | dict.fromkeys(names)
    own = breakdown_of(model, model.schema_, test, party="", run="")
    return facts | {name: getattr(own, name) for name in names}


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
