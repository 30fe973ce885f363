"""Serving: a text query end to end, and 64 clients at once, against a server that makes each call alone.

A nano dual encoder embeds the query, an index of drawn vectors is searched exactly, and ten rows with their
words come back, all over HTTP from a process of its own. Clients share the machine with the servers; they
send what was prepared before, on connections that stay open, each as soon as it has been answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from drawn import write_index
from harness import Figure, Result, Settings, Target, rates, take_turns
from sensorium.search.layout import Column, Layout, Maker, Searched
from sensorium.search.model import Model
from sensorium.training.run import train

ROWS = (1_000, 10_000, 100_000)
CLIENTS, QUERIES_EACH = 64, 10
IN_A_TURN = 50

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def measure(settings: Settings) -> Result:
    """Milliseconds, and queries a second."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        model = trained(folder / "nano")
        indexes = [write(folder / f"{rows}.index", model, rows) for rows in ROWS]
        figures, medians = [], {}
        for rows, index in zip(ROWS, indexes, strict=True):
            with server(index, settings) as port:
                medians[rows] = asyncio.run(one_client(port, settings.repeats))
        for rows in ROWS:
            target = Target("at most", 30.0) if rows == ROWS[-1] else None
            name = f"a text query among {rows:,} rows: median, of one client"
            figures.append(Figure(name, "ms", medians[rows], target=target))
        ours = stack.enter_context(server(indexes[-1], settings))
        alone = stack.enter_context(server(indexes[-1], settings, "--max-batch", "1"))
        failures: list[int] = []
        sides = {
            "ours": lambda: failures.append(asyncio.run(many_clients(ours))),
            "alone": lambda: failures.append(asyncio.run(many_clients(alone))),
        }
        seconds = take_turns(sides, settings.repeats)
        queries = CLIENTS * QUERIES_EACH
        figures += [
            Figure(
                f"{CLIENTS} clients at once, {ROWS[-1]:,} rows",
                "queries/s",
                rates(queries, seconds["ours"]),
                "each call alone",
                rates(queries, seconds["alone"]),
                Target("at least", 3.0),
            ),
            Figure(
                f"errors in {len(failures) * queries:,} queries of {CLIENTS} clients",
                "",
                [sum(failures)],
                target=Target("at most", 0),
            ),
        ]
        return Result(figures, [], ["fastapi", "uvicorn", "lancedb"])


def trained(folder: Path) -> Model:
    """A dual encoder of its nano size; what it has learned makes no difference."""
    data = "playground:scenes?pictures=200&train=256&validation=8&test=8"
    options = {"workers": 0, "batch_size": 8, "validation_rows": 8}
    train("dual-encoder", data, out=folder, task="retrieval", options=options, budget="1steps",
          device="cpu")  # fmt: skip
    return Model(folder, "cpu")


def write(path: Path, model: Model, rows: int) -> Path:
    """An index of drawn vectors that counts as the model's."""
    field, width = model.embedded["caption"]
    layout = Layout(
        maker=Maker(
            identity=model.identity,
            system=model.info["system"],
            path=str(model.folder.path),
        ),
        fields=(Searched(name=field.name, modality="text", width=width, stored="vector_0"),),
        columns=(Column(name="price", kind="number", stored="column_0"),),
        texts=("words",),
        graph_from=rows + 1,
    )
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    write_index(path, layout, values, np.arange(rows, dtype=np.float64))
    return path


@contextmanager
def server(index: Path, settings: Settings, *options: str) -> Iterator[int]:
    """`sensorium serve` in a process of its own; its port."""
    command = [sys.executable, "-m", "sensorium", "serve", str(index), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "NO_COLOR": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"http://127.0.0.1:(\d+)", told)
            assert found is not None, told
            yield int(found[1])
        finally:
            process.terminate()


def request(number: int) -> bytes:
    """A query that no other is like."""
    body = json.dumps({"input": f"a red thing number {number} above a dog", "limit": 10}).encode()
    head = (
        "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(connection: Connection, number: int) -> bool:
    """Whether ten rows came back."""
    reader, writer = connection
    writer.write(request(number))
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    return head.startswith(b"HTTP/1.1 200") and body.count(b'"place"') == 10


async def one_client(port: int, repeats: int) -> list[float]:
    """The median of each repeat, in milliseconds."""
    connection = await asyncio.open_connection("127.0.0.1", port)
    medians = []
    for repeat in range(repeats + 1):
        took = []
        for number in range(IN_A_TURN):
            begin = time.perf_counter()
            assert await ask(connection, repeat * IN_A_TURN + number)
            took.append(time.perf_counter() - begin)
        if repeat:
            medians.append(1000 * float(np.median(took)))
    connection[1].close()
    return medians


async def many_clients(port: int) -> int:
    """How many of all queries failed."""
    connections = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", port) for _ in range(CLIENTS))
    )

    async def client(place: int) -> int:
        asked = [await ask(connections[place], 1000 * place + n) for n in range(QUERIES_EACH)]
        return asked.count(False)

    failed = await asyncio.gather(*map(client, range(CLIENTS)))
    for _, writer in connections:
        writer.close()
    return sum(failed)
