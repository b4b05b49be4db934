"""Find where the pixels of a frame lie: on the sky, or relative to a reference frame.

A field has one coordinate system, that of its reference frame. The reference frame is
solved against the catalogue if there is one, else its header is taken at its word (and
this is said), else its own pixels are the coordinates. The other frames are aligned to
it by stars; with many catalogue stars each frame is solved on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.affine import identity
from skymill.errors import Result, StepFailed
from skymill.solve import (
    Limits,
    Refusal,
    Solution,
    Stars,
    align,
    pointing_wcs,
    solve,
    star_arrays,
)
from skymill.wcsmath import (
    linear_wcs,
    orientation,
    pixel_scale,
    sane,
    wcs_from_text,
    wcs_to_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from astropy.wcs import WCS

    from skymill.catalogs import RefCatalog

__all__ = ["astrometry"]


def astrometry(
    sources: Table,
    row: Mapping[str, Any],
    header_wcs: WCS | None,
    shape: tuple[int, int],
    reference: Table | None,
    reference_solution: Mapping[str, Any] | None,
    catalog: RefCatalog | None,
    *,
    search_radius_px: float = 100.0,
    tolerance_px: float = 2.0,
    minimum_matches: int = 3,
    max_rms_px: float = 1.0,
    max_sip_order: int = 3,
    max_scale_error: float = 0.05,
    max_false_matches: float = 1e-3,
    mirrored: bool = True,
    catalog_error_arcsec: float = 0.2,
    max_mag_scatter: float = 1.0,
    independent_matches: int = 20,
    pixel_scale_arcsec: float | None = None,
) -> Result[dict[str, Any]]:
    """Solve one frame.

    Parameters
    ----------
    sources : astropy.table.Table
        Sources of the frame (x, y, flux; x_err, y_err are used if there).
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
    search_radius_px, tolerance_px, minimum_matches, max_rms_px, max_sip_order,
    max_scale_error, max_false_matches, mirrored, catalog_error_arcsec, max_mag_scatter
        See `skymill.solve.Limits`.
    independent_matches : int
        A frame with at least this many catalogue stars is solved by them, with fewer
        it is aligned to the reference frame, which all its stars determine better.
    pixel_scale_arcsec : float, optional
        Pixel scale for frames without world coordinates, to start from the pointing.

    Returns
    -------
    Result of dict
        frame_id, solution (``absolute``, ``header``, ``relative``), method, wcs (cards),
        n_match, rms_px and rms_arcsec (per axis), shift_px (of the middle of the frame from
        where it was expected), rotation_deg, scale_arcsec_px, parity (see
        `skymill.wcsmath.orientation`), reference. Unknown figures are NaN.

    Raises
    ------
    StepFailed
        NO_STARS, FEW_STARS, NO_MATCH, REGISTRATION or REGISTRATION_POOR.
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
    )
    frame_id = str(row["frame_id"])
    if reference_solution is not None and reference_solution["frame_id"] == frame_id:
        return _result(dict(reference_solution), [], {})
    stars = star_arrays(sources)
    if not len(stars):
        raise StepFailed("NO_STARS", f"{frame_id}: no star to align by", n_stars=0)
    why_not = sane(header_wcs, shape)
    header = None if why_not else header_wcs
    start = header if header is not None else pointing_wcs(row, shape, pixel_scale_arcsec)
    frame = _Frame(frame_id, stars, shape, header, start, str(row.get("filter") or ""))
    if catalog is not None:
        catalog = catalog.at_mjd(row.get("mjd_mid"))
    if reference_solution is None:
        return _solve_reference(frame, catalog, limits)
    if reference is None:
        raise ValueError("a reference solution needs the stars of the reference frame")
    return _solve_frame(
        frame, _best_stars(reference), reference_solution, catalog, limits, independent_matches
    )


class _Frame:
    """What is known of the frame that is solved."""

    def __init__(
        self,
        frame_id: str,
        stars: Stars,
        shape: tuple[int, int],
        header: WCS | None,
        start: WCS | None,
        band: str,
    ) -> None:
        self.frame_id, self.stars, self.shape = frame_id, stars, shape
        self.header, self.start, self.band = header, start, band


def _best_stars(reference: Table) -> Stars:
    return star_arrays(reference[np.asarray(reference["best"], dtype=bool)])


def _by_catalog(
    frame: _Frame, catalog: RefCatalog | None, limits: Limits
) -> Solution | Refusal | None:
    """Solve against the catalogue; None if there is nothing to start from."""
    if catalog is None:
        return None
    if frame.start is None:
        text = "neither world coordinates nor a pointing with pixel_scale_arcsec to start from"
        return Refusal("NO_WCS", text)
    return solve(frame.stars, catalog, frame.start, frame.shape, limits, band=frame.band)


def _solve_reference(
    frame: _Frame, catalog: RefCatalog | None, limits: Limits
) -> Result[dict[str, Any]]:
    """Solve the reference frame: catalogue, else header, else its own pixels."""
    flags = []
    found = _by_catalog(frame, catalog, limits)
    if isinstance(found, Solution) and catalog is not None:
        method = f"catalogue+sip{found.sip_order}" if found.sip_order else "catalogue"
        return _solved(frame, "absolute", method, found, catalog.label, [])
    if isinstance(found, Refusal):
        flags.append((found.code, f"{frame.frame_id}: not solved by the catalogue: {found.why}"))
    wcs = frame.header if frame.header is not None else linear_wcs(identity())
    kind = "relative" if frame.header is None else "header"
    method = "pixels" if frame.header is None else "header"
    row = _row(frame, kind, method, wcs, frame.frame_id)
    row |= {"n_match": 0, "shift_px": 0.0, "rotation_deg": 0.0}
    return _result(row, flags, {})


def _solve_frame(
    frame: _Frame,
    reference: Stars,
    reference_solution: Mapping[str, Any],
    catalog: RefCatalog | None,
    limits: Limits,
    independent: int,
) -> Result[dict[str, Any]]:
    """Solve a frame in the coordinate system of its reference frame."""
    kind = str(reference_solution["solution"])
    own = _by_catalog(frame, catalog, limits) if kind == "absolute" else None
    if isinstance(own, Solution) and catalog is not None and len(own.match.source) >= independent:
        method = f"catalogue+sip{own.sip_order}" if own.sip_order else "catalogue"
        return _solved(frame, "absolute", method, own, catalog.label, [])
    name = str(reference_solution["frame_id"])
    found, flags = _aligned(frame, reference, reference_solution, limits)
    if isinstance(found, Solution):
        method = "aligned+reference" if kind == "absolute" else "stars"
        if kind == "header" and frame.header is not None and not flags:
            method = "header+stars"
        return _solved(frame, kind, method, found, name, flags)
    if isinstance(own, Solution) and catalog is not None:
        return _solved(frame, "absolute", "catalogue", own, catalog.label, [])
    if len(frame.stars) < limits.minimum_matches:
        raise StepFailed(
            "FEW_STARS",
            f"{frame.frame_id}: {len(frame.stars)} stars, {limits.minimum_matches} are needed to "
            f"align it to {name}",
            n_stars=len(frame.stars),
        )
    text = f"{frame.frame_id}: cannot be aligned to {name}: {found.why}"
    if isinstance(own, Refusal):
        text += f"; nor solved by the catalogue: {own.why}"
    raise StepFailed(found.code, text, n_stars=len(frame.stars), n_reference=len(reference))


def _aligned(
    frame: _Frame, reference: Stars, reference_solution: Mapping[str, Any], limits: Limits
) -> tuple[Solution | Refusal, list[tuple[str, str]]]:
    """Align by the header's expectation, else by the bare pattern of the stars."""
    wcs = wcs_from_text(str(reference_solution["wcs"]))
    first: Solution | Refusal | None = None
    if wcs.has_celestial and frame.header is not None:
        first = align(frame.stars, reference, wcs, frame.header, frame.shape, limits)
        if isinstance(first, Solution):
            return first, []
    found = align(frame.stars, reference, wcs, None, frame.shape, limits)
    if isinstance(found, Solution) and first is not None:
        text = (
            f"{frame.frame_id}: the header's world coordinates do not lead to the stars of "
            f"{reference_solution['frame_id']}, their pattern does"
        )
        return found, [("WCS_OUTLIER", text)]
    return found, []


def _row(frame: _Frame, solution: str, method: str, wcs: WCS, reference: str) -> dict[str, Any]:
    angle, parity = orientation(wcs, frame.shape)
    nan = float("nan")
    return {
        "frame_id": frame.frame_id,
        "solution": solution,
        "method": method,
        "wcs": wcs_to_text(wcs),
        "n_match": 0,
        "rms_px": nan,
        "rms_arcsec": nan,
        "shift_px": nan,
        "rotation_deg": angle,
        "scale_arcsec_px": pixel_scale(wcs, frame.shape),
        "parity": parity,
        "reference": reference,
    }


def _solved(
    frame: _Frame,
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
        "rms_px": found.match.rms,
        "rms_arcsec": found.match.rms * row["scale_arcsec_px"],
        "shift_px": float(np.hypot(*moved)),
        "rotation_deg": found.step.rotation_deg,
    }
    extra = {
        "expected_false": float(f"{found.match.expected_false:.3g}"),
        "search": found.match.search.name,
        "terms": found.match.kind,
        "sip_order": found.sip_order,
        "n_stars": len(frame.stars),
    }
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
    keys = ("n_match", "rms_px", "rms_arcsec", "shift_px", "rotation_deg")
    numbers: dict[str, Any] = {key: _plain(row[key]) for key in keys}
    numbers |= {"solution": row["solution"], "method": row["method"], **extra}
    return Result(row, tuple(flags), numbers)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
