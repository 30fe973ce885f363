"""Late fusion: any subset of modalities, four kinds of answers, and nothing for what is absent."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sensorium.modalities.text import Tokenizer
from sensorium.systems.baselines.late_fusion import LateFusion, RunningMeans, hide_fields
from sensorium.types import Batch, Entries, Field, Schema, UserError

TEXTS = ["a red boat left of a cup", "two dogs", "blue", "a red cup"]
TOKENIZER = Tokenizer.train(TEXTS, 300)
IMAGE, NOTE = Field(name="image", modality="image"), Field(name="note", modality="text")
RECORD = Field(
    name="record",
    modality="table",
    columns={"age": "number", "sex": "category"},
    fitted={"columns": {"age": {"mean": 0, "std": 1}, "sex": {"classes": ["f", "m"]}}},
)
INPUTS = (IMAGE, NOTE, RECORD)
NAMES = tuple(field.name for field in INPUTS)
CLASSES = {"classes": ["a", "b", "c"], "counts": [6, 3, 1]}
KIND = Field(name="kind", modality="category", role="label", fitted=CLASSES)
KINDS = Field(name="kinds", modality="categories", role="label", fitted=CLASSES)
PRICE = Field(name="price", modality="number", role="label", fitted={"mean": 50.0, "std": 10.0})
SMALL = {"width": 8, "depth": 1, "heads": 2, "hidden": 16, "image_size": 16}


def small(label=KIND, inputs=INPUTS, **settings):
    torch.manual_seed(0)
    config = LateFusion.Config(**SMALL | settings)
    return LateFusion(config, Schema(fields=(*inputs, label)), TOKENIZER)


def whole(label=KIND, size=4):
    """A batch in which every row has everything."""
    rng = np.random.default_rng(0)
    row, item = torch.arange(size), torch.zeros(size, dtype=torch.long)
    ids, mask = TOKENIZER.encode(TEXTS[:size], 64)
    pixels = torch.from_numpy(rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8))
    cells = torch.tensor([[0.5, 1], [0, 2], [-1, 0], [2, 1]])[:size]
    labels = {
        "category": torch.tensor([0, 2, 1, 0])[:size],
        "categories": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])[:size],
        "number": torch.tensor([40.0, 75.0, 50.0, 61.0])[:size],
    }
    fields = {
        "image": Entries(pixels, row, item),
        "note": Entries(ids, row, item, mask),
        "record": Entries(cells, row, item, torch.ones(size, 2, dtype=torch.bool)),
        label.name: Entries(labels[label.modality], row, item),
    }
    return Batch(fields, [str(i) for i in range(size)], torch.arange(size), seed=3)


def lacking(batch, name, rows):
    kept = torch.ones(batch.size, dtype=torch.bool)
    kept[rows] = False
    return batch.with_fields(**{name: batch[name].keep(kept)})


SUBSETS = [c for n in range(4) for c in itertools.combinations(NAMES, n)]


@pytest.mark.parametrize("absent", SUBSETS, ids=lambda names: "+".join(names) or "none")
def test_every_subset_of_modalities(absent):
    system, batch = small().eval(), whole()
    complete = system.predict(batch)
    without = batch.without(*absent)
    found = system.predict(without)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    assert torch.equal(found, complete) == (not absent)
    # The same in one row of a batch as in all: a row does not depend on what others have.
    mixed = batch
    for name in absent:
        mixed = lacking(mixed, name, [1])
    predicted = system.predict(mixed)
    torch.testing.assert_close(predicted[1], found[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(predicted[[0, 2, 3]], complete[[0, 2, 3]], atol=1e-6, rtol=1e-5)
    system.losses(without)["label"].value.backward()
    assert (system.absent.grad.abs().sum(1) > 0).tolist() == [name in absent for name in NAMES]


AGE = Field(name="age", modality="number", fitted={"mean": 40.0, "std": 20.0})
FOUR = (*INPUTS, AGE)
STRONG = {
    "learned": {},
    "zeros": {"absent": "zero"},
    "means": {"absent": "mean"},
    "told": {"absent": "zero", "availability": True},
    "dropout": {"modality_dropout": 0.5},
}
PATTERNS = [c for n in range(5) for c in itertools.combinations([f.name for f in FOUR], n)]


def with_age(batch):
    ages = torch.tensor([20.0, 75.0, 50.0, 61.0])
    return batch.with_fields(age=Entries(ages, torch.arange(4), torch.zeros(4, dtype=torch.long)))


@pytest.mark.parametrize("absent", PATTERNS, ids=lambda names: "+".join(names) or "none")
def test_every_pattern_of_four_modalities_trains_and_predicts(absent):
    batch = with_age(whole()).without(*absent)
    for settings in STRONG.values():
        system = small(inputs=FOUR, **{"dropout": 0.0, "modality_dropout": 0.0} | settings)
        optimizer = torch.optim.Adam(system.parameters(), 1e-2)
        system.eval()
        first = system.losses(batch)["label"].value.item()
        system.train()
        for _ in range(8):
            optimizer.zero_grad()
            system.losses(batch)["label"].value.backward()
            optimizer.step()
        system.eval()
        assert system.losses(batch)["label"].value.item() < first
        torch.testing.assert_close(system.predict(batch).sum(1), torch.ones(4))


def filled(system, batch):
    """What the MLP is given for the notes, and for the availability of fields."""
    seen = []
    handle = system.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    system.logits(batch)
    handle.remove()
    return seen[0][:, 8:16], seen[0][:, 24:]


def test_what_stands_for_an_absent_field():
    batch = lacking(whole(), "note", [1, 3])
    learned, none = filled(small().eval(), batch)
    assert torch.equal(learned[1], small().absent[1]) and none.numel() == 0
    zeros, _ = filled(small(absent="zero").eval(), batch)
    assert (zeros[[1, 3]] == 0).all() and (zeros[[0, 2]] != 0).any(1).all()
    system = small(absent="mean", modality_dropout=0.0)
    before, _ = filled(system.eval(), batch)
    assert (before[[1, 3]] == 0).all()  # nothing was seen yet
    means, _ = filled(system.train(), batch)
    torch.testing.assert_close(means[1], means[[0, 2]].mean(0))
    # afterwards it is what it was in training, whoever else is asked about
    alone, _ = filled(system.eval(), batch.take(torch.tensor([3])))
    torch.testing.assert_close(alone[0], means[1])
    assert {"means.total", "means.count"} <= set(system.state_dict())


def test_a_running_mean_by_hand():
    means = RunningMeans(2, 1)
    means.update(0, torch.tensor([[1.0], [3.0]]))
    means.update(0, torch.tensor([[7.0]]))
    means.update(0, torch.zeros(0, 1))
    assert means.value(0).item() == pytest.approx((0.99 * 4 + 7) / (0.99 * 2 + 1))
    assert means.value(1).item() == 0


def test_the_network_is_told_which_fields_are_there():
    batch = lacking(lacking(whole(), "note", [1, 3]), "image", [1])
    _, told = filled(small(absent="zero", availability=True).eval(), batch)
    assert told.tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 0, 1]]
    hidden = small(absent="zero", availability=True, modality_dropout=0.9).train()
    _, told = filled(hidden, whole())
    assert (told.sum(1) < 3).any()  # what modality dropout hides is not there either


def test_what_is_absent_is_not_encoded(monkeypatch):
    system, batch = small().eval(), lacking(whole(), "note", [0, 2])
    seen = []
    note = system.encoders[NAMES.index("note")]
    embed = note.embed
    monkeypatch.setattr(note, "embed", lambda v, m, p: seen.append(len(v)) or embed(v, m, p))
    system.predict(batch)
    assert seen == [2]


def test_a_class_by_hand():
    system, batch = small(modality_dropout=0.0, dropout=0.0), whole()
    loss = system.losses(batch)["label"]
    logits = system.logits(batch)
    wanted = F.cross_entropy(logits, torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(loss.value, wanted)
    assert torch.equal(system.predict(batch), logits.softmax(1))


def test_balanced_classes_weigh_the_same_in_all():
    system = small(modality_dropout=0.0, dropout=0.0, class_weights="balanced")
    weight = system.class_weight
    assert (weight * torch.tensor([6, 3, 1])).tolist() == pytest.approx([10 / 3] * 3)
    batch = whole()
    loss = system.losses(batch)["label"]
    label = torch.tensor([0, 2, 1, 0])
    wanted = F.cross_entropy(system.logits(batch), label, weight=weight)
    torch.testing.assert_close(loss.value, wanted)


def test_several_classes_by_hand():
    system, batch = small(KINDS, modality_dropout=0.0, dropout=0.0), whole(KINDS)
    logits, label = system.logits(batch), batch["kinds"].values
    wanted = -(label * logits.sigmoid().log() + (1 - label) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(system.losses(batch)["label"].value, wanted)
    assert torch.equal(system.predict(batch), logits.sigmoid())


def test_a_number_by_hand():
    system, batch = small(PRICE, modality_dropout=0.0, dropout=0.0), whole(PRICE)
    value = system.logits(batch)[:, 0]
    wanted = (value - torch.tensor([-1.0, 2.5, 0.0, 1.1])).square().mean()
    torch.testing.assert_close(system.losses(batch)["label"].value, wanted)
    torch.testing.assert_close(system.predict(batch), 50 + 10 * value)


def test_an_answer_to_a_question():
    question = NOTE.replace(name="question", role="question")
    answer = KIND.replace(name="answer", role="answer")
    system, batch = small(answer, (IMAGE, question)), whole()
    asked = Batch(
        {"image": batch["image"], "question": batch["note"], "answer": batch["kind"]},
        batch.keys,
        batch.index,
    )
    assert system.losses(asked)["label"].count == 4
    assert set(system.views()) == {"image", "question", "answer"}


def test_rows_without_a_label_do_not_count():
    system, batch = small(modality_dropout=0.0, dropout=0.0), whole()
    some = system.losses(lacking(batch, "kind", [1, 2]))["label"]
    assert some.count == 2
    torch.testing.assert_close(some.per_item, system.losses(batch)["label"].per_item[[0, 3]])
    none = system.losses(batch.without("kind"))["label"]
    assert none.count == 0 and none.value == 0
    none.value.backward()


def test_hidden_fields_depend_on_the_row_alone():
    batch = whole()
    hidden = hide_fields(batch, list(INPUTS), 0.5)
    again = hide_fields(batch.take(torch.tensor([2, 0])), list(INPUTS), 0.5)
    for name in NAMES:
        present = hidden.present(name)
        assert again.present(name).tolist() == [bool(present[2]), bool(present[0])]


def test_hiding_happens_as_often_as_asked_and_never_to_the_last():
    size = 4000
    row, item = torch.arange(size), torch.zeros(size, dtype=torch.long)
    full = Entries(torch.zeros(size, 1), row, item)
    half = full.keep(row % 2 == 0)
    batch = Batch({"image": full, "note": half}, [""] * size, row)
    hidden = hide_fields(batch, [IMAGE, NOTE, RECORD], 0.3)
    image, note = hidden.present("image"), hidden.present("note")
    assert (image | note).all() and image[1::2].all()
    share = 1 - image[::2].float().mean()
    assert share == pytest.approx(0.3 - 0.3**2 / 2, abs=0.03)
    everything = hide_fields(batch, [IMAGE, NOTE], 1.0)
    assert (everything.present("image").int() + everything.present("note").int() == 1).all()
    nothing = batch.without("image", "note")
    assert hide_fields(nothing, [IMAGE, NOTE], 1.0) is nothing


def test_hiding_is_for_training():
    system, batch = small(modality_dropout=0.9, dropout=0.0), whole()
    assert not torch.equal(system.logits(batch), system.eval().logits(batch))


def test_it_learns():
    system, batch = small(), whole()
    optimizer = torch.optim.AdamW(system.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        system.losses(batch)["label"].value.backward()
        optimizer.step()
    assert system.eval().predict(batch).argmax(1).tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((IMAGE,), "found none"),
        ((IMAGE, KIND, PRICE), "found kind, price"),
        ((KIND,), "no field has a role it reads"),
        ((IMAGE, NOTE.replace(role="label")), "cannot predict 'note' of modality text"),
    ],
)
def test_a_schema_that_does_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        LateFusion.check(Schema(fields=fields))


def test_what_it_reads():
    fields = (
        IMAGE.replace(role="query"),
        NOTE.replace(role="target"),
        RECORD.replace(role="ignore"),
    )
    assert set(small(inputs=fields).views()) == {"image", "note", "kind"}
