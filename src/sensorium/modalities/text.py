"""Text: strings in any language, and the tokenizer that turns them into numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

# Loader workers are the parallelism. With threads of its own the tokenizer would have to switch
# them off in forked workers, and says so on stderr each time.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import tokenizers
import torch
from jaxtyping import Bool, Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from sensorium.modalities.base import LANGUAGES, Predictable, View
from sensorium.modalities.media import checked, share_of_files
from sensorium.types import BadValue, Field, UserError

MAX_CHARACTERS = 100_000

_SPECIALS = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# What only published tokenizers may have beside these; chat templates speak of them.
_OTHERS = ("bos", "eos", "unk")
_BYTES = 256


class Tokenizer:
    """Words to numbers, in Rust, a batch at a time.

    It is immutable: safe in threads, equal to its copy after pickling or `save` and `load`.

    Args:
        backend: the tokenizer, with the post-processor that puts special tokens around a text.
        specials: the token that stands for `pad`, `cls`, `sep` and (or None) `mask`, and where there
            is one, for `bos`, `eos` and `unk`.
        literal: whether a special token written in a text is read as plain characters.
        chat_template: the Jinja template by which turns become one text; None if it has none.

    Attributes:
        size: the number of ids.
        pad_id: fills up shorter texts.
        cls_id: begins a text, or would if the tokenizer put one.
        sep_id: ends a text, or would.
        mask_id: stands for a hidden word; None if a published tokenizer has none.
        end_id: ends what a model writes: `eos`, or `sep` where there is none.
        special_ids: all ids that are no part of a text.
        special_tokens: how those among them that are tokens are written.
        chat_template: as given.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        specials: dict[str, str | None],
        literal: bool,
        chat_template: str | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._setup(backend.to_str(), specials, literal, chat_template)

    def _setup(
        self, text: str, specials: dict[str, str | None], literal: bool, chat_template: str | None
    ) -> None:
        self._text, self._specials, self._literal = text, specials, literal
        self.chat_template = chat_template
        self._backend = tokenizers.Tokenizer.from_str(text)
        self._limited: dict[int, tokenizers.Tokenizer] = {}
        ids = {}
        for name, token in specials.items():
            ids[name] = None if token is None else self._backend.token_to_id(token)
            if ids[name] is None and name in ("pad", "cls", "sep"):
                raise UserError(f"the tokenizer has no token '{token}' to use as {name}")
        self.pad_id, self.cls_id, self.sep_id = (int(ids[n] or 0) for n in ("pad", "cls", "sep"))
        self.mask_id: int | None = ids["mask"]
        end = ids.get("eos")
        self.end_id = self.sep_id if end is None else end
        # Ids may have gaps; an embedding table must reach the largest.
        self.size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        added = self._backend.get_added_tokens_decoder()
        marked = {number for number, token in added.items() if token.special}
        self.special_ids = tuple(sorted(marked | {i for i in ids.values() if i is not None}))
        self.special_tokens = tuple(added[number].content for number in sorted(marked))

    @property
    def named_tokens(self) -> dict[str, str]:
        """What chat templates call the special tokens: `eos_token` and the like."""
        named = {f"{name}_token": token for name, token in self._specials.items() if token}
        return {"eos_token": named["sep_token"], **named}

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Self:
        """Learn a BPE (Sennrich et al., 2016) over UTF-8 bytes, so that no character is unknown.

        Args:
            texts: the training texts, in any languages.
            size: the largest number of ids; a small corpus may give fewer.

        Raises:
            UserError: `size` is too small to hold every byte.
        """
        smallest = _BYTES + len(_SPECIALS)
        if size < smallest:
            raise UserError(f"a tokenizer of {size} ids cannot hold every byte: give {smallest}+")
        backend = tokenizers.Tokenizer(models.BPE())
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(_SPECIALS.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator((_clean(text) for text in texts), trainer)
        ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
                ),
            ]
        )
        return cls(backend, dict(_SPECIALS), literal=True)

    @classmethod
    def from_hub(cls, name_or_path: str | Path) -> Self:
        """A published tokenizer; it gives exactly the ids that `transformers` gives.

        Where it has no `cls` or `sep` token, `bos` and `eos` stand for them; for `pad`, `eos`.

        Raises:
            UserError: it cannot be found or loaded, or exists in Python only.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        try:
            found = AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"tokenizer '{name_or_path}' cannot be loaded: {reason}. Expected a name on "
                "the hub or a folder with tokenizer.json"
            ) from None
        if not isinstance(found, PreTrainedTokenizerFast):
            raise UserError(
                f"tokenizer '{name_or_path}' has no fast version (tokenizer.json); choose another"
            )
        end = found.eos_token or found.sep_token or found.pad_token
        specials = {
            "pad": found.pad_token or end,
            "cls": found.cls_token or found.bos_token or end,
            "sep": found.sep_token or end,
            "mask": found.mask_token,
        }
        named = found.special_tokens_map
        specials |= {n: named[f"{n}_token"] for n in _OTHERS if named.get(f"{n}_token")}
        backend = tokenizers.Tokenizer.from_str(found.backend_tokenizer.to_str())
        template = found.chat_template
        if isinstance(template, dict):  # several, for tools and the like
            template = template.get("default")
        return cls(backend, specials, bool(found.split_special_tokens), template)

    def save(self, folder: Path) -> None:
        """Write the tokenizer as JSON, in the layout that `transformers` reads too."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._text, encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{name}_token": token for name, token in self._specials.items()},
            "split_special_tokens": self._literal,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            specials = {name: config[f"{name}_token"] for name in _SPECIALS}
            specials |= {n: config[f"{n}_token"] for n in _OTHERS if f"{n}_token" in config}
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            literal, template = config["split_special_tokens"], config.get("chat_template")
            return cls(backend, specials, literal, template)
        except Exception as error:  # the Rust side raises bare Exceptions
            raise UserError(
                f"tokenizer in {folder} cannot be read: {type(error).__name__}: {error}. Expected "
                "tokenizer.json and tokenizer_config.json as `Tokenizer.save` writes them"
            ) from None

    def __getstate__(self) -> tuple[str, dict[str, str | None], bool, str | None]:
        return self._text, self._specials, self._literal, self.chat_template

    def __setstate__(self, state: tuple[str, dict[str, str | None], bool, str | None]) -> None:
        self._setup(*state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash(self._text)

    def encode(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[Int[Tensor, "texts length"], Bool[Tensor, "texts length"]]:
        """The ids of texts, padded to the longest of them, and which are no padding.

        Args:
            texts: strings.
            max_tokens: longer ones are cut to this many ids, special tokens included; those at the
                end stay.
        """
        return _padded(self._with_limit(max_tokens).encode_batch_fast(list(texts)))

    def encode_with_offsets(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[
        Int[Tensor, "texts length"], Bool[Tensor, "texts length"], Int[Tensor, "texts length 2"]
    ]:
        """As `encode`, and the characters [start, end) each id stands for; (0, 0) if for none."""
        encodings = self._with_limit(max_tokens).encode_batch(list(texts))
        ids, mask = _padded(encodings)
        offsets = np.asarray([encoding.offsets for encoding in encodings], dtype=np.int64)
        return ids, mask, torch.from_numpy(offsets.reshape(*ids.shape, 2))

    def encode_pieces(
        self, pieces: Sequence[str]
    ) -> list[tuple[Int[np.ndarray, "length"], Int[np.ndarray, "length 2"]]]:
        """The ids of pieces of one text, and the characters [start, end) each id stands for.

        Nothing is put around a piece, or cut from it; special tokens written in it are read as such.
        """
        return [
            (np.array(e.ids, dtype=np.int64), np.array(e.offsets, dtype=np.int64).reshape(-1, 2))
            for e in self._backend.encode_batch(list(pieces), add_special_tokens=False)
        ]

    def decode(self, ids: Sequence[int] | Int[Tensor, "length"]) -> str:
        """The text of ids, special ones left out."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return str(self._backend.decode(numbers, skip_special_tokens=True))

    def _with_limit(self, max_tokens: int) -> tokenizers.Tokenizer:
        # The limit is a state of the backend, so each gets a backend of its own: changing one that
        # another thread is using would cut that thread's texts.
        if max_tokens not in self._limited:
            backend = tokenizers.Tokenizer.from_str(self._text)
            around = backend.num_special_tokens_to_add(False)
            if max_tokens <= around:
                raise UserError(
                    f"max_tokens is {max_tokens}, but {around} of them are special: give more"
                )
            backend.encode_special_tokens = self._literal
            backend.enable_truncation(max_tokens)
            token = self._specials["pad"] or ""
            backend.enable_padding(pad_id=self.pad_id, pad_token=token)
            self._limited[max_tokens] = backend
        return self._limited[max_tokens]


def _padded(encodings: Sequence[tokenizers.Encoding]) -> tuple[Tensor, Tensor]:
    if not encodings:
        return torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.bool)
    ids = np.asarray([encoding.ids for encoding in encodings], dtype=np.int64)
    mask = np.asarray([encoding.attention_mask for encoding in encodings], dtype=bool)
    return torch.from_numpy(ids), torch.from_numpy(mask)


class TextView(View):
    """What a system wants from a text.

    Attributes:
        tokenizer: of the system.
        max_tokens: texts are cut to this many ids.
    """

    tokenizer: Tokenizer | None = None
    max_tokens: int = 64


class Text(Predictable):
    """Strings, UTF-8 bytes, or files of type .txt and .md.

    What follows the first 100,000 characters of a text is dropped. NUL characters and halves of
    surrogate pairs, which no tokenizer takes, are replaced one for one, so that character offsets
    stay.

    Option `language` (`en`, `de`, `id` or `zh`) says in which language a flip of the picture looks
    for words like "left"; without it, in all of them.
    """

    name = "text"
    suffixes = (".txt", ".md")
    View = TextView
    written = True
    options = MappingProxyType({"path": bool, "language": LANGUAGES})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Strings, the likelier the longer and the more distinct they are."""
        cells = [value for cell in values for value in self.entries(cell, _ANY)]
        texts = [value for value in cells if isinstance(value, str)]
        if not texts or len(texts) < len(cells):
            return 0.9 * float(share_of_files(values, self.suffixes) == 1)
        words = sum(len(text.split()) > 1 or len(text) > 20 for text in texts) / len(texts)
        distinct = len(set(texts)) / len(texts)
        return 0.2 + 0.3 * words + 0.4 * distinct

    def decode(self, raw: Any, field: Field, view: TextView) -> str:
        """A string that every tokenizer takes."""
        if isinstance(raw, str):
            return _clean(raw)
        if isinstance(raw, (bytes, bytearray)):
            try:
                return _clean(bytes(raw).decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise BadValue(
                    f"field '{field.name}': bytes that are not UTF-8 ({error})", "is not UTF-8"
                ) from None
        if isinstance(raw, Path):
            return _clean(_read(raw, field))
        if isinstance(raw, (bool, int, float, np.generic)):
            return str(raw)
        raise BadValue(f"field '{field.name}': expected a text, found {type(raw).__name__}")

    def collate(
        self, values: Sequence[str], field: Field, view: TextView
    ) -> tuple[Int[Tensor, "entries length"], Bool[Tensor, "entries length"]]:
        """Ids, and which are no padding."""
        if view.tokenizer is None:
            raise ValueError(f"the view of text field '{field.name}' has no tokenizer")
        return view.tokenizer.encode(values, view.max_tokens)

    def uncollate(self, value: Int[Tensor, "length"], field: Field, view: TextView) -> str:
        """What the ids say."""
        if view.tokenizer is None:
            raise ValueError(f"the view of text field '{field.name}' has no tokenizer")
        return view.tokenizer.decode(value)

    def show(self, value: Any, field: Field) -> str:
        """The text itself."""
        return self.decode(value, field, TextView())


_ANY = Field(name="any", modality="text")


def _clean(text: str) -> str:
    text = text[:MAX_CHARACTERS]
    if text.isascii():
        return text.replace("\0", " ")
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def _read(path: Path, field: Field) -> str:
    checked(path, field, "a text")
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(MAX_CHARACTERS)
    except UnicodeDecodeError as error:
        raise BadValue(
            f"field '{field.name}': {path} is not UTF-8 text ({error})", "is not UTF-8"
        ) from None
    except OSError as error:
        raise BadValue(
            f"field '{field.name}': {path} cannot be read: {error.strerror}", "cannot be read"
        ) from None
