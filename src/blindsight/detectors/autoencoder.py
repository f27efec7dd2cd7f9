"""Autoencoder: a network that reconstructs ordinary records, and fails on others.

Parties sum: clipped updates of local training, round by round. Score: mean squared reconstruction error of the
standardised record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsight.data import Schema

from ._domains import choice, out_of_domain
from ._torch import TorchDetector
from ._training import Training

if TYPE_CHECKING:
    import torch

__all__ = ["AutoEncoder", "check_sizes"]

ACTIVATIONS = ("relu", "tanh", "leaky", "square")
MAX_WIDTH = 4096
MAX_LAYERS = 8


class AutoEncoder(TorchDetector):
    """Reconstruction error of a small network trained by rounds.

    Parameters
    ----------
    hidden : tuple of int
        Widths from the inputs to the narrowest layer; the way back mirrors them.
    activation : {"relu", "tanh", "leaky", "square"}
        "square" is x + a x**2 with a small learned a: what an encrypted layer could compute.
    contamination : float in (0, .5]
    training : Training, optional
        ``default_training`` if not given.
    scales : {"learned", "declared", "local"}
        How inputs are standardised: by one more private histogram, by the declared ranges, or by every party's own
        mean and deviation, which never leave it (the model then scores after ``localise``).
    seed : int
        Public seed of the initial weights.
    schema : Schema, optional

    Privacy
    -------
    A party releases one clipped vector a round, inside the masked sum: L2 norm at most ``training.clip_norm``. With
    record- or person-level privacy the party trains by DP-SGD.
    """

    name = "AutoEncoder"
    default_training = Training(rounds=30, learning_rate=0.2, clip_norm=10.0)
    feed_forward = True

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (64, 32),
        activation: str = "relu",
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "learned",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        check_sizes(self.hidden, self.activation)

    def _module(self, schema: Schema) -> torch.nn.Module:
        from ._modules import Reconstruction

        return Reconstruction(self._width(schema), tuple(self.hidden), self.activation)


def check_sizes(hidden: object, activation: object) -> None:
    """Refuse layers that are not a short list of bounded widths."""
    fine = isinstance(hidden, tuple | list) and 1 <= len(hidden) <= MAX_LAYERS
    if not fine or not all(type(width) is int and 1 <= width <= MAX_WIDTH for width in hidden):  # type: ignore[attr-defined]
        raise out_of_domain(
            "hidden", hidden, f"1 to {MAX_LAYERS} widths from 1 to {MAX_WIDTH}, e.g. (64, 32)", fix="hidden=(64, 32)"
        )
    choice("activation", activation, ACTIVATIONS)
