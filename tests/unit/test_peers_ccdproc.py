"""The arithmetic of calibration against astropy's ccdproc on the same frames.

Where the definitions are the same the results agree to the rounding of float32. Two are
not the same. ccdproc reports the scatter of the sample over sqrt(n) as the error of a
combination, which is too small for few frames (0.82 of the truth for three); ours follows
the noise model. And it scales a bias-subtracted dark, which is the same as
``(1 - tau) B + tau d`` in value, but it adds the variance of the bias twice.
"""

from __future__ import annotations

import astropy.units as u
import ccdproc
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from skymill.assembly import assemble
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.master_bias import master_bias
from skymill.steps.master_dark import master_dark
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import RawInput

NY, NX, STRIP = 120, 160, 24
GAIN, NOISE_E = 1.7, 8.0
IMAGE, OVERSCAN = f"[1:{NX},1:{NY}]", f"[{NX + 1}:{NX + STRIP},1:{NY}]"
ROW = {
    "instrument": "sim", "datasec": IMAGE, "biassec": OVERSCAN, "gain_e_adu": GAIN,
    "read_noise_e": NOISE_E, "saturation_adu": 60000.0, "exptime_s": 0.0,
}  # fmt: skip
MEAN = {"method": "mean", "fit": "row"}


@pytest.fixture(scope="module")
def night() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(12)
    pattern = rng.normal(20, 4, (NY, NX))
    flat = 1 + 0.1 * np.sin(np.arange(NX) / 30.0) + 0.02 * rng.normal(size=(NY, NX))

    def frame(electrons: np.ndarray | float) -> np.ndarray:
        level = 1000 + rng.normal(0, 5) + 0.05 * np.arange(NY)[:, None]
        raw = level + rng.normal(0, NOISE_E / GAIN, (NY, NX + STRIP))
        raw[:, :NX] += pattern + rng.poisson(np.broadcast_to(electrons, (NY, NX))) / GAIN
        return np.rint(raw).astype(np.uint16)

    return {
        "bias": [frame(0.0) for _ in range(9)],
        "dark": [frame(300.0) for _ in range(7)],
        "flat": [frame(level * flat) for level in (30_000, 26_000, 21_000, 18_000, 15_000)],
        "light": [frame(900.0 * flat + 60.0)],
    }


def inputs(frames: list[np.ndarray], exposure: float) -> list[RawInput]:
    row = ROW | {"exptime_s": exposure}
    return [
        RawInput(f"f{i}", row, lambda raw=raw: (raw, fits.Header())) for i, raw in enumerate(frames)
    ]


def trimmed(raw: np.ndarray, *, median: bool = False) -> CCDData:
    ccd = CCDData(raw.astype(np.float64), unit="adu")
    ccd = ccdproc.subtract_overscan(ccd, fits_section=OVERSCAN, overscan_axis=1, median=median)
    return ccdproc.trim_image(ccd, fits_section=IMAGE)


def combined(frames: list[CCDData], method: str = "average", scale=None) -> np.ndarray:
    return np.asarray(ccdproc.combine(frames, method=method, scale=scale).data)


@pytest.mark.parametrize("method", ["mean", "median"])
def test_overscan_and_trim(night, method):
    """S6."""
    for raw in night["bias"][:3]:
        ours = assemble(raw, ROW, overscan={"method": method, "fit": "row"}).subtracted()
        np.testing.assert_allclose(ours, trimmed(raw, median=method == "median").data, atol=2e-4)


@pytest.mark.parametrize(("ours", "theirs"), [("mean", "average"), ("median", "median")])
def test_bias(night, ours, theirs):
    master = master_bias(inputs(night["bias"], 0.0), method=ours, overscan=MEAN).value.master
    peer = combined([trimmed(raw) for raw in night["bias"]], theirs)
    np.testing.assert_allclose(master.sci, peer, atol=3e-4)


def test_dark_flat_and_light(night):
    """S1."""
    options = {"method": "mean", "overscan": MEAN}
    bias = master_bias(inputs(night["bias"], 0.0), **options).value.master
    dark = master_dark(inputs(night["dark"], 300.0), bias=bias, **options).value.master
    flat = master_flat(
        inputs(night["flat"], 10.0), bias=bias, dark=dark, twilight="no", **options
    ).value.master
    row = ROW | {"exptime_s": 60.0}
    ours = calibrate(night["light"][0], row, Masters(bias, dark, flat), overscan=MEAN).value

    peer_bias = CCDData(combined([trimmed(raw) for raw in night["bias"]]), unit="adu")
    frames = [ccdproc.subtract_bias(trimmed(raw), peer_bias) for raw in night["dark"]]
    peer_dark = CCDData(combined(frames), unit="adu")
    np.testing.assert_allclose(dark.sci - bias.sci, peer_dark.data, atol=5e-4)

    def without_dark(raw: np.ndarray, seconds: float) -> CCDData:
        return ccdproc.subtract_dark(
            ccdproc.subtract_bias(trimmed(raw), peer_bias), peer_dark, scale=True,
            dark_exposure=300 * u.s, data_exposure=seconds * u.s,
        )  # fmt: skip

    flats = [without_dark(raw, 10.0) for raw in night["flat"]]
    # weights proportional to the level: sum of the frames over the sum of the levels
    total = np.sum([one.data for one in flats], axis=0)
    peer_flat = total / np.median(total)
    np.testing.assert_allclose(flat.sci, peer_flat, rtol=2e-5)
    light = ccdproc.flat_correct(
        without_dark(night["light"][0], 60.0), CCDData(peer_flat, unit=u.one), norm_value=1.0
    )
    electrons = ccdproc.gain_correct(light, GAIN * u.electron / u.adu)
    np.testing.assert_allclose(ours.sci, electrons.data, atol=0.02, rtol=2e-5)


def test_the_peers_error_of_few_frames_is_too_small_and_ours_is_not():
    rng = np.random.default_rng(4)
    frames = [
        np.rint(1000 + rng.normal(0, NOISE_E / GAIN, (300, 300))).astype(np.uint16)
        for _ in range(3)
    ]
    row = {k: v for k, v in ROW.items() if "sec" not in k}
    made = [
        RawInput(f"f{i}", row, lambda raw=raw: (raw, fits.Header())) for i, raw in enumerate(frames)
    ]
    ours = master_bias(made).value.master
    peer = ccdproc.combine([CCDData(f.astype(float), unit="adu") for f in frames])
    truth = np.std(ours.sci - 1000)
    # 90 000 pixels: one standard error of the scatter is 0.24 %
    assert np.median(ours.err) / truth == pytest.approx(1, abs=0.01)
    assert np.mean(peer.uncertainty.array) / truth < 0.9
