"""A small collection as files, and what an index holds of it."""

import json

import numpy as np
import PIL.Image

from sensorium.search.index import Index

KINDS = ["cat", "dog", 'it\'s "quoted"', "größe 猫"]
CAPTIONS = [f"{'dark' if n % 2 else 'light'} thing nr{n} about {KINDS[n % 4]}" for n in range(30)]
BROKEN = 7
WITHOUT_PICTURE, WITHOUT_CAPTION, WITHOUT_PRICE = (3, 4), (5,), (6, 8)


def row(number):
    """A row as a line of JSON, without what is missing from it."""
    content = {
        "id": f"thing-{number}",
        "image": None if number in WITHOUT_PICTURE else f"{number}.png",
        "caption": None if number in WITHOUT_CAPTION else CAPTIONS[number],
        "price": None if number in WITHOUT_PRICE else number + 0.5,
        "kind": KINDS[number % 4],
        "sold": number % 3 == 0,
    }
    return content


def write_rows(folder, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


def make_shop(folder, rows=None):
    folder.mkdir(parents=True)
    for number in range(len(CAPTIONS)):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 100, (20, 24, 3)) + (0 if number % 2 else 150)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (folder / f"{BROKEN}.png").write_bytes(b"\x89PNG broken")
    write_rows(folder, rows or [row(number) for number in range(len(CAPTIONS))])
    return folder


def held(path):
    """All that an index finds, by key; that each key is there once."""
    index = Index(path)
    storage = index._storage
    rows = storage._table.search().to_arrow().to_pylist()
    assert len({each["key"] for each in rows}) == len(rows)
    return {each.pop("key"): {k: v for k, v in each.items() if k != "id"} for each in rows}


def keys(hits):
    return [hit.key for hit in hits]
