"""What the frames themselves tell of a detector: overscan, saturation, gain and read noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.instruments.strips import Layout, find_layout
from skymill.instruments.survey import PILE_UP
from skymill.steps.masters_compare import pair_noise
from skymill.steps.photon_transfer import gain_from_pairs, pair_points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from skymill.instruments.survey import Shot
    from skymill.sections import Section

    #: Image, data section and overscans of an amplifier.
    Part = tuple[Shot, Section, Sequence[Section]]

__all__ = ["Measured", "boxes", "layout_of", "measure", "pile_up"]

#: Frames used at most of each sort: more bring little and take time.
MOST = 5
#: Side of a sample box (px) and boxes along an axis.
SIDE, BOXES = 40, 8
#: Share of the saturation level above which pixels are not used.
SAFE = 0.9


@dataclass(frozen=True)
class Measured:
    """Gain and read noise from pairs of frames; NaN where frames are missing.

    Parameters
    ----------
    noise_adu : float
        Read noise (ADU), with rounding.
    gain, gain_error : float
        Gain (electron/ADU) and standard error.
    n_bias, n_flats : int
        Frames that were used.
    band : str
        Filter of the flats.
    """

    noise_adu: float
    gain: float
    gain_error: float
    n_bias: int
    n_flats: int
    band: str = ""

    @property
    def noise_e(self) -> float:
        """Read noise in electron."""
        return self.noise_adu * self.gain


def layout_of(bias: Sequence[Shot], bright: Sequence[Shot]) -> Layout | None:
    """Find image and overscan from the first bias frames and the brightest others."""
    lit = sorted(bright, key=lambda s: -s.median)[:3]
    return find_layout([s.pixels() for s in bias[:3]], [s.pixels() for s in lit])


def pile_up(shots: Sequence[Shot]) -> tuple[float, int] | None:
    """Return the level at which pixels pile up, and in how many frames; None if nowhere.

    The highest value of a frame that many pixels share is a limit of the converter or of
    the program; the most frequent one of all frames is taken.
    """
    found = Counter(s.high for s in shots if s.piled >= PILE_UP and s.high > 1.5 * s.median + 100)
    return found.most_common(1)[0] if found else None


def measure(
    bias: Sequence[Shot],
    flats: Sequence[Shot],
    parts: Callable[[Shot], Sequence[Part]],
    top: float,
    band: Callable[[Shot], str],
) -> list[Measured]:
    """Measure each amplifier.

    Parameters
    ----------
    bias, flats : sequence of Shot
        Frames of one detector and read-out mode.
    parts : callable
        Image, data section and overscans of each amplifier of a shot.
    top : float
        Saturation (ADU).
    band : callable
        Filter of a shot: only flats of the same are compared.

    Returns
    -------
    list of Measured
        One per amplifier.
    """
    zeros = [_samples(parts(shot), top) for shot in bias[:MOST]]
    name, chosen = _largest(flats, band)
    lit = [_samples(parts(shot), top) for shot in chosen]
    number = len((zeros or lit or [[]])[0])
    return [_one(zeros, lit, k, name) for k in range(number)]


def _one(zeros: list[Any], lit: list[Any], k: int, band: str) -> Measured:
    quiet = [frame[k] for frame in zeros]
    flats = [frame[k] for frame in lit]
    if not quiet:
        return Measured(np.nan, np.nan, np.nan, 0, len(flats), band)
    filled = [np.where(np.isfinite(q), q, np.nanmedian(q)).ravel() for q in quiet]
    noise = pair_noise(np.stack(filled).astype(np.float32))
    noise = noise if noise > 0 else np.nan  # copies of one frame
    level = np.mean(np.stack(quiet), axis=0)
    gain = error = np.nan
    if len(flats) > 1 and np.isfinite(noise):
        points = pair_points(
            [(f - level).astype(np.float64) for f in flats], [noise**2] * len(flats)
        )
        gain, error = gain_from_pairs(points)
    return Measured(float(noise), float(gain), float(error), len(quiet), len(flats), band)


def _largest(flats: Sequence[Shot], band: Callable[[Shot], str]) -> tuple[str, list[Shot]]:
    """The filter with most flats, and the flats nearest to a good level."""
    names = Counter(band(shot) for shot in flats)
    if not names:
        return "", []
    name = max(sorted(names), key=lambda n: names[n])
    own = [shot for shot in flats if band(shot) == name]
    return name, sorted(own, key=lambda s: (-s.median, s.path))[:MOST]


def _samples(parts: Sequence[Part], top: float) -> list[NDArray[np.float32]]:
    """Boxes of each amplifier without the overscan level, NaN where saturated."""
    images: dict[int, NDArray[np.float32]] = {}
    out = []
    for shot, data, strips in parts:
        if shot.hdu not in images:
            images[shot.hdu] = shot.pixels()
        image = images[shot.hdu]
        dark = [image[strip.slices].ravel() for strip in strips]
        level = float(np.median(np.concatenate(dark))) if dark else 0.0
        part = image[data.slices]
        out.append(boxes(np.where(part < SAFE * top, part - level, np.float32(np.nan))))
    return out


def boxes(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Cut evenly spread boxes from a plane, shape (boxes, side, side)."""
    ny, nx = plane.shape
    side = min(SIDE, ny, nx)
    ys, xs = (
        np.unique(np.linspace(0, n - side, min(BOXES, n // side)).round().astype(int))
        for n in (ny, nx)
    )
    return np.stack([plane[y : y + side, x : x + side] for y in ys for x in xs]).astype(np.float32)
