"""Brings an index up to date with rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sensorium.data import Data
from sensorium.search.content import find_columns, find_picture
from sensorium.search.graph import GRAPH_FROM
from sensorium.search.layout import IndexFolder, Layout, Maker, Searched
from sensorium.search.model import Model
from sensorium.search.publishing import publish
from sensorium.search.storage import Storage
from sensorium.search.writing import Indexed, Report, Writer
from sensorium.types import UserError
from sensorium.types.names import did_you_mean


def index_rows(
    model: Model | str | Path,
    data: str | Path | Data | None,
    into: str | Path,
    *,
    delete: Sequence[str] = (),
    prune: bool = False,
    key: str | None = None,
    graph_from: int | None = None,
    samples: bool = True,
    report: Report = lambda done, of: None,
) -> Indexed:
    """Bring an index up to date with rows; make it if there is none.

    A call that was interrupted or killed goes on where it was when it is made again.

    Args:
        model: makes the vectors; a run, or its folder.
        data: rows to be added, or to replace those of the same key; None for none.
        into: the folder of the index.
        delete: keys of rows to be taken out.
        prune: whether rows of the index that `data` lack are taken out.
        key: the column that names rows; that of the run's data if None.
        graph_from: from how many vectors on a field has a graph; as before, or 100,000, if None.
        samples: whether rows may be shown; if not, nothing but keys and vectors is kept of them.
        report: called with how many rows are done, of how many.

    Raises:
        UserError: the index is of another model, another process writes it, a key or a column does
            not fit, or no row can be used.
    """
    model = model if isinstance(model, Model) else Model(model)
    folder = IndexFolder(into)
    folder.create()
    with folder.locked():
        rows = None if data is None else _with_key(model.rows(data), key)
        known_layout = folder.read_layout() if folder.exists else None
        layout = _layout(model, rows, known_layout, graph_from, samples, folder.path)
        if layout != known_layout:
            folder.write_layout(layout)
        if rows is not None and not layout.samples:
            rows = rows.without_samples()
        storage = Storage(folder.rows, layout)
        storage.add_columns(layout.columns)
        writer = Writer(model, storage, layout, report)
        if rows is not None:
            writer.write(rows, prune)
            folder.quarantine(writer.done.faults)
        writer.delete(delete, folder.path)
        writer.done.layout = publish(folder, storage, writer.layout)
    return writer.done


def _with_key(rows: Data, key: str | None) -> Data:
    if key is None and rows.schema.key is None:
        key = rows.source.key
    if key is None:
        return rows
    if key not in rows.source.column_names:
        raise UserError(
            f"{rows.name}: there is no column '{key}' to name rows by. "
            + did_you_mean(key, rows.source.column_names)
        )
    return rows.with_schema(rows.schema.replace(key=key))


def _layout(
    model: Model,
    rows: Data | None,
    known: Layout | None,
    graph_from: int | None,
    samples: bool,
    path: Path,
) -> Layout:
    """The layout that is known, with new columns, or a new one."""
    if known is None:
        if rows is None:
            raise UserError(f"{path} is no index yet; name the rows that it is to hold")
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise UserError(
                f"{path} holds something else than an index; choose another with --into"
            )
        shown = samples and rows.samples
        fields = enumerate(model.embedded.values())
        texts = [
            field.name for field in rows.schema.find(modality="text") if field.role != "ignore"
        ]
        known = Layout(
            maker=Maker(
                identity=model.identity,
                system=model.info["system"],
                path=str(model.folder.path.absolute()),
            ),
            fields=tuple(
                Searched(name=f.name, modality=f.modality, width=width, stored=f"vector_{number}")
                for number, (f, width) in fields
            ),
            texts=tuple(texts) if shown else (),
            picture=find_picture(rows) if shown else "",
            key=rows.schema.key,
            graph_from=GRAPH_FROM if graph_from is None else graph_from,
            samples=shown,
        )
    if known.maker.identity != model.identity:
        raise UserError(
            f"{path} was made by another model (system {known.maker.system}, run {known.maker.path}) than "
            f"{model.folder.path}, and vectors of two cannot be compared. Choose another folder with "
            "--into, or remove this one"
        )
    if rows is not None:
        if rows.schema.key != known.key:
            raise UserError(
                f"{path} names rows by {_named(known.key)}, and these rows are named by "
                f"{_named(rows.schema.key)}; name the same column with --key"
            )
        if known.samples:
            known = known.changed(columns=find_columns(rows, known.columns))
    return known if graph_from is None else known.changed(graph_from=graph_from)


def _named(key: str | None) -> str:
    return "their number" if key is None else f"the column '{key}'"
