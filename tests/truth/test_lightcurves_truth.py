"""Light curves against planted transits, trends, variables and astropy's times."""

import numpy as np
import pytest

from bench.truth_curves import (
    DETREND,
    bjd_error_s,
    measure_depth,
    night,
    reduce_night,
    transits,
)


def test_o43_a_transit_of_5_mmag_survives_clouds_and_drift():
    """O43: depth within 2 %, scatter within 5 % of theory; no target among the comparisons."""
    found = transits((1, 2, 3))
    # 30 transits: the mean depth is known to 0.4 %.
    assert found["error_percent"] < 0.45
    assert abs(found["bias_percent"]) < 2.0
    # 30 curves of 280 points: standard error of the ratio 0.008.
    assert 0.95 < found["scatter_over_theory"] < 1.05


def test_o42_bjd_agrees_with_astropy_everywhere():
    """O42: arbitrary targets, five sites, leap seconds, sources over six degrees."""
    worst, n = bjd_error_s()
    assert n > 700
    # A double holds a Julian date to 40 microseconds.
    assert worst < 1e-3


@pytest.mark.parametrize(
    ("way", "fit"),
    [(DETREND[0], False), (DETREND[1], True), (DETREND[2], False)],
    ids=["epd-spared", "tfa-fitted", "both-spared"],
)
def test_a34_a35_detrending_spares_a_transit(way, fit):
    """A32, A34 and A35: with trends of 3 mmag the depth of 5 mmag is right within 2 %."""
    _, column, settings = way
    found = transits((1,), column, trend_mmag=3.0, faintest=1e6, common=True, fit=fit, **settings)
    assert abs(found["bias_percent"]) < 2.0
    # Without detrending the trends are four times the noise and more.
    assert found["scatter_over_theory"] < 1.6


def test_trends_left_in_would_be_seen():
    found = transits((1,), "rel_flux", trend_mmag=3.0, faintest=1e6, common=True)
    assert found["scatter_over_theory"] > 4
    assert abs(found["bias_percent"]) > 4


def test_a34_a_fitted_depth_has_an_error_and_is_reported():
    """A34: the simultaneous fit gives depth and error in the statistics."""
    from bench.truth_curves import window

    sky = night(7, n_stars=60, n_frames=200, common=True, faintest=1e6)
    settings = window(sky, fit=True) | {"detrend": "epd", "epd_terms": "O1{time}"}
    statistics = reduce_night(sky, **settings).value.statistics
    depth = np.asarray(statistics["depth_mmag"])[sky.targets]
    error = np.asarray(statistics["depth_err_mmag"])[sky.targets]
    assert (error > 0).all()
    # Ten targets; the ensemble's clouds and flat leave a little more than their errors.
    assert np.abs((depth - 5.0) / np.hypot(error, 0.05)).max() < 5
    assert np.isnan(np.delete(np.asarray(statistics["depth_mmag"]), sky.targets)).all()


def test_red_noise_is_told_from_white():
    """O43: the scatter against the size of bins tells drifts that the errors do not."""
    from skymill.curves.noise import red_noise

    rng = np.random.default_rng(3)
    white = rng.normal(0, 1.0, (400, 512))
    beta, red = red_noise(white)
    # Mean over 400 curves.
    assert abs(beta.mean() - 1) < 4 * beta.std() / 20
    slow = np.repeat(rng.normal(0, 0.5, (400, 4)), 128, axis=1)
    beta, red = red_noise(white + slow)
    assert beta.mean() > 1.5
    # Bins up to 64 points hold the slow part whole. Four draws of it in a curve have a
    # variance of 3/4, and those of n bins are scattered with n - 1 degrees of freedom.
    sizes = 2.0 ** np.arange(2, 7)
    bins = 512 / sizes
    truth = 0.5 * np.sqrt(0.75 * (sizes * bins / (bins - 1)).sum() / sizes.sum())
    assert np.sqrt((red**2).mean()) == pytest.approx(truth, abs=4 * truth / np.sqrt(2 * 3 * 400))
    sky = night(9)
    statistics = reduce_night(sky).value.statistics
    assert np.nanmedian(statistics["beta"]) < 1.15


def test_variables_do_not_become_comparisons():
    """O43: stars of 30 mmag are thrown out, the quiet ones stay."""
    sky = night(11, n_frames=200, n_targets=4)
    rng = np.random.default_rng(12)
    rows = np.setdiff1d(np.arange(90), sky.targets)[::9]
    phase = rng.uniform(0, 6, rows.size)[:, None] + 2 * np.pi * np.arange(200) / 60
    sky.flux[rows] *= 1 + 0.03 * np.sin(phase)
    statistics = reduce_night(sky).value.statistics
    comparison = np.asarray(statistics["comparison"])
    assert not comparison[rows].any()
    assert np.delete(comparison, rows).sum() > 70


def test_targets_are_never_comparisons():
    sky = night(13, n_frames=60, n_targets=3)
    names = [str(i + 1) for i in sky.targets]
    curves = reduce_night(sky, targets=names).value
    assert not np.asarray(curves.statistics["comparison"])[sky.targets].any()
    assert (np.asarray(curves.sources["role"])[sky.targets] == "target").all()


def test_the_measure_of_depth_is_right():
    sky = night(14, n_frames=100)
    assert measure_depth(5e-3 * sky.shape[0] + 12, sky.shape[0], np.ones(100))[0] == pytest.approx(
        5
    )
