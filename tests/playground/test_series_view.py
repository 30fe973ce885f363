"""The view `series`: the shape carries the label; times and gaps are as they were asked for."""

from collections import Counter

import numpy as np
import pytest
from test_playground_views import digest

from sensorium.playground import PlaygroundError, view
from sensorium.playground.series import SHAPES

# These may change only together with `VERSION` in playground/base.py.
DIGESTS = {
    "": "0be7516607ffc72b5c7fffba30db40cbcd8f9bf000d6d049870d73296b70fe64",
    "regular": "4c18b5c2d0b98f7444c2ed8d9e545fa16e9b82ce172601b2647dbcb644622bb5",
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("", {}),
        ("regular", {"irregular": 0, "channels": 1, "missing": 60, "samples": 9, "seed": 5}),
    ],
)
def test_rows_have_the_same_bytes_everywhere(name, parameters):
    rows = view("series", train=50, validation=10, test=20, **parameters)
    found = digest([rows[index] for index in [*range(12), *range(50, 54), *range(60, 72)]])
    assert found == DIGESTS[name]


def looked_at(times, values):
    """The shape of a series without noise and gaps, by looking at it."""
    time, level = (times - times[0]) / (times[-1] - times[0]), values - np.median(values)
    size = values.max() - values.min()
    if size < 1e-9:
        return "flat"
    slope = np.diff(values) / np.diff(time)
    if np.ptp(slope) < 0.05 * np.abs(slope).max() + 0.2 * size:
        return "rise" if slope.mean() > 0 else "fall"
    if len(set(np.round(values, 3))) == 2:
        return "step"
    quiet = np.abs(level) < 0.02 * size
    if quiet.mean() > 0.6:
        return "spike" if (level > 0.02 * size).any() != (level < -0.02 * size).any() else "burst"
    jumps = np.abs(np.diff(values)) > 0.5 * size
    return "sawtooth" if jumps.any() else "oscillation"


def test_the_label_is_the_shape():
    rows = view("series", noise=0, missing=0, channels=2, irregular=0, samples=200, train=400)
    counts = Counter()
    for index in range(400):
        row = rows[index]
        for channel in "ab":
            assert looked_at(row["series"]["time"], row["series"][channel]) == row["label"]
        counts[row["label"]] += 1
    assert counts == dict.fromkeys(SHAPES, 50)


def test_level_scale_and_time_of_the_first_sample_tell_nothing():
    rows = view("series", noise=0, missing=0, train=800)
    sample = [rows[index] for index in range(800)]
    means = {
        label: np.mean([np.median(r["series"]["a"]) for r in sample if r["label"] == label])
        for label in SHAPES
    }
    assert max(means.values()) - min(means.values()) < 0.6
    starts = np.array([row["series"]["time"][0] for row in sample])
    assert starts.min() < 1e5 and starts.max() > 9e5


def test_times_and_gaps_are_as_asked():
    rows = view("series", missing=30, samples=20, channels=4)
    series = [rows[index]["series"] for index in range(200)]
    assert all(set(each) == {"time", "a", "b", "c", "d"} for each in series)
    steps = np.concatenate([np.diff(each["time"]) for each in series])
    assert 0.0199 < steps.min() < 0.03 and 0.17 < steps.max() < 0.1801
    gaps = np.mean([np.isnan(each[name]).mean() for each in series for name in "bcd"])
    assert 0.28 < gaps < 0.32
    regular = view("series", irregular=0)[3]["series"]
    assert np.allclose(np.diff(regular["time"]), 0.1) and len(regular["time"]) == 48
    empty = view("series", missing=100)[0]["series"]
    assert np.isnan(empty["b"]).all() and (~np.isnan(empty["a"])).sum() == 1


def test_splits_and_seeds_differ():
    few, many = view("series", train=10), view("series", train=1000)
    assert digest([few[1010 + 4]]) == digest([many[2000 + 4]])
    first = [digest([view("series", train=10)[place]]) for place in (0, 10, 1010)]
    assert len({*first, digest([view("series", seed=1)[0]])}) == 4


def test_errors_say_what_was_expected():
    for parameters, message in (
        ({"sample": 9}, "Did you mean 'samples'"),
        ({"samples": 2}, "not from 8 to 1000"),
        ({"channels": 17}, "not from 1 to 16"),
        ({"irregular": 2}, "not from 0 to 1"),
        ({"objects": 2}, "no parameter 'objects'"),
    ):
        with pytest.raises(PlaygroundError, match=message):
            view("series", **parameters)
