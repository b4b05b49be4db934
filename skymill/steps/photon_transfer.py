"""Gain, read noise and linearity from pairs of flats.

Photons scatter by the root of their number, so the scatter between two flats of known
level gives the gain without any other knowledge. In the difference of two frames the
pattern of the flat cancels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.robust import clipped_mean_std
from skymill.steps.flat_pixels import bright_spots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "PairPoints",
    "ResponseCheck",
    "TransferCurve",
    "gain_from_pairs",
    "pair_points",
    "response_check",
    "transfer_curve",
]

#: Fewest usable pixels of a box in a pair.
MINIMUM_PIXELS = 100
#: So many flats at most are compared each with each.
ALL_PAIRS = 7
#: Clipping of pixel differences (sigma), and the smallest sigma for it (ADU).
CLIP, FLOOR_ADU = 4.0, 0.4
#: Threshold for stars in sums of pixels; lower ones would cut the tails of the noise.
STAR_SIGMA = 5.0
#: Boxes with less than this share of the typical light do not enter the gain of pairs:
#: behind edges stray light and reflections weigh more.
BRIGHT = 0.5
#: The curve needs this ratio of levels, and this many points.
LEVEL_RANGE, POINTS = 2.0, 12
#: A quadratic term is believed from here on (standard errors).
SIGNIFICANT = 5.0
#: Exposure times that differ by less are the same (relative).
SAME_EXPOSURE = 0.01


@dataclass(frozen=True, eq=False)
class PairPoints:
    """Scatter of differences of flats, one entry per pair and box.

    In a box with mean levels ``a`` and ``b = a / r`` the difference ``x - r y`` has the
    variance ``(a + r^2 b)/g + (1 + r^2) q``.

    Parameters
    ----------
    first, second : ndarray of float64
        Levels ``a`` and ``b`` (ADU).
    variance : ndarray of float64
        Variance of ``x - r y`` (ADU^2).
    quiet : ndarray of float64
        What a variance without light of each frame contributes (ADU^2).
    pixels : ndarray of int64
        Usable pixels.
    inflation : float
        The pairs share frames, so errors are larger than from as many independent ones
        by this factor.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    variance: NDArray[np.float64]
    quiet: NDArray[np.float64]
    pixels: NDArray[np.int64]
    inflation: float = 1.0

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Ratio ``r`` of the levels."""
        return self.first / self.second

    @property
    def light(self) -> NDArray[np.float64]:
        """``a + r^2 b`` (ADU), what is divided by the gain."""
        return self.first + self.ratio**2 * self.second


def pair_points(
    samples: Sequence[NDArray[np.float64]],
    quiet_variance: Sequence[float],
    *,
    stars: bool = False,
) -> PairPoints:
    """Compare flats with each other, box by box.

    All pairs of up to seven flats; of more, each with the next brighter one.

    Parameters
    ----------
    samples : sequence of ndarray, shape (boxes, side, side)
        Corrected linear boxes of each flat (ADU), NaN where not usable.
    quiet_variance : sequence of float
        Variance without light of each flat (ADU^2).
    stars : bool
        Leave out pixels whose surroundings differ between the two flats, as around
        stars, whose wings would count as noise.

    Returns
    -------
    PairPoints
        Empty for fewer than two flats.
    """
    levels = [float(np.nanmedian(s)) if np.isfinite(s).any() else 0.0 for s in samples]
    order = sorted(range(len(samples)), key=lambda i: (levels[i], i))
    every = len(samples) <= ALL_PAIRS
    pairs = list(itertools.combinations(order, 2) if every else itertools.pairwise(order))
    means = [[clipped_mean_std(box, CLIP, 5)[0] for box in sample] for sample in samples]
    rows = []
    for i, j in pairs:
        for k, (one, two) in enumerate(zip(samples[i], samples[j], strict=True)):
            found = _compare(one, two, means[i][k], means[j][k], stars)
            if found is not None:
                a, b, square, n = found
                quiet = quiet_variance[i] + (a / b) ** 2 * quiet_variance[j]
                rows.append((a, b, square, quiet, n))
    table = np.array(rows, np.float64).reshape(-1, 5).T
    inflation = _shared_frames(len(samples), len(pairs), every=every)
    return PairPoints(table[0], table[1], table[2], table[3], table[4].astype(int), inflation)


def _compare(
    one: NDArray[Any], two: NDArray[Any], a: float, b: float, stars: bool
) -> tuple[float, float, float, int] | None:
    """Levels of a box in two flats, variance of the scaled difference, usable pixels.

    ``a`` and ``b`` are the clipped means of the whole boxes.
    """
    good = np.isfinite(one) & np.isfinite(two)
    n = int(good.sum())
    if n < MINIMUM_PIXELS or not (a > 0 and b > 0):
        return None
    mean, spread = clipped_mean_std((one - a / b * two)[good], CLIP, 5, FLOOR_ADU)
    if not stars:
        return a, b, spread**2, n
    pull = np.where(good, (one - a / b * two - mean) / spread, np.nan).astype(np.float32)
    spots = bright_spots(pull, STAR_SIGMA, dark=True)
    if not spots.any():
        return a, b, spread**2, n
    one = np.where(spots, np.nan, one)
    a, b = (clipped_mean_std(box[good & ~spots], CLIP, 5)[0] for box in (one, two))
    return _compare(one, two, a, b, False)


def _shared_frames(frames: int, pairs: int, *, every: bool) -> float:
    """Loss of precision because pairs share frames.

    All N (N - 1)/2 pairs hold what N - 1 degrees of freedom tell. Of neighbouring pairs
    the squares of ``x - y`` and ``y - z`` are correlated by 1/4 when the frames have the
    same variance; the variance of the mean of K of them is ``1 + (K - 1)/(2 K)`` times
    that of independent ones.
    """
    if pairs < 2:
        return 1.0
    return float(np.sqrt(frames / 2 if every else 1 + (pairs - 1) / (2 * pairs)))


def gain_from_pairs(points: PairPoints) -> tuple[float, float]:
    """Gain with the variance without light known.

    Parameters
    ----------
    points : PairPoints
        Boxes of pairs.

    Returns
    -------
    gain, error : float
        Electron/ADU and standard error from the scatter between boxes; NaN if there
        are fewer than two points.
    """
    if len(points.variance) < 2:
        return np.nan, np.nan
    bright = points.light >= BRIGHT * np.median(points.light)
    inverse = ((points.variance - points.quiet) / points.light)[bright]
    mean, scatter = clipped_mean_std(inverse, 4.0, 5)
    if not mean > 0:
        return np.nan, np.nan
    error = scatter / np.sqrt(len(inverse)) / mean**2 * points.inflation
    return 1 / mean, float(error)


@dataclass(frozen=True)
class TransferCurve:
    """Photon-transfer curve: variance against signal.

    Parameters
    ----------
    gain, gain_error : float
        Electron/ADU.
    noise_adu, noise_error_adu : float
        Noise without light (ADU), rounding included; NaN if the fit gives none.
    quadratic, quadratic_error : float
        Coefficient ``k`` of ``a/g + k a^2`` in the variance of one frame. Below zero:
        neighbouring pixels share charge (brighter-fatter), or the response saturates.
    level_min, level_max : float
        Range of the levels (ADU).
    points : int
        Boxes of pairs.
    curved : bool
        The quadratic term is significant and was used for gain and noise.
    """

    gain: float
    gain_error: float
    noise_adu: float
    noise_error_adu: float
    quadratic: float
    quadratic_error: float
    level_min: float
    level_max: float
    points: int
    curved: bool

    @property
    def shortfall(self) -> float:
        """Variance missing at the highest level, relative to photons."""
        return -self.quadratic * self.gain * self.level_max


def transfer_curve(points: PairPoints) -> TransferCurve | None:
    """Fit gain, noise without light and a quadratic term to pairs of several levels.

    Parameters
    ----------
    points : PairPoints
        Boxes of pairs.

    Returns
    -------
    TransferCurve or None
        None if the levels span less than a factor of two, or there are fewer than 12
        points.

    Notes
    -----
    Least squares for ``(a + r^2 b)/g + (1 + r^2) q + k (a^2 + r^2 b^2)`` with the
    variance ``2 v^2 / n`` of a variance, ``v`` from the fit itself, in five rounds;
    points beyond four sigma (stars) are left out. Errors follow the scatter of the
    points where that exceeds the expected one.
    """
    level = np.concatenate([points.first, points.second])
    if len(points.first) < POINTS or level.max() < LEVEL_RANGE * level.min():
        return None
    square = points.ratio**2
    unit = float(level.max())
    columns = np.stack(
        [
            points.light / unit,
            1 + square,
            (points.first**2 + square * points.second**2) / unit**2,
        ]
    )
    straight = _fit(columns[:2], points)
    bent = _fit(columns, points)
    if straight is None or bent is None:
        return None
    curved = bool(abs(bent[0][2]) > SIGNIFICANT * bent[1][2])
    value, error = bent if curved else straight
    slope, slope_error = value[0] / unit, error[0] / unit
    if not slope > 0:
        return None
    noise = float(np.sqrt(value[1])) if value[1] > 0 else np.nan
    return TransferCurve(
        gain=float(1 / slope), gain_error=float(slope_error / slope**2),
        noise_adu=noise, noise_error_adu=float(error[1] / (2 * noise)),
        quadratic=float(bent[0][2] / unit**2), quadratic_error=float(bent[1][2] / unit**2),
        level_min=float(level.min()), level_max=unit, points=len(points.first), curved=curved,
    )  # fmt: skip


def _fit(
    columns: NDArray[np.float64], points: PairPoints
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weighted least squares; values and errors of the coefficients."""
    measured = points.variance
    model = measured.copy()
    good = measured > 0
    free = len(columns)
    for _ in range(5):
        sigma = np.sqrt(2 / np.maximum(points.pixels - 1, 1)) * model
        scaled = columns[:, good] / sigma[good]
        normal = np.einsum("in,jn->ij", scaled, scaled)
        try:
            inverse = np.linalg.inv(normal)
        except np.linalg.LinAlgError:
            return None
        value = np.einsum(
            "ij,j->i", inverse, np.einsum("in,n->i", scaled, measured[good] / sigma[good])
        )
        model = np.einsum("in,i->n", columns, value)
        model = np.where(model > 0, model, measured)
        pull = (measured - model) / (np.sqrt(2 / np.maximum(points.pixels - 1, 1)) * model)
        width = max(1.4826 * float(np.median(np.abs(pull[good]))), 1.0)
        near = (measured > 0) & (np.abs(pull) < 4 * width)
        if near.sum() <= free + 1:
            return None
        good = near
    excess = max(float((pull[good] ** 2).sum()) / (good.sum() - free), 1.0)
    error = np.sqrt(np.diag(inverse) * excess) * points.inflation
    return value, np.asarray(error)


@dataclass(frozen=True)
class ResponseCheck:
    """Levels of lamp flats against their exposure times.

    Parameters
    ----------
    deviation : float
        Largest relative distance of a level from the straight line.
    at_level : float
        The level (ADU) where that is.
    offset_s : float
        Time by which the shutter is open longer than commanded (s).
    exposures : int
        Different exposure times.
    """

    deviation: float
    at_level: float
    offset_s: float
    exposures: int


def response_check(levels: Sequence[float], exposures: Sequence[float]) -> ResponseCheck | None:
    """Compare the level of lamp flats with a straight line through their exposures.

    Parameters
    ----------
    levels : sequence of float
        Levels above bias and dark (ADU).
    exposures : sequence of float
        Exposure times (s).

    Returns
    -------
    ResponseCheck or None
        None with fewer than four frames or three different exposures. A lamp that
        drifts looks the same as a detector that is not linear.

    Notes
    -----
    ``level = rate (t + t0)``, least squares with weights ``1/level^2``, so that every
    exposure counts alike.
    """
    level, time = np.asarray(levels, np.float64), np.asarray(exposures, np.float64)
    good = np.isfinite(level) & np.isfinite(time) & (level > 0) & (time > 0)
    level, time = level[good], time[good]
    if level.size < 4:
        return None
    ordered = np.sort(time)
    different = 1 + int((np.diff(ordered) > SAME_EXPOSURE * ordered[1:]).sum())
    if different < 3:
        return None
    rows: NDArray[Any] = np.stack([time, np.ones_like(time)]) / level
    normal = np.einsum("in,jn->ij", rows, rows)
    rate, constant = np.linalg.solve(normal, rows.sum(axis=1))
    off = level / (rate * time + constant) - 1
    worst = int(np.argmax(np.abs(off)))
    return ResponseCheck(float(off[worst]), float(level[worst]), constant / rate, different)
