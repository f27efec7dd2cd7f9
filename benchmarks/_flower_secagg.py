"""Flower's own SecAgg+ functions on a complete graph, run by ``secure_sum.py`` with the Python that has Flower.

Imports nothing of Blindsight, which need not be installed there. Arguments: parties, length, threshold, largest value.
"""

import json
import os
import sys
import time

import numpy as np

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")


def measure(n: int, length: int, threshold: int, max_abs: int) -> tuple[float, float]:
    """Seconds of all parties and server, and of the busiest party."""
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )

    modulus = 1 << 32
    generator = np.random.default_rng(0)
    vectors = [generator.integers(0, max_abs, length) for _ in range(n)]
    own = [0.0] * n

    start = time.perf_counter()
    keys, seeds, dealt, sealed = [], [], [], {}
    for u in range(n):
        began = time.perf_counter()
        pairs = [generate_key_pairs() for _ in range(2)]
        keys.append([(private_key_to_bytes(secret), public_key_to_bytes(public)) for secret, public in pairs])
        own[u] += time.perf_counter() - began
    pair_keys = {}
    for u in range(n):
        began = time.perf_counter()
        seeds.append(os.urandom(32))
        dealt.append((create_shares(seeds[u], threshold, n), create_shares(keys[u][0][0], threshold, n)))
        for v in range(n):
            if v != u:
                secret, public = bytes_to_private_key(keys[u][1][0]), bytes_to_public_key(keys[v][1][1])
                pair_keys[u, v] = generate_shared_key(secret, public)
                plain = share_keys_plaintext_concat(u, v, dealt[u][0][v], dealt[u][1][v])
                sealed[u, v] = encrypt(pair_keys[u, v], plain)
        own[u] += time.perf_counter() - began
    total = np.zeros(length, dtype=np.int64)
    for u in range(n):
        began = time.perf_counter()
        masked = vectors[u] + pseudo_rand_gen(seeds[u], modulus, [(length,)])[0]
        for v in range(n):
            if v != u:
                decrypt(pair_keys[u, v], sealed[v, u])
                secret, public = bytes_to_private_key(keys[u][0][0]), bytes_to_public_key(keys[v][0][1])
                mask = pseudo_rand_gen(generate_shared_key(secret, public), modulus, [(length,)])[0]
                masked = masked + mask if u > v else masked - mask
        masked %= modulus
        own[u] += time.perf_counter() - began
        total += masked
    for u in range(n):
        seed = combine_shares([dealt[u][0][v] for v in range(threshold)])
        total -= pseudo_rand_gen(seed, modulus, [(length,)])[0]
    wall = time.perf_counter() - start
    np.testing.assert_array_equal(total % modulus, np.sum(vectors, axis=0))
    return wall, max(own)


if __name__ == "__main__":
    wall_s, party_s = measure(*map(int, sys.argv[1:5]))
    print(json.dumps({"wall_s": wall_s, "party_s": party_s}))
