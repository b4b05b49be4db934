"""Read a results folder into `ReportData`.

Nothing here decides what the page looks like; a product that is missing or cannot be
read becomes a sentence, not an error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.errors import SkymillError
from skymill.report.blocks import load_blocks
from skymill.report.curves import load_fields
from skymill.report.diagnostics import load_residuals
from skymill.report.funnel import MASTER_STEPS, GroupOutcome, funnel
from skymill.report.history import load_history
from skymill.report.model import FrameRow, ReportData
from skymill.report.movers import load_movers
from skymill.report.products import load_masters, load_sky, load_stacks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["load_report_data"]

#: Figure on the page: columns of photcal and astrometry, then figures of outcomes.
_TABLE_COLUMNS = {
    "photcal": (
        "zp", "zp_err", "zp_scatter", "zp_floor", "n_stars", "n_rejected", "throughput",
        "throughput_err", "fwhm_px", "fwhm_arcsec", "ellipticity", "sky_e", "depth_mag", "airmass",
    ),
    "astrometry": (
        "n_match", "rms_px", "rms_arcsec", "shift_px", "scale_arcsec_px", "rms_x_px", "rms_y_px",
        "holdout_rms_px", "middle_err_px", "variance_ratio",
    ),
}  # fmt: skip
_RENAMED = {"sky": "sky_e", "depth": "depth_mag"}
_BOTH_UNITS = {"fwhm": ("fwhm_arcsec", "fwhm_px"), "astrometry": ("rms_arcsec", "rms_px")}


def load_report_data(
    results: str | Path,
    sheet: Sequence[Mapping[str, Any]],
    *,
    planned: Collection[str] | None = None,
    max_pictures: int = 24,
    max_lightcurves: int = 60,
) -> ReportData:
    """Read all that the page shows.

    Parameters
    ----------
    results : str or Path
        Folder of the products.
    sheet : sequence of dict
        Rows of the sheet.
    planned : collection of str, optional
        Ids of the masters, blocks, stacks and fields of the plan. Products of others tell
        of an earlier sheet and are left out. By default everything that is there is shown.
    max_pictures : int
        Most masters, blocks and stacks, each, that are read to be shown as pictures.
    max_lightcurves : int
        Most light curves that are drawn, the most variable first.

    Returns
    -------
    ReportData

    Raises
    ------
    FunnelError
        If the outcomes do not account for every row of the sheet.
    """
    results = Path(results)
    missing: list[str] = []
    known = None if planned is None else {*planned, "plan"}
    outcomes = _load_outcomes(results, known)
    frames, units = _load_frames(results, sheet, outcomes, known, missing)
    by_id = {frame.frame_id: frame for frame in frames}
    return ReportData(
        frames=frames,
        funnel=funnel(sheet, outcomes),
        outcomes=outcomes,
        masters=load_masters(results, outcomes, MASTER_STEPS, max_pictures, missing),
        blocks=load_blocks(results, outcomes, by_id, max_pictures, missing),
        stacks=load_stacks(results, outcomes, by_id, max_pictures, missing),
        fields=load_fields(results, known, max_lightcurves, missing),
        sky=load_sky(results, known),
        history=load_history(results, known, missing),
        residuals=load_residuals(results, known, missing),
        movers=load_movers(results, known, {f.frame_id: f.filter for f in frames}, missing),
        missing=tuple(missing),
        units=units,
    )


def _load_outcomes(results: Path, planned: Collection[str] | None) -> tuple[GroupOutcome, ...]:
    """All outcome tables, in the order of their names."""
    from skymill.io import read_outcomes

    out: list[GroupOutcome] = []
    for path in sorted((results / "outcomes").glob("*/*.csv")):
        name = path.name[:-4]
        if planned is not None and name not in planned:
            continue
        out += [
            GroupOutcome(o.frame_id, o.step, o.status, o.code, o.message, o.numbers, name)
            for o in read_outcomes(path)
        ]
    return tuple(out)


def _load_frames(
    results: Path,
    sheet: Sequence[Mapping[str, Any]],
    outcomes: Iterable[GroupOutcome],
    planned: Collection[str] | None,
    missing: list[str],
) -> tuple[tuple[FrameRow, ...], dict[str, str]]:
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    facts: dict[str, dict[str, str]] = defaultdict(dict)
    for outcome in outcomes:
        if outcome.step not in MASTER_STEPS:
            figures[outcome.frame_id].update(_finite(outcome.numbers))
    for step, fact in (("astrometry", "wcs"), ("photcal", "flux")):
        for row in _rows(results / step, planned, (*_TABLE_COLUMNS[step], "solution"), missing):
            solution = str(row.pop("solution", "") or "")
            name = str(row.pop("frame_id"))
            facts[name][fact] = solution
            figures[name].update(_finite(row))
    lights = [str(row["frame_id"]) for row in sheet if row.get("kind") == "light"]
    units = {}
    for key, (sky, pixel) in _BOTH_UNITS.items():
        on_sky = sum(sky in figures[name] for name in lights)
        in_pixels = sum(pixel in figures[name] for name in lights)
        chosen, units[key] = (sky, "″") if 2 * on_sky > in_pixels else (pixel, "px")
        for name in lights:
            if chosen in figures[name]:
                figures[name][key] = figures[name][chosen]
    for name in lights:
        for key, column in _RENAMED.items():
            if column in figures[name]:
                figures[name][key] = figures[name][column]
    rows = (_frame_row(row) for row in sheet)
    frames = (replace(r, metrics=figures[r.frame_id], facts=facts[r.frame_id]) for r in rows)
    return tuple(frames), units


def _frame_row(row: Mapping[str, Any]) -> FrameRow:
    def text(key: str) -> str:
        value = row.get(key)
        return "" if value is None else str(value)

    def number(key: str) -> float | None:
        value = row.get(key)
        return None if value in (None, "") else float(value)  # type: ignore[arg-type]

    return FrameRow(
        text("frame_id"),
        text("path"),
        text("kind"),
        text("instrument"),
        text("target"),
        text("object"),
        text("filter"),
        text("night"),
        text("date_start"),
        number("mjd_start"),
        number("exptime_s"),
        text("verdict") or "ok",
        text("code"),
        text("message"),
        text("fixes"),
    )


def _rows(
    folder: Path, planned: Collection[str] | None, columns: Sequence[str], missing: list[str]
) -> Iterable[dict[str, Any]]:
    """Rows of all tables of a folder, with those of the columns that exist."""
    from skymill.io import read_table

    for path in sorted(folder.glob("*.parquet")):
        if planned is not None and path.name.removesuffix(".parquet") not in planned:
            continue
        try:
            table = read_table(path)
            names = table["frame_id"].tolist()
        except (OSError, KeyError, ValueError, SkymillError) as error:
            missing.append(f"{folder.name}/{path.name} could not be read: {type(error).__name__}")
            continue
        kept = {name: table[name].tolist() for name in columns if name in table.colnames}
        for number, frame in enumerate(names):
            yield {"frame_id": frame, **{name: values[number] for name, values in kept.items()}}


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
