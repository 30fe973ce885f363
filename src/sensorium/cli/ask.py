"""The command that answers a question from the rows of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensorium.cli.console import show, show_json, tell
from sensorium.cli.options import DeviceOption, JsonOption
from sensorium.cli.search import Mode

if TYPE_CHECKING:
    from sensorium.search.answering import Answered, Reranker
    from sensorium.search.readers import AssistantReader, EndpointReader


def ask(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of an index.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")],
    answerer: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="RUN_OR_ADDRESS",
            help="Who answers: the folder of an assistant's run, or an OpenAI-shaped API such as "
            "http://127.0.0.1:8000/v1 (its key in OPENAI_API_KEY).",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Which model of an address, if it has several."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="A picture that is asked about.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="CONDITION", help="Which rows come into question."),
    ] = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="How rows are found, as in `search`.")
    ] = Mode.vector,
    rerank: Annotated[
        Path | None,
        typer.Option(
            "--rerank",
            metavar="RUN",
            help="Who says how relevant each row is: a run of relevancy. If not given, the answerer where "
            "it is a run, else the index.",
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option("--candidates", metavar="N", min=1, help="How many rows are ranked again."),
    ] = 20,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="How many are read at most.")
    ] = 3,
    least: Annotated[
        float | None,
        typer.Option(
            "--least",
            metavar="X",
            help="Read no row with a lower score; 0.5 if not given, where scores are not the index's but "
            "probabilities.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer.")
    ] = 128,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Where the run is now that made the index."),
    ] = None,
    device: DeviceOption = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show all candidates with their scores as well.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Answer a question from the rows of an index, and name those that the answer rests on.

    Rows are found as `search` finds them. A run that answers also says how relevant each of them is, unless
    a run of relevancy does; behind an address, rows count by their scores in the index. If none is relevant,
    it says so.

    Example: sensorium ask my.index "How many dogs are there?" --with runs/llava-seed0 --steps
    """
    from sensorium.search.answering import LIKELY, answer_question, best
    from sensorium.search.index import Index

    opened = Index(index)
    place = device.value if device else None
    reader = _reader(answerer, model, max_tokens, place)
    reranker = _reranker(reader, rerank, place)
    asked: dict[str, Any] = {"text": question}
    if image is not None:
        asked["image"] = image
    if reranker is not None and least is None:
        least = LIKELY
    answered = answer_question(
        opened,
        None if mode is Mode.text else opened.model(run, place),
        asked,
        reader,
        reranker,
        best(rows, least),
        mode=mode.value,
        where=where,
        candidates=max(candidates, rows),
    )
    for warning in opened.warnings():
        tell(warning, "yellow")
    if json:
        show_json(_as_json(answered, steps))
        return
    _show(answered, steps)


def _reader(
    answerer: str, model: str | None, max_tokens: int, device: str | None
) -> AssistantReader | EndpointReader:
    from sensorium.nn.language import Generation
    from sensorium.search.readers import AssistantReader, EndpointReader
    from sensorium.training.run import load
    from sensorium.types.errors import UserError

    settings = Generation(max_tokens=max_tokens)
    if answerer.startswith(("http://", "https://")):
        return EndpointReader(answerer, settings, model)
    if model is not None:
        raise UserError("--model is for an address; a run is one model")
    return AssistantReader(load(answerer, device), settings)


def _reranker(
    reader: AssistantReader | EndpointReader, rerank: Path | None, device: str | None
) -> Reranker | None:
    """The run that was named, or else the reader, where it tells how likely its words are."""
    from sensorium.search.readers import AssistantReader
    from sensorium.search.rerankers import RelevancyReranker
    from sensorium.training.run import load

    if rerank is not None:
        return RelevancyReranker(load(rerank, device))
    return reader if isinstance(reader, AssistantReader) else None


def _as_json(answered: Answered, steps: bool) -> dict[str, Any]:
    from sensorium.search.shown import hits_json

    content: dict[str, Any] = {
        "answer": answered.text,
        "cited": [{"number": each.number, "key": each.hit.key} for each in answered.cited],
        "ranked_by": answered.ranked_by,
        "read_by": answered.read_by or None,
    }
    if steps:
        content["candidates"] = [
            {"score": each.score, "number": each.number, "cited": each.cited, "row": row}
            for each, row in zip(
                answered.candidates, hits_json([c.hit for c in answered.candidates]), strict=True
            )
        ]
    return content


def _show(answered: Answered, steps: bool) -> None:
    from rich.text import Text

    from sensorium.report.terminal import plain_table

    if steps:
        table = plain_table()
        for name in ("row", "read as"):
            table.add_column(name, overflow="fold")
        for name in ("found", "score", answered.ranked_by):
            table.add_column(name, justify="right", no_wrap=name != answered.ranked_by)
        for each in answered.candidates:
            number = "" if each.number is None else f"[{each.number}]"
            hit = each.hit
            cells = (hit.key, number, str(hit.place), f"{hit.score:.3f}", f"{each.score:.3f}")
            table.add_row(*map(Text, cells))
        show(table)
    show(answered.text)
    for each in answered.cited:
        text = " ".join(each.hit.text.split())
        show(Text(f"  [{each.number}] {each.hit.key}  ").append(text[:80], style="dim"))
