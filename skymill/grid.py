"""The common pixel grid of a field, from the world coordinates of its frames.

All stacks of a field share one grid, so a position means the same in every filter.
Frames whose coordinates cannot belong to the field are named and left out **before**
the size of the grid is computed: one frame with a wrong WCS must not blow up the
canvas.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["Grid", "Solution", "field_grid"]

#: Identifier, world coordinates and shape (ny, nx) of one frame.
Solution = tuple[str, "WCS", tuple[int, int]]

_BORDER_POINTS = 17
#: A frame this many of its own diagonals away from the field has a wrong WCS.
_FAR_DIAGONALS = 10.0
#: Pixel scales further apart than this factor do not belong to one field.
_SCALE_FACTOR = 1.5


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


@dataclass(frozen=True)
class _Footprint:
    """One frame in Cartesian world coordinates (unit vectors on the sky, or pixels).

    ``half`` is the fractional part of the pixel position of its centre.
    """

    frame_id: str
    points: NDArray[np.float64]
    centre: NDArray[np.float64]
    jacobian: NDArray[np.float64]
    scale: float
    radius: float
    celestial: bool
    system: tuple[str, float]
    half: NDArray[np.float64]


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
    footprints, rejected = _footprints(sorted(solutions, key=lambda item: item[0]))
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


def _border(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions along the centres of the border pixels: interpolation ends there."""
    ny, nx = shape
    along_x, along_y = (np.linspace(0, n - 1, _BORDER_POINTS) for n in (nx, ny))
    low = np.zeros(_BORDER_POINTS)
    x = np.concatenate([along_x, along_x, low, low + nx - 1])
    y = np.concatenate([low, low + ny - 1, along_y, along_y])
    return x, y


def _world(wcs: WCS, x: Any, y: Any) -> NDArray[np.float64]:
    """World coordinates as Cartesian vectors: shape (n, 3) on the sky, (n, 2) relative."""
    a, b = wcs.all_pix2world(np.atleast_1d(x), np.atleast_1d(y), 0)
    if not wcs.has_celestial:
        return np.stack([a, b], axis=1)
    lon, lat = np.radians(a if wcs.wcs.lng == 0 else b), np.radians(b if wcs.wcs.lat == 1 else a)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _tangent_basis(centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (east, north) at a direction; at a pole north is along RA = 180 deg."""
    lon = np.arctan2(centre[1], centre[0]) if np.hypot(centre[0], centre[1]) > 1e-12 else 0.0
    lat = np.arcsin(np.clip(centre[2], -1, 1))
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.array([east, north])


def _footprints(
    solutions: Sequence[Solution],
) -> tuple[list[_Footprint], list[tuple[str, str, str]]]:
    good, bad = [], []
    for frame_id, wcs, shape in solutions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            footprint = _footprint(frame_id, wcs, shape)
        if footprint is None:
            bad.append((frame_id, "NO_WCS", f"{frame_id}: the world coordinates are not finite"))
        else:
            good.append(footprint)
    return good, bad


def _footprint(frame_id: str, wcs: WCS, shape: tuple[int, int]) -> _Footprint | None:
    ny, nx = shape
    xc, yc = (nx - 1) / 2, (ny - 1) / 2
    points = _world(wcs, *_border(shape))
    near = _world(wcs, [xc, xc + 0.5, xc - 0.5, xc, xc], [yc, yc, yc, yc + 0.5, yc - 0.5])
    if not (np.isfinite(points).all() and np.isfinite(near).all()):
        return None
    centre = near[0]
    step = np.stack([near[1] - near[2], near[3] - near[4]], axis=1)
    jacobian = _tangent_basis(centre) @ step if wcs.has_celestial else step
    scale = float(np.sqrt(abs(np.linalg.det(jacobian))))
    if scale <= 0:
        return None
    radius = float(np.sqrt(((points - centre) ** 2).sum(axis=1)).max())
    return _Footprint(
        frame_id=frame_id,
        points=points,
        centre=centre,
        jacobian=jacobian,
        scale=scale,
        radius=radius,
        celestial=bool(wcs.has_celestial),
        system=(str(wcs.wcs.radesys).strip(), float(wcs.wcs.equinox)),
        half=np.array([xc % 1, yc % 1]),
    )


def _one_kind(
    footprints: list[_Footprint],
) -> tuple[list[_Footprint], list[tuple[str, str, str]]]:
    """Keep the larger group of absolute and relative solutions (absolute if equal)."""
    sky = [item for item in footprints if item.celestial]
    relative = [item for item in footprints if not item.celestial]
    keep, drop = (sky, relative) if len(sky) >= len(relative) else (relative, sky)
    kinds = ("on the sky", "relative to a reference frame")
    here, there = kinds if keep is sky else kinds[::-1]
    text = f"its position is {there}, those of {len(keep)} other frames are {here}"
    return keep, [(item.frame_id, "WCS_RELATIVE", f"{item.frame_id}: {text}") for item in drop]


def _without_outliers(
    footprints: list[_Footprint],
) -> tuple[list[_Footprint], list[tuple[str, str, str]]]:
    """Keep the frames of common scale that hang together by overlaps.

    The largest group of frames connected by overlapping circumscribed circles is the
    field (the one with the first frame id if two are equal).
    """
    rejected: list[tuple[str, str, str]] = []
    if not footprints:
        return [], rejected
    median = float(np.median([item.scale for item in footprints]))
    keep = []
    for item in footprints:
        ratio = item.scale / median
        if 1 / _SCALE_FACTOR < ratio < _SCALE_FACTOR:
            keep.append(item)
            continue
        text = f"{item.frame_id}: its pixel scale is {ratio:.3g} times the median of the field"
        rejected.append((item.frame_id, "WCS_OUTLIER", text))
    main = _largest_group(keep)
    field = [keep[i] for i in main]
    for item in (keep[i] for i in range(len(keep)) if i not in set(main)):
        offsets = [_distance(item, other) for other in field]
        diagonals = min(offsets) / (2 * item.radius)
        code = "WCS_OUTLIER" if diagonals > _FAR_DIAGONALS else "NO_OVERLAP"
        text = (
            f"{item.frame_id}: {diagonals:.1f} diagonals away from the nearest of "
            f"{len(field)} frames of the field, no common area"
        )
        rejected.append((item.frame_id, code, text))
    return field, rejected


def _distance(one: _Footprint, other: _Footprint) -> float:
    return float(np.sqrt(((one.centre - other.centre) ** 2).sum()))


def _largest_group(items: list[_Footprint]) -> list[int]:
    """Indices of the largest connected group of overlapping footprints, ascending."""
    from scipy.spatial import cKDTree

    if not items:
        return []
    tree = cKDTree(np.array([item.centre for item in items]))
    largest = max(item.radius for item in items)
    left = set(range(len(items)))
    best: list[int] = []
    while left:
        queue = [min(left)]
        left.discard(queue[0])
        group = []
        while queue:
            here = queue.pop()
            group.append(here)
            for other in sorted(tree.query_ball_point(items[here].centre, 2 * largest)):
                reach = items[here].radius + items[other].radius
                if other in left and _distance(items[here], items[other]) < reach:
                    left.discard(other)
                    queue.append(other)
        if len(group) > len(best):
            best = sorted(group)
    return best


def _reference(
    items: list[_Footprint], centre: NDArray[np.float64], name: str | None
) -> _Footprint:
    for item in items:
        if item.frame_id == name:
            return item
    return min(items, key=lambda item: (float(((item.centre - centre) ** 2).sum()), item.frame_id))


def _sky_grid(
    items: list[_Footprint],
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


def _seen_from(centre: NDArray[np.float64], item: _Footprint) -> NDArray[np.float64]:
    """Axes of a frame as (east, north) components at another centre.

    Near a pole north differs between two nearby directions: the axes are carried over
    as vectors.
    """
    axes = _tangent_basis(item.centre).T @ item.jacobian
    return np.asarray(_tangent_basis(centre) @ axes)


def _orthogonal(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest rotation or reflection of a 2 x 2 matrix."""
    u, _, vt = np.linalg.svd(jacobian)
    return np.asarray(u @ vt)


def _box(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int, tuple[int, int]]:
    """First pixel and shape of the box of pixels whose centres are covered (to 1e-3 px)."""
    x0, x1 = int(np.ceil(x.min() - 1e-3)), int(np.floor(x.max() + 1e-3))
    y0, y1 = int(np.ceil(y.min() - 1e-3)), int(np.floor(y.max() + 1e-3))
    return x0, y0, (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))


def _relative_grid(items: list[_Footprint]) -> tuple[WCS, tuple[int, int]]:
    from astropy.wcs import WCS

    points = np.concatenate([item.points for item in items])
    x0, y0, shape = _box(points[:, 0], points[:, 1])
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crval = [float(x0), float(y0)]
    wcs.wcs.cdelt = [1.0, 1.0]
    wcs.wcs.set()
    return wcs, shape
