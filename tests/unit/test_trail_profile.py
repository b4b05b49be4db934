"""Loops over the strip of a trail against the same in numpy."""

import warnings

import numpy as np
import pytest

from skymill.kernels.trail_profile import (
    aligned,
    column_quantiles,
    ground,
    piece_light,
    shown,
    straightened,
)

SEGMENT, WIDTH = 64, 97


def strip(seed, segments=9):
    """Mean signal of a strip with a bent trail, holes, and how many pixels it is made of."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 0.13, (segments, WIDTH))
    for k in range(segments):
        mean[k] += 1.2 * np.exp(-0.5 * ((np.arange(WIDTH) - 48 - 0.4 * k) / 2) ** 2)
    count = rng.integers(10, 65, mean.shape)
    count[2, :60] = 3
    count[4, 40:44] = 0
    mean[count == 0] = np.nan
    return mean, count


def shown_by_numpy(mean, count, bend, wander):
    reach, column = (WIDTH - 1) // 2, np.arange(WIDTH)
    found, middle = np.zeros(len(mean), bool), np.full(len(mean), np.nan)
    for k in range(len(mean)):
        known = count[k] >= SEGMENT / 4
        far = known & (np.abs(column - reach) > reach // 2)
        if known.sum() < WIDTH / 2 or far.sum() < 5:
            continue
        row = np.where(known, mean[k] - np.median(mean[k][far]), 0.0)
        weight = np.convolve(known, np.ones(5), "same")
        smooth = np.convolve(row, np.ones(5), "same") / np.maximum(weight, 1)
        t = (k + 0.5) * SEGMENT
        near = np.abs(column - reach - np.polynomial.polynomial.polyval(t, bend)) <= wander
        noise = 1 / np.sqrt(5 * np.median(count[k][known]))
        rough = 1.4826 * np.median(np.abs(smooth[far]))
        at = int(np.argmax(np.where(near & (weight > 2), smooth, -np.inf)))
        if near[at] and smooth[at] > 4 * max(noise, rough):
            found[k] = True
            part = slice(max(at - 4, 0), at + 5)
            light = np.maximum(smooth[part] - smooth[at] / 3, 0)
            middle[k] = (column[part] * light).sum() / light.sum() - reach
    return found, middle


@pytest.mark.parametrize("seed", range(5))
def test_segments_that_show_a_trail(seed):
    mean, count = strip(seed)
    bend = np.array([0.3, 0.002, 1e-6])
    found, middle = shown(mean, count, bend, 9, 1, SEGMENT, 4.0)
    wanted = shown_by_numpy(mean, count, bend, 9)
    assert wanted[0].sum() > 4
    np.testing.assert_array_equal(found, wanted[0])
    np.testing.assert_allclose(middle, wanted[1], rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 20])
def test_the_middle_of_a_trail_is_a_least_squares_polynomial(n):
    rng = np.random.default_rng(n)
    t = (np.arange(n) + 0.5) * SEGMENT
    middle = 0.3 + 0.01 * t - 3e-6 * t**2 + rng.normal(0, 0.05, n)
    degree = 2 if n >= 8 else min(1, n - 1)
    if n == 20:
        middle[7] += 9.0
    use = np.arange(n) != (7 if n == 20 else -1)
    wanted = np.polynomial.Polynomial.fit(t[use], middle[use], degree).convert().coef
    bend = straightened(middle, np.ones(n, bool), 0, n - 1, SEGMENT)
    np.testing.assert_allclose(bend[: len(wanted)], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_profiles_are_moved_and_their_median_taken(seed):
    mean, count = strip(seed)
    bend = np.array([-1.3, 0.004, 2e-6])
    shows = np.random.default_rng(seed).random(len(mean)) < 0.8
    shows[[1, 7]] = True
    rows = []
    for k in range(1, 8):
        known = count[k] >= SEGMENT / 4
        if shows[k] and known.sum() >= WIDTH / 2:
            shift = np.polynomial.polynomial.polyval((k + 0.5) * SEGMENT, bend)
            at = np.arange(WIDTH)
            rows.append(np.interp(at + shift, at[known], mean[k][known]))
    profile = np.median(rows, axis=0)
    wanted = profile - np.median(np.r_[profile[:16], profile[-16:]])
    got = aligned(mean, count, bend, shows, 1, 7, SEGMENT)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("q", [0.25, 0.5, 0.6])
def test_quantiles_of_columns_are_those_of_numpy(q):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(231, 30)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:, 4] = np.nan
    values[60:, 5] = np.nan
    wanted = np.ones(30, bool)
    wanted[9] = False
    got = column_quantiles(values, wanted, q)
    assert np.isnan(got[[4, 9]]).all()
    enough = wanted & (np.isfinite(values).sum(axis=0) >= 231 / 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.nanquantile(values.astype(np.float64), q, axis=0)
    np.testing.assert_allclose(got[enough], expected[enough], rtol=1e-12)
    assert np.isfinite(got).sum() == enough.sum()


def test_the_ground_beside_a_line_is_its_lower_part():
    far = np.random.default_rng(4).normal(size=41)
    low = np.sort(far)[:24]
    level = np.median(low)
    got = ground(far)
    np.testing.assert_allclose(got[0], level)
    np.testing.assert_allclose(got[1], 1.8 * 1.4826 * np.median(np.abs(low - level)))


def test_light_of_pieces_is_a_median_above_the_darker_side():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(150, WIDTH)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[32:64, 46:51] = np.nan
    wanted = []
    for k in range(0, 150, 32):
        part = values[k : k + 32]
        core, left, right = part[:, 46:51], part[:, 18:34], part[:, 63:79]
        sides = [np.nanmedian(s) for s in (left, right) if np.isfinite(s).sum() > 32]
        known = np.isfinite(core).sum() > 16
        wanted.append(np.nanmedian(core) - min(sides) if known else np.nan)
    assert np.isnan(wanted[1])
    np.testing.assert_allclose(piece_light(values, 32, 1), wanted, rtol=1e-6)
