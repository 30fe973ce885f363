"""The harness of the benchmarks: turns, quotients, medians, memory; and a table that is current."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import harness

    return harness


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import table

    return table


def test_a_figure_is_the_median_of_the_quotients_of_its_repeats(harness):
    target = harness.Target("at least", 1.5)
    figure = harness.Figure("speed", "/s", [30, 10, 80], "peer", [10, 10, 40], target)
    record = figure.record()
    assert record["values"] == [3.0, 1.0, 2.0]
    assert (record["median"], record["lowest"], record["highest"]) == (2.0, 1.0, 3.0)
    assert record["reached"] is True
    alone = harness.Figure("start", "s", [0.4, 0.6, 0.7], target=harness.Target("at most", 0.5))
    assert alone.record()["median"] == 0.6 and alone.record()["reached"] is False
    assert harness.Figure("start", "s", [0.4]).record()["reached"] is None


def test_sides_take_turns_and_the_first_round_does_not_count(harness):
    calls = []
    sides = {"ours": lambda: calls.append("ours"), "theirs": lambda: calls.append("theirs")}
    seconds = harness.take_turns(sides, 2)
    assert calls == ["ours", "theirs"] * 3
    assert [len(each) for each in seconds.values()] == [2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_is_given_back_before_the_end_is_seen(harness):
    _, grown = harness.timed_with_memory(lambda: np.ones(50 * 2**17).sum())
    assert 45 < grown < 60
    _, grown = harness.timed_with_memory(lambda: None)
    assert grown < 5


def test_the_table_of_a_record(table):
    figure = {
        "name": "speed",
        "unit": "/s",
        "peer": "peer",
        "ours": [30, 10, 80],
        "theirs": [10, 10, 40],
        "values": [3.0, 1.0, 2.0],
        "median": 2.0,
        "lowest": 1.0,
        "highest": 3.0,
        "target": {"bound": "at least", "value": 1.5},
        "reached": True,
    }
    line = table.format_figure(figure)
    assert "2.00x [1.00, 3.00]" in line and "ours 30.0" in line and "peer 10.0" in line
    assert "target at least 1.50: yes" in line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.08333, "0.083"), (1.1, "1.10"), (25.13, "25.1"), (1234.5, "1,234"), (1e-5, "1.0e-05")],
)
def test_three_digits(table, value, text):
    assert table.number(value) == text


def test_the_table_in_the_readme_is_current(table):
    page = (HERE / "README.md").read_text("utf-8")
    assert page == table.with_table(page), "run: python benchmarks/table.py"
    assert table.records()
