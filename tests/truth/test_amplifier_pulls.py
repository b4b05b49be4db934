"""Pulls of calibrated frames on every amplifier, with everything a detector does at once.

A detector of 2 x 2 amplifiers is simulated from its physics, not from the formula that is
tested: Poisson charges, an electronic non-linearity that is inverted exactly, read noise
after it, mirrored read-out, a drifting level. Gain, noise, linearity and corner differ
between the amplifiers. Masters carry errors drawn with the widths that they claim.

Pulls are ``(measured - true)/err``. Each amplifier has 75 000 pixels, which fix the width
to 0.26 %; its lowest quarter of the flat has 18 750: 0.52 %.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import Master
from skymill.steps.calibrate import Masters, calibrate

HALF_Y, HALF_X, STRIP = 250, 300, 32
NY, NX = 2 * HALF_Y, 2 * HALF_X
DARK_S, DARK_ADU_S = 300.0, 0.3
NAMES = ("LL", "LR", "UL", "UR")
GAIN = {"LL": 1.2, "LR": 1.6, "UL": 2.0, "UR": 2.6}
NOISE_E = {"LL": 4.0, "LR": 6.0, "UL": 8.0, "UR": 11.0}
CURVE = {"LL": 8e-7, "LR": 1.5e-6, "UL": -1.2e-6, "UR": 2.5e-6}
LEVEL = {"LL": 400.0, "LR": 900.0, "UL": 1300.0, "UR": 2100.0}
BIAS_ERR, DARK_ERR, FLAT_ERR = 1.1, 1.6, 0.004
TOP_ADU = 58_000.0


def place(name: str) -> tuple[slice, slice]:
    """Part of the assembled frame."""
    y0, x0 = HALF_Y * (name[0] == "U"), HALF_X * (name[1] == "R")
    return slice(y0, y0 + HALF_Y), slice(x0, x0 + HALF_X)


def turned(name: str, part: np.ndarray) -> np.ndarray:
    """From the assembled orientation to that of the raw image, or back."""
    part = part[::-1] if name[0] == "U" else part
    return part[:, ::-1] if name[1] == "R" else part


def row() -> dict:
    entries = []
    for hdu, name in enumerate(NAMES, 1):
        ys, xs = place(name)
        x = (xs.start + 1, xs.stop) if name[1] == "L" else (xs.stop, xs.start + 1)
        y = (ys.start + 1, ys.stop) if name[0] == "L" else (ys.stop, ys.start + 1)
        entries.append(
            {
                "name": name, "hdu": hdu, "data": f"[1:{HALF_X},1:{HALF_Y}]",
                "bias": [f"[{HALF_X + 1}:{HALF_X + STRIP},1:{HALF_Y}]"],
                "place": f"[{x[0]}:{x[1]},{y[0]}:{y[1]}]", "gain": GAIN[name],
                "noise": NOISE_E[name], "saturation": 65_000.0, "linear_max": None,
            }
        )  # fmt: skip
    return {
        "frame_id": "a", "instrument": "sim", "hdu": 1, "nx": NX, "ny": NY,
        "datasec": f"[1:{NX},1:{NY}]", "biassec": "", "amplifiers": json.dumps(entries),
        "gain_e_adu": 1.85, "read_noise_e": 7.6, "saturation_adu": 65_000.0,
    }  # fmt: skip


class Detector:
    """What is true of it, and frames that it gives."""

    def __init__(self, seed: int, *, linear: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.linear = linear
        self.curve = CURVE
        self.bias_err = BIAS_ERR
        self.bias = 12 + 3 * self.rng.standard_normal((NY, NX))
        ramp = np.tile(np.linspace(0.35, 1.2, HALF_X), 2)[None, :]
        self.flat = ramp * self.rng.normal(1, 0.01, (NY, NX))

    def per_pixel(self, table: dict[str, float]) -> np.ndarray:
        out = np.empty((NY, NX))
        for name in NAMES:
            out[place(name)] = table[name]
        return out

    def measured(self, charge: np.ndarray) -> np.ndarray:
        """ADU above the bias that the electronics make of a charge (electron)."""
        true = charge / self.per_pixel(GAIN)
        if self.linear:
            return true
        c2 = self.per_pixel(self.curve)
        return (np.sqrt(1 + 4 * c2 * true) - 1) / (2 * c2)

    def light(self, level: float | str) -> np.ndarray:
        """Light (electron) where the flat is 1; ``top`` is near saturation."""
        if level != "top":
            return np.full((NY, NX), float(level))
        return TOP_ADU * self.per_pixel(GAIN) / self.flat.max()

    def frame(self, light_e: np.ndarray, exposure_s: float) -> dict[int, np.ndarray]:
        dark_e = DARK_ADU_S * exposure_s * self.per_pixel(GAIN)
        charge = self.rng.poisson(light_e * self.flat + dark_e)
        noise = self.per_pixel(NOISE_E) / self.per_pixel(GAIN)
        pixels = self.measured(charge) + self.bias + noise * self.rng.standard_normal((NY, NX))
        images = {}
        for hdu, name in enumerate(NAMES, 1):
            level = LEVEL[name] + self.rng.normal(0, 3)
            image = np.empty((HALF_Y, HALF_X + STRIP))
            image[:, :HALF_X] = turned(name, pixels[place(name)])
            sigma = NOISE_E[name] / GAIN[name]
            image[:, HALF_X:] = self.rng.normal(0, sigma, (HALF_Y, STRIP))
            images[hdu] = (image + level).astype(np.float32)
        return images

    def masters(self, *, dark: bool) -> Masters:
        def master(true: np.ndarray, err: float, unit: str) -> Master:
            value = true + err * self.rng.standard_normal((NY, NX))
            return Master(
                value.astype(np.float32), np.full((NY, NX), err, np.float32),
                np.zeros((NY, NX), np.uint16), fits.Header({"EXPTIME": DARK_S}), unit=unit,
                nused=np.full((NY, NX), 9, np.uint16),
            )  # fmt: skip

        charge = DARK_ADU_S * DARK_S * self.per_pixel(GAIN)
        return Masters(
            master(self.bias, self.bias_err, "adu"),
            master(self.bias + self.measured(charge), DARK_ERR, "adu") if dark else None,
            master(self.flat, FLAT_ERR, ""),
        )

    def electronics(self) -> dict | None:
        if self.linear:
            return None
        return {"linearity": {name: {"polynomial": [self.curve[name]]} for name in NAMES}}


def pulls(detector: Detector, level: float | str, tau: float | None, **changes) -> np.ndarray:
    exposure = 0.0 if tau is None else tau * DARK_S
    light = detector.light(level)
    electronics = changes.pop("electronics", detector.electronics())
    frame = calibrate(
        detector.frame(light, exposure), row() | {"exptime_s": exposure, "dark": "optional"},
        detector.masters(dark=tau is not None), electronics=electronics, dark_scale_up=True,
        **changes,
    ).value  # fmt: skip
    assert not frame.mask.any()
    return (frame.sci - light) / frame.err


def check(values: np.ndarray, what: str) -> None:
    width = float(values.std())
    tolerance = max(0.02, 4 / np.sqrt(2 * values.size))
    assert width == pytest.approx(1, abs=tolerance), f"{what}: {width:.4f}"


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "curved"])
@pytest.mark.parametrize("tau", [None, 0.4, 1.0, 1.6])
@pytest.mark.parametrize("level", [300.0, 10_000.0, "top"])
def test_pulls_have_width_one_on_every_amplifier(linear, tau, level):
    """E24, A13, A14, F2: from sky to near saturation, with and without dark, at low flat."""
    detector = Detector(71, linear=linear)
    values = pulls(detector, level, tau)
    for name in NAMES:
        part = values[place(name)]
        check(part, name)
        check(part[:, : HALF_X // 4], f"{name}, flat below 0.56")
        check(part[:, -HALF_X // 4 :], f"{name}, flat above 0.99")
        # the level of the overscan is common: 4 / sqrt(8000) of a pixel's read noise;
        # a pixel's own photons stand for their expectation: -1/(2 sqrt(n)) at 300 e x 0.35
        assert abs(part.mean()) < 0.09, name


@pytest.mark.parametrize(
    ("level", "change"),
    [
        ("top", {"electronics": None}),  # not linearised
        (300.0, {"electronics": {"linearity": {}, "crosstalk": {"LL": {"LR": 2e-2}}}}),
    ],
)
def test_the_checks_see_a_wrong_treatment(level, change):
    values = pulls(Detector(72, linear=False), level, 0.4, **change)
    with pytest.raises(AssertionError):
        for name in NAMES:
            check(values[place(name)], name)
            assert abs(values[place(name)].mean()) < 0.09


def test_the_error_of_the_bias_counts_with_the_slopes_of_frame_and_dark():
    """At equal exposures the bias cancels only as far as the two slopes agree (1.5).

    An absurdly noisy bias and a strongly curved amplifier: without the difference of the
    slopes the pulls are a tenth too wide.
    """
    detector = Detector(73, linear=False)
    detector.bias_err, detector.curve = 400.0, dict.fromkeys(NAMES, 6e-6)
    light = np.full((NY, NX), 20_000.0)
    masters = detector.masters(dark=True)
    quiet = masters.bias.replace(err=masters.bias.err * 0)
    widths = {}
    for what, bias in (("right", masters.bias), ("blind", quiet)):
        frame = calibrate(
            detector.frame(light, DARK_S), row() | {"exptime_s": DARK_S},
            Masters(bias, masters.dark, masters.flat), electronics=detector.electronics(),
        ).value  # fmt: skip
        values = (frame.sci - light) / frame.err
        widths[what] = [float(values[place(name)].std()) for name in NAMES]
    np.testing.assert_allclose(widths["right"], 1, atol=0.02)
    assert min(widths["blind"]) > 1.03
    assert max(widths["blind"]) > 1.1
