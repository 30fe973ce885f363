"""What a modality costs where it is absent: time of a step, rows encoded, memory; and batches without loops.

- A training step of a system to which one more modality is registered, on rows that lack it, against a
  system that never had it; and how many rows the encoders read where a part of the rows has it.
- Memory of a LanguageBind step in which each modality that is present adds its loss, with six modalities
  registered beside pictures and text, against a system that has only those which are present.
- Clouds and series: collated and encoded in batches, against one row at a time; what collating takes of
  it; and how many more calls Python makes where a batch has a row more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from harness import Figure, Result, Settings, Target, own_process, take_turns, timed_with_memory
from sensorium.modalities.base import get_modality
from sensorium.modalities.points import PointSet
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import Encoder, FieldEncoders, build_encoder
from sensorium.systems.adaptation.multimodn import MultiModN
from sensorium.systems.alignment.languagebind import LanguageBind
from sensorium.systems.base import System
from sensorium.systems.baselines.late_fusion import LateFusion
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.training.trainer import objective
from sensorium.types import Batch, Entries, Field, Schema, Stage

ROWS = 64
STEPS = 4  # in each turn
SIZE = 64  # pixels of the side of pictures, maps and frames
FRAMES, RATE = 8, 16_000  # of a clip; samples of a second of sound
PRESENT = (1, 3, 6)
BOUND_ROWS = 64
FEW, MANY, BATCH = 16, 256, 64  # rows

CHANNELS = {f"channel {number}": {"mean": 0.0, "std": 1.0} for number in range(4)}
MAP_RANGE = {"fitted": {"range": [[0.0, 1.0]]}}
TEXT = Field(name="text", modality="text")
PICTURE = Field(name="picture", modality="image")
SOUND = Field(name="sound", modality="audio")
POINTS = Field(name="points", modality="points")
SERIES = Field(name="series", modality="series", fitted={"channels": CHANNELS, "step": 1.0})
LABEL = Field(name="label", modality="category", role="label", fitted={"classes": ["a", "b"]})
BOUND = (
    Field(name="depth", modality="maps", **MAP_RANGE),
    SOUND,
    POINTS,
    Field(name="infrared", modality="maps", **MAP_RANGE),
    SERIES,
    Field(name="clip", modality="video"),
)
TOKENIZER = Tokenizer.train(["some words of a text"], 300)


def measure(settings: Settings) -> Result:
    """Steps, rows, memory, batches."""
    torch.set_num_threads(settings.threads)
    figures = []
    for system_class in (LateFusion, MultiModN):
        figures += absent_fields(system_class, settings)
    peaks, memory = absent_towers(settings)
    figures += memory
    for field in (POINTS, SERIES):
        figures += batches(field, settings)
    of_six = ", ".join(f"{number}: {peak:,.0f}" for number, peak in peaks.items())
    return Result(
        figures,
        [
            f"Steps are of {ROWS} rows with a picture, a text and a sound; what they lack are clouds of "
            f"points. Those of LanguageBind are of {BOUND_ROWS} rows, and every modality that is present "
            "adds its loss, where the recipe trains one at a time. MiB by modalities present, six "
            f"registered: {of_six}. Calls are those of functions, in Python or in C: for a further row "
            "its length is asked for, and a cloud is copied to its place, which takes a twentieth of the "
            "time of one assignment of all clouds by their mask."
        ],
    )


# ------------------------------------------------------------------ one more modality


def absent_fields(system_class: type[System], settings: Settings) -> list[Figure]:
    """A step on rows that lack a modality, and the rows that encoders read where some have it."""
    name = system_class.name
    fields = (PICTURE, TEXT, SOUND)
    without, having = (
        Stepper(system_class, Schema(fields=(*known, LABEL)))
        for known in (fields, (*fields, POINTS))
    )
    batch = rows_of((*fields, LABEL), ROWS)
    sides = {
        "ours": partial(repeat, partial(having, batch)),
        "peer": partial(repeat, partial(without, batch)),
    }
    seconds = take_turns(sides, settings.repeats)
    mixed = rows_of((*fields, POINTS, LABEL), ROWS)
    some = torch.arange(ROWS) % 4 == 0
    mixed = mixed.with_fields(points=mixed["points"].keep(some))
    there = [sum(len(mixed[field.name]) for field in (*fields, POINTS))]
    step = f"{name}: step on rows without a modality that is registered"
    return [
        Figure(
            step,
            "s",
            [each / STEPS for each in seconds["ours"]],
            "not registered",
            [each / STEPS for each in seconds["peer"]],
            Target("at most", 1.03),
        ),
        Figure(
            f"{name}: entries that encoders read, where a quarter of the rows has points",
            "entries",
            [read_by(having, mixed)],
            "entries that are there",
            there,
            Target("at most", 1.0),
        ),
    ]


class Stepper:
    """A training step, as the trainer does it."""

    def __init__(self, system_class: type[System], schema: Schema) -> None:
        torch.manual_seed(0)
        config = system_class.Config.nano().override(
            {"modality_dropout": 0.0} if system_class is LateFusion else {}
        )
        self.system = system_class(config, schema, TOKENIZER).train()
        (stage,) = self.system.stages()
        self.optimizer = build_optimizer(select_trained(self.system, stage), stage)

    def __call__(self, batch: Batch) -> None:
        """Losses, gradients, an update."""
        losses = self.system(batch)
        objective(losses, {name: loss.count for name, loss in losses.items()}, 1).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def repeat(step: Callable[[], None]) -> None:
    """Several steps."""
    for _ in range(STEPS):
        step()


def read_by(step: Stepper, batch: Batch) -> float:
    """How many entries the encoders of a system read in a step."""
    read: list[int] = []

    def counted(embed: Callable[..., Tensor], values: Tensor, *rest: Any) -> Tensor:
        read.append(len(values))
        return embed(values, *rest)

    encoders = [encoder for _, encoder in cast(FieldEncoders, step.system.encoders).each()]
    for encoder in encoders:
        encoder.embed = partial(counted, encoder.embed)
    step(batch)
    for encoder in encoders:
        del encoder.embed
    return float(sum(read))


# ------------------------------------------------------------------ six modalities


def absent_towers(settings: Settings) -> tuple[dict[int, float], list[Figure]]:
    """Peaks of steps by what is present, and over those of systems that have nothing else."""
    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(settings.repeats):
        for present in PRESENT:
            for registered in dict.fromkeys((len(BOUND), present)):
                with own_process() as process:
                    peak = process.submit(bound_step, registered, present, settings.threads)
                    found.setdefault((registered, present), []).append(peak.result())
    peaks = {present: float(np.median(found[len(BOUND), present])) for present in PRESENT}
    figures = [
        Figure(
            f"languagebind: memory of a step, {present} of {len(BOUND)} registered modalities present",
            "MiB",
            found[len(BOUND), present],
            f"{present} registered",
            found[present, present],
            Target("at most", 1.1),
        )
        for present in PRESENT
        if present < len(BOUND)
    ]
    growth = [
        most / least
        for most, least in zip(
            found[len(BOUND), PRESENT[-1]], found[len(BOUND), PRESENT[0]], strict=True
        )
    ]
    figures.append(Figure(f"the same, all present over {PRESENT[0]} present", "x", growth))
    return peaks, figures


def bound_step(registered: int, present: int, threads: int) -> float:
    """MiB by which a step grows a process with so many modalities, some of them present."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    schema = Schema(fields=(PICTURE, TEXT, *BOUND[:registered]))
    system = LanguageBind(LanguageBind.Config.nano(), schema, TOKENIZER).train()
    stages = [stage for stage in system.stages() if stage.name in schema.names][1:][:present]
    trained: dict[str, Any] = {}
    for stage in stages:
        trained |= select_trained(system, stage)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = build_optimizer(trained, Stage())
    batch = rows_of((PICTURE, TEXT, *BOUND[:present]), BOUND_ROWS)

    def step() -> None:
        total: Tensor | float = 0.0
        for stage in stages:
            system.stage = stage.name
            losses = system(batch)
            counts = {name: loss.count for name, loss in losses.items()}
            total = total + objective(losses, counts, 1)
        assert isinstance(total, Tensor)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # what is made once, such as moments, is no part of it
    return timed_with_memory(step)[1]


# ------------------------------------------------------------------ batches


def batches(field: Field, settings: Settings) -> list[Figure]:
    """Rows at once against one at a time, and the calls of few and of many."""
    torch.manual_seed(0)
    encoder = build_encoder(field, width=128).eval()
    values = decoded(field, MANY)
    batches_of = [values[start : start + BATCH] for start in range(0, MANY, BATCH)]
    one_by_one = [[value] for value in values]
    sides = {
        "ours": partial(encode, encoder, field, batches_of),
        "peer": partial(encode, encoder, field, one_by_one),
        "collate": partial(collate, encoder, field, batches_of),
    }
    seconds = take_turns(sides, settings.repeats)
    many, few = (calls(partial(encode, encoder, field, [values[:n]])) for n in (MANY, FEW))
    return [
        Figure(
            f"{field.modality}: {MANY} rows collated and encoded in batches of {BATCH}",
            "s",
            seconds["ours"],
            "one row at a time",
            seconds["peer"],
            Target("at most", 1.0),
        ),
        Figure(
            f"{field.modality}: collating them",
            "s",
            seconds["collate"],
            "collating and encoding",
            seconds["ours"],
            Target("at most", 0.05),
        ),
        Figure(
            f"{field.modality}: calls that Python makes for each further row of a batch",
            "calls",
            [(many - few) / (MANY - FEW)],
        ),
    ]


def collate(encoder: Encoder, field: Field, groups: Sequence[Sequence[Any]]) -> None:
    """Batches of rows, up to what an encoder is given."""
    for values in groups:
        get_modality(field.modality).collate(values, field, encoder.view)


@torch.inference_mode()
def encode(encoder: Encoder, field: Field, groups: Sequence[Sequence[Any]]) -> None:
    """Batches of rows, from decoded values to vectors."""
    for values in groups:
        tensor, mask = get_modality(field.modality).collate(values, field, encoder.view)
        encoder.embed(tensor, mask, encoder.pooling)


def calls(step: Callable[[], None]) -> float:
    """How many functions are called, those of C that Python calls included."""
    count = 0

    def note(_frame: object, event: str, _what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    step()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return float(count)


def decoded(field: Field, count: int) -> list[Any]:
    """Clouds or series, of lengths that differ, as their modality gives them."""
    random = np.random.default_rng(0)
    if field.modality == "points":
        view = cast(Any, get_modality("points").View())
        lengths = random.integers(view.num_points // 2, view.num_points + 1, count)
        return [PointSet(random.normal(size=(n, 3)).astype(np.float32), 0) for n in lengths]
    found = []
    for length in random.integers(50, 101, count):
        numbers = random.normal(size=(length, len(CHANNELS)))
        columns = [np.arange(length)[:, None], numbers, np.ones_like(numbers)]
        found.append(np.concatenate(columns, axis=1).astype(np.float32))
    return found


# ------------------------------------------------------------------ rows


def rows_of(fields: Sequence[Field], count: int) -> Batch:
    """Random rows that have all of some fields, as the loader would give them."""
    torch.manual_seed(0)
    at = torch.arange(count)
    made = {}
    for field in fields:
        values, mask = collated(field, count)
        made[field.name] = Entries(values, at, torch.zeros_like(at), mask)
    return Batch(made, [str(row) for row in range(count)], at, seed=0)


def collated(field: Field, count: int) -> tuple[Tensor, Tensor | None]:
    """Entries of a field, in the form that its modality gives them to an encoder."""
    modality = field.modality
    if modality == "image":
        return random_bytes(count, SIZE, SIZE, 3), None
    if modality == "video":
        real = torch.ones(count, FRAMES, dtype=torch.bool)
        return random_bytes(count, FRAMES, SIZE, SIZE, 3), real
    if modality == "maps":
        return torch.rand(count, SIZE, SIZE, 2), None
    if modality == "audio":
        return torch.rand(count, RATE) - 0.5, torch.ones(count, RATE, dtype=torch.bool)
    if modality == "text":
        return TOKENIZER.encode(["some words of a text"] * count, 32)
    if modality == "category":
        return torch.arange(count) % 2, None
    return get_modality(modality).collate(
        decoded(field, count), field, get_modality(modality).View()
    )


def random_bytes(*shape: int) -> Tensor:
    """Pixels."""
    return torch.randint(0, 256, shape, dtype=torch.uint8)
