"""The common pixel grid of a field, from the world coordinates of its frames.

All stacks of a field share one grid, so a position means the same in every filter.
Frames whose coordinates cannot belong to the field are named and left out **before**
the size of the grid is computed: one frame with a wrong WCS must not blow up the
canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import StepFailed
from skymill.footprints import (
    Footprint,
    Solution,
    distance,
    footprints_of,
    of_common_scale,
    tangent_basis,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["Grid", "Solution", "field_grid", "make_grid"]

#: A frame this many of its own diagonals away from the field has a wrong WCS.
_FAR_DIAGONALS = 10.0


@dataclass(frozen=True)
class Grid:
    """A pixel grid and the frames that made it.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        World coordinates: TAN, or linear without celestial axes if the frames are
        placed relative to a reference frame.
    shape : tuple of int
        Shape (ny, nx).
    frames : tuple of str
        Frames that the grid covers, sorted.
    rejected : tuple of (frame_id, code, message)
        Frames that were left out and why, sorted.
    """

    wcs: WCS
    shape: tuple[int, int]
    frames: tuple[str, ...]
    rejected: tuple[tuple[str, str, str], ...] = ()

    @property
    def celestial(self) -> bool:
        """True if the world coordinates are positions on the sky."""
        return bool(self.wcs.has_celestial)


def field_grid(
    solutions: Sequence[Solution],
    *,
    pixel_scale_arcsec: float | None = None,
    max_mpix: float = 400.0,
    orientation: Literal["frame", "north"] = "frame",
    reference: str | None = None,
) -> Grid:
    """Return the grid that covers all frames of a field.

    Parameters
    ----------
    solutions : sequence of (frame_id, WCS, (ny, nx))
        Solved world coordinates of the frames, in any order.
    pixel_scale_arcsec : float, optional
        Pixel scale of the grid; by default the median of the frames'. Has no meaning
        for relative solutions, where a pixel of the reference frame is kept.
    max_mpix : float
        Largest grid in megapixels.
    orientation : {"frame", "north"}
        Axes of the grid along those of the reference frame (fewest holes, detector
        blemishes stay on rows and columns, simplest noise correlation), or north up
        and east to the left.
    reference : str, optional
        Frame that gives the orientation; by default, or if it is not among the
        frames, the one nearest to the common centre.

    Returns
    -------
    Grid
        The same for every order of the frames.

    Raises
    ------
    StepFailed
        NO_FRAMES without a frame that has world coordinates; TOO_LARGE if the grid
        would exceed `max_mpix`; nothing is allocated before.
    """
    footprints, rejected = footprints_of(sorted(solutions, key=lambda item: item[0]))
    footprints, more = _one_kind(footprints)
    rejected += more
    footprints, more = _without_outliers(footprints)
    rejected += more
    if not footprints:
        raise StepFailed("NO_FRAMES", "no frame of the field has usable world coordinates")
    if footprints[0].celestial:
        wcs, shape = _sky_grid(footprints, pixel_scale_arcsec, orientation, reference)
    else:
        wcs, shape = _relative_grid(footprints)
    if shape[0] * shape[1] > max_mpix * 1e6:
        raise StepFailed(
            "TOO_LARGE",
            f"the grid of {len(footprints)} frames would have {shape[1]} x {shape[0]} px, more "
            f"than stack.max_mpix = {max_mpix:g}; look for wrong world coordinates, split the "
            "field or raise the limit",
            nx=shape[1],
            ny=shape[0],
        )
    wcs.array_shape = shape
    names = tuple(item.frame_id for item in footprints)
    return Grid(wcs, shape, names, tuple(sorted(rejected)))


def make_grid(
    solutions: Sequence[Solution],
    given: Mapping[str, Any] | None = None,
    *,
    pixel_scale_arcsec: float | None = None,
    max_mpix: float = 400.0,
    orientation: Literal["frame", "north"] = "frame",
    reference: str | None = None,
) -> Grid:
    """Return the grid of a stack: automatic, given in the settings, or a tile of the sky.

    Parameters
    ----------
    solutions : sequence of (frame_id, WCS, (ny, nx))
        Solved world coordinates of the frames.
    given : mapping, optional
        None for `field_grid`; else ``tile`` (an identifier of `skymill.tiles`), or
        ``file`` (see `skymill.io.read_grid`), or ``center_deg`` (ra, dec), ``size_px``
        (nx, ny), ``scale_arcsec`` and ``rotation_deg``.
    pixel_scale_arcsec, max_mpix, orientation, reference
        See `field_grid`; the scale also holds for a centre without its own.

    Returns
    -------
    Grid

    Raises
    ------
    StepFailed
        NO_FRAMES and TOO_LARGE as `field_grid`; NO_OVERLAP if no frame touches a given
        grid; NO_WCS if a file holds no usable grid.
    """
    if given is None:
        return field_grid(
            solutions,
            pixel_scale_arcsec=pixel_scale_arcsec,
            max_mpix=max_mpix,
            orientation=orientation,
            reference=reference,
        )
    from skymill.given_grids import given_grid, wanted_grid

    wcs, shape, what = wanted_grid(solutions, given, pixel_scale_arcsec)
    if shape[0] * shape[1] > max_mpix * 1e6:
        raise StepFailed(
            "TOO_LARGE",
            f"{what} has {shape[1]} x {shape[0]} px, more than stack.max_mpix = {max_mpix:g}",
            nx=shape[1],
            ny=shape[0],
        )
    # Frames of one field have one scale; a tile may hold frames of several.
    return given_grid(solutions, wcs, shape, what=what, one_scale=not given.get("tile"))


def _one_kind(
    footprints: list[Footprint],
) -> tuple[list[Footprint], list[tuple[str, str, str]]]:
    """Keep the larger group of absolute and relative solutions (absolute if equal)."""
    sky = [item for item in footprints if item.celestial]
    relative = [item for item in footprints if not item.celestial]
    keep, drop = (sky, relative) if len(sky) >= len(relative) else (relative, sky)
    kinds = ("on the sky", "relative to a reference frame")
    here, there = kinds if keep is sky else kinds[::-1]
    text = f"its position is {there}, those of {len(keep)} other frames are {here}"
    return keep, [(item.frame_id, "WCS_RELATIVE", f"{item.frame_id}: {text}") for item in drop]


def _without_outliers(
    footprints: list[Footprint],
) -> tuple[list[Footprint], list[tuple[str, str, str]]]:
    """Keep the frames of common scale that hang together by overlaps.

    The largest group of frames connected by overlapping circumscribed circles is the
    field (the one with the first frame id if two are equal).
    """
    rejected: list[tuple[str, str, str]] = []
    if not footprints:
        return [], rejected
    keep, rejected = of_common_scale(footprints)
    main = _largest_group(keep)
    field = [keep[i] for i in main]
    for item in (keep[i] for i in range(len(keep)) if i not in set(main)):
        offsets = [distance(item, other) for other in field]
        diagonals = min(offsets) / (2 * item.radius)
        code = "WCS_OUTLIER" if diagonals > _FAR_DIAGONALS else "NO_OVERLAP"
        text = (
            f"{item.frame_id}: {diagonals:.1f} diagonals away from the nearest of "
            f"{len(field)} frames of the field, no common area"
        )
        rejected.append((item.frame_id, code, text))
    return field, rejected


def _largest_group(items: list[Footprint]) -> list[int]:
    """Indices of the largest connected group of overlapping footprints, ascending."""
    if not items:
        return []
    # A search tree would take longer to import than most fields to search.
    centres = np.array([item.centre for item in items])
    reach_sq = (2 * max(item.radius for item in items)) ** 2
    left = np.ones(len(items), bool)
    best: list[int] = []
    while left.any():
        queue = [int(np.flatnonzero(left)[0])]
        left[queue[0]] = False
        group = []
        while queue:
            here = queue.pop()
            group.append(here)
            near = left & (((centres - centres[here]) ** 2).sum(axis=1) <= reach_sq)
            for other in np.flatnonzero(near).tolist():
                reach = items[here].radius + items[other].radius
                if distance(items[here], items[other]) < reach:
                    left[other] = False
                    queue.append(other)
        if len(group) > len(best):
            best = sorted(group)
    return best


def _reference(items: list[Footprint], centre: NDArray[np.float64], name: str | None) -> Footprint:
    for item in items:
        if item.frame_id == name:
            return item
    return min(items, key=lambda item: (float(((item.centre - centre) ** 2).sum()), item.frame_id))


def _sky_grid(
    items: list[Footprint],
    pixel_scale_arcsec: float | None,
    orientation: str,
    reference: str | None,
) -> tuple[WCS, tuple[int, int]]:
    from astropy.wcs import WCS

    total = np.sum([item.points.mean(axis=0) for item in items], axis=0)
    centre = total / np.sqrt((total**2).sum())
    scale = np.degrees(float(np.median([item.scale for item in items])))
    if pixel_scale_arcsec is not None:
        scale = pixel_scale_arcsec / 3600
    guide = _reference(items, centre, reference)
    if orientation == "north":
        matrix = np.array([[-1.0, 0.0], [0.0, 1.0]])
    else:
        matrix = _orthogonal(_seen_from(centre, guide))
    wcs = WCS(naxis=2)
    if guide.system[0]:
        wcs.wcs.radesys, wcs.wcs.equinox = guide.system
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    # Rounded, so that the last bits of a sum do not end up in a header.
    wcs.wcs.crval = [
        round(float(np.degrees(np.arctan2(centre[1], centre[0]))) % 360, 9),
        round(float(np.degrees(np.arcsin(np.clip(centre[2], -1, 1)))), 9),
    ]
    wcs.wcs.cd = np.round(matrix * scale, 15)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.set()
    points = np.concatenate([item.points for item in items])
    # The reference frame's central pixel falls on a whole pixel: a frame of the same
    # orientation and scale is then hardly smoothed.
    phase = np.mod(_onto(wcs, guide.centre[None, :])[:, 0] - guide.half, 1.0)
    x, y = _onto(wcs, points) - phase[:, None]
    x0, y0, shape = _box(x, y)
    wcs.wcs.crpix = [round(1.0 - x0 - phase[0], 9), round(1.0 - y0 - phase[1], 9)]
    wcs.wcs.set()
    return wcs, shape


def _onto(wcs: WCS, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel positions, shape (2, n), of unit vectors."""
    lon = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    lat = np.degrees(np.arcsin(np.clip(points[:, 2], -1, 1)))
    return np.array(wcs.all_world2pix(lon, lat, 0))


def _seen_from(centre: NDArray[np.float64], item: Footprint) -> NDArray[np.float64]:
    """Axes of a frame as (east, north) components at another centre.

    Near a pole north differs between two nearby directions: the axes are carried over
    as vectors.
    """
    axes = tangent_basis(item.centre).T @ item.jacobian
    return np.asarray(tangent_basis(centre) @ axes)


def _orthogonal(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest rotation or reflection of a 2 x 2 matrix."""
    u, _, vt = np.linalg.svd(jacobian)
    return np.asarray(u @ vt)


def _box(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int, tuple[int, int]]:
    """First pixel and shape of the box of pixels whose centres are covered (to 1e-3 px)."""
    x0, x1 = int(np.ceil(x.min() - 1e-3)), int(np.floor(x.max() + 1e-3))
    y0, y1 = int(np.ceil(y.min() - 1e-3)), int(np.floor(y.max() + 1e-3))
    return x0, y0, (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))


def _relative_grid(items: list[Footprint]) -> tuple[WCS, tuple[int, int]]:
    from astropy.wcs import WCS

    points = np.concatenate([item.points for item in items])
    x0, y0, shape = _box(points[:, 0], points[:, 1])
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crval = [float(x0), float(y0)]
    wcs.wcs.cdelt = [1.0, 1.0]
    wcs.wcs.set()
    return wcs, shape
