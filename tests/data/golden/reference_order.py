#!/usr/bin/env python3
"""The order of an epoch, written out again from its definition: ChaCha8 (key = seed as 8 little-endian bytes and
zeros, nonce = stream, 64-bit counter from 0; D. J. Bernstein, 2008), then a Fisher-Yates shuffle from the end. And the
weights of a step's mixtures in units of 2^-24: the same source, stream 2^63 + step, Beta(alpha, alpha) as the ratio of two gamma
variates (G. Marsaglia and W. W. Tsang, 2000).

    python3 reference_order.py LEN SEED STREAM
    python3 reference_order.py weights COUNT SEED STEP ALPHA
"""

import math
import struct
import sys

MASK = 0xFFFFFFFF


def rotate(x, n):
    return (x << n | x >> (32 - n)) & MASK


def quarter(s, a, b, c, d):
    for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & MASK
        s[z] = rotate(s[z] ^ s[x], n)


def words(seed, stream):
    key = struct.unpack("<8I", struct.pack("<Q", seed) + bytes(24))
    counter = 0
    while True:
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *key, *struct.unpack("<4I", struct.pack("<QQ", counter, stream))]
        state = list(start)
        for _ in range(4):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(state, a, b, c, d)
            for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(state, a, b, c, d)
        yield from ((x + y) & MASK for x, y in zip(start, state))
        counter += 1


def permutation(length, seed, stream):
    source = words(seed, stream)
    order = list(range(length))
    for last in range(length - 1, 0, -1):
        low, high = next(source), next(source)
        pick = (low | high << 32) * (last + 1) >> 64
        order[last], order[pick] = order[pick], order[last]
    return order


def uniform(source):
    low, high = next(source), next(source)
    return (((low | high << 32) >> 11) + 1) / 2**53


def log_gamma_variate(source, alpha):
    d = alpha + 1 - 1 / 3
    while True:
        x = math.sqrt(-2 * math.log(uniform(source))) * math.cos(2 * math.pi * uniform(source))
        v = (1 + x / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(uniform(source)) < x * x / 2 + d * (1 - v + math.log(v)):
            return math.log(d * v) + math.log(uniform(source)) / alpha


def weights(count, seed, step, alpha):
    source = words(seed, 2**63 + step)
    pairs = [(log_gamma_variate(source, alpha), log_gamma_variate(source, alpha)) for _ in range(count)]
    return [round(2**24 / (1 + math.exp(theirs - ours))) for ours, theirs in pairs]


if __name__ == "__main__" and sys.argv[1] == "weights":
    print(weights(*map(int, sys.argv[2:5]), float(sys.argv[5])))
elif __name__ == "__main__":
    print(permutation(*map(int, sys.argv[1:])))
