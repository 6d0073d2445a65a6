"""Which examples a fit's seed chooses: a Fisher-Yates shuffle by the 64-bit Mersenne Twister (Matsumoto and Nishimura 2004;
std::mt19937_64), whose output the C++ standard fixes."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np

_SIZE, _SHIFT = 312, 156
_MASK = (1 << 64) - 1
_LOW = (1 << 31) - 1


def mersenne_twister(seed: int) -> Iterator[int]:
    state = [seed & _MASK]
    for i in range(1, _SIZE):
        state.append((6364136223846793005 * (state[-1] ^ (state[-1] >> 62)) + i) & _MASK)
    while True:
        for i in range(_SIZE):
            x = (state[i] & ~_LOW & _MASK) | (state[(i + 1) % _SIZE] & _LOW)
            state[i] = state[(i + _SHIFT) % _SIZE] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
        for x in state:
            x ^= (x >> 29) & 0x5555555555555555
            x ^= (x << 17) & 0x71D67FFFEDA60000
            x ^= (x << 37) & 0xFFF7EEE000000000
            yield x ^ (x >> 43)


def disjoint(n: int, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Batches of distinct examples out of n, each in increasing order."""
    random = mersenne_twister(seed)
    order = list(range(n))
    batches, begin = [], 0
    for size in sizes:
        for i in range(begin, begin + size):
            bound = n - i
            limit = _MASK - _MASK % bound
            draw = next(random)
            while draw >= limit:
                draw = next(random)
            j = i + draw % bound
            order[i], order[j] = order[j], order[i]
        batches.append(np.array(sorted(order[begin:begin + size]), dtype=np.int64))
        begin += size
    return batches
