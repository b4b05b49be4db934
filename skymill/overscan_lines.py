"""Levels of the lines of an overscan, and curves through them.

A line is a row of the raw image, or a column if the level is followed along the
columns. The areas of an overscan need not have the same lines, or as many pixels in
each: a line has what pixels there are, and its weight in a fit is their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.errors import FrameRejected
from skymill.readout import ROUNDING
from skymill.robust import clipped_mean_std, tail_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.sections import Section

__all__ = ["Curve", "Lines", "Recipe", "fit_lines", "gather", "level_of_all", "measure_lines"]

#: Excess of the scatter of lines over that of pixels that counts as real (sigma).
EXCESS_SIGMA = 3.0
#: Normal matrices with a larger condition number mean that the lines do not carry the curve.
CONDITION = 1e10
#: Error of a line (ADU) below which the rounding of a median is the same in all lines.
SHARP_ADU = 0.4


@dataclass(frozen=True)
class Recipe:
    """How a level is measured; see `skymill.overscan.fit_overscan`."""

    method: str
    fit: str
    order: int
    low: float
    high: float
    iterations: int

    @property
    def is_median(self) -> bool:
        """True if the level is a median."""
        return self.method.endswith("median")

    @property
    def is_clipped(self) -> bool:
        """True if pixels are rejected."""
        return self.method.startswith("clipped")

    @property
    def shrink(self) -> float:
        """Standard deviation of a unit normal distribution cut at the thresholds."""
        return tail_factor(min(self.low, self.high))


class Lines(NamedTuple):
    """Levels of lines.

    Attributes
    ----------
    level : ndarray of float64, shape (n,)
        Level of each line (ADU), NaN where it has no pixel.
    number : ndarray of float64, shape (n,)
        Pixels behind it.
    variance : ndarray of float64, shape (n,)
        Its variance from the scatter of the pixels (ADU^2).
    common : float
        Variance that all lines share: rounding of medians (ADU^2).
    noise : float
        Scatter of a pixel about its line (ADU).
    """

    level: NDArray[np.float64]
    number: NDArray[np.float64]
    variance: NDArray[np.float64]
    common: float
    noise: float


class Curve(NamedTuple):
    """A level and how it came about.

    Attributes
    ----------
    level, variance : ndarray of float64, shape (n,) or (1,)
        Level (ADU) and its variance (ADU^2).
    pixels : int
        Pixels behind it.
    rounds : int
        Rejection rounds that were made.
    converged : bool
        The last round rejected nothing.
    """

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixels: int
    rounds: int
    converged: bool


def gather(raw: NDArray[Any], areas: Sequence[Section]) -> tuple[NDArray[np.float64], int]:
    """Return the pixels of several areas row by row.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw image (ADU).
    areas : sequence of Section
        Areas without common pixels.

    Returns
    -------
    pixels : ndarray of float64, shape (rows, n)
        From the first to the last row of the areas; NaN where a row has no pixel.
    first : int
        Number of the first row.
    """
    first, last = min(a.y0 for a in areas), max(a.y1 for a in areas)
    edges = sorted({x for a in areas for x in (a.x0, a.x1)})
    spans = [s for s in pairwise(edges) if any(a.x0 <= s[0] and s[1] <= a.x1 for a in areas)]
    out = np.full((last - first, sum(x1 - x0 for x0, x1 in spans)), np.nan)
    start = 0
    for x0, x1 in spans:
        for area in areas:
            if area.x0 <= x0 and x1 <= area.x1:
                rows = slice(area.y0 - first, area.y1 - first)
                out[rows, start : start + x1 - x0] = raw[area.y0 : area.y1, x0:x1]
        start += x1 - x0
    out[~np.isfinite(out)] = np.nan
    return out, first


def _row_medians(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of the values of each row that are not NaN."""
    missing = np.isnan(pixels)
    if not missing.any():
        return np.asarray(np.median(pixels, axis=1))
    ordered = np.sort(pixels, axis=1)  # NaN last
    count = np.maximum(pixels.shape[1] - missing.sum(axis=1), 1)
    at = np.arange(len(pixels))
    return np.asarray(0.5 * (ordered[at, (count - 1) // 2] + ordered[at, count // 2]))


def _median_factor(n: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Variance of the median of n values over that of their mean."""
    n = np.asarray(n, np.float64)
    return np.where(n > 2, np.pi / 2 * (1 - 1.3 / np.maximum(n, 3)), 1.0)


def measure_lines(
    pixels: NDArray[np.float64], recipe: Recipe, *, integers: bool, usual_noise: float
) -> Lines:
    """Return the level of each line.

    Parameters
    ----------
    pixels : ndarray of float64, shape (lines, n)
        Pixels (ADU), NaN where there is none.
    recipe : Recipe
        Statistic and thresholds.
    integers : bool
        The pixels are whole numbers.
    usual_noise : float
        Noise of a pixel (ADU) where the pixels are too few to tell.

    Returns
    -------
    Lines

    Notes
    -----
    Variance of a mean of n pixels ``s^2/n``, of a median ``(pi/2)(1 - 1.3/n) s^2/n``; the
    median of integers is itself rounded, which adds 1/12 ADU^2.
    """
    floor = np.sqrt(ROUNDING) if integers else 0.0
    finite = ~np.isnan(pixels)
    centre = _row_medians(pixels)
    filled = np.where(finite, pixels, 0.0)
    noise = _noise(filled, finite, centre, floor)
    noise = noise if np.isfinite(noise) else usual_noise
    use = finite
    if recipe.is_clipped:
        scale = max(noise, floor)
        away = filled - centre[:, None]
        with np.errstate(invalid="ignore"):
            use = finite & (away >= -recipe.low * scale - 0.5)
            use &= away <= recipe.high * scale + 0.5
    number = use.sum(axis=1).astype(np.float64)
    if recipe.is_median:
        level = _row_medians(np.where(use, pixels, np.nan)) if recipe.is_clipped else centre
    else:
        total = np.where(use, filled, 0.0).sum(axis=1)
        level = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    variance = noise**2 / np.maximum(number, 1)
    common = 0.0
    if recipe.is_median:
        variance = variance * _median_factor(number)
        if integers and np.median(variance) < SHARP_ADU**2:
            common = ROUNDING
        elif integers:
            variance = variance + ROUNDING
    return Lines(level, number, variance, common, noise)


def _noise(
    filled: NDArray[np.float64],
    finite: NDArray[np.bool_],
    centre: NDArray[np.float64],
    floor: float,
) -> float:
    """Scatter of a pixel about the mean of its line, free of outliers (ADU)."""
    if finite.sum(axis=1).max() < 2:
        # one pixel per line: neighbouring lines tell
        steps = np.diff(centre[np.isfinite(centre)])
        return clipped_mean_std(steps, 4.0, 5, floor)[1] / np.sqrt(2) if steps.size else np.nan
    away = filled - np.where(np.isfinite(centre), centre, 0.0)[:, None]
    _, rough = clipped_mean_std(away[finite], 4.0, 5, floor)
    near = finite & (np.abs(away) <= 4.0 * max(rough, floor) + 0.5)
    count = near.sum(axis=1)
    several = count > 1
    mean = np.where(near, filled, 0.0).sum(axis=1) / np.maximum(count, 1)
    residual = (filled - mean[:, None])[near & several[:, None]]
    if not residual.size:
        return np.nan
    # the mean of n pixels takes part in the residual: (n - 1)/n of the variance is left
    free = residual.size - np.count_nonzero(several)
    return float(clipped_mean_std(residual, 4.0, 3, floor)[1] * np.sqrt(residual.size / free))


def _excess(scatter: float, white: float, free: int) -> float:
    """Return the larger of two variances if they differ by more than chance, else the second.

    Rows of real detectors scatter up to 1.8 times more than their pixels tell. To take
    the larger of two estimates in any case would make white noise look larger than it is.
    """
    limit = 1 + EXCESS_SIGMA * np.sqrt(2 / max(free, 1))
    return scatter if free > 0 and scatter > limit * white else white


def level_of_all(pixels: NDArray[np.float64], lines: Lines, recipe: Recipe) -> Curve:
    """Return one level for all lines.

    Parameters
    ----------
    pixels : ndarray of float64, shape (lines, n)
        Pixels (ADU), NaN where there is none.
    lines : Lines
        Their levels.
    recipe : Recipe
        Statistic and rejection. ``clipped`` leaves out lines far from the others;
        ``clipped_median`` rejects pixels far from the median of all, with their standard
        deviation about it, until none is left to reject.

    Returns
    -------
    Curve
        Of one value.
    """
    good = np.isfinite(lines.level) & (lines.number > 0)
    if recipe.is_median:
        values = pixels[np.isfinite(pixels)]
        centre, rounds, converged = float(np.median(values)), 0, True
        if recipe.is_clipped:
            values, centre, rounds, converged = _median_rounds(values, recipe)
        n = values.size
        white = lines.noise**2 / n * float(_median_factor(n))
        if good.sum() > 1:
            # rounded medians of lines have two values, of variance up to 1/4
            usual = float(lines.variance[good].mean()) + 3 * lines.common
            scatter = clipped_mean_std(lines.level[good], 4.0)[1] ** 2
            white *= _excess(scatter, usual, int(good.sum()) - 1) / usual if usual > 0 else 1.0
        rounding = ROUNDING if (values == np.rint(values)).all() else 0.0
        return Curve(np.array([centre]), np.array([white + rounding]), n, rounds, converged)
    rounds, converged = 0, True
    if recipe.method == "clipped":
        good, rounds, converged = _clip_lines(lines, good, recipe)
    total = float(lines.number[good].sum())
    level = float((lines.level[good] * lines.number[good]).sum() / total)
    free = int(good.sum()) - 1
    scatter = float((lines.number[good] * (lines.level[good] - level) ** 2).sum() / max(free, 1))
    variance = _excess(scatter / total, lines.noise**2 / total, free)
    return Curve(np.array([level]), np.array([variance]), int(total), rounds, converged)


def _median_rounds(
    values: NDArray[np.float64], recipe: Recipe
) -> tuple[NDArray[np.float64], float, int, bool]:
    """Median, standard deviation about it, rejection, in rounds."""
    centre, rounds, converged = float(np.median(values)), 0, False
    while not converged and rounds < recipe.iterations:
        away = values - centre
        scale = float(np.sqrt((away**2).sum() / max(values.size - 1, 1)))
        kept = values[(away >= -recipe.low * scale) & (away <= recipe.high * scale)]
        converged = kept.size == values.size
        values, rounds = kept, rounds + 1
        centre = float(np.median(values))
    return values, centre, rounds, converged


def _clip_lines(
    lines: Lines, good: NDArray[np.bool_], recipe: Recipe
) -> tuple[NDArray[np.bool_], int, bool]:
    """Leave out lines far from the mean of the others."""
    usual = float(lines.number[good].mean())
    # lines of few pixels scatter more
    unit = np.sqrt(np.where(good, lines.number, 1.0) / usual)
    everything, converged, rounds = good, False, 0
    for _ in range(max(recipe.iterations, 1)):
        rounds += 1
        sigma = min(recipe.low, recipe.high)
        centre, spread = clipped_mean_std(lines.level[good], sigma, 1)
        # lines of equal integers scatter by less than their mean's own error
        limit = max(spread, lines.noise / np.sqrt(usual)) if lines.noise > 0 else spread
        away = np.where(everything, lines.level - centre, 0.0) * unit
        near = everything & (away >= -recipe.low * limit) & (away <= recipe.high * limit)
        if not near.any() or (near == good).all():
            converged = True
            break
        good = near
    return good, rounds, converged


def fit_lines(lines: Lines, recipe: Recipe) -> Curve:
    """Return a least-squares curve through the levels of the lines, with rejection.

    Parameters
    ----------
    lines : Lines
        Levels; their weights are the numbers of pixels.
    recipe : Recipe
        Form of the curve, thresholds and rounds of rejection.

    Returns
    -------
    Curve
        With a value for each line. Variance ``x^T (X^T W X)^-1 x s^2`` for pixels of
        variance ``s^2``, which is that of the lines about the curve where it is larger.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if the lines do not carry the curve.
    """
    basis = _basis(len(lines.level), recipe)
    free = basis.shape[1]
    good = np.isfinite(lines.level) & (lines.number > 0)
    usual = float(lines.number[good].mean())
    weight = lines.number / usual
    rows = np.where(good, lines.level, 0.0)
    rounds, converged = 0, False
    while True:
        used = basis[good]
        normal = np.einsum("yi,yj->ij", used * weight[good, None], used)
        if good.sum() <= free or np.linalg.cond(normal) > CONDITION:
            raise FrameRejected(
                "BAD_SECTION",
                f"{int(good.sum())} lines of overscan cannot carry a {recipe.fit} of order "
                f"{recipe.order}. Lower `overscan.order` or use `fit: frame`.",
            )
        inverse = np.linalg.inv(normal)
        right = np.einsum("yi,y->i", used, weight[good] * rows[good])
        curve = (basis * np.einsum("ij,j->i", inverse, right)).sum(axis=1)
        residual = (rows - curve) * np.sqrt(weight)
        rms = float(np.sqrt(np.mean(residual[good] ** 2)))
        if converged or rounds == recipe.iterations:
            break
        near = good & (residual >= -recipe.low * rms) & (residual <= recipe.high * rms)
        converged, rounds = bool((near == good).all()), rounds + 1
        good = near
    left = int(good.sum()) - free
    scatter = float((residual[good] ** 2).sum()) / left
    if recipe.iterations:
        scatter /= recipe.shrink**2
    white = float((lines.variance[good] * weight[good]).mean())
    spread = (np.einsum("yi,ij->yj", basis, inverse) * basis).sum(axis=1)
    variance = spread * _excess(scatter, white, left) + lines.common
    return Curve(curve, variance, int(lines.number[good].sum()), rounds, converged)


def _basis(n: int, recipe: Recipe) -> NDArray[np.float64]:
    """Functions of a curve at n lines, shape (n, parameters)."""
    if recipe.fit in ("polynomial", "legendre"):
        at = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        return np.asarray(np.polynomial.legendre.legvander(at, recipe.order), np.float64)
    from scipy.interpolate import BSpline

    pieces = max(recipe.order, 1)
    knots = np.linspace(0, max(n - 1, 1), pieces + 1)
    full = np.concatenate([np.full(3, knots[0]), knots, np.full(3, knots[-1])])
    at = np.clip(np.arange(n, dtype=float), knots[0], knots[-1])
    return np.asarray(BSpline.design_matrix(at, full, 3).toarray())
