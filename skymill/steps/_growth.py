"""How far the light of a source reaches beyond the pixels that show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.kernels.segments import Segments

__all__ = ["filter_profile", "growth"]

#: Axis ratio below which a group is grown as an ellipse too, and the part of the ellipse of
#: its moments that it must fill: a chain of stars does not.
_ELONGATED, _FILLED = 0.5, 0.6


def filter_profile(fwhm_px: float) -> NDArray[np.float32]:
    """Return a Gaussian along one axis, sum 1, at most 9 px long."""
    sigma = max(fwhm_px, 1.0) / 2.3548
    reach = int(np.clip(np.ceil(2.0 * sigma), 1, 4))
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (profile / profile.sum()).astype(np.float32)


def growth(
    segments: Segments,
    *,
    factor: float,
    grow_px: float,
    saturated_factor: float = 1.0,
    radius_factor: float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much each group of pixels is grown, and ellipses that are covered too.

    A group of n pixels has the radius ``r = sqrt(n / pi)``, the larger the brighter the
    source is. It grows by a disk of ``(factor - 1) r + grow_px``; for elongated ones ``r`` is
    at most the minor axis of the ellipse of their second moments: a strip along the rim of
    the frame does not grow by its length. Times the factor that ellipse is covered too, and
    reaches beyond their ends.

    Parameters
    ----------
    segments : Segments
        The groups.
    factor, grow_px : float
        Growth of the isophote, relative and in px.
    saturated_factor : float
        The growth of groups with saturated pixels is multiplied by this.
    radius_factor : float
        Disks of this many radii about the centres are covered too; 0: none.

    Returns
    -------
    reach_px : ndarray of float64, shape (n_groups,)
    ellipses : ndarray of float64, shape (n, 5)
        As `skymill.kernels.segments.paint` wants them.
    """
    radius = np.sqrt(segments.n / np.pi)
    more = np.where(segments.bright > 0, saturated_factor, 1.0)
    # A pixel is a square, not a point: 1/12 px^2 of variance.
    xx, yy, xy = segments.xx + 1 / 12, segments.yy + 1 / 12, segments.xy
    half, difference = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    a = 2.0 * np.sqrt(half + difference)
    b = 2.0 * np.sqrt(np.maximum(half - difference, 1 / 12))
    elongated = b < _ELONGATED * a
    long = elongated & (segments.n > _FILLED * np.pi * a * b)
    # a star that bled is wider than its moments say
    narrow = long | (elongated & (segments.bright == 0))
    reach = ((factor - 1.0) * np.where(narrow, np.minimum(radius, b), radius) + grow_px) * more
    turned = 0.5 * np.arctan2(2.0 * xy, xx - yy)
    grown = (factor * a + grow_px, factor * b + grow_px)
    shapes = [_ellipses(segments, grown[0] * more, grown[1] * more, turned, long)]
    if radius_factor > 0:
        disk = radius_factor * radius * more
        shapes.append(_ellipses(segments, disk, disk, turned, radius > 0))
    return reach, np.concatenate(shapes)


def _ellipses(
    segments: Segments,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    theta: NDArray[np.float64],
    which: NDArray[np.bool_],
) -> NDArray[np.float64]:
    c, s = np.cos(theta), np.sin(theta)
    xx, yy = (c / a) ** 2 + (s / b) ** 2, (s / a) ** 2 + (c / b) ** 2
    xy = 2 * c * s * (1 / a**2 - 1 / b**2)
    return np.stack([segments.x, segments.y_mean, xx, yy, xy], axis=1)[which]
