"""ULIP: towers that stay as they are, points that learn to stand beside them, classes by their names."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from test_dual_encoder import word_tokenizer
from torch.nn import functional as F

from sensorium.claims.catalogue.ulip import probe, rendered, top
from sensorium.data import open_data, read_batches
from sensorium.modalities.points import CHANGES
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders.points import PointNet, PointTransformer
from sensorium.systems.alignment.class_names import PROMPTS
from sensorium.systems.alignment.ulip import FIRST, SECOND, ULIP
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.tasks import get_task
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.training.run import load, train
from sensorium.training.trainer import objective
from sensorium.types import Field, Schema, UserError

WHERE = "playground:shapes?train=48&validation=12&test=24&classes=12&unseen=4&size=32&points=64"
SMALL = {
    "num_points": 64,
    "points_width": 32,
    "points_depth": 2,
    "groups": 8,
    "neighbours": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "text_depth": 1,
    "embed_dim": 12,
    "image_size": 16,
}
ENCODERS = {"transformer": PointTransformer, "pointnet": PointNet}
each_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@pytest.fixture(scope="module")
def data():
    opened = open_data(WHERE)
    return opened.with_schema(get_task("classification").assign(opened.schema)).fit()


@pytest.fixture(scope="module")
def tokenizer(data):
    return Tokenizer.train(data.texts(200), 600)


def make(data, tokenizer, schema=None, **settings):
    torch.manual_seed(0)
    return ULIP(ULIP.Config(**SMALL | settings), schema or data.schema, tokenizer)


def read(system, data, count=24, split="train"):
    rows = data.rows(split)[:count]
    (batch,) = read_batches(data, rows, system.views(), batch_size=count)
    return dataclasses.replace(batch, seed=3)


def total(system, batch):
    losses = system(batch)
    return objective(losses, {name: loss.count for name, loss in losses.items()}, 1)


def train_stage(system, name, batch, num_steps=3):
    """As the trainer does."""
    (stage,) = (stage for stage in system.stages() if stage.name == name)
    system.stage = name
    optimizer = build_optimizer(select_trained(system, stage), stage)
    for step in range(num_steps):
        system.train()
        total(system, dataclasses.replace(batch, seed=step)).backward()
        optimizer.step()
        optimizer.zero_grad()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# what learns


@each_encoder
def test_frozen_towers_stay_bit_for_bit(data, tokenizer, encoder):
    system = make(data, tokenizer, encoder={"points": encoder})
    assert isinstance(system.points.encoder, ENCODERS[encoder])
    batch = read(system, data)
    train_stage(system, FIRST, batch)
    towers, points = state(system.space), state(system.points)
    train_stage(system, SECOND, batch)
    for name, value in system.space.state_dict().items():
        assert torch.equal(value, towers[name]) == (name != "temperature.log_scale"), name
    moved = [
        n for n, value in system.points.state_dict().items() if not torch.equal(value, points[n])
    ]
    assert len(moved) > 0.8 * len(points)


def test_the_first_stage_leaves_points_alone(data, tokenizer):
    system = make(data, tokenizer)
    before = state(system.points)
    train_stage(system, FIRST, read(system, data))
    assert all(torch.equal(value, before[n]) for n, value in system.points.state_dict().items())


def test_gradients_reach_the_encoder_of_points_and_the_scale_only(data, tokenizer):
    system = make(data, tokenizer)
    system.stage = SECOND
    system.train()
    total(system, read(system, data)).backward()
    with_gradient = {name for name, p in system.named_parameters() if p.grad is not None}
    assert with_gradient == {
        name
        for name, _ in system.named_parameters()
        if name.startswith("points.") or name == "space.temperature.log_scale"
    }


def test_a_scale_can_be_kept(data, tokenizer):
    system = make(data, tokenizer, freeze_scale=True)
    before = system.space.temperature.log_scale.item()
    train_stage(system, SECOND, read(system, data))
    assert system.space.temperature.log_scale.item() == before


def test_the_scale_is_at_most_100(data, tokenizer):
    system = make(data, tokenizer)
    system.stage = SECOND
    system.train()
    with torch.no_grad():
        system.space.temperature.log_scale.fill_(9.0)
    total(system, read(system, data)).backward()
    assert system.space.temperature().item() == pytest.approx(100, rel=1e-5)
    assert system.space.temperature.log_scale.grad.abs() > 0  # and it can come back from there


def test_tuned_towers_learn_too(data, tokenizer):
    system = make(data, tokenizer, towers="tuned", alpha=1.0)
    before = state(system.space)
    batch = read(system, data)
    train_stage(system, SECOND, batch)
    moved = [
        n for n, value in system.space.state_dict().items() if not torch.equal(value, before[n])
    ]
    assert len(moved) > 0.8 * len(before)
    assert set(system.losses(batch)) == {"points-image", "points-text", FIRST}


def test_frozen_towers_are_never_in_training_mode_in_the_second_stage(data, tokenizer):
    system = make(data, tokenizer)
    system.stage = FIRST
    assert all(m.training for m in system.train().modules())
    system.stage = SECOND
    system.train()
    still = [name for name, m in system.space.named_modules() if m.training]
    assert still == ["temperature"]  # which keeps itself within its limit in training only
    assert all(m.training for m in system.points.modules())
    assert not any(m.training for m in system.eval().modules())
    tuned = make(data, tokenizer, towers="tuned")
    tuned.stage = SECOND
    assert all(m.training for m in tuned.train().modules())


def test_the_projection_begins_as_published(data, tokenizer):
    system = make(data, tokenizer, points_width=256, embed_dim=64)
    head = system.points.head
    assert head.bias is None
    assert head.weight.std().item() == pytest.approx(64**-0.5, rel=0.03)


# the loss


def by_hand(a, b, scale):
    logits, numbers = scale * a @ b.T, torch.arange(len(a))
    return (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2


def test_the_loss_by_hand(data, tokenizer):
    system = make(data, tokenizer, equals_are_negatives=True, beta=0.7, theta=0.3).eval()
    batch = read(system, data)
    whole = batch.take(batch.present("points").nonzero().squeeze(1))
    assert whole.size == 16  # 4 of 12 kinds have no points
    points, image = system.embed(whole, "points"), system.embed(whole, "image")
    text = system.names.vectors()[whole["label"].values]
    losses = system.losses(batch)
    assert list(losses) == ["points-image", "points-text"]
    for name, other, weight in (("points-image", image, 0.7), ("points-text", text, 0.3)):
        torch.testing.assert_close(losses[name].value, by_hand(points, other, 1 / 0.07))
        assert losses[name].weight == weight and losses[name].count == 16
    first = system
    first.stage = FIRST
    assert list(first.losses(batch)) == [FIRST] and first.losses(batch)[FIRST].count == 24


def test_rows_of_one_class_are_not_each_others_negatives(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    whole = batch.take(batch.present("points").nonzero().squeeze(1))
    codes = whole["label"].values
    same = (codes[:, None] == codes) & ~torch.eye(len(codes), dtype=torch.bool)
    assert same.any()
    points, text = system.embed(whole, "points"), system.names.vectors()[codes]
    logits = (points @ text.T / 0.07).masked_fill(same, -torch.inf)
    numbers = torch.arange(len(codes))
    wanted = (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2
    torch.testing.assert_close(system.losses(batch)["points-text"].value, wanted)


@pytest.mark.parametrize(
    ("settings", "name"), [({"beta": 0.0}, "points-text"), ({"theta": 0.0}, "points-image")]
)
def test_one_term_alone(data, tokenizer, settings, name):
    system = make(data, tokenizer, **settings)
    assert list(system.losses(read(system, data))) == [name]


def test_a_setting_that_trains_nothing_is_refused():
    with pytest.raises(UserError, match="beta and theta"):
        ULIP.Config().override({"beta": 0.0, "theta": 0.0})


def test_rows_without_a_partner_take_no_part_in_its_term(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data, 12)
    rows = torch.arange(12)
    lacking = batch.with_fields(
        image=batch["image"].keep(rows % 2 == 0), label=batch["label"].keep(rows < 6)
    )
    there = lacking.present("points")
    counts = {name: loss.count.item() for name, loss in system.losses(lacking).items()}
    assert counts["points-image"] == (there & lacking.present("image")).sum().item()
    assert counts["points-text"] == (there & lacking.present("label")).sum().item()
    for absent in (("image", "label"), ("points",), ("image", "caption", "label", "points")):
        losses = system.losses(batch.without(*absent))
        assert all(loss.count == 0 and loss.value == 0 for loss in losses.values())


def test_without_a_label_the_texts_of_rows_count(data, tokenizer):
    schema = open_data(WHERE).schema
    schema = get_task("retrieval").assign(schema)
    system = make(data, tokenizer, schema, equals_are_negatives=True).eval()
    assert system.names is None and system.capabilities == {"embed"}
    batch = read(system, data)
    whole = batch.take(batch.present("points").nonzero().squeeze(1))
    wanted = by_hand(system.embed(whole, "points"), system.embed(whole, "caption"), 1 / 0.07)
    torch.testing.assert_close(system.losses(batch)["points-text"].value, wanted)


def test_micro_batches_give_the_gradients_of_the_whole(data, tokenizer):
    """As the trainer computes them: embedded in parts, compared at once."""
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    total(system, batch).backward()
    wanted = {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    halves = [batch.take(torch.arange(0, 12)), batch.take(torch.arange(12, 24))]
    with torch.no_grad():
        parts = [system.embeddings(half) for half in halves]
    leaves = {
        name: torch.cat([part[name] for part in parts]).requires_grad_(value.is_floating_point())
        for name, value in parts[0].items()
    }
    losses = system.compare(leaves)
    objective(losses, {name: loss.count for name, loss in losses.items()}, 1).backward()
    assert leaves["image"].grad is None and leaves["text"].grad is None
    first = 0
    for half in halves:
        embedded = system.embeddings(half)["points"]
        embedded.backward(leaves["points"].grad[first : first + len(embedded)])
        first += len(embedded)
    for name, parameter in system.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-4)


def test_one_picture_of_a_row_is_drawn_in_each_step(tokenizer):
    data = open_data(WHERE + "&renders=4")
    data = data.with_schema(get_task("classification").assign(data.schema)).fit()
    system = make(data, tokenizer)
    system.stage = SECOND
    batch = read(system, data)
    whole = batch.take(batch.present("points").nonzero().squeeze(1))
    assert len(whole["image"]) == 64
    single = system.train().embeddings(batch)["image"]
    again = system.embeddings(batch)["image"]
    torch.testing.assert_close(single, again)
    other = system.embeddings(dataclasses.replace(batch, seed=99))["image"]
    changed = (other - single).abs().amax(1) > 1e-6
    assert 4 < changed.sum() < 16
    each = whole.with_fields(
        image=dataclasses.replace(whole["image"], row=torch.arange(64), item=torch.zeros(64).long())
    )
    every = system.space.query(dataclasses.replace(each, keys=["x"] * 64, index=torch.arange(64)))[
        0
    ]
    nearest = (single[:, None] - every.view(16, 4, -1)).abs().amax(2).amin(1)
    assert nearest.max() < 1e-5  # each is that of one of its row's pictures
    assert not torch.allclose(system.eval().embeddings(batch)["image"], single, atol=1e-4)


# names of classes


def test_a_class_is_the_mean_of_its_prompts(data, tokenizer):
    prompts = ("{}", "a {} of old", "some {}")
    system = make(data, tokenizer, prompts=prompts).eval()
    names = system.names.label.fitted["classes"]
    ids, mask = tokenizer.encode([p.format(names[3]) for p in prompts], 64)
    tower = system.space.target
    vectors = F.normalize(
        tower.head.weight @ tower.encoder.embed(ids, mask, tower.pooling).T, dim=0
    )
    wanted = F.normalize(vectors.mean(1), dim=0)
    torch.testing.assert_close(system.names.vectors()[3], wanted)
    torch.testing.assert_close(system.names.vectors([5, 3])[1], wanted)
    torch.testing.assert_close(system.names.of_rows(torch.tensor([3, 7, 3]))[2], wanted)
    longer = make(data, tokenizer, prompts=("{}", "{} and {}")).eval()
    assert not torch.allclose(longer.names.vectors()[3], wanted)


def with_names(data, names):
    label = data.schema["label"]
    return data.schema.replace(label.replace(fitted={**label.fitted, "classes": names}))


def test_a_class_with_several_names(data, tokenizer):
    names = list(data.schema["label"].fitted["classes"])
    names[2] = f"{names[2]}, {names[5]}"
    system = make(data, tokenizer, with_names(data, names), prompts=("{}",)).eval()
    plain = make(data, tokenizer, prompts=("{}",)).eval().names.vectors()
    wanted = F.normalize((plain[2] + plain[5]) / 2, dim=0)
    torch.testing.assert_close(system.names.vectors()[2], wanted)
    codes, draw = torch.tensor([2, 2, 0, 2]), torch.tensor([0.1, 0.7, 0.9, 0.49])
    drawn = system.names.drawn(codes, draw)
    torch.testing.assert_close(drawn, plain[[2, 5, 0, 2]])


def test_without_the_ensemble_names_are_as_they_are(data, tokenizer):
    system = make(data, tokenizer, ensemble=False).eval()
    batch = read(system, data)
    plain = make(data, tokenizer, prompts=("{}",)).eval().names.vectors()
    whole = batch.take(batch.present("points").nonzero().squeeze(1))
    torch.testing.assert_close(system.embeddings(batch)["text"], plain[whole["label"].values])


def test_there_are_as_many_prompts_as_in_the_paper():
    assert len(PROMPTS) == len(set(PROMPTS)) == 64
    assert sum("point cloud" in prompt for prompt in PROMPTS) == 1
    assert all("{}" in prompt for prompt in PROMPTS)
    with pytest.raises(UserError, match="has no {} for the name"):
        ULIP.Config().override({"prompts": ["a thing"]})


def test_the_nearest_name_by_the_cosine(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data, split="test")
    found = system.predict(batch)
    cosines = system.embed(batch, "points") @ system.names.vectors().T
    torch.testing.assert_close(found, torch.softmax(cosines, 1))
    hidden = batch.with_fields(points=batch["points"].keep(torch.arange(24) % 2 == 0))
    told = system.predict(hidden)
    torch.testing.assert_close(told[::2], found[::2])
    by_picture = torch.softmax(system.embed(batch, "image") @ system.names.vectors().T, 1)
    torch.testing.assert_close(told[1::2], by_picture[1::2])
    nothing = system.predict(batch.without("points", "image"))
    torch.testing.assert_close(nothing, torch.full((24, 12), 1 / 12))


def test_what_it_embeds(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    for field in ("points", "image", "caption"):
        vectors = system.embed(batch, field)
        there = batch.present(field)
        torch.testing.assert_close(vectors[there].norm(dim=1), torch.ones(int(there.sum())))
        assert vectors[~there].isnan().all()
    with pytest.raises(UserError, match="does not embed 'poinst'. Did you mean 'points'"):
        system.embed(batch, "poinst")


# fields, sizes, starts


def test_kinds_held_out_are_absent_from_training_on_points(data, tokenizer):
    system = make(data, tokenizer)
    seen = set()
    for batch in read_batches(data, data.rows("train"), system.views(), batch_size=16):
        embedded = system.eval().embeddings(batch)
        whole = batch.take(batch.present("points").nonzero().squeeze(1))
        assert len(embedded["points"]) == whole.size
        seen |= set(whole["label"].values.tolist())
    assert len(seen) == 8
    (test,) = read_batches(data, data.rows("test"), system.views(), batch_size=24)
    assert len(set(test["label"].values[test.present("points")].tolist())) == 12


def test_what_the_schema_must_have(data, tokenizer):
    fields = {field.name: field for field in data.schema}
    for name in ("points", "image", "caption"):
        rest = Schema(fields=tuple(f for f in fields.values() if f.name != name))
        with pytest.raises(UserError, match=f"needs a field of modality {fields[name].modality}"):
            ULIP.check(rest)
    more = data.schema.replace(Field(name="scan", modality="points"))
    with pytest.raises(UserError, match=r"points, scan; choose one with --set points=NAME"):
        make(data, tokenizer, more)
    assert make(data, tokenizer, more, points="scan").points.field.name == "scan"
    with pytest.raises(UserError, match="encoder.sound"):
        make(data, tokenizer, encoder={"sound": "pointnet"})


def test_views_and_stages(data, tokenizer):
    system = make(data, tokenizer)
    views = system.views()
    assert views["points"].augment == CHANGES and views["image"].augment == ("crop",)
    assert views["points"].normalise and views["points"].num_points == 64
    first, second = system.stages()
    assert (first.name, second.name) == (FIRST, SECOND)
    assert second.betas == (0.9, 0.98) and second.weight_decay == 0.1
    assert first.share + second.share == pytest.approx(1)


def test_paper_has_the_published_sizes(data):
    with torch.device("meta"):
        system = ULIP(ULIP.Config.paper(), data.schema, word_tokenizer(49408))
        net = ULIP(
            ULIP.Config.paper().override({"encoder.points": "pointnet", "points_width": 256}),
            data.schema,
            word_tokenizer(49408),
        )
    assert system.points.head.weight.shape == (512, 768)
    assert net.points.head.weight.shape == (512, 256)
    assert (system.points.encoder.groups, system.points.encoder.neighbours) == (512, 32)
    assert [level.centres for level in net.points.encoder.levels] == [512, 128]
    assert [level.neighbours for level in net.points.encoder.levels] == [32, 64]
    assert system.points.encoder.layers[-1].dropout.rate == 0.1
    size = sum(parameter.numel() for parameter in system.space.parameters())
    assert size == 149_620_737  # CLIP ViT-B/16
    second = system.stages()[1]
    assert (second.learning_rate, second.batch_size) == (3e-3, 512)
    assert system.views()["points"].num_points == 8192


def test_towers_of_clip(data, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    text = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 4, "max_position_embeddings": 12}
    text |= {"bos_token_id": 58, "pad_token_id": 1, "eos_token_id": 59}
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 6, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    torch.manual_seed(0)
    clip = transformers.CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    word_tokenizer(60).save(tmp_path)
    small = {
        name: SMALL[name] for name in SMALL if "point" in name or name in ("groups", "neighbours")
    }
    system = ULIP.from_clip(str(tmp_path), data.schema, **small).eval()
    batch = read(system, data, 8)
    wanted = clip.get_text_features(batch["caption"].values, batch["caption"].mask.long())
    wanted = wanted if isinstance(wanted, torch.Tensor) else wanted.pooler_output
    torch.testing.assert_close(
        system.embed(batch, "caption"), F.normalize(wanted, dim=1), atol=1e-5, rtol=1e-4
    )
    before = state(system.space)
    train_stage(system, SECOND, batch)
    for name, value in system.space.state_dict().items():
        assert torch.equal(value, before[name]) == (name != "temperature.log_scale"), name


def test_pretrained_towers_by_name(data, tokenizer, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    config = transformers.BertConfig(
        vocab_size=tokenizer.size,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    system = make(data, tokenizer, encoder={"text": f"hf:{tmp_path}", "points": "pointnet"})
    assert system.space.target.head.in_features == 12
    system.stage = SECOND
    system.train()
    assert not system.space.target.training
    total(system, read(system, data)).backward()
    assert all(p.grad is None for p in system.space.target.parameters())


def test_a_run_of_a_dual_encoder_is_a_start(data, tmp_path):
    common = {"task": "retrieval", "budget": "2steps", "device": "cpu"}
    options = {"batch_size": 16, "workers": 0}
    pairs = open_data(WHERE)
    schema = pairs.schema.with_roles({"points": "ignore", "image": "target", "caption": "query"})
    towers = {
        n: SMALL[n] for n in ("width", "depth", "heads", "text_depth", "embed_dim", "image_size")
    }
    settings = {"tokenizer": "bpe:600", "patch": 8, **towers}
    train(
        "dual-encoder",
        pairs.with_schema(schema),
        out=tmp_path / "start",
        options=options,
        settings=settings,
        **common,
    )
    start = load(tmp_path / "start", "cpu").system
    assert isinstance(start, DualEncoder) and start.query.field.name == "caption"
    common["task"] = "classification"
    run = train(
        ULIP,
        WHERE,
        out=tmp_path / "ulip",
        options=options | {"stages": [SECOND]},
        settings=SMALL | {"tokenizer": "bpe:600"},
        init=tmp_path / "start",
        **common,
    )
    for ours, theirs in (
        (run.system.space.query, start.target),
        (run.system.space.target, start.query),
    ):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


# the measures of the claim


def test_the_measures_of_the_claim(data, tokenizer):
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    assert top(scores, torch.tensor([0, 1]), 1) == 0.5
    assert top(scores, torch.tensor([2, 1]), 2) == 1.0
    labels = np.repeat(np.arange(4), 20)
    clear = np.eye(4)[labels] + 0.01 * np.random.default_rng(0).normal(size=(80, 4))
    assert probe(clear, labels) == 1.0
    assert probe(np.random.default_rng(0).normal(size=(80, 4)), labels) < 0.6
    system = make(data, tokenizer).eval()
    batch = read(system, data, split="test")
    found = rendered(system, batch)
    assert found.shape == (24, 12) and found.norm(dim=1).allclose(torch.ones(24))
    assert found.std(0).max() > 0
