"""Saturated groups of pixels: holes in them, growth, and charge that bled along a line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.coarse_sky import value_at

__all__ = ["bleed", "fill_holes", "groups", "grow"]


@njit(cache=True)
def groups(mask: Any, bits: Any) -> Any:
    """Return the connected groups (8 neighbours) of pixels that have any of ``bits``.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Bits.
    bits : uint16
        Which bits.

    Returns
    -------
    pixels : ndarray of int64, shape (n,)
        Flat indices, group after group.
    starts : ndarray of int64, shape (m + 1,)
        Group ``k`` is ``pixels[starts[k]:starts[k + 1]]``.
    """
    ny, nx = mask.shape
    found = [np.int64(0) for _ in range(0)]
    starts = [np.int64(0)]
    some = False
    for y in range(ny):
        any_here = np.uint16(0)
        for x in range(nx):
            any_here |= mask[y, x]
        if any_here & bits:
            some = True
            break
    if some:
        seen = np.zeros(mask.shape, np.bool_)
        done = 0
        for y in range(ny):
            for x in range(nx):
                if (mask[y, x] & bits) == 0 or seen[y, x]:
                    continue
                seen[y, x] = True
                found.append(np.int64(y * nx + x))
                while done < len(found):
                    b, a = found[done] // nx, found[done] % nx
                    done += 1
                    for j in range(max(b - 1, 0), min(b + 2, ny)):
                        for i in range(max(a - 1, 0), min(a + 2, nx)):
                            if (mask[j, i] & bits) != 0 and not seen[j, i]:
                                seen[j, i] = True
                                found.append(np.int64(j * nx + i))
                starts.append(np.int64(len(found)))
    pixels, edges = np.empty(len(found), np.int64), np.empty(len(starts), np.int64)
    for k in range(len(found)):
        pixels[k] = found[k]
    for k in range(len(starts)):
        edges[k] = starts[k]
    return pixels, edges


@njit(cache=True)
def _box(pixels: Any, nx: Any) -> Any:
    """First and last row and column of some pixels."""
    y0, y1, x0, x1 = pixels[0] // nx, pixels[0] // nx, pixels[0] % nx, pixels[0] % nx
    for at in pixels:
        y, x = at // nx, at % nx
        y0, y1, x0, x1 = min(y0, y), max(y1, y), min(x0, x), max(x1, x)
    return y0, y1, x0, x1


@njit(cache=True)
def fill_holes(mask: Any, pixels: Any, bit: Any) -> Any:
    """Set a bit in the pixels that a group encloses; return how many were set.

    Cameras report the middle of a strongly saturated star as if it were faint. A hole
    larger than the group around it is no such middle and stays.
    """
    nx = mask.shape[1]
    y0, y1, x0, x1 = _box(pixels, nx)
    if y1 - y0 < 2 or x1 - x0 < 2:
        return 0
    # 0 unknown, 1 of the group or known
    area = np.zeros((y1 - y0 + 3, x1 - x0 + 3), np.uint8)
    for at in pixels:
        area[at // nx - y0 + 1, at % nx - x0 + 1] = 1
    stack = [np.int64(0)]
    area[0, 0] = 1
    _flood(area, stack)
    filled = 0
    width = area.shape[1]
    for first in range(area.size):
        if area[first // width, first % width]:
            continue
        stack = [np.int64(first)]
        area[first // width, first % width] = 1
        _flood(area, stack)
        if len(stack) > pixels.size:
            continue
        for at in stack:
            mask[at // width + y0 - 1, at % width + x0 - 1] |= bit
            filled += 1
    return filled


@njit(cache=True)
def _flood(area: Any, stack: Any) -> None:
    """Mark what is connected with the pixels of a list, by four neighbours; extend the list."""
    ny, nx = area.shape
    done = 0
    while done < len(stack):
        y, x = stack[done] // nx, stack[done] % nx
        done += 1
        for k in range(4):
            j, i = y + (k == 0) - (k == 1), x + (k == 2) - (k == 3)
            if 0 <= j < ny and 0 <= i < nx and area[j, i] == 0:
                area[j, i] = 1
                stack.append(j * nx + i)


@njit(cache=True)
def grow(mask: Any, pixels: Any, radius: Any, bit: Any) -> None:
    """Set a bit within ``radius + 0.5`` px of some pixels."""
    ny, nx = mask.shape
    most = (radius + 0.5) ** 2
    for at in pixels:
        y, x = at // nx, at % nx
        for j in range(max(y - radius, 0), min(y + radius + 1, ny)):
            for i in range(max(x - radius, 0), min(x + radius + 1, nx)):
                if (j - y) ** 2 + (i - x) ** 2 <= most:
                    mask[j, i] |= bit


@njit(cache=True)
def _stays_above(sci: Any, y: Any, far: Any, x: Any, step: Any, level: Any) -> Any:
    """Tell whether a column stays above a level up to some row inside the image."""
    if not 0 <= far < sci.shape[0]:
        return False
    least = np.float32(np.inf)
    for j in range(y, far + step, step):
        least = min(least, sci[j, x])
    return least > level


@njit(cache=True)
def _profile(sci: Any, y: Any, x: Any, centre_y: Any, centre_x: Any, level: Any) -> Any:
    """Light of a star at the places of a pixel with rows and columns exchanged."""
    ny, nx = sci.shape
    out = np.float32(0)
    j = min(max(centre_y + x - centre_x, 0), ny - 1)
    for i in (centre_x - abs(y - centre_y), centre_x + abs(y - centre_y)):
        if 0 <= i < nx and sci[j, i] - level > out:
            out = sci[j, i] - level
    return out


@njit(cache=True)
def bleed(
    sci: Any, mask: Any, pixels: Any, mesh: Any, box: Any, noise: Any, limits: Any, bit: Any
) -> Any:
    """Mark charge that spilt from a saturated group along the columns.

    What of the group reaches further along the column than the group is wide has spilt;
    beyond its ends the trail goes on while a pixel outshines what the star shows at the
    same place with rows and columns exchanged. A star is round, and the spikes of a
    telescope form a cross or fade; only spilt charge is one-sided.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image, the columns along its first axis.
    mask : ndarray of uint16, shape (ny, nx)
        Bits; changed.
    pixels : ndarray of int64, shape (n,)
        Flat indices of the group.
    mesh, box : ndarray of float32, int
        Sky at the centres of cells of ``box`` px.
    noise : float
        Noise of the sky.
    limits : tuple of float
        Contrast to the star, height in sigma, by how many px a group must be longer than wide
        to have bled, and the part of its height that a trail keeps otherwise.
    bit : uint16
        What to set.

    Returns
    -------
    int
        Pixels that were set.
    """
    contrast, sigma, elongation, flat = limits
    ny, nx = sci.shape
    y0, y1, x0, x1 = _box(pixels, nx)
    widths = np.zeros(y1 - y0 + 1, np.int64)
    left, right = np.full(widths.size, nx), np.full(widths.size, -1)
    first, last = np.full(x1 - x0 + 1, ny), np.full(x1 - x0 + 1, -1)
    for at in pixels:
        y, x = at // nx, at % nx
        widths[y - y0] += 1
        left[y - y0], right[y - y0] = min(left[y - y0], x), max(right[y - y0], x)
        first[x - x0], last[x - x0] = min(first[x - x0], y), max(last[x - x0], y)
    width = widths.max()
    widest = np.flatnonzero(widths == width)
    row = widest[widest.size // 2]
    # the middle of the widest rows is the star
    centre_y, centre_x = row + y0, (left[row] + right[row]) // 2
    count = 0
    for at in pixels:
        y, x = at // nx, at % nx
        if abs(y - centre_y) > width and (mask[y, x] & bit) == 0:
            mask[y, x] |= bit
            count += 1
    height = np.float32(0)
    for at in pixels:
        height = max(height, sci[at // nx, at % nx])
    long = y1 - y0 + 1 >= width + elongation or count > 0
    # a trail may lie below the saturation level, but at a level of its own
    plateau = np.zeros((2, x1 - x0 + 1), np.bool_)
    for side in range(2):
        step = 1 if side else -1
        for x in range(x0, x1 + 1):
            y = (last[x - x0] if side else first[x - x0]) + step
            far = y + (max(width, 6) - 1) * step
            plateau[side, x - x0] = (
                last[x - x0] >= 0
                and _stays_above(sci, y, far, x, step, flat * height)
                and sci[far, x]
                > contrast * _profile(sci, far, x, centre_y, centre_x, np.float32(0))
            )
    if not (long or plateau.any()):
        return count
    for side in range(2):
        step = 1 if side else -1
        for x in range(max(x0 - 1, 0), min(x1 + 2, nx)):
            inside = x0 <= x <= x1 and last[x - x0] >= 0
            y = centre_y + step
            if inside:
                y = (last[x - x0] if side else first[x - x0]) + step
            flat_here = inside and plateau[side, x - x0]
            while 0 <= y < ny:
                level = value_at(mesh, box, y, x)
                star = _profile(sci, y, x, centre_y, centre_x, level)
                flat_here &= sci[y, x] > flat * height
                # not greater: also where the value is not a number
                if not (flat_here or sci[y, x] - level > max(contrast * star, sigma * noise)):
                    break
                if (mask[y, x] & bit) == 0:
                    mask[y, x] |= bit
                    count += 1
                y += step
    return count
