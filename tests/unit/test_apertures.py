"""Sums in circles and levels in rings."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from photutils.aperture import CircularAperture, aperture_photometry

from skymill.frame import MaskBit
from skymill.kernels.apertures import annulus_background, aperture_sum, overlap_area

RADII = (0.3, 0.8, 1.5, 3.0, 6.2, 12.0)


@pytest.fixture
def noise():
    rng = np.random.default_rng(20)
    sci = rng.normal(50, 10, (120, 140)).astype(np.float32)
    err = rng.uniform(8, 12, sci.shape).astype(np.float32)
    return sci, err, np.zeros(sci.shape, np.uint16)


def positions(n=200, margin=15.0, shape=(120, 140)):
    rng = np.random.default_rng(21)
    return rng.uniform(margin, shape[1] - margin, n), rng.uniform(margin, shape[0] - margin, n)


def weights_of(x, y, r, shape):
    """Independent overlap fractions, from photutils."""
    return CircularAperture((x, y), r).to_mask(method="exact").to_image(shape)


@pytest.mark.parametrize("r", RADII)
def test_area_is_that_of_the_circle(noise, r):
    x, y = positions()
    result = aperture_sum(*noise, x, y, r)
    np.testing.assert_allclose(result.area, np.pi * r**2, rtol=1e-12)
    assert not result.masked_area.any()
    assert not result.mask_or.any()


@pytest.mark.parametrize("r", RADII)
def test_flux_equals_photutils_and_sep(noise, r):
    x, y = positions()
    flux = aperture_sum(*noise, x, y, r).flux
    apertures = CircularAperture(np.column_stack([x, y]), r)
    theirs = aperture_photometry(noise[0].astype(float), apertures)["aperture_sum"]
    np.testing.assert_allclose(flux, theirs, rtol=1e-9)
    theirs, _, _ = sep.sum_circle(noise[0], x, y, r, subpix=0)
    np.testing.assert_allclose(flux, theirs, rtol=1e-5)


@pytest.mark.parametrize("r", RADII)
def test_variance_squares_the_weights(noise, r):
    x, y = positions(40)
    result = aperture_sum(*noise, x, y, r)
    variance = noise[1].astype(float) ** 2
    for k in range(40):
        w = weights_of(x[k], y[k], r, noise[0].shape)
        assert result.flux_err[k] == pytest.approx(np.sqrt(np.sum(w**2 * variance)), rel=1e-9)
        # The widespread form, linear in the weights, is another number.
        assert result.flux_err[k] < 0.995 * np.sqrt(np.sum(w * variance))


def test_overlap_of_special_pixels():
    assert overlap_area(0, 0, 0.4) == pytest.approx(np.pi * 0.16)
    assert overlap_area(0, 0, 5) == 1
    assert overlap_area(5.6, 0, 5) == 0
    assert overlap_area(0.5, 0.5, 1) == pytest.approx(np.pi / 4)
    # Circle through the middle of a side: a segment of height 1/2.
    r = 10.0
    strip = overlap_area(10, 0, r)
    exact = np.trapezoid(np.sqrt(r**2 - np.linspace(-0.5, 0.5, 20001) ** 2) - 9.5, dx=1 / 20000)
    assert strip == pytest.approx(exact, abs=1e-9)


def test_radius_may_differ_per_position(noise):
    x, y = positions(len(RADII))
    together = aperture_sum(*noise, x, y, np.array(RADII))
    for k, r in enumerate(RADII):
        assert together.flux[k] == aperture_sum(*noise, x[k], y[k], r).flux[0]


@pytest.mark.parametrize("centre", [(30.0, 40.0), (30.5, 40.0), (30.5, 40.5)])
def test_masked_pixel_of_a_symmetric_star_costs_no_flux(centre):
    y, x = np.indices((80, 70))
    star = 1e4 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8)
    sci, err = star.astype(np.float32), np.full(star.shape, 3.0, np.float32)
    mask = np.zeros(star.shape, np.uint16)
    whole = aperture_sum(sci, err, mask, *centre, 5.0)
    mask[41, 32] = MaskBit.HOT
    mask[38, 29] = MaskBit.COSMIC
    sci[41, 32], err[38, 29] = 1e9, np.nan
    holed = aperture_sum(sci, err, mask, *centre, 5.0)
    assert holed.flux[0] == pytest.approx(whole.flux[0], rel=1e-6)
    assert holed.area[0] == pytest.approx(np.pi * 25, rel=1e-12)
    assert holed.masked_area[0] == pytest.approx(2, rel=1e-12)
    assert holed.mask_or[0] == MaskBit.HOT | MaskBit.COSMIC
    # Two pixels count twice, with four times their variance instead of twice.
    assert holed.flux_err[0] ** 2 == pytest.approx(whole.flux_err[0] ** 2 + 2 * 2 * 9, rel=1e-6)


def test_replaced_pixels_have_the_error_of_what_replaces_them(noise):
    sci, err, mask = noise
    x, y, r = 60.3, 50.8, 4.0
    rng = np.random.default_rng(3)
    bad = rng.random(mask.shape) < 0.15
    bad[51, 60] = False
    mask[bad] = MaskBit.DEAD
    result = aperture_sum(sci, err, mask, x, y, r)
    weights = weights_of(x, y, r, mask.shape)
    total = np.zeros(mask.shape)
    for j, i in zip(*np.nonzero(weights), strict=True):
        opposite = (round(2 * y) - j, round(2 * x) - i)
        if not bad[j, i]:
            total[j, i] += weights[j, i]
        elif not bad[opposite]:
            total[opposite] += weights[j, i]
    assert result.flux[0] == pytest.approx(np.sum(total * sci), rel=1e-9)
    assert result.flux_err[0] == pytest.approx(np.sqrt(np.sum(total**2 * err.astype(float) ** 2)))
    assert result.area[0] == pytest.approx(total.sum())
    assert result.masked_area[0] == pytest.approx(weights[bad].sum())


def test_central_pixel_masked_gives_no_flux(noise):
    sci, err, mask = noise
    mask[40, 50] = MaskBit.SATURATED
    result = aperture_sum(sci, err, mask, [50.2, 60.0], [40.4, 40.0], 3.0)
    assert np.isnan(result.flux[0])
    assert np.isnan(result.flux_err[0])
    assert result.mask_or[0] == MaskBit.SATURATED
    assert np.isfinite(result.flux[1])


def test_source_bit_does_not_disqualify(noise):
    sci, err, mask = noise
    before = aperture_sum(sci, err, mask, 50.0, 40.0, 3.0)
    mask[41, 50] = MaskBit.SOURCE
    after = aperture_sum(sci, err, mask, 50.0, 40.0, 3.0)
    assert after.flux[0] == before.flux[0]
    assert after.mask_or[0] == MaskBit.SOURCE


def test_nan_pixel_counts_as_masked(noise):
    sci, err, mask = noise
    sci[41, 51] = np.nan
    result = aperture_sum(sci, err, mask, 50.0, 40.0, 3.0)
    assert np.isfinite(result.flux[0])
    assert result.masked_area[0] == pytest.approx(1)


def test_aperture_across_the_edge_says_so(noise):
    result = aperture_sum(*noise, [1.0, -30.0, np.nan], [40.0, 40.0, 40.0], 4.0)
    assert result.mask_or[0] == MaskBit.OUTSIDE
    assert np.isfinite(result.flux[0])
    assert result.masked_area[0] > 5
    assert np.isnan(result.flux[1:]).all()
    assert result.masked_area[1] == pytest.approx(np.pi * 16)


def test_pixels_of_a_neighbour_are_replaced(noise):
    sci, err, mask = noise
    sci[:] = 7.0
    segments = np.zeros(mask.shape, np.int32)
    segments[38:43, 48:53] = 1
    segments[38:43, 53:56] = 2
    sci[segments == 2] = 1000
    alone = aperture_sum(sci, err, mask, 50.0, 40.0, 5.0)
    fair = aperture_sum(sci, err, mask, 50.0, 40.0, 5.0, segments=segments, owners=[1])
    assert alone.flux[0] > 5000
    assert fair.flux[0] == pytest.approx(7 * np.pi * 25, rel=1e-6)
    assert fair.masked_area[0] > 5


def test_inputs_of_any_layout_are_read_and_left_alone(noise):
    sci, err, mask = noise
    x, y = positions(20)
    plain = aperture_sum(sci, err, mask, x, y, 3.0)
    swapped = sci.astype(">f4")
    swapped.flags.writeable = False
    strided = np.asfortranarray(err)
    copy = swapped.copy()
    result = aperture_sum(swapped, strided, mask, list(x), list(y), 3.0)
    np.testing.assert_array_equal(result.flux, plain.flux)
    np.testing.assert_array_equal(swapped, copy)


def test_wrong_shapes_are_refused(noise):
    sci, err, mask = noise
    with pytest.raises(ValueError, match="one 2-D shape"):
        aperture_sum(sci, err[1:], mask, 5.0, 5.0, 2.0)
    with pytest.raises(ValueError, match="one 1-D shape"):
        aperture_sum(sci, err, mask, [5.0, 6.0], [5.0], 2.0)
    with pytest.raises(ValueError, match="positive"):
        aperture_sum(sci, err, mask, 5.0, 5.0, 0.0)
    with pytest.raises(ValueError, match="belong together"):
        aperture_sum(sci, err, mask, 5.0, 5.0, 2.0, owners=[1])
    with pytest.raises(ValueError, match="outer radius"):
        annulus_background(sci, mask, 5.0, 5.0, 4.0, 4.0)


def test_no_positions_give_no_results(noise):
    assert len(aperture_sum(*noise, [], [], 3.0).flux) == 0
    assert len(annulus_background(noise[0], noise[2], [], [], 3.0, 5.0).level) == 0


def test_ring_level_ignores_outliers_masked_pixels_and_neighbours(noise):
    sci, _, mask = noise
    rng = np.random.default_rng(5)
    sci[:] = rng.normal(100, 5, sci.shape)
    sci[40, 62] = 1e5
    mask[48:52, 50] = MaskBit.COSMIC
    sci[48:52, 50] = -1e5
    segments = np.zeros(mask.shape, np.int32)
    segments[30:33, 48:54] = 4
    sci[30:33, 48:54] = 130
    ring = annulus_background(sci, mask, 50.0, 40.0, 8.0, 14.0, segments=segments, owners=[1])
    assert ring.level[0] == pytest.approx(100, abs=4 * ring.level_err[0])
    assert ring.scatter[0] == pytest.approx(5, rel=4 / np.sqrt(2 * ring.n[0]))
    # Variance of a mean clipped at 3 sigma: 1.030 s^2/n, n before the clip that keeps 0.9973.
    expected = ring.scatter[0] * np.sqrt(1.030 * 0.9973 / ring.n[0])
    assert ring.level_err[0] == pytest.approx(expected, rel=1e-3)


def test_ring_without_pixels_has_no_level(noise):
    sci, _, mask = noise
    mask[:] = MaskBit.DEAD
    ring = annulus_background(sci, mask, 50.0, 40.0, 8.0, 14.0)
    assert np.isnan(ring.level[0])
    assert np.isnan(ring.level_err[0])


def test_ring_of_constant_values_has_its_level():
    sci = np.full((40, 40), 3.5, np.float32)
    ring = annulus_background(sci, np.zeros(sci.shape, np.uint16), 20.0, 20.0, 5.0, 9.0)
    assert ring.level[0] == 3.5
    assert ring.scatter[0] == 0
