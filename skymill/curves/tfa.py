"""Trend filtering: what a star has in common with others of the field is removed.

Light curves of quiet stars, spread over the field, are the templates; the combination
that fits a star best is taken off (Kovacs, Bakos and Noyes 2005). Neither the star
itself nor its close neighbours are among its templates, or it would remove itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.curves.epd import Detrended, robust_scatter, take_off

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.curves.transit import Transit

__all__ = ["choose_templates", "tfa"]

#: Frames for each template: with fewer the templates would fit the noise.
_FRAMES_PER_TEMPLATE = 5
#: A template is measured on this part of the frames.
_COMPLETE = 0.9


def choose_templates(
    mag: NDArray[np.float64],
    good: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    grid: int = 8,
    max_rms: float = 0.05,
    max_mag: float | None = None,
    exclude: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Choose the brightest quiet star of each cell of a grid on the field.

    A quiet star lies low among stars of its magnitude: log rms against magnitude is
    followed by a running median, and stars more than 1.5 robust widths above it are no
    templates.

    Parameters
    ----------
    mag : ndarray of float64, shape (n_sources, n_frames)
        Magnitudes.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    x, y : ndarray of float64, shape (n_sources,)
        Positions.
    grid : int
        Cells along each side. It is made coarser where there are fewer than five
        frames for each cell.
    max_rms : float
        Largest scatter of a template (mag).
    max_mag : float, optional
        Faintest template.
    exclude : ndarray of bool, shape (n_sources,), optional
        Stars that are no templates.

    Returns
    -------
    ndarray of int64
        Rows of the templates, by cell.
    """
    level, width, n = robust_scatter(mag, good)
    frames = int((good & np.isfinite(mag)).any(axis=0).sum())
    with np.errstate(invalid="ignore"):
        able = (n >= _COMPLETE * max(frames, 1)) & (width > 0) & (width < max_rms)
        if max_mag is not None:
            able &= level < max_mag
    if exclude is not None:
        able &= ~exclude
    able &= np.isfinite(x) & np.isfinite(y)
    rows = np.flatnonzero(able)
    side = min(grid, int(np.sqrt(frames // _FRAMES_PER_TEMPLATE)))
    if not rows.size or side < 1:
        return np.zeros(0, np.int64)
    excess = _above_others(level[rows], np.log10(width[rows]))
    quiet = excess <= 1.5 * 1.4826 * float(np.median(np.abs(excess)))
    rows, excess = rows[quiet], excess[quiet]
    cell = _cells(x[rows], side) + side * _cells(y[rows], side)
    # Of the quiet stars of a cell the one that tells trends best: the brightest. That of the
    # least scatter would be the one that has no trend.
    order = np.lexsort((rows, level[rows], cell))
    first = np.unique(cell[order], return_index=True)[1]
    return np.asarray(rows[order][first], np.int64)


def _above_others(level: NDArray[np.float64], log_rms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of log rms from the running median of the 25 stars next in magnitude."""
    order = np.argsort(level, kind="stable")
    values = log_rms[order]
    half = 12
    near = np.empty(values.size)
    for i in range(values.size):
        near[i] = np.median(values[max(i - half, 0) : i + half + 1])
    out = np.empty(values.size)
    out[order] = values - near
    return out


def _cells(values: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    if not values.size:
        return np.zeros(0, np.int64)
    low, high = float(values.min()), float(values.max())
    step = (high - low) / side or 1.0
    return np.asarray(np.minimum(((values - low) / step).astype(np.int64), side - 1))


def tfa(
    mag: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    templates: NDArray[np.int64],
    neighbour_px: float = 20.0,
    sigma: float = 5.0,
    rejections: int = 20,
    times: NDArray[np.float64] | None = None,
    transit: Transit | None = None,
    targets: NDArray[np.bool_] | None = None,
) -> Detrended:
    """Remove what each star has in common with the templates.

    Parameters
    ----------
    mag, err : ndarray of float64, shape (n_sources, n_frames)
        Magnitudes and errors.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    x, y : ndarray of float64, shape (n_sources,)
        Positions.
    templates : ndarray of int64
        Rows of the templates, from `choose_templates`.
    neighbour_px : float
        Templates closer than this to a star are left out of its own.
    sigma, rejections, times, transit, targets
        As in `skymill.curves.epd.epd`.

    Returns
    -------
    Detrended
    """
    out = Detrended.of(mag)
    level, width, _ = robust_scatter(mag, good)
    basis = np.zeros((mag.shape[1], templates.size))
    for column, row in enumerate(templates):
        rest = mag[row] - level[row]
        with np.errstate(invalid="ignore"):
            clean = good[row] & (np.abs(rest) <= 5 * width[row])
        # A lost or wild point of a template must not become a hole or a jump of others.
        basis[:, column] = np.where(clean, rest, 0.0)
    constant = np.ones((mag.shape[1], 1))
    for i in range(mag.shape[0]):
        far = np.hypot(x[templates] - x[i], y[templates] - y[i]) > neighbour_px
        far &= templates != i
        if not far.any():
            continue
        event = transit if targets is None or targets[i] else None
        take_off(
            out, i, np.hstack([constant, basis[:, far]]), err[i], good[i],
            times=None if times is None else times[i], transit=event,
            sigma=sigma, rejections=rejections,
        )  # fmt: skip
    return out
