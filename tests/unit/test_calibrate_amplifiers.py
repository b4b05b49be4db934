"""Calibration of frames with several amplifiers: gain, noise, linearity and ghosts of each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit, Master
from skymill.steps.calibrate import Masters, calibrate

NY, NX = 40, 60
#: Halves of the raw image, each with its own overscan in the middle; the right one is
#: stored mirrored.
ENTRIES = [
    {
        "name": "L", "hdu": 0, "data": "[1:30,1:40]", "bias": ["[31:40,1:40]"],
        "place": "[1:30,1:40]", "gain": 1.5, "noise": 4.0, "saturation": 50_000.0,
        "linear_max": None,
    },
    {
        "name": "R", "hdu": 0, "data": "[51:80,1:40]", "bias": ["[41:50,1:40]"],
        "place": "[60:31,1:40]", "gain": 2.5, "noise": 9.0, "saturation": 60_000.0,
        "linear_max": 55_000.0,
    },
]  # fmt: skip
ROW = {
    "frame_id": "a", "instrument": "sim", "hdu": 0, "nx": NX, "ny": NY,
    "datasec": f"[1:{NX},1:{NY}]", "biassec": "", "amplifiers": json.dumps(ENTRIES),
    "gain_e_adu": 2.0, "read_noise_e": 7.0, "saturation_adu": 50_000.0, "exptime_s": 30.0,
}  # fmt: skip
QUIET = {f"missing_{kind}": "skip" for kind in ("bias", "dark", "flat")}


def raw_frame(signal: np.ndarray) -> np.ndarray:
    """Raw image of a signal (ADU) on the assembled frame; levels 500 and 900 ADU."""
    raw = np.empty((NY, 80), np.float32)
    raw[:, :40], raw[:, 40:] = 500.0, 900.0
    raw[:, :30] += signal[:, :30]
    raw[:, 50:] += signal[:, :29:-1]
    return raw


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(8).uniform(100, 30_000, (NY, NX))


def test_h137_each_amplifier_has_its_own_level_gain_and_noise(signal):
    """A6, E47."""
    result = calibrate(raw_frame(signal), ROW, Masters(), **QUIET)
    frame = result.value
    gain = np.repeat([[1.5, 2.5]], 30, axis=1)
    noise = np.repeat([[4.0, 9.0]], 30, axis=1)
    np.testing.assert_allclose(frame.sci, gain * signal, rtol=1e-5)
    np.testing.assert_allclose(frame.err, np.sqrt(gain * signal + noise**2), rtol=1e-5)
    assert not frame.mask.any()
    header = frame.header
    assert (header["AMP1"], header["AMP2"]) == ("L", "R")
    assert (header["GAIN1"], header["GAIN2"]) == (1.5, 2.5)
    assert (header["RDN1"], header["RDN2"]) == (4.0, 9.0)
    assert header["AMPSEC2"] == "[31:60,1:40]"
    assert header["SATURATE"] == pytest.approx(min(1.5 * 49_500, 2.5 * 59_100))
    assert result.numbers["overscan_adu"] == pytest.approx(700.0)


def test_masters_and_bits_lie_on_the_right_amplifier(signal):
    """A2."""
    rng = np.random.default_rng(2)

    def master(value, unit):
        mask = np.zeros((NY, NX), np.uint16)
        mask[7, 45] = MaskBit.HOT
        return Master(
            value.astype(np.float32), np.full((NY, NX), 1e-4, np.float32), mask,
            fits.Header({"EXPTIME": 60.0}), unit=unit, nused=np.ones((NY, NX), np.uint16),
        )  # fmt: skip

    bias, dark = rng.normal(10, 3, (NY, NX)), rng.normal(50, 5, (NY, NX))
    flat = rng.normal(1, 0.1, (NY, NX))
    signal[5, 3], signal[5, 40] = 60_000, 54_500  # raw: 60 500 of 50 000; 55 400 above linear
    frame = calibrate(
        raw_frame(signal), ROW, Masters(master(bias, "adu"), master(dark, "adu"), master(flat, ""))
    ).value
    gain = np.repeat([[1.5, 2.5]], 30, axis=1)
    np.testing.assert_allclose(
        frame.sci, gain * (signal - 0.5 * bias - 0.5 * dark) / flat, rtol=1e-4, atol=0.1
    )
    assert frame.mask[5, 3] == MaskBit.SATURATED
    assert frame.mask[5, 40] == MaskBit.NONLINEAR
    assert frame.mask[7, 45] == MaskBit.HOT
    assert np.count_nonzero(frame.mask) == 3


def test_linearity_is_that_of_the_amplifier(signal):
    rule = {"linearity": {"R": {"polynomial": [3e-6]}}}
    frame = calibrate(raw_frame(signal), ROW, Masters(), electronics=rule, **QUIET).value
    np.testing.assert_allclose(frame.sci[:, :30], 1.5 * signal[:, :30], rtol=1e-5)
    right = signal[:, 30:]
    # the rule is held as pieces 16 ADU long
    np.testing.assert_allclose(frame.sci[:, 30:], 2.5 * right * (1 + 3e-6 * right), rtol=1e-5)
    assert frame.header["LINEAR"] is False


def test_crosstalk_of_saturated_pixels_leaves_ghost_bits(signal):
    signal[9, 4] = 70_000  # of L, the fifth pixel that is read
    share = {"crosstalk": {"R": {"L": 1e-3}}}
    plain = calibrate(raw_frame(signal), ROW, Masters(), **QUIET).value
    frame = calibrate(raw_frame(signal), ROW, Masters(), electronics=share, **QUIET).value
    ghosts = np.argwhere(frame.mask & np.uint16(MaskBit.GHOST))
    # R is read from its right edge
    assert ghosts.tolist() == [[9, NX - 1 - 4]]
    assert frame.mask[9, 4] == MaskBit.SATURATED
    removed = (plain.sci - frame.sci)[9, NX - 1 - 4]
    assert removed == pytest.approx(2.5 * 1e-3 * 70_000, rel=1e-3)
    assert frame.header["CROSSTLK"] is True
    assert plain.header["CROSSTLK"] is False


def test_several_hdus_give_the_same_as_one(signal):
    """The amplifiers may lie in extensions of their own."""
    raw = raw_frame(signal)
    entries = [dict(one) for one in ENTRIES]
    entries[0]["hdu"], entries[1]["hdu"] = 1, 2
    entries[1]["data"], entries[1]["bias"] = "[11:40,1:40]", ["[1:10,1:40]"]
    row = ROW | {"amplifiers": json.dumps(entries), "hdu": 1}
    one = calibrate(raw, ROW, Masters(), **QUIET).value
    two = calibrate({1: raw[:, :40], 2: raw[:, 40:]}, row, Masters(), **QUIET).value
    for plane in ("sci", "err", "mask"):
        np.testing.assert_array_equal(getattr(one, plane), getattr(two, plane))
