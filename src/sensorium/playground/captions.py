"""What is said of a scene: short, dense, or as the web would have it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.pictures import name
from sensorium.playground.stream import Stream
from sensorium.playground.words import WORDS, Language, Phrase, fill, join, naming
from sensorium.playground.world import COLOURS, Scene


class Mention(NamedTuple):
    """Which things a caption speaks of, in which order.

    Attributes:
        pairs: things whose relation is told, first the one that is placed.
        alone: things that are only named.
    """

    pairs: tuple[tuple[int, int], ...]
    alone: tuple[int, ...]


def choose(stream: Stream, scene: Scene, count: int) -> Mention:
    """Choose `count` things to speak of, as many as possible in clear pairs."""
    left = stream.shuffled(len(scene.things))
    pairs: list[tuple[int, int]] = []
    alone: list[int] = []
    while left and count > 2 * len(pairs) + len(alone):
        one = left.pop(0)
        partner = None
        if count - 2 * len(pairs) - len(alone) >= 2:
            partner = next((other for other in left if scene.relation(one, other)), None)
        if partner is not None:
            left.remove(partner)
            pairs.append((one, partner))
        else:
            alone.append(one)
    return _with_a_pair(scene, Mention(tuple(pairs), tuple(alone)))


def _with_a_pair(scene: Scene, mention: Mention) -> Mention:
    """Exchange things that happen to have no clear relation for a pair that has one."""
    if mention.pairs or len(mention.alone) < 2:
        return mention
    first = mention.alone[0]
    others = [first, *(i for i in range(len(scene.things)) if i != first)]
    for one in others:
        for other in others:
            if one != other and scene.relation(one, other):
                rest = [i for i in mention.alone if i not in (one, other)]
                return Mention(((one, other),), tuple(rest[: len(mention.alone) - 2]))
    return mention


def describe(scene: Scene, mention: Mention, language: str, dense: bool) -> Phrase:
    """A true caption in one language.

    Tiles are always told; sizes and the colour of the ground only where `dense`.
    """
    words = WORDS[language]
    clauses = []
    for one, other in mention.pairs:
        relation = scene.relation(one, other)
        assert relation is not None, "only clear pairs are mentioned"
        template = words.relations[relation]
        a, b = (_thing(scene, i, language, words, dense) for i in (one, other))
        clauses.append(fill(template, a=a, b=b))
    clauses += [_thing(scene, i, language, words, dense) for i in mention.alone]
    if dense:
        colour = Phrase(words.colours[COLOURS[scene.background]])
        clauses.append(fill(words.background, c=colour))
    return join(clauses, words.separator)


def _thing(scene: Scene, index: int, language: str, words: Language, dense: bool) -> Phrase:
    thing = scene.things[index]
    phrase = naming(index, name(thing.picture, language))
    if dense:
        phrase = fill(words.big if thing.big else words.small, a=phrase)
    if thing.tile is not None:
        phrase = fill(words.on_tile, a=phrase, c=Phrase(words.colours[COLOURS[thing.tile]]))
    return phrase


def noisy(
    stream: Stream, scene: Scene, language: str, pool: tuple[int, ...], unrelated: int
) -> Phrase:
    """A caption as found on the web.

    Some of the things are named, in no order and without relations, among junk words, hashtags and
    file names. In `unrelated` of a hundred cases the names are of things that are not there.
    """
    words = WORDS[language]
    things = stream.shuffled(len(scene.things))[: stream.between(1, len(scene.things))]
    if stream.chance(unrelated):
        shown = {thing.picture for thing in scene.things}
        drawn = [pool[stream.below(len(pool))] for _ in things]
        parts = [Phrase(name(picture, language)) for picture in drawn if picture not in shown]
    else:
        parts = [naming(i, name(scene.things[i].picture, language)) for i in things]
    for _ in range(stream.below(4)):
        parts.append(Phrase(words.junk[stream.below(len(words.junk))]))
    if stream.chance(30):
        tag = words.junk[stream.below(len(words.junk))].replace(" ", "")
        parts.append(Phrase(f"#{tag}"))
    if stream.chance(20) or not parts:
        camera = ("IMG_", "DSC", "P10")[stream.below(3)]
        parts.append(Phrase(f"{camera}{stream.between(1000, 9999)}.jpg"))
    order = stream.shuffled(len(parts))
    return join([parts[i] for i in order], " ")


def spans_of(phrase: Phrase, things: int) -> NDArray[np.int64]:
    """(things, 2): where a caption names each thing; [0, 0] for those that it does not name."""
    spans = [(0, 0)] * things
    for thing, start, end in phrase.spans:
        spans[thing] = (start, end)
    return np.array(spans, dtype=np.int64).reshape(-1, 2)
