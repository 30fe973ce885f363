"""The command that puts runs and indexes behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.console import tell
from sensorium.cli.options import DeviceOption


def serve(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_INDEX...", help="Folders of runs that embed or answer, and of indexes."
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Where to listen. Any address but this machine's own needs a token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 for a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            envvar="SENSORIUM_TOKEN",
            show_envvar=True,
            help="What requests must carry. Other users of this machine see what is typed here, but not "
            "the variable.",
        ),
    ] = None,
    max_bytes: Annotated[
        int,
        typer.Option("--max-bytes", metavar="N", min=1, help="Of a request, with its pictures."),
    ] = 32 * 2**20,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", min=1, help="Of a picture.")
    ] = 25_000_000,
    max_batch: Annotated[
        int,
        typer.Option(
            "--max-batch", metavar="N", min=1, help="Requests that go through a model together."
        ),
    ] = 32,
    max_wait: Annotated[
        float,
        typer.Option(
            "--max-wait",
            metavar="SECONDS",
            min=0.0,
            help="How long a request may wait for others to go with it.",
        ),
    ] = 0.002,
    device: DeviceOption = None,
) -> None:
    """Serve runs and indexes over HTTP, in the form of OpenAI's API.

    /v1/embeddings, /v1/chat/completions, /v1/search and /v1/models; /health, /metrics for Prometheus,
    /openapi.json. Pictures come in requests; no address is ever opened. Ctrl-C finishes what was
    accepted.

    Example: sensorium serve my.index runs/llava-seed0
    """
    from sensorium.serving.batching import Batching
    from sensorium.serving.server import serve as run_server
    from sensorium.serving.uploads import Limits

    try:
        run_server(
            paths,
            host=host,
            port=port,
            token=token,
            limits=Limits(bytes=max_bytes, pixels=max_pixels),
            batching=Batching(most=max_batch, wait=max_wait),
            device=device.value if device else None,
            report=lambda address: tell(f"Serving at {address}"),
        )
    except KeyboardInterrupt:
        tell("\nStopped.")
