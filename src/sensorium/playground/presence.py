"""The view `presence`: whether something is there that one might expect."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.captions import choose, describe
from sensorium.playground.compose import ATTEMPTS, Wish
from sensorium.playground.options import PlaygroundError
from sensorium.playground.pictures import name
from sensorium.playground.stream import Stream
from sensorium.playground.words import WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, Scene
from sensorium.types.draws import permutation

KINDS = ("random", "popular", "adversarial")
ANSWERS = ("yes", "no")
POPULAR = 50  # percent of things that are drawn among the few popular ones
TOGETHER = 60  # percent of things that bring their companion, if there is room


class Presence(PlaygroundView):
    """Questions for things that are there, or that could well be (POPE, Li et al., EMNLP 2023).

    Columns: image, question, answer, kind, caption, objects, language. In these scenes a tenth of
    the pictures is in half of the places, and each picture has a companion that is often beside it.
    Answers and kinds take turns. Half of the questions name a thing that is there (yes); the
    others one that is not (no), by `kind`:

    - random: any.
    - popular: one of those that are often seen.
    - adversarial: the companion of one that is there.

    So whoever answers by what is common, or by what goes together, is right about the first kind
    only. The caption names all things; it is no field unless a schema makes it one.
    """

    name = "presence"
    defaults = COMMON | {"objects": "3-5"}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "question", "modality": "text", "role": "question"},
            {"name": "answer", "modality": "category", "role": "answer"},
            {"name": "kind", "modality": "category", "role": "group"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        split, number = self._place(index)
        return self._asked(split, number)[0]

    def popular(self, split: str) -> tuple[int, ...]:
        """The pictures that are often seen."""
        return self._habits[split][0]

    def companion(self, split: str, picture: int) -> int | None:
        """The picture that is often beside a picture; None if it has none."""
        return self._habits[split][1].get(picture)

    @cached_property
    def _habits(self) -> dict[str, tuple[tuple[int, ...], dict[int, int]]]:
        """For each split its popular pictures, and for each picture its companion."""
        found = {}
        for split in ("train", "validation", "test"):
            pool = self._holdout.pool(split)
            order = [pool[int(n)] for n in permutation(len(pool), "playground popular")]
            # More than a scene holds, so that one is always absent.
            popular = tuple(order[: max(len(pool) // 10, self._most + 1)])
            order = [pool[int(n)] for n in permutation(len(pool), "playground companions")]
            pairs = list(zip(order[::2], order[1::2], strict=False))
            found[split] = popular, dict(pairs) | {b: a for a, b in pairs}
        return found

    def _asked(self, split: str, number: int) -> tuple[Scene, int]:
        """A scene, and the picture that is asked for."""
        stream = self._stream("presence", split, number)
        scene, absent = self._usual(stream, split)
        if ANSWERS[number // len(KINDS) % 2] == "yes":
            return scene, scene.things[stream.below(len(scene.things))].picture
        choices = absent[KINDS[number % len(KINDS)]]
        return scene, choices[stream.below(len(choices))]

    def _usual(self, stream: Stream, split: str) -> tuple[Scene, dict[str, list[int]]]:
        """A scene as they are here, and what is absent from it, by kind; there is some of each."""
        popular, companions = self._habits[split]
        pool = self._holdout.pool(split)
        for _ in range(ATTEMPTS):
            background = stream.below(len(COLOURS))
            shown = self._drawn(stream, split, stream.between(self._fewest, self._most))
            absent = {
                "random": [picture for picture in pool if picture not in shown],
                "popular": [picture for picture in popular if picture not in shown],
                "adversarial": [
                    companions[picture]
                    for picture in shown
                    if companions.get(picture, picture) not in shown
                ],
            }
            fits = self._tiles or all(
                self._holdout.may_hold(split, picture, background) for picture in shown
            )
            if fits and all(absent.values()) and self._holdout.may_be(split, shown, background):
                wish = Wish(len(shown), background=background, pool=tuple(shown))
                return self._compose(stream, split, wish), absent
        raise PlaygroundError(
            f"found no {split} scene among {len(pool)} pictures in which something is missing; give "
            "a larger number of pictures"
        )

    def _drawn(self, stream: Stream, split: str, things: int) -> list[int]:
        """The pictures of a scene."""
        popular, companions = self._habits[split]
        pool = self._holdout.pool(split)
        shown: list[int] = []
        while len(shown) < things:
            among = popular if stream.chance(POPULAR) else pool
            picture = among[stream.below(len(among))]
            if picture in shown:
                continue
            shown.append(picture)
            companion = companions.get(picture, picture)
            if len(shown) < things and companion not in shown and stream.chance(TOGETHER):
                shown.append(companion)
        return shown

    def _row(self, split: str, number: int) -> Row:
        scene, asked = self._asked(split, number)
        language = self._language_of(split, number)
        words = WORDS[language]
        mention = choose(self._stream("mention", split, number), scene, len(scene.things))
        return {
            "image": scene.image(),
            "question": fill(words.questions["exists"], a=Phrase(name(asked, language))).text,
            "answer": words.answer(ANSWERS[number // len(KINDS) % 2]),
            "kind": KINDS[number % len(KINDS)],
            "caption": describe(scene, mention, language, dense=False).text,
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }
