"""Products of residues on a device of torch's, for GPUs: the same integers as NumPy's, computed elsewhere.

*Exact.* A product ``w @ R`` is taken in float64, over so few entries at a time that ``sum |w| * max R < 2**53``. Every
product and every sum of some of them, in whatever order and with or without fused operations, is then an integer that
float64 holds: nothing is ever rounded, so that no order of summation, number of threads or kernel can change the
result. Remainders are taken in int64, where they are exact too. TF32 and the other reduced precisions of torch act on
float32 alone, and nothing here is float32. cuBLAS (from CUDA 13) can emulate float64 by shorter integers, on request
by an environment variable: then nothing is computed here. And a device has to pass :func:`_check_exact` first.

*Streamed.* Residues come as uint32 in one message. They go over in pieces of bounded size, through two buffers that
are pinned where there is CUDA: while the device computes on one piece, the next is copied into the other buffer. What
a device holds at a time does not grow with the message.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import CapacityError, MissingExtraError, ParameterError, WireError

if TYPE_CHECKING:
    import torch

    from ._ckks_circuit import IntegerNetwork

__all__ = ["ResidueDevice", "open_device"]

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]
Words = npt.NDArray[np.unsignedinteger[Any]]

NAME = re.compile(r"cpu|cuda(:\d{1,3})?")
EMULATION = "CUBLAS_EMULATE_DOUBLE_PRECISION"

PIECE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Of one piece, as float64: on a CPU it stays in cache; on a GPU it has to be worth a launch."""

PRODUCTS_SUMMED = 256
"""Products of two residues below ``2**27`` that an int64 sums."""


def open_device(name: str | None) -> ResidueDevice | None:
    """Return the device of that name; None, which stands for NumPy, for None.

    Parameters
    ----------
    name : {"cpu", "cuda", "cuda:0", "cuda:1", ..} or None

    Raises
    ------
    ParameterError
        There is no device of that name, or torch does not see it.
    MissingExtraError
        torch is not installed.
    CapacityError
        The device's products are not exact.
    """
    if name is None:
        return None
    if type(name) is not str or not NAME.fullmatch(name):
        raise ParameterError(
            "device is out of its domain",
            got=repr(name)[:80],
            rule="None (NumPy), 'cpu', 'cuda', 'cuda:0', 'cuda:1', ..",
        )
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "A device needs PyTorch",
            got=f"no module named {error.name}",
            fix="pip install 'blindsight[deep]', or torch alone; device=None computes with NumPy",
        ) from error
    if name.startswith("cuda"):
        if os.environ.get(EMULATION, "0") != "0":
            raise ParameterError(
                "cuBLAS is told to emulate float64, which need not be exact",
                got=f"{EMULATION}={os.environ[EMULATION][:20]}",
                fix=f"unset {EMULATION}",
            )
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise ParameterError(
                "torch does not see this device",
                got=f"{name}; {count} CUDA devices, torch {torch.__version__}",
                fix="install a build of torch for CUDA and a driver, or leave device out",
            )
    device = ResidueDevice(name)
    _check_exact(device)
    return device


class ResidueDevice:
    """Where products of residues are computed; made by :func:`open_device`. One call at a time.

    Parameters
    ----------
    name : {"cpu", "cuda", "cuda:0", "cuda:1", ..}

    Security
    --------
    The weights, which are the model, and the owners' ciphertexts, which tell nothing, lie in the device's memory. Who
    shares a GPU with others relies on its driver to keep them apart.
    """

    def __init__(self, name: str) -> None:
        import torch

        self.name = name
        self._torch, self._device, self._cuda = torch, torch.device(name), name.startswith("cuda")
        self.piece_bytes = PIECE_BYTES["cuda" if self._cuda else "cpu"]
        self._lock = threading.Lock()
        self._buffers: list[torch.Tensor] = []

    # -- BFV columns

    def inner_products(
        self, digits: Sequence[Floats], runs: Sequence[tuple[int, int]], primes: Sequence[int], digit_bits: int
    ) -> Callable[[Words], Residues]:
        """Keep weights on the device; returns what multiplies residues by them.

        Parameters
        ----------
        digits : sequence of ndarray of shape (entries,), float64
            The weights are their sum, the k-th times ``2**(k * digit_bits)``; at most two.
        runs : sequence of (start, stop)
            Of entries, in each of which the absolute values of a digit sum to less than ``2**53`` over the largest
            prime.
        primes : sequence of int
            Below ``2**31``; the products of a prime and ``2**digit_bits`` below ``2**62``.
        digit_bits : int

        Returns
        -------
        callable
            (primes, entries, width) uint32 residues, from a peer, to (primes, width) uint64: the inner products,
            reduced. Raises WireError where a residue is not reduced.
        """
        torch = self._torch
        weights = torch.stack([self._floats(digit) for digit in digits])

        def multiply(residues: Words) -> Residues:
            width = residues.shape[2]
            most = max(1, self.piece_bytes // (8 * width))
            runs_cut = [(a, min(a + most, stop)) for start, stop in runs for a in range(start, stop, most)]
            out = torch.empty((len(primes), width), dtype=torch.int64, device=self._device)
            pieces = (residues[i, start:stop] for i in range(len(primes)) for start, stop in runs_cut)
            with self._lock, torch.inference_mode():
                fed, bad = self._feed(pieces), self._flag()
                for i, p in enumerate(primes):
                    total = torch.zeros((len(digits), width), dtype=torch.int64, device=self._device)
                    for start, stop in runs_cut:
                        x = next(fed)
                        bad |= (x.amax() >= p) | (x.amin() < 0)
                        total += (weights[:, start:stop] @ x.double()).long()
                        total %= p
                    value = total[0] if len(digits) == 1 else (total[0] + (total[1] << digit_bits)) % p
                    out[i] = value
                return self._result(out, bad, primes)

        return multiply

    # -- CKKS columns

    def scores(self, network: IntegerNetwork, primes: Sequence[int]) -> Callable[[Words], Residues]:
        """Keep a network's weights on the device; returns what :meth:`IntegerNetwork.evaluate` computes.

        Parameters
        ----------
        network : IntegerNetwork
        primes : sequence of int
            Below ``2**27``.

        Returns
        -------
        callable
            (primes, entries, 2, N) uint32 residues, from a peer, to (parts, primes, N) uint64. Raises WireError where a
            residue is not reduced.
        """
        torch = self._torch
        on_device = _Network(self, network, primes)

        def evaluate(inputs: Words) -> Residues:
            count, entries, _, degree = inputs.shape
            columns = max(256, self.piece_bytes // (8 * on_device.width(entries)))
            cuts = [(start, min(start + columns, degree)) for start in range(0, degree, columns)]
            out = torch.empty((on_device.parts, count, degree), dtype=torch.int64, device=self._device)
            pieces = (inputs[i, :, :, start:stop] for i in range(count) for start, stop in cuts)
            with self._lock, torch.inference_mode():
                fed, bad = self._feed(pieces), self._flag()
                for i, p in enumerate(primes):
                    for start, stop in cuts:
                        x = next(fed)
                        bad |= (x.amax() >= p) | (x.amin() < 0)
                        out[:, i, start:stop] = on_device.scores(x.double(), p)
                return self._result(out, bad, primes)

        return evaluate

    # -- private

    def _floats(self, values: Floats) -> torch.Tensor:
        return self._torch.tensor(values, dtype=self._torch.float64, device=self._device)

    def _flag(self) -> torch.Tensor:
        return self._torch.zeros((), dtype=self._torch.bool, device=self._device)

    def _feed(self, pieces: Iterable[Words]) -> Iterator[torch.Tensor]:
        """Pieces of uint32, one after the other, as int32 on the device: what is not below 2**31 is then negative.

        Each lasts until the next one but one is asked for.
        """
        torch = self._torch
        free: list[Any] = [None, None]
        for turn, piece in enumerate(pieces):
            if free[turn % 2] is not None:
                free[turn % 2].synchronize()  # the copy out of this buffer is over
            buffer = self._buffer(turn % 2, piece.size)
            np.copyto(buffer.numpy().reshape(piece.shape), piece.view(np.int32))
            if not self._cuda:
                yield buffer.reshape(piece.shape)
                continue
            x = buffer.to(self._device, non_blocking=True)
            free[turn % 2] = torch.cuda.Event()
            free[turn % 2].record(torch.cuda.current_stream(self._device))
            yield x.reshape(piece.shape)

    def _buffer(self, turn: int, size: int) -> torch.Tensor:
        if len(self._buffers) <= turn or len(self._buffers[turn]) < size:
            # a larger piece than before: both anew, and nothing is under way, since every call ends in a result
            torch = self._torch
            self._buffers = [torch.empty(size, dtype=torch.int32, pin_memory=self._cuda) for _ in range(2)]
        return self._buffers[turn][:size]

    def _result(self, out: torch.Tensor, bad: torch.Tensor, primes: Sequence[int]) -> Residues:
        if bool(bad):  # waits for the device
            raise WireError("A residue is not reduced", rule=f"below its prime, {min(primes)} or more")
        found: Residues = out.cpu().numpy().view(np.uint64)
        return found

    def __repr__(self) -> str:
        return f"ResidueDevice({self.name!r})"


class _Network:
    """An :class:`IntegerNetwork` on a device: the same steps as there, reduced by int64 remainders."""

    def __init__(self, device: ResidueDevice, network: IntegerNetwork, primes: Sequence[int]) -> None:
        self._torch, self._lift, self._offset = device._torch, network.lift, network.offset

        def weights(digits: list[Floats]) -> list[torch.Tensor]:
            return [device._floats(digit) for digit in digits]

        def biases(values: list[int]) -> dict[int, torch.Tensor]:
            columns = {p: np.array([[float(value % p)] for value in values]) for p in primes}
            return {p: device._floats(column) for p, column in columns.items()}

        self._first, self._linear = weights(network.first), weights(network.linear)
        self._second = None if network.second is None else weights(network.second)
        self._first_bias, self._bias = biases(network.first_bias), biases(network.bias)
        self.parts = 3 if network.second is None else 5

    def width(self, entries: int) -> int:
        """Numbers held for each coefficient, about: the size of a piece is cut by it."""
        hidden = 0 if self._second is None else len(self._first[0])
        return 2 * entries + 8 * hidden + 6 * len(self._linear[0])

    def scores(self, x: torch.Tensor, p: int) -> torch.Tensor:
        """Parts of the score, (parts, n), from float64 inputs of shape (entries, 2, n)."""
        found = self._squares(x, p)
        found[0] = (found[0] + self._offset % p) % p
        return found

    def _squares(self, x: torch.Tensor, p: int) -> torch.Tensor:
        torch, n = self._torch, x.shape[2]
        x = x.reshape(len(x), 2 * n)
        if self._second is None:
            outputs = self._product(self._linear, x, p)
            outputs[:, :n] += self._bias[p].long()
            return self._sum_of_squares((outputs % p).reshape(-1, 2, n), p)
        hidden = self._product(self._first, x, p)
        hidden[:, :n] += self._first_bias[p].long()
        z = (hidden % p).reshape(-1, 2, n)
        square = torch.stack([z[:, 0] * z[:, 0], 2 * z[:, 0] * z[:, 1], z[:, 1] * z[:, 1]], dim=1) % p
        outer = self._product(self._second, square.reshape(len(z), 3 * n).double(), p)
        outer[:, :n] += self._bias[p].long()
        r = outer % p
        r[:, : 2 * n] += self._product(self._linear, x, p) % p * (self._lift % p)
        return self._sum_of_squares((r % p).reshape(len(r), 3, n), p)

    def _product(self, digits: list[torch.Tensor], x: torch.Tensor, p: int) -> torch.Tensor:
        """Weights times residues, int64: not reduced, below ``2**53`` in absolute value."""
        from ._ckks_circuit import DIGIT_BITS

        total = (digits[0] @ x).long()
        return total if len(digits) == 1 else total + ((digits[1] @ x).long() % p << DIGIT_BITS)

    def _sum_of_squares(self, r: torch.Tensor, p: int) -> torch.Tensor:
        parts, n = r.shape[1], r.shape[2]
        out = self._torch.zeros((2 * parts - 1, n), dtype=self._torch.int64, device=r.device)
        for i in range(parts):
            for j in range(i, parts):
                for start in range(0, len(r), PRODUCTS_SUMMED):
                    some = r[start : start + PRODUCTS_SUMMED]
                    total = (some[:, i] * some[:, j]).sum(dim=0) % p
                    out[i + j] += total if i == j else 2 * total
        reduced: torch.Tensor = out % p
        return reduced


def _check_exact(device: ResidueDevice) -> None:
    """Multiply integers at the very edge of float64, and compare with integers; CapacityError where they differ."""
    rng = np.random.default_rng(0)
    entries, width, prime = 512, 512, (1 << 30) - 35
    weights = rng.integers((1 << 14) - 64, 1 << 14, (2, entries))  # their sum times the prime is just below 2**53
    weights[1] *= rng.choice([-1, 1], entries)
    residues = prime - 1 - rng.integers(0, 4, (entries, width))
    exact = weights @ residues
    found = (device._floats(weights.astype(np.float64)) @ device._floats(residues.astype(np.float64))).cpu().numpy()
    if not np.array_equal(found, exact.astype(np.float64)) or int(np.abs(exact).max()) < 1 << 52:
        raise CapacityError(
            "The float64 products of this device are not exact",
            got=device.name,
            rule="sums of products of integers below 2**53 come out as they are",
            fix="leave device out: NumPy computes the same",
        )
