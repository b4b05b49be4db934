"""Errors of masters and calibrated frames against injected truth.

A raw night is made from known planes: bias pattern, dark rate, flat, light. Gain, flat
and exposure ratio are well away from 1, so that a wrong power of any of them shows.
Pulls are ``(measured - true) / err``; 240 000 pixels per level fix their width to
0.15 %. The variance uses the photons of the true signal to within the pixel's own
noise; at low signal that stand-in makes the width up to 1.03 (noise model, 1.6), hence
the tolerance of 0.02 there and of 0.01 at high signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from astropy.io import fits

from skymill.kernels import calibrate as kernel
from skymill.kernels.combine import Terms, combine
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.master_bias import master_bias
from skymill.steps.master_dark import master_dark
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import RawInput

if TYPE_CHECKING:
    from collections.abc import Callable

NY, NX, STRIP = 400, 600, 40
GAIN, NOISE_E = 1.6, 6.0
DARK_S, LIGHT_S = 300.0, 120.0
DARK_ADU = 90.0  # of the dark frames
LEVELS_E = (20.0, 500.0, 5_000.0, 40_000.0)
ROW = {
    "instrument": "sim", "night": "2024-01-01", "filter": "r",
    "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + STRIP},1:{NY}]",
    "gain_e_adu": GAIN, "read_noise_e": NOISE_E, "saturation_adu": 1e9,
}  # fmt: skip


class Night:
    """Raw frames as float32: rounding is left out, everything else is as on a detector."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.bias = 15 + 4 * self.rng.standard_normal((NY, NX))
        # from 0.5 to 1.2; exactly 1 in the median, as a master flat is defined
        flat = np.linspace(0.5, 1.2, NX)[None, :] * self.rng.normal(1, 0.01, (NY, NX))
        self.flat = flat / np.median(flat)
        self.level = 1000.0

    def frame(self, electrons: np.ndarray | float) -> np.ndarray:
        """Raw frame (ADU) with the mean charge given in electron."""
        self.level += self.rng.normal(0, 3)
        raw = self.level + self.rng.normal(0, NOISE_E / GAIN, (NY, NX + STRIP))
        charge = self.rng.poisson(np.broadcast_to(electrons, (NY, NX)))
        raw[:, :NX] += self.bias + charge / GAIN
        return raw.astype(np.float32)

    def inputs(self, n: int, electrons: Callable[[int], np.ndarray | float], exposure: float):
        made = [self.frame(electrons(i)) for i in range(n)]
        row = ROW | {"exptime_s": exposure}
        return [
            RawInput(f"f{i}", row, lambda raw=raw: (raw, fits.Header()))
            for i, raw in enumerate(made)
        ]


@pytest.fixture(scope="module")
def night() -> Night:
    return Night(2024)


@pytest.fixture(scope="module")
def masters(night) -> Masters:
    dark_e = DARK_ADU * GAIN
    bias = master_bias(night.inputs(10, lambda _: 0.0, 0.0)).value.master
    dark = master_dark(night.inputs(7, lambda _: dark_e, DARK_S), bias=bias).value.master
    levels = (32_000, 30_000, 26_000, 24_000, 20_000, 18_000, 16_000, 14_000)

    def light(i: int) -> np.ndarray:
        return levels[i] * GAIN * night.flat + dark_e * 5.0 / DARK_S

    flat = master_flat(night.inputs(8, light, 5.0), bias=bias, dark=dark).value.master
    return Masters(bias, dark, flat)


def width(pulls: np.ndarray) -> float:
    return float(pulls.std())


def normal_scale(flat, night) -> float:
    """A flat is known up to a factor; that of the median pixel is taken out."""
    return float(np.median(flat.sci / night.flat))


def test_master_errors_are_the_scatter_about_the_truth(night, masters):
    """Standard errors of bias, dark and flat: width 1.00 within 2 %."""
    bias = (masters.bias.sci - night.bias) / masters.bias.err
    dark = (masters.dark.sci - night.bias - DARK_ADU) / masters.dark.err
    scale = normal_scale(masters.flat, night)
    flat = (masters.flat.sci / scale - night.flat) / masters.flat.err
    # the level of ten frames is known to 3.75/sqrt(16000)/sqrt(10) ADU: no visible mean
    for name, pulls in (("bias", bias), ("dark", dark), ("flat", flat)):
        assert width(pulls) == pytest.approx(1, abs=0.02), name
        assert abs(pulls.mean()) < 0.05, name


@pytest.mark.parametrize("level_e", LEVELS_E)
def test_calibrated_frames_have_pulls_of_width_one(night, masters, level_e):
    """A11, A13, E23, E24."""
    dark_e = DARK_ADU * GAIN * LIGHT_S / DARK_S
    raw = night.frame(level_e * night.flat + dark_e)
    frame = calibrate(raw, ROW | {"exptime_s": LIGHT_S}, masters).value
    scale = normal_scale(masters.flat, night)
    pulls = (frame.sci * scale - level_e) / (frame.err * scale)
    assert width(pulls) == pytest.approx(1, abs=0.02)
    # a pixel's own photons stand for their expectation: mean -1/(2 sqrt(n)) at most
    assert abs(pulls.mean()) < 0.08
    # the same holds where the flat is half and where it is 1.2: powers of F
    edge = pulls.shape[1] // 6
    tolerance = 0.02 + 4 / np.sqrt(2 * edge * NY)
    assert width(pulls[:, :edge]) == pytest.approx(1, abs=tolerance)
    assert width(pulls[:, -edge:]) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_bias_and_dark_errors_combine_with_their_signs(tau):
    """Masters of two frames each and little light, so that their errors count.

    At tau = 1 the bias cancels together with its error; a plain sum of variances would
    make the pulls 9 % too narrow. The pixel's own photons stand for their expectation,
    which makes the width up to 1.03.

    Rows E23.
    """
    night, level, dark_e = Night(7), 30.0, 5.0
    bias = master_bias(night.inputs(2, lambda _: 0.0, 0.0), minimum=2).value.master
    dark = master_dark(night.inputs(2, lambda _: dark_e, DARK_S), bias=bias, minimum=2).value.master
    row = ROW | {"exptime_s": tau * DARK_S}
    raw = night.frame(level + dark_e * tau)
    given = Masters(bias, dark, None)
    frame = calibrate(raw, row, given, missing_flat="skip", dark_scale_up=True).value
    pulls = (frame.sci - level) / frame.err
    assert 0.98 < width(pulls) < 1.04
    quiet = (NOISE_E / GAIN) ** 2
    independent = (level + dark_e * tau) / GAIN**2 + quiet
    v_bias, v_dark = quiet / 2, (quiet + dark_e / GAIN**2) / 2
    right = independent + (1 - tau) ** 2 * v_bias + tau**2 * v_dark
    assert float(np.median(frame.err / GAIN) ** 2) == pytest.approx(right, rel=0.03)


def mutated(masters: Masters, change: str) -> Masters:
    """Masters whose errors are wrong as a wrong formula would make them."""
    flat, bias, dark = masters.flat, masters.bias, masters.dark
    if change == "flat term with F^4":
        return Masters(bias, dark, flat.replace(err=flat.err / flat.sci))
    if change == "flat term without 1/F^2":
        return Masters(bias, dark, flat.replace(err=flat.err * flat.sci))
    if change == "flat error left out":
        return Masters(bias, dark, flat.replace(err=flat.err * 0))
    raise ValueError(change)


@pytest.mark.parametrize(
    "change", ["flat term with F^4", "flat term without 1/F^2", "flat error left out"]
)
def test_tolerances_are_sharp_enough_to_see_a_wrong_flat_term(night, masters, change):
    """The checks above must fail for the usual mistakes. A flat of one frame shows them.

    Rows A14.
    """
    one = Night(31)
    bias = masters.bias
    light = 20_000 * GAIN * one.flat
    one.bias = night.bias
    flat = master_flat(one.inputs(1, lambda _: light, 5.0), bias=bias, minimum=1).value.master
    raw = one.frame(40_000 * one.flat)
    scale = normal_scale(flat, one)
    widths = {}
    for name, given in (
        ("right", Masters(bias, None, flat)),
        ("wrong", mutated(Masters(bias, None, flat), change)),
    ):
        frame = calibrate(raw, ROW | {"exptime_s": 1.0, "dark": "not_needed"}, given).value
        pulls = (frame.sci * scale - 40_000) / (frame.err * scale)
        widths[name] = [width(pulls[:, :100]), width(pulls[:, -100:])]
    # 40 000 pixels per edge: 0.35 %
    np.testing.assert_allclose(widths["right"], 1, atol=0.03)
    assert max(abs(w - 1) for w in widths["wrong"]) > 0.06


@pytest.mark.parametrize(
    ("change", "level_e"),
    [("gain inverted", 500.0), ("gain of one", 5000.0), ("read noise in ADU", 20.0)],
)
def test_tolerances_are_sharp_enough_to_see_a_wrong_noise_term(night, masters, change, level_e):
    raw = night.frame(level_e * night.flat + DARK_ADU * GAIN * 0.4)
    row = ROW | {"exptime_s": LIGHT_S}
    frame = calibrate(raw, row, masters).value
    image = raw[:, :NX].astype(np.float64) - raw[:, NX:].mean() - masters.bias.sci
    light = np.maximum(image, 0)
    if change == "gain inverted":
        wrong = light * GAIN + (NOISE_E / GAIN) ** 2
    elif change == "gain of one":
        wrong = light + (NOISE_E / GAIN) ** 2
    else:
        wrong = light / GAIN + NOISE_E**2
    right = light / GAIN + (NOISE_E / GAIN) ** 2
    pulls = (frame.sci - level_e) / frame.err
    assert width(pulls) == pytest.approx(1, abs=0.02)
    assert abs(width(pulls / np.sqrt(wrong / right)) - 1) > 0.06


def test_shared_terms_do_not_average_down(night, masters):
    """Undithered frames: the scatter of their mean follows the masters, not 1/N."""
    level, n = 40_000.0, 12
    dark_e = DARK_ADU * GAIN * LIGHT_S / DARK_S
    row = ROW | {"exptime_s": LIGHT_S}
    frames = [
        calibrate(night.frame(level * night.flat + dark_e), row, masters).value for _ in range(n)
    ]
    scale = normal_scale(masters.flat, night)
    mean = np.mean([frame.sci for frame in frames], axis=0) * scale
    ideal = masters.flat.replace(err=masters.flat.err * 0)
    alone = calibrate(
        night.frame(level * night.flat + dark_e), row, Masters(masters.bias, masters.dark, ideal)
    ).value
    shared = frames[0].err.astype(float) ** 2 - alone.err.astype(float) ** 2
    expected = np.sqrt(shared + alone.err.astype(float) ** 2 / n) * scale
    assert width((mean - level) / expected) == pytest.approx(1, abs=0.02)
    assert width((mean - level) / (frames[0].err * scale / np.sqrt(n))) > 1.3


@pytest.mark.parametrize(
    ("method", "n", "options"),
    [
        ("clipped", 3, {}), ("clipped", 10, {}), ("clipped", 5, {"clip_sigma": 3.0}),
        ("clipped", 10, {"clip_sigma": 2.5}), ("mean", 4, {}), ("median", 3, {}),
        ("median", 4, {}), ("median", 9, {}), ("median", 2, {}),
        ("minmax", 10, {"n_low": 0, "n_high": 1}), ("minmax", 6, {"n_low": 1, "n_high": 1}),
        ("minmax", 5, {"n_low": 2, "n_high": 2}),
    ],
)  # fmt: skip
def test_standard_error_of_every_estimator(method, n, options):
    """Width 1.00 within 2 % for all estimators; 160 000 pixels fix it to 0.18 %. Row A22."""
    rng = np.random.default_rng(n)
    shape = (400, 400)
    cube = [rng.normal(200, 6, shape).astype(np.float32) for _ in range(n)]
    terms = Terms(np.zeros((n, 400)), np.full(n, 36.0), np.full(n, np.inf))
    readers = [lambda a, b, plane=plane: plane[a:b] for plane in cube]
    got = combine(readers, shape, terms, method=method, **options)
    centre = 200 if method != "minmax" else float(got.value.mean())
    assert width((got.value - centre) / got.err) == pytest.approx(1, abs=0.02)


def test_weighted_flats_reach_the_photon_limit(night, masters):
    """Frames of unequal level: weights by level, error 1/sqrt(all photons) within 2 %."""
    levels = (20_000, 15_000, 12_000, 9_000, 7_000)
    flat = master_flat(
        night.inputs(5, lambda i: levels[i] * night.flat, 5.0), bias=masters.bias
    ).value.master
    scale = normal_scale(flat, night)
    middle = np.abs(night.flat - 1) < 0.05
    seen = ((flat.sci / scale - night.flat) / night.flat)[middle].std()
    quiet = (NOISE_E**2) * 5 + 5**2 * (NOISE_E**2) / 10
    best = np.sqrt(sum(levels) + quiet) / sum(levels)
    # levels are in electron here, frames are made from electrons
    assert seen == pytest.approx(best, rel=0.03)


def test_kernel_is_the_one_under_test():
    """The step must not carry a second copy of the formula."""
    import skymill.steps.calibrate as step

    assert step.calibrate_pixels is kernel.calibrate_pixels
