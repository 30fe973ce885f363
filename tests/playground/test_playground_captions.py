"""Captions against the boxes, without the code that made them."""

import re

import numpy as np
import pytest
from looking import AXES, relation_of_boxes

from sensorium.playground import view
from sensorium.playground.pictures import LANGUAGES, pictures
from sensorium.playground.words import WORDS, Phrase, fill, join, naming
from sensorium.playground.world import COLOURS, SHADES


def parsed(caption, language, objects):
    """The relations told in a caption, as (thing, relation, thing), by pattern alone."""
    known = sorted(objects, key=len, reverse=True)
    any_name = "(" + "|".join(re.escape(each) for each in known) + ")"
    words = WORDS[language]
    found = []
    for clause in caption.split(words.separator):
        for relation, template in words.relations.items():
            middle = re.split(r"\{[ab]\}", template)
            pattern = any_name + r".*" + re.escape(middle[1].strip()) + r".*" + any_name
            match = re.search(pattern + ".*" + re.escape(middle[2]) + "$", clause)
            if match:
                found.append((match[1], relation, match[2]))
    return found


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("caption", ["short", "dense"])
@pytest.mark.parametrize(("objects", "tiles"), [("2", 0), ("3-5", 1)])
def test_relations_are_true_of_the_boxes(language, caption, objects, tiles):
    rows = view("scenes", language=language, caption=caption, objects=objects, tiles=tiles)
    seen = set()
    for index in range(120):
        row = rows[index]
        relations = parsed(row["caption"], language, row["objects"])
        assert relations, row["caption"]
        for one, relation, other in relations:
            first, second = (row["boxes"][row["objects"].index(each)] for each in (one, other))
            assert relation_of_boxes(first, second) == relation
            seen.add(relation)
    assert seen == set(AXES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("caption", ["short", "dense", "noisy"])
def test_phrases_cut_out_the_names(language, caption):
    rows = view("scenes", language=language, caption=caption, objects="1-5", tiles=1)
    named = unnamed = 0
    for index in range(200):
        row = rows[index]
        assert row["phrases"].shape == (len(row["objects"]), 2)
        for (start, end), name_ in zip(row["phrases"], row["objects"], strict=True):
            assert row["caption"][start:end] == ("" if start == end else name_)
            named, unnamed = named + (end > start), unnamed + (end == start)
    assert named > 300
    assert unnamed == 0 if caption != "noisy" else unnamed > 100


def test_dense_captions_tell_grounds_and_sizes_as_they_are():
    rows = view("scenes", caption="dense", objects="2-4")
    for index in range(200):
        row, scene = rows[index], rows.scene(index)
        colour = re.search(r", (\w+) background$", row["caption"])[1]
        corner = row["image"][0, 0].astype(int)
        nearest = np.abs(np.array(SHADES) - corner).sum(axis=1).argmin()
        assert COLOURS[nearest] == colour
        for (start, _), box in zip(row["phrases"], row["boxes"], strict=True):
            size = row["caption"][:start].split()[-1]
            side = (box[2:] - box[:2]).max() * scene.size
            room = scene.size // 2 - 2
            assert side > 0.8 * room if size == "big" else side < 0.8 * room


def test_tiles_have_the_colour_that_is_told():
    rows = view("scenes", tiles=1, objects="2-4")
    for index in range(100):
        row = rows[index]
        for thing, (_, end) in zip(rows.scene(index).things, row["phrases"], strict=True):
            colour = re.match(r" on (\w+)", row["caption"][end:])[1]
            left, top, _, _ = thing.ground(2)
            pixel = row["image"][top, left].astype(int)
            assert COLOURS[np.abs(np.array(SHADES) - pixel).sum(axis=1).argmin()] == colour


def test_named_limits_what_a_caption_speaks_of():
    rows = view("scenes", objects=6, named="2-3", size=96)
    counts = {int((rows[i]["phrases"][:, 1] > 0).sum()) for i in range(100)}
    assert counts == {2, 3}
    assert all(parsed(rows[i]["caption"], "en", rows[i]["objects"]) for i in range(100))


def test_noisy_captions_are_sometimes_about_something_else():
    every = {picture.names["en"] for picture in pictures()[:200]}
    rows = view("scenes", caption="noisy", unrelated=30, objects=3)
    unrelated = 0
    for index in range(500):
        row = rows[index]
        if not row["phrases"].any():
            unrelated += 1
            assert not any(
                re.search(rf"(^| ){re.escape(each)}( |$)", row["caption"])
                and not any(each in other for other in every - {each} if other in row["caption"])
                for each in row["objects"]
            )
    assert 100 < unrelated < 200
    assert all(view("scenes", caption="noisy", unrelated=0)[i]["phrases"].any() for i in range(100))


def test_phrases_move_along_when_texts_are_joined():
    cat, dog = naming(0, "cat"), naming(1, "big dog")
    phrase = fill("x {b} left of {a}", a=cat, b=join([Phrase("a"), dog], "-"))
    assert phrase.text == "x a-big dog left of cat"
    assert {phrase.text[start:end] for _, start, end in phrase.spans} == {"cat", "big dog"}
    assert [thing for thing, _, _ in phrase.spans] == [1, 0]
