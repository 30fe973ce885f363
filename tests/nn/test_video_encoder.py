"""Encoders of clips and maps: what they see, what they do not, and that late fusion learns from both."""

import dataclasses

import numpy as np
import pytest
import torch

from sensorium.data import open_data, read_batches
from sensorium.modalities.maps import Maps, MapView
from sensorium.modalities.text import Tokenizer
from sensorium.modalities.video import VideoView
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.maps import MapEncoder
from sensorium.nn.encoders.video import VideoEncoder
from sensorium.systems.baselines.late_fusion import LateFusion
from sensorium.tasks import get_task
from sensorium.types import Field, UserError

CLIP = Field(name="clip", modality="video")
DEPTH = Field(name="depth", modality="maps", options={"range": [0, 1]})
KINDS = Field(name="kinds", modality="maps", options={"kind": "classes", "classes": [0, 4, 9]})


def video_encoder(frames=4, seed=0, **settings):
    torch.manual_seed(seed)
    view = VideoView(frames=frames, size=16)
    built = build_encoder(CLIP, width=16, depth=2, heads=2, view=view, **settings)
    assert isinstance(built, VideoEncoder)
    return built.eval()


def awake(encoder, seed=0):
    """With attention over time that does something, which it does not at first."""
    torch.manual_seed(seed)
    for layer in encoder.over_time:
        torch.nn.init.normal_(layer.attention.output.weight, std=0.3)
    return encoder


def clips(entries=2, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (entries, frames, 16, 16, 3), generator=generator).byte()


def test_tokens_of_a_clip():
    values, mask = video_encoder()(clips())
    assert values.shape == (2, 4 * 4, 16) and mask is None
    real = torch.tensor([[True, True, True, True], [True, False, False, False]])
    values, mask = video_encoder()(clips(), real)
    assert mask.sum(1).tolist() == [16, 4] and mask[1, :4].all()
    assert torch.isfinite(values).all()


def test_padding_is_neither_seen_nor_computed():
    encoder, values = awake(video_encoder()), clips()
    real = torch.tensor([[True, True, True, True], [True, True, False, False]])
    seen = []
    encoder.stem.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    with torch.no_grad():
        found, _ = encoder(values, real)
        changed = values.clone()
        changed[1, 2:] = 255 - changed[1, 2:]
        again, _ = encoder(changed, real)
        alone, _ = encoder(values[1:, :2])
    assert seen == [6, 6, 2]
    assert torch.equal(found[1, :8], again[1, :8])
    torch.testing.assert_close(found[1, :8], alone[0], atol=1e-5, rtol=1e-5)


def test_a_full_mask_is_no_mask():
    encoder, values = awake(video_encoder()), clips()
    with torch.no_grad():
        plain, masked = encoder(values)[0], encoder(values, torch.ones(2, 4, dtype=torch.bool))[0]
    assert torch.equal(plain, masked)


def test_frames_see_each_other_only_through_time():
    values = clips(1)
    changed = values.clone()
    changed[0, 3] = 0
    with torch.no_grad():
        asleep = video_encoder()
        before, after = asleep(values)[0], asleep(changed)[0]
        assert torch.equal(before[0, :12], after[0, :12])  # at first every frame is by itself
        woken = awake(asleep)
        before, after = woken(values)[0], woken(changed)[0]
        assert ((before - after)[0, :4].abs() > 1e-4).any()


def test_attention_over_time_stays_in_its_place():
    encoder = awake(video_encoder())
    x = torch.randn(1, 4, 4, 16)
    changed = x.clone()
    changed[0, 2, 1] += 1
    with torch.no_grad():
        difference = (encoder.over_time[0](x, None) - encoder.over_time[0](changed, None)).abs()
    assert (difference.amax((0, 1, 3)) > 1e-5).tolist() == [False, True, False, False]


def test_the_order_of_frames_counts():
    encoder, values = awake(video_encoder()), clips(1)
    with torch.no_grad():
        forward = encoder.embed(values, None, "max")
        backward = encoder.embed(values.flip(1), None, "max")
    assert (forward - backward).abs().max() > 1e-3


def test_every_part_gets_a_gradient():
    encoder = awake(video_encoder()).train()
    real = torch.tensor([[True, True, True, True], [True, True, False, False]])
    encoder.embed(clips(), real, encoder.pooling).square().sum().backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # The softmax of attention is blind to what is added to all of its keys.
    assert [name for name in missing if not name.endswith("key.bias")] == []


def map_encoder(field, size=16):
    torch.manual_seed(0)
    view = MapView(size=size)
    built = build_encoder(field, width=16, depth=1, heads=2, view=view)
    assert isinstance(built, MapEncoder)
    return built.eval()


def collated(field, *raws):
    view, modality = MapView(size=16), Maps()
    return modality.collate([modality.decode(raw, field, view) for raw in raws], field, view)[0]


def test_tokens_of_a_map():
    rng = np.random.default_rng(0)
    raw = rng.random((16, 16), dtype=np.float32)
    values, mask = map_encoder(DEPTH)(collated(DEPTH, raw, raw[::-1]))
    assert values.shape == (2, 4, 16) and mask is None
    numbers = np.array([0, 4, 9])[rng.integers(0, 3, (16, 16))]
    values, _ = map_encoder(KINDS)(collated(KINDS, numbers))
    assert values.shape == (1, 4, 16)


def test_nothing_is_told_from_zero():
    raw = np.full((16, 16), 0.5, np.float32)
    zero, nothing = raw.copy(), raw.copy()
    zero[:8], nothing[:8] = 0.0, np.nan
    encoder = map_encoder(DEPTH)
    with torch.no_grad():
        found, _ = encoder(collated(DEPTH, zero, nothing))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_classes_have_no_order():
    numbers = np.full((16, 16), 4)
    encoder = map_encoder(KINDS)
    with torch.no_grad():
        before, _ = encoder(collated(KINDS, numbers, numbers * 0))
        encoder.classes.weight[0] += 1  # that of class 0
        after, _ = encoder(collated(KINDS, numbers, numbers * 0))
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize(("field", "view"), [(CLIP, VideoView(size=20)), (DEPTH, MapView(size=20))])
def test_sizes_that_do_not_fit(field, view):
    with pytest.raises(UserError, match="20 pixels are no multiple of the patch size 8"):
        build_encoder(field, width=16, heads=2, view=view)


@pytest.mark.parametrize(("name", "kept"), [("videos", "video"), ("maps", "infrared")])
def test_late_fusion_learns_from_them(name, kept):
    where = f"playground:{name}?train=40&validation=4&test=4&pictures=30&size=32&objects=1"
    data = open_data(where + ("&frames=8" if name == "videos" else ""))
    schema = get_task("classification").assign(data.schema)
    others = {f.name: "ignore" for f in schema if f.role == "input" and f.name != kept}
    data = data.with_schema(schema.with_roles(others)).fit()
    torch.manual_seed(0)
    settings = {"width": 32, "depth": 1, "heads": 2, "hidden": 32, "dropout": 0.0}
    system = LateFusion(LateFusion.Config(**settings), data.schema, Tokenizer.train(["a"], 300))
    views = system.views()
    assert views[kept].size == 64
    (batch,) = read_batches(data, data.rows("train")[:8], views, batch_size=8)
    optimizer = torch.optim.AdamW(system.parameters(), 3e-3)
    losses = []
    for step in range(25):
        loss = system.losses(dataclasses.replace(batch, seed=step))["label"].value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None for p in system.encoders.parameters())
    predicted = system.eval().predict(batch)
    assert predicted.argmax(1).tolist() == batch["label"].values.tolist()
