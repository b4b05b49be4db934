"""The moving objects of the fields: where they went, and their light curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.report.model import LightCurve

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from astropy.table import Table

__all__ = ["Mover", "load_movers"]

_UNREADABLE = (OSError, KeyError, ValueError, SkymillError)
_MAG = 2.5 / np.log(10)
#: Objects on the page, and points of a light curve.
_MOST, _MOST_POINTS = 40, 400


@dataclass(frozen=True)
class Mover:
    """One moving object.

    Parameters
    ----------
    field, name : str
        Its field and its number there.
    n_detections, n_frames : int
        Frames on which it was detected, and which show its place.
    ra, dec : float or None
        Position in degree at `mjd`; None without a sky.
    x, y : float
        Position on the grid of the field at `mjd`.
    mjd : float
        Mean time of the detections, UTC.
    rate, rate_err, angle : float or None
        Motion and its error in arcsec/h, and position angle in degree.
    rate_px : float
        Motion in px/h on the grid.
    rms_px : float
        Scatter about constant motion per axis.
    mag : float or None
        Median magnitude.
    false : float
        Objects as good as this that chance makes.
    curves : tuple of LightCurve
        One for each filter.
    """

    field: str
    name: str
    n_detections: int
    n_frames: int
    ra: float | None
    dec: float | None
    x: float
    y: float
    mjd: float
    rate: float | None
    rate_err: float | None
    angle: float | None
    rate_px: float
    rms_px: float
    mag: float | None
    false: float
    curves: tuple[LightCurve, ...] = ()


def load_movers(
    results: Path,
    planned: Collection[str] | None,
    filters: Mapping[str, str],
    missing: list[str],
) -> tuple[Mover, ...]:
    """Return the moving objects of all fields.

    Parameters
    ----------
    results : Path
        Folder of the products.
    planned : collection of str or None
        Fields that are shown; None for all.
    filters : mapping of str to str
        Filter of each frame.
    missing : list of str
        Sentences about what could not be read are added to it.
    """
    from skymill.io import read_table

    out: list[Mover] = []
    for path in sorted((results / "movers").glob("*.parquet")):
        field = path.name.removesuffix(".parquet")
        if planned is not None and field not in planned:
            continue
        try:
            tracks = read_table(path)
            if not len(tracks):
                continue
            points = read_table(path.parent / "points" / path.name)
            out += [_mover(field, row, points, filters) for row in tracks[: _MOST - len(out)]]
        except _UNREADABLE as error:
            missing.append(
                f"The moving objects of {field} could not be read: {type(error).__name__}"
            )
    return tuple(out)


def _mover(field: str, row: Any, points: Table, filters: Mapping[str, str]) -> Mover:
    def known(name: str) -> float | None:
        value = float(row[name])
        return value if math.isfinite(value) else None

    number = int(row["mover"])
    mine = points[np.asarray(points["mover"], int) == number]
    return Mover(
        field, str(number), int(row["n_detections"]), int(row["n_frames"]),
        known("ra"), known("dec"), float(row["x"]), float(row["y"]), float(row["mjd"]),
        known("rate"), known("rate_err"), known("position_angle"),
        math.hypot(float(row["rate_x"]), float(row["rate_y"])), float(row["rms_px"]),
        known("mag"), float(row["expected_false"]),
        _curves(f"{field} {number}", mine, filters, known("mag")),
    )  # fmt: skip


def _curves(
    name: str, points: Table, filters: Mapping[str, str], mag: float | None
) -> tuple[LightCurve, ...]:
    from skymill.measure.flags import PhotFlag

    flux, err = (np.asarray(points[key], float) for key in ("flux_corr", "flux_corr_err"))
    time = np.asarray(points["mjd"], float)
    good = (np.asarray(points["flags"], np.int64) & int(PhotFlag.bad())) == 0
    with np.errstate(invalid="ignore"):
        good &= np.isfinite(time) & (flux > 0) & (err > 0)
    bands = np.array([filters.get(str(frame), "") for frame in points["frame_id"]], dtype=str)
    out = []
    for band in sorted(set(bands[good].tolist())):
        rows = np.flatnonzero(good & (bands == band))[:_MOST_POINTS]
        rows = rows[np.argsort(time[rows], kind="stable")]
        if len(rows) < 3:
            continue
        middle = float(np.median(flux[rows]))
        value = -2.5 * np.log10(flux[rows] / middle)
        error = _MAG * err[rows] / flux[rows]
        level = -2.5 * math.log10(middle) if mag is None else mag
        out.append(
            LightCurve(
                name, band, level, float(1.4826 * np.median(np.abs(value - np.median(value)))),
                float(np.median(error)), False, tuple(time[rows].tolist()),
                tuple(value.tolist()), tuple(error.tolist()),
            )
        )  # fmt: skip
    return tuple(out)
