"""The view `graphs`: true of the scene, and answered by the edges alone."""

from collections import Counter

import numpy as np
import pytest
from looking import relation_of_boxes
from test_playground_views import digest

from sensorium.playground import view
from sensorium.playground.words import WORDS
from sensorium.playground.world import OPPOSITE, RELATIONS

# These may change only together with `VERSION` in playground/base.py.
DIGESTS = {
    "en": "1fe0ff5f5d0c6d98a85f4802c51b694533b41d9efecc36bf0e7fc1e2f29e51d6",
    "mixed": "86d3e5df7842475552f546c0e9740538862e55f11f633b043cdb5f4de00d07f5",
}


@pytest.mark.parametrize(
    ("language", "parameters"), [("en", {}), ("mixed", {"seed": 3, "objects": "2-9", "size": 96})]
)
def test_rows_have_the_same_bytes_everywhere(language, parameters):
    rows = view("graphs", train=50, validation=10, test=20, language=language, **parameters)
    found = digest([rows[index] for index in [*range(12), *range(50, 54), *range(60, 72)]])
    assert found == DIGESTS[language]


def test_edges_are_true_of_the_boxes_and_complete():
    rows = view("graphs", objects="2-5")
    kinds, flipped = Counter(), 0
    for index in range(150):
        row, scene = rows[index], rows.scene(index)
        boxes, told = scene.boxes(), set()
        for edge in row["graph"]["edges"]:
            ends = (edge["source"], edge["target"])
            assert relation_of_boxes(boxes[ends[0]], boxes[ends[1]]) == edge["type"]
            told.add(frozenset(ends))
            kinds[edge["type"]] += 1
            flipped += ends[0] > ends[1]
        numbers = range(len(scene.things))
        clear = {frozenset((a, b)) for a in numbers for b in numbers if scene.relation(a, b)}
        assert told == clear
        names = [node["name"] for node in row["graph"]["nodes"]]
        assert names == row["objects"] and len(set(names)) == len(scene.things)
        assert [node["side"] for node in row["graph"]["nodes"]] == [t.side for t in scene.things]
    assert set(kinds) == set(RELATIONS)
    assert 0.4 < flipped / sum(kinds.values()) < 0.6


def test_the_answer_is_read_from_the_edge_between_the_two_that_are_asked():
    rows, labels, same = view("graphs"), Counter(), 0
    for index in range(400):
        row = rows[index]
        asked = {node["asked"]: node["id"] for node in row["graph"]["nodes"] if node["asked"]}
        assert set(asked) == {1, -1}
        (edge,) = [
            edge
            for edge in row["graph"]["edges"]
            if {edge["source"], edge["target"]} == set(asked.values())
        ]
        is_first = edge["source"] == asked[1]
        assert (edge["type"] if is_first else OPPOSITE[edge["type"]]) == row["label"]
        same += edge["type"] == row["label"]
        labels[row["label"]] += 1
    assert labels == dict.fromkeys(RELATIONS, 100)
    assert 150 < same < 250  # without its direction an edge leaves two answers


def test_nodes_alone_tell_nothing():
    rows = view("graphs", train=1200)
    sizes = {label: [] for label in RELATIONS}
    for index in range(1200):
        nodes = rows[index]["graph"]["nodes"]
        place = next(node["id"] for node in nodes if node["asked"] == 1)
        sizes[rows[index]["label"]].append((nodes[place]["side"], place, len(nodes)))
    means = np.array([np.mean(found, axis=0) for found in sizes.values()])
    assert np.ptp(means[:, 0]) < 1.5 and np.ptp(means[:, 1:], axis=0).max() < 0.35


def test_languages_name_the_same_things():
    english, german = view("graphs"), view("graphs", language="de")
    for index in range(20):
        assert german[index]["label"] == WORDS["de"].answer(english[index]["label"])
        assert german[index]["graph"]["edges"] == english[index]["graph"]["edges"]
        assert np.array_equal(german[index]["image"], english[index]["image"])
