"""The pixels that regions cover.

A pixel belongs to a region if its centre does. On the sky, distances are true distances
from the centre of the region, so that a circle stays one in a distorted field.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.wcsmath import pixel_to_sky, sky_to_pixel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.masks.regions import Region

    Plane = NDArray[np.float64]
    Box = tuple[int, int, int, int]

__all__ = ["draw_regions"]

#: A line masks the pixels that it touches: half a diagonal.
_TOUCH_PX = math.sqrt(0.5)
#: Distances on the sky are computed every so many pixels and interpolated: the error is
#: below a thousandth of a pixel for any field that a camera images.
_STEP_PX = 16


def draw_regions(
    regions: Iterable[Region],
    shape: tuple[int, int],
    wcs: WCS | None = None,
    header: Mapping[str, Any] | None = None,
) -> NDArray[np.bool_]:
    """Return the pixels that regions cover.

    Parameters
    ----------
    regions : iterable of Region
        Excluded regions are taken from the sum of all others, whatever their order; if
        all are excluded, from the whole frame.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    wcs : astropy.wcs.WCS, optional
        Celestial coordinates; needed for regions on the sky.
    header : mapping, optional
        Header with LTV and LTM cards, which relate physical to image coordinates.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True inside.

    Raises
    ------
    SkymillError
        If a region on the sky meets a frame without celestial coordinates.
    """
    inside, outside = np.zeros(shape, bool), np.zeros(shape, bool)
    wanted = list(regions)
    for region in wanted:
        _add(outside if region.exclude else inside, region, wcs, header or {})
    if wanted and all(region.exclude for region in wanted):
        inside[:] = True
    return inside & ~outside


def _add(
    mask: NDArray[np.bool_], region: Region, wcs: WCS | None, header: Mapping[str, Any]
) -> None:
    if (region.on_sky or region.sizes_on_sky) and (wcs is None or not wcs.has_celestial):
        where = f" (line {region.line})" if region.line else ""
        raise SkymillError(
            f"{region.kind} in {region.system}{where}: the frame has no celestial coordinates; "
            "give the region in image coordinates"
        )
    points = _to_pixels(region, wcs, header)
    if not np.isfinite(points).all():
        return  # on the other side of the sky
    if region.kind == "polygon":
        _polygon(mask, points)
    elif region.kind in ("line", "vector"):
        if region.kind == "vector":
            points = np.array([points[0], _end(region, points[0], wcs)])
        _line(mask, points)
    elif region.kind == "point":
        _touch(mask, points[0])
    else:
        _around(mask, region, points[0], wcs)


def _to_pixels(region: Region, wcs: WCS | None, header: Mapping[str, Any]) -> Plane:
    """0-based pixel positions of the points of a region."""
    given = np.array(region.points, float)
    if region.on_sky:
        assert wcs is not None
        return _sky_pixels(wcs, given, region.system)
    if region.system == "physical":
        scale = np.array([float(header.get(f"LTM{n}_{n}", 1.0)) for n in (1, 2)])
        shift = np.array([float(header.get(f"LTV{n}", 0.0)) for n in (1, 2)])
        given = given * scale + shift
    return np.asarray(given - 1.0)


def _sky_pixels(wcs: WCS, lonlat: Plane, frame: str) -> Plane:
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    own = SkyCoord(lonlat[:, 0], lonlat[:, 1], unit="deg", frame=frame)
    there = own.transform_to(wcs_to_celestial_frame(wcs)).spherical
    return sky_to_pixel(wcs, there.lon.deg, there.lat.deg)


def _offsets(wcs: WCS, frame: str, centre: tuple[float, float], box: Box) -> tuple[Plane, Plane]:
    """Distance of pixels from a point on the sky, to the west and to the north, in degree."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame
    from scipy.interpolate import RectBivariateSpline

    y0, y1, x0, x1 = box
    step = _STEP_PX if max(y1 - y0, x1 - x0) > 4 * _STEP_PX else 1
    ys, xs = (np.arange(a, max(b, a + 4 * step) + step, step) for a, b in ((y0, y1), (x0, x1)))
    grid = np.stack([v.ravel() for v in np.meshgrid(xs, ys)], axis=1).astype(float)
    sky = pixel_to_sky(wcs, grid)
    own = SkyCoord(sky[:, 0], sky[:, 1], unit="deg", frame=wcs_to_celestial_frame(wcs))
    seen = own.transform_to(SkyCoord(*centre, unit="deg", frame=frame).frame).spherical
    lon, lat = seen.lon.rad - math.radians(centre[0]), seen.lat.rad
    lat0 = math.radians(centre[1])
    east = np.cos(lat) * np.sin(lon)
    north = np.sin(lat) * math.cos(lat0) - np.cos(lat) * math.sin(lat0) * np.cos(lon)
    ahead = np.sin(lat) * math.sin(lat0) + np.cos(lat) * math.cos(lat0) * np.cos(lon)
    across = np.hypot(east, north)
    # arc over sine; 1 at the centre itself
    stretch = np.degrees(np.where(across > 0, np.arctan2(across, ahead), 1.0))
    stretch /= np.where(across > 0, across, 1.0)
    shape = (ys.size, xs.size)
    west, north = (-east * stretch).reshape(shape), (north * stretch).reshape(shape)
    if step == 1:
        return west[: y1 - y0, : x1 - x0], north[: y1 - y0, : x1 - x0]
    rows, columns = np.arange(y0, y1), np.arange(x0, x1)
    u, v = (RectBivariateSpline(ys, xs, plane)(rows, columns) for plane in (west, north))
    return np.asarray(u), np.asarray(v)


def _pixels_per_degree(wcs: WCS, xy: Plane) -> float:
    """Mean scale at a pixel."""
    near = pixel_to_sky(wcs, xy + np.array([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]))
    (dx, dy) = near[1:] - near[0]
    for d in (dx, dy):
        d[0] = (d[0] + 180) % 360 - 180
    area = abs(dx[0] * dy[1] - dx[1] * dy[0]) * math.cos(math.radians(near[0, 1])) * 4
    return 1 / math.sqrt(area)


def _around(mask: NDArray[np.bool_], region: Region, centre: Plane, wcs: WCS | None) -> None:
    """Shapes about a centre."""
    sizes = list(region.sizes)
    ratio = _pixels_per_degree(wcs, centre) if wcs is not None and wcs.has_celestial else 1.0
    if region.on_sky and not region.sizes_on_sky:
        sizes = [size / ratio for size in sizes]
    elif not region.on_sky and region.sizes_on_sky:
        sizes = [size * ratio for size in sizes]
    reach = max(sizes) * (1.5 * ratio if region.on_sky else 1.0) + 3
    ny, nx = mask.shape
    x0, x1 = (int(np.clip(v, 0, nx)) for v in (centre[0] - reach, centre[0] + reach + 1))
    y0, y1 = (int(np.clip(v, 0, ny)) for v in (centre[1] - reach, centre[1] + reach + 1))
    if x1 > x0 and y1 > y0:
        if region.on_sky:
            assert wcs is not None
            u, v = _offsets(wcs, region.system, region.points[0], (y0, y1, x0, x1))
        else:
            v, u = np.mgrid[y0:y1, x0:x1].astype(float) - centre[::-1, None, None]
        mask[y0:y1, x0:x1] |= _covered(region.kind, sizes, region.angle_deg, u, v)
    if region.kind in ("circle", "ellipse", "box") and len(sizes) <= 2:
        _touch(mask, centre)


def _covered(kind: str, sizes: list[float], angle: float, u: Plane, v: Plane) -> NDArray[np.bool_]:
    distance = u * u + v * v
    if kind == "circle":
        return distance <= sizes[0] ** 2
    if kind == "annulus":
        return (distance >= sizes[0] ** 2) & (distance <= sizes[-1] ** 2)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = np.abs(u * c + v * s), np.abs(v * c - u * s)

    def within(a: float, b: float) -> NDArray[np.bool_]:
        if min(a, b) <= 0:
            return np.zeros(u.shape, bool)
        if kind == "ellipse":
            return np.asarray((along / a) ** 2 + (across / b) ** 2 <= 1)
        return np.asarray((along <= a / 2) & (across <= b / 2))

    if len(sizes) == 2:
        return within(sizes[0], sizes[1])
    return within(sizes[-2], sizes[-1]) & ~within(sizes[0], sizes[1])


def _touch(mask: NDArray[np.bool_], xy: Plane) -> None:
    """Set the pixel in which a point lies: no region is so small that it masks nothing."""
    x, y = (math.floor(v + 0.5) for v in xy)
    if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
        mask[y, x] = True


def _end(region: Region, start: Plane, wcs: WCS | None) -> Plane:
    """The far end of a vector."""
    from astropy.coordinates import SkyCoord

    angle, length = math.radians(region.angle_deg), region.sizes[0]
    if not region.on_sky:
        if region.sizes_on_sky:
            assert wcs is not None
            length *= _pixels_per_degree(wcs, start)
        return np.asarray(start + length * np.array([math.cos(angle), math.sin(angle)]))
    assert wcs is not None
    if not region.sizes_on_sky:
        length /= _pixels_per_degree(wcs, start)
    own = SkyCoord(*region.points[0], unit="deg", frame=region.system)
    # position angles run from north through east, ours from west to north
    there = own.directional_offset_by((angle - math.pi / 2) * _radian(), length * _degree())
    lonlat = np.array([[there.spherical.lon.deg, there.spherical.lat.deg]])
    return np.asarray(_sky_pixels(wcs, lonlat, region.system)[0])


def _radian() -> Any:
    from astropy import units

    return units.rad


def _degree() -> Any:
    from astropy import units

    return units.deg


def _window(mask: NDArray[np.bool_], points: Plane) -> Box:
    ny, nx = mask.shape
    low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 2
    x0, x1 = (int(np.clip(v, 0, nx)) for v in (low[0], high[0]))
    y0, y1 = (int(np.clip(v, 0, ny)) for v in (low[1], high[1]))
    return y0, y1, x0, x1


def _polygon(mask: NDArray[np.bool_], points: Plane) -> None:
    """Even-odd rule; sides are straight in the frame."""
    y0, y1, x0, x1 = _window(mask, points)
    y, x = np.mgrid[y0:y1, x0:x1].astype(float)
    inside = np.zeros(x.shape, bool)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if ya == yb:
            continue
        crossed = ((ya > y) != (yb > y)) & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
        inside ^= crossed
    mask[y0:y1, x0:x1] |= inside


def _line(mask: NDArray[np.bool_], points: Plane) -> None:
    y0, y1, x0, x1 = _window(mask, points)
    y, x = np.mgrid[y0:y1, x0:x1].astype(float)
    (xa, ya), (xb, yb) = points
    dx, dy = xb - xa, yb - ya
    square = max(dx * dx + dy * dy, 1e-12)
    t = np.clip(((x - xa) * dx + (y - ya) * dy) / square, 0, 1)
    near = (x - xa - t * dx) ** 2 + (y - ya - t * dy) ** 2 <= _TOUCH_PX**2
    mask[y0:y1, x0:x1] |= near
    _touch(mask, points[0])
