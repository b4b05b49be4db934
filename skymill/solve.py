"""From matched stars to world coordinates: against a catalogue, or to a reference frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.distortion import with_distortion
from skymill.matching import Match, match_lists, refine, searches
from skymill.wcsmath import compose, pixel_scale, pixel_to_sky, sky_to_pixel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.affine import Affine
    from skymill.catalogs import RefCatalog

__all__ = [
    "Limits",
    "Refusal",
    "Solution",
    "Stars",
    "align",
    "pointing_wcs",
    "solve",
    "star_arrays",
]

#: Position errors below this are not believed (px); unknown errors count as this.
_ERROR_FLOOR_PX = 0.02
_ERROR_UNKNOWN_PX = 0.5

#: A match must bring together this share of the light of the brightest sources, else it
#: is taken for one of hot pixels, which are then left out, so many times.
_LEAST_LIGHT = 0.3
_BRIGHTEST = 10
#: A counterpart is at most this many times fainter, after the ratio of matched stars.
_ALIKE = 30.0
_FIXED_PATTERNS = 2


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
    """

    wcs: WCS
    match: Match
    step: Affine
    sip_order: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why there is no solution: a reason code and a sentence."""

    code: str
    why: str


def star_arrays(sources: Table) -> Stars:
    """Return the stars of a table of sources in order of brightness.

    Parameters
    ----------
    sources : astropy.table.Table
        Columns x, y, flux and, if there, x_err, y_err and flags.
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
        usable &= (np.asarray(sources["flags"], dtype=int) & int(no_star)) == 0
    good = np.flatnonzero(usable)
    order = good[np.argsort(-np.nan_to_num(flux[good], nan=-np.inf), kind="stable")]
    err = np.where(np.isfinite(err) & (err > 0), err, _ERROR_UNKNOWN_PX)
    return Stars(xy[order], np.hypot(err[order], _ERROR_FLOOR_PX), flux[order])


def _match(
    stars: Stars,
    expected: NDArray[np.float64],
    expected_err: NDArray[np.float64],
    shape: tuple[int, int],
    limits: Limits,
) -> Match | Refusal:
    """Match stars with their expected positions and fit all of them."""
    plan = searches(
        shape,
        near_px=limits.search_radius_px,
        max_scale=limits.max_scale_error,
        mirrored=limits.mirrored,
    )
    match, why = match_lists(
        stars.xy,
        expected,
        shape,
        plan,
        tolerance_px=limits.tolerance_px,
        minimum=limits.minimum_matches,
        max_false=limits.max_false_matches,
    )
    if match is None:
        return Refusal("NO_MATCH", why)
    return refine(
        stars.xy,
        expected,
        match,
        tolerance_px=limits.tolerance_px,
        source_error=stars.err,
        reference_error=expected_err,
    )


def align(
    stars: Stars,
    reference: Stars,
    reference_wcs: WCS,
    header_wcs: WCS | None,
    shape: tuple[int, int],
    limits: Limits,
) -> Solution | Refusal:
    """Align a frame to the stars of its reference frame.

    With a header WCS the stars are expected where it says, and its distortion is kept;
    without one they are expected at their pixels on the reference frame.

    Parameters
    ----------
    stars, reference : Stars
        Stars of the frame and of the reference frame.
    reference_wcs : astropy.wcs.WCS
        Solution of the reference frame, celestial or linear.
    header_wcs : astropy.wcs.WCS or None
        World coordinates of the frame's header; None to match in pixels.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    limits : Limits
        Settings.

    Returns
    -------
    Solution or Refusal
    """
    base = reference_wcs if header_wcs is None else header_wcs
    expected = reference.xy
    if header_wcs is not None:
        world = pixel_to_sky(reference_wcs, reference.xy)
        expected = sky_to_pixel(header_wcs, world[:, 0], world[:, 1])
    there = _pick(Stars(expected, reference.err, reference.flux), np.isfinite(expected.sum(axis=1)))
    here, refusal = stars, Refusal("REGISTRATION", "")
    for _ in range(_FIXED_PATTERNS + 1):
        match = _match(here, there.xy, there.err, shape, limits)
        if isinstance(match, Refusal):
            return refusal if refusal.why else Refusal("REGISTRATION", match.why)
        share = _share_of_light(here, there, match, shape, 5 * limits.tolerance_px)
        if share >= _LEAST_LIGHT:
            break
        refusal = Refusal(
            "REGISTRATION",
            f"{len(match.source)} sources stay at a shift of {_moved(match, shape):.2f} px, but "
            f"the brightest ones do not ({100 * share:.0f} % of the light finds its "
            "counterpart): they belong to the detector, and no other pattern is common",
        )
        here = _pick(here, ~np.isin(np.arange(len(here)), match.source))
        there = _pick(there, ~np.isin(np.arange(len(there)), match.reference))
    else:
        return refusal
    if match.rms > limits.max_rms_px:
        return Refusal("REGISTRATION_POOR", _poor(match, limits.max_rms_px))
    return Solution(compose(base, match.transform, shape), match, match.transform)


def _pick(stars: Stars, keep: NDArray[np.bool_]) -> Stars:
    return Stars(stars.xy[keep], stars.err[keep], stars.flux[keep])


def _moved(match: Match, shape: tuple[int, int]) -> float:
    middle = np.array([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]])
    return float(np.hypot(*(match.transform(middle) - middle)[0]))


def _share_of_light(
    stars: Stars, reference: Stars, match: Match, shape: tuple[int, int], radius: float
) -> float:
    """Return how much of the light of the brightest sources finds its counterpart.

    Hot pixels form a perfect pattern that does not move with the sky. A match of such a
    pattern leaves the brightest stars of both lists without a counterpart anywhere near.
    """
    from scipy.spatial import cKDTree

    ny, nx = shape
    shares = []
    ahead, back = match.transform, match.transform.inverse()
    with np.errstate(all="ignore"):
        ratio = reference.flux[match.reference] / stars.flux[match.source]
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    scale = float(np.median(ratio)) if len(ratio) else 1.0
    for one, other, move in ((stars, reference, ahead), (reference, stars, back)):
        # Few stars do not reach to the edge of their frame.
        margin = 0.15 * max(shape)
        low, high = other.xy.min(axis=0) - margin, other.xy.max(axis=0) + margin
        if other is stars:
            low, high = np.zeros(2), np.array([nx - 1.0, ny - 1.0])
        moved = move(one.xy)
        inside = np.flatnonzero(((moved >= low) & (moved <= high)).all(axis=1))[:_BRIGHTEST]
        light = np.clip(np.nan_to_num(one.flux[inside]), 0, None)
        if not light.sum() > 0:
            continue
        distance, there = cKDTree(other.xy[: 20 * _BRIGHTEST]).query(moved[inside])
        alike = other.flux[there] * _ALIKE >= light * (scale if one is stars else 1 / scale)
        shares.append(float(light[(distance <= radius) & alike].sum() / light.sum()))
    return max(shares, default=1.0)


def _poor(match: Match, limit: float) -> str:
    return (
        f"residuals of {match.rms:.2f} px for {len(match.source)} stars, "
        f"astrometry.max_rms_px is {limit:g}"
    )


def solve(
    stars: Stars,
    catalog: RefCatalog,
    wcs: WCS,
    shape: tuple[int, int],
    limits: Limits,
    *,
    band: str = "",
) -> Solution | Refusal:
    """Solve a frame against a catalogue, starting from approximate world coordinates.

    Parameters
    ----------
    stars : Stars
        Stars of the frame.
    catalog : RefCatalog
        Reference stars at the epoch of the frame.
    wcs : astropy.wcs.WCS
        Approximate celestial coordinates; projection and distortion are kept.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    limits : Limits
        Settings.
    band : str
        Band by whose magnitudes the catalogue is sorted, if it has it.

    Returns
    -------
    Solution or Refusal
    """
    near, expected, mags = _expected(catalog, wcs, shape, limits, band)
    if len(near) < limits.minimum_matches:
        return Refusal(
            "NO_MATCH" if len(near) else "NO_REFERENCE",
            f"{len(near)} stars of {catalog.label} are near the frame, "
            f"{limits.minimum_matches} are needed",
        )
    scale = pixel_scale(wcs, shape)
    err = np.full(len(near), limits.catalog_error_arcsec / scale)
    match = _match(stars, expected, err, shape, limits)
    if isinstance(match, Refusal):
        return Refusal("NO_MATCH", f"{len(near)} stars of {catalog.label} near: {match.why}")
    zero = mags[match.reference] + 2.5 * np.log10(np.clip(stars.flux[match.source], 1e-9, None))
    zero = zero[np.isfinite(zero)]
    if len(zero) >= limits.minimum_matches:
        scatter = 1.4826 * float(np.median(np.abs(zero - np.median(zero))))
        if scatter > limits.max_mag_scatter:
            return Refusal(
                "NO_MATCH",
                f"the magnitudes of the {len(zero)} stars that match {catalog.label} scatter "
                f"by {scatter:.2f} mag, more than {limits.max_mag_scatter:g}",
            )
    match, step, distortion = with_distortion(
        stars.xy,
        stars.err,
        expected,
        err,
        match,
        wcs,
        shape,
        tolerance_px=limits.tolerance_px,
        max_order=limits.max_sip_order,
    )
    limit = max(limits.max_rms_px, 4 * float(err[0]))
    if match.rms > limit:
        return Refusal("NO_MATCH", _poor(match, limit))
    order = 0 if distortion is None else distortion.order
    return Solution(compose(wcs, step, shape, distortion), match, step, order)


def _expected(
    catalog: RefCatalog, wcs: WCS, shape: tuple[int, int], limits: Limits, band: str
) -> tuple[RefCatalog, NDArray[np.float64], NDArray[np.float64]]:
    """Catalogue stars on and around the frame with pixel positions, the brightest first."""
    ny, nx = shape
    reach = max(limits.search_radius_px, 0.75 * max(shape))
    scale = pixel_scale(wcs, shape) / 3600
    lon, lat = pixel_to_sky(wcs, np.array([[(nx - 1) / 2, (ny - 1) / 2]]))[0]
    near = catalog.near(lon, lat, 1.1 * (np.hypot(nx, ny) / 2 + reach) * scale)
    xy = sky_to_pixel(wcs, near.ra, near.dec) if len(near) else np.zeros((0, 2))
    inside = np.isfinite(xy).all(axis=1)
    inside &= ((xy > -reach) & (xy < np.array([nx, ny]) - 1 + reach)).all(axis=1)
    near, xy = near.take(np.flatnonzero(inside)), xy[inside]
    found = near.find_band(band) or (near.bands[0] if near.bands else None)
    mags = near.band(found)[0] if found else np.full(len(near), np.nan)
    order = np.argsort(np.nan_to_num(mags, nan=np.inf), kind="stable")
    return near.take(order), xy[order], mags[order]


def pointing_wcs(
    row: Mapping[str, Any], shape: tuple[int, int], scale_arcsec: float | None
) -> WCS | None:
    """Return a guess from the pointing of the telescope and a known pixel scale, or None."""
    from astropy.wcs import WCS

    ra, dec = row.get("ra_deg"), row.get("dec_deg")
    if scale_arcsec is None or ra in (None, "") or dec in (None, ""):
        return None
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [float(ra), float(dec)]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    wcs.wcs.set()
    return wcs
