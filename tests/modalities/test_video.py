"""Clips: the right frame at the right time, whatever the file; nothing more decoded than needed."""

import io
import struct
import sys

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from written_clips import HERTZ, RATE, grey, numbers_of, shade, write_clip

import sensorium as sm
from sensorium.data import MediaCache
from sensorium.modalities import containers, video_files
from sensorium.modalities.audio import Audio, AudioView
from sensorium.modalities.image import Image, ImageView
from sensorium.modalities.video import Clip, Video, VideoView, choose_frames
from sensorium.types import BadValue, Field, MissingExtra

FIELD = Field(name="clip", modality="video")
SOUND = Field(name="sound", modality="audio", column="clip")
VIDEO = Video()
OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}
PLAIN = write_clip()


def decode(raw, **view):
    return VIDEO.decode(raw, FIELD, VideoView(**{"size": 16} | view))


def track(raw, **view):
    return Audio().decode(raw, SOUND, AudioView(**view))


@pytest.mark.parametrize("kind", ["path", "bytes", "mapping", "array"])
def test_every_kind_of_raw_value(tmp_path, kind):
    path = tmp_path / "a.mp4"
    path.write_bytes(PLAIN)
    raw = {
        "path": path,
        "bytes": PLAIN,
        "mapping": {"bytes": PLAIN, "path": "a.mp4"},
        "array": {"array": np.stack([grey(n) for n in range(30)]), "fps": RATE},
    }[kind]
    clip = decode(raw, frames=5)
    assert clip.frames.shape == (5, 16, 16, 3) and clip.frames.dtype == np.uint8
    assert numbers_of(clip.frames) == [3, 9, 15, 21, 27]
    assert clip.times.tolist() == pytest.approx([0.3, 0.9, 1.5, 2.1, 2.7])
    assert (clip.width, clip.height) == (64, 48)


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("mp4", "libx264", {}),
        ("mp4", "libx264", OPEN),
        ("mp4", "mpeg4", {}),
        ("mov", "libx264", {}),
        ("matroska", "libx264", {}),
        ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("webm", "libvpx", {"auto-alt-ref": "1"}),
        ("avi", "mpeg4", {"bf": "2"}),
        ("avi", "libx264", {}),
        ("avi", "mjpeg", {}),
    ],
)
def test_formats(kind, codec, options):
    # FFmpeg puts off what it writes to an AVI with sound by a frame.
    sound = {"webm": "libopus", "avi": None}.get(kind, "aac")
    raw = write_clip(kind, codec, options=options, sound=sound)
    for count in (1, 4, 7, 30):
        clip = decode(raw, frames=count)
        moments = 3 * (np.arange(count) + 0.5) / count
        assert numbers_of(clip.frames) == np.floor(moments * RATE + 1e-6).astype(int).tolist()


def test_frames_are_those_of_decoding_everything():
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.integers(0, 256, (6, 80, 3), dtype=np.uint8), 8, axis=0)
    pictures = [np.ascontiguousarray(noise[:, n : n + 48]) for n in range(32)]
    raw = write_clip(pictures=pictures, gap=9, options={"bf": "3", "x264-params": "scenecut=0"})
    with av.open(io.BytesIO(raw)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(every) == 32
    for count in (1, 3, 8, 31):
        clip = decode(raw, frames=count, size=48)
        wanted = np.floor(3.2 * (np.arange(count) + 0.5) / count * RATE + 1e-6).astype(int)
        assert np.array_equal(clip.frames, np.stack([every[number] for number in wanted]))


def test_little_more_is_decoded_than_what_is_wanted(monkeypatch):
    raw = write_clip(frames=300, gap=12, options={"x264-params": "scenecut=0"})
    decoded = []
    original = video_files._frames_from

    def counting(*arguments):
        for frame in original(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_files, "_frames_from", counting)
    decode(raw, frames=8)
    assert 8 <= len(decoded) <= 8 * 12 / 2
    decoded.clear()
    decode(raw, frames=300)
    assert len(decoded) == 300


def test_time_counts_and_not_the_number_of_a_frame():
    # Nine frames in the first second, then one that stays for nine.
    stamps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 100]
    for kind in ("mp4", "matroska"):
        raw = write_clip(kind, frames=11, stamps=stamps)
        clip = decode(raw, frames=5)
        assert numbers_of(clip.frames) == [9] * 5
        assert clip.times.tolist() == pytest.approx([1.0] * 5)
        assert numbers_of(decode(raw, frames=4, seconds=1.0).frames) == [1, 3, 6, 8]


def chosen(times, end, **view):
    return choose_frames(np.array(times, dtype=float), end, VideoView(**view)).tolist()


def test_which_frames_are_chosen_by_hand():
    tenths = np.arange(20) / 10
    assert chosen(tenths, 2.0, frames=4) == [2, 7, 12, 17]
    assert chosen(tenths, 2.0, frames=1) == [10]
    assert chosen(tenths, 2.0, frames=4, seconds=4.0) == [5, 15]
    assert chosen(tenths, 2.0, frames=4, seconds=0.4) == [0, 1, 2, 3]
    assert chosen(tenths, 2.0, frames=2, start=1.0) == [12, 17]
    assert chosen(tenths, 2.0, frames=2, start=1.0, seconds=2.0) == [15]
    assert chosen(tenths, 2.0, frames=2, start=2.0) == []
    assert chosen([0.0], 0.1, frames=8, seconds=60.0) == [0]
    # No more frames than are asked for: each once.
    assert chosen(tenths[:3], 0.3, frames=8) == [0, 1, 2]
    assert chosen(tenths[:3], 0.3, frames=2) == [0, 2]
    # What is due when a frame begins is that frame, however time was rounded.
    assert chosen(np.arange(30) / 30 - 1e-9, 1.0, frames=15) == list(range(1, 30, 2))


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_chosen_frame_is_seen_at_its_moment(durations, count):
    times = np.concatenate([[0.0], np.cumsum(durations)])
    end, places = times[-1], chosen(times[:-1], times[-1], frames=count)
    if len(durations) <= count:
        assert places == list(range(len(durations)))
        return
    moments = end * (np.arange(count) + 0.5) / count
    assert len(places) == count
    for place, moment in zip(places, moments, strict=True):
        assert times[place] <= moment + 2e-6 and moment < times[place + 1] + 2e-6


def test_short_clips_are_padded_and_the_padding_is_marked():
    view = VideoView(frames=4, size=16)
    clips = [decode(write_clip(frames=n), frames=4) for n in (1, 3, 20)]
    frames, mask = VIDEO.collate(clips, FIELD, view)
    assert frames.shape == (3, 4, 16, 16, 3) and frames.dtype == torch.uint8
    assert mask.sum(1).tolist() == [1, 3, 4] and mask[1].tolist() == [True, True, True, False]
    assert frames[~mask].eq(0).all()
    assert numbers_of(frames[1, :3].numpy()) == [0, 1, 2]


def test_a_part_of_a_clip():
    assert numbers_of(decode(PLAIN, frames=4, start=1.0).frames) == [12, 17, 22, 27]
    assert numbers_of(decode(PLAIN, frames=4, start=1.0, seconds=0.4).frames) == [10, 11, 12, 13]
    for raw in (PLAIN, {"array": np.zeros((5, 8, 8, 3), np.uint8), "fps": 10}):
        with pytest.raises(BadValue, match=r"clip.*ends before the part begins: at 3\.5 s"):
            decode(raw, start=3.5)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_frames_are_made_square_as_pictures_are(fit):
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    clip = decode({"array": picture[None], "fps": 1}, fit=fit)
    alone = Image().decode(picture, Field(name="i", modality="image"), ImageView(size=16, fit=fit))
    assert np.array_equal(clip.frames[0], alone.pixels)
    assert (clip.width, clip.height) == (30, 20)


def test_a_clip_is_turned_upright():
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 240  # bright on the left; turned by a quarter clockwise, at the top
    raw = bytearray(write_clip(pictures=[half] * 5))
    place = raw.find(b"tkhd") + 44
    assert struct.unpack(">9i", raw[place : place + 36])[:5] == (65536, 0, 0, 0, 65536)
    raw[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 1 << 30)
    clip = decode(bytes(raw))
    assert (clip.width, clip.height) == (48, 64)
    assert clip.frames[0, :6].min() > 200 and clip.frames[0, -6:].max() < 40


def audio_only():
    return write_clip(codec=None, sound="aac")


def cut(raw, share):
    return raw[: int(len(raw) * share)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty"),
        (b"\0", "no clip of a known kind"),
        (b"this is no clip", "no clip of a known kind"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "no clip of a known kind"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "cannot be decoded"),
        (b"\x1aE\xdf\xa3" + bytes(99), "cannot be decoded"),
        (cut(PLAIN, 0.5), "cannot be decoded|is cut off"),
        (cut(write_clip("matroska", frames=60), 0.5), "is cut off"),
        (cut(write_clip("webm", "libvpx", frames=60), 0.6), "is cut off"),
        (audio_only(), "has no pictures, only sound"),
        (12, "expected a clip, found int"),
        (np.zeros((3, 8, 8, 3), np.uint8), "expected a clip, found ndarray"),
        ({"array": np.zeros((3, 8, 8, 3), np.uint8)}, "fps is None"),
        ({"array": np.zeros((3, 8, 8, 3), np.uint8), "fps": 0}, "fps is 0"),
        ({"array": np.zeros((3, 8, 8, 3), np.uint8), "fps": float("nan")}, "fps is nan"),
        ({"array": np.zeros((3, 8, 8, 3), np.float32), "fps": 5}, "float32"),
        ({"array": np.zeros((3, 8, 8), np.uint8), "fps": 5}, r"\(3, 8, 8\)"),
        ({"array": np.zeros((0, 8, 8, 3), np.uint8), "fps": 5}, r"\(0, 8, 8, 3\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_clips(raw, reason):
    with pytest.raises(BadValue, match=f"clip.*({reason})"):
        decode(raw)


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture")
    with pytest.raises(BadValue, match=r"a\.mp4 is no clip of a known kind"):
        decode(path)
    with pytest.raises(BadValue, match=r"b\.mp4 cannot be read"):
        decode(tmp_path / "b.mp4")


def test_a_playlist_opens_no_other_file(tmp_path):
    (tmp_path / "other.mp4").write_bytes(PLAIN)
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n"
    for name in ("list.m3u8", "list.mp4"):
        (tmp_path / name).write_text(lines)
        with pytest.raises(BadValue, match="no clip of a known kind"):
            decode(tmp_path / name)
    # Nor if the first bytes were believed.
    path = tmp_path / "list.m3u8"
    with pytest.raises(BadValue, match="cannot be decoded"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(containers, "is_container", lambda source: True)
            decode(path)


def test_limits(monkeypatch):
    monkeypatch.setattr(video_files, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadValue, match="frames of more than 3071 pixels"):
        decode(PLAIN)
    monkeypatch.setattr(video_files, "MAX_PIXELS", 64 * 48)
    monkeypatch.setattr(video_files, "MAX_SECONDS", 2)
    with pytest.raises(BadValue, match="is longer than 2 seconds"):
        decode(PLAIN)


def test_a_picture_on_a_record_is_no_clip():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(grey(3), format="rgb24")))
        container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(BadValue, match="has no pictures, only sound"):
        decode(file.getvalue())
    assert len(track(file.getvalue())) == 16_000


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_clips_are_read_or_refused(data):
    whole = data.draw(st.sampled_from(WHOLE))
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(raw[: data.draw(st.integers(1, len(raw)))])
    for read in (decode, track):
        try:
            found = read(raw)
        except BadValue as error:
            assert "field" in str(error)
            continue
        if isinstance(found, Clip):
            assert found.frames.shape[1:] == (16, 16, 3) and len(found.frames)


WHOLE = [
    write_clip("mp4", frames=6, sound="aac"),
    write_clip("matroska", frames=6, sound="aac"),
    write_clip("avi", "mpeg4", frames=6),
]


def pitch(samples, rate):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples)


@pytest.mark.parametrize(
    ("kind", "codec", "sound"),
    [
        ("mp4", "libx264", "aac"),
        ("matroska", "libx264", "flac"),
        ("webm", "libvpx", "libopus"),
        ("avi", "mpeg4", "libmp3lame"),
        ("avi", "mpeg4", "pcm_s16le"),
    ],
)
def test_the_sound_of_a_clip(tmp_path, kind, codec, sound):
    raw = write_clip(kind, codec, frames=20, sound=sound)
    path = tmp_path / "clip.any"
    path.write_bytes(raw)
    for source in (raw, path, {"bytes": raw, "path": None}):
        found = track(source, rate=8_000, seconds=1.5)
        assert len(found) == 12_000 and found.dtype == np.float32
        assert abs(pitch(found, 8_000) - HERTZ) < 2
        assert 0.3 < np.abs(found[2000:]).max() < 0.7
    assert 15_000 <= len(track(raw, rate=8_000, seconds=60)) <= 17_500


def test_a_sound_that_begins_later_is_preceded_by_silence():
    raw = write_clip("matroska", frames=20, sound="flac", sound_start=0.5)
    found = track(raw, seconds=1.0)
    assert np.abs(found[:7_900]).max() < 0.01 and np.abs(found[8_200:]).max() > 0.4


def test_a_clip_without_sound_is_a_row_without_sound(tmp_path):
    (tmp_path / "loud.mp4").write_bytes(write_clip(frames=10, sound="aac"))
    (tmp_path / "mute.mp4").write_bytes(write_clip(frames=10))
    (tmp_path / "metadata.csv").write_text("clip\nloud.mp4\nmute.mp4\n")
    assert track(tmp_path / "mute.mp4") is None
    assert Audio().show(tmp_path / "mute.mp4", SOUND) == "no sound"
    fields = (FIELD, SOUND.replace(of="clip"))
    data = sm.open(tmp_path, schema=sm.Schema(fields=fields), split="share:1,0,0")
    views = {"clip": VideoView(frames=2, size=16), "sound": AudioView()}
    for cache in (None, MediaCache(tmp_path / "cache"), MediaCache(tmp_path / "cache")):
        samples, faults = data.read(np.arange(2), views, cache)
        assert not faults
        assert [set(sample.values) for sample in samples] == [{"clip", "sound"}, {"clip"}]


def test_one_mute_clip_of_several_is_a_fault(tmp_path):
    rows = [[write_clip(frames=5, sound="aac"), write_clip(frames=5)]]
    field = SOUND.replace(of="clip")
    from sensorium.data.decoding import decode_rows

    samples, faults = decode_rows(
        np.arange(1),
        ["a"],
        {"sound": rows},
        schema=sm.Schema(fields=(FIELD, field)),
        views={"sound": AudioView()},
        cache=None,
        augment=None,
    )
    assert not samples and "nothing in 1 of 2 entries" in faults[0].reason


def test_what_the_cache_gives_is_what_was_decoded(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(PLAIN)
    view = VideoView(frames=3, size=16)
    first = VIDEO.decode(path, FIELD, view)
    with MediaCache(tmp_path / "cache") as cache:
        for _ in range(2):
            found = cache.get_or_decode(path, VIDEO, FIELD, view)
            assert np.array_equal(found.frames, first.frames)
            assert np.array_equal(found.times, first.times)
            assert (found.width, found.height) == (64, 48)


def test_the_key_holds_what_decoding_depends_on():
    views = [{}, {"frames": 4}, {"size": 32}, {"fit": "pad"}, {"seconds": 2.0}, {"start": 1.0}]
    assert len({VideoView(**view).key for view in views}) == len(views)
    assert VIDEO.cached


def test_show_gives_four_frames():
    sheet = np.asarray(VIDEO.show(PLAIN, FIELD))
    assert sheet.shape == (256, 256, 3)
    corners = sheet[64::128, 64::128, 0].ravel().tolist()
    assert corners == pytest.approx([shade(n) for n in (3, 11, 18, 26)], abs=3)
    one = VIDEO.show(decode(write_clip(frames=1)), FIELD)
    assert one.size == (32, 32)


def test_guess():
    assert VIDEO.guess("x", ["a.mp4", "b.webm", None]) > 0.9
    assert VIDEO.guess("x", [PLAIN, {"bytes": PLAIN, "path": None}]) > 0.9
    assert VIDEO.guess("x", [{"array": np.zeros((2, 4, 4, 3), np.uint8), "fps": 5}]) > 0.9
    assert VIDEO.guess("x", ["a.mp3", "b.png", b"RIFF    WAVE", "text"]) == 0.0
    assert VIDEO.guess("x", []) == 0.0


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"reading clips needs.*sensorium\[video\]"):
        decode(PLAIN)
    with pytest.raises(MissingExtra, match=r"sound of clips needs.*sensorium\[video\]"):
        track(PLAIN)
    assert len(decode({"array": np.zeros((2, 4, 4, 3), np.uint8), "fps": 5}).frames) == 2


def test_a_damaged_clip_does_not_pass_for_one_without_sound():
    content = b"RIFF" + (100).to_bytes(4, "little") + b"AVI " + bytes(range(100))
    with pytest.raises(BadValue, match="neither pictures nor sound"):
        Audio().decode(content, Field(name="sound", modality="audio"), AudioView())
