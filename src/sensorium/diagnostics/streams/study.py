"""The streams of a trained assistant: what a diagnosis asks of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sensorium.data import Data, MediaCache, read_batches
from sensorium.data.sources import spread
from sensorium.diagnostics.streams.curves import describe_changes, describe_layers
from sensorium.diagnostics.streams.flow import Flow, FlowProbe, published_flows
from sensorium.diagnostics.streams.groups import groups_of, object_groups
from sensorium.diagnostics.streams.integration import Measure
from sensorium.diagnostics.streams.knockout import window_size
from sensorium.diagnostics.streams.lens import answers_by_depth
from sensorium.diagnostics.streams.passages import TOKENS, long_texts, passages
from sensorium.diagnostics.streams.states import SET, describe_rate
from sensorium.modalities.base import View, get_modality
from sensorium.modalities.chat import ANSWER
from sensorium.modalities.scalars import class_names
from sensorium.nn.connectors import Resampler
from sensorium.nn.joined import Conversing, Joined
from sensorium.nn.language import Generation
from sensorium.nn.language.base import Hooks
from sensorium.systems.assistants.epalm import PERCEPTION
from sensorium.systems.baselines.assistant import Assistant
from sensorium.tasks.intervals import bootstrap_mean
from sensorium.types import Batch, Tokens, UserError, draws


class NothingRight(UserError):
    """No row is answered rightly, so that there is nothing that could be lost."""


RIGHT = 200
"""Rows that are answered rightly, of which as many are taken at most."""

ASKED = 2000
SETS = 5
BATCH = 32


def study_streams(
    system: Assistant,
    data: Data,
    rows: Int[np.ndarray, " rows"],
    *,
    boxes: str = "",
    cache: MediaCache | None = None,
) -> dict[str, Any]:
    """Both measurements, for `diagnosis.json`; `skipped` says why one could not be made."""
    found: dict[str, Any] = {"skipped": {}}
    for name, measured in (
        ("integration", partial(measure_integration, system, data, rows, cache=cache)),
        ("flow", partial(measure_flow, system, data, rows, boxes=boxes, cache=cache)),
    ):
        try:
            found[name] = measured()
        except UserError as error:
            found["skipped"][name] = str(error)
    return found


# ---------------------------------------------------------------------- integration rate


def measure_integration(
    system: Assistant,
    data: Data,
    rows: Int[np.ndarray, " rows"],
    *,
    texts: Sequence[str] = (),
    measure: Measure | None = None,
    cache: MediaCache | None = None,
) -> dict[str, Any]:
    """The modality integration rate over sets of a hundred rows, as `describe_rate` has it.

    Args:
        system: trained, in evaluation mode.
        data: with pictures (or else the first of its media).
        rows: of which up to five sets are taken.
        texts: long ones that have nothing to do with the pictures; those of training rows, mixed, if
            there are none.
        measure: how states are compared; the published one if None.
        cache: of decoded media.

    Raises:
        UserError: no row has a picture; there are no texts.
    """
    medium, modality = stream_of(system)
    language = system.model.language
    num_tokens = min(TOKENS, language.max_tokens // 2)
    chosen = spread(rows, SETS * SET)
    written = long_texts(data, len(chosen), num_tokens, texts)

    def read() -> Iterator[tuple[Tokens, Hooks | None]]:
        number = 0
        for batch in _batches(system, data, chosen, {}, cache):
            batch = batch.take(batch.present(medium).nonzero().squeeze(1))
            if batch.size:
                beside = written[number : number + batch.size]
                number += batch.size
                asked = passages(system.model, batch, medium, beside, num_tokens)
                with torch.inference_mode():
                    tokens = system.model.checked(system.prompt(asked))
                    hooks = system.hooks(asked)
                yield tokens, hooks

    return describe_rate(
        language, read(), rule=system.model.rule, modality=modality, measure=measure
    )


def stream_of(system: Assistant) -> tuple[str, str]:
    """The field of pictures, or else of the first medium, and the modality that its tokens have.

    Raises:
        UserError: the system reads none.
    """
    fields = sorted(system.media.fields, key=lambda field: field.modality != "image")
    if not fields:
        raise UserError("the system reads text alone, so that there are no streams to be compared")
    joined = isinstance(system.model, Joined)
    return fields[0].name, fields[0].modality if joined else PERCEPTION


# ---------------------------------------------------------------------- information flow


def measure_flow(
    system: Assistant,
    data: Data,
    rows: Int[np.ndarray, " rows"],
    *,
    size: int | None = None,
    boxes: str = "",
    most: int = RIGHT,
    cache: MediaCache | None = None,
) -> dict[str, Any]:
    """What the answer loses when ways between groups of tokens are cut, and where it appears.

    Only rows count of which the whole answer, in small letters and without blanks at its ends, is what the
    data say. They differ from model to model: to compare some, give each the rows that all have right
    (`row_numbers` of what is found).

    Args:
        system: trained, in evaluation mode.
        data: with answers.
        rows: in which rows that are answered rightly are looked for.
        size: layers of a window; see `window_size` if None.
        boxes: the field of boxes around what is asked about. Without it, or where the tokens are not
            those of patches, ways from there are left out.
        most: rows that are answered rightly, after which the search ends.
        cache: of decoded media.

    Raises:
        NothingRight: no row is answered rightly.
    """
    medium, modality = stream_of(system)
    num_layers = system.model.language.num_layers
    size = size or window_size(num_layers)
    boxes = boxes if has_patches(system, medium) else ""
    flows = [f for f in published_flows(modality) if boxes or f.source not in _OF_OBJECTS]
    found = Found()
    extra = {boxes: get_modality(data.schema[boxes].modality).View()} if boxes else {}
    asked = spread(rows, ASKED)
    asked = asked[draws.permutation(len(asked), "asked")]
    for batch in _batches(system, data, asked, extra, cache):
        right = _right_rows(system, batch)
        found.num_asked += batch.size
        batch = batch.take(right[: most - found.num_right])
        if batch.size:
            with torch.inference_mode():
                _ask(system, batch, flows, size, modality, boxes, found)
        if found.num_right >= most:
            break
    if not found.num_right:
        raise NothingRight(
            f"{data.name}: none of {found.num_asked:,} rows is answered rightly, and information flow "
            "is measured on those that are; train it longer, or give rows with answers"
        )
    return found.described(flows, size, num_layers, data)


def has_patches(system: Assistant, medium: str) -> bool:
    """Whether the tokens of a medium are those of its patches, and not few that gathered them."""
    if not isinstance(system.model, Joined):
        return False
    place = [field.name for field in system.media.fields].index(medium)
    return not isinstance(system.model.connectors[place], Resampler)


_OF_OBJECTS = ("object", "background")


class Found:
    """What was found so far, row by row.

    Attributes:
        num_asked: rows, right ones or not.
        rows: the numbers of the right ones, batch by batch.
        first: the first token of each right answer, and the answer.
        parts: values of these rows, by what they are and of which way or word.
    """

    def __init__(self) -> None:
        self.num_asked = 0
        self.rows: list[np.ndarray] = []
        self.first: list[tuple[int, str]] = []
        self.parts: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)

    @property
    def num_right(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows))

    def add(self, kind: str, name: object, values: np.ndarray) -> None:
        """Values of the rows of a batch."""
        self.parts[kind, str(name)].append(values)

    def warnings(self) -> list[str]:
        """Answers that begin alike, so that the token that is watched does not tell them apart."""
        begun: dict[int, set[str]] = defaultdict(set)
        for token, answer in self.first:
            begun[token].add(answer)
        alike = sum(len(begun[token]) > 1 for token, _ in self.first)
        if not alike:
            return []
        return [
            f"{alike:,} of {len(self.first):,} answers begin with a token that other answers begin with "
            "as well, so that its probability says little of which is given; a tokenizer of more ids "
            "may have a token for each"
        ]

    def described(
        self, flows: Iterable[Flow], size: int, num_layers: int, data: Data
    ) -> dict[str, Any]:
        """Means with intervals, for `diagnosis.json`."""
        groups = data.groups(np.concatenate(self.rows))
        parts = {key: np.concatenate(values) for key, values in self.parts.items()}

        def changes(kind: str, flow: Flow) -> dict[str, Any] | None:
            found = parts.get((kind, str(flow)))
            return None if found is None else describe_changes(found, groups)

        return {
            "asked": self.num_asked,
            "rows": self.num_right,
            "row_numbers": np.concatenate(self.rows).tolist(),
            "layers": num_layers,
            "window": size,
            "warnings": self.warnings(),
            "probability": bootstrap_mean(parts["probability", ""], groups).as_dict(),
            "flows": [
                {
                    "source": flow.source,
                    "target": flow.target,
                    "edges": float(parts["edges", str(flow)].mean()),
                    "cut": changes("cut", flow),
                    "random": changes("random", flow),
                    "single": changes("single", flow),
                    "attention": describe_layers(parts["attention", str(flow)], groups),
                }
                for flow in flows
            ],
            "lens": {
                kind: {
                    name: describe_layers(values, groups)
                    for (of, name), values in parts.items()
                    if of == kind
                }
                for kind in ("plain", "normed")
            },
        }


def _ask(
    system: Assistant,
    batch: Batch,
    flows: Sequence[Flow],
    size: int,
    modality: str,
    boxes: str,
    found: Found,
) -> None:
    """Cut all ways in all windows, for rows that are answered rightly."""
    language, rule, hooks = system.model.language, system.model.rule, system.hooks(batch)
    prompt = system.model.checked(system.prompt(batch))
    groups = groups_of(prompt, modality)
    if boxes:
        none = torch.zeros_like(prompt.mask)
        groups |= dict.fromkeys(_OF_OBJECTS, none)
        if boxes in batch:
            groups |= object_groups(prompt, batch[boxes], modality)
    probe = FlowProbe(language, prompt, groups, rule, hooks)
    found.rows.append(batch.index.cpu().numpy())
    found.add("probability", "", probe.probability.cpu().numpy())
    for flow, share in probe.attention(flows).items():
        found.add("attention", flow, share)
        found.add("edges", flow, probe.edges(flow).sum((1, 2)).cpu().numpy())
        found.add("cut", flow, probe.changes(flow, size))
        found.add("random", flow, probe.changes_of_random(flow, size, batch.index))
        if size > 1:
            found.add("single", flow, probe.changes(flow, 1))
    answers = _answers(system.model, batch)
    found.first += zip(probe.answer.tolist(), map(str.lower, answers), strict=True)
    words = _words_to_watch(system, answers, probe)
    for kind, normed in (("plain", False), ("normed", True)):
        by_depth = answers_by_depth(
            language,
            prompt,
            torch.stack(list(words.values()), 1),
            rule=rule,
            hooks=hooks,
            normed=normed,
        )
        for name, values in zip(words, by_depth.unbind(2), strict=True):
            found.add(kind, name, values.cpu().numpy())


def _right_rows(system: Assistant, batch: Batch) -> Int[Tensor, " right"]:
    """The places of the rows whose whole answer is what the data say."""
    model = system.model
    if model.field.name not in batch:
        return batch.index[:0]
    expected = _answers(model, batch)
    # one word more than the longest, so that an answer that goes on is not taken for a shorter one
    longest = model.candidate_ids(expected)[0].shape[1]
    with torch.inference_mode():
        given = system.generate(batch, Generation(max_tokens=longest + 1))
    is_right = [
        bool(wanted) and said.strip().lower() == wanted.strip().lower()
        for said, wanted in zip(given, expected, strict=True)
    ]
    return torch.tensor(is_right, device=batch.index.device).nonzero().squeeze(1)


def _answers(model: Conversing, batch: Batch) -> list[str]:
    """The last answer of each row; nothing in rows that have none."""
    tokens, words = model.words(batch)
    turn = tokens.id("turn").masked_fill(~tokens.mask, -1)
    said = tokens.mask & (tokens.id("part") == ANSWER) & (turn == turn.amax(1, keepdim=True))
    return [
        model.tokenizer.decode(row[of_answer]).strip()
        for row, of_answer in zip(words, said, strict=True)
    ]


def _words_to_watch(
    system: Assistant, answers: Sequence[str], probe: FlowProbe
) -> dict[str, Int[Tensor, "batch"]]:
    """First tokens: of the answer in small letters and with a capital, and of another answer.

    The other answer is that of the wrong classes to which the model gives most, if there are classes.
    """
    model = system.model
    device = probe.answer.device
    words = {
        "small letters": model.candidate_ids([text.lower() for text in answers])[0][:, 0],
        "capital": model.candidate_ids([text.capitalize() for text in answers])[0][:, 0],
    }
    words = {name: ids.to(device) for name, ids in words.items()}
    fields = system.schema.find(role=("answer", "label"), modality="category")
    if fields and len(classes := class_names(fields[0])) > 1:
        first = model.candidate_ids(classes)[0][:, 0].to(device)
        right = torch.stack([probe.answer, *words.values()], 1)
        is_right = (first[None, :, None] == right[:, None, :]).any(2)
        chances = probe.scores[:, first].masked_fill(is_right, -torch.inf)
        words["another answer"] = first[chances.argmax(1)]
    return words


def _batches(
    system: Assistant,
    data: Data,
    rows: Int[np.ndarray, " rows"],
    extra: dict[str, View],
    cache: MediaCache | None,
) -> Iterator[Batch]:
    """The rows as the system reads them, with what a diagnosis reads beside."""
    device = next(system.parameters()).device
    views = {**system.views(), **extra}
    for batch in read_batches(data, rows, views, batch_size=BATCH, cache=cache):
        if batch.size:
            yield batch.to(device)
