"""Inspection: what is counted, what is found in two splits, what is drawn."""

import json
from dataclasses import asdict

import numpy as np
import PIL.Image
import pytest

from sensorium.data import contact_sheet, inspect_data, open_data
from sensorium.types import UserError


@pytest.fixture
def album(tmp_path, write_picture):
    """Twenty rows: two pictures are copies in another split, one is damaged, a caption is missing."""
    rows = []
    for i in range(20):
        name = f"{i}.png"
        write_picture(tmp_path / name, {15: 2, 18: 3}.get(i, i))
        caption = None if i == 4 else f"a caption about {i}"
        split = "train" if i < 14 else "validation" if i < 17 else "test"
        rows.append({"file_name": name, "caption": caption, "split": split, "site": i % 3})
    rows[19]["caption"] = "a caption about 1"
    (tmp_path / "6.png").write_bytes(b"\x89PNG and no more")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metadata.jsonl").write_text(lines)
    return tmp_path


def test_what_is_found(album):
    found = inspect_data(open_data(album))
    assert found.num_rows == {"train": 14, "validation": 3, "test": 3, "all": 20}
    assert found.organising == {"key": "file_name", "split": "split"}
    fields = {field.name: field for field in found.fields}
    assert fields["caption"].share_present == 0.95
    assert fields["caption"].num_distinct == 18
    assert fields["caption"].role == "target"
    assert fields["caption"].examples[0] == "a caption about 0"
    assert "its values look like text" in fields["caption"].reason
    assert fields["image"].num_distinct is None
    assert fields["image"].num_bad == 1
    assert fields["table"].columns == ("site",)
    assert [(fault.key, fault.field) for fault in found.faults] == [("6.png", "image")]
    duplicates = {(d.field, d.splits): d for d in found.duplicates}
    assert set(duplicates) == {
        ("image", ("train", "validation")),
        ("image", ("train", "test")),
        ("caption", ("train", "test")),
    }
    assert duplicates["image", ("train", "test")].examples == (("3.png", "18.png"),)
    assert duplicates["caption", ("train", "test")].num_rows == 1
    assert found.num_compared == 20
    assert json.dumps(asdict(found))


def test_a_column_split_that_tears_groups_is_noted(tmp_path):
    rows = "".join(f"words {i},{'train' if i % 3 else 'test'},p{i // 4}\n" for i in range(24))
    (tmp_path / "rows.csv").write_text("text,split,patient\n" + rows)
    found = inspect_data(open_data(tmp_path / "rows.csv"))
    assert any("groups (column 'patient') are both in train and in test" in n for n in found.notes)


def test_what_stops_training_is_a_note(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"words {i},x\n" for i in range(9)))
    found = inspect_data(open_data(tmp_path / "a.csv"))
    assert any("'x' in all training rows" in note for note in found.notes)


def test_the_contact_sheet_shows_pictures_with_boxes(tmp_path):
    data = open_data("playground:scenes?train=20&validation=5&test=5")
    contact_sheet(data, tmp_path / "new" / "sheet.png", num_rows=30)
    with PIL.Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    row = data.source.row(0)
    corner = pixels[12 + 188, 12 + 188]
    assert (corner == row["image"][-1, -1]).all()
    x1, y1, _, _ = (row["boxes"][0] * 191).round().astype(int)
    assert pixels[12 + y1 + 1, 12 + x1 + 1].tolist() == [0xE4, 0x57, 0x2E]


def test_the_contact_sheet_says_what_is_wrong(album, tmp_path):
    contact_sheet(open_data(album), tmp_path / "sheet.png", num_rows=20)
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 800
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        contact_sheet(open_data(album), tmp_path / "file" / "sheet.png")


def test_tables_have_sheets_too(tmp_path):
    (tmp_path / "a.csv").write_text("text,x\n" + "".join(f"wörds {i},{i}\n" for i in range(5)))
    contact_sheet(open_data(tmp_path / "a.csv"), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
