"""Pattern matching: it finds what is there, and refuses what chance could give."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.affine import Affine, fit_affine, fit_best, identity, mirror, turn
from skymill.matching import match_lists, mutual_pairs, refine, searches

SHAPE = (1000, 1200)
CORNERS = np.array([[x, y] for x in (0.0, 600.0, 1199.0) for y in (0.0, 500.0, 999.0)])


def _about_middle(*, angle=0.0, scale=1.0, shift=(0.0, 0.0), flip=False):
    t = np.radians(angle)
    matrix = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    if flip:
        matrix = matrix @ np.diag([-1.0, 1.0])
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    return Affine(matrix, middle - matrix @ middle + np.array(shift))


def _lists(rng, truth, n, *, spurious=0.3, missing=0.1, noise=0.05):
    """Reference stars on and around the frame, and what the frame sees of them."""
    ny, nx = SHAPE
    reference = rng.uniform([-0.2 * nx, -0.2 * ny], [1.2 * nx, 1.2 * ny], (2 * n, 2))
    mags = rng.power(3, 2 * n) * 5
    seen = truth.inverse()(reference)
    keep = ((seen > 0) & (seen < [nx - 1, ny - 1])).all(axis=1) & (rng.random(2 * n) > missing)
    source = seen[keep] + rng.normal(0, noise, (keep.sum(), 2))
    k = int(spurious * len(source))
    both = np.concatenate([source, rng.uniform(0, [nx - 1, ny - 1], (k, 2))])
    order = np.argsort(
        np.concatenate([mags[keep] + rng.normal(0, 0.1, keep.sum()), rng.power(3, k) * 5])
    )
    return both[order], reference[np.argsort(mags)]


def _match(source, reference, **kwargs):
    plan = searches(SHAPE, near_px=100, max_scale=0.05)
    settings = {"tolerance_px": 2.0, "minimum": 3, "max_false": 1e-3} | kwargs
    return match_lists(source, reference, SHAPE, plan, **settings)


CASES = {
    "shift": {"shift": (30.0, -20.0)},
    "shift and small rotation": {"shift": (-20.0, 5.0), "angle": 1.0},
    "large shift": {"shift": (400.0, 150.0)},
    "half turn": {"angle": 180.0, "shift": (10.0, 4.0)},
    "any rotation and scale": {"angle": 73.0, "scale": 1.03},
    "mirror image": {"angle": 33.0, "flip": True, "scale": 0.98},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("n", "spurious"), [(12, 0.2), (60, 0.5)])
def test_the_map_is_found_in_spite_of_spurious_and_missing_stars(case, n, spurious):
    truth = _about_middle(**CASES[case])
    rng = np.random.default_rng([n, len(case)])
    source, reference = _lists(rng, truth, n, spurious=spurious)
    match, why = _match(source, reference)
    assert match is not None, why
    errors = np.full(len(source), 0.05), np.full(len(reference), 0.02)
    final = refine(
        source,
        reference,
        match,
        tolerance_px=2.0,
        source_error=errors[0],
        reference_error=errors[1],
    )
    off = np.hypot(*(final.transform(CORNERS) - truth(CORNERS)).T).max()
    # 0.05 px per star; corners are 2-3 times further out than the stars' spread.
    assert off < 6 * 0.05 * np.sqrt(6 / len(final.source)) + 0.02
    assert (final.transform.determinant < 0) == CASES[case].get("flip", False)


def test_three_common_stars_are_enough_near_the_expected_place():
    rng = np.random.default_rng(5)
    reference = np.array([[300.0, 200.0], [900.0, 350.0], [520.0, 800.0]])
    source = np.concatenate([reference - [31.0, -17.0], rng.uniform(0, [1199, 999], (20, 2))])
    match, why = _match(source, reference)
    assert match is not None, why
    assert sorted(match.source) == [0, 1, 2]
    assert match.transform.offset == pytest.approx([31.0, -17.0], abs=1e-9)


def test_an_ambiguous_pattern_is_refused():
    # The same four stars twice on the frame: both shifts explain the reference.
    pattern = np.array([[100.0, 100.0], [180.0, 120.0], [130.0, 220.0], [240.0, 190.0]])
    match, why = _match(np.concatenate([pattern, pattern + [40.0, 25.0]]), pattern)
    assert match is None
    assert "ambiguous" in why


def test_too_few_stars_are_said_so():
    match, why = _match(np.zeros((2, 2)), np.zeros((5, 2)))
    assert match is None
    assert "2 and 5 stars" in why


def test_wrong_lists_give_no_false_solution_with_any_rotation():
    for trial in range(8):
        rng = np.random.default_rng([13, trial])
        source, reference = (rng.uniform(0, [1199, 999], (k, 2)) for k in rng.integers(4, 40, 2))
        assert _match(source, reference)[0] is None


def test_the_map_of_a_turned_list_is_not_mistaken_for_a_shift():
    """A list and its half turn share pairs: chance matches come in twos there."""
    truth = _about_middle(angle=180.0, shift=(12.0, -7.0))
    for trial in range(3):
        source, reference = _lists(np.random.default_rng([17, trial]), truth, 100, spurious=0.5)
        match, why = _match(source, reference)
        assert match is not None, why
        assert match.search.name == "turned"


def test_few_stars_do_not_fit_what_they_cannot_tell():
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 200, (4, 2))
    shifted = corner + [5.0, 3.0] + rng.normal(0, 0.3, (4, 2))
    fit = fit_best(corner, shifted, np.full(4, 0.3))
    assert fit.kind == "shift"
    # A shift alone keeps the far corner within the error of the mean (4 x 0.3 / 2).
    assert np.hypot(*(fit.transform(np.array([[1199.0, 999.0]])) - [1204.0, 1002.0])[0]) < 0.9
    turned = _about_middle(angle=2.0)
    many = rng.uniform(0, [1199, 999], (40, 2))
    assert fit_best(many, turned(many), np.full(40, 0.05)).kind in ("rigid", "similarity", "affine")


@pytest.mark.parametrize("kind", ["shift", "rigid", "similarity", "affine"])
def test_each_kind_recovers_its_own_map(kind):
    rng = np.random.default_rng(8)
    xy = rng.uniform(0, 1000, (20, 2))
    truth = {
        "shift": Affine(np.eye(2), np.array([3.0, -2.0])),
        "rigid": _about_middle(angle=25.0),
        "similarity": _about_middle(angle=-40.0, scale=1.2),
        "affine": Affine(np.array([[1.0, 0.02], [-0.01, 0.97]]), np.array([1.0, 2.0])),
    }[kind]
    assert fit_affine(xy, truth(xy), kind)(CORNERS) == pytest.approx(truth(CORNERS), abs=1e-8)


def test_maps_compose_and_invert():
    one, two = _about_middle(angle=20.0, shift=(1.0, 2.0)), _about_middle(scale=1.1, flip=True)
    assert two.after(one)(CORNERS) == pytest.approx(two(one(CORNERS)))
    assert one.inverse()(one(CORNERS)) == pytest.approx(CORNERS)
    assert one.rotation_deg == pytest.approx(20.0)
    assert (two.determinant < 0, two.scale) == (True, pytest.approx(1.1))
    assert turn(SHAPE).after(turn(SHAPE))(CORNERS) == pytest.approx(CORNERS)
    assert mirror(SHAPE).after(mirror(SHAPE))(CORNERS) == pytest.approx(CORNERS)
    assert identity().shear == 0


def test_pairs_are_mutual_and_skip_what_is_not_finite():
    one = np.array([[0.0, 0.0], [0.4, 0.0], [np.nan, 1.0], [50.0, 50.0]])
    other = np.array([[0.5, 0.0], [np.inf, 0.0], [50.0, 53.0]])
    i, j = mutual_pairs(one, other, 2.0)
    assert (list(i), list(j)) == ([1], [0])


def test_the_answer_does_not_depend_on_repetition():
    source, reference = _lists(np.random.default_rng(2), _about_middle(angle=1.0), 40)
    one, two = _match(source, reference)[0], _match(source.copy(), reference.copy())[0]
    assert np.array_equal(one.transform.matrix, two.transform.matrix)
    assert np.array_equal(one.source, two.source)
