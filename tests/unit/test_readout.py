"""Sections, gain and noise of a row of the sheet; the overscan level and its variance."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.errors import FrameRejected
from skymill.readout import Readout, fit_overscan
from skymill.robust import clipped_mean_std, robust_sigma

ROW = {
    "datasec": "[1:40,1:64]",
    "biassec": "[41:72,1:64]",
    "gain_e_adu": 2.0,
    "read_noise_e": 10.0,
    "saturation_adu": 60_000.0,
}
SHAPE = (64, 72)


def raw_frame(seed: int = 1, noise: float = 5.0, level: float = 1000.0, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(level, noise, SHAPE)
    return pixels.round().astype(dtype) if np.dtype(dtype).kind == "u" else pixels.astype(dtype)


def test_row_becomes_slices_and_noise():
    readout = Readout.from_row(ROW, raw_frame())
    assert readout.image.slices == (slice(0, 64), slice(0, 40))
    assert readout.overscan.slices == (slice(0, 64), slice(40, 72))
    assert readout.read_noise_adu == 5.0
    assert readout.dark_variance_adu2 == 25.0
    assert readout.trim(raw_frame()).shape == (64, 40)
    assert readout.saturation_known


def test_rounding_is_added_below_half_an_adu_only():
    quiet = Readout.from_row(ROW | {"read_noise_e": 0.8}, raw_frame())
    assert quiet.dark_variance_adu2 == pytest.approx(0.16 + 1 / 12)


def test_missing_saturation_is_that_of_the_data_type():
    row = ROW | {"saturation_adu": None}
    integers = Readout.from_row(row, raw_frame())
    assert integers.saturation_adu == 65_535
    assert not integers.saturation_known
    assert Readout.from_row(row, raw_frame(dtype=np.float32)).saturation_adu == np.inf


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"gain_e_adu": None}, "NO_GAIN"),
        ({"gain_e_adu": 0.0}, "NO_GAIN"),
        ({"read_noise_e": None}, "NO_READ_NOISE"),
        ({"datasec": "[1:41,1:64]"}, "BAD_SECTION"),  # overlaps the overscan
        ({"biassec": "[41:99,1:64]"}, "BAD_SECTION"),
        ({"nx": 71, "ny": 64}, "WRONG_SIZE"),
    ],
)
def test_impossible_rows_are_rejected(change, code):
    with pytest.raises(FrameRejected, match=code) as caught:
        Readout.from_row(ROW | change, raw_frame())
    assert caught.value.code == code


def test_without_overscan_nothing_is_subtracted():
    readout = Readout.from_row(ROW | {"biassec": ""}, raw_frame())
    level = fit_overscan(raw_frame(), readout)
    assert not level.level.any()
    assert not level.variance.any()
    assert np.isnan(level.noise_adu)


def test_clipped_level_ignores_bad_columns_and_bad_rows():
    raw = raw_frame()
    clean = fit_overscan(raw, Readout.from_row(ROW, raw))
    raw[:, 40] = 900  # deferred charge
    raw[:, 71] = 40_000  # light
    raw[:6] = 300  # amplifier settling
    level = fit_overscan(raw, Readout.from_row(ROW, raw))
    # the error of the level is 5 / sqrt(58 x 30) = 0.12 ADU
    assert level.mean_adu == pytest.approx(1000, abs=0.5)
    assert level.noise_adu == pytest.approx(5.0, rel=0.1)
    assert clean.noise_adu == pytest.approx(5.0, rel=4 / np.sqrt(2 * 64 * 32))
    assert abs(fit_overscan(raw, Readout.from_row(ROW, raw), method="mean").mean_adu - 1000) > 100


@pytest.mark.parametrize(
    ("method", "fit", "order"),
    [
        ("mean", "frame", 0),
        ("clipped", "frame", 0),
        ("median", "frame", 0),
        ("mean", "row", 0),
        ("median", "row", 0),
        ("clipped", "row", 0),
        ("mean", "polynomial", 1),
        ("clipped", "polynomial", 3),
        ("mean", "spline3", 9),
    ],
)
def test_variance_of_the_level_is_that_of_many_frames(method, fit, order):
    """400 frames: the claimed variance agrees with the scatter of the levels.

    Levels of single frames are independent, so their variance has a relative error of
    sqrt(2/400) = 7 %, of a row fit much less (64 rows); four times that is allowed.
    """
    rng = np.random.default_rng(4)
    levels, claimed = [], []
    readout = Readout.from_row(ROW, raw_frame(dtype=np.float32))
    for _ in range(400):
        raw = rng.normal(1000, 5, SHAPE).astype(np.float32)
        one = fit_overscan(raw, readout, method=method, fit=fit, order=order, sigma_clip=4.0)
        levels.append(one.level)
        claimed.append(one.variance.mean())
    seen = np.mean((np.array(levels) - 1000) ** 2)
    independent = 400 if fit == "frame" else 400 * max(order, 2)
    # rows that scatter more than the mean are claimed to be noisy: +10 % for 64 rows
    assert np.mean(claimed) == pytest.approx(seen, rel=4 * np.sqrt(2 / independent) + 0.12)


def test_polynomial_is_least_certain_at_the_ends():
    """End over average of the variance of a line: 2, of a cubic: about 4."""
    raw = raw_frame(dtype=np.float32)
    readout = Readout.from_row(ROW, raw)
    for order, expected in ((1, 1.97), (3, 3.7)):
        level = fit_overscan(raw, readout, fit="polynomial", order=order)
        ratio = level.variance[0] / level.variance.mean()
        assert ratio == pytest.approx(expected, rel=0.05)


def test_fits_follow_a_drift_and_one_level_reports_it():
    y = np.arange(64.0)
    raw = raw_frame(dtype=np.float32, noise=1.0)
    drift = 40 * (y / 63 - 0.5) ** 2 + 10 * y / 63
    raw += drift[:, None].astype(np.float32)
    readout = Readout.from_row(ROW, raw)
    for fit, order in (("polynomial", 2), ("spline3", 4), ("row", 0)):
        level = fit_overscan(raw, readout, fit=fit, order=order)
        # 1 ADU / sqrt(32) = 0.18 per row at most
        np.testing.assert_allclose(level.level, 1000 + drift, atol=5 * 0.18)
    flat = fit_overscan(raw, readout)
    assert flat.drift_adu == pytest.approx(np.ptp(drift), rel=0.35)
    assert fit_overscan(raw_frame(), readout).drift_adu < 3


def test_spline_has_the_pieces_that_were_asked_for():
    """Nine pieces reproduce any cubic exactly, and their freedom is nine plus three."""
    from skymill.readout import _basis

    basis = _basis(511, "spline3", 9)
    assert basis.shape == (511, 12)
    y = np.linspace(-1, 1, 511)
    cubic = 3 - y + 2 * y**2 - 5 * y**3
    fit, *_ = np.linalg.lstsq(basis, cubic, rcond=None)
    np.testing.assert_allclose(basis @ fit, cubic, atol=1e-10)


def test_rejection_of_rows_leaves_the_curve_alone():
    raw = raw_frame(dtype=np.float32)
    readout = Readout.from_row(ROW, raw)
    options = {"method": "mean", "fit": "polynomial", "order": 1, "sigma_clip": 3.0}
    raw[30] += 5000
    once = fit_overscan(raw, readout, iterations=1, **options)
    none = fit_overscan(raw, readout, iterations=0, **options)
    assert abs(once.level.mean() - 1000) < 1
    assert abs(none.level.mean() - 1000) > 50


def test_overscan_that_does_not_cover_the_rows_serves_only_one_level():
    row = ROW | {"biassec": "[41:72,1:32]"}
    raw = raw_frame()
    readout = Readout.from_row(row, raw)
    assert fit_overscan(raw, readout).mean_adu == pytest.approx(1000, abs=1)
    with pytest.raises(FrameRejected, match="BAD_SECTION"):
        fit_overscan(raw, readout, fit="row")
    with pytest.raises(FrameRejected, match="cannot carry"):
        fit_overscan(raw, Readout.from_row(ROW, raw), fit="polynomial", order=64)


def test_blank_overscan_is_rejected():
    raw = raw_frame(dtype=np.float32)
    raw[:, 40:] = np.nan
    with pytest.raises(FrameRejected, match="NO_DATA"):
        fit_overscan(raw, Readout.from_row(ROW, raw))


def test_robust_sigma_of_integers_grows_smoothly():
    """A MAD would jump by 1.48 ADU. Error of the percentiles: 0.94/sqrt(200 000) = 0.2 %."""
    rng = np.random.default_rng(8)
    unit = rng.normal(0, 1, 200_000)
    for size in np.arange(0.5, 3.0, 0.1):
        assert robust_sigma((unit * size).round()) == pytest.approx(size, rel=0.01)
    assert robust_sigma(unit) == pytest.approx(1, rel=0.01)
    assert robust_sigma(np.ones(5)) == 0


def test_clipped_std_is_corrected_for_the_tails():
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(7, 2, 100_000), rng.normal(900, 5, 800)])
    mean, std = clipped_mean_std(values, 3.0, 10)
    assert mean == pytest.approx(7, abs=4 * 2 / np.sqrt(1e5))
    assert std == pytest.approx(2, rel=4 / np.sqrt(2e5) + 0.002)
    assert np.isnan(clipped_mean_std(np.array([np.nan]))[0])
