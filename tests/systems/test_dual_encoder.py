"""The dual encoder: CLIP's numbers from CLIP's weights, and a loss over true pairs only."""

import math
import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from torch.nn import functional as F

from sensorium.modalities.text import Tokenizer
from sensorium.systems.baselines.clip_weights import convert
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.types import Batch, Entries, Field, Schema, UserError

TEXTS = ["a red boat left of a cup", "two dogs", "blue", "a red cup"]
TOKENIZER = Tokenizer.train(TEXTS, 300)
IMAGE, CAPTION = (
    Field(name="image", modality="image", role="query"),
    Field(name="caption", modality="text", role="target"),
)
SMALL = {"width": 16, "depth": 1, "heads": 2, "embed_dim": 8, "image_size": 16, "patch": 4}


def entries(values, row=None, mask=None):
    row = torch.arange(len(values)) if row is None else torch.tensor(row)
    return Entries(values, row, torch.zeros_like(row), mask)


def pixels(count, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def batch_of(size, **fields):
    return Batch(fields, [str(i) for i in range(size)], torch.arange(size))


def pairs(tokenizer=TOKENIZER, size=16, max_tokens=64, texts=TEXTS):
    ids, mask = tokenizer.encode(texts, max_tokens)
    fields = {"image": entries(pixels(len(texts), size)), "caption": entries(ids, mask=mask)}
    return batch_of(len(texts), **fields)


def small(fields=(IMAGE, CAPTION), **settings):
    torch.manual_seed(0)
    return DualEncoder(DualEncoder.Config(**SMALL | settings), Schema(fields=fields), TOKENIZER)


# CLIP


def word_tokenizer(size):
    """A tokenizer whose end of text is its last id, like CLIP's."""
    words = {f"w{i}": i for i in range(size - 2)} | {"<start>": size - 2, "<end>": size - 1}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", size - 2), ("<end>", size - 1)]
    )
    specials = {"pad": "<end>", "cls": "<start>", "sep": "<end>", "mask": None}
    return Tokenizer(backend, specials, literal=True)


@pytest.fixture(scope="module", params=["new", "old"])
def clip(request, tmp_path_factory):
    """A small random CLIP in a folder; older files name a wrong end of text (2)."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = word_tokenizer(60)
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 60,
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 12,
            "bos_token_id": 58,
            "pad_token_id": 1,
            "eos_token_id": 59 if request.param == "new" else 2,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=24,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim():
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    tokenizer.save(folder)
    yield model, folder
    transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("image_role", ["query", "target"])
def test_weights_of_clip_give_the_embeddings_of_clip(clip, image_role):
    model, folder = clip
    other = {"query": "target", "target": "query"}[image_role]
    schema = Schema(fields=(IMAGE.replace(role=image_role), CAPTION.replace(role=other)))
    system = DualEncoder.from_clip(str(folder), schema).eval()
    texts = ["w3 w4", "w5", "", "w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18"]
    batch = pairs(system.tokenizer, 32, system.views()["caption"].max_tokens, texts)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    images = [picture.numpy() for picture in batch["image"].values]
    wanted = model(
        input_ids=batch["caption"].values,
        attention_mask=batch["caption"].mask.long(),
        pixel_values=processor(images, return_tensors="pt")["pixel_values"],
        return_loss=True,
    )
    with torch.no_grad():
        for field, embeds in (("image", wanted.image_embeds), ("caption", wanted.text_embeds)):
            torch.testing.assert_close(system.embed(batch, field), embeds, atol=1e-5, rtol=1e-5)
        loss = system.losses(batch)["contrast"].value
    torch.testing.assert_close(loss, wanted.loss, atol=1e-4, rtol=1e-5)


def test_paper_has_the_parameters_of_clip_vit_b_16():
    text = transformers.CLIPTextConfig(num_hidden_layers=12)
    vision = transformers.CLIPVisionConfig(patch_size=16)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    with torch.device("meta"):
        original = transformers.CLIPModel(config).state_dict()
        system = DualEncoder(
            DualEncoder.Config.paper(), Schema(fields=(IMAGE, CAPTION)), word_tokenizer(49408)
        )
    wanted = {name: tensor.shape for name, tensor in convert(original).items()}
    found = {name: tensor.shape for name, tensor in system.state_dict().items()}
    assert found == wanted
    assert sum(shape.numel() for shape in found.values()) == 149_620_737  # published: 150M
    assert (config.vision_config.hidden_act, config.text_config.hidden_act) == ("quick_gelu",) * 2
    assert system.views()["image"].size == 224 and system.views()["caption"].max_tokens == 77


# the loss


def test_the_loss_by_hand():
    system, batch = small(), pairs()
    a, b = system.embed(batch, "image"), system.embed(batch, "caption")
    logits = a @ b.T / 0.07
    numbers = torch.arange(4)
    wanted = (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2
    loss = system.losses(batch)["contrast"]
    torch.testing.assert_close(loss.value, wanted)
    assert loss.count == 4


def test_the_sigmoid_loss_starts_at_its_paper_s_scale_and_bias():
    system, batch = small(loss="sigmoid"), pairs()
    assert system.temperature().item() == pytest.approx(10) and system.bias.item() == -10
    logits = system.embed(batch, "image") @ system.embed(batch, "caption").T * 10 - 10
    wanted = F.softplus(-logits * (2 * torch.eye(4) - 1)).sum() / 4
    torch.testing.assert_close(system.losses(batch)["contrast"].value, wanted)


def test_rows_that_lack_a_side_take_no_part():
    system, batch = small(), pairs()
    caption = batch["caption"]
    with_gaps = batch_of(
        6,
        image=entries(batch["image"].values, [0, 2, 3, 4]),
        caption=entries(caption.values, [1, 2, 4, 5], caption.mask),
    )
    loss = system.losses(with_gaps)["contrast"]
    whole = batch_of(
        2,
        image=entries(batch["image"].values[[1, 3]]),
        caption=entries(caption.values[[1, 2]], mask=caption.mask[[1, 2]]),
    )
    assert loss.count == 2
    torch.testing.assert_close(loss.per_item, system.losses(whole)["contrast"].per_item)
    embedded = system.embed(with_gaps, "caption")
    assert embedded.isnan().all(1).tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_a_batch_without_a_pair(loss):
    system, batch = small(loss=loss), pairs()
    for lacking in (batch.without("caption"), batch.without("caption", "image")):
        found = system.losses(lacking)["contrast"]
        assert found.count == 0 and found.value == 0
        found.value.backward()


def test_equal_captions_are_not_negatives():
    texts = [TEXTS[0], TEXTS[1], TEXTS[0]]
    batch = pairs(texts=texts)
    ignored = small().losses(batch)["contrast"].per_item
    # The last row is out of the way of the first: as if it were not there.
    alone = small().losses(batch.take(torch.tensor([0, 1])))["contrast"].per_item
    torch.testing.assert_close(ignored[0], alone[0])
    positive = small(duplicates="positive").losses(batch)["contrast"].per_item
    assert not torch.allclose(positive[0], ignored[0])


def test_equal_pictures_are_not_negatives():
    batch = pairs()
    image = batch["image"].values.clone()
    image[3] = image[0]
    doubled = batch.with_fields(image=entries(image))
    ignored = small().losses(doubled)["contrast"].per_item
    alone = small().losses(doubled.take(torch.tensor([0, 1, 2])))["contrast"].per_item
    torch.testing.assert_close(ignored[0], alone[0])


def test_a_row_is_the_same_in_any_batch():
    system, batch = small().eval(), pairs()
    together = system.embed(batch, "caption")
    for i in range(4):
        ids, mask = TOKENIZER.encode([TEXTS[i]], 64)
        alone = system.embed(batch_of(1, caption=entries(ids, mask=mask)), "caption")
        torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=1e-5)
    assert together.norm(dim=1).allclose(torch.ones(4))


def test_it_learns_pairs_that_are_there_to_be_learned():
    system, batch = small(), pairs()
    optimizer = torch.optim.AdamW(system.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        system.losses(batch)["contrast"].value.backward()
        optimizer.step()
    scores = system.embed(batch, "image") @ system.embed(batch, "caption").T
    assert (scores.argmax(1) == torch.arange(4)).all()
    assert system.losses(batch)["contrast"].value < 0.2 < math.log(4)


# the two sides


def table(role):
    fitted = {"columns": {"age": {"mean": 0, "std": 1}, "sex": {"classes": ["f", "m"]}}}
    columns = {"age": "number", "sex": "category"}
    field = Field(name="record", modality="table", role=role, columns=columns, fitted=fitted)
    return field, entries(torch.tensor([[0.5, 1], [0, 2], [-1, 0]]), mask=torch.ones(3, 2).bool())


def sound(role):
    mask = torch.arange(1600) < torch.tensor([[1600], [700], [90]])
    values = torch.randn(3, 1600) * mask
    return Field(name="sound", modality="audio", role=role), entries(values, mask=mask)


def box(role):
    corners = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0, 0, 1, 1], [0.5, 0.5, 0.6, 0.9]])
    return Field(name="box", modality="boxes", role=role), entries(corners)


def caption(role):
    ids, mask = TOKENIZER.encode(TEXTS[:3], 64)
    return Field(name="caption", modality="text", role=role), entries(ids, mask=mask)


@pytest.mark.parametrize(
    ("query", "target"), [(table, caption), (sound, table), (box, sound), (caption, caption)]
)
def test_any_two_modalities(query, target):
    (a, a_entries), (b, b_entries) = query("query"), target("target")
    if a.name == b.name:
        b = b.replace(name="other")
    system = small((a, b))
    batch = batch_of(3, **{a.name: a_entries, b.name: b_entries})
    loss = system.losses(batch)["contrast"]
    loss.value.backward()
    assert loss.count == 3 and loss.value.isfinite()
    assert all(p.grad is not None for p in system.parameters())
    assert set(system.views()) == {a.name, b.name}


def test_sides_by_name():
    fields = (IMAGE, CAPTION, CAPTION.replace(name="title"))
    with pytest.raises(UserError, match=r"several fields.*'target' \(caption, title\)"):
        small(fields)
    assert small(fields, target="title").target.field.name == "title"
    with pytest.raises(UserError, match="Did you mean 'title'"):
        small(fields, target="titel")


def test_a_schema_without_a_target():
    fields = (IMAGE, CAPTION.replace(role="input"))
    with pytest.raises(UserError, match="no field has the role 'target'"):
        DualEncoder.check(Schema(fields=fields))
    assert small(fields, target="caption").target.field.name == "caption"


def test_what_it_does_not_embed():
    with pytest.raises(UserError, match="does not embed 'captoin'.*Did you mean 'caption'"):
        small().embed(pairs(), "captoin")


def test_a_pretrained_side(tmp_path):
    transformers.utils.logging.disable_progress_bar()
    config = transformers.BertConfig(
        vocab_size=TOKENIZER.size,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    system = small(encoder={"text": f"hf:{tmp_path}"})
    assert system.views()["caption"].max_tokens == 20
    assert system.target.head.in_features == 12  # the tower's own width, to the space directly
    system.losses(pairs(max_tokens=20))["contrast"].value.backward()
    with pytest.raises(UserError, match=re.escape("encoder.audio")):
        small(encoder={"audio": "hf:x"})
