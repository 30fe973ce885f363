"""Which scenes belong to which split.

The split of a scene follows from what is in it, never from its number. So training, validation and
test never share a scene, whatever their seeds and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb

from sensorium.playground.options import PlaygroundError
from sensorium.playground.stream import Stream
from sensorium.playground.world import COLOURS
from sensorium.types.draws import permutation

SPLITS = ("train", "validation", "test")
# With fewer sets of pictures than this, the colour of the ground also tells scenes apart.
FEW_SETS = 2000


def _split_of(number: int, of: int) -> str:
    """Of every 20 numbers 3 are for testing and 2 for validation."""
    if number * 20 < 3 * of:
        return "test"
    return "validation" if number * 20 < 5 * of else "train"


@dataclass(frozen=True)
class Holdout:
    """The rule that gives scenes to splits.

    Attributes:
        rule: `scenes`: sets of pictures (with the colour of the ground, where there are few sets)
            belong to one split. `objects`: pictures belong to one split: 70 % to training, 10 % to
            validation, 20 % to test. `combinations`: pairs of a picture and a colour belong to one
            split (5, 1 and 2 of each picture's 8 colours); each part is seen in training, but
            never together.
        pictures: how many pictures there are.
    """

    rule: str
    pictures: int
    _pools: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    _offsets: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        everything = tuple(range(self.pictures))
        for split in SPLITS:
            self._pools[split] = everything
        if self.rule == "objects":
            order = [int(n) for n in permutation(self.pictures, "playground holdout objects")]
            test, both = self.pictures // 5, 3 * self.pictures // 10
            for split, part in (
                ("test", order[:test]),
                ("validation", order[test:both]),
                ("train", order[both:]),
            ):
                self._pools[split] = tuple(sorted(part))
        if self.rule == "combinations":
            stream = Stream("playground holdout combinations")
            offsets = tuple(stream.below(len(COLOURS)) for _ in everything)
            object.__setattr__(self, "_offsets", offsets)

    def pool(self, split: str) -> tuple[int, ...]:
        """The pictures that may be in scenes of a split."""
        return self._pools[split]

    def may_hold(self, split: str, picture: int, colour: int) -> bool:
        """Whether scenes of a split may show this picture with this colour."""
        if self.rule != "combinations":
            return True
        place = (3 * colour + self._offsets[picture]) % len(COLOURS)
        return split == ("test" if place < 2 else "validation" if place == 2 else "train")

    def may_be(self, split: str, shown: Sequence[int], background: int) -> bool:
        """Whether a scene with these pictures may be in a split."""
        if self.rule != "scenes":
            return True
        key = sorted(shown)
        if self.ground_counts(len(key)):
            key.append(background)
        return split == _split_of(Stream("playground holdout scenes", *key).below(2**32), 2**32)

    def ground_counts(self, things: int) -> bool:
        """Whether the colour of the ground tells scenes of so many things apart."""
        return comb(self.pictures, things) < FEW_SETS

    def check(self, things: int) -> None:
        """Refuse numbers of pictures from which no scenes of so many things can be made.

        Raises:
            PlaygroundError: there are too few pictures.
        """
        least = 1 if self.rule == "scenes" else things
        smallest = min(len(pool) for pool in self._pools.values())
        if smallest < least or self.pictures < things:
            raise PlaygroundError(
                f"holdout={self.rule} with {self.pictures} pictures leaves {smallest} for a split, "
                f"and a scene needs {things} different ones; give a larger number of pictures"
            )
