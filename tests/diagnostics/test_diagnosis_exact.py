"""Diagnosis of systems whose answers are known, against numbers found by hand."""

import numpy as np
import pytest
import torch

from sensorium.data import open_data
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.diagnosis import diagnose
from sensorium.diagnostics.kinds import sort_rows
from sensorium.diagnostics.partners import draw_partners
from sensorium.diagnostics.scoring import Score
from sensorium.modalities.base import default_views
from sensorium.systems.base import System
from sensorium.tasks.metrics import classification_scores, multilabel_scores, regression_scores
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import Field, Schema

ROWS = 40


class Stub(System):
    """Says yes if `a` differs from `b`, and no where one of them is absent."""

    name = "stub"

    def __init__(self, schema):
        super().__init__(None, schema)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def views(self):
        return dict(default_views(self.schema))

    def losses(self, batch):
        return {}

    def predict(self, batch):
        said = torch.zeros(batch.size, dtype=torch.long)
        if "a" in batch and "b" in batch:
            (a, has_a), (b, has_b) = (batch[name].first(batch.size) for name in ("a", "b"))
            said = (has_a & has_b & (a != b)).long()
        return torch.nn.functional.one_hot(said, 2).float()


@pytest.fixture
def asked(tmp_path):
    """A run of the stub, and its data: each pair of `a` and `b` ten times, `label` is their XOR."""

    def of(group=None, hangs=False):
        lines = ["a,b,label,group"]
        for row in range(ROWS):
            a, b = row & 1, row >> 1 & 1
            lines.append(f"{a},{b},{'yes' if a != b else 'no'},{group or row}")
        (tmp_path / "rows.csv").write_text("\n".join(lines))
        schema = Schema(
            fields=(
                Field(name="a", modality="number"),
                Field(name="b", modality="number", of="a" if hangs else None),
                Field(name="label", modality="category", role="label"),
            ),
            group="group",
        )
        data = open_data(tmp_path / "rows.csv", schema=schema).fit()
        (tmp_path / "run").mkdir(exist_ok=True)
        run = Run(
            RunFolder(tmp_path / "run"), {"task": "classification", "data": {}}, Stub(data.schema)
        )
        return run, data

    return of


def test_xor_by_hand(asked):
    """Without both the stub says no, which is right for half of the rows; with both it is right."""
    content = diagnose(*asked()).content
    importance = content["importance"]
    assert content["rows"] == ROWS and content["chance"] == 0.5
    assert content["score"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert importance["nothing"]["value"] == 0.5
    for name in ("a", "b"):
        assert importance["overall"][name]["value"] == pytest.approx(0.25)
        assert importance["by_class"]["no"]["importance"][name]["value"] == pytest.approx(0)
        assert importance["by_class"]["yes"]["importance"][name]["value"] == pytest.approx(0.5)
        assert content["alone"][name]["value"] == content["without"][name]["value"] == 0.5
        conflict = content["conflict"][name]
        # of another answer and another content, so that the answer always turns into that one
        assert conflict["rows"] == ROWS
        assert (conflict["own"]["value"], conflict["other"]["value"]) == (0, 1)
        assert (conflict["neither"]["value"], conflict["before"]["value"]) == (0, 0)
        scores = [step["value"] for step in content["missing"][name]]
        assert scores[0] == 1 and scores[-1] == 0.5
        assert scores == sorted(scores, reverse=True)  # the same rows, and more
    shares = {kind: entry["value"] for kind, entry in content["kinds"].items()}
    assert shares == {
        "only with a": 0, "only with b": 0, "only with several together": 0.5,
        "with any one": 0.5, "only if something is left out": 0, "never": 0,
    }  # fmt: skip


def test_rows_of_one_group_are_one_piece_of_evidence(asked):
    """With a single group nothing can be resampled, so nothing has an interval."""
    content = diagnose(*asked(group="one")).content

    def lows(entry):
        if isinstance(entry, dict):
            yield from ([entry["low"]] if "low" in entry else [])
            for value in entry.values():
                yield from lows(value)
        elif isinstance(entry, list):
            for value in entry:
                yield from lows(value)

    assert len(found := list(lows(content))) > 20
    assert set(found) == {None}
    assert content["conflict"] == {}  # nobody has a partner of another group


def test_what_hangs_on_a_field_goes_with_it(asked):
    run, data = asked(hangs=True)
    answers = Answers(run, data, data.rows("all"))
    assert answers.inputs == ["a"]
    np.testing.assert_array_equal(answers.without(["a"]).argmax(1), np.zeros(ROWS))
    assert len(np.unique(answers.content["a"])) == 4  # a and b together
    swapped = np.roll(np.arange(ROWS), -1)
    np.testing.assert_array_equal(answers.exchanged("a", swapped).argmax(1), answers.truth[swapped])


def test_partners_differ_in_everything_and_come_from_all_classes():
    rows = np.arange(1000, 1400)
    classes, groups, contents = rows % 8, rows // 5, rows % 3
    partner, fits = draw_partners("test", rows, (classes, groups, contents))
    assert fits.all()
    np.testing.assert_array_equal(np.sort(partner), np.arange(400))
    for ids in (classes, groups, contents):
        assert (ids != ids[partner]).all()
    met = np.zeros((8, 8), dtype=int)
    np.add.at(met, (classes, classes[partner]), 1)
    assert (met[~np.eye(8, dtype=bool)] > 0).all()


def test_no_more_rows_have_a_partner_than_there_are_others():
    """Of 100 rows 70 are of one class: 30 of them meet the others, and 40 cannot."""
    classes = np.repeat([0, 1], [70, 30])
    _, fits = draw_partners("test", np.arange(100), (classes,))
    assert fits.sum() == 60
    assert fits[70:].all()
    assert not draw_partners("test", np.arange(5), (np.zeros(5),))[1].any()


def test_scores_and_their_intervals_are_those_of_the_task():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 4)

    truth = random.normal(3000, 2, size=100)
    outputs = truth + random.normal(size=100)
    found = Score("R2", truth, groups).metrics({"x": outputs[:, None]})["x"]
    expected = regression_scores(outputs, truth, groups).metrics["R2"]
    assert found.as_dict() == pytest.approx(expected.as_dict())

    labels, chances = random.random((100, 5)) < 0.3, random.random((100, 5))
    field = Field(name="tags", modality="categories", role="label")
    score = Score.of(field, labels.astype(np.float32), groups)
    found = score.metrics({"other": 1 - chances, "x": chances})["x"]
    expected = multilabel_scores(chances, labels, groups).metrics
    assert score.name == "macro_F1"
    assert found.as_dict() == pytest.approx(expected["macro_F1"].as_dict())
    recalls = multilabel_scores(chances, labels, groups, class_names=list("abcde")).metrics
    of_class = score.of_class(2).metrics({"x": score.outputs_of_class(chances, 2)})["x"]
    assert of_class.value == pytest.approx(recalls["recall/c"].value)

    classes = random.integers(0, 5, 100)
    field = Field(name="kind", modality="category", role="label")
    found = Score.of(field, classes, groups).metrics({"x": chances})["x"]
    expected = classification_scores(chances, classes, groups, class_names=list("abcde")).metrics
    assert found.as_dict() == pytest.approx(expected["accuracy"].as_dict())


def test_a_mixture_is_resampled_as_one():
    """The difference of an output and itself is zero in every resample."""
    random = np.random.default_rng(1)
    labels, chances = random.random((50, 3)) < 0.5, random.random((50, 3))
    score = Score("macro_F1", labels, np.arange(50))
    mixed = score.mixtures([chances, chances], {"none": np.array([1.0, -1.0])})["none"]
    assert (mixed.value, mixed.low, mixed.high) == (0, 0, 0)


def test_the_best_constant_answer():
    """F1 of a label that half of the rows have, if all are said to: 2 * 0.5 / 1.5."""
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], dtype=float)
    assert Score("macro_F1", truth, np.arange(4)).constant() == pytest.approx((2 / 3 + 0.4) / 2)
    assert Score("accuracy", np.array([0, 1, 1, 2]), np.arange(4)).constant() == 0.5


def test_each_row_is_of_one_kind():
    """Two inputs as in the paper's table: right with neither, a, b, both of them (columns)."""
    right = np.array(
        [
            #  only a, only b, any, both, never, conflict, distracted
            [0, 0, 0, 0, 1, 0, 0],  # the empty subset does not count
            [1, 0, 1, 0, 0, 1, 1],
            [0, 1, 1, 0, 0, 1, 0],
            [1, 1, 1, 1, 0, 0, 0],
        ],
        dtype=bool,
    )
    kinds = sort_rows(right, ["a", "b"])
    assert {kind: np.flatnonzero(rows).tolist() for kind, rows in kinds.items()} == {
        "only with a": [0], "only with b": [1], "with any one": [2],
        "only with several together": [3], "never": [4], "only if something is left out": [5, 6],
    }  # fmt: skip
    for players in (1, 2, 3, 4):
        right = np.random.default_rng(players).random((2**players, 500)) < 0.6
        kinds = sort_rows(right, list("abcd")[:players])
        np.testing.assert_array_equal(np.sum(list(kinds.values()), 0), np.ones(500))
