"""Sounds from whole numbers: every picture has its own motif.

Sines come from Bhaskara's rational formula, evaluated in integers, so that no mathematical library
can make a difference.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.pictures import pictures
from sensorium.playground.stream import Stream

RATE = 16000
LENGTH = RATE // 2
MOTIF = RATE // 4
LOUD = 7000
ONSET = 80
CYCLE = 4096
# A pentatonic scale over three octaves, in hundredths of a hertz.
PITCHES = (
    22000, 24694, 27718, 32963, 36999, 44000, 49388, 55437, 65926, 73999,
    88000, 98777, 110873, 131851, 147998,
)  # fmt: skip
HARMONICS = 5


@lru_cache(maxsize=1)
def sine() -> NDArray[np.int64]:
    """One cycle of a sine between -4096 and 4096."""
    half = CYCLE // 2
    x = np.arange(half, dtype=np.int64)
    up = 16 * x * (half - x) * CYCLE // (5 * half * half - 4 * x * (half - x))
    return np.concatenate([up, -up])


def _timbre(stream: Stream) -> list[int]:
    """Draw how strong each harmonic is."""
    return [8, *(stream.below(9) for _ in range(HARMONICS - 1))]


def _tone(phase: NDArray[np.int64], timbre: list[int]) -> NDArray[np.int64]:
    """A wave between -`LOUD` and `LOUD`, given its phase in 1/4096 of a cycle."""
    cycle = sine()
    wave = np.zeros_like(phase)
    for harmonic, strength in enumerate(timbre, start=1):
        wave += strength * cycle[phase * harmonic % CYCLE]
    return wave * LOUD // (sum(timbre) * CYCLE)


def _faded(wave: NDArray[np.int64], attack: int) -> NDArray[np.int64]:
    """A wave that swells over `attack` samples and dies away to its end."""
    time = np.arange(len(wave), dtype=np.int64)
    swell = np.minimum(time * 1024 // attack, 1024)
    decay = (len(wave) - time) * 1024 // len(wave)
    return wave * swell // 1024 * decay // 1024


@lru_cache(maxsize=4096)
def motif(picture: int) -> NDArray[np.int16]:
    """The sound of a picture: a quarter of a second, three or four notes of one timbre."""
    stream = Stream("playground motif " + pictures()[picture].emoji)
    timbre = _timbre(stream)
    attack = (16, 80, 400)[stream.below(3)]
    lengths = ((1, 1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 1))[stream.below(4)]
    notes = []
    for length in lengths:
        time = np.arange(MOTIF * length // 4, dtype=np.int64)
        pitch = PITCHES[stream.below(len(PITCHES))]
        notes.append(_faded(_tone(time * pitch * CYCLE // (100 * RATE), timbre), attack))
    sound = np.concatenate(notes).astype(np.int16)
    sound.flags.writeable = False
    return sound


def mixture(order: list[int]) -> NDArray[np.int16]:
    """Half a second in which the pictures' motifs start one after the other."""
    total = np.zeros(LENGTH, dtype=np.int64)
    for place, picture in enumerate(order):
        start = place * (LENGTH - MOTIF) // max(1, len(order) - 1)
        total[start : start + MOTIF] += motif(picture)
    return total.clip(-32768, 32767).astype(np.int16)


def glide(picture: int, rising: bool, percent: int) -> NDArray[np.int16]:
    """Half a second of a pitch that rises or falls by an octave, in the picture's own timbre.

    Args:
        picture: whose timbre and pitch.
        rising: whether it rises.
        percent: how loud.
    """
    stream = Stream("playground glide " + pictures()[picture].emoji)
    timbre = _timbre(stream)
    low = PITCHES[stream.below(10)]
    time = np.arange(LENGTH, dtype=np.int64)
    pitch = low + low * (time if rising else LENGTH - time) // LENGTH
    phase = np.cumsum(pitch) * CYCLE // (100 * RATE)
    return (_faded(_tone(phase, timbre), 80) * percent // 100).astype(np.int16)


def following(
    picture: int, across: tuple[int, int], along: tuple[int, int], size: int, samples: int
) -> NDArray[np.int16]:
    """What a thing sounds like that moves on a straight line: one tone in the picture's own timbre.

    It is the higher the higher the thing is (an octave from the lower edge to the upper), and the
    louder the farther to the right (from a quarter to all of it).

    Args:
        picture: whose timbre and pitch; those of `glide`.
        across: the places of its centre at the first and the last moment, from the left.
        along: the same from the top.
        size: of the picture, in the unit of the places.
        samples: how many.
    """
    stream = Stream("playground glide " + pictures()[picture].emoji)
    timbre = _timbre(stream)
    low = PITCHES[stream.below(10)]
    time = np.arange(samples, dtype=np.int64)
    height, place = (
        (first + (last - first) * time // samples).clip(0, size)
        for first, last in ((size - along[0], size - along[1]), across)
    )
    phase = np.cumsum(low + low * height // size) * CYCLE // (100 * RATE)
    # Short slopes at both ends, where a sudden step would crack.
    slope = np.minimum(np.minimum(time, time[::-1]) * 1024 // ONSET, 1024)
    loud = 256 + 768 * place // size
    wave = _tone(np.arange(CYCLE), timbre)[phase % CYCLE]
    sound: NDArray[np.int16] = (wave * slope // 1024 * loud // 1024).astype(np.int16)
    return sound
