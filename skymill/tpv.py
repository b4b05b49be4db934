"""Distorted tangential projections: TAN, TAN-SIP and TPV, and the way from one to another.

SIP bends pixels before the CD matrix, TPV bends the plane after it. A SIP polynomial of
order n under a linear map is a TPV polynomial of order n and the reverse (Shupe et al.
2012, SPIE 8451), so the conversion is exact up to rounding wherever the order allows;
TPV's radial terms, other projections and higher orders are fitted. In every case the
largest difference over the frame is measured on positions that were not fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.io.fits import Header

from skymill.wcsmath import (
    compose,
    fit_monomials,
    kind_of,
    monomials,
    pixel_to_sky,
    wcs_from_header,
    wcs_header,
    write_sip,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.affine import Affine
    from skymill.wcsmath import Distortion

    Points = NDArray[np.float64]
    Kind = Literal["tan", "sip", "tpv"]

__all__ = ["composed", "convert", "to_tpv"]

#: Number of the first term of each total degree in TPV; the radial terms 3, 11, 23 and 39
#: lie between them and are not needed for a polynomial.
_FIRST = (0, 1, 4, 7, 12, 17, 24, 31)
_MAX_ORDER = 7
#: A conversion this good is not improved by a higher order (px).
_EXACT_PX = 1e-6


def to_tpv(wcs: WCS, shape: tuple[int, int]) -> Header:
    """Return cards that SCAMP and SWarp understand: TAN as it is, all else as TPV.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, of any projection.
    shape : tuple of int
        Shape (ny, nx) of the frame.

    Returns
    -------
    astropy.io.fits.Header
        With a CD matrix, and the card TPVERR: largest difference from ``wcs`` over the
        frame, in pixels.

    Raises
    ------
    ValueError
        If the coordinates are not celestial.
    """
    new, error = (wcs, 0.0) if kind_of(wcs) == "tan" else convert(wcs, shape, "tpv")
    header = wcs_header(new)
    matrix = np.asarray(new.pixel_scale_matrix)
    for key in [k for k in header if k[:2] in ("PC", "CD") and ("_" in k or k[:5] == "CDELT")]:
        del header[key]
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(matrix[i - 1, j - 1])
    header["TPVERR"] = (float(f"{error:.2g}"), "[pix] largest error of the conversion")
    return header


def convert(wcs: WCS, shape: tuple[int, int], kind: Kind) -> tuple[WCS, float]:
    """Express world coordinates in another projection.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    kind : {"tan", "sip", "tpv"}
        ``tan`` gives the best plane projection, and the error is the distortion.

    Returns
    -------
    wcs, error : astropy.wcs.WCS and float
        The error is the largest distance over the frame in pixels.

    Raises
    ------
    ValueError
        If the coordinates are not celestial, or have no tangential plane on the frame.
    """
    if not wcs.has_celestial:
        raise ValueError("only celestial coordinates have a tangential projection")
    if kind_of(wcs) == kind:
        return wcs, 0.0
    return _fitted(lambda xy: pixel_to_sky(wcs, xy), wcs, shape, kind)


def composed(
    wcs: WCS,
    transform: Affine,
    shape: tuple[int, int],
    distortion: Distortion | None = None,
) -> tuple[WCS, float]:
    """Like `skymill.wcsmath.compose`, also for a distortion on top of TPV.

    Returns
    -------
    wcs, error : astropy.wcs.WCS and float
        The error in pixels is that of the fitted TPV; 0 where nothing was fitted.
    """
    if distortion is None or kind_of(wcs) in ("tan", "sip"):
        return compose(wcs, transform, shape, distortion), 0.0
    plane = compose(wcs, transform, shape)
    return _fitted(lambda xy: pixel_to_sky(wcs, transform(distortion(xy))), plane, shape, "tpv")


def _fitted(
    sky: Callable[[Points], Points], wcs: WCS, shape: tuple[int, int], kind: Kind
) -> tuple[WCS, float]:
    """Fit a projection to a map of pixels to the sky, by the lowest order that is exact."""
    fitted, checked = _grid(shape, 24), _grid(shape, 37)
    crval, crpix, matrix = _reference(sky, wcs, shape)
    inner = np.linalg.inv(matrix)
    plane, plane_checked = (_gnomonic(sky(xy), crval) for xy in (fitted, checked))
    if not (np.isfinite(plane).all() and np.isfinite(plane_checked).all()):
        raise ValueError("the frame reaches beyond the hemisphere of its tangential point")
    if kind == "tan":
        return _plain(crval, fitted, plane, checked, plane_checked)
    best: tuple[float, int, Points] | None = None
    for order in range(1, _MAX_ORDER + 1):
        if kind == "tpv":
            at, goal = (fitted + 1 - crpix) @ matrix.T, plane
            at_checked, goal_checked = (checked + 1 - crpix) @ matrix.T, plane_checked
        else:
            at, at_checked = fitted + 1 - crpix, checked + 1 - crpix
            goal, goal_checked = plane @ inner.T - at, plane_checked @ inner.T - at_checked
        terms = fit_monomials(at, goal, order)
        off = monomials(at_checked, 0, order) @ terms - goal_checked
        off = off @ inner.T if kind == "tpv" else off
        error = float(np.hypot(off[:, 0], off[:, 1]).max())
        # A higher order must do better by more than rounding to be worth its terms.
        if best is None or error < 0.5 * best[0]:
            best = (error, order, terms)
        if best[0] < _EXACT_PX:
            break
    assert best is not None
    header = _cards(crval, crpix, matrix, "TPV" if kind == "tpv" else "TAN")
    if kind == "tpv":
        _write_pv(header, best[1], best[2])
    else:
        focal = plane @ inner.T
        write_sip(header, fitted + 1 - crpix, focal, best[2], max(best[1], 2))
    return wcs_from_header(header), best[0]


def _grid(shape: tuple[int, int], n: int) -> Points:
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, n), np.linspace(0, ny - 1, n))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _reference(
    sky: Callable[[Points], Points], wcs: WCS, shape: tuple[int, int]
) -> tuple[Points, Points, Points]:
    """Return CRVAL, CRPIX and CD: those of a tangential projection, else of the middle."""
    usual = np.isnan(wcs.wcs.lonpole) or abs(wcs.wcs.lonpole - 180.0) < 1e-9
    if kind_of(wcs) in ("tan", "sip", "tpv") and wcs.wcs.lng == 0 and usual:
        # SIP's CD matrix and TPV's are the same; the distortions bend around one pixel.
        return (
            np.asarray(wcs.wcs.crval, float),
            np.asarray(wcs.wcs.crpix, float),
            np.asarray(wcs.pixel_scale_matrix, float),
        )
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    around = middle + np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    world = sky(around)
    flat = _gnomonic(world, world[0])
    return world[0], middle + 1, np.stack([flat[1] - flat[2], flat[3] - flat[4]], axis=1)


def _gnomonic(world: Points, crval: Points) -> Points:
    """Tangential plane coordinates in degree; NaN beyond the hemisphere."""
    lon, lat = np.radians(world[:, 0] - crval[0]), np.radians(world[:, 1])
    pole = np.radians(crval[1])
    depth = np.sin(lat) * np.sin(pole) + np.cos(lat) * np.cos(pole) * np.cos(lon)
    depth = np.where(depth > 1e-6, depth, np.nan)
    xi = np.cos(lat) * np.sin(lon) / depth
    eta = (np.sin(lat) * np.cos(pole) - np.cos(lat) * np.sin(pole) * np.cos(lon)) / depth
    return np.degrees(np.stack([xi, eta], axis=1))


def _plain(
    crval: Points, xy: Points, plane: Points, checked: Points, plane_checked: Points
) -> tuple[WCS, float]:
    """Return the plane projection that lies closest to the whole map."""
    terms = fit_monomials(xy, plane, 1)
    matrix = terms[1:].T
    crpix = 1 - np.linalg.inv(matrix) @ terms[0]
    off = (monomials(checked, 0, 1) @ terms - plane_checked) @ np.linalg.inv(matrix).T
    header = _cards(crval, crpix, matrix, "TAN")
    return wcs_from_header(header), float(np.hypot(off[:, 0], off[:, 1]).max())


def _cards(crval: Points, crpix: Points, matrix: Points, projection: str) -> Header:
    header = Header()
    header["WCSAXES"] = 2
    for i, name in ((1, "RA-"), (2, "DEC")):
        header[f"CTYPE{i}"] = f"{name}--{projection}"
        header[f"CUNIT{i}"] = "deg"
        header[f"CRVAL{i}"] = float(crval[i - 1])
        header[f"CRPIX{i}"] = float(crpix[i - 1])
        header[f"CDELT{i}"] = 1.0
        for j in (1, 2):
            header[f"PC{i}_{j}"] = float(matrix[i - 1, j - 1])
    header["RADESYS"] = "ICRS"
    return header


def _write_pv(header: Header, order: int, terms: Points) -> None:
    """Write ``xi^i eta^j`` of axis 1, and of axis 2 with the roles exchanged."""
    k = 0
    for degree in range(order + 1):
        for j in range(degree + 1):  # xi^(degree - j) eta^j
            header[f"PV1_{_FIRST[degree] + j}"] = float(terms[k, 0])
            header[f"PV2_{_FIRST[degree] + degree - j}"] = float(terms[k, 1])
            k += 1
