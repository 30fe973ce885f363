"""The multimodal language model that retrievers and rerankers are made of, and its settings."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field as Setting

from sensorium.modalities.text import Tokenizer
from sensorium.nn.field_reader import FieldReader
from sensorium.nn.low_rank import with_low_rank
from sensorium.systems.base import SystemConfig
from sensorium.systems.baselines.assistant import AssistantConfig
from sensorium.types import Field, Schema


class BackboneConfig(SystemConfig):
    """Settings of all of them.

    Attributes:
        tokenizer: that of the language model, or `bpe:4096`, if empty.
        language: a published language model, `hf:NAME_OR_PATH`; one from scratch if empty.
        width: of a language model from scratch; `depth`, `heads` and `key_heads`, its layers and attention
            heads.
        encoder: by field or modality, a pretrained encoder of pictures: `hf:NAME_OR_PATH`.
        encoder_width: of one from scratch, and so on.
        image_size: pixels of the side of a picture, and `patch`, of a patch.
        max_tokens: the longest text of a field.
        lora: the rank of changes that are trained in place of a published language model's own weights; 0
            to train these.
    """

    tokenizer: str = ""
    language: str = ""
    width: int = 128
    depth: int = 4
    heads: int = 4
    key_heads: int = 2
    encoder: dict[str, str] = Setting(default_factory=dict)
    encoder_width: int = 128
    encoder_depth: int = 3
    encoder_heads: int = 4
    image_size: int = 64
    patch: int = 16
    max_tokens: int = 128
    lora: int = Setting(default=0, ge=0)

    @property
    def tokenizer_source(self) -> str:
        """Where the tokenizer comes from."""
        return self._as_assistant().tokenizer_source

    @property
    def language_weights(self) -> str:
        """Those of the language model that are trained: its own, or what stands beside them."""
        return "reader.language.*.lora_*" if self.lora else "reader.language.*"

    def reader(self, fields: Iterable[Field], tokenizer: Tokenizer, alpha: int = 16) -> FieldReader:
        """The encoder of pictures and the language model, before any training.

        Args:
            fields: of which the first that is a picture says how pictures are read.
            tokenizer: of the language model.
            alpha: changes of low rank are multiplied by `alpha / lora`.
        """
        settings = self._as_assistant()
        language = settings.model_copy(update={"lora": 0}).language_model(tokenizer)
        if self.lora:
            language = with_low_rank(language, self.lora, alpha)
        pictures = tuple(field for field in fields if field.modality == "image")[:1]
        media = settings.encoders(Schema(fields=pictures))
        return FieldReader(language, media, tokenizer, self.max_tokens)

    def _as_assistant(self) -> AssistantConfig:
        shared = AssistantConfig.model_fields.keys() & BackboneConfig.model_fields.keys()
        settings = {name: getattr(self, name) for name in shared}
        # of a text; a sequence holds an instruction and a picture, too
        return AssistantConfig(**settings | {"max_tokens": 4 * self.max_tokens})
