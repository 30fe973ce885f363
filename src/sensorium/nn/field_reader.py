"""Texts and pictures of a row, as one sequence that a language model reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.connectors import Projection
from sensorium.nn.encoders import FieldEncoders
from sensorium.nn.encoders.base import Encoder, encode_field
from sensorium.nn.language import LanguageModel
from sensorium.nn.masks import Rule
from sensorium.nn.weights import below
from sensorium.types import Batch, Field, Tokens, UserError, cat, pack
from sensorium.types.names import number_of


class FieldReader(nn.Module):
    """Puts sequences together of what rows have; absent parts leave no trace.

    One encoder reads the pictures of all fields, and its vectors reach the language model as LLaVA's do,
    with a learned vector behind them (LLaVA-NeXT's newline).

    Args:
        language: which reads the sequence.
        media: the encoder of pictures, if there are any.
        tokenizer: of the language model.
        max_tokens: the longest text of a field.

    Raises:
        UserError: tokenizer and language model are not of the same kind.
    """

    def __init__(
        self, language: LanguageModel, media: FieldEncoders, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        super().__init__()
        if tokenizer.size > language.vocabulary_size:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids and the language model reads "
                f"{language.vocabulary_size}; give both of the same model"
            )
        self.tokenizer = tokenizer
        self.words = TextView(tokenizer=tokenizer, max_tokens=max_tokens)
        self.media, self.language = media, language
        source = [encoder.width for _, encoder in media.each()]
        self.connector = Projection(source[0], language.width, is_deep=True) if source else None
        self.newline = (
            nn.Parameter(torch.randn(language.width) * language.width**-0.5) if source else None
        )
        special = torch.tensor(tokenizer.special_ids, dtype=torch.long)
        self.register_buffer("special", special, persistent=False)
        self.special: Tensor

    def views(self, fields: Sequence[Field]) -> dict[str, View]:
        """Pictures as the encoder reads them, and texts."""
        picture = next(iter(self.media.views().values()), None)
        return {
            field.name: picture if field.modality == "image" and picture else self.words
            for field in fields
        }

    def fixed(
        self, ids: Sequence[int] | Int[Tensor, "length"], rows: Bool[Tensor, "batch"]
    ) -> Tokens:
        """The same words in some rows."""
        numbers = torch.as_tensor(ids, dtype=torch.long, device=rows.device)
        values = self.language.embed(numbers).expand(len(rows), -1, -1)
        return Tokens(values, rows[:, None].expand(-1, len(numbers)))

    def text(self, batch: Batch, field: Field) -> Tokens:
        """The words of a field, without what the tokenizer puts around them."""
        if field.name not in batch:
            return self.fixed([], batch.present(field.name))
        entries = batch[field.name]
        assert entries.mask is not None
        mask = entries.mask & ~torch.isin(entries.values, self.special)
        vectors = self.language.embed(entries.values)
        return pack(vectors, mask, entries.row, entries.item, batch.size, field.modality)

    def picture(self, batch: Batch, field: Field) -> Tokens:
        """What is seen, and the vector that ends it."""
        assert self.connector is not None and self.newline is not None
        ((_, encoder),) = self.media.each()
        assert isinstance(encoder, Encoder)
        seen = encode_field(encoder, batch, field)
        values, _ = self.connector(seen.values, None)
        end = self.newline.to(values.dtype).expand(batch.size, 1, -1)
        return cat(Tokens(values, seen.mask), Tokens(end, batch.present(field.name)[:, None]))

    def joined(self, parts: Sequence[Tokens]) -> Tokens:
        """The parts of each row one behind another, with positions of what is there.

        Raises:
            UserError: that is longer than the language model reads.
        """
        tokens = cat(*parts)
        if len(tokens) > self.language.max_tokens:
            raise UserError(
                f"{len(tokens)} tokens of texts and pictures in a row, and the language model reads "
                f"{self.language.max_tokens} at most; lower max_tokens, or give shorter texts"
            )
        position = (tokens.mask.long().cumsum(1) - 1).clamp(min=0)
        return tokens.replace(ids={"part": tokens.id("part"), "position": position})

    def forward(self, tokens: Tokens, rule: Rule) -> Tokens:
        """What the language model makes of it."""
        read: Tokens = self.language(tokens, rule)
        return read

    def weights_from(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of an assistant that reads pictures as LLaVA does, by the names they have here."""
        found: dict[str, Tensor] = {}
        for theirs, own in (("model.language", "language"), ("model.connectors.0", "connector")):
            found |= {f"{own}.{name}": weight for name, weight in below(theirs, weights).items()}
        return found


def as_part(tokens: Tokens, name: str, rows: Bool[Tensor, "batch"]) -> Tokens:
    """The tokens as a part with this name, in some rows."""
    part = torch.where(rows, number_of(name), 0)[:, None].expand(tokens.mask.shape)
    return tokens.replace(ids={**tokens.ids, "part": part})
