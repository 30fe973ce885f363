"""Interactions estimated from rows: chance is not information, clusters know nothing of the label."""

import numpy as np
import pytest
import torch

from sensorium.diagnostics.interactions.bounds import bound_synergy
from sensorium.diagnostics.interactions.clusters import (
    Clusters,
    Vectors,
    num_clusters,
    vectors_of,
)
from sensorium.diagnostics.interactions.decomposition import decompose
from sensorium.diagnostics.interactions.pairs import bound_pair, estimate_pair
from sensorium.types import Batch, Entries, Field

PARTS = ("redundancy", "unique_first", "unique_second", "synergy")


def bits(random, rows):
    return random.integers(0, 2, rows), random.integers(0, 2, rows)


def spread_out(random, codes, each):
    """The same bit in one of several clusters, at random."""
    return codes * each + random.integers(0, each, len(codes))


def values(estimate):
    return np.array([estimate.parts[name].value for name in PARTS])


def test_chance_is_not_taken_for_synergy():
    """1,000 rows in 72 cells: as shares of rows are, there would be 0.02 bits."""
    raw, corrected = [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        first, second, label = (random.integers(0, size, 1000) for size in (6, 6, 2))
        raw.append(values(estimate_pair(first, second, label, resamples=0)))
        corrected.append(values(estimate_pair(first, second, label, resamples=50)))
    assert np.mean(raw, 0)[3] > 0.015
    assert np.mean(corrected, 0)[3] < 0.006


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        # the label is drawn at random in a fifth of the rows, so it is wrong in a tenth of them:
        # 1 - h(0.1) = 0.531 bits
        (lambda a, b: a ^ b, (0, 0, 0, 0.531)),
        (lambda a, b: a, (0, 0.531, 0, 0)),
        (lambda a, b: b, (0, 0, 0.531, 0)),
    ],
    ids=["xor", "first", "second"],
)
def test_a_noisy_gate_of_clusters(says, expected):
    random = np.random.default_rng(7)
    a, b = bits(random, 2000)
    label = np.where(random.random(2000) < 0.2, random.integers(0, 2, 2000), says(a, b))
    estimate = estimate_pair(spread_out(random, a, 3), spread_out(random, b, 3), label)
    np.testing.assert_allclose(values(estimate), expected, atol=0.05)
    assert estimate.shape == (6, 6, 2)
    assert estimate.gap < 1e-5
    for name, truth in zip(PARTS, expected, strict=True):
        metric = estimate.parts[name]
        assert metric.low - 0.02 <= truth <= metric.high + 0.02
    low, high = estimate.interval
    assert low - 0.02 <= expected[3] <= high + 0.02
    assert estimate.accuracy[0] <= 0.92 and estimate.accuracy[1] >= 0.88


def test_both_inputs_tell_the_same():
    random = np.random.default_rng(8)
    label = random.integers(0, 2, 1000)
    estimate = estimate_pair(spread_out(random, label, 2), spread_out(random, label, 3), label)
    np.testing.assert_allclose(values(estimate), (1, 0, 0, 0), atol=0.01)
    assert estimate.interval == pytest.approx((0, 0), abs=0.01)
    assert estimate.active == "none"
    assert estimate.accuracy == pytest.approx((1, 1), abs=0.01)


def test_and_is_known_to_be_synergy_without_labelled_pairs():
    random = np.random.default_rng(9)
    a, b = bits(random, 4000)
    estimate = estimate_pair(a, b, a & b)
    assert estimate.active == "redundancy"
    assert estimate.interval[0] == pytest.approx(0.311, abs=0.03)
    assert estimate.parts["synergy"].value == pytest.approx(0.5, abs=0.03)


def test_names_of_clusters_do_not_matter_and_inputs_change_places():
    random = np.random.default_rng(1)
    first, second = random.integers(0, 4, 500), random.integers(0, 3, 500)
    label = (first + 2 * second + random.integers(0, 2, 500)) % 3
    one = estimate_pair(first, second, label)
    renamed = estimate_pair(5 + 7 * ((first + 1) % 4), second, label)  # 5, 12, 19, 26
    swapped = estimate_pair(second, first, label)
    np.testing.assert_allclose(values(one), values(renamed), atol=1e-5)
    np.testing.assert_allclose(values(one)[[0, 2, 1, 3]], values(swapped), atol=1e-5)
    assert one.bounds["upper"].value == pytest.approx(swapped.bounds["upper"].value, abs=1e-5)


def test_rows_of_one_group_are_one_piece_of_evidence():
    random = np.random.default_rng(2)
    a, b = bits(random, 200)
    each = np.repeat(np.arange(50), 4)
    many = estimate_pair(a, b, a ^ b, np.zeros(200, dtype=int))
    assert many.parts["synergy"].low is None
    repeated = estimate_pair(a[each], b[each], (a & b)[each], each)
    apart = estimate_pair(a[each], b[each], (a & b)[each])

    def width(estimate):
        return estimate.parts["synergy"].high - estimate.parts["synergy"].low

    assert width(repeated) > 1.3 * width(apart)


def test_bounds_from_rows_that_have_nothing_in_common():
    """Three sets of rows of the same kind: no row has both inputs and a label."""
    random = np.random.default_rng(3)
    sets = []
    for _ in range(3):
        a, b = bits(random, 20_000)
        sets.append((a, b, a & b))
    (a, _, y), (_, other, z), (c, d, _) = sets
    parts, bounds = bound_pair((a, y), (other, z), (c, d))
    together = estimate_pair(*sets[0])
    assert parts.redundancy[0] == pytest.approx(together.parts["redundancy"].value, abs=0.02)
    assert bounds.from_redundancy[0] == pytest.approx(0.311, abs=0.02)
    assert bounds.upper[0] == pytest.approx(together.bounds["upper"].value, abs=0.02)


def test_bounds_of_the_same_rows_are_those_of_their_tables():
    random = np.random.default_rng(4)
    a, b = random.integers(0, 3, 50_000), random.integers(0, 4, 50_000)
    label = (a * b) % 2
    table = np.zeros((1, 3, 4, 2))
    np.add.at(table[0], (a, b, label), 1 / len(a))
    parts = decompose(table.sum(2), table.sum(1))
    exact = bound_synergy(table.sum(2), table.sum(1), table.sum(3), parts=parts)
    _, found = bound_pair((a, label), (b, label), (a, b))
    for name in ("from_redundancy", "from_uniqueness", "upper"):
        assert getattr(found, name)[0] == pytest.approx(getattr(exact, name)[0], abs=2e-3)


def test_a_cluster_that_only_pairs_have_tells_nothing():
    random = np.random.default_rng(5)
    a, b = bits(random, 1000)
    unseen = np.where(random.random(1000) < 0.3, 2, a)
    parts, bounds = bound_pair((a, a), (b, a), (unseen, b))
    assert parts.unique_first[0] == pytest.approx(0.85, abs=0.05)  # of all rows, 15 % are there
    assert bounds.lower[0] < 0.05


# ------------------------------------------------------------------------- clusters


def test_the_number_of_clusters_follows_rows_and_classes():
    assert num_clusters(1000, 2) == 7
    assert num_clusters(100, 2) == num_clusters(1000, 20) == 5
    assert num_clusters(10**6, 2) == 20


def test_few_values_are_clusters_as_they_are():
    vectors = np.repeat([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]], 20, 0)
    clusters = Clusters.fit(vectors + 1e-9, 5)
    assert len(clusters.centres) == 3
    codes = clusters.codes(Vectors(vectors, np.ones(60, dtype=bool)))
    assert len(np.unique(codes)) == 3
    assert (codes == np.repeat(codes[::20], 20)).all()


def test_clusters_of_many_values_are_repeatable_and_find_what_is_apart():
    random = np.random.default_rng(6)
    blob = random.integers(0, 4, 400)
    vectors = random.normal(size=(4, 6))[blob] * 10 + random.normal(size=(400, 6))
    every = Vectors(vectors, np.ones(400, dtype=bool))
    codes = Clusters.fit(vectors, 4).codes(every)
    assert len(np.unique(4 * blob + codes)) == 4
    np.testing.assert_array_equal(codes, Clusters.fit(vectors, 4).codes(every))


def test_absent_rows_are_a_cluster_of_their_own():
    present = np.array([True, False, True, False])
    clusters = Clusters(np.array([[0.0], [1.0]]))
    codes = clusters.codes(Vectors(np.array([[0.9], [0.2]]), present))
    assert codes.tolist() == [1, 2, 0, 2]
    nobody = Vectors(np.zeros((0, 1)), np.zeros(3, dtype=bool))
    assert clusters.codes(nobody).tolist() == [2, 2, 2]


def batch_of(name, entries, rows=4):
    keys = [str(row) for row in range(rows)]
    return Batch({name: entries}, keys, torch.arange(rows))


def entries_of(values, row, mask=None, embedded=False):
    row = torch.tensor(row)
    item = torch.arange(len(row)) - torch.searchsorted(row, row)
    return Entries(torch.as_tensor(values), row, item, mask, embedded)


def test_vectors_of_the_system_are_averaged_over_entries_and_tokens():
    field = Field(name="image", modality="image")
    entries = entries_of([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]], [0, 0, 2], embedded=True)
    found = vectors_of(batch_of("image", entries), field)
    assert found.present.tolist() == [True, False, True, False]
    assert found.values.tolist() == [[2, 1], [5, 5]]
    tokens = torch.tensor([[[1.0], [3.0], [9.0]], [[4.0], [9.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    entries = entries_of(tokens, [1, 3], mask, embedded=True)
    assert vectors_of(batch_of("image", entries), field).values.tolist() == [[2], [4]]


def test_small_values_are_taken_as_they_are_and_others_are_not():
    category = Field(
        name="place", modality="category", fitted={"classes": ["a", "b", "c"], "counts": [5, 1, 9]}
    )
    found = vectors_of(batch_of("place", entries_of([0, 2, 3], [0, 1, 3])), category)
    assert len(np.unique(found.values, axis=0)) == 3
    assert found.values[2].tolist() == [0, 0, 0]  # a class that no training row has
    number = Field(name="age", modality="number")
    found = vectors_of(batch_of("age", entries_of([1.0, 2.0], [0, 1])), number)
    assert found.values.tolist() == [[1], [2]]
    table = Field(
        name="facts",
        modality="table",
        columns={"kind": "category", "size": "number"},
        fitted={"columns": {"kind": {"classes": ["x", "y"]}, "size": {"mean": 0.0, "std": 1.0}}},
    )
    filled = torch.tensor([[True, True], [True, False]])
    found = vectors_of(
        batch_of("facts", entries_of([[2.0, 0.5], [0.0, 0.0]], [0, 2], filled)), table
    )
    assert found.values.tolist() == [[1, 1, 0, 1, 0.5], [1, 0, 0, 0, 0]]
    image = Field(name="image", modality="image")
    pixels = entries_of(torch.zeros(2, 8, 8, 3), [0, 1])
    assert vectors_of(batch_of("image", pixels), image) is None
    assert not vectors_of(batch_of("age", entries_of([1.0], [0])), image).present.any()
