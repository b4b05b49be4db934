"""Find what moves: link the detections of single frames that no star explains.

A stack that is clipped against the noise holds no moving object, so whatever is seen
on single frames and not in the stack may be one. Detections that stay where they are
in many frames are left out, the others are linked by `skymill.linking`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.header_wcs import separation_deg
from skymill.linking import Track, link, stationary
from skymill.resample import pixel_to_pixel
from skymill.wcsmath import pixel_to_sky

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["MoverFrame", "Movers", "empty_tracks", "movers", "sky_of", "track_positions"]

#: A star of the stack explains a detection that is at most this many times brighter.
_BRIGHTER = 3.0
#: Detections of this part of the frames at one place are a star.
_STAY_FRACTION = 0.35
#: Positions on each side of a frame that tell its border on the grid.
_BORDER = 16

_COLUMNS = {
    "mover": ("", "number of the object"),
    "n_detections": ("", "frames on which it was detected"),
    "n_frames": ("", "frames that it should be on"),
    "mjd": ("d", "mean time of the detections, UTC"),
    "ra": ("deg", "right ascension at mjd, ICRS"),
    "dec": ("deg", "declination at mjd, ICRS"),
    "x": ("pix", "0-based position on the grid of the field at mjd"),
    "y": ("pix", "0-based position on the grid of the field at mjd"),
    "rate_x": ("pix / h", "motion on the grid"),
    "rate_y": ("pix / h", "motion on the grid"),
    "rate_ra": ("arcsec / h", "motion in right ascension times cos(declination)"),
    "rate_dec": ("arcsec / h", "motion in declination"),
    "rate_err": ("arcsec / h", "one-sigma error of both rates"),
    "rate": ("arcsec / h", "total motion"),
    "position_angle": ("deg", "direction of motion, north through east"),
    "rms_px": ("pix", "scatter about constant motion, per axis"),
    "flux": ("electron", "median total flux"),
    "mag": ("mag", "median magnitude, where zero points are known"),
    "expected_false": ("", "objects as good as this one that chance makes"),
}


@dataclass(frozen=True, eq=False)
class MoverFrame:
    """What is known of one frame.

    Parameters
    ----------
    frame_id : str
        The frame.
    mjd_mid : float
        Middle of the exposure (d, UTC).
    sources : Table
        Its sources: x, y, flux_total, flags.
    wcs : astropy.wcs.WCS
        Solved world coordinates.
    shape : tuple of int
        Shape (ny, nx).
    zp, exptime_s : float
        Zero point (mag of 1 electron/s) and exposure; NaN where unknown.
    """

    frame_id: str
    mjd_mid: float
    sources: Table
    wcs: WCS
    shape: tuple[int, int]
    zp: float = float("nan")
    exptime_s: float = float("nan")


@dataclass(frozen=True)
class Movers:
    """Objects that move, and the detections behind them.

    Parameters
    ----------
    tracks : Table
        One row an object.
    detections : Table
        One row a detection: mover, frame_id, source, x, y.
    """

    tracks: Table
    detections: Table


def movers(
    frames: Sequence[MoverFrame],
    grid: WCS,
    stars: Table | None,
    *,
    enabled: bool = True,
    max_rate_px_h: float = 150.0,
    tolerance_px: float = 1.2,
    minimum_motion_px: float = 4.0,
    minimum_detections: int = 5,
    minimum_fraction: float = 0.4,
    max_false: float = 1e-3,
) -> Result[Movers]:
    """Link the detections of a field's frames to moving objects.

    Parameters
    ----------
    frames : sequence of MoverFrame
        The frames, in any order.
    grid : astropy.wcs.WCS
        World coordinates of the field's grid, of the same kind as those of the frames.
        Motions are straight lines on it.
    stars : Table or None
        Catalogue of the stack on that grid (x, y, flux_total).
    enabled : bool
        Not used here: it belongs to the workflow.
    max_rate_px_h : float
        Fastest motion.
    tolerance_px : float
        Largest distance of a detection from the motion.
    minimum_motion_px : float
        Motion from the first to the last detection that is needed.
    minimum_detections, minimum_fraction : int, float
        Fewest detections, and as a fraction of the frames that show the place.
    max_false : float
        Objects that chance makes more often are not believed.

    Returns
    -------
    Result of Movers

    Raises
    ------
    StepFailed
        NO_FRAMES with fewer frames of known time than `minimum_detections`.
    """
    del enabled
    known = sorted(
        (f for f in frames if np.isfinite(f.mjd_mid)), key=lambda f: (f.mjd_mid, f.frame_id)
    )
    if len(known) < minimum_detections:
        raise StepFailed(
            "NO_FRAMES",
            f"{len(known)} frames with known positions and times, {minimum_detections} are needed",
            n_frames=len(known),
        )
    seen = _Detections(known, grid)
    free = ~stationary(
        seen.frame, seen.xy, tolerance_px,
        minimum_frames=max(3, int(np.ceil(_STAY_FRACTION * len(known)))),
    )  # fmt: skip
    free &= ~_explained(seen, stars, tolerance_px)
    chosen = np.flatnonzero(free)
    times = np.array([f.mjd_mid for f in known])
    hours = (times - times[0]) * 24
    try:
        tracks = link(
            seen.frame[chosen], seen.xy[chosen], hours, seen.borders,
            max_rate=max_rate_px_h, tolerance=tolerance_px, minimum_motion=minimum_motion_px,
            minimum_detections=minimum_detections, minimum_fraction=minimum_fraction,
            max_false=max_false,
        )  # fmt: skip
    except ValueError as error:
        raise StepFailed("TOO_MANY_PAIRS", str(error), n_detections=len(chosen)) from error
    product = Movers(
        _tracks(tracks, chosen, seen, known, grid), _detections(tracks, chosen, seen, known)
    )
    numbers = {
        "n_frames": len(known),
        "n_detections": len(seen.xy),
        "n_unexplained": len(chosen),
        "n_movers": len(tracks),
    }
    return Result(product, (), numbers)


class _Detections:
    """All detections of all frames on the grid of the field, and the borders of the frames."""

    def __init__(self, frames: Sequence[MoverFrame], grid: WCS) -> None:
        parts, borders = [], []
        for k, item in enumerate(frames):
            x, y, flux = (
                np.asarray(item.sources[name], np.float64) for name in ("x", "y", "flux_total")
            )
            border = _border(item.shape)
            both = np.concatenate([np.stack([x, y], axis=1), border])
            carried = np.stack(pixel_to_pixel(item.wcs, both[:, 0], both[:, 1], grid), axis=1)
            at = carried[: len(x)]
            borders.append(_closed(carried[len(x) :]))
            row = np.flatnonzero(np.isfinite(at).all(axis=1))
            parts.append((np.full(row.size, k), at[row], flux[row], row))
        self.frame = np.concatenate([p[0] for p in parts]).astype(np.int64)
        self.xy = np.concatenate([p[1] for p in parts])
        self.flux = np.concatenate([p[2] for p in parts])
        self.row = np.concatenate([p[3] for p in parts]).astype(np.int64)
        self.borders = np.stack(borders)


@lru_cache(maxsize=8)
def _border(shape: tuple[int, int]) -> Floats:
    """Positions along the edges of a frame; enough of them to follow a distortion."""
    ny, nx = shape
    part = np.arange(_BORDER) / _BORDER
    corners = np.array([[0, 0], [nx, 0], [nx, ny], [0, ny], [0, 0]]) - 0.5
    steps = corners[:-1, None, :] + part[:, None] * np.diff(corners, axis=0)[:, None, :]
    return np.asarray(steps.reshape(-1, 2))


def _closed(border: Floats) -> Floats:
    """Return a border without what lies nowhere on the grid; NaN if that is nearly all."""
    there = np.isfinite(border).all(axis=1)
    if there.all():
        return border
    if there.sum() < 3:
        return np.full(border.shape, np.nan)
    # A vertex that is told twice changes no polygon.
    nearest = np.maximum.accumulate(np.where(there, np.arange(len(border)), -1))
    return border[np.where(nearest < 0, np.flatnonzero(there)[-1], nearest)]


def _explained(seen: _Detections, stars: Table | None, radius: float) -> NDArray[np.bool_]:
    """Return which detections a star of the stack accounts for."""
    from scipy.spatial import cKDTree

    if stars is None or not len(stars) or not len(seen.xy):
        return np.zeros(len(seen.xy), bool)
    places = np.stack([np.asarray(stars[name], np.float64) for name in ("x", "y")], axis=1)
    light = np.asarray(stars["flux_total"], np.float64)
    found = cKDTree(places).query(seen.xy, distance_upper_bound=radius)
    gap, nearest = np.asarray(found[0]), np.asarray(found[1])
    near = np.isfinite(gap)
    out = np.zeros(len(seen.xy), bool)
    with np.errstate(invalid="ignore"):
        # A mover that passes over a faint star is not that star.
        out[near] = ~(seen.flux[near] > _BRIGHTER * light[nearest[near]])
    return out


def empty_tracks() -> Table:
    """Return the table of no objects, with all columns."""
    return _described({name: [] for name in _COLUMNS})


def _described(columns: Mapping[str, Any]) -> Table:
    from astropy.table import Table

    table = Table()
    whole = {"mover", "n_detections", "n_frames"}
    for name, (unit, text) in _COLUMNS.items():
        table[name] = np.asarray(columns[name], np.int64 if name in whole else np.float64)
        table[name].unit, table[name].description = unit or None, text
    return table


def _tracks(
    tracks: Sequence[Track],
    chosen: NDArray[np.intp],
    seen: _Detections,
    frames: Sequence[MoverFrame],
    grid: WCS,
) -> Table:
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for number, track in enumerate(tracks, 1):
        mine = chosen[list(track.detections)]
        mjd = frames[0].mjd_mid + track.time_h / 24
        values = {
            "mover": number,
            "n_detections": len(mine),
            "n_frames": track.n_frames,
            "mjd": mjd,
            "x": track.position[0],
            "y": track.position[1],
            "rate_x": track.rate[0],
            "rate_y": track.rate[1],
            "rms_px": track.rms,
            "flux": float(np.median(seen.flux[mine])),
            "mag": _magnitude(seen, mine, frames),
            "expected_false": float(f"{track.expected_false:.3g}"),
        }
        values |= _on_sky(track, grid)
        for name in _COLUMNS:
            rows[name].append(values.get(name, np.nan))
    return _described(rows)


def _magnitude(seen: _Detections, mine: NDArray[np.intp], frames: Sequence[MoverFrame]) -> float:
    """Median magnitude of the detections on frames with a zero point."""
    found = []
    for i in mine:
        item, flux = frames[seen.frame[i]], seen.flux[i]
        if flux > 0 and np.isfinite(item.zp) and item.exptime_s > 0:
            found.append(item.zp - 2.5 * np.log10(flux / item.exptime_s))
    return float(np.median(found)) if found else float("nan")


def _on_sky(track: Track, grid: WCS) -> dict[str, float]:
    """Position and motion on the sky; nothing on a grid without sky coordinates."""
    if not grid.has_celestial:
        return {}
    half_hour = track.at(np.array([track.time_h, track.time_h - 0.5, track.time_h + 0.5]))
    sky = pixel_to_sky(grid, half_hour)
    (ra, dec), before, after = sky[0], sky[1], sky[2]
    east = ((after[0] - before[0] + 180) % 360 - 180) * np.cos(np.radians(dec)) * 3600
    north = (after[1] - before[1]) * 3600
    step = pixel_to_sky(grid, half_hour[0] + np.array([[0.0, 0.0], [0.0, 1.0]]))
    scale = float(separation_deg(*step[0], *step[1])) * 3600
    return {
        "ra": float(ra),
        "dec": float(dec),
        "rate_ra": float(east),
        "rate_dec": float(north),
        "rate_err": float(np.sqrt(track.covariance[1, 1]) * scale),
        "rate": float(np.hypot(east, north)),
        "position_angle": float(np.degrees(np.arctan2(east, north)) % 360),
    }


def _detections(
    tracks: Sequence[Track],
    chosen: NDArray[np.intp],
    seen: _Detections,
    frames: Sequence[MoverFrame],
) -> Table:
    from astropy.table import Table

    mover, names, source, x, y = [], [], [], [], []
    for number, track in enumerate(tracks, 1):
        for i in chosen[list(track.detections)]:
            item, row = frames[seen.frame[i]], int(seen.row[i])
            mover.append(number)
            names.append(item.frame_id)
            source.append(int(item.sources["source"][row]))
            x.append(float(item.sources["x"][row]))
            y.append(float(item.sources["y"][row]))
    return Table(
        {
            "mover": np.array(mover, np.int64),
            "frame_id": np.array(names, dtype=str),
            "source": np.array(source, np.int64),
            "x": np.array(x, np.float64),
            "y": np.array(y, np.float64),
        }
    )


def track_positions(tracks: Table, mjd: float) -> Table:
    """Return where the objects are at some time, as positions for forced photometry.

    Parameters
    ----------
    tracks : Table
        Objects.
    mjd : float
        Time (d, UTC).

    Returns
    -------
    Table
        Columns source (the number of the object), x, y on the grid.
    """
    from astropy.table import Table

    hours = (mjd - np.asarray(tracks["mjd"], np.float64)) * 24
    out = Table()
    out["source"] = np.asarray(tracks["mover"], np.int64)
    for axis in "xy":
        place, rate = (np.asarray(tracks[name], np.float64) for name in (axis, f"rate_{axis}"))
        out[axis] = place + rate * hours
    return out


def sky_of(positions: Table, grid: WCS) -> tuple[Floats, Floats]:
    """Right ascension and declination of positions on the grid; NaN on a relative one."""
    x, y = (np.asarray(positions[name], np.float64) for name in ("x", "y"))
    if not grid.has_celestial:
        return np.full(x.size, np.nan), np.full(x.size, np.nan)
    sky = pixel_to_sky(grid, np.stack([x, y], axis=1))
    return sky[:, 0], sky[:, 1]
