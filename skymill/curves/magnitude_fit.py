"""Magnitude fitting: each frame brought to a common reference by a smooth correction.

For every frame the differences to a reference are fitted with a polynomial in
magnitude, position and colour,

    m_ij - M_i = sum_k c_jk term_k(M_i, x_ij, y_ij, colour_i),

which takes out clouds that differ over the field, errors of the flat on large scales,
colour-dependent extinction and small departures from linearity. A star's own
measurement never enters its own correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.curves.fit import clipped_fit, robust_rms
from skymill.curves.terms import design, parse_terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.curves.terms import Term

__all__ = ["FrameQuality", "MagnitudeFit", "fit_magnitudes"]

#: Variables that the terms may name.
VARIABLES = ("mag", "x", "y", "colour")
#: Stars for each term; with fewer the highest order is given up.
_STARS_PER_TERM = 5
_CONVERGED = 1e-4


@dataclass(frozen=True)
class FrameQuality:
    """How well the frames were brought to the reference.

    Parameters
    ----------
    n_stars : ndarray of int64, shape (n_frames,)
        Stars in the fit.
    n_terms : ndarray of int64, shape (n_frames,)
        Terms in the fit; 0 where the frame was not corrected.
    rms : ndarray of float64, shape (n_frames,)
        Robust scatter of the residuals of these stars in mag.
    chi2 : ndarray of float64, shape (n_frames,)
        Reduced chi-square with the noise floor.
    """

    n_stars: NDArray[np.int64]
    n_terms: NDArray[np.int64]
    rms: NDArray[np.float64]
    chi2: NDArray[np.float64]


@dataclass(frozen=True)
class MagnitudeFit:
    """Corrected magnitudes.

    Parameters
    ----------
    mag, err : ndarray of float64, shape (n_sources, n_frames)
        At the reference, with the error of the correction.
    reference : ndarray of float64, shape (n_sources,)
        Mean magnitudes that make the reference; NaN for stars without one.
    quality : FrameQuality
        Numbers of each frame.
    rebuilds : int
        How often the reference was built from all frames.
    """

    mag: NDArray[np.float64]
    err: NDArray[np.float64]
    reference: NDArray[np.float64]
    quality: FrameQuality
    rebuilds: int


def fit_magnitudes(
    mag: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    colour: NDArray[np.float64] | None = None,
    exclude: NDArray[np.bool_] | None = None,
    terms: str = "O3{mag,x,y}",
    noise_floor: float = 0.01,
    max_error: float = 0.1,
    sigma: float = 5.0,
    rejections: int = 20,
    rebuilds: int = 5,
) -> MagnitudeFit:
    """Bring all frames to one reference that is built from all of them.

    Parameters
    ----------
    mag, err : ndarray of float64, shape (n_sources, n_frames)
        Instrumental magnitudes and errors; NaN where nothing was measured.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    x, y : ndarray of float64, shape (n_sources, n_frames)
        Positions on the frames.
    colour : ndarray of float64, shape (n_sources,), optional
        Colours; stars without one are corrected with the median colour.
    exclude : ndarray of bool, shape (n_sources,), optional
        Stars that are corrected, but tell nothing: targets, known variables.
    terms : str
        Grammar of `skymill.curves.terms` in mag, x, y, colour.
    noise_floor : float
        Added in quadrature to the errors that make the weights (mag).
    max_error : float
        Measurements of a larger error do not enter (mag).
    sigma, rejections : float, int
        See `skymill.curves.fit.clipped_fit`.
    rebuilds : int
        Most times that the reference is built anew; it stops when the rms change of the
        reference is below 1e-4 mag.

    Returns
    -------
    MagnitudeFit

    Raises
    ------
    ValueError
        If the terms cannot be read.
    """
    known = VARIABLES if colour is not None else VARIABLES[:3]
    parsed = parse_terms(terms, known=known)
    steady = np.ones(mag.shape[0], bool) if exclude is None else ~exclude
    with np.errstate(invalid="ignore"):
        weigh = good & np.isfinite(mag) & (err > 0) & (err < max_error) & steady[:, None]
    first = _best_frame(err, weigh)
    reference = np.where(good[:, first] & np.isfinite(mag[:, first]), mag[:, first], np.nan)
    tone = None if colour is None else np.where(np.isfinite(colour), colour, np.nanmedian(colour))
    done = 0
    for round_ in range(max(rebuilds, 1)):
        fitted, noise, quality = _all_frames(
            mag, err, weigh, reference, (x, y, tone), parsed, noise_floor, sigma, rejections
        )
        new = _mean_magnitudes(fitted, np.hypot(noise, noise_floor), good)
        both = np.isfinite(new) & np.isfinite(reference) & weigh.any(axis=1)
        done = round_ + 1
        moved = float(np.sqrt(np.mean((new - reference)[both] ** 2))) if both.any() else 0.0
        reference = new
        if moved < _CONVERGED:
            break
    fitted, noise, quality = _all_frames(
        mag, err, weigh, reference, (x, y, tone), parsed, noise_floor, sigma, rejections
    )
    return MagnitudeFit(fitted, noise, reference, quality, done)


def _best_frame(err: NDArray[np.float64], weigh: NDArray[np.bool_]) -> int:
    """The frame that tells most: the largest sum of inverse variances."""
    with np.errstate(invalid="ignore", divide="ignore"):
        worth = np.where(weigh, 1 / (err**2 + 0.01**2), 0.0).sum(axis=0)
    return int(np.argmax(worth)) if worth.size else 0


def _all_frames(
    mag: NDArray[np.float64],
    err: NDArray[np.float64],
    weigh: NDArray[np.bool_],
    reference: NDArray[np.float64],
    others: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None],
    terms: Sequence[Term],
    noise_floor: float,
    sigma: float,
    rejections: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], FrameQuality]:
    n_frames = mag.shape[1]
    x, y, tone = others
    out, noise = np.full(mag.shape, np.nan), np.full(mag.shape, np.nan)
    # A star that is not in the reference is corrected as one of its own magnitude.
    level = np.where(np.isfinite(reference), reference, _row_medians(mag))
    numbers = np.zeros((2, n_frames), np.int64)
    scatter, chi2 = np.full(n_frames, np.nan), np.full(n_frames, np.nan)
    for j in range(n_frames):
        values = mag[:, j] - reference
        use = weigh[:, j] & np.isfinite(values)
        kept = _affordable(terms, int(use.sum()))
        if not kept:
            continue
        variables = {"mag": level, "x": x[:, j], "y": y[:, j]}
        if tone is not None:
            variables["colour"] = tone
        total = np.hypot(err[:, j], noise_floor)
        # Weak stars carry little weight; a star beyond the fitted ones is not followed.
        matrix = _held(design(kept, variables), use)
        fit = clipped_fit(matrix, values, total, use, sigma=sigma, rejections=rejections)
        n = int(fit.used.sum())
        rest = (values - fit.predicted)[fit.used]
        pull = rest / total[fit.used]
        numbers[:, j] = n, fit.rank
        scatter[j] = robust_rms(rest)
        chi2[j] = float((pull**2).sum() / max(n - fit.rank, 1))
        alone = 1 - fit.leverage
        with np.errstate(invalid="ignore", divide="ignore"):
            own = np.where(fit.used, values, 0.0)
            shift = (fit.predicted - fit.leverage * own) / alone
            spread = fit.variance / alone * chi2[j]
            lost = fit.used & (alone < 1e-6)
            out[:, j] = np.where(lost, np.nan, mag[:, j] - shift)
            noise[:, j] = np.sqrt(err[:, j] ** 2 + spread)
    return out, noise, FrameQuality(numbers[0], numbers[1], scatter, chi2)


def _row_medians(table: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.full(table.shape[0], np.nan)
    rows = np.isfinite(table).any(axis=1)
    if rows.any():
        out[rows] = np.nanmedian(table[rows], axis=1)
    return out


def _affordable(terms: Sequence[Term], n_stars: int) -> tuple[Term, ...]:
    """Terms of the highest order for which there are enough stars."""
    for order in range(max(len(term) for term in terms), -1, -1):
        kept = tuple(term for term in terms if len(term) <= order)
        if n_stars >= max(_STARS_PER_TERM * len(kept), 3):
            return kept
    return ()


def _held(matrix: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Hold the terms within the range of the fitted stars: no extrapolation."""
    if not use.any():
        return matrix
    inside = matrix[use]
    return np.asarray(np.clip(matrix, np.nanmin(inside, axis=0), np.nanmax(inside, axis=0)))


def _mean_magnitudes(
    mag: NDArray[np.float64], err: NDArray[np.float64], good: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Weighted mean of each star within 5 robust widths of its median."""
    middle = _row_medians(np.where(good, mag, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = np.where(good, np.abs(mag - middle[:, None]), np.nan)
        width = 1.4826 * _row_medians(rest)
        near = good & np.isfinite(mag) & (rest <= np.maximum(5 * width, 1e-6)[:, None])
        weight = np.where(near, 1 / err**2, 0.0)
        total = weight.sum(axis=1)
        mean = np.where(near, weight * (mag - middle[:, None]), 0.0).sum(axis=1) / total
    return np.asarray(np.where(total > 0, middle + mean, np.nan))
