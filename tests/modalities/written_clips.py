"""Small real clips: the brightness of a frame tells its number."""

import io
from fractions import Fraction

import av
import numpy as np

STEP = 8
RATE = 10
SOUND_RATE = 16_000
HERTZ = 440.0


def shade(number):
    return 8 + STEP * (number % 30)


def grey(number, width=64, height=48):
    return np.full((height, width, 3), shade(number), np.uint8)


def write_clip(
    kind="mp4",
    codec="libx264",
    frames=30,
    *,
    pictures=None,
    stamps=None,
    sound=None,
    sound_start=0.0,
    gap=12,
    options=None,
):
    """The bytes of a clip.

    Args:
        kind: of the container.
        codec: of the pictures; None for none.
        frames: how many grey ones.
        pictures: frames instead of grey ones.
        stamps: when each is seen, in tenths of a second; else one after another.
        sound: the codec of a tone of 440 Hz, as long as the clip; None for none.
        sound_start: when it begins.
        gap: from key frame to key frame.
        options: of the encoder.
    """
    file = io.BytesIO()
    container = av.open(file, "w", format=kind)
    pictures = [grey(number) for number in range(frames)] if pictures is None else pictures
    stamps = list(range(len(pictures))) if stamps is None else stamps
    video = tone = None
    if codec:
        video = container.add_stream(codec, rate=RATE, options=options or {})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.gop_size = gap
        video.bit_rate = 4_000_000
        video.codec_context.time_base = Fraction(1, RATE)
    if sound:
        tone = container.add_stream(sound, rate=SOUND_RATE)
        tone.layout = "mono"
    if video:
        for picture, stamp in zip(pictures, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    if tone:
        time = np.arange(SOUND_RATE * len(pictures) // RATE) / SOUND_RATE
        wave = (np.sin(2 * np.pi * HERTZ * time) / 2).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        frame.pts = round(sound_start * SOUND_RATE)
        container.mux(tone.encode(frame))
        container.mux(tone.encode())
    container.close()
    return file.getvalue()


def numbers_of(frames):
    """Which frames they are, by their brightness."""
    level = frames.astype(float).mean((1, 2, 3)) - 8
    assert np.abs(level - np.round(level / STEP) * STEP).max() < 3.5, "not grey ones"
    return np.round(level / STEP).astype(int).tolist()
