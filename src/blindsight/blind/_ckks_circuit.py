"""A secret network as integers for CKKS: layers folded, weights rounded, scales and primes chosen, residues evaluated.

One square: the score is ``|A x + b|**2``. Two: ``|G z**2 + T x + k|**2`` with ``z = W x + b``, for the activation
``z + a z**2`` between dense layers, ``G = a V`` and ``T = V W``, less the identity for a reconstruction. No level is
switched in between and nothing is relinearised: every ciphertext is a tuple of residues that are summed with scalar
weights (BLAS, exact in float64) and multiplied with one another. What the owner opens is therefore the polynomial
itself, at the inputs that it encrypted with their noise: nothing of the weights but the score, until the last rounding.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dgemm

from blindsight.circuits import Activation, Dense, Inputs, Network
from blindsight.errors import CapacityError, WireError
from blindsight.he import CkksHeParameters

from ._ckks_plan import HEADROOM, MAX_COUNT, REFERENCE_SCORE, TAIL, CkksParameters, slot_deviation

__all__ = ["IntegerNetwork", "plan_network"]

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]

MAX_OUTPUTS = 1024
"""Products of two centred residues, below ``2**52`` and some of them doubled, that an int64 sums."""

DIGIT_BITS = 16
EXACT_WEIGHT_SUM = 1 << 25
"""Largest sum of absolute weights: times residues below ``2**27`` it is exact, and :func:`_centre` takes it."""

MAX_WEIGHT_BITS = 40
CHUNK = 2048
"""Coefficients evaluated at a time: what belongs to them stays in cache."""

MPC = "score it under MPC, or teach its scores to a table, TableStudent, and offer that"


@dataclass(frozen=True, kw_only=True)
class _Folded:
    """The network as one or two affine maps. ``A`` and ``G`` act on what is squared, ``T`` on the inputs."""

    first: Floats
    first_bias: Floats
    second: Floats | None
    linear: Floats
    bias: Floats


def _affine(layers: list[Dense], width: int) -> tuple[Floats, Floats]:
    weights, bias = np.eye(width), np.zeros(width)
    for layer in layers:
        weights, bias = layer.weights @ weights, layer.weights @ bias + layer.bias
    return weights, bias


def _fold(network: Network) -> _Folded:
    """Fold dense layers, activation, target and mean; CapacityError names the first layer that does not fit."""
    squares: list[int] = []
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Activation) and layer.kind == "square":
            squares.append(i)
        elif not isinstance(layer, Dense):
            other = "train it with activation='square', or " if isinstance(layer, Activation) else ""
            raise CapacityError(
                f"Layer {i + 1} of the network, {layer.kind}, is {'not a polynomial' if other else 'not dense'}",
                rule="CKKS evaluates dense layers and square activations",
                fix=other + MPC,
            )
    if len(squares) > 1:
        raise CapacityError(
            f"Layer {squares[1] + 1} of the network, the second square activation, does not fit",
            got=f"{network.squares} products one after the other",
            rule="two: one activation and the squared distance",
            fix=f"use one hidden activation, or {MPC}",
        )
    at = squares[0] if squares else len(network.layers)
    weights, bias = _affine([v for v in network.layers[:at] if isinstance(v, Dense)], network.n_inputs)
    if squares:
        activation = network.layers[at]
        assert isinstance(activation, Activation)
        after, shift = _affine([v for v in network.layers[at + 1 :] if isinstance(v, Dense)], len(weights))
        second, linear, constant = activation.coefficient * after, after @ weights, after @ bias + shift
    else:
        second, linear, constant = None, weights, bias
    if network.centre is None:
        root = math.sqrt(network.n_inputs)  # the mean is the sum of squares over the root
        linear, constant = (linear - np.eye(network.n_inputs)) / root, constant / root
        second = None if second is None else second / root
    else:
        constant = constant - network.centre
    if second is None and len(linear) > network.n_inputs + 1:  # |A x + b| is |R (x, 1)| for the triangle of A, b
        triangle = np.asarray(np.linalg.qr(np.column_stack([linear, constant]), mode="r"))
        linear, constant = triangle[:, :-1], triangle[:, -1]
    if len(linear) > MAX_OUTPUTS:
        raise CapacityError(
            f"Layer {len(network.layers)} of the network is too wide",
            got=f"{len(linear)} outputs after a square activation",
            rule=f"at most {MAX_OUTPUTS}",
            fix=MPC,
        )
    return _Folded(first=weights, first_bias=bias, second=second, linear=linear, bias=constant)


def _bits(value: float) -> int:
    """Smallest k with ``value <= 2**k``."""
    return math.ceil(math.log2(value)) if value > 0 else -64


def plan_network(
    inputs: Inputs,
    network: Network,
    tolerance: float,
    *,
    offset: float = 0.0,
    upload: Literal["seeded", "unseeded"] | None = None,
) -> tuple[CkksParameters, IntegerNetwork]:
    """Choose scales and primes such that scores are within the tolerance, whatever the record.

    Parameters
    ----------
    inputs : Inputs
        Public; bounds every input.
    network : Network
        Secret; of its weights only sizes enter the parameters.
    tolerance : float
        Largest error of scores up to 1,000 tolerances; rounded down to a power of two.
    offset : float
        Secret; added to every score.
    upload : {"seeded", "unseeded"}, optional
        Default: unseeded, which spares the server the expansion.

    Raises
    ------
    CapacityError
        A layer is no polynomial, is one square too many, is too wide; or no parameters at 128 bits of security carry
        the network at this tolerance. Names the layer.
    """
    folded = _fold(network)
    tolerance_bits = -math.floor(math.log2(tolerance))
    for degree in (8192, 16384):
        sizes = _scales(folded, inputs, degree, 2.0**-tolerance_bits, offset)
        if sizes is None:
            continue
        input_bits, weight_bits, second_bits, largest = sizes
        score_bits = max(_bits(largest), -64)

        def total(x: int, w: int = weight_bits, v: int = second_bits) -> int:
            return 2 * (x + w) if folded.second is None else 4 * (x + w) + 2 * v

        for count in range(1, MAX_COUNT[degree] + 1):
            primes = CkksHeParameters(degree=degree, count=count, kept=1).primes
            room = math.fsum(map(math.log2, primes)) - 1 - math.log2(HEADROOM) - score_bits
            if total(input_bits) > room:
                continue
            while total(input_bits + 1) <= room and input_bits < 60:
                input_bits += 1  # what is left of the last prime makes inputs more precise and the flood wider
            for kept in range(1, count + 1):
                try:
                    parameters = CkksParameters(
                        degree=degree,
                        count=count,
                        kept=kept,
                        entries=inputs.width,
                        squares=1 if folded.second is None else 2,
                        input_bits=input_bits,
                        scale_bits=total(input_bits),
                        score_bits=score_bits,
                        tolerance_bits=tolerance_bits,
                        upload=upload or "unseeded",
                    )
                except CapacityError:
                    continue
                return parameters, IntegerNetwork.of(folded, parameters, weight_bits, second_bits, offset)
    square = next((i for i, layer in enumerate(network.layers) if isinstance(layer, Activation)), None)
    raise CapacityError(
        f"Layer {len(network.layers) if square is None else square + 1} of the network does not fit CKKS at 128 bits",
        got=f"a tolerance of {tolerance:.2g}, and bounds on the layers that ask for more than 438 bits of modulus",
        rule="the largest score over the tolerance, and the noise of each product, fit the modulus",
        fix=f"use smaller weights or a larger tolerance, or {MPC}",
    )


def _scales(
    folded: _Folded, inputs: Inputs, degree: int, tolerance: float, offset: float
) -> tuple[int, int, int, float] | None:
    """Bits of inputs and of both layers' weights, and the largest score; None where float64 cannot hold the weights.

    With outputs r and their error d, the score is off by at most ``2 |r| |d| + 2 |d|**2`` (the last term twice for
    imaginary parts), which shall be half the tolerance at the reference score. Each source of d gets an equal part:
    noise of the inputs, rounding of the first weights, rounding of the second. Worst case over the box of inputs. With
    a negative offset r is longer than the score tells.
    """
    x, m, o = inputs.max_abs, inputs.width, len(folded.linear)
    squared = REFERENCE_SCORE * tolerance + max(0.0, -offset)
    goal = tolerance / (math.sqrt(squared + tolerance) + math.sqrt(squared)) / 2  # |d| of the docstring
    noise, reach = TAIL * slot_deviation(degree), np.abs(folded.linear).sum(axis=1) * x + np.abs(folded.bias)
    if folded.second is None:
        input_bits = _bits(2 * noise * float(np.linalg.norm(folded.linear)) / goal)
        weight_bits = _bits(2 * math.sqrt(o) * (m * x + 1) / 2 / goal)
        second_bits, largest = 0, np.abs(folded.linear).max()
    else:
        hidden = np.abs(folded.first).sum(axis=1) * x + np.abs(folded.first_bias)
        steep = np.abs(folded.second) * (2.1 * hidden + 1)  # 2 |z| dz + 2 dz**2, dz below .05 |z| + .5
        reach = reach + np.abs(folded.second) @ hidden**2
        noisy = steep @ np.linalg.norm(folded.first, axis=1) + np.linalg.norm(folded.linear, axis=1)
        input_bits = _bits(3 * noise * float(np.linalg.norm(noisy)) / goal)
        weight_bits = _bits(3 * (m * x + 1) / 2 * float(np.linalg.norm(steep.sum(axis=1) + 1)) / goal)
        second_bits = max(1, _bits(3 * math.sqrt(o) * float((hidden**2).sum()) / 2 / goal))
        largest = max(np.abs(folded.first).max(), np.abs(folded.linear).max())
        if float(np.abs(folded.second).max()) * 2.0**second_bits >= 2**MAX_WEIGHT_BITS:
            return None
    input_bits, weight_bits = max(input_bits, 10), max(weight_bits, 1)
    if float(largest) * 2.0**weight_bits >= 2**MAX_WEIGHT_BITS or input_bits > 60:
        return None
    # rounding may move every output a little beyond its reach
    return input_bits, weight_bits, second_bits, float(((reach + goal) ** 2).sum()) + abs(offset)


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerNetwork:
    """Integers that act on residues.

    Security
    --------
    The weights are the model. ``repr`` does not show them.
    """

    first: list[Floats]
    first_bias: list[int]
    second: list[Floats] | None
    linear: list[Floats]
    bias: list[int]
    lift: int
    """What the linear map's products are multiplied by to have the scale of the squares."""
    offset: int
    """Added to every score, at its scale."""

    @classmethod
    def of(
        cls, folded: _Folded, parameters: CkksParameters, weight_bits: int, second_bits: int, offset: float
    ) -> IntegerNetwork:
        """Round the weights at their scales."""
        z_bits = parameters.input_bits + weight_bits
        out_bits = z_bits if folded.second is None else 2 * z_bits + second_bits
        return cls(
            first=_digits(folded.first, weight_bits),
            first_bias=_scaled(folded.first_bias, z_bits),
            second=None if folded.second is None else _digits(folded.second, second_bits),
            linear=_digits(folded.linear, weight_bits),
            bias=_scaled(folded.bias, out_bits),
            lift=1 << out_bits - z_bits,
            offset=_scaled(np.array([offset]), parameters.scale_bits)[0],
        )

    def evaluate(
        self, inputs: npt.NDArray[np.unsignedinteger[Any]], primes: tuple[int, ...], threads: int = 1
    ) -> Residues:
        """Ciphertext of the scores.

        Parameters
        ----------
        inputs : ndarray of shape (primes, entries, 2, N), uint32
            Fresh ciphertexts in NTT form, from a peer: that residues are reduced is checked here.
        primes : tuple of int
        threads : int
            Slices of the residues are independent; NumPy and BLAS let go of the interpreter's lock.

        Returns
        -------
        ndarray of shape (parts, primes, N), uint64
            In NTT form, reduced.
        """
        degree, chunk = inputs.shape[-1], min(CHUNK, inputs.shape[-1])
        out = np.empty((3 if self.second is None else 5, len(primes), degree), dtype=np.uint64)
        pieces = [(i, start) for i in range(len(primes)) for start in range(0, degree, chunk)]

        def work(share: list[tuple[int, int]]) -> None:
            x = np.empty((inputs.shape[1], 2, chunk))
            for i, start in share:
                p, stop = primes[i], start + chunk
                part = inputs[i, :, :, start:stop]
                if int(part.max()) >= p:
                    raise WireError("A residue is not reduced", rule=f"below {p}")
                np.copyto(x, part.view(f"i{part.itemsize}"))  # below p: the same as signed words, which convert faster
                out[:, i, start:stop] = self._scores(x.reshape(len(x), -1), p)

        if threads == 1:
            work(pieces)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, [pieces[k::threads] for k in range(threads)]))
        return out

    def _scores(self, x: Floats, p: int) -> Residues:
        """Parts of the score, (parts, n), from inputs of shape (entries, 2 n), both parts side by side."""
        n, offset = x.shape[1] // 2, self.offset % p
        if self.second is None:
            outputs = _product(self.linear, x, p)
            outputs[:, :n] += _column(self.bias, p)
            return _sum_of_squares(_centre(outputs, p).reshape(-1, 2, n), p, offset)
        hidden = _product(self.first, x, p)
        hidden[:, :n] += _column(self.first_bias, p)
        z = _centre(hidden, p).reshape(-1, 2, n)
        square = np.empty((len(z), 3, n))
        np.multiply(z, z, out=square[:, ::2])
        np.multiply(z[:, 0], 2 * z[:, 1], out=square[:, 1])
        outer = _product(self.second, _centre(square, p).reshape(len(z), -1), p)
        outer[:, :n] += _column(self.bias, p)
        r = _centre(outer, p)
        inner = _centre(_product(self.linear, x, p), p)
        inner *= _centred(self.lift, p)
        r[:, : 2 * n] += inner
        return _sum_of_squares(_centre(r, p).reshape(len(r), 3, n), p, offset)

    def __repr__(self) -> str:
        return f"IntegerNetwork(<{len(self.linear[0])} outputs of secret weights>)"


def _scaled(values: Floats, bits: int) -> list[int]:
    """``rint(value * 2**bits)`` without a limit on its size."""
    return [round(value * 2**52) << bits - 52 if bits >= 52 else round(value * 2.0**bits) for value in values.tolist()]


def _column(values: list[int], p: int) -> Floats:
    return np.array([[value % p] for value in values], dtype=np.float64)


def _centred(value: int, p: int) -> int:
    return (value + p // 2) % p - p // 2


def _digits(weights: Floats, bits: int) -> list[Floats]:
    """Rounded weights, in one matrix or in two digits of 16 bits and the rest, the first one the lower."""
    whole = np.rint(weights * 2.0**bits)
    if np.abs(whole).sum(axis=1).max() < EXACT_WEIGHT_SUM:
        return [whole]
    upper = np.rint(whole / (1 << DIGIT_BITS))
    lower = whole - upper * (1 << DIGIT_BITS)
    if max(np.abs(lower).sum(axis=1).max(), np.abs(upper).sum(axis=1).max()) >= EXACT_WEIGHT_SUM:
        raise CapacityError("A layer's weights are too large", rule="sums of at most 41 bits", fix=MPC)
    return [lower, upper]


def _product(digits: list[Floats], x: Floats, p: int) -> Floats:
    """Weights times residues: exact, below ``2**52 + 2**43`` in absolute value; not reduced."""
    total = _times(digits[0], x)
    if len(digits) == 2:
        total += _centre(_times(digits[1], x), p) * (1 << DIGIT_BITS)
    return total


def _times(weights: Floats, x: Floats) -> Floats:
    """``weights @ x`` for C-contiguous arrays, by SciPy's BLAS.

    NumPy 1.26, which SPU asks for, brings an OpenBLAS that takes some newer processors for one without AVX, and is then
    far slower.
    """
    found: Floats = dgemm(1.0, x.T, weights.T).T
    return found


def _centre(values: Floats, p: int) -> Floats:
    """Reduce integers below ``2**53 - p`` in absolute value to within ``p / 2 + 1`` of zero, exactly and in place.

    The quotient is below ``2**27`` and rounded twice before it is made whole: by less than ``2**-24``. Its product with
    p is below ``2**53``, and so is every integer here.
    """
    quotient = values * (1 / p)
    np.rint(quotient, out=quotient)
    quotient *= p
    values -= quotient
    return values


def _sum_of_squares(r: Floats, p: int, constant: int) -> Residues:
    """Parts of a constant and the squares of ciphertexts, shape (outputs, parts, n) centred, to (2 parts - 1, n)."""
    whole, parts = r.astype(np.int64), r.shape[1]
    out = np.empty((2 * parts - 1, r.shape[2]), dtype=np.int64)
    for k in range(len(out)):
        total: Any = constant if k == 0 else 0  # a constant is itself at every point of the transform
        for i in range(max(0, k - parts + 1), k // 2 + 1):
            product = np.einsum("on,on->n", whole[:, i], whole[:, k - i])
            total = total % p + (product if 2 * i == k else product << 1)
        out[k] = total - total // np.int64(p) * np.int64(p)  # NumPy divides faster than it takes remainders
    return out.view(np.uint64)
