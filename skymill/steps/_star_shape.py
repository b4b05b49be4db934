"""Whether small groups of light look like the stars of their frame.

Stars are compared with Gaussians that are integrated over the pixels, at a lattice of
places within a pixel. The width is that which fits the frame's own stars best, and what
still differs for them is what may differ. A hot pixel, or two, fit no place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

__all__ = ["StarShape", "looks_like_a_star", "stamps", "star_shape"]

_REACH = 2
#: Widths tried (FWHM, px) and places within a pixel along x and y.
_WIDTHS = (0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 3.6, 4.4, 5.4)
_PLACES = np.linspace(-0.6, 0.6, 9)
#: Fewer stars have no shape; a difference below this is none.
_FEWEST, _LEAST = 5, 0.01
#: A hot pixel must differ from a star by so many times more than stars do.
_APART = 3.0


class StarShape(NamedTuple):
    """Shape of the stars of a frame.

    Attributes
    ----------
    templates : ndarray of float64, shape (k, 25)
        Stars of unit norm at different places within a pixel.
    fwhm_px : float
        Their width.
    limit : float
        Part of the square of the light of a star that no template explains.
    """

    templates: Plane
    fwhm_px: float
    limit: float


def stamps(image: NDArray[np.float32], x: Plane, y: Plane) -> tuple[Plane, NDArray[np.bool_]]:
    """Return 5 x 5 px around the brightest pixel next to each point, and which are inside."""
    ny, nx = image.shape
    i, j = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (i > _REACH) & (j > _REACH) & (i < nx - 1 - _REACH) & (j < ny - 1 - _REACH)
    i, j = np.where(inside, i, _REACH + 1), np.where(inside, j, _REACH + 1)
    step = np.arange(-1, 2)
    near = image[j[:, None, None] + step[:, None], i[:, None, None] + step]
    top = np.argmax(near.reshape(-1, 9), axis=1)
    j, i = j + top // 3 - 1, i + top % 3 - 1
    step = np.arange(-_REACH, _REACH + 1)
    cut = image[j[:, None, None] + step[:, None], i[:, None, None] + step]
    return cut.reshape(-1, 25).astype(np.float64), inside


def star_shape(light: Plane, noise: Plane) -> StarShape | None:
    """Measure the shape of stars.

    Parameters
    ----------
    light, noise : ndarray of float64, shape (n, 25)
        Stars above the sky and their errors.

    Returns
    -------
    StarShape or None
        None with fewer than five stars.
    """
    good = np.isfinite(light).all(axis=1) & (light.sum(axis=1) > 0)
    if np.count_nonzero(good) < _FEWEST:
        return None
    rests = []
    for width in _WIDTHS:
        templates = _templates(width)
        rests.append(_rest(light[good], noise[good], templates)[0])
    best = int(np.argmin([np.median(rest) for rest in rests]))
    limit = max(_LEAST, float(np.percentile(rests[best], 90)))
    return StarShape(_templates(_WIDTHS[best]), _WIDTHS[best], limit)


def looks_like_a_star(shape: StarShape, light: Plane, noise: Plane) -> NDArray[np.bool_]:
    """Return which groups look like a star, and could not be one, two or three hot pixels.

    Parameters
    ----------
    shape : StarShape
        The stars of the frame.
    light, noise : ndarray of float64, shape (n, 25)
        Groups above the sky, centred on their brightest pixel, and the errors.
    """
    hot = np.zeros((4, 5, 5))
    hot[:, 2, 2] = 1
    hot[1, 2, 3] = hot[2, 2, 3] = hot[2, 2, 1] = hot[3, 2, 3] = hot[3, 3, 2] = 1
    flat = hot.reshape(4, 25)
    apart = float(_rest(flat, np.zeros_like(flat), shape.templates)[0].min())
    if apart < _APART * shape.limit:
        return np.zeros(len(light), bool)  # stars so sharp that nothing tells them apart
    rest, spread = _rest(light, noise, shape.templates)
    between = 0.5 * (shape.limit + apart)
    return np.isfinite(rest) & (rest < between) & (rest + 2 * spread < apart)


def _templates(fwhm: float) -> Plane:
    from scipy.special import erf

    scale = fwhm / np.sqrt(4 * np.log(2.0))
    edges = np.arange(-_REACH, _REACH + 2) - 0.5
    along = 0.5 * np.diff(erf((edges[None, :] - _PLACES[:, None]) / scale), axis=1)
    every = along[:, None, :, None] * along[None, :, None, :]
    flat = every.reshape(-1, 25)
    return np.asarray(flat / np.sqrt((flat * flat).sum(axis=1, keepdims=True)))


def _rest(light: Plane, noise: Plane, templates: Plane) -> tuple[Plane, Plane]:
    """Part of the square of the light that no template explains, less its noise; and error."""
    power = (light * light).sum(axis=1)
    power = np.where(power > 0, power, np.nan)
    # plain sums in a fixed order: no BLAS
    fit = np.full(len(light), -np.inf)
    for template in templates:
        fit = np.maximum(fit, (light * template).sum(axis=1))
    unexplained = 1 - np.maximum(fit, 0) ** 2 / power
    # three of 25 degrees of freedom are fitted
    expected = 22 / 25 * (noise * noise).sum(axis=1) / power
    variance = 2 * (noise**4).sum(axis=1) / power**2
    variance += 4 * np.maximum(unexplained, 0) * (noise * noise).mean(axis=1) / power
    return unexplained - expected, np.sqrt(variance)
