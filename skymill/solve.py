"""From matched stars to world coordinates: against a catalogue, or to a reference frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.affine import fit_affine
from skymill.distortion import with_distortion
from skymill.few_stars import match_few
from skymill.matching import Match, Search, match_lists, refine, searches
from skymill.solution_errors import measure
from skymill.star_lists import Limits, Refusal, Solution, Stars, pick, star_arrays
from skymill.tpv import composed, convert
from skymill.wcsmath import kind_of, pixel_scale, pixel_to_sky, sky_to_pixel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.wcs import WCS
    from numpy.typing import NDArray

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

#: A match must bring together this share of the light of the brightest sources, else it
#: is taken for one of hot pixels, which are then left out, so many times.
_LEAST_LIGHT = 0.3
_BRIGHTEST = 10
#: A counterpart is at most this many times fainter, after the ratio of matched stars.
_ALIKE = 30.0
_FIXED_PATTERNS = 2
#: Without world coordinates a shift of few stars is sought within this part of the frame.
_FEW_REACH = 0.5


def _match(
    stars: Stars,
    expected: NDArray[np.float64],
    expected_err: NDArray[np.float64],
    shape: tuple[int, int],
    limits: Limits,
    plan: list[Search] | None = None,
) -> Match | Refusal:
    """Match stars with their expected positions and fit all of them."""
    plan = plan or searches(
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
        most="shift" if limits.transform == "translation" else "affine",
    )


def align(
    stars: Stars,
    reference: Stars,
    reference_wcs: WCS,
    header_wcs: WCS | None,
    shape: tuple[int, int],
    limits: Limits,
    *,
    few: bool = False,
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
        Settings. Those of rotation, scale and translation hold for the map from the pixels
        of the frame to those of the reference frame.
    few : bool
        Match one to three stars by a shift, instead of a pattern.

    Returns
    -------
    Solution or Refusal
    """
    base = reference_wcs if header_wcs is None else header_wcs
    expected = reference.xy
    if header_wcs is not None:
        world = pixel_to_sky(reference_wcs, reference.xy)
        expected = sky_to_pixel(header_wcs, world[:, 0], world[:, 1])
    there = Stars(expected, reference.err, reference.flux)
    there = pick(there, np.isfinite(expected).all(axis=1))
    # A translation is found near, far, or after a half turn (of the mount at the meridian).
    plan = searches(shape, near_px=limits.search_radius_px, max_scale=limits.max_scale_error)
    if few:
        reach = _FEW_REACH * max(shape) if header_wcs is None else limits.search_radius_px
        match = match_few(stars, there, shape, limits, reach_px=reach)
    elif limits.transform == "translation":
        match = _moving(stars, there, shape, limits, [replace(s, max_scale=0.0) for s in plan[:3]])
    else:
        match = _moving(stars, there, shape, limits, None)
    if isinstance(match, Refusal):
        return Refusal("REGISTRATION", match.why)
    if match.rms > limits.max_rms_px:
        return Refusal("REGISTRATION_POOR", _poor(match, limits.max_rms_px))
    wcs, _ = composed(base, match.transform, shape)
    wrong = _beyond(wcs, reference_wcs, shape, limits)
    if wrong:
        return Refusal("REGISTRATION", wrong)
    step = match.transform
    quality = measure(
        stars.xy, stars.err, there.xy, there.err, match, step, step, 0, shape, limits.tolerance_px
    )
    return Solution(wcs, match, step, quality=quality)


def _moving(
    stars: Stars, reference: Stars, shape: tuple[int, int], limits: Limits, plan: Any
) -> Match | Refusal:
    """Match patterns that move with the sky; those of the detector are left out in turn.

    The indices of the match are those of the lists that were given.
    """
    here = np.arange(len(stars))
    there = np.arange(len(reference))
    refusal = Refusal("REGISTRATION", "")
    for _ in range(_FIXED_PATTERNS + 1):
        one, two = pick(stars, here), pick(reference, there)
        match = _match(one, two.xy, two.err, shape, limits, plan)
        if isinstance(match, Refusal):
            return refusal if refusal.why else match
        share = _share_of_light(one, two, match, shape, 5 * limits.tolerance_px)
        whole = replace(match, source=here[match.source], reference=there[match.reference])
        if share >= _LEAST_LIGHT:
            return whole
        refusal = Refusal(
            "REGISTRATION",
            f"{len(match.source)} sources stay at a shift of {_moved(match, shape):.2f} px, but "
            f"the brightest ones do not ({100 * share:.0f} % of the light finds its "
            "counterpart): they belong to the detector, and no other pattern is common",
        )
        here = np.setdiff1d(here, whole.source)
        there = np.setdiff1d(there, whole.reference)
    return refusal


def _moved(match: Match, shape: tuple[int, int]) -> float:
    middle = np.array([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]])
    return float(np.hypot(*(match.transform(middle) - middle)[0]))


def _beyond(wcs: WCS, reference_wcs: WCS, shape: tuple[int, int], limits: Limits) -> str:
    """Say which limit the map from a frame to its reference frame exceeds, if one does."""
    ny, nx = shape
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2])
    frame = middle + np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]]) * middle / 2
    world = pixel_to_sky(wcs, frame)
    there = sky_to_pixel(reference_wcs, world[:, 0], world[:, 1])
    if not np.isfinite(there).all():
        return "the frame does not lie near the reference frame"
    step = fit_affine(frame, there, "affine")
    shift = step(middle[None, :])[0] - middle
    if abs(step.rotation_deg) > limits.max_rotation_deg:
        return (
            f"a rotation of {step.rotation_deg:.2f} deg, astrometry.max_rotation_deg is "
            f"{limits.max_rotation_deg:g}"
        )
    ratio = max(step.scale, 1 / step.scale)
    if ratio > limits.max_scale_ratio:
        return (
            f"a scale ratio of {step.scale:.5f}, astrometry.max_scale_ratio is "
            f"{limits.max_scale_ratio:g} and its inverse"
        )
    if (np.abs(shift) > limits.max_translation_px).any():
        return (
            f"a translation of ({shift[0]:.1f}, {shift[1]:.1f}) px, "
            "astrometry.max_translation_px is "
            f"({limits.max_translation_px[0]:g}, {limits.max_translation_px[1]:g})"
        )
    return ""


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
        Approximate celestial coordinates; distortion is kept, and the projection too
        unless ``limits.projection`` names another.
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
    conversion = 0.0
    if limits.projection == "tan":
        # The distortion of a start that is wrong by a shift is no error of the conversion.
        wcs, _ = convert(wcs, shape, "tan")
    elif limits.projection != "auto" and not _plain_start(wcs):
        wcs, conversion = convert(wcs, shape, "tpv" if limits.projection == "tpv" else "sip")
    near, expected, mags = _expected(catalog, wcs, shape, limits, band)
    if len(near) < limits.minimum_matches:
        return Refusal(
            "NO_MATCH" if len(near) else "NO_REFERENCE",
            f"{len(near)} stars of {catalog.label} are near the frame, "
            f"{limits.minimum_matches} are needed",
        )
    err = _catalog_errors(near, limits.catalog_error_arcsec) / pixel_scale(wcs, shape)
    match = _match(stars, expected, err, shape, replace(limits, transform="affine"))
    if isinstance(match, Refusal):
        return Refusal("NO_MATCH", f"{len(near)} stars of {catalog.label} near: {match.why}")
    scatter = _mag_scatter(stars, mags, match, limits)
    if scatter:
        return Refusal("NO_MATCH", f"{catalog.label}: {scatter}")
    order = 1 if limits.projection == "tan" else limits.max_sip_order
    match, step, bent = with_distortion(
        stars.xy,
        stars.err,
        expected,
        err,
        match,
        wcs,
        shape,
        tolerance_px=limits.tolerance_px,
        max_order=order,
    )
    limit = max(limits.max_rms_px, 4 * float(np.median(err)))
    if match.rms > limit:
        return Refusal("NO_MATCH", _poor(match, limit))
    solved, error = composed(wcs, step, shape, bent)
    if limits.projection in ("sip", "tpv") and bent is not None:
        solved, again = convert(solved, shape, "tpv" if limits.projection == "tpv" else "sip")
        error += again
    order = 0 if bent is None else bent.order
    model = step if bent is None else (lambda xy: step(bent(xy)))
    quality = measure(
        *(stars.xy, stars.err, expected, err, match, model, step, order, shape),
        limits.tolerance_px,
    )
    return Solution(solved, match, step, order, quality, conversion + error)


def _plain_start(wcs: WCS) -> bool:
    """A plane projection takes any distortion that is fitted on top."""
    return kind_of(wcs) == "tan"


def _catalog_errors(catalog: RefCatalog, floor_arcsec: float) -> NDArray[np.float64]:
    """Position errors of catalogue stars per axis in arcsec; a star without one gets the floor.

    Catalogues that give errors of their own are believed no further than that.
    """
    own = getattr(catalog, "position_err", None)
    if own is None:
        return np.full(len(catalog), floor_arcsec)
    return np.hypot(floor_arcsec, np.nan_to_num(np.asarray(own, float)))


def _mag_scatter(stars: Stars, mags: NDArray[np.float64], match: Match, limits: Limits) -> str:
    """Say so if the magnitudes of the matched stars have nothing to do with each other."""
    zero = mags[match.reference] + 2.5 * np.log10(np.clip(stars.flux[match.source], 1e-9, None))
    zero = zero[np.isfinite(zero)]
    if len(zero) < limits.minimum_matches:
        return ""
    scatter = 1.4826 * float(np.median(np.abs(zero - np.median(zero))))
    if scatter <= limits.max_mag_scatter:
        return ""
    return (
        f"the magnitudes of the {len(zero)} stars that match scatter by {scatter:.2f} mag, "
        f"more than {limits.max_mag_scatter:g}"
    )


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
