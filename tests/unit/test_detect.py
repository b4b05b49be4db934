"""Detection against the library's own, and its parts against their definitions."""

import numpy as np
import pytest
import sep
from scipy.ndimage import convolve

from skymill.kernels.detect import crowded_kernel, detect, gaussian_kernel
from skymill.kernels.disks import add_disks
from skymill.kernels.matched_filter import matched_filter, smooth_runs
from skymill.kernels.sky_noise import positive_median, sky_noise, subtract_sky, variance_slope

FWHM, SIGMA, AREA = 3.0, 4.5, 4


def field(seed, number, shape=(300, 260), lost=300):
    """Stars of all magnitudes, some beyond the edge, uneven noise and lost pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mean = np.full(shape, 200.0) + 0.5 * x
    for _ in range(number):
        cx, cy = rng.uniform(-2, shape[1] + 2), rng.uniform(-2, shape[0] + 2)
        peak = 10 ** rng.uniform(1.5, 4.5)
        near = (
            slice(max(int(cy) - 40, 0), int(cy) + 41),
            slice(max(int(cx) - 40, 0), int(cx) + 41),
        )
        r2 = (x[near] - cx) ** 2 + (y[near] - cy) ** 2
        mean[near] += peak * (1 + r2 / (1.2 * FWHM) ** 2) ** -3.0
    data = (rng.poisson(mean) - 200.0 - 0.5 * x).astype(np.float32)
    noise = np.sqrt(200.0 + 0.5 * x).astype(np.float32)
    mask = np.zeros(shape, bool)
    mask[rng.integers(0, shape[0], lost), rng.integers(0, shape[1], lost)] = lost > 0
    data[mask] = np.nan
    return data, noise, mask


def library(data, noise, mask, kernel, contrast):
    """All of it by the library; a noise without end, as it leaves its first rows unmasked."""
    sep.set_extract_pixstack(data.size)
    sep.set_sub_object_limit(4096)
    return sep.extract(
        np.where(mask, np.float32(0), data), SIGMA, err=np.where(mask, np.float32(1e15), noise),
        mask=mask, minarea=AREA, filter_kernel=kernel, filter_type="matched", clean=False,
        segmentation_map=True, deblend_cont=contrast,
    )  # fmt: skip


@pytest.mark.parametrize("contrast", [1.0, 0.005])
@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize(("number", "lost"), [(40, 300), (300, 0), (450, 20)])
def test_objects_and_segments_are_those_of_the_library(number, lost, crowded, contrast):
    planes = field(number, number, lost=lost)
    objects, segments = detect(
        *planes, threshold_sigma=SIGMA, minimum_area_px=AREA, fwhm_px=FWHM, crowded=crowded,
        deblend_contrast=contrast,
    )  # fmt: skip
    kernel = (crowded_kernel if crowded else gaussian_kernel)(FWHM)
    theirs, pixels = library(*planes, kernel, contrast)
    assert len(objects) == len(theirs) > 5
    np.testing.assert_array_equal(segments > 0, pixels > 0)
    # What is left between the parts of a divided group goes to them by lot.
    assert (segments != pixels).mean() < 0.001
    same = np.array(
        [np.array_equal(segments == k, pixels == k) for k in range(1, len(objects) + 1)]
    )
    np.testing.assert_allclose(objects["x"], theirs["x"], atol=1e-4)
    np.testing.assert_allclose(objects["y"], theirs["y"], atol=1e-4)
    np.testing.assert_array_equal(objects["flag"], theirs["flag"] & 3)
    assert same.mean() > 0.9
    ours, theirs = objects[same], theirs[same]
    for name in ("npix", "peak", "xpeak", "ypeak"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    for name in ("cflux", "a", "b"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    # It rounds the variance of a pixel, 1/12, to 0.08333.
    for name in ("errx2", "erry2"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4)
    round_ = ours["b"] > 0.99 * ours["a"]
    turn = np.abs(ours["theta"] - theirs["theta"])[~round_]
    assert np.minimum(turn, np.pi - turn).max() < 1e-2


def test_lost_pixels_of_the_first_rows_are_left_out_as_all_others():
    data, noise, mask = field(5, 60, lost=4000)
    options = {"threshold_sigma": SIGMA, "minimum_area_px": AREA, "fwhm_px": FWHM}
    up, upper = detect(data, noise, mask, **options)
    down, lower = detect(data[::-1].copy(), noise[::-1].copy(), mask[::-1].copy(), **options)
    assert len(up) == len(down)
    np.testing.assert_array_equal(upper > 0, lower[::-1] > 0)


def test_nothing_is_found_in_nothing():
    options = {"threshold_sigma": SIGMA, "minimum_area_px": AREA, "fwhm_px": FWHM}
    shape = (40, 30)
    for lost in (False, True):
        planes = np.zeros(shape, np.float32), np.ones(shape, np.float32), np.full(shape, lost)
        objects, segments = detect(*planes, deblend_contrast=0.005, **options)
        assert len(objects) == 0
        assert not segments.any()


@pytest.mark.parametrize("fwhm", [1.0, 2.0, 3.0, 9.0])
@pytest.mark.parametrize("crowded", [False, True])
def test_filter_is_the_sum_over_the_kernel(fwhm, crowded):
    data, noise, mask = field(7, 30, (60, 50))
    kernel = (crowded_kernel if crowded else gaussian_kernel)(fwhm).astype(np.float64)
    profile = gaussian_kernel(fwhm).astype(np.float64)
    offset = float(profile.mean()) if crowded else 0.0
    line = profile[len(profile) // 2] / profile.max()
    snr = matched_filter(data, noise, mask, line, offset)
    weight = np.where(mask, 0, 1 / noise.astype(np.float64) ** 2)
    light = np.where(mask, 0, data).astype(np.float64)

    def total(plane, kernel):
        return convolve(plane, kernel, mode="constant")

    wanted = total(light * weight, kernel) / np.sqrt(total(weight, kernel**2))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(snr, wanted, rtol=1e-5, atol=1e-6 * scale)
    wanted = total(light, kernel) / np.abs(kernel).sum()
    atol = 1e-6 * np.abs(wanted).max()
    y = np.repeat(np.arange(60, dtype=np.int32), 2)
    x0, x1 = np.tile(np.int32([0, 30]), 60), np.tile(np.int32([17, 50]), 60)
    smooth = smooth_runs(data, mask, (y, x0, x1), line, offset)
    np.testing.assert_allclose(smooth[:, :17], wanted[:, :17], rtol=1e-5, atol=atol)
    np.testing.assert_allclose(smooth[:, 30:], wanted[:, 30:], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 4001])
def test_median_of_positive_numbers(n):
    rng = np.random.default_rng(n)
    plane = (10 ** rng.uniform(-12, 12, n)).astype(np.float32).reshape(1, n)
    out = rng.uniform(size=(1, n)) < 0.3
    out[0, 0] = False
    assert positive_median(plane, out) == np.median(plane[~out])
    close = (12 + rng.normal(0, 1e-3, n)).astype(np.float32).reshape(1, n)
    assert positive_median(close, out) == np.median(close[~out])
    assert np.isnan(positive_median(plane, np.ones_like(out)))


@pytest.mark.parametrize("step", [1, 3])
def test_noise_of_the_sky_follows_its_definition(step):
    rng = np.random.default_rng(step)
    shape = (90, 70)
    sci = rng.normal(50, 10, shape).astype(np.float32)
    err = np.sqrt(100 + 0.25 * (sci - 50)).astype(np.float32)
    rms = np.full(shape, 10, np.float32)
    mask = (rng.integers(0, 40, shape) == 0).astype(np.uint16) * 3
    mask[10:20] |= 4
    sci[0, :5], err[1, :5], err[2, :5], err[3:5, 8] = np.nan, np.inf, -1, 500
    level = np.full(shape, 50, np.float32)
    signal, error, hidden, bad, lost = subtract_sky(sci, err, mask, level, 4, 3)
    there = np.isfinite(sci) & np.isfinite(err) & (err > 0)
    np.testing.assert_array_equal(signal, np.where(there, sci - level, 0))
    np.testing.assert_array_equal(error, np.where(there, err, 1))
    np.testing.assert_array_equal(hidden, ~there | (mask & 4 > 0))
    np.testing.assert_array_equal(bad, ~there | (mask > 0))
    np.testing.assert_array_equal(lost, ~np.isfinite(sci) | ~np.isfinite(err) | (mask & 3 > 0))
    cut = (slice(None, None, step),) * 2
    use = ~lost[cut] & (np.abs(signal[cut]) < 30)
    x, y = signal[cut][use].astype(float), error[cut][use].astype(float) ** 2
    x, y = x[y < 4 * np.median(y)], y[y < 4 * np.median(y)]
    slope = variance_slope(signal, error, rms, lost, step)
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)
    assert slope == pytest.approx(0.25, abs=0.01)
    noise, ratio = sky_noise(signal, error, rms, slope)
    wanted = np.sqrt(np.maximum(error**2 - slope * signal, 25))
    np.testing.assert_allclose(noise, wanted, rtol=1e-5)
    np.testing.assert_allclose(ratio, rms / noise, rtol=1e-6)
    assert np.isnan(variance_slope(signal, error, rms, np.ones_like(lost), step))


def test_disks_hold_the_pixels_whose_centres_lie_inside():
    rng = np.random.default_rng(3)
    shape = (50, 40)
    x, y, r = rng.uniform(-8, 48, 30), rng.uniform(-8, 58, 30), rng.uniform(0.2, 7, 30)
    mask = np.ones(shape, np.uint16)
    out = add_disks(mask, x, y, r, 16)
    j, i = np.mgrid[: shape[0], : shape[1]]
    inside = ((i[..., None] - x) ** 2 + (j[..., None] - y) ** 2 < r**2).any(axis=-1)
    np.testing.assert_array_equal(out, np.where(inside, 17, 1))
    assert (mask == 1).all()
