"""Questions put to assistants: to a run, and to what answers behind an address."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from servers import picture

from commands import run
from sensorium.nn.language import Generation
from sensorium.search.index import Index
from sensorium.search.readers import AssistantReader, EndpointReader
from sensorium.search.rerankers import RelevancyReranker
from sensorium.training.run import load, train
from sensorium.types import UserError

SETTINGS = Generation(max_tokens=12)


@pytest.fixture(scope="module")
def reader(assistant):
    return AssistantReader(load(assistant, "cpu"), SETTINGS)


@pytest.fixture(scope="module")
def hits(indexed):
    index = Index(indexed)
    return index.search(index.model(device="cpu").ask({"text": "a dog"}), limit=20)


@contextmanager
def endpoint(answer):
    """An address where every request is answered by `answer(path, headers)`: status, headers, body."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_an_assistant_behind_an_address_says_what_it_says_as_a_run(server, reader, hits):
    behind = EndpointReader(f"{server}/v1/", SETTINGS)
    for question in ({"text": "Is there a dog?"}, {"text": "Is it this?", "image": picture(3)}):
        said = behind.answer(question, hits[:2])
        assert said == reader.answer(question, hits[:2]) and said
    assert behind.name == f"talker at {server}/v1"


def test_relevance_is_the_likelihood_of_yes_against_no_of_each_row_alone(reader, hits):
    question = {"text": "Is there a dog?"}
    together = reader.scores(question, hits)
    assert together.shape == (20,) and ((together > 0) & (together < 1)).all()
    alone = [reader.scores(question, [hit])[0] for hit in hits[:5]]
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)
    other = reader.scores({"text": "Is there a dog?", "image": picture(3)}, hits[:5])
    assert not np.allclose(other, together[:5], atol=1e-6)
    assert len(set(together.round(6))) > 10


def test_what_looks_like_a_placeholder_in_a_row_is_text(reader, hits):
    from dataclasses import replace

    odd = replace(hits[0], text="an <image> of <images>, <sound> and </image>, 1 < 2")
    plain = replace(hits[0], text="an image of images, sound and image, 1 < 2")
    asked = {"text": "Is there an <image>?"}
    assert reader.answer(asked, [odd]) == reader.answer({"text": "Is there an image?"}, [plain])
    assert 0 < reader.scores(asked, [odd])[0] < 1


# ---------------------------------------------------------------------- the command


def test_a_run_answers_with_citations_and_shows_its_steps(indexed, assistant):
    asked = ["ask", indexed, "Is there a dog?", "--with", assistant, "--max-tokens", "5"]
    done = run(*asked, "--json", "--steps", "--least", "0", "--candidates", "7")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    scores = [each["score"] for each in found["candidates"]]
    assert len(scores) == 7 and scores == sorted(scores, reverse=True)
    assert [each["number"] for each in found["candidates"]] == [1, 2, 3, *[None] * 4]
    cited = [each["row"]["key"] for each in found["candidates"] if each["cited"]]
    assert [each["key"] for each in found["cited"]] == cited and cited
    assert found["ranked_by"] == found["read_by"] == "talker"
    shown = run(*asked, "--steps", "--least", "0")
    assert all(key in shown.out for key in cited) and "[1]" in shown.out


def test_with_nothing_relevant_it_says_so(indexed, assistant):
    asked = ["ask", indexed, "Is there a dog?", "--with", assistant, "--least", "1"]
    assert run(*asked).out.strip() == "Nothing in the index is relevant to this question."
    found = json.loads(run(*asked, "--json").out)
    assert found["cited"] == [] and found["read_by"] is None


def test_an_address_answers(server, indexed, tmp_path):
    file = tmp_path / "q.png"
    file.write_bytes(picture(3))
    asked = ["ask", indexed, "Is it this?", "--image", file, "--with", f"{server}/v1", "--rows", 2]
    done = run(*asked, "--json", "--steps", "--max-tokens", "5")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["ranked_by"] == "the index" and found["read_by"].startswith("talker at http")
    assert [each["score"] for each in found["candidates"]] == [
        each["row"]["score"] for each in found["candidates"]
    ]
    assert sum(each["number"] is not None for each in found["candidates"]) == 2


def test_a_run_of_relevancy_says_what_is_read_whoever_answers(server, indexed, tmp_path):
    where = "playground:statements?train=32&validation=8&test=8&pictures=12&size=32"
    small = {"width": 32, "heads": 2, "key_heads": 1, "image_size": 32, "encoder_width": 32}
    judge = train("relevancy", where, out=tmp_path / "judge", settings=small, budget="2steps",
                  options={"batch_size": 8, "workers": 0}, device="cpu")  # fmt: skip
    asked = ["ask", indexed, "a dog", "--with", f"{server}/v1", "--rerank", tmp_path / "judge"]
    done = run(*asked, "--json", "--steps", "--least", "0", "--max-tokens", "5")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    index = Index(indexed)
    hits = index.search(index.model(device="cpu").ask({"text": "a dog"}), limit=20)
    scores = dict(
        zip(
            (hit.key for hit in hits),
            RelevancyReranker(judge).scores({"text": "a dog"}, hits),
            strict=True,
        )
    )
    assert found["ranked_by"] == "judge" and found["read_by"].startswith("talker at http")
    said = {each["row"]["key"]: each["score"] for each in found["candidates"]}
    assert said == pytest.approx(scores, abs=1e-5) and len(set(said.values())) > 10
    # these are probabilities: at least half is asked for, if nothing else is
    found = json.loads(run(*asked, "--json", "--steps", "--max-tokens", "5").out)
    likely = sum(score >= 0.5 for score in scores.values())
    assert sum(each["number"] is not None for each in found["candidates"]) == min(3, likely)
    nothing = run(*asked, "--least", "1")
    assert nothing.out.strip() == "Nothing in the index is relevant to this question."


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--with", "{server}/v1", "--model", "nobody"], "no assistant 'nobody' is served"),
        (["--with", "{server}/v2"], "answered 404: there is nothing at /v2/models"),
        (["--with", "http://127.0.0.1:9/v1"], "does not answer as OpenAI's API does"),
        (["--with", "file:///etc/passwd"], "file:/etc/passwd"),
        (["--with", "{embedder}"], "writes no text; expected an assistant"),
        (["--with", "{assistant}", "--rerank", "{embedder}"], "expected one of 'relevancy'"),
        (["--with", "{assistant}", "--model", "a"], "--model is for an address"),
        (["--with", "{assistant}", "--image", "gone.png"], "gone.png"),
        (["--with", "{assistant}", "--where", "price <"], "condition"),
    ],
)
def test_mistakes_are_explained(server, indexed, embedder, assistant, more, message):
    places = {"server": server, "embedder": embedder, "assistant": assistant}
    done = run("ask", indexed, "Is it?", *(each.format(**places) for each in more))
    assert done.code == 2 and message in " ".join(done.err.split()), done.err


def test_an_address_with_several_models_must_be_told_which():
    listed = json.dumps({"data": [{"id": "a"}, {"id": "b"}, {"id": "c", "can": ["search"]}]})
    with endpoint(lambda path: (200, {}, listed.encode())) as (address, _):
        with pytest.raises(UserError, match="--model .*: a, b$"):
            EndpointReader(address, SETTINGS)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'],
)
def test_answers_of_another_form_are_no_answers(body, hits):
    with endpoint(lambda path: (200, {}, body)) as (address, _):
        reader = EndpointReader(address, SETTINGS, "m")
        with pytest.raises(UserError, match="OpenAI's API"):
            reader.answer({"text": "?"}, hits[:1])


def test_the_key_goes_to_the_address_and_nowhere_else(hits, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    with endpoint(lambda path: (200, {}, b"{}")) as (other, reached):
        moved = {"Location": other + "/models"}
        with endpoint(lambda path: (302, moved, b"")) as (address, seen):
            with pytest.raises(UserError, match="answered 302"):
                EndpointReader(address, SETTINGS)
            assert seen == [("/v1/models", "Bearer a secret")]
        assert reached == []
