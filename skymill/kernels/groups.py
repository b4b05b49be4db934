"""Groups of connected pixels above a threshold: finding and measuring them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Runs", "boxes", "connect", "divisible", "label", "measure"]

#: Columns of `measure`: sums over the pixels of a group.
_COLUMNS = 14
#: A smaller part of the light than asked for does not divide a group; rounding is far smaller.
_SURELY = 0.999
#: A group at least as compact as this is a line: a pixel's own width is added to its moments.
_SINGULAR, _PIXEL = 1.0 / 144.0, 1.0 / 12.0


class Runs(NamedTuple):
    """Runs of pixels along rows, group by group.

    Attributes
    ----------
    y, x0, x1 : ndarray of int32, shape (n_runs,)
        Row, first pixel and pixel after the last one, by rows within a group.
    start : ndarray of int64, shape (n_groups + 1,)
        First run of each group; groups are in the order of their last pixels.
    """

    y: NDArray[np.int32]
    x0: NDArray[np.int32]
    x1: NDArray[np.int32]
    start: NDArray[np.int64]


def connect(plane: NDArray[np.float32], threshold: float, minimum_px: int) -> Runs:
    """Find groups of pixels above a threshold that touch at sides or corners."""
    return Runs(*_connect(plane, float(threshold), int(minimum_px)))


def label(runs: Runs, numbers: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """Write the number of each group to its pixels."""
    _label(*runs, numbers, out)


def boxes(runs: Runs) -> NDArray[np.int64]:
    """Return the box (y0, y1, x0, x1) of each group; y1 and x1 lie beyond it."""
    return np.asarray(_boxes(*runs))


def measure(
    runs: Runs,
    data: NDArray[np.float32],
    noise: NDArray[np.float32],
    mask: NDArray[np.bool_],
    smooth: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Measure groups as SExtractor does: positions and moments weighted by filtered light.

    Parameters
    ----------
    runs : Runs
        The groups.
    data, noise, mask : ndarray, shape (ny, nx)
        Image, one-sigma noise, and True where a pixel is lost: its value counts as 0.
    smooth : ndarray of float32, shape (ny, nx)
        Filtered image, read at the pixels of the groups only.

    Returns
    -------
    ndarray of float64, shape (14, n_groups)
        npix, x, y, a, b, theta, errx2, erry2, cflux, peak, xpeak, ypeak (of the data), whether
        it touches the edge, masked pixels.
    """
    return np.asarray(_measure(*runs, data, noise, mask, smooth))


def divisible(
    runs: Runs, groups: NDArray[np.int64], smooth: NDArray[np.float32], contrast: float
) -> NDArray[np.bool_]:
    """Return which groups might be divided at a contrast; the others certainly are not.

    A branch is what is connected above a level, and its light the excess over that level.
    It is largest just before the branch meets another one. So if nowhere two branches meet
    that both hold the part ``contrast`` of the group, no level divides the group.
    """
    return np.asarray(_divisible(*runs, groups, smooth, float(contrast)))


@njit(cache=True, nogil=True)
def _root(parent: Any, i: Any) -> Any:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _find_runs(plane: Any, threshold: Any) -> Any:
    """Return all runs above the threshold and the first run of each row."""
    ny, nx = plane.shape
    # room for the worst case costs address space only
    most = ny * ((nx + 1) // 2)
    ys, x0, x1 = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    first = np.zeros(ny + 1, np.int64)
    n = 0
    for y in range(ny):
        line = plane[y]
        x = 0
        while x < nx:
            if not line[x] > threshold:
                x += 1
                continue
            ys[n], x0[n] = y, x
            while x < nx and line[x] > threshold:
                x += 1
            x1[n] = x
            n += 1
        first[y + 1] = n
    return ys[:n], x0[:n], x1[:n], first


@njit(cache=True, nogil=True)
def _connect(plane: Any, threshold: Any, minimum: Any) -> Any:
    ys, x0, x1, first = _find_runs(plane, threshold)
    n = len(ys)
    parent = np.arange(n)
    for y in range(1, plane.shape[0]):
        above, end = first[y - 1], first[y]
        for r in range(first[y], first[y + 1]):
            while above < end and x1[above] < x0[r]:
                above += 1
            other = above
            while other < end and x0[other] <= x1[r]:
                one, two = _root(parent, other), _root(parent, r)
                if one != two:
                    parent[max(one, two)] = min(one, two)
                other += 1
    pixels, runs = np.zeros(n, np.int64), np.zeros(n, np.int64)
    last = np.zeros(n, np.int64)
    for r in range(n):
        root = _root(parent, r)
        pixels[root] += x1[r] - x0[r]
        runs[root] += 1
        last[root] = r
    # Groups in the order of their last runs.
    place = np.full(n, -1)
    count = 0
    start = np.zeros(n + 1, np.int64)
    for r in range(n):
        root = _root(parent, r)
        if last[root] == r and pixels[root] >= minimum:
            place[root] = count
            start[count + 1] = start[count] + runs[root]
            count += 1
    start = start[: count + 1].copy()
    total = start[count]
    out_y, out_0 = np.empty(total, np.int32), np.empty(total, np.int32)
    out_1 = np.empty(total, np.int32)
    filled = start.copy()
    for r in range(n):
        group = place[_root(parent, r)]
        if group >= 0:
            k = filled[group]
            out_y[k], out_0[k], out_1[k] = ys[r], x0[r], x1[r]
            filled[group] += 1
    return out_y, out_0, out_1, start


@njit(cache=True, nogil=True)
def _label(ys: Any, x0: Any, x1: Any, start: Any, numbers: Any, out: Any) -> None:
    for group in range(len(start) - 1):
        for r in range(start[group], start[group + 1]):
            out[ys[r], x0[r] : x1[r]] = numbers[group]


@njit(cache=True, nogil=True)
def _boxes(ys: Any, x0: Any, x1: Any, start: Any) -> Any:
    out = np.empty((len(start) - 1, 4), np.int64)
    for group in range(len(out)):
        low, high = start[group], start[group + 1]
        out[group, 0], out[group, 1] = ys[low], ys[high - 1] + 1
        out[group, 2], out[group, 3] = x0[low], x1[low]
        for r in range(low, high):
            out[group, 2] = min(out[group, 2], x0[r])
            out[group, 3] = max(out[group, 3], x1[r])
    return out


@njit(cache=True, nogil=True)
def _measure(
    ys: Any, x0: Any, x1: Any, start: Any, data: Any, noise: Any, mask: Any, smooth: Any
) -> Any:
    ny, nx = data.shape
    n = len(start) - 1
    out = np.zeros((_COLUMNS, n))
    box = _boxes(ys, x0, x1, start)
    for group in range(n):
        low, high = start[group], start[group + 1]
        top, left = box[group, 0], box[group, 2]
        light, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        pixels, lost, edge = 0, 0, False
        peak, xpeak, ypeak = -np.inf, 0, 0
        for r in range(low, high):
            row, v = ys[r], np.float64(ys[r] - top)
            edge = edge or row == 0 or row == ny - 1 or x0[r] == 0 or x1[r] == nx
            pixels += x1[r] - x0[r]
            for i in range(x0[r], x1[r]):
                c, u = np.float64(smooth[row, i]), np.float64(i - left)
                value = 0.0 if mask[row, i] else np.float64(data[row, i])
                if value > peak:
                    peak, xpeak, ypeak = value, i, row
                lost += mask[row, i]
                light += c
                sx += c * u
                sy += c * v
                sxx += c * u * u
                syy += c * v * v
                sxy += c * u * v
        x, y = sx / light, sy / light
        errors = _spread(ys, x0, x1, low, high, noise, mask, x + left, y + top)
        xx, yy, xy = sxx / light - x * x, syy / light - y * y, sxy / light - x * y
        values = _ellipse(xx, yy, xy, errors, light)
        out[0, group], out[1, group], out[2, group] = pixels, x + left, y + top
        for k in range(5):
            out[3 + k, group] = values[k]
        out[8, group], out[9, group] = light, peak
        out[10, group], out[11, group], out[12, group] = xpeak, ypeak, edge
        out[13, group] = lost
    return out


@njit(cache=True, nogil=True)
def _spread(
    ys: Any, x0: Any, x1: Any, low: Any, high: Any, noise: Any, mask: Any, x: Any, y: Any
) -> Any:
    """Sums of the variance and of its second moments about (x, y); masked pixels have no end."""
    total, xx, yy, xy = 0.0, 0.0, 0.0, 0.0
    for r in range(low, high):
        row, v = ys[r], ys[r] - y
        for i in range(x0[r], x1[r]):
            error, u = np.float64(noise[row, i]), i - x
            variance = np.inf if mask[row, i] else error * error
            total += variance
            xx += variance * u * u
            yy += variance * v * v
            xy += variance * u * v
    return total, xx, yy, xy


@njit(cache=True, nogil=True)
def _ellipse(xx: Any, yy: Any, xy: Any, errors: Any, light: Any) -> Any:
    """Return semi-axes, angle, and variances of the position."""
    total, ex, ey, exy = errors
    square = light * light
    ex, ey, exy = ex / square, ey / square, exy / square
    if xx * yy - xy * xy < _SINGULAR:
        xx += _PIXEL
        yy += _PIXEL
        extra = total * _PIXEL / square
        if ex * ey - exy * exy < extra * extra:
            ex += extra
            ey += extra
    difference, mean = xx - yy, 0.5 * (xx + yy)
    theta = 0.5 * np.arctan2(2.0 * xy, difference) if difference != 0.0 else 0.25 * np.pi
    root = np.sqrt(0.25 * difference * difference + xy * xy)
    a, b = np.sqrt(max(mean + root, 0.0)), np.sqrt(max(mean - root, 0.0))
    return a, b, theta, ex, ey


@njit(cache=True, nogil=True)
def _divisible(
    ys: Any, x0: Any, x1: Any, start: Any, groups: Any, smooth: Any, contrast: Any
) -> Any:
    out = np.zeros(len(groups), np.bool_)
    box = _boxes(ys, x0, x1, start)
    for k in range(len(groups)):
        low, high = start[groups[k]], start[groups[k] + 1]
        top, bottom, left, right = box[groups[k]]
        # Pixels of the group, with a frame of none around them.
        place = np.full((bottom - top + 2, right - left + 2), -1)
        pixels = 0
        for r in range(low, high):
            pixels += x1[r] - x0[r]
        values, px, py = np.empty(pixels), np.empty(pixels, np.int64), np.empty(pixels, np.int64)
        n, light = 0, 0.0
        for r in range(low, high):
            for i in range(x0[r], x1[r]):
                values[n], px[n], py[n] = smooth[ys[r], i], i - left + 1, ys[r] - top + 1
                place[py[n], px[n]] = n
                light += values[n]
                n += 1
        if _summits(values, px, py, place) > 1:
            out[k] = _branches_meet(values, px, py, place, _SURELY * contrast * light)
    return out


@njit(cache=True, nogil=True)
def _summits(values: Any, px: Any, py: Any, place: Any) -> int:
    """Count the pixels without a brighter neighbour; of equal ones the first is brighter."""
    count = 0
    for k in range(len(values)):
        highest = True
        for j in range(py[k] - 1, py[k] + 2):
            for i in range(px[k] - 1, px[k] + 2):
                other = place[j, i]
                if other >= 0 and other != k:
                    above = values[other] > values[k]
                    highest &= not (above or (other < k and values[other] == values[k]))
        count += highest
    return count


@njit(cache=True, nogil=True)
def _branches_meet(values: Any, px: Any, py: Any, place: Any, least: Any) -> bool:
    """Whether two branches of more light than ``least`` meet at some level."""
    n = len(values)
    parent, pixels = np.full(n, -1), np.zeros(n)
    light = np.zeros(n)
    order = np.argsort(-values, kind="mergesort")
    near = np.empty(8, np.int64)
    for k in range(n):
        pixel = order[k]
        level = values[pixel]
        found, large = 0, 0
        for j in range(py[pixel] - 1, py[pixel] + 2):
            for i in range(px[pixel] - 1, px[pixel] + 2):
                other = place[j, i]
                if other < 0 or parent[other] < 0:
                    continue
                root = _root(parent, other)
                known = False
                for q in range(found):
                    known = known or near[q] == root
                if not known:
                    near[found] = root
                    found += 1
                    large += light[root] - level * pixels[root] > least
        if large > 1:
            return True
        parent[pixel], pixels[pixel], light[pixel] = pixel, 1.0, level
        for q in range(found):
            parent[near[q]] = pixel
            pixels[pixel] += pixels[near[q]]
            light[pixel] += light[near[q]]
    return False
