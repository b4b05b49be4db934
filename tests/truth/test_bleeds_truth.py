"""Planted bleeds: charge above the full well moves along the columns until it finds room."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import maximum_filter

from bench.cosmics import READ_NOISE_E, SKY_E, stars
from skymill.frame import Frame, MaskBit, has_bits
from skymill.steps.mask import mask

FULL_WELL_E = 1.2e5
SIDE = 400


def spill(column: np.ndarray, level: float) -> np.ndarray:
    """Move what exceeds the full well up and down the column; a little of it trails off.

    ``level`` is the part of the full well to which the charge fills pixels further out.
    """
    out = np.minimum(column, FULL_WELL_E)
    excess = column.sum() - out.sum()
    if excess <= 0:
        return out
    peak = int(np.argmax(column))
    ends = {-1: peak, 1: peak}
    for distance in range(1, len(column)):
        for side in ends:
            y = peak + side * distance
            if 0 <= y < len(column) and excess > 0:
                room = min(max(level * FULL_WELL_E - out[y], 0), excess)
                out[y] += room
                excess -= room
                ends[side] = y
    for side, end in ends.items():
        for step in range(1, min(abs(end - peak), 6)):
            y = end + side * step
            if 0 <= y < len(column):
                out[y] += 0.05 * FULL_WELL_E * np.exp(-step)
    return np.minimum(out, FULL_WELL_E)


def observed(seed, *, level=1.0, bleeds=True, spikes=False, brightest=7.3):
    """Return a frame and where bled charge stands 5 sigma above the star itself."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, SIDE - 20, (2, 25))
    flux = 10 ** rng.uniform(4, brightest, 25)
    clean = SKY_E + stars((SIDE, SIDE), x, y, flux, 3.0, 3.0)
    if spikes:
        clean += cross(x, y, flux)
    image = np.minimum(clean, FULL_WELL_E)
    if bleeds:
        image = np.stack([spill(column, level) for column in clean.T], axis=1)
    sigma = np.sqrt(image + READ_NOISE_E**2)
    bled = image - np.minimum(clean, FULL_WELL_E) > 5 * sigma
    sci = rng.poisson(image) + rng.normal(0, READ_NOISE_E, image.shape)
    bits = np.where(sci >= 0.97 * FULL_WELL_E, MaskBit.SATURATED, 0).astype(np.uint16)
    return Frame(sci, np.sqrt(np.maximum(sci, 0) + 36), bits, fits.Header()), bled


def cross(x, y, flux):
    """Four spikes of each star along rows and columns, 2 % of its light."""
    j, i = np.indices((SIDE, SIDE))
    out = np.zeros((SIDE, SIDE))
    for cx, cy, f in zip(x, y, flux, strict=True):
        for along, across in ((i - cx, j - cy), (j - cy, i - cx)):
            out += 0.02 * f / 60 * np.exp(-np.abs(along) / 30 - 0.5 * across**2) / 2.5
    return out


@pytest.mark.parametrize("spikes", [False, True])
def test_at_least_95_percent_of_bled_charge_is_masked(spikes):
    """Rows E14, H150."""
    found, planted, more = 0, 0, 0
    for seed in range(6):
        frame, bled = observed(seed, spikes=spikes)
        bits = mask(frame, trails=False, cosmics=False).value
        masked = has_bits(bits, MaskBit.BLEED | MaskBit.SATURATED)
        found += np.count_nonzero(masked & bled)
        planted += np.count_nonzero(bled)
        away = ~bled & ~has_bits(frame.mask, MaskBit.SATURATED)
        more += np.count_nonzero(has_bits(bits, MaskBit.BLEED) & away)
    assert planted > 1000
    assert found / planted >= 0.95
    # a spike in line with a trail is marked with it
    assert more / (6 * SIDE**2) <= 2e-3


def test_long_trails_below_the_saturation_level_are_found_too():
    found, planted = 0, 0
    for seed in range(6):
        frame, bled = observed(seed, level=0.85)
        bits = mask(frame, trails=False, cosmics=False).value
        # away from the stars themselves: 8 px of the column above and below are bled too
        deep = bled.copy()
        for shift in (-4, 4):
            deep &= np.roll(bled, shift, 0)
        deep &= ~maximum_filter(has_bits(frame.mask, MaskBit.SATURATED), 9)
        found += np.count_nonzero(has_bits(bits, MaskBit.BLEED) & deep)
        planted += np.count_nonzero(deep)
    assert planted > 200
    assert found / planted >= 0.95


@pytest.mark.parametrize("spikes", [False, True])
def test_frames_without_bleeds_have_none(spikes):
    false = 0
    for seed in range(6):
        frame, _ = observed(seed, bleeds=False, spikes=spikes)
        false += mask(frame, trails=False, cosmics=False).numbers["n_bleed_px"]
    assert false / (6 * SIDE**2) <= 1e-3
