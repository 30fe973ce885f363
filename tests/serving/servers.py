"""Servers on loopback ports, and what is sent to them."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import uvicorn

from sensorium.serving.app import make_app
from sensorium.serving.counts import Counts
from sensorium.serving.guard import LOOPBACK
from sensorium.serving.served import Served
from sensorium.serving.server import _listen


@contextmanager
def process(*paths, options=()):
    """`sensorium serve` as people start it: its address, and the process."""
    command = [
        sys.executable,
        "-m",
        "sensorium",
        "serve",
        *map(str, paths),
        "--port",
        "0",
        *options,
    ]
    with tempfile.TemporaryFile("w+") as told:
        started = subprocess.Popen(command, stderr=told, env={**os.environ, "NO_COLOR": "1"})
        try:
            deadline = time.monotonic() + 120
            while not (found := re.search(r"Serving at (\S+)", _read(told))):
                assert started.poll() is None and time.monotonic() < deadline, _read(told)
                time.sleep(0.05)
            yield found[1], started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
            started.wait(90)
            assert "Traceback" not in _read(told), _read(told)


@contextmanager
def thread(paths, limits=None, token=None, batching=None):
    """A server in this process: its address."""
    counts = Counts()
    served = Served([Path(path) for path in paths], counts, batching, "cpu")
    app = make_app(served, counts, limits=limits, token=token, hosts=LOOPBACK)
    config = uvicorn.Config(app, log_level="critical", server_header=False)
    server = uvicorn.Server(config)
    with _listen("127.0.0.1", 0) as listening:
        runs = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        runs.start()
        try:
            yield address
        finally:
            server.should_exit = True
            runs.join(60)
            assert not runs.is_alive()


def _read(file):
    file.seek(0)
    return file.read()


def picture(seed=0, size=(32, 32)):
    """A picture of noise, as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def address_of(file, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def image_part(file):
    return {"type": "image_url", "image_url": {"url": address_of(file)}}


def counted(text, name, **labels):
    """The value of a metric in the text for Prometheus; 0 if it is not there."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if all(w in line for w in wanted))
