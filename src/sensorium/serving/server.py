"""The server: where it listens, to whom, and how it ends."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.types import MissingExtra, UserError

if TYPE_CHECKING:
    from sensorium.serving.batching import Batching
    from sensorium.serving.uploads import Limits

PATIENCE = 60
"""Seconds in which accepted requests are finished when the server is to end."""

SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Refuse to be reached by others without a token.

    Raises:
        UserError: there is none, or a short one.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, and so needs a token: set SENSORIUM_TOKEN "
            f"to {SHORTEST_TOKEN} characters or more, or listen on 127.0.0.1"
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"SENSORIUM_TOKEN is too short: expected {SHORTEST_TOKEN} characters or more, for example "
            "from `openssl rand -hex 32`"
        )
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError("SENSORIUM_TOKEN: expected printable ASCII characters without blanks")


def serve(
    paths: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    batching: Batching | None = None,
    device: str | None = None,
    report: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve runs and indexes until the process is told to end; what was accepted is then finished.

    Args:
        paths: their folders.
        host: the address to listen on.
        port: 0 for one that is free.
        token: that requests must carry.
        limits: of what comes in.
        batching: how calls are put together.
        device: as for `load`.
        report: called with the address, once it listens.

    Raises:
        UserError: what is asked for cannot be served, or not there.
    """
    check_access(host, token)
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise MissingExtra("A server", "serve")
    import uvicorn

    from sensorium.serving.app import make_app
    from sensorium.serving.counts import Counts
    from sensorium.serving.guard import LOOPBACK
    from sensorium.serving.served import Served

    counts = Counts()
    served = Served(paths, counts, batching, device)
    hosts = LOOPBACK if is_loopback(host) else None
    app = make_app(served, counts, limits=limits, token=token, hosts=hosts)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    with _listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        report(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio lets small answers out at once only where the protocol is named; else each waits 40 ms
    listening = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose others with --host and --port"
        ) from None
    listening.listen(1024)
    return listening
