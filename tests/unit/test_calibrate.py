"""The calibrate step: masters, policies, header, outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import FrameRejected
from skymill.frame import MaskBit, Master
from skymill.steps.calibrate import Masters, calibrate

SHAPE = (60, 50)
ROW = {
    "frame_id": "a-00000000", "instrument": "sim", "night": "2024-01-01", "binning": "1x1",
    "filter": "r", "datasec": "[1:50,1:60]", "biassec": "[51:70,1:60]", "gain_e_adu": 1.6,
    "read_noise_e": 6.0, "saturation_adu": 60_000.0, "exptime_s": 120.0,
}  # fmt: skip


def raw_frame(signal: float = 500.0, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = rng.normal(1000, 3, (60, 70))
    raw[:, :50] += signal
    return raw.round().astype(np.uint16)


def master(value: float, err: float, unit: str, *, mask=None, **cards) -> Master:
    plane = np.full(SHAPE, value, np.float32)
    mask = np.zeros(SHAPE, np.uint16) if mask is None else mask
    return Master(
        plane, np.full(SHAPE, err, np.float32), mask, fits.Header(cards), unit=unit,
        nused=np.full(SHAPE, 9, np.uint16),
    )  # fmt: skip


@pytest.fixture
def masters() -> Masters:
    return Masters(
        master(10, 0.5, "adu", MASTERID="bias-1"),
        master(40, 0.8, "adu", MASTERID="dark-1", EXPTIME=300.0),
        master(0.5, 0.005, "", MASTERID="flat-1"),
    )


def test_electrons_error_and_numbers(masters):
    result = calibrate(raw_frame(), ROW, masters)
    frame = result.value
    tau = 0.4
    expected = 1.6 * (500 - (1 - tau) * 10 - tau * 40) / 0.5
    # 3000 pixels of 3 ADU noise: 1.6 x 3 / 0.5 / sqrt(3000), and 3 / sqrt(1200) of the level
    assert float(frame.sci.mean()) == pytest.approx(expected, abs=4 * (0.18 + 0.28))
    assert frame.unit == "electron"
    assert frame.shape == SHAPE
    assert result.flags == ()
    assert result.numbers["tau"] == pytest.approx(tau)
    assert result.numbers["n_saturated"] == result.numbers["n_masked"] == 0
    assert result.numbers["median_e"] == pytest.approx(expected, abs=4)
    assert result.numbers["overscan_adu"] == pytest.approx(1000, abs=0.5)
    assert result.numbers["overscan_noise_adu"] == pytest.approx(3, rel=0.1)
    ind = 490 / 1.6 + (6 / 1.6) ** 2 + result.numbers["overscan_noise_adu"] ** 2 / 1200
    shared = (1 - tau) ** 2 * 0.5**2 + tau**2 * 0.8**2
    sigma = 1.6 * np.sqrt((ind + shared) / 0.25 + (expected / 1.6) ** 2 * 0.005**2 / 0.25)
    assert result.numbers["median_err_e"] == pytest.approx(sigma, rel=0.005)


def test_header_says_what_was_done(masters):
    cards = fits.Header({"OBJECT": "M13", "GAIN": 99.0})
    header = calibrate(raw_frame(), ROW, masters, header=cards).value.header
    assert header["OBJECT"] == "M13"
    assert header["GAIN"] == 1.6
    assert header["RDNOISE"] == 6.0
    assert (header["BIASID"], header["DARKID"], header["FLATID"]) == ("bias-1", "dark-1", "flat-1")
    assert header["DARKTAU"] == pytest.approx(0.4)
    assert header["OVSCAN"] == "clipped frame"
    assert header["OVLEVEL"] == pytest.approx(1000, abs=0.5)
    assert header["TRIMSEC"] == "[1:50,1:60]"
    assert header["BUNIT"] == "electron"
    assert cards["GAIN"] == 99.0  # the caller's header is not touched


@pytest.mark.parametrize("kind", ["bias", "dark", "flat"])
def test_missing_masters_follow_the_policy(masters, kind):
    rest = Masters(**{k: getattr(masters, k) for k in ("bias", "dark", "flat") if k != kind})
    row = ROW | {"exptime_s": 300.0}
    code = f"NO_{kind.upper()}"
    with pytest.raises(FrameRejected, match=f"{code}: no master {kind} for sim") as caught:
        calibrate(raw_frame(), row, rest, **{f"missing_{kind}": "require"})
    assert caught.value.code == code
    told = calibrate(raw_frame(), row, rest, **{f"missing_{kind}": "degrade"})
    assert [flag for flag, _ in told.flags] == [code]
    silent = calibrate(raw_frame(), row, rest, **{f"missing_{kind}": "skip"})
    assert silent.flags == ()
    np.testing.assert_array_equal(told.value.sci, silent.value.sci)


def test_darks_are_not_missed_where_they_are_not_needed(masters):
    rest = Masters(masters.bias, None, masters.flat)
    for word in ("not_needed", "optional"):
        result = calibrate(raw_frame(), ROW | {"dark": word}, rest, missing_dark="require")
        assert result.flags == ()
        assert result.numbers["tau"] is None
    with pytest.raises(FrameRejected, match="exposure 120 s"):
        calibrate(raw_frame(), ROW | {"dark": "needed"}, rest, missing_dark="require")


def test_dark_scaled_up_is_flagged_and_equal_exposures_are_not_scaled(masters):
    up = calibrate(raw_frame(), ROW | {"exptime_s": 600.0}, masters)
    assert [flag for flag, _ in up.flags] == ["DARK_SCALED_UP"]
    assert up.numbers["tau"] == pytest.approx(2.0)
    same = calibrate(raw_frame(), ROW | {"exptime_s": 300.4}, masters)
    assert same.numbers["tau"] == 1.0
    assert same.flags == ()


def test_dark_without_bias_serves_equal_exposures_only(masters):
    rest = Masters(None, masters.dark, masters.flat)
    same = calibrate(raw_frame(), ROW | {"exptime_s": 300.0}, rest, missing_bias="skip")
    # R - O - d: the bias inside the dark cancels that of the frame
    assert float(np.median(same.value.sci)) == pytest.approx(1.6 * (500 - 40) / 0.5, abs=4)
    other = calibrate(raw_frame(), ROW, rest, missing_bias="skip")
    assert [flag for flag, _ in other.flags] == ["NO_DARK"]
    assert float(np.median(other.value.sci)) == pytest.approx(1.6 * 500 / 0.5, abs=4)


def test_missing_exposure_with_a_dark_is_rejected(masters):
    with pytest.raises(FrameRejected, match="MISSING_EXPTIME"):
        calibrate(raw_frame(), ROW | {"exptime_s": None}, masters)


def test_wrong_size_and_wrong_unit_are_refused(masters):
    small = Master(
        np.ones((5, 5), np.float32), np.ones((5, 5), np.float32), np.zeros((5, 5), np.uint16),
        fits.Header(), unit="", nused=np.ones((5, 5), np.uint16),
    )  # fmt: skip
    with pytest.raises(FrameRejected, match=r"master flat has \(5, 5\) px .* \(60, 50\)"):
        calibrate(raw_frame(), ROW, Masters(masters.bias, masters.dark, small))
    with pytest.raises(FrameRejected, match="unit 'electron', expected 'adu'"):
        calibrate(raw_frame(), ROW, Masters(masters.bias.replace(unit="electron")))


def test_mask_bits_come_from_raw_values_and_masters(masters):
    raw = raw_frame()
    raw[0, 0], raw[0, 1] = 60_000, 50_001
    bias_mask = np.zeros(SHAPE, np.uint16)
    bias_mask[5, 5] = MaskBit.HOT | MaskBit.COSMIC
    flat_mask = np.zeros(SHAPE, np.uint16)
    flat_mask[6, 6] = MaskBit.LOW_FLAT
    flat_value = masters.flat.sci.copy()
    flat_value[7, 7] = 0
    changed = Masters(
        masters.bias.replace(mask=bias_mask), masters.dark,
        masters.flat.replace(mask=flat_mask, sci=flat_value),
    )  # fmt: skip
    result = calibrate(raw, ROW, changed, nonlinear_fraction=50_000 / 60_000)
    mask, sci = result.value.mask, result.value.sci
    assert mask[0, 0] == MaskBit.SATURATED
    assert mask[0, 1] == MaskBit.NONLINEAR
    assert mask[5, 5] == MaskBit.HOT  # a hit in one bias frame is no property of the pixel
    assert mask[6, 6] == MaskBit.LOW_FLAT
    assert mask[7, 7] == MaskBit.LOW_FLAT | MaskBit.NO_DATA
    assert np.isnan(sci[7, 7])
    assert np.isfinite(sci[6, 6])
    assert result.numbers["n_saturated"] == 1
    assert result.numbers["n_masked"] == 5
    linear = calibrate(raw, ROW | {"linear_max_adu": 50_000.0}, changed).value.mask
    assert linear[0, 1] == MaskBit.NONLINEAR


def test_frames_without_information_are_rejected(masters):
    with pytest.raises(FrameRejected, match="CONSTANT"):
        calibrate(np.full((60, 70), 1000, np.uint16), ROW, masters)
    blank = raw_frame().astype(np.float32)
    blank[:, :50] = np.nan
    with pytest.raises(FrameRejected, match="ALL_NAN"):
        calibrate(blank, ROW, masters)
    with pytest.raises(FrameRejected, match="ALL_MASKED"):
        calibrate(raw_frame(), ROW | {"saturation_adu": 1000.0}, masters)


def test_guessed_saturation_and_overscan_jump_are_flagged(masters):
    result = calibrate(raw_frame(), ROW | {"saturation_adu": None}, masters)
    assert [flag for flag, _ in result.flags] == ["SATURATION_GUESSED"]
    jumped = raw_frame()
    jumped[30:] += 50
    result = calibrate(jumped, ROW, masters)
    assert [flag for flag, _ in result.flags] == ["BIAS_JUMP"]
    row_wise = calibrate(jumped, ROW, masters, overscan={"fit": "row"})
    assert row_wise.flags == ()
    halves = [float(np.median(row_wise.value.sci[part])) for part in (np.s_[:30], np.s_[30:])]
    assert halves[0] == pytest.approx(halves[1], abs=4)


def test_result_is_the_same_bytes_again_and_input_untouched(masters):
    raw = raw_frame()
    before = raw.copy()
    one, two = calibrate(raw, ROW, masters).value, calibrate(raw, ROW, masters).value
    assert one.sci.tobytes() == two.sci.tobytes()
    assert one.err.tobytes() == two.err.tobytes()
    np.testing.assert_array_equal(raw, before)
