import io
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import PIL.Image
import pytest

from sensorium.data.cache import MediaCache
from sensorium.modalities.audio import Audio, AudioView
from sensorium.modalities.base import Modality, View
from sensorium.modalities.image import Image, ImageView
from sensorium.types import BadValue, Field

FIELD = Field(name="photo", modality="image")
VIEW = ImageView(size=16)


class Counting(Image):
    """Pictures, and how often one was decoded."""

    def __init__(self):
        self.decoded = 0

    def decode(self, raw, field, view):
        self.decoded += 1
        return super().decode(raw, field, view)


def jpeg(seed=0, size=48):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels).resize((2 * size, size))
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    time.sleep(0.12)  # a file that has just been written is not trusted to be unchanged
    return path


@pytest.fixture
def cache(tmp_path):
    with MediaCache(tmp_path / "cache") as cache:
        yield cache


def same(a, b):
    return (a.width, a.height) == (b.width, b.height) and np.array_equal(a.pixels, b.pixels)


def test_the_second_time_nothing_is_decoded_or_read(cache, photo, monkeypatch):
    images = Counting()
    first = cache.get_or_decode(photo, images, FIELD, VIEW)
    monkeypatch.setattr("hashlib.file_digest", None)  # reading the file would fail
    second = cache.get_or_decode(photo, images, FIELD, VIEW)
    assert images.decoded == 1
    assert same(first, second)
    assert same(second, Image().decode(photo, FIELD, VIEW))
    assert (second.width, second.height) == (96, 48)


@pytest.mark.parametrize("raw_kind", ["bytes", "mapping", "str"])
def test_other_kinds_of_raw_values(cache, photo, raw_kind):
    images = Counting()
    raw = {
        "bytes": photo.read_bytes(),
        "mapping": {"bytes": photo.read_bytes(), "path": "x.jpg"},
        "str": str(photo),
    }[raw_kind]
    found = [cache.get_or_decode(raw, images, FIELD, VIEW) for _ in range(3)]
    assert images.decoded == 1
    assert same(found[0], found[2])


def test_the_same_content_elsewhere_is_found(cache, photo, tmp_path):
    images = Counting()
    cache.get_or_decode(photo, images, FIELD, VIEW)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(photo.read_bytes())
    cache.get_or_decode(copy, images, FIELD, VIEW)
    cache.get_or_decode(photo.read_bytes(), images, FIELD, VIEW)
    assert images.decoded == 1


def test_what_is_asked_for_is_part_of_the_key(cache, photo):
    images = Counting()
    for view in (VIEW, ImageView(size=8), ImageView(size=16, fit="pad")):
        found = cache.get_or_decode(photo, images, FIELD, view)
        again = cache.get_or_decode(photo, images, FIELD, view)
        assert same(found, again)
        assert found.pixels.shape == (view.size, view.size, 3)
        assert same(found, Image().decode(photo, FIELD, view))
    assert images.decoded == 3
    cache.get_or_decode(photo, images, FIELD, ImageView(size=16, augment=("flip",)))
    cache.get_or_decode(photo, images, Field(name="other", modality="image"), VIEW)
    assert images.decoded == 3
    cache.get_or_decode(photo, images, FIELD.replace(options={"a": 1}), VIEW)
    assert images.decoded == 4


@pytest.mark.parametrize("settled", [True, False])
def test_a_changed_file_is_decoded_anew(cache, photo, settled):
    images = Counting()
    for seed in (1, 2, 3):
        photo.write_bytes(jpeg(seed))
        if settled:
            time.sleep(0.12)
        found = cache.get_or_decode(photo, images, FIELD, VIEW)
        assert same(found, Image().decode(jpeg(seed), FIELD, VIEW))
    assert images.decoded == 3


def test_a_file_exchanged_with_its_times_kept_is_decoded_anew(cache, photo, tmp_path):
    images = Counting()
    cache.get_or_decode(photo, images, FIELD, VIEW)
    before = photo.stat()
    content = jpeg(1)
    other = tmp_path / "other.jpg"
    other.write_bytes(content + b"\0" * (before.st_size - len(content)))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(photo)
    found = cache.get_or_decode(photo, images, FIELD, VIEW)
    assert same(found, Image().decode(photo, FIELD, VIEW))
    assert images.decoded == 2


def test_a_file_rewritten_with_its_times_kept_is_decoded_anew(cache, photo):
    images = Counting()
    photo.write_bytes(jpeg().ljust(20_000, b"\0"))
    time.sleep(0.12)
    cache.get_or_decode(photo, images, FIELD, VIEW)
    before = photo.stat()
    photo.write_bytes(jpeg(1).ljust(20_000, b"\0"))
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = cache.get_or_decode(photo, images, FIELD, VIEW)
    assert photo.stat().st_mtime_ns == before.st_mtime_ns
    assert same(found, Image().decode(photo, FIELD, VIEW))


def test_a_file_rewritten_within_a_tick_of_the_clock_is_decoded_anew(cache, tmp_path):
    path = tmp_path / "a.jpg"
    contents = [jpeg(seed).ljust(20_000, b"\0") for seed in range(2)]
    expected = [Image().decode(content, FIELD, VIEW) for content in contents]
    for content in contents:
        cache.get_or_decode(content, Image(), FIELD, VIEW)
    for number in range(200):
        path.write_bytes(contents[number % 2])
        found = cache.get_or_decode(path, Image(), FIELD, VIEW)
        assert same(found, expected[number % 2])


def test_a_file_exchanged_while_it_is_decoded_is_not_kept_under_its_old_content(cache, photo):
    old = photo.read_bytes()

    class Exchanging(Image):
        def decode(self, raw, field, view):
            photo.write_bytes(jpeg(7))
            return super().decode(raw, field, view)

    cache.get_or_decode(photo, Exchanging(), FIELD, VIEW)
    found = cache.get_or_decode(old, Image(), FIELD, VIEW)
    assert same(found, Image().decode(old, FIELD, VIEW))


def test_bad_values_are_refused_each_time_and_never_kept(cache, tmp_path):
    images = Counting()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(jpeg()[:200])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for raw in (bad, bad, empty, tmp_path / "none.jpg", tmp_path, b"", "nul\0.jpg"):
        with pytest.raises(BadValue, match="photo"):
            cache.get_or_decode(raw, images, FIELD, VIEW)
    assert images.decoded == 7
    assert cache.disabled_reason is None


def test_values_that_are_arrays_already_are_not_kept(cache, tmp_path):
    images = Counting()
    pixels = np.zeros((16, 16, 3), np.uint8)
    for _ in range(2):
        assert cache.get_or_decode(pixels, images, FIELD, VIEW).pixels is pixels
    assert images.decoded == 2
    assert not (tmp_path / "cache").exists()


def test_modalities_that_are_quick_to_decode_are_not_kept(cache, tmp_path):
    class Plain(Modality):
        name = "plain"

        def decode(self, raw, field, view):
            return raw

        def collate(self, values, field, view):
            raise AssertionError("nothing is collated here")

    assert cache.get_or_decode("a", Plain(), FIELD, View()) == "a"
    assert not (tmp_path / "cache").exists()


def test_recordings(cache, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(9000) / 10), 8000)
    field = Field(name="sound", modality="audio")
    view = AudioView(rate=4000)
    first, second = (cache.get_or_decode(path, Audio(), field, view) for _ in range(2))
    assert first.dtype == second.dtype == np.float32
    assert np.array_equal(first, second)
    assert np.array_equal(first, Audio().decode(path, field, view))


def test_it_lasts(photo, tmp_path):
    images = Counting()
    for _ in range(2):
        with MediaCache(tmp_path / "cache") as cache:
            cache.get_or_decode(photo, images, FIELD, VIEW)
    assert images.decoded == 1


def test_a_closed_cache_opens_again(cache, photo):
    images = Counting()
    cache.get_or_decode(photo, images, FIELD, VIEW)
    cache.close()
    cache.get_or_decode(photo, images, FIELD, VIEW)
    assert images.decoded == 1


def _read_all(cache, raws, queue):
    images = Counting()
    pixels = [cache.get_or_decode(raw, images, FIELD, VIEW).pixels.sum() for raw in raws]
    queue.put((images.decoded, pixels, cache.disabled_reason))
    cache.close()


def _opens_anew(cache, queue):
    inherited = cache._connection
    cache.get_or_decode(jpeg(), Image(), FIELD, VIEW)
    queue.put(inherited is not None and cache._connection is not inherited)
    cache.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_does_not_use_the_connection_of_its_parent(cache):
    cache.get_or_decode(jpeg(), Image(), FIELD, VIEW)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_opens_anew, args=(cache, queue))
    worker.start()
    assert queue.get(timeout=60)
    worker.join()
    images = Counting()
    cache.get_or_decode(jpeg(), images, FIELD, VIEW)
    assert images.decoded == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_share_it(tmp_path, start):
    raws = [jpeg(seed) for seed in range(60)]
    orders = (1, -1, 1) if start == "fork" else (1,)
    expected = [Image().decode(raw, FIELD, VIEW).pixels.sum() for raw in raws]
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    with MediaCache(tmp_path / "cache") as cache:
        if start == "fork":
            cache.get_or_decode(raws[0], Image(), FIELD, VIEW)  # the connection is open at the fork
        workers = [
            context.Process(target=_read_all, args=(cache, raws[::order], queue))
            for order in orders
        ]
        for worker in workers:
            worker.start()
        results = [queue.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert all(reason is None for _, _, reason in results)
        assert all(pixels in (expected, expected[::-1]) for _, pixels, _ in results)
        images = Counting()
        for raw in raws:
            cache.get_or_decode(raw, images, FIELD, VIEW)
        assert images.decoded == 0


def test_threads_share_it(cache, monkeypatch):
    connect, opened = cache._connect, []

    def connect_slowly():
        time.sleep(0.05)
        opened.append(connect())
        return opened[-1]

    # Were each to open the file for itself, one would change what another is reading.
    monkeypatch.setattr(cache, "_connect", connect_slowly)
    raws = [jpeg(seed) for seed in range(20)]
    expected = [Image().decode(raw, FIELD, VIEW).pixels.sum() for raw in raws]
    found = []

    def work():
        found.extend(  # often enough for two threads to meet within one statement
            [cache.get_or_decode(raw, Image(), FIELD, VIEW).pixels.sum() for raw in raws]
            for _ in range(50)
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert found == [expected] * 200
    assert cache.disabled_reason is None


KILLED = """
import sys
from pathlib import Path
import numpy as np
from sensorium.data.cache import MediaCache
from sensorium.modalities.image import Image, ImageView, Picture
from sensorium.types import Field

class Made(Image):
    def decode(self, raw, field, view):
        return Picture(np.full((200, 200, 3), raw[0], np.uint8), 1, 1)

cache = MediaCache(Path(sys.argv[1]))
for number in range(10**9):
    cache.get_or_decode(bytes([number % 256, *number.to_bytes(4, "little")]), Made(),
                        Field(name="a", modality="image"), ImageView(size=200))
    if number == 20:
        print("ready", flush=True)
"""


def test_a_killed_writer_leaves_a_sound_cache(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert writer.stdout.readline() == b"ready\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    connection = sqlite3.connect(tmp_path / "cache" / "index.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    with MediaCache(tmp_path / "cache") as cache:
        images = Counting()
        for number in range(20):
            raw = bytes([number, *number.to_bytes(4, "little")])
            picture = cache.get_or_decode(raw, images, FIELD, ImageView(size=200))
            assert (picture.pixels == number).all()
        assert images.decoded == 0
        for _ in range(2):
            cache.get_or_decode(jpeg(), images, FIELD, VIEW)
        assert images.decoded == 1
        assert cache.disabled_reason is None


def test_a_full_cache_stops_growing_and_says_so(tmp_path):
    limit = 500_000
    with MediaCache(tmp_path / "cache", max_bytes=limit) as cache:
        images = Counting()
        raws = [jpeg(seed) for seed in range(30)]
        view = ImageView(size=100)  # 30,000 bytes each
        for raw in raws:
            cache.get_or_decode(raw, images, FIELD, view)
        assert "full" in cache.disabled_reason
        assert str(tmp_path) in cache.disabled_reason
        assert images.decoded == 30
        cache.get_or_decode(raws[0], images, FIELD, view)
        assert images.decoded == 30  # what is there is still of use
        again = cache.get_or_decode(raws[-1], images, FIELD, view)
        assert same(again, Image().decode(raws[-1], FIELD, view))
    assert (tmp_path / "cache" / "arrays.bin").stat().st_size <= limit


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    with MediaCache(tmp_path / "cache") as cache:
        images = Counting()
        for _ in range(2):
            cache.get_or_decode(jpeg(), images, FIELD, VIEW)
        assert images.decoded == 2
        assert "media cache in" in cache.disabled_reason


def test_a_damaged_cache_is_not_used(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "index.sqlite").write_bytes(b"this is no data base" * 1000)
    with MediaCache(folder) as cache:
        found = cache.get_or_decode(jpeg(), Image(), FIELD, VIEW)
        assert same(found, Image().decode(jpeg(), FIELD, VIEW))
        assert "not a database" in cache.disabled_reason


def test_damage_in_the_middle_is_noticed(tmp_path):
    folder = tmp_path / "cache"
    raws = [jpeg(seed) for seed in range(40)]
    with MediaCache(folder) as cache:
        for raw in raws:
            cache.get_or_decode(raw, Image(), FIELD, VIEW)
    file = folder / "index.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:-4096] = bytes(len(content) - 8192)
    file.write_bytes(content)
    with MediaCache(folder) as cache:
        for raw in raws:
            found = cache.get_or_decode(raw, Image(), FIELD, VIEW)
            assert same(found, Image().decode(raw, FIELD, VIEW))
        assert cache.disabled_reason is not None


@pytest.mark.parametrize("damage", ["zeros", "the end is missing", "gone"])
def test_arrays_that_were_not_written_in_time_are_decoded_anew(tmp_path, damage):
    folder, images = tmp_path / "cache", Counting()
    raws = [jpeg(seed) for seed in range(8)]
    with MediaCache(folder) as cache:
        for raw in raws:
            cache.get_or_decode(raw, images, FIELD, VIEW)
    file = folder / "arrays.bin"
    content = file.read_bytes()
    half = len(content) // 2
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:half] + (bytes(half) if damage == "zeros" else b""))
    lost = len(raws) if damage == "gone" else len(raws) // 2
    for _ in range(2):
        with MediaCache(folder) as cache:
            for raw in raws:
                found = cache.get_or_decode(raw, images, FIELD, VIEW)
                assert same(found, Image().decode(raw, FIELD, VIEW))
            assert cache.disabled_reason is None
        assert images.decoded == len(raws) + lost


def test_a_locked_cache_does_not_stop_the_work(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("sensorium.data.cache._PATIENCE_SECONDS", 0.05)
    with MediaCache(tmp_path / "cache") as cache:
        images = Counting()
        cache.get_or_decode(jpeg(1), images, FIELD, VIEW)
        other = sqlite3.connect(tmp_path / "cache" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert cache.get_or_decode(photo, images, FIELD, VIEW).width == 96
        assert cache.disabled_reason is None
        other.execute("COMMIT")
        other.close()
        cache.get_or_decode(photo, images, FIELD, VIEW)
        cache.get_or_decode(photo, images, FIELD, VIEW)
        assert images.decoded == 3


def test_a_copy_sent_to_a_worker_is_a_cache_of_the_same_folder(photo, cache):
    images = Counting()
    cache.get_or_decode(photo, images, FIELD, VIEW)
    with pickle.loads(pickle.dumps(cache)) as copy:
        copy.get_or_decode(photo, images, FIELD, VIEW)
    assert images.decoded == 1


def test_cached_pictures_can_be_stacked(cache, photo):
    for _ in range(2):
        value = cache.get_or_decode(photo, Image(), FIELD, VIEW)
        tensor, _ = Image().collate([value, value], FIELD, VIEW)
        tensor += 1  # the batch is a copy
    assert same(
        cache.get_or_decode(photo, Image(), FIELD, VIEW), Image().decode(photo, FIELD, VIEW)
    )


def test_what_is_decoded_together_is_kept_at_the_end(cache, tmp_path):
    images = Counting()
    raws = [jpeg(seed) for seed in range(5)]
    with pytest.raises(BadValue), cache.together():
        first = [cache.get_or_decode(raw, images, FIELD, VIEW) for raw in raws]
        cache.get_or_decode(b"no picture", images, FIELD, VIEW)
    second = [cache.get_or_decode(raw, images, FIELD, VIEW) for raw in raws]
    assert images.decoded == len(raws) + 1
    assert all(map(same, first, second))


def test_more_is_written_together_than_a_statement_holds(cache, monkeypatch):
    monkeypatch.setattr("sensorium.data.cache._AT_ONCE", 2)
    images = Counting()
    raws = [jpeg(seed) for seed in range(5)]
    for _ in range(2):
        with cache.together():
            for raw in raws:
                cache.get_or_decode(raw, images, FIELD, VIEW)
    assert images.decoded == len(raws)
    assert cache.disabled_reason is None


def test_a_file_that_has_not_changed_is_digested_once(cache, photo, tmp_path, monkeypatch):
    import hashlib

    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    first = cache.digest(photo)
    assert first == hashlib.sha256(jpeg()).digest() == cache.digest(photo) and len(read) == 1
    counting = Counting()
    cache.get_or_decode(photo, counting, FIELD, VIEW)  # knows what is in it
    assert counting.decoded == 1 and len(read) == 1
    photo.write_bytes(jpeg(1))
    assert cache.digest(photo) == hashlib.sha256(jpeg(1)).digest()
    with pytest.raises(OSError):
        cache.digest(tmp_path / "none.jpg")
    with pytest.raises(OSError, match="no plain file"):
        cache.digest(tmp_path)
    (tmp_path / "blocked").touch()
    assert MediaCache(tmp_path / "blocked" / "cache").digest(photo) == cache.digest(photo)
