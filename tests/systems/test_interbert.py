"""InterBERT: what its card says, held by the code."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sensorium.data import open_data, read_batches
from sensorium.modalities.base import Modality, add_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.fusion.interbert import InterBERT, InterBERTConfig
from sensorium.systems.fusion.interbert_weights import convert
from sensorium.tasks import get_task
from sensorium.types import Batch, Entries, Field, Schema

SMALL = {"width": 32, "heads": 2, "image_heads": 2, "pooled_width": 24}


@pytest.fixture(scope="module")
def data():
    """Scenes with boxes and classes of boxes."""
    opened = open_data("playground:scenes?train=64&validation=8&test=16&pictures=20")
    return opened.with_schema(get_task("retrieval").assign(opened.schema)).fit()


@pytest.fixture(scope="module")
def tokenizer(data):
    return Tokenizer.train(data.texts(100), 500)


def make(data, tokenizer, **settings):
    torch.manual_seed(0)
    config = InterBERTConfig.nano().override({**SMALL, **settings})
    return InterBERT(config, data.schema, tokenizer)


def read(system, data, count=8):
    rows = data.rows("train")[:count]
    (batch,) = read_batches(data, rows, system.views(), batch_size=count)
    return dataclasses.replace(batch, seed=11)


def spy(monkeypatch, system, name):
    """The arguments of the calls of a method."""
    calls = []
    original = getattr(system, name)

    def called(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(system, name, called)
    return calls


def test_label_0_means_match(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    with torch.no_grad():
        system.match_head.weight.zero_()
        system.match_head.bias.copy_(torch.tensor([2.0, -1.0]))
        assert torch.allclose(system.score_pairs(batch), torch.tensor(3.0))


def test_the_match_loss_is_small_where_class_0_is_said_of_true_pairs(data, tokenizer):
    system = make(data, tokenizer, pretraining_negatives="random").eval()
    system.stage = "pretraining"
    batch = read(system, data)
    with torch.no_grad():
        system.match_head.weight.zero_()
        system.match_head.bias.copy_(torch.tensor([5.0, -5.0]))
        per_row = system(batch)["match"].per_item
    swapped = batch.uniform("is wrong", 1)[:, 0] < 0.5
    assert swapped.any()
    assert not swapped.all()
    assert torch.allclose(per_row[swapped], torch.tensor(10.0), atol=1e-3)
    assert torch.allclose(per_row[~swapped], torch.tensor(0.0), atol=1e-3)


def test_images_come_first_and_the_mean_in_front_of_them(data, tokenizer):
    system = make(data, tokenizer).eval()
    inputs = system.read(read(system, data))
    image, text = system.encode(inputs)
    assert len(image) == inputs.regions.mask.shape[1] + 1
    assert len(text) == inputs.ids.shape[1]
    front = inputs.regions.with_mean()
    real = inputs.regions.mask[0]
    torch.testing.assert_close(front.features[0, 0], inputs.regions.features[0][real].mean(0))
    assert front.boxes[0, 0].tolist() == [0, 0, 1, 1]


def test_a_hidden_region_leaves_no_trace_not_even_in_the_mean(data, tokenizer):
    system = make(data, tokenizer).eval()
    inputs = system.read(read(system, data))
    where = torch.zeros_like(inputs.regions.mask)
    where[:, 0] = True
    other = dataclasses.replace(
        inputs.regions, features=inputs.regions.features + where[..., None] * 7.0
    )
    with torch.no_grad():
        told = [
            system.encode(dataclasses.replace(inputs, regions=regions.hide(where)))
            for regions in (inputs.regions, other)
        ]
    assert torch.equal(told[0][0].values, told[1][0].values)
    assert torch.equal(told[0][1].values, told[1][1].values)
    seen = [
        system.encode(dataclasses.replace(inputs, regions=regions))[0].values
        for regions in (inputs.regions, other)
    ]
    assert not torch.allclose(*seen)


def test_the_box_of_a_hidden_region_stays(data, tokenizer):
    system = make(data, tokenizer)
    regions = system.read(read(system, data)).regions
    hidden = regions.hide(regions.mask)
    assert torch.equal(hidden.boxes, regions.boxes)
    assert (hidden.features == 0).all()


def test_regions_count_in_true_pairs_only_and_words_in_all(data, tokenizer, monkeypatch):
    system = make(data, tokenizer, mask_rate=0.9).eval()
    system.stage = "pretraining"
    batch = read(system, data)
    calls = spy(monkeypatch, system, "_region_loss")
    losses = system(batch)
    where = calls[0][3]
    swapped = batch.uniform("is wrong", 1)[:, 0] < 0.5
    assert not where[swapped].any()
    assert where[~swapped].any()
    words_per_row = 0.5 * batch["caption"].mask.sum() / batch.size
    assert float(losses["words"].count) > words_per_row * (~swapped).sum()


def test_streams_are_independent_after_the_split(data, tokenizer):
    """Image layers may be anything: the text stream does not move, nor the other way round."""
    system = make(data, tokenizer).eval()
    inputs = system.read(read(system, data))
    with torch.no_grad():
        image, text = system.encode(inputs)
        for parameter in system.image_layers.parameters():
            parameter.add_(torch.randn_like(parameter))
        other_image, same_text = system.encode(inputs)
    assert torch.equal(text.values, same_text.values)
    assert not torch.allclose(image.values, other_image.values)


def test_joint_layers_let_each_modality_see_the_other(data, tokenizer):
    system = make(data, tokenizer).eval()
    inputs = system.read(read(system, data))
    changed = inputs.ids.clone()
    changed[:, 1] = (changed[:, 1] + 7) % tokenizer.size
    with torch.no_grad():
        before, _ = system.encode(inputs)
        after, _ = system.encode(dataclasses.replace(inputs, ids=changed))
    assert not torch.allclose(before.values, after.values)


def test_the_pooled_product_is_never_negative_and_a_missing_side_is_one(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    with torch.no_grad():
        fused = system.fuse(*system.encode(system.read(batch)))
        assert (fused >= 0).all()
        alone = batch.without("image")
        image, text = system.encode(system.read(alone))
        expected = F.relu(system.text_pooler(text.first()))
        torch.testing.assert_close(system.fuse(image, text), expected)
        assert system.score_pairs(alone).isnan().all()


def test_prepared_pictures_score_as_pictures_do(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data)
    with torch.no_grad():
        once = system.prepare(batch.only("image", "boxes", "things"))
        pairs = once.joined(batch.only("caption"))
        torch.testing.assert_close(system.score_pairs(pairs), system.score_pairs(batch))


def test_a_schema_without_boxes_is_read_as_a_grid(data, tokenizer):
    kept = tuple(f for f in data.schema if f.modality in ("image", "text"))
    plain = InterBERT(
        InterBERTConfig.nano().override({**SMALL, "grid": 3}), Schema(fields=kept), tokenizer
    )
    assert [stage.name for stage in plain.stages()] == ["pretraining", "retrieval"]
    batch = read(make(data, tokenizer), data).without("boxes", "things")
    assert plain.read(batch).regions.mask.sum(1).tolist() == [9] * 8
    losses = plain(batch)
    assert set(losses) == {"words", "regions", "match"}


def test_the_detector_is_trained_first_and_then_kept(data, tokenizer):
    from sensorium.training.optimizer import select_trained

    system = make(data, tokenizer)
    stages = {stage.name: stage for stage in system.stages()}
    assert list(stages) == ["detector", "pretraining", "retrieval"]
    own = set(select_trained(system, stages["detector"]))
    assert own
    assert all(name.startswith(("read.encoder.", "object_head.")) for name in own)
    for stage in ("pretraining", "retrieval"):
        assert not own & set(select_trained(system, stages[stage]))


def test_a_thing_that_was_not_seen_in_training_has_no_target(data, tokenizer):
    system = make(data, tokenizer, mask_rate=0.9).eval()
    batch = read(system, data)
    unseen = torch.full_like(batch["things"].values, len(data.schema["things"].fitted["classes"]))
    batch = batch.with_fields(things=dataclasses.replace(batch["things"], values=unseen))
    for stage, name in (("detector", "objects"), ("pretraining", "regions")):
        system.stage = stage
        assert float(system(batch)[name].count) == 0


def test_fine_tuning_judges_four_pairs_of_each_picture(data, tokenizer, monkeypatch):
    system = make(data, tokenizer).eval()
    system.stage = "retrieval"
    batch = read(system, data)
    calls = spy(monkeypatch, system, "encode")
    loss = system(batch)["match pairs"]
    assert float(loss.count) == 4 * batch.size
    regions, ids = calls[0][0].regions.boxes, calls[0][0].ids
    own = system.read(batch)
    assert torch.equal(ids[:8], own.ids)
    assert torch.equal(regions[:8], own.regions.boxes)
    captions = {tuple(row.tolist()) for row in own.ids}
    for wrong in (ids[8:16], ids[24:32]):
        assert all(tuple(row.tolist()) in captions for row in wrong)
        assert all(not torch.equal(a, b) for a, b in zip(wrong, own.ids, strict=True))
    assert all(
        not torch.equal(a, b) for a, b in zip(regions[16:24], own.regions.boxes, strict=True)
    )


@pytest.mark.parametrize("kind", ["random", "captions", "pictures"])
def test_a_wrong_partner_never_has_the_same_caption_or_picture(data, tokenizer, kind):
    system = make(data, tokenizer).eval()
    batch = read(system, data, 6)
    doubled = batch.take(torch.tensor([0, 1, 2, 0, 1, 2]))
    chosen, possible = system._wrong(kind, "wrong text", doubled, system.read(doubled))
    assert possible.all()
    assert ((chosen % 3) != torch.arange(6) % 3).all()


def test_hard_negatives_are_the_similar_ones(data, tokenizer):
    system = make(data, tokenizer).eval()
    batch = read(system, data, 3)
    inputs = system.read(batch)
    ids = inputs.ids.clone()
    ids[1] = ids[0]
    ids[1, 1] = ids[2, 1]  # one word differs from row 0
    inputs = dataclasses.replace(inputs, ids=ids, mask=inputs.mask[[0, 0, 2]])
    chosen = [
        system._wrong("captions", "hard", dataclasses.replace(batch, seed=s), inputs)[0][0]
        for s in range(20)
    ]
    assert sum(int(c) == 1 for c in chosen) > 15


def test_ablations_of_the_claim_build_and_train(data, tokenizer):
    for settings in (
        {"group_masking": False},
        {"joint_layers": 4, "split_layers": 0},
        {"interaction": "co-attention"},
        {"spans": "single"},
    ):
        system = make(data, tokenizer, **settings)
        loss = sum(part.value for part in system(read(system, data)).values())
        loss.backward()
        assert torch.isfinite(loss)


# ---------------------------------------------------------------------- the released weights


class DetectedRegions(Modality):
    """A detector's features and boxes, as the release reads them."""

    name = "regions"

    def decode(self, raw, field, view):
        """As it is."""
        return raw

    def collate(self, values, field, view):
        """Padded."""
        raise AssertionError("batches are made by hand here")


def released_shapes(words, width, hidden, pooled, features, classes, joint, split):
    """Names and shapes of the release's pretraining model."""
    shapes = {}

    def linear(name, rows, columns):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    shapes["bert.embeddings.word_embeddings.weight"] = (words, width)
    shapes["bert.embeddings.position_embeddings.weight"] = (512, width)
    shapes["bert.embeddings.token_type_embeddings.weight"] = (2, width)
    norm("bert.embeddings.LayerNorm")
    linear("bert.v_embeddings.image_embeddings", width, features)
    linear("bert.v_embeddings.image_location_embeddings", width, 5)
    norm("bert.v_embeddings.LayerNorm")
    layers = [f"layer.{i}" for i in range(joint + split)] + [f"v_layer.{i}" for i in range(split)]
    for layer in (f"bert.encoder.{name}" for name in layers):
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", hidden, width)
        linear(f"{layer}.output.dense", width, hidden)
        norm(f"{layer}.output.LayerNorm")
    linear("bert.t_pooler.dense", pooled, width)
    linear("bert.v_pooler.dense", pooled, width)
    linear("cls.predictions.transform.dense", width, width)
    norm("cls.predictions.transform.LayerNorm")
    shapes["cls.predictions.decoder.weight"] = (words, width)
    shapes["cls.predictions.bias"] = (words,)
    linear("cls.bi_seq_relationship", 2, pooled)
    linear("cls.imagePredictions.transform.dense", width, width)
    norm("cls.imagePredictions.transform.LayerNorm")
    linear("cls.imagePredictions.decoder", classes, width)
    return shapes


def detected_schema(classes):
    add_modality(DetectedRegions())
    names = [str(i) for i in range(classes)]
    return Schema(
        fields=(
            Field(name="image", modality="regions", role="query"),
            Field(name="found", modality="category", of="image", fitted={"classes": names}),
            Field(name="caption", modality="text", role="target"),
        )
    )


def test_paper_has_the_release_s_parameters_name_by_name(tokenizer):
    config = InterBERTConfig.paper()
    with torch.device("meta"):
        system = InterBERT(config, detected_schema(1601), tokenizer)
        shapes = released_shapes(tokenizer.size, 768, 3072, 1024, 2048, 1601, 6, 6)
        released = {name: torch.empty(shape) for name, shape in shapes.items()}
    own = {name: tuple(tensor.shape) for name, tensor in system.state_dict().items()}
    assert {n: tuple(t.shape) for n, t in convert(released, 6).items()} == own
    assert system.image_layers[0].attention.heads == 8
    assert system.joint[0].attention.heads == 12


def reference(weights, ids, words, features, boxes, regions, heads, image_heads, joint, split):
    """The release's forward pass, written down from its names alone."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        scale = (x.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
        return (x - x.mean(-1, keepdim=True)) / scale * weights[f"{name}.weight"] + weights[
            f"{name}.bias"
        ]

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    def layer(x, mask, name, count):
        q, k, v = (
            linear(x, f"{name}.attention.self.{p}").unflatten(-1, (count, -1)).transpose(1, 2)
            for p in ("query", "key", "value")
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores + (1 - mask[:, None, None].float()) * -10000.0
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(
            linear(seen, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm"
        )
        inside = gelu(linear(x, f"{name}.intermediate.dense"))
        return norm(linear(inside, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    count = regions.float()[..., None]
    mean = (features * count).sum(1, keepdim=True) / count.sum(1, keepdim=True)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    place = torch.cat([boxes, area[..., None]], -1)
    whole = torch.tensor([0.0, 0, 1, 1, 1]).expand(len(ids), 1, 5)
    seen = torch.cat([torch.ones(len(ids), 1), regions.float()], 1)
    image = norm(
        linear(torch.cat([mean, features], 1), "bert.v_embeddings.image_embeddings")
        + linear(torch.cat([whole, place], 1), "bert.v_embeddings.image_location_embeddings"),
        "bert.v_embeddings.LayerNorm",
    )
    tables = [weights[f"bert.embeddings.{n}_embeddings.weight"] for n in ("word", "position")]
    segment = weights["bert.embeddings.token_type_embeddings.weight"][0]
    text = norm(tables[0][ids] + tables[1][: ids.shape[1]] + segment, "bert.embeddings.LayerNorm")
    x, both = torch.cat([image, text], 1), torch.cat([seen, words.float()], 1)
    for i in range(joint):
        x = layer(x, both, f"bert.encoder.layer.{i}", heads)
    image, text = x[:, : image.shape[1]], x[:, image.shape[1] :]
    for i in range(split):
        text = layer(text, words, f"bert.encoder.layer.{joint + i}", heads)
        image = layer(image, seen, f"bert.encoder.v_layer.{i}", image_heads)
    fused = torch.relu(linear(image[:, 0], "bert.v_pooler.dense")) * torch.relu(
        linear(text[:, 0], "bert.t_pooler.dense")
    )
    return image, text, linear(fused, "cls.bi_seq_relationship")


def test_converted_weights_give_the_release_s_numbers(tokenizer):
    sizes = {"joint_layers": 2, "split_layers": 1, "region_width": 12, "heads": 4}
    config = InterBERTConfig.paper().override({**SMALL, **sizes})
    system = InterBERT(config, detected_schema(9), tokenizer).eval()
    shapes = released_shapes(tokenizer.size, 32, 128, 24, 12, 9, 2, 1)
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(s, generator=generator) * 0.2 for n, s in shapes.items()}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    system.load_state_dict(convert(weights, 2))

    corners = torch.rand(3, 5, 4, generator=generator).sort(-1).values[..., [0, 1, 2, 3]]
    features = torch.randn(3, 5, 12, generator=generator)
    regions = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 2 + [False] * 3])
    texts = ["cat left of dog", "dog", "a long caption of many words and dogs"]
    ids, words = tokenizer.encode(texts, 20)
    row = torch.arange(3)
    values = torch.cat([features, corners], -1)
    batch = Batch(
        {
            "image": Entries(values, row, row * 0, regions),
            "caption": Entries(ids, row, row * 0, words),
        },
        ["a", "b", "c"],
        row,
    )
    with torch.no_grad():
        inputs = system.read(batch)
        image, text = system.encode(inputs)
        expected = reference(
            weights, ids, words, features, corners, regions, 4, 2, joint=2, split=1
        )
        real = torch.cat([torch.ones(3, 1, dtype=torch.bool), regions], 1)
        torch.testing.assert_close(image.values[real], expected[0][real], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text.values[words], expected[1][words], atol=1e-5, rtol=1e-4)
        scores = expected[2][:, 0] - expected[2][:, 1]
        torch.testing.assert_close(system.score_pairs(batch), scores, atol=1e-4, rtol=1e-4)


def test_detected_regions_can_be_pretrained_on(tokenizer):
    config = InterBERTConfig.nano().override({**SMALL, "region_width": 12, "mask_rate": 0.5})
    system = InterBERT(config, detected_schema(9), tokenizer)
    assert [stage.name for stage in system.stages()] == ["pretraining", "retrieval"]
    row = torch.arange(6)
    ids, words = tokenizer.encode([f"cat {i} dog" for i in range(6)], 20)
    values = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (6, 4, 16))).float()
    values[..., -4:] = torch.tensor([0.1, 0.1, 0.6, 0.6])
    many = torch.repeat_interleave(row, 4)
    batch = Batch(
        {
            "image": Entries(values, row, row * 0, torch.ones(6, 4, dtype=torch.bool)),
            "found": Entries(many % 9, many, torch.arange(24) % 4),
            "caption": Entries(ids, row, row * 0, words),
        },
        list("abcdef"),
        row,
        seed=2,
    )
    losses = system(batch)
    assert float(losses["regions"].count) > 0
    sum(loss.value for loss in losses.values()).backward()
