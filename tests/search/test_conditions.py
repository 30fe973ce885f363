"""Conditions: read, written again, refused with a place, and held against rows as a person would."""

import math

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensorium.search.conditions import (
    All,
    Compare,
    IsMissing,
    Not,
    OneOf,
    Some,
    read_condition,
    write_condition,
)
from sensorium.search.layout import Column, Layout, Maker
from sensorium.search.safe_sql import to_sql
from sensorium.search.storage import Storage
from sensorium.types import UserError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = NUMBERS | st.text() | st.booleans()
NAMES = st.text() | st.sampled_from(["price", "größe", "a.b-c", "and", "Missing", 'my "column"'])
OPERATORS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def trees(tests):
    """Conditions made of some tests."""
    return st.recursive(
        tests,
        lambda part: st.one_of(
            part.map(Not),
            st.lists(part, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
            st.lists(part, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts))),
        ),
        max_leaves=8,
    )


ANY_TREE = trees(
    st.builds(Compare, NAMES, OPERATORS, VALUES)
    | st.builds(OneOf, NAMES, st.lists(VALUES, min_size=1, max_size=4).map(tuple))
    | st.builds(IsMissing, NAMES)
)


@given(ANY_TREE)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_as_the_same_tree(tree):
    assert read_condition(write_condition(tree)) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("price < 10 and kind = 'cat'",
         All((Compare("price", "<", 10.0), Compare("kind", "=", "cat")))),
        ("a = 1 or b = 2 and not c = 3",
         Some((Compare("a", "=", 1.0), All((Compare("b", "=", 2.0), Not(Compare("c", "=", 3.0))))))),
        ("(a = 1 or b = 2) and c = 3",
         All((Some((Compare("a", "=", 1.0), Compare("b", "=", 2.0))), Compare("c", "=", 3.0)))),
        ("kind IN ('it''s', \"my\"\"s\" )"[:16] + ")", OneOf("kind", ("it's",))),
        ("\"my column\" is not missing", Not(IsMissing("my column"))),
        ("price<-.5e1", Compare("price", "<", -5.0)),
        ("größe != 'a\nb; DROP TABLE rows; --'", Compare("größe", "!=", "a\nb; DROP TABLE rows; --")),
        ("sold = TRUE", Compare("sold", "=", True)),
    ],
)  # fmt: skip
def test_what_stands_for_what(text, tree):
    assert read_condition(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1, after '': expected the name of a column"),
        ("price", "character 6, after 'price': expected =, !=.*it ends there"),
        ("price <", "character 8, after 'price <': expected a number"),
        ("price < cat", "character 9, after 'price <': .* in single quotes: 'cat'; found cat"),
        ('kind = "cat"', "character 8, .*texts? in single quotes"),
        ("kind = 'cat", "character 8: a ' that is not closed"),
        ("kind = 'a' 'b'", "character 12, .*expected 'and', 'or', or the end; found 'b'"),
        ("(price < 1", "character 11, .*closing '\\)'; it ends there"),
        ("price < 1; drop", "character 10: ';' means nothing here"),
        ("kind in ()", "character 10, .*expected a number"),
        ("kind is cat", "expected 'missing'; found cat"),
        ("price < 1e999", "a number that is not that large"),
        ("price < 10abc", "character 9: '1' means nothing here"),
        ("not " * 50 + "a = 1", "at most 40 conditions within each other"),
        ("(" * 5000, "at most 40 conditions within each other"),
        (" or ".join(["a = 1"] * 201), "at most 200 comparisons"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text, message):
    with pytest.raises(UserError, match=message):
        read_condition(text)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_tree_or_a_mistake(text):
    try:
        tree = read_condition(text)
    except UserError:
        return
    assert read_condition(write_condition(tree)) == tree


# ---------------------------------------------------------------------- against rows

COLUMNS = (
    Column(name="price", kind="number", stored="column_0"),
    Column(name="it's; --", kind="text", stored="column_1"),
    Column(name="sold", kind="truth", stored="column_2"),
)
TEXTS = ["cat", "it's", 'say "no"', "größe 猫", "a' OR 1=1 --", "back\\slash\\'", "%_", "", "\0"]
ROWS = [
    {
        "price": None if n % 5 == 0 else [-1.5, 0.0, 10.0, 1e300][n % 4],
        "it's; --": None if n % 7 == 0 else TEXTS[n % len(TEXTS)],
        "sold": None if n % 3 == 0 else n % 2 == 0,
    }
    for n in range(120)
]
KNOWN_TREE = trees(
    st.builds(Compare, st.just("price"), OPERATORS, st.sampled_from([-1.5, 0.0, 10.0]) | NUMBERS)
    | st.builds(Compare, st.just("it's; --"), OPERATORS, st.sampled_from(TEXTS) | st.text())
    | st.builds(Compare, st.just("sold"), st.sampled_from(["=", "!="]), st.booleans())
    | st.builds(OneOf, st.just("it's; --"), st.lists(st.sampled_from(TEXTS), min_size=1).map(tuple))
    | st.builds(IsMissing, st.sampled_from(["price", "it's; --", "sold"]))
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    layout = Layout(
        maker=Maker(identity="", system="", path=""), fields=(), columns=COLUMNS, graph_from=0
    )
    storage = Storage(tmp_path_factory.mktemp("table"), layout)
    lines = [
        {"id": n, "key": str(n)} | {c.stored: each[c.name] for c in COLUMNS}
        for n, each in enumerate(ROWS)
    ]
    storage.replace([], pa.Table.from_pylist(lines, schema=storage._table.schema))
    return storage


def holds(tree, each):
    """Whether a condition holds for a row; None if that cannot be said."""
    match tree:
        case Compare(name, operator, value):
            cell = each[name]
            if cell is None:
                return None
            if isinstance(cell, str):  # texts are ordered by their bytes
                cell, value = cell.encode(), value.encode()
            return {
                "=": cell == value, "!=": cell != value, "<": cell < value,
                "<=": cell <= value, ">": cell > value, ">=": cell >= value,
            }[operator]  # fmt: skip
        case OneOf(name, values):
            return None if each[name] is None else each[name] in values
        case IsMissing(name):
            return each[name] is None
        case Not(part):
            known = holds(part, each)
            return None if known is None else not known
        case All(parts):
            known = [holds(part, each) for part in parts]
            return False if False in known else None if None in known else True
        case Some(parts):
            known = [holds(part, each) for part in parts]
            return True if True in known else None if None in known else False


@given(KNOWN_TREE)
# in a row without a value, LanceDB takes two lists that share nothing to be false, not unknown
@example(Not(All((OneOf("it's; --", ("cat",)), OneOf("it's; --", ("it's",))))))
@settings(max_examples=150, deadline=None)
def test_the_rows_are_those_for_which_it_holds(table, tree):
    found = table.fitting(to_sql(tree, COLUMNS)).tolist()
    assert sorted(found) == [n for n, each in enumerate(ROWS) if holds(tree, each) is True]


def test_quotes_are_data_and_nothing_is_passed_on(table):
    for text in (
        "x' OR 1=1 --",
        "x'; DELETE FROM rows; --",
        "') OR (column_0 IS NOT NULL",
        "\\' OR 1=1 --",
    ):
        condition = f"\"it's; --\" = '{text.replace(chr(39), chr(39) * 2)}'"
        sql = to_sql(read_condition(condition), COLUMNS)
        assert sql.startswith("(column_1 IS NOT NULL AND column_1 = '") and sql.count("'") % 2 == 0
        assert table.fitting(sql).tolist() == []
    assert len(table) == len(ROWS)
    assert math.isclose(read_condition("price = 1e300").value, 1e300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prise < 10", "there is no column 'prise'. Did you mean 'price'"),
        ("column_0 < 10", "there is no column 'column_0'"),
        (
            "price = 'cheap'",
            "column 'price' holds numbers, and 'cheap' is none; write for example 10",
        ),
        ("sold < true", "can only be compared with = and !="),
        ("sold = 'yes'", "holds true and false"),
        ("\"it's; --\" in ('a', 1)", "holds texts, and 1.0 is none"),
    ],
)
def test_a_condition_that_does_not_fit_the_columns_says_so(text, message):
    with pytest.raises(UserError, match=message):
        to_sql(read_condition(text), COLUMNS)
