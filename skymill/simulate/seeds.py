"""Independent random streams: one for each effect of each frame.

A stream is named, not counted, so that a new frame, a new filter or a new effect
leaves every other number of the night as it was.
"""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np

__all__ = ["Stream", "generator"]


class Stream(IntEnum):
    """What a generator is used for. Values are part of the seed: never renumber."""

    CATALOG = 1
    REFERENCE = 2
    FLAT = 3
    DARK = 4
    BIAS = 5
    POINTING = 6
    SEEING = 7
    SKY = 8
    PHOTONS = 9
    READ_NOISE = 10
    COSMIC = 11
    TRAIL = 12
    DRIFT = 13
    LEVEL = 14
    POINTING_ERROR = 15
    TEMPERATURE = 16
    FLAT_STARS = 17


def generator(
    seed: int, stream: Stream, name: str = "", index: int = 0, night: int = 0
) -> np.random.Generator:
    """Return the generator of one effect in one frame.

    Parameters
    ----------
    seed : int
        Seed of the night, 0 to 2**32 - 1.
    stream : Stream
        The effect.
    name : str
        Kind of frame and filter, or the name of an odd frame.
    index : int
        Number of the frame within its kind.
    night : int
        Number of the night in a series.

    Returns
    -------
    numpy.random.Generator
        PCG64, seeded by ``SeedSequence([seed, stream, crc32(name), index, night])``.
    """
    # The key always has five words: SeedSequence pads short keys with zeros.
    key = [seed, int(stream), zlib.crc32(name.encode()), index, night]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
