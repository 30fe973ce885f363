"""Schemas guessed from names and values."""

import json

import numpy as np
import pytest

from sensorium.data import open_data, read_batches
from sensorium.modalities.series import SeriesView
from sensorium.types import Schema

COLOURS = ["red", "green", "blue"]


def open_rows(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_data(path)


def roles(data):
    return {field.name: (field.modality, field.role) for field in data.schema}


@pytest.fixture
def scans(tmp_path, write_picture):
    for i in range(20):
        write_picture(tmp_path / "scans" / f"{i}.png", i)
    return tmp_path


def test_a_clinic(scans):
    data = open_rows(
        scans,
        [
            {
                "study": f"S{i:03}",
                "patient_id": f"P{i // 2}",
                "xray_path": f"scans/{i}.png",
                "report": f"The heart is {i} mm too large.",
                "age": 30.5 + i,
                "sex": "mf"[i % 2],
                "when": f"2024-01-{i + 1:02}",
                "smoker": i % 2,
                "scanner": "X1",
                "empty": None,
                "diagnosis": COLOURS[i % 3],
            }
            for i in range(20)
        ],
    )
    assert roles(data) == {
        "xray": ("image", "input"),
        "report": ("text", "input"),
        "scanner": ("category", "ignore"),
        "empty": ("text", "ignore"),
        "diagnosis": ("category", "label"),
        "study": ("text", "ignore"),
        "table": ("table", "input"),
    }
    assert data.schema["table"].columns == {
        "age": "number",
        "sex": "category",
        "when": "date",
        "smoker": "category",
    }
    assert data.schema.group == "patient_id"
    assert "same in all rows" in data.reasons["scanner"]
    assert "empty" in data.reasons["empty"]
    assert "label by its name" in data.reasons["diagnosis"]


def test_tables_that_rows_name_are_series_or_clouds(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.csv").write_text(f"time,a,b\n0,{i},1\n1,2,3\n2,4,{i}\n")
    rows = [{"ecg_file": f"{i}.csv", "cloud": f"{i}.csv", "label": "ab"[i % 2]} for i in range(12)]
    data = open_rows(tmp_path, rows)
    assert roles(data)["ecg"] == ("series", "input")
    assert roles(data)["cloud"] == ("points", "input")
    fitted = data.fit()
    (batch,) = read_batches(fitted, np.arange(12), {"ecg": SeriesView(length=4)}, batch_size=12)
    assert len(batch["ecg"]) == 12


def test_pairs(scans):
    data = open_rows(
        scans, [{"file_name": f"scans/{i}.png", "caption": f"a thing {i}"} for i in range(20)]
    )
    assert roles(data) == {"image": ("image", "query"), "caption": ("text", "target")}
    assert data.schema.key == "file_name"
    assert data.schema.group is None


def test_a_picture_in_several_rows_groups_them(scans):
    data = open_rows(
        scans, [{"image": f"scans/{i // 2}.png", "caption": f"a thing {i}"} for i in range(20)]
    )
    assert data.schema.group == "image"
    assert roles(data)["image"] == ("image", "query")
    groups = data.groups(data.rows("all"))
    assert (groups[::2] == groups[1::2]).all()
    assert len(set(groups)) == 10
    same = data.identities("image", data.rows("all"))
    assert (same[::2] == same[1::2]).all()
    assert len(set(same)) == 10


def test_questions(scans):
    data = open_rows(
        scans,
        [
            {
                "image": f"scans/{i // 2}.png",
                "question": f"What colour has thing {i}?",
                "answer": COLOURS[i % 3],
                "question_type": ["colour", "count"][i % 2],
            }
            for i in range(20)
        ],
    )
    assert roles(data) == {
        "image": ("image", "input"),
        "question": ("text", "question"),
        "answer": ("category", "answer"),
        "question_type": ("category", "group"),
    }


def test_two_texts_and_a_number_to_predict(tmp_path):
    texts = [{"title": f"a title {i}", "body": f"a longer body {i}"} for i in range(20)]
    assert roles(open_rows(tmp_path, texts)) == {
        "title": ("text", "query"),
        "body": ("text", "target"),
    }
    priced = [{**row, "price": 1.37 * i} for i, row in enumerate(texts)]
    assert roles(open_rows(tmp_path, priced)) == {
        "title": ("text", "input"),
        "body": ("text", "input"),
        "price": ("number", "label"),
    }


def test_the_surest_name_is_the_label(tmp_path):
    rows = [{"text": f"words {i}", "category": i % 3, "label": i % 2} for i in range(20)]
    data = open_rows(tmp_path, rows)
    assert data.schema["label"].role == "label"
    assert data.schema["category"].role == "input"


def test_boxes_of_the_picture(scans):
    rows = [
        {"image": f"scans/{i}.png", "bbox": [[5.0, 5, 3, 4], [1, 2, i + 3, 7]], "kind": ["a", "b"]}
        for i in range(20)
    ]
    data = open_rows(scans, rows)
    assert data.schema["bbox"].of == "image"
    assert data.schema["bbox"].options == {"unit": "pixel", "format": "xywh"}
    assert (data.schema["kind"].modality, data.schema["kind"].of) == ("category", "bbox")


def test_a_split_column(tmp_path):
    rows = [
        {"text": f"words {i}", "y": i % 2, "split": ["train", "test"][i > 15]} for i in range(20)
    ]
    data = open_rows(tmp_path, rows)
    assert data.schema.split == "split"
    assert "split" not in data.schema
    assert data.rows("test").tolist() == [16, 17, 18, 19]


def test_text_files_named_in_a_column(tmp_path, views):
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(f"words {i}")
    rows = [{"note_file": f"{i}.txt", "label": i % 2} for i in range(6)]
    data = open_rows(tmp_path, rows).fit()
    assert data.schema["note"].options == {"path": True}
    assert data.sample(2, views(data.schema)).values["note"] == ["words 2"]


def test_a_guess_is_the_same_each_time_and_survives_a_file(scans):
    rows = [{"image": f"scans/{i}.png", "caption": f"thing {i}", "x": i / 3} for i in range(20)]
    data = open_rows(scans, rows)
    assert open_data(scans / "rows.jsonl").schema == data.schema
    data.schema.save(scans / "schema.yaml")
    assert Schema.load(scans / "schema.yaml") == data.schema
    again = open_data(scans / "rows.jsonl", schema=scans / "schema.yaml")
    assert again.version == data.version
    assert all((again.splits[split] == rows).all() for split, rows in data.splits.items())


def test_only_a_sample_is_looked_at(tmp_path):
    data = open_rows(
        tmp_path, [{"text": f"words {i}", "n": float(np.sqrt(i))} for i in range(3000)]
    )
    assert roles(data) == {"text": ("text", "input"), "table": ("table", "input")}
