"""Where the overscan of a detector lies, told from the pixels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.sections import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Layout", "find_layout"]

#: Lines darker than this share of the signal saw no light; so did lines at the edge that hold less
#: than this share of what the lines behind them hold.
DARK, FAINT = 0.02, 0.5
#: Flats must be brighter than this (ADU), else the edge of the image is not certain.
LEAST_SIGNAL = 300.0
#: Lines at the edges are odd if they deviate from their neighbours by this share of the signal,
#: or by so many standard deviations (at least 1 ADU) in the bias frames.
ODD_LIGHT, ODD = 0.3, 6.0
#: Overscan lines are settled within these limits: ADU, standard deviations, share of the signal.
SETTLED_ADU, SETTLED, CARRIED = 0.5, 4.0, 1e-4
#: Lines at an edge that can be odd.
_EDGE = 12


@dataclass(frozen=True)
class Layout:
    """The parts of a raw image.

    Parameters
    ----------
    data : Section
        Pixels that saw light and behave normally.
    overscans : tuple of Section
        Strips without light, the widest first, cut to settled lines.
    odd : tuple of str
        Lines between image and overscan that belong to neither, for people.
    """

    data: Section
    overscans: tuple[Section, ...]
    odd: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Axis:
    """One axis: the image, dark lines before and after it, and the settled ones of these."""

    first: int
    last: int
    before: tuple[int, int] | None
    after: tuple[int, int] | None
    odd: tuple[tuple[int, int], ...]


def find_layout(
    dark: Sequence[NDArray[np.float32]], bright: Sequence[NDArray[np.float32]]
) -> Layout | None:
    """Find image and overscan from frames with and without light.

    A line (column or row) of overscan does not follow the light. Lines of overscan next
    to the image may hold deferred charge, which decays away from it, and image lines next to
    the overscan may not be normal pixels: both are left out.

    Parameters
    ----------
    dark : sequence of ndarray, shape (ny, nx)
        Bias frames (ADU); their pattern is taken off.
    bright : sequence of ndarray, shape (ny, nx)
        Evenly lit frames (ADU).

    Returns
    -------
    Layout or None
        None if there are none of one sort, or the light is too faint to tell.
    """
    if not bright or not dark:
        return None
    zero, light = _mean(dark), _mean(bright)
    columns = _axis(_profile(light - zero, 0), _profile(zero, 0))
    if columns is None:
        return None
    part = (slice(None), slice(columns.first, columns.last))
    rows = _axis(_profile((light - zero)[part], 1), _profile(zero[part], 1))
    if rows is None:
        return None
    data = Section(columns.first, columns.last, rows.first, rows.last)
    strips = [
        Section(edge[0], edge[1], data.y0, data.y1)
        for edge in (columns.after, columns.before)
        if edge
    ]
    strips.sort(key=lambda s: s.x0 - s.x1)
    more = [Section(data.x0, data.x1, *edge) for edge in (rows.after, rows.before) if edge]
    odd = [f"columns {a + 1}:{b}" for a, b in columns.odd]
    odd += [f"rows {a + 1}:{b}" for a, b in rows.odd]
    return Layout(data, (*strips, *more), tuple(odd))


def _mean(frames: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = np.zeros(frames[0].shape, np.float64)
    for frame in frames:
        total += frame
    return np.asarray(total / len(frames), np.float32)


def _profile(image: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Mean of the central values along an axis: robust, yet finer than whole ADU."""
    ordered = np.sort(image, axis=axis)
    n = ordered.shape[axis]
    low, high = n // 4, max(n - n // 4, n // 4 + 1)
    return np.asarray(np.take(ordered, range(low, high), axis).mean(axis=axis, dtype=np.float64))


def _axis(light: NDArray[np.float64], zero: NDArray[np.float64]) -> _Axis | None:
    # Levels drift between frames, so the darkest lines themselves tell where zero is.
    base = min(float(np.percentile(light, 0.5)), 0.0)
    signal = float(np.median(light)) - base
    if signal < LEAST_SIGNAL:
        return None
    first = _edge(light - base, signal)
    last = len(light) - _edge((light - base)[::-1], signal)
    before = _settled(light[:first][::-1], zero[:first][::-1], signal)
    after = _settled(light[last:], zero[last:], signal)
    # Without a strip beside it an edge is only dim.
    begin = first + _odd_lines(light[first:last], zero[first:last]) if before else 0
    end = len(light)
    if after:
        end = last - _odd_lines(light[first:last][::-1], zero[first:last][::-1])
    between = []
    if before and begin > first - before[0]:
        between.append((first - before[0], begin))
    if after and last + after[0] > end:
        between.append((end, last + after[0]))
    return _Axis(
        begin, end,
        (first - before[1], first - before[0]) if before else None,
        (last + after[0], last + after[1]) if after else None, tuple(between),
    )  # fmt: skip


def _edge(light: NDArray[np.float64], signal: float) -> int:
    """First line of the image. Charge that is left behind makes the step to it less sharp."""
    first = int(np.argmax(light > DARK * signal))
    while first + 3 < len(light) and light[first] < FAINT * light[first + 3]:
        first += 1
    return first


def _settled(
    light: NDArray[np.float64], zero: NDArray[np.float64], signal: float
) -> tuple[int, int] | None:
    """Longest run of settled lines, counted from the image outwards; None if there is none."""
    if len(light) < 2:
        return None
    good = np.ones(len(light), bool)
    for level, carried in ((light, CARRIED * signal), (zero, 0.0)):
        far = level[len(level) // 2 :]
        centre = float(np.median(far))
        spread = _roughness(far)
        good &= np.abs(level - centre) <= max(SETTLED_ADU, SETTLED * spread, carried)
    best, start = (0, 0), None
    for i, fine in enumerate([*good, False]):
        if fine and start is None:
            start = i
        elif not fine and start is not None:
            best = max(best, (start, i), key=lambda run: run[1] - run[0])
            start = None
    return best if best[1] - best[0] >= 2 else None


def _roughness(level: NDArray[np.float64]) -> float:
    """Scatter from line to line, without the slope."""
    return 1.0484 * float(np.median(np.abs(np.diff(level)))) if len(level) > 1 else 0.0


def _odd_lines(light: NDArray[np.float64], zero: NDArray[np.float64]) -> int:
    """Number of lines at the edge, up to the last one that differs from the next."""
    if len(light) < 4 * _EDGE:
        return 0
    near = light[: _EDGE + 1]
    odd = np.abs(np.diff(near)) > ODD_LIGHT * np.abs(near[1:])
    spread = max(1.0, _roughness(zero[_EDGE : 4 * _EDGE]))
    odd |= np.abs(np.diff(zero[: _EDGE + 1])) > ODD * spread
    return int(np.max(np.nonzero(odd)[0])) + 1 if odd.any() else 0
