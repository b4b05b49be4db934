"""The check against the next exposure, on simulated pairs: stars come back, hits do not."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from bench import cosmic_check
from bench.cosmic_check import CASES, Case, checked, pair, tally
from skymill.frame import Frame
from skymill.steps.cosmic_check import link, sight


@pytest.fixture(scope="module")
def tallies():
    return cosmic_check.tallies()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flagged_stars_are_refuted(tallies, case):
    refuted, all_stars, _, _ = tallies[case]
    assert all_stars > 100
    assert refuted >= 0.9 * all_stars


def test_hits_are_not_removed(tallies):
    total = sum(tallies.values())
    assert total[3] > 5000
    assert total[2] <= 0.005 * total[3]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hits_are_not_removed_with_any_shift_or_seeing(tallies, case):
    assert tallies[case][2] <= 0.005 * tallies[case][3] + 4 * np.sqrt(0.005 * tallies[case][3])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.2), (1.4, 0.6), (14.2, 5.5)], ids=str)
def test_hot_pixels_that_stay_on_the_detector_are_not_taken_for_stars(shift):
    rng = np.random.default_rng(9)
    places = rng.integers(20, 1000, (150, 2))
    strong = 10 ** rng.uniform(3, 4.5, 150)
    hot = [(j, i, e) for (j, i), e in zip(places, strong, strict=True)]
    # some are pairs
    hot += [(j, i + 1, 0.6 * e) for j, i, e in hot[:50]]
    first, second, worth = pair(3, Case(shift), hot=hot)
    found = checked(first, second)
    removed = sum(found.refuted[j, i] for j, i, _ in hot)
    assert removed <= 1
    refuted, all_stars, _, _ = tally(first, second, worth, shift)
    assert refuted > 0.85 * all_stars


def test_a_field_without_common_stars_refutes_nothing():
    first, _, _ = pair(1, Case((3.0, 3.0)))
    _, other, _ = pair(2, Case((3.0, 3.0)))
    found = checked(first, other)
    assert found.n_refuted == found.n_confirmed == 0
    assert found.n_undecided > 100


def test_a_rotated_field_refutes_nothing():
    first, second, _ = pair(1, Case((3.0, 3.0)))
    turned = Frame(np.rot90(second.frame.sci, 2), np.rot90(second.frame.err, 2),
                   np.rot90(second.bits, 2), fits.Header())  # fmt: skip
    one, other = sight(first.frame, first.bits), sight(turned, turned.mask)
    assert link(one, other) is None


def test_the_shift_is_found_to_a_tenth_of_a_pixel():
    for shift in ((0.0, 0.0), (0.37, -12.2), (-120.6, 83.1)):
        first, second, _ = pair(5, Case(shift))
        found = link(sight(first.frame, first.bits), sight(second.frame, second.bits))
        assert found is not None
        assert abs(found.dx - shift[0]) < 0.1
        assert abs(found.dy - shift[1]) < 0.1


def test_the_check_is_cheap():
    assert cosmic_check.cost() <= 0.1
