"""Pixel grids that are given: by a centre, by a file, or as a tile of the sky."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError, StepFailed
from skymill.footprints import distance, footprint_of, footprints_of, of_common_scale
from skymill.grid import Grid
from skymill.io import read_grid
from skymill.sphere import overlap_sr
from skymill.tiles import tile_wcs
from skymill.wcsmath import sane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.wcs import WCS

    from skymill.footprints import Footprint, Solution

__all__ = ["given_grid", "wanted_grid"]


def given_grid(
    solutions: Sequence[Solution],
    wcs: WCS,
    shape: tuple[int, int],
    *,
    what: str = "the given grid",
    one_scale: bool = True,
) -> Grid:
    """Return a grid that does not depend on the frames, with those that touch it.

    Parameters
    ----------
    solutions : sequence of (frame_id, WCS, (ny, nx))
        Solved world coordinates of the frames.
    wcs : astropy.wcs.WCS
        Celestial world coordinates of the grid.
    shape : tuple of int
        Shape (ny, nx) of the grid.
    what : str
        What messages call the grid.
    one_scale : bool
        Leave out frames whose pixel scale is far from the median of all.

    Raises
    ------
    StepFailed
        NO_FRAMES without a frame that has world coordinates, NO_OVERLAP if none of them
        touches the grid.
    """
    wcs.array_shape = shape
    footprints, rejected = footprints_of(sorted(solutions, key=lambda item: item[0]))
    relative = [item.frame_id for item in footprints if not item.celestial]
    text = "its position is relative to a reference frame, {} is on the sky"
    rejected += [(n, "WCS_RELATIVE", f"{n}: {text.format(what)}") for n in relative]
    footprints = [item for item in footprints if item.celestial]
    if one_scale:
        footprints, more = of_common_scale(footprints)
        rejected += more
    if not footprints:
        raise StepFailed(
            "NO_FRAMES",
            f"none of {len(solutions)} frames has sky positions that could be put on {what}",
            n_frames=len(solutions),
        )
    target = footprint_of("", wcs, shape)
    if target is None:
        raise StepFailed("NO_WCS", f"the world coordinates of {what} are not finite")
    inside, nearest = [], math.inf
    for item in footprints:
        gap = distance(item, target) - item.radius - target.radius
        if gap < 0 and _overlap(item, target):
            inside.append(item.frame_id)
            continue
        nearest = min(nearest, max(gap, 0.0))
        text = f"{item.frame_id}: the frame does not reach {what}"
        if gap > 0:
            text += f", {math.degrees(gap):.3g} degree away"
        rejected.append((item.frame_id, "NO_OVERLAP", text))
    if not inside:
        away = f", the nearest is {math.degrees(nearest):.3g} degree away" if nearest else ""
        raise StepFailed(
            "NO_OVERLAP",
            f"none of {len(footprints)} frames touches {what}{away}; look at its centre and size",
            n_frames=len(footprints),
        )
    return Grid(wcs, shape, tuple(inside), tuple(sorted(rejected)))


def _overlap(one: Footprint, other: Footprint) -> bool:
    """Return True if two footprints on the sky have an area in common."""
    return overlap_sr(one.outline(), other.outline()) > 0


def wanted_grid(
    solutions: Sequence[Solution], given: Mapping[str, Any], pixel_scale_arcsec: float | None
) -> tuple[WCS, tuple[int, int], str]:
    """Return world coordinates, shape and the name in messages of a given grid.

    Parameters
    ----------
    solutions : sequence of (frame_id, WCS, (ny, nx))
        Solved world coordinates of the frames, for the scale if none is given.
    given : mapping
        See `skymill.grid.make_grid`.
    pixel_scale_arcsec : float, optional
        Scale of a centre that has no scale of its own.

    Raises
    ------
    StepFailed
        NO_WCS if a file holds no usable grid; NO_FRAMES if the scale is that of the
        frames and there is none.
    """
    if given.get("tile"):
        return *tile_wcs(str(given["tile"])), f"tile {given['tile']}"
    if given.get("file"):
        grid = _grid_of_file(str(given["file"]), given.get("size_px"))
        return *grid, f"the grid of {given['file']}"
    scale = given.get("scale_arcsec") or pixel_scale_arcsec or _median_scale(solutions)
    nx, ny = given["size_px"]
    angle = float(given.get("rotation_deg") or 0.0)
    shape = (int(ny), int(nx))
    return _centred(given["center_deg"], float(scale), shape, angle), shape, "the given grid"


def _grid_of_file(path: str, size_px: Sequence[int] | None) -> tuple[WCS, tuple[int, int]]:
    """Return the grid of a file; its size may be given apart."""
    try:
        wcs, shape = read_grid(path)
    except SkymillError as error:
        raise StepFailed("NO_WCS", str(error)) from None
    if size_px is not None:
        shape = (int(size_px[1]), int(size_px[0]))
    if shape is None:
        raise StepFailed(
            "NO_WCS",
            f"{path} tells no size of the grid (NAXIS1, NAXIS2); add stack.grid.size_px",
        )
    wrong = sane(wcs, shape)
    if wcs is None or wrong:
        raise StepFailed("NO_WCS", f"{path} gives no grid: {wrong}")
    return wcs, shape


def _median_scale(solutions: Sequence[Solution]) -> float:
    """Median pixel scale of the frames in arcsec."""
    footprints, _ = footprints_of(sorted(solutions, key=lambda item: item[0]))
    scales = [item.scale for item in footprints if item.celestial]
    if not scales:
        raise StepFailed("NO_FRAMES", "no frame has sky positions, so no pixel scale is known")
    return round(math.degrees(float(np.median(scales))) * 3600, 9)


def _centred(
    center_deg: Sequence[float], scale_arcsec: float, shape: tuple[int, int], angle_deg: float
) -> WCS:
    """World coordinates around a centre: TAN, ICRS, east left of north."""
    from astropy.wcs import WCS

    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    # The y axis points at position angle `angle_deg`, north through east.
    matrix = np.array([[-cos, sin], [sin, cos]])
    wcs = WCS(naxis=2)
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [float(center_deg[0]) % 360, float(center_deg[1])]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cd = np.round(matrix * scale_arcsec / 3600, 15)
    wcs.wcs.lonpole = 180.0
    wcs.wcs.set()
    return wcs
