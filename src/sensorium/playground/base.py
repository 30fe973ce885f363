"""What all views share: parameters, splits, and rows made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.captions import Mention, choose, describe, noisy, spans_of
from sensorium.playground.compose import Wish, compose
from sensorium.playground.holdout import SPLITS, Holdout
from sensorium.playground.options import resolve, span
from sensorium.playground.pictures import LANGUAGES, name
from sensorium.playground.stream import Stream
from sensorium.playground.world import Scene

# Rows of one version have the same bytes for ever; tests hold digests of them.
VERSION = "1"

COMMON: dict[str, int | str] = {
    "seed": 0,
    "train": 20000,
    "validation": 1000,
    "test": 1000,
    "size": 64,
    "objects": 2,
    "pictures": 200,
    "language": "en",
    "holdout": "scenes",
    "tiles": 0,
}
CAPTIONED: dict[str, int | str] = COMMON | {"caption": "short", "unrelated": 10, "named": 16}

Row = dict[str, Any]


class GeneratedView(ABC):
    """One kind of rows of the playground, as a sequence that makes a row when it is asked for.

    Rows come in the order train, validation, test. A row depends on the parameters, its split and
    its number within the split, so a larger training split changes no row of the others.

    Attributes:
        name: how users speak of the view.
        defaults: its parameters with their default values.
        parameters: the full parameters, fit for JSON.
        version: changes when the bytes of rows change.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, int | str]]
    version = VERSION

    def __init__(self, **parameters: object) -> None:
        self.parameters = resolve(self.name, self.defaults, parameters)
        self._counts = [self._number(split) for split in SPLITS]
        self._starts = [sum(self._counts[:number]) for number in range(len(SPLITS))]
        self._seed = self._number("seed")

    @property
    @abstractmethod
    def fields(self) -> list[dict[str, Any]]:
        """The schema: name, modality, role and the like of each field."""

    @abstractmethod
    def _row(self, split: str, number: int) -> Row:
        """The row with this number within its split."""

    def __len__(self) -> int:
        return sum(self._counts)

    def __getitem__(self, index: int) -> Row:
        split, number = self._place(index)
        return {**self._row(split, number), "split": split}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        changed = [f"{k}={v}" for k, v in self.parameters.items() if v != self.defaults[k]]
        return f"playground:{self.name}" + ("?" if changed else "") + "&".join(changed)

    def split(self, index: int) -> str:
        """The split of a row, without making it."""
        return self._place(index)[0]

    def split_indices(self, split: str) -> NDArray[np.int64]:
        """The indices of a split's rows, without making any."""
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; expected one of {', '.join(SPLITS)}")
        number = SPLITS.index(split)
        return np.arange(self._starts[number], self._starts[number] + self._counts[number])

    def _place(self, index: int) -> tuple[str, int]:
        index = int(index)
        if index < 0:
            index += len(self)
        for number in (2, 1, 0):
            if self._starts[number] <= index < self._starts[number] + self._counts[number]:
                return SPLITS[number], index - self._starts[number]
        raise IndexError(f"{self!r} has {len(self)} rows, so there is no row {index}")

    def _number(self, key: str) -> int:
        return int(self.parameters[key])

    def _stream(self, purpose: str, split: str, number: int) -> Stream:
        """Draws for one purpose of one row.

        The view is not part of it: the same seed shows the same scenes in several views.
        """
        return Stream(f"playground {purpose}", self._seed, SPLITS.index(split), number)


class PlaygroundView(GeneratedView):
    """A view of scenes, in any of the languages."""

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._size = self._number("size")
        self._tiles = bool(self.parameters.get("tiles", 0))
        self._language = str(self.parameters["language"])
        self._fewest, self._most = span(self.parameters.get("objects", 1))
        self._holdout = Holdout(str(self.parameters["holdout"]), self._number("pictures"))
        self._holdout.check(self._most)

    def _scene(self, split: str, number: int) -> Scene:
        """The scene of a row, without special wishes."""
        stream = self._stream("scene", split, number)
        things = stream.between(self._fewest, self._most)
        return self._compose(stream, split, Wish(things))

    def _compose(self, stream: Stream, split: str, wish: Wish) -> Scene:
        return compose(stream, split, self._holdout, wish, size=self._size, tiles=self._tiles)

    def _language_of(self, split: str, number: int) -> str:
        if self._language == "mixed":
            return LANGUAGES[self._stream("language", split, number).below(len(LANGUAGES))]
        return self._language

    def _mention(self, split: str, number: int, scene: Scene) -> Mention:
        """What the caption of a row is to speak of; the same in all languages."""
        stream = self._stream("mention", split, number)
        fewest, most = span(self.parameters["named"])
        return choose(stream, scene, min(len(scene.things), stream.between(fewest, most)))

    def _caption(self, split: str, number: int, scene: Scene, mention: Mention) -> Row:
        """The columns of a row that have to do with its caption.

        `phrases` are the places that name each thing, [0, 0] if none does.
        """
        language = self._language_of(split, number)
        style = self.parameters["caption"]
        if style == "noisy":
            stream = self._stream("noisy caption", split, number)
            pool, unrelated = self._holdout.pool(split), self._number("unrelated")
            phrase = noisy(stream, scene, language, pool, unrelated)
        else:
            phrase = describe(scene, mention, language, style == "dense")
        return {
            "caption": phrase.text,
            "phrases": spans_of(phrase, len(scene.things)),
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }
