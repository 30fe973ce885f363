"""Where bytes of strangers come in. Each door takes any bytes; it may refuse them, and nothing else."""

import tempfile
from pathlib import Path

import numpy as np

from sensorium.data.archives import open_tars
from sensorium.data.guess import guess_schema
from sensorium.data.tables import read_table
from sensorium.modalities.audio import Audio, AudioView
from sensorium.modalities.base import get_modality
from sensorium.modalities.cells import column_kind
from sensorium.modalities.graph import Graph, GraphView
from sensorium.modalities.image import Image, ImageView
from sensorium.modalities.maps import Maps, MapView
from sensorium.modalities.points import Points, PointsView
from sensorium.modalities.series import Series, SeriesView
from sensorium.modalities.table import Table
from sensorium.modalities.text import Text, TextView, Tokenizer
from sensorium.modalities.video import Video, VideoView
from sensorium.training.files import read_tensors
from sensorium.types import Field, Schema, UserError

# In memory where there is such a place: each example writes the file anew.
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
TOKENIZER = Tokenizer.train(["some words"], 270)
COLUMNS = {"a": "number", "b": "category", "c": "date"}


def written(name, content):
    path = FOLDER / name
    path.write_bytes(content)
    return path


def image(content):
    picture = Image().decode(content, Field(name="x", modality="image"), ImageView(size=16))
    assert picture.pixels.shape == (16, 16, 3)


def audio(content):
    view = AudioView(rate=4000, seconds=0.1)
    samples = Audio().decode(content, Field(name="x", modality="audio"), view)
    if samples is None:  # a clip without a track
        return
    assert np.isfinite(samples).all() and 0 < len(samples) <= view.num_samples


def text(content):
    found = Text().decode(content, Field(name="x", modality="text"), TextView())
    ids, _ = TOKENIZER.encode([found], 16)
    assert ids.shape[1] <= 16


def text_file(content):
    Text().decode(written("x.txt", content), Field(name="x", modality="text"), TextView())


def cells(content):
    """Lines as cells of a column, and each by itself as a number, a class, a list, a box."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")[:20]
    column_kind(lines)
    for name in ("number", "category", "categories", "boxes", "spans", "conversation"):
        modality, field = get_modality(name), Field(name="x", modality=name)
        fitted = field.replace(fitted=modality.fit(field, lines))
        for line in lines:
            try:
                for entry in modality.entries(line, fitted):
                    modality.decode(entry, fitted, modality.View())
            except UserError:
                continue


def table_row(content):
    lines = content.decode("utf-8", "surrogateescape").split("\n")[:30]
    rows = [dict(zip("abc", lines[at : at + 3], strict=False)) for at in range(0, len(lines), 3)]
    field = Field(name="x", modality="table", columns=COLUMNS)
    fitted = field.replace(fitted=Table().fit(field, rows))
    for row in rows:
        try:
            for entry in Table().entries(row, fitted):
                Table().show(Table().decode(entry, fitted, None), fitted)
        except UserError:
            continue


def tar(content):
    source = open_tars([written("x.tar", content)])
    source.columns(source.column_names, np.arange(len(source)))
    guess_schema(source)


def csv(content):
    read_table(written("x.csv", content))


def json_lines(content):
    read_table(written("x.jsonl", content))


def json(content):
    read_table(written("x.json", content))


def schema(content):
    found = Schema.load(written("schema.yaml", content))
    again = FOLDER / "again.yaml"
    found.save(again)
    first = again.read_text()
    Schema.load(again).save(again)
    assert again.read_text() == first


def weights(content):
    read_tensors(written("x.safetensors", content))


def points(content):
    view = PointsView(num_points=16, channels=("colour", "normal"))
    cloud = Points().decode(content, Field(name="x", modality="points"), view)
    assert np.isfinite(cloud.values[:, :3]).all() and 0 < len(cloud.values) <= 16
    Points().collate([cloud], Field(name="x", modality="points"), view)


def series(content):
    field = Field(name="x", modality="series")
    fitted = field.replace(fitted=Series().fit(field, [content]))
    found = Series().decode(content, fitted, SeriesView(length=16))
    assert np.isfinite(found).all() and 0 < len(found) <= 16


def graph(content):
    field = Field(name="x", modality="graph")
    fitted = field.replace(fitted=Graph().fit(field, [content]))
    found = Graph().decode(content, fitted, GraphView())
    assert np.isfinite(found).all() and len(found) > 0


def maps(content):
    for options in ({}, {"kind": "classes"}, {"channels": 3, "invalid": 0}):
        field = Field(name="x", modality="maps", options=options)
        try:
            fitted = field.replace(fitted=Maps().fit(field, [content]))
            found = Maps().decode(content, fitted, MapView(size=16))
        except UserError:
            continue
        values, _ = Maps().collate([found], fitted, MapView(size=16))
        assert values.isfinite().all()


def video(content):
    clip = Video().decode(content, Field(name="x", modality="video"), VideoView(frames=2, size=16))
    assert 0 < len(clip.frames) <= 2 and clip.frames.shape[1:] == (16, 16, 3)


# A file of the corpus begins with the number of its door: new ones stand at the end.
DOORS = (
    image, audio, text, text_file, cells, table_row, tar, csv, json_lines, json, schema, weights,
    points, series, graph, maps, video,
)  # fmt: skip


def enter(content):
    """Through the door that the first byte names, if there is one."""
    if not content or content[0] >= len(DOORS):
        return
    try:
        DOORS[content[0]](content[1:])
    except UserError as error:
        assert str(error)


def leave():
    """Remove what the doors wrote."""
    for path in FOLDER.iterdir():
        path.unlink()
    FOLDER.rmdir()
