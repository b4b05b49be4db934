"""Circular apertures, several radii at once, with a local or a global sky."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.apertures import ApertureSums
from skymill.kernels.circles import aperture_sums
from skymill.measure.flags import MaskedPolicy, PhotFlag, flags_of, policy
from skymill.measure.rings import LocalSky, local_sky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LOST_FRACTION", "aperture_columns", "measure_apertures", "net_flux"]

#: More of an aperture than this fraction lost for good leaves no flux.
LOST_FRACTION = 0.01


def measure_apertures(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike,
    *,
    annulus: Sequence[float] | None = None,
    sky: str = "mean",
    sky_mask: NDArray[np.uint16] | None = None,
    level_err: float = 0.0,
    masked: MaskedPolicy = "replace",
    main: int | None = None,
    noise_correlation: NDArray[Any] | None = None,
    correlation_map: NDArray[Any] | None = None,
    scintillation: float = 0.0,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> Table:
    """Measure fluxes in concentric circles.

    ``flux = sum(w I) - n b`` and ``flux_err**2 = c**2 (sum(w**2 V) + n**2 var(b)) + (s F)**2``
    with the exact overlap ``w`` of circle and pixel, ``n = sum(w)``, the level ``b`` of the
    annulus, the factor ``c`` of correlated noise and the scintillation ``s``.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image, of which a background may have been subtracted, and its one-sigma error.
    mask : ndarray of uint16, shape (ny, nx), or None
        0 is good; None: every finite pixel is.
    x, y : array_like of float, shape (n,)
        0-based positions. NaN gives a row with NaN.
    radii : array_like of float, shape (m,)
        Radii in px.
    annulus : (float, float), optional
        Inner and outer radius in px of the local sky; by default none is subtracted.
    sky : {"mean", "median", "mode"}
        Estimator of the clipped pixels of the annulus.
    sky_mask : ndarray of uint16, shape (ny, nx), optional
        Mask for the annulus, for example of `mask_sources`; by default `mask`.
    level_err : float
        Error of the background that was subtracted, per pixel and common to an aperture;
        counts only without an annulus.
    masked : {"replace", "exclude", "flag"}
        Policy on masked pixels, see `skymill.measure.flags.policy`.
    main : int, optional
        Index of the radius that flags and ``mask_or`` are about; by default the largest.
    noise_correlation : ndarray, shape (odd, odd), optional
        Correlation of the noise by lag, for resampled images.
    correlation_map : ndarray, optional
        Its factor for large apertures in cells of 64 px.
    scintillation : float
        Relative scintillation.
    segments, owners : optional
        Owner of each pixel, and the value that is each position's own: pixels of other
        sources are treated as masked and flagged NEIGHBOUR.

    Returns
    -------
    Table
        Columns x, y, and for each radius k ``flux_<k>``, ``flux_err_<k>``, ``area_<k>``
        (pixels' worth of sky in the sum), ``masked_<k>`` (area lost, replaced or not);
        sky, sky_err, flags (`PhotFlag`), mask_or. ``meta["radii"]`` holds the radii. A
        flux is NaN where the central pixel is bad (policy replace) or more than one per
        cent of the circle is lost for good (all policies but exclude).

    Raises
    ------
    ValueError
        For shapes that do not fit, radii that are not positive, unknown words.
    """
    from astropy.table import Table

    columns = aperture_columns(
        sci, err, mask, x, y, radii, annulus=annulus, sky=sky, sky_mask=sky_mask,
        level_err=level_err, masked=masked, main=main, noise_correlation=noise_correlation,
        correlation_map=correlation_map, scintillation=scintillation, segments=segments,
        owners=owners,
    )  # fmt: skip
    table = Table(columns, copy=False)
    table.meta["radii"] = [float(r) for r in np.atleast_1d(np.asarray(radii, np.float64))]
    return table


def aperture_columns(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike,
    *,
    annulus: Sequence[float] | None = None,
    sky: str = "mean",
    sky_mask: NDArray[np.uint16] | None = None,
    level_err: float = 0.0,
    masked: MaskedPolicy = "replace",
    main: int | None = None,
    noise_correlation: NDArray[Any] | None = None,
    correlation_map: NDArray[Any] | None = None,
    scintillation: float = 0.0,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
    sums: ApertureSums | None = None,
) -> dict[str, NDArray[Any]]:
    """Measure fluxes in concentric circles; the columns of `measure_apertures`.

    Parameters
    ----------
    sci, err, mask, x, y, radii, annulus, sky, sky_mask, level_err, masked, main, \
noise_correlation, correlation_map, scintillation, segments, owners
        See `measure_apertures`.
    sums : ApertureSums, optional
        What `skymill.kernels.circles.aperture_sums` gave for these radii, and maybe more
        after them, and this policy, where it is known already.
    """
    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    wanted = np.atleast_1d(np.asarray(radii, np.float64))
    chosen = policy(masked)
    if sums is None:
        sums = aperture_sums(
            sci, err, bits, px, py, wanted, segments=segments, owners=owners, **chosen
        )
    local = local_sky(
        sci, bits if sky_mask is None else sky_mask, px, py, annulus,
        estimator=sky, level_err=level_err,
    )  # fmt: skip
    index = len(wanted) - 1 if main is None else main
    out: dict[str, NDArray[Any]] = {"x": px, "y": py}
    for k, radius in enumerate(wanted):
        part = ApertureSums(
            sums.flux[:, k], sums.flux_err[:, k], sums.area[:, k], sums.masked_area[:, k],
            sums.mask_or[:, k],
        )  # fmt: skip
        flux, error = net_flux(
            part, local, np.pi * radius**2 if masked != "exclude" else 0.0,
            correlation=_factor(noise_correlation, correlation_map, px, py, float(radius)),
            scintillation=scintillation,
        )  # fmt: skip
        out[f"flux_{k}"], out[f"flux_err_{k}"] = flux, error
        out[f"area_{k}"], out[f"masked_{k}"] = part.area, part.masked_area
    out["sky"], out["sky_err"] = local.level, local.level_err
    flags = flags_of(
        (np.shape(sci)[0], np.shape(sci)[1]), px, py, sums.mask_or[:, index],
        np.isfinite(out[f"flux_{index}"]),
    )  # fmt: skip
    flags |= np.where(local.missing, int(PhotFlag.NO_ANNULUS), 0)
    if segments is not None:
        own = aperture_sums(sci, err, bits, px, py, wanted[index : index + 1], **chosen)
        more = sums.masked_area[:, index] > own.masked_area[:, 0] + 1e-6
        flags |= np.where(more, int(PhotFlag.NEIGHBOUR), 0)
    out["flags"] = flags.astype(np.int32)
    out["mask_or"] = sums.mask_or[:, index].astype(np.int32)
    return out


def net_flux(
    sums: Any,
    local: LocalSky,
    area: ArrayLike,
    *,
    correlation: ArrayLike = 1.0,
    scintillation: float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Subtract the local sky from sums and return fluxes with their full errors.

    Parameters
    ----------
    sums : ApertureSums
        Sums, each of shape (n,).
    local : LocalSky
        Sky of each.
    area : float or ndarray of shape (n,)
        Area in px that should be in the sum; where more than one per cent is missing the
        flux is NaN. 0: never.
    correlation : float or ndarray of shape (n,)
        Factor of correlated noise.
    scintillation : float
        Relative scintillation.

    Returns
    -------
    flux, flux_err : ndarray of float64, shape (n,)
    """
    complete = sums.area > (1 - LOST_FRACTION) * np.asarray(area)
    flux = np.where(complete, sums.flux - sums.area * local.level, np.nan)
    variance = np.asarray(correlation) ** 2 * (
        sums.flux_err**2 + (sums.area * local.level_err) ** 2
    )
    error = np.sqrt(variance + (scintillation * flux) ** 2)
    return flux, np.where(np.isfinite(flux), error, np.nan)


def _factor(
    correlation: NDArray[Any] | None,
    cells: NDArray[Any] | None,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: float,
) -> NDArray[np.float64] | float:
    if correlation is None:
        return 1.0
    from skymill.resample import local_factor

    return local_factor(correlation, cells, x, y, radius)
