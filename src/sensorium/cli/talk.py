"""Commands on a trained assistant: have it write, or talk with it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli.console import show, tell
from sensorium.cli.options import Device, DeviceOption, RunArgument

if TYPE_CHECKING:
    from sensorium.modalities.turns import Turn
    from sensorium.nn.language import Generation
    from sensorium.training.run import Run

MEDIA = ("image", "audio", "video")

ImagesOption = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="A picture; may be given several times."),
]
AudioOption = Annotated[
    list[Path] | None, typer.Option("--audio", metavar="FILE", help="A recording.")
]
VideoOption = Annotated[list[Path] | None, typer.Option("--video", metavar="FILE", help="A clip.")]
TokensOption = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer.")
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", metavar="X", min=0.0, help="0: the likeliest words; above: drawn."
    ),
]
BeamsOption = Annotated[
    int, typer.Option("--beams", metavar="N", min=1, help="Answers followed side by side.")
]


def generate(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Rows to write about, instead of --text.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="TEXT", help="What is asked; <image> stands for a picture."),
    ] = None,
    image: ImagesOption = None,
    audio: AudioOption = None,
    video: VideoOption = None,
    max_tokens: TokensOption = 64,
    temperature: TemperatureOption = 0.0,
    beams: BeamsOption = 1,
    kv_cache: Annotated[
        str | None,
        typer.Option(
            "--kv-cache", metavar="POLICY", help="Keep a part of the prompt: look-m, h2o, recent..."
        ),
    ] = None,
    kv_budget: Annotated[
        float,
        typer.Option("--kv-budget", metavar="X", help="The share of the prompt that is kept."),
    ] = 0.2,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The Parquet file, for rows.")
    ] = Path("texts.parquet"),
    device: DeviceOption = None,
) -> None:
    """Have an assistant answer a question about pictures, recordings or clips, or write about rows.

    Example: sensorium generate runs/llava-seed0 --image a.png --text "Is there a cat?"
    """
    from sensorium.nn.language import Eviction, cache_policy
    from sensorium.training.run import load
    from sensorium.training.talking import answer, generate_rows
    from sensorium.types.errors import UserError

    if (data is None) == (text is None):
        raise UserError("give either rows to write about, or a question with --text")
    if kv_cache and data is not None:
        raise UserError("--kv-cache is for a question with --text")
    settings = _settings(max_tokens, temperature, beams)
    loaded = load(run, _name(device))
    if data is not None:
        from sensorium.cli.one import check_file, write_table

        check_file(out)
        rows = loaded.rows_of(data)
        write_table(generate_rows(loaded, rows, settings), out, loaded, rows)
        return
    assert text is not None
    given = dict(zip(MEDIA, (image, audio, video), strict=True))
    media = {kind: list(paths) for kind, paths in given.items() if paths}
    turns: list[Turn] = [{"role": "user", "content": text}]
    eviction = Eviction(cache_policy(kv_cache, kv_budget)) if kv_cache else None
    *_, said = answer(loaded, turns, _by_field(loaded, media), settings, eviction)
    show(said)
    if eviction is not None and eviction.kept is not None:
        kept = eviction.kept
        tell(
            f"{kv_cache} kept {int(kept.kept)} of {int(kept.entries)} entries, "
            f"{kept.bytes:,} of {kept.bytes_before:,} bytes",
            "dim",
        )


def chat(
    run: RunArgument,
    max_tokens: TokensOption = 128,
    temperature: TemperatureOption = 0.0,
    device: DeviceOption = None,
) -> None:
    """Talk with an assistant in the terminal.

    Say /image FILE (or /audio, /video) to show it something with what you say next, /new to begin
    anew, and /quit or Ctrl-D to end.

    Example: sensorium chat runs/llava-seed0
    """
    from sensorium.training.run import load
    from sensorium.training.talking import assistant_of, media_field
    from sensorium.types.errors import UserError

    loaded = load(run, _name(device))
    system = assistant_of(loaded)
    settings = _settings(max_tokens, temperature, 1)
    tell("/image FILE shows a picture with what you say next; /new begins anew; /quit ends.", "dim")
    turns: list[Turn] = []
    media: dict[str, list[Path]] = {}
    shown: list[tuple[str, Path]] = []
    while True:
        line = _read_line()
        if line is None or line == "/quit":
            return
        if not line:
            continue
        if line == "/new":
            turns, media, shown = [], {}, []
            continue
        command, _, rest = line.partition(" ")
        try:
            if command.startswith("/") and command[1:] in MEDIA:
                path = Path(*shlex.split(rest)[:1])
                field = media_field(system, command[1:])
                if not path.is_file():
                    raise UserError(f"{command} {path}: no such file")
                shown.append((field.name, path))
                continue
            if command.startswith("/"):
                raise UserError(f"no command {command}; known: /image, /audio, /video, /new, /quit")
            _say(loaded, turns, media, shown, line, settings)
            shown = []
        except UserError as error:
            tell(str(error), "yellow")


def _say(
    run: Run,
    turns: list[Turn],
    media: dict[str, list[Path]],
    shown: list[tuple[str, Path]],
    line: str,
    settings: Generation,
) -> None:
    """One question and its answer, written as it comes; both are added to what was said."""
    from sensorium.training.talking import answer

    places = "".join(f"<{name}>\n" for name, _ in shown if f"<{name}>" not in line)
    asked: Turn = {"role": "user", "content": places + line}
    seen = {name: list(paths) for name, paths in media.items()}
    for name, path in shown:
        seen.setdefault(name, []).append(path)
    said = ""
    for text in answer(run, [*turns, asked], seen, settings):
        sys.stdout.write(text[len(said) :] if text.startswith(said) else f"\r{text}")
        sys.stdout.flush()
        said = text
    sys.stdout.write("\n")
    turns += [asked, {"role": "assistant", "content": said.strip() or "..."}]
    media.clear()
    media.update(seen)


def _read_line() -> str | None:
    """What is typed; None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _by_field(run: Run, media: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Media by the fields of the run that read them."""
    from sensorium.training.talking import assistant_of, media_field

    system = assistant_of(run)
    return {media_field(system, kind).name: paths for kind, paths in media.items()}


def _settings(max_tokens: int, temperature: float, beams: int) -> Generation:
    from sensorium.nn.language import Generation

    return Generation(max_tokens=max_tokens, temperature=temperature, beams=beams)


def _name(device: Device | None) -> str | None:
    return device.value if device else None
