"""CSV, JSON Lines and JSON: what is read is what was written, and errors name the line."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.data import open_data
from sensorium.data.tables import read_csv, read_json, read_jsonl, read_table
from sensorium.types import UserError

# Any text a UTF-8 file can hold, line ends and delimiters included.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(texts, texts, st.integers(-(10**15), 10**15)), min_size=1, max_size=12),
    st.sampled_from([",", ";", "\t"]),
)
def test_csv_round_trip(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    # A first row of words keeps columns of digits from being numbers.
    rows = [("some", "words", 0), *rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["a", "b", "n"])
        writer.writerows(rows)
    table = read_csv(path)
    assert table.column("a").to_pylist() == [row[0] for row in rows]
    assert table.column("b").to_pylist() == [row[1] for row in rows]
    assert table.column("n").to_pylist() == [row[2] for row in rows]


cells = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"t": cells, "x": numbers, "l": st.lists(texts, max_size=3)}),
        min_size=1,
        max_size=12,
    )
)
def test_jsonl_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", "utf-8")
    table = read_jsonl(path)
    for name in ("t", "x", "l"):
        assert table.column(name).to_pylist() == [row[name] for row in rows]


def test_only_numbers_written_as_such_are_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("n,x,code,mixed,word\n1,1.5,007,1,NA\n-2,,012,a,null\n+3,2e3,001,2,nan\n")
    table = read_csv(path).to_pydict()
    assert table["n"] == [1, -2, 3]
    assert table["x"] == [1.5, None, 2000.0]
    assert table["code"] == ["007", "012", "001"]
    assert table["mixed"] == ["1", "a", "2"]
    assert table["word"] == ["NA", "null", "nan"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffname,text\r\nä,"two\r\nlines"\r\n'.encode())
    assert read_csv(path).to_pydict() == {"name": ["ä"], "text": ["two\r\nlines"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty table"),
        ("a.csv", b"x,y\n", "empty table"),
        ("a.csv", b"x,y\n1,2\n1,2,3\n", "line 3: expected 2 cells as in the header, found 3"),
        ("a.csv", b'x,y\n"1\n2",2\n1\n', "line 4: expected 2 cells"),
        ("a.csv", b"x,y\n1,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("a.csv", b'x,y\n1,"2\n', "not CSV"),
        ("a.csv", b"x,x\n1,2\n", "two columns are called 'x'"),
        ("a.jsonl", b'{"x": 1}\n{"x": }\n', "line 2: not JSON"),
        ("a.jsonl", b'{"x": 1}\n[1]\n', "line 2: expected an object {...}, found a list"),
        ("a.jsonl", b'{"x": 1}\n\n{"x": "a"}\n', "line 3 holds a text where line 1 holds a number"),
        (
            "a.jsonl",
            b'{"x": "\\ud800"}\n',
            "column 'x': line 1 holds a value that cannot be stored",
        ),
        ("a.jsonl", b"", "empty table"),
        ("a.json", b'{"x": 1}', "expected a list of objects"),
        ("a.json", b'{"x": 1}\n{"x": 2}', "one object a line, call it .jsonl"),
        ("a.parquet", b"PAR1", "not a whole Parquet file"),
        ("a.txt", b"x", "expected a table"),
    ],
)
def test_errors_say_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert message in str(error.value)
    assert name in str(error.value)


def test_json_may_wrap_its_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"version": 2, "rows": [{"x": 1}, {"y": "b"}]}')
    assert read_json(path).to_pydict() == {"x": [1, None], "y": [None, "b"]}


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "products.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=r"no such file or folder. Did you mean 'products.csv'"):
        open_data(tmp_path / "prodcts.csv")


def test_the_version_follows_the_content(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(20)))
    before = open_data(path)
    assert open_data(path).version == before.version
    assert open_data(path, seed=1).version != before.version
    assert before.fit().version == before.version
    path.write_text(path.read_text().replace("row 3,", "raw 3,"))
    assert open_data(path).version != before.version
