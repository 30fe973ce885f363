"""The view `known`: what tells the label, and what does not."""

import numpy as np
import pytest

from sensorium.playground import PlaygroundError, view
from sensorium.playground.attributes import WARM
from sensorium.playground.known import LABELS
from sensorium.playground.world import SHADES

ROWS = 200


def is_warm(picture):
    """By the most frequent colour, which is the ground's."""
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    ground = colours[counts.argmax()].astype(int)
    return int(np.abs(np.array(SHADES) - ground).sum(1).argmin()) in WARM


def facts(signal, rows=ROWS):
    """For each row: plus, warm (None without a picture), heavy."""
    found = []
    known = view("known", signal=signal, train=rows)
    for index in range(rows):
        row = known[index]
        warm = None
        if row["image"] is not None:
            warm = is_warm(np.asarray(row["image"]))
        found.append((row["label"] == LABELS[1], warm, row["weight"] > 20))
    return found


def agreement(pairs):
    return np.mean([a == b for a, b in pairs])


def test_the_signal_is_where_it_is_said_to_be():
    for signal, by_image, by_table in (("image", 1, 0.5), ("table", 0.5, 1), ("redundant", 1, 1)):
        rows = facts(signal)
        assert agreement((plus, warm) for plus, warm, _ in rows) == pytest.approx(by_image, abs=0.1)
        assert agreement((plus, heavy) for plus, _, heavy in rows) == pytest.approx(
            by_table, abs=0.1
        )


def test_xor_is_told_by_both_together_only():
    rows = facts("xor")
    assert all(plus == (warm != heavy) for plus, warm, heavy in rows)
    assert agreement((plus, warm) for plus, warm, _ in rows) == pytest.approx(0.5, abs=0.1)
    assert agreement((plus, heavy) for plus, _, heavy in rows) == pytest.approx(0.5, abs=0.1)


def test_noise_tells_nothing():
    rows = facts("noise")
    for told in ([(p, w) for p, w, _ in rows], [(p, h) for p, _, h in rows]):
        assert agreement(told) == pytest.approx(0.5, abs=0.1)
    assert agreement((p, w != h) for p, w, h in rows) == pytest.approx(0.5, abs=0.1)


def test_half_of_the_pictures_are_missing_and_what_is_there_tells():
    rows = facts("missing")
    absent = [plus for plus, warm, _ in rows if warm is None]
    assert len(absent) / ROWS == pytest.approx(0.5, abs=0.1)
    assert np.mean(absent) == pytest.approx(0.5, abs=0.12)  # absence tells nothing
    assert all(warm in (None, plus) and heavy == plus for plus, warm, heavy in rows)


def test_labels_are_balanced_and_another_seed_gives_other_rows():
    for signal in ("table", "noise"):
        assert np.mean([plus for plus, _, _ in facts(signal)]) == pytest.approx(0.5, abs=0.1)
    one, same, other = (view("known", train=8, seed=seed)[3] for seed in (0, 0, 1))
    assert one["weight"] == same["weight"] and np.array_equal(one["image"], same["image"])
    assert not np.array_equal(one["image"], other["image"])


def test_an_unknown_signal_is_refused():
    with pytest.raises(PlaygroundError, match="unknown 'imge'.*image"):
        view("known", signal="imge")
