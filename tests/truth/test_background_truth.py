"""The background against known skies, and against two other programs.

Required: bias below 0.02 sky sigma, scatter within 2 %, the quoted error of the level
within 20 % of the true one (some 250 cells, a third as many independent, know it to 8 %).
"""

from __future__ import annotations

import numpy as np
import pytest
import sep
from astropy.io import fits
from photutils.background import Background2D, SExtractorBackground

from bench.background import SCENES, bias_of
from skymill.frame import Frame
from skymill.kernels.apertures import aperture_sum
from skymill.steps.background import background
from skymill.steps.source_mask import source_mask

READ_NOISE = 5.0


def star_field(sky, n_stars, *, seed, shape=(1024, 1024), fwhm=3.0, flux=(200.0, 3e5), tilt=0.0):
    """Poisson frame of Moffat stars (beta 3) with N(>f) ~ f^-0.6 on a tilted sky."""
    rng = np.random.default_rng(seed)
    level = sky * (1 + tilt * (np.arange(shape[1]) / shape[1] - 0.5))[None, :] * np.ones(shape)
    mean = level.copy()
    low, high = flux[0] ** -0.6, flux[1] ** -0.6
    fluxes = (low + rng.uniform(size=n_stars) * (high - low)) ** (-1 / 0.6)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    half = 60
    for f in fluxes:
        cx, cy = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        y0, y1 = max(0, int(cy) - half), min(shape[0], int(cy) + half)
        x0, x1 = max(0, int(cx) - half), min(shape[1], int(cx) + half)
        r2 = (np.arange(y0, y1)[:, None] - cy) ** 2 + (np.arange(x0, x1)[None, :] - cx) ** 2
        mean[y0:y1, x0:x1] += f * 2 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.0
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE, shape)
    err = np.sqrt(np.maximum(raw, 0) + READ_NOISE**2)
    return Frame(raw, err, np.zeros(shape, np.uint16), fits.Header()), level


@pytest.mark.parametrize(
    ("sky", "n_stars", "options"),
    [
        (400.0, 0, {}),
        (400.0, 1000, {}),
        (25.0, 1000, {}),
        (1e4, 1000, {"flux": (2e3, 3e6)}),
        (400.0, 300, {"fwhm": 6.0}),
        (400.0, 3000, {}),
    ],
)
def test_level_and_scatter_match_the_sky_under_stars(sky, n_stars, options):
    frame, level = star_field(sky, n_stars, seed=31, **options)
    result = background(frame)
    sigma = np.sqrt(sky + READ_NOISE**2)
    difference = result.value.level_map() - level
    assert abs(difference.mean()) < 0.02 * sigma
    assert result.value.rms_map().mean() == pytest.approx(sigma, rel=0.02)
    assert result.numbers["err_ratio"] == pytest.approx(1, abs=0.02)


def test_tilted_sky_is_followed_under_stars():
    frame, level = star_field(400.0, 300, seed=33, tilt=0.2)
    value = background(frame).value
    rest = value.level_map() - level
    assert abs(rest.mean()) < 0.02 * np.sqrt(425)
    # Up to the edges: the outer half cells go on along the slope.
    assert np.abs(rest.mean(axis=0)).max() < 0.02 * np.sqrt(425)
    assert np.abs(rest.mean(axis=1)).max() < 0.02 * np.sqrt(425)


@pytest.mark.parametrize("filter_size", [1, 3])
def test_quoted_error_of_the_level_is_its_scatter(filter_size):
    squares, quoted = [], []
    for seed in (41, 42):
        frame, level = star_field(400.0, 300, seed=seed)
        value = background(frame, filter_size=filter_size).value
        centres = np.arange(value.level.shape[0]) * 64 + 32
        difference = value.level - level[np.ix_(centres, centres)]
        # Robust: the quoted error is that of a typical cell, not of one behind a bright star.
        scatter = 1.4826 * np.median(np.abs(difference - np.median(difference)))
        squares.append(scatter**2)
        quoted.append(value.level_err)
    assert np.sqrt(np.mean(squares)) == pytest.approx(np.mean(quoted), rel=0.2)


def test_median_or_mode_would_be_biased_at_low_sky():
    frame, _ = star_field(25.0, 0, seed=51)
    sigma = np.sqrt(25 + READ_NOISE**2)
    ours = background(frame).value.level_map().mean() - 25
    theirs = sep.Background(frame.sci.copy(), bw=64, bh=64).back().mean() - 25
    assert abs(ours) < 0.01 * sigma
    # 2.5 median - 1.5 mean of Poisson counts lies low.
    assert theirs < ours - 0.01 * sigma


def test_agrees_with_sep_and_photutils_where_stars_are_few():
    frame, _ = star_field(400.0, 200, seed=61)
    ours = background(frame).value
    sigma = np.sqrt(425.0)
    other = sep.Background(frame.sci.copy(), bw=64, bh=64, fw=3, fh=3)
    # Their single clip leaves wings of stars in: up to 0.1 sigma in a cell.
    assert np.median(np.abs(ours.level_map() - other.back())) < 0.05 * sigma
    assert np.median(ours.rms_map() / other.rms()) == pytest.approx(1, abs=0.03)
    third = Background2D(
        frame.sci.astype(float), 64, filter_size=3, bkg_estimator=SExtractorBackground()
    )
    assert np.median(np.abs(ours.level_map() - third.background)) < 0.05 * sigma
    assert np.median(ours.rms_map() / third.background_rms) == pytest.approx(1, abs=0.03)


def test_apertures_on_empty_sky_have_pulls_of_one_and_mean_zero():
    """The whole chain of errors: frame, mesh background, its error, aperture."""
    pulls, median_err = [], 0.0
    for seed in (71, 72, 73):
        frame, _ = star_field(100.0, 100, seed=seed)
        value = background(frame).value
        clean, _ = star_field(100.0, 0, seed=seed)
        # The level found under stars, tried on another exposure of the sky without them.
        centres = np.arange(12, 1012, 12.0)
        x, y = (v.ravel() for v in np.meshgrid(centres, centres))
        residual = clean.sci - value.level_map()
        sums = aperture_sum(residual, clean.err, clean.mask, x, y, 4.0)
        error = np.sqrt(sums.flux_err**2 + (sums.area * value.level_err) ** 2)
        pulls.append(sums.flux / error)
        median_err = value.level_err
    pulls = np.concatenate(pulls)
    n = len(pulls)
    assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * n) + 0.005)
    # The level is common to about 25 apertures of a cell: fewer independent means.
    shared = np.pi * 16 * median_err / np.median(error)
    spread = np.sqrt(1 / n + shared**2 / (3 * 256 / 9))
    assert np.mean(pulls) == pytest.approx(0, abs=4 * spread + 0.02)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_level_stars_and_scatter_are_unbiased_on_gradients_and_around_galaxies(scene):
    level, stars, rms = bias_of(scene, 811)
    assert abs(level) < 0.02
    # The median of 441 stars of 4 mmag noise each is known to 0.25 mmag.
    assert abs(stars) < 1.0
    assert abs(rms) < 0.02


def test_e21_rms_map_is_the_injected_scatter_on_a_gradient():
    frame, level = star_field(400.0, 300, seed=35, tilt=1.0)
    ratio = background(frame).value.rms_map() / np.sqrt(level + READ_NOISE**2)
    assert ratio.mean() == pytest.approx(1, abs=0.005)
    assert np.abs(ratio.mean(axis=0) - 1).max() < 0.02


@pytest.mark.parametrize("engine", ["sep", "photutils"])
def test_other_engines_are_unbiased_behind_our_mask(engine):
    frame, level = star_field(400.0, 500, seed=37, tilt=0.1)
    ours, theirs = (background(frame, engine=e).value for e in ("skymill", engine))
    sigma = np.sqrt(425.0)
    assert abs((theirs.level_map() - level).mean()) < 0.03 * sigma
    assert np.median(np.abs(theirs.level_map() - ours.level_map())) < 0.03 * sigma
    assert np.median(theirs.rms_map() / ours.rms_map()) == pytest.approx(1, abs=0.02)


def test_e20_median_offset_lowers_a_mean_at_low_sky():
    """Why correct_global_offset is off: the median of few electrons is not their mean."""
    frame, _ = star_field(25.0, 300, seed=52)
    off, on = (background(frame, correct_global_offset=c) for c in (False, True))
    assert abs(off.value.level_map().mean() - 25) < 0.01 * np.sqrt(50)
    assert on.numbers["offset_e"] < -0.008 * np.sqrt(50)


def test_e15_residual_light_outside_the_source_mask_is_below_a_hundredth_of_the_noise():
    frame, level = star_field(400.0, 1000, seed=38)
    mask = source_mask(frame)
    assert mask.mean() < 0.25
    # What noise the mask takes with the stars is part of this.
    outside = (frame.sci - level)[~mask].mean() / np.sqrt(425)
    assert abs(outside) < 0.02
