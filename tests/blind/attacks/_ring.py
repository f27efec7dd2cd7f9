"""What an adversary computes with its own key: its secret, phases, products in R_q."""

import math

import numpy as np

from blindsight.he import HeContext, SecretKey


def secret_of(key: SecretKey) -> np.ndarray:
    """The ternary secret, as coefficients: (0, q / t) decrypts to it."""
    context = key.context
    parts = np.zeros((2, len(context.primes), context.degree), dtype=np.uint64)
    parts[1, :, 0] = [context.modulus // context.parameters.plain_modulus % p for p in context.primes]
    secret = key.decrypt(parts)
    assert set(np.unique(secret)) <= {-1, 0, 1}
    return secret


def times(context: HeContext, polynomial: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Product in R_q of residues, shape (primes, N), and a signed integer polynomial of 16 bits."""
    both = context.ciphertext(np.stack([polynomial, polynomial]))
    return context.inner_product([context.prepare_cipher(both)], [context.prepare_plain(small)])[0]


def compose(residues: np.ndarray, primes: tuple[int, ...]) -> list[int]:
    """Chinese remainders, centred; shape (primes, n) to n integers."""
    q = math.prod(primes)
    basis = [(q // p) * pow(q // p, -1, p) for p in primes]
    columns = zip(*(row.tolist() for row in residues), strict=True)
    values = [sum(r * b for r, b in zip(column, basis, strict=True)) % q for column in columns]
    return [v - q if v > q // 2 else v for v in values]


def phase(context: HeContext, parts: np.ndarray, secret: np.ndarray) -> list[int]:
    """c0 + c1 s, centred modulo q."""
    product = times(context, parts[1], secret)
    total = (parts[0] + product) % np.array(context.primes, dtype=np.uint64)[:, None]
    return compose(total, context.primes)


def small_phase(context: HeContext, parts: np.ndarray, secret: np.ndarray) -> np.ndarray:
    """c0 + c1 s where it is small: centred modulo the first prime, as float64."""
    p = context.primes[0]
    values = ((parts[0, 0] + times(context, parts[1], secret)[0]) % np.uint64(p)).astype(np.int64)
    return np.where(values > p // 2, values - p, values).astype(float)


def constant(context: HeContext, value: int, at: int = 0) -> np.ndarray:
    """Residues of ``value * X**at``; value may exceed 64 bits."""
    out = np.zeros((len(context.primes), context.degree), dtype=np.uint64)
    out[:, at] = [value % p for p in context.primes]
    return out


def divide(context: HeContext, a: np.ndarray, b: np.ndarray) -> list[int]:
    """a / b in R_q, centred; by naive recursion on evaluations with Python's integers, first prime only."""
    p, n = context.primes[0], context.degree
    root = next(r for g in range(2, 100) if pow(r := pow(g, (p - 1) // (2 * n), p), n, p) == p - 1)

    def transform(values: list[int], w: int) -> list[int]:
        if len(values) == 1:
            return values
        even, odd = transform(values[::2], w * w % p), transform(values[1::2], w * w % p)
        out, power, half = [0] * len(values), 1, len(values) // 2
        for i in range(half):
            t = power * odd[i]
            out[i], out[i + half] = (even[i] + t) % p, (even[i] - t) % p
            power = power * w % p
        return out

    twist = [pow(root, i, p) for i in range(n)]
    evaluations = [
        transform([v * t % p for v, t in zip(row[0].tolist(), twist, strict=True)], root * root % p) for row in (a, b)
    ]
    quotient = [x * pow(y, -1, p) % p for x, y in zip(*evaluations, strict=True)]
    back = transform(quotient, pow(root * root, -1, p))
    scale = pow(n, -1, p)
    values = [v * scale * pow(t, -1, p) % p for v, t in zip(back, twist, strict=True)]
    return [v - p if v > p // 2 else v for v in values]
