"""Which modality claims which column, by the largest guess."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sensorium.modalities.base import get_modality, is_missing, modality_names


def best(column, values):
    scores = {name: get_modality(name).guess(column, values) for name in modality_names()}
    assert all(0 <= score <= 1 for score in scores.values())
    name = max(scores, key=scores.get)
    return name if scores[name] > 0 else None


def png():
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


NOTES = [f"patient {n} came in with a cough" for n in range(40)]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("file_name", ["a.jpg", "b.PNG", None, "sub/c.webp"], "image"),
        ("photo", [Path("a.jpg"), Path("b.jpg")], "image"),
        ("photo", [["a.jpg", "b.jpg"], ["c.jpg"]], "image"),
        ("photo", [png(), png()], "image"),
        ("photo", [{"bytes": png(), "path": None}], "image"),
        ("photo", [{"bytes": None, "path": "a.jpg"}], "image"),
        ("photo", [PIL.Image.new("RGB", (3, 3))], "image"),
        ("photo", [np.zeros((9, 9, 3), np.uint8)], "image"),
        ("file_name", ["a.wav", "b.flac"], "audio"),
        ("sound", [{"array": [0.0], "sampling_rate": 8000}], "audio"),
        ("sound", [b"RIFF\0\0\0\0WAVEfmt "], "audio"),
        ("note", [Path("a.txt"), Path("b.md")], "text"),
        ("note", NOTES, "text"),
        ("note", ["猫在左边的图片", "一只红色的狗在右边", "他说明天会下雨的"], "text"),
        (
            "captions",
            [["a red cat on a mat", "the cat is red today"], ["two dogs run in a park"]],
            "text",
        ),
        ("name", [f"product{n}" for n in range(30)], "text"),
        ("diagnosis", ["benign", "malignant", "benign", "benign", "malignant", None], "category"),
        ("sentiment", ["very good", "very bad", "neutral"] * 20, "category"),
        ("smoker", [True, False, True], "category"),
        ("label", [0, 1, 1, 0, 1, 0, 0], "category"),
        ("code", ["007", "012", "007", "012"] * 5, "category"),
        ("price", [1.5, 2.25, None, 9.0], "number"),
        ("price", ["1.5", "2.25", "9"], "number"),
        ("age", list(range(20, 60)), "number"),
        ("tags", ["cat;dog", "dog", "cat;ant", "ant;dog", "cat"], "categories"),
        ("tags", [["cat", "dog"], ["dog", "ant"], ["cat", "ant", "dog"], []], "categories"),
        ("boxes", [[[0, 0, 0.5, 1], [0.1, 0.1, 0.2, 0.9]], []], "boxes"),
        ("boxes", ["[[10, 10, 60, 80]]"], "boxes"),
        ("phrases", [[[0, 4], [5, 9]], [[2, 7]]], "spans"),
        ("empty", [None, "", float("nan")], None),
        ("objects", [{"a": 1}, {"b": 2}], None),
    ],
)
def test_guess(column, values, expected):
    assert best(column, values) == expected


def test_missing():
    for value in (None, float("nan"), np.float32("nan"), "", "  ", np.datetime64("NaT")):
        assert is_missing(value)
    assert is_missing({"bytes": None, "path": None})
    for value in (0, False, "0", [], {}, {"bytes": b"a"}, {"age": None}):
        assert not is_missing(value)
