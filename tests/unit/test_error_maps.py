"""Formulas of the error maps on single pixels, where theory can be written down."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.error_maps import (
    Electronics,
    MasterTerms,
    background_only_error,
    background_rms_from_propagation,
    error_from_weight,
    error_map,
    error_map_from_propagation,
    noise_ratio,
    weight_from_error,
)
from skymill.frame import MaskBit

SHAPE = (3, 4)


def plane(value: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize("gain", [0.4, 1.0, 1.6])
def test_photons_of_the_excess_are_added_to_the_measured_scatter(gain):
    """E22, F18, S14: in the unit of the image, never by the absolute value."""
    image = np.array([[100.0, 500.0, 60.0]], np.float32)
    got = error_map(image, 100.0, 9.0, gain=gain)
    np.testing.assert_allclose(got[0] ** 2, [81, 81 + 400 / gain, 81], rtol=1e-6)
    assert got.dtype == np.float32


def test_unit_of_the_image_does_not_matter():
    """F18 in ADU and in electron is one map."""
    gain = 1.6
    adu = error_map(plane(500), 100.0, 9.0, gain=gain)
    electron = error_map(plane(500 * gain), 100.0 * gain, 9.0 * gain)
    np.testing.assert_allclose(adu * gain, electron, rtol=1e-6)


def test_low_flat_means_fewer_photons():
    """F2: photons were counted before the division."""
    got = error_map(plane(500), 100.0, 9.0, flat=0.5, flat_err=0.01)
    # variance of the flat at 500 less that at 100, which the scatter holds
    expected = 81 + 400 / 0.5 + (500**2 - 100**2) * (0.01 / 0.5) ** 2
    np.testing.assert_allclose(got**2, expected, rtol=1e-6)


def test_photons_are_added_where_sources_are():
    where = np.zeros(SHAPE, bool)
    where[1, 2] = True
    got = error_map(plane(500), 100.0, 9.0, sources=where)
    assert got[1, 2] == pytest.approx(np.sqrt(481), rel=1e-6)
    assert got[0, 0] == pytest.approx(9)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.5])
def test_total_variance_is_that_of_the_noise_model(tau):
    """E24, F2: every power of F, sign of the bias, dark scaling, overscan."""
    g, noise, f = 1.6, 6.0, 0.5
    e = Electronics(g, noise, 0.3)
    m = MasterTerms(tau, 1.1, 40.0, 1.7, f, 0.004)
    got = error_map_from_propagation(plane(800), e, m)
    adu = 800 / g
    bracket = (adu * f + tau * 40) / g + (noise / g) ** 2 + 0.3
    bracket += (1 - tau) ** 2 * 1.1**2 + tau**2 * 1.7**2
    variance = bracket / f**2 + adu**2 * 0.004**2 / f**2
    np.testing.assert_allclose(got**2, variance * g**2, rtol=1e-6)


def test_sky_variance_leaves_the_sources_out():
    """E23, F3: the image is replaced by the sky, in the flat term too; the dark stays."""
    g, f = 0.4, 0.7
    e, m = Electronics(g, 9.0), MasterTerms(0.4, 1.0, 50.0, 2.0, f, 0.01)
    got = background_rms_from_propagation(300.0, e, m, shape=SHAPE)
    np.testing.assert_allclose(got, error_map_from_propagation(plane(300), e, m))
    dark = background_rms_from_propagation(0.0, e, m, shape=SHAPE)
    bracket = 0.4 * 50 / g + (9 / g) ** 2 + 0.36 + 0.64
    np.testing.assert_allclose(dark**2, bracket / f**2 * g**2, rtol=1e-6)


def test_masters_are_optional():
    """E24: from the frame alone it is photons and read noise."""
    got = error_map_from_propagation(plane(400), Electronics(1.6, 6.0))
    np.testing.assert_allclose(got**2, 400 + 36, rtol=1e-6)


def test_negative_charge_has_no_photons():
    got = error_map_from_propagation(plane(-50), Electronics(1.6, 6.0))
    np.testing.assert_allclose(got, 6.0, rtol=1e-6)


def test_rounding_counts_where_the_read_noise_does_not_hold_it():
    """F2: 1/12 ADU^2 below 0.5 ADU of read noise, unless it was measured."""
    for noise_adu, added in ((0.3, 1 / 12), (0.8, 0.0)):
        e = Electronics(2.0, 2.0 * noise_adu)
        got = error_map_from_propagation(plane(0), e)
        np.testing.assert_allclose(got**2, 4 * (noise_adu**2 + added), rtol=1e-6)
    measured = Electronics(2.0, 0.6, rounding=False)
    np.testing.assert_allclose(error_map_from_propagation(plane(0), measured), 0.6, rtol=1e-6)


def test_unknown_flats_and_values_have_no_error():
    """F1: NaN, never infinite and never 0."""
    flat = np.array([[1.0, 0.0, -1.0, np.nan]])
    got = error_map_from_propagation(plane(100, (1, 4)), Electronics(1, 5), MasterTerms(flat=flat))
    np.testing.assert_array_equal(np.isfinite(got), [[True, False, False, False]])
    image = np.array([[np.nan, np.inf, 1.0]], np.float32)
    assert np.isfinite(error_map_from_propagation(image, Electronics(1, 5)))[0].tolist() == [
        False, False, True,
    ]  # fmt: skip
    assert np.isnan(error_map(plane(1), 0.0, 0.0, sources=np.zeros(SHAPE, bool))).all()


def test_sky_error_from_the_total_error_alone():
    """E23: what the photons of a star added is taken away again, exactly."""
    g, f, e = 1.6, 0.8, Electronics(1.6, 6.0, 0.2)
    image = np.array([[300.0, 9000.0, 290.0]], np.float32)
    m = MasterTerms(flat=f, flat_err=0.004)
    total = error_map_from_propagation(image, e, m)
    got = background_only_error(total, image, 300.0, flat=f, flat_err=0.004)
    truth = background_rms_from_propagation(300.0, e, m, shape=image.shape)
    np.testing.assert_allclose(got, truth, rtol=1e-4)
    assert g == e.gain
    wrong = background_only_error(total, image, 300.0)  # the flat was not given
    assert wrong[0, 0] == pytest.approx(truth[0, 0], rel=1e-6)


def test_no_weight_and_no_error_are_the_same():
    """E25: 0 and NaN, with NO_DATA; no infinity on either side."""
    error = np.array([[2.0, np.nan, 0.0, -1.0, np.inf, 1e-30]], np.float32)
    mask = np.zeros(error.shape, np.uint16)
    weight = weight_from_error(error, mask)
    np.testing.assert_allclose(weight[0, :5], [0.25, 0, 0, 0, 0])
    back, bits = error_from_weight(weight[:, :5], mask[:, :5])
    np.testing.assert_array_equal(np.isnan(back), [[False, True, True, True, True]])
    assert back[0, 0] == 2.0
    np.testing.assert_array_equal(bits != 0, np.isnan(back))
    assert set(np.unique(bits)) == {0, int(MaskBit.NO_DATA)}
    assert (mask == 0).all()


def test_bad_pixels_have_no_weight_but_sources_do():
    mask = np.array([[0, MaskBit.COSMIC, MaskBit.SOURCE]], np.uint16)
    np.testing.assert_array_equal(weight_from_error(plane(1, (1, 3)), mask), [[1, 0, 1]])


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_ratio_compares_variances_of_cells(scale):
    """E21, E23: structure within a cell does not count, NaN and sources are left out."""
    rng = np.random.default_rng(3)
    model = (10 * rng.uniform(0.8, 1.2, (200, 300))).astype(np.float32)
    mean = np.sqrt(np.mean(model.astype(float) ** 2))
    measured = plane(scale * mean, model.shape)
    measured[0, 0] = np.nan
    sky = np.ones(model.shape, bool)
    sky[50:70] = False
    measured[50:70] *= 100
    assert noise_ratio(measured, model, sky) == pytest.approx(scale, rel=5e-3)
    assert np.isnan(noise_ratio(measured, model, np.zeros_like(sky)))


def test_impossible_electronics_are_refused():
    for gain, noise in ((0, 5), (-1, 5), (np.nan, 5), (1, -1), (1, np.inf)):
        with pytest.raises(ValueError, match="positive"):
            Electronics(gain, noise)


def test_nothing_that_is_given_is_changed():
    image, flat = plane(500), plane(0.5)
    kept = image.copy()
    error_map(image, plane(100), plane(9), flat=flat)
    error_map_from_propagation(image, Electronics(1, 5), MasterTerms(flat=flat))
    weight_from_error(image)
    np.testing.assert_array_equal(image, kept)
    assert (flat == 0.5).all()
