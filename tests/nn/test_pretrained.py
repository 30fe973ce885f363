"""Towers of `transformers`, small and random, saved as on the hub, against their own pipelines."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import build_encoder
from sensorium.types import Field, UserError

TEXT, IMAGE = Field(name="note", modality="text"), Field(name="scan", modality="image")
SOUND = Field(name="call", modality="audio")
TEXTS = ["a red boat left of a cup", "two dogs", "", "blue"]
CLIP_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION = {"hidden_size": 20, "intermediate_size": 40, "num_hidden_layers": 2}


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


def save(model, folder, preprocessor=None, tokenizer=None):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if tokenizer is not None:
        tokenizer.save(folder)
    return model


def image_settings(size=32, crop=None, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)):
    settings = {
        "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size} if crop else {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    return settings | ({"do_center_crop": True, "crop_size": crop} if crop else {})


def pixels(count=3, size=32):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def processed(images, folder):
    """The pictures as `transformers` prepares them; its PIL classes need no torchvision."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = torch.tensor(settings["image_mean"]), torch.tensor(settings["image_std"])
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def bert(folder, tokenizer):
    config = transformers.BertConfig(
        vocab_size=tokenizer.size, max_position_embeddings=40, num_attention_heads=2, **CLIP_TEXT
    )
    return save(transformers.BertModel(config), folder, tokenizer=tokenizer)


def test_bert(tmp_path, tokenizer):
    model = bert(tmp_path, tokenizer)
    encoder = build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}").eval()
    assert (encoder.width, encoder.view.max_tokens, encoder.pooling) == (16, 40, "mean")
    ids, mask = encoder.view.tokenizer.encode(TEXTS, encoder.view.max_tokens)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        tokens, real = encoder(ids, mask)
        wanted = model(
            input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"]
        ).last_hidden_state
    assert torch.equal(real, theirs["attention_mask"].bool())
    torch.testing.assert_close(tokens[real], wanted[real], atol=1e-6, rtol=1e-5)


def test_another_width_is_reached_by_a_linear_map(tmp_path, tokenizer):
    bert(tmp_path, tokenizer)
    encoder = build_encoder(TEXT, width=12, spec=f"hf:{tmp_path}")
    ids, mask = encoder.view.tokenizer.encode(TEXTS, 40)
    tokens, _ = encoder(ids, mask)
    assert tokens.shape[2] == encoder.width == 12
    tokens.sum().backward()
    assert encoder.tower.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_roberta_counts_positions_from_behind_its_padding(tmp_path, tokenizer):
    config = transformers.RobertaConfig(
        vocab_size=tokenizer.size,
        max_position_embeddings=14,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_id,
        **CLIP_TEXT,
    )
    save(transformers.RobertaModel(config), tmp_path, tokenizer=tokenizer)
    encoder = build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}")
    assert encoder.view.max_tokens == 14 - tokenizer.pad_id - 1
    ids, mask = encoder.view.tokenizer.encode(["word " * 50], encoder.view.max_tokens)
    assert encoder(ids, mask)[0].isfinite().all()


def test_a_language_model_is_read_at_the_end(tmp_path, tokenizer):
    config = transformers.GPT2Config(
        vocab_size=tokenizer.size, n_embd=16, n_layer=1, n_head=2, n_positions=30
    )
    save(transformers.GPT2LMHeadModel(config), tmp_path, tokenizer=tokenizer)
    encoder = build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}")
    assert encoder.pooling == "last" and encoder.view.max_tokens == 30


def clip(folder, tokenizer):
    config = transformers.CLIPConfig(
        text_config={
            **CLIP_TEXT,
            "vocab_size": tokenizer.size,
            "max_position_embeddings": 24,
            "num_attention_heads": 2,
            "eos_token_id": tokenizer.sep_id,
            "bos_token_id": tokenizer.cls_id,
            "pad_token_id": tokenizer.pad_id,
        },
        vision_config={**VISION, "image_size": 32, "patch_size": 8, "num_attention_heads": 2},
    )
    settings = image_settings(32, crop={"height": 32, "width": 32})
    return save(transformers.CLIPModel(config), folder, settings, tokenizer)


def test_either_side_of_clip(tmp_path, tokenizer):
    model = clip(tmp_path, tokenizer)
    text = build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}").eval()
    image = build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}").eval()
    assert (text.width, text.pooling, text.view.max_tokens) == (16, "last", 24)
    assert (image.width, image.pooling) == (20, "first")
    assert (image.view.size, image.view.fit) == (32, "crop")
    ids, mask = text.view.tokenizer.encode(TEXTS, 24)
    with torch.no_grad():
        tokens, _ = text(ids, mask)
        wanted = model.text_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(tokens[mask], wanted[mask], atol=1e-6, rtol=1e-5)
        tokens, _ = image(pixels())
        wanted = model.vision_model(pixel_values=processed(pixels(), tmp_path)).last_hidden_state
        torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)


def test_siglip_text_is_filled_up_as_it_was_trained(tmp_path, tokenizer):
    config = transformers.SiglipConfig(
        text_config={
            **CLIP_TEXT,
            "vocab_size": tokenizer.size,
            "max_position_embeddings": 24,
            "num_attention_heads": 2,
        },
        vision_config={**VISION, "image_size": 32, "patch_size": 8, "num_attention_heads": 2},
    )
    model = save(transformers.SiglipModel(config), tmp_path, image_settings(), tokenizer)
    encoder = build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}").eval()
    ids, mask = encoder.view.tokenizer.encode(TEXTS, 24)
    full = torch.full((len(ids), 24), tokenizer.pad_id)
    full[:, : ids.shape[1]] = ids
    with torch.no_grad():
        tokens, real = encoder(ids, mask)
        wanted = model.text_model(input_ids=full).last_hidden_state
    assert real is None and encoder.pooling == "last"
    torch.testing.assert_close(tokens, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ViT", "Dinov2"])
def test_vision_transformers(tmp_path, kind):
    config = getattr(transformers, f"{kind}Config")(
        image_size=32, patch_size=8, num_attention_heads=2, **VISION
    )
    model = save(getattr(transformers, f"{kind}Model")(config), tmp_path, image_settings())
    encoder = build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}").eval()
    assert encoder.pooling == "first" and encoder.view.fit == "squash"
    with torch.no_grad():
        tokens, _ = encoder(pixels())
        wanted = model(pixel_values=processed(pixels(), tmp_path)).last_hidden_state
        small, _ = encoder(pixels(size=20))
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)
    assert small.shape == tokens.shape


def test_pixels_are_prepared_as_transformers_does(tmp_path):
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_attention_heads=2, **VISION)
    save(transformers.ViTModel(config), tmp_path, image_settings())
    encoder = build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}")
    images = [Image.fromarray(picture.numpy()) for picture in pixels()]
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    wanted = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(encoder.pixels(pixels()), wanted, atol=1e-5, rtol=1e-5)


def test_a_pyramid_gives_its_last_grid(tmp_path):
    config = transformers.ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1])
    save(transformers.ConvNextModel(config), tmp_path, image_settings(64))
    encoder = build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}")
    tokens, _ = encoder(pixels(size=64))
    assert tokens.shape == (3, 4, 10) and encoder.pooling == "mean"


def sounds():
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(4000) < torch.tensor([[4000], [1600], [2777]])
    return torch.randn(3, 4000, generator=g) * mask, mask


def test_wav2vec2(tmp_path):
    config = transformers.Wav2Vec2Config(
        num_attention_heads=2,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        **CLIP_TEXT,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=8000, do_normalize=True, return_attention_mask=True
    )
    model = save(transformers.Wav2Vec2Model(config), tmp_path)
    extractor.save_pretrained(tmp_path)
    encoder = build_encoder(SOUND, width=None, spec=f"hf:{tmp_path}").eval()
    assert encoder.view.rate == 8000 and encoder.width == 16
    values, mask = sounds()
    with torch.no_grad():
        tokens, real = encoder(values, mask)
        for i, length in enumerate(mask.sum(1).tolist()):
            clip_alone = extractor(
                values[i, :length].numpy(), sampling_rate=8000, return_tensors="pt"
            )
            wanted = model(**clip_alone).last_hidden_state[0]
            assert int(real[i].sum()) == len(wanted)
            torch.testing.assert_close(tokens[i][real[i]], wanted, atol=1e-4, rtol=1e-4)


def test_the_encoder_of_whisper(tmp_path):
    config = transformers.WhisperConfig(
        vocab_size=50,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = save(transformers.WhisperModel(config), tmp_path)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    extractor.save_pretrained(tmp_path)
    encoder = build_encoder(SOUND, width=None, spec=f"hf:{tmp_path}").eval()
    assert (encoder.view.rate, encoder.view.seconds, encoder.width) == (16000, 1.0, 16)
    values, mask = sounds()
    clips = [v[m].numpy() for v, m in zip(values, mask, strict=True)]
    with torch.no_grad():
        tokens, real = encoder(values, mask)
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt")
        wanted = model.get_encoder()(**inputs).last_hidden_state
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)
    assert real.sum(1).tolist() == [13, 5, 9]  # 20 ms each: 0.25, 0.1 and 0.174 seconds


def test_what_cannot_be_loaded(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"cannot be loaded.*model.safetensors"):
        build_encoder(TEXT, width=None, spec=f"hf:{tmp_path / 'nowhere'}")
    bert(tmp_path, tokenizer)
    (tmp_path / "model.safetensors").rename(tmp_path / "aside")
    with pytest.raises(UserError, match=r"cannot be loaded"):
        build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}")


def test_pickled_weights_are_refused(tmp_path, tokenizer):
    model = bert(tmp_path, tokenizer)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles are refused"):
        build_encoder(TEXT, width=None, spec=f"hf:{tmp_path}")


def test_a_tower_of_the_wrong_kind_is_refused(tmp_path, tokenizer):
    bert(tmp_path, tokenizer)
    with pytest.raises(UserError, match=r"'scan'.*BertModel.*reads text.*modality image"):
        build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}")
    with pytest.raises(UserError, match="cannot read the modality 'table'"):
        build_encoder(Field(name="t", modality="table"), width=None, spec=f"hf:{tmp_path}")


def test_the_wrong_side_of_clip_is_refused(tmp_path, tokenizer):
    clip(tmp_path, tokenizer)
    with pytest.raises(UserError, match="reads text and image"):
        build_encoder(SOUND, width=None, spec=f"hf:{tmp_path}")


def test_a_vision_tower_must_say_how_it_reads(tmp_path):
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_attention_heads=2, **VISION)
    save(transformers.ViTModel(config), tmp_path)
    with pytest.raises(UserError, match=r"preprocessor_config.json"):
        build_encoder(IMAGE, width=None, spec=f"hf:{tmp_path}")
