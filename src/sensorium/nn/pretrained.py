"""Published towers of `transformers` as encoders: any that reads text, pictures or sound.

They read what they were trained on: their own ids, picture size and pixel range, sampling rate. All
of it comes from the files beside the weights. Weights must be safetensors; pickles are refused.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.audio import AudioView
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.pooling import Pooling
from sensorium.types import Field, UserError

_READS = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_values": "audio",
    "input_features": "audio",
}
_SIDES = {"text": "text_model", "image": "vision_model", "audio": "audio_model"}

MAX_TOKENS = 512


def pretrained_encoder(name: str, field: Field, width: int | None) -> Encoder:
    """A tower with its weights, as the encoder of a field.

    Of a model with two towers (CLIP, SigLIP, CLAP) the one that fits the field is taken; of an
    encoder-decoder (Whisper, T5) the encoder.

    Args:
        name: of a model on the hub, or a folder in the same layout.
        field: a text, image or audio field.
        width: of the vectors; a linear map is added if the tower's differs. None for the tower's.

    Raises:
        UserError: it cannot be loaded, has no safetensors, lacks the file that says how its input is
            prepared, or reads another modality.
    """
    if field.modality not in _SIDES:
        raise UserError(
            f"encoder of '{field.name}': hf:{name} cannot read the modality '{field.modality}'; "
            f"expected one of {', '.join(_SIDES)}"
        )
    tower = _tower(_load(name), name, field)
    if field.modality == "text":
        return PretrainedText(tower, name, width)
    if field.modality == "image":
        return PretrainedImage(tower, name, width)
    return PretrainedAudio(tower, name, width)


def _load(name: str) -> Any:
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"encoder hf:{name} cannot be loaded: {reason} Expected a name on the hub or a folder "
            "with config.json and model.safetensors (pickled weights are refused)"
        ) from None


def _tower(model: Any, name: str, field: Field) -> Any:
    sides = [side for side in _SIDES.values() if side in dict(model.named_children())]
    if len(sides) > 1 and _SIDES[field.modality] in sides:
        return model.get_submodule(_SIDES[field.modality])
    reads = _READS.get(model.main_input_name)
    if len(sides) > 1 or reads != field.modality:
        found = " and ".join(k for k, side in _SIDES.items() if side in sides) or reads or "something"
        raise UserError(
            f"encoder of '{field.name}': hf:{name} ({type(model).__name__}) reads {found}, but the "
            f"field's modality is {field.modality}"
        )
    return model.get_encoder() if model.config.is_encoder_decoder else model


class Pretrained(Encoder):
    """What pretrained encoders share: a tower, and a map to another width.

    Attributes:
        tower: the module of `transformers`.
        project: to the wanted width.
    """

    def __init__(self, tower: Any, view: Any, width: int | None) -> None:
        hidden: int = tower.config.hidden_size
        super().__init__(width or hidden, view)
        self.tower = tower
        self.project = nn.Identity() if self.width == hidden else nn.Linear(hidden, self.width)


class PretrainedText(Pretrained):
    """A text tower with its tokenizer."""

    view: TextView

    def __init__(self, tower: Any, name: str, width: int | None) -> None:
        limit = getattr(tower.config, "max_position_embeddings", MAX_TOKENS)
        # RoBERTa's first position is 2: its table is longer than its texts may be.
        padding = getattr(tower.config, "pad_token_id", None) or 0
        shifted = tower.config.model_type in _SHIFTED
        limit -= padding + 1 if shifted else 0
        view = TextView(tokenizer=Tokenizer.from_hub(name), max_tokens=min(limit, MAX_TOKENS))
        super().__init__(tower, view, width)
        self.full_length = tower.config.model_type.startswith("siglip")
        is_last = self.full_length or tower.config.model_type in _LAST
        self.pooling: Pooling = "last" if is_last else "mean"

    def forward(
        self,
        values: Int[Tensor, "entries length"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """The tower's last hidden states."""
        if self.full_length:
            # SigLIP was trained on texts filled up to full length, with the filling seen.
            missing = self.view.max_tokens - values.shape[1]
            tokenizer = self.view.tokenizer
            assert tokenizer is not None
            values = F.pad(values, (0, missing), value=tokenizer.pad_id)
            mask = None
        attention = None if mask is None else mask.long()
        states = self.tower(input_ids=values, attention_mask=attention).last_hidden_state
        return self.project(states), mask


_SHIFTED = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}
_LAST = {"clip_text_model", "gpt2", "llama", "qwen2", "qwen3", "mistral", "gpt_neox", "opt"}
