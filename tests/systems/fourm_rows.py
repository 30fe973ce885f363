"""A small 4M, and rows that have all the fields that it may read."""

import torch

from sensorium.modalities.text import Tokenizer
from sensorium.systems.masked.fourm import MASKED, FourM
from sensorium.types import Batch, Entries, Field, Schema

TEXTS = ["a red ball left of a blue box", "two green cones", "nothing but a box"] * 4
TOKENIZER = Tokenizer.train(TEXTS, 300)
CODING = {"image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2, "class_width": 4}
SMALL = {"width": 24, "depth": 2, "heads": 3, "inputs": 12, "targets": 14, "max_tokens": 12}
SMALL |= {"coding": CODING, "max_boxes": 4, "box_bins": 8, "number_bins": 6}
CLASSES = 5
IS_CLASSES = {"kind": "classes", "classes": list(range(CLASSES))}
SCHEMA = Schema(
    fields=[
        Field(name="image", modality="image"),
        Field(name="depth", modality="maps", of="image", options={"range": [0, 1]}),
        Field(name="segments", modality="maps", of="image", options=IS_CLASSES),
        Field(name="caption", modality="text"),
        Field(name="boxes", modality="boxes", of="image"),
        Field(name="things", modality="category", of="boxes", fitted={"classes": ["a", "b", "c"]}),
        Field(name="place", modality="category", fitted={"classes": ["in", "out", "far"]}),
        Field(name="price", modality="number", fitted={"mean": 2.0, "std": 0.5}),
        Field(
            name="visit",
            modality="table",
            columns={"age": "number", "sex": "category", "day": "date"},
            fitted={
                "columns": {
                    "age": {"mean": 50.0, "std": 10.0},
                    "sex": {"classes": ["f", "m"]},
                    "day": {"mean": 100.0, "std": 20.0},
                }
            },
        ),
    ]
)
FIELDS = ("image", "depth", "segments", "caption", "boxes", "place", "price", "visit")
GRIDS = ("image", "depth", "segments")


def make(schema=SCHEMA, seed=0, **changes):
    torch.manual_seed(seed)
    coding = CODING | changes.pop("coding", {})
    system = FourM(FourM.Config(**{**SMALL, **changes, "coding": coding}), schema, TOKENIZER).eval()
    system.stage = MASKED
    return system


def rows(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(count)

    def entries(values, mask=None):
        return Entries(values, row, torch.zeros_like(row), mask)

    def whole(high, *shape):
        return torch.randint(0, high, (count, *shape), generator=generator)

    numbers = torch.rand(count, 16, 16, 1, generator=generator)
    texts = [TEXTS[int(k)] for k in whole(len(TEXTS))]
    number = 1 + whole(4)
    low = torch.rand(int(number.sum()), 2, generator=generator) * 0.5
    item = torch.cat([torch.arange(int(n)) for n in number])
    of = row.repeat_interleave(number)
    things = torch.randint(0, 4, (len(of),), generator=generator)
    fields = {
        "image": entries(whole(256, 16, 16, 3).to(torch.uint8)),
        "depth": entries(torch.cat([numbers, torch.ones_like(numbers)], -1)),
        "segments": entries(whole(CLASSES + 1, 16, 16)),
        "caption": entries(*TOKENIZER.encode(texts, 13)),
        "boxes": Entries(torch.cat([low, low + 0.4], 1), of, item),
        "things": Entries(things, of, item),
        "place": entries(whole(3)),
        "price": entries(torch.rand(count, generator=generator) + 1.5),
        "visit": entries(*visits(count, generator)),
    }
    return Batch(fields, [str(k) for k in range(count)], row, seed=seed)


def visits(count, generator):
    """Rows of a table, of which some cells are empty, none of the first column."""
    values = torch.randn(count, 3, generator=generator)
    values[:, 1] = torch.randint(0, 3, (count,), generator=generator)
    filled = torch.rand(count, 3, generator=generator) < 0.7
    filled[:, 0] = True
    return values * filled, filled


def texts_of(entries):
    return [TOKENIZER.decode(v[m]) for v, m in zip(entries.values, entries.mask, strict=True)]
