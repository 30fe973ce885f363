"""The view `universal`: what is asked for and with what, in any of text, picture and both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.captions import Mention, choose, describe
from sensorium.playground.compose import ATTEMPTS, Wish, draw_picture
from sensorium.playground.options import LISTS, PlaygroundError
from sensorium.playground.pictures import name
from sensorium.playground.stream import Stream
from sensorium.playground.words import ASKS, REASONS, REPLACED, WANTED, WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, Scene, Thing

BOTH = "image+text"


class Universal(PlaygroundView):
    """Queries with an instruction, and what they are to find (M-BEIR, Wei et al., 2023, arXiv 2311.17136).

    Columns: instruction, query_text, query_image, target_text, target_image, kind, group, language. A
    query has a text, a picture or both, and so has its target; the instruction says which, in one of two
    wordings. Rows take turns in `pairs`:

    | kind | the query | finds |
    |---|---|---|
    | text->image | a caption | the picture |
    | text->text | where one thing is seen from another | the caption |
    | text->image+text | a caption | the picture, with a note |
    | image->text | a picture | its caption |
    | image->image | a picture | another of the same things, otherwise arranged |
    | image+text->text | a picture, and a thing in place of another | the caption after the change |
    | image+text->image | the same | the picture after the change |
    | image+text->image+text | the same | that picture, with a note |

    One row of each kind in turn is about the same scene (`group`). So among the candidates of all kinds
    there is always the scene in another modality: the caption that asks for a picture stands there as a
    text. Notes tell the colour of the ground.
    """

    name = "universal"
    defaults = COMMON | {"pairs": ",".join(LISTS["pairs"])}

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._pairs = str(self.parameters["pairs"]).split(",")
        if self._fewest < 2:
            raise PlaygroundError(
                f"playground view 'universal', parameter 'objects': {self.parameters['objects']} leaves "
                "scenes without two things to tell apart; give 2 or more"
            )

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema; without fields that no row of these pairs has."""
        there = {
            f"{side}_{part}"
            for pair in self._pairs
            for side, parts in zip(("query", "target"), pair.split("->"), strict=True)
            for part in parts.split("+")
        }
        sides = [
            {"name": f"{side}_{part}", "modality": part, "role": side}
            for side in ("query", "target")
            for part in ("image", "text")
        ]
        return [
            {"name": "instruction", "modality": "text", "role": "question"},
            *(field for field in sides if field["name"] in there),
            {"name": "kind", "modality": "category", "role": "group"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene that a row is about, before any change."""
        split, number = self._place(index)
        return self._before_and_after(split, number // len(self._pairs))[0]

    def _row(self, split: str, number: int) -> Row:
        kind, number = self._pairs[number % len(self._pairs)], number // len(self._pairs)
        query, target = kind.split("->")
        scene, mention, changed = self._before_and_after(split, number)
        language = self._language_of(split, number)
        asked = describe(scene, mention, language, dense=False).text
        found = scene
        if query == BOTH:
            found, asked = changed, _change(scene, changed, language)
        elif kind == "image->image":
            found = self._rearranged(split, number, scene, mention)
        elif kind == "text->text":
            asked = _where(scene, mention, language)
        told = None
        if target == BOTH:
            colour = Phrase(WORDS[language].colours[COLOURS[found.background]])
            told = fill(WORDS[language].background, c=colour).text
        elif target == "text":
            told = describe(found, mention, language, dense=False).text
        return {
            "instruction": self._instruction(split, number, kind, language),
            "query_text": asked if "text" in query else None,
            "query_image": scene.image() if "image" in query else None,
            "target_text": told,
            "target_image": found.image() if "image" in target else None,
            "kind": kind,
            # scenes of the splits are numbered alike, and are not the same
            "group": f"{split} {number}",
            "language": language,
        }

    def _instruction(self, split: str, number: int, kind: str, language: str) -> str:
        query, target = kind.split("->")
        reason = kind if kind in REASONS[language] else query
        wordings = ASKS[language]
        chosen = self._stream(f"instruction {kind}", split, number).below(len(wordings))
        parts = {"x": Phrase(WANTED[language][target]), "y": Phrase(REASONS[language][reason])}
        return fill(wordings[chosen], **parts).text

    def _before_and_after(self, split: str, number: int) -> tuple[Scene, Mention, Scene]:
        """A scene, two of its things, and the scene with another in place of one of the two."""
        stream = self._stream("scene", split, number)
        for _ in range(ATTEMPTS):
            scene = self._compose(stream, split, Wish(stream.between(self._fewest, self._most)))
            mention = choose(stream, scene, 2)
            changed = self._changed(stream, split, scene, mention)
            if changed is not None:
                return scene, mention, changed
        raise PlaygroundError(
            f"found no two {split} scenes that differ in one thing; give a larger number of pictures"
        )

    def _changed(self, stream: Stream, split: str, scene: Scene, mention: Mention) -> Scene | None:
        """The scene with another thing in place of one of the two, if there is one in the split."""
        ((one, other),) = mention.pairs
        at = (one, other)[stream.below(2)]
        thing = scene.things[at]
        ground = scene.background if thing.tile is None else thing.tile
        pool = self._holdout.pool(split)
        shown = [each.picture for each in scene.things]
        for _ in range(len(pool)):
            new = draw_picture(
                stream, split, self._holdout, pool=pool, colour=ground, without=shown
            )
            if new is None:
                return None
            found = scene.with_thing(at, _inside(thing.showing(new), scene.size))
            pictures = [each.picture for each in found.things]
            is_clear = found.relation(one, other) == scene.relation(one, other)
            if (
                is_clear
                and found.tidy()
                and self._holdout.may_be(split, pictures, scene.background)
            ):
                return found
        return None

    def _rearranged(self, split: str, number: int, scene: Scene, mention: Mention) -> Scene:
        """The same things on the same ground, of which the caption is not true."""
        stream = self._stream("arrangement", split, number)
        ((one, other),) = mention.pairs
        pictures = tuple(thing.picture for thing in scene.things)
        wish = Wish(len(pictures), background=scene.background, pool=pictures)
        while True:
            found = self._compose(stream, split, wish)
            at = [thing.picture for thing in found.things]
            relation = found.relation(at.index(pictures[one]), at.index(pictures[other]))
            if relation != scene.relation(one, other):
                return found


def _inside(thing: Thing, size: int) -> Thing:
    """A thing without a tile that reached over an edge, moved within."""
    if thing.tile is not None:
        return thing
    left = min(max(thing.left, 1), size - 1 - thing.width)
    top = min(max(thing.top, 1), size - 1 - thing.height)
    return replace(thing, left=left, top=top)


def _change(before: Scene, after: Scene, language: str) -> str:
    """The words that say what is changed."""
    ((old, new),) = (
        (a.picture, b.picture)
        for a, b in zip(before.things, after.things, strict=True)
        if a.picture != b.picture
    )
    a, c = (Phrase(name(picture, language)) for picture in (old, new))
    return fill(REPLACED[language], a=a, c=c).text


def _where(scene: Scene, mention: Mention, language: str) -> str:
    ((one, other),) = mention.pairs
    a, b = (Phrase(name(scene.things[i].picture, language)) for i in (one, other))
    return fill(WORDS[language].questions["relation"], a=a, b=b).text
