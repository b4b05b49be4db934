"""The loops of L.A.Cosmic: screening, searching, replacing, and what to look at again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.lacosmic_verdicts import (
    LEAST_VARIANCE,
    exceeds,
    fine_structure,
    has_structure,
    laplacian,
    positive_laplacian,
)

__all__ = ["STRETCH", "near", "replace_near", "screen", "search"]

_ZERO, _ONE, _FOUR = np.float32(0), np.float32(1), np.float32(4)
#: The bound is lowered by this much: rounding must not lose a candidate.
_MARGIN = np.float32(1 - 1e-5)
#: A verdict depends on pixels at most this far away.
_REACH = 4
#: The screen collects candidates from stretches of a row of this many pixels.
STRETCH = 32


@njit(cache=True, nogil=True)
def screen(image: Any, spread: Any, extra: Any, skip: Any, sigclip: Any) -> Any:
    """Return the pixels that can pass, see the head of the module; in order of rows."""
    ny, nx = image.shape
    kept = [np.int64(0) for _ in range(0)]
    has_extra = extra.shape[0] == ny
    factor = _FOUR * sigclip * sigclip * _MARGIN
    lap, columns = np.zeros(nx, np.float32), np.zeros(nx, np.float32)
    least = np.zeros(nx, np.float32)
    row = np.zeros(nx + STRETCH, np.uint8)
    for y in range(2, ny - 2):
        above, here, below = image[y + 1], image[y], image[y - 1]
        for x in range(1, nx - 1):
            lap[x] = positive_laplacian(here[x], below[x], above[x], here[x - 1], here[x + 1])
        a, b, c, d, e = spread[y - 2], spread[y - 1], spread[y], spread[y + 1], spread[y + 2]
        for x in range(nx):
            columns[x] = min(a[x], b[x], c[x], d[x], e[x])
        for x in range(2, nx - 2):
            least[x] = min(
                columns[x - 2], columns[x - 1], columns[x], columns[x + 1], columns[x + 2]
            )
        if has_extra:
            own = extra[y]
            for x in range(2, nx - 2):
                least[x] += own[x]
        bad = skip[y]
        for x in range(2, nx - 2):
            bound = factor * max(least[x], LEAST_VARIANCE)
            row[x] = (lap[x] * lap[x] > bound) & (bad[x] == 0)
        for start in range(0, nx, STRETCH):
            some = np.uint8(0)
            for x in range(start, start + STRETCH):
                some |= row[x]
            if some:
                for x in range(start, start + STRETCH):
                    if row[x]:
                        kept.append(y * nx + x)  # noqa: PERF401
    return _as_array(kept)


@njit(cache=True, nogil=True)
def _replace(plane: Any, skip: Any, found: Any, y: Any, x: Any, fallback: Any) -> Any:
    """Mean of the good pixels of the 5 x 5 box; False if there is none and no fallback."""
    total = _ZERO
    n = 0
    for j in range(y - 2, y + 3):
        for i in range(x - 2, x + 3):
            if found[j, i] == 0 and skip[j, i] == 0:
                total += plane[j, i]
                n += 1
    if n > 0:
        plane[y, x] = total / np.float32(n)
        return True
    plane[y, x] = fallback
    return not np.isnan(fallback)


@njit(cache=True, nogil=True)
def _as_array(items: Any) -> Any:
    out = np.empty(len(items), np.int64)
    for n in range(len(items)):
        out[n] = items[n]
    return out


@njit(cache=True, nogil=True)
def search(
    image: Any,
    spread: Any,
    extra: Any,
    skip: Any,
    found: Any,
    state: Any,
    candidates: Any,
    thresholds: Any,
) -> Any:
    """Mark the hits among the candidates and around them; return the new ones."""
    ny, nx = image.shape
    strict, relaxed, objlim = thresholds
    work, box = np.empty(49, np.float32), np.empty(49, np.float32)
    hits = [np.int64(0) for _ in range(0)]
    for at in candidates:
        y, x = at // nx, at % nx
        if has_structure(image, y, x, objlim):
            continue
        if not exceeds(image, spread, extra, y, x, strict, _ONE, work, box):
            continue
        fine = fine_structure(image, spread, extra, y, x, work, box)
        if exceeds(image, spread, extra, y, x, objlim, fine, work, box):
            hits.append(at)
            state[y, x] = 1
    for threshold in (strict, relaxed):
        for c in range(len(hits)):
            y, x = hits[c] // nx, hits[c] % nx
            for j in range(max(y - 1, 2), min(y + 2, ny - 2)):
                for i in range(max(x - 1, 2), min(x + 2, nx - 2)):
                    if state[j, i] or skip[j, i]:
                        continue
                    if exceeds(image, spread, extra, j, i, threshold, _ONE, work, box):
                        state[j, i] = 1
                        hits.append(j * nx + i)
    fresh = [np.int64(0) for _ in range(0)]
    for at in hits:
        y, x = at // nx, at % nx
        state[y, x] = 0
        if found[y, x] == 0:
            found[y, x] = 1
            fresh.append(at)
    return _as_array(fresh)


@njit(cache=True, nogil=True)
def replace_near(
    image: Any, spread: Any, skip: Any, found: Any, state: Any, fresh: Any, fallback: Any
) -> Any:
    """Replace the new hits, and older ones that lost a good neighbour by them.

    Good pixels never change, so the order does not matter.
    """
    ny, nx = image.shape
    changed = [np.int64(0) for _ in range(0)]
    known = True
    for at in fresh:
        y, x = at // nx, at % nx
        for j in range(max(y - 2, 2), min(y + 3, ny - 2)):
            for i in range(max(x - 2, 2), min(x + 3, nx - 2)):
                if found[j, i] and state[j, i] == 0:
                    state[j, i] = 1
                    changed.append(j * nx + i)
                    known &= _replace(image, skip, found, j, i, fallback[0])
                    known &= _replace(spread, skip, found, j, i, fallback[1])
    for at in changed:
        state[at // nx, at % nx] = 0
    return _as_array(changed), known


@njit(cache=True, nogil=True)
def near(
    image: Any, spread: Any, extra: Any, skip: Any, state: Any, changed: Any, sigclip: Any
) -> Any:
    """Pixels near changed ones that pass the bound, in order of rows."""
    ny, nx = image.shape
    factor = _FOUR * sigclip * sigclip * _MARGIN
    seen = [np.int64(0) for _ in range(0)]
    kept = [np.int64(0) for _ in range(0)]
    for at in changed:
        y, x = at // nx, at % nx
        for j in range(max(y - _REACH, 2), min(y + _REACH + 1, ny - 2)):
            for i in range(max(x - _REACH, 2), min(x + _REACH + 1, nx - 2)):
                if state[j, i] or skip[j, i]:
                    continue
                state[j, i] = 1
                seen.append(j * nx + i)
                lap = laplacian(image, j, i)
                if lap == _ZERO:
                    continue
                least = spread[j, i]
                for v in range(j - 2, j + 3):
                    for u in range(i - 2, i + 3):
                        least = min(least, spread[v, u])
                if extra.shape[0] == ny:
                    least += extra[j, i]
                if lap * lap > factor * max(least, LEAST_VARIANCE):
                    kept.append(j * nx + i)
    for at in seen:
        state[at // nx, at % nx] = 0
    out = _as_array(kept)
    out.sort()
    return out
