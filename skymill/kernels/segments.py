"""Pixels of sources: filtered image, connected groups above a threshold, and their growth.

Works on runs of pixels along rows, so that no plane of labels is needed: groups are
joined run by run, and a group is grown by a disk by widening its runs over the rows around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from skymill.kernels.mesh import Spline, spline_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BRIGHT", "GROWN", "SEED", "SKIP", "SKY", "Segments", "filter_residual",
           "find_segments", "paint", "pixel_states"]  # fmt: skip

#: States of pixels: empty sky; near a source; part of one; bad but bright, so that it shows
#: a source; unusable.
SKY, GROWN, SEED, BRIGHT, SKIP = 0, 1, 2, 3, 4
#: Pixels of a row that are passed over together.
_STRETCH = 32


class Segments(NamedTuple):
    """Groups of connected pixels.

    Attributes
    ----------
    y, x0, x1, owner : ndarray of int32, shape (n_runs,)
        Row, first pixel, pixel after the last one and group of each run.
    n : ndarray of int64, shape (n_groups,)
        Pixels.
    bright : ndarray of int64, shape (n_groups,)
        Pixels of state BRIGHT.
    x, y_mean, xx, yy, xy : ndarray of float64, shape (n_groups,)
        Mean position and second moments of the pixels, not weighted by light.
    """

    y: NDArray[np.int32]
    x0: NDArray[np.int32]
    x1: NDArray[np.int32]
    owner: NDArray[np.int32]
    n: NDArray[np.int64]
    bright: NDArray[np.int64]
    x: NDArray[np.float64]
    y_mean: NDArray[np.float64]
    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]


@njit(cache=True)
def pixel_states(sci: Any, err: Any, mask: Any, bright: Any, bad: Any) -> Any:
    """Return SKY, BRIGHT or SKIP for each pixel, and the number of pixels of SKY.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Signal and error; a pixel where one of them is not finite is SKIP.
    mask : ndarray of uint16, shape (ny, nx)
        Mask.
    bright, bad : int
        Bits of bright pixels, and the other bits that disqualify.
    """
    ny, nx = sci.shape
    out = np.empty((ny, nx), np.uint8)
    count = 0
    for y in range(ny):
        for x in range(nx):
            s, e, m = sci[y, x], err[y, x], mask[y, x]
            # x - x is 0 for finite numbers only.
            lost = ((m & bad) != 0) | (s - s != 0)
            state = BRIGHT if ((m & bright) != 0) | (e - e != 0) else SKY
            state = SKIP if lost else state
            out[y, x] = state
            count += state == SKY
    return out, count


def filter_residual(
    sci: NDArray[np.float32],
    state: NDArray[np.uint8],
    level: Spline,
    profile: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Subtract a level and convolve with a separable symmetric kernel; SKIP counts as zero.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image.
    state : ndarray of uint8, shape (ny, nx)
        States of the pixels.
    level : Spline
        What is subtracted.
    profile : ndarray of float32
        Kernel along one axis, odd length, sum 1.
    """
    return np.asarray(_filter(sci, state, tuple(level), profile))


@njit(cache=True, nogil=True)
def _add_taps(line: Any, padded: Any, profile: Any) -> Any:
    """Add a row convolved with the profile; several taps at a time, in order."""
    size, nx = len(profile), len(line)
    whole = size - size % 3
    for k in range(0, whole, 3):
        a, b, c = profile[k], profile[k + 1], profile[k + 2]
        one, two, three = padded[k : k + nx], padded[k + 1 : k + 1 + nx], padded[k + 2 : k + 2 + nx]
        for x in range(nx):
            line[x] = ((line[x] + a * one[x]) + b * two[x]) + c * three[x]
    for k in range(whole, size):
        weight, one = profile[k], padded[k : k + nx]
        for x in range(nx):
            line[x] += weight * one[x]


@njit(cache=True, nogil=True)
def _filter(sci: Any, state: Any, level: Any, profile: Any) -> Any:
    ny, nx = sci.shape
    size = len(profile)
    reach = size // 2
    out = np.empty((ny, nx), np.float32)
    ring = np.zeros((size, nx), np.float32)
    padded = np.zeros(nx + 2 * reach, np.float32)
    sky = np.empty(nx, np.float32)
    nodes = level[0].shape[1]
    row, bend, work = np.zeros(nodes + 1), np.zeros(nodes + 1), np.zeros(nodes + 1)
    for y in range(ny + reach):
        line = ring[y % size]
        line[:] = np.float32(0)
        if y < ny:
            spline_row(level, y, row, bend, work, sky)
            for x in range(nx):
                rest = sci[y, x] - sky[x]
                padded[x + reach] = np.float32(0) if state[y, x] == SKIP else rest
            _add_taps(line, padded, profile)
        if y >= reach:
            target = out[y - reach]
            target[:] = np.float32(0)
            for k in range(size):
                source = y - 2 * reach + k
                if source >= 0:
                    weight, other = profile[k], ring[source % size]
                    for x in range(nx):
                        target[x] += weight * other[x]
    return out


def find_segments(
    filtered: NDArray[np.float32],
    state: NDArray[np.uint8],
    threshold: Spline,
    minimum_area_px: int,
) -> Segments:
    """Find groups of at least so many 8-connected pixels above a threshold.

    Parameters
    ----------
    filtered : ndarray of float32, shape (ny, nx)
        Filtered image.
    state : ndarray of uint8, shape (ny, nx)
        Pixels of SKIP belong to no group.
    threshold : Spline
        Threshold, at the cell centres of a mesh.
    minimum_area_px : int
        Smaller groups are dropped.
    """
    y, x0, x1, parent = _runs(filtered, state, tuple(threshold))
    return Segments(*_groups(y, x0, x1, parent, state, minimum_area_px))


@njit(cache=True)
def _root(parent: Any, k: Any) -> Any:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@njit(cache=True)
def _longer(a: Any) -> Any:
    out = np.empty(2 * len(a), a.dtype)
    out[: len(a)] = a
    return out


@njit(cache=True)
def _row_runs(values: Any, limit: Any, state: Any, first: Any, last: Any) -> Any:
    """Write begin and end of the runs of a row; return their number."""
    n, inside = 0, False
    for start in range(0, len(values), _STRETCH):
        stop = min(start + _STRETCH, len(values))
        # most stretches of a row hold no source
        part, least, some = values[start:stop], limit[start:stop], np.uint32(0)
        for x in range(part.size):
            some += np.uint32(part[x] > least[x])
        if some == 0 and not inside:
            continue
        for x in range(start, stop):
            above = (values[x] > limit[x]) & (state[x] != SKIP)
            if above != inside:
                if above:
                    first[n] = x
                else:
                    last[n] = x
                    n += 1
                inside = above
    if inside:
        last[n] = len(values)
        n += 1
    return n


@njit(cache=True)
def _join(first: Any, last: Any, parent: Any, before: Any, begin: Any, end: Any) -> Any:
    """Join runs begin..end-1 of a row with those of the row before that they touch."""
    k = before
    for i in range(begin, end):
        while k < begin and last[k] < first[i]:
            k += 1
        other = k
        while other < begin and first[other] <= last[i]:
            a, b = _root(parent, i), _root(parent, other)
            parent[max(a, b)] = min(a, b)
            other += 1


@njit(cache=True)
def _runs(filtered: Any, state: Any, threshold: Any) -> Any:
    """Runs above the threshold, joined to those that they touch in the row before."""
    ny, nx = filtered.shape
    nodes = threshold[0].shape[1]
    row, bend, work = np.zeros(nodes + 1), np.zeros(nodes + 1), np.zeros(nodes + 1)
    limit = np.empty(nx, np.float32)
    starts, ends = np.empty(nx // 2 + 1, np.int32), np.empty(nx // 2 + 1, np.int32)
    y_of, first = np.empty(8192, np.int32), np.empty(8192, np.int32)
    last, parent = np.empty(8192, np.int32), np.empty(8192, np.int32)
    n, begin = 0, 0
    for y in range(ny):
        spline_row(threshold, y, row, bend, work, limit)
        found = _row_runs(filtered[y], limit, state[y], starts, ends)
        while n + found > len(y_of):
            y_of, first = _longer(y_of), _longer(first)
            last, parent = _longer(last), _longer(parent)
        before, begin = begin, n
        for k in range(found):
            y_of[n], first[n], last[n], parent[n] = y, starts[k], ends[k], n
            n += 1
        _join(first, last, parent, before, begin, n)
    return y_of[:n], first[:n], last[:n], parent[:n]


@njit(cache=True)
def _groups(ys: Any, firsts: Any, lasts: Any, parent: Any, state: Any, smallest: Any) -> Any:
    """Number the groups that are large enough and sum up their pixels."""
    n = len(ys)
    size = np.zeros(n, np.int64)
    for k in range(n):
        size[_root(parent, k)] += lasts[k] - firsts[k]
    label = np.full(n, -1, np.int32)
    groups, runs = 0, 0
    for k in range(n):
        top = _root(parent, k)
        if size[top] < smallest:
            continue
        if top == k:
            label[k] = groups
            groups += 1
        runs += 1
    y, x0, x1 = np.empty(runs, np.int32), np.empty(runs, np.int32), np.empty(runs, np.int32)
    owner = np.empty(runs, np.int32)
    npix, bright = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    sums = np.zeros((5, groups))
    m = 0
    for k in range(n):
        g = label[_root(parent, k)]
        if g < 0:
            continue
        y[m], x0[m], x1[m], owner[m] = ys[k], firsts[k], lasts[k], g
        m += 1
        for x in range(firsts[k], lasts[k]):
            bright[g] += state[ys[k], x] == BRIGHT
        a, b, v = float(firsts[k]), float(lasts[k]), float(ys[k])
        count = b - a
        total = 0.5 * (a + b - 1.0) * count
        # Sum of x^2 over a..b-1.
        square = ((b - 1.0) * b * (2.0 * b - 1.0) - (a - 1.0) * a * (2.0 * a - 1.0)) / 6.0
        npix[g] += lasts[k] - firsts[k]
        sums[0, g] += total
        sums[1, g] += v * count
        sums[2, g] += square
        sums[3, g] += v * v * count
        sums[4, g] += v * total
    for g in range(groups):
        sums[:, g] /= npix[g]
        sums[2, g] -= sums[0, g] ** 2
        sums[3, g] -= sums[1, g] ** 2
        sums[4, g] -= sums[0, g] * sums[1, g]
    return y, x0, x1, owner, npix, bright, sums[0], sums[1], sums[2], sums[3], sums[4]


def paint(
    state: NDArray[np.uint8],
    segments: Segments,
    reach_px: NDArray[np.float64],
    ellipses: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Return the states with SEED on the groups and GROWN around them.

    Parameters
    ----------
    state : ndarray of uint8, shape (ny, nx)
        SKY, BRIGHT and SKIP; only SKY is painted over.
    segments : Segments
        The groups.
    reach_px : ndarray of float64, shape (n_groups,)
        Radius of the disk by which each group is grown.
    ellipses : ndarray of float64, shape (n, 5)
        Ellipses that are GROWN too: x, y, and the coefficients xx, yy, xy of
        ``xx dx^2 + yy dy^2 + xy dx dy <= 1``.
    """
    runs = (segments.y, segments.x0, segments.x1, segments.owner)
    return np.asarray(_paint(state, runs, reach_px, ellipses))


@njit(cache=True)
def _paint(state: Any, runs: Any, reach: Any, ellipses: Any) -> Any:
    ny, nx = state.shape
    # +1 where a widened run begins, -1 after its end: sums along a row tell what is covered.
    edges = np.zeros((ny, nx + 1), np.int32)
    ys, firsts, lasts, owner = runs
    for k in range(len(ys)):
        r = reach[owner[k]]
        whole = int(r)
        for dy in range(-whole, whole + 1):
            y = ys[k] + dy
            if 0 <= y < ny:
                wide = int(np.sqrt(r * r - dy * dy))
                edges[y, max(firsts[k] - wide, 0)] += 1
                edges[y, min(lasts[k] + wide, nx)] -= 1
    for e in range(len(ellipses)):
        _add_ellipse(edges, ellipses[e])
    out = np.empty((ny, nx), np.uint8)
    for y in range(ny):
        depth = 0
        for start in range(0, nx, _STRETCH):
            stop = min(start + _STRETCH, nx)
            part, some = edges[y, start:stop], np.int32(0)
            for x in range(part.size):
                some |= part[x]
            if some != 0:
                for x in range(start, stop):
                    depth += edges[y, x]
                    out[y, x] = GROWN if (depth > 0) & (state[y, x] == SKY) else state[y, x]
            elif depth > 0:
                for x in range(start, stop):
                    out[y, x] = GROWN if state[y, x] == SKY else state[y, x]
            else:
                out[y, start:stop] = state[y, start:stop]
    for k in range(len(ys)):
        for x in range(firsts[k], lasts[k]):
            if state[ys[k], x] == SKY:
                out[ys[k], x] = SEED
    return out


@njit(cache=True)
def _add_ellipse(edges: Any, ellipse: Any) -> Any:
    ny, nx = edges.shape[0], edges.shape[1] - 1
    cx, cy, xx, yy, xy = ellipse
    high = np.sqrt(4.0 * xx / (4.0 * xx * yy - xy * xy))
    for y in range(max(0, int(np.ceil(cy - high))), min(ny - 1, int(np.floor(cy + high))) + 1):
        dy = y - cy
        root = (xy * dy) ** 2 - 4.0 * xx * (yy * dy * dy - 1.0)
        if root < 0.0:
            continue
        middle, half = cx - xy * dy / (2.0 * xx), np.sqrt(root) / (2.0 * xx)
        first, last = int(np.ceil(middle - half)), int(np.floor(middle + half))
        if last >= 0 and first < nx and first <= last:
            edges[y, max(first, 0)] += 1
            edges[y, min(last, nx - 1) + 1] -= 1
