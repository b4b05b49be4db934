"""Rule astrometry: where the frames of a block point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.catalogs import read_catalog
from skymill.errors import Result, StepFailed
from skymill.jobs.frames import frame_file
from skymill.jobs.tables import by_frame, catalog_inputs, chosen, from_records, table_inputs
from skymill.steps.astrometry import astrometry
from skymill.steps.sources import empty_sources_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table

__all__ = ["astrometry_block", "reference_solution"]

#: Columns of the sources that the step looks at: to take a wide table apart takes long.
_USED = ("x", "y", "x_err", "y_err", "flux", "fwhm", "flags")
#: What every frame has without a reference catalogue.
_WITHOUT_CATALOG = ("WCS_UNVERIFIED", "WCS_RELATIVE")
#: Columns of the table: type, unit, description.
_COLUMNS: dict[str, tuple[str, str | None, str]] = {
    "frame_id": ("U", None, "frame"),
    "solution": ("U", None, "absolute, header, relative or none"),
    "method": ("U", None, "how the solution was found"),
    "ladder": ("U", None, "what was tried, one rung per line"),
    "reference": ("U", None, "catalogue or frame that it refers to"),
    "projection": ("U", None, "tan, sip, tpv, other, or linear if not on the sky"),
    "order": ("i8", None, "order of the polynomial that was fitted, 0 if none"),
    "n_match": ("i8", None, "stars matched"),
    "n_rejected": ("i8", None, "stars left out as outliers"),
    "rms_px": ("f8", "pix", "residual of the matched stars, per axis"),
    "rms_x_px": ("f8", "pix", "residual along the first axis"),
    "rms_y_px": ("f8", "pix", "residual along the second axis"),
    "holdout_rms_px": ("f8", "pix", "residual of stars left out of the fit, per axis"),
    "variance_ratio": ("f8", None, "mean square of residual over assumed error"),
    "middle_err_px": ("f8", "pix", "error of the position of the middle, per axis"),
    "scale_err": ("f8", None, "relative error of the pixel scale"),
    "rotation_err_deg": ("f8", "deg", "error of the rotation"),
    "covariance": ("U", None, "covariance of the terms, see position_error"),
    "expected_false": ("f8", None, "equally good matches expected by chance"),
    "rms_arcsec": ("f8", "arcsec", "residual of the matched stars, per axis"),
    "shift_px": ("f8", "pix", "shift from where the frame was expected"),
    "rotation_deg": ("f8", "deg", "rotation from what was expected"),
    "scale_arcsec_px": ("f8", "arcsec / pix", "pixel scale"),
    "parity": ("f8", None, "sign of the determinant: -1 as on the sky"),
    "nx": ("i8", "pix", "width of the frame"),
    "ny": ("i8", "pix", "height of the frame"),
    "wcs": ("U", None, "world coordinates as FITS cards"),
}


def astrometry_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    sources: str | Path,
    calibrated: str | Path,
    reference: str | Path,
    upstream: str | Path,
    catalog: Sequence[str],
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Solve the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    sources, calibrated : str or Path
        Table of sources and folder of the calibrated frames (for the header's WCS).
    reference : str or Path
        Reference frames of the field.
    upstream : str or Path
        Outcomes of ``sources``.
    catalog : sequence of str
        The reference catalogue, or nothing.
    table, outcomes : str or Path
        Table of solutions and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    found = by_frame(chosen(io.read_table(sources), _USED))
    stars = io.read_table(reference)
    best = reference_solution(stars)
    known = read_catalog(catalog[0]) if catalog else None
    empty = empty_sources_table()
    ladders: dict[str, str] = {}

    def work(row: Mapping[str, Any]) -> Result[dict[str, Any]]:
        name = str(row["frame_id"])
        wcs, shape = io.read_geometry(frame_file(calibrated, name))
        mine = found.get(name, empty)
        is_best = best is not None and best["frame_id"] == name
        lists = None if is_best or best is None else stars
        try:
            result = astrometry(
                mine, row, wcs, shape, lists, None if is_best else best, known, **settings
            )
        except StepFailed as failure:
            ladders[name] = str(failure.numbers.get("ladder") or "")
            raise
        value = {**result.value, "ny": shape[0], "nx": shape[1]}
        # Without a catalogue nothing better was asked for; the reference frame says it once.
        flags = [flag for flag in result.flags if known or flag[0] not in _WITHOUT_CATALOG]
        return Result(value, tuple(flags), result.numbers)

    solved = run_block("astrometry", rows, work, outcomes=outcomes, upstream=[upstream])
    inputs = table_inputs(sources, reference) | catalog_inputs(catalog)
    facts = provenance.facts("astrometry", code=code, settings=settings, inputs=inputs)
    names = [str(row["frame_id"]) for row in rows]
    everyone = [
        solved.get(name, {"frame_id": name, "ladder": ladders.get(name, "")}) for name in names
    ]
    io.write_table(table, from_records(everyone, _COLUMNS, {"solution": "none"}), facts)


def reference_solution(stars: Table) -> dict[str, Any] | None:
    """Return the solution of the field's best frame, or None if it has none."""
    for name, item in stars.meta.get("frames", {}).items():
        solution = stars.meta.get("solutions", {}).get(name, {"solution": "none"})
        if item["best"] and solution["solution"] != "none":
            return dict(solution)
    return None
