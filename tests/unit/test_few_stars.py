"""Frames of one to three stars: aligned by a shift where that is beyond chance."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.few_stars import match_few
from skymill.matching import Match
from skymill.star_lists import Limits, Refusal, Stars

SHAPE = (500, 760)


def _stars(xy, flux, err=0.05):
    order = np.argsort(-np.asarray(flux, float), kind="stable")
    xy = np.asarray(xy, float).reshape(-1, 2)
    return Stars(xy[order], np.full(len(xy), err), np.asarray(flux, float)[order])


def _try(frame, reference, *, reach=300.0, **limits):
    return match_few(frame, reference, SHAPE, Limits(**limits), reach_px=reach)


def test_o13_one_star_far_brighter_than_all_else_gives_the_shift():
    """O13: a translation needs one star; how likely it is another one is stated."""
    reference = _stars([[300, 200], [50, 60], [600, 420]], [1e7, 3e3, 2e3])
    found = _try(_stars([[340, 170], [700, 90]], [1.2e7, 2e3]), reference)
    assert isinstance(found, Match)
    assert found.transform.offset == pytest.approx([-40, 30])
    assert 1e-3 < found.expected_false < 0.05


def test_one_star_among_equals_is_refused():
    reference = _stars([[300, 200], [50, 60], [600, 420]], [1e5, 9e4, 8e4])
    found = _try(_stars([[340, 170]], [1e5]), reference)
    assert isinstance(found, Refusal)
    assert "expected by chance" in found.why
    # A narrow window makes the same star acceptable: that is what the limit is for.
    near = _stars([[301, 203]], [1e5])
    assert isinstance(_try(near, reference, max_translation_px=(6.0, 6.0)), Match)


def test_two_stars_vote_and_a_wrong_neighbour_does_not_pull_the_shift():
    """O13: voting instead of the mean, so that one wrong match does not matter."""
    reference = _stars([[300, 200], [420, 350], [81.5, 90]], [2e5, 1e5, 9e4])
    frame = _stars([[330, 180], [450, 330], [110, 69]], [2e5, 1e5, 9e4])
    found = _try(frame, reference)
    assert isinstance(found, Match)
    assert len(found.source) >= 2
    off = found.transform.offset - [-30, 20]
    assert np.hypot(*off) < 0.8  # a mean of all pairs within 3 px would allow the third alone
    assert found.expected_false < 1e-3


def test_hot_pixels_that_stand_still_do_not_outvote_the_light():
    hot, weak = [[543, 419], [199, 411], [54, 169], [221, 266]], [1300, 1200, 1100, 700]
    lists = [
        _stars([*at, *hot], [9.9e5, 7e5, *weak])
        for at in ([[323.5, 248], [438, 140]], [[293.5, 308], [408, 200]])
    ]
    found = _try(lists[1], lists[0])
    assert isinstance(found, Match)
    assert found.transform.offset == pytest.approx([30, -60])


def test_the_limits_of_each_axis_hold():
    """O14: translation in pixels per axis."""
    reference = _stars([[300, 200], [50, 60]], [1e7, 3e3])
    frame = _stars([[340, 190]], [1e7])
    assert isinstance(_try(frame, reference, max_translation_px=(50.0, 15.0)), Match)
    assert isinstance(_try(frame, reference, max_translation_px=(30.0, 15.0)), Refusal)
    assert isinstance(_try(frame, reference, max_translation_px=(50.0, 5.0)), Refusal)


def test_a_star_of_another_flux_is_another_star():
    assert isinstance(_try(_stars([[300, 200]], [1e7]), _stars([[310, 205]], [5e5])), Refusal)
    assert isinstance(_try(_stars([], []), _stars([[310, 205]], [5e5])), Refusal)


def test_the_stated_number_of_false_shifts_bounds_what_happens():
    """Unrelated lists, number counts of 0.4 dex/mag: false shifts stay below what was stated."""
    accepted = stated = 0.0
    for trial in range(600):
        rng = np.random.default_rng([5, trial])
        lists = []
        for _ in range(2):
            n = int(rng.integers(1, 9))
            xy = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (n, 2))
            lists.append(_stars(xy, 1e3 * rng.uniform(0, 1, n) ** -1.0))
        found = _try(*lists, max_false_few=0.5)
        if isinstance(found, Match):
            accepted += 1
            stated += found.expected_false
    # In 600 pairs of lists; the limit is on each of them.
    assert accepted <= 0.5 * 600
    strict = 0
    for trial in range(600):
        rng = np.random.default_rng([6, trial])
        lists = []
        for _ in range(2):
            n = int(rng.integers(1, 9))
            xy = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (n, 2))
            lists.append(_stars(xy, 1e3 * rng.uniform(0, 1, n) ** -1.0))
        strict += isinstance(_try(*lists), Match)
    # 0.05 each: 30 expected at most, 4 standard deviations above.
    assert strict <= 30 + 4 * np.sqrt(30)
