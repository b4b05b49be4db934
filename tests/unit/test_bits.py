"""Passes over mask bits against the same in numpy."""

import numpy as np
import pytest

from skymill.kernels.bits import count_bits, flagged, sample_quantiles, unexplained, with_no_data

BAD = np.uint16(0x0207)


@pytest.fixture
def planes():
    rng = np.random.default_rng(1)
    sci = rng.normal(100, 10, (67, 83)).astype(np.float32)
    err = rng.uniform(5, 6, sci.shape).astype(np.float32)
    mask = np.where(rng.random(sci.shape) < 0.05, rng.integers(0, 65536, sci.shape), 0)
    sci[3, 5], sci[9, 70], err[20, 7], err[21, 7], err[22, 7] = np.nan, np.inf, np.nan, 0, -1
    return sci, err, mask.astype(np.uint16)


def test_flags_and_their_number(planes):
    mask = planes[2]
    np.testing.assert_array_equal(flagged(mask, BAD), (mask & BAD) != 0)
    assert count_bits(mask, BAD) == np.count_nonzero(mask & BAD)


def test_pixels_without_data_are_marked_in_a_copy(planes):
    sci, err, mask = planes
    before = mask.copy()
    lost = ~(np.isfinite(sci) & np.isfinite(err) & (err > 0))
    got = with_no_data(sci, err, mask, np.uint16(1))
    np.testing.assert_array_equal(got, np.where(lost, mask | 1, mask))
    np.testing.assert_array_equal(mask, before)


def test_what_must_not_be_in_a_product_is_counted(planes):
    sci, err, mask = planes
    mask[9, 70], mask[3, 5], mask[20, 7] = 1, 0, 0
    assert unexplained(sci, err, mask) == (2, 3 * 83 + 5, 2)
    mask[[3, 20], [5, 7]] = 4
    err[21:23, 7] = 1
    assert unexplained(sci, err, mask) == (0, -1, 0)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_quantiles_are_those_of_numpy(planes, step):
    sci, err, mask = (plane.ravel() for plane in planes)
    mask[~(np.isfinite(sci) & np.isfinite(err))] = 1
    parts = np.array([0.1, 0.5, 0.9, 0.999])
    values, typical = sample_quantiles(sci, err, mask, BAD, step, parts)
    good = (mask[::step] & BAD) == 0
    wanted = np.quantile(sci[::step][good].astype(np.float64), parts)
    np.testing.assert_array_equal(values, wanted)
    assert typical == np.median(err[::step][good].astype(np.float64))


def test_a_sample_without_good_pixels_gives_way_to_all_of_them():
    sci, mask = np.arange(10, dtype=np.float32), np.ones(10, np.uint16)
    mask[3] = 0
    values, typical = sample_quantiles(sci, sci, mask, BAD, 2, np.array([0.1, 0.9]))
    assert values.tolist() == [3, 3]
    assert typical == 3
    mask[3] = 1
    assert np.isnan(sample_quantiles(sci, sci, mask, BAD, 2, np.array([0.5]))[0]).all()
