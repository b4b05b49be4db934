"""Master dark: exposures, hot pixels, errors without the bias term."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit, Master
from skymill.steps.master_dark import master_dark
from skymill.steps.masters_common import MasterFailed, RawInput

NY, NX = 128, 160
GAIN, NOISE_E, CHARGE = 1.6, 6.0, 40.0
ROW = {
    "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + 24},1:{NY}]", "gain_e_adu": GAIN,
    "read_noise_e": NOISE_E, "saturation_adu": 65_535.0, "exptime_s": 300.0,
}  # fmt: skip


def pattern() -> np.ndarray:
    return np.broadcast_to(9 + 2 * np.cos(np.arange(NX) / 5.0), (NY, NX))


def bias_master() -> Master:
    plane = pattern().astype(np.float32)
    return Master(
        plane, np.full_like(plane, 0.4), np.zeros(plane.shape, np.uint16),
        fits.Header({"MASTERID": "bias-1"}), unit="adu", nused=np.full(plane.shape, 9, np.uint16),
    )  # fmt: skip


def raw_dark(seed: int, charge: float | np.ndarray = CHARGE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = 1000 + rng.normal(0, NOISE_E / GAIN, (NY, NX + 24))
    raw[:, :NX] += pattern() + rng.poisson(np.broadcast_to(charge * GAIN, (NY, NX))) / GAIN
    return raw.round().astype(np.uint16)


def inputs(arrays, **row) -> list[RawInput]:
    return [
        RawInput(f"d{i}", ROW | row, lambda raw=raw: (raw.copy(), fits.Header()))
        for i, raw in enumerate(arrays)
    ]


@pytest.fixture
def arrays() -> list[np.ndarray]:
    return [raw_dark(seed) for seed in range(7)]


def test_error_is_that_of_the_pixels_where_the_dark_current_varies():
    """Dark current that dominates the noise and differs from pixel to pixel.

    ERR was 4 % too large: the shot noise taken off the measured scatter was that of the
    median charge and not of the mean, and a tenth of it counted as read noise at least.
    """
    charge = np.random.default_rng(1).gamma(2, 200.0, (NY, NX))
    master = master_dark(inputs([raw_dark(s, charge) for s in range(9)]), bias=bias_master())
    made = master.value.master
    good = made.mask == 0
    pulls = ((made.sci - pattern() - charge) / made.err)[good]
    # 20 000 pixels know the width to 0.5 %
    assert pulls.std() == pytest.approx(1, abs=0.02)


def test_darks_without_bias_by_the_sheet_are_not_flagged(arrays):
    assert master_dark(inputs(arrays, use_bias="none")).flags == ()


def test_scaled_darks_bear_an_amplifier_that_is_always_saturated():
    half = NX // 2
    entries = [
        {"name": name, "hdu": 0, "data": f"[{x + 1}:{x + half},1:{NY}]", "bias": [],
         "place": f"[{x + 1}:{x + half},1:{NY}]", "gain": GAIN, "noise": NOISE_E,
         "saturation": 60_000.0, "linear_max": None}
        for name, x in (("A", 0), ("B", half))
    ]  # fmt: skip
    frames = []
    for seed, time in enumerate((300.0, 300.0, 200.0, 200.0, 100.0)):
        raw = raw_dark(seed, CHARGE * time / 300)[:, :NX]
        raw[:, half:] = 65_535
        row = ROW | {"amplifiers": json.dumps(entries), "nx": NX, "ny": NY, "exptime_s": time,
                     "datasec": f"[1:{NX},1:{NY}]", "biassec": ""}  # fmt: skip
        frames.append(RawInput(f"d{seed}", row, lambda raw=raw: (raw, fits.Header())))
    bias = bias_master().replace(sci=bias_master().sci + np.float32(1000))
    made = master_dark(frames, bias=bias, scale_exposures=True).value.master
    assert np.isnan(made.sci[:, half:]).all()
    left = (made.sci - pattern() - 1000 - CHARGE)[:, :half]
    assert abs(left.mean()) < 0.1


def test_dark_holds_the_bias_and_an_error_without_it(arrays):
    result = master_dark(inputs(arrays), bias=bias_master(), master_id="dark-1")
    master = result.value.master
    residual = master.sci - pattern() - CHARGE
    sigma = np.sqrt((NOISE_E / GAIN) ** 2 + CHARGE / GAIN + 1 / 12) / np.sqrt(7)
    assert residual.std() == pytest.approx(sigma, rel=4 / np.sqrt(2 * NY * NX))
    assert np.median(master.err) == pytest.approx(sigma, rel=0.01)
    assert master.header["EXPTIME"] == 300.0
    assert master.header["BIASID"] == "bias-1"
    assert master.unit == "adu"
    assert result.numbers["dark_e_s"] == pytest.approx(CHARGE * GAIN / 300, rel=0.02)
    assert result.flags == ()
    assert not master.mask.any()


def test_hot_pixel_has_the_shot_noise_of_its_own_charge(arrays):
    charge = np.full((NY, NX), CHARGE)
    charge[20, 30] = 5000
    hot = [raw_dark(seed + 50, charge) for seed in range(7)]
    master = master_dark(inputs(hot), bias=bias_master()).value.master
    assert master.mask[20, 30] == MaskBit.HOT
    assert np.count_nonzero(master.mask) == 1
    assert master.nused[20, 30] == 7  # not taken for an outlier
    sigma = np.sqrt((NOISE_E / GAIN) ** 2 + 5000 / GAIN) / np.sqrt(7)
    assert master.err[20, 30] == pytest.approx(sigma, rel=0.05)


def test_without_bias_the_dark_is_the_same_and_says_so(arrays):
    one = master_dark(inputs(arrays), bias=bias_master())
    two = master_dark(inputs(arrays))
    assert [flag for flag, _ in two.flags] == ["NO_BIAS"]
    assert two.numbers["dark_e_s"] is None
    # the noise models differ by a per cent: a few values in 10^5 are judged otherwise
    differ = np.abs(one.value.master.sci - two.value.master.sci) > 0.02
    assert differ.mean() < 1e-3
    assert np.median(two.value.master.err) == pytest.approx(
        float(np.median(one.value.master.err)), rel=0.02
    )


def test_other_exposures_are_rejected(arrays):
    frames = inputs(arrays)
    frames[0] = inputs(arrays[:1], exptime_s=60.0)[0]
    frames[1] = RawInput("d1", ROW | {"exptime_s": None}, frames[1].read)
    frames[2] = RawInput("d2", ROW | {"exptime_s": 0.0}, frames[2].read)
    found = {o.frame_id: o.code for o in master_dark(frames, bias=bias_master()).value.outcomes}
    assert found["d0"] == "DARK_EXPOSURE"
    assert found["d1"] == "MISSING_EXPTIME"
    assert found["d2"] == "DARK_EXPOSURE"
    assert found["d3"] == ""


def test_light_leak_is_rejected(arrays):
    leak = np.linspace(0, 60, NX)[None, :] * np.ones((NY, 1))
    arrays[5][:, :NX] += leak.astype(np.uint16)
    arrays[2][:, :NX] += 25
    result = master_dark(inputs(arrays), bias=bias_master())
    found = {o.frame_id: o.code for o in result.value.outcomes if o.code}
    assert found == {"d5": "BAD_LEVEL", "d2": "BAD_LEVEL"}


def test_amplifier_glow_is_not_hot(arrays):
    y, x = np.mgrid[:NY, :NX]
    glow = CHARGE + 900 * np.exp(-(x + y) / 150.0)
    frames = [raw_dark(seed + 9, glow) for seed in range(7)]
    master = master_dark(inputs(frames), bias=bias_master()).value.master
    assert np.count_nonzero(master.mask) < 0.002 * NY * NX


def test_variance_against_bias_noise_and_gain_is_a_figure(arrays):
    noisy = bias_master()
    header = noisy.header.copy()
    header["RNADU"] = float(np.hypot(NOISE_E / GAIN, 12**-0.5))
    known = noisy.replace(header=header)
    result = master_dark(inputs(arrays), bias=known)
    # 20 480 pixels, 6 degrees of freedom: 0.4 %, and that of the pairs: 0.6 %
    assert result.numbers["variance_ratio"] == pytest.approx(1, abs=0.03)
    wrong = master_dark(inputs(arrays, gain_e_adu=6 * GAIN, read_noise_e=36.0), bias=known)
    assert [code for code, _ in wrong.flags] == ["MODEL_NOISE"]
    assert "times as much" in wrong.flags[0][1]


def test_saturated_and_unstable_pixels_are_hot():
    """E18, S1."""
    frames = [raw_dark(seed + 70) for seed in range(12)]
    for i, raw in enumerate(frames):
        raw[5, 6] = 65_535
        raw[9, 9] += 60 * (i % 3 == 0)
    result = master_dark(inputs(frames), bias=bias_master())
    master = result.value.master
    assert master.mask[5, 6] == MaskBit.HOT | MaskBit.NO_DATA
    assert master.mask[9, 9] & MaskBit.HOT
    assert result.numbers["n_unstable"] == 1


def test_amplifiers_have_dark_currents_of_their_own():
    """E28, O4: two amplifiers of one detector, the second with twice the gain factor."""
    half = NX // 2
    gains = (1.6, 3.2)
    row = {
        "nx": NX, "ny": NY, "hdu": 0, "saturation_adu": 65_535.0, "exptime_s": 300.0,
        "gain_e_adu": 2.4, "read_noise_e": 6.0, "amplifiers": json.dumps([
            {"name": n, "hdu": 0, "data": f"[{x0}:{x1},1:{NY}]", "place": f"[{x0}:{x1},1:{NY}]",
             "bias": [], "gain": g, "noise": 6.0}
            for n, x0, x1, g in (("A", 1, half, gains[0]), ("B", half + 1, NX, gains[1]))
        ]),
    }  # fmt: skip
    gain = np.repeat(gains, half)[None]
    frames = []
    for i in range(7):
        rng = np.random.default_rng(i + 20)
        raw = pattern() + rng.poisson(60.0, (NY, NX)) / gain + rng.normal(0, 6, (NY, NX)) / gain
        raw = (raw + 100).round().astype(np.uint16)
        frames.append(RawInput(f"d{i}", row, lambda raw=raw: (raw, fits.Header())))
    bias = bias_master()
    bias = bias.replace(sci=bias.sci + 100)
    result = master_dark(frames, bias=bias)
    for amp, name in enumerate("AB"):
        place = np.s_[:, half * amp : half * (amp + 1)]
        assert result.numbers[f"dark_e_s_{name}"] == pytest.approx(0.2, rel=0.02)
        assert result.value.master.header[f"DARKC{amp + 1}"] == pytest.approx(0.2, rel=0.02)
        sigma = np.sqrt((60 + 36) / gains[amp] ** 2 + 1 / 12) / np.sqrt(7)
        assert np.median(result.value.master.err[place]) == pytest.approx(sigma, rel=0.02)


def scaled(seeds, bias, **options):
    times = [60.0, 120.0, 300.0] * (len(seeds) // 3)
    frames = []
    for seed, time in zip(seeds, times, strict=True):
        frames += [
            RawInput(f"d{seed}", ROW | {"exptime_s": time}, frame.read)
            for frame in inputs([raw_dark(seed, CHARGE * 10 * time / 300)])
        ]
    return master_dark(frames, bias=bias, scale_exposures=True, **options)


def test_darks_of_different_exposures_make_one_dark():
    """A least-squares line through the bias: its error is that of the weighted fit. Row E28."""
    header = fits.Header({"RNADU": float(np.hypot(NOISE_E / GAIN, 12**-0.5))})
    bias = bias_master()
    bias = bias.replace(header=header, err=np.full_like(bias.err, 1e-3))
    result = scaled(range(100, 115), bias)
    master = result.value.master
    assert master.header["EXPTIME"] == 300.0
    assert (master.nused == 15).mean() > 0.999
    share = np.array([0.2, 0.4, 1.0] * 5)
    variance = (NOISE_E / GAIN) ** 2 + 1 / 12 + 10 * CHARGE * share / GAIN
    sigma = np.sqrt(1 / (share**2 / variance).sum())
    residual = master.sci - pattern() - 10 * CHARGE
    assert residual.std() == pytest.approx(sigma, rel=4 / np.sqrt(2 * NY * NX) + 0.005)
    assert np.median(master.err) == pytest.approx(sigma, rel=0.01)
    assert abs(residual.mean()) < 4 * np.hypot(sigma / np.sqrt(NY * NX), 0.2 / np.sqrt(15))
    assert {outcome.status for outcome in result.value.outcomes} == {"ok"}
    assert result.numbers["dark_e_s"] == pytest.approx(10 * CHARGE * GAIN / 300, rel=0.01)
    assert "MODEL_NOISE" not in [code for code, _ in result.flags]


def test_different_exposures_lean_on_the_bias_and_need_one(arrays):
    bias = bias_master()
    loud = scaled(range(100, 106), bias.replace(err=np.full_like(bias.err, 5.0)))
    silent = scaled(range(100, 106), bias.replace(err=np.full_like(bias.err, 1e-3)))
    assert np.median(loud.value.master.err) > np.median(silent.value.master.err)
    with pytest.raises(MasterFailed, match="NO_BIAS"):
        master_dark(inputs(arrays), scale_exposures=True)


def test_time_of_collection_is_that_of_the_card_if_it_is_sane(arrays):
    def dark(time):
        header = fits.Header({"DARKTIME": time})
        frames = [
            RawInput(one.frame_id, one.row, lambda raw=raw: (raw, header))
            for one, raw in zip(inputs(arrays), arrays, strict=True)
        ]
        return master_dark(frames, bias=bias_master())

    assert dark(320.0).value.master.header["DARKTIME"] == 320.0
    assert dark(320.0).numbers["dark_e_s"] == pytest.approx(CHARGE * GAIN / 320, rel=0.02)
    for nonsense in (3.0, 40_000.0, "long"):
        assert dark(nonsense).value.master.header["DARKTIME"] == 300.0


@pytest.mark.parametrize("method", ["clipped", "weighted", "mean", "median", "minmax"])
def test_memory_does_not_change_a_byte(arrays, method):
    whole, small = (
        master_dark(inputs(arrays), bias=bias_master(), method=method, memory_mb=m).value.master
        for m in (250, 0.01)
    )
    for plane in ("sci", "err", "mask", "nused"):
        assert getattr(whole, plane).tobytes() == getattr(small, plane).tobytes()


def test_bias_of_another_size_fails_the_master(arrays):
    small = Master(
        np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), np.zeros((4, 4), np.uint16),
        fits.Header(), unit="adu", nused=np.ones((4, 4), np.uint16),
    )  # fmt: skip
    with pytest.raises(MasterFailed, match="WRONG_SIZE") as caught:
        master_dark(inputs(arrays), bias=small)
    assert len(caught.value.outcomes) == 7
