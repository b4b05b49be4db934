"""Masters and calibration of three real nights: what is known of them must come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from skymill.frame import MaskBit
from skymill.io_raw import read_raw
from skymill.overscan import OverscanLevel, fit_overscan
from skymill.readout import Readout
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.flat_statistics import histogram_mode, sparse
from skymill.steps.master_bias import master_bias
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import RawInput

if TYPE_CHECKING:
    from pathlib import Path

NICKEL = {
    "datasec": "[1:1024,1:1024]", "biassec": "[1040:1056,1:1024]", "gain_e_adu": 1.8,
    "read_noise_e": 10.7, "saturation_adu": 65_535.0, "exptime_s": 60.0, "dark": "not_needed",
}  # fmt: skip
LOWELL = {
    "datasec": "[18:1382,1:1370]", "biassec": "[1388:1432,1:1370]", "gain_e_adu": 4.95,
    "read_noise_e": 9.3, "saturation_adu": 65_535.0, "exptime_s": 300.0, "dark": "not_needed",
}  # fmt: skip
SBIG = {
    "datasec": "[1:767,1:511]", "biassec": "[768:795,1:511]", "gain_e_adu": 2.66,
    "read_noise_e": 20.0, "saturation_adu": 65_535.0, "exptime_s": 3.0, "dark": "not_needed",
}  # fmt: skip


def inputs(folder: Path, row: dict, names: list[str]) -> list[RawInput]:
    return [RawInput(name, row, lambda name=name: read_raw(folder / name, 0)) for name in names]


def test_nickel(shared_data):
    folder = shared_data("nickel")
    bias = master_bias(inputs(folder, NICKEL, [f"d{n}.fits.gz" for n in range(1001, 1011)]))
    # the core of the scatter; estimators that include the tails give up to 10.6 electron
    assert bias.numbers["read_noise_e"] == pytest.approx(10.0, abs=0.7)
    assert bias.flags == ()
    assert bias.numbers["n_used"] == 10
    # the level drifts by 7 ADU between frames; subtracted per frame 0.7 ADU are left
    drift = [o.numbers["overscan_adu"] for o in bias.value.outcomes]
    assert np.ptp(drift) > 5
    assert bias.numbers["level_scatter_adu"] < 1
    master = bias.value.master
    assert (master.mask[:, 256] & MaskBit.HOT).all()  # column 257 is at 65535
    assert (master.mask[:, 1023] & MaskBit.COLD).mean() > 0.95
    flats = inputs(folder, NICKEL, [f"d{n}.fits.gz" for n in (1035, 1036, 1037)])
    flat = master_flat(flats, bias=master)
    assert flat.numbers["gain_e_adu"] == pytest.approx(1.80, abs=0.05)
    assert flat.flags == ()
    assert flat.numbers["n_low_flat"] > 2000
    raw, _ = read_raw(folder / "d1047.fits.gz", 0)
    frame = calibrate(raw, NICKEL, Masters(master, None, flat.value.master)).value
    # neighbouring pixels of the sky differ by their error; pick-up noise adds up to 10 %
    sky = np.where(frame.mask == 0, frame.sci, np.nan)[100:900, 300:1000]
    pull = np.diff(sky, axis=1) / np.hypot(
        frame.err[100:900, 301:1000], frame.err[100:900, 300:999]
    )
    spread = 1.4826 * np.nanmedian(np.abs(pull - np.nanmedian(pull)))
    assert 0.97 < spread < 1.15


def overscan(raw: np.ndarray, row: dict, **options) -> OverscanLevel:
    (only,) = Readout.from_row(row, raw).amplifiers
    return fit_overscan(raw, only, **options)


def test_nickel_overscan_begins_where_deferred_charge_has_decayed(shared_data):
    """Of windows to column 1056 those from 1040 on give the level of the bias pattern."""
    raw, _ = read_raw(shared_data("nickel") / "d1001.fits.gz", 0)
    levels = {}
    for first in (1025, 1027, 1040, 1048):
        row = NICKEL | {"biassec": f"[{first}:1056,1:1024]"}
        levels[first] = overscan(raw, row, method="mean").mean_adu
    assert levels[1025] < levels[1040] - 2  # column 1025 is 100 ADU low
    assert levels[1040] == pytest.approx(levels[1048], abs=0.5)
    # clipping alone finds the same level in spite of the bad columns
    clipped = overscan(raw, NICKEL | {"biassec": "[1025:1056,1:1024]"})
    assert clipped.mean_adu == pytest.approx(levels[1040], abs=0.5)
    # two areas that overlap are one
    twice = NICKEL | {"biassec": "[1040:1050,1:1024];[1046:1056,1:1024]"}
    assert overscan(raw, twice, method="mean").mean_adu == pytest.approx(levels[1040], abs=1e-9)


def test_sbig_overscan_of_iraf_is_the_spline_of_another_library(shared_data):
    """IRAF `ccdproc`: spline3 of order 9 per line, one round of rejection at 3 sigma."""
    iraf = {"method": "mean", "fit": "spline3", "order": 9, "sigma_clip": 3.0, "iterations": 1}
    for name in ("bias1", "g4", "r2"):
        raw, _ = read_raw(shared_data("sbig") / f"{name}.fit.gz", 0)
        level = overscan(raw, SBIG, **iraf)
        expected = _smooth(raw[:511, 767:795].astype(float).mean(axis=1))
        np.testing.assert_allclose(level.level[:, 0], expected, atol=1e-6)
        assert {key: value for key, value, _ in level.cards}["OVORDER"] == 9


@pytest.mark.parametrize(
    ("folder", "name", "row"),
    [
        ("nickel", "d1001", NICKEL),
        ("lowell42", "zero/20190326.0001", LOWELL),
        ("sbig", "bias1", SBIG),
    ],
)
def test_methods_agree_within_the_errors_they_claim(folder, name, row, shared_data):
    """Both use the same pixels, so the sum of their variances is a generous limit."""
    suffix = "fit.gz" if folder == "sbig" else "fits.gz"
    raw, _ = read_raw(shared_data(folder) / f"{name}.{suffix}", 0)
    clipped, median = overscan(raw, row), overscan(raw, row, method="median")
    tolerance = 4 * np.sqrt(clipped.variance[0, 0] + median.variance[0, 0])
    assert clipped.mean_adu == pytest.approx(median.mean_adu, abs=tolerance)


def test_lowell_gain_and_read_noise_contradict_the_header(shared_data):
    folder = shared_data("lowell42")
    zeros = [f"zero/20190326.{n:04d}.fits.gz" for n in range(1, 11)]
    bias = master_bias(inputs(folder, LOWELL, zeros))
    assert bias.numbers["read_noise_adu"] == pytest.approx(1.18, abs=0.03)
    assert [code for code, _ in bias.flags] == ["READ_NOISE_SUSPECT"]
    names = [f"flat/20190326.{n:04d}.fits.gz" for n in (101, 110, 111, 112, 113, 114, 115)]
    flat = master_flat(inputs(folder, LOWELL, names), bias=bias.value.master)
    assert flat.numbers["gain_e_adu"] == pytest.approx(3.67, abs=0.06)
    assert [code for code, _ in flat.flags] == ["GAIN_SUSPECT"]
    raw, _ = read_raw(folder / "light/20190326.0130.fits.gz", 0)
    result = calibrate(raw, LOWELL, Masters(bias.value.master, None, flat.value.master))
    assert 870 <= result.numbers["n_saturated"] <= 1120
    # the overscan settles over its first rows; the level is that of the settled rows
    assert result.numbers["overscan_adu"] == pytest.approx(1625, abs=1)


def test_sbig_with_our_defaults_and_with_those_of_iraf(shared_data):
    folder = shared_data("sbig")
    biases = inputs(folder, SBIG, [f"bias{n}.fit.gz" for n in range(1, 11)])
    flats = inputs(folder, SBIG, [f"g{n}.fit.gz" for n in range(4, 10)])
    bias = master_bias(biases)
    assert bias.numbers["read_noise_adu"] == pytest.approx(7.5, abs=0.2)
    assert bias.flags == ()
    flat = master_flat(flats, bias=bias.value.master)
    assert flat.numbers["gain_e_adu"] == pytest.approx(2.66, abs=0.04)
    assert flat.flags == ()
    overscan = {"method": "mean", "fit": "spline3", "order": 9, "sigma_clip": 3.0, "iterations": 1}
    options = {"method": "minmax", "overscan": overscan}
    iraf_bias = master_bias(biases, reject_low=0, reject_high=1, **options).value.master
    iraf = master_flat(flats, bias=iraf_bias, bias_first=False, scale="mode", **options).value
    # the same, written out with numpy and row means in place of the spline
    images = []
    for source in flats:
        raw = source.read()[0].astype(float)
        images.append(raw[:511, :767] - _smooth(raw[:511, 767:795].mean(axis=1))[:, None])
    modes = [histogram_mode(sparse(image)) for image in images]
    scaled = np.sort([i * modes[0] / m for i, m in zip(images, modes, strict=True)], axis=0)
    expected = scaled[1:-1].mean(axis=0) - iraf_bias.sci
    expected /= np.median(expected)
    assert np.abs(iraf.master.sci / expected - 1).max() < 5e-4
    # both conventions agree within the noise of the flat
    ratio = iraf.master.sci / flat.value.master.sci - 1
    assert ratio.std() < np.median(flat.value.master.err)


def _smooth(rows: np.ndarray) -> np.ndarray:
    """Spline of nine pieces by another library than the package's basis."""
    from scipy.interpolate import LSQUnivariateSpline

    y = np.arange(rows.size, dtype=float)
    knots = np.linspace(0, rows.size - 1, 10)[1:-1]
    first = LSQUnivariateSpline(y, rows, knots, k=3)
    residual = rows - first(y)
    keep = np.abs(residual) <= 3 * np.sqrt(np.mean(residual**2))
    return LSQUnivariateSpline(y[keep], rows[keep], knots, k=3)(y)
