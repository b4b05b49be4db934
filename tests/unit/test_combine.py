"""The combine kernel against plain numpy, and its rules for outliers."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import sigma_clip

from skymill.kernels.combine import Combined, Terms, combine
from skymill.kernels.combine_bands import linearise
from skymill.kernels.combine_ordered import network
from skymill.kernels.estimators import estimator_noise
from skymill.linearity import Linearity

SHAPE = (37, 29)


def terms(n: int, ny: int = SHAPE[0], *, noise: float = 25.0, **changes) -> Terms:
    base = {
        "level": np.zeros((n, ny)),
        "noise": np.full(n, noise),
        "gain": np.full(n, np.inf),
    }
    return Terms(**(base | changes))


def run(cube: np.ndarray, t: Terms | None = None, **options) -> Combined:
    t = terms(len(cube), cube.shape[1]) if t is None else t
    readers = [lambda a, b, plane=plane: plane[a:b] for plane in cube]
    return combine(readers, cube.shape[1:], t, **options)


@pytest.fixture
def cube() -> np.ndarray:
    rng = np.random.default_rng(11)
    return rng.normal(1000, 5, (9, *SHAPE)).astype(np.float32)


def clip_reference(cube: np.ndarray, sigma: np.ndarray, k: float) -> np.ndarray:
    """Mean of the values within k model sigma of the median, written out with numpy."""
    values = cube.astype(np.float64)
    keep = np.abs(values - np.median(values, axis=0)) <= k * sigma
    return np.where(keep, values, 0).sum(axis=0) / keep.sum(axis=0), keep


def test_mean_median_minmax_agree_with_numpy(cube):
    values = cube.astype(np.float64)
    ordered = np.sort(values, axis=0)
    np.testing.assert_allclose(run(cube, method="mean").value, values.mean(axis=0), rtol=2e-7)
    np.testing.assert_allclose(
        run(cube, method="median").value, np.median(values, axis=0), rtol=2e-7
    )
    trimmed = run(cube, method="minmax", n_low=1, n_high=2)
    np.testing.assert_allclose(trimmed.value, ordered[1:-2].mean(axis=0), rtol=2e-7)
    assert (trimmed.n_used == 6).all()


def test_zerocombine_convention_drops_only_the_highest(cube):
    ordered = np.sort(cube.astype(np.float64), axis=0)
    got = run(cube, method="minmax", n_low=0, n_high=1)
    np.testing.assert_allclose(got.value, ordered[:-1].mean(axis=0), rtol=2e-7)
    np.testing.assert_allclose(got.rejected.sum(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0, 4.5])
def test_clipped_mean_agrees_with_its_definition(cube, k):
    """Low thresholds take the sorted path for nearly all pixels, high ones for few."""
    hit = cube.copy()
    hit[3, 5, 7] += 300
    hit[0, 20, :] -= 90
    expected, keep = clip_reference(hit, np.full(hit.shape, 5.0), k)
    got = run(hit, clip_sigma=k)
    np.testing.assert_allclose(got.value, expected, rtol=2e-7)
    np.testing.assert_array_equal(got.n_used, keep.sum(axis=0))
    np.testing.assert_allclose(got.rejected, (~keep).mean(axis=(1, 2)), atol=1e-12)


def test_clipped_agrees_with_astropy_where_the_scatter_is_known(cube):
    """sigma_clip with the standard deviation replaced by the true one is the same rule."""
    hit = cube.copy()
    hit[2, ::3, ::4] += 80
    reference = sigma_clip(
        hit, sigma=4.5, maxiters=1, cenfunc="median", stdfunc=lambda a, axis: 5.0, axis=0
    ).mean(axis=0)
    np.testing.assert_allclose(run(hit).value, reference, rtol=2e-7)


def test_clipping_uses_photon_noise_of_the_median():
    """At 10^4 ADU and gain 2 the noise is 71 ADU: 300 ADU is 4.2 sigma, 340 is 4.8."""
    cube = np.full((5, 4, 4), 10_000.0, np.float32)
    cube[1, 1, 1] += 300
    cube[1, 2, 2] += 340
    t = terms(5, 4, noise=9.0, gain=np.full(5, 2.0))
    got = run(cube, t)
    assert got.n_used[1, 1] == 5
    assert got.n_used[2, 2] == 4


def test_sorted_and_unsorted_pixels_follow_one_rule_with_scales_and_charge():
    rng = np.random.default_rng(3)
    n, ny, nx = 6, 24, 31
    scale = rng.uniform(0.5, 2.0, n)
    extra = rng.uniform(-20, 400, (ny, nx)).astype(np.float32)
    charge = rng.uniform(0, 2, n)
    gain = rng.uniform(1, 3, n)
    true = rng.uniform(-5, 3000, (ny, nx))
    variance = scale[:, None, None] ** 2 * (
        np.maximum(true / scale[:, None, None] + charge[:, None, None] * extra, 0)
        / gain[:, None, None]
        + 16
    )
    x = true + rng.normal(0, 1, (n, ny, nx)) * np.sqrt(variance) * 1.5
    raw = (x / scale[:, None, None]).astype(np.float32)
    t = terms(n, ny, noise=16.0, scale=scale, gain=gain, charge=charge)
    got = run(raw, t, clip_sigma=2.5, extra=extra)
    values = (raw.astype(np.float64) * scale[:, None, None]).astype(np.float32).astype(np.float64)
    median = np.median(values, axis=0)
    model = scale[:, None, None] ** 2 * (
        np.maximum(median / scale[:, None, None] + charge[:, None, None] * extra, 0)
        / gain[:, None, None]
        + 16
    )
    keep = np.abs(values - median) <= 2.5 * np.sqrt(model)
    some = keep.any(axis=0)
    np.testing.assert_array_equal(got.n_used[some], keep.sum(axis=0)[some])
    expected = np.where(keep, values, 0).sum(axis=0)[some] / keep.sum(axis=0)[some]
    np.testing.assert_allclose(got.value[some], expected, rtol=1e-6, atol=1e-4)
    assert 0.005 < got.rejected.mean() < 0.3  # both paths were taken


def test_one_value_is_kept_and_two_are_compared():
    """A22."""
    cube = np.full((2, 3, 3), 100.0, np.float32)
    cube[1, 1, 1] = 100 + 4.4 * 5 * np.sqrt(2)
    cube[1, 2, 2] = 100 + 4.6 * 5 * np.sqrt(2)
    got = run(cube)
    assert got.n_used[1, 1] == 2
    assert not got.conflict[1, 1]
    assert got.n_used[2, 2] == 1
    assert got.conflict[2, 2]
    assert got.value[2, 2] == 100.0  # the lower one, since hits only add
    single = run(cube[1:])
    np.testing.assert_array_equal(single.value, cube[1])
    assert (single.n_used == 1).all()
    np.testing.assert_allclose(single.err, 5.0, rtol=1e-6)


def test_two_camps_keep_the_lower_one_and_say_so():
    cube = np.full((4, 2, 2), 100.0, np.float32)
    cube[2:, 0, 0] = 400.0
    got = run(cube)
    assert got.conflict[0, 0]
    assert got.value[0, 0] == 100.0
    assert got.n_used[0, 0] == 2


def test_values_that_all_disagree_keep_the_lower_ones():
    """Two hits among three values: the median is a hit, and stands alone."""
    cube = np.full((3, 2, 2), 100.0, np.float32)
    cube[0, 0, 0], cube[1, 0, 0] = 5000.0, 900.0
    got = run(cube)
    assert got.value[0, 0] == 100.0
    assert got.n_used[0, 0] == 1
    assert got.conflict[0, 0]
    assert not got.conflict[1, 1]


def test_outlier_of_eight_sigma_is_rejected_with_three_frames():
    """Clipping by the sample's own scatter cannot do this with fewer than eight frames. Row A22."""
    rng = np.random.default_rng(5)
    n_hit = 10_000
    cube = rng.normal(0, 5, (3, 100, 100)).astype(np.float32)
    cube[1] += 40
    got = run(cube, terms(3, 100), clip_sigma=4.0)
    # the outlier's distance from the median of the other two: expected >= 99 % rejected
    assert (got.n_used == 2).mean() > 0.99
    clean = run(rng.normal(0, 5, (3, 100, 100)).astype(np.float32), terms(3, 100), clip_sigma=4.0)
    assert clean.rejected.mean() < 0.0005 + 4 * np.sqrt(0.0005 / (3 * n_hit))


def test_neighbours_of_rejected_values_are_judged_more_strictly():
    cube = np.full((5, 9, 9), 50.0, np.float32)
    cube[2, 4, 4] += 100  # rejected
    cube[2, 4, 5] += 15  # 3 sigma, beside it
    cube[2, 8, 8] += 15  # 3 sigma, alone
    plain, grown = run(cube), run(cube, grow_sigma=2.5)
    assert plain.n_used[4, 5] == 5
    assert grown.n_used[4, 5] == 4
    assert grown.n_used[8, 8] == 5
    # growth reaches over the border of a band
    for rows in (1, 2, 4, 5):
        np.testing.assert_array_equal(run(cube, grow_sigma=2.5, rows=rows).value, grown.value)


def test_structure_tolerance_keeps_real_differences():
    cube = np.full((5, 2, 2), 1000.0, np.float32)
    cube[0, 0, 0] = 1040.0
    assert run(cube).n_used[0, 0] == 4
    assert run(cube, structure=0.02).n_used[0, 0] == 5


def test_invalid_values_are_left_out_and_counted():
    """A22."""
    cube = np.full((3, 4, 4), 10.0, np.float32)
    cube[0, 0, 0] = np.nan
    cube[1, 0, 0] = np.inf
    cube[:, 3, 3] = np.nan
    cube[2, 1, 1] = 70_000
    t = terms(3, 4, saturation=np.full(3, 65_535.0))
    for method in ("clipped", "mean", "median", "minmax"):
        got = run(cube, t, method=method, n_low=0, n_high=1)
        assert got.n_used[0, 0] == 1
        assert got.value[1, 1] == 10.0
        assert got.n_used[3, 3] == 0
        assert np.isnan(got.value[3, 3])
        assert np.isnan(got.err[3, 3])


def test_subtractions_and_scales_come_in_order():
    raw = np.full((2, 5, 6), 700, np.uint16)
    base = np.full((5, 6), 40.0, np.float32)
    extra = np.full((5, 6), 100.0, np.float32)
    level = np.stack([np.arange(5.0), np.full(5, 10.0)])
    t = terms(
        2, 5, level=level, scale=np.array([2.0, 3.0]),
        base=np.array([1.0, 1.0]), extra=np.array([0.5, 2.0]),
    )  # fmt: skip
    got = run(raw, t, method="mean", base=base, extra=extra)
    one = (700 - np.arange(5.0) - 40 - 50) * 2
    two = (700 - 10 - 40 - 200) * 3
    np.testing.assert_allclose(got.value, np.repeat((one + two)[:, None] / 2, 6, axis=1), rtol=1e-6)


def test_weights_enter_value_and_error():
    cube = np.stack([np.full((2, 2), v, np.float32) for v in (10, 20, 40)])
    weight = np.array([1.0, 2.0, 5.0])
    noise = np.array([4.0, 9.0, 16.0])
    t = terms(3, 2, noise=1.0, weight=weight)
    t = Terms(level=t.level, noise=noise, gain=t.gain, weight=weight)
    got = run(cube, t, method="mean")
    np.testing.assert_allclose(got.value, (weight @ [10, 20, 40]) / 8, rtol=1e-6)
    np.testing.assert_allclose(got.err, np.sqrt((weight**2) @ noise) / 8, rtol=1e-6)


@pytest.mark.parametrize("method", ["clipped", "mean", "median", "minmax"])
def test_result_does_not_depend_on_bands_or_on_memory_layout(cube, method):
    whole = run(cube, method=method, rows=1000)
    for rows in (1, 5, 36):
        part = run(cube, method=method, rows=rows)
        np.testing.assert_array_equal(part.value, whole.value)
        np.testing.assert_array_equal(part.err, whole.err)
        np.testing.assert_array_equal(part.rejected, whole.rejected)
    turned = np.asfortranarray(cube)
    np.testing.assert_array_equal(run(turned, method=method).value, whole.value)


def test_integers_and_floats_give_the_same():
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 65_000, (4, *SHAPE)).astype(np.uint16)
    one, two = run(raw, method="median"), run(raw.astype(np.float32), method="median")
    np.testing.assert_array_equal(one.value, two.value)


def test_input_is_not_touched(cube):
    before = cube.copy()
    run(cube, grow_sigma=2.5)
    np.testing.assert_array_equal(cube, before)


def test_order_of_frames_only_moves_the_last_digit(cube):
    one, two = run(cube), run(cube[::-1].copy())
    np.testing.assert_allclose(one.value, two.value, rtol=2e-7)


def test_estimator_noise_matches_published_medians():
    """Monte Carlo values of 10^6 samples each, good to 0.15 %; ours to 0.3 %."""
    published = {3: 1.347, 4: 1.193, 5: 1.437, 7: 1.471, 9: 1.496, 10: 1.385, 20: 1.467, 30: 1.503}
    for n, variance in published.items():
        assert estimator_noise("median", n) == pytest.approx(np.sqrt(variance), rel=0.006)
    assert estimator_noise("median", 2) == 1.0
    assert estimator_noise("median", 2000) == pytest.approx(np.sqrt(np.pi / 2), rel=0.01)


def test_estimator_noise_of_clipping():
    """Large-N limit sqrt(p/(p - 2 k phi(k))) of the variance about n_kept; 3 sigma: 1.0136."""
    assert estimator_noise("clipped", 50, 3.0) == pytest.approx(1.0136, abs=0.004)
    assert 1.015 < estimator_noise("clipped", 3, 3.0) < 1.045
    assert estimator_noise("clipped", 10, 4.5) == pytest.approx(1.0, abs=0.002)
    assert estimator_noise("mean", 7) == 1.0


def test_error_of_the_median_uses_the_harmonic_scatter():
    n = 9
    noise = np.linspace(1, 100, n)
    cube = np.zeros((n, 1, 1), np.float32)
    got = run(cube, Terms(np.zeros((n, 1)), noise, np.full(n, np.inf)), method="median")
    scatter = n / (1 / np.sqrt(noise)).sum()
    expected = scatter / np.sqrt(n) * estimator_noise("median", n)
    np.testing.assert_allclose(got.err, expected, rtol=1e-5)


@pytest.mark.parametrize("n", [*range(1, 21), 37])
def test_network_sorts_every_number_of_values(n):
    values = np.random.default_rng(n).permutation(n * 50).reshape(n, 50)
    for a, b in network(n):
        values[[a, b]] = np.minimum(values[a], values[b]), np.maximum(values[a], values[b])
    assert (np.diff(values, axis=0) >= 0).all()


@pytest.mark.parametrize("method", ["median", "minmax"])
def test_ordered_estimators_know_invalid_values_and_ties(method):
    """Against numpy, with NaN, equal values, and rows longer than one tile."""
    rng = np.random.default_rng(9)
    cube = rng.integers(0, 12, (7, 5, 600)).astype(np.float32)
    cube[rng.uniform(size=cube.shape) < 0.2] = np.nan
    got = run(cube, terms(7, 5), method=method, n_low=1, n_high=2)
    ordered = np.sort(cube.astype(np.float64), axis=0)  # NaN last
    valid = np.isfinite(cube).sum(axis=0)
    expected = np.full(valid.shape, np.nan)
    used = valid.copy()
    for m in range(1, 8):
        low, high = int(m / 7 + 0.001), int(2 * m / 7 + 0.001)
        part = ordered[:m] if method == "median" else ordered[low : m - high]
        centre = np.median(part, axis=0) if method == "median" else part.mean(axis=0)
        expected[valid == m] = centre[valid == m]
        if method == "minmax":
            used[valid == m] = m - low - high
    np.testing.assert_allclose(got.value, expected, rtol=3e-7)
    np.testing.assert_array_equal(got.n_used, used)
    np.testing.assert_array_equal(got.counts[0], np.isfinite(cube).sum(axis=(1, 2)))
    assert got.counts[1].sum() == (valid - used).sum()


@pytest.mark.parametrize("n", [*range(1, 21)])
def test_standard_errors_are_those_of_the_estimators(n):
    """F4: Monte Carlo of each estimator, three noises among the frames, 80 000 pixels."""
    rng = np.random.default_rng(400 + n)
    shape = (200, 400)
    noise = np.resize([4.0, 4.4, 4.8], n) ** 2
    cube = rng.normal(0, 1, (n, *shape)) * np.sqrt(noise)[:, None, None]
    cube = (cube + 500).astype(np.float32)
    t = Terms(np.zeros((n, shape[0])), noise, np.full(n, np.inf))
    for method in ("mean", "median", "clipped", "weighted", "minmax"):
        for sigma in (3.0, 4.5) if method == "clipped" else (4.5,):
            got = run(cube, t, method=method, n_low=1, n_high=1, clip_sigma=sigma)
            pull = (got.value - 500) / got.err
            # 0.3 % for the tables, and unequal noise under order statistics 0.5 %
            assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size) + 0.008), method
    if n > 2:
        # 1/sum(1/sigma^2), the smallest error that there is
        best = np.sqrt(1 / (1 / noise).sum())
        np.testing.assert_allclose(np.median(run(cube, t, method="weighted").err), best, rtol=1e-3)


@pytest.mark.parametrize("method", ["clipped", "weighted", "mean", "median", "minmax"])
def test_scatter_has_the_expected_chi_square(method):
    rng = np.random.default_rng(31)
    n, shape = 8, (60, 300)
    true = rng.uniform(0, 3000, shape)
    extra = rng.uniform(0, 50, shape).astype(np.float32)
    sigma = np.sqrt(25 + (true - extra).clip(0) / 2)
    cube = (true + rng.normal(0, 1, (n, *shape)) * sigma).astype(np.float32)
    cube[2, 10, 10] += 4000
    cube[5, 20, 20] = np.nan
    t = terms(n, 60, gain=np.full(n, 2.0), charge=np.full(n, -1.0))
    got = run(cube, t, method=method, extra=extra, with_scatter=True)
    part = got.scatter
    assert part.n_out[10, 10] == (1 if method != "mean" else part.n_out[10, 10])
    assert part.n_in[20, 20] + part.n_out[20, 20] == 7
    ratio = np.delete(part.chi2.ravel(), 10 * 300 + 10).sum() / ((n - 1) * (part.chi2.size - 1))
    # about a median or a trimmed mean the squares are larger, by a known factor
    assert ratio / part.excess == pytest.approx(1, abs=4 * np.sqrt(2 / (7 * 18_000)) + 0.005)


def test_linear_pixels_follow_the_curve():
    rule = Linearity.from_rule({"polynomial": [2e-6]})
    raw = np.array([[100, 1000, 30_000, 65_000, 90]], np.uint16)
    out = np.empty(raw.shape, np.float32)
    base = np.full(raw.shape, 4.0, np.float32)
    linearise(raw, out, np.array([90.0]), base, 0.5, rule.values, rule.step_adu, 60_000.0)
    signal = raw[0].astype(float) - 92
    np.testing.assert_allclose(out[0, :3], (signal * (1 + 2e-6 * signal))[:3], rtol=1e-4)
    assert np.isposinf(out[0, 3])
    assert out[0, 4] == pytest.approx(-2, rel=1e-3)


def test_wrong_use_is_refused(cube):
    with pytest.raises(ValueError, match="method must be"):
        run(cube, method="average")
    with pytest.raises(ValueError, match="level must have shape"):
        run(cube, terms(9, 5))
    with pytest.raises(ValueError, match="one entry per frame"):
        terms(3, gain=np.ones(2))
    with pytest.raises(ValueError, match="must be positive"):
        terms(3, gain=np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="cannot combine 0 frames"):
        combine([], SHAPE, terms(0))
    with pytest.raises(ValueError, match="base must have shape"):
        run(cube, base=np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="rows 0:32 have shape"):
        combine([lambda a, b: np.zeros((1, 1))], SHAPE, terms(1), rows=32)
