"""What an index consists of: the model that made it, its fields and columns, and what is published.

index.json        this
rows/             the rows: keys, vectors, columns, texts, small pictures (tables of LanceDB, mostly one)
vectors-N/        for each field the vectors that are searched, and perhaps a graph of them
quarantine.jsonl  rows that were set aside when rows were last indexed, and why

Rows are written first. What is searched is the version of the table that index.json names, so that
nobody sees a half of what is being written, and what is written by a run that is killed is there for
the next one to go on from. At the end they are copied into a new table, which is searched from then on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sensorium.training.files import read_json, write_json
from sensorium.training.folder import RunFolder
from sensorium.types import UserError
from sensorium.types.schema import explain

FORMAT = 1

Kind = Literal["number", "text", "truth"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, **changes: Any) -> Self:
        """A copy with changes."""
        return self.model_copy(update=changes)


class Maker(_Part):
    """The run whose vectors these are.

    Attributes:
        identity: a digest of its weights, settings, schema and tokenizer.
        system: its name.
        path: where the run was.
    """

    identity: str
    system: str
    path: str


class Column(_Part):
    """A column that is kept for conditions and to be shown.

    Attributes:
        name: as people call it.
        kind: of its values.
        stored: its name in the table, which has nothing of the user's in it.
    """

    name: str
    kind: Kind
    stored: str


class Graph(_Part):
    """A graph over the vectors of a field.

    Attributes:
        recall: the share of the ten nearest that it finds, against exact search.
        queries: of how many queries that is the mean.
        expansion: how many candidates it keeps while it searches.
        removed: how many of its nodes stand for rows that are gone.
    """

    recall: float
    queries: int
    expansion: int
    removed: int = 0


class Searched(_Part):
    """A field with vectors.

    Attributes:
        name: of the field.
        modality: of the field.
        width: of its vectors.
        stored: the name of the column that holds them.
        rows: how many rows have one.
        graph: None where search is exact.
    """

    name: str
    modality: str
    width: int
    stored: str
    rows: int = 0
    graph: Graph | None = None


class Layout(_Part):
    """All of an index that is not rows.

    Attributes:
        maker: the model.
        fields: those with vectors.
        columns: for conditions and to be shown.
        texts: fields whose words are searched, beside columns of texts.
        picture: the field that is shown as a small picture; empty if none is.
        key: the column that names rows; None for their number.
        samples: whether anything of rows is kept beside keys and vectors.
        graph_from: from how many vectors on a field has a graph.
        table: that holds the rows.
        version: of the table, that is searched; 0 before there is one.
        rows: how many there are in it.
        next_id: all rows of later versions have this number or a larger one.
        vectors: the folder of the vectors of that version.
    """

    format: int = FORMAT
    maker: Maker
    fields: tuple[Searched, ...]
    columns: tuple[Column, ...] = ()
    texts: tuple[str, ...] = ()
    picture: str = ""
    key: str | None = None
    samples: bool = True
    graph_from: int
    table: str = "rows_1"
    version: int = 0
    rows: int = 0
    next_id: int = 0
    vectors: str = ""

    @property
    def has_text(self) -> bool:
        """Whether words are searched."""
        return bool(self.texts) or any(column.kind == "text" for column in self.columns)


class IndexFolder(RunFolder):
    """Paths and small files of an index."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.layout_file = self.path / "index.json"
        self.rows = self.path / "rows"

    @property
    def exists(self) -> bool:
        """Whether there is an index."""
        return self.layout_file.is_file()

    def read_layout(self) -> Layout:
        """What `index.json` says.

        Raises:
            UserError: this is no index, or one of a later version of the library.
        """
        if not self.exists:
            raise UserError(
                f"{self.path} is not an index: it has no index.json. Make one with "
                f"`sensorium index RUN DATA --into {self.path}`"
            )
        content = read_json(self.layout_file)
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise UserError(
                f"{self.path} was written by another version of sensorium (format "
                f"{content['format']}, this one reads {FORMAT}); use that one, or index again"
            )
        try:
            return Layout.model_validate(content)
        except ValidationError as error:
            raise UserError(
                f"{self.layout_file} is not what `sensorium index` writes: {explain(error)}"
            ) from None

    def published(self) -> tuple[int, int]:
        """Changes whenever something is published."""
        found = self.layout_file.stat() if self.exists else None
        return (0, 0) if found is None else (found.st_ino, found.st_mtime_ns)

    def write_layout(self, layout: Layout) -> None:
        """Publish."""
        write_json(self.layout_file, layout.model_dump(mode="json"))

    def quarantine(self, faults: list[Any]) -> None:
        """The rows that were set aside, in place of those of an earlier run."""
        self.quarantine_file.unlink(missing_ok=True)
        self.append_faults(faults)
