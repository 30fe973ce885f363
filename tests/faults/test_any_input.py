"""Whatever a file or an option says, the answer is a result or a `UserError`, nothing else."""

import io
import json
import string
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sensorium.cli.options import read_settings, short_name
from sensorium.data import inspect_data, open_data
from sensorium.data.missing import parse_missing
from sensorium.data.sources import parse_parameters
from sensorium.modalities.base import get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.registry import catalogue, get_system
from sensorium.training.budget import Budget
from sensorium.training.run import build_config, build_options
from sensorium.types import Schema, UserError
from sensorium.types.schema import ROLES

TOKENIZER = Tokenizer.train(["some words"], 270)


def bounded(num_examples):
    """The same examples each time, in bounded number."""
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=num_examples,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder: a file in it is overwritten by each example."""
    return tmp_path_factory.mktemp("any")


def use(path, **asked):
    """Open rows, look at them, and read each as a system would."""
    try:
        data = open_data(path, **asked)
        inspect_data(data)
        data = data.fit()
        views = {}
        for field in data.schema:
            if field.role != "ignore":
                view = get_modality(field.modality).View
                views[field.name] = (
                    view(tokenizer=TOKENIZER) if field.modality == "text" else view()
                )
        samples, faults = data.read(data.rows("all")[:20], views)
        batch = data.collate(samples, views, 0, faults)
        assert batch.size + len(faults) == len(data.rows("all")[:20])
    except UserError as error:
        assert str(error)


TEXTS = st.text(max_size=12)
# What lies at the edges of formats more often than random text does.
# fmt: off
EDGES = [
    "", " ", "\0", "\r", "\r\n", '"', '""', ";", ",", "\t", "\ufeff", "\ud800", "NaN", "nan", "inf",
    "-inf", "1e999", "1e-999", "-0", "007", "1,234.5", "3,5", ".", "+", "0x1F", "1_0", "2024-13-45",
    "0000-00-00", "9999-12-31T23:59:60Z", "31.12.2024", "true", "null", "[1", "[[0,0,1,1]]", "[]",
    "[null]", "[" * 3000, "9" * 5000, "../x.png", "/etc/passwd", "a.png", "x.png\0", "http://a/b.png",
    "train", "test", "cat;dog", "é" * 50, "\x85", "\u2028",
]
MEMBERS = [
    "a.json", "a.txt", "a.jpg", "a.key", "a.split", "b.cls", "../c.txt", "/d.txt", "é.txt", "e/f.g.png",
    ".h.txt", "i", "a.JSON", "./j.txt", "k..txt", "key.key",
]
PAIRS = [
    "width=1", "training.batch_size=x", "=", "a.b.c=1", "encoder.image=1", "width=!!int x",
    "width=2024-13-45", "training.=1", ".=1", "width=[[", "tokenizer=bpe:0", "x=&a [*a]",
    "width=!!python/object/apply:os.system [true]", "width=" + "[" * 3000, "width=.nan",
]
# fmt: on
CELLS = st.one_of(
    TEXTS,
    st.sampled_from(EDGES),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            "id",
            "key",
            "split",
            "label",
            "class",
            "caption",
            "text",
            "file_name",
            "image",
            "audio",
            "boxes",
            "bbox",
            "price",
            "date",
            "group",
            "question",
            "answer",
            "patient",
            "time",
            "table",
            "objects",
        ]
    ),
    st.text(string.ascii_letters, min_size=1, max_size=4),
    st.sampled_from(["", "\ud800", "\0"]),
    TEXTS,
)


class TestReaders:
    @bounded(75)
    @given(
        st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ".tar"]),
        st.one_of(
            st.binary(max_size=200),
            st.text(alphabet=',;"\n\r\t[]{}:01a\0é', max_size=80).map(str.encode),
            st.binary(max_size=60).map(lambda rest: b"\xff\xfe" + rest),
            st.binary(max_size=60).map(lambda rest: b"PAR1" + rest + b"PAR1"),
        ),
    )
    def test_bytes(self, place, suffix, content):
        path = place / f"bytes{suffix}"
        path.write_bytes(content)
        use(path)

    @bounded(75)
    @given(st.data())
    def test_tables_of_text(self, place, data):
        names = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
        rows = data.draw(
            st.lists(
                st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=12
            )
        )

        def quoted(cell):
            return '"' + cell.replace('"', '""') + '"'

        lines = [",".join(map(quoted, cells)) for cells in [names, *rows]]
        path = place / "cells.csv"
        path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
        use(path)

    @bounded(100)
    @given(
        st.lists(
            st.dictionaries(
                NAMES,
                st.recursive(
                    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CELLS),
                    lambda inner: st.one_of(
                        st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=3)
                    ),
                    max_leaves=6,
                ),
                max_size=4,
            ),
            min_size=1,
            max_size=6,
        ),
        st.booleans(),
    )
    def test_json_of_anything(self, place, rows, lines):
        path = place / ("rows.jsonl" if lines else "rows.json")
        path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
        use(path)

    @bounded(40)
    @given(
        st.lists(
            st.sampled_from(
                [
                    pa.array([b"\xff\xd8\xff", None, b""]),
                    pa.array([{"bytes": b"x", "path": None}, None, {"bytes": None, "path": "a"}]),
                    pa.array([[{"bytes": b"x", "path": "../b"}], [], None]),
                    pa.array([{"a": {"b": 1}}, None, {"a": None}]),
                    pa.array([1, None, 3], pa.decimal128(5, 2)),
                    pa.array([1, None, 3], pa.duration("s")),
                    pa.array([1, None, 2**62], pa.timestamp("s")),
                    pa.array([1, None, -(2**31)], pa.date32()),
                    pa.array([1, 2, None], pa.time64("us")),
                    pa.array([[1.0], [], None], pa.list_(pa.float32())),
                    pa.array([[1, 2]] * 3, pa.list_(pa.int64(), 2)),
                    pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
                    pa.array(["a", "b", None]).dictionary_encode(),
                    pa.array(["\0", "x" * 100_000, None], pa.large_string()),
                    pa.nulls(3),
                    pa.array([float("nan"), float("inf"), None], pa.float16()),
                    pa.array([True, None, False]),
                ]
            ),
            min_size=1,
            max_size=3,
        ),
        st.lists(NAMES.filter(str.isprintable), min_size=3, max_size=3),
    )
    def test_parquet_of_any_types(self, place, columns, names):
        path = place / "metadata.parquet"
        try:
            pq.write_table(pa.Table.from_arrays(columns, names[: len(columns)]), path)
        except (pa.ArrowException, UnicodeEncodeError):
            return
        for where in (path, place / "as_folder"):
            if where.name == "as_folder":
                where.mkdir(exist_ok=True)
                (where / "metadata.parquet").write_bytes(path.read_bytes())
            use(where)

    @bounded(40)
    @given(st.integers(0, 2**31), st.integers(1, 6))
    @example(22000, 1)  # a name of a column that is no UTF-8
    def test_parquet_with_flipped_bytes(self, place, seed, num_flips):
        draw = np.random.default_rng(seed)
        table = pa.table({"caption": ["a b", "c d", "e f"] * 9, "label": ["x", "y", "x"] * 9})
        file = io.BytesIO()
        pq.write_table(table, file)
        content = bytearray(file.getvalue())
        for _ in range(num_flips):
            content[draw.integers(len(content))] ^= int(draw.integers(1, 256))
        path = place / "flipped.parquet"
        path.write_bytes(content)
        use(path)

    @bounded(40)
    @given(
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(MEMBERS),
                    TEXTS.filter(bool),
                ),
                st.one_of(st.binary(max_size=20), CELLS.map(lambda c: json.dumps(c).encode())),
            ),
            min_size=1,
            max_size=8,
        ),
        st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3),
    )
    def test_tars(self, place, members, changes):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        content = bytearray(file.getvalue())
        for at, value in changes:
            content[at % len(content)] = value
        path = place / "members.tar"
        path.write_bytes(content)
        use(path)


SETTINGS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from(ROLES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "modality",
                    "role",
                    "of",
                    "column",
                    "columns",
                    "options",
                    "fitted",
                    "classes",
                    "format",
                    "unit",
                    "separator",
                    "decimal",
                    "date_format",
                    "path",
                    "language",
                    "a",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
MODALITIES = st.sampled_from(
    ["text", "image", "audio", "table", "boxes", "spans", "category", "categories", "number", "x"]
)
OPTIONS = st.dictionaries(
    st.sampled_from(
        [
            "classes",
            "format",
            "unit",
            "separator",
            "decimal",
            "date_format",
            "path",
            "language",
            "names",
        ]
    ),
    st.one_of(SETTINGS, st.sampled_from([",", ";", "pixel", "xywh", "%d", "%", "de"])),
    max_size=3,
)


class TestSchemas:
    @bounded(100)
    @given(st.one_of(SETTINGS, st.fixed_dictionaries({"fields": SETTINGS})))
    def test_any_content_is_a_schema_or_refused(self, place, content):
        path = place / "schema.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), errors="replace")
        try:
            schema = Schema.load(path)
        except UserError as error:
            assert "schema.yaml" in str(error)
            return
        schema.save(place / "again.yaml")
        first = (place / "again.yaml").read_text()
        Schema.load(place / "again.yaml").save(place / "again.yaml")
        assert (place / "again.yaml").read_text() == first

    @bounded(100)
    @given(
        st.one_of(
            st.binary(max_size=80),
            st.text(alphabet="{}[]&*!:-|> \nab?#%'\"", max_size=60).map(str.encode),
        )
    )
    def test_any_bytes(self, place, content):
        path = place / "bytes.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bytes\.yaml"):
            Schema.load(path)

    @bounded(75)
    @given(
        st.fixed_dictionaries(
            {
                name: st.fixed_dictionaries(
                    {"modality": MODALITIES, "role": st.sampled_from(ROLES)},
                    optional={
                        "options": OPTIONS,
                        "of": st.sampled_from(["a", "b", "c"]),
                        "columns": st.dictionaries(
                            st.sampled_from(["a", "b", "c"]),
                            st.sampled_from(["number", "category", "date", "x"]),
                        ),
                    },
                )
                for name in ("a", "b", "c")
            }
        )
    )
    def test_any_fields_of_the_same_rows(self, place, fields):
        path = place / "fixed.jsonl"
        rows = [
            {"a": f"word {n} [[0, 0, 1, {n}]]", "b": n % 3, "c": [[0.1, 0.1, 0.5, 0.2 + n / 20]]}
            for n in range(12)
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        use(path, schema={"fields": [{"name": name, **body} for name, body in fields.items()]})


WORDS = st.one_of(
    TEXTS,
    st.sampled_from(PAIRS),
    st.tuples(
        st.sampled_from(
            ["width", "training.workers", "tokenizer", "encoder", "encoder.text", "depth"]
        ),
        CELLS,
    ).map("=".join),
)


class TestOptions:
    @bounded(150)
    @given(st.lists(WORDS, max_size=3), st.sampled_from(sorted(catalogue())))
    def test_settings(self, pairs, system):
        try:
            of_system, of_training = read_settings(pairs)
            build_options(of_training)
            build_config(get_system(system), "nano", of_system)
        except UserError as error:
            assert str(error)

    @bounded(100)
    @given(
        st.one_of(
            TEXTS,
            st.tuples(
                st.sampled_from(["0", "1", "3", "1.5", "-1", "1e9", "nan"]),
                st.sampled_from(["s", "m", "h", "steps", "epochs", "x"]),
            ).map("".join),
        )
    )
    def test_budget_missing_and_parameters(self, text):
        for read in (Budget.parse, parse_missing, parse_parameters, short_name):
            try:
                read(text)
            except UserError as error:
                assert str(error)

    @bounded(50)
    @given(
        st.one_of(
            TEXTS,
            st.tuples(
                st.sampled_from(["share", "folds", "group", "time", "column"]),
                st.one_of(
                    TEXTS,
                    st.sampled_from(
                        ["0.8,0.1,0.1", "nan,0,1", "1,0,0", "5:1", "3:9", "99:1", "a", "b"]
                    ),
                ),
            ).map(":".join),
        )
    )
    def test_split(self, place, how):
        path = place / "splits.csv"
        path.write_text(
            "a,b,label\n" + "".join(f"{n},2024-01-{n + 1:02},x{n % 2}\n" for n in range(9))
        )
        use(path, split=how)

    @bounded(50)
    @given(
        st.one_of(
            TEXTS,
            st.sampled_from(["scenes", "attributes", "questions"]).flatmap(
                lambda view: st.tuples(
                    st.just(view),
                    TEXTS
                    | st.sampled_from(
                        [
                            "objects=0",
                            "objects=-1",
                            "pictures=1e9",
                            "objects=a",
                            "seed=x",
                            "objects=2&objects=3",
                        ]
                    ),
                ).map("?".join)
            ),
        )
    )
    def test_playground(self, text):
        try:
            data = open_data(f"playground:{text}")
            data.raw(list(data.schema.names), data.rows("train")[:2])
        except UserError as error:
            assert str(error)
