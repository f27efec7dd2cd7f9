"""Convolutional autoencoder: for records that are images or spectra, whose neighbouring features belong together.

Parties sum: clipped updates of local training, round by round. Score: mean squared reconstruction error of the
standardised record.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from blindsight.data import Schema
from blindsight.errors import ParameterError, SchemaError

from ._domains import out_of_domain, whole_number
from ._torch import TorchDetector
from ._training import Training

if TYPE_CHECKING:
    import torch

__all__ = ["ConvAutoEncoder"]

MAX_SIDE = 1024


class ConvAutoEncoder(TorchDetector):
    """Reconstruction error of a small convolutional network over images, spectra or flattened windows.

    Parameters
    ----------
    shape : tuple of one or two ints, optional
        Of one channel: (length,), or (height, width) in row-major order of the features. All features in a row without
        it.
    channels : int
        Channels of a record; the features come channel after channel, as ``window_table(..., summaries=("all",))``
        makes them.
    filters : int in [1, 256]
        Of the first convolution; the second has twice as many.
    code : int in [1, 1024]
        Width of the narrow layer.
    contamination : float in (0, .5]
    training, scales, seed, schema
        As for :class:`AutoEncoder`; ``scales="declared"`` keeps an image's dark border dark.

    Privacy
    -------
    A party releases one clipped vector a round, inside the masked sum: L2 norm at most ``training.clip_norm``. With
    record- or person-level privacy the party trains by DP-SGD.
    """

    name = "ConvAutoEncoder"
    by_operators = True
    default_training = Training(rounds=30, learning_rate=0.2, clip_norm=10.0)

    def __init__(
        self,
        *,
        shape: tuple[int, ...] | None = None,
        channels: int = 1,
        filters: int = 8,
        code: int = 16,
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.shape = shape
        self.channels = channels
        self.filters = filters
        self.code = code
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        shape = self.shape
        if shape is not None and not (
            isinstance(shape, tuple | list)
            and len(shape) in (1, 2)
            and all(type(side) is int and 2 <= side <= MAX_SIDE for side in shape)
        ):
            raise out_of_domain("shape", shape, f"(length,) or (height, width), 2 to {MAX_SIDE}")
        whole_number("channels", self.channels, 1, 256)
        whole_number("filters", self.filters, 1, 256)
        whole_number("code", self.code, 1, 1024)

    def _module(self, schema: Schema) -> torch.nn.Module:
        from ._window_modules import ConvNet

        categories = [column.name for column in schema.features if column.type == "category"]
        if categories:
            raise SchemaError(
                f"Column '{categories[0]}' is a category",
                rule="an image or spectrum is made of numbers",
                fix="set its role to 'ignore', or use AutoEncoder",
            )
        shape = tuple(self.shape) if self.shape is not None else (schema.n_features // self.channels,)
        if math.prod(shape) * self.channels != schema.n_features or min(shape) < 2:
            raise ParameterError(
                "shape does not fit the schema",
                got=f"{self.channels} x {' x '.join(map(str, shape))} of {schema.n_features} features",
                rule="channels x shape is the number of features, every side at least 2",
                fix="set shape, e.g. (8, 8) for images of 64 features",
            )
        return ConvNet(shape, self.channels, self.filters, self.code)
