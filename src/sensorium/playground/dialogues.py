"""The view `dialogues`: a picture, and a conversation about it."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import Row
from sensorium.playground.captions import choose, describe
from sensorium.playground.compose import Wish
from sensorium.playground.options import span
from sensorium.playground.pictures import name, pictures
from sensorium.playground.questions import Questions
from sensorium.playground.stream import Stream
from sensorium.playground.words import DESCRIBE, WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, Scene

# What is asked, what it is answered with (by its key), and the things that the question names.
Exchange = tuple[str, str, list[int]]


class Dialogues(Questions):
    """Conversations of one to four questions about a picture, each with its answer.

    Columns: image, messages, kind, objects, language. `messages` is a list of turns, the first with
    the placeholder `<image>`. The last question is one of `questions`, with balanced answers, or
    asks for a description of the picture; `kind` says which. Earlier questions are of other kinds
    than the last, and of one each, and name no thing that another question names, so the last
    answer has to be seen in the picture; it does not stand in what was said before. Nor does it
    follow from how many things were spoken of: these are never more than the fewest that a scene
    has. `turns` is the number of questions; there are fewer where no other could be asked.
    """

    name = "dialogues"
    defaults = Questions.defaults | {"turns": "1-4"}

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._turns = span(self.parameters["turns"])

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "conversation", "modality": "conversation", "column": "messages"},
            {"name": "kind", "modality": "category", "role": "group"},
        ]

    def _possible_answers(self) -> dict[str, tuple[str, ...]]:
        return {**super()._possible_answers(), "description": ("",)}

    def _asked(self, stream: Stream, split: str, kind: str, answer: str) -> tuple[Scene, list[int]]:
        if kind == "description":
            wish = Wish(stream.between(self._fewest, self._most))
            return self._compose(stream, split, wish), []
        return super()._asked(stream, split, kind, answer)

    def _row(self, split: str, number: int) -> Row:
        kind, answer = self._kind_and_answer(number)
        scene, asked = self._asked(self._stream("question", split, number), split, kind, answer)
        language = self._language_of(split, number)
        earlier = self._earlier(self._stream("dialogue", split, number), split, scene, kind, asked)
        messages = []
        for exchange in [*earlier, (kind, answer, asked)]:
            question, said = self._in_words(exchange, scene, split, number, language)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": said})
        messages[0]["content"] = "<image>\n" + messages[0]["content"]
        return {
            "image": scene.image(),
            "messages": messages,
            "kind": kind,
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }

    def _earlier(
        self, stream: Stream, split: str, scene: Scene, last: str, asked: list[int]
    ) -> list[Exchange]:
        """The questions before the last."""
        shown = [thing.picture for thing in scene.things]
        free = [shown[i] for i in stream.shuffled(len(shown)) if shown[i] not in asked]
        if last in ("exists", "negation") and asked[0] not in shown:
            # As if the last question were about a thing that is there: what is left to speak of
            # must not tell that it is not.
            free.pop()
        absent = [p for p in self._holdout.pool(split) if p not in (*shown, *asked)]
        # Whoever has read the name of a colour would know the word, not the colour.
        has_words = any(pictures()[picture].colour_word for picture in (*shown, *asked))
        room = self._fewest
        kinds = [kind for kind in self._answers if kind not in (last, "description")]
        count = stream.between(*self._turns) - 1
        plan = [kinds[i] for i in stream.shuffled(len(kinds))][:count]
        found: dict[str, Exchange] = {}
        # A pair is chosen first, while any may be: a scene always has one, whatever its size.
        for kind in sorted(plan, key=lambda kind: kind != "relation"):
            exchange: Exchange | None = None
            if kind == "count":
                exchange = (kind, str(len(scene.things)), [])
            elif kind == "relation" and room >= 2:
                exchange = _related(scene, free)
            elif kind == "colour" and not has_words:
                exchange = self._colour(scene, free[:room])
            elif kind in ("exists", "negation") and free[:room] and absent:
                is_shown = stream.chance(50)
                named = free[0] if is_shown else absent[stream.below(len(absent))]
                exchange = (kind, "yes" if is_shown == (kind == "exists") else "no", [named])
            if exchange is not None:
                found[kind] = exchange
                room -= sum(picture in shown for picture in exchange[2])
                free = [picture for picture in free if picture not in exchange[2]]
                absent = [picture for picture in absent if picture not in exchange[2]]
        return [found[kind] for kind in plan if kind in found]

    def _colour(self, scene: Scene, free: list[int]) -> Exchange | None:
        if not self._tiles:
            return "colour", COLOURS[scene.background], []
        for thing in scene.things:
            if free and thing.picture == free[0] and thing.tile is not None:
                return "colour", COLOURS[thing.tile], [thing.picture]
        return None

    def _in_words(
        self, exchange: Exchange, scene: Scene, split: str, number: int, language: str
    ) -> tuple[str, str]:
        kind, answer, asked = exchange
        words = WORDS[language]
        if kind == "description":
            stream = self._stream("mention", split, number)
            mention = choose(stream, scene, len(scene.things))
            return DESCRIBE[language], describe(scene, mention, language, dense=False).text
        template = words.questions["tile" if kind == "colour" and self._tiles else kind]
        slots = {slot: Phrase(name(p, language)) for slot, p in zip("ab", asked, strict=False)}
        return fill(template, **slots).text, words.answer(answer)


def _related(scene: Scene, free: list[int]) -> Exchange | None:
    """A question for the relation of two of the things."""
    numbers = range(len(scene.things))
    for one in numbers:
        for other in numbers:
            a, b = (scene.things[i].picture for i in (one, other))
            relation = scene.relation(one, other) if one != other else None
            if relation is not None and a in free and b in free:
                return "relation", relation, [a, b]
    return None
