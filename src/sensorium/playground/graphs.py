"""The view `graphs`: scenes as graphs of things and of how they lie to each other."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.compose import Wish
from sensorium.playground.pictures import name
from sensorium.playground.stream import Stream
from sensorium.playground.words import WORDS
from sensorium.playground.world import OPPOSITE, RELATIONS, Scene


class Graphs(PlaygroundView):
    """Scene graphs with a question that only the edges answer.

    Columns: image, graph, label, objects, language. The graph has a node for each thing (its name,
    its longer side in pixels, and `asked`) and an edge for each two things that lie clearly to each
    other; its type says where the source lies, seen from the target. Which of the two is the source
    is drawn. `asked` is 1 for one thing, -1 for another and 0 for the rest; the label is where the
    first lies, seen from the second: left, right, above or below, which take turns. The picture
    shows the scene, but not which things are asked about.
    """

    name = "graphs"
    defaults = COMMON | {"objects": "3-5"}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        options = {"category": "name", "numbers": ["side", "asked"], "directed": True}
        return [
            {"name": "graph", "modality": "graph", "role": "input", "options": options},
            {"name": "image", "modality": "image", "role": "ignore"},
            {"name": "label", "modality": "category", "role": "label"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        split, number = self._place(index)
        return self._asked(self._stream("graph", split, number), split, number)[0]

    def _asked(self, stream: Stream, split: str, number: int) -> tuple[Scene, str, tuple[int, int]]:
        """A scene, the label, and the two things that are asked about."""
        label = RELATIONS[number % len(RELATIONS)]
        things = stream.between(max(self._fewest, 2), max(self._most, 2))
        scene = self._compose(stream, split, Wish(things, relation=label))
        numbers = range(things)
        pairs = [(a, b) for a in numbers for b in numbers if a != b]
        pairs = [pair for pair in pairs if scene.relation(*pair) == label]
        return scene, label, pairs[stream.below(len(pairs))]

    def _row(self, split: str, number: int) -> Row:
        stream = self._stream("graph", split, number)
        scene, label, (one, other) = self._asked(stream, split, number)
        language = self._language_of(split, number)
        names = [name(thing.picture, language) for thing in scene.things]
        nodes = [
            {"id": place, "name": names[place], "side": thing.side, "asked": 0}
            for place, thing in enumerate(scene.things)
        ]
        nodes[one]["asked"], nodes[other]["asked"] = 1, -1
        edges = []
        for first in range(len(nodes)):
            for second in range(first):
                relation = scene.relation(first, second)
                if relation is None:
                    continue
                ends = (first, second) if stream.chance(50) else (second, first)
                kind = relation if ends == (first, second) else OPPOSITE[relation]
                edges.append({"source": ends[0], "target": ends[1], "type": kind})
        return {
            "image": scene.image(),
            "graph": {"nodes": nodes, "edges": edges},
            "label": WORDS[language].answer(label),
            "objects": names,
            "language": language,
        }
