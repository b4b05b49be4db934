"""Overlaps and tiles against random points on the sphere (F17)."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from skymill.reference_candidates import footprint
from skymill.sphere import area_sr, overlap_fraction
from skymill.tiles import TileScheme, parse_tile, tile_wcs

_POINTS = 40_000


def image(ra, dec, *, size=(400, 300), scale=2.0, rotation=0.0, flip=False, bow=0.0):
    wcs = WCS(naxis=2)
    suffix = "-SIP" if bow else ""
    wcs.wcs.ctype = [f"RA---TAN{suffix}", f"DEC--TAN{suffix}"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(size[0] + 1) / 2, (size[1] + 1) / 2]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = np.array([[c if flip else -c, s], [s if not flip else -s, c]]) * scale / 3600
    if bow:
        from astropy.wcs import Sip

        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[0, 2], b[2, 0] = bow, -bow  # borders bow by some 20 px
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs, (size[1], size[0])


def cap_points(rng, ra, dec, radius_deg, n):
    """Points spread evenly over a circle on the sky: ra, dec in degree."""
    height = rng.uniform(np.cos(np.radians(radius_deg)), 1, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    r = np.sqrt(1 - height**2)
    local = np.stack([r * np.cos(angle), r * np.sin(angle), height])
    d, a = np.radians(90 - dec), np.radians(ra)
    tilt = np.array([[np.cos(d), 0, np.sin(d)], [0, 1, 0], [-np.sin(d), 0, np.cos(d)]])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x, y, z = turn @ tilt @ local
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arcsin(np.clip(z, -1, 1)))


def inside(image_, ra, dec):
    wcs, (ny, nx) = image_
    x, y = wcs.all_world2pix(ra, dec, 0, quiet=True)
    with np.errstate(invalid="ignore"):
        return (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)


PAIRS = {
    "at zero hours": (image(0.02, 10.0), image(359.98, 10.05, rotation=20)),
    "high declination": (image(40.0, 75.0), image(40.4, 75.06, rotation=50, flip=True)),
    "over the north pole": (image(10.0, 89.97), image(190.0, 89.96, rotation=30)),
    "at the south pole": (image(0.0, -90.0), image(77.0, -89.95, size=(500, 200))),
    "scales differ": (image(150.0, -30.0, scale=1.0), image(150.13, -30.07, scale=2.3)),
    "bowed borders": (
        image(200.0, 40.0, bow=1e-3, size=(300, 300)),
        image(200.05, 40.03, rotation=15, bow=-1e-3, size=(300, 300)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_overlap_fraction_against_random_points(name):
    one, other = PAIRS[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    centre, radius = one[0].wcs.crval, 0.35
    ra, dec = cap_points(rng, *centre, radius, _POINTS)
    here, there = inside(one, ra, dec), inside(other, ra, dec)
    fraction = (here & there).sum() / here.sum()
    error = np.sqrt(fraction * (1 - fraction) / here.sum())
    assert 0.05 < fraction < 0.95, "the pair would not test anything"
    found = overlap_fraction(footprint(*one), footprint(*other))
    assert abs(found - fraction) < 4.5 * error
    cap = 2 * np.pi * (1 - np.cos(np.radians(radius)))
    share = here.mean()
    tolerance = 4.5 * np.sqrt(share * (1 - share) / _POINTS)
    assert abs(area_sr(footprint(*one)) / cap - share) < tolerance


def test_boxes_in_degrees_would_be_wrong():
    """The test can fail: without cos(dec) the overlap at 75 degree is another one."""
    one, other = PAIRS["high declination"]
    boxes = []
    for wcs, (ny, nx) in (one, other):
        ra, dec = wcs.all_pix2world([0, nx, nx, 0], [0, 0, ny, ny], 0)
        boxes.append((ra.min(), ra.max(), dec.min(), dec.max()))
    (a, b, c, d), (e, f, g, h) = boxes
    wrong = (min(b, f) - max(a, e)) * (min(d, h) - max(c, g)) / ((b - a) * (d - c))
    assert abs(wrong - overlap_fraction(footprint(*one), footprint(*other))) > 0.1


@pytest.mark.parametrize("scheme", [(2.0, 8192, 256), (1.0, 9000, 0)], ids=str)
def test_every_position_has_one_tile_that_holds_it_with_half_the_overlap(scheme):
    """Cores partition the sphere; each lies inside its tile, so the pixels cover it all."""
    tiles = TileScheme.of(*scheme)
    rng = np.random.default_rng(11)
    n = 6000
    z = rng.uniform(-1, 1, n)
    z[: n // 4] = np.sign(z[: n // 4]) * (1 - rng.random(n // 4) ** 2 * 0.02)  # near the poles
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(z))
    ra[:50] = 0.0
    groups: dict[str, list[int]] = {}
    for k in range(n):
        groups.setdefault(tiles.tile_of(ra[k], dec[k]).id, []).append(k)
    for name, members in groups.items():
        wcs, (ny, nx) = tile_wcs(name)
        x, y = wcs.all_world2pix(ra[members], dec[members], 0)
        edge = np.min([x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y])
        assert edge >= tiles.overlap_px / 2, name


def test_cores_share_the_sphere_without_gap_or_overlap():
    """Counted by position each core gets its own area: none is hidden by another."""
    tiles = TileScheme.of(5.0, 3000, 100)
    rng = np.random.default_rng(3)
    n = 60_000
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    found: dict[str, int] = {}
    for a, d in zip(ra.tolist(), dec.tolist(), strict=True):
        name = tiles.tile_of(a, d).id
        found[name] = found.get(name, 0) + 1
    total = sum(tiles.count(ring) for ring in range(tiles.n_rings))
    chi2 = 0.0
    half = tiles.height_deg / 2
    for ring in range(tiles.n_rings):
        low, high = (np.clip(tiles.dec_of(ring) + s * half, -90, 90) for s in (-1, 1))
        zone = (np.sin(np.radians(high)) - np.sin(np.radians(low))) / 2
        expected = n * zone / tiles.count(ring)
        for index in range(tiles.count(ring)):
            chi2 += (found.get(tiles.tile(ring, index).id, 0) - expected) ** 2 / expected
    assert len({parse_tile(name)[1].id for name in found}) <= total
    # Cores of a few dozen points: chi-square of (total - 1), of width sqrt(2 total).
    assert abs(chi2 - (total - 1)) < 5 * np.sqrt(2 * total)
