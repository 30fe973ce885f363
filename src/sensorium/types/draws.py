"""Random numbers that are a pure function of what they are for.

A draw depends on integers (a seed, a row, an epoch) and on a written purpose, never on the order in
which things happen. So the same row gets the same draw with one worker or four, on one process or
two, before and after a resume, and on every machine: the arithmetic is 64-bit integer only
(the SplitMix64 finaliser, Steele et al., OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Key = int | np.integer | Sequence[int] | NDArray[np.integer]
_Bits = np.uint64 | NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_PART = 2**16  # numbers drawn at once for a permutation, whose intermediate results take memory


@lru_cache(maxsize=4096)
def purpose_key(purpose: str) -> int:
    """A 64-bit integer that stands for a purpose, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _mix(x: _Bits) -> _Bits:
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    return x ^ (x >> np.uint64(31))


def integers(purpose: str, *keys: Key) -> NDArray[np.uint64]:
    """Uniform 64-bit integers, one for each element of the broadcast `keys`.

    Args:
        purpose: what the numbers are for; two purposes give independent numbers.
        keys: integers or integer arrays (negative ones allowed), broadcast against each other.
    """
    state: _Bits = np.uint64(purpose_key(purpose))
    with np.errstate(over="ignore"):
        for key in keys:
            step = np.asarray(key).astype(np.int64, copy=False).view(np.uint64)
            state = _mix(state + _GOLDEN * (step + np.uint64(1)))
        return np.asarray(_mix(state + _GOLDEN))


def uniform(purpose: str, *keys: Key) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each element of the broadcast `keys`."""
    return np.asarray((integers(purpose, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def permutation(size: int, purpose: str, *keys: int) -> NDArray[np.int64]:
    """A permutation of `range(size)`."""
    numbers = np.empty(size, dtype=np.uint64)
    for start in range(0, size, _PART):
        part = slice(start, min(start + _PART, size))
        numbers[part] = integers(purpose, *keys, np.arange(part.start, part.stop))
    return np.argsort(numbers, kind="stable")


def generator(purpose: str, *keys: int) -> np.random.Generator:
    """A NumPy generator for draws whose number is not known beforehand."""
    return np.random.default_rng(int(integers(purpose, *keys)))
