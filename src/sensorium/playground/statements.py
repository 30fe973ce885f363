"""The view `statements`: what is true of a picture, and what could be."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.options import LISTS, PlaygroundError
from sensorium.playground.pictures import name
from sensorium.playground.stream import Stream
from sensorium.playground.words import WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, OPPOSITE, Scene

# What a scene has: ("tile", thing, colour), ("relation", relation, thing, thing), ("ground", colour).
Fact = tuple[Any, ...]
STATED = 2
ATTEMPTS = 64


class Statements(PlaygroundView):
    """A picture, a statement that is true of it, and one that is not.

    Columns: image, statement, contrary, kind, facts, stated, denied, objects, language. A statement tells
    two facts of those in `told`: the colour under a thing (tile), where one thing is seen from another
    (relation), the colour of the ground. `facts` are all that are true of the picture, as texts, `stated` and `denied` those of the statement and
    of its contrary; so a statement is true of whatever picture has all of its facts. Rows take turns in
    `contraries`:

    - random: true of another picture.
    - colour: another colour in one of the facts.
    - relation: the opposite relation, if one is told; else as `thing`.
    - thing: another thing in place of one that is told, if one is; else as `colour`.

    No contrary is true of the picture, and all could be true of one.
    """

    name = "statements"
    defaults = COMMON | {
        "objects": "2-3",
        "tiles": 1,
        "told": ",".join(LISTS["told"]),
        "contraries": ",".join(LISTS["contraries"]),
    }

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._contraries = str(self.parameters["contraries"]).split(",")
        self._told = str(self.parameters["told"]).split(",")
        possible = {"ground", *(["tile"] if self._tiles else []), *self._pairs()}
        if not possible & set(self._told):
            raise PlaygroundError(
                f"playground view 'statements': of scenes with objects={self.parameters['objects']} and "
                f"tiles={int(self._tiles)} nothing of told={self.parameters['told']} can be told; add ground"
            )

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "query"},
            {"name": "statement", "modality": "text", "role": "target"},
            {"name": "contrary", "modality": "text", "role": "input"},
            {"name": "kind", "modality": "category", "role": "ignore"},
        ]

    def _pairs(self) -> list[str]:
        """Whether every scene has a relation."""
        return ["relation"] if self._fewest > 1 else []

    def _facts(self, scene: Scene) -> list[Fact]:
        return [fact for fact in facts_of(scene) if fact[0] in self._told]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._scene(*self._place(index))

    def _row(self, split: str, number: int) -> Row:
        scene = self._scene(split, number)
        language = self._language_of(split, number)
        facts = self._facts(scene)
        stated = self._stated(split, number, facts)
        kind = self._contraries[number % len(self._contraries)]
        denied = self._denied(split, number, kind, facts, stated)
        told, false = (_texts(each, language) for each in (stated, denied))
        separator = WORDS[language].separator
        return {
            "image": scene.image(),
            "statement": separator.join(told),
            "contrary": separator.join(false),
            "kind": kind,
            "facts": _texts(facts, language),
            "stated": told,
            "denied": false,
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }

    def _stated(self, split: str, number: int, facts: list[Fact]) -> list[Fact]:
        order = self._stream("statement", split, number).shuffled(len(facts))
        stated: list[Fact] = []
        for fact in (facts[i] for i in order):
            # a relation and its opposite tell the same
            if len(stated) < STATED and not _is_odd([*stated, fact]):
                stated.append(fact)
        return stated

    def _denied(
        self, split: str, number: int, kind: str, facts: list[Fact], stated: list[Fact]
    ) -> list[Fact]:
        """Facts that could be, of which one at least is not."""
        stream = self._stream("contrary", split, number)
        for _ in range(ATTEMPTS if kind == "random" else 0):
            other = stream.below(2**31)  # of the same split, and not among its rows
            found = self._stated(split, other, self._facts(self._scene(split, other)))
            if not set(found) <= set(facts):
                return found
        while True:
            at = stream.below(len(stated))
            changed = self._changed(stream, split, kind, stated[at])
            found = [*stated[:at], changed, *stated[at + 1 :]]
            if changed not in facts and not _is_odd(found):
                return found

    def _changed(self, stream: Stream, split: str, kind: str, fact: Fact) -> Fact:
        if fact[0] == "relation":
            if kind != "thing":
                return (fact[0], OPPOSITE[fact[1]], *fact[2:])
            one, other = fact[2:]
            new = self._other(stream, split, (one, other))
            return (*fact[:2], new, other) if stream.chance(50) else (*fact[:2], one, new)
        if fact[0] == "tile" and kind == "thing":
            return ("tile", self._other(stream, split, fact[1:2]), fact[2])
        colour = (fact[-1] + stream.between(1, len(COLOURS) - 1)) % len(COLOURS)
        return (*fact[:-1], colour)

    def _other(self, stream: Stream, split: str, than: tuple[int, ...]) -> int:
        pool = [picture for picture in self._holdout.pool(split) if picture not in than]
        return pool[stream.below(len(pool))]


def facts_of(scene: Scene) -> list[Fact]:
    """All that is told of a scene."""
    numbers = range(len(scene.things))
    facts: list[Fact] = [
        ("tile", thing.picture, thing.tile) for thing in scene.things if thing.tile is not None
    ]
    for one in numbers:
        for other in numbers:
            relation = scene.relation(one, other) if one != other else None
            if relation is not None:
                pictures = (scene.things[i].picture for i in (one, other))
                facts.append(("relation", relation, *pictures))
    return [*facts, ("ground", scene.background)]


def _is_odd(facts: list[Fact]) -> bool:
    """Whether no picture could have them: one thing on two colours, or on that of the ground."""
    tiles = {fact[1:] for fact in facts if fact[0] == "tile"}
    grounds = {fact[1] for fact in facts if fact[0] == "ground"}
    relations = {frozenset(fact[2:]) for fact in facts if fact[0] == "relation"}
    num_relations = sum(fact[0] == "relation" for fact in facts)
    return (
        len({thing for thing, _ in tiles}) < len(tiles)
        or any(colour in grounds for _, colour in tiles)
        or len(relations) < num_relations
    )


def _texts(facts: list[Fact], language: str) -> list[str]:
    return [_text(fact, language) for fact in facts]


def _text(fact: Fact, language: str) -> str:
    words = WORDS[language]
    if fact[0] == "relation":
        a, b = (Phrase(name(picture, language)) for picture in fact[2:])
        return fill(words.relations[fact[1]], a=a, b=b).text
    colour = Phrase(words.colours[COLOURS[fact[-1]]])
    if fact[0] == "ground":
        return fill(words.background, c=colour).text
    return fill(words.on_tile, a=Phrase(name(fact[1], language)), c=colour).text
