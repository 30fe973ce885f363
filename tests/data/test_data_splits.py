"""Splits: every row once, the same each time, groups on one side, the past before the future."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.data.sources import ArrowSource
from sensorium.data.splits import (
    by_column,
    by_folds,
    by_share,
    by_time,
    completed,
    group_numbers,
    make,
)
from sensorium.types import Field, Schema, UserError

SCHEMA = Schema(fields=(Field(name="x", modality="number"),))


def source(**columns):
    return ArrowSource(pa.table(columns), name="rows", version="1")


def side_of(splits, size):
    """The split of each row; fails if a row is in two."""
    side = np.full(size, -1)
    for number, rows in enumerate(splits.values()):
        assert (side[rows] == -1).all()
        side[rows] = number
    return side


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 5))
def test_shares_and_folds_keep_groups_and_cover_all_rows(cells, seed):
    groups = group_numbers(cells, np.arange(len(cells)))
    ways = [by_share(groups, seed)]
    if len(set(cells)) >= 4:
        ways.append(by_folds(groups, seed, 4, 2))
    for splits in ways:
        side = side_of(splits, len(cells))
        assert (side >= 0).all()
        for group in set(cells):
            assert len(set(side[np.asarray(cells) == group])) == 1
        if len(set(cells)) >= 3:
            assert all(len(rows) for rows in splits.values())
    again = by_share(groups, seed)
    assert all((again[name] == rows).all() for name, rows in ways[0].items())


def test_shares_are_kept():
    splits = by_share(np.arange(1000), 0, (0.7, 0.2, 0.1))
    assert [len(rows) for rows in splits.values()] == [700, 200, 100]
    assert (by_share(np.arange(1000), 1)["test"] != by_share(np.arange(1000), 0)["test"]).any()


def test_a_row_keeps_its_side_whatever_the_order():
    keys = [f"row {i}" for i in range(300)]
    schema = SCHEMA.replace(key="key")
    first = make(source(x=list(range(300)), key=keys), schema, None, 0)
    second = make(source(x=list(range(300)), key=keys[::-1]), schema, None, 0)
    assert {keys[i] for i in first["test"]} == {keys[::-1][i] for i in second["test"]}


def test_folds_test_each_row_once():
    tested = np.concatenate([by_folds(np.arange(23), 0, 5, fold)["test"] for fold in range(1, 6)])
    assert sorted(tested) == list(range(23))
    first, second = by_folds(np.arange(23), 0, 5, 1), by_folds(np.arange(23), 0, 5, 2)
    assert (first["validation"] == second["test"]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=3, max_size=80).filter(lambda c: len(set(c)) >= 3))
def test_the_past_trains_and_the_future_tests(days):
    times = [(date(2024, 1, 1) + timedelta(day)).isoformat() for day in days]
    splits = by_time(times, [str(i) for i in range(len(days))], "day")
    days = np.asarray(days)
    assert (side_of(splits, len(days)) >= 0).all()
    assert all(len(rows) for rows in splits.values())
    assert days[splits["train"]].max() < days[splits["validation"]].min()
    assert days[splits["validation"]].max() < days[splits["test"]].min()


def test_times_of_several_kinds_and_none():
    assert by_time([3, 1, 2], ["a", "b", "c"], "t")["test"].tolist() == [0]
    assert by_time([date(2024, 5, 1), date(2023, 5, 1), date(2025, 1, 1)], ["a"] * 3, "t")[
        "train"
    ].tolist() == [1]
    with pytest.raises(UserError, match="row 'b', column 't': expected a time such as"):
        by_time(["2024-01-01", "soon", "2024-01-03"], ["a", "b", "c"], "t")


def test_the_split_column_counts_and_what_it_lacks_comes_from_training():
    cells = ["train"] * 40 + ["dev"] * 5 + [None] * 3
    splits = by_column(cells, [str(i) for i in range(48)], "split")
    assert splits["validation"].tolist() == list(range(40, 45))
    assert len(splits["test"]) == 0
    full = completed(splits, np.arange(48), 0)
    assert full["validation"].tolist() == list(range(40, 45))
    assert len(full["test"]) == 4
    assert sorted([*full["train"], *full["test"]]) == list(range(40))
    with pytest.raises(UserError, match=r"row '1'.*unknown split 'tset'. Did you mean 'test'"):
        by_column(["train", "tset"], ["0", "1"], "split")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shard:2", "expected column:NAME"),
        ("share:0.9,0.2", "expected three shares that sum to 1"),
        ("share:0.9,0.2,0.1", "expected three shares that sum to 1"),
        ("group:patent", "Did you mean 'patient'"),
        ("time:patient", "expected a time"),
        ("folds:2:1", "K of 3 or more"),
        ("folds:5:6", "I from 1 to K"),
        ("folds:40:1", "4 rows or groups cannot be put into 40 folds"),
    ],
)
def test_wrong_splits(how, message):
    table = source(x=[1, 2, 3, 4], patient=["a", "b", "c", "d"])
    with pytest.raises(UserError) as error:
        make(table, SCHEMA, how, 0)
    assert message in str(error.value)


def test_ways_by_name():
    patients = [f"p{i % 7}" for i in range(70)]
    table = source(x=list(range(70)), patient=patients, fold=["train", "test"] * 35)
    for how, schema in (("group:patient", SCHEMA), (None, SCHEMA.replace(group="patient"))):
        side = side_of(make(table, schema, how, 0), 70)
        assert all(len(set(side[i::7])) == 1 for i in range(7))
    splits = make(table, SCHEMA, "column:fold", 0)
    assert splits["test"].tolist() == list(range(1, 70, 2))
    assert len(make(table, SCHEMA, "share:0.5,0,0.5", 0)["validation"]) == 0
