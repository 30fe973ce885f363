"""Published towers of `transformers` as encoders: any that reads text, pictures or sound.

They read what they were trained on: their own ids, picture size and pixel range, sampling rate. All
of it comes from the files beside the weights. Weights must be safetensors; pickles are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.audio import AudioView
from sensorium.modalities.base import View
from sensorium.modalities.image import Fit, ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.hub import hub_errors, layers_of
from sensorium.nn.pooling import pool
from sensorium.types import Field, UserError

_READS = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_values": "audio",
    "input_features": "audio",
}
_SIDES = {"text": "text_model", "image": "vision_model"}

MAX_TOKENS = 512
"""The longest text where a tower has no limit of its own, or a larger one."""

SECONDS = 10.0
"""The longest sound where a tower has no length of its own."""


def pretrained_encoder(name: str, field: Field, width: int | None) -> Encoder:
    """A tower with its weights, as the encoder of a field.

    Of a model with a text and a vision tower (CLIP, SigLIP) the one that fits the field is taken; of
    an encoder-decoder (Whisper, T5) the encoder.

    Args:
        name: of a model on the hub, or a folder in the same layout.
        field: a text, image or audio field.
        width: of the vectors; a linear map is added if the tower's differs. None for the tower's.

    Raises:
        UserError: it cannot be loaded, has no safetensors, lacks the file that says how its input is
            prepared, or reads another modality.
    """
    if field.modality not in ENCODERS:
        raise UserError(
            f"encoder of '{field.name}': hf:{name} cannot read the modality '{field.modality}'; "
            f"expected one of {', '.join(ENCODERS)}"
        )
    tower = _tower(_load(name), name, field)
    return ENCODERS[field.modality](tower, name, width)


def _load(name: str) -> Any:
    from transformers import AutoModel

    with hub_errors(f"encoder hf:{name} cannot be loaded", "config.json and model.safetensors"):
        return AutoModel.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )


def _tower(model: Any, name: str, field: Field) -> Any:
    children = dict(model.named_children())
    sides = [modality for modality, side in _SIDES.items() if side in children]
    if field.modality in sides:
        return children[_SIDES[field.modality]]
    reads = sides or [_READS.get(model.main_input_name, model.main_input_name)]
    if reads != [field.modality]:
        raise UserError(
            f"encoder of '{field.name}': hf:{name} ({type(model).__name__}) reads "
            f"{' and '.join(reads)}, but the field is of modality {field.modality}"
        )
    return model.get_encoder() if model.config.is_encoder_decoder else model


class Pretrained(Encoder):
    """What pretrained encoders share: a tower, and a map to another width.

    Attributes:
        tower: the module of `transformers`.
        project: to the wanted width.
    """

    def __init__(self, tower: Any, view: View, width: int | None) -> None:
        config = tower.config
        # Pyramids (Swin, ConvNeXt) have a width for each stage and end in the last.
        hidden: int = (
            config.hidden_size if hasattr(config, "hidden_size") else config.hidden_sizes[-1]
        )
        super().__init__(width or hidden, view)
        self.tower = tower
        self.project = nn.Identity() if self.width == hidden else nn.Linear(hidden, self.width)

    def each_level(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
        number: int,
    ) -> list[Float[Tensor, "entries width"]]:
        """One vector for each entry after each of the last layers, from shallow to deep."""
        layers = layers_of(self.tower)
        if number > len(layers):
            raise UserError(f"{number} levels of an encoder that has {len(layers)} layers")
        states: list[Tensor] = []

        def keep(_: Any, __: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [layer.register_forward_hook(keep) for layer in layers[len(layers) - number :]]
        try:
            _, real = self(values, mask)
        finally:
            for handle in handles:
                handle.remove()
        norms = [child for child in self.tower.children() if isinstance(child, nn.LayerNorm)]
        norm = norms[-1] if norms else nn.Identity()
        return [pool(self.project(norm(state)), real, self.pooling) for state in states]


class PretrainedText(Pretrained):
    """A text tower with its tokenizer: the last hidden states."""

    view: TextView

    def __init__(self, tower: Any, name: str, width: int | None) -> None:
        tokenizer = Tokenizer.from_hub(name)
        limit = min(getattr(tower.config, "max_position_embeddings", MAX_TOKENS), MAX_TOKENS)
        for path, module in tower.named_modules():
            if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                # RoBERTa counts positions from the one after its padding index.
                limit -= 0 if module.padding_idx is None else module.padding_idx + 1
        super().__init__(tower, TextView(tokenizer=tokenizer, max_tokens=limit), width)
        self.pad_id = tokenizer.pad_id
        # SigLIP was trained on texts filled up to full length, and sees the filling.
        self.is_filled = tower.config.model_type.startswith("siglip")
        architectures = " ".join(tower.config.architectures or [])
        reads_forward = "CausalLM" in architectures or "LMHead" in architectures
        if self.is_filled or reads_forward or tower.config.model_type == "clip_text_model":
            self.pooling = "last"

    def forward(
        self,
        values: Int[Tensor, "entries length"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each id."""
        if self.is_filled:
            values = F.pad(values, (0, self.view.max_tokens - values.shape[1]), value=self.pad_id)
            mask = None
        attention = None if mask is None else mask.long()
        states = self.tower(input_ids=values, attention_mask=attention).last_hidden_state
        return self.project(states), mask


class PretrainedImage(Pretrained):
    """A vision tower: the last hidden states, those of a grid row by row."""

    view: ImageView

    def __init__(self, tower: Any, name: str, width: int | None) -> None:
        from transformers import ImageProcessingMixin

        with hub_errors(f"encoder hf:{name} does not say how it reads", "preprocessor_config.json"):
            settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
            cropped = settings.get("do_center_crop", False)
            size, fit = _size(settings["crop_size"] if cropped else settings["size"])
        # Some scale to a little more than they crop; the view crops what it scales.
        view = ImageView(size=size, fit="crop" if cropped else fit)
        super().__init__(tower, view, width)
        has_norm = settings.get("do_normalize", True)
        self.pixels = Pixels(
            tuple(settings["image_mean"]) if has_norm else (0.0, 0.0, 0.0),
            tuple(settings["image_std"]) if has_norm else (1.0, 1.0, 1.0),
        )
        names = [path for path, _ in tower.named_parameters()]
        if any(path.endswith(("cls_token", "class_embedding")) for path in names):
            self.pooling = "first"

    def forward(
        self,
        values: UInt8[Tensor, "entries rows columns 3"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each patch, after those of class tokens."""
        pixels = self.pixels(values)
        size = self.view.size
        if values.shape[1:3] != (size, size):
            # Parts of pictures come in the size of whatever shows them.
            pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        states = self.tower(pixel_values=pixels).last_hidden_state
        if states.dim() == 4:
            states = states.flatten(2).transpose(1, 2)
        return self.project(states), None


def _size(size: Any) -> tuple[int, Fit]:
    if isinstance(size, int):
        return size, "crop"
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), "crop"
    if size.get("height") != size.get("width") or "height" not in size:
        raise ValueError(f"the picture size {size} is not square")
    return int(size["height"]), "squash"


class PretrainedAudio(Pretrained):
    """A sound tower: the last hidden states.

    Its own feature extractor prepares the sound, which happens on the CPU. Towers that were trained
    without a mask (`wav2vec2-base` and its like) hear the silence after a shorter sound of a batch.
    """

    view: AudioView

    def __init__(self, tower: Any, name: str, width: int | None) -> None:
        from transformers import AutoFeatureExtractor

        with hub_errors(f"encoder hf:{name} does not say how it reads", "preprocessor_config.json"):
            self.extractor = AutoFeatureExtractor.from_pretrained(name)
        seconds = getattr(self.extractor, "chunk_length", None) or SECONDS
        rate = self.extractor.sampling_rate
        super().__init__(tower, AudioView(rate=rate, seconds=float(seconds)), width)
        # Spectrogram models take a fixed length; models of the raw wave the longest of the batch.
        self.is_raw = self.extractor.__class__.__name__ == "Wav2Vec2FeatureExtractor"
        if tower.config.model_type == "audio-spectrogram-transformer":
            self.pooling = "first"

    def forward(
        self,
        values: Float[Tensor, "entries samples"],
        mask: Bool[Tensor, "entries samples"] | None = None,
    ) -> Encoded:
        """One vector for each step of the tower, and which steps hold sound."""
        samples = values.new_full((len(values),), values.shape[1], dtype=torch.long)
        if mask is not None:
            samples = mask.sum(1)
        clips = [
            sound[:length].numpy()
            for sound, length in zip(values.detach().cpu(), samples.tolist(), strict=True)
        ]
        padding = {"padding": True} if self.is_raw else {}
        inputs = self.extractor(
            clips, sampling_rate=self.view.rate, return_tensors="pt", **padding
        ).to(values.device)
        states = self.tower(**inputs).last_hidden_state
        real = self._real(samples, states.shape[1])
        return self.project(states), real

    def _real(self, samples: Tensor, steps: int) -> Tensor | None:
        if not hasattr(self.tower, "_get_feat_extract_output_lengths"):
            return None  # a fixed number of patches, filled ones included, as it was trained
        if not self.is_raw:
            samples = -(-samples // self.extractor.hop_length)
        lengths: Tensor = self.tower._get_feat_extract_output_lengths(samples)
        return torch.arange(steps, device=samples.device) < lengths[:, None]


ENCODERS: dict[str, Callable[[Any, str, int | None], Encoder]] = {
    "text": PretrainedText,
    "image": PretrainedImage,
    "audio": PretrainedAudio,
}
