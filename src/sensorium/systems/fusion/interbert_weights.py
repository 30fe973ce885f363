"""The released weights of InterBERT, under the names that they have here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.0",
    "output.dense": "feed_forward.2",
    "output.LayerNorm": "feed_forward_norm",
}
_OTHERS = {
    "bert.embeddings.LayerNorm": "word_norm",
    "bert.v_embeddings.image_embeddings": "region_embedding.feature",
    "bert.v_embeddings.image_location_embeddings": "region_embedding.box",
    "bert.v_embeddings.LayerNorm": "region_embedding.norm",
    "bert.t_pooler.dense": "text_pooler",
    "bert.v_pooler.dense": "image_pooler",
    "cls.predictions.transform.dense": "word_transform.0",
    "cls.predictions.transform.LayerNorm": "word_transform.2",
    "cls.imagePredictions.transform.dense": "region_transform.0",
    "cls.imagePredictions.transform.LayerNorm": "region_transform.2",
    "cls.imagePredictions.decoder": "region_head",
    "cls.bi_seq_relationship": "match_head",
}
_TASK_HEADS = ("vil_prediction", "vil_logit", "vision_logit", "linguisic_logit")


def convert(released: Mapping[str, Tensor], joint_layers: int) -> dict[str, Tensor]:
    """The state dict of `InterBERT` from that of the release's models.

    Its text layers are one list of which the first are the joint ones; its word head is tied to the
    word embeddings; all its texts are of segment 0, which thus belongs to every position. Retrieval
    is judged by the match head, fine-tuned too; the heads of other tasks are left out.

    Args:
        released: as released; tensors may be on the `meta` device.
        joint_layers: how many of its layers are joint (6 in the published model).

    Raises:
        KeyError: a name that the release does not have.
    """
    converted: dict[str, Tensor] = {}
    segment = released["bert.embeddings.token_type_embeddings.weight"][0]
    for name, tensor in released.items():
        module, _, kind = name.rpartition(".")
        if name == "bert.embeddings.word_embeddings.weight":
            converted["word_embedding.words.weight"] = tensor
        elif name == "bert.embeddings.position_embeddings.weight":
            converted["word_embedding.positions.weight"] = tensor + segment
        elif name == "cls.predictions.bias":
            converted["word_bias"] = tensor
        elif (
            module in ("bert.embeddings.token_type_embeddings", "cls.predictions.decoder")
            or module in _TASK_HEADS
        ):
            continue
        elif module.startswith("bert.encoder."):
            stack, number, part = module.removeprefix("bert.encoder.").split(".", 2)
            place = int(number)
            if stack == "v_layer":
                owner = f"image_layers.{place}"
            elif place < joint_layers:
                owner = f"joint.{place}"
            else:
                owner = f"text_layers.{place - joint_layers}"
            converted[f"{owner}.{_LAYER[part]}.{kind}"] = tensor
        else:
            converted[f"{_OTHERS[module]}.{kind}"] = tensor
    return converted
