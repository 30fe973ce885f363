"""Frames of files: when each is seen, and those that are wanted, decoded with as few others as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt8

from sensorium.modalities.containers import bad, opened
from sensorium.types import Field

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_PIXELS = 2**26
"""Of a frame; 8K has half as many."""
MAX_SECONDS = 4 * 3600

# A file that ends so much sooner than it says is cut off.
_CUT_SECONDS = 0.5

Kept = TypeVar("Kept")


def read_frames(
    source: Path | bytes,
    field: Field,
    choose: Callable[[Float[np.ndarray, "all"], float], Int[np.ndarray, "chosen"]],
    keep: Callable[[UInt8[np.ndarray, "height width 3"]], Kept],
) -> tuple[Int[np.ndarray, "chosen"], Float[np.ndarray, "all"], dict[int, Kept]] | None:
    """Some frames of a clip.

    Args:
        source: the file or its bytes.
        field: for messages.
        choose: which frames, from when each begins to be seen and when the last one ceases to be, in
            seconds.
        keep: what is kept of a frame, from its pixels, RGB and upright.

    Returns:
        What was chosen, when each frame of the clip begins to be seen, and what is kept of those
        chosen, by their places; None if none were chosen.

    Raises:
        BadValue: see `Video.decode`.
        MissingExtra: the `video` extra is not installed.
    """
    with opened(source, field, "reading clips") as container:
        from av.video.reformatter import VideoReformatter

        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            raise bad(source, field, "has no pictures, only sound")
        stream = streams[0]
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise bad(source, field, f"has frames of more than {MAX_PIXELS} pixels")
        if (container.duration or 0) > MAX_SECONDS * 1e6:
            raise bad(source, field, f"is longer than {MAX_SECONDS} seconds")
        context.thread_count = 1  # there is a process for each core already
        found = _scan(container, stream, source, field)
        chosen = choose(found.times, found.end)
        if not len(chosen):
            return None
        places = sorted(set(chosen.tolist()))
        kept = {}
        converter = VideoReformatter()  # making one takes longer than using it
        for place, frame in _decode(container, stream, found, places):
            if frame.width * frame.height > MAX_PIXELS:
                raise bad(source, field, f"has frames of more than {MAX_PIXELS} pixels")
            turns = round(frame.rotation / 90)
            pixels = converter.reformat(frame, format="rgb24").to_ndarray()
            kept[place] = keep(np.rot90(pixels, turns) if turns else pixels)
        lost = [place for place in places if place not in kept]
        if lost:
            when = f"the frame at {found.times[lost[0]]:.2f} s"
            raise bad(source, field, "has frames that cannot be decoded", when)
        return chosen, found.times, kept


def _is_cover(stream: VideoStream) -> bool:
    """Whether it is the picture on a record, not one that moves."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


@dataclass(frozen=True)
class _Scan:
    """What a file's packets say.

    Attributes:
        stamps: when each frame begins to be seen, ascending, in the units of the stream.
        keys: the same of frames that depend on no other.
        begin: when the first packet is decoded.
        times: the stamps as seconds from the first.
        end: when the last frame ceases to be seen, in seconds from the first stamp.
    """

    stamps: list[int]
    keys: list[int]
    begin: int
    times: Float[np.ndarray, "frames"]
    end: float


def _scan(
    container: InputContainer, stream: VideoStream, source: Path | bytes, field: Field
) -> _Scan:
    unit = float(stream.time_base or 0)
    stamps: list[int] = []
    keys: list[int] = []
    begin, end = 0, 0.0
    last = (-(2**63), 0)
    for packet in container.demux():
        stamp = _stamp(packet)
        if stamp is None:
            continue
        if packet.is_corrupt:
            raise bad(source, field, "is cut off", f"after {stamp * float(packet.time_base):.2f} s")
        duration = packet.duration or 0
        end = max(end, (stamp + duration) * float(packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if not keys:
            begin = stamp if packet.dts is None else packet.dts
        if packet.is_keyframe:
            keys.append(stamp)
        if not packet.is_discard:
            stamps.append(stamp)
            last = max(last, (stamp, duration))
    stamps.sort()
    if not stamps or not keys:
        raise bad(source, field, "has no frames")
    times = (np.array(stamps, dtype=np.int64) - stamps[0]) * unit
    longest = float(np.diff(times).max(initial=0.0))
    announced = ((container.duration or 0) + (container.start_time or 0)) / 1e6
    if announced - end > max(_CUT_SECONDS, 1.5 * longest):
        raise bad(source, field, "is cut off", f"after {end:.2f} s of {announced:.2f} s")
    finish = float(times[-1]) + last[1] * unit
    if not last[1]:  # as of slides, which stay until the next one comes
        finish = max(finish + longest, announced - stamps[0] * unit)
    if finish > MAX_SECONDS:
        raise bad(source, field, f"is longer than {MAX_SECONDS} seconds")
    # One frame of which nothing is said is seen for a while.
    return _Scan(stamps, sorted(keys), begin, times, finish or 1.0)


def _stamp(packet: Packet) -> int | None:
    """When a packet's frame begins to be seen; None for the empty packet at the end."""
    if packet.size == 0:
        return None
    return packet.dts if packet.pts is None else packet.pts


def _decode(
    container: InputContainer, stream: VideoStream, found: _Scan, places: list[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """The frames at some places, ascending, decoding little else.

    Of H.264 in AVI, FFmpeg numbers frames in the order of decoding; there they are counted from the
    start instead.
    """
    counts = container.format.name == "avi" and stream.codec.name in ("h264", "hevc")
    groups: dict[int, list[int]] = {}
    for place in places:
        before = [] if counts else [key for key in found.keys if key <= found.stamps[place]]
        groups.setdefault(before[-1] if before else found.keys[0], []).append(place)
    for key, group in groups.items():
        held: dict[int, VideoFrame] = {}
        for number, frame in enumerate(_frames_from(container, stream, found, key, group, counts)):
            for place in group:
                if number == place if counts else (frame.pts or 0) <= found.stamps[place]:
                    held[place] = frame
            if counts and number >= group[-1]:
                break
        yield from held.items()


def _frames_from(
    container: InputContainer,
    stream: VideoStream,
    found: _Scan,
    key: int,
    places: list[int],
    counts: bool,
) -> Iterator[VideoFrame]:
    """What comes out of the decoder from a key frame on, until the wanted frames have gone in."""
    context = stream.codec_context
    context.flush_buffers()
    missing = {found.stamps[place] for place in places}
    for packet in _packets_from(container, stream, key, found.begin):
        stamp = _stamp(packet)
        # Frames on which no other depends can be left out.
        context.skip_frame = "DEFAULT" if counts or stamp in missing else "NONREF"
        yield from context.decode(packet)
        missing.discard(stamp)
        if not missing and not counts:
            break
    yield from context.decode(None)


def _packets_from(
    container: InputContainer, stream: VideoStream, key: int, begin: int
) -> Iterator[Packet]:
    """The packets of a stream from a key frame on, which is looked for from the start if need be.

    Some formats seek by the order of decoding, and may go too far.
    """
    for offset in (key, begin):
        container.seek(offset, stream=stream)
        has_begun = False
        for packet in container.demux(stream):
            stamp = _stamp(packet)
            if stamp is None or (not has_begun and packet.is_keyframe and stamp > key):
                break
            has_begun = has_begun or stamp == key
            if has_begun:
                yield packet
        if has_begun:
            return
