"""Fixed tiles of the sky: which tile a position belongs to never changes."""

import math

import numpy as np
import pytest

from skymill.sphere import circle, contains, from_degrees, separation, unit_vector
from skymill.tiles import TileScheme, parse_tile, tile_of, tile_wcs, tiles_touching

SCHEME = TileScheme.of(1.0, 4096, 128)

#: Part of the scheme: products in archives bear these names. Never change a line.
FROZEN = [
    (1.0, 4096, 128, 0, 0, "s1000n4096v0128-r088-0000", 0.5142857142857, 0.5142857142857),
    (1.0, 4096, 128, 359.9999, 0, "s1000n4096v0128-r088-0349", 359.4857142857143, 0.5142857142857),
    (1.0, 4096, 128, 10.6847, 41.2688, "s1000n4096v0128-r128-0007", 10.22727272727, 41.65714285714),
    (1.0, 4096, 128, 83.633, 22.014, "s1000n4096v0128-r109-0075", 83.37423312883, 22.11428571428),
    (1.0, 4096, 128, 0, 90, "s1000n4096v0128-r175-0000", 0.0, 90.0),
    (1.0, 4096, 128, 123, -90, "s1000n4096v0128-r000-0000", 0.0, -90.0),
    (1.0, 4096, 128, 37.95, 89.264, "s1000n4096v0128-r174-0001", 54.0, 88.97142857142),
    (0.5, 4096, 128, 201.365, -43.019, "s0500n4096v0128-r091-0286", 201.052631579, -43.06590257879),
    (0.5, 4096, 128, 180, 89.5, "s0500n4096v0128-r348-0005", 198.0, 89.48424068767),
    (0.25, 3600, 100, 10.6847, 41.2688, "s0250n3600v0100-r576-0035", 10.730478589, 41.24050632911),
    (0.25, 3600, 100, 83.633, 22.014, "s0250n3600v0100-r492-0340", 83.61527967257, 22.10126582278),
]  # fmt: skip


@pytest.mark.parametrize("line", FROZEN, ids=lambda line: line[5])
def test_identifiers_never_change(line):
    scale, size, overlap, ra, dec, name, centre_ra, centre_dec = line
    assert tile_of(ra, dec, TileScheme.of(scale, size, overlap)) == name
    wcs, shape = tile_wcs(name)
    assert shape == (size, size)
    assert wcs.wcs.crval == pytest.approx([centre_ra, centre_dec], abs=1e-9)


@pytest.mark.parametrize("ring", [1, 2, 40, 87, 88, 150, 174])
def test_rings_follow_the_documented_formula(ring):
    """Height 180 / ceil(180 / (15/16 (n - v) s)), tiles no wider than high at their widest."""
    core = 15 / 16 * (4096 - 128) / 3600
    height = 180 / math.ceil(180 / core)
    dec = -90 + ring * height
    widest = 360 * math.cos(math.radians(max(abs(dec) - height / 2, 0)))
    assert SCHEME.dec_of(ring) == pytest.approx(dec, abs=1e-9)
    assert -1e-6 < SCHEME.count(ring) - widest / height < 1 + 1e-6


def test_identifier_holds_the_scheme():
    scheme, tile = parse_tile("s0500n4096v0128-r091-0286")
    assert scheme == TileScheme.of(0.5, 4096, 128) and (tile.ring, tile.index) == (91, 286)
    for bad in ("r091-0286", "s0500n4096v0128-r350-0000", "s0500n4096v0128-r000-0001"):
        with pytest.raises(ValueError, match="no tile|is no tile"):
            parse_tile(bad)


@pytest.mark.parametrize(
    "wrong", [(1.0, 30000, 0), (1.0, 4096, 3000), (0.0001, 4096, 0), (1.00049, 4096, 128)]
)
def test_impossible_schemes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        TileScheme.of(*wrong)
    with pytest.raises(ValueError, match="no position"):
        SCHEME.tile_of(10.0, 91.0)


@pytest.mark.parametrize("dec", [0.0, 50.0, -88.0, 89.99, 90.0, -90.0])
def test_tile_is_north_up_with_east_to_the_left(dec):
    tile = SCHEME.tile_of(200.0, dec)
    wcs, (ny, nx) = tile_wcs(tile.id)
    x, y = (nx - 1) / 2, (ny - 1) / 2
    north, east = wcs.all_pix2world([[x, y + 100], [x - 100, y]], 0)
    if abs(tile.dec) < 90:
        assert north[0] == pytest.approx(tile.ra, abs=1e-6)
        assert north[1] == pytest.approx(tile.dec + 100 / 3600, abs=1e-6)
        assert 0 < (east[0] - tile.ra) % 360 < 180
    else:  # at a pole the axes are those of the meridian of 0 h, continued
        assert north[0] == pytest.approx(180.0 if tile.dec > 0 else 0.0, abs=1e-6)
        assert east[0] == pytest.approx(90.0, abs=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (88, 0), (88, 349), (120, 7), (175, 0)])
def test_outline_is_the_border_of_the_pixels(place):
    tile = SCHEME.tile(*place)
    wcs, (ny, nx) = tile_wcs(tile.id)
    sky = wcs.all_pix2world([-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5], 0)
    corners = [unit_vector(ra, dec) for ra, dec in zip(*sky, strict=True)]
    for corner in SCHEME.outline(tile):
        assert min(separation(corner, other) for other in corners) < 1e-9


@pytest.mark.parametrize(
    "where", [(10, 5, 0.3), (0.01, 0, 0.5), (200, 89.7, 0.6), (5, -90, 1.0), (77, -60, 3.0)]
)
def test_touching_tiles_are_those_that_share_a_point(where):
    """Against a sample of the circle: no tile is missing, none is there without reason."""
    ra, dec, radius = where
    polygon = circle(ra, dec, radius)
    found = {tile.id for tile in SCHEME.touching(polygon)}
    rng = np.random.default_rng(5)
    points = unit_vector(ra, dec) + rng.normal(0, math.radians(radius), (1500, 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    points = np.array([p for p in points if contains(polygon, tuple(p))])
    assert len(points) > 300
    hit = set()
    for ring in range(SCHEME.n_rings):
        if abs(SCHEME.dec_of(ring) - dec) > radius + 3:
            continue
        for index in range(SCHEME.count(ring)):
            tile = SCHEME.tile(ring, index)
            wcs, (ny, nx) = tile_wcs(tile.id)
            # Tangent plane by hand: the tile holds a point if both offsets are small.
            centre = np.array(unit_vector(tile.ra, tile.dec))
            if centre @ points[0] < math.cos(math.radians(3 * radius + 3)):
                continue
            lon, lat = np.degrees(np.arctan2(points[:, 1], points[:, 0])), np.degrees(
                np.arcsin(points[:, 2]))  # fmt: skip
            x, y = wcs.all_world2pix(lon, lat, 0)
            ahead = points @ centre > 0
            if (ahead & (abs(x - (nx - 1) / 2) < nx / 2) & (abs(y - (ny - 1) / 2) < ny / 2)).any():
                hit.add(tile.id)
    assert hit and hit <= found
    for name in found - hit:  # touched at a corner that no point fell into
        tile = parse_tile(name)[1]
        gap = separation(unit_vector(tile.ra, tile.dec), unit_vector(ra, dec))
        assert gap < math.radians(radius * 1.1 + SCHEME.side_deg * 0.75)
    own = SCHEME.tile_of(ra, dec).id
    assert own in found


def test_margin_reaches_further():
    tile = SCHEME.tile(100, 30)
    beside = circle(tile.ra, tile.dec - SCHEME.side_deg / 2 - 0.25, 0.2)
    assert tile.id not in {t.id for t in SCHEME.touching(beside)}
    assert tile.id in {t.id for t in SCHEME.touching(beside, 0.1)}


def test_polygon_in_degrees_across_zero_hours():
    frame = [(359.9, -0.1), (0.1, -0.1), (0.1, 0.1), (359.9, 0.1)]
    rings = {parse_tile(name)[1].index for name in tiles_touching(frame, SCHEME)}
    assert rings == {0, 349}
    assert from_degrees(frame)
