"""Straight trails of satellites and aircraft.

A trail is found where boxes above the noise crowd on a line (Hough transform), and
believed if the mean profile across that line stands out over most of a long stretch, if
most pixels on it have light, not only some as in a row of stars, and if it does not fade:
light that falls off with distance belongs to a diffraction spike or to a galaxy seen from
the side. Lines along the axes with edges sharper than any light are of the detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels.trails import angles, best_line, binned_signal, paint, vote
from skymill.steps._trail_profile import CLIP_SIGMA, Band, Planes, follow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = tuple[NDArray[np.int32], NDArray[np.int32]]

__all__ = ["Trail", "find_trails"]

#: A box above this signal to noise is a point of the Hough transform.
_POINT_SIGMA = 3.0
#: More points than this are thinned: the cost is bounded in a crowded field.
_MOST_POINTS = 12_000
#: Groups of more boxes than this that are round and full are sources, not parts of trails.
_COMPACT_BOXES, _ROUND, _FULL = 12, 3.0, 0.4
#: Lines that are no trails before the search ends.
_MOST_REFUSED = 12


@dataclass(frozen=True)
class Trail:
    """One trail.

    Parameters
    ----------
    x0, y0, x1, y1 : float
        Ends in px.
    angle_deg : float
        Direction, from the x axis towards the y axis, 0 to 180.
    width_px : float
        Width of the masked band.
    length_px : float
        Distance of the ends.
    signal : float
        Mean signal to noise of a pixel in the middle of the trail.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    angle_deg: float
    width_px: float
    length_px: float
    signal: float


def find_trails(
    sci: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    bad: NDArray[np.bool_],
    *,
    sensitivity: float = 8.0,
    minimum_length_px: float = 150.0,
    minimum_length_fraction: float = 0.15,
    mask_sigma: float = 0.25,
    maximum: int = 20,
) -> tuple[NDArray[np.bool_], list[Trail]]:
    """Find straight trails and the pixels they cover.

    Parameters
    ----------
    sci, level, rms : ndarray of float32, shape (ny, nx)
        Image, background and its scatter, in one unit. Not modified.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that tell nothing. Pixels without a finite value are left out too.
    sensitivity : float
        Excess of points on a line over its surroundings, in standard deviations.
    minimum_length_px, minimum_length_fraction : float
        A trail must be as long as the larger of the two; the fraction is of the diagonal.
    mask_sigma : float
        The band is masked out to where the mean signal of a pixel falls below this.
    maximum : int
        Largest number of trails.

    Returns
    -------
    mask : ndarray of bool, shape (ny, nx)
        True on trails.
    trails : list of Trail
        The brightest line first.
    """
    planes = Planes(
        np.ascontiguousarray(sci), np.ascontiguousarray(level),
        np.ascontiguousarray(rms), np.array(bad, np.bool_, order="C"),
    )  # fmt: skip
    ny, nx = sci.shape
    side = 4 if min(ny, nx) >= 1024 else 2
    found = np.zeros(sci.shape, bool)
    trails: list[Trail] = []
    least = max(minimum_length_px, minimum_length_fraction * float(np.hypot(ny, nx)))
    search = _Search(_points(planes, side), (ny // side, nx // side), side, least)
    refused = 0
    while len(trails) < maximum and refused < _MOST_REFUSED:
        line = search.strongest(sensitivity)
        if line is None:
            break
        band = follow(planes, line, least, mask_sigma)
        if band is None:
            refused += 1
            band = Band(line, 0.0, line[4], np.zeros(3), 2.0 * side, 2.0 * side, 0.0)
        else:
            paint(found, *band[:6])
            # what is masked tells nothing of further trails
            paint(planes.bad, *band[:6])
            trails.append(_describe(band))
        search.remove(band)
    return found, trails


def _points(planes: Planes, side: int) -> Points:
    """Boxes above the noise that are not part of a large compact source."""
    from scipy import ndimage

    signal = binned_signal(*planes, side, np.float32(CLIP_SIGMA))
    bright = signal > _POINT_SIGMA
    labels, count = ndimage.label(bright, structure=np.ones((3, 3), int))
    y, x = np.nonzero(bright)
    group = labels[y, x]
    size = np.bincount(group, minlength=count + 1)
    mean_y, mean_x = (np.bincount(group, v, count + 1) / np.maximum(size, 1) for v in (y, x))
    dy, dx = y - mean_y[group], x - mean_x[group]
    yy, xx, xy = (
        np.bincount(group, v, count + 1) / np.maximum(size, 1) for v in (dy * dy, dx * dx, dy * dx)
    )
    half, root = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    major, minor = half + root + 1 / 12, np.maximum(half - root + 1 / 12, 1e-6)
    # an ellipse has an area of 4 pi times the product of its axes' deviations; two trails
    # that cross fill little of theirs
    full = size > _FULL * 4 * np.pi * np.sqrt(major * minor)
    compact = (size > _COMPACT_BOXES) & (major < _ROUND**2 * minor) & full
    keep = ~compact[group]
    y, x = y[keep], x[keep]
    if y.size > _MOST_POINTS:
        # an even choice without a period of its own
        golden = (np.arange(y.size) * 0.6180339887498949) % 1.0
        chosen = golden < _MOST_POINTS / y.size
        y, x = y[chosen], x[chosen]
    return y.astype(np.int32), x.astype(np.int32)


class _Search:
    """Points and how many of them lie on each line."""

    def __init__(self, points: Points, shape: tuple[int, int], side: int, least: float) -> None:
        my, mx = shape
        self._y, self._x = points
        self._shape, self._side = shape, side
        self._least = 0.35 * least / side
        self._cosine, self._sine = angles(max(my, mx))
        self._offset = mx + 1
        size = mx + int(np.hypot(mx, my)) + 3
        self._counts = np.zeros((self._cosine.size, size), np.int32)
        if self._y.size >= self._least:
            self._vote(self._y, self._x, 1)

    def _vote(self, y: NDArray[np.int32], x: NDArray[np.int32], weight: int) -> None:
        vote(self._counts, y, x, self._cosine, self._sine, self._offset, weight)

    def strongest(self, sensitivity: float) -> NDArray[np.float64] | None:
        """Start, direction and length (px) of the line with the largest excess."""
        if self._y.size < self._least:
            return None
        a, r, score = best_line(self._counts, self._least)
        if not score > sensitivity:
            return None
        # between the two bins, at the centres of boxes
        rho = float(r - self._offset) * self._side
        return _clipped(float(self._cosine[a]), float(self._sine[a]), rho, self._side, self._shape)

    def remove(self, band: Band) -> None:
        """Take the points of a band away."""
        middle = (self._side - 1) / 2
        dx = self._x * self._side + middle - band.line[0]
        dy = self._y * self._side + middle - band.line[1]
        ux, uy = band.line[2], band.line[3]
        t, across = dx * ux + dy * uy, dy * ux - dx * uy
        across = across - (band.bend[0] + t * (band.bend[1] + t * band.bend[2]))
        # a box of the trail may have its centre beside it
        inside = (across >= -band.below - self._side) & (across <= band.above + self._side)
        inside &= (t >= band.first - self._side) & (t <= band.last + self._side)
        self._vote(self._y[inside], self._x[inside], -1)
        self._y, self._x = self._y[~inside], self._x[~inside]
        if not inside.any():
            # the line would come again
            self._y = self._y[:0]


def _clipped(
    c: float, s: float, rho: float, side: int, shape: tuple[int, int]
) -> NDArray[np.float64] | None:
    """Start, direction and length of the part of a line inside the frame."""
    ny, nx = shape[0] * side, shape[1] * side
    rho += (c + s) * (side - 1) / 2
    ux, uy = -s, c
    low, high = -1e9, 1e9
    for p, u, n in ((rho * c, ux, nx), (rho * s, uy, ny)):
        if abs(u) < 1e-9:
            if not 0 <= p <= n - 1:
                return None
            continue
        a, b = sorted(((0 - p) / u, (n - 1 - p) / u))
        low, high = max(low, a), min(high, b)
    if not high > low:
        return None
    return np.array([rho * c + low * ux, rho * s + low * uy, ux, uy, high - low, 0.0])


def _describe(band: Band) -> Trail:
    line, ends = band.line, []
    for t in (max(band.first, 0.0), min(band.last, line[4])):
        across = band.bend[0] + t * (band.bend[1] + t * band.bend[2])
        ends.append((float(line[0] + t * line[2] - across * line[3]),
                     float(line[1] + t * line[3] + across * line[2])))  # fmt: skip
    (xa, ya), (xb, yb) = ends
    angle = float(np.degrees(np.arctan2(yb - ya, xb - xa))) % 180
    length = float(np.hypot(xb - xa, yb - ya))
    return Trail(xa, ya, xb, yb, angle, band.below + band.above, length, float(band.signal))
