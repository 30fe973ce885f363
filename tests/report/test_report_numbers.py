import pytest

from sensorium.report import numbers


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("text->image/R@1", 0.81249, "0.812"),
        ("median_rank", 3.0, "3.0"),
        ("pool256/image->text/mean_rank", 12.34, "12.3"),
        ("MAE", 12345.678, "1.235e+04"),
        ("R2", -0.25, "-0.250"),
        ("accuracy", None, "–"),
    ],
)
def test_a_metric_is_written_in_the_way_of_its_kind(key, value, written):
    assert numbers.metric_value(key, value) == written


def test_an_undefined_interval_is_left_out():
    assert numbers.with_interval("R@1", {"value": 0.5, "low": None, "high": None}) == "0.500"
    assert numbers.with_interval("R@1", {"value": 0.5, "low": 0.4, "high": 0.61}) == (
        "0.500 [0.400, 0.610]"
    )


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("R@1", ("R@1", "")),
        ("text->image/R@5", ("R@5", "text→image")),
        ("pool256/text->image/R@1", ("R@1", "text→image, pool 256")),
        ("balanced_accuracy", ("balanced accuracy", "")),
        ("recall/sea lion", ("recall", "sea lion")),
        ("recall/and/or", ("recall", "and/or")),
        ("recall/pool12", ("recall", "pool12")),
    ],
)
def test_a_label_tells_the_name_from_what_it_is_of(key, label):
    assert numbers.metric_label(key) == label


def test_metrics_are_ordered_by_what_a_reader_asks_first():
    keys = ["recall/a", "R@5", "text->image/R@5", "text->image/R@1", "pool50/R@1", "R@1"]
    assert numbers.ordered(keys, "R@1") == [
        "R@1", "pool50/R@1", "text->image/R@1", "R@5", "recall/a", "text->image/R@5",
    ]  # fmt: skip


def test_a_difference_is_clear_if_its_interval_leaves_zero_out():
    assert numbers.is_clear({"low": 0.01, "high": 0.2})
    assert numbers.is_clear({"low": -0.2, "high": -0.01})
    assert not numbers.is_clear({"low": -0.01, "high": 0.2})
    assert not numbers.is_clear({"low": None, "high": None})
    assert numbers.difference("R@1", {"value": 0.1, "low": None, "high": None}) == "+0.100"


@pytest.mark.parametrize(
    ("write", "number", "written"),
    [
        (numbers.count, 1_712_000, "1.71M"),
        (numbers.count, 950, "950"),
        (numbers.count, 3.1e13, "31T"),
        (numbers.size, 812_000_000, "812 MB"),
        (numbers.duration, 42.4, "42.4 s"),
        (numbers.duration, 100, "1:40"),
        (numbers.duration, 59.9999, "60 s"),
        (numbers.duration, 7500, "2:05:00"),
        (numbers.milliseconds, 0.412, "0.41"),
        (numbers.milliseconds, 123.4, "123"),
        (numbers.count, None, "–"),
        (lambda number: numbers.plural(number, "row"), 1, "1 row"),
        (lambda number: numbers.plural(number, "row"), 2000, "2,000 rows"),
    ],
)
def test_costs_are_written_short(write, number, written):
    assert write(number) == written
