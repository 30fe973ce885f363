"""Low-rank changes of a language model that is kept as it is (LoRA), through `peft`."""

from __future__ import annotations

from sensorium.nn.language import LanguageModel
from sensorium.types import MissingExtra

ALPHA = 16


def with_low_rank(model: LanguageModel, rank: int, alpha: int = ALPHA) -> LanguageModel:
    """The model with a narrow product beside each matrix of its layers, at first nothing.

    Their parameters have `.lora_` in their names. Words are read and said with the same vectors as
    before.

    Args:
        model: which is changed in place.
        rank: of the products.
        alpha: they are multiplied by `alpha / rank`.

    Raises:
        MissingExtra: `peft` is not installed.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    try:
        import peft
    except ImportError:
        raise MissingExtra("low-rank training of a language model", "lm") from None
    matrices = {
        name: isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module.weight.shape[0] != model.vocabulary_size
    }
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(matrices),
        # GPT-2 and its kind store their matrices the other way round, all of them
        fan_in_fan_out=any(matrices.values()),
    )
    peft.inject_adapter_in_model(config, model)
    return model
