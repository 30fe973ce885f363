"""LanguageBind: language is frozen, modalities share a tower and never meet in training."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from sensorium.data import open_data, read_batches
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders.as_picture import SoundPicture
from sensorium.nn.encoders.audio import LogMel
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.systems.alignment.languagebind import LanguageBind
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.tasks import get_task
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.training.trainer import objective
from sensorium.types import Entries, Field, Schema, UserError

WHERE = "playground:attributes?train=64&validation=16&test=40&pictures=30"
SMALL = {"width": 16, "depth": 2, "heads": 2, "text_depth": 1, "embed_dim": 8, "image_size": 32}


@pytest.fixture(scope="module")
def data():
    opened = open_data(WHERE)
    return opened.with_schema(get_task("classification").assign(opened.schema)).fit()


@pytest.fixture(scope="module")
def tokenizer(data):
    return Tokenizer.train(data.texts(200), 600)


def make(data, tokenizer, **settings):
    torch.manual_seed(0)
    return LanguageBind(LanguageBind.Config(**SMALL | settings), data.schema, tokenizer)


def read(system, data, count=12):
    (batch,) = read_batches(data, data.rows("train")[:count], system.views(), batch_size=count)
    return dataclasses.replace(batch, seed=3)


def train_stage(system, stage, batch, num_steps=3):
    """As the trainer does."""
    system.stage = stage.name
    trained = select_trained(system, stage)
    optimizer = build_optimizer(trained, stage)
    system.train()
    for _ in range(num_steps):
        losses = system(batch)
        objective(losses, {name: loss.count for name, loss in losses.items()}, 1).backward()
        optimizer.step()
        optimizer.zero_grad()
    return trained


def test_each_modality_changes_only_its_own_weights(data, tokenizer):
    system = make(data, tokenizer)
    batch = read(system, data)
    names = [stage.name for stage in system.stages()]
    assert names == ["image", "table", "sound"]
    for place, stage in enumerate(system.stages()):
        before = {name: value.clone() for name, value in system.state_dict().items()}
        train_stage(system, stage, batch)
        changed = {n for n, v in system.state_dict().items() if not torch.equal(v, before[n])}
        own = ("space.",) if place == 0 else (f"bound.{place - 1}.", f"temperatures.{place - 1}.")
        assert changed
        assert all(name.startswith(own) for name in changed)


def test_rows_without_pictures_bind_their_first_field_first(data, tokenizer):
    without = data.with_schema(data.schema.with_roles({"image": "ignore"}))
    system = make(without, tokenizer)
    assert [stage.name for stage in system.stages()] == ["table", "sound"]
    batch = read(system, without)
    for stage, own in zip(system.stages(), ("space.", "bound.0."), strict=True):
        trained = train_stage(system, stage, batch)
        assert any(name.startswith(own) for name in trained)
    assert bool(system.embed(batch, "sound").isfinite().all())
    assert system.predict(batch).shape == (batch.size, 8)


def test_language_is_tuned_only_where_that_is_asked_for(data, tokenizer):
    system = make(data, tokenizer, freeze=False)
    before = {name: value.clone() for name, value in system.space.target.state_dict().items()}
    train_stage(system, system.stages()[-1], read(system, data))
    after = system.space.target.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_the_loss_is_that_of_pairs_with_language_or_with_the_anchor(data, tokenizer):
    for anchor in ("language", "image"):
        system = make(data, tokenizer, anchor=anchor).eval()
        batch = read(system, data)
        system.stage = "sound"
        loss = system(batch)["sound"]
        sounds = system.embed(batch, "sound")
        other = system.embed(batch, {"language": "caption", "image": "image"}[anchor])
        logits = sounds @ other.T / 0.07
        # rows that hold the same are not each other's negatives
        groups = system.embeddings(batch)["groups"]
        same = (groups[:, None] == groups[None]).any(-1) & ~torch.eye(len(logits), dtype=bool)
        logits = logits.masked_fill(same, -torch.inf)
        wanted = sum(
            F.cross_entropy(part, torch.arange(len(logits))) / 2 for part in (logits, logits.T)
        )
        torch.testing.assert_close(loss.per_item.mean(), wanted, atol=1e-4, rtol=1e-4)


def test_a_recording_passes_the_tower_of_images_at_first_unchanged(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    sounds = batch["sound"]
    encoder = system.bound[1].encoder
    picture = encoder.picture(sounds.values, sounds.mask)
    assert picture.shape[1:] == (3, 32, 96)
    tower = system.space.query.encoder
    assert isinstance(tower, ImageEncoder)
    as_picture = F.normalize(
        system.space.query.head(tower.embed(picture, None, tower.pooling)), dim=-1
    )
    torch.testing.assert_close(system.embed(batch, "sound"), as_picture)
    torch.nn.init.normal_(encoder.deltas.up["layers/0/attention/value/weight"])
    assert not torch.allclose(system.embed(batch, "sound"), as_picture, atol=1e-4)


def test_shared_weights_are_counted_once(data, tokenizer):
    sizes = {}
    for tune in ("low_rank", "whole", "scratch"):
        system = make(data, tokenizer, tune=tune, rank=2)
        sizes[tune] = sum(value.numel() for value in system.bound[1].state_dict().values())
        assert not any("_tower" in name for name in system.state_dict())
    tower = sum(p.numel() for p in system.space.query.parameters())
    assert sizes["low_rank"] < sizes["whole"] < tower / 2 < sizes["scratch"]


def test_a_short_recording_is_repeated():
    from sensorium.modalities.audio import AudioView

    view = AudioView(rate=8000, seconds=1.0)
    make_picture = SoundPicture(view, 32, 8)
    sound = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2000)).astype(np.float32))
    padded = F.pad(sound, (0, 6000))
    real = torch.arange(8000)[None] < 2000
    whole = LogMel(8000, 32)(sound.repeat(1, 4))[:, :96]
    picture = make_picture(padded, real)
    torch.testing.assert_close(picture[:, 0], whole.transpose(1, 2))
    assert torch.equal(picture[:, 0], picture[:, 2])


def test_patches_are_left_out_in_training_only(data, tokenizer):
    system = make(data, tokenizer, patch_dropout=0.5)
    encoder, batch = system.bound[1].encoder, read(system, data)
    sounds = batch["sound"]
    in_training, _ = encoder.train()(sounds.values, sounds.mask)
    afterwards, _ = encoder.eval()(sounds.values, sounds.mask)
    assert afterwards.shape[1] == 2 * 6
    assert in_training.shape[1] == 6


def test_a_class_is_found_by_its_name(data, tokenizer):
    system = make(data, tokenizer, prompts=("a {}", "one {} here")).eval()
    batch = read(system, data)
    classes = system.label.fitted["classes"]
    found = []
    for name in classes:
        text = [system.space.target.encoder.view.tokenizer.encode([f"a {name}"], 64)]
        text += [system.space.target.encoder.view.tokenizer.encode([f"one {name} here"], 64)]
        vectors = [
            system.space.target.head(system.space.target.encoder.embed(*t, "mean")) for t in text
        ]
        found.append(F.normalize(torch.cat(vectors).mean(0), dim=0))
    rows = batch.without("sound", "table")
    cosine = system.embed(rows, "image") @ torch.stack(found).T
    torch.testing.assert_close(
        system.predict(rows), (cosine / 0.07).softmax(1), atol=1e-4, rtol=1e-3
    )
    nothing = system.predict(batch.without("sound", "table", "image"))
    torch.testing.assert_close(nothing, torch.full_like(nothing, 1 / len(classes)))


def test_depth_infrared_and_clips_share_the_tower(tokenizer):
    opened = open_data("playground:maps?train=16&validation=8&test=8&pictures=20&size=32")
    clip = Field(name="clip", modality="video", role="input")
    schema = get_task("retrieval").assign(opened.schema)
    system = make(opened.with_schema(schema).fit(), tokenizer)
    assert [stage.name for stage in system.stages()] == ["image", "depth", "infrared"]
    schema = Schema(fields=(*system.schema, clip))
    torch.manual_seed(0)
    system = LanguageBind(LanguageBind.Config(**SMALL), schema, tokenizer)
    data = opened.with_schema(system.schema.replace(clip.replace(role="ignore")))
    views = {name: view for name, view in system.views().items() if name != "clip"}
    (batch,) = read_batches(data, data.rows("train")[:8], views, batch_size=8)
    frames = torch.randint(0, 256, (8, 8, 32, 32, 3), dtype=torch.uint8)
    row = torch.arange(8)
    entries = Entries(frames, row, row * 0, torch.arange(8)[None] < torch.arange(1, 9)[:, None])
    batch = dataclasses.replace(batch.with_fields(clip=entries), seed=1)
    for name in ("depth", "infrared", "clip"):
        (stage,) = [stage for stage in system.stages() if stage.name == name]
        before = {n: v.clone() for n, v in system.state_dict().items() if "bound" not in n}
        own = system.embed(batch, name)
        assert own.isfinite().all()
        train_stage(system, stage, batch)
        after = system.state_dict()
        assert all(torch.equal(after[n], v) for n, v in before.items() if "temperatures" not in n)
        assert not torch.allclose(system.eval().embed(batch, name), own)


def test_absent_fields_have_no_vector_and_no_loss(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    kept = torch.arange(batch.size) % 2 == 0
    some = batch.with_fields(sound=batch["sound"].keep(kept))
    vectors = system.embed(some, "sound")
    assert vectors[~kept].isnan().all()
    torch.testing.assert_close(vectors[kept], system.embed(batch, "sound")[kept])
    system.stage = "sound"
    assert len(system(some)["sound"].per_item) == int(kept.sum())


def test_weights_of_clip(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red boat", "two dogs", "a blue cup"], 300)
    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    shape["num_attention_heads"] = 2
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=shape
            | {"vocab_size": tokenizer.size, "max_position_embeddings": 16, "eos_token_id": 2},
            vision_config=shape | {"image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    )
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    opened = open_data("playground:scenes?train=16&validation=8&test=8&pictures=20&size=32")
    schema = get_task("retrieval").assign(opened.schema)
    system = LanguageBind.from_clip(str(tmp_path), schema).eval()
    reference = DualEncoder.from_clip(str(tmp_path), schema).eval()
    rows = opened.with_schema(schema)
    (batch,) = read_batches(rows, rows.rows("train")[:4], reference.views(), batch_size=4)
    for field in ("image", "caption"):
        torch.testing.assert_close(system.embed(batch, field), reference.embed(batch, field))
    inputs = schema.with_roles({"image": "input", "caption": "input"})
    other = LanguageBind.from_clip(str(tmp_path), inputs).eval()  # whatever the roles are
    torch.testing.assert_close(other.embed(batch, "image"), system.embed(batch, "image"))


def test_what_it_needs():
    for missing, message in (("text", "of modality text"), ("image", "beside text")):
        fields = [
            Field(name=n, modality=n, role="input") for n in ("image", "text") if n != missing
        ]
        with pytest.raises(UserError, match=f"needs a field {message}"):
            LanguageBind.check(Schema(fields=tuple(fields)))
