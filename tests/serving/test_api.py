"""The API as its clients use it: OpenAI's own client, many at once, against a server process."""

import asyncio
import base64
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from servers import address_of, counted, image_part, picture, process, thread

from sensorium.comparison import compare
from sensorium.nn.language import Said
from sensorium.search.index import Index
from sensorium.search.model import Model
from sensorium.search.shown import hits_json
from sensorium.serving.writing import settled
from sensorium.training.run import train

TEXTS = [f"a red thing number {number} above a dog" * (1 + number % 3) for number in range(64)]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(embedder):
    return Model(embedder, "cpu")


def said(text, *files):
    parts = [{"type": "text", "text": text}, *map(image_part, files)]
    return [{"role": "user", "content": parts}]


# ---------------------------------------------------------------------- vectors


def test_texts_get_the_vectors_that_the_model_makes(client, model):
    for form in ("float", openai.omit):  # the client asks for base64 by itself
        found = client.embeddings.create(model="eye", input=TEXTS[:5], encoding_format=form)
        assert [each.index for each in found.data] == list(range(5))
        for text, each in zip(TEXTS, found.data, strict=False):
            np.testing.assert_allclose(each.embedding, model.ask({"text": text}), atol=1e-6)
    alone = client.embeddings.create(model="eye", input=TEXTS[0])
    np.testing.assert_allclose(alone.data[0].embedding, model.ask({"text": TEXTS[0]}), atol=1e-6)
    several = client.embeddings.create(model="eye", input=TEXTS[:2])
    assert 0 < alone.usage.prompt_tokens < several.usage.total_tokens


def test_pictures_and_both_together_get_theirs(client, model):
    text = {"type": "text", "text": "but in blue"}
    asked = [image_part(picture(1)), [text, image_part(picture(1))], "but in blue"]
    found = [each.embedding for each in client.embeddings.create(model="eye", input=asked).data]
    questions = [{"image": picture(1)}, {"text": "but in blue", "image": picture(1)}]
    for vector, question in zip(found, questions, strict=False):
        np.testing.assert_allclose(vector, model.ask(question), atol=1e-6)
    both = np.add(found[0], found[2])
    np.testing.assert_allclose(found[1], both / np.linalg.norm(both), atol=1e-5)


def test_64_clients_at_once_get_what_each_gets_alone(server, model):
    async def everybody():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server, limits=limits, timeout=60) as client:

            async def one(number):
                asked = {"model": "eye", "input": TEXTS[number]}
                for _ in range(4):
                    answer = await client.post("/v1/embeddings", json=asked)
                return answer

            answers = await asyncio.gather(*map(one, range(64)))
            return answers, (await client.get("/metrics")).text

    before = httpx.get(f"{server}/metrics").text
    answers, after = asyncio.run(everybody())
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer.status_code == 200, answer.text
        vector = answer.json()["data"][0]["embedding"]
        np.testing.assert_allclose(vector, model.ask({"text": text}), atol=1e-6)
    grown = [
        counted(after, name, queue="eye") - counted(before, name, queue="eye")
        for name in ("sensorium_batch_size_sum", "sensorium_batch_size_count")
    ]
    assert grown[0] == 256 and grown[1] < 230  # they did not all go alone


# ---------------------------------------------------------------------- search


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "a red heart"},
        {"input": "left of", "mode": "text"},
        {"input": "left of", "mode": "hybrid", "limit": 3},
        {"input": image_part(picture(2)), "fields": ["image"]},
        {"input": "a heart", "where": "language = 'en'", "index": "scenes.index"},
    ],
)
def test_rows_are_those_that_the_index_finds(server, indexed, model, asked):
    answer = httpx.post(f"{server}/v1/search", json={**asked, "pictures": True})
    assert answer.status_code == 200, answer.text
    question = {"text": asked["input"]}
    if not isinstance(asked["input"], str):
        question = {"image": picture(2)}
    mode = asked.get("mode", "vector")
    hits = Index(indexed).search(
        None if mode == "text" else model.ask(question),
        question.get("text", ""),
        mode=mode,
        where=asked.get("where"),
        fields=asked.get("fields", ()),
        limit=asked.get("limit", 10),
    )
    found = answer.json()["data"]
    pictures = [each.pop("picture") for each in found]
    assert [each["key"] for each in found] == [hit.key for hit in hits] and len(hits) > 1
    for each, expected in zip(found, hits_json(hits), strict=True):
        assert each == {**expected, "score": pytest.approx(expected["score"], abs=1e-5)}
    assert pictures == [address_of(hit.picture, "image/webp") for hit in hits]


def test_pictures_of_rows_come_only_when_asked_for(server):
    answer = httpx.post(f"{server}/v1/search", json={"input": "a red heart"})
    assert [each["picture"] for each in answer.json()["data"]] == [None] * 10


# ---------------------------------------------------------------------- chat


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_stream_says_what_the_whole_answer_says(client, seed):
    asked = {"model": "talker", "max_tokens": 24, "temperature": 1.0, "seed": seed}
    whole = client.chat.completions.create(messages=said("What?", picture()), **asked)
    usage = whole.usage
    assert whole.choices[0].message.content
    end = "length" if usage.completion_tokens == 24 else "stop"
    assert usage.completion_tokens <= 24 and whole.choices[0].finish_reason == end
    pieces = list(
        client.chat.completions.create(
            messages=said("What?", picture()),
            stream=True,
            stream_options={"include_usage": True},
            **asked,
        )
    )
    assert pieces[-1].usage == usage and not pieces[-1].choices
    *words, last = [piece.choices[0] for piece in pieces[:-1]]
    assert "".join(each.delta.content for each in words) == whole.choices[0].message.content
    assert last.finish_reason == end and len(words) > 5
    assert len({piece.id for piece in pieces}) == 1


def test_what_is_shown_and_said_before_counts(client):
    asked = {"model": "talker", "max_tokens": 12}

    def answer(messages):
        return client.chat.completions.create(messages=messages, **asked)

    first, again, other = (
        answer(said("What is there?", picture(n) if n else picture(1))) for n in (1, 0, 2)
    )
    assert first.choices[0].message == again.choices[0].message
    assert first.usage.prompt_tokens == other.usage.prompt_tokens
    without = answer(said("What is there?"))
    assert without.usage.prompt_tokens < first.usage.prompt_tokens
    system = {"role": "developer", "content": "Be brief."}
    longer = answer([system, *said("What is there?", picture(1))])
    assert longer.usage.prompt_tokens > first.usage.prompt_tokens


def test_an_answer_ends_at_stop_texts_which_are_not_sent(client):
    asked = {"model": "talker", "messages": said("What?"), "max_tokens": 40, "temperature": 1.0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    found = client.chat.completions.create(**asked, stop=stop).choices[0]
    assert found.message.content == whole[: whole.index(stop)] and found.finish_reason == "stop"
    pieces = client.chat.completions.create(**asked, stop=[stop], stream=True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert streamed == found.message.content


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_that_are_written_together_are_those_that_are_written_alone(
    server, single, temperature
):
    """Prompts differ in length and in whether there is a picture; settings, in some."""
    asked = [
        {
            "model": "talker",
            "messages": said(f"{'Well, ' * n}what is nr {n}?", *[picture(n)] * (n % 2)),
            "temperature": temperature if n % 3 else 1.5,
            "max_tokens": 16 if n % 4 else 5,
        }
        for n in range(12)
    ]

    async def together(address):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            calls = [client.post("/v1/chat/completions", json=each) for each in asked]
            answers = [answer.json() for answer in await asyncio.gather(*calls)]
            counts = (await client.get("/metrics")).text
        return [(a["choices"], a["usage"]) for a in answers], counts

    batched, counts = asyncio.run(together(server))
    alone, counts_alone = asyncio.run(together(single))
    assert batched == alone
    assert len({str(each) for each in batched}) > 1
    largest = counted(counts, "sensorium_batch_size_bucket", queue="talker", le="1.0")
    assert largest < counted(counts, "sensorium_batch_size_count", queue="talker")
    ones = counted(counts_alone, "sensorium_batch_size_bucket", queue="talker", le="1.0")
    assert ones == counted(counts_alone, "sensorium_batch_size_count", queue="talker")


def test_nothing_is_sent_that_may_still_change():
    assert settled(Said("caf\ufffd"), ()) == "caf"
    assert settled(Said("caf\ufffd", is_over=True), ()) == "caf\ufffd"
    assert settled(Said("the E"), ("END", "\n")) == "the "
    assert settled(Said("the EN"), ("END", "EN?")) == "the "
    assert settled(Said("the ENd"), ("END",)) == "the ENd"


# ---------------------------------------------------------------------- what is served


def test_what_is_served_is_listed(client):
    listed = {each.id: each for each in client.models.list()}
    assert {name: (each.object, each.can) for name, each in listed.items()} == {
        "eye": ("model", ["embeddings"]),
        "talker": ("model", ["chat"]),
        "scenes.index": ("index", ["search"]),
    }
    assert set(listed["scenes.index"].reads) == {"image", "text"}


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.NotFoundError, match="Did you mean 'eye'") as found:
        client.embeddings.create(model="eyes", input="a")
    assert found.value.code == "model_not_found" and found.value.param == "model"
    with pytest.raises(openai.NotFoundError, match="no assistant 'eye'"):
        client.chat.completions.create(model="eye", messages=said("a"))
    with pytest.raises(openai.BadRequestError, match="temperature") as found:
        client.chat.completions.create(model="talker", messages=said("a"), temperature=9)
    assert found.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="2 placeholders"):
        client.chat.completions.create(model="talker", messages=said("<image> a", picture()))
    with pytest.raises(openai.BadRequestError, match="last one must be the user's"):
        turns = [*said("a"), {"role": "assistant", "content": "b"}]
        client.chat.completions.create(model="talker", messages=turns, stream=True)
    with pytest.raises(openai.BadRequestError, match="no picture"):
        client.chat.completions.create(model="talker", messages=said("a", b"nothing"), stream=True)


def test_requests_are_counted_by_path_and_status(server):
    before = httpx.get(f"{server}/metrics").text
    httpx.post(f"{server}/v1/search", json={"input": "a", "limit": 0})
    for number in range(3):
        httpx.get(f"{server}/nothing/{number}")
    answer = httpx.get(f"{server}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    name = "sensorium_requests_total"
    for labels, more in (
        ({"path": "/v1/search", "status": "400"}, 1),
        ({"path": "other", "status": "404"}, 3),  # names that anybody makes up are no labels
    ):
        assert counted(answer.text, name, **labels) == counted(before, name, **labels) + more


def test_of_what_cannot_be_asked_there_are_the_results(tmp_path):
    data = "playground:majority?train=16&validation=8&test=8&size=32"
    options = {"workers": 0, "batch_size": 8}
    for name in ("one", "two"):
        train("late-fusion", data, out=tmp_path / name, task="classification", options=options,
              settings={"width": 32}, budget="1steps", device="cpu")  # fmt: skip
    compare(["late-fusion"], data, task="classification", options=options, budget="1steps",
            settings={"width": 32}, out=tmp_path / "compared", device="cpu")  # fmt: skip
    with thread([tmp_path / "one", tmp_path / "compared"]) as address:
        assert httpx.get(f"{address}/v1/models").json()["data"] == []
        assert httpx.get(f"{address}/reports").json()["data"] == ["one", "compared"]
        for name in ("one", "compared"):
            answer = httpx.get(f"{address}/reports/{name}")
            assert answer.status_code == 200 and "late-fusion" in answer.text
            assert "<script" not in answer.text and "<html" not in answer.text
        for name in ("two", "..%2ftwo", "one%2f..%2ftwo"):
            assert httpx.get(f"{address}/reports/{name}").status_code == 404
        answer = httpx.get(f"{address}/v1/search", params={"input": "a"})
        assert answer.status_code == 405
        answer = httpx.post(f"{address}/v1/search", json={"input": "a"})
        assert answer.status_code == 404 and "no index" in answer.json()["error"]["message"]


def test_an_index_whose_run_has_moved_is_served_with_it(indexed, embedder, tmp_path):
    """It is asked through the run that is named, if that made it."""
    import json
    import shutil

    moved = shutil.copytree(indexed, tmp_path / "moved.index")
    layout = json.loads((moved / "index.json").read_text())
    layout["maker"]["path"] = str(tmp_path / "gone")
    (moved / "index.json").write_text(json.dumps(layout))
    from sensorium.serving.counts import Counts
    from sensorium.serving.served import Served
    from sensorium.types import UserError

    with pytest.raises(UserError, match="serve its folder as well"):
        Served([moved], Counts(), device="cpu")
    assert list(Served([moved, embedder], Counts(), device="cpu").collections) == ["moved.index"]


def test_a_server_knows_rows_that_were_added_since(embedder, tmp_path):
    from sensorium.search.building import index_rows

    into = tmp_path / "growing.index"
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "caption": "one"}\n')
    index_rows(embedder, rows, into, key="id")
    with process(into) as (address, _):

        def found():
            answer = httpx.post(f"{address}/v1/search", json={"input": "two"})
            return [each["key"] for each in answer.json()["data"]]

        assert found() == ["a"]
        Path(rows).write_text('{"id": "b", "caption": "two"}\n')
        index_rows(embedder, rows, into, key="id")
        assert sorted(found()) == ["a", "b"]


def test_vectors_in_base64_are_little_endian_floats(server, model):
    asked = {"model": "eye", "input": "a", "encoding_format": "base64"}
    answer = httpx.post(f"{server}/v1/embeddings", json=asked).json()
    numbers = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(numbers, model.ask({"text": "a"}), atol=1e-6)
