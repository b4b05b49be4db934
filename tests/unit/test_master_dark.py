"""Master dark: exposures, hot pixels, errors without the bias term."""

from __future__ import annotations

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


def test_bias_of_another_size_fails_the_master(arrays):
    small = Master(
        np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), np.zeros((4, 4), np.uint16),
        fits.Header(), unit="adu", nused=np.ones((4, 4), np.uint16),
    )  # fmt: skip
    with pytest.raises(MasterFailed, match="WRONG_SIZE") as caught:
        master_dark(inputs(arrays), bias=small)
    assert len(caught.value.outcomes) == 7
