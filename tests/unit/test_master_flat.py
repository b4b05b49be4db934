"""Master flat: normalisation, rejection, stars, gain, bad pixels, IRAF convention."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit, Master
from skymill.steps.flat_statistics import histogram_mode, level_of, sparse
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


def test_h166_low_and_dead_pixels_get_bits(flats):
    """E18, S1."""
    master = master_flat(inputs(flats), bias=bias_master()).value.master
    assert (master.mask[40:44, 50:54] == MaskBit.LOW_FLAT).all()
    assert master.mask[100, 100] == MaskBit.DEAD | MaskBit.LOW_FLAT
    others = master.mask.copy()
    others[40:44, 50:54] = others[100, 100] = 0
    assert not others.any()
    strict = master_flat(inputs(flats), bias=bias_master(), max_relative_error=0.002).value.master
    assert (strict.mask[good_pixels()] & MaskBit.LOW_FLAT).mean() > 0.9


def test_h153_star_in_one_of_three_flats_is_removed_with_its_wings(flats):
    """A26."""
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


def test_h153_h223_saturated_and_faint_flats_are_rejected(flats):
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


def test_h153_gradient_of_one_flat_is_flagged(flats):
    arrays = [*flats[:4], raw_flat(4, 20_000, tilt=0.06)]
    result = master_flat(inputs(arrays), bias=bias_master())
    assert [flag for flag, _ in result.flags] == ["FLAT_GRADIENT"]
    assert result.value.outcomes[4].code.startswith("FLAT_GRADIENT")
    assert result.value.outcomes[4].numbers["gradient"] == pytest.approx(0.06, rel=0.2)


def test_h154_missing_bias_is_a_policy_and_a_pedestal_is_never_accepted(flats):
    with pytest.raises(MasterFailed, match="NO_BIAS"):
        master_flat(inputs(flats))
    told = master_flat(inputs(flats), missing_bias="degrade")
    assert [flag for flag, _ in told.flags] == ["NO_BIAS"]
    assert master_flat(inputs(flats), missing_bias="skip").flags == ()
    with pytest.raises(MasterFailed, match="FLAT_PEDESTAL"):
        master_flat(inputs(flats, biassec=""), missing_bias="skip")


def flat_dark(exposure: float, pedestal: float = 1010.0) -> Master:
    plane = np.full((NY, NX), pedestal + 15, np.float32)
    return Master(
        plane, np.full_like(plane, 2.0), np.zeros(plane.shape, np.uint16),
        fits.Header({"EXPTIME": exposure}), unit="adu", nused=np.full(plane.shape, 9, np.uint16),
    )  # fmt: skip


def level_flats() -> list[np.ndarray]:
    """Flats whose electronic level stays the same."""
    out = []
    for seed, level in enumerate(LEVELS):
        rng = np.random.default_rng(seed)
        light = rng.poisson(truth() * level * GAIN) / GAIN
        out.append(1025 + light + rng.normal(0, NOISE_E / GAIN, (NY, NX)))
    return [raw.round().clip(0, 65_535).astype(np.uint16) for raw in out]


BARE = {"datasec": "", "biassec": ""}


def test_flat_darks_of_the_same_exposure_take_off_the_pedestal():
    """Cameras without overscan, calibrated with flat-darks only."""
    frames = inputs(level_flats(), **BARE, use_bias="none")
    result = master_flat(frames, dark=flat_dark(5.0))
    assert result.flags == ()
    master, good = result.value.master, good_pixels()
    scale = np.median(master.sci[good] / truth()[good])
    pulls = ((master.sci - truth() * scale) / master.err)[good]
    # 32 000 pixels: the width is known to 0.4 %
    assert pulls.std() == pytest.approx(1, abs=0.02)
    # what is left of a pedestal makes dark pixels too bright
    assert np.median(master.sci[40:44, 50:54]) == pytest.approx(0.2 / 1.04, rel=0.15)
    photons = 1 / np.sqrt(sum(LEVELS) * GAIN)
    assert np.median(master.err[good]) == pytest.approx(photons, rel=0.03)


def test_flat_darks_of_another_exposure_cannot_stand_for_the_bias():
    frames = inputs(level_flats(), **BARE, use_bias="none")
    with pytest.raises(MasterFailed, match="FLAT_PEDESTAL") as caught:
        master_flat(frames, dark=flat_dark(20.0))
    assert {one.code for one in caught.value.outcomes} == {"DARK_EXPOSURE"}


def test_flats_that_want_no_bias_are_not_asked_for_one(flats):
    assert master_flat(inputs(flats, use_bias="none")).flags == ()


def test_bias_last_takes_off_all_of_the_bias_beside_a_dark():
    """``tau`` of the bias stayed inside: a quarter of 1025 ADU."""
    bias = flat_dark(5.0).replace(err=np.full((NY, NX), 0.8, np.float32))
    frames = level_flats()
    first = master_flat(inputs(frames, **BARE), bias=bias, dark=flat_dark(20.0, 1030.0))
    last = master_flat(
        inputs(frames, **BARE), bias=bias, dark=flat_dark(20.0, 1030.0), bias_first=False
    )
    good = good_pixels()
    ratio = (last.value.master.sci / first.value.master.sci)[good]
    # the noise differs, because the pedestal moves the weights
    assert np.polyfit(truth()[good], ratio, 1)[0] == pytest.approx(0, abs=1e-3)


def test_dead_amplifier_does_not_cost_the_flats_of_the_others(flats):
    """One half of the detector is dead, or saturated without light."""
    for value, stuck in ((0, 0.0), (65_535, np.nan)):
        arrays = [raw.copy() for raw in flats]
        for raw in arrays:
            raw[:, 150:NX] = value
        plane = bias_master().sci.copy()
        plane[:, 150:] = stuck
        mask = np.zeros((NY, NX), np.uint16)
        mask[:, 150:] = 0 if stuck == 0 else int(MaskBit.NO_DATA)
        frames = [
            RawInput(one.frame_id, one.row | {"biassec": "", "datasec": f"[1:{NX},1:{NY}]"},
                     lambda raw=raw: (raw[:, :NX].astype(np.float32), fits.Header()))
            for one, raw in zip(inputs(arrays), arrays, strict=True)
        ]  # fmt: skip
        bias = bias_master().replace(sci=plane, mask=mask)
        result = master_flat(frames, bias=bias, twilight="yes", minimum_separation_arcsec=0)
        assert result.numbers["n_used"] == 5
        assert "DEAD_AREA" in [code for code, _ in result.flags]
        lost = result.value.master.mask & np.uint16(int(MaskBit.DEAD))
        assert (lost[:, 150:] != 0).all()
        assert (lost[:, :150] != 0).mean() < 0.01


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
    """E29, O5."""
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


def evening(arrays, step_arcsec: float = 60.0, **row) -> list[RawInput]:
    """Flats one minute apart, each at another place of the sky."""
    return [
        RawInput(
            f"f{i}",
            ROW | {"mjd_mid": 60_000 + i / 1440, "ra_deg": 90 + i * step_arcsec / 3600,
                   "dec_deg": 0.0} | row,
            lambda raw=raw: (raw.copy(), fits.Header()),
        )
        for i, raw in enumerate(arrays)
    ]  # fmt: skip


def with_star(raw: np.ndarray, x: float, y: float, peak: float = 30_000) -> np.ndarray:
    """A star with wide wings (Moffat)."""
    yy, xx = np.mgrid[:NY, :NX]
    out = raw.astype(float)
    out[:, :NX] += truth() * peak * (1 + ((xx - x) ** 2 + (yy - y) ** 2) / 6.0) ** -2.5
    return out.clip(0, 65_535).astype(np.uint16)


def test_twilight_is_seen_and_wings_of_stars_are_left_out(flats):
    """A26: positive outliers are judged harder, in sums of pixels."""
    arrays = [with_star(raw, 40 + 25 * i, 80) for i, raw in enumerate(flats)]
    result = master_flat(evening(arrays), bias=bias_master())
    assert result.numbers["twilight"]
    assert result.numbers["pointings"] == 5
    assert result.value.master.header["TWILIGHT"]
    assert result.flags == ()
    clipped = master_flat(evening(arrays), bias=bias_master(), star_sigma=0)
    yy, xx = np.mgrid[:NY, :NX]
    good = good_pixels()
    near = np.zeros((NY, NX), bool)
    for i in range(5):
        distance = np.hypot(xx - 40 - 25 * i, yy - 80)
        near |= (distance > 6) & (distance < 10)
    near &= good
    left = {}
    for name, made in (("searched", result), ("clipped", clipped)):
        master = made.value.master
        residual = master.sci - truth() * np.median(master.sci[good] / truth()[good])
        left[name] = (residual / master.err)[near].mean()
    # 1000 pixels: 0.03 sigma
    assert abs(left["searched"]) < 0.15
    assert left["clipped"] > 0.3
    assert all(0 < o.numbers["star_fraction"] < 0.05 for o in result.value.outcomes)


def test_lamp_flats_are_not_searched_for_stars(flats):
    lamp = [raw_flat(seed, 20_000) for seed in range(3)]
    result = master_flat(evening(lamp), bias=bias_master())
    assert not result.numbers["twilight"]
    assert "star_fraction" not in result.value.outcomes[0].numbers
    told = master_flat(evening(lamp), bias=bias_master(), twilight="yes")
    assert "star_fraction" in told.value.outcomes[0].numbers
    # a search that finds nothing leaves rounding, and chance spots in the normalisation
    ratio = told.value.master.sci / result.value.master.sci
    assert np.nanmedian(np.abs(ratio - 1)) < 1e-4


def test_colocated_twilight_flats_are_thinned_or_flagged(flats):
    """A24: stars at the same pixels cannot be rejected."""
    frames = evening(flats, step_arcsec=0.0)
    same = master_flat(frames, bias=bias_master())
    assert [code for code, _ in same.flags] == ["FLAT_COLOCATED"]
    assert same.numbers["n_used"] == 5
    unknown = master_flat(evening(flats, ra_deg=None), bias=bias_master())
    assert "pointings are not known" in unknown.flags[0][1]
    crowd = [
        RawInput(f.frame_id, f.row | {"ra_deg": ra}, f.read)
        for f, ra in zip(frames, (90.0, 90.001, 90.0005, 91.0, 92.0), strict=True)
    ]
    found = master_flat(crowd, bias=bias_master())
    codes = {o.frame_id: o.code for o in found.value.outcomes if o.code}
    # of three, two of four frames would still be half
    assert codes == {"f1": "FLAT_COLOCATED", "f2": "FLAT_COLOCATED"}
    assert found.numbers["n_used"] == 3
    assert master_flat(frames, bias=bias_master(), minimum_separation_arcsec=0).flags == ()


def test_h153_clouds_of_a_twilight_flat_reject_it(flats):
    """A25: more than 5 % at large scale."""
    arrays = [raw.copy() for raw in flats]
    arrays[2] = raw_flat(2, 24_000, tilt=0.16)
    result = master_flat(evening(arrays), bias=bias_master())
    assert {o.frame_id: o.code for o in result.value.outcomes if o.code} == {"f2": "FLAT_CLOUDY"}
    lamp = master_flat(evening(arrays), bias=bias_master(), twilight="no")
    assert lamp.value.outcomes[2].status == "degraded"


def test_saturated_centre_rejects_a_flat_but_bad_columns_do_not(flats):
    """A24: saturated fraction of the central half; hot columns of the bias do not count."""
    arrays = [raw.copy() for raw in flats]
    arrays[1][70:80, 100:110] = 65_535
    for raw in arrays:
        raw[:, 77] = 65_535
    mask = np.zeros((NY, NX), np.uint16)
    mask[:, 77] = MaskBit.HOT
    bias = bias_master().replace(mask=mask)
    result = master_flat(inputs(arrays), bias=bias)
    found = {o.frame_id: o.code for o in result.value.outcomes if o.code}
    assert found == {"f1": "FLAT_SATURATED"}
    assert "central half" in result.value.outcomes[1].message
    assert master_flat(inputs(arrays), bias=bias, saturated_limit=0.02).numbers["n_used"] == 5


def test_only_high_or_low_flats_on_request(flats):
    """A24: the level splits high and low flats. Also A26."""
    options = {"bias": bias_master(), "minimum": 2, "split_level_adu": 20_000}
    high = master_flat(inputs(flats), which="high", **options)
    low = master_flat(inputs(flats), which="low", **options)
    assert [o.code for o in high.value.outcomes] == ["", "", "", "FLAT_LEVEL", "FLAT_LEVEL"]
    assert [o.code for o in low.value.outcomes] == ["FLAT_LEVEL"] * 3 + ["", ""]
    assert high.numbers["level_min_adu"] > 20_000 > low.numbers["level_max_adu"]


def test_h151_dead_half_is_flagged(flats):
    arrays = [raw.copy() for raw in flats]
    for raw in arrays:
        raw[: NY // 3, :NX] = np.median(raw[:, NX:]) + 15
    result = master_flat(inputs(arrays), bias=bias_master())
    assert "DEAD_AREA" in [code for code, _ in result.flags]
    assert result.numbers["dead_fraction"] == pytest.approx(1 / 3, abs=0.01)
    assert (result.value.master.mask[10, 10] & MaskBit.DEAD) != 0


def test_little_memory_and_another_order_of_reading_give_the_same_stars(flats, tmp_path):
    arrays = [with_star(raw, 40 + 25 * i, 80) for i, raw in enumerate(flats)]
    whole = master_flat(evening(arrays), bias=bias_master()).value.master
    small = master_flat(
        evening(arrays), bias=bias_master(), memory_mb=0.1, scratch=tmp_path
    ).value.master
    assert whole.sci.tobytes() == small.sci.tobytes()
    assert whole.err.tobytes() == small.err.tobytes()
    assert whole.mask.tobytes() == small.mask.tobytes()
    assert not list(tmp_path.iterdir())


def test_prepared_pixels_are_those_of_the_fast_way(flats):
    """Linearity of slope one, dark, and the common illumination of equal flats: no change."""
    plane = np.full((NY, NX), 15 + 60, np.float32)
    dark = Master(
        plane, np.full_like(plane, 3.0), np.zeros(plane.shape, np.uint16),
        fits.Header({"EXPTIME": 20.0}), unit="adu", nused=np.full(plane.shape, 9, np.uint16),
    )  # fmt: skip
    options = {"bias": bias_master(), "dark": dark}
    plain = master_flat(inputs(flats), **options).value.master
    straight = {"linearity": {"": {"table": [[30_000, 30_000]]}}}
    one = master_flat(inputs(flats), electronics=straight, **options).value.master
    two = master_flat(
        inputs(flats), common_illumination=True, illumination_order=0, **options
    ).value.master
    for other in (one, two):
        assert np.nanmedian(np.abs(other.sci / plain.sci - 1)) < 1e-6
        assert np.nanmedian(np.abs(other.err / plain.err - 1)) < 1e-4
        assert (other.mask != plain.mask).mean() < 1e-4


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
