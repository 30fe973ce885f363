"""What goes wrong, in the form in which OpenAI's clients expect it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sensorium.serving.batching import Busy
from sensorium.serving.requests import Problem, ProblemAnswer
from sensorium.serving.served import NotServed
from sensorium.types import UserError

_CODES = {401: "invalid_api_key", 404: "not_found", 408: "timeout", 413: "too_large"}


class Gone(Exception):
    """The client has left."""


def problem(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An answer that says what went wrong."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = ProblemAnswer(
        error=Problem(message=message, type=kind, param=param, code=code or _CODES.get(status))
    )
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = "1"
    return JSONResponse(content.model_dump(), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Have all that is raised answered in this form."""

    @app.exception_handler(RequestValidationError)
    async def _unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        place, message = _explained(error.errors())
        return problem(400, f"{place or 'body'}: {message}", param=place or None)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        messages = {
            404: f"there is nothing at {request.url.path}; /openapi.json says what there is",
            405: f"{request.url.path} is not asked by {request.method}",
        }
        answer = problem(error.status_code, messages.get(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(NotServed)
    async def _not_served(_: Request, error: NotServed) -> JSONResponse:
        return problem(404, str(error), param="model", code="model_not_found")

    @app.exception_handler(UserError)
    async def _mistake(_: Request, error: UserError) -> JSONResponse:
        return problem(400, str(error))

    @app.exception_handler(Busy)
    async def _busy(*_: object) -> JSONResponse:
        return problem(503, "too many requests wait; try again in a second", code="overloaded")

    @app.exception_handler(Gone)
    async def _gone(*_: object) -> JSONResponse:
        return problem(499, "the client has left")  # which nobody reads, but is counted

    @app.exception_handler(Exception)
    async def _fault(*_: object) -> JSONResponse:
        return problem(500, "a fault of the server, which has logged it")


def _explained(errors: Sequence[Any]) -> tuple[str, str]:
    """Where, and what, is wrong: of several ways to read a field, by the one that came furthest."""
    furthest = max(errors, key=lambda error: len(error["loc"]))
    message = str(furthest["msg"])
    if furthest["type"] == "json_invalid":
        return "", message  # it names a character, and no field
    parts = [
        part for part in map(str, furthest["loc"][1:]) if part.isidentifier() or part.isdigit()
    ]
    return ".".join(parts), message
