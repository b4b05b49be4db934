"""Cosmic rays against what was put in, and against the peer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bench import cosmics
from bench.cosmics import PROFILES, field, score
from skymill.frame import MaskBit, has_bits
from skymill.steps.mask import mask

#: Hit pixels come in tracks of about five: their standard error is that of the tracks.
PIXELS_PER_TRACK = 5


def total(fwhm, rate, n, **options):
    found = np.zeros(4, np.int64)
    for k, beta in product(range(n), PROFILES):
        truth = field(
            40 + k, fwhm=fwhm, beta=beta, rate=rate, n_stars=round(700 / fwhm) + 50, **options
        )
        bits = mask(truth.frame, trails=False).value
        found += score(truth, has_bits(bits, MaskBit.COSMIC))
    return found


@pytest.mark.parametrize("rate", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("fwhm", [1.3, 2.0, 2.6, 6.0])
def test_hits_are_found_and_star_cores_spared_at_any_seeing_and_rate(fwhm, rate):
    """Rows E17 and S4: recall of hits, and stars survive in good seeing."""
    found, hit, flagged, all_stars = total(fwhm, rate, 2)
    error = np.sqrt(0.95 * 0.05 * PIXELS_PER_TRACK / hit)
    assert found / hit > 0.95 - 4 * error
    limit = 0.01 if fwhm < 2 else 0.001
    expected = limit * all_stars
    assert flagged <= expected + 4 * np.sqrt(expected) + 1


def test_empty_sky_has_no_hits():
    truth = field(50, n_stars=0, rate=0.0, side=700)
    found = has_bits(mask(truth.frame, trails=False).value, MaskBit.COSMIC)
    # 490 000 px above 5 sigma: one in 3.5 million is noise
    assert found.sum() <= 3


def test_the_mask_is_that_of_astroscrappy_with_full_medians():
    figure = cosmics.disagreement_figure(side=300)
    assert figure.value == 0
    assert figure.n > 150
