"""Indexing real files: what is stored, what is embedded again, what is set aside, what goes."""

import json
import subprocess

import numpy as np
import pytest
from shops import (
    BROKEN,
    CAPTIONS,
    WITHOUT_CAPTION,
    WITHOUT_PICTURE,
    WITHOUT_PRICE,
    held,
    keys,
    make_shop,
    row,
    write_rows,
)

from sensorium.data import read_batches
from sensorium.search.building import index_rows
from sensorium.search.index import Index
from sensorium.search.layout import IndexFolder
from sensorium.search.model import Model
from sensorium.training.run import load
from sensorium.types import UserError

ALL = range(len(CAPTIONS))


@pytest.fixture
def own(tmp_path):
    """A shop of the test's own, which it may change."""
    return make_shop(tmp_path / "shop")


def test_rows_have_the_vectors_of_the_model_and_what_else_they_hold(shop, trained, indexed):
    rows = held(indexed)
    assert set(rows) == {f"thing-{n}" for n in ALL if n != BROKEN}
    run = load(trained, "cpu")
    data = run.rows_of(shop)
    index = Index(indexed)
    stored = {f.name: f.stored for f in index.layout.fields}
    for batch in read_batches(data, data.rows("all"), run.system.views(), batch_size=5):
        for name, column in stored.items():
            vectors = run.system.embed(batch, name).detach().numpy()
            for key, vector in zip(batch.keys, vectors, strict=True):
                if np.isnan(vector).any():
                    assert rows[key][column] is None
                else:
                    np.testing.assert_allclose(rows[key][column], vector, atol=1e-5)
    columns = {c.name: c.stored for c in index.layout.columns}
    assert rows["thing-9"][columns["price"]] == 9.5 and rows["thing-9"][columns["sold"]] is True
    assert rows["thing-9"][columns["kind"]] == "dog" and CAPTIONS[9] in rows["thing-9"]["text"]
    for number in WITHOUT_PICTURE:
        assert rows[f"thing-{number}"]["picture"] is None
    for number in WITHOUT_PRICE:
        assert rows[f"thing-{number}"][columns["price"]] is None
    assert rows["thing-9"]["picture"][:4] == b"RIFF"
    counts = {f.name: f.rows for f in index.layout.fields}
    assert counts == {
        "image": len(CAPTIONS) - 1 - len(WITHOUT_PICTURE),
        "caption": len(CAPTIONS) - 1 - len(WITHOUT_CAPTION),
    }


def test_a_broken_row_is_set_aside_and_listed(indexed):
    (fault,) = IndexFolder(indexed).read_faults()
    assert fault.key == f"thing-{BROKEN}" and fault.field == "image" and fault.row == BROKEN


def test_what_has_not_changed_is_not_embedded_again(own, trained, tmp_path, encoded):
    index_rows(trained, own, tmp_path / "i")
    assert len(set(encoded)) == len(CAPTIONS) - 1
    before = held(tmp_path / "i")
    encoded.clear()
    again = index_rows(trained, own, tmp_path / "i")
    assert not encoded and again.embedded == 0 and again.unchanged == len(CAPTIONS) - 1
    assert held(tmp_path / "i") == before
    # a file with the same content, and another time
    (own / "1.png").write_bytes((own / "1.png").read_bytes())
    assert index_rows(trained, own, tmp_path / "i").embedded == 0


def test_only_what_changed_is_embedded_and_only_if_vectors_depend_on_it(
    own, trained, tmp_path, encoded
):
    index_rows(trained, own, tmp_path / "i")
    before = held(tmp_path / "i")
    encoded.clear()
    rows = [row(n) for n in ALL]
    rows[10] |= {"price": 99.0}  # no vector depends on it
    rows[11] |= {"caption": "something else"}
    (own / "12.png").write_bytes((own / "13.png").read_bytes())
    (own / f"{BROKEN}.png").write_bytes((own / "13.png").read_bytes())  # mended
    write_rows(own, [*rows, {**row(2), "id": "new"}])
    done = index_rows(trained, own, tmp_path / "i")
    assert set(encoded) == {"thing-11", "thing-12", f"thing-{BROKEN}", "new"}
    assert (done.added, done.updated, done.embedded) == (2, 3, 4)
    assert (done.unchanged, done.deleted, done.faults) == (len(CAPTIONS) - 4, 0, [])
    after = held(tmp_path / "i")
    price = next(c.stored for c in done.layout.columns if c.name == "price")
    image = next(f.stored for f in done.layout.fields if f.name == "image")
    assert after["thing-10"][price] == 99.0
    assert after["thing-10"][image] == before["thing-10"][image]
    assert after["thing-12"][image] == pytest.approx(after["thing-13"][image], abs=1e-5)
    assert after["thing-9"] == before["thing-9"]
    hits = Index(tmp_path / "i").search(words="something", mode="text")
    assert keys(hits) == ["thing-11"]


def test_a_row_that_breaks_is_no_longer_found(own, trained, tmp_path):
    index_rows(trained, own, tmp_path / "i")
    (own / "2.png").write_bytes(b"no picture")
    done = index_rows(trained, own, tmp_path / "i")
    assert done.deleted == 1 and {f.key for f in done.faults} == {"thing-2", f"thing-{BROKEN}"}
    assert "thing-2" not in held(tmp_path / "i")


def on_disk(folder, word):
    """Whether a word stands in any file."""
    return subprocess.run(["grep", "-rqa", word, folder], check=False).returncode == 0


def test_what_is_deleted_is_gone(own, trained, tmp_path):
    rows = [row(n) for n in ALL]
    rows[10] |= {"caption": "a zanzibarian secret", "kind": "quetzalcoatl"}
    write_rows(own, rows)
    index_rows(trained, own, tmp_path / "i")
    index = Index(tmp_path / "i")
    assert keys(index.search(words="zanzibarian", mode="text")) == ["thing-10"]
    assert on_disk(tmp_path / "i", "quetzalcoatl") and on_disk(tmp_path / "i", "zanzibarian")
    vector = index.model().ask({"text": "a zanzibarian secret"})
    assert keys(index.search(vector, fields=["caption"], limit=1)) == ["thing-10"]
    with pytest.raises(UserError, match="--delete nothing: .* has no row of that key"):
        index_rows(trained, None, tmp_path / "i", delete=["thing-11", "nothing"])
    assert index_rows(trained, None, tmp_path / "i", delete=["thing-10"]).deleted == 1
    assert index.search(words="zanzibarian", mode="text") == []
    assert index.search(words="quetzalcoatl", mode="text") == []
    assert "thing-10" not in keys(index.search(vector, limit=100))
    assert "thing-11" in keys(index.search(vector, limit=100))
    assert not on_disk(tmp_path / "i", "quetzalcoatl")
    assert not on_disk(tmp_path / "i", "zanzibarian")


def test_rows_that_are_not_in_the_data_stay_or_are_pruned(own, trained, tmp_path):
    index_rows(trained, own, tmp_path / "i")
    write_rows(own, [row(n) for n in (0, 1, 2)])
    assert index_rows(trained, own, tmp_path / "i").layout.rows == len(CAPTIONS) - 1
    done = index_rows(trained, own, tmp_path / "i", prune=True)
    assert done.deleted == len(CAPTIONS) - 4 and done.layout.rows == 3
    assert set(held(tmp_path / "i")) == {"thing-0", "thing-1", "thing-2"}


def test_two_rows_of_one_key_are_one_row(own, trained, tmp_path):
    write_rows(own, [row(0), row(1), {**row(2), "id": "thing-0"}])
    done = index_rows(trained, own, tmp_path / "i")
    assert [(f.key, f.reason) for f in done.faults] == [("thing-0", "row 0 has the same key")]
    assert CAPTIONS[0] in held(tmp_path / "i")["thing-0"]["text"]


def test_new_columns_are_kept_and_other_kinds_refused(own, trained, tmp_path, encoded):
    index_rows(trained, own, tmp_path / "i")
    encoded.clear()
    write_rows(own, [{**row(n), "stars": n % 5} for n in (0, 1, 9)])
    done = index_rows(trained, own, tmp_path / "i")
    assert done.updated == 3 and not encoded
    index = Index(tmp_path / "i")
    vector = index.model().ask({"text": "dark"})
    assert keys(index.search(vector, where="stars = 4")) == ["thing-9"]
    write_rows(own, [{**row(0), "price": "cheap"}])
    with pytest.raises(UserError, match="column 'price' holds 'cheap' here, and was number"):
        index_rows(trained, own, tmp_path / "i")


def test_rows_may_lack_every_picture(own, trained, tmp_path):
    """Columns that the run knows and the rows have not; later rows have them."""
    lines = [{k: v for k, v in row(n).items() if k != "image"} for n in (0, 1, 2)]
    write_rows(own, lines)
    done = index_rows(trained, own, tmp_path / "i")
    assert {f.name: f.rows for f in done.layout.fields} == {"image": 0, "caption": 3}
    index = Index(tmp_path / "i")
    vector = index.model().ask({"image": own / "0.png"})
    assert len(index.search(vector)) == 3 and index.search(vector, fields=["image"]) == []


def test_another_model_is_refused(own, trained, shop, tmp_path):
    from sensorium.training.run import train

    other = tmp_path / "other"
    settings = {"width": 32, "depth": 1, "embed_dim": 16}
    options = {"workers": 0, "batch_size": 8}
    train("dual-encoder", shop, out=other, task="retrieval", settings=settings, options=options,
          budget="1steps", seed=1, device="cpu")  # fmt: skip
    index_rows(trained, own, tmp_path / "i")
    with pytest.raises(UserError, match="was made by another model"):
        index_rows(other, own, tmp_path / "i")
    with pytest.raises(UserError, match="was made by another model than"):
        Index(tmp_path / "i").model(other)
    # the same run in another place is the same model
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", trained, moved], check=True)
    assert Index(tmp_path / "i").model(moved).identity == Model(trained).identity
    layout = IndexFolder(tmp_path / "i").read_layout()
    gone = layout.changed(maker=layout.maker.changed(path=str(tmp_path / "gone")))
    IndexFolder(tmp_path / "i").write_layout(gone)
    with pytest.raises(UserError, match="say where it is with --run"):
        Index(tmp_path / "i").model()


def test_a_second_writer_waits_or_is_told(own, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("sensorium.training.folder.ENDING", 0.1)
    index_rows(trained, own, tmp_path / "i")
    before = held(tmp_path / "i")
    folder = IndexFolder(tmp_path / "i")
    (own / "0.png").write_bytes((own / "1.png").read_bytes())
    with folder.locked(), pytest.raises(UserError, match="is writing"):
        index_rows(trained, own, tmp_path / "i")
    assert held(tmp_path / "i") == before
    assert index_rows(trained, own, tmp_path / "i").updated == 1


def test_who_reads_sees_all_of_an_update_or_nothing(own, trained, tmp_path, monkeypatch):
    index_rows(trained, own, tmp_path / "i")
    index = Index(tmp_path / "i")
    vector = index.model().ask({"text": "dark thing"})
    before = [(hit.key, hit.score, hit.text) for hit in index.search(vector, limit=100)]
    seen = []

    def look(folder, storage, layout):
        seen.append(
            [
                (hit.key, hit.score, hit.text)
                for hit in Index(tmp_path / "i").search(vector, limit=100)
            ]
        )
        raise KeyboardInterrupt

    write_rows(own, [{**row(n), "caption": f"new {n}", "stars": n} for n in ALL])
    with monkeypatch.context() as patch:
        patch.setattr("sensorium.search.building.publish", look)
        with pytest.raises(KeyboardInterrupt):
            index_rows(trained, own, tmp_path / "i")
    assert seen == [before]
    assert [(hit.key, hit.score, hit.text) for hit in index.search(vector, limit=100)] == before
    done = index_rows(trained, own, tmp_path / "i")
    assert done.embedded == 0  # it was done before the interruption
    after = [(hit.key, hit.score, hit.text) for hit in index.search(vector, limit=100)]
    assert after != before and len(after) == len(before)
    assert keys(index.search(vector, where="stars = 9")) == ["thing-9"]


def test_a_column_of_an_interrupted_run_is_not_lost(own, trained, tmp_path, monkeypatch):
    index_rows(trained, own, tmp_path / "i")
    before = Index(tmp_path / "i")
    with_stars = [{**row(n), "stars": n} for n in ALL]
    write_rows(own, with_stars)
    with monkeypatch.context() as patch:
        patch.setattr("sensorium.search.building.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index_rows(trained, own, tmp_path / "i")
    vector = before.model().ask({"text": "dark"})
    assert "stars" not in Index(tmp_path / "i").search(vector)[0].values
    with pytest.raises(UserError, match="there is no column 'stars'"):
        before.search(vector, where="stars = 9")
    write_rows(own, [row(n) for n in (0, 1)])
    index_rows(trained, own, tmp_path / "i")
    write_rows(own, with_stars)
    done = index_rows(trained, own, tmp_path / "i")
    assert done.updated == 2 and done.embedded == 0
    assert keys(before.search(vector, where="stars = 9")) == ["thing-9"]


def test_no_number_of_a_row_is_used_twice(own, trained, tmp_path, monkeypatch):
    """A graph that is published knows a row that was deleted since, by its number."""
    index_rows(trained, own, tmp_path / "i", graph_from=1)
    with monkeypatch.context() as patch:
        patch.setattr("sensorium.search.building.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index_rows(trained, None, tmp_path / "i", delete=["thing-29"])
    write_rows(own, [{**row(0), "id": "new", "caption": "new words"}])
    index_rows(trained, own, tmp_path / "i")
    index = Index(tmp_path / "i")
    hit = index.search(index.model().ask({"text": "new words"}), fields=["caption"], limit=1)[0]
    assert hit.key == "new" and index._storage.fitting("key = 'new'").tolist() == [29]


def test_without_samples_nothing_but_keys_and_vectors_is_kept(own, trained, tmp_path):
    done = index_rows(trained, own, tmp_path / "i", samples=False)
    assert not done.layout.columns and not done.layout.has_text
    assert [fault.reason for fault in done.faults] == [done.faults[0].kind]
    assert not on_disk(tmp_path / "i", "thing nr9") and not on_disk(tmp_path / "i", "quoted")
    index = Index(tmp_path / "i")
    hit = index.search(index.model().ask({"text": CAPTIONS[9]}), limit=1)[0]
    assert (hit.values, hit.text, hit.picture) == ({}, "", None)
    with pytest.raises(UserError, match="has no words to search; use --mode vector"):
        index.search(words="dark", mode="text")


def test_graphs_come_and_go_and_say_how_much_they_find(own, trained, tmp_path):
    done = index_rows(trained, own, tmp_path / "i", graph_from=10)
    assert all(f.graph is not None and f.graph.recall > 0.9 for f in done.layout.fields)
    index = Index(tmp_path / "i")
    vector = index.model().ask({"text": "dark thing"})
    by_graph = keys(index.search(vector, limit=5))
    done = index_rows(trained, None, tmp_path / "i", graph_from=1000)
    assert all(f.graph is None for f in done.layout.fields)
    assert keys(index.search(vector, limit=5)) == by_graph
    index_rows(trained, None, tmp_path / "i", graph_from=2000)
    assert IndexFolder(tmp_path / "i").read_layout().graph_from == 2000
    layout = index_rows(trained, None, tmp_path / "i", graph_from=10).layout
    poor = [f.changed(graph=f.graph.changed(recall=0.5)) for f in layout.fields]
    IndexFolder(tmp_path / "i").write_layout(layout.changed(fields=tuple(poor)))
    (first, _) = Index(tmp_path / "i").warnings()
    assert "finds 50% of the ten nearest rows" in first and "--graph-from 28" in first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not an index: it has no index.json. Make one with"),
        ("{", "is not whole"),
        ("[]", "is not what `sensorium index` writes"),
        ('{"format": 99}', "another version of sensorium"),
    ],
)
def test_a_folder_that_is_no_index_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Index(tmp_path)


def test_no_usable_row_is_an_error(own, trained, tmp_path):
    write_rows(own, [row(BROKEN)])
    with pytest.raises(UserError, match=f"no row can be used. The first is row 'thing-{BROKEN}'"):
        index_rows(trained, own, tmp_path / "i")
    with pytest.raises(UserError, match="was never finished; run the same"):
        Index(tmp_path / "i")
    assert json.loads((tmp_path / "i" / "index.json").read_text())["version"] == 0
