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


@pytest.mark.parametrize("overscan", [True, False])
def test_pedestal_of_a_frame_without_bias_does_not_count_as_photons(overscan):
    """Same-exposure darks only, as with many CMOS cameras: true scatter is ERR.

    The pedestal of 1000 ADU made ERR 2.4 times too large. The charge of the dark (150 e) is
    inside the noise of its own frames, and must count.
    """
    rng = np.random.default_rng(8)
    shape, gain, noise, sky, charge, n = (200, 240), 1.6, 6.0, 200.0, 150.0, 9
    single = (noise / gain) ** 2 + charge / gain**2
    pedestal = 0.0 if overscan else 1000.0
    dark = pedestal + charge / gain + rng.normal(0, np.sqrt(single / n), shape)
    err = np.full(shape, np.sqrt(single / n), np.float32)
    mask = np.zeros(shape, np.uint16)
    cards = fits.Header({"EXPTIME": 120.0, "COMBINE": "clipped"})
    dark_master = Master(
        dark.astype(np.float32), err, mask, cards, unit="adu",
        nused=np.full(shape, n, np.uint16),
    )  # fmt: skip
    raw = 1000 + rng.normal(0, noise / gain, (200, 260))
    raw[:, :240] += rng.poisson(sky + charge, shape) / gain
    row = ROW | {"datasec": "[1:240,1:200]", "biassec": "[241:260,1:200]", "use_bias": "none"}
    if not overscan:
        row["biassec"] = ""
    result = calibrate(raw.astype(np.float32), row, Masters(dark=dark_master), missing_flat="skip")
    frame = result.value
    pulls = (frame.sci - sky) / frame.err
    # 48 000 pixels know the width to 0.3 %; the overscan knows its level to 0.05 ADU
    assert pulls.std() == pytest.approx(1, abs=0.02)
    assert frame.header["SATURATE"] == pytest.approx(59_000 * gain, rel=0.001)


def test_darks_are_not_missed_where_they_are_not_needed(masters):
    rest = Masters(masters.bias, None, masters.flat)
    for word in ("not_needed", "optional"):
        result = calibrate(raw_frame(), ROW | {"dark": word}, rest, missing_dark="require")
        assert result.flags == ()
        assert result.numbers["tau"] is None
    with pytest.raises(FrameRejected, match="exposure 120 s"):
        calibrate(raw_frame(), ROW | {"dark": "needed"}, rest, missing_dark="require")


def test_dark_scaled_up_is_flagged_and_equal_exposures_are_not_scaled(masters):
    up = calibrate(raw_frame(), ROW | {"exptime_s": 600.0}, masters, dark_scale_up=True)
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


def test_h219_darks_are_scaled_only_downwards_unless_told(masters):
    """O4."""
    row = ROW | {"exptime_s": 600.0}
    told = calibrate(raw_frame(), row, masters)
    assert [flag for flag, _ in told.flags] == ["DARK_EXPOSURE"]
    assert told.numbers["tau"] is None
    assert told.value.header["DARKID"] == ""
    without = calibrate(raw_frame(), row, Masters(masters.bias, None, masters.flat))
    np.testing.assert_array_equal(told.value.sci, without.value.sci)
    with pytest.raises(FrameRejected, match="DARK_EXPOSURE: the dark of 300 s is shorter"):
        calibrate(raw_frame(), row, masters, missing_dark="require")


def test_h220_dark_of_another_temperature_is_told(masters):
    header = masters.dark.header.copy()
    header["CCD-TEMP"] = -20.0
    warm = Masters(masters.bias, masters.dark.replace(header=header), masters.flat)
    row = ROW | {"temperature_c": -10.0}
    assert [flag for flag, _ in calibrate(raw_frame(), row, warm).flags] == ["DARK_TEMP"]
    assert calibrate(raw_frame(), row, warm, dark_temperature_k=12.0).flags == ()
    with pytest.raises(FrameRejected, match="taken at -20 C, the frame at -10 C"):
        calibrate(raw_frame(), row, warm, missing_dark="require")


@pytest.mark.parametrize("kind", ["bias", "dark", "flat"])
def test_a_row_may_ask_to_do_without_a_master(masters, kind):
    """A4: ``none`` in the sheet is a wish, not a lack."""
    row = ROW | {f"use_{kind}": "none", "exptime_s": 300.0}
    result = calibrate(raw_frame(), row, masters, **{f"missing_{kind}": "require"})
    assert result.flags == ()
    assert result.value.header[f"{kind.upper()}ID"] == ""


@pytest.mark.parametrize(
    "card",
    [
        {"SMSTEP": "calibrate"}, {"CALSTAT": "BDF"}, {"CALSTAT": "b"}, {"BUNIT": "electron"},
        {"BUNIT": "e-"}, {"FLATCOR": "Flat field image is flat.fits"}, {"DARKCOR": True},
        {"CCDPROC": "Jan 1 12:00 CCD processing done"}, {"MBIASFNM": "bias.fits"},
    ],
)  # fmt: skip
def test_frames_that_were_calibrated_before_are_refused(masters, card):
    """E31: a second pass is refused, whoever made the first."""
    with pytest.raises(
        FrameRejected, match=f"ALREADY_CALIBRATED: the header has {next(iter(card))}"
    ):
        calibrate(raw_frame(), ROW, masters, header=fits.Header(card))


@pytest.mark.parametrize(
    "card", [{"CALSTAT": ""}, {"BUNIT": "ADU"}, {"FLATCOR": "F"}, {"DARKCOR": False}]
)
def test_raw_frames_with_such_cards_are_not(masters, card):
    assert calibrate(raw_frame(), ROW, masters, header=fits.Header(card)).flags == ()


def test_a_product_is_not_calibrated_again(masters):
    """E31."""
    once = calibrate(raw_frame(), ROW, masters).value
    with pytest.raises(FrameRejected, match="ALREADY_CALIBRATED"):
        calibrate(once.sci, ROW | {"biassec": ""}, masters, header=once.header)


def test_h135_masters_of_the_whole_detector_are_cropped_to_a_window():
    """A7, E26."""
    rng = np.random.default_rng(5)
    whole = {
        kind: Master(
            (level + rng.normal(0, spread, (90, 80))).astype(np.float32),
            np.full((90, 80), 0.01, np.float32),
            rng.choice([0, int(MaskBit.HOT)], (90, 80)).astype(np.uint16),
            fits.Header({"MASTERID": kind, "EXPTIME": 120.0, "CCDSEC": "[1:80,1:90]"}),
            unit=unit, nused=np.full((90, 80), 9, np.uint16),
        )
        for kind, level, spread, unit in (
            ("bias", 10, 3, "adu"), ("dark", 40, 3, "adu"), ("flat", 1, 0.1, ""),
        )
    }  # fmt: skip
    masters = Masters(**whole)
    row = ROW | {"area": "[21:70,11:70]"}
    got = calibrate(raw_frame(), row, masters).value
    part = np.s_[10:70, 20:70]
    cut = {k: m.replace(**{n: getattr(m, n)[part] for n in ("sci", "err", "mask", "nused")})
           for k, m in whole.items()}  # fmt: skip
    for one in cut.values():
        one.header["CCDSEC"] = "[21:70,11:70]"
    want = calibrate(raw_frame(), row, Masters(**cut)).value
    for plane in ("sci", "err", "mask"):
        np.testing.assert_array_equal(getattr(got, plane), getattr(want, plane))
    assert got.header["CCDSEC"] == "[21:70,11:70]"
    # the identity is that of the master, not that of the cut
    assert got.header["BIASSHA"] == masters.digests["bias"]
    for area in ("[41:90,11:70]", "", "[21:60,11:70]"):
        with pytest.raises(FrameRejected, match="WRONG_SIZE"):
            calibrate(raw_frame(), ROW | {"area": area}, masters)


def test_saturation_card_is_on_the_scale_of_the_pixels_with_and_without_overscan(masters):
    """A pixel that just saturates has the value of the card, dark and flat apart."""
    only_bias = Masters(masters.bias)
    options = {"missing_dark": "skip", "missing_flat": "skip"}
    raw = raw_frame()
    raw[3, 3] = 60_000
    strip = calibrate(raw, ROW, only_bias, **options).value
    assert strip.header["SATURATE"] == pytest.approx(float(strip.sci[3, 3]), rel=1e-6)
    level = master(1010, 0.5, "adu")  # without overscan the bias holds the level
    plain = calibrate(raw[:, :50], ROW | {"biassec": ""}, Masters(level), **options).value
    assert plain.header["SATURATE"] == pytest.approx(float(plain.sci[3, 3]), rel=1e-6)
    assert plain.header["SATURATE"] == pytest.approx(1.6 * (60_000 - 1010), rel=1e-6)
    rule = {"linearity": {"": {"polynomial": [2e-6]}}}
    curved = calibrate(raw, ROW, only_bias, electronics=rule, **options).value
    assert curved.header["SATURATE"] == pytest.approx(float(curved.sci[3, 3]), rel=1e-6)
    assert curved.header["SATURATE"] > 1.05 * strip.header["SATURATE"]


def test_header_says_which_corrections_were_made(masters):
    """A18."""
    header = calibrate(raw_frame(), ROW, masters).value.header
    assert header["CALSTAT"] == "OBDF"
    assert (header["LINEAR"], header["CROSSTLK"]) == (True, False)
    assert header["FLATSHA"] == masters.digests["flat"]
    rule = {"linearity": {"": {"table": [[30_000, 30_300]]}}}
    header = calibrate(raw_frame(), ROW, masters, electronics=rule).value.header
    assert header["CALSTAT"] == "OLBDF"
    assert header["LINEAR"] is False


def test_quantiles_of_good_pixels_are_numbers_of_the_outcome(masters):
    """A20."""
    raw = raw_frame()
    raw[:, :5] = 65_535  # masked: they do not count
    result = calibrate(raw, ROW, masters)
    values = result.value.sci[result.value.mask == 0]
    for name, q in (("q10_e", 0.1), ("median_e", 0.5), ("q90_e", 0.9), ("q999_e", 0.999)):
        assert result.numbers[name] == pytest.approx(np.quantile(values, q), rel=1e-6)


def test_leaks_of_saturated_pixels_are_flagged_in_the_given_directions(masters):
    """A15."""
    raw = raw_frame()
    raw[10, 10] = raw[10, 11] = raw[0, 49] = 60_000
    mask = calibrate(raw, ROW, masters, leak_directions=[(1, 0), (0, -1)]).value.mask
    found = {(y, x) for y, x in np.argwhere(mask & np.uint16(MaskBit.BLEED))}
    assert found == {(10, 12), (9, 10), (9, 11)}
    assert mask[10, 11] == MaskBit.SATURATED


def test_measured_gain_and_noise_are_used_if_asked_and_compared_always(masters):
    flat = masters.flat.header.copy()
    flat["GAINMEAS"], flat["GAINERR"] = 2.0, 0.01
    bias = masters.bias.header.copy()
    bias["RNADU"] = 5.0
    known = Masters(
        masters.bias.replace(header=bias), masters.dark, masters.flat.replace(header=flat)
    )
    told = calibrate(raw_frame(), ROW, known)
    assert [flag for flag, _ in told.flags] == ["GAIN_SUSPECT", "READ_NOISE_SUSPECT"]
    assert told.value.header["GAIN"] == 1.6
    used = calibrate(raw_frame(), ROW, known, use_measured_gain=True).value
    np.testing.assert_allclose(used.sci, told.value.sci * 2.0 / 1.6, rtol=1e-6)
    assert used.header["GAIN"] == 2.0
    assert used.header.comments["GAIN"].endswith("measured")
    noise = calibrate(raw_frame(), ROW, known, use_measured_noise=True).value
    np.testing.assert_array_equal(noise.sci, told.value.sci)
    assert noise.header["RDNOISE"] == pytest.approx(5.0 * 1.6)
    # variances differ by the two read noises only
    extra = (1.6 / 0.5) ** 2 * (5.0**2 - (6 / 1.6) ** 2)
    got = noise.err.astype(float) ** 2 - told.value.err.astype(float) ** 2
    np.testing.assert_allclose(got, extra, rtol=1e-3)
    assert calibrate(raw_frame(), ROW, known, noise_tolerance=0.5).flags == ()


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
    """A15, S1."""
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
    """S6."""
    raw = raw_frame()
    before = raw.copy()
    one, two = calibrate(raw, ROW, masters).value, calibrate(raw, ROW, masters).value
    assert one.sci.tobytes() == two.sci.tobytes()
    assert one.err.tobytes() == two.err.tobytes()
    np.testing.assert_array_equal(raw, before)
