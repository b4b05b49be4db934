"""PSF photometry: stars fitted in groups, all others subtracted; and optimal photometry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels.psf import fit_groups, optimal_fluxes
from skymill.measure.flags import PhotFlag, flags_of
from skymill.measure.rings import local_sky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table
    from numpy.typing import ArrayLike, NDArray

    from skymill.measure.psf import PSFModel

    Floats = NDArray[np.float64]

__all__ = ["PSFPhotometry", "measure_optimal", "measure_psf"]

#: Stars closer than this are fitted together (FWHM); stars of the largest group.
_GROUP_FWHM, _LARGEST_GROUP = 2.0, 20
#: Pixels within this radius of a star are fitted, in FWHM.
_FIT_FWHM = 1.5
#: Positions are fitted for stars above this S/N; a star may move by a FWHM.
_FREE_SNR = 4.0
_ITERATIONS = 15


class PSFPhotometry(NamedTuple):
    """Result of `measure_psf`.

    Attributes
    ----------
    table : Table
        One row per position: x, y, x_err, y_err, flux_psf, flux_err_psf, chi2 (reduced),
        group, group_size, sky, sky_err, flags, mask_or.
    residual : ndarray of float64, shape (ny, nx)
        The image without the stars.
    """

    table: Table
    residual: NDArray[np.float64]


def measure_psf(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    model: PSFModel,
    *,
    positions: str = "free",
    weights: str = "sky",
    fit_radius: float | None = None,
    group_radius: float | None = None,
    annulus: Sequence[float] | None = None,
    level_err: float = 0.0,
    passes: int = 3,
    correlation: float = 1.0,
    scintillation: float = 0.0,
) -> PSFPhotometry:
    """Fit a PSF to all stars of a frame.

    Neighbours are fitted together, ``sum w (I - b - sum_j F_j P_j)**2 -> min``, after all
    other stars were subtracted; this is repeated `passes` times. Errors are
    ``A^-1 (sum w**2 V J J') A^-1`` with ``A = sum w J J'``: true whatever the weights are.

    Parameters
    ----------
    sci, err, mask, x, y
        As for `measure_apertures`. Masked pixels are left out of the fit.
    model : PSFModel
        The PSF.
    positions : {"free", "fixed"}
        Fit positions too (of stars above S/N 4), or keep those given: forced photometry.
    weights : {"sky", "photons"}
        Equal weights, which no profile error or noise of the pixel biases; or with the
        photons of the model star (image in electron), which is better by up to 10 % for
        bright stars if the model is right.
    fit_radius : float, optional
        Pixels within it are fitted, px; by default 1.5 FWHM.
    group_radius : float, optional
        Stars closer than this form a group, px; by default 2 FWHM. Groups of more than 20
        are divided: the parts see each other through the subtraction.
    annulus : (float, float), optional
        Ring in px of the image without stars that tells the local sky.
    level_err : float
        Error of the background per pixel; counts without an annulus.
    passes : int
        How often all groups are fitted.
    correlation : float
        Factor of correlated noise.
    scintillation : float
        Relative scintillation.

    Returns
    -------
    PSFPhotometry
        Fluxes are total in the sense of the model's radius, times its scale. Flags as for
        apertures, about pixels within the fit radius; NEIGHBOUR for stars of groups, BAD_FIT
        for fits that failed or wanted to move by more than a FWHM (their position is kept).
    """
    from astropy.table import Table

    if positions not in ("free", "fixed") or weights not in ("sky", "photons"):
        raise ValueError(f"unknown positions {positions!r} or weights {weights!r}")
    shape = (np.shape(sci)[0], np.shape(sci)[1])
    bits = np.zeros(shape, np.uint16) if mask is None else mask
    start = [np.array(np.atleast_1d(np.asarray(v, np.float64))) for v in (x, y)]
    n, ny, nx = start[0].size, *shape
    radius = _FIT_FWHM * model.fwhm_px if fit_radius is None else float(fit_radius)
    with np.errstate(invalid="ignore"):
        there = (start[0] > -radius) & (start[1] > -radius)
        there &= (start[0] < nx - 1 + radius) & (start[1] < ny - 1 + radius)
    index = np.flatnonzero(there)
    px, py = start[0][index].copy(), start[1][index].copy()
    rest, variance, usable, sky_variance = _planes(sci, err, bits)
    link = _GROUP_FWHM * model.fwhm_px if group_radius is None else float(group_radius)
    group, order, ends = _groups(px, py, link)
    found = {key: np.zeros(px.size) for key in ("flux", "err", "xe", "ye", "gain", "chi2")}
    found["xe"][:], found["ye"][:] = np.nan, np.nan
    count, status = np.zeros(px.size, np.int64), np.zeros(px.size, np.int64)
    level, sky_err = np.zeros(px.size), np.full(px.size, float(level_err))
    missing = np.zeros(px.size, bool)
    basis, begin = model.basis(px, py), (px.copy(), py.copy())
    for turn in range(passes):
        if annulus is not None and turn > 0:
            ring = local_sky(rest.astype(np.float32), bits, px, py, annulus, level_err=level_err)
            level, sky_err, missing = ring
        fit_groups(
            rest, variance, usable, np.full(px.size, sky_variance), float(weights == "photons"),
            model.tables, model.oversampling, basis, order, ends, px, py, found["flux"], level,
            positions == "free", radius, model.half, _ITERATIONS, model.fwhm_px, _FREE_SNR,
            *begin, found["err"], found["xe"], found["ye"], found["gain"], found["chi2"], count,
            status,
        )  # fmt: skip
    sizes = np.bincount(group, minlength=len(ends)) if len(ends) else np.zeros(0, np.int64)
    spread = _means(level, group, len(ends)), _means(sky_err, group, len(ends))
    measured = (count > 0) & ((status & 1) == 0) & (found["err"] > 0)
    flux = np.where(measured, model.scale * found["flux"], np.nan)
    error = model.scale * correlation * np.hypot(found["err"], found["gain"] * spread[1])
    table = Table({"x": start[0], "y": start[1]})
    table["x"][index], table["y"][index] = px, py

    def column(values: NDArray[Any], empty: float = np.nan) -> Floats:
        whole = np.full(n, empty)
        whole[index] = values
        return whole

    table["x_err"], table["y_err"] = (column(correlation * found[k]) for k in ("xe", "ye"))
    table["flux_psf"] = column(flux)
    table["flux_err_psf"] = column(
        np.where(measured, np.hypot(error, scintillation * np.nan_to_num(flux)), np.nan)
    )
    freedom = np.maximum(count - np.where((status & 2) > 0, 1, 3), 1)
    table["chi2"] = column(np.where(measured, found["chi2"] / freedom, np.nan))
    table["group"] = column(group + 1.0, 0).astype(np.int64)
    table["group_size"] = column(sizes[group].astype(float), 0).astype(np.int64)
    table["sky"], table["sky_err"] = column(spread[0]), column(spread[1])
    mask_or = _bits_within(bits, start[0], start[1], radius)
    flags = flags_of(shape, start[0], start[1], mask_or, np.isfinite(np.asarray(table["flux_psf"])))
    flags[index] |= np.where(sizes[group] > 1, int(PhotFlag.NEIGHBOUR), 0)
    flags[index] |= np.where((status & (1 | 4 | 8)) > 0, int(PhotFlag.BAD_FIT), 0)
    flags[index] |= np.where(missing, int(PhotFlag.NO_ANNULUS), 0)
    table["flags"], table["mask_or"] = flags.astype(np.int32), mask_or.astype(np.int32)
    return PSFPhotometry(table, rest)


def measure_optimal(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    model: PSFModel,
    *,
    weights: str = "sky",
    radius: float | None = None,
    annulus: Sequence[float] | None = None,
    sky_mask: NDArray[np.uint16] | None = None,
    level_err: float = 0.0,
    correlation: float = 1.0,
    scintillation: float = 0.0,
) -> Table:
    """Measure total fluxes at fixed positions with optimal weights (Naylor 1998).

    ``F = sum(P (I - b)/S) / sum(P**2/S)`` with the profile ``P`` of light 1, and
    ``var(F) = sum(P**2 V/S**2)/sum(P**2/S)**2 + (dF/db)**2 var(b)``. ``S`` is a smooth
    variance, never that of the pixels themselves, which would bias fluxes low.

    Parameters
    ----------
    sci, err, mask, x, y
        As for `measure_apertures`. Masked pixels are left out: the profile replaces them.
    model : PSFModel
        The profile: fitted to the frame, or `PSFModel.from_profile`.
    weights : {"sky", "photons"}
        ``S`` constant, or with the photons of the star (image in electron).
    radius : float, optional
        Radius of the weights in px; by default 2 FWHM.
    annulus, sky_mask, level_err : optional
        Local sky, as for `measure_apertures`.
    correlation, scintillation : float
        As for `measure_psf`.

    Returns
    -------
    Table
        Columns x, y, flux_opt, flux_err_opt, kept (part of the weight that is not masked),
        sky, sky_err, flags, mask_or. The flux is NaN where less than half is kept.
    """
    from astropy.table import Table

    if weights not in ("sky", "photons"):
        raise ValueError(f"weights must be sky or photons, got {weights!r}")
    shape = (np.shape(sci)[0], np.shape(sci)[1])
    bits = np.zeros(shape, np.uint16) if mask is None else mask
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    reach = 2.0 * model.fwhm_px if radius is None else float(radius)
    data, variance, usable, sky_variance = _planes(sci, err, bits)
    local = local_sky(
        sci, bits if sky_mask is None else sky_mask, px, py, annulus, level_err=level_err
    )
    half = min(model.half, int(np.ceil(reach)) + 1)
    flux, var, gain, kept = optimal_fluxes(
        data, variance, usable, np.full(px.size, sky_variance), float(weights == "photons"),
        model.tables, model.oversampling, model.basis(px, py), px, py, local.level, reach, half,
    )  # fmt: skip
    flux = model.scale * np.where(kept > 0.5, flux, np.nan)
    error = model.scale * correlation * np.sqrt(var + (gain * local.level_err) ** 2)
    error = np.where(np.isfinite(flux), np.hypot(error, scintillation * flux), np.nan)
    table = Table({"x": px, "y": py, "flux_opt": flux, "flux_err_opt": error, "kept": kept})
    table["sky"], table["sky_err"] = local.level, local.level_err
    mask_or = _bits_within(bits, px, py, _FIT_FWHM * model.fwhm_px)
    flags = flags_of(shape, px, py, mask_or, np.isfinite(flux))
    flags |= np.where(local.missing, int(PhotFlag.NO_ANNULUS), 0)
    table["flags"], table["mask_or"] = flags.astype(np.int32), mask_or.astype(np.int32)
    return table


def _planes(sci: Any, err: Any, mask: Any) -> tuple[Floats, Floats, NDArray[np.bool_], float]:
    """Image and variance in float64, usable pixels, and the variance of the sky."""
    data, sigma = np.asarray(sci, np.float64), np.asarray(err, np.float64)
    usable = (np.asarray(mask) & int(MaskBit.bad())) == 0
    usable &= np.isfinite(data) & np.isfinite(sigma) & (sigma > 0)
    variance = np.where(usable, sigma * sigma, 1.0)
    sky = float(np.median(variance[usable])) if usable.any() else 1.0
    return np.where(usable, data, 0.0), variance, usable, sky


def _groups(
    x: Floats, y: Floats, link: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Group of each star, stars in the order of groups, and the end of each group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    n = x.size
    if not n:
        return (np.zeros(0, np.int64),) * 3
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(link, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    label = np.asarray(connected_components(graph, directed=False)[1], np.int64)
    # Members of a large group lie side by side after sorting: parts are compact.
    order = np.lexsort((np.arange(n), x, np.floor(y / (2 * link)), label))
    rank = np.empty(n, np.int64)
    first = np.r_[0, np.flatnonzero(np.diff(label[order])) + 1]
    size = np.diff(np.r_[first, n])
    rank[order] = np.arange(n) - np.repeat(first, size)
    part = label * n + rank // _LARGEST_GROUP
    group = np.unique(part, return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((np.arange(n), group))
    ends = np.cumsum(np.bincount(group)).astype(np.int64)
    return group, order.astype(np.int64), ends


def _means(values: Floats, group: NDArray[np.int64], n: int) -> Floats:
    """Mean over the group of each star."""
    if not n:
        return values
    total = np.bincount(group, weights=values, minlength=n) / np.bincount(group, minlength=n)
    return np.asarray(total[group])


def _bits_within(mask: NDArray[np.uint16], x: Floats, y: Floats, radius: float) -> NDArray[Any]:
    """OR of the mask within a radius of each position."""
    from skymill.kernels.circles import aperture_sums

    flat = np.zeros(mask.shape, np.float32)
    return aperture_sums(flat, flat, mask, x, y, [radius], replace=False).mask_or[:, 0]
