"""Find where the pixels of a frame lie: on the sky, or relative to a reference frame.

A field has one coordinate system, that of its reference frame. The reference frame is
solved against the catalogue if there is one, else its header is taken at its word (and
this is said), else its own pixels are the coordinates. The other frames are aligned to
it by stars; with many catalogue stars each frame is solved on its own. Each rung that is
tried is recorded with what came of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.affine import identity
from skymill.blind import find_solver
from skymill.errors import Result, StepFailed
from skymill.few_stars import FEW
from skymill.ladder import Frame, by_blind_solver, by_catalog, catalog_method, tell
from skymill.solve import Limits, Refusal, Solution, Stars, align, pointing_wcs, star_arrays
from skymill.wcsmath import (
    kind_of,
    linear_wcs,
    orientation,
    pixel_scale,
    sane,
    wcs_from_text,
    wcs_to_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS

    from skymill.catalogs import RefCatalog

__all__ = ["astrometry"]

#: Sources fainter than this fraction of the brightest do not make a pattern of stars.
_FEW_DEPTH = 1 / 30


def astrometry(
    sources: Table,
    row: Mapping[str, Any],
    header_wcs: WCS | None,
    shape: tuple[int, int],
    reference: Table | None,
    reference_solution: Mapping[str, Any] | None,
    catalog: RefCatalog | None,
    *,
    mode: str = "auto",
    search_radius_px: float = 100.0,
    tolerance_px: float = 2.0,
    minimum_matches: int = 3,
    max_rms_px: float = 1.0,
    max_sip_order: int = 3,
    projection: str = "auto",
    max_scale_error: float = 0.05,
    max_false_matches: float = 1e-3,
    mirrored: bool = True,
    catalog_error_arcsec: float = 0.2,
    max_mag_scatter: float = 1.0,
    independent_matches: int = 20,
    pixel_scale_arcsec: float | None = None,
    blind: str = "auto",
    blind_time_limit_s: float = 60.0,
    transform: str = "affine",
    max_rotation_deg: float | None = None,
    max_scale_ratio: float | None = None,
    max_translation_px: float | Sequence[float] | None = None,
    few_stars: bool = True,
    max_false_few: float = 0.05,
) -> Result[dict[str, Any]]:
    """Solve one frame.

    Parameters
    ----------
    sources : astropy.table.Table
        Sources of the frame (x, y, flux; x_err, y_err, fwhm, flags are used if there).
    row : mapping
        Its row of the sheet: frame_id, filter, mjd_mid, ra_deg, dec_deg.
    header_wcs : astropy.wcs.WCS or None
        World coordinates of the header, moved to the trimmed frame.
    shape : tuple of int
        Shape (ny, nx) of the trimmed frame.
    reference : astropy.table.Table or None
        Reference lists of the field; only stars of the best frame are used.
    reference_solution : mapping or None
        What this step returned for the reference frame; None if this is the reference
        frame.
    catalog : RefCatalog or None
        Local reference catalogue.
    mode : str
        ``auto``, or ``align_only``: neither header nor catalogue is looked at, and positions
        are pixels of the reference frame.
    search_radius_px, tolerance_px, minimum_matches, max_rms_px, max_sip_order, projection, \
max_scale_error, max_false_matches, mirrored, catalog_error_arcsec, max_mag_scatter
        See `skymill.star_lists.Limits`.
    independent_matches : int
        A frame with at least this many catalogue stars is solved by them, with fewer
        it is aligned to the reference frame, which all its stars determine better.
    pixel_scale_arcsec : float, optional
        Pixel scale for frames without world coordinates, to start from the pointing.
    blind, blind_time_limit_s : str and float
        ``auto``, ``never`` or the path of ``solve-field``, and its CPU time.
    transform : str
        ``affine`` or ``translation``, for the alignment to the reference frame.
    max_rotation_deg, max_scale_ratio, max_translation_px : float, optional
        Limits of the map from a frame's pixels to those of its reference frame: rotation
        to either side; scale between the inverse and the ratio; displacement of the
        middle of the frame along each axis (one number or two). None is no limit.
    few_stars, max_false_few : bool and float
        Align frames of one to three stars by a shift, if chance gives no more than this
        many as good.

    Returns
    -------
    Result of dict
        frame_id, solution (``absolute``, ``header``, ``relative``), method, ladder (a
        line for each rung), wcs (cards), projection, order, n_match, n_rejected, rms_px,
        rms_x_px, rms_y_px, holdout_rms_px and rms_arcsec (per axis), variance_ratio,
        middle_err_px, scale_err, rotation_err_deg, covariance (see
        `skymill.solution_errors`), expected_false, shift_px (of the middle of the frame
        from where it was expected), rotation_deg, scale_arcsec_px, parity (see
        `skymill.wcsmath.orientation`), reference. Unknown figures are NaN.

    Raises
    ------
    StepFailed
        NO_STARS, FEW_STARS, NO_MATCH, REGISTRATION or REGISTRATION_POOR, with the ladder
        among its numbers.
    """
    limits = Limits(
        search_radius_px,
        tolerance_px,
        minimum_matches,
        max_rms_px,
        max_sip_order,
        max_scale_error,
        max_false_matches,
        mirrored,
        catalog_error_arcsec,
        max_mag_scatter,
        projection,
        transform,
        180.0 if max_rotation_deg is None else max_rotation_deg,
        math.inf if max_scale_ratio is None else max_scale_ratio,
        _two(max_translation_px),
        max_false_few,
    )
    if mode == "align_only":
        header_wcs, catalog, blind, pixel_scale_arcsec = None, None, "never", None
    frame_id = str(row["frame_id"])
    if reference_solution is not None and reference_solution["frame_id"] == frame_id:
        return _result(dict(reference_solution), [], {})
    stars = star_arrays(sources)
    broad = star_arrays(sources, broad=True) if few_stars else stars
    if not len(broad):
        raise StepFailed("NO_STARS", f"{frame_id}: no star to align by", n_stars=0)
    frame = Frame(
        frame_id,
        stars,
        broad,
        shape,
        band=str(row.get("filter") or ""),
        few=few_stars,
        solver=find_solver(blind),
        blind=blind,
        blind_time_limit_s=blind_time_limit_s,
        scale_arcsec=pixel_scale_arcsec,
    )
    wrong = sane(header_wcs, shape)
    frame.note("header", "refused" if wrong else "sane", wrong)
    frame.header = None if wrong else header_wcs
    frame.start = frame.header or pointing_wcs(row, shape, pixel_scale_arcsec)
    if catalog is not None:
        catalog = catalog.at_mjd(row.get("mjd_mid"))
    if reference_solution is None:
        return _solve_reference(frame, catalog, limits)
    if reference is None:
        raise ValueError("a reference solution needs the stars of the reference frame")
    return _solve_frame(frame, reference, reference_solution, catalog, limits, independent_matches)


def _two(value: float | Sequence[float] | None) -> tuple[float, float]:
    if value is None:
        return (math.inf, math.inf)
    if isinstance(value, (int, float)):
        return (float(value), float(value))
    x, y = value
    return (float(x), float(y))


def _solve_reference(
    frame: Frame, catalog: RefCatalog | None, limits: Limits
) -> Result[dict[str, Any]]:
    """Solve the reference frame: catalogue, else header, else its own pixels."""
    flags = []
    found = by_catalog(frame, catalog, limits)
    if isinstance(found, Solution) and catalog is not None:
        return _solved(frame, "absolute", catalog_method(found), found, catalog.label, [])
    lost = by_blind_solver(frame, catalog, limits)
    if isinstance(lost, Solution) and catalog is not None:
        method = catalog_method(lost, "blind+catalogue")
        return _solved(frame, "absolute", method, lost, catalog.label, [])
    if isinstance(found, Refusal):
        flags.append((found.code, f"{frame.frame_id}: not solved by the catalogue: {found.why}"))
    if isinstance(lost, Refusal) and lost.code.startswith("TOOL"):
        flags.append((lost.code, f"{frame.frame_id}: no blind solution: {lost.why}"))
    wcs = frame.header if frame.header is not None else linear_wcs(identity())
    kind = "relative" if frame.header is None else "header"
    method = "pixels" if frame.header is None else "header"
    frame.note(method, "taken", "checked against nothing")
    row = _row(frame, kind, method, wcs, frame.frame_id)
    row |= {"n_match": 0, "shift_px": 0.0, "rotation_deg": 0.0}
    return _result(row, flags, {})


def _solve_frame(
    frame: Frame,
    lists: Table,
    reference_solution: Mapping[str, Any],
    catalog: RefCatalog | None,
    limits: Limits,
    independent: int,
) -> Result[dict[str, Any]]:
    """Solve a frame in the coordinate system of its reference frame."""
    kind = str(reference_solution["solution"])
    own = by_catalog(frame, catalog, limits) if kind == "absolute" else None
    if isinstance(own, Solution) and catalog is not None and len(own.match.source) >= independent:
        return _solved(frame, "absolute", catalog_method(own), own, catalog.label, [])
    name = str(reference_solution["frame_id"])
    best = lists[np.asarray(lists["best"], dtype=bool)]
    found, flags = _aligned(frame, best, reference_solution, limits)
    if isinstance(found, Solution):
        method = "aligned+reference" if kind == "absolute" else "stars"
        if kind == "header" and frame.header is not None and not flags:
            method = "header+stars"
        if found.match.search.name == "few":
            method = "few stars"
        return _solved(frame, kind, method, found, name, flags)
    if isinstance(own, Solution) and catalog is not None:
        return _solved(frame, "absolute", catalog_method(own), own, catalog.label, [])
    lost = by_blind_solver(frame, catalog, limits) if kind == "absolute" else None
    if isinstance(lost, Solution) and catalog is not None:
        method = catalog_method(lost, "blind+catalogue")
        return _solved(frame, "absolute", method, lost, catalog.label, [])
    n_stars, n_reference = len(frame.stars), len(star_arrays(best))
    text = f"{frame.frame_id}: cannot be aligned to {name}: {found.why}"
    if isinstance(own, Refusal):
        text += f"; nor solved by the catalogue: {own.why}"
    numbers = {"n_stars": n_stars, "n_reference": n_reference, "ladder": frame.ladder}
    if n_stars < limits.minimum_matches:
        text = (
            f"{frame.frame_id}: {n_stars} stars, {limits.minimum_matches} are needed to align it "
            f"to {name} by their pattern; {found.why}"
        )
        raise StepFailed("FEW_STARS", text, **numbers)
    raise StepFailed(found.code, text, **numbers)


def _aligned(
    frame: Frame, best: Table, reference_solution: Mapping[str, Any], limits: Limits
) -> tuple[Solution | Refusal, list[tuple[str, str]]]:
    """Align by the header's expectation, else by the bare pattern, else by a few stars."""
    wcs = wcs_from_text(str(reference_solution["wcs"]))
    name = str(reference_solution["frame_id"])
    stars, reference = frame.stars, star_arrays(best)
    sky = wcs.has_celestial and frame.header is not None
    if sky:
        found = align(stars, reference, wcs, frame.header, frame.shape, limits)
        tell(frame, "reference by header", found)
        if isinstance(found, Solution):
            return found, []
    found = align(stars, reference, wcs, None, frame.shape, limits)
    tell(frame, "reference by pattern", found)
    if isinstance(found, Solution):
        text = (
            f"{frame.frame_id}: the header's world coordinates do not lead to the stars of "
            f"{name}, their pattern does"
        )
        return found, [("WCS_OUTLIER", text)] if sky else []
    many = star_arrays(best, broad=True)
    if not (frame.few and _is_few(frame.broad) and _is_few(many)):
        return found, []
    few = align(
        frame.broad, many, wcs, frame.header if sky else None, frame.shape, limits, few=True
    )
    tell(frame, "few stars", few)
    if isinstance(few, Refusal):
        return few, []
    match = few.match
    text = (
        f"{frame.frame_id}: aligned to {name} by a shift, with {len(match.source)} of "
        f"{len(frame.broad)} sources; {match.expected_false:.2g} such shifts are expected by chance"
    )
    return few, [("FEW_STARS", text)]


def _is_few(stars: Stars) -> bool:
    """A list of few stars, or of few that are not faint beside them."""
    if len(stars) <= FEW:
        return True
    return int((stars.flux >= _FEW_DEPTH * stars.flux[0]).sum()) <= FEW


def _row(frame: Frame, solution: str, method: str, wcs: WCS, reference: str) -> dict[str, Any]:
    angle, parity = orientation(wcs, frame.shape)
    nan = float("nan")
    figures = ("rms_px", "rms_x_px", "rms_y_px", "holdout_rms_px", "rms_arcsec", "variance_ratio")
    errors = ("middle_err_px", "scale_err", "rotation_err_deg", "expected_false", "shift_px")
    return {
        "frame_id": frame.frame_id,
        "solution": solution,
        "method": method,
        "ladder": frame.ladder,
        "wcs": wcs_to_text(wcs),
        "projection": kind_of(wcs),
        "order": 0,
        "n_match": 0,
        "n_rejected": 0,
        **dict.fromkeys((*figures, *errors), nan),
        "covariance": "",
        "rotation_deg": angle,
        "scale_arcsec_px": pixel_scale(wcs, frame.shape),
        "parity": parity,
        "reference": reference,
    }


def _solved(
    frame: Frame,
    kind: str,
    method: str,
    found: Solution,
    reference: str,
    flags: list[tuple[str, str]],
) -> Result[dict[str, Any]]:
    row = _row(frame, kind, method, found.wcs, reference)
    middle = np.array([[(frame.shape[1] - 1) / 2, (frame.shape[0] - 1) / 2]])
    moved = (found.step(middle) - middle)[0]
    row |= {
        "n_match": len(found.match.source),
        "order": found.sip_order,
        "rms_px": found.match.rms,
        "rms_arcsec": found.match.rms * row["scale_arcsec_px"],
        "shift_px": float(np.hypot(*moved)),
        "rotation_deg": found.step.rotation_deg,
        "expected_false": float(f"{found.match.expected_false:.3g}"),
    }
    if found.quality is not None:
        row |= vars(found.quality)
    extra = {
        "expected_false": row["expected_false"],
        "search": found.match.search.name,
        "terms": found.match.kind,
        "sip_order": found.sip_order,
        "n_stars": len(frame.stars),
    }
    if found.conversion_px > 0:
        extra["conversion_px"] = float(f"{found.conversion_px:.3g}")
    return _result(row, flags, extra)


def _result(
    row: dict[str, Any], flags: list[tuple[str, str]], extra: dict[str, Any]
) -> Result[dict[str, Any]]:
    """Add what must be said of the kind of solution."""
    name = row["frame_id"]
    if row["solution"] == "relative":
        text = f"{name}: positions are pixels of {row['reference']}, not on the sky"
        flags = [*flags, ("WCS_RELATIVE", text)]
    if row["solution"] == "header":
        text = f"{name}: the sky positions are those of the header and were not checked"
        flags = [*flags, ("WCS_UNVERIFIED", text)]
    fit = ("n_match", "n_rejected", "rms_px", "rms_x_px", "rms_y_px", "holdout_rms_px")
    where = ("rms_arcsec", "middle_err_px", "shift_px", "rotation_deg")
    numbers: dict[str, Any] = {key: _plain(row.get(key)) for key in (*fit, *where)}
    numbers |= {"solution": row["solution"], "method": row["method"], **extra}
    numbers |= {"ladder": row.get("ladder", "")}
    return Result(row, tuple(flags), numbers)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
