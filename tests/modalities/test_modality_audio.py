import io
import struct
import sys

import numpy as np
import pytest
import soundfile
import torch

from sensorium.modalities.audio import Audio, AudioView
from sensorium.types import BadValue, Field, MissingExtra

FIELD = Field(name="sound", modality="audio")
AUDIO = Audio()


def tone(rate, seconds=1.0, hertz=440.0):
    return (
        np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32) / 2
    )


def encoded(samples, rate, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def decode(raw, **view):
    return AUDIO.decode(raw, FIELD, AudioView(**view))


def pitch(samples, rate):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples)


@pytest.mark.parametrize("raw_kind", ["path", "bytes", "mapping", "array"])
def test_every_kind_of_raw_value(tmp_path, raw_kind):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(tone(16_000), 16_000, subtype="FLOAT"))
    raw = {
        "path": path,
        "bytes": path.read_bytes(),
        "mapping": {"bytes": path.read_bytes(), "path": "a.wav"},
        "array": {"array": tone(16_000).tolist(), "sampling_rate": 16_000},
    }[raw_kind]
    found = decode(raw)
    assert found.dtype == np.float32
    assert np.allclose(found, tone(16_000), atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_resampling_keeps_pitch_length_and_loudness(rate):
    found = decode(encoded(tone(rate, 2.0), rate), seconds=1.5)
    assert len(found) == 24_000
    assert abs(pitch(found, 16_000) - 440) < 1
    assert np.allclose(found[200:-200], tone(16_000, 2.0)[200:23_800], atol=0.01)


def test_the_cut_end_of_a_resampled_part_is_as_if_nothing_had_been_cut():
    whole = decode(encoded(tone(44_100, 3.0), 44_100, subtype="FLOAT"), seconds=3.0)
    part = decode(encoded(tone(44_100, 3.0), 44_100, subtype="FLOAT"), seconds=1.0)
    assert np.allclose(part, whole[:16_000], atol=1e-3)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats(kind):
    found = decode(encoded(tone(16_000), 16_000, kind))
    assert abs(pitch(found, 16_000) - 440) < 2


def test_stereo_is_averaged():
    stereo = np.stack([tone(16_000), np.zeros(16_000, np.float32)], axis=1)
    assert np.allclose(
        decode(encoded(stereo, 16_000, subtype="FLOAT")), tone(16_000) / 2, atol=1e-6
    )
    for array in (stereo, stereo.T):
        found = decode({"array": array, "sampling_rate": 16_000})
        assert np.allclose(found, tone(16_000) / 2, atol=1e-6)


def test_whole_numbers_are_scaled_by_their_type():
    for array in (
        np.array([-32768, 0, 16384], np.int16),
        np.array([-(2**31), 0, 2**30], np.int32),
        np.array([0, 128, 192], np.uint8),
    ):
        assert decode({"array": array, "sampling_rate": 16_000}).tolist() == [-1.0, 0.0, 0.5]


def test_only_the_start_is_kept():
    found = decode({"array": tone(16_000, 5.0), "sampling_rate": 16_000}, seconds=0.5)
    assert np.array_equal(found, tone(16_000, 5.0)[:8_000])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (encoded(np.zeros(0, np.float32), 16_000), "without samples"),
        ({"array": [], "sampling_rate": 16_000}, "without samples"),
        ({"array": [0.0, float("nan")], "sampling_rate": 16_000}, "not finite"),
        (encoded(np.array([0.0, np.inf, 0.0]), 16_000, subtype="FLOAT"), "not finite"),
        ({"array": [0.0], "sampling_rate": 0}, "sampling_rate"),
        ({"array": [0.0]}, "sampling_rate"),
        ({"array": [1, 2, 3], "sampling_rate": 16_000}, "int64"),
        ({"array": [["a"]], "sampling_rate": 16_000}, "found"),
        (b"", "empty"),
        (b"this is no sound", "cannot be decoded"),
        (encoded(tone(16_000), 16_000)[:20], "cannot be decoded"),
        (12, "expected a recording"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_recordings(raw, reason):
    with pytest.raises(BadValue, match=f"sound.*{reason}"):
        decode(raw)


def test_bad_files_are_named(tmp_path):
    for name, content in {"a.wav": b"", "b.wav": b"\x89PNG\r\n\x1a\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadValue, match=name):
            decode(tmp_path / name)
    with pytest.raises(BadValue, match=r"c\.wav cannot be read"):
        decode(tmp_path / "c.wav")


def test_a_truncated_recording_gives_what_is_there():
    whole = encoded(tone(16_000), 16_000)
    found = decode(whole[: len(whole) // 2])
    assert 7_900 < len(found) < 8_100


def test_a_header_that_promises_too_much_takes_no_memory():
    raw = bytearray(encoded(tone(16_000, 0.5), 16_000))
    raw[40:44] = struct.pack("<I", 0xFFFFFFF0)  # the length of the samples
    assert len(decode(bytes(raw), seconds=3600.0)) == 8_000


def test_collate_pads_to_the_length_of_the_view():
    view = AudioView(rate=100, seconds=1.0)
    values = [np.ones(100, np.float32), np.ones(30, np.float32)]
    samples, mask = AUDIO.collate(values, FIELD, view)
    assert samples.shape == mask.shape == (2, 100)
    assert samples.dtype == torch.float32
    assert mask.sum(1).tolist() == [100, 30]
    assert samples[1, 30:].eq(0).all()
    alone, _ = AUDIO.collate(values[1:], FIELD, view)
    assert torch.equal(alone[0], samples[1])


def test_show_draws_the_wave_form():
    loud = np.asarray(AUDIO.show(np.sin(np.arange(4000, dtype=np.float32)), FIELD))
    quiet = np.asarray(AUDIO.show({"array": np.zeros(3), "sampling_rate": 16_000}, FIELD))
    assert loud.shape == quiet.shape == (64, 256, 3)
    assert (loud[:, :, 0] < 255).mean() > 0.9
    assert 0 < (quiet[:, :, 0] < 255).mean() < 0.05


def test_the_key_holds_what_decoding_depends_on():
    keys = {AudioView().key, AudioView(rate=8_000).key, AudioView(seconds=2.0).key}
    assert len(keys) == 3
    assert AUDIO.cached


def test_a_missing_extra_is_named(monkeypatch):
    raw = encoded(tone(16_000), 16_000)
    array = {"array": tone(16_000), "sampling_rate": 16_000}
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtra, match=r"sensorium\[audio\]"):
        decode(raw)
    with pytest.raises(MissingExtra, match="resampling"):
        decode(array, rate=8_000)
    assert len(decode(array)) == 16_000  # needs neither
