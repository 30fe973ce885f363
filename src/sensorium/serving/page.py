"""The page for people: search, chat, results and the catalogue of systems, on top of the API.

It is one template and one script of ours, not a toolkit: it loads in a few milliseconds from the server
alone, and nothing of it runs in a process of its own.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from sensorium.report.html import folder_views, render_page
from sensorium.report.views import Grid, Line
from sensorium.serving.requests import ReportsAnswer
from sensorium.serving.served import Served
from sensorium.systems.registry import catalogue

OPEN = ("/", "/page.js")
"""What needs no token, and tells nothing of what is served."""

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, served: Served) -> None:
    """Have the page at the root of an application, and what it shows beside the API."""

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_page(), headers=_HEADERS)

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return Response(_script(), media_type="text/javascript", headers=_HEADERS)

    @app.get("/reports")
    async def reports() -> ReportsAnswer:
        """The runs and comparisons whose results can be looked at."""
        return ReportsAnswer(data=list(served.reports))

    @app.get("/reports/{name}", response_class=HTMLResponse)
    def report(name: str) -> Response:
        """Scores, comparisons and diagnosis, as a part of a page; without rows."""
        views = folder_views(served.report(name))
        return HTMLResponse(render_page("views.html", views=views), headers=_HEADERS)


@lru_cache
def _page() -> str:
    return render_page("serve.html", title="Sensorium", systems=_systems())


@lru_cache
def _script() -> str:
    return files("sensorium.serving").joinpath("page.js").read_text(encoding="utf-8")


def _systems() -> Grid:
    headings = [(name, "") for name in ("system", "what it is", "reads", "is asked for", "paper")]
    lines = []
    for name, (_, card) in catalogue().items():
        paper = card.paper if card.paper.startswith("arXiv:") else ""
        cells = [card.title, ", ".join(card.modalities), ", ".join(card.tasks), paper]
        lines.append(Line(name, cells))
    return Grid(headings, lines)
