"""Weights of CLIP, as `transformers` publishes them, for the dual encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TOP = {
    "logit_scale": "temperature.log_scale",
    "visual_projection.weight": "{image}.head.weight",
    "text_projection.weight": "{text}.head.weight",
    "vision_model.embeddings.class_embedding": "{image}.encoder.class_token",
    "vision_model.embeddings.patch_embedding.weight": "{image}.encoder.stem.weight",
    "vision_model.embeddings.position_embedding.weight": "{image}.encoder.positions",
    "vision_model.pre_layrnorm": "{image}.encoder.norm_before",
    "vision_model.post_layernorm": "{image}.encoder.norm",
    "vision_model.encoder.layers": "{image}.encoder.layers",
    "text_model.embeddings.token_embedding.weight": "{text}.encoder.embedding.words.weight",
    "text_model.embeddings.position_embedding.weight": "{text}.encoder.embedding.positions.weight",
    "text_model.final_layer_norm": "{text}.encoder.norm",
    "text_model.encoder.layers": "{text}.encoder.layers",
}
_INNER = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "layer_norm1": "attention_norm",
    "layer_norm2": "feed_forward_norm",
    "mlp.fc1": "feed_forward.0",
    "mlp.fc2": "feed_forward.2",
}


def convert(weights: Mapping[str, Tensor], image: str = "query") -> dict[str, Tensor]:
    """The weights of a `transformers` CLIPModel under the names they have here.

    Args:
        weights: its state dict.
        image: the side that is the image; the text is the other.
    """
    sides = {"image": image, "text": "target" if image == "query" else "query"}
    names = {old: new.format(**sides) for old, new in _TOP.items()} | _INNER
    renamed = {}
    for key, tensor in weights.items():
        if key.endswith("position_ids"):
            continue  # the numbers from 0 on, which older files hold
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def read_clip(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The dual encoder's settings for a CLIP model, and the model's weights.

    Args:
        name: of the model on the hub, or a folder in the same layout.
    """
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    image, text = clip.config.vision_config, clip.config.text_config
    settings = {
        "tokenizer": f"hf:{name}",
        "width": image.hidden_size,
        "depth": image.num_hidden_layers,
        "heads": image.num_attention_heads,
        "text_width": text.hidden_size,
        "text_depth": text.num_hidden_layers,
        "text_heads": text.num_attention_heads,
        "embed_dim": clip.config.projection_dim,
        "image_size": image.image_size,
        "patch": image.patch_size,
        "max_tokens": text.max_position_embeddings,
        "clip": True,
        "activation": image.hidden_act,
    }
    return settings, clip.state_dict()
