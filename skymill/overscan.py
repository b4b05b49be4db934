"""The electronic level of a frame, from its overscan.

The overscan is the only part of a frame that knows the electronic level of that very
exposure. On detectors whose level drifts between frames it must be subtracted frame by
frame; a level fitted row by row only helps if the drift within a frame is larger than
the noise of a row's mean, and otherwise prints stripes into the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.errors import FrameRejected
from skymill.overscan_lines import (
    Curve,
    Lines,
    Recipe,
    fit_lines,
    gather,
    level_of_all,
    measure_lines,
)
from skymill.overscan_user import user_level
from skymill.sections import Section, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.readout import Amplifier

__all__ = ["Cards", "OverscanLevel", "fit_overscan"]

METHODS = ("mean", "median", "clipped", "clipped_median")
CURVES = ("polynomial", "legendre", "spline3")
FITS = ("frame", "row", "column", *CURVES)
AXES = ("auto", "y", "x", "both")
#: Cards of a FITS header: keyword, value, comment.
Cards = tuple[tuple[str, Any, str], ...]


@dataclass(frozen=True, eq=False)
class OverscanLevel:
    """The overscan of one amplifier of one frame.

    Parameters
    ----------
    level, variance : ndarray of float64, shape (ny or 1, nx or 1)
        Level to subtract from the amplifier's data section (ADU) and its variance
        (ADU^2), in the orientation of the assembled frame; an axis of length one stands
        for all rows, or all columns. The error is common to what shares a value.
    noise_adu : float
        Measured scatter of an overscan pixel (ADU); NaN without an overscan.
    drift_adu : float
        Range of the level along the rows, in eight steps (ADU).
    method : str
        What was done, in a few words; ``none`` without an overscan.
    cards : tuple of (str, value, str)
        What was done, for the header: keyword, value, comment. Keywords have at most
        seven letters, so that a digit can be added for each of several amplifiers.
    """

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    noise_adu: float
    drift_adu: float
    method: str
    cards: Cards = ()

    @property
    def mean_adu(self) -> float:
        """Mean level (ADU)."""
        return float(self.level.mean())


def fit_overscan(
    raw: NDArray[Any],
    amplifier: Amplifier,
    *,
    method: str = "clipped",
    fit: str = "frame",
    axis: str = "auto",
    order: int = 1,
    sigma_clip: float = 4.0,
    sigma_low: float | None = None,
    sigma_high: float | None = None,
    iterations: int = 2,
    min_pixels: int = 1,
) -> OverscanLevel:
    """Measure the overscan level of an amplifier.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw image that holds data and overscans of the amplifier (ADU).
    amplifier : Amplifier
        Its sections. Pixels in several overscans count once.
    method : str
        Statistic of the pixels of a line (row or column): ``mean``; ``median``;
        ``clipped``, the mean of the pixels within the thresholds about the line's median;
        ``clipped_median``, the median of those. Or ``package.module:name``, a method of
        the user (see `skymill.overscan_user`); the other settings do not matter then.
    fit : str
        ``frame``: one level. ``row``, ``column``: the lines as they are. ``polynomial``
        or ``legendre`` of degree ``order`` (the same curve), or ``spline3``, a cubic
        spline of ``order`` equal pieces, through the lines.
    axis : str
        Direction in which the level is followed, if not ``frame``: ``y``, from row to
        row, with the overscans that share rows with the data; ``x``, from column to
        column, with those that share columns; ``both``, the sum of a level of each row
        and what is then left in each column; ``auto``: y if overscans beside the data
        have all its rows, else x.
    order : int
        Degree, or number of spline pieces.
    sigma_clip, sigma_low, sigma_high : float
        Threshold in standard deviations; below and above the level if they differ. Of
        pixels for the clipped methods, of lines for curves and for ``frame`` with
        ``clipped``.
    iterations : int
        Rejection rounds of lines, or of pixels for ``frame`` with ``clipped_median``.
    min_pixels : int
        Fewest pixels left after rejection.

    Returns
    -------
    OverscanLevel
        Zero level and variance if the frame has no overscan.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if the overscans have not the lines that a fit needs; ``NO_DATA``
        if they hold no finite value or fewer than ``min_pixels``.
    ConfigError, StepFailed
        Of a user's method; see `user_level`.

    Notes
    -----
    Variance of a mean ``s^2/n``, of a median ``(pi/2)(1 - 1.3/n) s^2/n``, of a curve
    ``x^T (X^T X)^-1 x s^2/n``, with the scatter of the lines in place of ``s^2/n`` where
    that is larger than chance allows: rows of real detectors scatter up to 1.8 times
    more than their pixels.
    """
    if not amplifier.overscans:
        zero = np.zeros((1, 1))
        cards: Cards = (("OVSCAN", "none", "overscan: statistic and fit"),)
        return OverscanLevel(zero, zero.copy(), np.nan, 0.0, "none", cards)
    if ":" in method:
        return _of_user(raw, amplifier, method)
    low = sigma_clip if sigma_low is None else sigma_low
    high = sigma_clip if sigma_high is None else sigma_high
    recipe = Recipe(method, fit, order, low, high, iterations)
    _check(recipe, axis)
    if fit == "frame":
        found = _one_level(raw, amplifier, recipe)
    else:
        found = _followed(raw, amplifier, recipe, axis)
    if found.pixels < min_pixels:
        raise FrameRejected(
            "NO_DATA",
            f"{found.pixels} overscan pixels are left after rejection, overscan.min_pixels asks "
            f"for {min_pixels}.",
        )
    label = f"{method} {fit}" + (f" {order}" if fit in CURVES else "") + found.along
    return _oriented(amplifier, found, label, _fit_cards(recipe, found))


class _Found(NamedTuple):
    """A level in the orientation of the raw image, and how it came about."""

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    noise: float
    drift: float
    pixels: int = 0
    rounds: int = 0
    converged: bool = True
    along: str = ""


def _check(recipe: Recipe, axis: str) -> None:
    for name, value, allowed in (
        ("method", recipe.method, METHODS),
        ("fit", recipe.fit, FITS),
        ("axis", axis, AXES),
    ):
        if value not in allowed:
            raise ValueError(f"overscan {name} must be one of {', '.join(allowed)}, got {value!r}")
    if (recipe.fit, axis) in (("row", "x"), ("column", "y")):
        raise ValueError(f"overscan fit {recipe.fit!r} cannot follow the axis {axis!r}")


def _beside(amplifier: Amplifier) -> tuple[Section, ...]:
    """Overscans that share rows with the data, without common pixels."""
    data = amplifier.data
    return union(one for one in amplifier.overscans if one.y0 < data.y1 and data.y0 < one.y1)


def _above(amplifier: Amplifier) -> tuple[Section, ...]:
    """Overscans that share columns with the data, without common pixels."""
    data = amplifier.data
    return union(one for one in amplifier.overscans if one.x0 < data.x1 and data.x0 < one.x1)


def _covers(areas: Sequence[Section], axis: str, data: Section, fit: str) -> bool:
    """True if the areas have the rows (columns) of the data, for curves the first and last."""
    spans = sorted((a.y0, a.y1) if axis == "y" else (a.x0, a.x1) for a in areas)
    first, last = (data.y0, data.y1) if axis == "y" else (data.x0, data.x1)
    if not spans or spans[0][0] > first or max(end for _, end in spans) < last:
        return False
    reached = first
    for start, end in spans:
        if start > reached and reached < last and fit not in CURVES:
            return False
        reached = max(reached, end)
    return True


def _not_covered(fit: str, amplifier: Amplifier, axis: str) -> FrameRejected:
    names, data = ";".join(map(str, amplifier.overscans)), amplifier.data
    what = f"rows {data.y0 + 1}:{data.y1}" if axis == "y" else f"columns {data.x0 + 1}:{data.x1}"
    return FrameRejected(
        "BAD_SECTION",
        f"overscan fit {fit!r} needs biassec to cover {what}, but it is {names}. "
        "Use `fit: frame` or correct biassec.",
    )


def _lines(
    raw: NDArray[Any], areas: Sequence[Section], amplifier: Amplifier, recipe: Recipe
) -> tuple[NDArray[np.float64], Lines, int]:
    """Pixels and levels of the rows of some areas, and the number of the first row."""
    pixels, first = gather(raw, areas)
    if not np.isfinite(pixels).any():
        names = ";".join(map(str, areas))
        raise FrameRejected("NO_DATA", f"the overscan {names} holds no finite value.")
    noise = float(np.sqrt(amplifier.dark_variance_adu2))
    usual = noise if np.isfinite(noise) else 0.0
    lines = measure_lines(pixels, recipe, integers=raw.dtype.kind in "ui", usual_noise=usual)
    return pixels, lines, first


def _one_level(raw: NDArray[Any], amplifier: Amplifier, recipe: Recipe) -> _Found:
    """One level for the frame, from the rows of all areas."""
    if recipe.is_median:
        groups = [union(amplifier.overscans)]  # the median of all is not that of the groups
    else:
        # rows beside and above the data have very different numbers of pixels
        beside = _beside(amplifier)
        groups = [g for g in (beside, union(amplifier.overscans, beside)) if g]
    curves: list[Curve] = []
    noises: list[float] = []
    drift = 0.0
    for group in groups:
        pixels, lines, _ = _lines(raw, group, amplifier, recipe)
        curves.append(level_of_all(pixels, lines, recipe))
        noises.append(lines.noise)
        drift = drift or _drift(lines.level)
    number = np.array([curve.pixels for curve in curves], np.float64)
    share = number / number.sum()
    level = float((share * [curve.level[0] for curve in curves]).sum())
    variance = float((share**2 * [curve.variance[0] for curve in curves]).sum())
    return _Found(
        np.full((1, 1), level), np.full((1, 1), variance), noises[int(np.argmax(number))], drift,
        int(number.sum()), max(c.rounds for c in curves), all(c.converged for c in curves),
    )  # fmt: skip


def _drift(rows: NDArray[np.float64]) -> float:
    """Range of the medians of eight strips of lines."""
    good = rows[np.isfinite(rows)]
    if good.size < 16:
        return 0.0
    strips = [float(np.median(part)) for part in np.array_split(good, 8)]
    return max(strips) - min(strips)


def _followed(raw: NDArray[Any], amplifier: Amplifier, recipe: Recipe, axis: str) -> _Found:
    """A level that changes along the rows, the columns, or both."""
    data = amplifier.data
    beside, above = _beside(amplifier), _above(amplifier)
    fit = recipe.fit
    if axis == "auto":
        axis = {"row": "y", "column": "x"}.get(fit, "y")
        turn = not _covers(beside, "y", data, fit) and _covers(above, "x", data, fit)
        if fit in CURVES and turn:
            axis = "x"
    for one, chosen in (("y", beside), ("x", above)):
        if axis in (one, "both") and not _covers(chosen, one, data, fit):
            raise _not_covered(fit, amplifier, one)
    if axis == "x":
        found, _ = _along(raw.T, _turned(above), amplifier, recipe, data.x0, data.x1)
        along = "" if fit == "column" else " along x"
        return found._replace(level=found.level.T, variance=found.variance.T, along=along)
    rows, level = _along(raw, beside, amplifier, recipe, data.y0, data.y1)
    if axis == "y":
        return rows
    # What is left in the columns: where the level of the rows is known, all that is left,
    # else the pattern about its mean.
    y0, y1 = min(one.y0 for one in above), max(one.y1 for one in above)
    known = all(np.isfinite(level[one.y0 : one.y1]).all() for one in above)
    left = raw[y0:y1].astype(np.float64)
    if known:
        left -= np.where(np.isfinite(level[y0:y1]), level[y0:y1], 0.0)[:, None]
    shifted = [Section(one.x0, one.x1, one.y0 - y0, one.y1 - y0) for one in above]
    found, _ = _along(left.T, _turned(shifted), amplifier, recipe, data.x0, data.x1)
    pattern = found.level.T - (0.0 if known else found.level.mean())
    return rows._replace(
        level=rows.level + pattern, variance=rows.variance + found.variance.T,
        pixels=rows.pixels + found.pixels, rounds=max(rows.rounds, found.rounds),
        converged=rows.converged and found.converged, along=" along y and x",
    )  # fmt: skip


def _turned(areas: Sequence[Section]) -> list[Section]:
    """The areas of the transposed image."""
    return [Section(one.y0, one.y1, one.x0, one.x1) for one in areas]


def _along(
    raw: NDArray[Any], areas: Sequence[Section], amplifier: Amplifier, recipe: Recipe,
    first: int, last: int,
) -> tuple[_Found, NDArray[np.float64]]:  # fmt: skip
    """Level of each row from ``first`` to ``last``; also of all rows, NaN where unknown."""
    _, lines, start = _lines(raw, areas, amplifier, recipe)
    drift = _drift(lines.level)
    curve = fit_lines(lines, recipe) if recipe.fit in CURVES else _as_they_are(lines)
    every = np.full(raw.shape[0], np.nan)
    every[start : start + len(curve.level)] = curve.level
    part = slice(first - start, last - start)
    found = _Found(
        curve.level[part, None], curve.variance[part, None], lines.noise, drift,
        curve.pixels, curve.rounds, curve.converged,
    )  # fmt: skip
    return found, every


def _as_they_are(lines: Lines) -> Curve:
    """The levels of the lines; a line without a pixel has that of the others."""
    missing = ~np.isfinite(lines.level)
    level, variance = lines.level, lines.variance + lines.common
    if missing.any():
        others = lines.level[~missing]
        level = np.where(missing, np.median(others), level)
        variance = np.where(missing, variance[~missing].mean() + others.var(), variance)
    return Curve(level, variance, int(lines.number.sum()), 0, True)


def _of_user(raw: NDArray[Any], amplifier: Amplifier, method: str) -> OverscanLevel:
    """The level by a method of the user."""
    areas = union(amplifier.overscans)
    _, lines, _ = _lines(raw, areas, amplifier, Recipe("mean", "row", 0, 4.0, 4.0, 0))
    own = user_level(method, raw, amplifier, areas, lines.noise)
    found = _Found(own.level, own.variance, lines.noise, _drift(own.level.mean(axis=1)))
    return _oriented(amplifier, found, method, own.cards)


def _oriented(amplifier: Amplifier, found: _Found, label: str, cards: Cards) -> OverscanLevel:
    """Turn a level from the orientation of the raw image to that of the assembled frame."""
    rows = slice(None, None, -1 if amplifier.flip_y else 1)
    columns = slice(None, None, -1 if amplifier.flip_x else 1)
    level = np.ascontiguousarray(found.level[rows, columns], np.float64)
    variance = np.ascontiguousarray(found.variance[rows, columns], np.float64)
    areas = ";".join(map(str, amplifier.overscans))
    common: list[tuple[str, Any, str]] = [
        ("OVSCAN", label, "overscan: statistic and fit"),
        ("OVAREA", areas, "overscan sections of the raw image"),
        ("OVLEVEL", float(level.mean()), "[adu] mean overscan level"),
        ("OVERR", float(np.sqrt(variance.mean())), "[adu] rms error of the level"),
        ("OVNOISE", float(found.noise), "[adu] scatter of overscan pixels"),
    ]
    return OverscanLevel(level, variance, found.noise, found.drift, label, (*common, *cards))


def _fit_cards(recipe: Recipe, found: _Found) -> Cards:
    cards: list[tuple[str, Any, str]] = []
    if recipe.fit in CURVES:
        what = "spline pieces" if recipe.fit == "spline3" else "degree"
        cards.append(("OVORDER", recipe.order, f"overscan fit: {what}"))
    if recipe.low == recipe.high:
        cards.append(("OVCLIP", recipe.low, "[sigma] rejection threshold"))
    else:
        cards.append(("OVCLIPL", recipe.low, "[sigma] rejection threshold below the level"))
        cards.append(("OVCLIPH", recipe.high, "[sigma] rejection threshold above the level"))
    cards += [
        ("OVNPIX", found.pixels, "overscan pixels that were used"),
        ("OVITER", found.rounds, "rejection rounds that were made"),
        ("OVCONV", found.converged, "the last round rejected nothing"),
    ]
    return tuple(cards)
