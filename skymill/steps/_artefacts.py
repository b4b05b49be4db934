"""Patterns that no star and no sky makes: bands along rows or columns, doubled stars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["band_amplitude", "doubling"]

#: Fewest pixels of a row or column that is judged.
_LINE_PX = 20
#: Share of the sources that must have a twin, and how many at least.
_TWIN_FRACTION, _TWINS = 0.25, 6


def band_amplitude(sums: NDArray[np.float64], numbers: NDArray[np.int64], sigma: float) -> float:
    """Return the scatter of row or column means beyond that of white noise.

    ``sqrt(var(mean - neighbours) - expected)`` in units of the pixel noise: means of
    rows, high-passed against the mean of the rows 8 to both sides so that smooth sky does
    not count, against ``sigma^2 / n``.

    Parameters
    ----------
    sums : ndarray of float64, shape (n,)
        Sums of the background-subtracted sky pixels along each row or column.
    numbers : ndarray of int64, shape (n,)
        How many they are.
    sigma : float
        Noise of a pixel.

    Returns
    -------
    float
        Amplitude (rms) in units of ``sigma``; 0 if there is none, or nothing to judge.
    """
    use = numbers >= _LINE_PX
    if use.sum() < 3 * _LINE_PX or sigma <= 0:
        return 0.0
    counts = numbers[use]
    means = sums[use] / counts
    clip = 5 * 1.4826 * float(np.median(np.abs(means - np.median(means))))
    means = np.clip(means - np.median(means), -clip, clip)
    kernel = np.ones(17) / 17
    smooth = np.convolve(np.pad(means, 8, mode="reflect"), kernel, mode="valid")
    # Subtracting a mean of 17 that holds the value itself leaves 16/17 of its variance.
    excess = float(np.mean((means - smooth) ** 2) - 16 / 17 * np.mean(sigma**2 / counts))
    return float(np.sqrt(max(excess, 0.0)) / sigma)


def doubling(
    x: NDArray[np.float64], y: NDArray[np.float64], fwhm_px: float
) -> tuple[float, float] | None:
    """Return the vector by which the sources of a frame are doubled, or None.

    A telescope that jumps during an exposure gives every star a twin at one vector.
    Among the vectors between close sources the most common one is found; it must join a
    quarter of the sources, five times more pairs than chance, and all over the frame.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Positions.
    fwhm_px : float
        FWHM of the frame.

    Returns
    -------
    tuple of float or None
        ``(dx, dy)`` in px, dx >= 0.
    """
    from scipy.spatial import cKDTree

    known = np.isfinite(x) & np.isfinite(y)
    points = np.stack([x[known], y[known]], axis=1)
    if len(points) < 2 * _TWINS:
        return None
    reach, near = 10 * fwhm_px, 0.4 * fwhm_px
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    if len(pairs) < _TWINS:
        return None
    vectors = points[pairs[:, 1]] - points[pairs[:, 0]]
    vectors[vectors[:, 0] < 0] *= -1
    order = np.lexsort((vectors[:, 1], vectors[:, 0]))
    vectors, places = vectors[order], points[pairs[order, 0]]
    tree = cKDTree(vectors)
    counts = np.asarray(tree.query_ball_point(vectors, near, return_length=True))
    best = int(np.argmax(counts))
    chance = len(vectors) * near**2 / (reach**2 / 2)
    if counts[best] < max(_TWINS, _TWIN_FRACTION * len(points), 5 * chance):
        return None
    # The fragments of one defocused star repeat a vector too, but in one place.
    twins = places[tree.query_ball_point(vectors[best], near)]
    spread = np.hypot(*(twins - np.median(twins, axis=0)).T)
    if np.median(spread) < 2 * reach:
        return None
    return float(vectors[best, 0]), float(vectors[best, 1])
