"""Master flats of a simulated twilight against the flat that was put in.

The twilight falls from 20 000 to 7 000 electron. The flat has vignetting, dust rings and
a pixel pattern of 1 %; every frame shows stars with wide wings at other places. Expected
errors come from the photons of the true flat, not from the package. 240 000 pixels fix
widths to 0.15 %.
"""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.master_bias import master_bias
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import RawInput

NY, NX, STRIP = 400, 600, 32
GAIN, NOISE_E = 1.6, 6.0
N_BIAS = 20
LEVELS_E = tuple(20_000 * (7 / 20) ** (i / 9) for i in range(10))
ROW = {
    "instrument": "sim", "night": "2024-01-01", "filter": "r", "object": "", "exptime_s": 3.0,
    "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + STRIP},1:{NY}]",
    "gain_e_adu": GAIN, "read_noise_e": NOISE_E, "saturation_adu": 65_535.0,
    "dark": "not_needed",
}  # fmt: skip
Y, X = np.mgrid[:NY, :NX].astype(float)


def true_flat(seed: int = 1) -> np.ndarray:
    """Vignetting to 0.7, rings of dust 5 % deep, and the pattern of the pixels."""
    rng = np.random.default_rng(seed)
    flat = 1 - 0.3 * ((X - 320) ** 2 + (Y - 180) ** 2) / 320.0**2
    for _ in range(8):
        radius = np.hypot(X - rng.uniform(0, NX), Y - rng.uniform(0, NY))
        flat = flat * (1 - 0.05 * np.exp(-(((radius - 14) / 4) ** 2)))
    flat *= rng.normal(1, 0.01, flat.shape)
    return flat / np.median(flat)


class Twilight:
    """Raw frames, float32 so that rounding plays no part."""

    def __init__(self, seed: int, *, stars: int = 25) -> None:
        self.rng = np.random.default_rng(seed)
        self.flat = true_flat()
        self.bias = 15 + 3 * np.random.default_rng(2).standard_normal((NY, NX))
        self.stars = [
            (self.rng.uniform(0, NY), self.rng.uniform(0, NX), 10 ** self.rng.uniform(3.5, 6))
            for _ in range(stars)
        ]

    def raw(self, electrons: np.ndarray | float) -> np.ndarray:
        level = 1000 + self.rng.normal(0, 3)
        raw = level + self.rng.normal(0, NOISE_E / GAIN, (NY, NX + STRIP))
        raw[:, :NX] += self.bias
        raw[:, :NX] += self.rng.poisson(np.broadcast_to(electrons, (NY, NX))) / GAIN
        return raw.astype(np.float32)

    def star_light(self, shift: float) -> np.ndarray:
        """Moffat profiles of FWHM 3 px with wings, moved along the rows (electron)."""
        out = np.zeros((NY, NX))
        for y, x, flux in self.stars:
            r2 = (Y - y) ** 2 + (X - (x + shift) % NX) ** 2
            out += flux * 0.15 * (1 + r2 / 3.5) ** -2.8
        return out

    def flats(self, levels=LEVELS_E, *, clouds: dict[int, np.ndarray] | None = None, **row):
        inputs = []
        for i, level in enumerate(levels):
            light = level * (clouds or {}).get(i, 1.0) * np.ones((NY, NX))
            image = self.raw(self.flat * (light + self.star_light(47.0 * i)))
            cells = ROW | {
                "mjd_mid": 60_000 + i / 1440, "ra_deg": 150 + i * 47 / 3600, "dec_deg": 0.0,
            } | row  # fmt: skip
            inputs.append(RawInput(f"f{i}", cells, lambda image=image: (image, fits.Header())))
        return inputs

    def biases(self):
        made = [self.raw(0.0) for _ in range(N_BIAS)]
        return [RawInput(f"b{i}", ROW, lambda m=m: (m, fits.Header())) for i, m in enumerate(made)]


def expected_error(flat: np.ndarray, levels=LEVELS_E) -> np.ndarray:
    """Frames weighted by level: photons and read noise; the bias does not average down."""
    levels = np.array(levels)
    photons = flat * levels.sum() + len(levels) * NOISE_E**2
    bias = (NOISE_E / np.sqrt(N_BIAS) * len(levels)) ** 2
    return np.sqrt(photons + bias) / levels.sum()


@pytest.fixture(scope="module")
def sky() -> Twilight:
    return Twilight(11)


@pytest.fixture(scope="module")
def bias(sky):
    return master_bias(sky.biases()).value.master


@pytest.fixture(scope="module")
def made(sky, bias):
    return master_flat(sky.flats(), bias=bias)


def deviation(master, sky) -> np.ndarray:
    """Relative to the truth, whose scale is that of the median pixel."""
    scale = np.median(master.sci / sky.flat)
    return master.sci / scale - sky.flat


def test_twilight_flat_is_as_good_as_its_photons(made, sky):
    """E29, A24: scatter over theory within 2 %, bias below 0.02 of it, pulls of width 1.

    Rows O5.
    """
    master = made.value.master
    assert made.numbers["twilight"]
    assert made.numbers["n_used"] == len(LEVELS_E)
    off = deviation(master, sky)
    theory = expected_error(sky.flat)
    empty = master.nused == len(LEVELS_E)
    assert empty.mean() > 0.6
    assert (off / theory)[empty].std() == pytest.approx(1, abs=0.02)
    assert abs((off / theory)[empty].mean()) < 0.02
    pulls = off / master.err
    assert pulls.std() == pytest.approx(1, abs=0.02)
    # the same where the flat is low and where it is high
    for part in (sky.flat < 0.85, sky.flat > 1.0):
        assert pulls[part].std() == pytest.approx(1, abs=0.02 + 4 / np.sqrt(2 * part.sum()))


def test_stars_leave_no_trace(made, sky, bias):
    """A26: where a star was, the flat is as good as its remaining photons.

    Clipping of single pixels alone leaves the wings.
    """
    plain = master_flat(sky.flats(), bias=bias, star_sigma=0).value.master
    # wings of 2 % to 0.1 % of the sky in any frame
    light = np.max([sky.star_light(47.0 * i) / v for i, v in enumerate(LEVELS_E)], axis=0)
    wings = (light > 0.003) & (light < 0.02)
    assert wings.sum() > 3000
    left = {}
    for name, master in (("searched", made.value.master), ("clipped", plain)):
        left[name] = float((deviation(master, sky) / master.err)[wings].mean())
    assert left["searched"] < 0.25
    assert left["clipped"] > 2 * left["searched"]
    cores = light > 0.2
    pulls = (deviation(made.value.master, sky) / made.value.master.err)[cores]
    assert abs(pulls.mean()) < 0.3 + 4 / np.sqrt(cores.sum())


def test_gain_is_found_within_a_percent(made):
    gain, error = made.numbers["gain_e_adu"], made.numbers["gain_err_e_adu"]
    assert gain == pytest.approx(GAIN, rel=0.01)
    assert abs(gain - GAIN) < 4 * error
    curve = made.numbers["ptc_gain_e_adu"], made.numbers["ptc_gain_err_e_adu"]
    assert abs(curve[0] - GAIN) < 4 * curve[1]


def test_photon_transfer_curve_of_a_lamp_gives_gain_and_read_noise(bias):
    """Pairs from 200 to 40 000 electron; the faint ones serve only the curve."""
    lamp = Twilight(5, stars=0)
    times = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) for _ in range(2)]
    inputs = []
    for i, t in enumerate(times):
        image = lamp.raw(lamp.flat * 2000 * t)
        row = ROW | {"exptime_s": t, "mjd_mid": 60_000 + i / 1440}
        inputs.append(RawInput(f"f{i}", row, lambda image=image: (image, fits.Header())))
    result = master_flat(inputs, bias=bias)
    numbers = result.numbers
    assert not numbers["twilight"]
    assert numbers["n_used"] == 10
    assert numbers["ptc_gain_e_adu"] == pytest.approx(GAIN, rel=0.01)
    assert numbers["ptc_read_noise_e"] == pytest.approx(
        NOISE_E, abs=max(4 * numbers["ptc_read_noise_err_e"], 0.05)
    )
    assert numbers["ptc_read_noise_err_e"] < 0.15
    assert abs(numbers["nonlinearity_max"]) < 0.01
    assert abs(numbers["shutter_offset_s"]) < 0.005
    assert result.flags == ()


def test_clouds_are_rejected_and_the_flat_stays_right(sky, bias):
    """A25: the light of a cloudy frame differs at large scale from the clear ones. Also A24."""
    cloud = 1 - 0.12 * np.exp(-((X - 150) ** 2 + (Y - 100) ** 2) / (2 * 120.0**2))
    result = master_flat(sky.flats(clouds={4: cloud, 7: 1 - 0.8 * (1 - cloud)}), bias=bias)
    codes = {o.frame_id: o.code for o in result.value.outcomes if o.status == "rejected"}
    assert codes == {"f4": "FLAT_CLOUDY", "f7": "FLAT_CLOUDY"}
    left = [v for i, v in enumerate(LEVELS_E) if i not in (4, 7)]
    off = deviation(result.value.master, sky) / expected_error(sky.flat, left)
    assert off[result.value.master.nused == 8].std() == pytest.approx(1, abs=0.02)


def test_common_illumination_removes_gradients_between_frames(bias):
    """A25: frames with gradients of up to 4 %; the mean gradient remains, the rest goes."""
    sky = Twilight(21)
    slopes = (0.02, -0.02, 0.015, -0.015, 0.0, 0.0, 0.01, -0.01, 0.005, -0.005)
    tilts = {i: 1 + s * (2 * X / NX - 1) for i, s in enumerate(slopes)}
    result = master_flat(sky.flats(clouds=tilts), bias=bias, common_illumination=True)
    found = [o.numbers["gradient"] for o in result.value.outcomes]
    np.testing.assert_allclose(found, 2 * np.abs(slopes), atol=0.003)
    off = deviation(result.value.master, sky) / sky.flat
    slope = np.median(off[:, -60:]) - np.median(off[:, :60])
    # frames with a star in the middle weigh their gradients otherwise: not so here
    assert abs(slope) < 0.002
    pulls = (deviation(result.value.master, sky) / result.value.master.err)[:, 250:350]
    assert pulls.std() == pytest.approx(1, abs=0.03)


def test_two_amplifiers_make_one_flat_and_a_flat_frame():
    """Gains 1.6 and 2.1; calibrated electrons are even although the ADU jump.

    The declared ratio is wrong by 3 %: that is in flat and frame alike and cancels.
    """
    rng = np.random.default_rng(8)
    flat, half = true_flat(), NX // 2
    gains, told = np.array([1.6, 2.1]), (1.6 * 1.03, 2.1)
    amplifiers = (
        f'[{{"bias":["[{NX + 1}:{NX + 16},1:{NY}]"],"data":"[1:{half},1:{NY}]","gain":{told[0]},'
        f'"hdu":0,"name":"A","noise":6.0,"place":"[1:{half},1:{NY}]","saturation":65535}},'
        f'{{"bias":["[{NX + 17}:{NX + 32},1:{NY}]"],"data":"[{half + 1}:{NX},1:{NY}]",'
        f'"gain":{told[1]},"hdu":0,"name":"B","noise":6.0,"place":"[{half + 1}:{NX},1:{NY}]",'
        f'"saturation":65535}}]'
    )
    row = ROW | {"amplifiers": amplifiers, "nx": NX, "ny": NY, "hdu": 0}
    gain = np.where(half > X, gains[0], gains[1])

    def frame(electrons) -> np.ndarray:
        raw = np.empty((NY, NX + STRIP))
        raw[:, :NX] = 1000 + 100 * (half <= X)
        raw[:, NX:] = 1000 + 100 * (np.arange(STRIP) >= 16)
        raw[:, :NX] += rng.poisson(flat * electrons) / gain
        raw[:, :NX] += rng.normal(0, 6, (NY, NX)) / gain
        raw[:, NX:] += rng.normal(0, 3, (NY, STRIP))
        return raw.astype(np.float32)

    made = [frame(v) for v in (30_000, 25_000, 20_000, 18_000)]
    inputs = [RawInput(f"f{i}", row, lambda m=m: (m, fits.Header())) for i, m in enumerate(made)]
    result = master_flat(inputs, missing_bias="skip")
    master = result.value.master
    assert result.numbers["gain_e_adu_A"] == pytest.approx(1.6, rel=0.01)
    assert result.numbers["gain_e_adu_B"] == pytest.approx(2.1, rel=0.01)
    assert master.header["GAINM2"] == result.numbers["gain_e_adu_B"]
    # continuous to the error of the declared ratio, not by the factor of the gains
    edge = np.median((master.sci / flat)[:, half - 40 : half])
    assert edge / np.median((master.sci / flat)[:, half : half + 40]) == pytest.approx(
        1.03, abs=0.002
    )
    got = calibrate(frame(22_000), row, Masters(None, None, master), missing_bias="skip").value
    left, right = np.median(got.sci[:, :half]), np.median(got.sci[:, half:])
    # two medians of 120 000 pixels with 0.7 % noise: 0.003 %; flat errors are below
    assert left / right == pytest.approx(1, abs=3e-4)
    for side in (np.s_[:, :half], np.s_[:, half:]):
        part = got.sci[side] / np.median(got.sci[side]) - 1
        expected = got.err[side] / np.median(got.sci[side])
        # each side is judged with the gain that was declared for it
        assert (part / expected).std() == pytest.approx(1, abs=0.03)


def test_linearity_is_taken_out_before_the_flat_is_normalised():
    """A detector with ``f(m) = m (1 + 4e-6 m)``: vignetted parts are not brightened."""
    rng = np.random.default_rng(12)
    flat, c2 = true_flat(), 4e-6
    electronics = {"linearity": {"": {"polynomial": [c2]}}}

    def measured(electrons: np.ndarray) -> np.ndarray:
        linear = rng.poisson(electrons) / GAIN
        return (np.sqrt(1 + 4 * c2 * linear) - 1) / (2 * c2)

    made = []
    for level in (40_000, 34_000, 28_000, 20_000, 12_000):
        raw = 1000 + rng.normal(0, NOISE_E / GAIN, (NY, NX + STRIP))
        raw[:, :NX] += measured(flat * level)
        made.append(raw.astype(np.float32))
    inputs = [RawInput(f"f{i}", ROW, lambda m=m: (m, fits.Header())) for i, m in enumerate(made)]
    options = {"missing_bias": "skip", "minimum": 3}
    right = master_flat(inputs, electronics=electronics, **options)
    pulls = right.value.master.sci / np.median(right.value.master.sci / flat) - flat
    pulls /= right.value.master.err
    assert pulls.std() == pytest.approx(1, abs=0.02)
    assert abs(pulls[flat < 0.8].mean()) < 0.1
    assert right.numbers["gain_e_adu"] == pytest.approx(GAIN, rel=0.01)
    wrong = master_flat(inputs, **options).value.master
    off = (wrong.sci / np.median(wrong.sci / flat) - flat) / wrong.err
    assert off[flat < 0.8].mean() > 3


def test_nonlinear_pixels_are_found_by_bright_and_faint_flats(bias):
    """E18: the ratio of two levels is off. Also A26."""
    lamp = Twilight(31, stars=0)
    odd = np.zeros((NY, NX), bool)
    odd[50:350:50, 60:560:50] = True
    inputs = []
    for i, level in enumerate((50_000, 48_000, 46_000, 44_000, 12_000, 11_000, 10_000, 9_000)):
        light = lamp.flat * level * np.where(odd, 1 - 0.15 * level / 50_000, 1)
        image = lamp.raw(light)
        inputs.append(RawInput(f"f{i}", ROW, lambda image=image: (image, fits.Header())))
    result = master_flat(inputs, bias=bias)
    found = (result.value.master.mask & MaskBit.NONLINEAR) != 0
    assert found[odd].all()
    assert not found[~odd].any()
    assert result.numbers["n_nonlinear"] == odd.sum()
