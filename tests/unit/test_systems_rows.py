"""Rows of the reference on older systems that no other test states in so many words."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.calibrator_files import as_user_bits, flat_planes
from skymill.frame import Frame, MaskBit, Master
from skymill.io import read_master
from skymill.jobs.masters import make_master
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.master_bias import master_bias

SHAPE = (8, 10)
ROW = {
    "frame_id": "a-00000000", "instrument": "sim", "night": "2024-01-01", "hdu": 0,
    "filter": "r", "datasec": "", "biassec": "", "gain_e_adu": 1.0, "read_noise_e": 0.01,
    "saturation_adu": 60_000.0, "exptime_s": 60.0, "dark": "not_needed", "nx": 10, "ny": 8,
}  # fmt: skip


def plane(value: float, err: float, unit: str) -> Master:
    return Master(
        np.full(SHAPE, value, np.float32), np.full(SHAPE, err, np.float32),
        np.zeros(SHAPE, np.uint16), fits.Header(), unit=unit, nused=np.full(SHAPE, 9, np.uint16),
    )  # fmt: skip


def test_the_error_of_the_flat_counts_once():
    """A14: F = 0.5 with an error of 0.02 and 1000 ADU give 80 ADU, not 160."""
    raw = np.full(SHAPE, 1000, np.uint16)
    raw[0, 0] += 1  # a frame without any scatter is rejected
    bias = plane(0.0, 1e-6, "adu")
    exact = calibrate(raw, ROW, Masters(bias, None, plane(0.5, 0.0, ""))).value
    real = calibrate(raw, ROW, Masters(bias, None, plane(0.5, 0.02, ""))).value
    np.testing.assert_allclose(real.sci[1:], 2000.0, rtol=1e-6)
    extra = np.sqrt(real.err.astype(float) ** 2 - exact.err.astype(float) ** 2)
    np.testing.assert_allclose(extra[1:], 80.0, rtol=1e-4)


def test_each_bit_of_eight_comes_back_and_saturated_leaks_are_both():
    """A16: 1 fault, 2 hot, 4 cosmic, 8 outside, 16 saturated, 32 leaked, 64 interpolated."""
    given = np.zeros(SHAPE, np.uint8)
    given[0, :7] = [1, 2, 4, 8, 16, 32, 64]
    given[1, 0], given[1, 1] = 48, 127
    mask = as_user_bits(given, "mask", SHAPE, "m.fits", None)
    assert mask[0, 4] == MaskBit.SATURATED
    assert mask[1, 0] == MaskBit.SATURATED | MaskBit.BLEED
    frame = Frame(
        np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32), mask, fits.Header(),
        unit="electron",
    )  # fmt: skip
    np.testing.assert_array_equal(flat_planes(frame)["mask"], given)


def test_integer_frames_are_trimmed_and_the_array_of_the_caller_is_unchanged():
    """S6: overscan of whole numbers, and no change in place."""
    raw = np.full((8, 14), 300, np.int16)
    raw[:, :10] += 50
    raw[0, 0] += 1
    before = raw.copy()
    row = ROW | {"nx": 14, "datasec": "[1:10,1:8]", "biassec": "[11:14,1:8]"}
    frame = calibrate(raw, row, Masters(plane(0.0, 1e-6, "adu"), None, plane(1.0, 0.0, ""))).value
    assert frame.shape == SHAPE
    np.testing.assert_allclose(frame.sci[1:], 50.0, atol=1e-3)
    np.testing.assert_array_equal(raw, before)


@pytest.fixture
def bias_rows(tmp_path) -> list[dict]:
    rows = []
    for n in range(5):
        rng = np.random.default_rng(n)
        pixels = rng.normal(500, 4, (40, 50)).round().astype(np.uint16)
        path = tmp_path / f"bias{n}.fits"
        fits.PrimaryHDU(pixels).writeto(path)
        rows.append(
            ROW
            | {
                "frame_id": f"bias{n}-0000000{n}", "path": path.name, "kind": "bias", "ny": 40,
                "nx": 50, "sha256": "", "mjd_mid": 60_000.0 + n, "exptime_s": 0.0, "filter": "",
                "read_noise_e": 4.0, "detector": "chip 1", "mode": "slow",
                "night": f"2024-01-0{1 + n % 2}",
            }
        )  # fmt: skip
    return rows


def test_a_master_tells_what_its_frames_have_in_common(bias_rows, tmp_path):
    """A23, E57: common cards, number and list of inputs, estimator, threshold, mean time."""
    make_master(
        "master_bias", master_bias, raw=tmp_path, rows=bias_rows, inputs={},
        master=tmp_path / "bias.fits", outcomes=tmp_path / "bias.csv", code="0",
        settings={"method": "clipped", "clip_sigma": 4.5, "minimum": 3},
    )  # fmt: skip
    assert io.read_outcomes(tmp_path / "bias.csv")[-1].usable
    header = read_master(tmp_path / "bias.fits").header
    assert (header["NCOMBINE"], header["SMNIN"]) == (5, 5)
    assert {header[f"SMI{n:04d}"].split()[0] for n in range(1, 6)} == {
        row["frame_id"] for row in bias_rows
    }
    assert (header["COMBINE"], header["CLIPSIG"]) == ("clipped", 4.5)
    assert (header["SMINST"], header["DETECTOR"], header["READMODE"]) == ("sim", "chip 1", "slow")
    assert header["EXPTIME"] == 0.0
    assert header["MJD-AVG"] == 60_002.0
    assert "NIGHT" not in header  # they are of two nights
    assert "FILTER" not in header
