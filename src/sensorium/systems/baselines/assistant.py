"""What all assistants share: they read a conversation about media, and write or choose its next answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.conversation import ConversationView
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import FieldEncoders
from sensorium.nn.joined import Conversing
from sensorium.nn.language import (
    Decoder,
    DecoderConfig,
    Eviction,
    Generation,
    Hooks,
    LanguageModel,
    load_language_model,
)
from sensorium.nn.low_rank import with_low_rank
from sensorium.systems.base import System, SystemConfig
from sensorium.systems.baselines.conversations import (
    answer_of,
    conversation_of,
    media_of,
    with_conversation,
)
from sensorium.types import Batch, Schema, Tokens, UserError


class AssistantConfig(SystemConfig):
    """Settings of all assistants.

    Attributes:
        tokenizer: that of the language model, or `bpe:4096`, if empty.
        language: a published language model, `hf:NAME_OR_PATH`; one from scratch if empty.
        width: of a language model from scratch; `depth`, `heads` and `key_heads`, its layers and
            attention heads.
        encoder: by field or modality, a pretrained encoder: `hf:NAME_OR_PATH`.
        encoder_width: of encoders from scratch, and so on.
        image_size: pixels of the side of an image, and `patch`, of a patch.
        user: what the user says, where rows hold no conversation; `{name}` stands for a column,
            `<name>` for a medium. Made of the fields if empty.
        assistant: what is to be answered; the answer, label or caption if empty.
        max_tokens: the longest text, and the longest sequence of a language model from scratch.
        lora: the rank of changes that are trained in place of a published language model's own
            weights; 0 to train these.
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
    user: str = ""
    assistant: str = ""
    max_tokens: int = 1024
    lora: int = Setting(default=0, ge=0)

    @property
    def tokenizer_source(self) -> str:
        """Where the tokenizer comes from."""
        return self.tokenizer or self.language or "bpe:4096"

    @property
    def language_weights(self) -> str:
        """Those of the language model that are trained where it is: its own, or what stands beside them."""
        return "model.language.*.lora_*" if self.lora else "model.language.*"

    def language_model(self, tokenizer: Tokenizer) -> LanguageModel:
        """The published one, or one from scratch."""
        if self.language:
            kind, _, name = self.language.partition(":")
            if kind != "hf" or not name:
                raise UserError(f"setting language: '{self.language}' is not hf:NAME_OR_PATH")
            found = load_language_model(name)
            return with_low_rank(found, self.lora) if self.lora else found
        if self.lora:
            raise UserError("setting lora: a language model from scratch has no weights to keep")
        return Decoder(
            DecoderConfig(
                vocabulary_size=tokenizer.size,
                width=self.width,
                depth=self.depth,
                heads=self.heads,
                key_heads=self.key_heads,
                max_tokens=self.max_tokens,
            )
        )

    def encoders(self, schema: Schema, **image: Any) -> FieldEncoders:
        """Those of all media fields; `image`, further settings of a picture's from scratch."""
        return FieldEncoders(
            media_of(schema),
            self.encoder,
            None,
            width=self.encoder_width,
            tower_width=None,
            depth=self.encoder_depth,
            heads=self.encoder_heads,
            image_size=self.image_size,
            max_tokens=self.max_tokens,
            freeze=True,
            settings={"image": {"patch": self.patch, **image}},
        )

    def view(self, tokenizer: Tokenizer, media: FieldEncoders, **settings: Any) -> ConversationView:
        """Of the conversation."""
        return ConversationView(
            tokenizer=tokenizer,
            max_tokens=self.max_tokens,
            media=tuple(field.name for field in media.fields),
            **settings,
        )


class Assistant(System):
    """A language model that answers about media.

    Attributes:
        media: the encoders.
        model: which converses.
    """

    Config: ClassVar[type[SystemConfig]] = AssistantConfig
    media: FieldEncoders
    model: Conversing

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a conversation, or fields of which one can be made."""
        conversation_of(cls.name, with_conversation(cls.name, schema, "", ""))

    @classmethod
    def reads_words_as(cls, start: System) -> bool:
        """Other assistants have a language model; of others it takes encoders of media only."""
        return isinstance(start, Assistant)

    @classmethod
    def fields(cls, config: AssistantConfig, schema: Schema) -> Schema:
        """With a conversation made of the fields, if there is none."""
        return with_conversation(cls.name, schema, config.user, config.assistant)

    @abstractmethod
    def prompt(self, batch: Batch) -> Tokens:
        """What stands before the last answer of each row, which is not read."""

    def hooks(self, batch: Batch) -> Hooks | None:
        """What happens on the way through the language model."""
        return None

    def views(self) -> dict[str, View]:
        """The conversation, what its placeholders stand for, and a class that is to be predicted."""
        views = {self.model.field.name: self.model.view, **self.media.views()}
        answer = answer_of(self.schema)
        if answer is not None and answer.modality == "category":
            views[answer.name] = get_modality(answer.modality).View()
        return views

    def stream(
        self, batch: Batch, settings: Generation, eviction: Eviction | None = None
    ) -> Iterator[list[str]]:
        """What it has answered so far in each row, after each word.

        Args:
            batch: with the conversations.
            settings: how words are chosen.
            eviction: which part of the prompts is kept while answering; all if None.
        """
        prompt, hooks = self.prompt(batch), self.hooks(batch)
        return self.model.generate(batch, prompt, settings, hooks, eviction)

    def generate(self, batch: Batch, settings: Generation) -> list[str]:
        """What it answers in each row."""
        *_, texts = self.stream(batch, settings)
        return texts

    def choose(self, batch: Batch, candidates: Sequence[str]) -> Float[Tensor, "batch candidates"]:
        """The log-probability of each candidate as the answer."""
        return self.model.choose(self.prompt(batch), candidates, self.hooks(batch))

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """The probabilities of the classes, by how likely each is to be said."""
        answer = answer_of(self.schema)
        if answer is None or answer.modality != "category":
            raise UserError(f"{self.name} predicts classes, and the answer is none")
        return self.choose(batch, class_names(answer)).softmax(1)

    @property
    def capabilities(self) -> frozenset[str]:
        """It predicts where the answer is one of some classes."""
        answer = answer_of(self.schema)
        closed = answer is not None and answer.modality == "category"
        return super().capabilities - (frozenset() if closed else {"predict"})
