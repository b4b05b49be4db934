"""The claimed variance of overscan levels against the scatter of many simulated frames.

Frames are made here with numpy alone: a level, a drift, white noise. Levels of different
frames are independent, so their mean square error has a relative uncertainty of
``sqrt(2/(frames x independent values per frame))``. Four of these are allowed.
"""

from __future__ import annotations

import numpy as np
import pytest

from skymill.overscan import fit_overscan
from skymill.readout import Readout

NY, NX = 96, 40
FRAMES, NOISE = 700, 4.0
ROW = {"gain_e_adu": 2.0, "read_noise_e": 8.0, "saturation_adu": 60_000.0}
BESIDE = ROW | {"datasec": f"[1:8,1:{NY}]", "biassec": f"[9:{NX},1:{NY}]"}
ABOVE = ROW | {"datasec": f"[1:{NY},1:8]", "biassec": f"[1:{NY},9:{NX}]"}
SEVERAL = ROW | {
    "datasec": f"[7:14,1:{NY}]",
    "biassec": f"[1:6,1:{NY}];[15:{NX},1:{NY}];[20:30,5:50]",
}


def levels(row, *, shape=(NY, NX), frames=FRAMES, seed=1, drift=0.0, integers=False, **options):
    """Errors of the level (frames, n) and their claimed variance, averaged."""
    rng = np.random.default_rng(seed)
    errors, claimed = [], []
    for _ in range(frames):
        phase = rng.uniform(0, 1) if integers else 0.0
        truth = 1000 + phase + drift
        raw = rng.normal(truth, options.get("noise", NOISE), shape)
        raw = raw.round().astype(np.uint16) if integers else raw.astype(np.float32)
        (amplifier,) = Readout.from_row(row, raw).amplifiers
        keywords = {key: value for key, value in options.items() if key != "noise"}
        found = fit_overscan(raw, amplifier, **keywords)
        along = truth if np.ndim(drift) == 0 else np.asarray(truth)
        errors.append(np.ravel(found.level - along))
        claimed.append(np.broadcast_to(found.variance, found.level.shape).ravel())
    return np.array(errors), np.mean(claimed, axis=0)


def check(errors, claimed, free, extra=0.0):
    """Mean square error against the claim, and the bias against zero."""
    independent = len(errors) * free
    seen = float(np.mean(errors**2))
    assert claimed.mean() == pytest.approx(seen, rel=4 * np.sqrt(2 / independent) + extra)
    mean = errors.mean()
    assert abs(mean) < 4 * np.sqrt(seen / independent)


@pytest.mark.parametrize("row", [BESIDE, SEVERAL], ids=["one area", "several areas"])
@pytest.mark.parametrize(
    ("method", "fit", "order", "free"),
    [
        ("mean", "frame", 0, 1),
        ("median", "frame", 0, 1),
        ("clipped", "frame", 0, 1),
        ("clipped_median", "frame", 0, 1),
        ("mean", "row", 0, NY),
        ("median", "row", 0, NY),
        ("clipped", "row", 0, NY),
        ("mean", "polynomial", 0, 1),
        ("mean", "polynomial", 1, 2),
        ("median", "polynomial", 2, 3),
        ("clipped", "legendre", 3, 4),
        ("mean", "spline3", 1, 4),
        ("clipped", "spline3", 9, 12),
    ],
)
def test_variance_of_the_level_is_that_of_many_frames(row, method, fit, order, free):
    """Noise-model 1.1. Clipping at 4 sigma and the median of n pixels: 2 % more."""
    frames = FRAMES if free < 12 else 400
    errors, claimed = levels(row, method=method, fit=fit, order=order, frames=frames)
    # a curve of p parameters: the squares of p independent numbers; 2 % for the clipped tails
    # and the finite medians
    check(errors, claimed, free, extra=0.02)


@pytest.mark.parametrize(("fit", "order", "free"), [("column", 0, NY), ("polynomial", 2, 3)])
def test_variance_along_the_columns_is_the_same(fit, order, free):
    errors, claimed = levels(ABOVE, shape=(NX, NY), method="mean", fit=fit, order=order, frames=600)
    assert errors.shape[1] == NY
    check(errors, claimed, free)


def test_variance_of_rows_and_columns_together():
    """Rows of 22 pixels and columns of 16: the errors add, in every pixel of the frame."""
    row = ROW | {"datasec": "[1:30,1:40]", "biassec": "[31:52,1:56];[1:30,41:56]"}
    errors, claimed = levels(row, shape=(56, 52), method="mean", fit="row", axis="both", frames=300)
    assert errors.shape[1] == 1200
    # columns are measured against the noisy level of their 16 rows, common to all columns
    truth = NOISE**2 * (1 / 22 + 1 / 16 + 1 / (16 * 22))
    seen = float(np.mean(errors**2))
    assert seen == pytest.approx(truth, rel=4 * np.sqrt(2 / (300 * 70)))
    assert claimed.mean() == pytest.approx(seen, rel=0.05)


@pytest.mark.parametrize(("order", "expected"), [(1, 1.99), (2, 2.9), (3, 3.75)])
def test_end_rows_are_p_plus_one_times_less_certain(order, expected):
    """Noise-model 1.1: measured end/average 1.99 (p = 1), 3.85 (p = 3) for many rows."""
    errors, claimed = levels(BESIDE, method="mean", fit="polynomial", order=order)
    seen = np.mean(errors**2, axis=0)
    ends = (seen[0] + seen[-1]) / 2 / seen.mean()
    assert ends == pytest.approx(expected, rel=4 * np.sqrt(2 / (2 * FRAMES)))
    assert claimed[0] / claimed.mean() == pytest.approx(ends, rel=4 * np.sqrt(2 / (2 * FRAMES)))
    # row by row the claim is that of the scatter
    np.testing.assert_allclose(claimed, seen, rtol=5 * np.sqrt(2 / FRAMES))


@pytest.mark.parametrize(("fit", "order"), [("row", 0), ("polynomial", 3), ("spline3", 6)])
def test_drift_is_recovered_without_bias(fit, order):
    """A cubic of 30 ADU; the mean error of each row is zero within its statistics."""
    y = np.linspace(-1, 1, NY)
    drift = (10 * y - 6 * y**2 + 12 * y**3)[:, None]
    errors, claimed = levels(
        BESIDE, method="mean", fit=fit, order=order, drift=drift, frames=600, sigma_clip=5.0
    )
    assert np.abs(errors.mean(axis=0) / np.sqrt(claimed / 600)).max() < 4.7  # 96 rows
    check(errors, claimed, {"row": NY, "polynomial": 4, "spline3": 9}[fit], extra=0.02)


@pytest.mark.parametrize("noise", [0.5, 0.7, 1.5])
@pytest.mark.parametrize(("method", "fit"), [("mean", "frame"), ("clipped", "row")])
def test_whole_numbers_at_low_read_noise_give_an_unbiased_mean(method, fit, noise):
    """Any phase of the level; scatter is the noise and 1/12 ADU^2 of rounding."""
    errors, claimed = levels(
        BESIDE, method=method, fit=fit, integers=True, noise=noise, frames=1000, seed=7
    )
    free = 1 if fit == "frame" else NY
    mean = errors.mean()
    assert abs(mean) < 4 * np.sqrt(np.mean(errors**2) / (1000 * free))
    # at 0.5 ADU rounding leaves an error of exp(-2 pi^2 s^2)/pi = 0.002 ADU that no mean removes
    common = (np.exp(-2 * np.pi**2 * noise**2) / np.pi) ** 2 / 2
    seen = float(np.mean(errors**2)) - common
    assert claimed.mean() == pytest.approx(seen, rel=4 * np.sqrt(2 / (1000 * free)) + 0.02)


@pytest.mark.parametrize(("noise", "fit"), [(0.7, "frame"), (4.0, "frame"), (4.0, "row")])
def test_median_of_whole_numbers_is_claimed_with_its_own_rounding(noise, fit):
    """A17: it moves in steps of one; the error of the step, 1/12 ADU^2, is claimed."""
    errors, claimed = levels(
        BESIDE, method="median", fit=fit, integers=True, noise=noise, frames=1000, seed=9
    )
    # uniform errors scatter less from sample to sample than normal ones: 4 sigma is generous.
    # The median of an even number of sparse values is rounded to halves: up to 4 % less.
    free = 1 if fit == "frame" else NY
    seen = float(np.mean(errors**2))
    assert claimed.mean() == pytest.approx(seen, rel=4 * np.sqrt(2 / (1000 * free)) + 0.04)
    assert abs(errors.mean()) < 4 * np.sqrt(seen / (1000 * free))


def test_rows_that_scatter_more_than_their_pixels_make_the_level_less_certain():
    """Noise common to a row, as real detectors have: the claim follows it, not the pixels."""
    rng = np.random.default_rng(3)
    for options, free in (
        ({"fit": "frame"}, 1),
        ({"fit": "frame", "method": "median"}, 1),
        ({"fit": "polynomial", "order": 1, "method": "mean"}, 2),
    ):
        errors, claimed = [], []
        for _ in range(800):
            raw = rng.normal(1000, NOISE, (NY, NX)) + rng.normal(0, 2.0, (NY, 1))
            raw = raw.astype(np.float32)
            (amplifier,) = Readout.from_row(BESIDE, raw).amplifiers
            found = fit_overscan(raw, amplifier, **options)
            errors.append(np.ravel(found.level - 1000))
            claimed.append(found.variance.mean())
        seen = float(np.mean(np.square(errors)))
        assert seen > 4 * NOISE**2 / (NY * 32) * free  # the pixels alone would claim this
        assert np.mean(claimed) == pytest.approx(seen, rel=4 * np.sqrt(2 / (800 * free)) + 0.03)
