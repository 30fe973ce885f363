"""Rows that are broken or hostile: set aside with a reason, nothing run, nothing written elsewhere."""

import io
import json
import os
import pickle
import struct
import tarfile
import zlib

import numpy as np
import PIL.Image
import pytest
import soundfile

from commands import FAST, listing, run
from sensorium.data import open_data
from sensorium.training.folder import RunFolder
from sensorium.training.run import load, train
from sensorium.types import Schema, UserError

SMALL = ["--set=width=16", "--set=image_size=16", *FAST]
TRAIN = ["--budget", "4steps", *SMALL]


def png(number=0, size=(16, 12)):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def declared(width, height):
    """A PNG of a few bytes that says it is so large."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, dtype=np.float32), 8000, "FLOAT", format="WAV")
    return file.getvalue()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


SOUND = wav(np.sin(np.arange(400) / 5))

# By name: the picture, the sound, the caption of a row, and the field and reason if it is refused.
BAD = {
    "truncated": (png(1)[:60], None, "x", "image", "cannot be decoded"),
    "zero bytes": (b"", None, "x", "image", "is empty"),
    "a text": (b"this is no picture", None, "x", "image", "no picture of a known kind"),
    "20,000 pixels": (declared(20_000, 20_000), None, "x", "image", "more than 178000000 pixels"),
    "a bomb": (declared(60_000, 60_000), None, "x", "image", "more than 178000000 pixels"),
    "no samples": (None, wav([]), "x", "audio", "without samples"),
    "not finite": (None, wav([0.0, np.nan, 0.5]), "x", "audio", "not finite"),
    "a picture as sound": (None, png(2), "x", "audio", "cannot be decoded"),
    "cut in its head": (None, SOUND[:20], "x", "audio", "cannot be decoded"),
}
GOOD = {
    "png called jpg": (png(3), None, "x"),
    "nothing at all": (None, None, ""),
    "100,000 characters": (png(4), None, "long " * 20_000),
    "one word of 100,000": (png(5), None, "x" * 100_000),
    "NUL": (png(6), None, "a\0b\0"),
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Good rows, each kind of bad one, and what lies around the folder."""
    around = tmp_path_factory.mktemp("around")
    folder = around / "hospital"
    folder.mkdir()
    secret = around / "secret.png"
    secret.write_bytes(png(99))
    (folder / "link.png").symlink_to(secret)
    (folder / "dangling.png").symlink_to(around / "nothing.png")
    os.mkfifo(folder / "pipe.png")
    rows = []

    def add(image, audio, caption, split="train"):
        number = len(rows)
        names = {}
        for kind, content, ending in (("image", image, "jpg"), ("audio", audio, "wav")):
            names[kind] = content if isinstance(content, str) else None
            if isinstance(content, bytes):
                names[kind] = f"{number}.{ending}"
                (folder / names[kind]).write_bytes(content)
        rows.append({"id": "same" if number in (2, 3) else f"p{number}", **names})
        rows[-1] |= {"caption": caption, "label": "ab"[number % 2], "split": split}

    for number in range(40):
        split = "train" if number < 30 else "validation" if number < 34 else "test"
        add(png(number + 100), SOUND if number % 2 else None, f"good row {number}", split)
    for image, audio, caption, *_ in (*BAD.values(), *GOOD.values()):
        add(image, audio, caption)
    for path in ("../secret.png", str(secret), "link.png", "dangling.png", "pipe.png", "a\0b.png"):
        add(path, None, "x")
    add("http://example.org/x.png", None, "x")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_each_bad_row_is_set_aside_with_its_reason(hospital, tmp_path, monkeypatch):
    monkeypatch.setenv("SENSORIUM_CACHE", str(tmp_path / "cache"))
    before = listing(hospital.parent)
    out = tmp_path / "run"
    done = run(
        *("train", "late-fusion", "--data", hospital, "--target", "label", "--out", out),
        *("--budget", "2epochs", "--set=training.max_fault_share=0.4", *SMALL),
    )
    assert done.code == 0, done.err
    assert listing(hospital.parent) == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "cache"}
    faults = {fault.key: fault for fault in RunFolder(out).read_faults()}
    expected = {str(40 + n): bad[3:] for n, bad in enumerate(BAD.values())}
    first = 40 + len(BAD) + len(GOOD)
    for number, reason in enumerate(
        [
            "leads out",
            "leads out",
            "leads out",
            "no such file",
            "no plain file",
            "null",
            "is an address",
        ]
    ):
        expected[str(first + number)] = ("image", reason)
    seen = set(faults)  # an epoch drops an incomplete batch, another one in the second
    assert seen == set(expected)
    for key, (field, reason) in expected.items():
        assert faults[key].field == field and reason in faults[key].reason, faults[key]
    assert RunFolder(out).read_run()["rows_set_aside"] >= len(expected)
    assert f"Rows that were set aside: {len(expected)}" in (out / "report.html").read_text()
    good = load(out).predict(hospital)
    assert set(good["key"].to_pylist()).isdisjoint(expected)


def test_too_many_bad_rows_stop_the_run(hospital, tmp_path):
    done = run(
        *("train", "late-fusion", "--data", hospital, "--target", "label"),
        *("--out", tmp_path / "run", "--budget", "9epochs", *SMALL),
    )
    assert done.code == 2 and "Traceback" not in done.err
    assert "rows could not be used" in done.err and "max_fault_share" in done.err
    assert RunFolder(tmp_path / "run").read_run()["status"] == "running"


def test_inspect_counts_them(hospital, tmp_path):
    before = listing(hospital.parent)
    done = run("inspect", hospital, "--out", tmp_path / "look", "--json")
    assert done.code == 0, done.err
    found = {fault["key"] for fault in json.loads(done.out)["faults"]}
    assert found >= {str(40 + n) for n in range(len(BAD))}
    assert listing(hospital.parent) == before


def test_a_missing_modality_everywhere_in_a_row_is_a_state_of_retrieval_too(hospital, tmp_path):
    done = run(
        *("train", "dual-encoder", "--data", hospital, "--task", "retrieval", "--out", tmp_path),
        *("--set=training.max_fault_share=1", *TRAIN),
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,label\ncafé,a\nb,b\n".encode("latin-1"), "is not UTF-8"),
        (b"name,label\n" + "naïve,a\n".encode() + "naïve,b\n".encode("cp1252"), "line 3"),
        (b"\xff\xfea", "begins as UTF-16, but is not whole"),
        (b"\xff\xfe\x00\xd8", "begins as UTF-16, but is not whole"),
    ],
)
def test_encodings_that_cannot_be_read_are_named(tmp_path, content, message):
    (tmp_path / "rows.csv").write_bytes(content)
    done = run("inspect", tmp_path / "rows.csv", "--out", tmp_path / "look")
    assert done.code == 2 and message in done.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_so_are_read(tmp_path, encoding):
    (tmp_path / "rows.csv").write_bytes("name,label\ncafé,a\nthé,b\n".encode(encoding))
    data = open_data(tmp_path / "rows.csv")
    assert data.columns(["name"], data.rows("all")) == {"name": ["café", "thé"]}


def test_file_names_that_are_no_text(tmp_path):
    """Linux allows any bytes but two in a name."""
    folder = tmp_path / "pets"
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            (folder / kind / f"{number}.png").write_bytes(png(number))
    (folder / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"broken")
    done = run(
        *("train", "late-fusion", "--data", folder, "--target", "label", "--out", tmp_path / "run"),
        *("--set=training.max_fault_share=1", "--budget", "3epochs", *SMALL),
    )
    assert done.code == 0, done.err
    faults = [f for f in RunFolder(tmp_path / "run").read_faults() if f.row is None]
    assert [(f.key, f.reason) for f in faults] == [
        ("cat/\\udcff.png", "its name is not UTF-8; rename it")
    ]


def test_two_rows_of_one_name_are_two_rows(tmp_path):
    """They stay on one side of the split, and each has its prediction."""
    rows = [{"id": f"p{n // 2}", "a": n / 7, "label": "ab"[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    schema = {
        "key": "id",
        "fields": [
            {"name": "table", "modality": "table", "columns": {"a": "number"}},
            {"name": "label", "modality": "category", "role": "label"},
        ],
    }
    data = open_data(tmp_path / "rows.jsonl", schema)
    sides = [set(data.keys(data.rows(split))) for split in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30
    done = train("late-fusion", data, out=tmp_path / "run", budget="2steps", options={"workers": 0})
    assert done.predict(data)["key"].to_pylist() == [row["id"] for row in rows]


def test_deep_json_and_numbers_without_end_are_refused(tmp_path):
    for text in ("[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        for name in ("rows.json", "rows.jsonl"):
            (tmp_path / name).write_text(text)
            with pytest.raises(UserError, match="not JSON"):
                open_data(tmp_path / name)


class TestTars:
    def pack(self, path, *extra):
        with tarfile.open(path, "w") as tar:
            for number in range(20):
                for ending, content in (
                    ("png", png(number)),
                    ("json", json.dumps({"label": "ab"[number % 2]}).encode()),
                ):
                    entry = tarfile.TarInfo(f"{number:03}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            for name, kind, content in extra:
                entry = tarfile.TarInfo(name)
                entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
                tar.addfile(entry, io.BytesIO(content))

    def test_entries_that_lead_elsewhere_are_counted_and_not_written(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        self.pack(
            folder / "rows.tar",
            ("../outside.txt", tarfile.REGTYPE, b"x"),
            ("/tmp/absolute.txt", tarfile.REGTYPE, b"x"),
            ("device.png", tarfile.CHRTYPE, b""),
            ("pipe.png", tarfile.FIFOTYPE, b""),
            ("link.txt", tarfile.SYMTYPE, b""),
            ("hard.txt", tarfile.LNKTYPE, b""),
        )
        before = listing(tmp_path)
        out = tmp_path / "run"
        done = run(
            "train", "late-fusion", "--data", folder, "--target", "label", "--out", out, *TRAIN
        )
        assert done.code == 0, done.err
        reasons = [fault.reason for fault in RunFolder(out).read_faults()]
        assert sorted(reasons) == sorted(
            ["its path leads out of the archive"] * 2
            + ["it is a device or another special file"] * 2
            + ["it is a link"] * 2
        )
        after = listing(tmp_path)
        assert {path for path in after if not path.startswith("run")} == set(before)

    def test_a_header_that_leads_back_ends(self, tmp_path):
        """Python's own reader goes round for ever."""
        self.pack(tmp_path / "rows.tar")
        content = bytearray((tmp_path / "rows.tar").read_bytes())
        content[124:136] = b"\xff" * 11 + b"\x00"  # a size of -256, in base 256
        content[148:156] = b"        "
        content[148:156] = b"%06o\0 " % sum(content[:512])
        (tmp_path / "rows.tar").write_bytes(content)
        with pytest.raises(UserError, match="not a whole plain tar"):
            open_data(tmp_path / "rows.tar")


class TestNothingIsExecuted:
    @pytest.fixture
    def finished(self, tmp_path):
        (tmp_path / "rows.csv").write_text(
            "a,label\n" + "".join(f"{n / 7},{'ab'[n % 2]}\n" for n in range(40))
        )
        train(
            *("late-fusion", tmp_path / "rows.csv"),
            out=tmp_path / "run",
            target="label",
            budget="2steps",
            options={"workers": 0},
        )
        return tmp_path

    def test_a_pickle_as_weights(self, finished):
        canary = finished / "canary"
        (finished / "run" / "model.safetensors").write_bytes(pickle.dumps(Payload(canary)))
        for arguments in (
            ("evaluate", finished / "run"),
            ("predict", finished / "run", finished / "rows.csv", "--out", finished / "p.parquet"),
            (
                *("train", "late-fusion", "--data", finished / "rows.csv", "--target", "label"),
                *("--init", finished / "run", "--out", finished / "second"),
            ),
        ):
            done = run(*arguments)
            assert done.code == 2 and "pickles, are not read" in done.err
        assert not canary.exists()

    def test_a_pickle_in_a_checkpoint(self, finished):
        run_folder = finished / "run"
        info = json.loads((run_folder / "run.json").read_text())
        (run_folder / "run.json").write_text(json.dumps({**info, "status": "running"}))
        (last,) = sorted((run_folder / "checkpoints").iterdir())[-1:]
        (last / "optimizer.safetensors").write_bytes(pickle.dumps(Payload(finished / "canary")))
        with pytest.raises(UserError, match="pickles, are not read"):
            train(
                *("late-fusion", finished / "rows.csv"),
                out=run_folder,
                target="label",
                budget="2steps",
                options={"workers": 0},
            )
        assert not (finished / "canary").exists()

    @pytest.mark.parametrize("name", ["schema.yaml", "config.yaml"])
    def test_yaml_that_makes_objects(self, finished, name):
        canary = finished / "canary"
        text = f"!!python/object/apply:os.system ['touch {canary}']\n"
        (finished / "run" / name).write_text(f"fields: {text}system: {text}")
        for command in ("evaluate", "report"):
            done = run(command, finished / "run")
            if (command, name) != ("report", "schema.yaml"):  # a report does without the rows then
                assert done.code == 2 and name in done.err and "python/object" in done.err
        done = run("inspect", finished / "rows.csv", "--schema", finished / "run" / name)
        assert done.code == 2 and "python/object" in done.err
        assert not canary.exists()

    def test_yaml_that_grows(self, tmp_path):
        lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
        (tmp_path / "schema.yaml").write_text("\n".join(lines) + "\nfields: {}\n")
        with pytest.raises(UserError, match="aliases"):
            Schema.load(tmp_path / "schema.yaml")

    def test_a_run_file_that_is_none(self, finished):
        for text in ("[]", "{", '{"format": "x"}', "[" * 100_000):
            (finished / "run" / "run.json").write_text(text)
            for command in ("evaluate", "report"):
                done = run(command, finished / "run")
                assert done.code == 2 and "run.json" in done.err, (text[:9], done)


def test_a_schema_for_other_columns(hospital, tmp_path):
    schema = tmp_path / "schema.yaml"
    schema.write_text(
        "fields:\n  scan: {modality: image}\n  label: {modality: category, role: label}\n"
    )
    done = run("train", "late-fusion", "--data", hospital, "--schema", schema)
    assert done.code == 2 and "field 'scan' reads the column 'scan', which is not there" in done.err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("image: picture", "field 'image': expected settings"),
        ("label: {modality: category, options: {classes: 5}}", "'classes': expected list, found 5"),
        ("label: {modality: categories, options: {separator: ''}}", "'separator': expected str"),
        ("caption: {modality: text, options: {langauge: de}}", "Did you mean 'language'"),
        ("caption: {modality: boxes, options: {unit: cm}}", "expected ['fraction', 'pixel']"),
    ],
)
def test_settings_of_fields_are_checked(hospital, tmp_path, body, message):
    schema = tmp_path / "schema.yaml"
    schema.write_text(f"fields:\n  {body}\n")
    done = run("inspect", hospital, "--schema", schema, "--out", tmp_path / "look")
    assert done.code == 2 and message in done.err
