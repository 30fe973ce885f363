"""Missing fields: how many, which, by what; one mechanism for training and another for the test."""

import json

import numpy as np
import pytest

from sensorium.data import Missing, open_data, parse_missing, read_missing, train_batches
from sensorium.types import Field, Schema, UserError

SIZE = 6000
SHARES = "share:0.6,0.1,0.3"
FIELDS = (
    Field(name="text", modality="text"),
    Field(name="tone", modality="number"),
    Field(name="label", modality="category", role="label"),
)
SCHEMA = Schema(fields=FIELDS)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows with an age (sometimes empty), a day, a place and a label that follows the tone."""
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("missing") / "rows.jsonl"
    with path.open("w") as file:
        for number in range(SIZE):
            label = "warm" if draw.random() < 0.5 else "cold"
            row = {
                "text": f"words {number}",
                "tone": draw.normal() + (label == "warm"),
                "age": int(draw.integers(20, 90)) if number % 10 else None,
                "day": f"20{draw.integers(10, 30)}-0{draw.integers(1, 10)}-11",
                "place": "abc"[draw.integers(3)],
                "label": label,
            }
            file.write(json.dumps(row) + "\n")
    return path


def opened(table, *missing, test=None, **more):
    return open_data(table, SCHEMA, split=SHARES, missing=missing, missing_test=test, **more)


def absent(data, rows=None, field="text"):
    rows = data.rows("all") if rows is None else rows
    return np.asarray([value is None for value in data.raw([field], rows)[field]])


def cells(data, column, rows=None):
    return np.asarray(data.columns([column], data.rows("all") if rows is None else rows)[column])


def fits(found, rate):
    """Whether a share is within four standard errors of a rate."""
    return abs(found.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / len(found))


# ---------------------------------------------------------------------- mechanisms


@pytest.mark.parametrize("rate", [0, 0.05, 0.3, 0.5, 0.8, 0.99, 1])
def test_completely_at_random(table, rate):
    data = opened(table, f"text:{rate}")
    found = absent(data)
    assert fits(found, rate)
    for column in ("label", "place"):  # and it tells nothing of them
        for value in np.unique(cells(data, column)):
            assert fits(found[cells(data, column) == value], rate)


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_at_random_by_another_column(table, rate):
    found, place = absent(data := opened(table, f"text:{rate}:by=place=b")), cells(data, "place")
    assert fits(found[place == "b"], rate) and not found[place != "b"].any()
    found = absent(opened(table, f"text:{rate}:by=place!=b"))
    assert fits(found[place != "b"], rate) and not found[place == "b"].any()


def test_at_random_by_a_number_and_by_a_day(table):
    data = opened(table, "text:0.7:by=age>60")
    ages = np.asarray([-1 if age is None else age for age in cells(data, "age")])
    found = absent(data)
    assert fits(found[ages > 60], 0.7) and not found[ages <= 60].any()
    found = absent(opened(table, "text:0.7:by=age<30.5"))
    assert fits(found[(ages > 0) & (ages < 30.5)], 0.7) and not found[ages > 30].any()
    assert not found[ages < 0].any()  # an empty age is neither
    days = cells(data, "day")
    found = absent(opened(table, "text:0.7:by=day<2015-01-01"))
    assert fits(found[days < "2015"], 0.7) and not found[days > "2015"].any()


def test_not_at_random_with_a_rate_for_each_class(table):
    data = opened(table, "text:0.8:by=label=warm", "text:0.1:by=label=cold", "tone:0.3")
    label, found = cells(data, "label"), absent(data)
    assert fits(found[label == "warm"], 0.8) and fits(found[label == "cold"], 0.1)
    tone = absent(data, field="tone")
    assert fits(tone, 0.3)
    assert fits(tone[found & (label == "warm")], 0.3)  # one field's draws are not another's


def test_of_several_rates_the_highest_counts(table):
    base, both = opened(table, "text:0.3"), opened(table, "text:0.3", "text:0.6:by=place=b")
    place = cells(base, "place")
    assert fits(absent(both)[place == "b"], 0.6) and fits(absent(both)[place != "b"], 0.3)
    assert (absent(both) >= absent(base)).all()


def test_a_row_lacks_a_field_wherever_and_whenever_it_is_read(table, views):
    data = opened(table, "text:0.5:by=label=warm").fit()
    rows = data.rows("train")[:96]
    there = {int(row): bool(value) for row, value in zip(rows, ~absent(data, rows), strict=True)}
    shuffled = np.random.default_rng(1).permutation(rows)
    assert [there[int(row)] for row in shuffled] == (~absent(data, shuffled)).tolist()
    for row in rows[:5]:
        assert ("text" in data.sample(int(row), views(data.schema)).values) == there[int(row)]

    def seen(workers, **more):
        steps = train_batches(
            data, views(data.schema), batch_size=32, seed=7, num_steps=20, workers=workers, **more
        )
        return {
            int(index): bool(value)
            for micro in steps
            for batch in micro
            for index, value in zip(batch.index, batch.present("text"), strict=True)
        }

    alone = seen(0)
    assert alone == seen(2) == seen(0, accumulate=4)
    ranks = seen(0, rank=0, num_ranks=2) | seen(0, rank=1, num_ranks=2)
    assert ranks == alone
    hidden = absent(data)
    assert all(value != hidden[row] for row, value in alone.items())


def test_what_hangs_on_a_field_goes_with_it(tmp_path):
    rows = [
        {"image": "x.png", "boxes": [[0, 0, 1, 1]], "names": ["cup"], "note": "words"}
        for _ in range(400)
    ]
    path = tmp_path / "boxes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = Schema(
        fields=(
            Field(name="image", modality="image"),
            Field(name="boxes", modality="boxes", of="image"),
            Field(name="names", modality="categories", of="boxes"),
            Field(name="note", modality="text"),
        )
    )
    data = open_data(path, schema, missing=["image:0.5"])
    image = absent(data, field="image")
    assert fits(image, 0.5)
    for name in ("boxes", "names"):
        assert absent(data, field=name).tolist() == image.tolist()
    assert not absent(data, field="note").any()
    alone = open_data(path, schema, missing=["names:0.5"])
    assert absent(alone, field="names").any()
    assert not absent(alone, field="image").any() and not absent(alone, field="boxes").any()


# ---------------------------------------------------------------------- training and test


def test_the_flip_really_flips(table):
    data = opened(table, "text:0.8:by=label=warm", test=["text:0.8:by=label!=warm"])
    for split in ("train", "validation", "test"):
        rows = data.rows(split)
        label, found = cells(data, "label", rows), absent(data, rows)
        lacking, complete = ("warm", "cold") if split != "test" else ("cold", "warm")
        assert fits(found[label == lacking], 0.8)
        assert not found[label == complete].any()
    # read together, each row follows its own split
    both = np.concatenate([data.rows("train")[:50], data.rows("test")[:50]])
    apart = [absent(data, data.rows(split)[:50]) for split in ("train", "test")]
    assert absent(data, both).tolist() == np.concatenate(apart).tolist()


def test_in_test_rows_nothing_or_all_of_it(table):
    clean = opened(table, "text:0.8", test=["none"])
    assert fits(absent(clean, clean.rows("train")), 0.8)
    assert not absent(clean, clean.rows("test")).any()
    late = opened(table, test=["text:1", "tone:1"])
    assert not absent(late, late.rows("train")).any()
    assert absent(late, late.rows("test")).all()
    late.fit()  # what test rows lack is no concern of training
    same = opened(table, "text:0.8")
    assert absent(same, same.rows("test")).any()


def test_the_recipe_opens_the_same_rows(table):
    third = str(Missing("text", 1 / 3))
    for missing, test in (
        ([third], None),
        (["text:0.8:by=label=warm"], ["text:0.8:by=label!=warm", third]),
        ([], ["text:0.5"]),
        (["tone:0.5:by=age>60"], []),
    ):
        data = opened(table, *missing, test=test, seed=3)
        recipe = json.loads(json.dumps(data.recipe))
        again = open_data(**recipe)
        assert again.version == data.version
        assert (again.missing, again.missing_test) == (data.missing, data.missing_test)
        assert absent(again).tolist() == absent(data).tolist()
        other = data.with_schema(data.schema.with_roles({"tone": "ignore"}))
        assert (other.missing, other.missing_test) == (data.missing, data.missing_test)
    assert "missing" not in opened(table).recipe


def test_another_mechanism_is_another_version(table):
    versions = {
        opened(table, *missing, test=test).version
        for missing in ([], ["text:0.5"], ["text:0.5:by=label=warm"])
        for test in (None, [], ["text:0.5"], ["text:0.5:by=label!=warm"])
    }
    assert len(versions) == 12


# ---------------------------------------------------------------------- what is written


def test_forms():
    for text, relation, value in (
        ("image:0.5:by=age>60", ">", "60"),
        ("image:0.5:by=age<-1.5", "<", "-1.5"),
        ("image:0.5:by=label!=a=b", "!=", "a=b"),
        ("image:0.5:by=label=a!=b", "=", "a!=b"),
        ("image:0.5:by=label=", "=", ""),
    ):
        found = parse_missing(text)
        assert (found.relation, found.value) == (relation, value)
        assert str(found) == text and parse_missing(str(found)) == found
    assert parse_missing(str(Missing("a", 1 / 3))) == Missing("a", 1 / 3)
    assert read_missing(["none"]) == () == read_missing([])
    with pytest.raises(UserError, match="or none alone"):
        read_missing(["none", "text:0.5"])
    for wrong in (
        "text:0.5:by=",
        "text:0.5:by=age",
        "text:0.5:by==1",
        "text:0.5:age>6",
        "text:nan",
    ):
        with pytest.raises(UserError, match="expected FIELD:RATE"):
            parse_missing(wrong)


@pytest.mark.parametrize(
    ("cell", "relation", "value", "applies"),
    [
        (3, "=", "3.0", True),
        (np.int64(3), "=", "3", True),
        (np.float32(2.5), ">", "2", True),
        (3.0, "!=", "3", False),
        ("3", "=", "3", True),
        ("b ", "=", "b", True),
        (10, ">", "9", True),
        ("10", ">", "9", False),  # text, as the column is
        (True, "=", "True", True),
        (None, "!=", "b", False),
        (float("nan"), "!=", "b", False),
        ("", "=", "", False),
        (3, "=", "three", False),
    ],
)
def test_what_a_condition_applies_to(cell, relation, value, applies):
    assert Missing("a", 1.0, "c", value, relation).applies_to(cell) is applies


def test_a_condition_that_no_row_fulfils_is_a_mistake(table):
    with pytest.raises(
        UserError, match=r"none of 3\d+ rows is column 'label' so\. Did you mean 'warm'"
    ):
        opened(table, "text:0.5:by=label=wram").fit()
    with pytest.raises(
        UserError, match=r"none of 1\d+ rows is column 'label' so\. Did you mean 'cold'"
    ):
        opened(table, test=["text:0.5:by=label=clod"]).fit()
    with pytest.raises(UserError, match=r"column 'place' so\.$"):
        opened(table, "text:0.5:by=place=d", samples=False).fit()
    with pytest.raises(UserError, match="no column 'lable'. Did you mean 'label'"):
        opened(table, test=["text:0.5:by=lable=warm"])
    with pytest.raises(UserError, match="no field 'txt'. Did you mean 'text'"):
        opened(table, test=["txt:0.5"])


def test_any_field_of_the_playground():
    where = "playground:attributes?train=300&validation=10&test=300&pictures=30&size=32"
    hidden = ["image:0.4", "table:0.4:by=label=warm heavy rising", "sound:0.9:by=value>25"]
    data = open_data(where, missing=hidden, missing_test=["caption:0.5"])
    train, test = data.rows("train"), data.rows("test")
    assert fits(absent(data, train, "image"), 0.4)
    values = np.asarray(data.columns(["value"], train)["value"])
    sound = absent(data, train, "sound")
    assert fits(sound[values > 25], 0.9) and not sound[values <= 25].any()
    tables = data.raw(["table"], train)["table"]
    empty = np.asarray([all(cell is None for cell in cells.values()) for cells in tables])
    label = np.asarray(data.columns(["label"], train)["label"])
    assert fits(empty[label == "warm heavy rising"], 0.4)
    assert not empty[label != "warm heavy rising"].any()
    assert not absent(data, test, "image").any() and fits(absent(data, test, "caption"), 0.5)
