"""Asking an index: rankings against plain ones, conditions, questions of several parts."""

import contextlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from shops import CAPTIONS, KINDS, WITHOUT_PICTURE, WITHOUT_PRICE, held, keys, row

import commands
from sensorium.cli.progress import RowsProgress
from sensorium.search.building import index_rows
from sensorium.search.index import Index, fused
from sensorium.types import UserError


@pytest.fixture(scope="module")
def index(indexed):
    return Index(indexed)


@pytest.fixture(scope="module")
def model(index):
    return index.model()


def by_hand(index, vector, fields=("image", "caption"), among=None):
    """Keys by the best of their fields, and those scores; of equal ones, the first row."""
    stored = {f.name: f.stored for f in index.layout.fields}
    scores = {}
    for key, kept in held(index.folder.path).items():
        own = [kept[stored[name]] for name in fields if kept[stored[name]] is not None]
        if own and (among is None or key in among):
            scores[key] = max(float(np.asarray(v, np.float32) @ vector) for v in own)
    order = sorted(scores, key=lambda key: (-scores[key], int(key.split("-")[1])))
    return order, scores


def test_rows_are_ranked_by_their_best_field(index, model):
    for question in ({"text": CAPTIONS[12]}, {"image": index.folder.path / ".." / "none"}):
        if "image" in question:
            question = {"image": PIL.Image.new("RGB", (30, 30), "navy")}
        vector = model.ask(question)
        order, scores = by_hand(index, vector)
        hits = index.search(vector, limit=100)
        assert keys(hits) == order
        np.testing.assert_allclose([h.score for h in hits], [scores[k] for k in order], atol=1e-5)
        assert [h.place for h in hits] == list(range(1, len(order) + 1))
        for field in ("image", "caption"):
            order, _ = by_hand(index, vector, [field])
            hits = index.search(vector, fields=[field], limit=7)
            assert keys(hits) == order[:7] and {h.field for h in hits} == {field}


def test_a_row_without_a_picture_is_found_by_its_text(index, model):
    for number in WITHOUT_PICTURE:
        hit = index.search(model.ask({"text": CAPTIONS[number]}), limit=1)[0]
        assert (hit.key, hit.field, hit.picture) == (f"thing-{number}", "caption", None)


def test_several_parts_are_the_sum_of_their_unit_vectors(index, model, shop):
    text, image = model.ask({"text": "light thing"}), model.ask({"image": shop / "2.png"})
    both = model.ask({"text": "light thing", "image": shop / "2.png"})
    np.testing.assert_allclose(both, (text + image) / np.linalg.norm(text + image), atol=1e-6)
    assert np.linalg.norm(both) == pytest.approx(1, abs=1e-5)


def test_words_are_found_in_any_script_and_are_data(index):
    found = index.search(words="猫", mode="text", limit=50)
    assert set(keys(found)) == {f"thing-{n}" for n in range(30) if n % 4 == 3 and n != 7}
    assert {k.ranks["text"] for k in found} == set(range(1, len(found) + 1))
    assert keys(index.search(words="GRÖSSE nr11", mode="text", limit=1)) == ["thing-11"]
    assert keys(index.search(words='nr9" OR text:*) AND (', mode="text", limit=1)) == ["thing-9"]
    assert index.search(words="nowhere", mode="text") == []


def test_hybrid_is_what_a_hand_computes(index, model):
    words = "dark nr4 größe"
    vector = model.ask({"text": words})
    by_vector = keys(index.search(vector, limit=100))
    by_words = keys(index.search(words=words, mode="text", limit=100))
    scores = {}
    for ranking in (by_vector, by_words):
        for rank, key in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0) + 1 / (60 + rank)
    place = {key: by_vector.index(key) for key in by_vector}
    order = sorted(scores, key=lambda key: (-scores[key], place[key]))
    hits = index.search(vector, words, mode="hybrid", limit=12)
    assert keys(hits) == order[:12] and order != by_vector and order != by_words
    np.testing.assert_allclose([h.score for h in hits], [scores[h.key] for h in hits])
    for hit in hits:
        assert hit.ranks["vector"] == by_vector.index(hit.key) + 1
        assert hit.ranks.get("text") == (
            by_words.index(hit.key) + 1 if hit.key in by_words else None
        )


def test_fusion():
    assert fused([{7: 1, 8: 2}, {8: 1, 9: 2}]) == [
        (8, 1 / 62 + 1 / 61), (7, 1 / 61), (9, 1 / 62),
    ]  # fmt: skip
    assert fused([{1: 1, 2: 2}, {2: 1, 1: 2}]) == [(1, 1 / 61 + 1 / 62), (2, 1 / 61 + 1 / 62)]


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("price < 10", lambda r: r["price"] is not None and r["price"] < 10),
        ("price is missing", lambda r: r["price"] is None),
        ("kind = 'it''s \"quoted\"' and sold = true",
         lambda r: r["kind"] == KINDS[2] and r["sold"]),
        ("kind in ('größe 猫', 'cat') or not sold = false",
         lambda r: r["kind"] in (KINDS[3], "cat") or r["sold"]),
        ("kind = 'x'' OR 1=1 --'", lambda r: False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_a_condition_loses_no_row_and_lets_no_other_in(index, model, where, holds, mode):
    fitting = {f"thing-{n}" for n in range(30) if n != 7 and holds(row(n))}
    vector = model.ask({"text": "light thing"})
    hits = index.search(vector, "thing light dark", mode=mode, where=where, limit=100)
    if mode == "text":
        fitting -= {"thing-5"}  # has no caption
    assert set(keys(hits)) == fitting
    if mode == "vector":
        order, _ = by_hand(index, vector, among=fitting)
        assert keys(index.search(vector, where=where, limit=3)) == order[:3]


def test_a_condition_is_exact_where_a_graph_is_not(
    index, model, shop, trained, tmp_path, monkeypatch
):
    from sensorium.search import graph as graphs
    from sensorium.search.building import index_rows

    monkeypatch.setattr(graphs.NearGraph, "nearest", lambda *_: (np.empty(0), np.empty(0, int)))
    index_rows(trained, shop, tmp_path / "i", graph_from=1)
    own = Index(tmp_path / "i")
    vector = model.ask({"text": "light"})
    assert own.search(vector) == [] and len(own.warnings()) == 2
    hits = own.search(vector, where="price is missing")
    assert set(keys(hits)) == {f"thing-{n}" for n in WITHOUT_PRICE}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "txt", "words": "a"}, "--mode txt: Did you mean 'text'"),
        ({}, "nothing is asked: give a text, or a picture or recording"),
        ({"words": " ", "mode": "text"}, "no words are given"),
        (
            {"vector": np.ones(16, np.float32), "fields": ["imge"]},
            "--in imge: Did you mean 'image'",
        ),
        (
            {"vector": np.ones(3, np.float32)},
            "is a vector of 3 numbers, and those of 'image' have 16",
        ),
        ({"vector": np.ones(16, np.float32), "where": ""}, "condition, character 1"),
        ({"vector": np.ones(16, np.float32), "limit": 0}, "--limit 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_asked_is_said(index, asked, message):
    with pytest.raises(UserError, match=message):
        index.search(**asked)


def test_a_question_that_cannot_be_read_is_named(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for question, message in (
        ({"image": tmp_path / "a.png"}, "the question's image: .*a.png"),
        ({"image": tmp_path / "none.png"}, "the question's image: .*none.png"),
        ({"audio": tmp_path / "a.wav"}, "cannot be asked with audio. .*Known: image, text"),
        ({"text": "  "}, "the question's text"),
    ):
        with pytest.raises(UserError, match=message):
            model.ask(question)


def test_the_names_in_the_library(indexed, trained):
    import sensorium as sm

    assert sm.Index is Index and sm.index(trained, None, indexed, graph_from=10**6).added == 0


# ---------------------------------------------------------------------- commands


def test_progress_is_a_line_now_and_then_and_a_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = iter([0.0, 5.0, 20.0, 20.0])
    monkeypatch.setattr("sensorium.cli.progress.time.monotonic", lambda: next(clock))
    with contextlib.redirect_stderr(io.StringIO()) as err, RowsProgress("my.index") as progress:
        progress(256, 10_000)
        progress(512, 10_000)
    assert err.getvalue() == "my.index: 512 of 10,000 rows\n"
    monkeypatch.undo()
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stderr(Terminal()) as err, RowsProgress("my.index") as progress:
        progress(512, 1000)
    assert "512/1000" in err.getvalue()


def test_the_two_commands(shop, trained, tmp_path):
    place = tmp_path / "my.index"
    done = commands.run("index", trained, shop, "--into", place)
    assert done.code == 0, done.err
    assert f"{place}: 29 rows. 29 added, 0 updated, 0 unchanged, 0 deleted, 29 embedded" in done.out
    assert "image (image): 27 vectors; all vectors are compared" in done.out
    assert "1 row set aside" in done.err and "thing-7" in done.err
    assert "sensorium search" in done.out
    again = json.loads(commands.run("index", trained, shop, "--into", place, "--json").out)
    assert (again["unchanged"], again["embedded"], again["index"]["rows"]) == (29, 0, 29)
    counts = ("added", "updated", "deleted")
    assert [again[name] for name in counts] == [0, 0, 0] and len(again["faults"]) == 1
    found = commands.run("search", place, CAPTIONS[12], "--where", "price < 13", "--limit", 2)
    assert found.code == 0, found.err
    assert "thing-12" in found.out and "price 12.5" in found.out and "sold yes" in found.out
    page = tmp_path / "found.html"
    asked = ["search", place, "light thing", "--image", shop / "2.png", "--mode", "hybrid"]
    hits = json.loads(commands.run(*asked, "--json", "--html", page, "--where", "sold = true").out)
    assert len(hits) == 10 and hits[0]["place"] == 1 and set(hits[0]["ranks"]) <= {"vector", "text"}
    text = page.read_text()
    assert text.count("data:image/webp") >= 9 and "it&#39;s &#34;quoted&#34;" in text
    arguments = ["index", trained, "--into", place, "--delete", "thing-12", "--json"]
    assert json.loads(commands.run(*arguments).out)["deleted"] == 1
    assert "thing-12" not in commands.run("search", place, CAPTIONS[12], "--limit", 50).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{shop}", "dog"], "is not an index: it has no index.json"),
        (["search", "{index}", "dog", "--where", "price < "], "condition, character 8"),
        (["search", "{index}", "--mode", "text", "--image", "a.png"], "--mode text compares words"),
        (["search", "{index}"], "nothing is asked"),
        (["search", "{index}", "dog", "--run", "{shop}"], "is not a run folder"),
        (["index", "{run}", "--into", "{index}"], "nothing to be done: name rows"),
        (["index", "{run}", "--into", "{index}", "--prune", "--delete", "a"], "name the rows that stay"),
        (["index", "{run}", "{shop}", "--into", "{index}", "--key", "ide"], "Did you mean 'id'"),
        (["index", "{run}", "{shop}", "--into", "{index}", "--key", "caption"], "names rows by the column 'id'"),
        (["index", "{run}", "{shop}", "--into", "{shop}"], "something else than an index"),
        (["index", "{run}", "--into", "{shop}/new", "--delete", "a"], "is no index yet"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(shop, trained, indexed, arguments, message):
    places = {"shop": shop, "run": trained, "index": indexed}
    outcome = commands.run(*(argument.format(**places) for argument in arguments))
    assert outcome.code == 2 and message in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("graph_from", [10**9, 1])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"limit": 3, "fields": ["image"]},
        {"where": "price < 12"},
        {"limit": 100},
        {"where": "price > 1000"},
    ],
)
def test_several_questions_at_once_find_what_each_finds(indexed, tmp_path, asked, graph_from):
    if graph_from == 1:
        indexed = shutil.copytree(indexed, tmp_path / "graph.index")
        index_rows(Index(indexed).layout.maker.path, None, indexed, graph_from=1)
    index = Index(indexed)
    model = index.model(device="cpu")
    vectors = np.stack([model.ask({"text": f"thing nr{number}"}) for number in range(9)])
    together = index.search_vectors(vectors, **asked)
    alone = [index.search(vector, **asked) for vector in vectors]
    assert [keys(hits) for hits in together] == [keys(hits) for hits in alone]
    for hits, others in zip(together, alone, strict=True):
        for hit, other in zip(hits, others, strict=True):
            assert replace(hit, score=0) == replace(other, score=0)
            assert hit.score == pytest.approx(other.score, abs=1e-6)
    with pytest.raises(UserError, match="a vector of 3 numbers"):
        index.search_vectors(vectors[:, :3])
