"""The torch modules that look at windows, images and spectra. Imported only where torch is.

Every layer is one that Opacus knows, so that the same module trains with and without DP-SGD.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import nn
from torch.nn import functional

from blindsight.circuits import DEVIATION_FLOOR

__all__ = ["ConvNet", "LSTMNet", "TransformerNet", "WindowModule", "WindowRows", "positions"]


class WindowRows:
    """Windows of input rows that are copied only when a batch of them is asked for: what the training loop indexes.

    Parameters
    ----------
    Z : ndarray of shape (k, m), float32
        Ordered input rows.
    starts : ndarray of shape (n,), int64
    span : int
        Rows of a window.
    """

    def __init__(self, Z: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], span: int) -> None:
        rows = torch.from_numpy(Z)
        self._view = rows.unfold(0, span, 1).transpose(1, 2) if len(Z) >= span else torch.zeros((0, span, Z.shape[1]))
        self._starts = torch.from_numpy(starts)

    def __len__(self) -> int:
        """Return the number of windows n."""
        return len(self._starts)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        """Copy the chosen windows, flattened, out: shape (chosen, span * m)."""
        chosen: torch.Tensor = self._view[self._starts[which]].flatten(1)
        return chosen


class WindowModule(nn.Module):
    """Reconstructs a window, or foretells the rows after it.

    Parameters
    ----------
    window, horizon, n_inputs : int
        Rows looked at, rows foretold (0: the window itself is reconstructed), inputs of a row.
    by_window : bool
        Centre and scale every channel by its own mean and deviation over the rows looked at (Kim et al. 2022, RevIN,
        without learned parameters): what counts is then the shape.
    """

    def __init__(self, window: int, horizon: int, n_inputs: int, *, by_window: bool) -> None:
        super().__init__()
        self.window, self.horizon, self.n_inputs, self.by_window = window, horizon, n_inputs, by_window
        self.rows_out = horizon or window

    def _split(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = z.reshape(len(z), self.window + self.horizon, self.n_inputs)
        seen = x[:, : self.window]
        if self.by_window:
            mean = seen.mean(dim=1, keepdim=True)
            variance = ((seen - mean) ** 2).mean(dim=1, keepdim=True)
            x = (x - mean) / (variance.sqrt() + DEVIATION_FLOOR)
            seen = x[:, : self.window]
        return seen, x[:, self.window :] if self.horizon else seen

    def _predict(self, seen: torch.Tensor) -> torch.Tensor:
        """(n, window, m) -> (n, rows_out, m)."""
        raise NotImplementedError

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, span * m) -> (n, rows_out * m)."""
        return self._predict(self._split(z)[0]).flatten(1)

    def errors(self, z: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each row that is reconstructed or foretold, (n, span * m) -> (n, rows_out)."""
        seen, wanted = self._split(z)
        return ((self._predict(seen) - wanted) ** 2).mean(dim=2)

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """(n, span * m) -> (n,)."""
        return self.errors(z).mean(dim=1)


class LSTMNet(WindowModule):
    """Encoder and decoder (Malhotra et al. 2016, arXiv 1607.00148): the last state is all that the decoder is told."""

    def __init__(self, window: int, horizon: int, n_inputs: int, hidden: int, *, by_window: bool) -> None:
        super().__init__(window, horizon, n_inputs, by_window=by_window)
        self.encoder = DPLSTM(n_inputs, hidden, batch_first=True)
        self.decoder = DPLSTM(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, n_inputs)
        _zero_biases(self)

    def _predict(self, seen: torch.Tensor) -> torch.Tensor:
        states, _ = self.encoder(seen)
        told = states[:, -1:].expand(-1, self.rows_out, -1)
        decoded, _ = self.decoder(told)
        predicted: torch.Tensor = self.out(decoded)
        return predicted


class TransformerNet(WindowModule):
    """Encoder, a narrow code of the whole window, decoder (Vaswani et al. 2017, arXiv 1706.03762, pre-norm blocks)."""

    def __init__(
        self, window: int, horizon: int, n_inputs: int, width: int, heads: int, blocks: int, *, by_window: bool
    ) -> None:
        super().__init__(window, horizon, n_inputs, by_window=by_window)
        self.into = nn.Linear(n_inputs, width)
        self.encoder = nn.ModuleList([_Block(width, heads) for _ in range(blocks)])
        # without it every row could carry itself through, anomaly and all
        self.narrow = nn.Linear(window * width, width)
        self.wide = nn.Linear(width, self.rows_out * width)
        self.decoder = nn.ModuleList([_Block(width, heads) for _ in range(blocks)])
        self.out = nn.Linear(width, n_inputs)
        self.width = width
        _zero_biases(self)

    def _predict(self, seen: torch.Tensor) -> torch.Tensor:
        x = self.into(seen) + positions(self.window, self.width, seen)
        for block in self.encoder:
            x = block(x)
        code = torch.tanh(self.narrow(x.flatten(1)))
        x = self.wide(code).reshape(len(seen), self.rows_out, self.width) + positions(self.rows_out, self.width, seen)
        for block in self.decoder:
            x = block(x)
        predicted: torch.Tensor = self.out(x)
        return predicted


class _Block(nn.Module):
    """Attention and a small network, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = DPMultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        out: torch.Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return out


class ConvNet(nn.Module):
    """Two convolutions that halve, a narrow code, and the way back.

    Parameters
    ----------
    shape : tuple of one or two ints
        Of one channel of a record: (length,) or (height, width), row-major.
    channels : int
        Channels of a record; its features come channel after channel.
    filters, code : int
        Filters of the first convolution (the second has twice as many), width of the code.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, filters: int, code: int) -> None:
        super().__init__()
        convolution: Any = nn.Conv1d if len(shape) == 1 else nn.Conv2d
        self.sizes = [shape, tuple(math.ceil(s / 2) for s in shape), tuple(math.ceil(s / 4) for s in shape)]
        self.channels, self.filters = channels, filters
        inside = 2 * filters * math.prod(self.sizes[2])
        self.down1 = convolution(channels, filters, 3, stride=2, padding=1)
        self.down2 = convolution(filters, 2 * filters, 3, stride=2, padding=1)
        self.narrow, self.wide = nn.Linear(inside, code), nn.Linear(code, inside)
        self.up2 = convolution(2 * filters, filters, 3, padding=1)
        self.up1 = convolution(filters, channels, 3, padding=1)
        _zero_biases(self)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n, m)."""
        x = z.reshape(len(z), self.channels, *self.sizes[0])
        x = functional.leaky_relu(self.down1(x), 0.1)
        x = functional.leaky_relu(self.down2(x), 0.1)
        x = functional.leaky_relu(self.wide(self.narrow(x.flatten(1))), 0.1)
        x = x.reshape(len(z), 2 * self.filters, *self.sizes[2])
        # a nearest neighbour twice as large, then a convolution: no checkerboard, and a layer that Opacus knows
        x = functional.leaky_relu(self.up2(functional.interpolate(x, size=self.sizes[1])), 0.1)
        rebuilt: torch.Tensor = self.up1(functional.interpolate(x, size=self.sizes[0]))
        return rebuilt.flatten(1)

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """(n, m) -> (n,)."""
        errors: torch.Tensor = ((self(z) - z) ** 2).mean(dim=1)
        return errors


def _zero_biases(module: nn.Module) -> None:
    """Start biases at 0: one of a single number would pass for a constant that is meant to stay as drawn."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter.zero_()


def positions(rows: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of the row's number (section 3.5 of the paper), shape (rows, width); computed, not kept."""
    row = torch.arange(rows, dtype=like.dtype)[:, None]
    column = torch.arange(width, dtype=like.dtype)
    angle = row / 10_000 ** (2 * torch.div(column, 2, rounding_mode="floor") / width)
    found: torch.Tensor = torch.where(column % 2 == 0, torch.sin(angle), torch.cos(angle))
    return found
