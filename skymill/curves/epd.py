"""External parameter decorrelation: what goes with position, seeing or airmass is removed.

The magnitudes of each star are fitted with terms in quantities that are known for every
frame, and the fit is taken off. A transit is spared: its window is left out of the fit,
or a trapezoid is fitted along and stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.curves.fit import clipped_fit
from skymill.curves.terms import design, names_of, parse_terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skymill.curves.fit import LinearFit
    from skymill.curves.transit import Transit

__all__ = ["EPD_VARIABLES", "Detrended", "epd", "robust_scatter", "take_off"]

#: Quantities that the terms may name.
EPD_VARIABLES = (
    "airmass", "cos_x", "cos_y", "fwhm", "sin_x", "sin_y", "sky", "time", "x", "y",
)  # fmt: skip
#: Points for each term; with fewer a star is left as it is.
_POINTS_PER_TERM = 3


@dataclass(frozen=True)
class Detrended:
    """Magnitudes without trends.

    Parameters
    ----------
    mag : ndarray of float64, shape (n_sources, n_frames)
        Detrended; as they were where a star has too few points.
    rms_before, rms_after : ndarray of float64, shape (n_sources,)
        Scatter of the points that were fitted in mag; the second allows for the number
        of terms.
    n_terms : ndarray of int64, shape (n_sources,)
        Terms that were fitted; 0: the star was left as it is.
    depth, depth_err : ndarray of float64, shape (n_sources,)
        Depth of the transit (mag, dimming positive) that was fitted along, and its
        error from the errors of the points; NaN without one.
    """

    mag: NDArray[np.float64]
    rms_before: NDArray[np.float64]
    rms_after: NDArray[np.float64]
    n_terms: NDArray[np.int64]
    depth: NDArray[np.float64]
    depth_err: NDArray[np.float64]

    @classmethod
    def of(cls, mag: NDArray[np.float64]) -> Detrended:
        """Return a result in which nothing was done yet."""
        n = mag.shape[0]
        nothing = [np.full(n, np.nan) for _ in range(4)]
        return cls(mag.copy(), nothing[0], nothing[1], np.zeros(n, np.int64), *nothing[2:])


def epd(
    mag: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    variables: Mapping[str, NDArray[np.float64]],
    *,
    terms: str = "O3{airmass}",
    sigma: float = 5.0,
    rejections: int = 20,
    times: NDArray[np.float64] | None = None,
    transit: Transit | None = None,
    targets: NDArray[np.bool_] | None = None,
) -> Detrended:
    """Remove what each star's magnitudes share with external quantities.

    Parameters
    ----------
    mag, err : ndarray of float64, shape (n_sources, n_frames)
        Magnitudes and errors.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    variables : mapping of str to ndarray, shape (n_sources, n_frames) or (n_frames,)
        External quantities by name.
    terms : str
        Grammar of `skymill.curves.terms`.
    sigma, rejections : float, int
        See `skymill.curves.fit.clipped_fit`.
    times : ndarray of float64, shape (n_sources, n_frames), optional
        Times in the scale of the transit.
    transit : Transit, optional
        What must survive.
    targets : ndarray of bool, shape (n_sources,), optional
        Stars to which the transit belongs; all by default.

    Returns
    -------
    Detrended

    Raises
    ------
    ValueError
        If the terms cannot be read.
    """
    parsed = parse_terms(terms, known=tuple(sorted(variables)))
    needed = names_of(parsed)
    out = Detrended.of(mag)
    for i in range(mag.shape[0]):
        star = {name: np.broadcast_to(variables[name], mag.shape)[i] for name in needed}
        star = star or {"": mag[i]}
        event = transit if targets is None or targets[i] else None
        take_off(
            out, i, design(parsed, star), err[i], good[i],
            times=None if times is None else times[i], transit=event,
            sigma=sigma, rejections=rejections,
        )  # fmt: skip
    return out


def take_off(
    out: Detrended,
    i: int,
    matrix: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    *,
    times: NDArray[np.float64] | None,
    transit: Transit | None,
    sigma: float,
    rejections: int,
) -> None:
    """Fit the terms to one star and take them off, in place.

    Parameters
    ----------
    out : Detrended
        Its row `i` holds the magnitudes, and is changed.
    i : int
        The star.
    matrix : ndarray of float64, shape (n_frames, n_terms)
        Terms, the constant first.
    err : ndarray of float64, shape (n_frames,)
        Errors.
    good : ndarray of bool, shape (n_frames,)
        Points that may be fitted.
    times, transit : ndarray of float64 of shape (n_frames,), Transit, optional
        What must survive, see `epd`.
    sigma, rejections : float, int
        See `skymill.curves.fit.clipped_fit`.
    """
    values = out.mag[i].copy()
    use = good & np.isfinite(values) & np.isfinite(matrix).all(axis=1)
    n_terms = matrix.shape[1]
    shape = None
    if transit is not None and times is not None:
        if transit.fit:
            shape = transit.shape(times)
            matrix = np.column_stack([matrix, shape])
        else:
            use = use & ~transit.inside(times)
    if use.sum() < max(_POINTS_PER_TERM * matrix.shape[1], n_terms + 2):
        return
    fit = clipped_fit(matrix, values, err, use, sigma=sigma, rejections=rejections)
    trend = fit.predicted
    if shape is not None:
        trend = trend - shape * fit.coefficients[-1]
    # The level of the star is no trend.
    level = float(np.mean(trend[fit.used]))
    with np.errstate(invalid="ignore"):
        out.mag[i] = np.where(np.isfinite(trend), values - (trend - level), values)
    _judge(out, i, values, fit, shape, matrix, err)


def _judge(
    out: Detrended,
    i: int,
    before: NDArray[np.float64],
    fit: LinearFit,
    shape: NDArray[np.float64] | None,
    matrix: NDArray[np.float64],
    err: NDArray[np.float64],
) -> None:
    """Fill in the scatter before and after, and the depth."""
    used, n = fit.used, int(fit.used.sum())
    first = before[used]
    out.rms_before[i] = float(np.sqrt(((first - first.mean()) ** 2).sum() / max(n - 1, 1)))
    rest = (before - fit.predicted)[used]
    out.rms_after[i] = float(np.sqrt((rest**2).sum() / max(n - fit.rank, 1)))
    out.n_terms[i] = fit.rank
    if shape is None or not (shape[used] > 0).any():
        return
    out.depth[i] = fit.coefficients[-1]
    # What the terms leave of the shape tells the depth: its variance is one over that.
    weights = np.where(used, 1 / np.where(used, err, 1.0) ** 2, 0.0)
    from skymill.kernels.linear import least_squares

    design_ = np.ascontiguousarray(np.where(np.isfinite(matrix), matrix, 0.0)[:, :-1])
    _, near, _, _ = least_squares(design_, shape, weights)
    alone = float((weights * (shape - near) ** 2).sum())
    out.depth_err[i] = alone**-0.5 if alone > 0 else np.nan


def robust_scatter(
    mag: NDArray[np.float64], good: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return median, scatter (1.4826 MAD) and number of the good points of each row."""
    table = np.where(good & np.isfinite(mag), mag, np.nan)
    n = np.isfinite(table).sum(axis=1)
    middle, width = np.full(n.size, np.nan), np.full(n.size, np.nan)
    rows = n > 0
    if rows.any():
        middle[rows] = np.nanmedian(table[rows], axis=1)
        width[rows] = 1.4826 * np.nanmedian(np.abs(table[rows] - middle[rows, None]), axis=1)
    return middle, width, n
