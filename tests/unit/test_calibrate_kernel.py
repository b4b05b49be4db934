"""The fused calibration against the same formulas written plane by plane with numpy."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.kernels.calibrate import Planes, calibrate_pixels

NY, NX = 23, 31
BITS = (1, 2, 16, 256)


@pytest.fixture
def planes():
    rng = np.random.default_rng(21)

    def pair(mean, spread, err):
        value = rng.normal(mean, spread, (NY, NX)).astype(np.float32)
        return value, rng.uniform(0.5, 1.5, (NY, NX)).astype(np.float32) * np.float32(err)

    return {
        "raw": rng.integers(900, 40_000, (NY, NX)).astype(np.uint16),
        "level": rng.normal(1000, 3, (NY, 1)),
        "level_variance": rng.uniform(0.1, 0.9, (NY, 1)),
        "bias": pair(12, 3, 1.3),
        "dark": pair(60, 8, 2.1),
        "flat": pair(0.6, 0.1, 0.02),
    }


def run(planes, **options):
    arguments = {
        "gain": 1.7, "quiet_variance": 21.0, "saturation": 65_535.0, "linear_max": np.inf,
        "bits": BITS, "bias": planes["bias"], "dark": planes["dark"], "flat": planes["flat"],
        "tau": 0.4,
    }  # fmt: skip
    arguments |= options
    return calibrate_pixels(planes["raw"], planes["level"], planes["level_variance"], **arguments)


def reference(p, *, tau=0.4, gain=1.7, quiet=21.0, with_bias=True, with_dark=True, with_flat=True):
    zero = (np.zeros((NY, NX)), np.zeros((NY, NX)))
    b, vb = p["bias"] if with_bias else zero
    d, vd = p["dark"] if with_dark else zero
    f, vf = p["flat"] if with_flat else (np.ones((NY, NX)), np.zeros((NY, NX)))
    b, d, f = (np.asarray(a, np.float64) for a in (b, d, f))
    vb, vd, vf = (np.asarray(a, np.float64) ** 2 for a in (vb, vd, vf))
    tau = tau if with_dark else 0.0
    above = p["raw"].astype(np.float64) - p["level"]
    charge = above - b
    value = (above - (1 - tau) * b - tau * d) / f
    inside = np.maximum(charge, 0) / gain + quiet + p["level_variance"]
    inside = inside + (1 - tau) ** 2 * vb + tau**2 * vd
    variance = inside / f**2 + value**2 * vf / f**2
    return gain * value, gain * np.sqrt(variance)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.5])
def test_all_terms_follow_the_noise_model(planes, tau):
    """A13, E24, O7."""
    sci, err, mask = run(planes, tau=tau)
    value, sigma = reference(planes, tau=tau)
    np.testing.assert_allclose(sci, value, rtol=3e-7, atol=1e-3)
    np.testing.assert_allclose(err, sigma, rtol=3e-7)
    assert not mask.any()
    assert sci.dtype == err.dtype == np.float32


@pytest.mark.parametrize("absent", ["bias", "dark", "flat"])
def test_absent_masters_leave_no_trace(planes, absent):
    sci, err, _ = run(planes, **{absent: None})
    value, sigma = reference(planes, **{f"with_{absent}": False})
    np.testing.assert_allclose(sci, value, rtol=3e-7, atol=1e-3)
    np.testing.assert_allclose(err, sigma, rtol=3e-7)


def test_without_a_dark_the_bias_counts_in_full(planes):
    """tau has no meaning then; (1 - tau)^2 must not shrink the bias term."""
    one, two = run(planes, dark=None, tau=0.0), run(planes, dark=None, tau=0.7)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_values_become_nan_with_a_bit(planes):
    """A9."""
    flat, flat_err = planes["flat"][0].copy(), planes["flat"][1]
    flat[0, :4] = (0.0, -0.5, np.nan, np.inf)
    bias = planes["bias"][0].copy()
    bias[1, 1] = np.nan
    dark_err = planes["dark"][1].copy()
    dark_err[2, 2] = np.nan
    raw = planes["raw"].astype(np.float32)
    raw[3, 3], raw[4, 4] = np.nan, -np.inf
    sci, err, mask = run(
        planes | {"raw": raw}, flat=(flat, flat_err), bias=(bias, planes["bias"][1]),
        dark=(planes["dark"][0], dark_err),
    )  # fmt: skip
    for x in range(4):
        assert mask[0, x] == BITS[0] | BITS[3]
    for y in range(1, 5):
        assert mask[y, y] == BITS[0]
    bad = mask != 0
    assert bad.sum() == 8
    assert np.isnan(sci[bad]).all()
    assert np.isnan(err[bad]).all()
    assert (err[~bad] > 0).all()


def test_saturation_and_linearity_are_judged_on_the_raw_value(planes):
    raw = planes["raw"]
    raw[0, :5] = (29_999, 30_000, 30_001, 49_999, 50_000)
    _, _, mask = run(planes, saturation=50_000.0, linear_max=30_000.0)
    assert list(mask[0, :5]) == [0, 0, BITS[2], BITS[2], BITS[1]]


def test_inherited_bits_stay_and_inputs_are_not_touched(planes):
    inherited = np.zeros((NY, NX), np.uint16)
    inherited[5, 5] = 32
    before = planes["raw"].copy()
    _, _, mask = run(planes, inherited=inherited)
    assert mask[5, 5] == 32
    mask[...] = 7
    assert inherited.sum() == 32
    np.testing.assert_array_equal(before, planes["raw"])


def test_integer_types_agree(planes):
    one = run(planes)
    for dtype in (np.float32, np.int32, np.float64, ">u2"):
        two = run(planes | {"raw": planes["raw"].astype(dtype)})
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def curve(c2=4e-6):
    at = np.arange(4097) * 16.0
    return at * (1 + c2 * at), 16.0


def test_linearity_lies_between_bias_and_dark(planes):
    """Value and every variance term of section 1.5, written with the exact derivative."""
    planes["raw"] = np.maximum(planes["raw"], 1100)  # below 0 ADU the first piece goes on
    sci, err, _ = run(planes, linearity=curve())
    c2, tau, gain, quiet = 4e-6, 0.4, 1.7, 21.0
    b, vb = (np.asarray(a, np.float64) for a in planes["bias"])
    d, vd = (np.asarray(a, np.float64) for a in planes["dark"])
    f, vf = (np.asarray(a, np.float64) for a in planes["flat"])
    m, m_dark = planes["raw"] - planes["level"] - b, d - b
    linear, dark = m * (1 + c2 * m), m_dark * (1 + c2 * m_dark)
    steep, dark_steep = 1 + 2 * c2 * m, 1 + 2 * c2 * m_dark
    value = (linear - tau * dark) / f
    inside = np.maximum(linear, 0) / gain + steep**2 * (quiet + planes["level_variance"])
    inside += (steep - tau * dark_steep) ** 2 * vb**2 + tau**2 * dark_steep**2 * vd**2
    sigma = gain * np.sqrt(inside / f**2 + value**2 * vf**2 / f**2)
    # pieces of 16 ADU: the slope is off by up to 8 x 2 c2, the value by 64 c2 ADU
    np.testing.assert_allclose(sci, gain * value, atol=gain / 0.2 * 64 * c2 + 2e-2)
    np.testing.assert_allclose(err, sigma, rtol=1e-4)


def test_linearity_of_one_changes_nothing(planes):
    plain = run(planes)
    curved = run(planes, linearity=(np.arange(4097) * 16.0, 16.0))
    for one, two in zip(plain, curved, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-3)


def test_linearity_goes_on_beyond_its_ends(planes):
    raw = planes["raw"].astype(np.float32)
    raw[0, 0], raw[0, 1], raw[0, 2] = 100_000.0, 900.0, np.nan
    sci, _, mask = run(
        planes | {"raw": raw}, linearity=curve(), bias=None, dark=None, flat=None
    )  # fmt: skip
    values, step = curve()
    m = 100_000.0 - planes["level"][0, 0]
    slope = (values[-1] - values[-2]) / step
    assert sci[0, 0] == pytest.approx(1.7 * (values[-1] + slope * (m - 65_536)), rel=1e-6)
    low = 900.0 - planes["level"][0, 0]
    assert sci[0, 1] == pytest.approx(1.7 * low * values[1] / step, rel=1e-5)
    assert np.isnan(sci[0, 2])
    assert mask[0, 2] == BITS[0]


def test_parts_of_a_frame_are_the_frame(planes):
    """Amplifiers are written into the planes of the whole, with the masters of the whole."""
    whole = run(planes, inherited=np.full((NY, NX), 64, np.uint16))
    out = Planes.empty((NY, NX))
    for rows, columns in ((slice(0, 9), slice(0, NX)), (slice(9, NY), slice(0, 13)),
                          (slice(9, NY), slice(13, NX))):  # fmt: skip
        part = {"raw": planes["raw"][rows, columns]} | {
            name: planes[name][rows] for name in ("level", "level_variance")
        }
        run(
            planes | part, out=out, corner=(rows.start, columns.start),
            inherited=np.full((NY, NX), 64, np.uint16),
        )  # fmt: skip
    for one, two in zip(whole, out, strict=True):
        np.testing.assert_array_equal(one, two)


def test_level_may_change_along_rows_columns_both_or_nothing(planes):
    rng = np.random.default_rng(4)
    full = rng.normal(1000, 3, (NY, NX)), rng.uniform(0.1, 0.9, (NY, NX))
    for part in (np.s_[:1, :1], np.s_[:, :1], np.s_[:1, :], np.s_[:, :]):
        level, variance = (plane[part].copy() for plane in full)
        given = planes | {"level": level, "level_variance": variance}
        sci, err, _ = run(given)
        value, sigma = reference(given)
        np.testing.assert_allclose(sci, value, rtol=3e-7, atol=1e-3)
        np.testing.assert_allclose(err, sigma, rtol=3e-7)


def test_mirrored_views_need_no_copy(planes):
    mirrored = planes["raw"][::-1, ::-1]
    one = run(planes | {"raw": mirrored})
    two = run(planes | {"raw": mirrored.copy()})
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_flat_of_almost_nothing_gives_no_infinite_errors(planes):
    flat = planes["flat"][0].copy()
    flat[0, 0] = np.float32(1e-39)
    raw, level = planes["raw"].astype(np.float32), planes["level"]
    raw[0, 0] = level[0, 0]
    sci, err, mask = run(
        planes | {"raw": raw}, flat=(flat, planes["flat"][1]), bias=None, dark=None
    )  # fmt: skip
    assert np.isnan(sci[0, 0])
    assert np.isnan(err[0, 0])
    assert mask[0, 0] == BITS[0] | BITS[3]
