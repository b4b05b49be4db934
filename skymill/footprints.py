"""Where frames lie: their borders as vectors on the sky, or in pixels of a reference frame."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = [
    "Footprint", "Solution", "border", "distance", "footprint_of", "footprints_of",
    "of_common_scale", "tangent_basis", "world_vectors",
]  # fmt: skip

#: Identifier, world coordinates and shape (ny, nx) of one frame.
Solution = tuple[str, "WCS", tuple[int, int]]

_BORDER_POINTS = 17
#: Pixel scales further apart than this factor do not belong to one field.
_SCALE_FACTOR = 1.5


@dataclass(frozen=True)
class Footprint:
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

    def outline(self) -> tuple[tuple[float, float, float], ...]:
        """Border as a polygon on the sky, once around: see `border` for the order."""
        n = _BORDER_POINTS
        low, high, left, right = (self.points[k * n : (k + 1) * n] for k in range(4))
        ring = np.concatenate([low[:-1], right[:-1], high[:0:-1], left[:0:-1]])
        return tuple((float(x), float(y), float(z)) for x, y, z in ring)


def border(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions along the centres of the border pixels: interpolation ends there."""
    ny, nx = shape
    along_x, along_y = (np.linspace(0, n - 1, _BORDER_POINTS) for n in (nx, ny))
    low = np.zeros(_BORDER_POINTS)
    x = np.concatenate([along_x, along_x, low, low + nx - 1])
    y = np.concatenate([low, low + ny - 1, along_y, along_y])
    return x, y


def world_vectors(wcs: WCS, x: Any, y: Any) -> NDArray[np.float64]:
    """World coordinates as Cartesian vectors: shape (n, 3) on the sky, (n, 2) relative."""
    a, b = wcs.all_pix2world(np.atleast_1d(x), np.atleast_1d(y), 0)
    if not wcs.has_celestial:
        return np.stack([a, b], axis=1)
    lon, lat = np.radians(a if wcs.wcs.lng == 0 else b), np.radians(b if wcs.wcs.lat == 1 else a)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def tangent_basis(centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (east, north) at a direction; at a pole north is along RA = 180 deg."""
    lon = np.arctan2(centre[1], centre[0]) if np.hypot(centre[0], centre[1]) > 1e-12 else 0.0
    lat = np.arcsin(np.clip(centre[2], -1, 1))
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.array([east, north])


def footprints_of(
    solutions: Sequence[Solution],
) -> tuple[list[Footprint], list[tuple[str, str, str]]]:
    """Return the footprints of frames, and (frame_id, code, message) of those without."""
    good, bad = [], []
    for frame_id, wcs, shape in solutions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            footprint = footprint_of(frame_id, wcs, shape)
        if footprint is None:
            bad.append((frame_id, "NO_WCS", f"{frame_id}: the world coordinates are not finite"))
        else:
            good.append(footprint)
    return good, bad


def footprint_of(frame_id: str, wcs: WCS, shape: tuple[int, int]) -> Footprint | None:
    """Return the footprint of a frame; None if its coordinates are not finite."""
    ny, nx = shape
    xc, yc = (nx - 1) / 2, (ny - 1) / 2
    points = world_vectors(wcs, *border(shape))
    near = world_vectors(wcs, [xc, xc + 0.5, xc - 0.5, xc, xc], [yc, yc, yc, yc + 0.5, yc - 0.5])
    if not (np.isfinite(points).all() and np.isfinite(near).all()):
        return None
    centre = near[0]
    step = np.stack([near[1] - near[2], near[3] - near[4]], axis=1)
    jacobian = tangent_basis(centre) @ step if wcs.has_celestial else step
    scale = float(np.sqrt(abs(np.linalg.det(jacobian))))
    if scale <= 0:
        return None
    radius = float(np.sqrt(((points - centre) ** 2).sum(axis=1)).max())
    return Footprint(
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


def of_common_scale(
    footprints: list[Footprint],
) -> tuple[list[Footprint], list[tuple[str, str, str]]]:
    """Keep the frames whose pixel scale is near the median of all."""
    keep: list[Footprint] = []
    rejected: list[tuple[str, str, str]] = []
    median = float(np.median([item.scale for item in footprints])) if footprints else 1.0
    for item in footprints:
        ratio = item.scale / median
        if 1 / _SCALE_FACTOR < ratio < _SCALE_FACTOR:
            keep.append(item)
            continue
        text = f"{item.frame_id}: its pixel scale is {ratio:.3g} times the median of the field"
        rejected.append((item.frame_id, "WCS_OUTLIER", text))
    return keep, rejected


def distance(one: Footprint, other: Footprint) -> float:
    """Return the distance of two centres: chord on the sky (radian nearly), or pixels."""
    return float(np.sqrt(((one.centre - other.centre) ** 2).sum()))
