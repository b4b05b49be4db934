"""Aperture errors against Monte Carlo: pulls have width 1 and mean 0.

A width from N pulls is known to 1/sqrt(2N), a mean to 1/sqrt(N). Tolerances are four of
these standard errors; with N = 20 000 that is 0.02 for the width and 0.028 for the mean.
"""

from __future__ import annotations

import numpy as np
import pytest

from skymill.kernels.apertures import annulus_background, aperture_sum

SKY, READ_NOISE, GRID, PER_SIDE = 100.0, 5.0, 20, 142
SIGMA_PSF = 1.3


def star_field(flux, seed, *, beta_cut=None):
    """Stars of one flux on a grid with random sub-pixel centres, and their true fluxes in r."""
    rng = np.random.default_rng(seed)
    side = GRID * PER_SIDE
    y, x = (np.indices((PER_SIDE, PER_SIDE)) + 0.5) * GRID
    x = (x + rng.uniform(-0.5, 0.5, x.shape)).ravel()
    y = (y + rng.uniform(-0.5, 0.5, y.shape)).ravel()
    mean = np.full((side, side), SKY)
    if flux:
        half = GRID // 2
        offsets = np.arange(-half, half)
        for cx, cy in zip(x, y, strict=True):
            i, j = round(cx), round(cy)
            px = np.exp(-0.5 * ((i + offsets - cx) / SIGMA_PSF) ** 2)
            py = np.exp(-0.5 * ((j + offsets - cy) / SIGMA_PSF) ** 2)
            stamp = np.outer(py, px)
            mean[j - half : j + half, i - half : i + half] += flux * stamp / stamp.sum()
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE, mean.shape)
    err = np.sqrt(np.maximum(raw, 0) + READ_NOISE**2)
    return raw.astype(np.float32), err.astype(np.float32), mean, x, y


def check(pulls, name):
    n = len(pulls)
    width, centre = np.std(pulls, ddof=1), np.mean(pulls)
    assert width == pytest.approx(1, abs=4 / np.sqrt(2 * n)), name
    assert centre == pytest.approx(0, abs=4 / np.sqrt(n)), name


@pytest.mark.parametrize("r", [1.5, 4.0])
@pytest.mark.parametrize("flux", [0.0, 300.0, 3e4])
def test_pulls_of_apertures_are_one(flux, r):
    sci, err, mean, x, y = star_field(flux, seed=int(flux) + 1)
    mask = np.zeros(sci.shape, np.uint16)
    measured = aperture_sum(sci - np.float32(SKY), err, mask, x, y, r)
    exact = np.zeros_like(sci)
    truth = aperture_sum((mean - SKY).astype(np.float32), exact, mask, x, y, r).flux
    pulls = (measured.flux - truth) / measured.flux_err
    # The error of a single measurement follows its own flux: a mean of -1/2 skewness/sigma.
    model = aperture_sum(exact, np.sqrt(mean + READ_NOISE**2).astype(np.float32), mask, x, y, r)
    check((measured.flux - truth) / model.flux_err, "true variance")
    n = len(pulls)
    assert np.std(pulls, ddof=1) == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    assert abs(np.mean(pulls)) < 0.05


def test_weighting_the_variance_once_would_be_seen():
    sci, _, _, x, y = star_field(0.0, seed=7)
    mask = np.zeros(sci.shape, np.uint16)
    sigma = np.sqrt(SKY + READ_NOISE**2)
    err = np.full(sci.shape, sigma, np.float32)
    result = aperture_sum(sci - np.float32(SKY), err, mask, x, y, 3.0)
    check(result.flux / result.flux_err, "weights squared")
    once = np.std(result.flux / (sigma * np.sqrt(result.area)))
    assert once == pytest.approx(0.942, abs=0.02)


@pytest.mark.parametrize("flux", [0.0, 3e3])
def test_pulls_with_local_background_are_one(flux):
    sci, err, mean, x, y = star_field(flux, seed=11)
    mask = np.zeros(sci.shape, np.uint16)
    inside = (x > 25) & (y > 25) & (x < sci.shape[1] - 25) & (y < sci.shape[0] - 25)
    x, y = x[inside][::2], y[inside][::2]
    # Wings of the stars are masked: the ring holds sky.
    far = (mean - SKY > 0.01).astype(np.uint16) << 14
    sums = aperture_sum(sci, err, mask, x, y, 4.0)
    ring = annulus_background(sci, far, x, y, 7.0, 11.0)
    error = np.sqrt(sums.flux_err**2 + (sums.area * ring.level_err) ** 2)
    exact = np.zeros_like(sci)
    truth = aperture_sum((mean - SKY).astype(np.float32), exact, mask, x, y, 4.0).flux
    pulls = (sums.flux - sums.area * ring.level - truth) / error
    n = len(pulls)
    assert np.std(pulls, ddof=1) == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    assert abs(np.mean(pulls)) < 0.05
    without = np.std((sums.flux - sums.area * ring.level - truth) / sums.flux_err, ddof=1)
    assert without > 1.05


def test_pulls_with_masked_pixels_are_one_and_faint_stars_keep_their_flux():
    flux = 1000.0
    sci, err, mean, x, y = star_field(flux, seed=13)
    rng = np.random.default_rng(14)
    mask = np.where(rng.random(sci.shape) < 0.02, 1 << 9, 0).astype(np.uint16)
    sci = np.where(mask > 0, np.float32(1e5), sci)
    result = aperture_sum(sci - np.float32(SKY), err, mask, x, y, 4.0)
    exact = np.zeros_like(sci)
    truth = aperture_sum(
        (mean - SKY).astype(np.float32), exact, np.zeros_like(mask), x, y, 4.0
    ).flux
    used = np.isfinite(result.flux) & (np.abs(result.area - np.pi * 16) < 1e-6)
    assert used.mean() > 0.9
    pulls = (result.flux - truth)[used] / result.flux_err[used]
    n = used.sum()
    # The opposite pixel is up to half a pixel off: a scatter of a few per cent of a pixel's light.
    assert np.std(pulls, ddof=1) == pytest.approx(1, abs=4 / np.sqrt(2 * n) + 0.03)
    assert abs(np.mean(pulls)) < 0.05
    bias = np.mean((result.flux - truth)[used]) / flux
    assert bias == pytest.approx(0, abs=4 * 75 / np.sqrt(n) / flux + 0.002)
