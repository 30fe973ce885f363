"""The view `universal`: what is asked with and for, and that the wrong modality is always at hand."""

from itertools import pairwise

import numpy as np
import pytest

from sensorium.data import open_data
from sensorium.playground import PlaygroundError, view
from sensorium.playground.pictures import name
from sensorium.playground.words import ASKS, REASONS, WANTED

PAIRS = view("universal").parameters["pairs"].split(",")


def group(rows, number):
    """The rows about one scene, by kind."""
    found = [rows[number * len(PAIRS) + place] for place in range(len(PAIRS))]
    return {row["kind"]: row for row in found}


@pytest.fixture(scope="module")
def rows():
    return view("universal", objects="2-3", pictures=40)


def test_there_are_eight_combinations_and_each_has_its_parts(rows):
    assert len(set(PAIRS)) == 8
    assert {side for pair in PAIRS for side in pair.split("->")} == {"text", "image", "image+text"}
    for number in range(20):
        for kind, row in group(rows, number).items():
            for side, parts in zip(("query", "target"), kind.split("->"), strict=True):
                for part in ("text", "image"):
                    assert (row[f"{side}_{part}"] is not None) == (part in parts.split("+")), kind


def test_what_asks_for_a_picture_stands_among_the_candidates_as_a_text(rows):
    for number in range(20):
        of = group(rows, number)
        caption = of["text->image"]["query_text"]
        assert of["image->text"]["target_text"] == caption == of["text->text"]["target_text"]
        assert of["text->image+text"]["query_text"] == caption
        picture = of["text->image"]["target_image"]
        assert np.array_equal(of["text->image+text"]["target_image"], picture)
        for kind in PAIRS:
            if kind.startswith("image"):
                assert np.array_equal(of[kind]["query_image"], picture), kind
        assert len({row["group"] for row in of.values()}) == 1
    assert rows[0]["group"] != rows[8]["group"]


def test_a_change_is_that_of_one_thing_and_what_it_says(rows):
    for number in range(40):
        of = group(rows, number)
        kinds = [kind for kind in PAIRS if kind.startswith("image+text")]
        asked = {of[kind]["query_text"] for kind in kinds}
        assert len(asked) == 1
        new, old = asked.pop().split(" in place of ")
        before, after = of["image->text"]["target_text"], of["image+text->text"]["target_text"]
        words = [f" {text} " for text in (before, after)]
        assert words[0].replace(f" {old} ", f" {new} ") == words[1]
        pictures = [of[kind]["target_image"] for kind in kinds[1:]]
        assert np.array_equal(*pictures)
        assert not np.array_equal(pictures[0], of["text->image"]["target_image"])
        assert of["image+text->image+text"]["target_text"].endswith(" background")


def test_the_same_things_otherwise_arranged_are_no_answer_to_the_caption(rows):
    for number in range(40):
        scene, mention, _ = rows._before_and_after("train", number)
        other = rows._rearranged("train", number, scene, mention)
        assert sorted(t.picture for t in other.things) == sorted(t.picture for t in scene.things)
        ((one, two),) = mention.pairs
        at = [thing.picture for thing in other.things]
        places = [at.index(scene.things[i].picture) for i in (one, two)]
        assert other.relation(*places) != scene.relation(one, two)
        assert np.array_equal(other.image(), group(rows, number)["image->image"]["target_image"])


def test_changed_scenes_belong_to_their_split():
    rows = view("universal", pictures=12, train=400, test=400, validation=400)

    def shown(split):
        found = set()
        for number in range(50):
            for scene in rows._before_and_after(split, number)[::2]:
                found.add((scene.background, *sorted(thing.picture for thing in scene.things)))
        return found

    found = [shown(split) for split in ("train", "validation", "test")]
    for one, other in pairwise([*found, found[0]]):
        assert not one & other
    assert min(map(len, found)) > 20


def test_an_instruction_says_what_is_wanted_in_either_wording(rows):
    for place, kind in enumerate(PAIRS):
        asked = {rows[number * len(PAIRS) + place]["instruction"] for number in range(30)}
        assert len(asked) == 2
        wanted = WANTED["en"][kind.split("->")[1]]
        assert all(wanted in text for text in asked)
    of_kind = [{rows[n * len(PAIRS) + i]["instruction"] for n in range(30)} for i in range(8)]
    assert sum(map(len, of_kind)) == len(set.union(*of_kind))
    assert ASKS.keys() == WANTED.keys() == REASONS.keys()


def test_fewer_pairs_leave_their_rows_as_they_are_and_have_no_fields_that_are_empty():
    every, few = view("universal"), view("universal", pairs="text->text,text->image")
    assert few.parameters["pairs"] == "text->image,text->text"  # in the order of all
    for number in range(5):
        of = group(every, number)
        for place, kind in enumerate(("text->image", "text->text")):
            row = few[2 * number + place]
            assert {k: v for k, v in row.items() if k != "target_image"} == {
                k: v for k, v in of[kind].items() if k != "target_image"
            }
    names = [field["name"] for field in view("universal", pairs="text->text").fields]
    assert names == ["instruction", "query_text", "target_text", "kind"]
    assert open_data("playground:universal?train=16&pairs=text->text").fit()


def test_things_are_named_in_all_languages():
    english, others = view("universal"), ("de", "id", "zh")
    for language in others:
        rows = view("universal", language=language)
        for number in range(8):
            assert rows[number]["instruction"] != english[number]["instruction"]
            asked = rows[number]["query_text"]
            if asked is not None:
                assert any(name(t.picture, language) in asked for t in rows.scene(number).things)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objects": 1}, "give 2 or more"),
        ({"pairs": "text->sound"}, "unknown 'text->sound'"),
        ({"pictures": 2}, "larger number of pictures"),
    ],
)
def test_errors_say_what_was_expected(parameters, message):
    with pytest.raises(PlaygroundError, match=message):
        view("universal", **parameters)[0]
