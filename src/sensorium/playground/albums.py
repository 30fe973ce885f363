"""The view `albums`: many small pictures, each with who took it, and questions about them."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.compose import Wish
from sensorium.playground.options import PlaygroundError, span
from sensorium.playground.pictures import name, pictures
from sensorium.playground.words import SHOWN_IN, TAKEN_BY, WORDS, Phrase, fill
from sensorium.playground.world import COLOURS, Scene

KINDS = ("image", "text")
FIRST_NAMES = (
    *("Mira", "Jonas", "Lena", "Oskar", "Nora", "Felix", "Clara", "Hugo"),
    *("Ida", "Bruno", "Alma", "Viktor", "Rosa", "Anton", "Greta", "Pablo"),
)
LAST_NAMES = (
    *("Solano", "Berg", "Haddad", "Moreau", "Lindt", "Okafor", "Tanaka", "Silva"),
    *("Novak", "Rossi", "Kaya", "Weber", "Santos", "Larsen", "Patel", "Keller"),
)
NAMES = len(FIRST_NAMES) * len(LAST_NAMES)


class Albums(PlaygroundView):
    """Pictures and words by turns in one prompt, then questions about some of the pictures.

    Columns: image (a list), messages, answer, kind, number, language. Each picture shows one thing
    on a coloured ground and comes with its number and the name of who took it, for example
    `3 Mira Solano <image>`. Half of the questions (`kind` is `image`) ask what is in a picture, half
    (`text`) who took it; `number` is the picture's. Answers have two or three words in English:
    `cat on blue`, `Mira Solano`. Colours and names take turns, so that each is right equally often;
    no two pictures of an album are by the same. The things are those with a name of one English
    word that is no colour. `turns` is how many questions are asked; `kind`, `number` and `answer` are
    those of the last, and none is asked twice.

    `images` is how many pictures a row has: with 60 of 64 tokens each, about 4,000 tokens of which
    some 300 are text.
    """

    name = "albums"
    defaults = {k: v for k, v in COMMON.items() if k not in ("objects", "tiles")} | {
        "size": 32,
        "images": 6,
        "turns": 1,
    }

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._images = self._number("images")
        self._turns = span(self.parameters["turns"])
        if self._turns[1] > len(KINDS) * self._images:
            raise PlaygroundError(
                f"playground view 'albums', parameter 'turns': {self._turns[1]} questions are more than "
                f"there are about {self._images} pictures; give at most {len(KINDS) * self._images}"
            )

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "conversation", "modality": "conversation", "column": "messages"},
            {"name": "kind", "modality": "category", "role": "group"},
        ]

    def scenes(self, index: int) -> list[Scene]:
        """The scenes of a row as data."""
        return self._shown(*self._place(index))[0]

    def _shown(self, split: str, number: int) -> tuple[list[Scene], list[str], int]:
        """The pictures, who took each, and which of them is asked about."""
        stream = self._stream("album", split, number)
        asked = stream.below(self._images)
        turn = number // len(KINDS)
        pool = tuple(picture for picture in self._holdout.pool(split) if _is_plain(picture))
        scenes = [
            self._compose(
                stream,
                split,
                Wish(1, background=turn % len(COLOURS) if at == asked else None, pool=pool),
            )
            for at in range(self._images)
        ]
        author = turn % NAMES
        authors = [other for other in stream.shuffled(NAMES) if other != author]
        authors[asked:asked] = [author]
        return scenes, [_name_of(author) for author in authors[: self._images]], asked

    def _row(self, split: str, number: int) -> Row:
        scenes, authors, asked = self._shown(split, number)
        kind = KINDS[number % len(KINDS)]
        language = self._language_of(split, number)
        lines = [f"{at} {author} <image>" for at, author in enumerate(authors, start=1)]
        messages, answer = [], ""
        for about, what in [*self._earlier(split, number, (asked, kind)), (asked, kind)]:
            question, answer = _exchange(what, about, scenes[about], authors[about], language)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        messages[0]["content"] = "\n".join([*lines, messages[0]["content"]])
        return {
            "image": [scene.image() for scene in scenes],
            "messages": messages,
            "answer": answer,
            "kind": kind,
            "number": asked + 1,
            "language": language,
        }

    def _earlier(self, split: str, number: int, last: tuple[int, str]) -> list[tuple[int, str]]:
        """The pictures that are asked about before the last question, and for what."""
        stream = self._stream("album questions", split, number)
        count = stream.between(*self._turns) - 1
        if not count:
            return []
        every = [(at, kind) for at in range(self._images) for kind in KINDS]
        return [every[i] for i in stream.shuffled(len(every)) if every[i] != last][:count]


def _exchange(kind: str, at: int, scene: Scene, author: str, language: str) -> tuple[str, str]:
    """A question about a picture, and the answer."""
    question = SHOWN_IN[language] if kind == "image" else TAKEN_BY[language]
    asked = fill(question, n=Phrase(str(at + 1))).text
    if kind == "text":
        return asked, author
    words = WORDS[language]
    thing = Phrase(name(scene.things[0].picture, language))
    colour = Phrase(words.colours[COLOURS[scene.background]])
    return asked, fill(words.on_tile, a=thing, c=colour).text


def _is_plain(picture: int) -> bool:
    """Whether a picture's English name is one word, and that no colour."""
    return " " not in name(picture) and not pictures()[picture].colour_word


def _name_of(author: int) -> str:
    last, first = divmod(author, len(FIRST_NAMES))
    return f"{FIRST_NAMES[first]} {LAST_NAMES[last]}"
