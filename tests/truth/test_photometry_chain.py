"""Photometry from raw pixels through the whole chain, in small, against planted truth.

The figures of bench/truth_photometry.py with fewer frames: fluxes of all methods, empty sky,
zero points with wrong stars and a colour term, completeness. E46, E70 to E74, S16 to S18.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import truth_photometry as truth
from bench.photometry_night import light_within, night_config, reduce_night


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Five frames of 460 x 460 px, from raw files to light curves by ``skymill run``."""
    config = night_config(
        seed=31, shape=(460, 460), n_light=5, n_stars=170, n_bias=9, n_dark=5, n_flat=11,
        clouds=(1.0, 0.9),
    )  # fmt: skip
    return reduce_night(tmp_path_factory.mktemp("chain") / "night", config, n_empty=160,
                        injections=200)  # fmt: skip


@pytest.fixture(scope="module")
def measured(night):
    return truth.measured(night)


@pytest.mark.parametrize("method", truth.METHODS)
def test_e70_e71_total_fluxes_are_right_to_a_millimagnitude(measured, method):
    factor = measured.apcor if method == "aperture" else 1.0
    whole = measured.true["psf"]
    bright = measured.flux[method] > 100 * measured.err[method]
    assert bright.sum() > 200
    weight = (whole / (measured.err[method] * factor))[bright] ** 2
    off = (measured.flux[method] * factor / whole - 1)[bright]
    bias = truth.MMAG * (weight * off).sum() / weight.sum()
    # The PSF and the growth curve of few stars have errors of their own, about 0.4 mmag.
    assert abs(bias) < 1.0 + 4 * truth.MMAG / np.sqrt(weight.sum())


@pytest.mark.parametrize("method", truth.METHODS)
@pytest.mark.parametrize(("low", "high"), [(12.5, 15.5), (15.5, 18.5)])
def test_s16_pulls_of_bright_and_faint_stars_have_width_one(measured, method, low, high):
    here = (measured.mag >= low) & (measured.mag < high)
    pull = ((measured.flux[method] - measured.true[method]) / measured.err[method])[here]
    assert pull.size > 200
    assert pull.std(ddof=1) == pytest.approx(1.0, abs=4 / np.sqrt(2 * pull.size))


def test_empty_positions_are_measured_on_every_frame_and_scatter_as_stated(night):
    mean, width = truth.empty_figures(night)
    assert width.n > 400
    assert width.value == pytest.approx(1.0, abs=4 / np.sqrt(2 * width.n))
    assert abs(mean.value) < 4 / np.sqrt(mean.n)
    listed = night.points[night.points["source"] < 0]
    assert len(listed) == len(night.frames) * len(set(listed["object"]))


def test_e72_e73_s17_zero_points_bear_wrong_stars_and_a_colour_term(night, monkeypatch):
    monkeypatch.setattr(truth, "TRIALS", 120)
    monkeypatch.setattr(truth, "TRIAL_STARS", 40)
    found = {figure.name: figure for figure in truth.zero_point_figures(night)}
    bias, width = found["zeropoint_bias_mmag"], found["zeropoint_pull_width"]
    assert bias.n == 120
    # One trial is known to about 2 mmag.
    assert abs(bias.value) < 2 + 4 * 2 / np.sqrt(120)
    assert width.value == pytest.approx(1.0, abs=4 / np.sqrt(2 * 120))
    assert abs(found["zeropoint_colour_term_bias"].value) < 0.01


def test_e74_s18_half_completeness_is_where_theory_has_it(night):
    planted, own = truth.completeness_figures(night)
    assert abs(planted.value) < 0.1 + 4 * 0.06 / np.sqrt(planted.n)
    assert abs(own.value) < 0.1 + 4 * 0.3 / np.sqrt(own.n)


def test_e46_seeing_zero_point_and_its_error_are_in_the_product_of_every_frame(night):
    rows = {str(row["frame_id"]): row for row in truth.tables(night.results / "photcal")}
    for frame in night.frames:
        row = rows[frame["id"]]
        assert row["fwhm_px"] == pytest.approx(frame["fwhm_px"], rel=0.05)
        true = truth._true_zp(night, frame, float(row["colour_0"]))
        assert abs(row["zp"] - true) < 5 * row["zp_err"]
        assert row["zp_err"] < row["zp_scatter"] + 0.01


def test_the_light_within_a_circle_is_that_of_the_simulated_profile():
    """The truth of total fluxes: against the sum over an image of one star."""
    from skymill.simulate.psf import Profile, add_sources

    config = night_config(ellipticity=0.2)
    image = np.zeros((121, 121))
    add_sources(
        image, np.array([60.2]), np.array([59.7]), np.array([1e7]),
        Profile("moffat", 3.0, config.moffat_beta, 0.2, 30.0),
    )  # fmt: skip
    # Pixels blur the profile: far out that is not seen, within 1.5 FWHM it is 0.4 %.
    for radius, off in ((12.0, 4e-5), (4.5, 6e-3)):
        total = truth.aperture_truth(image, [60.2], [59.7], radius)[0] / 1e7
        assert total == pytest.approx(light_within(config, 3.0, radius), abs=off)
