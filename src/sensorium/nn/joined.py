"""A language model that reads other modalities where its text has placeholders for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.chat import chat_of
from sensorium.modalities.conversation import ConversationView
from sensorium.nn.encoders import FieldEncoders
from sensorium.nn.language import (
    Eviction,
    Generation,
    Hooks,
    LanguageModel,
    Said,
    generate,
    likelihoods,
)
from sensorium.nn.language.base import LayerRule
from sensorium.nn.masks import Rule, causal, packed
from sensorium.types import Batch, Entries, Field, Tokens, UserError
from sensorium.types.names import number_of
from sensorium.types.tokens import Inserted, packed_rows, splice

ANSWER = number_of("answer")


class Conversing(nn.Module):
    """A language model that goes on with conversations.

    Args:
        field: the conversation.
        view: with the tokenizer, and the media fields whose placeholders are known.
        language: reads the text, and whatever a system puts beside it.
        rule: who sees whom.
    """

    def __init__(
        self,
        field: Field,
        view: ConversationView,
        language: LanguageModel,
        rule: LayerRule = causal,
    ) -> None:
        super().__init__()
        self.field, self.view, self.rule = field, view, rule
        self.language = language
        assert view.tokenizer is not None
        if view.tokenizer.size > language.vocabulary_size:
            raise UserError(
                f"the tokenizer has {view.tokenizer.size} ids and the language model reads "
                f"{language.vocabulary_size}; give both of the same model"
            )
        self.tokenizer = view.tokenizer
        self._candidates: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def words(self, batch: Batch) -> tuple[Tokens, Int[Tensor, "batch length"]]:
        """The text of each row with its ids, and its numbers with placeholders; no media yet."""
        entries = self._conversations(batch)
        words, part, turn = entries.values.unbind(2)
        mask = entries.mask
        assert mask is not None
        ids = {"part": part, "turn": turn, "word": words}
        return Tokens(self.language.embed(words.clamp(min=0)), mask, ids), words

    def text_only(self, batch: Batch) -> Tokens:
        """The text of each row, and beside it `word`: its ids."""
        text, words = self.words(batch)
        return self.checked(splice(text, words, ()))

    def text_prompt(self, batch: Batch) -> Tokens:
        """The text of each row before its last answer, which is not read."""
        text, words = self.words(batch)
        return self.checked(splice(self.asked(text), words, ()))

    def asked(self, text: Tokens) -> Tokens:
        """The same without the last answer of each row."""
        if not len(text):
            return text
        last_turn = text.id("turn").masked_fill(~text.mask, -1).amax(1, keepdim=True)
        is_answer = (text.id("part") == ANSWER) & (text.id("turn") == last_turn)
        return text.replace(mask=text.mask & ~is_answer)

    def checked(self, tokens: Tokens) -> Tokens:
        """The tokens, if the language model can read so many; one that stands for nothing, if none.

        Raises:
            UserError: it cannot.
        """
        if not len(tokens):
            nothing = tokens.mask.new_zeros(len(tokens.mask), 1)
            return Tokens(F.pad(tokens.values, (0, 0, 0, 1)), nothing)
        if len(tokens) > self.language.max_tokens:
            raise UserError(
                f"field '{self.field.name}': {len(tokens)} tokens with all media, and the language "
                f"model reads {self.language.max_tokens} at most; give it shorter texts, or fewer or "
                "smaller media"
            )
        return tokens

    def next_word_losses(
        self,
        tokens: Tokens,
        where: Bool[Tensor, "batch tokens"],
        *,
        rule: LayerRule | None = None,
        hooks: Hooks | None = None,
        is_packed: bool = False,
    ) -> Float[Tensor, "items"]:
        """The cross-entropy of each marked word, read from the place before it.

        Args:
            tokens: as `read` gives them.
            where: the words to be said; one that begins a row cannot be.
            rule: if not that of this model.
            hooks: of the pass.
            is_packed: lay rows one behind another, so that less padding is computed.
        """
        place = where.nonzero()
        place = place[place[:, 1] > 0]
        rule = self.rule if rule is None else rule
        if is_packed:
            assert isinstance(rule, Rule)
            laid, places = packed_rows(tokens, len(tokens))
            states = self.language(laid, rule & packed, None, hooks).values.flatten(0, 1)
            before = states[places[place[:, 0], place[:, 1] - 1]]
        else:
            states = self.language(tokens, rule, None, hooks).values
            before = states[place[:, 0], place[:, 1] - 1]
        said = tokens.id("word")[place[:, 0], place[:, 1]]
        return F.cross_entropy(self.language.logits(before).float(), said, reduction="none")

    def answers(self, tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
        """The words of the assistant."""
        return (tokens.id("part") == ANSWER) & tokens.mask

    def generate(
        self,
        batch: Batch,
        prompt: Tokens,
        settings: Generation,
        hooks: Hooks | None = None,
        eviction: Eviction | None = None,
    ) -> Iterator[list[str]]:
        """The texts of `say`."""
        answers = self.say(batch, prompt, settings, hooks, eviction)
        return ([said.text for said in each] for each in answers)

    def say(
        self,
        batch: Batch,
        prompt: Tokens,
        settings: Generation,
        hooks: Hooks | None = None,
        eviction: Eviction | None = None,
    ) -> Iterator[list[Said]]:
        """What is answered so far to each prompt, after each word."""
        answers = generate(
            self.language,
            prompt,
            settings,
            end=self.tokenizer.end_id,
            decode=self.tokenizer.decode,
            rows=batch.index,
            rule=self.rule,
            hooks=hooks,
            eviction=eviction,
        )
        # most tokenizers join the blank between the prompt and the answer with its first word
        return ([replace(said, text=said.text.lstrip()) for said in each] for each in answers)

    def choose(
        self, prompt: Tokens, candidates: Sequence[str], hooks: Hooks | None = None
    ) -> Float[Tensor, "batch candidates"]:
        """The log-probability of each candidate as the answer to each prompt."""
        ids, mask = self.candidate_ids(candidates)
        return likelihoods(
            self.language,
            prompt,
            ids.to(prompt.mask.device),
            mask.to(prompt.mask.device),
            rule=self.rule,
            hooks=hooks,
        )

    def candidate_ids(
        self, candidates: Sequence[str]
    ) -> tuple[Int[Tensor, "candidates length"], Bool[Tensor, "candidates length"]]:
        """The ids of texts as answers, up to the end that the chat template gives an answer."""
        key = tuple(candidates)
        if key in self._candidates:  # most batches ask for the same classes
            return self._candidates[key]
        chat = chat_of(self.tokenizer, self.view.template, self.view.media)
        found = []
        for text in candidates:
            said = chat.encode(
                [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
            )
            found.append(torch.from_numpy(said[said[:, 1] == ANSWER, 0]))
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in found], True)
        self._candidates = {key: (nn.utils.rnn.pad_sequence(found, True), mask.bool())}
        return self._candidates[key]

    def _conversations(self, batch: Batch) -> Entries:
        """Those of the rows that have one; of the others an empty one."""
        every = torch.arange(batch.size, device=batch.device)
        if self.field.name not in batch:
            values = torch.zeros(batch.size, 0, 3, dtype=torch.long, device=batch.device)
            mask = torch.zeros(batch.size, 0, dtype=torch.bool, device=batch.device)
            return Entries(values, every, torch.zeros_like(every), mask)
        entries = batch[self.field.name]
        if len(entries) == batch.size and bool(entries.present(batch.size).all()):
            return entries
        values, present = entries.first(batch.size)
        assert entries.mask is not None
        mask = torch.zeros(batch.size, entries.mask.shape[1], dtype=torch.bool, device=batch.device)
        mask[present] = entries.mask[entries.item == 0]
        return Entries(values, every, torch.zeros_like(every), mask)


class Joined(Conversing):
    """Encoders, connectors and a language model, joined in one sequence.

    Args:
        field: the conversation.
        view: with the tokenizer, and the media fields in the order of their encoders.
        language: reads the sequence.
        media: the encoders of the media fields.
        connectors: from each encoder to the language model.
        rule: who sees whom.
    """

    def __init__(
        self,
        field: Field,
        view: ConversationView,
        language: LanguageModel,
        media: FieldEncoders,
        connectors: Iterable[nn.Module],
        rule: LayerRule = causal,
    ) -> None:
        super().__init__(field, view, language, rule)
        self.media = (media,)  # a tuple, so that its weights are counted once
        self.connectors = nn.ModuleList(connectors)

    def read(self, batch: Batch) -> Tokens:
        """The joined sequence of each row, and beside it `word`: the ids of its text (0 for media)."""
        text, words = self.words(batch)
        return self.checked(splice(text, words, self._streams(batch)))

    def prompt(self, batch: Batch) -> Tokens:
        """What stands before the last answer of each row, which is not read."""
        text, words = self.words(batch)
        return self.checked(splice(self.asked(text), words, self._streams(batch)))

    def _streams(self, batch: Batch) -> list[Inserted]:
        """The vectors of each media field's entries, as the language model reads them."""
        streams = []
        said = batch.present(self.field.name)
        for (field, encoder), connector in zip(self.media[0].each(), self.connectors, strict=True):
            # what belongs to no conversation is not looked at
            entries = batch[field.name].keep(said) if field.name in batch else None
            if entries is None or not len(entries):
                none = batch.index[:0]
                vectors = next(self.language.parameters()).new_zeros(0, 0, self.language.width)
                streams.append(Inserted(field.modality, vectors, None, none, none))
                continue
            values, mask = connector(*encoder(entries.values, entries.mask))
            streams.append(Inserted(field.modality, values, mask, entries.row, entries.item))
        return streams
