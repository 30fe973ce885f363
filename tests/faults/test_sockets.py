"""Nothing opens a connection: training, scores, reports and comparisons run with sockets forbidden."""

import os
import subprocess
import sys

import pytest

# Python runs this in every process, also in those that a comparison starts. What is forbidden is
# written down as well: a dependency may try and keep quiet about it.
FORBID = r"""
import os, socket, sys

def forbid(event, arguments):
    if event == "socket.__new__":
        if arguments[1] not in (socket.AF_INET, socket.AF_INET6):
            return
    elif event in ("socket.connect", "socket.bind", "socket.sendto"):
        if arguments[0].family == socket.AF_UNIX:
            return
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return
    with open(os.environ["FORBIDDEN"], "a") as file:
        file.write(f"{event} {arguments}\n")
    raise PermissionError(f"{event} is forbidden")

sys.addaudithook(forbid)
"""


@pytest.fixture
def forbidden(tmp_path):
    """The environment of processes that may open no sockets, and what they tried."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(FORBID)
    environment = {name: v for name, v in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {
        "PYTHONPATH": str(tmp_path / "hook"),
        "FORBIDDEN": str(tmp_path / "tried.txt"),
        "OMP_NUM_THREADS": "1",
        "SENSORIUM_CACHE": str(tmp_path / "cache"),
    }
    (tmp_path / "tried.txt").touch()
    return environment, tmp_path / "tried.txt"


def run(environment, code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import sensorium as sm; sm.open('hub:nobody/nothing')",
    ],
)
def test_the_ban_is_one(forbidden, attempt):
    environment, tried = forbidden
    assert run(environment, attempt).returncode != 0
    assert "socket." in tried.read_text()


def test_local_sockets_are_allowed(forbidden):
    """Loader workers pass tensors through them."""
    environment, tried = forbidden
    done = run(environment, "import socket; socket.socketpair(); socket.socket(socket.AF_UNIX)")
    assert done.returncode == 0 and tried.read_text() == ""


def test_everything_runs_without(forbidden, tmp_path):
    environment, tried = forbidden
    code = f"""
from sensorium.cli import main
fast = [f"--set=training.{{o}}" for o in ("workers=2", "batch_size=8", "validation_rows=8")]
fast += ["--set=width=16", "--budget", "2steps"]
small = "train=40&validation=8&test=12"
data = f"playground:attributes?{{small}}"
run, pairs, both = {str(tmp_path / "run")!r}, {str(tmp_path / "pairs")!r}, {str(tmp_path / "both")!r}
for command in (
    ["train", "late-fusion", "--data", data, "--out", run, *fast],
    ["train", "dual-encoder", "--data", f"playground:scenes?{{small}}", "--out", pairs, *fast],
    ["evaluate", run],
    ["predict", run, data, "--out", {str(tmp_path / "p.parquet")!r}],
    ["embed", pairs, f"playground:scenes?{{small}}", "--out", {str(tmp_path / "e.parquet")!r}],
    ["report", run],
    ["compare", "late-fusion", "--data", data, "--out", both, *fast],
    ["inspect", data, "--out", {str(tmp_path / "look")!r}],
):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, command
"""
    done = run(environment, code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tried.read_text() == ""
