"""Encoders: what each modality's entries become, alone as in a batch, and only what is there."""

import numpy as np
import pytest
import torch
from torch import nn

from sensorium.modalities.audio import AudioView
from sensorium.modalities.base import Modality, View, add_modality
from sensorium.modalities.image import ImageView
from sensorium.modalities.table import TableView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders import Encoder, build_encoder, embed_field, encode_field, specs_of
from sensorium.nn.encoders.audio import LogMel
from sensorium.nn.encoders.image import ImageEncoder, Pixels
from sensorium.nn.encoders.scalars import sine_positions, with_area
from sensorium.nn.pooling import pool
from sensorium.types import Batch, Entries, Field, UserError

TOKENIZER = Tokenizer.train(["a red boat left of a blue cup", "two dogs"], 300)
TABLE = Field(
    name="record",
    modality="table",
    columns={"age": "number", "ward": "category", "day": "date", "sex": "category"},
    fitted={
        "columns": {
            "age": {"mean": 50.0, "std": 10.0},
            "ward": {"classes": ["a", "b", "c"]},
            "day": {"mean": 0.0, "std": 1.0},
            "sex": {"classes": ["f", "m"]},
        }
    },
)
COLOURS = {"classes": ["red", "green", "blue"]}


def text(max_tokens=24, **settings):
    field = Field(name="caption", modality="text")
    view = TextView(tokenizer=TOKENIZER, max_tokens=max_tokens)
    return field, build_encoder(field, width=16, heads=2, view=view, **settings)


def image(size=16, **settings):
    field = Field(name="image", modality="image")
    view = ImageView(size=size)
    return field, build_encoder(field, width=16, heads=2, view=view, **{"patch": 4} | settings)


def sound(**settings):
    field = Field(name="sound", modality="audio")
    view = AudioView(rate=8000, seconds=0.5)
    return field, build_encoder(field, width=16, heads=2, view=view, **settings)


def make(modality, count=5):
    """A field, its encoder, and entries of different lengths."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if modality == "text":
        field, encoder = text()
        texts = ["a red boat", "cup", "two dogs left of a boat", "", "blue blue"][:count]
        return field, encoder, *TOKENIZER.encode(texts, 24)
    if modality == "image":
        field, encoder = image()
        pixels = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        return field, encoder, torch.from_numpy(pixels), None
    if modality == "audio":
        field, encoder = sound()
        mask = torch.arange(4000) < torch.tensor([[4000], [1], [2777], [320], [3999]])[:count]
        return field, encoder, torch.randn(count, 4000) * mask, mask
    if modality == "table":
        encoder = build_encoder(TABLE, width=16, heads=2)
        values = torch.tensor([[0.3, 3, -1.0, 1], [0, 0, 2.0, 0], [-2.0, 1, 0, 2]] * 2)[:count]
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]] * 2)[:count].bool()
        return TABLE, encoder, values, mask
    if modality == "boxes":
        field = Field(name="boxes", modality="boxes")
        return field, build_encoder(field, width=16), torch.rand(count, 4), None
    if modality == "category":
        field = Field(name="colour", modality="category", fitted=COLOURS)
        return field, build_encoder(field, width=16), torch.arange(count) % 3, None
    if modality == "categories":
        field = Field(name="colours", modality="categories", fitted=COLOURS)
        values = (torch.rand(count, 3) < 0.5).float()
        return field, build_encoder(field, width=16), values, None
    if modality == "number":
        field = Field(name="size", modality="number", fitted={"mean": 3.0, "std": 2.0})
        return field, build_encoder(field, width=16), torch.randn(count), None
    field = Field(name="trace", modality="trace")
    mask = torch.arange(7) < torch.tensor([[7], [2], [1], [5], [6]])[:count]
    return field, build_encoder(field, width=16), torch.randn(count, 7, 3) * mask[..., None], mask


class Trace(Modality):
    """A third party's modality that brings no encoder."""

    name = "trace"

    def decode(self, raw, field, view):
        return raw

    def collate(self, values, field, view):
        return torch.stack(values), None


add_modality(Trace())

ALL = (*("text", "image", "audio", "table", "boxes", "category", "categories", "number", "trace"),)


@pytest.mark.parametrize("modality", ALL)
def test_an_entry_alone_is_the_same_as_in_a_batch(modality):
    _, encoder, values, mask = make(modality)
    together, real = encoder(values, mask)
    assert together.shape[2] == encoder.width == 16
    for i in range(len(values)):
        entry = values[i : i + 1]
        entry_mask = None if mask is None else mask[i : i + 1]
        if entry_mask is not None and modality != "table":
            length = int(entry_mask.sum())  # without its padding, too
            entry, entry_mask = entry[:, :length], entry_mask[:, :length]
        alone, alone_real = encoder(entry, entry_mask)
        if real is None:
            assert alone_real is None
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)
        else:
            kept = together[i][real[i]]
            torch.testing.assert_close(alone[0][alone_real[0]], kept, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("modality", ALL)
def test_what_is_padding_moves_nothing(modality):
    _, encoder, values, mask = make(modality)
    if mask is None:
        return
    before, real = encoder(values, mask)
    place = mask.view(*mask.shape, *(1,) * (values.dim() - 2))
    other = torch.where(place, values, torch.ones_like(values))
    after, _ = encoder(other, mask)
    if real is None:
        assert torch.equal(before, after)
    else:
        assert torch.equal(before[real], after[real])


@pytest.mark.parametrize("modality", ALL)
def test_every_entry_has_its_own_vectors_and_every_parameter_learns(modality):
    _, encoder, values, mask = make(modality)
    tokens, _ = encoder(values, mask)
    assert not torch.allclose(tokens[0], tokens[1])
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    (tokens * weight).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def rows(values, mask, row, size, field):
    row = torch.tensor(row)
    item = torch.tensor([row[:i].tolist().count(r) for i, r in enumerate(row.tolist())])
    entries = Entries(values, row, item, mask)
    return Batch({field.name: entries}, [str(i) for i in range(size)], torch.arange(size))


class Counting(Encoder):
    """Notes how many entries an encoder was given."""

    def __init__(self, encoder):
        super().__init__(encoder.width, encoder.view)
        self.encoder, self.pooling = encoder, encoder.pooling
        self.seen = []

    def forward(self, values, mask=None):
        self.seen.append(len(values))
        return self.encoder(values, mask)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_only_what_is_there_is_encoded(modality):
    field, encoder, values, mask = make(modality)
    counting = Counting(encoder)
    batch = rows(values, mask, [0, 0, 3, 4, 4], 6, field)
    tokens = encode_field(counting, batch, field)
    vectors, present = embed_field(counting, batch, field)
    assert counting.seen == [5, 5]
    assert present.tolist() == [True, False, False, True, True, False]
    assert (vectors[~present] == 0).all() and not tokens.mask[~present].any()
    alone, _ = embed_field(
        encoder, rows(values[2:3], None if mask is None else mask[2:3], [0], 1, field), field
    )
    torch.testing.assert_close(vectors[3], alone[0], atol=1e-5, rtol=1e-4)


def test_several_entries_of_a_row_are_averaged_after_pooling():
    field, encoder, values, mask = make("text")
    both, _ = embed_field(encoder, rows(values, mask, [0, 1, 1, 2, 3], 4, field), field)
    single, _ = embed_field(encoder, rows(values, mask, [0, 1, 2, 3, 4], 5, field), field)
    torch.testing.assert_close(both[1], (single[1] + single[2]) / 2, atol=1e-6, rtol=1e-5)


def test_a_field_that_no_row_has():
    field, encoder, values, mask = make("image")
    empty = Batch({}, ["a", "b"], torch.arange(2))
    none_left = rows(values, mask, [0, 0, 0, 0, 0], 2, field)
    none_left = none_left.with_fields(image=none_left["image"].keep(torch.tensor([False, True])))
    for batch in (empty, none_left):
        vectors, present = embed_field(encoder, batch, field)
        assert vectors.shape == (2, 16) and not present.any() and (vectors == 0).all()
        assert encode_field(encoder, batch, field).values.shape == (2, 0, 16)


def test_causal_text_does_not_look_ahead_and_is_summed_up_at_its_end():
    _, encoder = text(is_causal=True)
    assert encoder.pooling == "last"
    ids, mask = TOKENIZER.encode(["a red boat left of a cup"], 24)
    before, _ = encoder(ids, mask)
    ids[:, -1] = 5
    after, _ = encoder(ids, mask)
    assert torch.equal(before[:, :-1], after[:, :-1]) and not torch.equal(before, after)


def test_words_and_places_matter():
    _, encoder = text()
    ids, mask = TOKENIZER.encode(["red cup", "cup red"], 24)
    tokens, _ = encoder(ids, mask)
    assert not torch.allclose(tokens[0].mean(0), tokens[1].mean(0))


def test_patches_of_an_image_lie_row_by_row():
    _, encoder = image(stem="patch", depth=1)
    pixels = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    pixels[:, 0:4, 8:12] = 255  # the third cell of the first row
    stem = encoder.stem(encoder.pixels(pixels)).flatten(2).transpose(1, 2)
    changed = (stem[0] - stem[0, 0]).abs().sum(1) > 1e-3
    assert changed.nonzero().flatten().tolist() == [2]


def test_a_class_token_stands_in_front():
    _, encoder = image(class_token=True, norm_before=True)
    tokens, _ = encoder(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert tokens.shape == (2, 17, 16) and encoder.pooling == "first"


def test_bytes_are_normalised_by_hand():
    pixels = Pixels((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 1, 1, 3)
    wanted = [-1.0, (0.2 - 0.25) / 0.25, 1.0]
    torch.testing.assert_close(pixels(image).flatten(), torch.tensor(wanted))
    assert not pixels.state_dict()


@pytest.mark.parametrize(("patch", "stem"), [(5, "patch"), (6, "conv")])
def test_a_patch_that_does_not_fit_is_refused(patch, stem):
    field, view = Field(name="image", modality="image"), ImageView(size=18)
    with pytest.raises(UserError, match="patch size"):
        ImageEncoder(field, view, 8, 1, 2, patch=patch, stem=stem)


def test_a_tone_lights_the_band_it_lies_in():
    mel = LogMel(16000, bands=40)
    time = torch.arange(8000) / 16000
    low, high = (mel(torch.sin(6.28318 * f * time)[None])[0, 10].argmax() for f in (300.0, 4000.0))
    centre = 2595 * np.log10(1 + np.array([300, 4000]) / 700) / (2595 * np.log10(1 + 8000 / 700))
    assert abs(low - centre[0] * 41 + 1) <= 1 and abs(high - centre[1] * 41 + 1) <= 1


def test_an_ended_sound_leaves_its_patches():
    _, encoder, values, mask = make("audio")
    _, real = encoder(values, mask)
    # 8 kHz, 10 ms frames, 4 frames a patch: 320 samples.
    assert real.sum(1).tolist() == [13, 1, 9, 1, 13]


def test_cells_by_kind():
    encoder = build_encoder(TABLE, width=8, depth=1, heads=2)
    full = torch.ones(1, 4, dtype=torch.bool)
    base, _ = encoder(torch.tensor([[0.0, 1, 0.0, 1]]), full)

    def moved(values, mask=full):
        return not torch.allclose(encoder(torch.tensor([values]), mask)[0], base, atol=1e-6)

    assert moved([1.0, 1, 0.0, 1]) and moved([0.0, 2, 0.0, 1]) and moved([0.0, 1, 0.0, 2])
    assert moved([0.0, 0, 0.0, 1])  # a class no training row has
    # An empty number is not the mean, though both are stored as 0.
    assert moved([0.0, 1, 0.0, 1], torch.tensor([[False, True, True, True]]))
    # Columns do not share classes: the second of `ward` is not the second of `sex`.
    assert encoder.classes.num_embeddings == 4 + 3
    assert isinstance(encoder.view, TableView)


def test_boxes_know_their_area():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 0.75]])
    assert with_area(boxes)[:, 4].tolist() == [1.0, 0.125]


def test_sine_positions_differ_and_are_bounded():
    places = sine_positions(200, 6)
    assert places.abs().max() <= 1 and torch.pdist(places).min() > 1e-3


def test_a_modality_may_bring_its_encoder():
    class Pair(nn.Module):
        def forward(self, values, mask=None):
            return values[:, None], None

    class Own(Trace):
        name = "own"

        class View(View):
            rate: int = 3

        def encoder(self, field, width):
            return Pair()

    add_modality(Own())
    field = Field(name="own", modality="own")
    encoder = build_encoder(field, width=4)
    vectors, _ = embed_field(encoder, rows(torch.eye(4)[:2], None, [0, 2], 3, field), field)
    assert encoder.view.rate == 3 and vectors[2].tolist() == [0, 1, 0, 0]


def test_specs_by_field_or_modality():
    fields = [Field(name="left", modality="image"), Field(name="right", modality="image")]
    assert specs_of(fields, {"image": "hf:a", "right": "hf:b"}) == {"left": "hf:a", "right": "hf:b"}
    with pytest.raises(UserError, match=r"encoder.imaeg.*Did you mean 'image'"):
        specs_of(fields, {"imaeg": "hf:a"})


def test_a_spec_of_no_known_kind_is_refused():
    with pytest.raises(UserError, match="expected 'hf:NAME_OR_PATH'"):
        build_encoder(Field(name="image", modality="image"), width=8, spec="timm:vit")


def test_text_needs_a_tokenizer():
    with pytest.raises(UserError, match="tokenizer"):
        build_encoder(Field(name="caption", modality="text"), width=8)


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
def test_embedding_an_entry_is_pooling_its_vectors(pooling):
    ids, mask = TOKENIZER.encode(["a red boat left of a cup", "two dogs"], 16)
    for is_causal in (False, True):
        _, encoder = text(is_causal=is_causal)
        wanted = pool(*encoder(ids, mask), pooling)
        found = encoder.embed(ids, mask, pooling)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
