"""Loops over meshes of the sky against numpy and scipy."""

import numpy as np
import pytest
from scipy import ndimage

from skymill.kernels.polynomial import evaluate, fit_terms, number_of_terms, polynomial_at
from skymill.kernels.sky_surface import fill, running_median, standing_out
from skymill.steps._sky_surface import fit_surface, surface_at


@pytest.mark.parametrize("degree", [0, 1, 2, 4])
def test_fits_are_weighted_least_squares(degree):
    rng = np.random.default_rng(degree)
    u, v = rng.uniform(-1, 1, (2, 80))
    values, weights = 1000 + rng.normal(0, 3, 80), rng.uniform(0.2, 5, 80)
    use = rng.random(80) < 0.8
    n = number_of_terms(degree)
    terms = np.stack([polynomial_at(np.eye(n)[k], u, v) for k in range(n)], axis=1)
    root = np.sqrt(weights[use])
    wanted = np.linalg.lstsq(terms[use] * root[:, None], values[use] * root, rcond=None)[0]
    found, got = fit_terms(u, v, values, weights, use, degree)
    assert found
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(evaluate(got, degree, u, v), terms @ wanted, rtol=1e-12)


def test_points_that_do_not_determine_a_surface_are_not_fitted():
    u = np.linspace(-1, 1, 20)
    every, one = np.ones(20, bool), np.ones(20)
    assert not fit_terms(u, u, u, one, every, 1)[0]
    assert not fit_terms(u, u**2, u, one, np.arange(20) < 2, 1)[0]


def test_surfaces_leave_out_what_is_far_off():
    rng = np.random.default_rng(1)
    y, x = np.indices((9, 11))
    plane = 500 + 2.0 * x - 3.0 * y
    values = plane + rng.normal(0, 0.1, plane.shape)
    values[3:5, 4:6] += 50
    got = surface_at(fit_surface(values, np.ones(plane.shape, bool), 1), plane.shape)
    np.testing.assert_allclose(got, plane, atol=0.15)


@pytest.mark.parametrize("reach", [1, 3])
def test_running_medians_are_those_of_the_finite_values(reach):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(9, 13))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:3, :3] = np.nan
    padded = np.pad(values, reach, constant_values=np.nan)
    wanted = np.full(values.shape, np.nan)
    for j, i in np.ndindex(values.shape):
        window = padded[j : j + 2 * reach + 1, i : i + 2 * reach + 1]
        if np.isfinite(window).any():
            wanted[j, i] = np.nanmedian(window)
    np.testing.assert_allclose(running_median(values, reach), wanted, rtol=1e-14)


def test_holes_are_filled_from_the_rim():
    values = np.arange(35.0).reshape(5, 7)
    values[1:4, 2:6] = np.nan
    wanted = values.copy()
    while np.isnan(wanted).any():
        known = np.isfinite(wanted)
        square = np.ones((3, 3))
        total = ndimage.convolve(np.where(known, wanted, 0.0), square, mode="constant")
        count = ndimage.convolve(known.astype(float), square, mode="constant")
        wanted = np.where(known, wanted, total / np.where(count > 0, count, np.nan))
    fill(values)
    np.testing.assert_allclose(values, wanted, rtol=1e-13)


@pytest.mark.parametrize("seed", range(6))
def test_objects_are_cores_with_the_outskirts_that_touch_them(seed):
    rng = np.random.default_rng(seed)
    y, x = np.indices((14, 16))
    rest = rng.normal(0, 1, (14, 16)) + 30 * np.exp(-((x - 5) ** 2 + (y - 6) ** 2) / 8)
    known = rng.random(rest.shape) < 0.9
    known[10:12, 11:13] = False
    sky = known & (rest < 3)
    low, centre = np.percentile(rest[sky], (15.87, 50))
    sigma, above = max(centre - low, 0.5), rest - centre
    blocks = ndimage.binary_opening(~known, np.ones((2, 2)))
    cores = (known & (above > 5 * sigma)) | blocks
    square = np.ones((3, 3))
    total = ndimage.convolve(np.where(known, above, 0.0), square, mode="constant")
    count = ndimage.convolve(known.astype(float), square, mode="constant")
    outskirts = known & (total > 0.7 * sigma * count) & (above > 0)
    wanted = ndimage.binary_propagation(cores, square, mask=cores | outskirts) & known
    assert wanted.any()
    np.testing.assert_array_equal(standing_out(rest, sky, known, 0.5, 5.0, 0.7), wanted)
