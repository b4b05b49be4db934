"""Polygons on the celestial sphere: areas and overlaps, exact at poles and at RA = 0 h.

A polygon is a sequence of unit vectors joined by great circles, smaller than a
hemisphere. Nothing is projected to right ascension and declination, so that cos(dec),
the wrap at 0 h, rotation and the poles need no care. Plain Python on tuples: the plan
uses it, which every cluster job reads, and a polygon has few corners.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Polygon",
    "Vector",
    "area_sr",
    "bounding_cap",
    "circle",
    "clip",
    "contains",
    "cross",
    "dot",
    "from_degrees",
    "overlap_fraction",
    "overlap_sr",
    "separation",
    "tangent_axes",
    "to_degrees",
    "unit_vector",
]

Vector = tuple[float, float, float]
Polygon = tuple[Vector, ...]


def unit_vector(ra_deg: float, dec_deg: float) -> Vector:
    """Return the direction of a position."""
    ra, dec = math.radians(ra_deg), math.radians(dec_deg)
    return (math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec))


def to_degrees(vector: Vector) -> tuple[float, float]:
    """Return right ascension in [0, 360) and declination of a direction, in degree."""
    x, y, z = vector
    ra = math.degrees(math.atan2(y, x)) % 360.0
    return (ra if ra < 360.0 else 0.0, math.degrees(math.atan2(z, math.hypot(x, y))))


def dot(a: Vector, b: Vector) -> float:
    """Return the scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """Return the vector product."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _normed(v: Vector) -> Vector:
    length = math.sqrt(dot(v, v))
    return (v[0] / length, v[1] / length, v[2] / length)


def separation(a: Vector, b: Vector) -> float:
    """Return the angle between two directions, radian; accurate for small angles too."""
    c = cross(a, b)
    return math.atan2(math.sqrt(dot(c, c)), dot(a, b))


def tangent_axes(centre: Vector) -> tuple[Vector, Vector]:
    """Return unit vectors to east and north at a direction.

    At a pole they are those of the meridian RA = 0 h continued onto the pole, as FITS
    has them for CRVAL1 = 0 and LONPOLE = 180.
    """
    rho = math.hypot(centre[0], centre[1])
    cos, sin = (centre[0] / rho, centre[1] / rho) if rho > 1e-12 else (1.0, 0.0)
    return (-sin, cos, 0.0), (-centre[2] * cos, -centre[2] * sin, rho)


def from_degrees(corners: Iterable[tuple[float, float]]) -> Polygon:
    """Return the polygon of positions (ra, dec) in degree, in order around it.

    Raises
    ------
    ValueError
        With fewer than three corners.
    """
    points = tuple(unit_vector(ra, dec) for ra, dec in corners)
    if len(points) < 3:
        raise ValueError("a polygon needs three corners")
    return points


def circle(ra_deg: float, dec_deg: float, radius_deg: float, *, sides: int = 16) -> Polygon:
    """Return a regular polygon that holds a circle on the sky (its sides touch it)."""
    centre = unit_vector(ra_deg, dec_deg)
    east, north = tangent_axes(centre)
    r = math.tan(math.radians(radius_deg)) / math.cos(math.pi / sides)
    angles = [2 * math.pi * k / sides for k in range(sides)]
    return tuple(
        _normed(
            (
                centre[0] + r * (math.cos(a) * east[0] + math.sin(a) * north[0]),
                centre[1] + r * (math.cos(a) * east[1] + math.sin(a) * north[1]),
                centre[2] + r * (math.cos(a) * east[2] + math.sin(a) * north[2]),
            )
        )
        for a in angles
    )


def _middle(points: Sequence[Vector]) -> Vector:
    total = tuple(math.fsum(p[k] for p in points) for k in range(3))
    return _normed((total[0], total[1], total[2]))


def bounding_cap(polygon: Sequence[Vector]) -> tuple[Vector, float]:
    """Return centre and radius (radian) of a circle that holds a polygon."""
    centre = _middle(polygon)
    return centre, max(separation(centre, p) for p in polygon)


def _signed_area(polygon: Sequence[Vector]) -> float:
    """Return the area, positive if the corners run counterclockwise seen from outside.

    Sum of the signed solid angles of the triangles with the middle (Van Oosterom &
    Strackee 1983): tan(E/2) = a.(b x c) / (1 + a.b + b.c + c.a).
    """
    if len(polygon) < 3:
        return 0.0
    a = _middle(polygon)
    parts = []
    for i, b in enumerate(polygon):
        c = polygon[(i + 1) % len(polygon)]
        # b x (c - b) = b x c, without the loss of digits between nearby directions
        step = (c[0] - b[0], c[1] - b[1], c[2] - b[2])
        triple = dot(a, cross(b, step))
        parts.append(2 * math.atan2(triple, 1 + dot(a, b) + dot(b, c) + dot(c, a)))
    return math.fsum(parts)


def area_sr(polygon: Sequence[Vector]) -> float:
    """Return the area of a polygon in steradian, whichever way its corners run."""
    return abs(_signed_area(polygon))


def _forward(polygon: Sequence[Vector]) -> Sequence[Vector]:
    """Return the polygon with its corners counterclockwise seen from outside."""
    return polygon if _signed_area(polygon) >= 0 else tuple(reversed(polygon))


def clip(polygon: Sequence[Vector], normal: Vector) -> list[Vector]:
    """Return the part of a polygon on one side of a great circle (Sutherland-Hodgman).

    Parameters
    ----------
    polygon : sequence of Vector
        Any simple polygon.
    normal : Vector
        Pole of the great circle; the hemisphere around it is kept.
    """
    out: list[Vector] = []
    heights = [dot(p, normal) for p in polygon]
    for i, p in enumerate(polygon):
        j = (i + 1) % len(polygon)
        q, hp, hq = polygon[j], heights[i], heights[j]
        if hp >= 0:
            out.append(p)
        if (hp >= 0) != (hq >= 0):
            t = hp / (hp - hq)
            cut = (p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1]), p[2] + t * (q[2] - p[2]))
            out.append(_normed(cut))  # in the plane of p and q, and on the great circle
    return out


def _edges(polygon: Sequence[Vector]) -> list[Vector]:
    """Return the poles of the sides of a counterclockwise polygon, its inside positive."""
    n = len(polygon)
    out = []
    for i, p in enumerate(polygon):
        q = polygon[(i + 1) % n]
        step = (q[0] - p[0], q[1] - p[1], q[2] - p[2])
        if dot(step, step) > 0:
            out.append(cross(p, step))
    return out


def _convex(polygon: Sequence[Vector]) -> bool:
    return all(dot(p, normal) >= -1e-14 for normal in _edges(polygon) for p in polygon)


def overlap_sr(one: Sequence[Vector], other: Sequence[Vector]) -> float:
    """Return the common area of two polygons in steradian.

    Parameters
    ----------
    one : sequence of Vector
        Any simple polygon.
    other : sequence of Vector
        A polygon all of whose border is seen from its middle, such as the footprint of
        a frame, even a distorted one.
    """
    centre_1, radius_1 = bounding_cap(one)
    centre_2, radius_2 = bounding_cap(other)
    if separation(centre_1, centre_2) > radius_1 + radius_2:
        return 0.0
    window = _forward(other)
    if _convex(window):
        return area_sr(_inside(one, window))
    middle = _middle(window)
    triangles = [(middle, p, window[(i + 1) % len(window)]) for i, p in enumerate(window)]
    return math.fsum(area_sr(_inside(one, triangle)) for triangle in triangles)


def _inside(polygon: Sequence[Vector], window: Sequence[Vector]) -> Sequence[Vector]:
    left: Sequence[Vector] = polygon
    for normal in _edges(window):
        left = clip(left, normal)
        if not left:
            return ()
    return left


def overlap_fraction(one: Sequence[Vector], other: Sequence[Vector]) -> float:
    """Return the part of the area of the first polygon that the second covers, 0 to 1."""
    whole = area_sr(one)
    return min(overlap_sr(one, other) / whole, 1.0) if whole > 0 else 0.0


def contains(polygon: Sequence[Vector], point: Vector) -> bool:
    """Return True if a convex polygon holds a direction (its border included)."""
    return all(dot(point, normal) >= 0 for normal in _edges(_forward(polygon)))
