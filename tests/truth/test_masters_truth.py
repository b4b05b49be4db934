"""Masters against the pattern that was put into the frames.

The detector is simulated here, in electrons and with two amplifiers, without any
function of the package. Theory is the textbook variance of a pixel (read noise, shot
noise, rounding) and published or simulated variances of the estimators. Of the
difference of master and truth the scatter must be that of theory within 2 %, the mean
below 0.02 of it, and the error plane must have pulls of width 1.00 +- 0.02. F4, A22,
E27, E28, O3, O4.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import MaskBit, Master
from skymill.steps.master_bias import master_bias
from skymill.steps.master_dark import master_dark
from skymill.steps.masters_common import RawInput

NY, WIDTH, STRIP = 400, 300, 64
NX = 2 * WIDTH
#: Electron/ADU and electron of the two amplifiers; the second is read from the right.
GAIN, NOISE_E = (1.4, 2.3), (7.0, 11.0)
EXPTIME_S, HITS = 600.0, 1e-3
#: Variance of the median relative to that of the mean (Monte Carlo of 10^6 samples).
MEDIAN = {3: 1.347, 5: 1.437, 7: 1.471, 10: 1.385}
METHODS = ("clipped", "weighted", "mean", "median", "minmax")


def row() -> dict:
    amplifiers = [
        {
            "name": name, "hdu": amp + 1, "data": f"[1:{WIDTH},1:{NY}]",
            "bias": [f"[{WIDTH + 1}:{WIDTH + STRIP},1:{NY}]"], "gain": GAIN[amp],
            "noise": NOISE_E[amp], "saturation": 60_000.0,
            "place": f"[1:{WIDTH},1:{NY}]" if amp == 0 else f"[{NX}:{WIDTH + 1},1:{NY}]",
        }
        for amp, name in enumerate("LR")
    ]  # fmt: skip
    return {
        "nx": NX, "ny": NY, "hdu": 1, "amplifiers": json.dumps(amplifiers),
        "gain_e_adu": 1.85, "read_noise_e": 9.2, "exptime_s": EXPTIME_S,
    }  # fmt: skip


@dataclass
class Detector:
    """Patterns in ADU (bias) and electron/s (dark), and frames made of them."""

    rng: np.random.Generator
    bias: np.ndarray = field(init=False)
    dark_e_s: np.ndarray = field(init=False)
    hits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        y, x = np.mgrid[:NY, :NX]
        self.bias = 40 + 6 * np.sin(x / 11) + 3 * np.cos(y / 17) + 8 * (x >= WIDTH)
        self.bias += self.rng.normal(0, 1.5, (NY, NX))
        self.dark_e_s = 0.1 + 0.15 * np.exp(-(x + y) / 200)
        hot = self.rng.integers(0, NY * NX, 150)
        self.hits = np.zeros((NY, NX), int)
        self.dark_e_s.ravel()[hot] += self.rng.uniform(1, 10, 150)

    def frame(self, name: str, time_s: float, hits: float) -> RawInput:
        electrons = self.rng.poisson(self.dark_e_s * time_s).astype(float)
        struck = self.rng.uniform(size=(NY, NX)) < hits
        electrons[struck] += self.rng.uniform(300, 20_000, int(struck.sum()))
        self.hits += struck
        level = 1200 + self.rng.normal(0, 15)
        images = {}
        for amp in (0, 1):
            raw = self.rng.normal(0, NOISE_E[amp] / GAIN[amp], (NY, WIDTH + STRIP))
            raw += level + 150 * amp
            at = np.s_[:, amp * WIDTH : (amp + 1) * WIDTH]
            part = electrons[at] / GAIN[amp] + self.bias[at]
            raw[:, :WIDTH] += part[:, ::-1] if amp else part
            images[amp + 1] = raw.round().clip(0, 65_535).astype(np.uint16)
        return RawInput(name, row() | {"exptime_s": time_s}, lambda: (images, fits.Header()))

    def frames(self, n: int, time_s: float, hits: float) -> list[RawInput]:
        return [self.frame(f"f{i}", time_s, hits) for i in range(n)]


def single_sigma(detector: Detector, time_s: float) -> np.ndarray:
    """Standard deviation of a pixel of one frame (ADU)."""
    gain, noise = (np.repeat(v, WIDTH)[None] for v in (GAIN, NOISE_E))
    return np.sqrt((noise**2 + detector.dark_e_s * time_s) / gain**2 + 1 / 12)


def efficiency(method: str, n: int) -> float:
    """Variance of the estimator times n over the variance of a value."""
    if method == "median":
        return MEDIAN[n]
    if method == "minmax" and n > 2:
        sample = np.random.default_rng(1).standard_normal((400_000, n))
        return float(np.sort(sample, axis=1)[:, 1:-1].mean(axis=1).var() * n)
    return 1.0


def judged(
    detector: Detector, master: Master, truth: np.ndarray, time_s: float, method: str, n: int
) -> None:
    """Scatter over theory, bias and pulls, on the whole frame and on each amplifier.

    Pixels that were hit twice are left out: no estimator that sees three values knows
    that two of them are wrong.
    """
    sigma = single_sigma(detector, time_s)
    theory = sigma * np.sqrt(efficiency(method, n) / n)
    # the median of skewed counts is low, by 1/6 electron at most
    skew = 1 / 6 if time_s > 0 and method in ("median", "minmax") else 0.0
    good = (master.mask & ~np.uint16(MaskBit.HOT | MaskBit.COLD)) == 0
    good &= detector.hits < 2
    assert good.mean() > 0.99
    for part in (np.s_[:, :], np.s_[:, :WIDTH], np.s_[:, WIDTH:]):
        use = good[part]
        residual = (master.sci - truth)[part][use]
        assert (residual / theory[part][use]).std() == pytest.approx(1, abs=0.02)
        assert (residual / master.err[part][use]).std() == pytest.approx(1, abs=0.02)
        assert abs(residual.mean()) < 0.02 * theory[part][use].mean() + skew / min(GAIN)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("method", METHODS)
def test_bias_is_the_pattern_within_its_error(method, n):
    """A22, E27, O3."""
    detector = Detector(np.random.default_rng(n))
    # a plain mean has no remedy against hits; with three values a trimmed mean is a median
    hits = 0.0 if method == "mean" else HITS
    result = master_bias(detector.frames(n, 0.0, hits), method=method)
    method = "median" if (method, n) == ("minmax", 3) else method
    judged(detector, result.value.master, detector.bias, 0.0, method, n)
    assert [code for code, _ in result.flags] == []


@pytest.mark.parametrize("method", METHODS)
def test_dark_is_bias_and_charge_within_its_error(method):
    """A22, E28, O4."""
    detector = Detector(np.random.default_rng(77))
    bias = master_bias(detector.frames(10, 0.0, 0.0)).value.master
    hits = 0.0 if method == "mean" else HITS
    result = master_dark(detector.frames(7, EXPTIME_S, hits), bias=bias, method=method)
    truth = detector.bias + detector.dark_e_s * EXPTIME_S / np.repeat(GAIN, WIDTH)
    judged(detector, result.value.master, truth, EXPTIME_S, method, 7)
    assert [code for code, _ in result.flags] == []
    assert result.numbers["variance_ratio"] == pytest.approx(1, abs=0.03)


def test_hits_are_rejected_and_hot_pixels_are_not():
    """A22, E18."""
    detector = Detector(np.random.default_rng(5))
    bias = master_bias(detector.frames(10, 0.0, 0.0)).value.master
    result = master_dark(detector.frames(7, EXPTIME_S, HITS), bias=bias)
    master = result.value.master
    # 300 electrons at least are 30 sigma; the model expects 1e-5 of the others
    lost = 7 - master.nused.astype(int)
    assert lost.sum() == pytest.approx(7 * HITS * NY * NX, abs=4 * np.sqrt(7 * HITS * NY * NX) + 20)
    hot = detector.dark_e_s > 1.0
    assert (master.nused[hot] >= 6).mean() > 0.97
    assert (master.mask[hot] & np.uint16(MaskBit.HOT) != 0).all()
    assert (master.mask[~hot] & np.uint16(MaskBit.HOT) != 0).mean() < 1e-4


def test_read_noise_is_measured_for_each_amplifier():
    """To half a per cent: 10 frames, 120 000 pixels of each amplifier sampled."""
    result = master_bias(Detector(np.random.default_rng(9)).frames(10, 0.0, HITS))
    for amp, name in enumerate("LR"):
        told = np.sqrt(NOISE_E[amp] ** 2 + GAIN[amp] ** 2 / 12)  # as measured from integers
        assert result.numbers[f"read_noise_e_{name}"] == pytest.approx(told, rel=0.006)


def test_darks_of_several_exposures_agree_with_the_truth():
    detector = Detector(np.random.default_rng(13))
    bias = master_bias(detector.frames(20, 0.0, 0.0)).value.master
    times = (150.0, 300.0, 600.0)
    frames = [detector.frame(f"d{i}", times[i % 3], HITS) for i in range(12)]
    master = master_dark(frames, bias=bias, scale_exposures=True).value.master
    truth = detector.bias + detector.dark_e_s * 600 / np.repeat(GAIN, WIDTH)
    pulls = ((master.sci - truth) / master.err)[master.mask == 0]
    assert pulls.std() == pytest.approx(1, abs=0.02)
    assert abs(pulls.mean()) < 0.02
