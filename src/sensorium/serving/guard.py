"""What stands before every request: who may ask, how slowly, and that it is counted."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from sensorium.serving.counts import Counts
from sensorium.serving.problems import problem
from sensorium.serving.uploads import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

OTHER = "other"
"""What paths that do not exist are counted as: there is no end to them."""


class Guard:
    """Around the application.

    On a loopback address, requests must name one as their host: else a page on the web could have its
    own name lead here, and ask in the name of whoever looks at it.

    Args:
        app: what it guards.
        counts: where requests are counted.
        limits: of what comes in.
        token: that requests must carry; None if they need none.
        hosts: that requests may name; any if None.
        open_paths: that need no token.
        paths: that are counted by name.
    """

    def __init__(
        self,
        app: Application,
        *,
        counts: Counts,
        limits: Limits,
        token: str | None,
        hosts: Collection[str] | None,
        open_paths: Collection[str],
        paths: Collection[str],
    ) -> None:
        self._app, self._counts, self._limits = app, counts, limits
        self._token = None if token is None else token.encode()
        self._hosts, self._open, self._paths = hosts, open_paths, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else OTHER
        status = "500"
        begin = time.perf_counter()

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            headers = Headers(scope=scope)
            if self._hosts is not None and _host(headers) not in self._hosts:
                answer = problem(
                    421,
                    f"this server is asked as one of {', '.join(self._hosts)}",
                    code="wrong_host",
                )
                await answer(scope, receive, counted)
            elif not self._may(scope["path"], headers):
                answer = problem(401, "give the server's token as Authorization: Bearer TOKEN")
                await answer(scope, receive, counted)
            elif headers.get("content-length", "0").rjust(20) > str(self._limits.bytes).rjust(20):
                await problem(413, self._too_large)(scope, receive, counted)
            else:
                await self._app(scope, self._measured(receive), counted)
        finally:
            self._counts.requests.labels(path, status).inc()
            self._counts.seconds.labels(path).observe(time.perf_counter() - begin)

    def _may(self, path: str, headers: Headers) -> bool:
        if self._token is None or path in self._open:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        return kind.lower() == "bearer" and same

    @property
    def _too_large(self) -> str:
        return (
            f"the request has more than {self._limits.bytes} bytes; send less, or smaller pictures"
        )

    def _measured(self, receive: Receive) -> Receive:
        """Until a request has come in full, it must not take longer, nor be larger, than it may."""
        deadline = time.perf_counter() + self._limits.seconds
        has_come = False
        size = 0

        async def measured() -> MutableMapping[str, Any]:
            nonlocal has_come, size
            if has_come:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.perf_counter())
            except TimeoutError:
                raise HTTPException(
                    408, f"the request did not come within {self._limits.seconds:g} seconds"
                ) from None
            has_come = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._limits.bytes:
                raise HTTPException(413, self._too_large)
            return message

        return measured


def _host(headers: Headers) -> str:
    """Without the port."""
    host = headers.get("host", "").lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host
