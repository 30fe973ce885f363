"""Reports as pages: one file each, with all that it shows inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium import __version__
from sensorium.data import Data, open_data
from sensorium.report.diagnosis import diagnosis_view
from sensorium.report.views import View, comparison_view, run_view
from sensorium.training.files import write_aside
from sensorium.training.folder import RunFolder
from sensorium.types import Schema, UserError

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"


def write_report(folder: Path, samples: bool = True) -> Path:
    """The report of a run, of a comparison, or of a folder of comparisons; data are opened again.

    Args:
        folder: of the run or the comparisons.
        samples: whether rows may be shown; if the run was made on data of which none may, none is.

    Raises:
        UserError: the folder is none of these.
    """
    if (folder / "compare.json").is_file():
        return write_comparison_report(folder, reopened(folder) if samples else None)
    if RunFolder(folder).run_file.is_file():
        return write_run_report(folder, reopened(folder) if samples else None)
    parts = sorted(path.parent for path in folder.glob("*/compare.json"))
    if not parts:
        raise UserError(
            f"{folder} is neither a run nor a comparison: it has no run.json and no compare.json"
        )
    opened = [(part, reopened(part) if samples else None) for part in parts]
    return write_combined_report(folder, opened)


def write_comparison_report(folder: Path, data: Data | None) -> Path:
    """The report of a comparison; without data no rows are shown."""
    return _write(folder, [comparison_view(folder, data)])


def write_run_report(folder: Path, data: Data | None = None) -> Path:
    """The report of a run; without data no rows are shown."""
    return _write(folder, [_run_view(folder, data)])


def write_combined_report(folder: Path, parts: Sequence[tuple[Path, Data | None]]) -> Path:
    """One report of several comparisons."""
    return _write(folder, [comparison_view(part, data) for part, data in parts])


def reopened(folder: Path) -> Data | None:
    """The data of a run or comparison as it was used; None if they are gone or have changed."""
    run = RunFolder(folder if RunFolder(folder).run_file.is_file() else folder / "best")
    if not run.run_file.is_file():
        return None
    info = run.read_run()
    try:
        data = open_data(**info["data"]).with_schema(Schema.load(run.schema_file))
    except UserError:
        return None
    return data if data.version == info["data_version"] else None


def _run_view(folder: Path, data: Data | None) -> View:
    view = run_view(folder, data)
    found = RunFolder(folder).diagnosis_file
    if found.exists():
        view.diagnosis = diagnosis_view(json.loads(found.read_text()), data)
    return view


def _write(folder: Path, views: Sequence[View]) -> Path:
    page = folder / PAGE
    title = views[0].title if len(views) == 1 else f"{len(views)} comparisons"
    write_page(page, "report.html", title=title, views=views)
    return page


def write_page(path: Path, template: str, **shown: Any) -> None:
    """Write a page, in one move.

    Args:
        path: the file.
        template: the name of one of ours.
        shown: what it shows; all but our own plots is escaped.
    """
    text = render_page(template, **shown)
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def render_page(template: str, **shown: Any) -> str:
    """A page, or a part of one, as `write_page` writes it."""
    return _templates().get_template(template).render(version=__version__, **shown)


def folder_views(folder: Path) -> list[View]:
    """What the report of a run or a comparison shows, but for its rows.

    Raises:
        UserError: the folder is neither.
    """
    if (folder / "compare.json").is_file():
        return [comparison_view(folder, None)]
    return [_run_view(folder, None)]


@lru_cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sensorium.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
