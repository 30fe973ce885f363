"""Draws for one row, number by number.

They are the numbers of `sensorium.types.draws`, which see; a test holds the two together.
"""

from __future__ import annotations

from sensorium.types.draws import purpose_key

_WORD = (1 << 64) - 1


def _mix_one(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)


class Stream:
    """The numbers `integers(purpose, *keys, 0)`, `integers(purpose, *keys, 1)`, ... one by one.

    Plain Python integers: for the few draws of one row this is faster than small arrays, and it
    suits draws whose number is not known beforehand.
    """

    def __init__(self, purpose: str, *keys: int) -> None:
        state = purpose_key(purpose)
        for key in keys:
            state = _mix_one((state + 0x9E3779B97F4A7C15 * (key + 1)) & _WORD)
        self._state = state
        self._offset = 0

    def next(self) -> int:
        """The next uniform 64-bit integer."""
        self._offset += 0x9E3779B97F4A7C15
        x = (self._state + self._offset) & _WORD
        # `_mix_one` twice, written out: this is where rows of the playground spend their time.
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
        x = ((x ^ (x >> 31)) + 0x9E3779B97F4A7C15) & _WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
        return x ^ (x >> 31)

    def below(self, limit: int) -> int:
        """A uniform integer in `range(limit)`."""
        return (self.next() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """A uniform integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of a hundred cases."""
        return self.below(100) < percent

    def shuffled(self, size: int) -> list[int]:
        """The numbers of `range(size)` in a random order."""
        order = list(range(size))
        for last in range(size - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
