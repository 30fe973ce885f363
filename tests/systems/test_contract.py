"""What every registered system keeps, whatever its idea is. A new system joins by being registered."""

import dataclasses
import socket

import numpy as np
import pytest
import torch

from sensorium.data import open_data, read_batches
from sensorium.modalities.base import get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.registry import (
    CATALOGUE,
    build_catalogue,
    catalogue,
    get_system,
    list_systems,
)
from sensorium.tasks import get_task
from sensorium.training import checkpoints
from sensorium.training.optimizer import build_optimizer, set_learning_rate
from sensorium.training.run import load, train
from sensorium.training.trainer import objective

WHERE = {
    "retrieval": "playground:scenes?train=64&validation=16&test=40&pictures=30",
    "classification": "playground:attributes?train=64&validation=16&test=40&pictures=30",
    "regression": "playground:attributes?train=64&validation=16&test=40&pictures=30",
    "vqa": "playground:questions?train=64&validation=16&test=40&pictures=30",
    "universal-retrieval": "playground:universal?train=64&validation=16&test=40&pictures=30&size=32",
    "reconstruction": "playground:layers?train=64&validation=16&test=40&pictures=30&size=32",
}
# Rows for systems that read what those lack, or less.
OWN_ROWS = {
    "patch-tokenizer": "playground:scenes?train=64&validation=16&test=40&pictures=30&size=32",
    "ulip": "playground:shapes?train=64&validation=16&test=40&classes=12&size=32&points=64",
}
CASES = [
    (name, task) for name in list_systems() for task in catalogue()[name][1].tasks if task in WHERE
]
# Settings under which the loss of a system that learns all by heart goes to zero. MultiModN also answers
# before it has read anything, and squashes its logits.
WITHOUT_FLOOR = {"multimodn": {"outputs": "logits", "loss_at": "last", "state_at": "last"}}
each_case = pytest.mark.parametrize(("name", "task"), CASES)
each_system = pytest.mark.parametrize("name", list_systems())


def where(name, task):
    return OWN_ROWS.get(name, WHERE[task])


def make_data(name, task):
    data = open_data(where(name, task))
    target = "value" if task == "regression" else None
    schema = get_task(task).assign(data.schema, target)
    system_class = get_system(name)
    return data.with_schema(system_class.fields(system_class.Config.nano(), schema)).fit()


def make_system(name, data, seed=0, **settings):
    system_class = get_system(name)
    system_class.check(data.schema)
    has_text = any(get_modality(field.modality).written for field in data.schema)
    tokenizer = Tokenizer.train(data.texts(200), 600) if has_text else None
    torch.manual_seed(seed)
    return system_class(system_class.Config.nano().override(settings), data.schema, tokenizer)


def read(system, data, count=8, split="train"):
    rows = data.rows(split)[:count]
    (batch,) = read_batches(data, rows, system.views(), batch_size=count)
    return dataclasses.replace(batch, seed=5)


def outputs(system, batch):
    """All that a system can be asked about a batch, by name."""
    found = {}
    system.eval()
    with torch.no_grad():
        if "embed" in system.capabilities:
            for field in system.schema.find(role=("query", "target")):
                found[f"embed {field.name}"] = system.embed(batch, field.name)
        if "embed_side" in system.capabilities:
            for side in ("query", "target"):
                found[f"embed {side}"] = system.embed_side(batch, side)
        if "score_pairs" in system.capabilities:
            found["score_pairs"] = system.score_pairs(batch)
        if "predict" in system.capabilities:
            found["predict"] = system.predict(batch)
        if "reconstruct" in system.capabilities:
            said = system.reconstruct(batch, system.reconstructed)
            for name, entries in said.items():
                values = entries.values
                if values.dtype == torch.uint8:  # each may be rounded either way
                    values = values.float().flatten(1).mean(1) / 255
                if values.is_floating_point():
                    found[f"reconstruct {name}"] = values
    assert found
    return found


def total(system, batch):
    losses = system(batch)
    return objective(losses, {name: loss.count for name, loss in losses.items()}, 1)


def stage_names(system):
    return [stage.name for stage in system.stages()]


def test_the_catalogue_is_current():
    assert CATALOGUE.read_text() == build_catalogue(), "run `make docs`"


@each_system
def test_the_card_is_complete(name):
    card = catalogue()[name][1]
    assert card.title
    assert card.modalities
    assert card.tasks
    assert f".systems.{card.family}." in get_system(name).__module__
    if card.paper:  # a baseline without a paper has no published dimensions
        assert get_system(name).Config.paper() != get_system(name).Config.nano()


@each_case
def test_losses_and_gradients_are_finite_in_every_stage(name, task):
    data = make_data(name, task)
    system = make_system(name, data)
    batch = read(system, data)
    for stage in system.stages():
        system.stage = stage.name
        system.zero_grad()
        losses = system(batch)
        assert set(stage.losses or losses) <= set(losses)
        total(system, batch).backward()
        gradients = [p.grad for p in system.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)


@each_case
def test_it_learns_eight_rows_by_heart(name, task):
    data = make_data(name, task)
    system = make_system(name, data, **WITHOUT_FLOOR.get(name, {}))
    batch = read(system, data)
    stage = system.stages()[-1]
    system.stage = stage.name
    optimizer = build_optimizer(dict(system.named_parameters()), stage)
    set_learning_rate(optimizer, 1e-3)
    system.eval()
    first = total(system, batch).item()
    for step in range(120):
        system.train()
        torch.manual_seed(step)
        loss = total(system, dataclasses.replace(batch, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        system.eval()
        if step % 20 == 19 and total(system, batch).item() < 0.5 * first:
            return
    pytest.fail(f"{first} became {total(system, batch).item()}")


@each_case
def test_prepared_rows_give_what_they_give_unprepared_whatever_is_absent(name, task):
    data = make_data(name, task)
    system = make_system(name, data)
    batch = read(system, data)
    with torch.no_grad():
        prepared = system.eval().prepare(batch)
    asked = data.schema.find(role=("input", "question", "query"))
    roots = [field.name for field in asked if field.name in batch and field.of is None]
    hidden = [(), *(data.schema.family(name) for name in roots[:-1])]
    for names in hidden:
        once, anew = (
            outputs(system, prepared.without(*names)),
            outputs(system, batch.without(*names)),
        )
        for what, value in anew.items():
            torch.testing.assert_close(once[what], value, atol=1e-5, rtol=1e-4, equal_nan=True)


@each_case
def test_one_row_alone_gives_what_it_gives_in_a_batch(name, task):
    """Also that padding changes nothing: the texts of the batch differ in length."""
    data = make_data(name, task)
    system = make_system(name, data)
    batch = read(system, data)
    together = outputs(system, batch)
    for row in (0, 5):
        rows = data.rows("train")[[row]]
        (single,) = read_batches(data, rows, system.views(), batch_size=1)
        for key, alone in outputs(system, single).items():
            torch.testing.assert_close(
                alone[0], together[key][row], atol=2e-5, rtol=2e-4, equal_nan=True
            )


@each_case
def test_a_missing_field_is_a_normal_state(name, task):
    """Hidden in some rows or in all: nothing fails, and rows that have it give what they gave."""
    data = make_data(name, task)
    system = make_system(name, data)
    batch = read(system, data)
    whole = outputs(system, batch)
    read_fields = [
        field.name
        for field in data.schema
        if field.name in system.views() and field.role not in ("label", "answer")
    ]
    for field in read_fields:
        entries = batch[field]
        keep = entries.row % 2 == 0
        half = batch.with_fields(
            **{
                field: dataclasses.replace(
                    entries,
                    values=entries.values[keep],
                    row=entries.row[keep],
                    item=entries.item[keep],
                    mask=None if entries.mask is None else entries.mask[keep],
                )
            }
        )
        for some in (half, batch.without(field)):
            system.train()
            for stage in stage_names(system):
                system.stage = stage
                assert torch.isfinite(total(system, some))
        for key, found in outputs(system, half).items():
            torch.testing.assert_close(
                found[::2], whole[key][::2], atol=2e-5, rtol=2e-4, equal_nan=True
            )


@each_case
def test_bf16_agrees_with_fp32(name, task):
    data = make_data(name, task)
    system = make_system(name, data)
    batch = read(system, data)
    exact = outputs(system, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = outputs(system, batch)
    for key, value in exact.items():
        assert torch.equal(half[key].isnan(), value.isnan())
        difference = (half[key].float() - value).nan_to_num().abs().max()
        assert difference / value.float().nan_to_num().abs().max().clamp(min=1) < 0.06


@each_case
def test_losses_are_the_same_in_parts_and_at_once(name, task):
    """Counts and draws belong to rows, so two halves sum to the whole where rows do not interact."""
    data = make_data(name, task)
    system = make_system(name, data)
    system.eval()
    batch = read(system, data)
    halves = [batch.take(torch.arange(0, 4)), batch.take(torch.arange(4, 8))]
    for stage in stage_names(system):
        system.stage = stage
        whole = system(batch)
        parts = [system(half) for half in halves]
        for key, loss in whole.items():
            counts = sum(float(part[key].count) for part in parts)
            assert counts == pytest.approx(float(loss.count))


@each_case
def test_a_run_is_kept_and_read_back_and_resumed_exactly(name, task, tmp_path, monkeypatch):
    target = "value" if task == "regression" else None
    common = {"task": task, "target": target, "budget": "6steps", "device": "cpu"}
    options = {"batch_size": 16, "workers": 0, "checkpoint_every": 1e-6}
    settings = {"tokenizer": "bpe:600"}
    data = where(name, task)
    whole = train(name, data, out=tmp_path / "whole", options=options, settings=settings, **common)

    class Killed(Exception):
        pass

    saved = []

    def save_and_die(*args):
        checkpoints_save(*args)
        saved.append(args)
        if len(saved) == 2:
            raise Killed

    checkpoints_save = checkpoints.save_checkpoint
    monkeypatch.setattr(checkpoints, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        train(name, data, out=tmp_path / "killed", options=options, settings=settings, **common)
    monkeypatch.setattr(checkpoints, "save_checkpoint", checkpoints_save)
    resumed = train(
        name, data, out=tmp_path / "killed", options=options, settings=settings, **common
    )
    again = load(tmp_path / "whole", "cpu")
    for key, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[key]), key
        assert torch.equal(value, again.system.state_dict()[key]), key
    lines = [run.folder.read_metrics() for run in (whole, resumed)]
    assert [(x["step"], x["losses"]) for x in lines[0]] == [
        (x["step"], x["losses"]) for x in lines[1]
    ]


@each_case
def test_it_is_scored_by_its_task_without_a_network(name, task, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    data = make_data(name, task)
    system = make_system(name, data).eval()
    chosen = get_task(task, pools=[10] if task == "retrieval" else None)
    assert chosen.fits(system.capabilities)
    evaluation = chosen.evaluate(system, data, data.rows("test")[:20])
    metric = evaluation.scores.metrics[evaluation.main_metric]
    assert metric.value is not None
    assert metric.low <= metric.value <= metric.high
    assert len(evaluation.rows) == 20
    assert np.isfinite(evaluation.inference_ms_per_row)
