"""Where the light of sources is."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from skymill.frame import Frame, MaskBit
from skymill.kernels.mesh import expand_spline, mesh_spline
from skymill.kernels.segments import (
    BRIGHT,
    GROWN,
    SEED,
    SKIP,
    SKY,
    filter_residual,
    find_segments,
    paint,
)
from skymill.steps._growth import filter_profile, growth
from skymill.steps.background import background
from skymill.steps.source_mask import source_mask

SKY_E, SIGMA = 400.0, 20.0


def make_frame(light, *, seed=1, mask=None):
    rng = np.random.default_rng(seed)
    sci = rng.poisson(SKY_E + light).astype(np.float32)
    mask = np.zeros(light.shape, np.uint16) if mask is None else mask
    return Frame(sci, np.sqrt(np.maximum(sci, 1)), mask, fits.Header())


def moffat(shape, x, y, flux, fwhm=3.0):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    yy, xx = np.indices(shape)
    r2 = (xx - x) ** 2 + (yy - y) ** 2
    return flux * 2 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.0


def stars(shape, n, seed, low=500.0, high=1e5):
    rng = np.random.default_rng(seed)
    out = np.zeros(shape)
    for flux in np.exp(rng.uniform(np.log(low), np.log(high), n)):
        out += moffat(shape, rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), flux)
    return out


# --- kernels ----------------------------------------------------------------------


def test_filter_is_a_convolution_of_the_residual():
    rng = np.random.default_rng(2)
    sci = rng.normal(100, 5, (60, 71)).astype(np.float32)
    state = np.where(rng.uniform(size=sci.shape) < 0.1, SKIP, SKY).astype(np.uint8)
    sci[state == SKIP] = np.nan
    level = mesh_spline(rng.normal(100, 3, (2, 3)), sci.shape, 30)
    plane = expand_spline(level.nodes, sci.shape, 30, extrapolate=True)
    profile = filter_profile(2.5)
    got = filter_residual(sci, state, level, profile)
    rest = np.where(state == SKIP, 0, sci - plane)
    expected = ndimage.convolve(rest, np.outer(profile, profile), mode="constant")
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("density", [0.02, 0.2, 0.45])
def test_groups_are_those_of_a_flood_fill(density):
    rng = np.random.default_rng(3)
    image = (rng.uniform(size=(83, 97)) < density).astype(np.float32)
    state = np.where(rng.uniform(size=image.shape) < 0.05, SKIP, SKY).astype(np.uint8)
    state[5:9, 5:60] = BRIGHT
    threshold = mesh_spline(np.full((1, 1), 0.5), image.shape, 97)
    got = find_segments(image, state, threshold, 3)
    labels, n = ndimage.label((image > 0.5) & (state != SKIP), np.ones((3, 3)))
    index = np.arange(1, n + 1)
    sizes = ndimage.sum_labels(np.ones_like(image), labels, index)
    large = sizes >= 3
    assert sorted(got.n) == sorted(sizes[large])
    # Runs draw the same pixels, and their owners are the groups.
    drawn = np.zeros(image.shape, int)
    for y, x0, x1, owner in zip(got.y, got.x0, got.x1, got.owner, strict=True):
        drawn[y, x0:x1] = owner + 1
    np.testing.assert_array_equal(drawn > 0, np.isin(labels, index[large]))
    yy, xx = np.indices(image.shape)
    for g in range(len(got.n)):
        inside = drawn == g + 1
        assert got.n[g] == inside.sum()
        assert got.bright[g] == (state[inside] == BRIGHT).sum()
        assert got.x[g] == pytest.approx(xx[inside].mean())
        assert got.yy[g] == pytest.approx(yy[inside].var())
        assert got.xy[g] == pytest.approx(np.cov(xx[inside], yy[inside], ddof=0)[0, 1], abs=1e-9)


def test_growth_is_a_disk_about_every_pixel_and_the_ellipses():
    image = np.zeros((70, 90), np.float32)
    image[20:24, 30:42] = 1
    image[60, 2:6] = 1
    state = np.zeros(image.shape, np.uint8)
    state[22, 25] = SKIP
    threshold = mesh_spline(np.full((1, 1), 0.5), image.shape, 90)
    segments = find_segments(image, state, threshold, 1)
    reach = np.array([6.5, 3.0])
    ellipse = np.array([[60.0, 40.0, 1 / 100, 1 / 16, 0.0]])
    got = paint(state, segments, reach, ellipse)
    yy, xx = np.indices(image.shape)
    expected = np.zeros(image.shape, bool)
    for g, r in enumerate(reach):
        part = (image > 0) & (np.arange(70)[:, None] // 40 == g)
        for y, x in zip(*np.nonzero(part), strict=True):
            expected |= (xx - x) ** 2 + (yy - y) ** 2 <= r * r
    expected |= (xx - 60) ** 2 / 100 + (yy - 40) ** 2 / 16 <= 1
    expected[22, 25] = False
    np.testing.assert_array_equal((got == SEED) | (got == GROWN), expected)
    np.testing.assert_array_equal(got == SEED, image > 0)
    assert got[22, 25] == SKIP


# --- the mask ---------------------------------------------------------------------


def test_e15_little_light_is_left_and_little_sky_is_lost():
    """30 stars on 256 x 256 px: the disks of a fixed factor of radii mask half of the frame."""
    fractions, left = [], []
    for seed in range(4):
        light = stars((256, 256), 30, seed)
        mask = source_mask(make_frame(light, seed=10 + seed))
        fractions.append(mask.mean())
        left.append(light[~mask].mean() / SIGMA)
    assert np.mean(fractions) < 0.25
    assert np.mean(left) < 0.01


def test_brighter_sources_are_masked_further():
    radii = []
    for flux in (2e3, 2e4, 2e5, 2e6):
        mask = source_mask(make_frame(moffat((301, 301), 150, 150, flux)))
        labels, _ = ndimage.label(mask)
        radii.append(np.sqrt((labels == labels[150, 150]).sum() / np.pi))
    assert (np.diff(radii) > 1).all()


@pytest.mark.parametrize("angle", [0, 30, 90, 137])
def test_elongated_galaxies_and_trails_are_covered(angle):
    yy, xx = np.indices((400, 400)) - 200.0
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = xx * c + yy * s, yy * c - xx * s
    galaxy = 60 * np.exp(-1.678 * (np.hypot(u, v / 0.15) / 25 - 1))
    mask = source_mask(make_frame(galaxy))
    assert galaxy[~mask].sum() < 0.06 * galaxy.sum()
    # A disk that covers as much would mask several times the area.
    reach = np.hypot(xx, yy)[mask & (galaxy > 1)].max()
    assert mask.sum() < 0.5 * np.pi * reach**2
    trail = 100 * np.exp(-0.5 * (v / 2) ** 2) * (np.abs(u) < 150)
    assert (source_mask(make_frame(trail)) | (trail < 0.1 * SIGMA)).all()


def test_a_glowing_rim_grows_by_its_width_not_by_its_length():
    """A strip of 24 x 800 px has the area of a disk of 78 px, which would grow by 43 px."""
    light = np.zeros((800, 800))
    light[:24] = 300.0
    frame = make_frame(light)
    sky = background(make_frame(0 * light)).value
    rows = source_mask(frame, sky).mean(axis=1)
    assert rows[:26].min() == 1.0
    # half a scaled strip and grow_px beyond the filtered edge
    assert rows[40:].max() < 0.05  # a group of noise is 11 px wide
    assert source_mask(make_frame(light.T), sky)[:, 40:].mean() < 0.01


def test_saturated_sources_grow_further():
    light = moffat((300, 300), 150, 150, 3e6)
    bits = np.where(light > 5e4, np.uint16(MaskBit.SATURATED), np.uint16(0))
    value = background(make_frame(light)).value
    plain = source_mask(make_frame(light), value)
    assert bits.any()
    saturated = source_mask(make_frame(light, mask=bits), value)
    less = source_mask(make_frame(light, mask=bits), value, saturated_factor=1.0)
    assert saturated.sum() > 1.3 * less.sum()
    np.testing.assert_array_equal(plain, less)


def test_factors_grow_the_mask():
    frame = make_frame(stars((256, 256), 20, 7))
    value = background(frame).value
    areas = [
        source_mask(frame, value, **options).sum()
        for options in (
            {"grow_factor": 1.0, "grow_px": 0.0},
            {},
            {"grow_factor": 2.5},
            {"radius_factor": 4.0},
        )
    ]
    assert areas[0] < areas[1] < areas[2]
    assert areas[1] < areas[3]
    deep, shallow = (source_mask(frame, value, threshold_sigma=t).sum() for t in (2.0, 20.0))
    assert deep > areas[1] > shallow


def test_given_mask_is_part_of_the_result_and_nothing_is_changed():
    frame = make_frame(np.zeros((200, 220)))
    given = np.zeros(frame.shape, bool)
    given[50:60, 70:90] = True
    before, kept = frame.sci.copy(), given.copy()
    mask = source_mask(frame, mask=given)
    assert mask[given].all()
    assert mask.mean() < 0.02
    np.testing.assert_array_equal(frame.sci, before)
    np.testing.assert_array_equal(given, kept)
    with pytest.raises(ValueError, match="mask of shape"):
        source_mask(frame, mask=given[1:])


def test_bad_pixels_are_no_sources_and_hide_none_beside_them():
    light = moffat((200, 200), 60, 100, 3e4)
    bits = np.zeros(light.shape, np.uint16)
    bits[:, 58:61] = MaskBit.DEAD
    bits[20:25, 150:160] = MaskBit.HOT
    frame = make_frame(light, mask=bits)
    sci = frame.sci.copy()
    sci[:, 58:61] = np.nan
    sci[20:25, 150:160] = 5e4
    mask = source_mask(frame.replace(sci=sci))
    assert not mask[15:30, 145:165].any()
    assert mask[96:105, 55:66].all()


@pytest.mark.parametrize("options", [{"model": "polynomial"}, {"model": "constant"}])
def test_any_background_will_do(options):
    light = stars((256, 256), 10, 5)
    frame = make_frame(light)
    by_mesh = source_mask(frame)
    other = source_mask(frame, background(frame, **options).value)
    assert (by_mesh != other).mean() < 0.01


def test_large_galaxy_is_a_source_as_a_whole():
    yy, xx = np.indices((1024, 1024))
    disc = 20 * np.exp(-1.678 * (np.hypot(xx - 500, yy - 560) / 128 - 1))
    mask = source_mask(make_frame(disc))
    assert mask[disc > 0.5 * SIGMA].all()
    assert disc[~mask].max() < 0.5 * SIGMA
    assert mask[disc < 0.01 * SIGMA].mean() < 0.05


def test_no_group_no_growth():
    threshold = mesh_spline(np.full((1, 1), 0.5), (20, 20), 20)
    segments = find_segments(
        np.zeros((20, 20), np.float32), np.zeros((20, 20), np.uint8), threshold, 1
    )
    reach, ellipses = growth(segments, factor=1.5, grow_px=4, radius_factor=2)
    assert len(reach) == len(ellipses) == 0
    assert not paint(np.zeros((20, 20), np.uint8), segments, reach, ellipses).any()
