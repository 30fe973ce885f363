"""Tokenizing pictures once: a second time, and in training, codes are read and not made.

10,000 pictures of 64 pixels, as PNG files of a folder, by a tokenizer of the nano size. The first time
they are decoded and tokenized, and both are kept; the second time what was decoded is read and its codes
are found. In a training step, codes of a batch that are found are compared with codes that are made.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness import Figure, Result, Settings, Target, rates, take_turns, timed
from sensorium.data import MediaCache
from sensorium.systems.baselines.known_codes import FILE, KnownCodes, digests_of
from sensorium.training.run import Run, train
from sensorium.training.tokenizing import tokenize

PICTURES, SIDE, BATCH = 10_000, 64, 128
TARGET = 10.0


def measure(settings: Settings) -> Result:
    """Pictures a second, the first and the second time; and batches a second in training."""
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        write(pictures)
        run = train(
            "patch-tokenizer",
            pictures,
            out=Path(folder) / "run",
            task="reconstruction",
            budget="1steps",
            options={"workers": 0, "batch_size": 8, "validation_rows": 8},
        )
        first, second = [], []
        for repeat in range(settings.repeats):
            cache = MediaCache(Path(folder) / f"cache-{repeat}")
            (run.folder.path / FILE).unlink(missing_ok=True)
            first.append(timed(partial(tokenize, run, pictures, cache=cache)))
            second.append(timed(partial(tokenize, run, pictures, cache=cache)))
        found, made = in_training(run, settings)
    return Result(
        [
            Figure(
                f"{PICTURES:,} pictures of {SIDE} pixels, the second time",
                "pictures/s",
                rates(PICTURES, second),
                "the first time",
                rates(PICTURES, first),
                Target("at least", TARGET),
            ),
            Figure(
                f"codes of a batch of {BATCH} in training, found among {PICTURES:,}",
                "batches/s",
                rates(1, found),
                "made",
                rates(1, made),
                Target("at least", TARGET),
            ),
        ],
        [
            "Each first time begins with an empty cache of decoded pictures and no codes; each second time "
            "reads both from the disk."
        ],
    )


def write(folder: Path) -> None:
    """Pictures of random blocks, so that files are about as large as those of drawings."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        blocks = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = blocks.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")


def in_training(run: Run, settings: Settings) -> tuple[list[float], list[float]]:
    """Seconds in which codes of a batch are found, and in which they are made."""
    system = run.system
    values = torch.randint(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=torch.uint8)
    known = KnownCodes.none("0" * 64, system.patches.side**2)
    codes = torch.zeros(PICTURES, system.patches.side**2, dtype=torch.int32)
    known.add(digests_of(values), codes)
    batch = values[:BATCH]
    sides = {
        "ours": lambda: known.find(digests_of(batch)),
        "peer": torch.inference_mode()(lambda: system.encode(batch)),
    }
    seconds = take_turns(sides, settings.repeats)
    return seconds["ours"], seconds["peer"]
