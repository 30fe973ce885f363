import datetime
from decimal import Decimal

import numpy as np
import pytest
import torch

from sensorium.modalities.cells import column_kind, to_days, to_number
from sensorium.modalities.table import MAX_CLASSES, Table, TableView, cardinalities
from sensorium.types import BadValue, Field, Schema, UserError

TABLE = Table()
FIELD = Field(
    name="patient",
    modality="table",
    columns={"age": "number", "sex": "category", "seen": "date"},
)
ROWS = [
    {"age": 40, "sex": "f", "seen": "2020-01-01"},
    {"age": "60", "sex": "m", "seen": datetime.date(2020, 1, 3)},
    {"age": None, "sex": "f", "seen": None},
]


@pytest.fixture
def field():
    return FIELD.replace(fitted=TABLE.fit(FIELD, iter(ROWS)))


def test_fit(field):
    fitted = field.fitted["columns"]
    assert fitted["age"] == {"mean": 50.0, "std": 10.0}
    assert fitted["sex"] == {"classes": ["f", "m"]}
    assert fitted["seen"] == {"mean": 18263.0, "std": 1.0}
    assert cardinalities(field) == [0, 3, 0]


def test_fitted_values_survive_a_schema_file(field, tmp_path):
    Schema(fields=(field,)).save(tmp_path / "schema.yaml")
    loaded = Schema.load(tmp_path / "schema.yaml")["patient"]
    assert loaded.fitted == field.fitted


def test_decode_and_collate(field):
    rows = [TABLE.decode(row, field, TableView()) for row in (*ROWS, {"sex": "x"})]
    values, mask = TABLE.collate(rows, field, TableView())
    assert values.dtype == torch.float32
    assert values.tolist() == [[-1, 1, -1], [1, 2, 1], [0, 1, 0], [0, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True] * 3, [False, True, False], [False, True, False]]


def test_a_row_without_any_cell_is_absent(field):
    assert TABLE.entries({"age": None, "sex": "", "seen": float("nan")}, field) == []
    assert TABLE.entries({"other": 3}, field) == []
    assert TABLE.entries(ROWS[2], field) == [ROWS[2]]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"age": "old"}, "age"),
        ({"age": float("inf")}, "age"),
        ({"seen": "soon"}, "seen"),
        ({"age": [1]}, "age"),
    ],
)
def test_a_bad_cell_names_its_column(field, row, column):
    with pytest.raises(BadValue, match=f"column '{column}'"):
        TABLE.decode(row, field, TableView())


def test_values_beyond_float32_after_standardising_are_refused():
    tiny = Field(name="t", modality="table", columns={"a": "number"})
    tiny = tiny.replace(fitted=TABLE.fit(tiny, [{"a": 0.0}, {"a": 1e-30}]))
    with pytest.raises(BadValue, match="column 'a'"):
        TABLE.decode({"a": 1e30}, tiny, TableView())


def test_equal_values_are_not_blown_up():
    for value in (0.1, 7, 1e9 + 0.1):
        field = Field(name="t", modality="table", columns={"a": "number"})
        field = field.replace(fitted=TABLE.fit(field, [{"a": value}] * 7))
        assert abs(TABLE.decode({"a": value}, field, TableView())[0]) < 1e-5


def test_bad_training_cells_do_not_spoil_the_fit():
    fitted = TABLE.fit(FIELD, [*ROWS, {"age": "old", "sex": "m", "seen": "soon"}])
    assert fitted["columns"]["age"]["mean"] == 50.0


def test_classes_by_frequency_with_a_limit():
    field = Field(name="t", modality="table", columns={"a": "category"})
    rows = [{"a": n} for n in range(MAX_CLASSES + 10)] + [{"a": 1005}, {"a": 1005}, {"a": 7}]
    fitted = TABLE.fit(field, rows)
    assert fitted["columns"]["a"]["classes"][:2] == ["1005", "7"]
    field = field.replace(fitted=fitted)
    assert cardinalities(field) == [MAX_CLASSES + 1]
    assert TABLE.decode({"a": 1005.0}, field, TableView()).tolist() == [1]
    assert TABLE.decode({"a": 999}, field, TableView()).tolist() == [0]


def test_unknown_kind_suggests_the_nearest():
    with pytest.raises(UserError, match=r"column 'a'.*Did you mean 'category'"):
        TABLE.check(Field(name="t", modality="table", columns={"a": "categorical"}))


def test_show(field):
    assert TABLE.show(ROWS[2], field) == "sex: f"
    shown = TABLE.show(TABLE.decode(ROWS[1], field, TableView()), field)
    assert shown == "age: 60, sex: m, seen: 2020-01-03"


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("3.5", 3.5),
        (" -2 ", -2),
        ("1,234", 1234),
        ("1,234,567.25", 1234567.25),
        (True, 1),
        (np.int8(3), 3),
        (Decimal("2.5"), 2.5),
        ("1e3", 1000),
    ],
)
def test_numbers(cell, number):
    assert to_number(cell, "a") == number


@pytest.mark.parametrize("cell", ["3,5", "12,34", "1,23,456", "", "x", None, [1], "1e999", 1e39])
def test_what_is_no_number(cell):
    with pytest.raises(BadValue, match="column 'a'"):
        to_number(cell, "a")


def test_decimal_comma():
    assert to_number("3,5", "a", ",") == 3.5
    assert to_number("1.234,5", "a", ",") == 1234.5
    assert to_number("1.234", "a", ",") == 1234


@pytest.mark.parametrize(
    "cell",
    [
        "2024-03-01",
        "2024/03/01",
        "01.03.2024",
        "2024-03-01T00:00:00+00:00",
        "2024-03-01 01:00:00+01:00",
        datetime.date(2024, 3, 1),
        datetime.datetime(2024, 3, 1),
        np.datetime64("2024-03-01"),
        np.datetime64("2024-03-01T00:00:00", "ns"),
    ],
)
def test_dates(cell):
    assert to_days(cell, "a") == 19783.0


def test_date_with_time_and_format():
    assert to_days("1970-01-02T12:00", "a") == 1.5
    assert to_days("12/31/1970", "a", "%m/%d/%Y") == 364
    for cell in ("12/31/1970", 7, "1970-13-01"):
        with pytest.raises(BadValue, match=r"column 'a'.*date"):
            to_days(cell, "a")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, None], "number"),
        (["1", "2.5", ""], "number"),
        (["007", "008", "007", "008"], "category"),
        (["a", "b", "a", "b"], "category"),
        ([True, False, True], "category"),
        (["2020-01-01", None, "2021-01-01"], "date"),
        (["a", "b", "c", "d", "e"], None),
        ([[1], [2]], None),
        ([None, ""], None),
    ],
)
def test_column_kind(values, kind):
    assert column_kind(values) == kind
