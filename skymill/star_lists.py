"""Star lists, limits and answers that the ways to a solution share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.affine import Affine
    from skymill.matching import Match
    from skymill.solution_errors import Quality

__all__ = ["Limits", "Refusal", "Solution", "Stars", "pick", "star_arrays"]

#: Position errors below this are not believed (px); unknown errors count as this.
_ERROR_FLOOR_PX = 0.02
_ERROR_UNKNOWN_PX = 0.5

#: Hits are narrower than this, and than this fraction of the usual star.
_BROAD_PX = 3.0
_BROAD = 0.5


@dataclass(frozen=True)
class Limits:
    """Settings of a match.

    Parameters
    ----------
    search_radius_px, tolerance_px : float
        Offset that is expected, and distance within which two stars are the same.
    minimum_matches : int
        Fewest matched stars.
    max_rms_px : float
        Larger residuals refuse a solution.
    max_sip_order : int
        Highest order of a fitted distortion; 1 is none.
    max_scale_error : float
        Largest relative error of the pixel scale.
    max_false_matches : float
        Largest expected number of chance matches.
    mirrored : bool
        Try mirror images.
    catalog_error_arcsec : float
        Position error of catalogue stars per axis.
    max_mag_scatter : float
        Matched catalogue stars whose magnitudes scatter more are wrong ones.
    projection : str
        ``tan``, ``sip``, ``tpv``, or ``auto`` for that of the start.
    transform : str
        ``affine`` or ``translation``: what may lie between a frame and its reference.
    max_rotation_deg : float
        Largest rotation against the reference frame, to either side.
    max_scale_ratio : float
        The scale against the reference frame lies between its inverse and this.
    max_translation_px : tuple of float
        Largest displacement of the middle of the frame in x and y.
    max_false_few : float
        Largest expected number of chance matches for one to three stars.
    """

    search_radius_px: float = 100.0
    tolerance_px: float = 2.0
    minimum_matches: int = 3
    max_rms_px: float = 1.0
    max_sip_order: int = 3
    max_scale_error: float = 0.05
    max_false_matches: float = 1e-3
    mirrored: bool = True
    catalog_error_arcsec: float = 0.2
    max_mag_scatter: float = 1.0
    projection: str = "auto"
    transform: str = "affine"
    max_rotation_deg: float = 180.0
    max_scale_ratio: float = math.inf
    max_translation_px: tuple[float, float] = (math.inf, math.inf)
    max_false_few: float = 0.05


@dataclass(frozen=True, eq=False)
class Stars:
    """Positions of stars, the brightest first.

    Parameters
    ----------
    xy : ndarray of float64, shape (n, 2)
        0-based pixel positions.
    err : ndarray of float64, shape (n,)
        Error per axis in pixels.
    flux : ndarray of float64, shape (n,)
        Flux in any unit.
    """

    xy: NDArray[np.float64]
    err: NDArray[np.float64]
    flux: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.xy)


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved frame.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        World coordinates of the frame's pixels.
    match : Match
        The stars behind it.
    step : Affine
        Plane transformation from the frame's pixels to where the stars were expected.
    sip_order : int
        Order of the fitted distortion, 0 if none.
    quality : Quality or None
        Covariance and hold-out residuals.
    conversion_px : float
        Largest error of expressing it in the projection that was asked for.
    """

    wcs: WCS
    match: Match
    step: Affine
    sip_order: int = 0
    quality: Quality | None = None
    conversion_px: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """Why there is no solution: a reason code and a sentence."""

    code: str
    why: str


def star_arrays(sources: Table, *, broad: bool = False) -> Stars:
    """Return the stars of a table of sources in order of brightness.

    Parameters
    ----------
    sources : astropy.table.Table
        Columns x, y, flux and, if there, x_err, y_err, fwhm and flags.
    broad : bool
        Keep flagged sources too that are broader than any hit. The pixels of a star that
        saturates or is far out of focus are often masked in its middle; where it is the
        only star, it has to do.
    """
    xy = np.stack([np.asarray(sources[name], dtype=float) for name in ("x", "y")], axis=1)
    flux = np.asarray(sources["flux"], dtype=float)
    err = np.full(len(xy), np.nan)
    if {"x_err", "y_err"} <= set(sources.colnames):
        one, two = (np.asarray(sources[name], dtype=float) for name in ("x_err", "y_err"))
        err = np.sqrt((one**2 + two**2) / 2)
    usable = np.isfinite(xy).all(axis=1)
    if "flags" in sources.colnames:
        from skymill.steps.sources import SourceFlag

        # Hits and hot pixels make a pattern of their own, which does not move with the sky. A
        # star with a hit in its aperture is a star: what is masked was replaced.
        no_star = SourceFlag.SHARP | SourceFlag.CENTRE_MASKED | SourceFlag.BAD_CENTRE
        fine = (np.asarray(sources["flags"], dtype=int) & int(no_star)) == 0
        if broad and "fwhm" in sources.colnames:
            fwhm = np.nan_to_num(np.asarray(sources["fwhm"], dtype=float))
            usual = float(np.median(fwhm[fine])) if fine.any() else 0.0
            fine |= fwhm >= max(_BROAD_PX, _BROAD * usual)
        usable &= fine
    good = np.flatnonzero(usable)
    order = good[np.argsort(-np.nan_to_num(flux[good], nan=-np.inf), kind="stable")]
    err = np.where(np.isfinite(err) & (err > 0), err, _ERROR_UNKNOWN_PX)
    return Stars(xy[order], np.hypot(err[order], _ERROR_FLOOR_PX), flux[order])


def pick(stars: Stars, keep: Any) -> Stars:
    """Return the stars of a boolean array or of an array of indices."""
    return Stars(stars.xy[keep], stars.err[keep], stars.flux[keep])
