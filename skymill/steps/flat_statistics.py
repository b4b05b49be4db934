"""Statistics of flat fields: levels, and how their illumination differs at large scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.robust import clipped_mean_std

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "LargeScale",
    "histogram_mode",
    "illumination",
    "large_scale",
    "level_of",
    "sparse",
    "surface_terms",
]

#: Polynomials of lower order need fewer boxes than this per coefficient.
BOXES_PER_TERM = 3
#: Boxes below this share of the median level see no light.
DARK_BELOW = 0.05


def level_of(values: NDArray[Any], scale: str) -> float:
    """Level of a frame: ``median``, clipped ``mean`` or ``mode`` of the finite values.

    Parameters
    ----------
    values : ndarray, any shape
        Pixels (ADU).
    scale : str
        Statistic.

    Returns
    -------
    float
    """
    good = values[np.isfinite(values)]
    if scale == "median":
        return float(np.median(good))
    if scale == "mean":
        return clipped_mean_std(good, 5.0, 5)[0]
    if scale == "mode":
        return histogram_mode(good)
    raise ValueError(f"scale must be median, mean or mode, got {scale!r}")


def sparse(image: NDArray[Any], most: int = 10_000) -> NDArray[Any]:
    """Return every k-th pixel of every k-th row, with the smallest k for ``most`` pixels."""
    ny, nx = image.shape
    for step in range(1, 11):
        if ((nx - 1) // step + 1) * ((ny - 1) // step + 1) < most:
            break
    part: NDArray[Any] = image[::step, ::step]
    return part


def histogram_mode(values: NDArray[Any]) -> float:
    """Most frequent value: the middle of the fullest sliding bin.

    Bins of a tenth of the range of the central 80 % of the values slide in steps of a
    hundredth of that range. This is the definition behind ``scale = mode`` of IRAF's
    ccdred tasks, so that combinations can be compared.

    Parameters
    ----------
    values : ndarray
        Finite values.

    Returns
    -------
    float
        The middle value for fewer than ten.
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    n = ordered.size
    if n < 10:
        return float(ordered[max(n // 2 - 1, 0)])
    first, last = int(1 + n * 0.1) - 1, min(int(1 + n * 0.9) - 1, n - 1)
    low, high = ordered[first], ordered[last]
    if low == high:
        return float(low)
    width = high - low
    starts = low + 0.01 * width * np.arange(101)
    inside = ordered[first:last]
    begin = first + np.searchsorted(inside, starts, side="left")
    end = first + np.searchsorted(inside, starts + 0.1 * width, side="left")
    # bins that reach beyond the range hold less, except the first one to touch its end
    whole = int(np.argmax(end >= last)) + 1 if (end >= last).any() else len(end)
    best = int(np.argmax((end - begin)[:whole]))
    # positions count from 1 there: halving the sum rounds the other way than from 0
    return float(ordered[(begin[best] + 1 + end[best] + 1) // 2 - 1])


@dataclass(frozen=True, eq=False)
class LargeScale:
    """How the illumination of each flat differs from that of the group.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (frames, terms)
        Polynomial of (flat / reference), normalised to 1 in the median; terms of
        `surface_terms`. The first is a constant, the next two are the slopes.
    order : int
        Order of the polynomial.
    gradient : ndarray of float64, shape (frames,)
        Peak to valley of its plane over the frame.
    deviation : ndarray of float64, shape (frames,)
        Largest distance of the polynomial from 1 at the boxes that are known.
    """

    coefficients: NDArray[np.float64]
    order: int
    gradient: NDArray[np.float64]
    deviation: NDArray[np.float64]


def surface_terms(
    y: NDArray[np.float64], x: NDArray[np.float64], order: int
) -> NDArray[np.float64]:
    """Products of Legendre polynomials of total degree up to ``order``.

    Parameters
    ----------
    y, x : ndarray of float64, same shape
        Coordinates, -1 to 1 over the frame.
    order : int
        Largest total degree.

    Returns
    -------
    ndarray of float64, shape (terms, ...)
        1, x, y, then by growing degree.
    """
    px = np.moveaxis(np.polynomial.legendre.legvander(x, max(order, 1)), -1, 0)
    py = np.moveaxis(np.polynomial.legendre.legvander(y, max(order, 1)), -1, 0)
    terms = [px[d - j] * py[j] for d in range(order + 1) for j in range(d + 1)]
    return np.stack(terms)


def _fit(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with finite values only, outliers (stars, dust) dropped once."""
    good = np.isfinite(values)
    for _ in range(2):
        part = terms[:, good]
        normal = np.einsum("in,jn->ij", part, part)
        found = np.linalg.solve(normal, np.einsum("in,n->i", part, values[good]))
        residual = values - np.einsum("in,i->n", terms, found)
        spread = 1.4826 * np.median(np.abs(residual[good]))
        near = np.isfinite(values) & (np.abs(residual) <= max(6 * spread, 1e-6))
        if near.sum() < BOXES_PER_TERM * len(terms):
            break
        good = near
    return np.asarray(found)


def large_scale(
    levels: NDArray[np.float64],
    at: NDArray[np.float64],
    *,
    order: int = 2,
    reference: Sequence[int] | None = None,
) -> LargeScale:
    """Compare the illumination of flats with that of their median.

    Parameters
    ----------
    levels : ndarray of float64, shape (frames, boxes)
        Level of each box (any unit), NaN where unknown.
    at : ndarray of float64, shape (boxes, 2)
        Centres (y, x) of the boxes, -1 to 1 over the frame.
    order : int
        Order of the polynomial; lowered where the boxes do not suffice.
    reference : sequence of int, optional
        Frames whose median is the reference; all by default.

    Returns
    -------
    LargeScale
        Zero differences for a single frame, where there is nothing to compare with.
    """
    n = len(levels)
    known = np.asarray(np.isfinite(levels).all(axis=0))
    if n and known.any():  # an amplifier without light has a level, but no illumination
        typical = np.median(levels, axis=0)
        known &= typical > DARK_BELOW * np.median(typical[known])
    while order > 0 and known.sum() < BOXES_PER_TERM * (order + 1) * (order + 2) // 2:
        order -= 1
    terms = surface_terms(at[:, 0], at[:, 1], order)
    coefficients = np.zeros((n, len(terms)))
    coefficients[:, 0] = 1.0
    if n < 2 or not known.any():
        return LargeScale(coefficients, order, np.zeros(n), np.zeros(n))
    relative = levels / np.median(levels[:, known], axis=1)[:, None]
    chosen = relative if reference is None else relative[list(reference)]
    ratio = np.full(levels.shape, np.nan)
    ratio[:, known] = relative[:, known] / np.median(chosen[:, known], axis=0)
    for i in range(n):
        coefficients[i] = _fit(terms, ratio[i] / np.median(ratio[i, known]))
    surface = np.einsum("fi,in->fn", coefficients, terms[:, known])
    deviation = np.abs(surface / np.median(surface, axis=1)[:, None] - 1).max(axis=1)
    slopes = np.abs(coefficients[:, 1:3]).sum(axis=1) if order > 0 else np.zeros(n)
    return LargeScale(coefficients, order, 2 * slopes, deviation)


def illumination(
    coefficients: NDArray[np.float64], order: int, shape: tuple[int, int], y0: int, y1: int
) -> NDArray[np.float64]:
    """Evaluate the polynomial of one flat on rows of the frame.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (terms,)
        As in `LargeScale`.
    order : int
        Its order.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    y0, y1 : int
        Rows.

    Returns
    -------
    ndarray of float64, shape (y1 - y0, nx)
    """
    y = (np.arange(y0, y1) + 0.5) / shape[0] * 2 - 1
    x = (np.arange(shape[1]) + 0.5) / shape[1] * 2 - 1
    px = np.polynomial.legendre.legvander(x, max(order, 1))
    py = np.polynomial.legendre.legvander(y, max(order, 1))
    out = np.zeros((y1 - y0, shape[1]))
    k = 0
    for degree in range(order + 1):
        for j in range(degree + 1):
            out += coefficients[k] * py[:, j, None] * px[None, :, degree - j]
            k += 1
    return out
