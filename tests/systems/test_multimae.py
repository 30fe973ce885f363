"""MultiMAE: what is hidden is not seen, losses are those of hidden pixels, the release's weights say the same."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sensorium.data import open_data, read_batches
from sensorium.nn.patches import from_patches, standardise, to_patches
from sensorium.systems.masked.multimae import MASKED, TASK, MultiMAE
from sensorium.systems.masked.multimae_weights import convert
from sensorium.training.run import train
from sensorium.types import Batch, Entries, Field, Schema, UserError

SMALL = {"width": 24, "depth": 2, "heads": 3, "decoder_width": 16, "decoder_heads": 2, "patch": 4}
SMALL |= {"image_size": 16, "visible": 12, "class_width": 6}
CLASSES = 5
SCHEMA = Schema(
    fields=[
        Field(name="image", modality="image"),
        Field(name="depth", modality="maps", of="image", options={"range": [0, 1]}),
        Field(
            name="segments",
            modality="maps",
            of="image",
            options={"kind": "classes", "classes": list(range(CLASSES))},
        ),
    ]
)
FIELDS = ("image", "depth", "segments")


def make(schema=SCHEMA, **settings):
    torch.manual_seed(0)
    return MultiMAE(MultiMAE.Config(**SMALL | settings), schema).eval()


def rows(count=4, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(count)

    def entries(values):
        return Entries(values, row, torch.zeros_like(row))

    def whole(high, *shape):
        return torch.randint(0, high, (count, size, size, *shape), generator=generator)

    numbers = torch.rand(count, size, size, 1, generator=generator)
    valid = (torch.rand(count, size, size, 1, generator=generator) < 0.8).float()
    fields = {
        "image": entries(whole(256, 3).to(torch.uint8)),
        "depth": entries(torch.cat([numbers * valid, valid], -1)),
        "segments": entries(whole(CLASSES + 1)),
    }
    return Batch(fields, [str(k) for k in range(count)], row, seed=seed)


def watched(system, batch):
    """The losses of a batch, and what each decoder was given and said."""
    seen = {}

    def watch(name):
        return lambda _, given, said: seen.__setitem__(name, (given[0], said))

    names = [*system.decoders.names, *(f"{n}, relative" for n in system.relative_decoders.names)]
    modules = [*system.decoders, *system.relative_decoders]
    hooks = [m.register_forward_hook(watch(n)) for n, m in zip(names, modules, strict=True)]
    system.stage = MASKED
    with torch.no_grad():
        losses = system.losses(batch)
    for hook in hooks:
        hook.remove()
    return losses, seen


def hidden_of(visible, stream, patches=16):
    return ~visible.shown(stream, patches)


def changed_where_hidden(batch, visible):
    """The same rows with other numbers in every patch that is not shown."""
    other, fields = rows(batch.size, seed=99), {}
    for stream, name in enumerate(FIELDS):
        mask = hidden_of(visible, stream).float()[..., None].expand(-1, -1, 16)
        pixels = from_patches(mask, 4).bool()
        values, new = batch[name].values, other[name].values
        pixels = pixels if values.ndim == 4 else pixels[..., 0]
        fields[name] = dataclasses.replace(batch[name], values=torch.where(pixels, new, values))
    return batch.with_fields(**fields)


def test_what_is_hidden_reaches_no_decoder():
    system, batch = make(), rows()
    _, seen = watched(system, batch)
    other = changed_where_hidden(batch, seen["image"][0])
    assert not torch.equal(other["image"].values, batch["image"].values)
    _, again = watched(system, other)
    for name, (_, said) in seen.items():
        torch.testing.assert_close(again[name][1], said, rtol=0, atol=0)
    # and what is shown does
    shown = batch.with_fields(image=rows(seed=98)["image"])
    assert not torch.allclose(watched(system, shown)[1]["depth"][1], seen["depth"][1])


def test_the_encoder_reads_as_many_tokens_as_are_shown():
    system, lengths = make(), []
    system.layers[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    watched(system, rows())
    assert lengths == [12 + 1]


def test_losses_are_those_of_hidden_pixels_row_by_row():
    system, batch = make(), rows(5)
    losses, seen = watched(system, batch)
    assert set(losses) == {*FIELDS, "image, relative"}
    for name, (visible, said) in seen.items():
        field = name.removesuffix(", relative")
        expected = []
        for row in range(batch.size):
            total, count = 0.0, 0
            for patch in range(16):
                if patch in visible.place[row][visible.stream[row] == FIELDS.index(field)].tolist():
                    continue
                top, left = patch // 4 * 4, patch % 4 * 4
                part = batch[field].values[row, top : top + 4, left : left + 4]
                told = said[row, patch].view(16, -1)
                if field == "image":
                    truth = (part.reshape(16, 3) / 255 - 0.5) / 0.25
                    if name != field:
                        truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
                    total += (told - truth).square().mean(1).sum().item()
                    count += 16
                elif field == "depth":
                    number, valid = part.reshape(16, 2).T
                    total += ((told[:, 0] - (2 * number - 1)).abs() * valid).sum().item()
                    count += valid.sum().item()
                else:
                    known = part.flatten() < CLASSES
                    truth = part.flatten()[known]
                    total += F.cross_entropy(told[known], truth, reduction="sum").item()
                    count += len(truth)
            expected.append(total / count)
        torch.testing.assert_close(
            losses[name].per_item, torch.tensor(expected), rtol=1e-4, atol=1e-5
        )


def test_a_row_without_a_field_shows_as_much_of_the_others():
    system, batch = make(), rows(4)
    there = torch.tensor([True, False, True, False])
    partial = batch.with_fields(depth=batch["depth"].keep(there))
    losses, seen = watched(system, partial)
    visible = seen["image"][0]
    assert visible.real is None
    assert not (visible.stream[~there] == FIELDS.index("depth")).any()
    assert len(losses["depth"].per_item) == 2
    assert len(losses["image"].per_item) == 4
    # alone as in the batch
    for row in range(4):
        alone, _ = watched(system, partial.take(torch.tensor([row])))
        torch.testing.assert_close(
            alone["image"].per_item, losses["image"].per_item[row : row + 1], rtol=1e-4, atol=1e-5
        )
    nothing, _ = watched(system, batch.without("depth"))
    assert len(nothing["depth"].per_item) == 0


def test_a_row_with_fewer_patches_than_are_shown_shows_all():
    system, batch = make(visible=30), rows(3)
    only = torch.tensor([True, False, False])
    partial = batch.with_fields(
        depth=batch["depth"].keep(only), segments=batch["segments"].keep(only)
    )
    losses, seen = watched(system, partial)
    real = seen["image"][0].real
    assert real.sum(1).tolist() == [30, 16, 16]
    assert len(losses["image"].per_item) == 1  # of the others, nothing is hidden
    alone, _ = watched(system, partial.take(torch.tensor([0])))
    torch.testing.assert_close(
        alone["image"].per_item, losses["image"].per_item, rtol=1e-4, atol=1e-5
    )


def test_fields_may_be_read_or_given_only():
    system = make(reads=("image",), gives=("depth", "segments"))
    losses, seen = watched(system, rows())
    assert set(losses) == {"depth", "segments"}
    visible = seen["depth"][0]
    assert (visible.stream == 0).all()
    # never visible, so all of it is hidden
    told = from_patches(seen["depth"][1], 4)
    truth = rows()["depth"].values
    away = (told[..., 0] - (2 * truth[..., 0] - 1)).abs() * truth[..., 1]
    expected = away.sum((1, 2)) / truth[..., 1].sum((1, 2))
    torch.testing.assert_close(losses["depth"].per_item, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="no picture or map 'dept'. Did you mean 'depth'"):
        make(reads=("dept",))


def test_equal_shares_are_equal():
    _, seen = watched(make(shares="equal"), rows())
    for stream in range(3):
        assert ((seen["image"][0].stream == stream).sum(1) == 4).all()


def test_what_decoders_know_passes_through_the_cross_attention():
    system, batch = make(), rows()
    for decoder in system.decoders:
        torch.nn.init.zeros_(decoder.cross_attention.output.weight)
    _, seen = watched(system, batch)
    said = seen["depth"][1]
    assert torch.allclose(said, said[:1].expand_as(said))  # nothing of the rows is left


def test_patches_go_there_and_back():
    pixels = torch.randn(2, 12, 12, 3)
    assert torch.equal(from_patches(to_patches(pixels, 4), 4), pixels)
    assert torch.equal(to_patches(pixels, 4)[1, 5].view(4, 4, 3), pixels[1, 4:8, 8:12])
    system, batch = make(), rows()
    for name, patches in zip(FIELDS, system.patches, strict=True):
        values = batch[name].values
        if name == "segments":
            told = F.one_hot(to_patches(values[..., None], 4).clamp(max=CLASSES - 1), CLASSES)
            restored = patches.restore(told.flatten(2).float())
            assert torch.equal(restored, values.clamp(max=CLASSES - 1))
            continue
        read = patches.read(values)
        restored = patches.restore(to_patches(read[..., : patches.channels], 4))
        if name == "depth":
            valid = values[..., 1] > 0
            torch.testing.assert_close(restored[..., 0][valid], values[..., 0][valid])
            assert (restored[..., 1] == 1).all()
        else:
            assert torch.equal(restored, values)


def test_standardised_maps_lose_their_unit_but_for_odd_pixels():
    numbers = torch.linspace(0, 1, 100).view(1, 10, 10, 1)
    valid = torch.ones_like(numbers, dtype=torch.bool)
    middle = numbers.flatten()[10:90]
    expected = (numbers - middle.mean()) / (middle.var() + 1e-6).sqrt()
    torch.testing.assert_close(standardise(numbers, valid), expected)
    torch.testing.assert_close(standardise(3 * numbers + 7, valid), expected, rtol=1e-4, atol=1e-4)
    odd = numbers.clone()
    odd[0, 0, :3] = 1e6  # among the largest tenth
    assert (standardise(odd, valid)[0, 5] - expected[0, 5]).abs().max() < 0.2
    gaps = valid.clone()
    gaps[0, 3:5] = False
    filled = torch.where(gaps, numbers, 55.0)
    again = torch.where(gaps, numbers, -3.0)
    torch.testing.assert_close(standardise(filled, gaps)[gaps], standardise(again, gaps)[gaps])


def wave(shape, shift):
    steps = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (0.3 * torch.sin(0.7 * steps + shift)).float().view(shape)


def released_shapes():
    """Names and shapes of a small model in the release's layout."""

    def linear(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    def block(name, width):
        return {
            **norm(f"{name}.norm1", width),
            **linear(f"{name}.attn.qkv", 3 * width, width),
            **linear(f"{name}.attn.proj", width, width),
            **norm(f"{name}.norm2", width),
            **linear(f"{name}.mlp.fc1", 4 * width, width),
            **linear(f"{name}.mlp.fc2", width, 4 * width),
        }

    found = {"global_tokens": (1, 1, 24)}
    for number in range(2):
        found |= block(f"encoder.{number}", 24)
    for name, channels, side in (("rgb", 3, 4), ("depth", 1, 4), ("semseg", 6, 2)):
        start = f"input_adapters.{name}.proj"
        found |= {f"{start}.weight": (24, channels, side, side), f"{start}.bias": (24,)}
    found["input_adapters.semseg.class_emb.weight"] = (CLASSES, 6)
    for name, outputs in (("rgb", 48), ("depth", 16), ("semseg", CLASSES * 4), ("norm_rgb", 48)):
        start = f"output_adapters.{name}"
        found[f"{start}.mask_token"] = (1, 1, 16)
        found |= {f"{start}.task_embeddings.{n}": (1, 1, 16) for n in ("rgb", "depth", "semseg")}
        found |= linear(f"{start}.proj_context", 16, 24)
        for part in ("query_norm", "context_norm", "out_norm"):
            found |= norm(f"{start}.{part}", 16)
        found |= linear(f"{start}.decoder.q", 16, 16) | linear(f"{start}.decoder.kv", 32, 16)
        found |= linear(f"{start}.decoder.proj", 16, 16)
        found |= linear(f"{start}.mlp.fc1", 64, 16) | linear(f"{start}.mlp.fc2", 16, 64)
        found |= block(f"{start}.decoder_transformer.0", 16)
        found |= linear(f"{start}.out_proj", outputs, 16)
    return found


# What the official code says with those weights of those rows: the first number of the first channel,
# one of the last channel, mean and deviation; then the losses.
SAID = {
    "image": (4.3606, -5.34094, 0.24186, 5.53974),
    "depth": (-1.02225, 5.14842, -0.60406, 4.7894),
    "segments": (2.53944, -1.61415, 0.03018, 3.50241),
    "image, relative": (-1.54459, -2.88267, 0.03023, 2.32851),
}
LOST = {"image": 31.86601, "depth": 4.36584, "segments": 3.98224, "image, relative": 6.39703}
SHOWN = [0, 5, 16, 17, 30, 33, 40, 47]


def test_converted_weights_give_the_numbers_of_the_official_code(monkeypatch):
    shapes = released_shapes()
    released = {name: wave(shapes[name], k) for k, name in enumerate(sorted(shapes))}
    domains = {"image": "rgb", "depth": "depth", "segments": "semseg"}
    system = make(standardised=True, class_stride=2)
    system.load_state_dict(convert(released, domains, FIELDS))
    row = torch.zeros(1, dtype=torch.long)
    image = (wave((1, 16, 16, 3), 1) * 300 + 128).round().to(torch.uint8)
    depth = wave((1, 16, 16, 1), 2) + 0.5
    fields = {
        "image": Entries(image, row, row),
        "depth": Entries(torch.cat([depth, torch.ones_like(depth)], -1), row, row),
        "segments": Entries((torch.arange(64) * 7 % CLASSES).view(1, 8, 8), row, row),
    }
    chosen = torch.tensor([SHOWN]), torch.ones(1, len(SHOWN), dtype=torch.bool)
    monkeypatch.setattr("sensorium.systems.masked.multimae.chosen_tokens", lambda *_: chosen)
    losses, seen = watched(system, Batch(fields, ["row"], row))
    for name, (_, said) in seen.items():
        pixels = from_patches(said, 2 if name == "segments" else 4)[0]
        found = (pixels[0, 0, 0], pixels[3, 5, -1], pixels.mean(), pixels.std())
        assert [float(f) for f in found] == pytest.approx(SAID[name], abs=2e-4)
        assert float(losses[name].value) == pytest.approx(LOST[name], abs=2e-4)


def test_paper_sizes_have_the_layout_of_the_release():
    with torch.device("meta"):
        system = MultiMAE(MultiMAE.Config.paper(), SCHEMA)
    encoder = sum(p.numel() for p in system.layers.parameters())
    assert encoder == 12 * (12 * 768**2 + 13 * 768)  # of a ViT-B, without the last norm
    assert (system.side, len(system.layers), system.patches[2].view.size) == (14, 12, 56)
    assert system.decoders[0].output.out_features == 768
    assert system.config.visible == 98


WHERE = "playground:maps?train=32&validation=8&test=16&pictures=30&size=32"
NANO = {"image_size": 32, "width": 16, "depth": 1, "decoder_width": 16, "visible": 8}


def test_from_masked_patches_to_a_label_read_from_fewer_fields(tmp_path):
    data = open_data(WHERE)
    whole = data.with_schema(data.schema.with_roles({"segments": "input"}))
    options = {"workers": 0, "batch_size": 16}
    masked = {**options, "stages": [MASKED]}
    first = train(
        "multimae",
        whole,
        out=tmp_path / "a",
        settings=NANO,
        options=masked,
        budget="2steps",
        task="classification",
    )
    fewer = data.with_schema(data.schema.with_roles({"image": "ignore", "infrared": "input"}))
    second = train(
        "multimae",
        fewer,
        out=tmp_path / "b",
        settings=NANO,
        options={**options, "stages": [TASK], "learning_rate": 1e-12, "weight_decay": 0.0},
        budget="1steps",
        task="classification",
        init=tmp_path / "a",
    )
    before, after = first.system, second.system
    assert before.patches.names == ("image", "depth", "infrared", "segments")
    assert after.patches.names == ("depth", "infrared")
    for name in after.patches.names:
        mine = after.patches[after.patches.names.index(name)].project.weight
        theirs = before.patches[before.patches.names.index(name)].project.weight
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        after.layers[0].attention.query.weight,
        before.layers[0].attention.query.weight,
        rtol=0,
        atol=1e-6,
    )


def test_fields_from_fields():
    data = open_data(WHERE)
    data = data.with_schema(data.schema.with_roles({"segments": "input"})).fit()
    torch.manual_seed(0)
    system = MultiMAE(MultiMAE.Config(**NANO), data.schema).eval()
    (batch,) = read_batches(data, data.rows("test")[:6], system.views(), batch_size=6)
    names = ("image", "depth", "infrared", "segments")
    assert system.reconstructed == names
    with torch.no_grad():
        found = system.reconstruct(batch.without("depth"), names)
        for name in names:  # in the form in which rows hold them
            assert found[name].values.shape == batch[name].values.shape
            assert found[name].values.dtype == batch[name].values.dtype
        # of the fields that a row lacks, nothing is read
        again = system.reconstruct(batch.without("depth", "image"), ["depth"])
        assert not torch.equal(again["depth"].values, found["depth"].values)
        # a row alone says what it says in a batch, whatever the others have
        mixed = batch.with_fields(image=batch["image"].keep(torch.arange(6) % 2 == 0))
        together = system.reconstruct(mixed, ["depth"])["depth"].values
        for row in range(6):
            alone = system.reconstruct(mixed.take(torch.tensor([row])), ["depth"])["depth"].values
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
        with pytest.raises(
            UserError, match="multimae does not predict 'dept'. Did you mean 'depth'"
        ):
            system.reconstruct(batch, ["dept"])


def test_without_pictures_and_maps_it_says_what_it_needs():
    schema = Schema(fields=[Field(name="note", modality="text")])
    with pytest.raises(UserError, match="needs a field of modality image or maps"):
        MultiMAE.check(schema)
