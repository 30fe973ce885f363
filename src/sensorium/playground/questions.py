"""The view `questions`: a picture, a question about it, and the answer."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.compose import ATTEMPTS, Wish
from sensorium.playground.options import LISTS, PlaygroundError
from sensorium.playground.pictures import name, pictures
from sensorium.playground.stream import Stream
from sensorium.playground.words import WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, RELATIONS, Scene


class Questions(PlaygroundView):
    """Questions of five kinds with balanced answers.

    Columns: image, question, answer, kind, asked (the boxes of the things that the question names
    and the picture shows), objects, language. Kinds take turns, and within a kind so do its
    answers, so in every split each answer to a kind is right equally often; `kinds` asks fewer:

    - exists, negation: yes, no. "Is there no cat?" is answered yes if there is none.
    - count: how many things (where `objects` is a range).
    - colour: of the ground, or with tiles=1 of the tile under a thing. No picture in these scenes
      has a colour word in its name.
    - relation: left, right, above, below.
    """

    name = "questions"
    defaults = COMMON | {"objects": "2-4", "kinds": ",".join(LISTS["kinds"])}
    version = "2"

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._answers = self._possible_answers()

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "question", "modality": "text", "role": "question"},
            {"name": "answer", "modality": "category", "role": "answer"},
            {"name": "kind", "modality": "category", "role": "group"},
            {"name": "asked", "modality": "boxes", "of": "image", "role": "ignore"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        split, number = self._place(index)
        stream = self._stream("question", split, number)
        return self._asked(stream, split, *self._kind_and_answer(number))[0]

    def _possible_answers(self) -> dict[str, tuple[str, ...]]:
        """The answers that each kind has, by kind."""
        answers: dict[str, tuple[str, ...]] = {
            "exists": ("yes", "no"),
            "negation": ("yes", "no"),
            "colour": COLOURS,
        }
        if self._fewest < self._most:
            counts = range(self._fewest, self._most + 1)
            answers["count"] = tuple(str(number) for number in counts)
        if self._most > 1:
            answers["relation"] = RELATIONS
        wanted = str(self.parameters["kinds"]).split(",")
        answers = {kind: found for kind, found in answers.items() if kind in wanted}
        if not answers:
            raise PlaygroundError(
                f"playground view 'questions': kinds={','.join(wanted)} needs more objects than "
                f"{self.parameters['objects']}; give objects=2-4"
            )
        return answers

    def _kind_and_answer(self, number: int) -> tuple[str, str]:
        kinds = list(self._answers)
        kind = kinds[number % len(kinds)]
        answers = self._answers[kind]
        return kind, answers[number // len(kinds) % len(answers)]

    def _asked(self, stream: Stream, split: str, kind: str, answer: str) -> tuple[Scene, list[int]]:
        """A scene for which the answer is right, and the pictures that the question names."""
        fewest = max(self._fewest, 2) if kind == "relation" else self._fewest
        things = int(answer) if kind == "count" else stream.between(fewest, self._most)
        wish = Wish(things, relation=answer if kind == "relation" else None)
        if kind == "colour":
            return self._coloured(stream, split, things, COLOURS.index(answer))
        scene = self._compose(stream, split, wish)
        if kind == "relation":
            numbers = range(things)
            clear = [(a, b) for a in numbers for b in numbers if a != b]
            clear = [pair for pair in clear if scene.relation(*pair) == answer]
            return scene, [scene.things[i].picture for i in clear[stream.below(len(clear))]]
        if kind == "count":
            return scene, []
        if (answer == "yes") == (kind == "exists"):
            return scene, [scene.things[stream.below(things)].picture]
        shown = {thing.picture for thing in scene.things}
        absent = [picture for picture in self._holdout.pool(split) if picture not in shown]
        if not absent:  # everything there is can be seen, so ask for what is never seen
            absent = [self._holdout.pictures % len(pictures())]
        return scene, [absent[stream.below(len(absent))]]

    def _coloured(
        self, stream: Stream, split: str, things: int, colour: int
    ) -> tuple[Scene, list[int]]:
        pool = tuple(i for i in self._holdout.pool(split) if not pictures()[i].colour_word)
        if not self._tiles:
            return self._compose(stream, split, Wish(things, background=colour, pool=pool)), []
        for _ in range(ATTEMPTS):
            scene = self._compose(stream, split, Wish(things, pool=pool))
            found = [thing.picture for thing in scene.things if thing.tile == colour]
            if found:
                return scene, [found[stream.below(len(found))]]
        raise PlaygroundError(
            f"found no {split} scene with a {COLOURS[colour]} tile; give more pictures"
        )

    def _row(self, split: str, number: int) -> Row:
        kind, answer = self._kind_and_answer(number)
        scene, asked = self._asked(self._stream("question", split, number), split, kind, answer)
        language = self._language_of(split, number)
        words = WORDS[language]
        template = words.questions["tile" if kind == "colour" and self._tiles else kind]
        slots = {slot: Phrase(name(p, language)) for slot, p in zip("ab", asked, strict=False)}
        return {
            "image": scene.image(),
            "question": fill(template, **slots).text,
            "answer": words.answer(answer),
            "kind": kind,
            "asked": scene.boxes()[[thing.picture in asked for thing in scene.things]],
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }
