"""F17: polygons on the sphere, where cos(dec), RA = 0 h, rotation and poles are right."""

import math

import pytest

from skymill.sphere import (
    area_sr,
    circle,
    contains,
    from_degrees,
    overlap_fraction,
    overlap_sr,
    separation,
    tangent_axes,
    to_degrees,
    unit_vector,
)


def box(ra, dec, width, height, angle=0.0):
    """A rectangle on the tangent plane, degree; turned by an angle."""
    centre = unit_vector(ra, dec)
    east, north = tangent_axes(centre)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = []
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = math.radians(u * width / 2), math.radians(v * height / 2)
        x, y = c * x - s * y, s * x + c * y
        p = [centre[k] + x * east[k] + y * north[k] for k in range(3)]
        n = math.sqrt(sum(t * t for t in p))
        corners.append((p[0] / n, p[1] / n, p[2] / n))
    return tuple(corners)


def test_area_of_an_octant_and_of_a_lune():
    assert area_sr(from_degrees([(0, 0), (90, 0), (0, 90)])) == pytest.approx(math.pi / 2)
    lune = from_degrees([(0, -90), (30, 0), (0, 90), (0, 0)])
    assert area_sr(lune) == pytest.approx(4 * math.pi * 30 / 360)


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_area_of_a_small_square_is_its_side_squared(size):
    exact = math.radians(size) ** 2
    # Gnomonic area is larger by the mean of (1 + r^2)^1.5, r^2 = side^2 / 6.
    assert area_sr(box(10, 70, size, size)) == pytest.approx(exact, rel=0.3 * exact + 1e-7)


@pytest.mark.parametrize(
    ("ra", "dec"), [(0.0, 0.0), (0.0, 60.0), (359.999, -75.0), (123.0, 89.9), (0.0, -90.0)]
)
@pytest.mark.parametrize("angle", [0.0, 33.0])
def test_half_of_a_square_is_half_wherever_it_lies(ra, dec, angle):
    whole = box(ra, dec, 0.4, 0.4, angle)
    half = (whole[0], _middle(whole[0], whole[1]), _middle(whole[2], whole[3]), whole[3])
    assert overlap_fraction(whole, half) == pytest.approx(0.5, abs=1e-5)
    assert overlap_fraction(half, whole) == pytest.approx(1.0, abs=1e-9)
    assert overlap_fraction(whole, whole[::-1]) == pytest.approx(1.0, abs=1e-9)


def _middle(a, b):
    p = [x + y for x, y in zip(a, b, strict=True)]
    n = math.sqrt(sum(t * t for t in p))
    return (p[0] / n, p[1] / n, p[2] / n)


def test_turned_square_in_a_square_is_an_octagon():
    """Two unit squares at 45 degree share 2 (sqrt 2 - 1) of their area."""
    one, other = box(1, 80, 0.01, 0.01), box(1, 80, 0.01, 0.01, 45.0)
    assert overlap_fraction(one, other) == pytest.approx(2 * (math.sqrt(2) - 1), rel=1e-6)


def test_what_is_apart_or_behind_does_not_overlap():
    assert overlap_sr(box(0, 0, 1, 1), box(2, 0, 1, 1)) == 0
    assert overlap_sr(box(0, 0, 1, 1), box(180, 0, 1, 1)) == 0
    # The same right ascensions in degrees, 120 times closer on the sky.
    assert overlap_fraction(box(10, 89.5, 1, 1), box(60, 89.5, 1, 1)) > 0.2
    assert overlap_fraction(box(10, 0, 1, 1), box(60, 0, 1, 1)) == 0


def test_concave_border_counts_as_it_is():
    """A distorted frame bows inwards: what lies in the bow is not covered."""
    arrow = from_degrees([(0, 0), (1, 0.4), (2, 0), (2, 1), (0, 1)])
    square = from_degrees([(0, 0), (2, 0), (2, 1), (0, 1)])
    assert overlap_fraction(square, arrow) == pytest.approx(0.8, abs=1e-3)
    assert overlap_fraction(arrow, square) == pytest.approx(1.0, abs=1e-6)


def test_polygon_around_a_circle_holds_it():
    centre = unit_vector(20, 85)
    polygon = circle(20, 85, 1.5, sides=8)
    east, north = tangent_axes(centre)
    for k in range(100):
        a, r = 2 * math.pi * k / 100, math.tan(math.radians(1.4999))
        p = [centre[i] + r * (math.cos(a) * east[i] + math.sin(a) * north[i]) for i in range(3)]
        n = math.sqrt(sum(t * t for t in p))
        assert contains(polygon, (p[0] / n, p[1] / n, p[2] / n))
    assert area_sr(polygon) < 1.1 * 2 * math.pi * (1 - math.cos(math.radians(1.5)))


def test_positions_return_from_vectors():
    for ra, dec in ((0.0, 0.0), (359.9, -89.0), (12.5, 45.25)):
        assert to_degrees(unit_vector(ra, dec)) == pytest.approx((ra, dec))
    assert separation(unit_vector(0, 0), unit_vector(1e-9, 0)) == pytest.approx(
        math.radians(1e-9), rel=1e-6
    )
    with pytest.raises(ValueError, match="three corners"):
        from_degrees([(0, 0), (1, 1)])
