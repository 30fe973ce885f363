"""What a server does not do, whatever it is sent; and that it goes on serving others meanwhile."""

import json
import signal
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import httpx
import pytest
from servers import address_of, counted, picture, process

from sensorium.serving.server import check_access, is_loopback, serve
from sensorium.types import UserError

TOKEN = {"Authorization": "Bearer a token of tests"}


def chunk(kind, content):
    end = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + end


def promised(width, height):
    """A PNG file whose header promises so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb_of_text():
    """A small PNG file with notes of 100 megabytes in a thousandth of that."""
    notes = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))
    file, head = picture(), 33
    return file[:head] + notes + file[head:]


def embed(address, asked, **options):
    content = {"model": "eye", "input": asked}
    return httpx.post(f"{address}/v1/embeddings", json=content, headers=TOKEN, **options)


def message_of(answer, status=400):
    """What went wrong; it is said in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error["message"]


# ---------------------------------------------------------------------- what is sent


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1/a.png", "is not fetched: this server opens no address"),
        ("HTTPS://example.org/a.png", "is not fetched"),
        ("file:///etc/passwd", "expected data:image/png;base64"),
        ("/etc/passwd", "expected data:image/png;base64"),
        ("data:image/png,abc", "expected data:image/png;base64"),
        ("data:image/png;base64,%%%", "should be base64"),
        ("data:image/png;base64,", "no picture of a known kind"),
        (address_of(b"\x89PNG broken"), "the picture"),
        (address_of(picture()[:200]), "cannot be decoded"),
        (address_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no picture"),
        (address_of(promised(60_000, 60_000)), "more than 10000 pixels"),
        (address_of(picture(size=(101, 100))), "more than 10000 pixels"),
        (address_of(bomb_of_text()), "the picture"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused_and_nothing_is_opened(
    strict, url, message, monkeypatch
):
    connected = []
    connect = socket.socket.connect
    monkeypatch.setattr(
        socket.socket, "connect", lambda self, to: connected.append(to) or connect(self, to)
    )
    answer = embed(strict, {"type": "image_url", "image_url": {"url": url}})
    assert message in message_of(answer)
    assert [to[1] for to in connected] == [urlparse(strict).port]  # our own request


@pytest.mark.parametrize(
    ("data", "message"),
    [("%", "should be base64"), ("", "audio"), ("UklGRg==", "audio")],
)
def test_recordings_that_the_model_does_not_read_are_refused(strict, data, message):
    asked = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    assert message in message_of(embed(strict, asked))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", ""),
        (b'{"model": "eye"}', "input: Field required"),
        (b'{"model": "eye", "input": 5}', "input"),
        (b'{"model": "eye", "input": []}', "input"),
        (b'{"model": "eye", "input": ""}', "empty"),
        (b'{"model": "eye", "input": "a", "dimensions": 3}', "dimensions: Extra inputs"),
        (b'{"model": "eye", "input": ["a", {"type": "text", "text": " "}]}', "empty"),
        (b"[" * 100_000, "body"),
    ],
)
def test_what_is_no_request_is_refused(strict, content, message):
    headers = {**TOKEN, "Content-Type": "application/json"}
    answer = httpx.post(f"{strict}/v1/embeddings", content=content, headers=headers)
    assert message in message_of(answer)


def test_text_that_is_no_json_by_its_own_word_is_refused(strict):
    """So a form on a page of the web cannot ask."""
    content = json.dumps({"model": "eye", "input": "a"})
    headers = {**TOKEN, "Content-Type": "text/plain"}
    message_of(httpx.post(f"{strict}/v1/embeddings", content=content, headers=headers))


@pytest.mark.parametrize("told", [True, False])
def test_too_much_is_refused_whether_or_not_it_is_told_before(strict, told):
    content = json.dumps({"model": "eye", "input": "a" * 300_000}).encode()
    sent = content if told else iter([content[:150_000], content[150_000:]])
    headers = {**TOKEN, "Content-Type": "application/json"}
    answer = httpx.post(f"{strict}/v1/embeddings", content=sent, headers=headers)
    message_of(answer, 413)


def test_text_with_what_no_tokenizer_takes_is_text(strict):
    headers = {**TOKEN, "Content-Type": "application/json"}
    content = b'{"model": "eye", "input": "a\\u0000b \\ud800"}'
    answer = httpx.post(f"{strict}/v1/embeddings", content=content, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    assert embed(strict, "a\0b").status_code == 200


# ---------------------------------------------------------------------- who asks


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a token of test"},
        {"Authorization": "Bearer a token of tests2"},
        {"Authorization": "Basic a token of tests"},
        {"Authorization": "Bearer \xe4\xf6"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/v1/embeddings"])
def test_without_the_token_there_is_nothing(strict, path, given):
    given = {name: value.encode("latin-1") for name, value in given.items()}
    answer = httpx.get(f"{strict}{path}", headers=given)
    assert "token" in message_of(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_there_is_and_health_needs_none(strict):
    assert httpx.get(f"{strict}/v1/models", headers=TOKEN).status_code == 200
    assert httpx.get(f"{strict}/health").json() == {"status": "ok"}


def test_other_names_of_this_machine_are_refused(strict):
    """A page of the web whose name leads here asks in the name of whoever looks at it."""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        answer = httpx.get(f"{strict}/health", headers={"Host": host})
        assert answer.status_code == 421 or host == ""
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:5"):
        assert httpx.get(f"{strict}/health", headers={"Host": host}).status_code == 200


def test_other_addresses_need_a_token():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        check_access(host, None)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""):
        with pytest.raises(UserError, match="SENSORIUM_TOKEN"):
            check_access(host, None)
        check_access(host, "a" * 16)
    for token in ("short", "", "a b" * 10, "ä" * 20):
        with pytest.raises(UserError, match="SENSORIUM_TOKEN"):
            check_access("0.0.0.0", token)


# ---------------------------------------------------------------------- who is slow, or leaves


def connected(address):
    to = urlparse(address)
    return socket.create_connection((to.hostname, to.port), timeout=20)


def test_who_sends_too_slowly_is_sent_away_and_others_are_served_meanwhile(strict):
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer a token of tests\r\nContent-Length: 1000\r\n\r\n"
    )
    slow = [connected(strict) for _ in range(20)]
    for each in slow:
        each.sendall(head.encode() + b'{"model"')
    begin = time.perf_counter()
    assert embed(strict, "a").status_code == 200
    assert time.perf_counter() - begin < 1
    for each in slow:
        with each:
            assert each.recv(4096).startswith(b"HTTP/1.1 408")
    assert 0.8 < time.perf_counter() - begin < 10


def chat(address, stream=True, tokens=900):
    content = {
        "model": "talker",
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": tokens,
        "temperature": 2.0,
        "stream": stream,
    }
    return {"url": f"{address}/v1/chat/completions", "json": content, "timeout": 60}


def written(address):
    return counted(
        httpx.get(f"{address}/metrics").text, "sensorium_tokens_written_total", model="talker"
    )


def test_who_does_not_read_holds_nobody_up(server):
    with httpx.stream("POST", **chat(server, tokens=300)) as slow:
        parts = slow.iter_text()
        next(parts)
        begin = time.perf_counter()
        answer = httpx.post(**chat(server, stream=False, tokens=2))
        assert answer.status_code == 200 and time.perf_counter() - begin < 30
        assert "[DONE]" in "".join(parts)  # and still gets all of it


@pytest.mark.parametrize("stream", [True, False])
def test_nobody_is_written_for_who_has_left(server, stream):
    whole = httpx.post(**chat(server, stream=False)).json()["usage"]["completion_tokens"]
    assert whole > 300  # of the same seed, so that it would be as long again
    before = written(server)
    to = chat(server, stream)
    body = json.dumps(to["json"]).encode()
    with connected(server) as leaving:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        leaving.sendall(head.encode() + body)
        if stream:
            assert leaving.recv(4096).startswith(b"HTTP/1.1 200")
        else:
            time.sleep(0.1)
    # a later one is written only when that before it has ended
    assert httpx.post(**chat(server, stream=False, tokens=1)).status_code == 200
    assert written(server) - before < whole


def test_what_was_accepted_is_finished_when_the_server_ends(indexed, assistant):
    with process(indexed, assistant) as (address, running):
        with ThreadPoolExecutor(12) as clients:
            whole = clients.submit(lambda: httpx.post(**chat(address, stream=False, tokens=200)))
            reference = whole.result().json()["choices"]
            begun = threading.Barrier(9)

            def read_stream():
                with httpx.stream("POST", **chat(address, tokens=200)) as answer:
                    parts = answer.iter_text()
                    text = next(parts)
                    begun.wait(60)
                    return text + "".join(parts)

            streams = [clients.submit(read_stream) for _ in range(8)]
            begun.wait(60)
            texts = [
                clients.submit(lambda: httpx.post(**chat(address, stream=False, tokens=200)))
                for _ in range(3)
            ]
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)
            for each in streams:
                events = [line[6:] for line in each.result(60).splitlines() if line]
                assert events[-1] == "[DONE]"
                deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
                said = "".join(delta.get("content", "") for delta in deltas)
                assert said == reference[0]["message"]["content"]
            assert [each.result(60).json()["choices"] for each in texts] == [reference] * 3
        assert running.wait(60) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


# ---------------------------------------------------------------------- mistakes of whoever serves


def test_what_cannot_be_served_is_said_before_anything_listens(
    indexed, embedder, assistant, tmp_path
):
    with pytest.raises(UserError, match="is no run, index or comparison"):
        serve([tmp_path])
    same = tmp_path / "talker"
    same.symlink_to(assistant)
    with pytest.raises(UserError, match="called 'talker'"):
        serve([assistant, same])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            serve([embedder], port=port)
