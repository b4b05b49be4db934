"""Compiled examination of maps that may take one list of stars to another.

A map is an array ``(a, b, c, d, e, f)``: ``x' = a x + b y + e``, ``y' = c x + d y + f``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.search import first_not_less

__all__ = ["chances", "examine"]

#: Times that stars are paired and the map fitted again, at most.
_TURNS = 6
#: Radii in tolerances, and directions, by which the list is displaced.
_DISPLACED = (6.0, 11.0)
_DIRECTIONS = 8


@njit(cache=True, nogil=True)
def _moved(m: Any, x: Any, y: Any) -> Any:
    return m[0] * x + m[1] * y + m[4], m[2] * x + m[3] * y + m[5]


@njit(cache=True, nogil=True)
def _after(m: Any, first: Any) -> Any:
    """Return the map that does one and then another."""
    out = np.empty(6)
    for i in range(2):
        for j in range(2):
            out[2 * i + j] = m[2 * i] * first[j] + m[2 * i + 1] * first[2 + j]
        out[4 + i] = m[2 * i] * first[4] + m[2 * i + 1] * first[5] + m[4 + i]
    return out


@njit(cache=True, nogil=True)
def _pairs(m: Any, source: Any, rx: Any, ry: Any, radius: Any, pairs: Any) -> Any:
    """Pair stars that are each other's nearest; returns how many, and whether they are new."""
    n = len(source)
    forth, back = np.full(n, -1), np.full(len(rx), -1)
    nearest = np.full(len(rx), np.inf)
    for i in range(n):
        x, y = _moved(m, source[i, 0], source[i, 1])
        least = radius * radius
        for j in range(first_not_less(rx, 0, len(rx), x - radius), len(rx)):
            dx, dy = rx[j] - x, ry[j] - y
            if dx > radius:
                break
            away = dx * dx + dy * dy
            if away < least:
                forth[i], least = j, away
            if away < nearest[j]:
                back[j], nearest[j] = i, away
    count, new = 0, False
    for i in range(n):
        j = forth[i] if forth[i] >= 0 and back[forth[i]] == i else -1
        new = new or pairs[i] != j
        pairs[i] = j
        count += j >= 0
    return count, new


@njit(cache=True, nogil=True)
def _fit(
    source: Any, base: Any, rx: Any, ry: Any, pairs: Any, count: Any, sigma: Any, gain: Any
) -> Any:
    """Fit a shift, a rigid map or a similarity after the base, the simplest that does.

    Returns
    -------
    map, kind
        The kind is 0, 1 or 2; see `skymill.affine.fit_best`.
    """
    mx = my = tx = ty = 0.0
    for i in range(len(pairs)):
        if pairs[i] >= 0:
            x, y = _moved(base, source[i, 0], source[i, 1])
            mx, my, tx, ty = mx + x, my + y, tx + rx[pairs[i]], ty + ry[pairs[i]]
    mx, my, tx, ty = mx / count, my / count, tx / count, ty / count
    down = real = imag = 0.0
    for i in range(len(pairs)):
        if pairs[i] >= 0:
            x, y = _moved(base, source[i, 0], source[i, 1])
            x, y, u, v = x - mx, y - my, rx[pairs[i]] - tx, ry[pairs[i]] - ty
            down += x * x + y * y
            real += x * u + y * v
            imag += x * v - y * u
    steps, chi2 = np.zeros((3, 6)), np.zeros(3)
    kinds = min(count, 3)
    for kind in range(kinds):
        a, b = 1.0, 0.0
        if kind > 0 and down > 0:
            a, b = real / down, imag / down
        length = np.hypot(a, b)
        if kind == 1:
            a, b = (a / length, b / length) if length > 0 else (1.0, 0.0)
        step = steps[kind]
        step[0], step[1], step[2], step[3] = a, -b, b, a
        step[4], step[5] = tx - (a * mx - b * my), ty - (b * mx + a * my)
        for i in range(len(pairs)):
            if pairs[i] >= 0:
                x, y = _moved(base, source[i, 0], source[i, 1])
                u, v = _moved(step, x, y)
                chi2[kind] += (rx[pairs[i]] - u) ** 2 + (ry[pairs[i]] - v) ** 2
    chi2 /= sigma * sigma
    free = 2 * count - (kinds + 1)
    noise = max(chi2[kinds - 1] / free, 1e-6) if free >= 4 else 1.0
    best = kinds - 1
    for i in range(kinds):
        worse = False
        for j in range(i + 1, kinds):
            worse = worse or (chi2[i] - chi2[j]) / noise > gain[j - i - 1]
        if not worse:
            best = i
            break
    return _after(steps[best], base), best


@njit(cache=True, nogil=True)
def _within_limits(m: Any, back: Any, middle: Any, limits: Any) -> Any:
    """Whether the shift of the middle, the rotation (deg) and the scale (log) are allowed."""
    step = _after(m, back)
    x, y = _moved(step, middle[0], middle[1])
    if np.hypot(x - middle[0], y - middle[1]) > limits[0]:
        return False
    area = step[0] * step[3] - step[1] * step[2]
    sign = 1.0 if area >= 0 else -1.0
    turned = np.degrees(np.arctan2(sign * step[2] - step[1], sign * step[0] + step[3]))
    return abs(turned) <= limits[1] and abs(np.log(np.sqrt(abs(area)))) <= limits[2]


@njit(cache=True, nogil=True)
def examine(
    starts: Any, source: Any, rx: Any, ry: Any, base: Any, back: Any, middle: Any, limits: Any,
    tol: Any, seeds: Any, gain: Any,
) -> Any:  # fmt: skip
    """Refine hypotheses, and leave out what is not allowed or the same as an earlier one.

    Parameters
    ----------
    starts : ndarray of float64, shape (k, 6)
        Maps to begin with.
    source : ndarray of float64, shape (n, 2)
        Stars.
    rx, ry : ndarray of float64, shape (m,)
        Reference stars by x.
    base, back : ndarray of float64, shape (6,)
        Map that is expected, and its inverse; what is fitted comes after it.
    middle : ndarray of float64, shape (2,)
        Middle of the frame, after the base.
    limits : ndarray of float64, shape (3,)
        Largest shift of the middle, rotation (deg) and logarithm of the scale.
    tol : float
        Distance within which two stars are the same.
    seeds : int
        Stars that agree by construction and prove nothing.
    gain : ndarray of float64, shape (2,)
        Chi-square that one more and two more parameters must gain.

    Returns
    -------
    maps : ndarray of float64, shape (r, 6)
    kinds : ndarray of int64, shape (r,)
        0 for a shift, 1 for a rigid map, 2 for a similarity.
    pairs : ndarray of int64, shape (r, n)
        Reference star of each star, -1 for none.
    """
    n = len(source)
    maps, kinds = np.empty((len(starts), 6)), np.empty(len(starts), np.int64)
    pairs = np.full((len(starts), n), -1)
    apart = np.empty(n)
    kept = 0
    for k in range(len(starts)):
        mine, m, kind = pairs[kept], starts[k], 0
        mine[:] = -1
        count, _ = _pairs(m, source, rx, ry, 1.5 * tol, mine)
        for _turn in range(_TURNS):
            if count <= seeds:
                break
            m, kind = _fit(source, base, rx, ry, mine, count, 0.3 * tol, gain)
            count, new = _pairs(m, source, rx, ry, tol, mine)
            if not new:
                break
        if count <= seeds or not _within_limits(m, back, middle, limits):
            continue
        same = False
        for other in range(kept):
            for i in range(n):
                x, y = _moved(m, source[i, 0], source[i, 1])
                u, v = _moved(maps[other], source[i, 0], source[i, 1])
                apart[i] = np.hypot(x - u, y - v)
            same = same or np.median(apart) < 3 * tol
        if not same:
            maps[kept], kinds[kept] = m, kind
            kept += 1
    return maps[:kept], kinds[:kept], pairs[:kept]


@njit(cache=True, nogil=True)
def _near(sx: Any, sy: Any, x: Any, y: Any, radius: Any) -> Any:
    """Whether one of some stars, by x, is nearer than a radius, and how many are no further."""
    count, hit = 0, False
    for j in range(first_not_less(sx, 0, len(sx), x - radius), len(sx)):
        dx, dy = sx[j] - x, sy[j] - y
        if dx > radius:
            break
        away = dx * dx + dy * dy
        count += away <= radius * radius
        hit = hit or away < radius * radius
    return hit, count


@njit(cache=True, nogil=True)
def chances(
    inverse: Any, rx: Any, ry: Any, sx: Any, sy: Any, nx: Any, ny: Any, tol: Any, ring: Any
) -> Any:
    """How a list meets stars by chance where a map expects it.

    Parameters
    ----------
    inverse : ndarray of float64, shape (6,)
        Map from the reference list to the frame.
    rx, ry, sx, sy : ndarray of float64
        Reference stars, and stars of the frame by x.
    nx, ny : int
        Width and height of the frame.
    tol : float
        Distance within which two stars are the same.
    ring : (float, float)
        Radii of a ring in tolerances.

    Returns
    -------
    inside : int
        Reference stars on the frame.
    hits : float
        Part of them that meet a star when the list is displaced.
    around : float
        Mean number of stars in a ring around them.
    """
    inside = hits = around = 0
    for k in range(len(rx)):
        x, y = _moved(inverse, rx[k], ry[k])
        if not (-tol < x < nx - 1 + tol and -tol < y < ny - 1 + tol):
            continue
        inside += 1
        for part in _DISPLACED:
            for step in range(_DIRECTIONS):
                angle = step * (2 * np.pi / _DIRECTIONS) + 0.2
                u, v = x + part * tol * np.cos(angle), y + part * tol * np.sin(angle)
                hits += _near(sx, sy, u, v, tol)[0]
        around += _near(sx, sy, x, y, ring[1] * tol)[1] - _near(sx, sy, x, y, ring[0] * tol)[1]
    if not inside:
        return 0, 0.0, 0.0
    trials = inside * len(_DISPLACED) * _DIRECTIONS
    return inside, hits / trials, around / inside
