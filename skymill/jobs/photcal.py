"""Rule photcal: zero point, throughput, seeing and depth of the frames of a block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io, provenance
from skymill.block import run_block
from skymill.catalogs import read_catalog
from skymill.errors import Result
from skymill.jobs.frames import load_background, load_frame, origin
from skymill.jobs.tables import (
    by_frame,
    catalog_inputs,
    chosen,
    from_records,
    records,
    table_inputs,
)
from skymill.steps.photcal import photcal
from skymill.steps.sources import empty_sources_table
from skymill.zeropoint import fit_extinction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table

__all__ = ["photcal_block"]

#: Columns of the sources that the step looks at: to take a wide table apart takes long.
_USED = (
    *("x", "y", "npix", "peak", "flags"),
    *("flux", "flux_err", "flux_total", "flux_total_err"),
)
#: Columns of the table: type, unit, description.
_COLUMNS: dict[str, tuple[str, str | None, str]] = {
    "frame_id": ("U", None, "frame"),
    "solution": ("U", None, "absolute, relative or none"),
    "band": ("U", None, "band of the catalogue"),
    "zp": ("f8", "mag", "magnitude of 1 electron/s in flux_total"),
    "zp_main": ("f8", "mag", "zero point of the flux in the main aperture"),
    "zp_err": ("f8", "mag", "statistical error of the zero point"),
    "zp_scatter": ("f8", "mag", "intrinsic scatter between the stars"),
    "zp_floor": ("f8", "mag", "systematic floor, quoted apart"),
    "n_stars": ("i8", None, "stars of the zero point or throughput"),
    "n_rejected": ("i8", None, "stars rejected"),
    "zp_adu": ("f8", "mag", "magnitude of 1 ADU/s"),
    "throughput": ("f8", None, "electron/s relative to the reference frame of the filter"),
    "throughput_err": ("f8", None, "one-sigma error of throughput"),
    "fwhm_px": ("f8", "pix", "seeing"),
    "fwhm_arcsec": ("f8", "arcsec", "seeing"),
    "ellipticity": ("f8", None, "1 - b/a of the stars"),
    "sky_e": ("f8", "electron", "median background"),
    "depth_mag": ("f8", "mag", "5-sigma source in the main aperture"),
    "depth_flux_e": ("f8", "electron", "5-sigma flux in the main aperture"),
    "half_mag": ("f8", "mag", "magnitude at which one half of planted stars is found"),
    "half_err_mag": ("f8", "mag", "one-sigma error of half_mag"),
    "half_offset_mag": ("f8", "mag", "half_mag brighter than theory by this"),
    "saturation_mag": ("f8", "mag", "star whose peak saturates"),
    "colour": ("U", None, "colour of the colour term"),
    "colour_0": ("f8", "mag", "colour that zp belongs to"),
    "colour_term": ("f8", None, "change of zp per magnitude of colour"),
    "colour_term_err": ("f8", None, "one-sigma error of colour_term; 0 if it was given"),
    "spatial": ("U", "mag", "coefficients of the Legendre terms in position"),
    "airmass": ("f8", None, "airmass"),
    "mjd_mid": ("f8", "d", "middle of the exposure, MJD UTC"),
    "exptime_s": ("f8", "s", "exposure time"),
}


def photcal_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    sources: str | Path,
    sources_outcomes: str | Path,
    calibrated: str | Path,
    masks: str | Path,
    backgrounds: str | Path,
    astrometry: str | Path,
    reference: str | Path,
    upstream: str | Path,
    catalog: Sequence[str],
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    detection: Mapping[str, Any],
    code: str,
) -> None:
    """Calibrate the fluxes of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    sources, sources_outcomes : str or Path
        Table of sources and its outcomes, which hold the seeing.
    calibrated, masks, backgrounds, astrometry : str or Path
        Products of the block.
    reference : str or Path
        Reference frames of the field.
    upstream : str or Path
        Outcomes of ``astrometry``.
    catalog : sequence of str
        The reference catalogue, or nothing.
    table, outcomes : str or Path
        Table of zero points and table of outcomes to write.
    settings : mapping
        Settings of the step.
    detection : mapping
        Settings of ``sources``, for planted stars.
    code : str
        Fingerprint of the code.
    """
    found = by_frame(chosen(io.read_table(sources), _USED))
    measured = {o.frame_id: o.numbers for o in io.read_outcomes(sources_outcomes)}
    solutions = records(io.read_table(astrometry))
    stars = io.read_table(reference)
    known = read_catalog(catalog[0]) if catalog else None
    inputs = table_inputs(sources, astrometry, reference) | catalog_inputs(catalog)
    empty = empty_sources_table()

    def work(row: Mapping[str, Any]) -> Result[dict[str, Any]]:
        name = str(row["frame_id"])
        inputs.update(origin(name, calibrated, masks, backgrounds))
        result = photcal(
            found.get(name, empty),
            row,
            solution=solutions[name],
            catalog=known,
            reference=stars,
            reference_solution=_solution_of_filter(stars, str(row["filter"] or "")),
            frame=load_frame(calibrated, masks, name),
            background=load_background(backgrounds, name),
            measured=measured[name],
            detection=detection,
            **settings,
        )
        # Without a catalogue nothing better was asked for; the stack says it once.
        flags = [flag for flag in result.flags if known or flag[0] != "ZP_RELATIVE"]
        return Result(result.value, tuple(flags), result.numbers)

    done = run_block("photcal", rows, work, outcomes=outcomes, upstream=[upstream])
    everyone = [done.get(str(r["frame_id"]), {"frame_id": r["frame_id"]}) for r in rows]
    facts = provenance.facts("photcal", code=code, settings=settings, inputs=inputs)
    facts |= _extinction(list(done.values()))
    io.write_table(table, from_records(everyone, _COLUMNS, {"solution": "none"}), facts)


def _solution_of_filter(stars: Table, filter_: str) -> dict[str, Any] | None:
    """Return the solution of the reference frame of a filter, or None."""
    for name, item in stars.meta.get("frames", {}).items():
        if item["filter"] == filter_:
            solution = stars.meta["solutions"].get(name, {"solution": "none"})
            return dict(solution) if solution["solution"] != "none" else None
    return None


def _extinction(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the extinction of the block's frames, if their airmasses tell it."""
    columns = [
        np.array([float(item.get(name, np.nan)) for item in found])
        for name in ("zp", "zp_err", "airmass")
    ]
    fit = fit_extinction(*columns)
    if fit is None:
        return {}
    return {
        "extinction": {
            "value": round(float(fit.coefficients[0]), 5),
            "err": round(float(fit.errors[0]), 5),
            "n": int(fit.offset.keep.sum()),
        }
    }
