"""Masks of invalid pixels and of circles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.masks.regions import Region, draw_regions

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["circle_mask", "invalid_mask"]

_UNITS = {"pixel": ("image", 1.0), "arcsec": ("icrs", 1 / 3600), "deg": ("icrs", 1.0)}


def invalid_mask(
    image: NDArray[Any], threshold_invalid_connection: int = 100_000
) -> NDArray[np.bool_]:
    """Return where an image holds no data.

    Not finite (NaN and both infinities); and exact zeros in a region that is connected
    along rows and columns and either larger than the threshold or touching the edge of
    the image along a whole row or column: frames of a mosaic and resampled frames are
    filled with zeros there, however small the strip.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Any number type and byte order. Not modified.
    threshold_invalid_connection : int
        Size of a region of zeros, in pixels, above which it is no data. Smaller ones in
        the middle may be values.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True where there is no valid value.
    """
    from scipy import ndimage

    plane = np.asarray(image)
    bad = ~np.isfinite(plane)
    # what lies behind a NaN is still one region with it
    zeros = plane == 0
    if not zeros.any():
        return np.asarray(bad)
    labels, count = ndimage.label(zeros | bad)
    size = np.bincount(labels[zeros], minlength=count + 1)
    void = size > threshold_invalid_connection
    empty = zeros | bad
    for line, own in (
        (empty[0], labels[0]), (empty[-1], labels[-1]),
        (empty[:, 0], labels[:, 0]), (empty[:, -1], labels[:, -1]),
    ):  # fmt: skip
        if line.all():
            void[own] = True
    void[0] = False
    return np.asarray(bad | (zeros & void[labels]))


def circle_mask(
    shape: tuple[int, int],
    x: float,
    y: float,
    radius: float,
    unit: str = "pixel",
    wcs: WCS | None = None,
) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie within a circle.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the mask.
    x, y : float
        Centre: 0-based pixel position for ``pixel``, else RA and Dec (ICRS, degree).
    radius : float
        Radius in ``unit``. The pixel of the centre is always inside.
    unit : str
        ``pixel``, ``arcsec`` or ``deg``; the last two measure true distances on the sky.
    wcs : astropy.wcs.WCS, optional
        Celestial coordinates of the pixels; needed for ``arcsec`` and ``deg``.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True inside.

    Raises
    ------
    ValueError
        If the unit is none of these or the radius is negative.
    SkymillError
        If a circle on the sky is wanted without celestial coordinates.
    """
    if unit not in _UNITS:
        raise ValueError(f"unit must be 'pixel', 'arcsec' or 'deg', got {unit!r}")
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius must be a number >= 0, got {radius}")
    system, scale = _UNITS[unit]
    offset = 1.0 if system == "image" else 0.0  # region files count from 1
    circle = Region("circle", system, ((x + offset, y + offset),), (radius * scale,))
    return draw_regions([circle], shape, wcs=wcs)
