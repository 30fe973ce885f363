"""The views that ask for something: regions, questions, attributes, sounds."""

import re
from collections import Counter
from datetime import date

import numpy as np
import pytest
from looking import relation_of_boxes

from sensorium.playground import PlaygroundError, view
from sensorium.playground.pictures import pictures
from sensorium.playground.synthesis import MOTIF, glide, mixture, motif
from sensorium.playground.words import WORDS
from sensorium.playground.world import COLOURS, SHADES


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def test_proposals_overlap_their_thing_by_half_to_four_fifths():
    rows = view("regions", jitter=3)
    overlaps = []
    for index in range(100):
        row = rows[index]
        groups = row["regions"].reshape(-1, 4, 4)
        assert np.allclose(groups[:, 0], row["boxes"])
        assert row["region_class"] == [each for each in row["objects"] for _ in range(4)]
        assert row["regions"].dtype == np.float32
        assert (row["regions"] >= 0).all() and (row["regions"] <= 1).all()
        assert 4 <= len(row["objects"]) <= 6
        overlaps += [iou(g[0], g[k]) for g in groups.astype(np.float64) for k in (1, 2, 3)]
    assert min(overlaps) > 0.499 and max(overlaps) < 0.801
    assert np.quantile(overlaps, 0.75) - np.quantile(overlaps, 0.25) > 0.08


@pytest.mark.parametrize(
    "parameters",
    [{}, {"caption": "short", "tiles": 1}, {"holdout": "objects"}, {"objects": "4", "size": 64}],
)
def test_test_scenes_come_in_groups_that_differ_in_one_thing(parameters):
    rows = view("regions", test=200, **parameters)
    changes = Counter()
    test = rows.split_indices("test")
    for start in range(0, 200, 10):
        group = [rows[int(index)] for index in test[start : start + 10]]
        assert {row["group"] for row in group} == {int(test[start])}
        assert len({row["caption"] for row in group}) == 10
        base = rows.scene(int(test[start]))
        for index in test[start + 1 : start + 10]:
            scene = rows.scene(int(index))
            assert scene.tidy()
            pictures_differ = [
                a.picture != b.picture for a, b in zip(scene.things, base.things, strict=True)
            ]
            sizes = [a.big != b.big for a, b in zip(scene.things, base.things, strict=True)]
            tiles = [a.tile != b.tile for a, b in zip(scene.things, base.things, strict=True)]
            moved = [
                abs(a.left + a.right - b.left - b.right) > 2
                or abs(a.top + a.bottom - b.top - b.bottom) > 2
                for a, b in zip(scene.things, base.things, strict=True)
            ]
            found = {
                "picture": sum(pictures_differ),
                "size": sum(sizes),
                "tile": sum(tiles),
                "places": sum(moved) // 2,
                "ground": int(scene.background != base.background),
            }
            assert sum(found.values()) == 1, found
            changes += Counter(found)
    ways = {"picture", "places"}
    ways |= {"tile"} if parameters.get("tiles") else {"ground", "size"}
    assert set(changes) == ways
    assert min(changes.values()) >= 15
    train = [rows[index]["group"] for index in range(50)]
    assert len(set(train)) == 50


def answer_by_looking(row, scene, kind):
    """The answer in English, from the question's words, the boxes and the pixels."""
    objects = row["objects"]
    if kind in ("exists", "negation"):
        asked = re.match(r"is there (?:any|no) (.*)\?", row["question"])[1]
        return "yes" if (asked in objects) == (kind == "exists") else "no"
    if kind == "count":
        return str(len(scene.things))
    if kind == "colour":
        spot = (0, 0)
        if asked := re.match(r"what colour is under (.*)\?", row["question"]):
            left, top, _, _ = scene.things[objects.index(asked[1])].ground(2)
            spot = (top, left)
        distance = np.abs(np.array(SHADES) - row["image"][spot].astype(int)).sum(axis=1)
        return COLOURS[distance.argmin()]
    one, other = re.match(r"where is (.*) seen from (.*)\?", row["question"]).groups()
    boxes = scene.boxes()
    return relation_of_boxes(boxes[objects.index(one)], boxes[objects.index(other)])


@pytest.mark.parametrize("tiles", [0, 1])
def test_answers_are_right_and_balanced(tiles):
    rows = view("questions", train=480, test=0, validation=0, tiles=tiles)
    answers: dict[str, Counter[str]] = {}
    for index in range(480):
        row, scene = rows[index], rows.scene(index)
        assert row["answer"] == answer_by_looking(row, scene, row["kind"]), row["question"]
        answers.setdefault(row["kind"], Counter())[row["answer"]] += 1
        if row["kind"] == "colour":
            assert not any(pictures()[thing.picture].colour_word for thing in scene.things)
    assert set(answers) == {"exists", "negation", "count", "colour", "relation"}
    for counts in answers.values():
        assert max(counts.values()) - min(counts.values()) <= 1
    assert answers["count"].keys() == {"2", "3", "4"} and len(answers["colour"]) == 8


def test_the_boxes_of_what_is_asked_are_known():
    rows = view("questions", objects="2-4", tiles=1)
    for index in range(100):
        row, scene = rows[index], rows.scene(index)
        named = [n for n in row["objects"] if re.search(rf"\b{n}s?\b", row["question"])]
        boxes = scene.boxes()[[row["objects"].index(name) for name in named]]
        assert np.array_equal(row["asked"], boxes)
        absent = row["kind"] in ("exists", "negation") and row["answer"] != (
            "yes" if row["kind"] == "exists" else "no"
        )
        assert (len(row["asked"]) == 0) == (row["kind"] == "count" or absent)


def test_fewer_kinds_of_questions_take_turns():
    rows = view("questions", kinds="relation,colour", tiles=1)
    assert [rows[index]["kind"] for index in range(4)] == ["colour", "relation"] * 2
    assert "kinds=colour,relation" in repr(rows)
    assert repr(view("questions", kinds="relation,count,exists,negation,colour")) == repr(
        view("questions")
    )
    with pytest.raises(PlaygroundError, match="more objects than 2"):
        view("questions", kinds="count", objects=2)
    with pytest.raises(PlaygroundError, match="unknown 'color'.*colour"):
        view("questions", kinds="color")


def test_questions_mean_the_same_in_every_language():
    english = view("questions")
    for language in ("de", "id", "zh"):
        rows = view("questions", language=language)
        for index in range(40):
            row, other = english[index], rows[index]
            assert other["kind"] == row["kind"]
            assert other["answer"] == WORDS[language].answer(row["answer"])
            assert np.array_equal(other["image"], row["image"])
            assert other["question"] != row["question"]


def evidence(row):
    """What each modality says of the three facts, 0.5 where it says nothing."""
    distance = np.abs(np.array(SHADES) - row["image"][0, 0].astype(int)).sum(axis=1)
    warm = COLOURS[distance.argmin()] in ("red", "orange", "yellow")
    weight, area = row["weight"], row["area"]
    heavy = weight > 20 if weight is not None else area > 200
    sound = row["sound"]["array"].astype(float)
    crossings = [np.diff(np.sign(part) > 0).sum() for part in (sound[:3000], sound[3000:6000])]
    return warm, heavy, crossings[1] > crossings[0], np.abs(sound).max() > 4000


def test_the_label_needs_all_three_modalities():
    rows = view("attributes", train=800, validation=0, test=0)
    hints = Counter()
    for index in range(800):
        row = rows[index]
        warm, heavy, rising, loud = evidence(row)
        expected = (
            f"{'warm' if warm else 'cold'} {'heavy' if heavy else 'light'} "
            f"{'rising' if rising else 'falling'}"
        )
        assert row["label"] == expected
        big = {thing.big for thing in rows.scene(index).things}
        assert len(big) == 1
        hints["loud"] += loud == warm
        hints["big"] += big.pop() == heavy
        if row["material"] is not None:
            hints["material"] += (row["material"] in ("wood", "wool", "paper")) == rising
            hints["known"] += 1
    assert Counter(rows[i]["label"] for i in range(800)).most_common()[-1][1] == 100
    assert 0.7 < hints["loud"] / 800 < 0.8 and 0.7 < hints["big"] / 800 < 0.8
    assert 0.7 < hints["material"] / hints["known"] < 0.8


def test_cells_are_missing_as_often_as_asked_and_labels_as_noisy():
    rows = view("attributes", missing=20, noise=40)
    sample = [rows[index] for index in range(400)]
    for column in ("weight", "price", "material", "place", "day"):
        share = np.mean([row[column] is None for row in sample])
        assert 0.12 < share < 0.28
    assert all(row["weight"] is not None or row["area"] is not None for row in sample)
    days = [date.fromisoformat(row["day"]) for row in sample if row["day"]]
    assert min(days).year == 2020 and max(days).year == 2023
    clean = view("attributes")
    agreed = np.mean([row["label"] == clean[i]["label"] for i, row in enumerate(sample)])
    assert 0.58 < agreed < 0.72  # 0.6 kept and an eighth of the rest
    full = view("attributes", missing=0)
    assert all(full[i][c] is not None for i in range(50) for c in ("area", "price", "day"))


def test_the_majority_of_three_facts():
    rows = view("majority", noise=0)
    for index in range(100):
        row = rows[index]
        warm, heavy, rising, _ = evidence(row)
        assert row["label"] == ("plus" if warm + heavy + rising >= 2 else "minus")
    assert Counter(rows[i]["label"] for i in range(80)) == {"plus": 40, "minus": 40}
    noisy = view("majority")
    wrong = np.mean([noisy[i]["label"] != rows[i]["label"] for i in range(800)])
    assert 0.06 < wrong < 0.14
    assert [field["name"] for field in rows.fields] == ["image", "table", "sound", "label"]


def test_value_adds_up():
    rows = view("attributes", missing=0)
    for index in range(100):
        row = rows[index]
        rest = row["value"] - row["weight"] - 10 * ("warm" in row["label"])
        assert -1e-6 <= rest - 5 * ("rising" in row["label"]) <= 1 + 1e-6


def test_a_picture_always_sounds_the_same():
    rows = view("sounds", objects=1, pictures=8, train=100)
    heard: dict[str, set[bytes]] = {}
    for index in range(100):
        row = rows[index]
        sound = row["sound"]["array"]
        assert sound.dtype == np.int16 and sound.shape == (8000,)
        assert row["sound"]["sampling_rate"] == 16000
        heard.setdefault(row["objects"][0], set()).add(sound.tobytes())
    assert len(heard) == 8
    assert all(len(sounds) == 1 for sounds in heard.values())
    assert len(set.union(*heard.values())) == 8


def test_scenes_are_heard_from_left_to_right():
    rows = view("sounds", objects=2)
    for index in range(50):
        row, scene = rows[index], rows.scene(index)
        sound = row["sound"]["array"]
        centres = [thing.left + thing.right for thing in scene.things]
        if centres[0] != centres[1]:
            first, second = (scene.things[place].picture for place in np.argsort(centres))
            assert np.array_equal(sound[:MOTIF], motif(first))
            assert np.array_equal(sound[MOTIF:], motif(second))


def test_motifs_differ_and_do_not_clip():
    loudest = max(int(np.abs(motif(picture).astype(int)).max()) for picture in range(200))
    assert loudest <= 7000
    assert len({motif(picture).tobytes() for picture in range(200)}) == 200
    assert np.abs(mixture([1, 2, 3, 4]).astype(int)).max() < 32767
    rising, falling = glide(3, True, 100), glide(3, False, 100)
    assert not np.array_equal(rising, falling)
    assert np.abs(glide(3, True, 25)).max() * 3 < np.abs(rising).max()
