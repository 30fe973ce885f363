import numpy as np
import pytest
import torch

from sensorium.modalities.boxes import MAX_PER_ROW, Boxes, Spans
from sensorium.types import BadValue, Field

FIELD = Field(name="boxes", modality="boxes", of="image")
SPANS = Field(name="phrases", modality="spans", of="caption")


def boxes(raw, **options):
    field = FIELD.replace(options=options)
    kind = Boxes()
    return [kind.decode(entry, field, kind.View()).tolist() for entry in kind.entries(raw, field)]


@pytest.mark.parametrize(
    "raw",
    [
        [[0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.5]],
        np.array([[0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.5]]),
        "[[0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.5]]",
        ([0, 0, 0.5, 1], (0.25, 0.25, 0.75, 0.5)),
    ],
)
def test_each_box_is_an_entry(raw):
    assert boxes(raw) == [[0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.5]]


def test_one_box_and_none():
    assert boxes([0, 0, 1, 1]) == [[0, 0, 1, 1]]
    assert boxes([]) == boxes(None) == boxes("") == boxes("[]") == []
    assert boxes(np.zeros((0, 4))) == []


def test_rounding_over_the_edge_is_clipped():
    assert boxes([[-0.01, 0, 1.01, 1]]) == [[0, 0, 1, 1]]


def test_formats_and_units():
    assert boxes([[0.5, 0.25, 0.25, 0.5]], format="xywh") == [[0.5, 0.25, 0.75, 0.75]]
    assert boxes([[10, 20, 30, 60]], unit="pixel") == [
        [10, 20, 30, 60]
    ]  # until the picture is known


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([[0.5, 0, 0.5, 1]], "no area"),
        ([[0.6, 0, 0.5, 1]], "no area"),
        ([[0, 0, 0.5, float("nan")]], "finite"),
        ([[0, 0, 0.5]], "4 finite numbers"),
        ([["a", 0, 0, 0]], "4 finite numbers"),
        ([[0, 0, 20, 30]], "out of the picture"),
        ([[1.005, 0, 1.01, 1]], "edge"),
        ("[[0, 0", "JSON"),
        ("none", "expected a list"),
        ([[0, 0, 1, 1]] * (MAX_PER_ROW + 1), "more than"),
    ],
)
def test_bad_boxes(raw, reason):
    with pytest.raises(BadValue, match=f"field 'boxes'.*{reason}"):
        boxes(raw)


def test_spans():
    kind = Spans()
    raw = [[0, 3], [4, 9], [0, 0]]
    decoded = [kind.decode(entry, SPANS, None) for entry in kind.entries(raw, SPANS)]
    values, mask = kind.collate(decoded, SPANS, None)
    assert values.tolist() == raw
    assert values.dtype == torch.int64
    assert mask is None
    assert kind.show(decoded[1], SPANS) == "4-9"


@pytest.mark.parametrize("raw", [[3, 3], [5, 2], [-1, 2], [0.5, 2], [1, 2, 3], "ab"])
def test_bad_spans(raw):
    with pytest.raises(BadValue, match="phrases"):
        Spans().decode(raw, SPANS, None)


def test_collate_boxes():
    kind = Boxes()
    decoded = [kind.decode(box, FIELD, None) for box in ([0, 0, 1, 1], [0, 0, 0.5, 1])]
    values, mask = kind.collate(decoded, FIELD, None)
    assert values.shape == (2, 4)
    assert values.dtype == torch.float32
    assert mask is None
    assert kind.show(decoded[1], FIELD) == "(0, 0, 0.5, 1)"
