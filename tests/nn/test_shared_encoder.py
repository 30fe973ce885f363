"""The tower of pictures for videos: attention over frames before each layer, weights shared."""

import torch
from torch import nn

from sensorium.modalities.image import ImageView
from sensorium.nn.encoders.as_picture import Frames
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.nn.encoders.shared import SharedVideoEncoder
from sensorium.types import Field

WHOLE = ("class_token", "norm.*")


def make(rank=2, patch_dropout=0.0, depth=2):
    torch.manual_seed(0)
    view = ImageView(size=16)
    field = Field(name="a", modality="image")
    tower = ImageEncoder(field, view, 8, depth, 2, patch=8, stem="patch", class_token=True)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.3)
    video = SharedVideoEncoder(
        tower, view, 4, Frames(tower.pixels), rank=rank, whole=WHOLE, patch_dropout=patch_dropout
    )
    return tower.eval(), video.eval()


def frames(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (*shape, 16, 16, 3), generator=draw, dtype=torch.uint8)


def test_a_video_of_one_frame_is_a_picture():
    tower, video = make()
    values = frames(3, 1)
    wanted = tower.embed(values[:, 0], None, "first")
    torch.testing.assert_close(video.embed(values, None, "mean"), wanted)


def test_frames_see_each_other_before_the_layer():
    tower, video = make(depth=1)
    values = frames(1, 3)
    layer = tower.layers[0]
    x, _, _ = tower.prepare(values[0], None)
    x = x + video.frames[0, :3, None]  # frames, places, width
    normal = layer.attention_norm(x)
    attended = torch.stack([layer.attention(normal[:, place][None])[0] for place in range(5)], 1)
    vectors = tower.norm(layer(x + attended))[:, 0]
    torch.testing.assert_close(video.embed(values, None, "mean")[0], vectors.mean(0))
    apart = tower.embed(values[0], None, "first").mean(0)
    assert not torch.allclose(vectors.mean(0), apart, atol=1e-2)  # already before training


def test_frames_that_are_padding_change_nothing():
    _, video = make()
    values = frames(2, 4)
    real = torch.tensor([[True, True, False, False], [True] * 4])
    alone = video.embed(values[:1, :2], torch.ones(1, 2, dtype=torch.bool), "mean")
    torch.testing.assert_close(video.embed(values, real, "mean")[:1], alone)
    torch.testing.assert_close(
        video.embed(values, real, "mean")[1:], video.embed(values[1:], None, "mean")
    )


def test_only_the_attention_over_frames_gets_a_product_of_low_rank():
    tower, video = make(rank=2)
    assert not len(video.deltas.up)
    assert {name.rsplit("/", 1)[0] for name in video.temporal[0].up} == {
        f"attention/{part}" for part in ("query", "key", "value", "output")
    }
    tower.requires_grad_(False)
    video.train().embed(frames(2, 3), None, "mean").square().sum().backward()
    without = [name for name, p in video.named_parameters() if p.grad is None]
    assert all(".down." in name for name in without) or not without
    assert video.frames.grad[:, 3:].abs().sum() == 0
    assert all(p.grad is None for p in tower.parameters())


def test_the_same_patches_are_left_out_of_all_frames(monkeypatch):
    tower, video = make(patch_dropout=0.5)
    seen = []
    prepare = tower.prepare
    monkeypatch.setattr(tower, "prepare", lambda v, m: (seen.append(m), prepare(v, m))[1])
    video.train()
    video(frames(2, 3))
    (mask,) = seen
    kept = mask.view(2, 3, 4)
    assert (kept.sum(2) == 2).all()
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert torch.equal(kept[:, 0], kept[:, 2])
