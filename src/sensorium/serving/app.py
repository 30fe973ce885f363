"""The application: what is asked at which path, and what answers it.

request ─ guard ─ read and checked ─ queue ─ model ─┬─ vectors
          (token,  (uploads)         (batching)     ├─ words, one by one
           host,                            index ──┴─ rows
           time)
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from sensorium import __version__
from sensorium.nn.language import Said
from sensorium.report.pictures import as_address
from sensorium.search.shown import hits_json
from sensorium.serving.counts import Counts
from sensorium.serving.guard import Guard
from sensorium.serving.page import OPEN, add_page
from sensorium.serving.problems import Gone, add_handlers
from sensorium.serving.requests import (
    Answer,
    ChatAnswer,
    ChatRequest,
    Choice,
    Embedded,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    Found,
    Health,
    ModelsAnswer,
    ProblemAnswer,
    SearchAnswer,
    SearchRequest,
    Usage,
)
from sensorium.serving.served import Search, Served, Writer
from sensorium.serving.uploads import Limits, read_question
from sensorium.serving.writing import Conversation, Written, read_chat, settled
from sensorium.types import UserError

Result = TypeVar("Result")


def make_app(
    served: Served,
    counts: Counts,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: tuple[str, ...] | None = None,
) -> FastAPI:
    """The application.

    Args:
        served: what it serves.
        counts: what is counted of it.
        limits: of what comes in.
        token: that requests must carry; None if they need none.
        hosts: that requests may name; any if None.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with served:
            yield

    app = FastAPI(
        title="Sensorium",
        version=__version__,
        lifespan=lifespan,
        # the pages of these load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ProblemAnswer}, "5XX": {"model": ProblemAnswer}},
    )
    add_handlers(app)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers."""
        return Health()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """What was counted, for Prometheus."""
        return Response(counts.text(), media_type=Counts.kind)

    @app.get("/v1/models")
    async def models() -> ModelsAnswer:
        """All that is served."""
        return ModelsAnswer(data=served.models())

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingsRequest, request: Request) -> EmbeddingsAnswer:
        """Unit vectors of texts, pictures and recordings."""
        embedder = served.embedder(asked.model)
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        questions = [read_question(each, limits) for each in inputs]
        calls = [embedder.queue.ask(question) for question in questions]
        vectors = await _while_connected(request, _together(calls))
        texts = [question["text"] for question in questions if "text" in question]
        read = _tokens(embedder.model.run.system.tokenizer, texts)
        return EmbeddingsAnswer(
            data=[
                Embedded(index=place, embedding=_written(vector, asked.encoding_format))
                for place, vector in enumerate(vectors)
            ],
            model=embedder.name,
            usage=Usage(prompt_tokens=read, total_tokens=read),
        )

    @app.post("/v1/search")
    async def search(asked: SearchRequest, request: Request) -> SearchAnswer:
        """Rows of an index that are like a text, a picture, a recording, or several together."""
        collection = served.collection(asked.index)
        question = read_question(asked.input, limits)
        if asked.mode == "text" and question.keys() != {"text"}:
            raise UserError("mode text compares words alone; ask with a text, or use mode hybrid")
        vector = None
        if asked.mode != "text":
            vector = await _while_connected(request, collection.embedder.queue.ask(question))
        words = question.get("text", "")
        wanted = Search(vector, words, asked.mode, asked.where, asked.fields, asked.limit)
        hits = await _while_connected(request, collection.queue.ask(wanted))
        found = [Found(**each) for each in hits_json(hits)]
        if asked.pictures:
            for hit, each in zip(hits, found, strict=True):
                each.picture = as_address(hit.picture) if hit.picture else None
        return SearchAnswer(index=collection.name, data=found, warnings=collection.index.warnings())

    @app.post(
        "/v1/chat/completions",
        response_model=ChatAnswer,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """What an assistant answers; as events, word by word, if it is to be streamed."""
        writer = served.writer(asked.model)
        conversation = read_chat(asked, writer.system, limits)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        if not asked.stream:
            written = await _while_connected(request, _answered(writer, conversation))
            return ChatAnswer(
                id=name,
                created=int(time.time()),
                model=writer.name,
                choices=[
                    Choice(message=Answer(content=written.said.text), finish_reason=_end(written))
                ],
                usage=_usage(written),
            )
        listening = _Listening(writer, conversation)
        try:
            # what is wrong with the request is said before anything is sent
            await _while_connected(request, listening.begin())
        except BaseException:
            listening.leave()
            raise
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(
            _events(listening, name, with_usage), media_type="text/event-stream"
        )

    add_page(app, served)
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    app.add_middleware(
        Guard,
        counts=counts,
        limits=limits,
        token=token,
        hosts=hosts,
        open_paths=(*OPEN, "/health"),
        paths=paths,
    )
    return app


class _Listening:
    """Hears an answer while it is written."""

    def __init__(self, writer: Writer, conversation: Conversation) -> None:
        self.writer, self.conversation = writer, conversation
        self._said: asyncio.Queue[Said | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hear(said: Said) -> None:
            loop.call_soon_threadsafe(self._said.put_nowait, said)

        conversation.hear = hear
        self._written = asyncio.create_task(writer.queue.ask(conversation))
        self._written.add_done_callback(lambda task: self._said.put_nowait(None))
        self._first: Said | None = None

    async def begin(self) -> None:
        """Wait for the first word.

        Raises:
            UserError: there is none to come.
        """
        self._first = await self._said.get()
        if self._first is None:
            await self._written

    async def __aiter__(self) -> AsyncIterator[Said]:
        """What is said so far, again and again."""
        said = self._first
        while said is not None:
            yield said
            said = await self._said.get()

    async def end(self) -> Written:
        """The whole answer."""
        return await self._written

    def leave(self) -> None:
        """Listen no longer."""
        self.conversation.is_wanted = False
        self._written.cancel()


async def _events(listening: _Listening, name: str, with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of an answer, in OpenAI's form."""
    head = {
        "id": name,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": listening.writer.name,
    }

    def event(delta: dict[str, str], end: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

    sent = 0
    try:
        yield event({"role": "assistant", "content": ""})
        async for said in listening:
            text = settled(said, listening.conversation.settings.stop)
            if len(text) > sent:
                yield event({"content": text[sent:]})
                sent = len(text)
        written = await listening.end()
        if len(written.said.text) > sent:
            yield event({"content": written.said.text[sent:]})
        yield event({}, _end(written))
        if with_usage:
            usage = _usage(written).model_dump()
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        listening.leave()


async def _answered(writer: Writer, conversation: Conversation) -> Written:
    try:
        return await writer.queue.ask(conversation)
    finally:
        conversation.is_wanted = False


def _end(written: Written) -> Any:
    return "stop" if written.said.is_over else "length"


def _usage(written: Written) -> Usage:
    read, said = written.prompt_tokens, written.said.tokens
    return Usage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)


async def _together(calls: Sequence[Awaitable[Result]]) -> list[Result]:
    """The answers to all calls; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """A result, unless the client leaves before; then the work is cancelled.

    Raises:
        Gone: the client has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _written(vector: np.ndarray, form: str) -> list[float] | str:
    if form == "float":
        return [float(number) for number in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _tokens(tokenizer: Any, texts: list[str]) -> int:
    return sum(len(ids) for ids, _ in tokenizer.encode_pieces(texts)) if texts else 0
