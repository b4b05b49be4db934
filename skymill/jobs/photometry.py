"""Rule photometry: the sources of the stack measured on the frames of a block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.errors import Result, StepFailed
from skymill.jobs.frames import load_background, load_frame, origin
from skymill.jobs.tables import joined, records, table_inputs
from skymill.measure.positions import read_positions
from skymill.steps.photometry import empty_photometry, photometry_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["photometry_block"]


def photometry_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    catalog: str | Path,
    calibrated: str | Path,
    masks: str | Path,
    backgrounds: str | Path,
    astrometry: str | Path,
    sources: str | Path,
    upstream: str | Path,
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
    listed: str | Path | None = None,
) -> None:
    """Measure the sources of the stack on the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    catalog : str or Path
        Catalogue of the stack.
    calibrated, masks, backgrounds, astrometry : str or Path
        Products of the block.
    sources, upstream : str or Path
        Outcomes of ``sources`` (for the seeing) and of ``astrometry``.
    table, outcomes : str or Path
        Table of fluxes and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    listed : str or Path, optional
        Table of further positions (settings: photometry.positions).
    """
    options = {name: value for name, value in settings.items() if name != "positions"}
    if listed:
        options["listed"] = read_positions(listed)
    positions = io.read_table(catalog)
    grid = io.wcs_from_text(positions.meta["wcs"]) if positions.meta.get("wcs") else None
    solutions = records(io.read_table(astrometry))
    seeing = {
        o.frame_id: float(o.numbers.get("fwhm_px") or "nan") for o in io.read_outcomes(sources)
    }
    inputs = table_inputs(catalog, astrometry)
    if listed:
        inputs["positions"] = io.file_digest(listed)

    def work(row: Mapping[str, Any]) -> Result[Any]:
        name = str(row["frame_id"])
        if grid is None:
            raise StepFailed("NO_FRAMES", "there is no stack to take positions from")
        inputs.update(origin(name, calibrated, masks, backgrounds))
        return photometry_columns(
            load_frame(calibrated, masks, name),
            load_background(backgrounds, name),
            io.wcs_from_text(str(solutions[name]["wcs"])),
            positions,
            grid,
            row,
            fwhm_px=seeing[name],
            **options,
        )

    found = run_block("photometry", rows, work, outcomes=outcomes, upstream=[upstream])
    facts = provenance.facts("photometry", code=code, settings=settings, inputs=inputs)
    empty = empty_photometry(len(settings["apertures_fwhm"]), settings["methods"])
    io.write_table(table, joined(found, empty), facts)
