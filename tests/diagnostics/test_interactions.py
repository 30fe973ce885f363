"""Redundancy, uniqueness, synergy and its bounds, against gates, closed forms and random tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from sensorium.diagnostics.interactions.bounds import (
    SHARP_CONSTANT,
    accuracy_limits,
    bound_synergy,
    disagreement,
    least_conditional_information,
    least_coupling_entropy,
)
from sensorium.diagnostics.interactions.decomposition import (
    decompose,
    entropy,
    information,
    synergy,
)
from sensorium.diagnostics.interactions.solver import most_uncertain
from sensorium.diagnostics.interactions.study import bounds_on_random_tables

AND = 0.75 * np.log2(4 / 3)  # I(X;Y) of one input of AND: 0.3113 bits


def gate(says, first=(0, 1), second=(0, 1)):
    """The joint distribution of two independent inputs and what a gate says of them."""
    answers = [[says(a, b) for b in second] for a in first]
    table = np.zeros((1, len(first), len(second), 1 + max(map(max, answers))))
    for a, row in enumerate(answers):
        for b, answer in enumerate(row):
            table[0, a, b, answer] = 1 / (len(first) * len(second))
    return table


def same():
    table = np.zeros((1, 2, 2, 2))
    table[0, 0, 0, 0] = table[0, 1, 1, 1] = 0.5
    return table


def marginals(table):
    return table.sum(2), table.sum(1), table.sum(3)


def parts_of(table):
    first, second, _ = marginals(table)
    parts = decompose(first, second)
    found = parts.redundancy, parts.unique_first, parts.unique_second, synergy(table, parts)
    return np.stack(found, 1)


def bounds_of(table, **options):
    return bound_synergy(*marginals(table), **options)


def random_tables(count, *shape, seed=0):
    tables = np.random.default_rng(seed).exponential(size=(count, *shape))
    return tables / tables.sum((1, 2, 3), keepdims=True)


# ------------------------------------------------------------------------- decomposition


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (gate(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (gate(lambda a, b: a & b), (AND, 0, 0, 0.5)),
        (gate(lambda a, b: a | b), (AND, 0, 0, 0.5)),
        (gate(lambda a, b: a), (0, 1, 0, 0)),
        (gate(lambda a, b: b), (0, 0, 1, 0)),
        (gate(lambda a, b: 2 * a + b), (0, 1, 1, 0)),
        (same(), (1, 0, 0, 0)),
        (gate(lambda a, b: 0), (0, 0, 0, 0)),
        # the first bit of four-valued inputs is XORed, the second of the first input is copied
        (
            gate(lambda a, b: 2 * (a & 1) + ((a ^ b) >> 1), range(4), range(4)),
            (0, 1, 0, 1),
        ),
    ],
    ids=["xor", "and", "or", "first", "second", "copy", "same", "constant", "xor and unique"],
)
def test_gates_in_bits(table, expected):
    np.testing.assert_allclose(parts_of(table)[0], expected, atol=5e-6)


def test_an_input_that_is_a_noisy_copy_of_the_other_has_nothing_of_its_own():
    """X2 is X1, wrong in a tenth of the rows: R = I(X2;Y), U1 the rest of I(X1;Y), by theory."""
    right = np.array([[0.9, 0.1], [0.1, 0.9]])
    label = np.array([[0.4, 0.1], [0.05, 0.45]])
    table = (right[:, :, None] * label[:, None, :])[None]
    first, second, _ = marginals(table)
    redundancy, one, other, both = parts_of(table)[0]
    assert redundancy == pytest.approx(information(second)[0], abs=1e-5)
    assert one == pytest.approx((information(first) - information(second))[0], abs=1e-5)
    assert other == pytest.approx(0, abs=1e-5)
    assert both == pytest.approx(0, abs=1e-5)


def test_two_by_two_tables_against_their_closed_form():
    """For each y one number t is free: q(0,0,y); the other three cells follow from the marginals."""
    tables = random_tables(25, 2, 2, 2, seed=3)
    found = most_uncertain(tables.sum(2), tables.sum(1))
    for table, entropy_found in zip(tables, found.entropy, strict=True):
        first, second = table.sum(1), table.sum(0)  # (a, y), (b, y)
        low = np.maximum(0, first[0] + second[0] - table.sum((0, 1)))
        high = np.minimum(first[0], second[0])

        def negative(t, first=first, second=second):
            q = np.stack([t, first[0] - t, second[0] - t, first[1] - second[0] + t])
            q = q.clip(1e-300)
            return float((q * np.log2(q / q.sum(1, keepdims=True))).sum())

        best = min(
            minimize(
                negative,
                low + share * (high - low),
                bounds=list(zip(low, high, strict=True)),
                method="L-BFGS-B",
                options={"ftol": 1e-15, "gtol": 1e-10},
            ).fun
            for share in (0.2, 0.5, 0.8)
        )
        assert entropy_found == pytest.approx(-best, abs=1e-5)


def test_each_uniqueness_is_conditional_on_the_other_input():
    tables = random_tables(50, 3, 4, 2, seed=1)
    parts = decompose(tables.sum(2), tables.sum(1))
    given_second = np.stack([conditional(q, 1) for q in parts.joint])
    given_first = np.stack([conditional(q, 0) for q in parts.joint])
    np.testing.assert_allclose(parts.unique_first, given_second, atol=1e-8)
    np.testing.assert_allclose(parts.unique_second, given_first, atol=1e-8)
    assert np.abs(parts.unique_first - parts.unique_second).max() > 0.05


def conditional(table, axis):
    """I(X;Y|Z) of one distribution, where Z is the axis 0 or 1 and X the other of them."""
    total = 0.0
    for part in np.moveaxis(table, axis, 0):
        share = part.sum()
        total += share * information(part[None] / share)[0]
    return total


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays(
        np.int64,
        st.tuples(*[st.integers(1, 4)] * 3),
        elements=st.sampled_from([0, 0, 0, 1, 2, 50, 1000]),
    )
)
def test_counts_of_any_kind_have_a_certified_decomposition(counts):
    """Empty clusters, absent classes, single rows: exact all the same, and the identities hold."""
    if not counts.sum():
        return
    table = counts[None] / counts.sum()
    first, second, pairs = marginals(table)
    solved = most_uncertain(first, second)
    assert solved.gap[0] <= 2e-6
    assert solved.residual[0] <= 1e-8
    redundancy, one, other, both = parts_of(table)[0]
    assert min(redundancy, one, other, both) > -5e-6
    assert redundancy + one == pytest.approx(information(first)[0], abs=1e-8)
    assert redundancy + other == pytest.approx(information(second)[0], abs=1e-8)
    total = information(table.reshape(1, -1, table.shape[3]))[0]
    assert redundancy + one + other + both == pytest.approx(total, abs=1e-8)
    bounds = bound_synergy(first, second, pairs)
    assert bounds.lower[0] - 1e-5 <= both <= bounds.upper[0] + 1e-5


def test_cells_of_hardly_any_probability_do_no_harm():
    for shape in ((6, 1, 3), (3, 5, 2), (1, 7, 4), (5, 3, 5)):
        tables = np.random.default_rng(0).random((100, *shape)) ** 30
        tables /= tables.sum((1, 2, 3), keepdims=True)
        solved = most_uncertain(tables.sum(2), tables.sum(1))
        assert solved.gap.max() <= 2e-6
        assert solved.residual.max() <= 1e-8


def test_tables_do_not_influence_each_other():
    tables = random_tables(30, 3, 2, 3)
    together = most_uncertain(tables.sum(2), tables.sum(1))
    for place in (0, 17):
        alone = most_uncertain(tables[[place]].sum(2), tables[[place]].sum(1))
        assert alone.entropy[0] == pytest.approx(together.entropy[place], abs=2e-6)


def test_tables_that_disagree_are_refused():
    tables = random_tables(2, 2, 2, 2)
    with pytest.raises(ValueError, match="disagree"):
        most_uncertain(tables[:1].sum(2), tables[1:].sum(1))


# ------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(("count", "shape"), [(3000, (2, 2, 2)), (500, (4, 4, 3))])
@pytest.mark.parametrize("constant", [0.25, SHARP_CONSTANT])
def test_no_bound_is_ever_violated(count, shape, constant):
    found = bounds_on_random_tables(count, shape, constant=constant)
    for name, entry in found.items():
        assert entry["violations"] == 0, name
        assert entry["worst"] < 1e-5, name
    # they say something, though not much, of which of two random distributions has more of it
    assert found["lower"]["rank"] > 0.15


def test_a_constant_of_one_is_too_large():
    """What must not be used: the raw disagreement is above the synergy in some tables."""
    assert bounds_on_random_tables(3000, (2, 2, 2), constant=1.0)["uniqueness"]["violations"] > 0.01


def test_the_bound_from_redundancy_has_three_equal_forms():
    tables = random_tables(200, 3, 4, 2, seed=5)
    first, second, pairs = marginals(tables)
    parts = decompose(first, second)
    shared = information(pairs)
    forms = {}
    for name, own, table, unique in (
        ("first", pairs.sum(2), first, parts.unique_first),
        ("second", pairs.sum(1), second, parts.unique_second),
    ):
        oriented = pairs if name == "first" else pairs.swapaxes(1, 2)
        least, _ = least_conditional_information(table, oriented)
        most = most_uncertain(oriented.swapaxes(1, 2), table.swapaxes(1, 2)).entropy
        forms[name] = parts.redundancy - shared + least
        np.testing.assert_allclose(forms[name], entropy(own) - shared - most - unique, atol=1e-8)
        rest = entropy(own) - shared - most - information(table) + parts.redundancy
        np.testing.assert_allclose(forms[name], rest, atol=1e-8)
    bounds = bound_synergy(first, second, pairs, parts=parts)
    np.testing.assert_allclose(bounds.from_redundancy, np.maximum(*forms.values()), atol=1e-8)
    assert (forms["first"] > forms["second"] + 1e-3).any()  # each is the better one somewhere
    assert (forms["second"] > forms["first"] + 1e-3).any()


def test_the_two_lower_bounds_cover_different_synergy():
    """AND, whose inputs are independent, is seen by the first; inputs that disagree by the second."""
    agreement = bounds_of(gate(lambda a, b: a & b))
    assert agreement.from_redundancy[0] == pytest.approx(AND, abs=1e-5)
    assert agreement.from_uniqueness[0] < 0.1
    bounds = bounds_of(random_tables(3000, 2, 2, 2))
    disagreeing = bounds.from_uniqueness > np.maximum(bounds.from_redundancy, 0) + 1e-3
    assert 0.01 < disagreeing.mean() < 0.2


def test_disagreement_by_hand():
    """p(y=1|x1) is 0.8 or 0.2, p(y=1|x2) likewise; x1 and x2 never agree: 2 * 0.6 ^ 2 = 0.72."""
    sure = np.array([[0.1, 0.4], [0.4, 0.1]])[None]
    opposite = np.array([[0.0, 0.5], [0.5, 0.0]])[None]
    assert disagreement(sure, sure, opposite)[0] == pytest.approx(0.72)
    assert disagreement(sure, sure, np.diag([0.5, 0.5])[None])[0] == pytest.approx(0)
    # no information of either alone would be left: 0.72 / 4 less U1 = U2 = 0
    bounds = bound_synergy(sure, sure, opposite)
    assert bounds.from_uniqueness[0] == pytest.approx(0.18, abs=1e-5)
    assert bounds.lower[0] >= 0.18 - 1e-5


def test_least_coupling_by_hand():
    """(.5, .5) and (.6, .4): partial sums .5, 1 and .6, 1, the smaller ones .5, 1: 1 bit."""
    half, uneven = np.array([[0.5, 0.5]]), np.array([[0.6, 0.4]])
    assert least_coupling_entropy(half, uneven)[0] == pytest.approx(1)
    # (.7, .3) and (.4, .4, .2): .4, .8, 1 are the smaller sums
    skew, three = np.array([[0.3, 0.7]]), np.array([[0.4, 0.2, 0.4]])
    expected = entropy(np.array([[0.4, 0.4, 0.2]]))[0]
    assert least_coupling_entropy(skew, three)[0] == pytest.approx(expected)


def test_no_coupling_is_below_the_least():
    tables = random_tables(500, 3, 4, 1)[..., 0] ** 6
    tables /= tables.sum((1, 2), keepdims=True)
    assert (entropy(tables) >= least_coupling_entropy(tables.sum(2), tables.sum(1)) - 1e-9).all()


def test_accuracy_lies_within_its_limits_also_where_classes_are_rare():
    """The accuracy of the best model of a table is the sum of the largest cells."""
    for shape in ((2, 2, 2), (4, 4, 3), (3, 3, 6)):
        tables = random_tables(300, *shape) ** 3
        tables[:, :, :, 0] *= 5
        tables /= tables.sum((1, 2, 3), keepdims=True)
        label = tables.sum((1, 2))
        told = information(tables.reshape(300, -1, shape[2]))
        best = tables.max(3).sum((1, 2))
        low, high = accuracy_limits(told, told, label)
        assert (low <= best + 1e-9).all() and (best <= high + 1e-9).all()
        bounds = bounds_of(tables)
        known = decompose(*marginals(tables)[:2]).without_synergy
        low, high = accuracy_limits(known + bounds.lower, known + bounds.upper, label)
        assert (low <= best + 1e-9).all() and (best <= high + 1e-9).all()


def test_accuracy_limits_by_hand():
    """Nothing is known: the most frequent class is right; everything is known: always right."""
    label = np.array([[0.25] * 4, [0.97, 0.01, 0.01, 0.01], [0.5, 0.5, 0, 0]])
    low, high = accuracy_limits(np.zeros(3), np.zeros(3), label)
    np.testing.assert_allclose(low, 2 ** -entropy(label))
    np.testing.assert_allclose(high, [0.25, 0.97, 0.5], atol=1e-6)
    # (I + 1) / log |Y| would be 0.5 for the second, which the constant answer beats
    low, high = accuracy_limits(entropy(label), entropy(label), label)
    np.testing.assert_allclose([low, high], np.ones((2, 3)), atol=1e-6)
