"""Reconstruction: metrics by hand, every direction asked with nothing but its sources, rows that lack fields."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn

from sensorium.data import open_data
from sensorium.modalities.base import get_modality
from sensorium.modalities.image import ImageView
from sensorium.modalities.maps import MapView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.systems.base import Reconstructs, System, SystemConfig
from sensorium.tasks import get_task
from sensorium.tasks.metrics.values import field_errors
from sensorium.tasks.reconstruction import _true_values
from sensorium.types import Card, Entries, Field, Schema, UserError

IMAGE = Field(name="image", modality="image")
DEPTH = Field(name="depth", modality="maps", options={"range": [0, 100]})
HEAT = Field(name="heat", modality="maps", options={"range": [-10, 10]})
KINDS = Field(name="kinds", modality="maps", options={"kind": "classes", "classes": [3, 5, 9]})


def measured(field, told, truth):
    errors = field_errors(field)
    errors.learn(truth[:3])
    errors.learn(truth[3:])
    columns = errors.errors(told, truth)
    metrics = errors.metrics(columns, np.arange(len(truth)), 0)
    return {name: metric.value for name, metric in metrics.items()}, errors.skill(columns)


def test_pictures_by_decibels_and_explained_variance():
    truth = torch.randint(0, 256, (8, 6, 6, 3), dtype=torch.uint8)
    told = truth.roll(1, 0)
    metrics, skill = measured(IMAGE, told, truth)
    away = (told.double() - truth.double()) / 255
    each = away.square().flatten(1).mean(1)
    assert metrics == {"PSNR": pytest.approx((-10 * each.log10()).mean().item())}
    spread = (truth.double() / 255).var(0, correction=0).mean()
    assert skill == pytest.approx((1 - each / spread).numpy(), rel=1e-5)
    assert measured(IMAGE, truth, truth)[1] == pytest.approx(np.ones(8))
    constant = truth.double().mean(0, keepdim=True).expand(8, -1, -1, -1)
    assert measured(IMAGE, constant, truth)[1].mean() == pytest.approx(0, abs=1e-5)


def with_valid(numbers, valid):
    return torch.stack([numbers * valid, valid.float()], -1)


def test_numbers_in_their_own_unit_where_something_is_said():
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(8, 5, 5, generator=generator)
    valid = torch.rand(8, 5, 5, generator=generator) < 0.7
    told = (shares + 0.3 * torch.rand(8, 5, 5, generator=generator)).clamp(0, 1)
    metrics, skill = measured(
        DEPTH, with_valid(told, torch.ones_like(valid)), with_valid(shares, valid)
    )
    absolute, within = [], []
    for row in range(8):
        said, true = 100 * told[row][valid[row]], 100 * shares[row][valid[row]]
        absolute.append((said - true).abs().mean().item())
        within.append((torch.maximum(said / true, true / said) < 1.25).float().mean().item())
    expected = {"MAE": np.mean(absolute), "delta1": np.mean(within)}
    assert metrics == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    assert measured(DEPTH, with_valid(shares, valid), with_valid(shares, valid))[
        1
    ] == pytest.approx(1)
    # ratios of numbers below zero say nothing
    assert set(measured(HEAT, with_valid(told, valid), with_valid(shares, valid))[0]) == {"MAE"}
    assert skill.mean() < 1


def test_a_map_in_which_nothing_is_said_does_not_count():
    numbers, valid = torch.rand(3, 4, 4), torch.ones(3, 4, 4)
    valid[1] = 0
    errors = field_errors(DEPTH)
    columns = errors.errors(with_valid(numbers, valid), with_valid(numbers, valid))
    assert np.isfinite(columns).all(1).tolist() == [True, False, True]


def test_classes_by_intersection_over_union():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (8, 6, 6), generator=generator)  # 3: no class is known
    told = torch.where(torch.rand(8, 6, 6, generator=generator) < 0.6, truth, 1).clamp(max=2)
    metrics, skill = measured(KINDS, told, truth)
    known = truth < 3
    expected = jaccard_score(truth[known], told[known], average="macro")
    assert metrics["mIoU"] == pytest.approx(expected)
    shares = [
        (t[k] == s[k]).float().mean().item() for t, s, k in zip(truth, told, known, strict=True)
    ]
    assert metrics["accuracy"] == pytest.approx(np.mean(shares))
    most = torch.stack([(truth == c).sum(0) for c in range(3)]).amax(0).sum() / known.sum()
    assert skill == pytest.approx(1 - (1 - np.array(shares)) / (1 - most.item()), rel=1e-5)


def test_a_class_that_never_occurs_is_left_out():
    truth = torch.zeros(4, 3, 3, dtype=torch.long)
    metrics, skill = measured(KINDS, truth, truth)
    assert metrics["mIoU"] == 1.0
    assert np.isnan(skill).all()  # a constant is perfect, so that nothing is left to be explained


class Oracle(System):
    """Knows the truth of a row if it is shown a field, and notes what it is shown."""

    name = "oracle"
    card = Card(
        title="", paper="", year=2026, family="", modalities=("any",), tasks=("reconstruction",)
    )
    Config = SystemConfig
    sources = ("image", "depth", "segments")
    reconstructed = ("depth", "segments")

    def __init__(self, data):
        super().__init__(SystemConfig(), data.schema)
        self.weight = nn.Parameter(torch.zeros(1))
        self.shown, self.truth = [], {}

    def views(self):
        maps = MapView(size=32)
        return {"image": ImageView(size=32), "depth": maps, "segments": maps}

    def losses(self, batch):
        return {}

    def reconstruct(self, batch, fields):
        self.shown.append((tuple(batch), tuple(fields), batch.index.tolist()))
        row = torch.arange(batch.size)
        values = {
            "depth": torch.full((batch.size, 32, 32, 2), 0.5),
            "segments": torch.zeros(batch.size, 32, 32, dtype=torch.long),
        }
        return {name: Entries(values[name], row, torch.zeros_like(row)) for name in fields}


WHERE = "playground:layers?train=20&validation=4&test=30&pictures=30&size=32"


def evaluated(**hidden):
    data = open_data(WHERE, **hidden)
    task = get_task("reconstruction")
    data = data.with_schema(task.assign(data.schema)).fit()
    system = Oracle(data)
    assert isinstance(system, Reconstructs)
    return task.evaluate(system, data, data.rows("test"), batch_size=16), system


def test_every_direction_is_asked_with_its_sources_alone():
    evaluation, system = evaluated()
    asked = {(shown, fields) for shown, fields, _ in system.shown}
    assert asked == {
        (("image",), ("depth", "segments")),
        (("depth",), ("segments",)),
        (("segments",), ("depth",)),
        (("image", "depth"), ("segments",)),
        (("image", "segments"), ("depth",)),
    }
    metrics = evaluation.scores.metrics
    directions = {key.split("/")[0] for key in metrics if "->" in key}
    assert directions == {
        *("image->depth", "image->segments", "depth->segments", "segments->depth"),
        *("image+depth->segments", "image+segments->depth"),
    }
    single = [metrics[f"{key}/skill"].value for key in directions if "+" not in key]
    assert evaluation.main_metric == "skill"
    assert metrics["skill"].value == pytest.approx(np.mean(single))
    assert metrics["skill"].low < metrics["skill"].value < metrics["skill"].high
    assert len(evaluation.rows) == 30


def test_rows_without_a_field_are_asked_about_the_others():
    evaluation, system = evaluated(missing=["depth:0.5"])
    pairs = [rows for shown, _, rows in system.shown if shown == ("image", "depth")]
    assert 5 < sum(map(len, pairs)) < 25
    images = [rows for shown, _, rows in system.shown if shown == ("image",)]
    assert sum(map(len, images)) == 30
    assert len(evaluation.scores.per_row["image->segments/skill"]) == 30
    assert len(evaluation.scores.per_row["image->depth/skill"]) == sum(map(len, pairs))


def test_examples_are_pictures():
    evaluation, _ = evaluated()
    assert len(evaluation.examples) == 3
    said = evaluation.examples[0]["reconstructed"]
    assert list(said) == ["image", "depth", "segments"]
    head, _, content = said["image"]["depth"].partition(",")
    assert head == "data:image/png;base64"
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.size == (32, 32)


def test_nothing_to_be_scored_is_named():
    with pytest.raises(UserError, match="no row to be scored has two of the fields"):
        evaluated(missing=[], missing_test=["image:1.0", "depth:1.0"])
    with pytest.raises(UserError, match="takes no --target"):
        get_task("reconstruction").assign(Schema(fields=[IMAGE]), "image")


@pytest.mark.parametrize("field", [IMAGE, DEPTH, KINDS])
def test_what_was_collated_can_be_shown(field):
    modality = get_modality(field.modality)
    raw = {
        "image": np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8),
        "depth": np.linspace(0, 100, 256, dtype=np.float32).reshape(16, 16),
        "kinds": np.array([3, 5, 9, 3])[np.arange(256) % 4].reshape(16, 16),
    }[field.name]
    view = modality.View(size=16)
    decoded = modality.decode(raw, field, view)
    (value, *_), _ = modality.collate([decoded], field, view)
    again = modality.uncollate(value, field, view)
    assert np.array_equal(
        np.asarray(modality.show(again, field)), np.asarray(modality.show(decoded, field))
    )


CELLS = Field(
    name="v",
    modality="table",
    columns={"age": "number", "sex": "category", "day": "date"},
    fitted={
        "columns": {
            "age": {"mean": 50.0, "std": 10.0},
            "sex": {"classes": ["f", "m"]},
            "day": {"mean": 19000.0, "std": 1.0},
        }
    },
)
TOKENIZER = Tokenizer.train(["a red ball", "a blue box near a red ball"] * 5, 300)


def columns_of(errors, told, truth):
    errors.learn(truth)
    columns = errors.errors(told, truth)
    counts = np.isfinite(columns).all(1)
    metrics = errors.metrics(columns[counts], np.arange(counts.sum()), 0)
    return {name: metric.value for name, metric in metrics.items()}, errors.skill(columns[counts])


def test_texts_by_the_tokens_that_both_have():
    errors = field_errors(Field(name="note", modality="text"), TextView(tokenizer=TOKENIZER))
    told, _ = TOKENIZER.encode(["red a ball ball", "a blue box near a red ball", "box"], 20)
    true, _ = TOKENIZER.encode(["a red ball", "a blue box near a red ball", "red"], 30)
    sizes = [len(TOKENIZER.encode([t], 20)[0][0]) - 2 for t in ("red a ball ball", "a red ball")]
    metrics, skill = columns_of(errors, told, true)
    words = [ids.tolist() for ids in (told[0], true[0])]
    both = sum(min(words[0].count(w), words[1].count(w)) for w in {*words[1]} if w > 3)
    assert metrics == {"F1": pytest.approx((2 * both / sum(sizes) + 1 + 0) / 3)}
    assert 0 < 2 * both / sum(sizes) < 1
    assert np.isnan(skill).all()


def test_a_class_of_a_row_is_compared_with_the_most_frequent():
    field = Field(name="kind", modality="category", fitted={"classes": ["a", "b", "c"]})
    truth = torch.tensor([0, 0, 1, 2, 3])  # the last has a class that training rows lack
    metrics, skill = columns_of(field_errors(field), torch.tensor([0, 1, 1, 2, 0]), truth)
    assert metrics == {"accuracy": pytest.approx(3 / 4)}
    # "a" for all would be wrong in two of four
    assert skill == pytest.approx([1, 1 - 1 / 0.5, 1, 1])


def test_a_number_of_a_row_in_its_unit():
    field = Field(name="price", modality="number")
    metrics, skill = columns_of(
        field_errors(field), torch.tensor([1.0, 4.0, 3.0]), torch.tensor([1.0, 2.0, 6.0])
    )
    assert metrics == {"MAE": pytest.approx(5 / 3)}
    variance = np.var([1, 2, 6])
    assert skill == pytest.approx(1 - np.array([0, 4, 9]) / variance)


def test_cells_of_a_table_that_are_filled_count_alike():
    nothing = float("nan")
    # age and day in standard deviations, sex as a code
    truth = torch.tensor([[0.0, 1, -1.0], [2.0, 2, nothing], [1.0, 1, 1.0], [1.0, 1, nothing]])
    told = torch.tensor([[0.4, 1, -1.6], [2.0, 1, 5.0], [1.0, 1, 1.0], [0.0, 2, 9.0]])
    metrics, skill = columns_of(field_errors(CELLS), told, truth)
    assert metrics == {"accuracy": pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4)}
    # constants leave: variance of 0, 2, 1, 1; one of four classes; variance of -1, 1
    age, sex, day = 0.5, 0.25, 1.0
    assert skill == pytest.approx(
        [
            ((1 - 0.16 / age) + 1 + (1 - 0.36 / day)) / 3,
            (1 + (1 - 1 / sex)) / 2,
            1,
            ((1 - 1 / age) + (1 - 1 / sex)) / 2,
        ],
        rel=1e-5,
    )


def test_empty_cells_of_true_rows_are_not_taken_for_zeros():
    mask = torch.tensor([[True, False, True]])
    row = torch.zeros(1, dtype=torch.long)
    cells = _true_values(Entries(torch.tensor([[1.0, 0.0, 2.0]]), row, row, mask))
    assert cells.isnan().tolist() == [[False, True, False]]
    ids = torch.tensor([[3, 4, 0]])
    assert torch.equal(_true_values(Entries(ids, row, row, mask)), ids)


def test_nothing_measures_boxes():
    assert field_errors(Field(name="boxes", modality="boxes")) is None


@pytest.mark.parametrize(
    ("field", "view", "raw", "cell"),
    [
        (Field(name="t", modality="text"), TextView(tokenizer=TOKENIZER), "a red box", "a red box"),
        (Field(name="k", modality="category", fitted={"classes": ["a", "b"]}), None, "b", "b"),
        (Field(name="n", modality="number"), None, 2.5, 2.5),
        (CELLS, None, *[{"age": 60.0, "sex": "m", "day": "2022-01-10"}] * 2),
        (Field(name="b", modality="boxes"), None, [0.25, 0.5, 0.75, 1.0], [0.25, 0.5, 0.75, 1.0]),
        (
            Field(name="b", modality="boxes", options={"format": "xywh"}),
            None,
            [0.25, 0.5, 0.5, 0.25],
            [0.25, 0.5, 0.5, 0.25],
        ),
    ],
)
def test_what_was_collated_becomes_the_cell_it_was(field, view, raw, cell):
    modality = get_modality(field.modality)
    (value, *_), _ = modality.collate([modality.decode(raw, field, view)], field, view)
    assert modality.as_cell(modality.uncollate(value, field, view), field) == cell
