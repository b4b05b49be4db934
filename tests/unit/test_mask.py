"""Which pixels are not to be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import StepFailed
from skymill.frame import Frame, MaskBit, has_bits
from skymill.kernels.cosmics import contrast_at, fill_bad
from skymill.steps.mask import mask

SKY, READ_NOISE = 200.0, 5.0


def observe(mean, seed, bits=None):
    rng = np.random.default_rng(seed)
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE, mean.shape)
    err = np.sqrt(np.maximum(raw, 0) + READ_NOISE**2)
    bits = np.zeros(mean.shape, np.uint16) if bits is None else bits
    return Frame(raw, err, bits, fits.Header())


def gaussian_stars(shape, x, y, flux, fwhm):
    """Stars integrated over the pixels, on 5 x 5 sub-pixels."""
    sigma, image = fwhm / 2.3548, np.zeros(shape)
    sub = (np.arange(5) - 2) / 5
    for cx, cy, f in zip(x, y, flux, strict=True):
        i, j = round(cx) + np.arange(-9, 10), round(cy) + np.arange(-9, 10)
        px = np.exp(-0.5 * ((i[:, None] + sub - cx) / sigma) ** 2).mean(1)
        py = np.exp(-0.5 * ((j[:, None] + sub - cy) / sigma) ** 2).mean(1)
        image[np.ix_(j, i)] += f * np.outer(py, px) / (2 * np.pi * sigma**2)
    return image


def star_grid(fwhm, seed, side=700):
    rng = np.random.default_rng(seed)
    grid = np.arange(14, side - 14, 20)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.meshgrid(grid, grid))
    flux = 10 ** rng.uniform(2.5, 6, x.size)
    return gaussian_stars((side, side), x, y, flux, fwhm), x, y


def plant_hits(shape, n, seed):
    """Straight tracks of 1 to 12 px and 300 to 3000 electron per px."""
    rng = np.random.default_rng(seed)
    hits = np.zeros(shape)
    for _ in range(n):
        x, y = rng.uniform(15, shape[1] - 15), rng.uniform(15, shape[0] - 15)
        angle, charge = rng.uniform(0, np.pi), rng.uniform(300, 3000)
        for t in np.arange(0, 1 + min(rng.exponential(4), 11), 0.1):
            hits[round(y + t * np.sin(angle)), round(x + t * np.cos(angle))] += 0.1 * charge
    return hits


def cores_hit(found, x, y):
    """Whether any of the 3 x 3 central pixels of each star is flagged."""
    flagged = np.zeros(len(x), bool)
    for dj in (-1, 0, 1):
        for di in (-1, 0, 1):
            flagged |= found[np.rint(y).astype(int) + dj, np.rint(x).astype(int) + di]
    return flagged


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 4.0])
def test_at_most_one_star_core_in_a_thousand_is_taken_for_a_hit(fwhm):
    stars, x, y = star_grid(fwhm, seed=5)
    found = has_bits(mask(observe(stars + SKY, seed=6)).value, MaskBit.COSMIC)
    # 1156 stars: 1.2 expected at the limit, and five would be four sigma more.
    assert cores_hit(found, x, y).sum() <= 5


def test_cores_of_undersampled_stars_survive():
    stars, x, y = star_grid(1.4, seed=7)
    result = mask(observe(stars + SKY, seed=8))
    found = has_bits(result.value, MaskBit.COSMIC)
    assert cores_hit(found, x, y).mean() < 0.02
    # The engine alone took most of these stars for hits.
    assert result.numbers["n_stars_acquitted"] > 0.5 * len(x)


def test_hits_are_found_and_empty_sky_is_not():
    hits = plant_hits((700, 700), 150, seed=9)
    result = mask(observe(SKY + hits, seed=10))
    found = has_bits(result.value, MaskBit.COSMIC)
    strong = hits > 8 * np.sqrt(SKY + READ_NOISE**2)
    assert found[strong].mean() > 0.97
    near = np.zeros_like(found)
    for dj in range(-2, 3):
        for di in range(-2, 3):
            near |= np.roll(hits > 0, (dj, di), (0, 1))
    assert (found & ~near).mean() < 1e-5
    assert result.numbers["n_cosmic_px"] == found.sum()
    assert not result.flags


def test_structure_of_a_bright_defocused_star_is_no_hit():
    y, x = np.indices((200, 200))
    r = np.hypot(x - 100, y - 100)
    disk = 1e5 / (1 + np.exp((r - 30) / 1.5))
    rings = disk * (1 + 0.08 * np.sin(x / 2.0) * np.sin(y / 1.7))
    found = has_bits(mask(observe(SKY + rings, seed=11)).value, MaskBit.COSMIC)
    assert found[r < 36].sum() == 0


def test_nan_and_impossible_errors_become_no_data():
    frame = observe(np.full((60, 60), SKY), seed=12)
    sci, err = frame.sci.copy(), frame.err.copy()
    sci[5, 6], sci[7, 8], err[9, 10], err[11, 12] = np.nan, np.inf, np.nan, 0
    result = mask(frame.replace(sci=sci, err=err))
    where = np.argwhere(has_bits(result.value, MaskBit.NO_DATA)).tolist()
    assert where == [[5, 6], [7, 8], [9, 10], [11, 12]]
    assert result.numbers["n_bad_px"] >= 4


def test_bad_pixels_hide_nothing_around_them():
    """A hot column and a NaN block beside a hit do not change the verdict on it."""
    hits = np.zeros((80, 80))
    hits[40, 42] = 2000
    bits = np.zeros((80, 80), np.uint16)
    bits[:, 40] = MaskBit.HOT
    bits[43:46, 44:47] = MaskBit.NO_DATA
    frame = observe(SKY + hits, seed=13, bits=bits)
    sci = frame.sci.copy()
    sci[:, 40] = 6e4
    sci[43:46, 44:47] = np.nan
    found = has_bits(mask(frame.replace(sci=sci)).value, MaskBit.COSMIC)
    assert found[40, 42]
    assert found.sum() <= 4


def bleeding_star(length):
    """A saturated star at (x, y) = (60, 80), its charge spilt up and down its column."""
    y, x = np.indices((161, 121))
    mean = SKY + 3e6 / (1 + ((x - 60) ** 2 + (y - 80) ** 2) / 9.0) ** 3
    mean[80 - length : 80 + length + 1, 60] += 2e5
    mean[80 - length - 4 : 80 - length, 60] += 3000
    level = 1.5e5
    bits = np.where(mean >= level, MaskBit.SATURATED, 0).astype(np.uint16)
    return observe(np.minimum(mean, level), seed=14, bits=bits)


def test_charge_that_bled_along_a_column_is_followed_to_its_end():
    result = mask(bleeding_star(30), grow_saturated_px=0)
    bled = has_bits(result.value, MaskBit.BLEED)
    assert bled[50:70, 60].all()
    assert bled[46:50, 60].all()
    assert bled[90:110, 60].all()
    assert not bled[:40].any()
    assert bled[:, :55].sum() + bled[:, 66:].sum() == 0
    assert result.numbers["n_bleed_px"] == bled.sum()


def test_round_saturated_star_has_no_bleed():
    y, x = np.indices((121, 121))
    mean = SKY + 3e6 / (1 + ((x - 60) ** 2 + (y - 60) ** 2) / 9.0) ** 3
    bits = np.where(mean >= 1.5e5, MaskBit.SATURATED, 0).astype(np.uint16)
    result = mask(observe(np.minimum(mean, 1.5e5), seed=15, bits=bits))
    assert result.numbers["n_bleed_px"] == 0
    assert not has_bits(mask(bleeding_star(30), bleed=False).value, MaskBit.BLEED).any()


def test_saturated_column_is_no_star():
    bits = np.zeros((100, 100), np.uint16)
    bits[:, 30] = MaskBit.SATURATED
    frame = observe(np.full((100, 100), SKY), seed=16, bits=bits)
    assert mask(frame).numbers["n_bleed_px"] == 0


@pytest.mark.parametrize(("grow", "expected"), [(0, 1), (1, 9), (2, 21)])
def test_saturated_pixels_grow_by_a_disk(grow, expected):
    bits = np.zeros((50, 50), np.uint16)
    bits[20, 20] = MaskBit.SATURATED
    frame = observe(np.full((50, 50), SKY), seed=17, bits=bits)
    result = mask(frame, grow_saturated_px=grow, cosmics=False)
    assert result.numbers["n_saturated_px"] == expected


def test_earlier_bits_stay_and_the_frame_is_untouched():
    bits = np.zeros((60, 60), np.uint16)
    bits[3, 4] = MaskBit.HOT | MaskBit.LOW_FLAT
    frame = observe(np.full((60, 60), SKY), seed=18, bits=bits)
    before = frame.mask.copy()
    result = mask(frame)
    assert result.value[3, 4] == MaskBit.HOT | MaskBit.LOW_FLAT
    np.testing.assert_array_equal(frame.mask, before)
    assert result.value.dtype == np.uint16
    np.testing.assert_array_equal(result.value, mask(frame).value)


def test_switched_off_search_is_said():
    result = mask(observe(np.full((60, 60), SKY), seed=19), cosmics=False)
    assert [code for code, _ in result.flags] == ["COSMIC_OFF"]
    assert result.numbers["n_cosmic_px"] == 0


def test_mostly_dead_frame_is_flagged_and_a_dead_one_fails():
    bits = np.zeros((60, 60), np.uint16)
    bits[:40] = MaskBit.DEAD
    frame = observe(np.full((60, 60), SKY), seed=20, bits=bits)
    result = mask(frame)
    assert [code for code, _ in result.flags] == ["DEAD_AREA"]
    assert result.numbers["masked_fraction"] == pytest.approx(2 / 3, abs=0.01)
    with pytest.raises(StepFailed, match="none of 3600 pixels") as caught:
        mask(frame.replace(mask=np.full((60, 60), MaskBit.DEAD, np.uint16)))
    assert caught.value.code == "ALL_MASKED"


def test_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine"):
        mask(observe(np.full((20, 20), SKY), seed=21), engine="other")


def test_holes_are_filled_by_the_median_around_them():
    image = np.arange(400, dtype=np.float32).reshape(20, 20)
    bad = np.zeros(image.shape, bool)
    bad[10, 10] = True
    image[10, 10] = np.nan
    filled = fill_bad(image, bad, -1.0)
    assert filled[10, 10] == pytest.approx(210, abs=1)
    assert np.isnan(image[10, 10])
    assert (fill_bad(image, np.ones_like(bad), -1.0) == -1).all()


def test_contrast_separates_a_hit_from_a_star():
    rng = np.random.default_rng(22)
    image = rng.normal(0, 1, (40, 40))
    y, x = np.indices(image.shape)
    image += 500 * np.exp(-((x - 10) ** 2 + (y - 20) ** 2) / (2 * 0.9**2))
    image[20, 30] += 500
    at = np.zeros(image.shape, bool)
    at[20, 10] = at[20, 30] = True
    contrast = contrast_at(image.astype(np.float32), np.ones((40, 40), np.float32), at)
    assert contrast[20, 30] > 20
    assert contrast[20, 10] < 6
    assert np.count_nonzero(contrast) == 2
