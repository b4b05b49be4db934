"""Bands and doubled stars are found, ordinary frames are left alone."""

import numpy as np
import pytest

from skymill.steps._artefacts import band_amplitude, doubling

SIGMA = 8.0


def bands(image, good, axis):
    sums = np.where(good, image, 0).sum(axis=axis, dtype=float)
    return band_amplitude(sums, good.sum(axis=axis), SIGMA)


def noise(seed, shape=(300, 260)):
    return np.random.default_rng(seed).normal(0, SIGMA, shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_white_noise_has_no_bands(axis):
    # The excess of 300 means scatters by sqrt(2/300) = 8 % of sigma^2/260: amplitudes
    # below sqrt(4 x 0.08 / 260) = 0.035 sigma.
    found = [bands(noise(s), np.ones((300, 260), bool), axis) for s in range(20)]
    assert max(found) < 0.035


def test_a_sine_along_the_rows_is_measured():
    wave = 6.0 * np.sin(np.arange(300) * 2 * np.pi / 7.3)[:, None]
    image = (noise(1) + wave).astype(np.float32)
    good = np.random.default_rng(2).random(image.shape) > 0.3
    true = 6.0 / np.sqrt(2) / SIGMA
    # The running mean of 17 rows takes 11 % of a wave of 7.3 rows with it.
    assert bands(image, good, 1) == pytest.approx(0.89 * true, rel=0.1)
    assert bands(image, good, 0) < 0.05


def test_a_smooth_slope_is_not_a_band():
    slope = np.linspace(0, 50, 300)[:, None]
    image = (noise(3) + slope).astype(np.float32)
    assert bands(image, np.ones(image.shape, bool), 1) < 0.1


def test_a_jump_doubles_every_star_and_is_told():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 500, (2, 40))
    shift = np.array([6.0, -4.0])
    twins = np.r_[x, x[:25] + shift[0]], np.r_[y, y[:25] + shift[1]]
    found = doubling(twins[0] + rng.normal(0, 0.2, 65), twins[1] + rng.normal(0, 0.2, 65), 3.0)
    assert found is not None
    # Four standard errors of one vector, each end 0.2 px.
    np.testing.assert_allclose(found, shift, atol=4 * 0.2 * np.sqrt(2))


@pytest.mark.parametrize("n", [5, 50, 1000, 8000])
def test_random_stars_are_not_doubled(n):
    rng = np.random.default_rng(n)
    for _ in range(5):
        x, y = rng.uniform(0, 1000, (2, n))
        assert doubling(x, y, 3.0) is None


def test_fragments_of_one_defocused_star_are_not_a_jump():
    y, x = np.mgrid[0:5, 0:5] * 6.0
    field = np.random.default_rng(5).uniform(0, 500, (2, 8))
    assert doubling(np.r_[x.ravel() + 100, field[0]], np.r_[y.ravel() + 90, field[1]], 3.0) is None
