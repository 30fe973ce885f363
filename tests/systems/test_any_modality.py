"""Any modality, any of them missing: one that a user adds, every pattern, and values at their limits."""

import inspect
import itertools
import json

import numpy as np
import PIL.Image
import pytest
import torch

import sensorium as sm
from sensorium.data import open_data, read_batches
from sensorium.modalities.base import Modality, add_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.alignment.languagebind import LanguageBind
from sensorium.systems.baselines.late_fusion import LateFusion
from sensorium.tasks import get_task
from sensorium.training.run import train
from sensorium.training.trainer import objective
from sensorium.types import Field, Schema

TOWER = {"width": 16, "depth": 1, "heads": 2, "text_depth": 1, "embed_dim": 8, "image_size": 32}
NUM_ROWS = 12


def total(system, batch):
    losses = system(batch)
    return objective(losses, {name: loss.count for name, loss in losses.items()}, 1)


# ------------------------------------------------------------------ a modality of a user


class Spectrum(Modality):
    name = "spectrum"
    suffixes = (".spc",)

    def decode(self, raw, field, view):
        return np.fromfile(raw, dtype=np.float32)[:32]

    def collate(self, values, field, view):
        return torch.from_numpy(np.stack(values)), None


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """Rows with a picture, a text and a spectrum; every third lacks the spectrum."""
    add_modality(Spectrum())
    folder = tmp_path_factory.mktemp("spectra")
    random = np.random.default_rng(0)
    lines = ["picture,words,line,kind,split"]
    for row in range(NUM_ROWS):
        kind = "high" if row % 2 else "low"
        pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{row}.png")
        (random.random(32, dtype=np.float32) + row % 2).tofile(folder / f"{row}.spc")
        line = "" if row % 3 == 2 else f"{row}.spc"
        split = "train" if row < NUM_ROWS - 4 else "test"
        lines.append(f"{row}.png,a {kind} line of row {row},{line},{kind},{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def with_roles(folder, **roles):
    modalities = {"picture": "image", "words": "text", "line": "spectrum", "kind": "category"}
    fields = tuple(
        Field(name=name, modality=modality, role=roles.get(name, "input"))
        for name, modality in modalities.items()
    )
    return open_data(folder, schema=Schema(fields=fields, split="split"))


def test_a_modality_takes_less_than_twenty_lines():
    assert len(inspect.getsource(Spectrum).splitlines()) < 20


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("late-fusion", {"width": 16, "depth": 1, "heads": 2, "image_size": 32}),
        (
            "meta-transformer",
            {"trunk": "random", "width": 16, "depth": 1, "heads": 2, "image_size": 32},
        ),
        ("languagebind", TOWER),
    ],
)
def test_a_modality_of_a_user_trains_and_predicts_where_any_are_taken(
    spectra, tmp_path, system, settings
):
    """From files on: opened, trained, kept, read back; and what the spectrum says counts."""
    data = with_roles(spectra, kind="label")
    run = train(
        system,
        data,
        out=tmp_path / "run",
        task="classification",
        settings=settings | {"tokenizer": "bpe:300"},
        options={"workers": 0, "batch_size": 8},
        budget="3steps",
    )
    again = sm.load(tmp_path / "run")
    table = again.predict(data)
    probabilities = np.stack(table["probabilities"].to_pylist())
    assert probabilities.shape == (NUM_ROWS, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    (batch,) = read_batches(
        run.data(), np.arange(NUM_ROWS), run.system.views(), batch_size=NUM_ROWS
    )
    has_line = batch.present("line")
    assert has_line.tolist() == [row % 3 != 2 for row in range(NUM_ROWS)]
    with torch.no_grad():
        moved = run.system.predict(batch) - run.system.predict(batch.without("line"))
    assert (moved.abs().amax(1) > 1e-7).tolist() == has_line.tolist()


def test_a_modality_of_a_user_is_bound_to_language(spectra, tmp_path):
    data = with_roles(spectra, line="query", words="target", kind="ignore")
    run = train(
        "languagebind",
        data,
        out=tmp_path,
        task="retrieval",
        settings=TOWER | {"tokenizer": "bpe:300"},
        options={"workers": 0, "batch_size": 8},
        budget="3steps",
    )
    assert [stage.name for stage in run.system.stages()] == ["picture", "line"]
    table = run.embed(data)
    vectors = table["line"].to_pylist()
    assert [vector is None for vector in vectors] == [row % 3 == 2 for row in range(NUM_ROWS)]
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    assert all(vector is not None for vector in table["words"].to_pylist())


# ------------------------------------------------------------------ every pattern


FOUR = ("image", "depth", "infrared", "caption")
PATTERNS = [c for n in range(5) for c in itertools.combinations(FOUR, n)]


@pytest.fixture(scope="module")
def bound():
    """LanguageBind with its rows: picture, two maps of it, and its text."""
    opened = open_data("playground:maps?train=16&validation=4&test=4&pictures=20")
    data = opened.with_schema(get_task("classification").assign(opened.schema)).fit()
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(data.texts(16), 300)
    system = LanguageBind(LanguageBind.Config(**TOWER, query="image"), data.schema, tokenizer)
    (batch,) = read_batches(data, data.rows("train")[:8], system.views(), batch_size=8)
    return system, batch


@pytest.mark.parametrize("absent", PATTERNS, ids=lambda names: "+".join(names) or "none")
def test_languagebind_trains_and_predicts_with_every_pattern_of_four(bound, absent):
    system, whole = bound
    batch = whole.without(*absent, "segments")
    for stage in system.stages()[:3]:
        system.stage = stage.name
        system.train()
        system.zero_grad()
        loss = system(batch)[stage.name]
        pairs = 8 if stage.name not in absent and "caption" not in absent else 0
        assert torch.isfinite(loss.value) and loss.count == pairs
        loss.value.backward()
        gradients = [p.grad for p in system.parameters() if p.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any((gradient != 0).any() for gradient in gradients) == (pairs > 0)
    system.eval()
    with torch.no_grad():
        found = system.predict(batch)
        for name in FOUR:
            vectors = system.embed(batch, name)
            assert vectors.isnan().all() if name in absent else vectors.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    nothing = {"image", "depth", "infrared"} <= set(absent)
    assert torch.allclose(found, torch.full_like(found, 0.25)) == nothing


# ------------------------------------------------------------------ values at their limits


def rows_of_a_table(tmp_path, modality, cells):
    """Rows with one field, in JSON, whose label is that of their number."""
    rows = [{"value": json.dumps(cell), "kind": "ab"[row % 2]} for row, cell in enumerate(cells)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    where = tmp_path / "rows.jsonl"
    return open_data(where, schema=with_label(modality), split="share:1,0,0").fit()


def with_label(modality):
    return Schema(
        fields=(
            Field(name="value", modality=modality),
            Field(name="kind", modality="category", role="label"),
        )
    )


def read_all(data, system):
    (batch,) = read_batches(data, data.rows("train"), system.views(), batch_size=99)
    return batch


def fused(data):
    torch.manual_seed(0)
    config = LateFusion.Config(width=16, depth=1, heads=2, modality_dropout=0.0, dropout=0.0)
    return LateFusion(config, data.schema)


def check_that_it_learns(system, batch):
    """The loss is a number and falls, gradients are finite, and answers are probabilities."""
    optimizer = torch.optim.Adam(system.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = total(system.train(), batch)
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
        optimizer.step()
    assert losses[-1] < losses[0]
    found = system.eval().predict(batch)
    torch.testing.assert_close(found.sum(1), torch.ones(batch.size))


def test_series_of_one_sample_train_and_predict(tmp_path):
    long = {"time": [0, 1, 2, 3], "pulse": [60, 70, 80, 90]}
    short = {"time": [5], "pulse": [75]}
    data = rows_of_a_table(tmp_path, "series", [short, long, short, long])
    assert not data.faults
    system = fused(data)
    batch = read_all(data, system)
    assert batch["value"].mask.sum(1).tolist() == [1, 4, 1, 4]
    check_that_it_learns(system, batch)
    only = batch.take(torch.tensor([0, 2]))
    torch.testing.assert_close(system.predict(only), system.predict(batch)[[0, 2]])


def test_graphs_without_edges_train_and_predict(tmp_path):
    bare = {"nodes": ["dog", "cat"], "edges": []}
    lonely = {"nodes": ["dog"]}
    joined = {"nodes": ["dog", "cat"], "edges": [[0, 1, "above"]]}
    data = rows_of_a_table(tmp_path, "graph", [bare, joined, lonely, joined])
    system = fused(data)
    batch = read_all(data, system)
    assert batch.present("value").all()
    check_that_it_learns(system, batch)
    alone = system.predict(batch.take(torch.tensor([2])))
    torch.testing.assert_close(alone, system.predict(batch)[[2]])
    nowhere = rows_of_a_table(tmp_path, "graph", [bare, lonely, bare, lonely])
    check_that_it_learns(fused(nowhere), read_all(nowhere, fused(nowhere)))


def test_an_edge_to_a_missing_node_is_set_aside_by_name(tmp_path):
    good = {"nodes": ["dog", "cat"], "edges": [[0, 1]]}
    data = rows_of_a_table(tmp_path, "graph", [good, {**good, "edges": [[0, 7]]}, good])
    batch = read_all(data, fused(data))
    assert batch.size == 2
    (fault,) = batch.faults
    assert (fault.field, fault.row) == ("value", 1)
    assert "no node 7" in fault.reason


def test_files_without_points_are_set_aside_and_those_with_gaps_are_read(tmp_path):
    cloud = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    files = {
        "whole": cloud,
        "gaps": cloud + "nan nan nan\n",
        "nowhere": "nan nan nan\n" * 4,
        "empty": "",
        "again": cloud,
    }
    lines = ["value,kind"]
    for row, (name, content) in enumerate(files.items()):
        (tmp_path / f"{name}.xyz").write_text(content)
        lines.append(f"{name}.xyz,{'ab'[row % 2]}")
    lines.append(",b")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    data = open_data(tmp_path, schema=with_label("points"), split="share:1,0,0").fit()
    system = fused(data)
    batch = read_all(data, system)
    faults = {fault.row: fault.reason for fault in batch.faults}
    assert set(faults) == {2, 3}, faults
    assert "none of them finite" in faults[2]
    assert "empty" in faults[3] or "no points" in faults[3]
    # a cell without anything is no mistake: a row without the field
    assert batch.present("value").tolist() == [True, True, True, False]
    assert batch["value"].mask.sum(1).tolist() == [4, 4, 4]
    torch.testing.assert_close(batch["value"].values[0], batch["value"].values[1])
    check_that_it_learns(system, batch)
