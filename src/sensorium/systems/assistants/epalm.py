"""eP-ALM: one token of perception in the last layers of a frozen language model (Shukor et al., 2023).

    encoder        language model
    layer M   ──C──► last layers    [v_k | prompt | text]     v overwritten before each layer
    layer M-1 ──C──►      :         [v_j | prompt | text]
    layer M-2 ──C──► layer s        [v_1 | prompt | text]
                    first layers    [    | prompt | text]     nobody sees the first place yet

(ICCV 2023, arXiv 2303.11403.) An encoder that has never seen text, and a language model that has read
nothing else, both stay as they are. The class tokens of the encoder's last layers, each behind its final
norm, pass a linear map and stand in the first place of the sequence: from layer `first` to `last`, the
deeper the layer the deeper the level, each level in as many layers. What the language model has made of
that place is thrown away each time. Trained are these maps and a short soft prompt. The loss is the sum
over all words of a row, the question's as well, times 0.1.

The first place is there from the beginning, but is not seen before layer `first`; this equals putting it
in front there, and lets a cache hold. It sees itself only. In the release it sees the whole text; after
the last overwriting this lets words know their own future while they are learned (`place_sees=all`).

Differs from the paper: words, prompt and perception are told apart by rules instead of by an order, and
the prompt's vectors see each other; positions count the text alone, and prompt and perception stand at
the position of its first word (a language model with learned positions adds that one's). The end of a
question is a new line, which every tokenizer has, in place of a new token. Media are the placeholder's
business elsewhere; here one token stands for each field, the mean over its entries, and placeholders are
left out. A published encoder makes the same vectors in training as after it: nothing is dropped in it.
From scratch (the nano size), stages of their own make the two models first: the language model
reads the text of the rows, and an encoder learns to say what a picture, clip or sound is like in small.
"""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.text import Tokenizer
from sensorium.nn.joined import Conversing
from sensorium.nn.language import Hooks
from sensorium.nn.language.base import LayerRule
from sensorium.nn.masks import Rule, between, causal, within
from sensorium.nn.pretrained import Pretrained
from sensorium.systems.base import register
from sensorium.systems.baselines.assistant import Assistant, AssistantConfig
from sensorium.systems.baselines.conversations import conversation_of
from sensorium.types import Batch, Card, Loss, Schema, Stage, Tokens, UserError, cat
from sensorium.types.names import number_of

LANGUAGE, SEE, CONNECT = "language", "see", "connect"
THUMBNAIL = 8  # pixels of the side of what an encoder from scratch learns to tell
IN_SMALL = {"image": 3 * THUMBNAIL**2, "audio": 64, "video": 3 * THUMBNAIL**2}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
)
PERCEPTION, PROMPT = "perception", "soft prompt"
WEIGHT = 0.1  # of the loss (lm_loss_weight)

_TEXT = causal & ~between({"part": PROMPT}, {"modality": "text"})
_ALONE = ~between({"part": PERCEPTION}, {}) | within(part=PERCEPTION)
SEES: dict[str, Rule] = {
    "itself": _TEXT & _ALONE,
    "all": _TEXT | between({"part": PERCEPTION}, {}),
}


@register("epalm")
class EPALM(Assistant):
    """Linear maps and a soft prompt between two models that stay as they are."""

    card = Card(
        title="Perceptual augmentation of language models (eP-ALM)",
        paper="arXiv:2303.11403",
        year=2023,
        family="assistants",
        modalities=("image", "audio", "video"),
        tasks=("vqa", "captioning", "classification"),
        licence="MIT",
    )

    class Config(AssistantConfig):
        """Settings, beside those of all assistants.

        Attributes:
            levels: layers of the encoder, from the last, whose class tokens are used; 0 for a
                language model that sees nothing.
            first: layer of the language model, from 0, before which perception comes in.
            last: from this layer on, it is overwritten no more.
            maps: `each` level has a linear map of its own, or all `share` one.
            places: all levels take turns at `one` place, or `each` has one of its own, which is
                written at layer `first` only.
            prompt: vectors of the soft prompt, which `is_deep` passes through two layers.
            place_sees: what perception sees: `itself`, or `all`, as in the release.
            answer_only: learn the words of the answer only.
            tuned: train the language model as well, as a ceiling.
        """

        depth: int = 6
        encoder_depth: int = 6
        levels: int = Setting(default=3, ge=0)
        first: int = Setting(default=3, ge=0)
        last: int = Setting(default=6, ge=1)
        maps: Literal["each", "share"] = "each"
        places: Literal["one", "each"] = "one"
        prompt: int = Setting(default=10, ge=1)
        is_deep: bool = True
        place_sees: Literal["itself", "all"] = "itself"
        answer_only: bool = False
        tuned: bool = False

        @classmethod
        def paper(cls) -> Self:
            """OPT-2.7B and ViT-B/16."""
            return cls(
                language="hf:facebook/opt-2.7b",
                encoder={"image": "hf:google/vit-base-patch16-224"},
                levels=6,
                first=19,
                last=31,
                max_tokens=2048,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None:
            raise UserError(f"{self.name} needs a tokenizer: setting tokenizer=bpe:4096")
        self.media = config.encoders(schema, class_token=True)
        language = config.language_model(tokenizer)
        if not config.first < config.last <= language.num_layers:
            raise UserError(
                f"settings first={config.first} and last={config.last}: expected two layers, in this "
                f"order, of the {language.num_layers} of the language model"
            )
        field = conversation_of(self.name, schema)
        view = config.view(tokenizer, self.media, template=TEMPLATE)
        self.model = Conversing(field, view, language, self.rule(config))
        width, number = language.width, config.levels if config.maps == "each" else 1
        self.maps = nn.ModuleList(
            nn.ModuleList(nn.Linear(encoder.width, width) for _ in range(number))
            for _, encoder in self.media.each()
        )
        self.prompt_vectors = nn.Parameter(torch.randn(config.prompt, width) * 0.02)
        self.prompt_map = (
            nn.Identity()
            if not config.is_deep
            else nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        )
        self.thumbnails = nn.ModuleDict()
        for found, encoder in self.media.each():
            if not isinstance(encoder, Pretrained):
                if found.modality not in IN_SMALL:
                    raise UserError(
                        f"{self.name} reads {', '.join(IN_SMALL)}, and field '{found.name}' is of "
                        f"modality {found.modality}; give it the role 'ignore' in the schema"
                    )
                size = IN_SMALL[found.modality]
                self.thumbnails[found.name] = nn.Linear(encoder.width, size)

    @staticmethod
    def rule(config: Config) -> LayerRule:
        """Nobody sees the places of perception before it is there."""
        late = SEES[config.place_sees]
        early = late & (~between({}, {"part": PERCEPTION}) | within(part=PERCEPTION))
        return lambda layer: early if layer < config.first else late

    def stages(self) -> list[Stage]:
        """The maps and the prompt; before them, from scratch, the two models."""
        frozen = tuple(f"media.{name}.*" for name in self.media.frozen)
        rate = {"prompt*": 0.5}
        trained: tuple[str, ...] = ("maps.*", "prompt*")
        if self.config.tuned or self.config.lora:
            trained = (*trained, self.config.language_weights)
        if self.config.language:
            common: dict[str, Any] = {
                "learning_rate": 2e-5,
                "learning_rate_scale": rate,
                "frozen": frozen,
            }
            return [Stage(name=CONNECT, train=trained, weight_decay=0.02, batch_size=64, **common)]
        common = {"learning_rate": 1e-3, "batch_size": 64, "frozen": frozen}
        stages = [
            Stage(name=LANGUAGE, share=0.3, train=("model.language.*",), **common),
            Stage(name=SEE, share=0.2, train=("media.*", "thumbnails.*"), **common),
            Stage(name=CONNECT, share=0.5, train=trained, learning_rate_scale=rate, **common),
        ]
        return stages if self.thumbnails else [stages[0], stages[2]]

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The words of each row, summed; or how well pictures are told in small."""
        if self.stage == SEE:
            return {"thumbnails": self.thumbnail_loss(batch)}
        if self.model.field.name not in batch:
            return {"words": Loss.mean(next(self.parameters()).new_zeros(0))}
        hooks = None
        if self.stage == LANGUAGE:
            tokens = self.model.text_only(batch)
            per_word = self.model.next_word_losses(tokens, tokens.mask, rule=causal)
        else:
            tokens, hooks = self.augmented(batch, self.model.text_only(batch)), self.hooks(batch)
            is_text = tokens.mask & (tokens.id("modality") == number_of("text"))
            where = self.model.answers(tokens) if self.config.answer_only else is_text
            per_word = self.model.next_word_losses(tokens, where, hooks=hooks)
        rows = batch.present(self.model.field.name).sum().to(per_word.dtype)  # a sum for each row
        return {"words": Loss(per_word, rows, WEIGHT)}

    def augmented(self, batch: Batch, text: Tokens) -> Tokens:
        """Places for perception, the soft prompt, and the text."""
        prompt = self.prompt_map(self.prompt_vectors).expand(batch.size, -1, -1)
        places = len(self.media) * self.num_places
        empty = prompt.new_zeros(batch.size, places, prompt.shape[2])
        present = [batch.present(field.name) for field in self.media.fields]
        there = torch.stack(present, 1).repeat_interleave(self.num_places, 1) if places else None
        mask = torch.zeros(empty.shape[:2], dtype=torch.bool, device=empty.device)
        everywhere = torch.ones(prompt.shape[:2], dtype=torch.bool, device=empty.device)
        return cat(
            _named(empty, mask if there is None else there, PERCEPTION),
            _named(prompt, everywhere, PROMPT),
            text,
        ).replace(lengths=())

    @property
    def num_places(self) -> int:
        """For perception, of each field."""
        return self.config.levels if self.config.places == "each" else min(1, self.config.levels)

    def prompt(self, batch: Batch) -> Tokens:
        """All that stands before the answer."""
        return self.augmented(batch, self.model.text_prompt(batch))

    def hooks(self, batch: Batch) -> Hooks | None:
        """Perception comes in."""
        if not self.config.levels or not len(self.media):
            return None
        width = self.prompt_vectors.shape[1]
        fields = []
        for (field, encoder), maps in zip(self.media.each(), self.maps, strict=True):
            found = self.prompt_vectors.new_zeros(batch.size, self.config.levels, width)
            if field.name in batch and len(batch[field.name]):
                entries = batch[field.name]
                levels = encoder.each_level(entries.values, entries.mask, self.config.levels)
                every = cast(nn.ModuleList, maps)
                mapped = [every[i % len(every)](level) for i, level in enumerate(levels)]
                stacked = torch.stack(mapped, 1).to(found.dtype)
                found = found.index_add(0, entries.row, stacked)
                found = found / entries.counts(batch.size).clamp(min=1)[:, None, None]
            fields.append(found)
        return _Perception(torch.stack(fields, 1), self.config)

    def thumbnail_loss(self, batch: Batch) -> Loss:
        """How far an encoder's last token is from telling what it read in small."""
        errors = [next(self.parameters()).new_zeros(0)]
        for field, encoder in self.media.each():
            if field.name in self.thumbnails and field.name in batch:
                entries = batch[field.name]
                (token,) = encoder.each_level(entries.values, entries.mask, 1)
                small = in_small(entries.values, field.modality)
                errors.append((self.thumbnails[field.name](token) - small).square().mean(1))
        return Loss.mean(torch.cat(errors))


class _Perception(Hooks):
    """Writes what is perceived into the first places, before the layers that are to read it."""

    def __init__(
        self, levels: Float[Tensor, "batch fields levels width"], config: EPALM.Config
    ) -> None:
        self._levels, self._config = levels, config

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """What a layer had made of these places is thrown away."""
        c = self._config
        in_range = c.first <= layer < (c.last if c.places == "one" else c.first + 1)
        # words that are added later, beside a cache, do not begin with these places
        if not in_range or int(tokens.id("part")[0, 0]) != number_of(PERCEPTION):
            return tokens
        written = self._levels.flatten(1, 2)
        if c.places == "one":
            number = self._levels.shape[2]
            each = max(1, (c.last - c.first) // number)
            written = self._levels[:, :, min((layer - c.first) // each, number - 1)]
        rest = tokens.values[:, written.shape[1] :]
        return tokens.with_values(torch.cat([written.to(rest.dtype), rest], 1))


def in_small(values: Tensor, modality: str) -> Float[Tensor, "entries size"]:
    """The colours of a picture in few pixels, of a clip in the mean over time; how loud a sound is when."""
    if modality == "audio":
        loudness = F.adaptive_avg_pool1d(values[:, None].float().square(), IN_SMALL["audio"])
        return loudness.squeeze(1).sqrt()
    pixels = values.movedim(-1, -3).float() / 255
    if modality == "video":
        pixels = pixels.mean(1)
    return F.adaptive_avg_pool2d(pixels, THUMBNAIL).flatten(1)


def _named(values: Tensor, mask: Tensor, part: str) -> Tokens:
    number = torch.full(mask.shape, number_of(part), device=mask.device)
    return Tokens(values, mask, {"part": number, "modality": number})
