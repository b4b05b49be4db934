"""Pulls of all error maps on simulated frames with noisy masters.

Required: width 1.00 +- 0.02 on sky and on stars, for a flat from 0.5 to 1.2 and gains of
1.6 and 0.4. Three frames hold 660 000 pixels of sky and 60 000 of stars: the width is
known to 0.1 and 0.3 %.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import error_maps as truth
from skymill.error_maps import (
    Electronics,
    background_only_error,
    background_rms_from_propagation,
    error_map,
    error_map_from_propagation,
)


@pytest.fixture(scope="module", params=truth.CASES, ids=lambda case: f"gain {case[0]}")
def fields(request):
    return [truth.simulate(seed, *request.param) for seed in (1, 2, 3)]


def test_pulls_of_every_map_have_width_one(fields):
    """E21, E22, E23, E24: the four routes, and the sky from the total error alone."""
    found = truth.widths(fields)
    told = {key: value for key, value in found.items() if "every pixel" not in key[0]}
    assert len(told) == 7
    for key, (width, n) in told.items():
        assert n > 40_000
        assert width == pytest.approx(1, abs=0.02), key


def test_photons_of_every_pixel_count_the_noise_of_the_sky_twice(fields):
    """E22: the reason why the source term is left to the sources."""
    width, _ = truth.widths(fields[:1])["error_map, every pixel", "sky"]
    # half of the pixels get max(noise, 0) on top: 18 electron above a variance of 350
    assert 0.96 < width < 0.99


def test_pulls_hold_at_both_ends_of_the_flat(fields):
    """Powers of F: 0.5 at the left, 1.2 at the right."""
    for part in (slice(0, 80), slice(-80, None)):
        pulls = []
        for field in fields:
            m, e = field.masters, field.electronics
            level = np.full(field.sci.shape, truth.SKY_E, np.float32)
            error = background_rms_from_propagation(level, e, m)
            cut = field.sky[:, part]
            pulls.append(((field.sci - field.truth) / error)[:, part][cut])
        width = float(np.concatenate(pulls).std())
        # 85 000 pixels: 0.25 %
        assert width == pytest.approx(1, abs=0.015)


def test_measured_and_propagated_noise_agree(fields):
    """The quality figure of a frame: 1 within 2 %."""
    for field in fields:
        assert truth.ratio(field) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("factor", "what"), [(1.3, "gain"), (2.0, "read_noise_e")])
def test_the_ratio_sees_a_wrong_instrument_file(fields, factor, what):
    """A gain 30 % too high promises too little noise, a read noise twice too high too much."""
    field = fields[0]
    e = field.electronics
    wrong = replace(e, **{what: getattr(e, what) * factor})
    sky_adu = field.sci / e.gain
    # the frame as a wrong gain would have made it
    seen = replace(field, sci=(sky_adu * wrong.gain).astype(np.float32), electronics=wrong)
    good = np.ones(field.sci.shape, bool)
    measured = truth.background_rms(seen.sci, good)
    level = np.full(field.sci.shape, truth.SKY_E * wrong.gain / e.gain, np.float32)
    model = background_rms_from_propagation(level, wrong, field.masters)
    ratio = truth.noise_ratio(measured, model, field.sky)
    assert ratio > 1.05 if what == "gain" else ratio < 0.95


MISTAKES = {
    "no 1/F^2 for the read noise": lambda m: replace(m, flat=np.ones_like(m.flat)),
    "flat in counts": lambda m: replace(m, flat=m.flat * 20_000, flat_err=m.flat_err * 20_000),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tolerance_is_sharp_enough_to_see_a_wrong_flat(fields, mistake):
    """E23: the flat in ADU, or at the wrong power, must fail the test above."""
    field = fields[0]
    wrong = MISTAKES[mistake](field.masters)
    level = np.full(field.sci.shape, truth.SKY_E, np.float32)
    error = background_rms_from_propagation(level, field.electronics, wrong)
    off = (field.sci - field.truth) / error
    parts = (slice(0, 80), slice(-80, None))
    ends = [float(off[:, part][field.sky[:, part]].std()) for part in parts]
    assert max(abs(width - 1) for width in ends) > 0.05


@pytest.mark.parametrize("gain", [1.6, 0.4])
def test_bias_and_dark_terms_are_seen_where_masters_are_poor(gain):
    """E23: few master frames, little light; a bias error counted twice would show."""
    rng = np.random.default_rng(9)
    shape, tau, noise = (400, 500), 0.5, 5.0
    bias = rng.normal(0, noise / gain / np.sqrt(2), shape)
    dark = rng.normal(0, noise / gain / np.sqrt(2), shape)
    charge = rng.poisson(100.0, shape) / gain
    raw = charge + rng.normal(0, noise / gain, shape)
    # master = truth + error; dark frames hold the bias: R - (1 - t) b - t d
    value = (raw - (1 - tau) * bias - tau * dark) * gain
    m = truth.MasterTerms(tau, noise / gain / np.sqrt(2), 0.0, noise / gain / np.sqrt(2))
    e = Electronics(gain, noise, rounding=False)
    level = np.full(shape, 100.0, np.float32)
    width = float(((value - 100) / background_rms_from_propagation(level, e, m)).std())
    # 200 000 pixels: 0.16 %
    assert width == pytest.approx(1, abs=0.008)
    twice = replace(m, bias_err=m.bias_err * 2)
    assert abs(((value - 100) / background_rms_from_propagation(level, e, twice)).std() - 1) > 0.03


def test_faint_pixels_are_not_called_uncertain():
    """S14, F18: the absolute value raises the error of the sky, the positive part less."""
    rng = np.random.default_rng(1)
    sky = rng.poisson(100, (300, 300)).astype(np.float32)
    absolute = np.sqrt(10.0**2 + np.abs(sky - 100))
    ours = error_map(sky, 100.0, 10.0)
    assert float(np.mean(absolute**2)) == pytest.approx(100 + 10 * np.sqrt(2 / np.pi), rel=0.005)
    assert float(np.mean(ours.astype(float) ** 2)) == pytest.approx(
        100 + 5 * np.sqrt(2 / np.pi), rel=0.005
    )
    low = sky < 100
    np.testing.assert_allclose(ours[low], 10.0, rtol=1e-6)


def test_total_error_of_a_frame_gives_the_sky_error_back(fields):
    field = fields[0]
    m, e = field.masters, field.electronics
    level = np.full(field.sci.shape, truth.SKY_E, np.float32)
    total = error_map_from_propagation(field.sci, e, m)
    alone = background_only_error(total, field.sci, level, flat=m.flat, flat_err=m.flat_err)
    whole = background_rms_from_propagation(level, e, m)
    np.testing.assert_allclose(alone, whole, rtol=2e-3)
