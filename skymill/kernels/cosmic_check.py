"""Comparing small boxes of two exposures of the same sky that are shifted.

A box is a square of whole pixels in one exposure; in the other its edges lie within
pixels, which count in part. So nothing is resampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.coarse_sky import value_at

__all__ = ["CONFIRMED", "REFUTED", "UNDECIDED", "best_cell", "box_sums", "find_peaks", "groups",
           "pairs_near", "recentre", "verdicts"]  # fmt: skip

UNDECIDED, CONFIRMED, REFUTED = 0, 1, 2

#: Pixels of a row that are passed over together.
_STRETCH = 32
#: The coarse sky is known to this part of its scatter.
_SKY_PART = 0.1
#: Where the edge of a box cuts a sharp star, so much of its light is uncertain.
_EDGE_PART = 0.1
#: Sigma: light that fades less than this is the same, one that fades more is gone; light
#: that fades less than the group by so much more cannot be without the group.
_SAME, _GONE, _BRIGHTER = 3.0, 5.0, 4.0


@njit(cache=True, nogil=True)
def find_peaks(
    sci: Any, err: Any, bits: Any, skip: Any, hit: Any, mesh: Any, box: Any, sigma: Any, floor: Any
) -> Any:
    """Return bright local maxima: x, y (centroid of 3 x 3 px), height, and 1 if it has a hit.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image and error.
    bits : ndarray of uint16, shape (ny, nx)
        Mask.
    skip, hit : uint16
        Bits that exclude a maximum and its neighbours, and those that mark it.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    sigma : float
        A maximum must be this much above the sky.
    floor : float32
        No maximum is below this value; it saves the exact test of most pixels.

    Returns
    -------
    ndarray of float64, shape (n, 4)
    """
    ny, nx = sci.shape
    out = [(0.0, 0.0, 0.0, 0.0) for _ in range(0)]
    for y in range(1, ny - 1):
        row = sci[y]
        for start in range(1, nx - 1, _STRETCH):
            last = min(start + _STRETCH, nx - 1)
            some = False
            for x in range(start, last):
                some |= row[x] > floor
            if not some:
                continue
            for x in range(start, last):
                if not row[x] > floor:
                    continue
                level = value_at(mesh, box, y, x)
                height = np.float64(row[x]) - level
                if not height > sigma * err[y, x]:
                    continue
                found, at_x, at_y, flagged = _centre(sci, bits, skip, hit, y, x, level)
                if found:
                    out.append((at_x, at_y, height, flagged))
    peaks = np.empty((len(out), 4))
    for n in range(len(out)):
        for k in range(4):
            peaks[n, k] = out[n][k]
    return peaks


@njit(cache=True, nogil=True)
def _centre(sci: Any, bits: Any, skip: Any, hit: Any, y: Any, x: Any, level: Any) -> Any:
    """Tell whether a pixel is a clean maximum, where its light is centred, and if it has hits."""
    top, total, along_x, along_y, flagged = sci[y, x], 0.0, 0.0, 0.0, 0.0
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            value = sci[j, i]
            # of two equal neighbours the first is the maximum
            before = j < y or (j == y and i < x)
            finite = abs(value) < np.inf
            if (bits[j, i] & skip) != 0 or not finite or value > top or (before and value == top):
                return False, 0.0, 0.0, 0.0
            if (bits[j, i] & hit) != 0:
                flagged = 1.0
            light = max(np.float64(value) - level, 0.0)
            total += light
            along_x += light * (i - x)
            along_y += light * (j - y)
    return True, x + along_x / total, y + along_y / total, flagged


@njit(cache=True, nogil=True)
def recentre(sci: Any, mesh: Any, box: Any, points: Any) -> Any:
    """Move points to the centre of the light around them, under a Gaussian of FWHM 4 px.

    Noise moves the maximum of a broad star; this centre stays.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    points : ndarray of float64, shape (n, k)
        Columns x, y and others. Changed in place.
    """
    ny, nx = sci.shape
    for n in range(points.shape[0]):
        x, y = points[n, 0], points[n, 1]
        level = np.float64(value_at(mesh, box, y, x))
        for _ in range(4):
            total, along_x, along_y = 0.0, 0.0, 0.0
            for j in range(max(int(y) - 4, 0), min(int(y) + 6, ny)):
                for i in range(max(int(x) - 4, 0), min(int(x) + 6, nx)):
                    value = np.float64(sci[j, i]) - level
                    if abs(value) < np.inf:
                        weight = np.exp(-0.1733 * ((j - y) ** 2 + (i - x) ** 2))
                        total += weight * value
                        along_x += weight * value * (i - x)
                        along_y += weight * value * (j - y)
            if not total > 0:
                break
            # the weight pulls the centre inwards: twice the step makes up for it
            x += min(max(2 * along_x / total, -1.0), 1.0)
            y += min(max(2 * along_y / total, -1.0), 1.0)
            if not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
                break
        if np.hypot(x - points[n, 0], y - points[n, 1]) < 3:
            points[n, 0], points[n, 1] = x, y


@njit(cache=True, nogil=True)
def best_cell(first: Any, second: Any, reach: Any) -> Any:
    """Return the offset that most pairs of points share.

    Parameters
    ----------
    first, second : ndarray of float64, shape (n, 2), (m, 2)
        Points x, y.
    reach : int
        Offsets up to this many px along x and y are counted, in cells of 2 px.

    Returns
    -------
    dx, dy : float
        Middle of the 2 x 2 cells with most pairs; second less first.
    """
    side = reach + 1
    count = np.zeros((side, side), np.int32)
    for a in range(first.shape[0]):
        for b in range(second.shape[0]):
            i = int(np.floor((second[b, 0] - first[a, 0] + reach) / 2))
            j = int(np.floor((second[b, 1] - first[a, 1] + reach) / 2))
            if 0 <= i < side and 0 <= j < side:
                count[j, i] += 1
    best, at_j, at_i = -1, 0, 0
    for j in range(side - 1):
        for i in range(side - 1):
            n = count[j, i] + count[j, i + 1] + count[j + 1, i] + count[j + 1, i + 1]
            if n > best:
                best, at_j, at_i = n, j, i
    return 2.0 * (at_i + 1) - reach, 2.0 * (at_j + 1) - reach


@njit(cache=True, nogil=True)
def pairs_near(first: Any, second: Any, dx: Any, dy: Any, radius: Any, ring: Any) -> Any:
    """Find the pairs of points whose offset is close to a given one.

    Parameters
    ----------
    first, second : ndarray of float64, shape (n, 2), (m, 2)
        Points x, y.
    dx, dy : float
        Offset, second less first.
    radius : float
        How close (px).
    ring : tuple of float
        Inner and outer radius of a ring around the offset in which pairs are counted.

    Returns
    -------
    offsets : ndarray of float64, shape (k, 2)
        Offsets of the pairs, those of one first point after the other.
    partner : ndarray of bool, shape (n,)
        First points that have a partner.
    n_ring : int
        Pairs in the ring.
    """
    found = [(0.0, 0.0) for _ in range(0)]
    partner, n_ring = np.zeros(first.shape[0], np.bool_), 0
    inner, outer = ring[0] * ring[0], ring[1] * ring[1]
    for a in range(first.shape[0]):
        for b in range(second.shape[0]):
            x, y = second[b, 0] - first[a, 0], second[b, 1] - first[a, 1]
            off = (x - dx) * (x - dx) + (y - dy) * (y - dy)
            n_ring += (off > inner) & (off < outer)
            if off < radius * radius:
                found.append((x, y))
                partner[a] = True
    offsets = np.empty((len(found), 2))
    for k in range(len(found)):
        offsets[k, 0], offsets[k, 1] = found[k]
    return offsets, partner, n_ring


@njit(cache=True, nogil=True)
def groups(hits: Any) -> Any:
    """Return the connected groups of True pixels (8 neighbours), in the order of first pixels.

    Returns
    -------
    members : ndarray of int64, shape (n,)
        Flat indices, group after group.
    starts : ndarray of int64, shape (m + 1,)
        Where each group begins.
    """
    ny, nx = hits.shape
    free = hits.copy()
    flat = free.ravel()
    members = [np.int64(0) for _ in range(0)]
    starts = [np.int64(0) for _ in range(1)]
    for origin in np.flatnonzero(hits):
        if not flat[origin]:
            continue
        done = len(members)
        members.append(np.int64(origin))
        flat[origin] = False
        while done < len(members):
            y, x = members[done] // nx, members[done] % nx
            done += 1
            for j in range(max(y - 1, 0), min(y + 2, ny)):
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    if free[j, i]:
                        free[j, i] = False
                        members.append(j * nx + i)
        starts.append(np.int64(len(members)))
    return np.array(members, np.int64), np.array(starts, np.int64)


@njit(cache=True, nogil=True)
def _part(edge: Any, at: Any, half: Any) -> Any:
    """Part of the pixel ``at`` that lies in an interval around ``edge``."""
    low, high = max(at - 0.5, edge - half), min(at + 0.5, edge + half)
    return max(high - low, 0.0)


@njit(cache=True, nogil=True)
def _box(
    sci: Any, err: Any, bits: Any, skip: Any, mesh: Any, box: Any, y: Any, x: Any, half: Any
) -> Any:
    """Light of a square around a point, its variance, and whether all of it is good."""
    ny, nx = sci.shape
    if not (
        y - half >= -0.5 and x - half >= -0.5 and y + half <= ny - 0.5 and x + half <= nx - 0.5
    ):
        return 0.0, 0.0, False
    level = np.float64(value_at(mesh, box, y, x))
    total, variance = 0.0, 0.0
    for j in range(int(np.floor(y - half + 0.5)), int(np.ceil(y + half - 0.5)) + 1):
        tall = _part(y, j, half)
        if tall <= 0 or j < 0 or j >= ny:
            continue
        for i in range(int(np.floor(x - half + 0.5)), int(np.ceil(x + half - 0.5)) + 1):
            weight = tall * _part(x, i, half)
            if weight <= 0 or i < 0 or i >= nx:
                continue
            value, error = np.float64(sci[j, i]), np.float64(err[j, i])
            if (bits[j, i] & skip) != 0 or not (abs(value) < np.inf and 0 < error < np.inf):
                return 0.0, 0.0, False
            total += weight * (value - level)
            variance += weight * weight * error * error
    return total, variance, True


@njit(cache=True, nogil=True)
def box_sums(
    sci: Any, err: Any, bits: Any, skip: Any, mesh: Any, box: Any, x: Any, y: Any, half: Any
) -> Any:
    """Return light above the sky in squares of ``2 half`` px around points, and its variance.

    NaN where a square leaves the image or holds a bad pixel. The other parameters are
    those of `find_peaks`.

    Returns
    -------
    total, variance : ndarray of float64, shape (n,)
    """
    total, variance = np.full(x.size, np.nan), np.full(x.size, np.nan)
    for n in range(x.size):
        value, spread, good = _box(sci, err, bits, skip, mesh, box, y[n], x[n], half)
        if good:
            total[n], variance[n] = value, spread
    return total, variance


@njit(cache=True, nogil=True)
def verdicts(
    one: Any, other: Any, skip: Any, members: Any, starts: Any, hits: Any,
    dx: Any, dy: Any, halves: Any, scales: Any, scatters: Any, rms: Any,
) -> Any:  # fmt: skip
    """Say for each group of hits whether its light is in the other exposure.

    Parameters
    ----------
    one, other : tuple of (sci, err, bits, mesh, box)
        The exposure with the hits, and the other.
    skip : uint16
        Bits that make a box useless.
    members, starts : ndarray of int64
        As from `groups`.
    hits : ndarray of bool, shape (ny, nx)
        All hits.
    dx, dy : float
        Shift from the first to the other (px).
    halves, scales, scatters : ndarray of float64, shape (k,)
        Half widths of the boxes, the smallest first; light of stars in the other over that
        in the first, and the relative scatter of that.
    rms : tuple of float
        Scatter of the sky in both.

    Returns
    -------
    ndarray of int64, shape (m,)
        ``UNDECIDED``, ``CONFIRMED`` (a hit: gone), or ``REFUTED`` (still there).
    """
    sci, nx = one[0], one[0].shape[1]
    out = np.zeros(starts.size - 1, np.int64)
    for g in range(out.size):
        group = members[starts[g] : starts[g + 1]]
        peak = group[0]
        for at in group:
            if sci[at // nx, at % nx] > sci[peak // nx, peak % nx]:
                peak = at
        y, x = peak // nx, peak % nx
        local = _surroundings(one, skip, hits, y, x)
        same, against, gone = True, False, False
        for k in range(halves.size):
            light = _group_light(sci, group, y, x, halves[k], local)
            known, fade, sigma = _fading(
                one, other, skip, y, x, dx, dy, halves[k], scales[k], scatters[k], rms
            )
            if not known:
                # a bad pixel in the larger box leaves the smaller one
                same = same and k > 0
                continue
            same = same and -_BRIGHTER * sigma < fade < _SAME * sigma
            against = against or (k == 0 and scales[k] * light - fade > _GONE * sigma)
            gone = gone or fade > _GONE * sigma
        if gone:
            out[g] = CONFIRMED
        elif same and against:
            whole = _rest_is_there(one, other, skip, group, y, x, dx, dy, scales, scatters, rms)
            out[g] = REFUTED if whole else UNDECIDED
    return out


@njit(cache=True, nogil=True)
def _surroundings(one: Any, skip: Any, hits: Any, y: Any, x: Any) -> Any:
    """Median of the good pixels without hits in 7 x 7 px; the sky if there are few."""
    sci, _, bits, mesh, box = one
    ny, nx = sci.shape
    values, count = np.empty(49), 0
    for j in range(max(y - 3, 0), min(y + 4, ny)):
        for i in range(max(x - 3, 0), min(x + 4, nx)):
            if not hits[j, i] and (bits[j, i] & skip) == 0 and abs(sci[j, i]) < np.inf:
                values[count] = sci[j, i]
                count += 1
    if count < 9:
        return np.float64(value_at(mesh, box, y, x))
    values[:count].sort()
    return values[count // 2]


@njit(cache=True, nogil=True)
def _group_light(sci: Any, group: Any, y: Any, x: Any, half: Any, local: Any) -> Any:
    """Light of the pixels of a group within a box, above their surroundings."""
    total, nx = 0.0, sci.shape[1]
    for at in group:
        j, i = at // nx, at % nx
        if abs(j - y) < half and abs(i - x) < half:
            total += sci[j, i] - local
    return total


@njit(cache=True, nogil=True)
def _fading(
    one: Any, other: Any, skip: Any, y: Any, x: Any, dx: Any, dy: Any,
    half: Any, scale: Any, scatter: Any, rms: Any,
) -> Any:  # fmt: skip
    """Light that a box lost on the way to the other exposure, and its sigma."""
    sci, err, bits, mesh, box = one
    first, spread, good = _box(sci, err, bits, skip, mesh, box, float(y), float(x), half)
    if not good:
        return False, 0.0, 0.0
    sci, err, bits, mesh, box = other
    second, more, good = _box(sci, err, bits, skip, mesh, box, y + dy, x + dx, half)
    if not good:
        return False, 0.0, 0.0
    sky = _SKY_PART * 4 * half * half * (scale * rms[0] + rms[1])
    varied = scatter * scale * first
    variance = scale * scale * spread + more + sky * sky + varied * varied
    return True, scale * first - second, np.sqrt(variance)


@njit(cache=True, nogil=True)
def _rest_is_there(
    one: Any, other: Any, skip: Any, group: Any, y: Any, x: Any, dx: Any, dy: Any,
    scales: Any, scatters: Any, rms: Any,
) -> Any:  # fmt: skip
    """Tell whether the pixels of a group away from its peak are in the other exposure too."""
    sci, err, bits, mesh, box = one
    nx = sci.shape[1]
    for at in group:
        j, i = at // nx, at % nx
        if abs(j - y) <= 1 and abs(i - x) <= 1:
            continue
        known, fade, sigma = _fading(
            one, other, skip, j, i, dx, dy, 1.5, scales[0], scatters[0], rms
        )
        if not known:
            return False
        around, cut = 0.0, 0.0
        if abs(j - y) <= 2 and abs(i - x) <= 2:
            around, _, _ = _box(sci, err, bits, skip, mesh, box, float(y), float(x), 1.5)
            cut = _EDGE_PART * scales[0] * abs(around)
        if fade > _BRIGHTER * np.sqrt(sigma * sigma + cut * cut):
            return False
    return True
