"""Meta-Transformer: frozen but passed through, loaded last, and the controls that the claim needs."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import transformers

from sensorium.claims.catalogue.meta_transformer import FIELDS, rows_of
from sensorium.data import open_data, read_batches
from sensorium.modalities.base import Modality, add_modality
from sensorium.modalities.text import Tokenizer
from sensorium.nn.blocks import Layer
from sensorium.systems.adaptation.meta_transformer import MetaTransformer
from sensorium.systems.adaptation.meta_transformer_trunk import shuffle, source_of
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.training import checkpoints
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.training.run import load, train
from sensorium.types import Batch, Entries, Field, Schema, UserError

SMALL = {"width": 16, "depth": 2, "heads": 2, "image_size": 32}
ROWS = "train=24&validation=8&test=8"


def assigned(where, *inputs):
    """Rows of the playground of which just some fields are read."""
    data = open_data(f"playground:{where}")
    roles = {field.name: "ignore" for field in data.schema if field.role != "label"}
    return data.with_schema(data.schema.with_roles({**roles, **dict.fromkeys(inputs, "input")}))


def make(data, seed=0, **settings):
    tokenizer = Tokenizer.train(data.texts(200), 300) if data.schema.find(modality="text") else None
    torch.manual_seed(seed)
    config = MetaTransformer.Config(**SMALL | {"trunk": "random"} | settings)
    return MetaTransformer(config, data.schema, tokenizer)


def read(system, data, count=8):
    rows = data.rows("train")[:count]
    (batch,) = read_batches(data, rows, system.views(), batch_size=count)
    return dataclasses.replace(batch, seed=5)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def attributes():
    return assigned(f"attributes?{ROWS}", "image", "caption", "table", "sound").fit()


@pytest.fixture(scope="module")
def series():
    return assigned(f"series?{ROWS}", "series").fit()


@pytest.mark.parametrize("tuned", [False, True])
def test_the_trunk_is_frozen_and_gradients_pass_through_it(attributes, tuned):
    system = make(attributes, tuned=tuned)
    batch = read(system, attributes)
    (stage,) = system.stages()
    trained = select_trained(system, stage)
    optimizer = build_optimizer(trained, stage)
    before = weights(system)
    for _ in range(2):
        optimizer.zero_grad()
        system(batch)["label"].value.backward()
        for name, parameter in system.named_parameters():
            assert (parameter.grad is None) == (name.startswith("trunk.") and not tuned), name
            assert parameter.grad is None or parameter.grad.abs().sum() > 0, name
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    for name, value in system.state_dict().items():
        frozen = name.startswith("trunk.") and not tuned
        assert torch.equal(value, before[name]) == frozen, name
    assert any(name.startswith("trunk.") for name in trained) == tuned


def test_the_trunk_is_blocks_alone_and_is_counted_once(attributes):
    system = make(attributes)
    layers = [Layer(16, 2) for _ in range(2)]
    wanted = {f"{i}.{name}" for i, layer in enumerate(layers) for name in layer.state_dict()}
    assert set(system.trunk.state_dict()) == wanted
    assert not any("layers" in name for name in system.state_dict())
    for tokeniser in system.tokenisers:
        assert tokeniser.layers is system.trunk
        assert tokeniser.class_token.shape == (16,)
    moved = make(attributes).to(torch.float64)
    assert moved.tokenisers[0].layers is moved.trunk


def test_what_a_field_goes_through_by_hand(attributes):
    """Class token, tokens, blocks, a norm of its own; what is read is the class token's vector."""
    system = make(attributes).eval()
    batch = read(system, attributes)
    place = [field.name for field in system.inputs].index("caption")
    tokeniser, entries = system.tokenisers[place], batch["caption"]
    x, _, _ = tokeniser.encoder.prepare(entries.values, entries.mask)
    for row in (0, 3):
        length = int(entries.mask[row].sum())
        tokens = torch.cat([tokeniser.class_token[None], x[row, :length]])[None]
        for layer in system.trunk:
            tokens = layer(tokens)
        vector, present = system.tokenisers.vector(batch, place)
        assert present.all()
        torch.testing.assert_close(vector[row], tokeniser.norm(tokens)[0, 0], atol=1e-5, rtol=1e-5)


def test_the_head_reads_the_mean_of_the_fields_that_are_there(attributes):
    system = make(attributes).eval()
    batch = read(system, attributes)
    alone = {}
    names = [field.name for field in system.inputs]
    for name in names:
        others = [other for other in names if other != name]
        alone[name] = system.logits(batch.without(*others))
    both = system.logits(batch.without("image", "table"))
    torch.testing.assert_close(both, (alone["caption"] + alone["sound"]) / 2)
    nothing = system.logits(batch.without(*names))
    torch.testing.assert_close(nothing, system.head.bias.expand(8, -1))


def test_every_pattern_of_missing_modalities_trains_and_predicts(attributes):
    system = make(attributes)
    whole = read(system, attributes)
    names = [field.name for field in system.inputs]
    assert len(names) == 4
    for pattern in itertools.product([False, True], repeat=4):
        absent = [name for name, there in zip(names, pattern, strict=True) if not there]
        batch = whole.without(*absent)
        system.train()
        loss = system(batch)["label"]
        assert torch.isfinite(loss.value) and loss.count == 8
        system.zero_grad()
        loss.value.backward()
        for (field, tokeniser), there in zip(system.tokenisers.each(), pattern, strict=True):
            assert (tokeniser.class_token.grad is not None) == there, field.name
        found = system.eval().predict(batch)
        torch.testing.assert_close(found.sum(1), torch.ones(8))


def test_points_are_told_their_place_before_every_block():
    data = assigned(f"shapes?{ROWS}&classes=3&points=64", "points").fit()
    system = make(data).eval()
    batch = read(system, data)
    tokeniser = system.tokenisers[0]
    assert tokeniser.encoder.layers is system.trunk
    assert not any("layers" in name for name in system.state_dict())
    seen = []
    for layer in system.trunk:
        layer.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    system.predict(batch)
    (first_in, first_out), (second_in, _) = seen
    place = second_in - first_out
    assert place[:, 1:].abs().sum() > 0
    # The same places as before the first block, where they came on top of the groups.
    groups = first_in - place
    torch.testing.assert_close(place[:, 0], tokeniser.encoder.class_place.expand(8, -1))
    torch.testing.assert_close(groups[:, 0], tokeniser.encoder.class_token.expand(8, -1))


def test_without_a_trunk_tokens_are_averaged(series):
    system = make(series, trunk="none").eval()
    assert not list(system.trunk.parameters())
    batch = read(system, series)
    tokeniser, entries = system.tokenisers[0], batch["series"]
    x, _, _ = tokeniser.encoder.prepare(entries.values, entries.mask)
    row = torch.cat([tokeniser.class_token[None], x[2, entries.mask[2]]])
    torch.testing.assert_close(system.logits(batch)[2], system.head(tokeniser.norm(row).mean(0)))
    trained = {n for n, _ in make(series).named_parameters() if not n.startswith("trunk.")}
    assert {name for name, _ in system.named_parameters()} == trained


def test_shuffled_matrices_hold_the_same_numbers_elsewhere(series):
    system = make(series)
    before = weights(system.trunk)
    shuffle(system.trunk)
    for name, value in system.trunk.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (value.ndim > 1), name
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    again = make(series)
    shuffle(again.trunk)
    assert all(
        torch.equal(again.trunk.state_dict()[n], v) for n, v in system.trunk.state_dict().items()
    )


def test_stages(series):
    (only,) = make(series).stages()
    assert (only.name, only.losses) == ("task", ("label",))
    trunk, task = make(series, trunk="playground", pretraining=0.25).stages()
    assert (trunk.name, task.name) == ("trunk", "task")
    assert task.share == 3 * trunk.share
    system = make(series, trunk="playground")
    assert {name.split(".")[0] for name in select_trained(system, system.stages()[0])} == {
        "trunk",
        "pictures",
        "names",
    }
    assert {name.split(".")[0] for name in select_trained(system, system.stages()[1])} == {
        "tokenisers",
        "head",
    }


def test_the_trunk_learns_from_pictures_that_depend_on_seed_and_row_alone(series):
    system = make(series, trunk="playground")
    system.stage = "trunk"
    batch = read(system, series)
    losses = system.losses(batch)
    assert list(losses) == ["pictures"] and losses["pictures"].count == 8
    half = system.losses(batch.take(torch.tensor([2, 5])))["pictures"]
    torch.testing.assert_close(half.per_item, losses["pictures"].per_item[[2, 5]])
    other = system.losses(dataclasses.replace(batch, seed=6))["pictures"]
    assert not torch.allclose(other.per_item, losses["pictures"].per_item)


# Weights from elsewhere


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dual encoder whose query is an image, and an adapted trunk."""
    out = tmp_path_factory.mktemp("runs")
    settings = {"width": 16, "depth": 2, "heads": 2, "image_size": 32, "tokenizer": "bpe:300"}
    train(
        "dual-encoder",
        f"playground:scenes?{ROWS}",
        out=out / "dual",
        settings=settings,
        budget="2steps",
        options={"workers": 0, "batch_size": 8},
        device="cpu",
    )
    return out


def test_the_blocks_of_a_dual_encoder_are_loaded_when_the_task_begins(series, trained):
    dual = load(trained / "dual", "cpu").system
    assert isinstance(dual, DualEncoder)
    system = make(series, trunk=f"run:{trained / 'dual'}")
    drawn = weights(system.trunk)
    others = {n: v for n, v in weights(system).items() if not n.startswith("trunk.")}
    system.begin("task")
    for name, value in dual.query.encoder.layers.state_dict().items():
        assert torch.equal(system.trunk.state_dict()[name], value)
    assert not torch.equal(
        drawn["0.attention.query.weight"], system.trunk[0].attention.query.weight
    )
    assert all(torch.equal(system.state_dict()[name], value) for name, value in others.items())
    shuffled = make(series, trunk=f"run:{trained / 'dual'}", shuffled=True)
    shuffled.begin("task")
    shuffle(system.trunk)
    assert torch.equal(
        shuffled.trunk[1].feed_forward[0].weight, system.trunk[1].feed_forward[0].weight
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, "has depth 2.*--set depth=2"),
        ({"heads": 4}, "has heads 2.*--set heads=2"),
        ({"width": 32}, "has width 16.*--set width=16"),
        ({"activation": "relu"}, "has activation gelu"),
    ],
)
def test_blocks_of_another_shape_are_refused(series, trained, settings, message):
    system = make(series, trunk=f"run:{trained / 'dual'}", **settings)
    with pytest.raises(UserError, match=message):
        system.begin("task")


def test_what_is_no_run_is_refused(series, tmp_path):
    with pytest.raises(UserError, match="not the folder of a finished run"):
        make(series, trunk=f"run:{tmp_path}").begin("task")
    for text in ("", "hf:", "run:", "clip", "playground:scenes"):
        with pytest.raises(UserError, match="none of playground, random, none"):
            source_of(text)


def test_the_blocks_of_clip_compute_what_they_compute_in_clip(series, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    config = transformers.CLIPConfig(
        text_config={**shape, "vocab_size": 40, "intermediate_size": 64},
        vision_config={**shape, "intermediate_size": 64, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(1)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has activation quick_gelu"):
        make(series, trunk=f"hf:{tmp_path}").begin("task")
    system = make(series, trunk=f"hf:{tmp_path}", activation="quick_gelu")
    system.begin("task")
    x = torch.randn(3, 5, 16)
    wanted = model.vision_model.encoder(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(system.trunk.walk(x), wanted, atol=1e-5, rtol=1e-5)
    transformers.utils.logging.enable_progress_bar()


def test_a_run_that_was_killed_ends_with_the_same_shuffled_trunk(tmp_path, monkeypatch):
    """What begins a stage happens once, also where the run resumes after it."""
    common = {
        "data": f"playground:series?{ROWS}",
        "settings": {**SMALL, "shuffled": True},
        "budget": "8steps",
        "options": {"workers": 0, "batch_size": 8, "checkpoint_every": 1e-6},
        "device": "cpu",
    }
    begun = []
    begin = MetaTransformer.begin
    monkeypatch.setattr(
        MetaTransformer, "begin", lambda self, stage: (begun.append(stage), begin(self, stage))
    )
    whole = train(MetaTransformer, out=tmp_path / "whole", **common)
    assert begun == ["trunk", "task"]

    class Killed(Exception):
        pass

    save = checkpoints.save_checkpoint

    def save_and_die(folder, progress, *rest):
        save(folder, progress, *rest)
        if progress.step in dying:
            dying.remove(progress.step)
            raise Killed

    monkeypatch.setattr(checkpoints, "save_checkpoint", save_and_die)
    dying = {2, 4, 6}
    begun.clear()
    for _ in range(3):
        with pytest.raises(Killed):
            train(MetaTransformer, out=tmp_path / "killed", **common)
    resumed = train(MetaTransformer, out=tmp_path / "killed", **common)
    assert begun == ["trunk", "task"]
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[name]), name
    # The trunk of a run serves another, and stays as it was.
    other = {**SMALL, "trunk": f"run:{tmp_path / 'whole'}"}
    adapted = train(MetaTransformer, out=tmp_path / "adapted", **common | {"settings": other})
    for name, value in whole.system.trunk.state_dict().items():
        assert torch.equal(adapted.system.trunk.state_dict()[name], value)


# Any modality


class Spectrum(Modality):
    """A third party's modality, with nothing but decoding."""

    name = "meta-spectrum"

    def decode(self, raw, field, view):
        return np.asarray(raw, dtype=np.float32)

    def collate(self, values, field, view):
        return torch.from_numpy(np.stack(values)), None


def test_a_modality_of_a_user_and_encoders_that_are_no_transformers():
    add_modality(Spectrum())
    schema = Schema(
        fields=(
            Field(name="line", modality="meta-spectrum"),
            Field(name="size", modality="number", fitted={"mean": 1.0, "std": 2.0}),
            Field(name="y", modality="category", role="label", fitted={"classes": ["a", "b"]}),
        )
    )
    system = MetaTransformer(MetaTransformer.Config(**SMALL, trunk="random"), schema)
    one = torch.arange(6)
    fields = {
        "line": Entries(torch.randn(6, 40), one, one * 0),
        "size": Entries(torch.randn(6), one, one * 0),
        "y": Entries(one % 2, one, one * 0),
    }
    batch = Batch(fields, [str(row) for row in range(6)], one)
    (stage,) = system.stages()
    optimizer = build_optimizer(select_trained(system, stage), stage)
    losses = []
    for _ in range(60):
        loss = system(batch)["label"].value
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert system.predict(batch).argmax(1).tolist() == [0, 1] * 3


@pytest.mark.parametrize("view", ["series", "graphs"])
def test_a_graph_or_a_series_alone_gives_what_it_gives_in_a_batch(view):
    data = assigned(f"{view}?{ROWS}", "series" if view == "series" else "graph").fit()
    system = make(data).eval()
    together = system.predict(read(system, data))
    for row in (0, 5):
        (single,) = read_batches(data, data.rows("train")[[row]], system.views(), batch_size=1)
        torch.testing.assert_close(system.predict(single)[0], together[row], atol=1e-5, rtol=1e-4)


def test_it_needs_something_to_predict_and_something_to_read(series):
    without = Schema(fields=(Field(name="series", modality="series"),))
    with pytest.raises(UserError, match="found none"):
        MetaTransformer.check(without)
    label = Field(name="y", modality="text", role="label")
    with pytest.raises(UserError, match=r"category, categories, number; found y \(text\)"):
        MetaTransformer.check(Schema(fields=(label,)))
    alone = Schema(fields=(label.replace(modality="number"),))
    with pytest.raises(UserError, match="no field has a role it reads"):
        MetaTransformer.check(alone)


def test_the_claim_reads_one_field_of_each_view():
    class OfSeries:
        def data(self):
            return open_data(f"playground:series?{ROWS}")

    for name, (_, read_field) in FIELDS.items():
        data = rows_of(name, OfSeries())
        assert [field.name for field in data.schema.find(role="input")] == [read_field]
        assert len(data.schema.find(role="label", modality="category")) == 1
        assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [24, 8, 8]
