"""4M: some tokens of any fields from some of any others (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647).

    image ───── patches ────────────────┐                                  ┌─ codes of image
    image ──┬── codes of a tokenizer ───┤                                  ├─ codes of depth
    depth ──┘   (frozen)                ├─ few of all ─ encoder ─ decoder ─┤
    caption ─── words, spans cut out ───┤  (visible only)    (few of all)  ├─ the spans
    boxes ───── corners and classes ────┘                                  └─ the boxes

All fields become tokens: codes of patches for pictures and maps, by tokenizers that are learned before and
then stay; words; four corners and a class for each box; one token for a class, a number or a cell of a table
(metadata, palettes, vectors). Pictures can
also be read as patches. `inputs` tokens of a row are read and `targets` are asked for; how many of each
field is drawn from Dirichlet distributions. In a share of the rows, pictures are read as patches and
nothing else is. Of a grid no place is both read and asked for; of a sequence, spans are cut out
(`objectives.spans`), of boxes whole boxes. `nn.AnyToAny` is the model. The loss of a field is the mean
cross-entropy over its asked tokens in the batch; the sum of all is divided by the number of fields that
can be asked for, whether or not the batch has them.

Any field is then predicted from any others, one after another if asked to: each is read for the next.

Differs from the paper, beside the size:

- The first stage learns the tokenizers that are not given (`codes`), in the same run; they do not move
  while the model learns. Decoders of tokenizers predict patches at once, not by diffusion.
- A row may lack fields; shares are drawn over those it has. What a field has not, of a class or a short
  text, is shared among the others, so that rows read as much as they can. A minimum is not offered.
- Words are those of a tokenizer learned from the texts; each sequence has sentinels of its own behind its
  words, and boxes have no words but classes. Boxes stand in the order of the row.
- Fields stand in the decoder in the order of the schema, which changes nothing: none sees another.
- Augmentation moves all that hangs on a picture with it. Tokens of crops are not made beforehand.
- The variant of the loss that weighs tokens alike, and filling grids by confidence (MaskGIT), are left
  out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

from jaxtyping import Bool
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import ByField
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.quantizers import Summed
from sensorium.nn.token_generation import Filling
from sensorium.nn.token_streams import AnyToAny, PatchStream, WordStream
from sensorium.systems.base import System, SystemConfig, register
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.systems.masked.fourm_chains import Chains, Kept
from sensorium.systems.masked.fourm_codes import Coding
from sensorium.systems.masked.fourm_sequences import BoxTokens, TextTokens
from sensorium.systems.masked.fourm_streams import (
    GRIDS,
    READABLE,
    READS,
    Choice,
    Streams,
    chosen,
    readable,
)
from sensorium.systems.masked.fourm_tokens import (
    CategoryTokens,
    FieldTokens,
    GridTokens,
    NumberTokens,
    TableTokens,
)
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

TOKENIZE, MASKED = "tokenize", "masked"


@register("fourm")
class FourM(System):
    """Tokens of all fields, an encoder of those that are read, a decoder of those that are asked for."""

    card = Card(
        title="4M: massively multimodal masked modeling",
        paper="arXiv:2312.06647",
        year=2023,
        family="masked",
        modalities=READABLE,
        tasks=("reconstruction",),
        licence="Apache-2.0",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            reads: the fields that are read; all of pictures, maps, texts, boxes, classes, numbers and tables if
                empty.
            gives: the fields that are asked for; all if empty.
            inputs: tokens of a row that are read, and `targets`, that are asked for.
            alpha: concentration of the Dirichlet distributions.
            pictures_alone: the share of rows of which only patches of pictures are read.
            codes: by picture or map, the run of `patch-tokenizer` that has learned its codes.
            coding: settings of the tokenizers that are learned in this run.
            tokenizing: the share of the budget in which they are.
            width: of the tokens, and `depth`, `heads`, layers and attention heads of the encoder and of
                the decoder.
            max_tokens: of a text, and `max_boxes`, of a row.
            box_bins: into which a corner may fall, and `number_bins`, a number.
            filling: how tokens are chosen when fields are predicted.
        """

        reads: tuple[str, ...] = ()
        gives: tuple[str, ...] = ()
        inputs: int = Setting(default=32, ge=1)
        targets: int = Setting(default=32, ge=1)
        alpha: float = Setting(default=0.5, gt=0)
        pictures_alone: float = Setting(default=0.5, ge=0, le=1)
        codes: dict[str, Coding] = Setting(default_factory=dict)
        coding: PatchTokenizer.Config = PatchTokenizer.Config()
        tokenizing: float = Setting(default=0.3, gt=0, lt=1)
        width: int = 128
        depth: int = 4
        heads: int = 4
        max_tokens: int = Setting(default=32, ge=2)
        max_boxes: int = Setting(default=8, ge=1)
        box_bins: int = Setting(default=32, ge=2)
        number_bins: int = Setting(default=32, ge=2)
        filling: Filling = Filling()

        @classmethod
        def paper(cls) -> Self:
            """4M-B: 12 and 12 layers of width 768, and 128 tokens on each side."""
            return cls(
                inputs=128,
                targets=128,
                coding=PatchTokenizer.Config.paper(),
                width=768,
                depth=12,
                heads=12,
                max_tokens=256,
                max_boxes=51,
                box_bins=1000,
                number_bins=1000,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        c = config
        self.check(schema)
        known = readable(schema)
        self.sources = chosen(known, c.reads)
        self.reconstructed = chosen(known, c.gives)
        chosen([field for field in known if field.modality in GRIDS], list(c.codes))
        fields = [f for f in known if f.name in {*self.sources, *self.reconstructed}]
        self.tokens = ByField(fields, map(self._tokens, fields))
        self.words = ByField(fields, [self._words(tokens) for tokens in self._each()])
        pictures = [f for f in fields if f.modality == "image" and f.name in self.sources]
        self.pixels = Pixels()
        self.streams = Streams(self._each(), tuple(f.name for f in pictures), self.pixels)
        self.patches = ByField(pictures, [self._patches(self.streams.of(f.name)) for f in pictures])
        streams = cast(list[WordStream | PatchStream], [*self.words, *self.patches])
        self.model = AnyToAny(streams, c.width, c.depth, c.heads)
        self.choice = Choice(
            self.streams,
            self.sources,
            self.reconstructed,
            c.inputs,
            c.targets,
            c.alpha,
            c.pictures_alone,
        )
        self.chains = Chains(self.streams, self.model, self.sources, self.reconstructed)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a field that it can read."""
        if not readable(schema):
            names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
            raise UserError(
                f"fourm needs a field of modality {', '.join(READABLE)} with a role it reads "
                f"({', '.join(READS)}). Fields: {names}"
            )

    def _tokens(self, field: Field) -> FieldTokens:
        c = self.config
        if field.modality in GRIDS:
            return GridTokens(field, c.codes.get(field.name), c.coding)
        if field.modality == "text":
            assert self.tokenizer is not None
            return TextTokens(field, self.tokenizer, c.max_tokens)
        if field.modality == "boxes":
            classes = next(iter(self.schema.find(modality="category", of=field.name)), None)
            return BoxTokens(field, classes, c.box_bins, c.max_boxes)
        if field.modality == "category":
            return CategoryTokens(field)
        if field.modality == "table":
            return TableTokens(field, c.number_bins)
        return NumberTokens(field, c.number_bins)

    def _words(self, tokens: FieldTokens) -> WordStream:
        positions = tokens.positions(self.config.width)
        return WordStream(positions, tokens.vocabulary, is_sequence=tokens.is_sequence)

    def _patches(self, tokens: FieldTokens) -> PatchStream:
        patches = cast(GridTokens, tokens).tokenizer.patches
        return PatchStream(tokens.positions(self.config.width), 3 * patches.patch**2)

    # ------------------------------------------------------------------ what the trainer asks

    def views(self) -> dict[str, View]:
        """What tokens are made of."""
        views: dict[str, View] = {}
        for tokens in self._each():
            views |= tokens.views()
        return views

    def stages(self) -> list[Stage]:
        """Tokenizers of pictures and maps, if there are any to be learned; then the model."""
        c = self.config
        is_large = c.width >= 768
        masked = Stage(
            name=MASKED,
            frozen=("tokens.*",),
            learning_rate=1e-4 * 8192 / 256 if is_large else 1e-3,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            warmup=0.02 if is_large else 0.1,
            batch_size=8192 if is_large else 128,
        )
        learning = self._learning
        if not learning:
            return [masked]
        first = learning[0].tokenizer.stages()[0]
        places = [place for place, tokens in enumerate(self.tokens) if tokens in learning]
        patterns = tuple(f"tokens.{place}.*" for place in places)
        learned = {"name": TOKENIZE, "train": patterns, "share": c.tokenizing}
        return [
            first.model_copy(update=learned),
            masked.model_copy(update={"share": 1 - c.tokenizing}),
        ]

    def begin(self, stage: str) -> None:
        """Tokenizers are those of other runs, or those of the first stage, once the model learns."""
        if stage == MASKED:
            for grid in self._grids:
                grid.settle()

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Of asked tokens, one for each field; of tokenizers in the first stage."""
        for tokens in self._each():
            if tokens.field.name in batch and not isinstance(tokens, BoxTokens):
                batch = batch.drawn(tokens.field.name)
        if self.stage == TOKENIZE:
            return {
                f"tokens of {name}": loss
                for grid in self._learning
                for name, loss in grid.tokenizer.losses(batch).items()
            }
        read, asked, wanted = self.choice.draw(batch)
        context = self.model.encode(read, self.streams.numbers(batch))
        states = self.model.decode(asked, context, read.real)
        losses = {}
        for stream, name in enumerate(self.words.names):
            if name in self.reconstructed:
                here = (asked.stream == stream) & asked.real
                scores = self.model.scores(stream, states[here]).float()
                each = F.cross_entropy(scores, wanted[here], reduction="none")
                losses[name] = Loss.mean(each, 1 / len(self.reconstructed))
        return losses

    def after_step(self, summed: Summed) -> None:
        """Codebooks follow what they stand for, while tokenizers are learned."""
        if self.stage == TOKENIZE:
            for grid in self._learning:
                grid.tokenizer.after_step(summed)

    # ------------------------------------------------------------------ what it can be asked

    def reconstruct(self, batch: Batch, fields: Sequence[str]) -> dict[str, Entries]:
        """Each field from all that rows have; what they have of it stays, as its tokens tell it."""
        return self.chains.say_apart(batch, fields, self.config.filling)

    def chain(
        self, batch: Batch, fields: Sequence[str], how: Filling, keep: Kept | None = None
    ) -> dict[str, Entries]:
        """Fields one after another, each from all that rows have and from those before it.

        Args:
            batch: rows.
            fields: in their order.
            how: tokens are chosen.
            keep: by grid that rows have, the places whose tokens stay; the others are filled anew.

        Raises:
            UserError: it does not predict one of them, or does not read what it is to be guided by.
        """
        return self.chains.say(batch, fields, how, keep or {})

    def places(self, field: str, box: Sequence[float]) -> Bool[Tensor, "places"]:
        """Which places of a picture or map have their middle in a box (x1, y1, x2, y2, as shares).

        Raises:
            UserError: there is no such picture or map, or nothing or all of it lies in the box.
        """
        grids = {grid.field.name: grid for grid in self._grids}
        if field not in grids:
            raise UserError(f"keep: '{field}' has no places. {did_you_mean(field, grids)}")
        return grids[field].within(box)

    # ------------------------------------------------------------------ parts

    def _each(self) -> Sequence[FieldTokens]:
        return cast(list[FieldTokens], list(self.tokens))

    @property
    def _grids(self) -> list[GridTokens]:
        return [tokens for tokens in self._each() if isinstance(tokens, GridTokens)]

    @property
    def _learning(self) -> list[GridTokens]:
        """Tokenizers that are learned in the first stage: of no other run, nor of the run it starts from."""
        return [grid for grid in self._grids if grid.coding is None and not grid.is_settled]
