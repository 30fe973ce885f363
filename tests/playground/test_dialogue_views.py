"""Dialogues, albums and presence: what is said is true, and can only be known by looking."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from looking import relation_of_boxes

from sensorium.data import open_data
from sensorium.modalities.base import get_modality
from sensorium.modalities.conversation import ConversationView
from sensorium.modalities.text import Tokenizer
from sensorium.playground import PlaygroundError, view
from sensorium.playground.albums import NAMES
from sensorium.playground.pictures import name
from sensorium.playground.world import COLOURS, SHADES


def colour_of(pixels):
    """The colour of the ground, from the corners."""
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    ground = Counter(map(tuple, corners)).most_common(1)[0][0]
    return COLOURS[np.abs(np.array(SHADES) - ground).max(1).argmin()]


def asked_and_answered(row):
    said = [turn["content"].removeprefix("<image>\n") for turn in row["messages"]]
    return list(zip(said[::2], said[1::2], strict=True))


# --- dialogues ---------------------------------------------------------------------------------


def true_answer(question, row, scene):
    """What is right by the picture and the boxes; None for a description."""
    names = row["objects"]
    if question == "how many things?":
        return str(len(names))
    if question == "what colour is the background?":
        return colour_of(row["image"])
    if found := re.fullmatch(r"is there (any|no) (.+)\?", question):
        return "yes" if (found[2] in names) == (found[1] == "any") else "no"
    if found := re.fullmatch(r"where is (.+) seen from (.+)\?", question):
        boxes = scene.boxes()
        return relation_of_boxes(*(boxes[names.index(found[i])] for i in (1, 2)))
    assert question == "describe the picture."
    return None


def test_every_answer_of_a_dialogue_is_true():
    rows = view("dialogues")
    kinds = Counter()
    for index in range(400):
        row = rows[index]
        exchanges = asked_and_answered(row)
        assert row["messages"][0]["content"].startswith("<image>\n")
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * len(exchanges)
        scene = rows.scene(index)
        for question, answer in exchanges:
            expected = true_answer(question, row, scene)
            if expected is None:
                assert all(thing in answer for thing in row["objects"])
            else:
                assert answer == expected
        kinds[len(exchanges)] += 1
    assert set(kinds) == {1, 2, 3, 4} and min(kinds.values()) > 20


def test_the_last_answers_are_balanced():
    rows = view("dialogues")
    answers = defaultdict(Counter)
    for index in range(960):
        row = rows[index]
        answers[row["kind"]][row["messages"][-1]["content"]] += 1
    assert set(answers) == {"exists", "negation", "colour", "count", "relation", "description"}
    for kind in ("exists", "negation", "colour", "count", "relation"):
        counts = answers[kind].values()
        assert max(counts) - min(counts) <= 2


def kind_of(question):
    kinds = {"how many": "count", "what colour": "colour", "is there any": "exists"}
    kinds |= {"is there no": "negation", "where is": "relation", "describe": "description"}
    return next(kind for start, kind in kinds.items() if question.startswith(start))


def things_in(question):
    found = re.fullmatch(r"is there (?:any|no) (.+)\?|where is (.+) seen from (.+)\?", question)
    return [thing for thing in found.groups() if thing] if found else []


def test_the_last_answer_does_not_stand_in_what_was_said_before():
    """No kind twice, no thing twice, and what was said is the same for every last answer."""
    rows = view("dialogues", turns="2-4")
    patterns = defaultdict(Counter)
    for index in range(1800):
        row = rows[index]
        *before, (question, answer) = asked_and_answered(row)
        kinds = [kind_of(q) for q, _ in before]
        assert len(set(kinds)) == len(kinds) and row["kind"] not in kinds
        assert "description" not in kinds
        if row["kind"] != "description":
            named = [thing for q in (question, *(q for q, _ in before)) for thing in things_in(q)]
            assert len(set(named)) == len(named)
            told = [thing for q, _ in before for thing in things_in(q) if thing in row["objects"]]
            assert len(told) <= 2
            for pattern in {*kinds, f"{len(kinds)} before"}:
                patterns[row["kind"], answer][pattern] += 1
    for kind in ("exists", "negation", "count", "relation"):
        shares = [
            {p: c / sum(v for k, v in counts.items() if "before" in k) for p, c in counts.items()}
            for (k, _), counts in patterns.items()
            if k == kind
        ]
        for one, other in pairwise(shares):
            for pattern in one | other:
                assert abs(one.get(pattern, 0) - other.get(pattern, 0)) < 0.2, (kind, pattern)


def test_tiles_are_told_apart_in_dialogues():
    rows = view("dialogues", tiles=1, turns=4)
    found = 0
    for index in range(200):
        row, scene = rows[index], rows.scene(index)
        tiles = {name(thing.picture): COLOURS[thing.tile] for thing in scene.things}
        for question, answer in asked_and_answered(row):
            if match := re.fullmatch(r"what colour is under (.+)\?", question):
                assert answer == tiles[match[1]]
                found += 1
    assert found > 60


@pytest.mark.parametrize("name", ["dialogues", "albums"])
def test_conversations_are_read_as_such(name):
    data = open_data(f"playground:{name}?train=40&validation=5&test=5&language=mixed&size=32")
    tokenizer = Tokenizer.train(data.texts(40), 500)
    views = {
        "image": get_modality("image").View(size=32),
        "conversation": ConversationView(tokenizer=tokenizer, media=("image",)),
    }
    samples, faults = data.read(data.rows("train"), views)
    assert not faults
    batch = data.collate(samples, views)
    ids = batch["conversation"].values[..., 0]
    per_row = (ids == -1).sum(1)
    assert (per_row == batch["image"].counts(40)).all()
    assert (per_row == (1 if name == "dialogues" else 6)).all()


# --- albums ------------------------------------------------------------------------------------


def test_answers_about_albums_are_true():
    rows = view("albums")
    numbers, kinds, colours = Counter(), Counter(), Counter()
    for index in range(256):
        row = rows[index]
        prompt, answer = (turn["content"] for turn in row["messages"])
        *lines, question = prompt.split("\n")
        assert len(lines) == len(row["image"]) == 6
        authors = [re.fullmatch(rf"{i} (\w+ \w+) <image>", x)[1] for i, x in enumerate(lines, 1)]
        assert len(set(authors)) == 6
        number = int(re.search(r"picture (\d+)\?", question)[1])
        assert number == row["number"] and answer == row["answer"]
        scene = rows.scenes(index)[number - 1]
        if row["kind"] == "text":
            assert question.startswith("who") and answer == authors[number - 1]
        else:
            thing, colour = answer.split(" on ")
            assert thing == name(scene.things[0].picture)
            assert colour == colour_of(row["image"][number - 1])
            colours[colour] += 1
        assert len(answer.split()) in (2, 3)
        numbers[number] += 1
        kinds[row["kind"]] += 1
        for pixels, shown in zip(row["image"], rows.scenes(index), strict=True):
            assert np.array_equal(pixels, shown.image())
    assert kinds["image"] == kinds["text"] == 128
    assert set(colours.values()) == {16} and len(colours) == 8
    assert min(numbers.values()) > 20 and set(numbers) == set(range(1, 7))


def test_several_questions_about_an_album_are_true_and_none_comes_twice():
    once, rows = view("albums", images=3), view("albums", images=3, turns="2-4")
    lengths = Counter()
    for index in range(60):
        row, scenes = rows[index], rows.scenes(index)
        said = [turn["content"] for turn in row["messages"]]
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * (
            len(said) // 2
        )
        *lines, first = said[0].split("\n")
        authors = [re.fullmatch(rf"{i} (\w+ \w+) <image>", x)[1] for i, x in enumerate(lines, 1)]
        questions = [first, *said[2::2]]
        assert len(set(questions)) == len(questions)
        for question, answer in zip(questions, said[1::2], strict=True):
            at = int(re.search(r"picture (\d+)\?", question)[1]) - 1
            thing = f"{name(scenes[at].things[0].picture)} on {COLOURS[scenes[at].background]}"
            assert answer == (authors[at] if question.startswith("who") else thing)
        # the last is the one that is asked where there is one, of the same pictures
        assert said[-1] == once[index]["answer"] == row["answer"]
        assert lines == once[index]["messages"][0]["content"].split("\n")[:-1]
        lengths[len(questions)] += 1
    assert set(lengths) == {2, 3, 4}
    with pytest.raises(PlaygroundError, match=r"turns.*7 questions.*at most 6"):
        view("albums", images=3, turns=7)


def test_each_name_is_right_equally_often():
    rows = view("albums", images=2, train=2 * NAMES)
    told = Counter(rows[index]["answer"] for index in range(1, 2 * NAMES, 2))
    assert len(told) == NAMES and set(told.values()) == {1}


def test_the_other_pictures_do_not_tell_the_answer():
    """The colour that is asked for is no likelier elsewhere in the album than any other."""
    rows = view("albums")
    same = [
        scene.background == scenes[row["number"] - 1].background
        for row, scenes in ((rows[i], rows.scenes(i)) for i in range(0, 400, 2))
        for at, scene in enumerate(scenes)
        if at != row["number"] - 1
    ]
    assert 0.09 < np.mean(same) < 0.16


def test_albums_of_sixty_pictures_make_long_prompts_of_little_text():
    data = open_data("playground:albums?images=60&train=60&validation=2&test=2")
    tokenizer = Tokenizer.train(data.texts(60), 1000)
    views = {"conversation": ConversationView(tokenizer=tokenizer, media=("image",))}
    view_of_images = {"image": get_modality("image").View(size=32)}
    samples, faults = data.read(data.rows("test"), views | view_of_images)
    assert not faults
    batch = data.collate(samples, views)
    entries = batch["conversation"]
    text = ((entries.values[..., 0] >= 0) & entries.mask).sum(1)
    assert (text < 0.1 * (text + 60 * 64)).all()
    assert (text + 60 * 64 > 4000).all()


def test_splits_of_albums_share_no_picture_on_the_same_ground():
    rows = view("albums", train=150, validation=150, test=150)
    found = []
    for split in ("train", "validation", "test"):
        scenes = [s for i in rows.split_indices(split) for s in rows.scenes(int(i))]
        found.append({(scene.things[0].picture, scene.background) for scene in scenes})
    train, validation, test = found
    assert not train & test and not train & validation and not validation & test
    assert min(map(len, found)) > 20


def test_albums_with_too_few_pictures():
    with pytest.raises(PlaygroundError, match="larger number of pictures"):
        view("albums", pictures=1)[0]
    with pytest.raises(PlaygroundError, match="not from 1 to 60"):
        view("albums", images=61)


# --- presence ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def presence():
    rows = view("presence")
    return rows, [rows[index] for index in range(600)]


def test_answers_about_presence_are_true_and_balanced(presence):
    rows, found = presence
    counts = Counter()
    for index, row in enumerate(found):
        asked = re.fullmatch(r"is there any (.+)\?", row["question"])[1]
        assert (asked in row["objects"]) == (row["answer"] == "yes")
        assert all(thing in row["caption"] for thing in row["objects"])
        counts[row["kind"], row["answer"]] += 1
        shown = {thing.picture for thing in rows.scene(index).things}
        if row["answer"] == "no" and row["kind"] == "popular":
            assert asked in {name(picture) for picture in rows.popular("train")}
        if row["answer"] == "no" and row["kind"] == "adversarial":
            companions = {rows.companion("train", picture) for picture in shown}
            assert asked in {name(picture) for picture in companions if picture is not None}
    assert set(counts.values()) == {100} and len(counts) == 6


def test_some_things_are_common_and_some_go_together(presence):
    rows, _ = presence
    popular = set(rows.popular("train"))
    seen, together, number = Counter(), 0, 0
    for index in range(600):
        shown = {thing.picture for thing in rows.scene(index).things}
        seen.update(shown)
        together += sum(rows.companion("train", picture) in shown for picture in shown)
        number += len(shown)
    assert len(popular) == 20
    assert sum(seen[picture] for picture in popular) / number > 0.35
    assert together / number > 0.3  # by chance it would be about 0.02


def test_habits_mislead_in_the_second_and_third_kind(presence):
    """Who says yes to what is common, or goes with what is there, does worst there."""
    rows, found = presence
    popular = {name(picture) for picture in rows.popular("train")}
    companion = {name(p): name(rows.companion("train", p)) for p in range(200)}
    common, usual = defaultdict(list), defaultdict(list)
    for row in found:
        asked = row["question"].removeprefix("is there any ").removesuffix("?")
        is_right = row["answer"] == "yes"
        common[row["kind"]].append((asked in popular) == is_right)
        others = {companion[thing] for thing in row["objects"] if thing != asked}
        usual[row["kind"]].append((asked in others) == is_right)
    assert np.mean(common["random"]) > 0.6 > 0.3 > np.mean(common["popular"])
    assert np.mean(usual["random"]) > 0.6 > 0.3 > np.mean(usual["adversarial"])


def test_habits_are_those_of_the_split():
    rows = view("presence", holdout="objects", pictures=100)
    splits = ("train", "validation", "test")
    popular = [set(rows.popular(split)) for split in splits]
    assert not popular[0] & popular[1] and not popular[0] & popular[2]
    for split, often in zip(splits, popular, strict=True):
        shown = [
            thing.picture
            for index in rows.split_indices(split)[:60]
            for thing in rows.scene(int(index)).things
        ]
        assert np.mean([picture in often for picture in shown]) > 0.35
        assert any(rows.companion(split, picture) in shown for picture in shown)


def test_too_few_pictures_to_miss_one():
    with pytest.raises(PlaygroundError, match="larger number of pictures"):
        view("presence", pictures=3, objects=3)[0]
