"""Interactions of a run whose answers are known: which pairs, which labels, what is warned of."""

import numpy as np
import pytest
import torch

from sensorium.claims.registry import _composed_of
from sensorium.data import open_data
from sensorium.diagnostics.diagnosis import diagnose
from sensorium.modalities.base import default_views
from sensorium.report.diagnosis import diagnosis_table, diagnosis_view
from sensorium.report.terminal import to_text
from sensorium.systems.base import System
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import Field, Schema

ROWS = 300


class Oracle(System):
    """Gives the answer that a function finds in the inputs, 0 where one is absent."""

    name = "oracle"

    def __init__(self, schema, says):
        super().__init__(None, schema)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.says = says

    def views(self):
        return dict(default_views(self.schema))

    def losses(self, batch):
        return {}

    def predict(self, batch):
        values = {}
        for field in self.schema.find(role="input"):
            if field.name in batch:
                values[field.name] = batch[field.name].first(batch.size)[0]
        return self.says(values, batch.size)


@pytest.fixture
def diagnosed(tmp_path):
    """The diagnosis of a run that predicts `label` from columns, by an oracle."""

    def of(columns, label, says, modality="category", task="classification"):
        names = list(columns)
        lines = [",".join([*names, "label"])]
        lines += [",".join(map(str, cells)) for cells in zip(*columns.values(), label, strict=True)]
        (tmp_path / "rows.csv").write_text("\n".join(lines))
        fields = [Field(name=name, modality="number") for name in names]
        fields.append(Field(name="label", modality=modality, role="label"))
        data = open_data(tmp_path / "rows.csv", schema=Schema(fields=tuple(fields))).fit()
        (tmp_path / "run").mkdir(exist_ok=True)
        run = Run(
            RunFolder(tmp_path / "run"), {"task": task, "data": {}}, Oracle(data.schema, says)
        )
        return diagnose(run, data).content

    return of


def says_constant(values, size):
    return torch.nn.functional.one_hot(torch.zeros(size, dtype=torch.long), 2).float()


def random_bits(columns):
    random = np.random.default_rng(0)
    return [random.integers(0, 2, ROWS) for _ in range(columns)]


def test_an_xor_of_two_columns_is_synergy_of_these_two(diagnosed):
    a, b, c = random_bits(3)
    content = diagnosed({"a": a, "b": b, "c": c}, a ^ b, says_constant)
    pairs = {tuple(sorted(entry["inputs"])): entry for entry in content["interactions"]["pairs"]}
    assert set(pairs) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert pairs["a", "b"]["synergy"]["value"] > 0.9
    for pair in (("a", "c"), ("b", "c")):
        assert pairs[pair]["synergy"]["value"] < 0.05
    for entry in pairs.values():
        assert entry["clusters"] == [2, 2] and entry["classes"] == 2
        assert entry["gap"] < 1e-5
        assert entry["warnings"] == []
    assert content["interactions"]["skipped"] == {}


def test_of_many_inputs_the_four_most_important_are_paired(diagnosed):
    columns = dict(zip("abcde", random_bits(5), strict=True))

    def says(values, size):
        found = values["d"].long() if "d" in values else torch.zeros(size, dtype=torch.long)
        return torch.nn.functional.one_hot(found, 2).float()

    found = diagnosed(columns, columns["d"], says)["interactions"]
    assert len(found["pairs"]) == 6
    assert sum("d" in entry["inputs"] for entry in found["pairs"]) == 3
    assert list(found["skipped"].values()) == ["4 others are more important"]


def test_one_input_has_no_interactions(diagnosed):
    (a,) = random_bits(1)
    content = diagnosed({"a": a}, a, says_constant)
    assert content["interactions"] == {}
    assert "Interactions" not in to_text(diagnosis_table(content))


def test_a_number_is_taken_in_quarters(diagnosed):
    random = np.random.default_rng(1)
    a, b = random.random(ROWS).round(4), random.random(ROWS).round(4)

    def says(values, size):
        return sum(values.values(), torch.zeros(size))

    content = diagnosed({"a": a, "b": b}, a + b, says, modality="number", task="regression")
    (pair,) = content["interactions"]["pairs"]
    assert pair["classes"] == 4
    assert pair["label"] == pytest.approx(2, abs=0.01)
    # each tells something, and both together tell more than the two apart
    assert pair["redundancy"]["value"] + pair["unique_first"]["value"] > 0.2
    assert pair["synergy"]["value"] > 0.2


def test_what_clusters_lose_is_noticed(diagnosed):
    """The label is the parity of a digit: few clusters of the number know nothing of it."""
    random = np.random.default_rng(2)
    a, b = random.integers(0, 1000, ROWS), random.integers(0, 2, ROWS)

    def says(values, size):
        found = values["a"].long() % 2 if "a" in values else torch.zeros(size, dtype=torch.long)
        return torch.nn.functional.one_hot(found, 2).float()

    content = diagnosed({"a": a, "b": b}, a % 2, says)
    warnings = content["interactions"]["pairs"][0]["warnings"]
    assert len(warnings) == 2
    assert warnings[0].startswith("clusters of a keep 0.0")
    assert "knows at least 1.00" in warnings[0]
    assert "clusters of a and b keep" in warnings[1]
    assert warnings[0] in to_text(diagnosis_table(content)).replace("\n", " ")


def test_too_few_rows_are_said_to_be_few(diagnosed):
    random = np.random.default_rng(3)
    a, b = random.random(ROWS).round(4), random.random(ROWS).round(4)
    label = random.integers(0, 10, ROWS)
    content = diagnosed({"a": a, "b": b}, label, lambda values, size: torch.full((size, 10), 0.1))
    (pair,) = content["interactions"]["pairs"]
    assert pair["warnings"] == ["300 rows are few for 250 combinations of clusters and classes"]


def test_several_labels_have_no_interactions_and_say_why(diagnosed):
    a, b = random_bits(2)
    label = np.where(a == 1, "x;y", "x")
    content = diagnosed(
        {"a": a, "b": b},
        label,
        lambda values, size: torch.full((size, 2), 0.9),
        modality="categories",
    )
    assert content["interactions"]["pairs"] == []
    assert "several labels" in content["interactions"]["skipped"]["label"]
    assert "No interactions of label: a row has several labels" in to_text(diagnosis_table(content))


def test_the_report_shows_a_bar_and_both_tables(diagnosed):
    a, b = random_bits(2)
    content = diagnosed({"a": a, "b": b}, a & b, says_constant)
    view = diagnosis_view(content, None)
    assert [title for title, _ in view.grids[-2:]] == [
        "Interactions",
        "Interactions without labelled pairs",
    ]
    told, known = view.grids[-2][1].lines[0], view.grids[-1][1].lines[0]
    assert told.name == "a + b"
    both, _, _, together, label = (float(cell.split()[0]) for cell in told.cells)
    assert both == pytest.approx(0.31, abs=0.08)
    assert together == pytest.approx(0.5, abs=0.1)
    assert label == pytest.approx(0.81, abs=0.08)
    low, high = (float(end) for end in known.cells[0].split(" to "))
    assert 0.2 < low < together < high + 0.05
    assert known.cells[1:2] == ["redundancy"]
    assert view.plots[-1].svg.startswith("<svg")
    assert "only together" in view.plots[-1].svg
    assert "Interactions" in view.legend
    old = {name: value for name, value in content.items() if name != "interactions"}
    assert len(diagnosis_view(old, None).grids) == len(view.grids) - 2  # of an earlier version


def test_a_result_of_the_claim_depends_on_the_code_of_the_estimates():
    modules = _composed_of("sensorium.claims.catalogue.interactions", "diagnostics")
    assert "sensorium.diagnostics.interactions.solver" in modules
    assert "sensorium.diagnostics.answers" in modules
