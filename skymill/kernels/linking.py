"""Compiled search for motions: neighbours in strips, pairs of frames, following a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.search import first_not_less

__all__ = ["follow", "pairs", "seen_again"]


@njit(cache=True, nogil=True)
def seen_again(
    x: Any, y: Any, frame: Any, strips: Any, low: Any, height: Any, radius: Any, n_frames: Any,
    enough: Any,
) -> Any:  # fmt: skip
    """Say which detections have others within a radius in enough further frames.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Positions by strips of equal height in y, and by x within one.
    frame : ndarray of int64, shape (n,)
        Frame of each.
    strips : ndarray of int64, shape (s + 1,)
        Where each strip begins.
    low, height : float
        Least y, and the height of a strip, at least `radius`.
    radius : float
        Largest distance.
    n_frames, enough : int
        Number of frames; how many other ones are enough.
    """
    n = len(x)
    out = np.zeros(n, np.bool_)
    counted = np.full(n_frames, -1, np.int64)
    for i in range(n):
        counted[frame[i]] = i
        count = 0
        strip = int((y[i] - low) / height)
        for s in range(max(strip - 1, 0), min(strip + 2, len(strips) - 1)):
            start = first_not_less(x, strips[s], strips[s + 1], x[i] - radius)
            for j in range(start, strips[s + 1]):
                dx = x[j] - x[i]
                if dx > radius or count >= enough:
                    break
                dy = y[j] - y[i]
                if dx * dx + dy * dy <= radius * radius and counted[frame[j]] != i:
                    counted[frame[j]] = i
                    count += 1
        out[i] = count >= enough
    return out


@njit(cache=True, nogil=True)
def pairs(
    x: Any, y: Any, number: Any, starts: Any, times: Any, order: Any, span: Any, rate: Any,
    tolerance: Any, out: Any,
) -> Any:  # fmt: skip
    """Find the pairs of detections in frames close in time that a rate can join.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Positions by frames, and by x within one.
    number : ndarray of int64, shape (n,)
        What to write for each.
    starts : ndarray of int64, shape (f + 1,)
        Where each frame begins.
    times : ndarray of float64, shape (f,)
        Times of the frames.
    order : ndarray of int64, shape (f,)
        Frames by time.
    span : int
        Most frames from the first of a pair to the second.
    rate, tolerance : float
        A pair is no further apart than ``rate * dt + tolerance``.
    out : ndarray of int64, shape (m, 2)
        Filled as far as it goes.

    Returns
    -------
    int
        Number of pairs, also of those that `out` has no room for.
    """
    found = 0
    for a in range(len(order)):
        i = order[a]
        for b in range(a + 1, min(a + 1 + span, len(order))):
            j = order[b]
            dt = times[j] - times[i]
            if dt <= 0:
                continue
            reach = rate * dt + tolerance
            for p in range(starts[i], starts[i + 1]):
                start = first_not_less(x, starts[j], starts[j + 1], x[p] - reach)
                for q in range(start, starts[j + 1]):
                    dx, dy = x[q] - x[p], y[q] - y[p]
                    if dx > reach:
                        break
                    if dx * dx + dy * dy <= reach * reach:
                        if found < len(out):
                            out[found, 0], out[found, 1] = number[p], number[q]
                        found += 1
    return found


@njit(cache=True, nogil=True)
def _within(polygon: Any, x: Any, y: Any) -> Any:
    """Whether a point lies in a polygon; never in one of vertices that are not finite."""
    inside = False
    last = len(polygon) - 1
    x1, y1 = polygon[last, 0], polygon[last, 1]
    for k in range(len(polygon)):
        x2, y2 = polygon[k, 0], polygon[k, 1]
        if (y2 > y) != (y1 > y) and x < (x1 - x2) * (y - y2) / (y1 - y2) + x2:
            inside = not inside
        x1, y1 = x2, y2
    return inside


@njit(cache=True, nogil=True)
def _around(
    x: Any, y: Any, strips: Any, low: Any, height: Any, px: Any, py: Any, radius: Any
) -> Any:
    """Count the positions, in strips, within a radius of a point."""
    count = 0
    # A point far off has no strip, and its number may be none at all.
    strip = int(min(max((py - low) / height, -2.0), len(strips) + 1.0))
    for s in range(max(strip - 1, 0), min(strip + 2, len(strips) - 1)):
        start = first_not_less(x, strips[s], strips[s + 1], px - radius)
        for j in range(start, strips[s + 1]):
            dx, dy = x[j] - px, y[j] - py
            if dx > radius:
                break
            if dx * dx + dy * dy <= radius * radius:
                count += 1
    return count


@njit(cache=True, nogil=True)
def _nearest(x: Any, y: Any, start: Any, end: Any, px: Any, py: Any, reach: Any) -> Any:
    """Index of the nearest position within reach among those of a frame, by x; -1 for none."""
    best, least = -1, reach * reach
    for j in range(first_not_less(x, start, end, px - reach), end):
        dx, dy = x[j] - px, y[j] - py
        if dx > reach:
            break
        away = dx * dx + dy * dy
        if away < least or (best < 0 and away == least):
            best, least = j, away
    return best


@njit(cache=True, nogil=True)
def _taken_in(motion: Any, t: Any, x: Any, y: Any) -> None:
    """Add a detection to the sums of a motion: n, means of t, x, y, and S_tt, S_tx, S_ty."""
    motion[0] += 1.0
    dt = t - motion[1]
    motion[1] += dt / motion[0]
    motion[2] += (x - motion[2]) / motion[0]
    motion[3] += (y - motion[3]) / motion[0]
    after = t - motion[1]
    # Sums of products about the means, one mean before and one after: exact, no cancellation.
    motion[4] += dt * after
    motion[5] += dt * (x - motion[2])
    motion[6] += dt * (y - motion[3])


@njit(cache=True, nogil=True)
def follow(
    seeds: Any, frame: Any, xy: Any, times: Any, order: Any, rank: Any, footprints: Any,
    fx: Any, fy: Any, number: Any, starts: Any, sx: Any, sy: Any, strips: Any, low: Any,
    height: Any, radius: Any, tolerance: Any, first_look: Any, members: Any,
) -> Any:  # fmt: skip
    """Follow pairs of detections through all frames, the nearest in time first.

    Parameters
    ----------
    seeds : ndarray of int64, shape (n, 2)
        Pairs of detections.
    frame, xy : ndarray
        Frame and position of each detection.
    times, order, rank : ndarray, shape (f,)
        Times of the frames; the frames by time; the place of each in that order.
    footprints : ndarray of float64, shape (f, v, 2)
        Polygon of each frame.
    fx, fy, number, starts : ndarray
        Detections by frames and x, as for `pairs`.
    sx, sy, strips, low, height : ndarray and float
        Detections by strips, as for `seen_again`.
    radius : float
        Radius within which the density of detections is taken.
    tolerance : float
        Largest distance between prediction and detection; thrice that for an uncertain one.
    first_look : int
        Frames after which a pair that found nothing is given up.
    members : ndarray of int64, shape (n, f)
        Filled with the detection that was taken in on each frame, -1 for none.

    Returns
    -------
    looked : ndarray of int64, shape (n,)
        Frames beside the two of the pair that the prediction lies on.
    expected : ndarray of float64, shape (n,)
        Detections on them that chance would bring.
    """
    n, n_frames = members.shape
    looked, expected = np.zeros(n, np.int64), np.zeros(n)
    motion = np.zeros(7)
    for s in range(n):
        mine = members[s]
        mine[:] = -1
        motion[:] = 0.0
        for k in seeds[s]:
            mine[frame[k]] = k
            _taken_in(motion, times[frame[k]], xy[k, 0], xy[k, 1])
        total = rank[frame[seeds[s, 0]]] + rank[frame[seeds[s, 1]]]
        before, after = total // 2, total // 2 + 1
        for step in range(n_frames):
            # Of two frames as near, the one that comes first in the list.
            early, late = total - 2 * before, 2 * after - total
            back = after >= n_frames or (
                before >= 0 and (early < late or (early == late and order[before] < order[after]))
            )
            if back:
                k = order[before]
                before -= 1
            else:
                k = order[after]
                after += 1
            if mine[k] < 0:
                spread = max(motion[4], 1e-12)
                ahead = times[k] - motion[1]
                px = motion[2] + motion[5] / spread * ahead
                py = motion[3] + motion[6] / spread * ahead
                if _within(footprints[k], px, py):
                    looked[s] += 1
                    if starts[k + 1] > starts[k]:
                        # A third of the tolerance is about the error of one detection.
                        error = tolerance / 3 * np.sqrt(1 / motion[0] + ahead * ahead / spread)
                        reach = min(tolerance + error, 3 * tolerance)
                        near = _around(sx, sy, strips, low, height, px, py, radius)
                        density = near / n_frames / (radius * radius)
                        expected[s] += min(density * reach * reach, 0.9)
                        j = _nearest(fx, fy, starts[k], starts[k + 1], px, py, reach)
                        if j >= 0:
                            mine[k] = number[j]
                            _taken_in(motion, times[k], fx[j], fy[j])
            if step == first_look and motion[0] <= 2:
                break
    return looked, expected
