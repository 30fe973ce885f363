"""The released weights of MultiMAE, under the names that they have here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

_LAYER = {
    "norm1": "attention_norm",
    "attn.proj": "attention.output",
    "norm2": "feed_forward_norm",
    "mlp.fc1": "feed_forward.0",
    "mlp.fc2": "feed_forward.2",
}
_DECODER = {
    "proj_context": "project",
    "query_norm": "query_norm",
    "context_norm": "context_norm",
    "decoder.q": "cross_attention.query",
    "decoder.proj": "cross_attention.output",
    "out_norm": "norm",
    "mlp.fc1": "feed_forward.0",
    "mlp.fc2": "feed_forward.2",
}


def convert(
    released: Mapping[str, Tensor], domains: Mapping[str, str], reads: Sequence[str]
) -> dict[str, Tensor]:
    """The state dict of `MultiMAE` from that of the released pre-trained models.

    A map of numbers has one channel more here, which marks pixels that say nothing, and a map of classes
    one class more; both get zeros. Position tables are fixed, and not kept.

    Args:
        released: as released.
        domains: the release's name of each field by the name here, in the order in which the system has
            them: `{"image": "rgb", "depth": "depth", "segments": "semseg"}`.
        reads: the fields that the system reads, by their names here.
    """
    found = {"global_token": released["global_tokens"].flatten()}
    for name, tensor in released.items():
        if name.startswith("encoder."):
            number, _, rest = name.removeprefix("encoder.").partition(".")
            found |= _layer(f"layers.{number}", rest, tensor)
    for place, domain in enumerate(domains.values()):
        found |= _patches(f"patches.{place}", f"input_adapters.{domain}", released)
    streams = [domains[name] for name in reads]
    pictures = [name for name in domains if f"norm_{domains[name]}" in _outputs(released)]
    for room, names, prefix in (
        ("decoders", list(domains), ""),
        ("relative_decoders", pictures, "norm_"),
    ):
        for place, name in enumerate(names):
            start = f"output_adapters.{prefix}{domains[name]}."
            side = released[f"input_adapters.{domains[name]}.proj.weight"].shape[-1]
            found |= _decoder(f"{room}.{place}", start, released, streams, side)
    return found


def _outputs(released: Mapping[str, Tensor]) -> set[str]:
    return {name.split(".")[1] for name in released if name.startswith("output_adapters.")}


def _layer(place: str, rest: str, tensor: Tensor) -> dict[str, Tensor]:
    module, _, kind = rest.rpartition(".")
    if module == "attn.qkv":
        return _split(f"{place}.attention", ("query", "key", "value"), kind, tensor)
    return {f"{place}.{_LAYER[module]}.{kind}": tensor}


def _split(place: str, names: Sequence[str], kind: str, tensor: Tensor) -> dict[str, Tensor]:
    parts = tensor.chunk(len(names))
    return {f"{place}.{name}.{kind}": part for name, part in zip(names, parts, strict=True)}


def _patches(place: str, start: str, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weight = released[f"{start}.proj.weight"]
    found = {f"{place}.project.bias": released[f"{start}.proj.bias"]}
    classes = released.get(f"{start}.class_emb.weight")
    if classes is not None:
        found[f"{place}.classes.weight"] = torch.cat([classes, torch.zeros_like(classes[:1])])
    elif weight.shape[1] == 1:
        weight = torch.cat([weight, torch.zeros_like(weight)], 1)
    found[f"{place}.project.weight"] = rearrange(weight, "d c p q -> d (p q c)")
    return found


def _decoder(
    place: str, start: str, released: Mapping[str, Tensor], streams: Sequence[str], side: int
) -> dict[str, Tensor]:
    own = {n.removeprefix(start): t for n, t in released.items() if n.startswith(start)}
    found = {f"{place}.mask_token": own["mask_token"].flatten()}
    for number, stream in enumerate(streams):
        found[f"{place}.streams.{number}"] = own[f"task_embeddings.{stream}"].flatten()
    for name, tensor in own.items():
        module, _, kind = name.rpartition(".")
        if module == "decoder.kv":
            found |= _split(f"{place}.cross_attention", ("key", "value"), kind, tensor)
        elif module.startswith("decoder_transformer."):
            at, _, rest = name.removeprefix("decoder_transformer.").partition(".")
            found |= _layer(f"{place}.layers.{at}", rest, tensor)
        elif module == "out_proj":
            by_channel = rearrange(tensor, "(c p q) ... -> (p q c) ...", p=side, q=side)
            found[f"{place}.output.{kind}"] = by_channel
        elif module in _DECODER:
            found[f"{place}.{_DECODER[module]}.{kind}"] = tensor
    return found
