"""What lies along and across a line: is it a trail, and how far does it reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.kernels.trail_profile import (
    aligned,
    column_quantiles,
    ground,
    piece_light,
    shown,
    straightened,
)
from skymill.kernels.trails import strip_profiles, strip_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Run = tuple[int, int]

__all__ = ["CLIP_SIGMA", "Band", "Planes", "follow"]

#: Half-width of the strip that is looked at, its inner part in which the trail may wander,
#: and length of a segment, in px.
_REACH_PX, _WANDER_PX, _SEGMENT_PX = 48, 9, 64
#: If the outer half of the strip is brighter than this, another one so many times as wide.
_BROAD_SIGMA, _WIDER = 1.0, 3
#: Single pixels count at most this much: stars on the way do not make a trail.
CLIP_SIGMA = 8.0
#: A segment shows the trail if its middle stands out this much.
_SEGMENT_SIGMA = 4.0
#: Fraction of the segments of a trail that must show it.
_LEAST_SHOWN = 0.6
#: Segments that may be missing in a row.
_LONGEST_GAP = 3
#: A trail lights most of its pixels, stars in a row do not: this quantile along the line
#: must stand out from lines beside it by so many sigma of a pixel, and of its own scatter.
_QUANTILE, _LEAST_LIGHT, _LEAST_CONTRAST = 0.6, 0.3, 6.0
#: Where more than this part of the pixels beside it is bright (above 3 sigma), or there is
#: nothing beside it on one side, a lower quantile must stand out by more.
_CROWDED, _LOW_QUANTILE, _CROWDED_LIGHT = 0.03, 0.25, 1.0
#: Light along a trail is measured in pieces of this length; pieces at its ends below this
#: fraction of the brightest quarter do not belong to it; most others are above the second.
_PIECE_PX, _DARK, _UNLIT = 32, 0.25, 0.1
#: Of a trail fainter than this, more of the pieces must be lit: stars in a row are not.
_FAINT, _FAINT_SHOWN = 3.0, 0.75
#: It fades if only this fraction of the light is left far from its brightest place: the mean of
#: both sides; one side alone; or both up to the edges of the frame.
_FADED, _FADED_ONE_SIDE, _FADED_AT_EDGES = 0.55, 0.4, 0.45
#: Lines this close to an axis (rad) are of the detector if, along the axis, they have sharp
#: edges: from below the first to above the second fraction of the peak in one pixel. So are
#: those that stay this close to one edge of the frame.
_AXIS_RAD, _SHARP, _EDGE_PX = 0.012, (0.12, 0.5), 32


class Planes(NamedTuple):
    """Image, background, its scatter, and pixels that tell nothing."""

    sci: NDArray[np.float32]
    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    bad: NDArray[np.bool_]


class Band(NamedTuple):
    """A band of pixels along a bent line, and the height of the trail in it."""

    line: Array
    first: float
    last: float
    bend: Array
    below: float
    above: float
    signal: float


def follow(planes: Planes, line: Array, least: float, mask_sigma: float) -> Band | None:
    """Judge a line by its profile; the band of the trail, or None if it is none.

    Parameters
    ----------
    planes : Planes
        Shape (ny, nx).
    line : ndarray of float64, shape (6,)
        Start (x, y), unit vector (x, y), length in px, unused.
    least : float
        Shortest trail in px.
    mask_sigma : float
        The band reaches to where the mean signal of a pixel falls below this.
    """
    band, broad = _judge(planes, line, least, mask_sigma, 1)
    if not broad:
        return band
    # an aircraft, or two lines side by side: look again, three times as coarse and wide
    return _judge(planes, line, least, mask_sigma, _WIDER)[0] or band


def _judge(
    planes: Planes, line: Array, least: float, mask_sigma: float, scale: int
) -> tuple[Band | None, bool]:
    """The band of the trail or None; and whether light goes on beyond what was looked at."""
    reach, clip = scale * _REACH_PX, np.float32(CLIP_SIGMA)
    mean, count = strip_profiles(*planes, line, reach, _SEGMENT_PX, clip)
    beyond = mean[:, np.abs(np.arange(-reach, reach + 1)) > reach // 2]
    beyond = beyond[np.isfinite(beyond)]
    broad = beyond.size > 0 and float(np.median(beyond)) > _BROAD_SIGMA
    bend = np.zeros(3)
    for wander in (scale * _WANDER_PX, scale * _WANDER_PX, scale * _WANDER_PX // 2):
        shows, middle = shown(mean, count, bend, wander, scale, _SEGMENT_PX, _SEGMENT_SIGMA)
        run = _longest_run(shows)
        if run is None:
            return None, broad
        bend = straightened(middle, shows, *run, _SEGMENT_PX)
        # of two lines beside each other the brighter one, not the middle
        across = aligned(mean, count, bend, shows, *run, _SEGMENT_PX)
        near = np.convolve(across, np.ones(3) / 3, "same")[reach - wander : reach + wander + 1]
        bend[0] += int(np.argmax(near)) - wander
    wander = scale * _WANDER_PX // 2
    shows, _ = shown(mean, count, bend, wander, scale, _SEGMENT_PX, _SEGMENT_SIGMA)
    run = _longest_run(shows)
    if run is None or (run[1] - run[0] + 1) * _SEGMENT_PX < least:
        return None, broad
    if shows[run[0] : run[1] + 1].mean() < _LEAST_SHOWN:
        return None, broad
    across = aligned(mean, count, bend, shows, *run, _SEGMENT_PX)
    below, above, peak = _edges(across, mask_sigma)
    start, stop = run[0] * _SEGMENT_PX, min((run[1] + 1) * _SEGMENT_PX, int(line[4]))
    values = strip_values(*planes, line, bend, start, stop, reach)
    if (
        peak <= 0
        or not _is_filled(values)
        or _is_detector(planes, line, bend, (start, stop), max(below, above))
    ):
        return None, broad
    part = _lit(values, (start <= _SEGMENT_PX, stop >= line[4] - _SEGMENT_PX))
    if part is None or part[1] - part[0] < least:
        return None, broad
    # a trail that reaches the last whole pieces reaches the edge
    first, last = float(start + part[0] - _PIECE_PX), float(start + part[1] + _PIECE_PX)
    first = 0.0 if first <= _SEGMENT_PX else first
    last = float(line[4]) if last >= line[4] - _SEGMENT_PX else last
    band = Band(line, first, last, bend, below, above, peak)
    return band, broad or max(below, above) >= reach


def _longest_run(shown: NDArray[np.bool_]) -> Run | None:
    """First and last index of the longest run with short gaps."""
    on = np.flatnonzero(shown)
    if on.size == 0:
        return None
    breaks = np.flatnonzero(np.diff(on) > _LONGEST_GAP + 1)
    starts = np.concatenate(([0], breaks + 1))
    ends = np.concatenate((breaks, [on.size - 1]))
    best = int(np.argmax(on[ends] - on[starts]))
    return int(on[starts[best]]), int(on[ends[best]])


def _edges(profile: Array, mask_sigma: float) -> tuple[float, float, float]:
    """How far the trail reaches to both sides, and its height."""
    reach = (len(profile) - 1) // 2
    close = 4 * (reach // _REACH_PX)
    peak = float(profile[reach - close : reach + close + 1].max())
    limit = max(mask_sigma, 0.02 * peak)
    sides = []
    for step in (-1, 1):
        n = 0
        while n < reach and profile[reach + step * (n + 1)] > limit:
            n += 1
        sides.append(n + 1.5)
    return sides[0], sides[1], peak


def _is_filled(values: NDArray[np.float32]) -> bool:
    """True if most of the pixels on the line have light that pixels beside it do not have."""
    reach = (values.shape[1] - 1) // 2
    offset = np.arange(values.shape[1]) - reach
    near, far = np.abs(offset) <= 4 * (reach // _REACH_PX), np.abs(offset) > reach // 2
    beside = values[:, far]
    beside = beside[np.isfinite(beside)]
    one_sided = False
    for q, least in ((_QUANTILE, _LEAST_LIGHT), (_LOW_QUANTILE, _CROWDED_LIGHT)):
        profile = column_quantiles(values, near | far, q)
        known = np.isfinite(profile)
        if not (known & near).any():
            return False
        sides = [profile[known & far & (np.sign(offset) == sign)] for sign in (-1, 1)]
        sides = [side for side in sides if side.size >= 8]
        if not sides:
            return False
        one_sided = len(sides) == 1
        grounds = [ground(side) for side in sides]
        # the higher level: not the edge of something; the lower scatter: one side may hold
        # another trail
        level, scatter = max(v for v, _ in grounds), min(v for _, v in grounds)
        light = float(profile[known & near].max()) - level
        if not light > max(least, _LEAST_CONTRAST * scatter):
            return False
        if not one_sided and float((beside > 3).mean()) < _CROWDED:
            return True
    return True


def _is_detector(
    planes: Planes, line: Array, bend: Array, span: tuple[int, int], half_px: float
) -> bool:
    """True for the glow of an edge, and for bad columns and rows: edges sharper than any light.

    A band that comes as close to one side of the frame as its own width, all along, is
    the glow or the vignetting of that side.
    """
    start, stop = span
    ends = []
    for t in (start, stop):
        across = bend[0] + t * (bend[1] + t * bend[2])
        ends.append((line[0] + t * line[2] - across * line[3],
                     line[1] + t * line[3] + across * line[2]))  # fmt: skip
    (xa, ya), (xb, yb) = ends
    ny, nx = planes.sci.shape
    for margin in (max(xa, xb), max(ya, yb), nx - 1 - min(xa, xb), ny - 1 - min(ya, yb)):
        if margin < max(_EDGE_PX, 1.5 * half_px):
            return True
    dx, dy = abs(xb - xa), abs(yb - ya)
    if min(dx, dy) > _AXIS_RAD * max(dx, dy):
        return False
    upright = dy > dx
    along = np.array([round((xa + xb) / 2), 0.0, 0.0, 1.0] if upright
                     else [0.0, round((ya + yb) / 2), 1.0, 0.0])  # fmt: skip
    low, high = sorted((int(ya), int(yb)) if upright else (int(xa), int(xb)))
    values = strip_values(*planes, along, np.zeros(3), max(low, 0), high + 1, _REACH_PX)
    profile = column_quantiles(values, np.ones(values.shape[1], np.bool_), 0.5)
    profile = np.nan_to_num(profile - np.nanmedian(profile))
    near = profile[_REACH_PX - 12 : _REACH_PX + 13]
    peak = float(near.max())
    if not peak > 0:
        return False
    if peak < _LEAST_CONTRAST * 1.4826 * float(np.median(np.abs(profile))):
        # other rows or columns are as far from the sky
        return True
    step = near / peak
    at = int(np.argmax(step))
    left = []
    for side in (step[at::-1], step[at:]):
        fallen = np.flatnonzero(side < _SHARP[1])
        # how much is left on the first pixel beyond the half
        left.append(float(side[fallen[0]]) if fallen.size else 1.0)
    return max(left) < _SHARP[0]


def _lit(values: NDArray[np.float32], at_edge: tuple[bool, bool]) -> tuple[int, int] | None:
    """The part of the line that has light, in px; None if the light fades.

    Diffraction spikes fade on both sides of their star, or on one at the edge of the
    frame; galaxies seen from the side on both.
    """
    scale = (values.shape[1] - 1) // 2 // _REACH_PX
    found = piece_light(values, _PIECE_PX, scale)
    at = np.flatnonzero(np.isfinite(found))
    if at.size < 4:
        return None
    bright = float(np.median(np.sort(found[at])[-max(1, at.size // 4) :]))
    unlit = max(_UNLIT * bright, _LEAST_LIGHT)
    values_at = found[at]
    run = _longest_run(values_at >= _DARK * bright)
    wide = _longest_run(values_at > unlit)
    if run is None or wide is None or run[1] - run[0] < 3:
        return None
    lit = float((values_at[run[0] : run[1] + 1] > unlit).mean())
    if lit < (_LEAST_SHOWN if bright > _FAINT else _FAINT_SHOWN):
        return None
    # also the faint ends tell whether the light fades or stops
    if _fades(values_at[wide[0] : wide[1] + 1], at_edge):
        return None
    first, last = int(at[run[0]]), int(at[run[1]])
    return first * _PIECE_PX, min((last + 1) * _PIECE_PX, values.shape[0])


def _fades(light: Array, at_edge: tuple[bool, bool]) -> bool:
    """True if the light falls off with the distance from its brightest piece."""
    peak = int(np.argmax(light))
    # without the brightest itself, which may be a star on the way
    sides = [side for side in (light[:peak][::-1], light[peak + 1 :]) if side.size >= 3]
    limit = _FADED if len(sides) == 2 else _FADED_ONE_SIDE
    if all(at_edge):
        limit = min(limit, _FADED_AT_EDGES)
    return bool(sides) and float(np.mean([_left(side) for side in sides])) < limit


def _left(side: Array) -> float:
    """How much of the light of the first third is left in the others."""
    near, middle, far = (float(np.median(part)) for part in np.array_split(side, 3))
    # far out there may be a star, in the middle a decline is not at its end
    return min(middle, max(0.67 * middle, far)) / near if near > 0 else 1.0
