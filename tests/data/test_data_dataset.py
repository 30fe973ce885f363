"""Data: what is fitted, hidden, grouped and named; and what is refused."""

import json

import numpy as np
import pytest

from sensorium.data import Missing, open_data, parse_missing
from sensorium.data.dataset import Data
from sensorium.data.sources import spread
from sensorium.types import BadValue, Field, Schema, UserError


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def products(tmp_path):
    rows = [
        {"id": f"p{i}", "text": f"words {i}", "x": float(i), "label": "ab"[i % 2], "shop": i // 5}
        for i in range(40)
    ]
    return write(tmp_path, rows)


def test_fit_learns_from_training_rows_alone(products):
    data = open_data(products).fit()
    train = data.rows("train")
    table = data.schema["table"]
    values = data.columns(["x"], train)["x"]
    assert json.dumps(table.fitted).count("x") >= 1
    assert data.schema["label"].fitted["classes"] == ["a", "b"]
    # Another value in a test row changes nothing that was fitted.
    rows = [json.loads(line) for line in products.read_text().splitlines()]
    for row in data.rows("test"):
        rows[row] |= {"x": 1e6}
    other = open_data(write(products.parent, rows, "other.jsonl")).fit()
    assert other.schema["table"].fitted == table.fitted
    assert np.mean(values) != np.mean(data.columns(["x"], data.rows("all"))["x"])


def test_what_cannot_be_learned_from_is_refused(tmp_path):
    rows = [{"text": f"words {i}", "label": "same"} for i in range(10)]
    with pytest.raises(UserError, match="the label 'label' is 'same' in all training rows"):
        open_data(write(tmp_path, rows)).fit()
    rows = [{"text": f"words {i}", "note": None, "label": i % 2} for i in range(10)]
    data = open_data(write(tmp_path, rows))
    data.fit()  # a column known to be empty is ignored
    asked = data.with_schema(data.schema.with_roles({"note": "input"}))
    with pytest.raises(UserError, match=r"empty in all 8 training rows: 'note' \(column note\)"):
        asked.fit()
    split = open_data(write(tmp_path, [{**row, "split": "test"} for row in rows]))
    with pytest.raises(UserError, match="no training rows"):
        split.fit()


def test_a_class_in_the_last_row_alone_is_found(tmp_path):
    rows = [{"text": f"words {i}", "label": "a"} for i in range(2000)]
    rows[700]["label"] = "b"
    data = open_data(write(tmp_path, rows), split="share:1,0,0").fit()
    assert data.schema["label"].fitted["classes"] == ["a", "b"]


def test_wrong_columns_suggest_the_nearest(products):
    schema = Schema(fields=(Field(name="text", modality="text", column="txet"),))
    with pytest.raises(UserError, match=r"reads the column 'txet'.*Did you mean 'text'"):
        open_data(products, schema=schema)
    schema = Schema(fields=(Field(name="text", modality="text"),), group="shopp")
    with pytest.raises(UserError, match=r"'group' names the column 'shopp'.*Did you mean 'shop'"):
        open_data(products, schema=schema)
    data = open_data(products)
    with pytest.raises(UserError, match="Did you mean 'shop'"):
        data.columns(["shp"], data.rows("all"))
    with pytest.raises(UserError, match="there is no split 'tran'. Did you mean 'train'"):
        data.rows("tran")


def test_new_rows_may_lack_columns_but_not_all(products, views):
    data = open_data(products).fit()
    new = write(products.parent, [{"text": "other words"}, {"text": "more"}], "new.jsonl")
    opened = open_data(new, schema=data.schema, new=True)
    samples, faults = opened.read(opened.rows("all"), views(data.schema))
    assert not faults
    assert [set(sample.values) for sample in samples] == [{"text"}, {"text"}]
    assert opened.with_schema(data.schema).new
    with pytest.raises(UserError, match="is not there"):
        open_data(write(products.parent, [{"y": 1}], "no.jsonl"), schema=data.schema, new=True)


class TestMissing:
    def test_parse(self):
        assert parse_missing("image:0.3") == Missing("image", 0.3)
        by = parse_missing("image:1:by=kind=a=b:c")
        assert by == Missing("image", 1.0, "kind", "a=b:c")
        assert parse_missing(str(by)) == by
        for wrong in ("image", "image:2", "image:x", ":0.1", "image:0.1:kind=1", "a:0.1:by=k"):
            with pytest.raises(UserError, match="expected FIELD:RATE"):
                parse_missing(wrong)

    def test_hidden_rows(self, products, views):
        data = open_data(products, missing=["text:0.5", "table:0.9:by=label=a"]).fit()
        rows = data.rows("all")
        samples, _ = data.read(rows, views(data.schema))
        without_text = [s.index for s in samples if "text" not in s.values]
        without_table = [s.index for s in samples if "table" not in s.values]
        assert 10 <= len(without_text) <= 30
        assert len(without_table) >= 12
        assert {data.columns(["label"], rows)["label"][i] for i in without_table} == {"a"}
        # The same rows in whatever order they are read, and not those of another seed.
        reread, _ = data.read(rows[::-1], views(data.schema))
        assert [s.index for s in reread[::-1] if "text" not in s.values] == without_text
        other = open_data(products, missing=["text:0.5"], seed=1)
        hidden = [i for i, value in enumerate(other.raw(["text"], rows)["text"]) if value is None]
        assert hidden != without_text
        # What is hidden is not learned from, nor shown to the tokenizer.
        assert len(list(data.texts(1000))) == len(set(data.rows("train")) - set(without_text))

    def test_numbers_are_compared_as_numbers(self, products):
        data = open_data(products, missing=["text:1:by=shop=3.0"])
        texts = data.raw(["text"], data.rows("all"))["text"]
        assert [i for i, text in enumerate(texts) if text is None] == list(range(15, 20))

    def test_all_hidden_is_a_modality_missing_everywhere(self, products):
        with pytest.raises(UserError, match="empty in all 32 training rows: 'text'"):
            open_data(products, missing=["text:1"]).fit()

    def test_names(self, products):
        with pytest.raises(UserError, match="no field 'txt'. Did you mean 'text'"):
            open_data(products, missing=["txt:0.5"])
        with pytest.raises(UserError, match="no column 'labl'. Did you mean 'label'"):
            open_data(products, missing=["text:0.5:by=labl=a"])

    def test_version_and_recipe(self, products):
        data = open_data(products, missing=["text:0.5"], split="folds:4:2", seed=3)
        assert data.version != open_data(products, split="folds:4:2", seed=3).version
        recipe = json.loads(json.dumps(data.recipe))
        again = open_data(**recipe)
        assert again.version == data.version
        assert again.missing == data.missing
        assert (again.rows("test") == data.rows("test")).all()

    def test_a_recipe_with_renamed_fields(self, products):
        fields = (Field(name="words", modality="text", column="text"),)
        data = open_data(products, schema=Schema(fields=fields), missing=["words:0.5"])
        again = open_data(**data.recipe)
        assert again.schema.names == ("words",)


def test_each_caption_is_a_row_of_its_picture(tmp_path, write_picture, views):
    for i in range(8):
        write_picture(tmp_path / f"{i}.png", i)
    captions = [[f"caption {i}.{k}" for k in range(i % 4)] for i in range(8)]
    captions[1] = ["caption 1.0", "caption 1.1", "caption 1.2", "caption 1.3", "caption 1.4"]
    rows = [{"image": f"{i}.png", "captions": captions[i]} for i in range(8)]
    data = open_data(write(tmp_path, rows), seed=2)
    expected = [(i, caption) for i in range(8) for caption in captions[i] or [None]]
    found = data.columns(["image", "captions"], data.rows("all"))
    assert found["captions"] == [caption for _, caption in expected]
    assert found["image"] == [f"{i}.png" for i, _ in expected]
    assert data.keys(np.asarray([0, 1, 3])) == ["0.png#0", "1.png#0", "1.png#2"]
    groups = data.groups(data.rows("all"))
    assert groups.tolist() == [i for i, _ in expected]
    for split in data.splits:
        others = [row for name in data.splits if name != split for row in data.rows(name)]
        assert not set(groups[data.rows(split)]) & set(groups[others])
    samples, _ = data.read(data.rows("all"), views(data.schema))
    assert "captions" not in samples[0].values  # an empty list is a row without it
    assert samples[3].values["captions"] == ["caption 1.2"]
    # Read as an input, the list is several entries of one row; the split is the same.
    whole = data.with_schema(data.schema.with_roles({"captions": "input"}))
    assert len(whole) == 8
    assert len(whole.sample(1, views(whole.schema)).values["captions"]) == 5
    assert set(whole.rows("test")) == set(groups[data.rows("test")])


def test_groups_by_column_and_alone(tmp_path):
    rows = [{"text": f"words {i}", "patient": p} for i, p in enumerate(["a", "b", "a", None, None])]
    data = open_data(
        write(tmp_path, rows),
        Schema(fields=(Field(name="text", modality="text"),), group="patient"),
    )
    groups = data.groups(data.rows("all"))
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 4
    assert (data.groups(np.asarray([3, 0])) == groups[[3, 0]]).all()


def test_one_row(products, views):
    data = open_data(products).fit()
    sample = data.sample(5, views(data.schema))
    assert (sample.key, sample.index) == ("p5", 5)
    assert sample.values["text"] == ["words 5"]
    bad = data.with_schema(data.schema.replace(Field(name="text", modality="number")))
    with pytest.raises(BadValue, match=r"row 'p5', field 'text': .*'words 5' is no number"):
        bad.sample(5, {"text": views(data.schema)["label"]})


def test_texts_are_spread_over_the_training_rows(products):
    data = open_data(products)
    some = list(data.texts(4))
    assert len(some) == 4
    of_training = data.columns(["text"], data.rows("train"))["text"]
    places = [of_training.index(text) for text in some]
    assert [place // 8 for place in places] == [0, 1, 2, 3]


def test_a_sample_sees_what_repeats_in_the_order_of_rows():
    rows = spread(np.arange(100_000), 5000)
    assert len(set(rows)) == 5000
    assert (np.diff(rows) > 0).all()
    for period in (2, 4, 20, 64):
        assert np.bincount(rows % period).min() > 0.5 * 5000 / period


class TestPlayground:
    def test_it_is_lazy_at_a_million_rows(self):
        data = open_data("playground:scenes?train=1000000&objects=3")
        assert len(data.rows("train")) == 1_000_000
        row = data.source.row(999_999)
        assert row["image"].shape == (64, 64, 3)
        assert len(row["boxes"]) == 3
        assert isinstance(data, Data)

    def test_names(self):
        with pytest.raises(UserError, match="Did you mean 'scenes'"):
            open_data("playground:scnes")
        with pytest.raises(UserError, match="Did you mean 'objects'"):
            open_data("playground:scenes?object=3")
        with pytest.raises(UserError, match="expected NAME=VALUE"):
            open_data("playground:scenes?objects")

    def test_splits_may_be_made_anew(self):
        data = open_data("playground:scenes?train=50&validation=5&test=5", split="folds:3:1")
        assert [len(data.rows(split)) for split in data.splits] == [20, 20, 20]
