"""MultiModN: what is skipped leaves no trace, every step is answered, losses by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sensorium.modalities.text import Tokenizer
from sensorium.systems.adaptation.multimodn import MultiModN, StateEncoder
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.types import Batch, Entries, Field, Schema, UserError

TEXTS = ["a red boat left of a cup", "two dogs", "blue", "a red cup"]
TOKENIZER = Tokenizer.train(TEXTS, 300)
AGE = Field(name="age", modality="number", fitted={"mean": 40.0, "std": 20.0})
SEX = Field(name="sex", modality="category", fitted={"classes": ["f", "m"], "counts": [2, 2]})
IMAGE = Field(name="image", modality="image")
NOTE = Field(name="note", modality="text")
INPUTS = (AGE, SEX, IMAGE, NOTE)
NAMES = tuple(field.name for field in INPUTS)
CLASSES = {"classes": ["a", "b", "c"], "counts": [6, 3, 1]}
KIND = Field(name="kind", modality="category", role="label", fitted=CLASSES)
KINDS = Field(name="kinds", modality="categories", role="label", fitted=CLASSES)
PRICE = Field(name="price", modality="number", role="label", fitted={"mean": 50.0, "std": 10.0})
SMALL = {"width": 8, "depth": 1, "heads": 2, "image_size": 16, "state": 6, "hidden": (5,)}
EXACT = {"dropout": 0.0}


def small(label=KIND, inputs=INPUTS, **settings):
    torch.manual_seed(0)
    config = MultiModN.Config(**SMALL | settings)
    return MultiModN(config, Schema(fields=(*inputs, label)), TOKENIZER)


def whole(label=KIND):
    """Four rows in which every field is there."""
    rng = np.random.default_rng(0)
    row, item = torch.arange(4), torch.zeros(4, dtype=torch.long)
    ids, mask = TOKENIZER.encode(TEXTS, 64)
    pixels = torch.from_numpy(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
    labels = {
        "category": torch.tensor([0, 2, 1, 0]),
        "categories": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]),
    }
    fields = {
        "age": Entries(torch.tensor([20.0, 75.0, 50.0, 61.0]), row, item),
        "sex": Entries(torch.tensor([0, 1, 1, 0]), row, item),
        "image": Entries(pixels, row, item),
        "note": Entries(ids, row, item, mask),
        label.name: Entries(labels[label.modality], row, item),
    }
    return Batch(fields, list("abcd"), torch.arange(4), seed=3)


def lacking(batch, name, rows):
    kept = torch.ones(batch.size, dtype=torch.bool)
    kept[rows] = False
    return batch.with_fields(**{name: batch[name].keep(kept)})


def total(system, batch):
    return sum(loss.weight * loss.value for loss in system.losses(batch).values())


# ---------------------------------------------------------------------- one encoder


def test_a_state_at_the_input_by_hand():
    encoder = StateEncoder(3, 4, (5,), "input", 0.0)
    state, x = torch.randn(2, 4), torch.randn(2, 3)
    first, second = encoder.write[1], encoder.write[3]
    hidden = (torch.cat([x, state], 1) @ first.weight.T + first.bias).relu()
    wanted = (hidden @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(encoder(state, x), wanted)
    assert (encoder(10 * state, 10 * x) >= 0).all()


def test_dropout_is_on_vector_and_state_before_anything_else():
    torch.manual_seed(0)
    encoder = StateEncoder(3, 4, (), "input", 0.5)
    encoder.write[1].weight.data.fill_(1.0)
    encoder.write[1].bias.data.zero_()
    sums = encoder(torch.ones(200, 4), torch.ones(200, 3))[:, 0]
    assert set(sums.tolist()) <= {0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0}
    assert sums.std() > 1
    assert (encoder.eval()(torch.ones(3, 4), torch.ones(3, 3)) == 7).all()


def test_a_state_at_the_last_layer_by_hand():
    encoder = StateEncoder(3, 4, (5,), "last", 0.2)
    state, x = torch.randn(2, 4), torch.randn(2, 3)
    hidden = (x @ encoder.read[0].weight.T + encoder.read[0].bias).relu()
    last = encoder.write[0]
    wanted = torch.cat([hidden, state], 1) @ last.weight.T + last.bias
    torch.testing.assert_close(encoder(state, x), wanted)
    assert (wanted < 0).any()


def test_the_published_dimensions():
    config = MultiModN.Config.paper()
    system = MultiModN(config, Schema(fields=(AGE, SEX, KIND)), None)
    shapes = [tuple(p.shape) for p in system.updates[0].parameters() if p.ndim == 2]
    assert shapes == [(32, config.width + 50), (32, 32), (50, 32)]
    assert [tuple(p.shape) for p in system.decoders[0].parameters() if p.ndim == 2] == [
        (32, 50),
        (32, 32),
        (3, 32),
    ]
    stage = system.stages()[0]
    assert (stage.learning_rate, stage.batch_size, stage.schedule) == (1e-3, 16, "constant")


def test_the_first_state_is_drawn_from_a_standard_normal_and_learned():
    system = small(inputs=(AGE,), state=4000)
    assert system.start.shape == (1, 4000)
    start = system.start.detach()
    assert start.mean().abs() < 0.1 and abs(float(start.std()) - 1) < 0.1
    total(system, whole().only("age", "kind")).backward()
    assert (system.start.grad != 0).any()


# ---------------------------------------------------------------------- skipping


@pytest.mark.parametrize("state_at", ["input", "last"])
def test_a_skipped_encoder_leaves_the_state_exactly_as_it_was(state_at):
    system = small(state_at=state_at).eval()
    batch = lacking(lacking(whole(), "image", [1, 2]), "age", [2])
    states, ran = system.walk(batch)
    assert states.shape == (5, 4, 6)
    for step, field in enumerate(NAMES, 1):
        present = batch.present(field)
        assert ran[step].tolist() == present.tolist()
        assert torch.equal(states[step][~present], states[step - 1][~present])
        assert (states[step][present] != states[step - 1][present]).any(1).all()


def test_what_other_rows_lack_changes_nothing():
    system = small().eval()
    batch = lacking(whole(), "image", [0])
    together = system.predict_steps(batch)
    for row in range(4):
        alone = system.predict_steps(batch.take(torch.tensor([row])))
        torch.testing.assert_close(alone[:, 0], together[:, row], atol=1e-6, rtol=1e-5)
    complete = system.predict_steps(whole())
    torch.testing.assert_close(together[:, 1:], complete[:, 1:], atol=1e-6, rtol=1e-5)


def test_one_row_that_lacks_it_skips_the_encoder_for_the_whole_batch(monkeypatch):
    system = small(skip="batch", **EXACT)
    batch = lacking(whole(), "image", [3])
    seen = []
    image = system.encoders[NAMES.index("image")]
    embed = image.embed
    monkeypatch.setattr(image, "embed", lambda v, m, p: seen.append(len(v)) or embed(v, m, p))
    states, ran = system.walk(batch)
    assert torch.equal(states[3], states[2])
    assert ran.all(1).tolist() == [True, True, True, False, True]
    assert not seen
    total(system, batch).backward()
    assert all(p.grad is None for p in image.parameters())
    # the row that lacks it in a batch of its own: the others run it, as with skipping for a sample
    rest = batch.take(torch.arange(3))
    assert torch.equal(system.walk(rest)[0], small(**EXACT).walk(rest)[0])


def test_zeros_in_place_of_what_is_absent():
    system = small(skip="zero", **EXACT)
    batch = lacking(whole(), "age", [1])
    states, ran = system.walk(batch)
    assert ran.all()
    wanted = system.updates[0](states[0], torch.zeros(4, 8))[1]
    torch.testing.assert_close(states[1][1], wanted)


def test_absent_entries_are_not_encoded(monkeypatch):
    system = small().eval()
    seen = []
    note = system.encoders[NAMES.index("note")]
    embed = note.embed
    monkeypatch.setattr(note, "embed", lambda v, m, p: seen.append(len(v)) or embed(v, m, p))
    system.predict(lacking(whole(), "note", [0, 2]))
    system.predict(whole().without("note"))
    assert seen == [2]


PATTERNS = [c for n in range(5) for c in itertools.combinations(NAMES, n)]


@pytest.mark.parametrize("skip", ["sample", "batch", "zero"])
@pytest.mark.parametrize("absent", PATTERNS, ids=lambda names: "+".join(names) or "none")
def test_every_pattern_of_four_modalities_trains_and_predicts(absent, skip):
    system, batch = small(skip=skip, **EXACT), whole().without(*absent)
    optimizer = torch.optim.Adam(system.parameters(), 1e-2)
    first = total(system, batch).item()
    for _ in range(8):
        optimizer.zero_grad()
        total(system, batch).backward()
        optimizer.step()
    assert total(system, batch).item() < first
    found = system.eval().predict(batch)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(4))


# ---------------------------------------------------------------------- order


def test_encoders_run_in_the_order_of_the_schema():
    system, batch = small().eval(), whole()
    state, states = system.start.expand(4, -1), [system.start.expand(4, -1)]
    for place in range(4):
        state = system.updates[place](state, system.encoders.vector(batch, place)[0])
        states.append(state)
    torch.testing.assert_close(system.walk(batch)[0], torch.stack(states))


def test_the_order_is_drawn_for_each_step_in_training_only():
    system, batch = small(shuffle=True, **EXACT), whole()
    orders = {tuple(system._order(dataclasses.replace(batch, seed=seed))) for seed in range(60)}
    assert len(orders) > 15
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    # micro-batches of a step have its seed, and so its order
    assert system._order(batch) == system._order(batch.take(torch.tensor([2])))
    assert system.eval()._order(batch) == [0, 1, 2, 3]
    assert small().train()._order(dataclasses.replace(batch, seed=9)) == [0, 1, 2, 3]


# ---------------------------------------------------------------------- losses and answers


def by_hand(system, batch, a, b):
    """The loss of the release with a batch of one row, averaged over rows."""
    c, results = system.config, []
    for row in range(batch.size):
        one = batch.take(torch.tensor([row]))
        label = one[system.label.name].values[0]
        tasks = [label] if system.label.modality == "category" else list(label.long())
        state = system.start
        errors = [[cross_entropy(system, j, state, tasks[j]) for j in range(len(tasks))]]
        changes = []
        for place, field in enumerate(system.encoders.fields):
            if not one.present(field.name).item():
                errors.append([0.0] * len(tasks))
                changes.append(0.0)
                continue
            new = system.updates[place](state, system.encoders.vector(one, place)[0])
            changes.append(((new - state) ** 2).mean().item())
            state = new
            errors.append([cross_entropy(system, j, state, tasks[j]) for j in range(len(tasks))])
        num_encoders = len(system.encoders)
        error = sum(map(sum, errors)) / (len(tasks) * (num_encoders + 1))
        if c.loss_at == "last":
            error = sum(cross_entropy(system, j, state, t) for j, t in enumerate(tasks))
            error /= len(tasks)
        results.append(a * error + 0.01 * b * sum(changes) / num_encoders)
    return sum(results) / len(results)


def cross_entropy(system, task, state, label):
    out = system.decoders[task](state)[0]
    out = out.sigmoid() if system.config.outputs == "sigmoid" else out
    return (out.exp().sum().log() - out[label]).item()


@pytest.mark.parametrize("label", [KIND, KINDS], ids=["one task", "three tasks"])
@pytest.mark.parametrize("outputs", ["sigmoid", "logits"])
@pytest.mark.parametrize("loss_at", ["every", "last"])
def test_the_loss_by_hand_with_skipped_encoders(label, outputs, loss_at):
    system = small(
        label,
        outputs=outputs,
        loss_at=loss_at,
        error_penalty=0.7,
        change_penalty=0.3,
        **EXACT,
    )
    batch = lacking(lacking(whole(label), "image", [1, 2]), "note", [2, 3])
    wanted = by_hand(system, batch, 0.7, 0.3)
    assert total(system, batch).item() == pytest.approx(wanted, rel=1e-5)
    assert set(system.losses(batch)) == {"label", "change"}
    assert set(small(label).losses(batch)) == {"label"}


def test_divisors_stay_where_encoders_are_skipped():
    """A perfect answer at every step costs 0.313 a step, and a skipped step costs nothing."""
    two = KIND.replace(fitted={"classes": ["a", "b"], "counts": [2, 2]})
    system = small(two, **EXACT)
    for parameter in system.decoders.parameters():
        parameter.data.zero_()
    system.decoders[0][-1].bias.data.copy_(torch.tensor([200.0, -200.0]))
    batch = whole(two)
    batch = batch.with_fields(kind=Entries(torch.zeros(4).long(), *_places()))
    least = math.log(1 + math.exp(-1))
    assert least == pytest.approx(0.3133, abs=1e-4)
    assert total(system, batch).item() == pytest.approx(least)
    for absent in ("age", "image"):
        skipped = lacking(batch, absent, [0, 1, 2, 3])
        assert total(system, skipped).item() == pytest.approx(least * 4 / 5)


def _places():
    return torch.arange(4), torch.zeros(4, dtype=torch.long)


def test_the_decoder_answers_after_every_step_and_first_without_any_field():
    system, batch = small().eval(), lacking(whole(), "image", [1])
    steps = system.predict_steps(batch)
    assert steps.shape == (5, 4, 3)
    torch.testing.assert_close(steps.sum(2), torch.ones(5, 4))
    assert (steps[0] == steps[0, 0]).all()
    assert torch.equal(steps[3, 1], steps[2, 1])
    assert torch.equal(steps[-1], system.predict(batch))
    out = system.decoders[0](system.walk(batch)[0])[-1].sigmoid()
    torch.testing.assert_close(system.predict(batch), out / out.sum(1, keepdim=True))
    plain = small(outputs="logits").eval()
    logits = plain.decoders[0](plain.walk(batch)[0])[-1]
    torch.testing.assert_close(plain.predict(batch), logits.softmax(1))


def test_each_of_several_classes_is_a_task_of_its_own():
    system, batch = small(KINDS).eval(), whole(KINDS)
    assert len(system.decoders) == 3
    found = system.predict(batch)
    for task, decoder in enumerate(system.decoders):
        out = decoder(system.walk(batch)[0][-1]).sigmoid()
        torch.testing.assert_close(found[:, task], out[:, 1] / out.sum(1))


def test_rows_without_a_label_do_not_count():
    system, batch = small(change_penalty=1.0, **EXACT), whole()
    some = system.losses(lacking(batch, "kind", [1, 2]))
    for name, loss in system.losses(batch).items():
        assert some[name].count == 2
        torch.testing.assert_close(some[name].per_item, loss.per_item[[0, 3]])
    none = system.losses(batch.without("kind"))["label"]
    assert none.count == 0 and none.value == 0
    none.value.backward()


def test_it_learns_from_plain_logits():
    system, batch = small(outputs="logits", **EXACT), whole()
    optimizer = torch.optim.Adam(system.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        total(system, batch).backward()
        optimizer.step()
    assert system.eval().predict(batch).argmax(1).tolist() == [0, 2, 1, 0]


# ---------------------------------------------------------------------- the rest


@pytest.mark.parametrize("train_towers", [False, True])
def test_a_pretrained_tower_stays_as_it_is_unless_it_is_to_be_trained(tmp_path, train_towers):
    import transformers

    config = transformers.BertConfig(
        vocab_size=TOKENIZER.size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.BertModel(config).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    spec = {"encoder": {"note": f"hf:{tmp_path}"}, "train_towers": train_towers}
    system, batch = small(**spec).train(), whole()
    tower = system.encoders[3].tower
    assert tower.training == train_towers and system.training
    assert system.updates[3].write[1].in_features == 16 + 6  # the tower's own width, and the state
    before = {name: value.clone() for name, value in system.state_dict().items()}
    stage = system.stages()[0]
    optimizer = build_optimizer(select_trained(system, stage), stage)
    total(system, batch).backward()
    optimizer.step()
    changed = {n for n, value in system.state_dict().items() if not torch.equal(value, before[n])}
    assert any(".tower." in name for name in changed) == train_towers
    assert "start" in changed and any(name.startswith("updates.3.") for name in changed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((IMAGE,), "found none"),
        ((IMAGE, KIND, KINDS), r"found kind \(category\), kinds \(categories\)"),
        ((KIND,), "no field has the role input"),
        ((IMAGE, PRICE), r"found price \(number\)"),
    ],
)
def test_a_schema_that_does_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        MultiModN.check(Schema(fields=fields))


def test_prepared_rows_give_the_same_with_any_field_taken_away():
    system, batch = small().eval(), lacking(whole(), "note", [1])
    with torch.no_grad():
        prepared = system.prepare(batch)
    for name in NAMES:
        torch.testing.assert_close(
            system.predict_steps(prepared.without(name)), system.predict_steps(batch.without(name))
        )


def test_cross_entropy_of_the_release_is_on_top_of_the_sigmoid():
    system, batch = small(loss_at="last", **EXACT), whole()
    out = system.decoders[0](system.walk(batch)[0][-1])
    wanted = F.cross_entropy(out.sigmoid(), torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(system.losses(batch)["label"].value, wanted)
