"""Indexing: how much of it is the model, what is unchanged, and memory.

2,000 JPEGs of 256 pixels with captions are indexed by a dual encoder of the shape of ViT-B/32, and again.
Memory is that of processes of their own, which index 10,000 and 200,000 texts with a small model.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from harness import Figure, Result, Settings, Target, own_process, peak_memory
from sensorium.search.building import index_rows
from sensorium.search.model import Model
from sensorium.training.run import train

PICTURES, SIDE = 2000, 256
TEXTS = (10_000, 200_000)
VIT_B_32 = {"patch": 32, "tokenizer": "bpe:1000"}
SMALL = {"width": 64, "depth": 1, "embed_dim": 64}


def measure(settings: Settings) -> Result:
    """Shares, quotients, peaks; each once, for they take minutes."""
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        figures, notes = pictures(folder)
        peaks, more = memory(folder)
        return Result(figures + peaks, notes + more, ["lancedb", "faiss-cpu"])


def pictures(folder: Path) -> tuple[list[Figure], list[str]]:
    """The share of the model, and the time of a second indexing."""
    write_pictures(folder / "pictures")
    options = {"workers": 0, "batch_size": 4, "validation_rows": 4}
    train(
        "dual-encoder",
        folder / "pictures",
        out=folder / "large",
        task="retrieval",
        size="paper",
        settings=VIT_B_32,
        options=options,
        budget="1steps",
    )
    model = Model(folder / "large")
    assert model.run
    begin = time.perf_counter()
    done = index_rows(model, folder / "pictures", folder / "large.index")
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    again = index_rows(folder / "large", folder / "pictures", folder / "large.index")
    second = time.perf_counter() - begin
    assert done.embedded == PICTURES and again.unchanged == PICTURES
    share = done.seconds_in_model / first
    figures = [
        Figure(
            f"{PICTURES:,} rows, ViT-B/32: share of the time in the model's forward",
            "",
            [share],
            target=Target("at least", 0.85),
        ),
        Figure(
            f"{PICTURES:,} unchanged rows: time of the first indexing over that of the second",
            "s",
            [first],
            "the second",
            [second],
            Target("at least", 50.0),
        ),
    ]
    return figures, [
        "The weights were read before the first indexing; the second reads none, but digests them all."
    ]


def write_pictures(folder: Path) -> None:
    """Smooth noise, which compresses as photographs do, and a table of captions."""
    folder.mkdir()
    lines = []
    for number in range(PICTURES):
        coarse = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
        caption = f"a picture of thing number {number} beside {number % 7} others"
        line = {"file_name": f"{number}.jpg", "caption": caption, "price": number / 10}
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def memory(folder: Path) -> tuple[list[Figure], list[str]]:
    """Peaks of processes that index few rows and many."""
    options = {"workers": 0, "batch_size": 8, "validation_rows": 8}
    train("dual-encoder", "playground:scenes?train=64&validation=8&test=8", out=folder / "small",
          task="retrieval", settings=SMALL, options=options, budget="1steps")  # fmt: skip
    peaks = {}
    for number in TEXTS:
        for graph_from in (10**9, 100_000):
            with own_process() as process:
                asked = (folder, number, graph_from)
                peaks[number, graph_from] = process.submit(index_texts, *asked).result()
    few, many = TEXTS
    figures = [
        Figure(
            f"peak memory of indexing {many:,} rows, over that of {few:,}{what}",
            "MiB",
            [peaks[many, graph_from]],
            f"{few:,} rows",
            [peaks[few, graph_from]],
            target,
        )
        for what, graph_from, target in (
            ("", 10**9, Target("at most", 1.1)),
            (", of which the many have a graph", 100_000, None),
        )
    ]
    return figures, ["Peak resident memory of the whole process, with Python and PyTorch."]


def index_texts(folder: Path, number: int, graph_from: int) -> float:
    """MiB at its highest, of a process that indexes so many texts."""
    rows = folder / f"{number}.parquet"  # which is mapped into memory, not read into it
    places = range(number)
    captions = [f"thing {place} beside {place % 97}" for place in places]
    pq.write_table(pa.table({"caption": captions, "price": [p % 1000 for p in places]}), rows)
    into = folder / f"{number}-{graph_from}.index"
    index_rows(folder / "small", rows, into, graph_from=graph_from)
    return peak_memory()
