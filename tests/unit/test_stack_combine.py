"""Combination of pixels: medians, the cheap first pass, second-class values, bands."""

import numpy as np
import pytest

from skymill.frame import MaskBit
from skymill.kernels.stack import Cube, empty_planes, first_pass
from skymill.kernels.stack_clip import centre_rows, finish_rows, reject_rows, weighted_median
from skymill.kernels.stack_median import median_efficiency, median_rows

SECOND = int(MaskBit.INTERPOLATED)
BITS = (SECOND, int(MaskBit.SATURATED), int(MaskBit.NO_DATA))


def cube_of(values, *, sigma=None, mask=None, k2=None):
    n, rows, nx = values.shape
    sigma = np.ones(n) if sigma is None else np.asarray(sigma, float)
    groups = -(-nx // 8)
    flat = [
        values.astype("f4"),
        np.broadcast_to(sigma[:, None, None] ** 2, values.shape).astype("f4"),
        np.full(values.shape, 65535, np.uint16) if k2 is None else k2,
        np.zeros(values.shape, np.uint16) if mask is None else mask,
        np.zeros(values.shape, np.uint8),
    ]
    noise = np.broadcast_to(sigma[:, None, None] ** 2, (n, rows, groups)).astype("f4").copy()
    return Cube(
        *(item.reshape(-1).copy() for item in flat),
        np.ones((n, rows, groups), np.float32), noise, np.ones(n), np.zeros(n),
        np.array([[0, rows]] * n), rows * nx, nx,
    )  # fmt: skip


def combine(cube, rows, clip=4.5, grow=2.5, q=0.0, *, force=False):
    n, nx = cube.factor.size, cube.nx
    planes = empty_planes((rows, nx))
    centre = np.full((rows, nx), np.nan)
    todo, near = np.zeros((rows, nx), np.uint8), np.zeros((rows, nx), np.uint8)
    used, clipped = np.zeros(n, np.int64), np.zeros(n, np.int64)
    first_pass(cube, 0, 0, rows, clip, False, BITS, planes, centre, todo, used)
    if force:
        todo[todo == 0] = 1
    centre_rows(cube, 0, rows, SECOND, centre, todo)
    q = np.full(cube.factor.size, q)
    reject_rows(cube, 0, rows, clip, q, SECOND, centre, todo, near)
    bits = (SECOND, int(MaskBit.COSMIC))
    finish_rows(cube, 0, 0, rows, grow, q, False, bits, planes, centre, todo, near, used, clipped)
    return planes, used, clipped


def test_weighted_median_splits_the_weight_in_halves():
    rng = np.random.default_rng(3)
    for _ in range(3000):
        n = int(rng.integers(1, 14))
        x = rng.normal(0, 1, n).round(1)
        w = rng.choice([0.5, 1.0, 2.0], n)
        cut = w.copy()
        heavy = cut.argmax()
        rest = cut.sum() - cut[heavy]
        if n > 1:
            cut[heavy] = min(cut[heavy], rest)
        median = weighted_median(x.copy(), w.copy(), n)
        slack = 1e-6 * cut.sum()
        assert cut[x < median].sum() <= cut.sum() / 2 + slack
        assert cut[x > median].sum() <= cut.sum() / 2 + slack


def test_equal_weights_give_the_plain_median():
    rng = np.random.default_rng(4)
    for n in (1, 2, 3, 8, 101, 1000):
        x = rng.normal(0, 1, n)
        assert weighted_median(x.copy(), np.ones(n), n) == pytest.approx(np.median(x), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_cheap_pass_misses_nothing_that_the_full_test_rejects(n):
    rng = np.random.default_rng(n)
    sigma = rng.choice([1.0, 1.5, 4.0], n)
    values = rng.normal(0, 1, (n, 40, 64)) * sigma[:, None, None]
    hits = rng.random(values.shape) < 0.01
    values[hits] += (
        rng.uniform(2, 9, hits.sum()) * np.broadcast_to(sigma[:, None, None], values.shape)[hits]
    )
    quick, full = cube_of(values, sigma=sigma), cube_of(values, sigma=sigma)
    one, _, clipped = combine(quick, 40)
    other, _, everywhere = combine(full, 40, force=True)
    np.testing.assert_array_equal(quick.state, full.state)
    np.testing.assert_array_equal(one.sci, other.sci)
    np.testing.assert_array_equal(clipped, everywhere)
    assert clipped.sum() > 0


def test_second_class_values_fill_holes_only():
    values = np.zeros((3, 8, 16))
    values[0], values[1], values[2] = 1.0, 2.0, 3.0
    mask, k2 = np.zeros(values.shape, np.uint16), np.full(values.shape, 65535, np.uint16)
    mask[1:, 2, 5] = SECOND  # one good value is left
    mask[:, 4, 7] = SECOND | int(MaskBit.COSMIC)  # none
    k2[2, 4, 7] = 0
    planes, used, _ = combine(cube_of(values, mask=mask, k2=k2), 8)
    assert planes.sci[2, 5] == 1.0 and planes.coverage[2, 5] == 1 and planes.mask[2, 5] == 0
    assert planes.sci[4, 7] == 1.5 and planes.coverage[4, 7] == 2
    assert planes.mask[4, 7] == SECOND
    np.testing.assert_array_equal(used, [128, 127, 126])


def test_bits_of_any_and_of_all_frames_are_kept():
    mask = np.zeros((3, 4, 16), np.uint16)
    k2 = np.full(mask.shape, 65535, np.uint16)
    hot, saturated = int(MaskBit.HOT), int(MaskBit.SATURATED)
    mask[:2, 1, 3] = hot | saturated
    mask[2, 1, 3] = hot
    k2[:, 1, 3] = 0
    k2[0, 2, 2] = 0  # not covered: no bit, no value
    mask[1:, 2, 2] = hot
    planes, _, _ = combine(cube_of(np.zeros(mask.shape), mask=mask, k2=k2), 4)
    assert planes.any_bits[1, 3] == hot | saturated and planes.all_bits[1, 3] == hot
    assert planes.mask[1, 3] == hot | saturated | int(MaskBit.NO_DATA)
    assert planes.all_bits[2, 2] == hot and planes.coverage[2, 2] == 2
    assert planes.any_bits[0, 0] == 0 and planes.all_bits[0, 0] == 0


@pytest.mark.parametrize("n", [3, 4, 9, 20])
def test_median_has_the_error_that_it_claims(n):
    """The median's c_N against simulated medians (E66, F7: error of the valid N)."""
    rng = np.random.default_rng(n)
    values = rng.normal(0, 1, (n, 200, 400))
    cube = cube_of(values)
    planes = empty_planes((200, 400))
    median_rows(cube, 0, 0, 200, SECOND, planes, np.zeros((200, 400), np.uint8))
    np.testing.assert_allclose(planes.sci, np.median(values.astype("f4"), axis=0), atol=1e-7)
    # 80 000 medians: standard error 0.25 %, the fit is within 0.6 % of the variance.
    assert planes.sci.std() / planes.err[0, 0] == pytest.approx(1, abs=0.013)
    assert median_efficiency(2) == 1.0
