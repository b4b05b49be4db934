"""Rule movers: the moving objects of a field, and their light on every frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io, provenance
from skymill.block import latest_outcomes
from skymill.errors import Outcome, ScienceFailure, StepFailed
from skymill.jobs.frames import frame_folders, load_background, load_frame, origin
from skymill.jobs.tables import by_frame, chosen, joined, records, table_inputs
from skymill.steps.movers import MoverFrame, Movers, empty_tracks, movers, sky_of, track_positions
from skymill.steps.photometry import empty_photometry, photometry_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS

    Row = Mapping[str, Any]

__all__ = ["movers_field"]

#: Columns of the sources that the step looks at: to take a wide table apart takes long.
_USED = ("source", "x", "y", "flux_total")


def movers_field(
    *,
    rows: Sequence[Row],
    sources: Sequence[str],
    source_outcomes: Sequence[str],
    calibrated: Sequence[str],
    masks: Sequence[str],
    backgrounds: Sequence[str],
    astrometry: Sequence[str],
    photcal: Sequence[str],
    catalogs: Sequence[str],
    transparency: str | Path,
    upstream: Sequence[str],
    tracks: str | Path,
    points: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    photometry_settings: Mapping[str, Any],
    code: str,
) -> None:
    """Find the moving objects of a field and measure them on its frames.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the field's frames.
    sources, source_outcomes, calibrated, masks, backgrounds, astrometry, photcal : sequence of str
        Products of the field's blocks, in one order, and outcomes of ``sources``.
    catalogs : sequence of str
        Catalogues of the field's stacks, all on one grid.
    transparency : str or Path
        Frames of the field's light curves, whose transparency corrects the fluxes.
    upstream : sequence of str
        Outcomes of ``astrometry``.
    tracks, points, outcomes : str or Path
        Objects, their measurements and outcomes to write.
    settings, photometry_settings : mapping
        Settings of this step and of ``photometry``.
    code : str
        Fingerprint of the code.
    """
    name = Path(outcomes).stem
    inputs = table_inputs(*sources, *astrometry, *photcal, *catalogs, transparency)
    usable = {str(o.frame_id) for o in latest_outcomes(upstream).values() if o.usable}
    mine = [row for row in rows if str(row["frame_id"]) in usable]
    solutions = _joined(astrometry)
    # The places of an object are those of its motion, and it makes no profile of stars.
    options = {k: v for k, v in photometry_settings.items() if k != "positions"}
    options["methods"] = ("aperture",)
    nothing = empty_photometry(len(options["apertures_fwhm"]))
    found: dict[str, dict[str, Any]] = {}
    try:
        grid, stars = _stars(catalogs)
        frames = _frames(mine, sources, solutions, _joined(photcal))
        result = movers(frames, grid, stars, **settings)
    except ScienceFailure as failure:
        few = failure.code == "NO_FRAMES"
        outcome = (
            Outcome(name, "movers", "off", "TOO_FEW", failure.message)
            if few
            else Outcome.from_failure(name, "movers", failure)
        )
        table = empty_tracks()
    else:
        outcome, product = Outcome.from_result(name, "movers", result), result.value
        table = product.tracks
        places = frame_folders(calibrated, masks, backgrounds)
        if len(table):
            seeing = _seeing(source_outcomes)
            for row in mine:
                frame_id = str(row["frame_id"])
                inputs |= origin(frame_id, *places[frame_id])
                wcs = io.wcs_from_text(str(solutions[frame_id]["wcs"]))
                found[frame_id] = _measured(
                    row, places[frame_id], wcs, product, grid, seeing[frame_id],
                    options,
                )  # fmt: skip
    facts = provenance.facts("movers", code=code, settings=settings, inputs=inputs)
    io.write_table(tracks, table, facts)
    curve = joined(found, _described(nothing))
    io.write_table(points, _corrected(curve, transparency), facts)
    io.write_outcomes(outcomes, [outcome])


def _joined(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for path in paths:
        out |= records(io.read_table(path))
    return out


def _stars(catalogs: Sequence[str]) -> tuple[WCS, Table]:
    """Return the grid of the field and the stars of all its stacks."""
    from astropy.table import Table, vstack

    found, grid = [], None
    for path in catalogs:
        table = io.read_table(path)
        if table.meta.get("wcs"):
            grid = io.wcs_from_text(table.meta["wcs"])
            found.append(Table({k: np.asarray(table[k]) for k in ("x", "y", "flux_total")}))
    if grid is None:
        raise StepFailed("NO_FRAMES", "there is no stack, so no grid that the frames share")
    return grid, vstack(found)


def _frames(
    rows: Sequence[Row],
    sources: Sequence[str],
    solutions: Mapping[str, Row],
    fluxes: Mapping[str, Row],
) -> list[MoverFrame]:
    tables: dict[str, Table] = {}
    for path in sources:
        tables |= by_frame(chosen(io.read_table(path), _USED))
    out = []
    for row in rows:
        name = str(row["frame_id"])
        solution, flux = solutions[name], fluxes.get(name, {})
        if name in tables:
            shape = (int(solution["ny"]), int(solution["nx"]))
            wcs = io.wcs_from_text(str(solution["wcs"]))
            out.append(
                MoverFrame(
                    name, _number(row.get("mjd_mid")), tables[name], wcs, shape,
                    _number(flux.get("zp")), _number(row.get("exptime_s")),
                )
            )  # fmt: skip
    return out


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _seeing(paths: Sequence[str]) -> dict[str, float]:
    return {
        outcome.frame_id: float(outcome.numbers.get("fwhm_px") or "nan")
        for path in paths
        for outcome in io.read_outcomes(path)
    }


def _measured(
    row: Row,
    folders: tuple[str, ...],
    wcs: WCS,
    product: Movers,
    grid: WCS,
    fwhm_px: float,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure the objects on a frame, at the places where their motion puts them."""
    name, mjd = str(row["frame_id"]), _number(row.get("mjd_mid"))
    calibrated, masks, backgrounds = folders
    positions = track_positions(product.tracks, mjd)
    out = photometry_columns(
        load_frame(calibrated, masks, name), load_background(backgrounds, name), wcs,
        positions, grid, row, fwhm_px=fwhm_px, **settings,
    ).value  # fmt: skip
    out["mover"] = out["source"]
    n = len(out["mover"])
    out["mjd"], out["exptime_s"] = np.full(n, mjd), np.full(n, _number(row.get("exptime_s")))
    out["ra"], out["dec"] = sky_of(positions, grid)
    seen = product.detections
    here = np.asarray(seen["frame_id"]) == name
    out["detected"] = np.isin(out["mover"], np.asarray(seen["mover"])[here])
    return out


def _described(table: Table) -> Table:
    """Return forced photometry of nothing with the columns of a moving object."""
    out = table.copy()
    out.rename_column("source", "mover")
    out["mover"].description = "number of the object"
    texts = {
        "mjd": ("d", "middle of the exposure, UTC"),
        "exptime_s": ("s", "exposure"),
        "ra": ("deg", "predicted right ascension, ICRS"),
        "dec": ("deg", "predicted declination, ICRS"),
        "detected": (None, "whether the object was detected on this frame"),
    }
    for column, (unit, text) in texts.items():
        out[column] = np.zeros(len(table), bool if column == "detected" else np.float64)
        out[column].unit, out[column].description = unit, text
    return out


def _corrected(table: Table, transparency: str | Path) -> Table:
    """Add the flux per second at transparency 1, as the light curves of stars have it."""
    frames = records(io.read_table(transparency))
    value, err = (
        np.array([_number(frames.get(str(n), {}).get(key)) for n in table["frame_id"]])
        for key in ("transparency", "transparency_err")
    )
    rate = np.asarray(table["flux"]) / np.asarray(table["exptime_s"])
    rate_err = np.asarray(table["flux_err"]) / np.asarray(table["exptime_s"])
    table["flux_corr"] = rate / value
    table["flux_corr_err"] = np.hypot(rate_err / value, rate * err / value**2)
    for name, text in (
        ("flux_corr", "flux at transparency 1, from the comparison stars of the field"),
        ("flux_corr_err", "one-sigma error of flux_corr"),
    ):
        table[name].unit, table[name].description = "electron / s", text
    return table
