"""Filling of bad pixels, and the test whether light is sharper than the seeing allows.

Starlight is the sky convolved with the point-spread function. Along any direction, three
pixels ``a, c, b`` of such light fulfil ``a b >= q c^2``, where ``q`` is the value of that
ratio for a star: a sum of stars is nowhere more sharply curved, in the logarithm, than a
single one (Jensen's inequality). The ratio hardly depends on where in its pixel the star
lies. A track of a cosmic ray is sharper across, whatever its length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from skymill.kernels.coarse_sky import value_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fill_bad", "judge", "peak_ratios", "prepare"]

_ZERO = np.float32(0)
#: Squares of larger numbers are none.
_LARGEST = np.float32(1e18)
#: A hole is filled from a window of at most this half-width in px.
_REACH_PX = 8
#: Pixels of a row that are passed over together.
_STRETCH = 32
_GROUP, _DONE = np.uint8(1), np.uint8(2)


def fill_bad(
    image: NDArray[np.float32], bad: NDArray[np.bool_], fallback: float
) -> NDArray[np.float32]:
    """Replace bad pixels by the median of the good ones around them.

    The window starts at 5 x 5 px and grows until it holds five good pixels.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Not modified.
    bad : ndarray of bool, shape (ny, nx)
        True where the value is to be replaced.
    fallback : float
        Value where no window of up to 17 x 17 px holds five good pixels.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    out = np.array(image, np.float32, order="C")
    given = np.ascontiguousarray(bad, np.bool_)
    _fill(out, given, np.full((1, 1), fallback, np.float32), 1)
    return out


@njit(cache=True, nogil=True)
def _fill(image: Any, bad: Any, mesh: Any, box: Any) -> Any:
    """Fill the bad pixels, in place; those far from good ones with the sky of the mesh."""
    ny, nx = image.shape
    values = np.empty((2 * _REACH_PX + 1) ** 2, np.float32)
    for y in range(ny):
        # inside large holes nothing is searched: the next window brings one new column
        deep = False
        for x in range(nx):
            if not bad[y, x]:
                deep = False
                continue
            out = value_at(mesh, box, y, x)
            deep = deep and not _has_good(bad, y, x + _REACH_PX, 0)
            deep = deep or not _has_good(bad, y, x, _REACH_PX)
            if deep:
                image[y, x] = out
                continue
            for reach in range(2, _REACH_PX + 1):
                count = 0
                for j in range(max(0, y - reach), min(ny, y + reach + 1)):
                    for i in range(max(0, x - reach), min(nx, x + reach + 1)):
                        if not bad[j, i]:
                            values[count] = image[j, i]
                            count += 1
                if count >= 5:
                    values[:count].sort()
                    out = values[count // 2]
                    break
            image[y, x] = out


@njit(cache=True, nogil=True)
def _has_good(bad: Any, y: Any, x: Any, reach: Any) -> Any:
    """Tell whether a good pixel lies within the rows of the largest window."""
    ny, nx = bad.shape
    for i in range(max(0, x - reach), min(nx, x + reach + 1)):
        for j in range(max(0, y - _REACH_PX), min(ny, y + _REACH_PX + 1)):
            if not bad[j, i]:
                return True
    return False


@njit(cache=True, nogil=True)
def prepare(
    sci: Any, err: Any, mask: Any, holes: Any, mesh: Any, box: Any, noise: Any, structure: Any
) -> Any:
    """Return image and variance of a frame, finite everywhere, and where its holes are.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image and its error.
    mask : ndarray of uint16, shape (ny, nx)
        Bits.
    holes : uint16
        Bits of pixels whose value means nothing; they are filled from their neighbours.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    noise : float32
        Error taken where it is not known.
    structure : float32
        Light above the sky is uncertain by this fraction.

    Returns
    -------
    image, variance : ndarray of float32, shape (ny, nx)
    bad : ndarray of bool, shape (ny, nx)
    """
    ny, nx = sci.shape
    image, variance = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    bad = np.zeros((ny, nx), np.bool_)
    some = False
    for y in range(ny):
        s, e, m, line, spread, lost = sci[y], err[y], mask[y], image[y], variance[y], bad[y]
        odd = False
        for x in range(nx):
            value, error = s[x], e[x]
            known = (abs(value) < np.inf) & (error > 0) & (error < np.inf)
            hole = (not known) | ((m[x] & holes) != 0)
            lost[x] = hole
            odd |= hole
            line[x] = value if known else _ZERO
            error = (error if error < _LARGEST else _LARGEST) if known else noise
            spread[x] = error * error
        some |= odd
    if some:
        _fill(image, bad, mesh, box)
        _fill(variance, bad, np.full((1, 1), noise * noise, np.float32), 1)
    half = max(box // 2, 1)
    for y in range(ny):
        for start in range(0, nx, half):
            # the sky is straight between two centres; its middle is near enough here
            last = min(start + half, nx)
            level = value_at(mesh, box, y, (start + last - 1) * 0.5)
            line, spread = image[y, start:last], variance[y, start:last]
            for x in range(line.size):
                above = line[x] - level
                above = above if above > _ZERO else _ZERO
                light = structure * (above if above < _LARGEST else _LARGEST)
                spread[x] += light * light
    return image, variance, bad


@njit(cache=True, nogil=True)
def _three(image: Any, y: Any, x: Any, k: Any, level: Any) -> Any:
    """Light on both sides of a pixel along one of the four directions, and where."""
    dy, dx = np.int64(k > 0), np.int64(1 - k if k < 2 else (1 if k == 2 else -1))
    a = max(image[y - dy, x - dx] - level, _ZERO)
    b = max(image[y + dy, x + dx] - level, _ZERO)
    return a, b, dy, dx


@njit(cache=True, nogil=True)
def peak_ratios(
    image: Any, variance: Any, mask: Any, skip: Any, mesh: Any, box: Any, sigma: Any, floor: Any
) -> Any:
    """Return the ratio ``a b / c^2`` of bright local maxima: the smallest of four directions.

    Along diagonals the root of it, which is the same for a round Gaussian star.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        Image and variance, finite.
    mask, skip : ndarray of uint16, shape (ny, nx), uint16
        Bits, and which of them exclude a maximum and its neighbours.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    sigma : float
        A maximum must be this much above the sky; and a third of it above the light 3 px away.
    floor : float32
        No maximum is below this value; it saves the exact test of most pixels.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    ny, nx = image.shape
    out = [0.0 for _ in range(0)]
    for y in range(2, ny - 2):
        row = image[y]
        for start in range(2, nx - 2, _STRETCH):
            last = min(start + _STRETCH, nx - 2)
            some = False
            for x in range(start, last):
                some |= row[x] > floor
            if not some:
                continue
            for x in range(start, last):
                if row[x] > floor:
                    level = value_at(mesh, box, y, x)
                    c = row[x] - level
                    if c > 0 and c * c > sigma * sigma * variance[y, x]:
                        ratio = _peak_ratio(image, mask, skip, y, x, level)
                        noise = np.sqrt(variance[y, x])
                        if ratio >= 0 and _stands_alone(image, y, x, sigma / 3 * noise):
                            out.append(ratio)
    return np.array(out)


@njit(cache=True, nogil=True)
def _stands_alone(image: Any, y: Any, x: Any, least: Any) -> Any:
    """Tell whether a maximum is higher than what surrounds it, by ``least`` electron.

    Noise makes maxima on a coma, a galaxy and the ring of a defocused star: they would pass
    for stars so broad that everything is sharper. Along some direction light like that stays
    as bright 3 px away on both sides; a neighbour on one side does not count.
    """
    ny, nx = image.shape
    for k in range(4):
        far = 3 if k < 2 else 2
        dy, dx = far * np.int64(k > 0), far * np.int64(1 - k if k < 2 else (1 if k == 2 else -1))
        inside = dy <= y < ny - dy and abs(dx) <= x < nx - abs(dx)
        if not inside:
            continue
        beside = min(image[y - dy, x - dx], image[y + dy, x + dx])
        if not image[y, x] - beside > least:
            return False
    return True


@njit(cache=True, nogil=True)
def _peak_ratio(image: Any, mask: Any, skip: Any, y: Any, x: Any, level: Any) -> Any:
    """Smallest ratio of the four directions; -1 if the pixel is no clean maximum."""
    c = image[y, x]
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            # of two equal neighbours the first is the maximum
            before = j < y or (j == y and i < x)
            if (mask[j, i] & skip) != 0 or image[j, i] > c or (before and image[j, i] == c):
                return -1.0
    height, least = np.float64(c) - level, np.inf
    for k in range(4):
        a, b, _, _ = _three(image, y, x, k, level)
        ratio = np.float64(a) * b / (height * height)
        least = min(least, ratio if k < 2 else np.sqrt(ratio))
    return least


@njit(cache=True, nogil=True)
def _sharpness(
    sci: Any, err: Any, bad: Any, y: Any, x: Any, level: Any, ratio: Any, structure: Any
) -> Any:
    """How much sharper than a star a pixel is, in its sharpest direction, in sigma.

    The sigma of ``t = q c^2 - a b``; negative where the light is blunt in all directions.
    Directions into bad pixels tell nothing.
    """
    ny, nx = sci.shape
    if not (1 <= y < ny - 1 and 1 <= x < nx - 1):
        return 0.0
    c = np.float64(max(sci[y, x] - level, _ZERO))
    vc = np.float64(err[y, x]) ** 2 + (structure * c) ** 2
    best = -np.inf
    for k in range(4):
        q = ratio if k < 2 else ratio * ratio
        low, high, dy, dx = _three(sci, y, x, k, level)
        if bad[y - dy, x - dx] or bad[y + dy, x + dx]:
            continue
        a, b = np.float64(low), np.float64(high)
        va = np.float64(err[y - dy, x - dx]) ** 2 + (structure * a) ** 2
        vb = np.float64(err[y + dy, x + dx]) ** 2 + (structure * b) ** 2
        spread = 4 * q * q * c * c * vc + a * a * vb + b * b * va + va * vb
        best = max(best, (q * c * c - a * b) / np.sqrt(spread))
    return best


@njit(cache=True, nogil=True)
def judge(
    hits: Any, sci: Any, err: Any, bad: Any, mesh: Any, box: Any, structure: Any,
    ratio: Any, sharp: Any, blunt: Any,
) -> Any:  # fmt: skip
    """Acquit, in place, what is not sharper than the seeing.

    A connected group of hits stands if one of its pixels is ``sharp`` sigma sharper than a
    star; of a group that stands, pixels that are ``blunt`` sigma blunter are let off.

    Parameters
    ----------
    hits : ndarray of bool, shape (ny, nx)
        Changed.
    sci, err : ndarray of float32, shape (ny, nx)
        Image and error.
    bad : ndarray of bool, shape (ny, nx)
        Pixels whose value means nothing; no hits.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    structure : float
        Light above the sky is uncertain by this fraction.
    ratio : float
        The ratio ``q`` of a star; 0 acquits nothing.
    sharp, blunt : float
        Limits in sigma.

    Returns
    -------
    stand, acquitted, pixels : int
        Numbers of groups, and of pixels that stand.
    """
    ny, nx = hits.shape
    state = hits.view(np.uint8).copy()
    stand, acquitted, pixels = 0, 0, 0
    group = [np.int64(0) for _ in range(0)]
    flat = state.ravel()
    for first in range(ny * nx):
        if flat[first] != _GROUP:
            continue
        group.clear()
        group.append(np.int64(first))
        state[first // nx, first % nx] = _DONE
        done, best = 0, -np.inf
        blunted = [np.int64(0) for _ in range(0)]
        while done < len(group):
            y, x = group[done] // nx, group[done] % nx
            done += 1
            if ratio > 0:
                level = value_at(mesh, box, y, x)
                value = _sharpness(sci, err, bad, y, x, level, ratio, structure)
                best = max(best, value)
                if value < -blunt:
                    blunted.append(y * nx + x)
            for j in range(max(y - 1, 0), min(y + 2, ny)):
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    if state[j, i] == _GROUP:
                        state[j, i] = _DONE
                        group.append(j * nx + i)
        if ratio <= 0 or best > sharp:
            stand += 1
            pixels += len(group) - len(blunted)
            for at in blunted:
                hits[at // nx, at % nx] = False
        else:
            acquitted += 1
            for at in group:
                hits[at // nx, at % nx] = False
    return stand, acquitted, pixels
