"""What a trained assistant writes: about rows, or in a conversation of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sensorium.data import Data
from sensorium.data.decoding import collate, decode_rows
from sensorium.modalities.turns import Turn
from sensorium.nn.language import Eviction, Generation
from sensorium.systems.baselines.assistant import Assistant
from sensorium.tasks.base import Reader
from sensorium.training.run import Run
from sensorium.types import Batch, Field, UserError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 32


def generate_rows(run: Run, data: str | Path | Data, settings: Generation) -> pa.Table:
    """What it answers in each row: a table with `key` and `text`.

    Raises:
        UserError: the run's system is no assistant.
    """
    import pyarrow as pa

    system = assistant_of(run)
    rows = run.rows_of(data)
    reader = Reader(system, rows, ROWS_AT_ONCE, None)
    keys: list[str] = []
    texts: list[str] = []
    for batch in reader.batches(rows.rows("all")):
        keys += [str(key) for key in batch.keys]
        with reader.asking():
            texts += system.generate(batch, settings)
    return pa.table({"key": pa.array(keys, pa.string()), "text": pa.array(texts, pa.string())})


def answer(
    run: Run,
    turns: Sequence[Turn],
    media: Mapping[str, Sequence[Any]],
    settings: Generation,
    eviction: Eviction | None = None,
) -> Iterator[str]:
    """The next answer of a conversation so far, after each word.

    Args:
        run: of an assistant.
        turns: what was said, the last by the user. `<name>` stands for an entry of a medium.
        media: by field, what the placeholders stand for: paths, bytes, arrays or pictures.
        settings: how words are chosen.
        eviction: which part of the prompt is kept while answering; all if None.

    Raises:
        UserError: the system is no assistant, a medium cannot be read, or is none that it knows.
    """
    system = assistant_of(run)
    batch, wrong = read_conversations(system, [(turns, media)])
    if wrong:
        raise wrong[0]
    with torch.inference_mode():
        for texts in system.stream(batch, settings, eviction):
            yield texts[0]


def assistant_of(run: Run) -> Assistant:
    """The system, if it is one that writes."""
    if not isinstance(run.system, Assistant):
        raise UserError(
            f"{run.folder.path} is a run of '{run.info['system']}', which writes no text; expected an "
            "assistant such as llava"
        )
    return run.system


def media_field(system: Assistant, modality: str) -> Field:
    """The field of a modality that an assistant reads.

    Raises:
        UserError: there is none, or there are several.
    """
    found = [field for field in system.media.fields if field.modality == modality]
    if len(found) != 1:
        known = ", ".join(f"{f.name} ({f.modality})" for f in system.media.fields) or "none"
        raise UserError(
            f"the run reads {len(found) or 'no'} fields of modality {modality}, where one is "
            f"expected. Its media: {known}"
        )
    return found[0]


def read_conversations(
    system: Assistant, asked: Sequence[tuple[Sequence[Turn], Mapping[str, Sequence[Any]]]]
) -> tuple[Batch, dict[int, UserError]]:
    """Conversations that are to be answered, side by side, and by place what is wrong with others.

    Each is the first row of its own, so that what is drawn for its answer depends on no other.

    Args:
        system: that will answer.
        asked: of each, turns and media as in `answer`.
    """
    # what is said here is said in turns, whatever columns the rows of the training had
    said = system.model.field.replace(columns={}, options={}, column=None)
    schema = system.schema.replace(said)
    views = {said.name: system.model.view, **system.media.views()}
    raws: dict[str, list[Any]] = {
        name: [list(media.get(name, ())) for _, media in asked] for name in views
    }
    raws[said.name] = [list(turns) for turns, _ in asked]
    samples, faults = decode_rows(
        np.zeros(len(asked), dtype=np.int64),
        [str(place) for place in range(len(asked))],
        raws,
        schema=schema,
        views=views,
        cache=None,
        augment=None,
    )
    wrong = {
        int(fault.key): UserError(f"{fault.field}: {fault.reason}" if fault.field else fault.reason)
        for fault in faults
    }
    batch = collate(samples, schema, views, 0, ()).to(next(system.parameters()).device)
    return batch, wrong
