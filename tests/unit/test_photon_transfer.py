"""Gain, read noise and linearity from pairs of flats of known properties."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.steps.photon_transfer import (
    gain_from_pairs,
    pair_points,
    response_check,
    transfer_curve,
)

GAIN, NOISE = 0.8, 9.0


def flats(levels, *, bend: float = 0.0, seed: int = 5, whole: bool = False):
    """Boxes (ADU) with a strong pattern; `bend` is the charge-sharing term k of a^2."""
    rng = np.random.default_rng(seed)
    pattern = rng.uniform(0.7, 1.3, (60, 40, 40))
    made = []
    for level in levels:
        light = pattern * level
        variance = light / GAIN + bend * light**2
        box = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
        box += rng.normal(0, NOISE, light.shape)
        made.append(box.round() if whole else box)
    return made


def test_gain_of_pairs_is_free_of_pattern_and_read_noise():
    points = pair_points(flats((30_000, 22_000, 15_000)), [NOISE**2] * 3)
    gain, error = gain_from_pairs(points)
    # 96 000 pixels of two pairs: sqrt(2/n) = 0.3 %
    assert 0.002 < error / GAIN < 0.006
    assert gain == pytest.approx(GAIN, abs=4 * error)


@pytest.mark.parametrize("n", [5, 9])
def test_error_of_the_gain_is_its_scatter_although_pairs_share_frames(n):
    """All pairs of five flats, neighbouring pairs of nine."""
    found = []
    for seed in range(40):
        boxes = [b[:12] for b in flats((20_000,) * n, seed=seed)]
        found.append(gain_from_pairs(pair_points(boxes, [NOISE**2] * n)))
    gains, errors = np.array(found).T
    # 40 values: their scatter is known to 11 %
    assert gains.std(ddof=1) == pytest.approx(errors.mean(), rel=0.45)
    assert abs(gains.mean() - GAIN) < 4 * gains.std() / np.sqrt(40)


def test_one_flat_or_dark_boxes_give_no_gain():
    assert np.isnan(gain_from_pairs(pair_points(flats((9_000,)), [81.0]))[0])
    nothing = np.full((4, 40, 40), np.nan)
    assert np.isnan(gain_from_pairs(pair_points([nothing, nothing], [81.0, 81.0]))[0])


def test_transfer_curve_gives_gain_and_read_noise():
    levels = (30_000, 15_000, 8_000, 4_000, 1_500, 500, 150)
    curve = transfer_curve(pair_points(flats(levels), [NOISE**2] * len(levels)))
    assert curve is not None
    assert not curve.curved
    assert abs(curve.quadratic) < 4 * curve.quadratic_error
    assert curve.gain == pytest.approx(GAIN, abs=4 * curve.gain_error)
    assert curve.gain_error < 0.005 * GAIN
    assert curve.noise_adu == pytest.approx(NOISE, abs=4 * curve.noise_error_adu)
    assert curve.noise_error_adu < 0.5
    assert curve.level_max > 25_000


def test_transfer_curve_of_integers_is_not_quantised():
    """Gain 0.8, levels of a few ADU noise: rounding adds 1/12 to the square of the noise."""
    levels = (600, 300, 120, 60, 30, 15)
    curve = transfer_curve(pair_points(flats(levels, whole=True), [NOISE**2] * len(levels)))
    assert curve.gain == pytest.approx(GAIN, abs=4 * curve.gain_error)
    expected = np.sqrt(NOISE**2 + 1 / 12)
    assert curve.noise_adu == pytest.approx(expected, abs=4 * curve.noise_error_adu)


def test_missing_variance_at_high_levels_is_found_and_does_not_bias_the_gain():
    """Brighter-fatter: the variance falls short of photons by k g a."""
    levels = (40_000, 30_000, 20_000, 10_000, 5_000, 2_000, 800)
    bend = -0.1 / GAIN / 40_000
    points = pair_points(flats(levels, bend=bend), [NOISE**2] * len(levels))
    curve = transfer_curve(points)
    assert curve.curved
    assert curve.quadratic == pytest.approx(bend, abs=4 * curve.quadratic_error)
    assert curve.gain == pytest.approx(GAIN, abs=4 * curve.gain_error)
    assert curve.shortfall == pytest.approx(0.1, rel=0.2)
    assert gain_from_pairs(points)[0] > 1.03 * GAIN


def test_equal_levels_make_no_curve():
    smooth = [np.random.default_rng(i).poisson(5000, (30, 40, 40)) * 1.0 for i in range(5)]
    assert transfer_curve(pair_points(smooth, [0.0] * 5)) is None
    assert transfer_curve(pair_points(smooth[:1], [0.0])) is None


def test_stars_in_one_flat_do_not_change_the_gain():
    boxes = flats((20_000, 15_000, 10_000))
    boxes[1][3, 10:16, 10:16] += 8_000
    boxes[2][9, 20:24, :] += 20_000
    gain, error = gain_from_pairs(pair_points(boxes, [NOISE**2] * 3))
    assert gain == pytest.approx(GAIN, abs=4 * error)


def test_response_of_a_lamp_against_exposure():
    times = np.array([1, 2, 4, 8, 16, 32.0])
    straight = response_check(list(1000 * (times + 0.02)), list(times))
    assert abs(straight.deviation) < 1e-9
    assert straight.offset_s == pytest.approx(0.02)
    assert straight.exposures == 6
    bent = response_check(list(1000 * times * (1 - 1e-6 * 1000 * times)), list(times))
    assert abs(bent.deviation) > 0.01
    assert response_check([1000, 1001, 2000, 2001], [1, 1, 2, 2]) is None
    assert response_check([1000, 2000, 3000], [1, 2, 3]) is None
