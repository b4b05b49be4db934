"""Elliptical apertures, Kron fluxes and isophotal fluxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.ellipses import ellipse_sums, kron_radii, segment_sums
from skymill.measure.apertures import _factor, net_flux
from skymill.measure.flags import MaskedPolicy, PhotFlag, flags_of, policy
from skymill.measure.rings import local_sky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table
    from numpy.typing import ArrayLike, NDArray

    from skymill.kernels.apertures import ApertureSums

__all__ = ["measure_ellipses", "measure_isophotal", "measure_kron"]


def measure_ellipses(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    theta: ArrayLike,
    *,
    scales: ArrayLike = (1.0,),
    annulus: Sequence[float] | None = None,
    sky: str = "mean",
    sky_mask: NDArray[np.uint16] | None = None,
    level_err: float = 0.0,
    masked: MaskedPolicy = "replace",
    noise_correlation: NDArray[Any] | None = None,
    correlation_map: NDArray[Any] | None = None,
    scintillation: float = 0.0,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> Table:
    """Measure fluxes in ellipses; errors as in `measure_apertures`.

    Parameters
    ----------
    sci, err, mask, x, y
        As for `measure_apertures`.
    a, b : float or array_like of shape (n,)
        Semi-axes in px.
    theta : float or array_like of shape (n,)
        Angle of ``a`` in radians, from +x (columns) towards +y (rows): the convention of
        SExtractor's THETA_IMAGE, sep and photutils, not of position angles on the sky.
    scales : array_like of float, shape (m,)
        Each flux is that in the ellipse with semi-axes ``scale * a, scale * b``.
    annulus, sky, sky_mask, level_err : optional
        Local sky in a circular ring, as for `measure_apertures`.
    masked, noise_correlation, correlation_map, scintillation, segments, owners : optional
        As for `measure_apertures`; the noise correlation of an ellipse is that of the
        circle of equal area (median of the sources).

    Returns
    -------
    Table
        Columns x, y, a, b, theta, ``flux_<k>``, ``flux_err_<k>``, ``area_<k>``,
        ``masked_<k>``, sky, sky_err, flags, mask_or (of the last scale).
    """
    from astropy.table import Table

    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    major, minor, angle = (
        np.array(np.broadcast_to(np.asarray(v, np.float64), px.shape)) for v in (a, b, theta)
    )
    local = local_sky(
        sci, bits if sky_mask is None else sky_mask, px, py, annulus,
        estimator=sky, level_err=level_err,
    )  # fmt: skip
    table = Table({"x": px, "y": py, "a": major, "b": minor, "theta": angle})
    chosen = policy(masked)
    sums: ApertureSums | None = None
    for k, scale in enumerate(np.atleast_1d(np.asarray(scales, np.float64))):
        ellipse = (scale * major, scale * minor, angle)
        sums = ellipse_sums(
            sci, err, bits, px, py, *ellipse, segments=segments, owners=owners, **chosen
        )
        area = np.pi * ellipse[0] * ellipse[1]
        sized = area[np.isfinite(area) & (area > 0)]
        radius = float(np.sqrt(np.median(sized) / np.pi)) if sized.size else 1.0
        table[f"flux_{k}"], table[f"flux_err_{k}"] = net_flux(
            sums, local, area if masked != "exclude" else 0.0,
            correlation=_factor(noise_correlation, correlation_map, px, py, radius),
            scintillation=scintillation,
        )  # fmt: skip
        table[f"area_{k}"], table[f"masked_{k}"] = sums.area, sums.masked_area
        last = k
    if sums is None:
        raise ValueError("at least one scale is needed")
    table["sky"], table["sky_err"] = local.level, local.level_err
    flags = flags_of(
        (np.shape(sci)[0], np.shape(sci)[1]), px, py, sums.mask_or,
        np.isfinite(np.asarray(table[f"flux_{last}"])),
    )  # fmt: skip
    flags |= np.where(local.missing, int(PhotFlag.NO_ANNULUS), 0)
    table["flags"] = flags.astype(np.int32)
    table["mask_or"] = sums.mask_or.astype(np.int32)
    return table


def measure_kron(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    theta: ArrayLike,
    *,
    factor: float = 2.5,
    minimum: float = 3.5,
    reach: float = 6.0,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
    **options: Any,
) -> Table:
    """Measure Kron fluxes with SExtractor's definition (MAG_AUTO).

    The ellipse has the axes ratio and angle of the second moments, and the semi-major axis
    ``a * max(factor * k, minimum)`` with ``k = sum(r I)/sum(I)`` within ``reach``; ``r`` is
    the elliptical distance in units of the rms ellipse (Kron 1980).

    Parameters
    ----------
    sci, err, mask, x, y
        As for `measure_apertures`; the background must be subtracted.
    a, b, theta : float or array_like of shape (n,)
        Rms semi-axes in px and angle of the sources.
    factor, minimum : float
        Multiple of the Kron radius, and smallest size in units of ``a``. Where the Kron
        radius is not defined (no positive light) the smallest size is used.
    reach : float
        Size of the ellipse in which the radius is measured, in units of ``a``.
    segments, owners : optional
        Pixels of other sources are replaced by those opposite the centre.
    **options
        Further arguments of `measure_ellipses`.

    Returns
    -------
    Table
        Columns of `measure_ellipses` with one flux, called ``flux_kron``,
        ``flux_err_kron``, ``area_kron``, ``masked_kron``, and ``kron_radius``: the
        semi-major axis in units of ``a``. The error holds for the ellipse that was
        chosen: that the choice follows the noise too is not in it.
    """
    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    px = np.atleast_1d(np.asarray(x, np.float64))
    radius = kron_radii(
        sci, bits, px, y, a, b, theta, reach=reach, segments=segments, owners=owners
    )
    with np.errstate(invalid="ignore"):
        size = np.where(factor * radius > minimum, factor * radius, minimum)
    table = measure_ellipses(
        sci, err, bits, px, y, size * np.asarray(a), size * np.asarray(b), theta,
        segments=segments, owners=owners, **options,
    )  # fmt: skip
    for name in ("flux", "flux_err", "area", "masked"):
        table.rename_column(f"{name}_0", f"{name}_kron")
    table["kron_radius"] = size
    return table


def measure_isophotal(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    segments: NDArray[np.int32],
    owners: ArrayLike,
    *,
    level_err: float = 0.0,
    correlation: float = 1.0,
) -> Table:
    """Measure isophotal fluxes: the sums over the pixels of segments.

    ``flux_err**2 = c**2 (sum(V) + n**2 var(b))``. Masked pixels are left out.

    Parameters
    ----------
    sci, err, mask
        As for `measure_apertures`; the background must be subtracted.
    segments : ndarray of int32, shape (ny, nx)
        Owner of each pixel, 0 for none.
    owners : array_like of int, shape (n,)
        The segments to measure.
    level_err : float
        Error of the background per pixel.
    correlation : float
        Factor of correlated noise.

    Returns
    -------
    Table
        Columns segment, flux_iso, flux_err_iso, area_iso, lost_iso (px), mask_or.
    """
    from astropy.table import Table

    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    own = np.atleast_1d(np.asarray(owners, np.int64))
    sums = segment_sums(sci, err, bits, segments, own)
    there = sums.area > 0
    error = correlation * np.sqrt(sums.variance + (sums.area * level_err) ** 2)
    return Table(
        {
            "segment": own,
            "flux_iso": np.where(there, sums.flux, np.nan),
            "flux_err_iso": np.where(there, error, np.nan),
            "area_iso": sums.area,
            "lost_iso": sums.lost,
            "mask_or": sums.mask_or.astype(np.int32),
        }
    )
