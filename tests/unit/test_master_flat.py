"""Master flat: normalisation, rejection, stars, gain, bad pixels, IRAF convention."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit, Master
from skymill.steps.flat_statistics import gain_from_pairs, histogram_mode, level_of, sparse
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import MasterFailed, RawInput

NY, NX = 160, 200
GAIN, NOISE_E = 1.8, 10.0
ROW = {
    "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + 24},1:{NY}]", "gain_e_adu": GAIN,
    "read_noise_e": NOISE_E, "saturation_adu": 65_535.0, "exptime_s": 5.0, "filter": "r",
}  # fmt: skip
LEVELS = (32_000, 28_000, 24_000, 18_000, 12_000)


def truth() -> np.ndarray:
    y, x = np.mgrid[:NY, :NX]
    flat = 1.1 - 0.3 * ((x - NX / 2) ** 2 + (y - NY / 2) ** 2) / (NX / 2) ** 2
    rng = np.random.default_rng(99)
    flat *= rng.normal(1, 0.02, flat.shape)
    flat[40:44, 50:54] = 0.2
    flat[100, 100] = 0.0
    return flat / np.median(flat)


def bias_master(err: float = 0.8) -> Master:
    plane = np.full((NY, NX), 15.0, np.float32)
    return Master(
        plane, np.full_like(plane, err), np.zeros(plane.shape, np.uint16),
        fits.Header({"RNADU": NOISE_E / GAIN}), unit="adu",
        nused=np.full(plane.shape, 9, np.uint16),
    )  # fmt: skip


def raw_flat(seed: int, level: float, *, tilt: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = 1000 + 3 * seed + rng.normal(0, NOISE_E / GAIN, (NY, NX + 24))
    light = truth() * level * (1 + tilt * (np.arange(NX) / NX - 0.5))
    raw[:, :NX] += 15 + rng.poisson(light * GAIN) / GAIN
    return raw.round().clip(0, 65_535).astype(np.uint16)


def inputs(arrays, **row) -> list[RawInput]:
    return [
        RawInput(f"f{i}", ROW | row, lambda raw=raw: (raw.copy(), fits.Header()))
        for i, raw in enumerate(arrays)
    ]


@pytest.fixture(scope="module")
def flats() -> list[np.ndarray]:
    return [raw_flat(seed, level) for seed, level in enumerate(LEVELS)]


def good_pixels() -> np.ndarray:
    return truth() > 0.5


def test_flat_is_recovered_with_the_noise_of_all_photons(flats):
    result = master_flat(inputs(flats), bias=bias_master(), master_id="flat-1")
    master, good = result.value.master, good_pixels()
    assert result.flags == ()
    assert master.unit == ""
    clean = master.mask == 0
    assert np.median(master.sci[clean]) == pytest.approx(1, abs=1e-6)
    residual = (master.sci - truth() * np.median(master.sci[good] / truth()[good]))[good]
    pulls = residual / master.err[good]
    # 32 000 pixels: the width is known to 0.4 %
    assert pulls.std() == pytest.approx(1, abs=0.02)
    photons = sum(LEVELS) * GAIN
    assert np.median(master.err[good]) == pytest.approx(1 / np.sqrt(photons), rel=0.03)
    assert result.numbers["gain_e_adu"] == pytest.approx(GAIN, rel=0.03)
    assert abs(result.numbers["gain_e_adu"] - GAIN) < 4 * result.numbers["gain_err_e_adu"]
    assert result.numbers["n_used"] == 5
    assert master.header["GAINMEAS"] == result.numbers["gain_e_adu"]


def test_low_and_dead_pixels_get_bits(flats):
    master = master_flat(inputs(flats), bias=bias_master()).value.master
    assert (master.mask[40:44, 50:54] == MaskBit.LOW_FLAT).all()
    assert master.mask[100, 100] == MaskBit.DEAD | MaskBit.LOW_FLAT
    others = master.mask.copy()
    others[40:44, 50:54] = others[100, 100] = 0
    assert not others.any()
    strict = master_flat(inputs(flats), bias=bias_master(), max_relative_error=0.002).value.master
    assert (strict.mask[good_pixels()] & MaskBit.LOW_FLAT).mean() > 0.9


def test_star_in_one_of_three_flats_is_removed_with_its_wings(flats):
    three = [raw.copy() for raw in flats[:3]]
    y, x = np.mgrid[:NY, :NX]
    star = 6000 * np.exp(-((x - 60) ** 2 + (y - 90) ** 2) / (2 * 2.0**2))
    three[1][:, :NX] += star.astype(np.uint16)
    master = master_flat(inputs(three), bias=bias_master()).value.master
    core = (
        star > 600
    ) & good_pixels()  # 600 ADU are 3.4 sigma of one flat: beyond, all must be gone
    bias = (master.sci - truth())[core] / master.err[core]
    assert abs(bias.mean()) < 0.6 + 4 / np.sqrt(core.sum())
    assert (master.nused[star > 1000] == 2).all()


def test_saturated_and_faint_flats_are_rejected(flats):
    arrays = [*flats, np.full((NY, NX + 24), 65_535, np.uint16), raw_flat(8, 400)]
    arrays[5][:, NX:] = raw_flat(9, 100)[:, NX:]
    arrays[5][0, 0] = 60_000
    bright = raw_flat(7, 50_000)
    frames = inputs([*arrays, bright])
    result = master_flat(frames, bias=bias_master(), saturation_fraction=0.7)
    found = {o.frame_id: o.code for o in result.value.outcomes if o.code}
    assert found == {"f5": "FLAT_SATURATED", "f6": "FLAT_FAINT", "f7": "FLAT_SATURATED"}
    with pytest.raises(MasterFailed, match="1 FLAT_FAINT, 1 FLAT_SATURATED") as caught:
        master_flat(inputs([arrays[5], arrays[6]]), bias=bias_master())
    assert caught.value.code == "FLATS_REJECTED"
    with pytest.raises(MasterFailed) as caught:
        master_flat(inputs([*flats[:2], arrays[6]]), bias=bias_master())
    assert caught.value.code == "TOO_FEW"


def test_contradicting_gain_is_flagged_and_the_error_follows_the_frames(flats):
    result = master_flat(inputs(flats, gain_e_adu=2.5), bias=bias_master())
    assert [flag for flag, _ in result.flags] == ["GAIN_SUSPECT"]
    assert "2.5 is declared" in result.flags[0][1]
    photons = sum(LEVELS) * GAIN
    err = np.median(result.value.master.err[good_pixels()])
    assert err == pytest.approx(1 / np.sqrt(photons), rel=0.03)


def test_gradient_of_one_flat_is_flagged(flats):
    arrays = [*flats[:4], raw_flat(4, 20_000, tilt=0.06)]
    result = master_flat(inputs(arrays), bias=bias_master())
    assert [flag for flag, _ in result.flags] == ["FLAT_GRADIENT"]
    assert result.value.outcomes[4].code.startswith("FLAT_GRADIENT")
    assert result.value.outcomes[4].numbers["gradient"] == pytest.approx(0.06, rel=0.2)


def test_missing_bias_is_a_policy_and_a_pedestal_is_never_accepted(flats):
    with pytest.raises(MasterFailed, match="NO_BIAS"):
        master_flat(inputs(flats))
    told = master_flat(inputs(flats), missing_bias="degrade")
    assert [flag for flag, _ in told.flags] == ["NO_BIAS"]
    assert master_flat(inputs(flats), missing_bias="skip").flags == ()
    with pytest.raises(MasterFailed, match="FLAT_PEDESTAL"):
        master_flat(inputs(flats, biassec=""), missing_bias="skip")


def test_dark_is_scaled_to_the_exposure_of_the_flat(flats):
    warm = [raw.copy() for raw in flats]
    for raw in warm:
        raw[:, :NX] += 200
    plane = np.full((NY, NX), 15 + 2400, np.float32)
    dark = Master(
        plane, np.full_like(plane, 3.0), np.zeros(plane.shape, np.uint16),
        fits.Header({"EXPTIME": 60.0}), unit="adu", nused=np.full(plane.shape, 9, np.uint16),
    )  # fmt: skip
    cold = master_flat(inputs(flats), bias=bias_master()).value.master
    got = master_flat(inputs(warm), bias=bias_master(), dark=dark).value.master
    good = good_pixels()
    # the dark charge adds photon noise to the model: a few values are judged otherwise
    assert (np.abs(got.sci / cold.sci - 1)[good] > 2e-5).mean() < 1e-3
    ignored = master_flat(inputs(warm), bias=bias_master()).value.master
    assert np.median(np.abs(ignored.sci / cold.sci - 1)[good]) > 2e-4


def test_errors_of_bias_and_dark_do_not_average_down(flats):
    """``v_F`` grows by ``(sum w a / c / sum w)^2 v``, with a = 1 - tau and tau."""
    plane = np.full((NY, NX), 15 + 60, np.float32)
    tau, e_bias, e_dark = 5.0 / 20.0, 90.0, 160.0
    weight = np.array(LEVELS, float)

    def variance(bias_err: float, dark_err: float) -> np.ndarray:
        dark = Master(
            plane, np.full_like(plane, dark_err), np.zeros(plane.shape, np.uint16),
            fits.Header({"EXPTIME": 20.0}), unit="adu", nused=np.full(plane.shape, 9, np.uint16),
        )  # fmt: skip
        master = master_flat(inputs(flats), bias=bias_master(bias_err), dark=dark).value.master
        return (master.err.astype(float) * master.header["FLATNORM"]) ** 2

    none = variance(1e-3, 1e-3)
    common = len(weight) / weight.sum()  # sum of w / c over sum of w, for w = c
    for bias_err, dark_err, factor in (
        (e_bias, 1e-3, (1 - tau) * e_bias),
        (1e-3, e_dark, tau * e_dark),
    ):
        more = variance(bias_err, dark_err) - none
        # the measured levels differ from the nominal ones by about 1 %
        assert np.median(more) == pytest.approx((common * factor) ** 2, rel=0.05)


def test_bits_of_the_bias_are_inherited(flats):
    mask = np.zeros((NY, NX), np.uint16)
    mask[5, 5] = MaskBit.HOT | MaskBit.COSMIC
    master = master_flat(inputs(flats), bias=bias_master().replace(mask=mask)).value.master
    assert master.mask[5, 5] == MaskBit.HOT


@pytest.mark.parametrize("scale", ["median", "mean", "mode"])
def test_scales_give_the_same_flat(flats, scale):
    one = master_flat(inputs(flats), bias=bias_master()).value.master
    two = master_flat(inputs(flats), bias=bias_master(), scale=scale).value.master
    good = good_pixels()
    # modes of 10^4 pixels scatter by about 1 %, which only moves weights: second order
    assert np.abs(two.sci - one.sci)[good].std() < 0.5 * np.median(one.err[good])


def test_iraf_convention_combines_before_the_bias_is_subtracted(flats):
    options = {
        "bias_first": False,
        "scale": "mode",
        "method": "minmax",
        "reject_low": 1,
        "reject_high": 1,
    }
    got = master_flat(inputs(flats), bias=bias_master(), **options).value.master
    images = [raw[:, :NX] - np.median(raw[:, NX:]) for raw in flats]
    modes = [histogram_mode(sparse(image)) for image in images]
    scaled = np.sort([i * modes[0] / m for i, m in zip(images, modes, strict=True)], axis=0)
    expected = scaled[1:-1].mean(axis=0) - 15.0
    good = good_pixels()
    expected /= np.median(expected[good])
    ratio = got.sci[good] / expected[good]
    # the overscan level (median against clipped mean) and the common scale of the 15 ADU
    assert ratio.std() < 2e-4


def test_little_memory_gives_the_same_bytes(flats):
    whole = master_flat(inputs(flats), bias=bias_master(), scale="mode").value.master
    small = master_flat(inputs(flats), bias=bias_master(), scale="mode", memory_mb=0.1).value.master
    assert whole.sci.tobytes() == small.sci.tobytes()
    assert whole.err.tobytes() == small.err.tobytes()


def test_gain_from_pairs_removes_pattern_and_read_noise():
    rng = np.random.default_rng(5)
    flat = rng.uniform(0.7, 1.3, (60, 40, 40))
    samples = []
    for level in (30_000, 22_000, 15_000):
        light = rng.poisson(flat * level * 0.4) / 0.4
        samples.append(light + rng.normal(0, 9, flat.shape))
    gain, error = gain_from_pairs(samples, [81.0] * 3)
    assert error < 0.01
    assert gain == pytest.approx(0.4, abs=4 * error)
    assert np.isnan(gain_from_pairs(samples[:1], [81.0])[0])


def test_mode_is_the_middle_of_the_fullest_bin():
    """A literal transcription of the definition as the reference."""
    rng = np.random.default_rng(17)
    values = np.sort(np.concatenate([rng.normal(100, 3, 3000), rng.uniform(0, 150, 900)]))
    n = len(values)
    i = int(1 + n * 0.1)
    j = int(1 + n * 0.9)
    a = np.concatenate([[np.nan], values])  # counted from 1
    z1, z2 = a[i], a[j]
    step, width = 0.01 * (z2 - z1), 0.1 * (z2 - z1)
    z1 -= step
    k, most, mode = i, 0, None
    while True:
        z1 += step
        z2 = z1 + width
        while i < j and a[i] < z1:
            i += 1
        while k < j and a[k] < z2:
            k += 1
        if k - i > most:
            most, mode = k - i, a[(i + k) // 2]
        if k >= j:
            break
    assert histogram_mode(rng.permutation(values)) == mode
    assert mode == pytest.approx(100, abs=1.5)
    assert histogram_mode(np.full(50, 7.0)) == 7.0
    assert level_of(np.array([1.0, np.nan, 3.0, 2.0]), "median") == 2.0


def test_sparse_keeps_below_ten_thousand():
    assert sparse(np.zeros((511, 767))).shape == (73, 110)
    assert sparse(np.zeros((90, 90))).shape == (90, 90)
