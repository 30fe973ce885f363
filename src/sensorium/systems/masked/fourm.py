"""4M: some tokens of any fields from some of any others (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647).

    image ───── patches ────────────────┐                                  ┌─ codes of image
    image ──┬── codes of a tokenizer ───┤                                  ├─ codes of depth
    depth ──┘   (frozen)                ├─ few of all ─ encoder ─ decoder ─┤
    caption ─── words, spans cut out ───┤  (visible only)    (few of all)  ├─ the spans
    boxes ───── corners and classes ────┘                                  └─ the boxes

All fields become tokens: codes of patches for pictures and maps, by tokenizers that are learned before and
then stay; words; four corners and a class for each box; one token for a class or a number. Pictures can
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

from collections.abc import Mapping, Sequence
from typing import Self, cast

import torch
from jaxtyping import Bool, Int
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import ByField
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.patches import to_patches
from sensorium.nn.quantizers import Summed
from sensorium.nn.token_generation import Filler, Filling, Guided
from sensorium.nn.token_streams import AnyToAny, PatchStream, Picked, WordStream, side_by_side
from sensorium.objectives.budgets import token_counts
from sensorium.objectives.spans import draw_spans
from sensorium.systems.base import System, SystemConfig, register
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.systems.masked.fourm_codes import Coding
from sensorium.systems.masked.fourm_tokens import (
    BoxTokens,
    CategoryTokens,
    FieldTokens,
    GridTokens,
    NumberTokens,
    SequenceTokens,
    TextTokens,
    Words,
)
from sensorium.types import Batch, Card, Draw, Entries, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

READS = ("input", "query", "target")
GRIDS = ("image", "maps")
READABLE = (*GRIDS, "text", "boxes", "category", "number")
TOKENIZE, MASKED = "tokenize", "masked"
ONLY = 1000.0
"""The concentration of pictures that are read alone: of several, about as much of each."""


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
            reads: the fields that are read; all of pictures, maps, texts, boxes, classes and numbers if
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
        self.sources = self._named(known, c.reads)
        self.reconstructed = self._named(known, c.gives)
        self._named([field for field in known if field.modality in GRIDS], tuple(c.codes))
        fields = [f for f in known if f.name in {*self.sources, *self.reconstructed}]
        self.tokens = ByField(fields, map(self._tokens, fields))
        self.words = ByField(fields, [self._words(tokens) for tokens in self._each()])
        pictures = [f for f in fields if f.modality == "image" and f.name in self.sources]
        self.pixels = Pixels()
        self.patches = ByField(pictures, [self._patches(self._of(f.name)) for f in pictures])
        streams = cast(list[WordStream | PatchStream], [*self.words, *self.patches])
        self.model = AnyToAny(streams, c.width, c.depth, c.heads)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a field that it can read."""
        if not readable(schema):
            names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
            raise UserError(
                f"fourm needs a field of modality {', '.join(READABLE)} with a role it reads "
                f"({', '.join(READS)}). Fields: {names}"
            )

    @staticmethod
    def _named(fields: Sequence[Field], names: Sequence[str]) -> tuple[str, ...]:
        known = [field.name for field in fields]
        for name in names:
            if name not in known:
                raise UserError(f"fourm: no field '{name}' to be read. {did_you_mean(name, known)}")
        return tuple(names) or tuple(known)

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
        read, asked, wanted = self.chosen(batch)
        context = self.model.encode(read, self._numbers(batch))
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

    # ------------------------------------------------------------------ which tokens

    def chosen(self, batch: Batch) -> tuple[Picked, Picked, Int[Tensor, "batch targets"]]:
        """The tokens of each row that are read, those that are asked for, and what these are."""
        words = [tokens.read(batch) for tokens in self._each()]
        given, wanted = self.counts(batch, words)
        read, asked, answers = [], [], []
        for stream, (tokens, found) in enumerate(zip(self._each(), words, strict=True)):
            draw = named(batch.uniform, tokens.field.name)
            most = given[:, stream], wanted[:, stream]
            if isinstance(tokens, SequenceTokens):
                cut = draw_spans(found.ids, found.real, draw, tokens.sentinel, *most, found.chunks)
                read.append(Picked.of(stream, cut.read, cut.read_mask))
                # each word is asked for by the one before it, so the first is given
                asked.append(Picked.of(stream, cut.said[:, :-1], cut.said_mask[:, 1:]))
                answers.append(asked[-1]._replace(word=cut.said[:, 1:]))
                continue
            rank = draw("places", tokens.length).argsort(1).argsort(1)
            shown = rank < most[0][:, None]
            hidden = ~shown & (rank < (most[0] + most[1])[:, None])
            read.append(Picked.of(stream, found.ids, shown & found.real))
            asked.append(Picked.of(stream, found.ids, hidden & found.real))
            answers.append(asked[-1])
        for number, field in enumerate(self.patches.fields, len(words)):
            rank = batch.uniform(f"{field.name}, patches", self._of(field.name).length)
            shown = rank.argsort(1).argsort(1) < given[:, number, None]
            read.append(Picked.of(number, torch.zeros_like(shown, dtype=torch.long), shown))
        c = self.config
        targets = side_by_side(answers, c.targets).word
        return side_by_side(read, c.inputs), side_by_side(asked, c.targets), targets

    def counts(
        self, batch: Batch, words: Sequence[Words]
    ) -> tuple[Int[Tensor, "batch streams"], Int[Tensor, "batch fields"]]:
        """How many tokens of each stream are read, and how many of each field are asked for."""
        c, names, draw = self.config, self.words.names, batch.uniform
        present = torch.stack([found.real.any(1) for found in words], 1)
        pictures = (
            torch.stack([batch.present(name) for name in self.patches.names], 1)
            if (self.patches.names)
            else present[:, :0]
        )
        alone = pictures.any(1) & (draw("pictures alone", 1)[:, 0] < c.pictures_alone)
        read, given = (
            present & torch.tensor([n in some for n in names], device=present.device)
            for some in (self.sources, self.reconstructed)
        )
        alpha = torch.full_like(alone, c.alpha, dtype=torch.float32)
        have = torch.stack([found.real.sum(1) for found in words], 1)
        patches = [self._of(name).length for name in self.patches.names]
        shown = token_counts(
            named(draw, "read"),
            alpha.masked_fill(alone, ONLY),
            torch.cat([read & ~alone[:, None], pictures], 1),
            c.inputs,
            torch.cat([have, have.new_tensor(patches).expand(batch.size, -1)], 1),
        )
        is_sequence = have.new_tensor([tokens.is_sequence for tokens in self._each()]).bool()
        # a sequence that is cut apart is at most two sentinels longer, whatever was cut out
        left = torch.where(is_sequence, have + 2, have - shown[:, : len(words)])
        return shown, token_counts(named(draw, "asked"), alpha, given, c.targets, left)

    def _numbers(self, batch: Batch) -> dict[int, Tensor]:
        """What stands in the patches of pictures."""
        numbers = {}
        for stream, field in enumerate(self.patches.fields, len(self.words)):
            grid = cast(GridTokens, self._of(field.name)).tokenizer.patches
            if field.name in batch:
                values, _ = batch[field.name].first(batch.size)
                colours = self.pixels(values).permute(0, 2, 3, 1)
                numbers[stream] = to_patches(colours, grid.patch)
            else:
                numbers[stream] = self.pixels.scale.new_zeros(
                    batch.size, grid.side**2, 3 * grid.patch**2
                )
        return numbers

    # ------------------------------------------------------------------ what it can be asked

    def reconstruct(self, batch: Batch, fields: Sequence[str]) -> dict[str, Entries]:
        """Each field from all that rows have; what they have of it stays, as its tokens tell it."""
        found: dict[str, Entries] = {}
        for name in fields:
            found |= self.chain(batch, [name], self.config.filling)
        return found

    @torch.no_grad()
    def chain(
        self,
        batch: Batch,
        fields: Sequence[str],
        how: Filling,
        keep: Mapping[str, Bool[Tensor, "batch length"]] | None = None,
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
        for name in fields:
            if name not in self.reconstructed:
                raise UserError(
                    f"fourm does not predict '{name}'. {did_you_mean(name, self.reconstructed)}"
                )
        keep = keep or {}
        read, known = self._known(batch, keep)
        draw = Batch({}, batch.keys, batch.index, how.seed).uniform
        guided = self._guided(how)
        filler = Filler(self.model, read, self._numbers(batch), how, guided, draw)
        found: dict[str, Entries] = {}
        for name in fields:
            stream, tokens = self.words.names.index(name), self._of(name)
            made = tokens.filled(filler, stream, known[stream])
            # what is not read, such as codes beside patches, is known as well
            real = made.real | known[stream]
            known[stream] = real
            found |= tokens.restore(made.word, real)
        return found

    def _known(
        self, batch: Batch, keep: Mapping[str, Tensor]
    ) -> tuple[list[Picked], list[Bool[Tensor, "batch length"]]]:
        """What is read of each stream, and what is known of each field."""
        read, known = [], []
        for stream, tokens in enumerate(self._each()):
            name, words = tokens.field.name, tokens.read(batch)
            known.append(words.real & keep.get(name, words.real))
            # a picture is read as patches, unless these show what is not to be kept
            as_codes = name in keep or name not in self.patches.names
            shown = known[-1] & (as_codes and name in (*self.sources, *keep))
            read.append(Picked.of(stream, words.ids, shown))
        for stream, name in enumerate(self.patches.names, len(read)):
            there = batch.present(name)[:, None].expand(-1, self._of(name).length)
            nothing = torch.zeros_like(there, dtype=torch.long)
            read.append(Picked.of(stream, nothing, there & (name not in keep)))
        return read, known

    def _guided(self, how: Filling) -> Guided:
        names = [*self.words.names, *self.patches.names]
        for name in how.guidance:
            if name not in self.sources:
                raise UserError(
                    f"guidance: '{name}' is not read. {did_you_mean(name, self.sources)}"
                )
        return [
            (frozenset(s for s, other in enumerate(names) if other == name), weight)
            for name, weight in how.guidance.items()
        ]

    # ------------------------------------------------------------------ parts

    def _each(self) -> Sequence[FieldTokens]:
        return cast(list[FieldTokens], list(self.tokens))

    def _of(self, name: str) -> FieldTokens:
        return cast(FieldTokens, self.tokens[self.tokens.names.index(name)])

    @property
    def _grids(self) -> list[GridTokens]:
        return [tokens for tokens in self._each() if isinstance(tokens, GridTokens)]

    @property
    def _learning(self) -> list[GridTokens]:
        """Tokenizers that are learned in the first stage: of no other run, nor of the run it starts from."""
        return [grid for grid in self._grids if grid.coding is None and not grid.is_settled]


def readable(schema: Schema) -> list[Field]:
    """The fields of which it makes tokens; classes of boxes belong to their boxes."""
    fields = schema.find(role=READS, modality=READABLE)
    boxes = {field.name for field in schema.find(modality="boxes")}
    return [field for field in fields if field.of not in boxes]


def named(draw: Draw, what: str) -> Draw:
    """The same draws for another purpose."""
    return lambda purpose, count: draw(f"{what}, {purpose}", count)
