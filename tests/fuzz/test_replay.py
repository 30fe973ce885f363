"""What the fuzzer has found worth keeping is tried each time; the fuzzer itself runs for minutes."""

import subprocess
import sys
from pathlib import Path

import doors
import pytest

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


@pytest.fixture(scope="module", autouse=True)
def _clean():
    yield
    doors.leave()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", doors.DOORS, ids=lambda door: door.__name__)
def test_what_was_found_is_taken_or_refused(door):
    number = doors.DOORS.index(door)
    contents = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    own = [content for content in contents if content and content[0] == number]
    assert len(own) > 1
    for content in own:
        doors.enter(content)


def test_a_door_that_breaks_is_noticed(monkeypatch):
    def breaks(content):
        raise IndexError

    monkeypatch.setattr(doors, "DOORS", (breaks,))
    with pytest.raises(IndexError):
        doors.enter(b"\0")


@pytest.mark.long
def test_ten_minutes_of_fuzzing(tmp_path):
    pytest.importorskip("atheris", reason="the group 'fuzz' is not installed")
    (tmp_path / "new").mkdir()
    command = [sys.executable, str(HERE / "fuzz_decoders.py"), "-max_total_time=600"]
    command += ["-timeout=30", "-rss_limit_mb=4096", "-max_len=8192", "-print_final_stats=1"]
    command += [f"-artifact_prefix={tmp_path}/", str(tmp_path / "new"), str(CORPUS)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0 and not found, f"{found}: {done.stderr[-4000:]}"
