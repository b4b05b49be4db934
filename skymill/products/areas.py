"""Disks at positions on the frame or on the sky."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.masks import circle_mask
from skymill.wcsmath import pixel_to_sky, sky_to_pixel

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["disks"]


def disks(
    shape: tuple[int, int], x: Any, y: Any, radius: Any, *, wcs: WCS | None, unit: str,
    in_pixels: bool,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return True inside circles, by the centres of the pixels.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx).
    x, y : float or sequence of float
        0-based pixels, or right ascension and declination in degree.
    radius : float or sequence of float
        Arcsec, or pixels.
    wcs : astropy.wcs.WCS or None
        World coordinates; needed if the sky is.
    unit : str
        ``pixel`` or ``coord``: what the position is.
    in_pixels : bool
        The radius is in pixels.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        A disk on the sky has its distances measured there: no pixel scale is taken for
        constant. Disks off the frame leave no trace.

    Raises
    ------
    SkymillError
        Without the world coordinates that are needed, or for a radius that is not positive.
    """
    if unit not in ("coord", "pixel"):
        raise SkymillError(f"unit is coord or pixel, not {unit!r}")
    celestial = wcs is not None and wcs.has_celestial
    if not celestial and (unit == "coord" or not in_pixels):
        raise SkymillError("without world coordinates give pixels and radius_px")
    given = np.broadcast_arrays(*(np.atleast_1d(v).astype(float) for v in (x, y, radius)))
    at_x, at_y, radii = (v.ravel() for v in given)
    if not (radii > 0).all():
        raise SkymillError("a radius must be positive")
    if wcs is not None and in_pixels and unit == "coord":
        at_x, at_y = sky_to_pixel(wcs, at_x, at_y).T
    elif wcs is not None and not in_pixels and unit == "pixel":
        at_x, at_y = pixel_to_sky(wcs, np.stack([at_x, at_y], axis=1)).T
    out = np.zeros(shape, bool)
    for one_x, one_y, one in zip(at_x, at_y, radii, strict=True):
        if np.isfinite([one_x, one_y, one]).all():
            out |= circle_mask(shape, one_x, one_y, one, "pixel" if in_pixels else "arcsec", wcs)
    return out
