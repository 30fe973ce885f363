"""The view `statements`: statements are true and contraries are not, and both could be."""

import pytest

from sensorium.playground import PlaygroundError, view
from sensorium.playground.options import LISTS
from sensorium.playground.words import WORDS
from sensorium.playground.world import COLOURS

KINDS = LISTS["contraries"]


@pytest.fixture(scope="module")
def rows():
    found = view("statements", size=32, pictures=12)
    return [found[index] for index in range(400)]


def test_a_statement_is_true_and_its_contrary_is_not(rows):
    for row in rows:
        assert len(row["stated"]) == 2
        assert set(row["stated"]) <= set(row["facts"])
        assert not set(row["denied"]) <= set(row["facts"])
        assert row["statement"] == ", ".join(row["stated"])
        assert row["contrary"] == ", ".join(row["denied"])


def test_facts_are_those_of_the_scene():
    found = view("statements", size=32, pictures=12)
    for index in range(40):
        scene, row = found.scene(index), found[index]
        things = list(enumerate(zip(row["objects"], scene.things, strict=True)))
        expected = {f"{COLOURS[scene.background]} background"}
        expected |= {f"{name} on {COLOURS[thing.tile]}" for _, (name, thing) in things}
        says = {"left": "left of", "right": "right of"}
        for i, (a, _) in things:
            for j, (b, _) in things:
                relation = scene.relation(i, j) if i != j else None
                if relation is not None:
                    expected.add(f"{a} {says.get(relation, relation)} {b}")
        assert len(row["facts"]) == len(expected) and set(row["facts"]) == expected


def test_contraries_take_turns_and_differ_as_they_say(rows):
    assert [row["kind"] for row in rows[:4]] == list(KINDS)
    for row in rows:
        if row["kind"] == "random":
            continue
        same = [a == b for a, b in zip(row["stated"], row["denied"], strict=True)]
        assert same.count(False) == 1, row
        before, after = row["stated"][same.index(False)], row["denied"][same.index(False)]
        if row["kind"] == "relation" and any(w in before for w in ("left", "right", "above")):
            assert before.split()[0] == after.split()[0]
        if row["kind"] == "colour" and "background" in before:
            assert after.endswith("background")
    relations = [row for row in rows if row["kind"] == "relation"]
    words = [
        template.split("{a}")[1].split("{b}")[0] for template in WORDS["en"].relations.values()
    ]
    swapped = [
        row
        for row in relations
        if any(word in fact for fact in set(row["stated"]) - set(row["denied"]) for word in words)
    ]
    assert len(swapped) > len(relations) / 4


def test_a_contrary_could_be_true_of_another_picture():
    """Of most that are drawn, one in a few thousand pictures shows it; of none a thing on two colours."""
    found = view("statements", size=32, pictures=6, objects=2)
    scenes = [set(found[index]["facts"]) for index in range(3000)]
    contraries = [set(found[index]["denied"]) for index in range(60)]
    shown = [any(denied <= facts for facts in scenes) for denied in contraries]
    assert sum(shown) > 0.8 * len(shown)


def test_of_a_statement_several_pictures_are_relevant_and_of_some_contraries_none(rows):
    facts = [set(row["facts"]) for row in rows]
    counts = [sum(set(row["stated"]) <= each for each in facts) for row in rows]
    assert min(counts) == 1 and 3 <= max(counts) <= 12
    none = [sum(set(row["denied"]) <= each for each in facts) for row in rows]
    assert 0.3 < none.count(0) / len(none) < 0.95


@pytest.mark.parametrize(
    "parameters",
    [
        {"tiles": 0, "objects": 1},
        {"tiles": 0},
        {"objects": 1},
        {"holdout": "objects", "pictures": 30},
        {"language": "zh"},
        {"contraries": "relation"},
        {"objects": "2-4", "pictures": 5},
        {"told": "tile", "pictures": 6},
        {"told": "relation,ground"},
    ],
)
def test_rows_can_be_drawn_whatever_the_parameters(parameters):
    found = view("statements", **parameters)
    for index in [*range(60), *range(20000, 20030), *range(21000, 21030)]:
        row = found[index]
        assert set(row["stated"]) <= set(row["facts"]) and row["stated"]
        assert not set(row["denied"]) <= set(row["facts"])


def test_facts_of_some_kinds_are_told_alone():
    found = view("statements", told="tile", pictures=6)
    assert all(" on " in fact for index in range(40) for fact in found[index]["facts"])
    with pytest.raises(PlaygroundError, match="add ground"):
        view("statements", told="tile", tiles=0)
    with pytest.raises(PlaygroundError, match="unknown 'sound'"):
        view("statements", told="sound")
