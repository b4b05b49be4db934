"""The overscan level: statistics, curves, areas, what the header says of it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import FrameRejected
from skymill.overscan import OverscanLevel, fit_overscan
from skymill.overscan_lines import Recipe, _basis
from skymill.readout import Readout

ROW = {
    "datasec": "[1:40,1:64]",
    "biassec": "[41:72,1:64]",
    "gain_e_adu": 2.0,
    "read_noise_e": 10.0,
    "saturation_adu": 60_000.0,
}
SHAPE = (64, 72)


def raw_frame(seed: int = 1, noise: float = 5.0, level: float = 1000.0, dtype=np.uint16):
    pixels = np.random.default_rng(seed).normal(level, noise, SHAPE)
    return pixels.round().astype(dtype) if np.dtype(dtype).kind == "u" else pixels.astype(dtype)


def measure(raw, row=ROW, **options) -> OverscanLevel:
    (only,) = Readout.from_row(row, raw).amplifiers
    return fit_overscan(raw, only, **options)


def card(level, keyword):
    return {key: value for key, value, _ in level.cards}[keyword]


def test_without_overscan_nothing_is_subtracted():
    level = measure(raw_frame(), ROW | {"biassec": ""})
    assert not level.level.any()
    assert not level.variance.any()
    assert np.isnan(level.noise_adu)
    assert level.method == card(level, "OVSCAN") == "none"


def test_a3_statistics_are_those_of_numpy():
    """Mean and median of all pixels, of rows, and of columns: bit for bit."""
    raw = raw_frame()
    strip = raw[:, 40:].astype(float)
    assert measure(raw, method="mean").mean_adu == pytest.approx(strip.mean(), abs=1e-9)
    assert measure(raw, method="median").mean_adu == np.median(strip)
    rows = measure(raw, method="mean", fit="row").level
    np.testing.assert_allclose(rows[:, 0], strip.mean(axis=1), atol=1e-9)
    rows = measure(raw, method="median", fit="row").level
    np.testing.assert_array_equal(rows[:, 0], np.median(strip, axis=1))
    above = ROW | {"datasec": "[1:72,1:50]", "biassec": "[1:72,51:64]"}
    columns = measure(raw, above, method="median", fit="column").level
    np.testing.assert_array_equal(columns[0], np.median(raw[50:], axis=0))
    assert columns.shape == (1, 72)


def test_clipped_level_ignores_bad_columns_and_bad_rows():
    raw = raw_frame()
    clean = measure(raw)
    raw[:, 40] = 900  # deferred charge
    raw[:, 71] = 40_000  # light
    raw[:6] = 300  # amplifier settling
    level = measure(raw)
    # the error of the level is 5 / sqrt(58 x 30) = 0.12 ADU
    assert level.mean_adu == pytest.approx(1000, abs=0.5)
    assert level.noise_adu == pytest.approx(5.0, rel=0.1)
    assert clean.noise_adu == pytest.approx(5.0, rel=4 / np.sqrt(2 * 64 * 32))
    assert abs(measure(raw, method="mean").mean_adu - 1000) > 100


def test_a17_clipped_median_is_the_loop_written_out():
    """Median, scatter about it, rejection beyond 5 sigma, at most 10 rounds."""
    raw = raw_frame()
    hit = np.random.default_rng(2).integers(0, 64 * 32, 150)
    raw[:, 40:].flat[hit] = np.random.default_rng(3).integers(1050, 9000, 150)
    values, rounds, converged = raw[:, 40:].astype(float).ravel(), 0, False
    while not converged and rounds < 10:
        away = values - np.median(values)
        near = np.abs(away) <= 5 * np.sqrt((away**2).sum() / (values.size - 1))
        converged, values, rounds = near.all(), values[near], rounds + 1
    options = {"method": "clipped_median", "sigma_clip": 5.0, "iterations": 10}
    level = measure(raw, min_pixels=100, **options)
    assert level.mean_adu == np.median(values)
    assert card(level, "OVNPIX") == values.size
    assert (card(level, "OVITER"), card(level, "OVCONV")) == (rounds, True)
    assert card(level, "OVCLIP") == 5.0
    # of whole numbers: that of the median, and of its own rounding
    expected = np.pi / 2 * 25 / values.size + 1 / 12
    assert level.variance[0, 0] == pytest.approx(expected, rel=0.05)
    with pytest.raises(FrameRejected, match="min_pixels"):
        measure(raw, min_pixels=64 * 32, **options)
    once = measure(raw, **(options | {"iterations": 1}))
    assert (card(once, "OVITER"), card(once, "OVCONV")) == (1, False)


def test_polynomial_is_least_certain_at_the_ends():
    """End over average of the variance of a line: 2, of a cubic: about 4."""
    raw = raw_frame(dtype=np.float32)
    for order, expected in ((1, 1.97), (3, 3.7)):
        level = measure(raw, fit="polynomial", order=order)
        ratio = level.variance[0, 0] / level.variance.mean()
        assert ratio == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("axis", ["y", "x"])
def test_fits_follow_a_drift_and_one_level_reports_it(axis):
    """A3."""
    at = np.arange(64.0)
    drift = 40 * (at / 63 - 0.5) ** 2 + 10 * at / 63
    raw = raw_frame(dtype=np.float32, noise=1.0) + drift[:, None].astype(np.float32)
    row = ROW
    if axis == "x":
        raw, row = raw.T, ROW | {"datasec": "[1:64,1:40]", "biassec": "[1:64,41:72]"}
    plain = {"y": "row", "x": "column"}[axis]
    for fit, order in (("polynomial", 2), ("legendre", 2), ("spline3", 4), (plain, 0)):
        for asked in ("auto", axis):
            level = measure(raw, row, fit=fit, order=order, axis=asked)
            assert level.level.shape == ((64, 1) if axis == "y" else (1, 64))
            # 1 ADU / sqrt(32) = 0.18 per line at most
            np.testing.assert_allclose(level.level.ravel(), 1000 + drift, atol=5 * 0.18)
    if axis == "y":
        assert measure(raw, row).drift_adu == pytest.approx(np.ptp(drift), rel=0.35)
    assert measure(raw_frame()).drift_adu < 3


def test_legendre_is_the_polynomial():
    raw = raw_frame()
    one, other = (measure(raw, fit=fit, order=4) for fit in ("polynomial", "legendre"))
    np.testing.assert_allclose(one.level, other.level, atol=1e-9)
    np.testing.assert_allclose(one.variance, other.variance, rtol=1e-9)


def test_spline_has_the_pieces_that_were_asked_for():
    """Nine pieces reproduce any cubic exactly, and their freedom is nine plus three. Row A3."""
    basis = _basis(511, Recipe("mean", "spline3", 9, 3.0, 3.0, 1))
    assert basis.shape == (511, 12)
    y = np.linspace(-1, 1, 511)
    cubic = 3 - y + 2 * y**2 - 5 * y**3
    fit, *_ = np.linalg.lstsq(basis, cubic, rcond=None)
    np.testing.assert_allclose(basis @ fit, cubic, atol=1e-10)


def test_rejection_of_rows_leaves_the_curve_alone():
    raw = raw_frame(dtype=np.float32)
    options = {"method": "mean", "fit": "polynomial", "order": 1, "sigma_clip": 3.0}
    raw[30] += 5000
    once = measure(raw, iterations=1, **options)
    none = measure(raw, iterations=0, **options)
    assert abs(once.level.mean() - 1000) < 1
    assert abs(none.level.mean() - 1000) > 50
    assert (card(once, "OVITER"), card(none, "OVITER")) == (1, 0)
    assert card(once, "OVNPIX") == 63 * 32


@pytest.mark.parametrize("fit", ["polynomial", "frame"])
def test_thresholds_below_and_above_the_level_may_differ(fit):
    """Light only adds: with a wide upper threshold the bright row stays, the dark one goes."""
    raw = raw_frame(dtype=np.float32)
    raw[20] -= 40
    raw[44] += 40
    options = {"method": "mean" if fit == "polynomial" else "clipped", "fit": fit, "order": 0}
    both = measure(raw, sigma_clip=3.0, iterations=5, **options)
    low = measure(raw, sigma_low=3.0, sigma_high=1000.0, iterations=5, **options)
    high = measure(raw, sigma_low=1000.0, sigma_high=3.0, iterations=5, **options)
    assert low.level.mean() == pytest.approx(both.level.mean() + 40 / 63, abs=0.1)
    assert high.level.mean() == pytest.approx(both.level.mean() - 40 / 63, abs=0.1)
    assert (card(low, "OVCLIPL"), card(low, "OVCLIPH")) == (3.0, 1000.0)
    assert "OVCLIP" not in {key for key, _, _ in low.cards}


LEFT, RIGHT, TOP = "[1:8,1:60]", "[49:72,1:60]", "[9:48,61:64]"
INSIDE = ROW | {"datasec": "[9:48,1:60]"}


@pytest.mark.parametrize("method", ["mean", "median"])
def test_a2_several_areas_are_one_and_the_union_counts_once(method):
    raw = raw_frame()
    mask = np.zeros(SHAPE, bool)
    mask[:60, :8] = mask[:60, 48:] = mask[60:, 8:48] = True
    row = INSIDE | {"biassec": ";".join([LEFT, RIGHT, TOP, "[50:60,10:20]", "[1:3,1:60]"])}
    level = measure(raw, row, method=method)
    expected = getattr(np, method)(raw[mask].astype(float))
    assert level.mean_adu == pytest.approx(expected, abs=1e-9)
    assert card(level, "OVNPIX") == mask.sum()
    assert card(level, "OVAREA") == row["biassec"]


@pytest.mark.parametrize("method", ["mean", "median"])
def test_level_of_a_row_is_that_of_its_pixels_left_and_right(method):
    raw = raw_frame()
    row = INSIDE | {"biassec": f"{LEFT};{RIGHT};{TOP}"}
    level = measure(raw, row, method=method, fit="row")
    pixels = np.concatenate([raw[:60, :8], raw[:60, 48:]], axis=1).astype(float)
    np.testing.assert_allclose(level.level[:, 0], getattr(np, method)(pixels, axis=1), atol=1e-9)
    columns = measure(raw, row, method=method, fit="column").level
    expected = getattr(np, method)(raw[60:, 8:48].astype(float), axis=0)
    np.testing.assert_allclose(columns[0], expected, atol=1e-9)


def test_rows_with_more_pixels_weigh_more_and_are_more_certain():
    """Four columns everywhere, 24 more in the lower half."""
    raw = raw_frame(dtype=np.float32)
    row = INSIDE | {"biassec": "[1:4,1:60];[49:72,1:30]"}
    level = measure(raw, row, method="mean", fit="row")
    assert level.variance[0, 0] == pytest.approx(level.variance[59, 0] / 7)
    line = measure(raw, row, method="mean", fit="polynomial", order=1, iterations=0)
    y, weight = np.arange(60), np.where(np.arange(60) < 30, 28, 4)
    expected = np.polyval(np.polyfit(y, level.level[:, 0], 1, w=np.sqrt(weight)), y)
    np.testing.assert_allclose(line.level[:, 0], expected, atol=1e-6)
    assert line.variance[59, 0] > 1.5 * line.variance[0, 0]


@pytest.mark.parametrize("fit", ["polynomial", "row"])
@pytest.mark.parametrize("corner", [True, False])
def test_both_axes_are_the_rows_and_what_is_left_in_the_columns(fit, corner):
    """Without the corner only the pattern of the columns can be told from the rows' level."""
    y, x = np.mgrid[:64, :72].astype(np.float32)
    raw = raw_frame(dtype=np.float32, noise=0.3) + 0.2 * y + (x / 20) ** 2
    beside = "[49:72,1:64]" if corner else "[49:72,1:60]"
    row = INSIDE | {"biassec": f"{beside};{TOP}"}
    level = measure(raw, row, fit=fit, order=2, axis="both")
    assert level.level.shape == level.variance.shape == (60, 40)
    truth = (1000 + 0.2 * y + (x / 20) ** 2)[:60, 8:48]
    left = level.level - truth
    # rows of 24, columns of 4 pixels: 0.3 ADU x sqrt(1/24 + 1/4) = 0.16 ADU
    assert left.std() < 0.2
    if corner:
        assert abs(left.mean()) < 0.2
    assert level.method.endswith("along y and x")


def test_overscan_that_does_not_cover_the_rows_serves_only_one_level():
    row = ROW | {"biassec": "[41:72,1:32]"}
    raw = raw_frame()
    assert measure(raw, row).mean_adu == pytest.approx(1000, abs=1)
    for fit, axis in (("row", "auto"), ("polynomial", "y"), ("spline3", "both")):
        with pytest.raises(FrameRejected, match="BAD_SECTION"):
            measure(raw, row, fit=fit, axis=axis)
    with pytest.raises(FrameRejected, match="columns 1:40"):
        measure(raw, fit="column")
    with pytest.raises(FrameRejected, match="cannot carry"):
        measure(raw, fit="polynomial", order=64)


def test_curve_bridges_rows_without_overscan_but_single_rows_need_theirs():
    raw = raw_frame()
    row = ROW | {"biassec": "[41:72,1:20];[41:72,45:64]"}
    level = measure(raw, row, fit="polynomial", order=1)
    assert level.level.shape == (64, 1)
    assert np.abs(level.level - 1000).max() < 5 * 5 / np.sqrt(32 * 40) * 2
    with pytest.raises(FrameRejected, match="BAD_SECTION"):
        measure(raw, row, fit="row")
    with pytest.raises(FrameRejected, match="cannot carry"):
        measure(raw, row, fit="spline3", order=20)  # pieces without a row


def test_overscan_may_have_more_rows_than_the_data():
    raw = raw_frame(dtype=np.float32) + np.arange(64, dtype=np.float32)[:, None]
    row = ROW | {"datasec": "[1:40,11:50]"}
    for fit in ("row", "polynomial"):
        level = measure(raw, row, fit=fit)
        assert level.level.shape == (40, 1)
        expected = 1000 + np.arange(10, 50)
        np.testing.assert_allclose(level.level[:, 0], expected, atol=5 * 5 / np.sqrt(32))


def test_a12_first_rows_of_a_frame_are_its_overscan():
    """Twenty rows below the data: one level, or one per column."""
    rng = np.random.default_rng(5)
    raw = rng.normal(1000, 4, (220, 300)).astype(np.float32)
    raw[20:] += 500
    row = {
        "datasec": "[1:300,21:220]", "biassec": "[1:300,1:20]", "gain_e_adu": 16.0,
        "read_noise_e": 64.0, "saturation_adu": 60_000.0,
    }  # fmt: skip
    one = measure(raw, row)
    assert one.mean_adu == pytest.approx(1000, abs=4 * 4 / np.sqrt(6000))
    assert one.variance[0, 0] == pytest.approx(16 / 6000, rel=0.1)
    assert measure(raw, row, fit="polynomial", order=1).level.shape == (1, 300)


def test_blank_overscan_is_rejected_and_blank_pixels_are_not_used():
    raw = raw_frame(dtype=np.float32)
    raw[:, 50:60] = np.nan
    raw[3, 40:] = np.nan
    level = measure(raw, method="mean", fit="row")
    expected = np.nanmean(raw[4:, 40:].astype(float), axis=1)
    np.testing.assert_allclose(level.level[4:, 0], expected)
    # a row without a pixel takes the level of the others, with their scatter
    assert level.level[3, 0] == pytest.approx(1000, abs=1)
    assert level.variance[3, 0] > 1.5 * level.variance[4, 0]
    raw[:, 40:] = np.nan
    with pytest.raises(FrameRejected, match="NO_DATA"):
        measure(raw)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "mode"}, "method"),
        ({"fit": "chebyshev"}, "fit"),
        ({"axis": "z"}, "axis"),
        ({"fit": "row", "axis": "x"}, "row"),
        ({"fit": "column", "axis": "y"}, "column"),
    ],
)
def test_words_that_mean_nothing_are_errors(options, match):
    with pytest.raises(ValueError, match=match):
        measure(raw_frame(), **options)


@pytest.mark.parametrize("columns", [1, 2])
def test_noise_of_a_narrow_overscan_is_that_of_the_pixels(columns):
    row = ROW | {"biassec": f"[41:{40 + columns},1:64]"}
    level = measure(raw_frame(), row, method="mean")
    assert level.noise_adu == pytest.approx(5, rel=4 * np.sqrt(1.5 / (2 * 64 * columns)))
    one = measure(raw_frame(), ROW | {"biassec": "[41:41,7:7]"})
    assert one.noise_adu == 5.0  # nothing to measure: the declared read noise
    assert one.variance[0, 0] == 25.0


def test_cards_say_what_was_done_and_fit_into_a_header():
    raw = raw_frame()
    for options, method in (
        ({}, "clipped frame"),
        ({"method": "mean", "fit": "spline3", "order": 9, "sigma_clip": 3.0}, "mean spline3 9"),
        ({"fit": "row"}, "clipped row"),
    ):
        level = measure(raw, **options)
        header = fits.Header()
        for keyword, value, comment in level.cards:
            assert len(keyword) <= 7
            header[keyword] = (value, comment)
            assert len(str(header.cards[keyword])) == 80  # nothing was cut
        assert header["OVSCAN"] == level.method == method
        assert header["OVLEVEL"] == pytest.approx(level.mean_adu)
        assert header["OVERR"] == pytest.approx(np.sqrt(level.variance.mean()))
        assert header["OVNOISE"] == pytest.approx(level.noise_adu)
        assert header["OVAREA"] == "[41:72,1:64]"
        assert ("OVORDER" in header) == (options.get("fit") == "spline3")
