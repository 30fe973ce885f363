"""Rows that are seen with a part of another row."""

import numpy as np
import torch

from sensorium.data import open_data, read_batches
from sensorium.data.partners import of_partner, with_partners
from sensorium.modalities.base import default_views
from sensorium.types import Field, Schema


def columns(tmp_path, missing=()):
    path = tmp_path / "rows.csv"
    lines = [f"{i},{10 * i if i != 2 else ''},train" for i in range(6)]
    path.write_text("\n".join(["a,b,split", *lines]))
    fields = tuple(Field(name=name, modality="number") for name in "ab")
    schema = Schema(fields=fields, split="split")
    return open_data(path, schema=schema, missing=list(missing)).fit()


def read(data, rows, **changes):
    views = data.viewed(dict(default_views(data.schema.find(modality="number"))))
    views = {n: v for n, v in views.items() if n in ("a", "b") or n in data.shared}
    (batch,) = read_batches(data, np.asarray(rows), views, batch_size=len(rows))
    return batch


def values(batch, name):
    found = [None] * batch.size
    if name in batch:
        entries = batch[name]
        for row, value in zip(entries.row.tolist(), entries.values.flatten().tolist(), strict=True):
            found[row] = value
    return found


def test_a_row_has_fields_of_its_partner_beside_its_own(tmp_path):
    data = columns(tmp_path)
    partner = np.array([3, 0, 5, 2, -1, 4])
    both = with_partners(data, partner, ["b"])
    batch = read(both, [0, 1, 2, 3, 4, 5])
    fitted = data.schema["b"].fitted
    own = values(batch, "b")
    assert own[2] is None and own[3] is not None
    # row 3's partner has no b, and row 4 has no partner
    assert values(batch, of_partner("b")) == [own[3], own[0], own[5], None, None, own[4]]
    assert both.schema[of_partner("b")].fitted == fitted
    assert of_partner("b") not in data.schema


def test_rows_in_any_order_have_their_partners(tmp_path):
    data = with_partners(columns(tmp_path), np.array([3, 0, 5, 2, -1, 4]), ["a"])
    batch = read(data, [5, 0])
    whole = values(read(data, range(6)), "a")
    assert values(batch, of_partner("a")) == [whole[4], whole[3]]


def test_what_the_data_hide_is_hidden_in_partners_too(tmp_path):
    data = columns(tmp_path, missing=["b:1.0:by=a=3"])
    both = with_partners(data, np.full(6, 3), ["b"])
    assert values(read(both, range(6)), of_partner("b")) == [None] * 6
    both = with_partners(data, np.full(6, 1), ["b"])
    assert None not in values(read(both, range(6)), of_partner("b"))


def test_without_any_partner_the_fields_are_absent(tmp_path):
    data = with_partners(columns(tmp_path), np.full(6, -1), ["a", "b"])
    batch = read(data, range(6))
    assert of_partner("a") not in batch
    assert torch.equal(batch.present("a"), torch.ones(6, dtype=torch.bool))
