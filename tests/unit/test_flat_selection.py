"""Selection of sky flats: twilight, pointings, clouds, groups of level, large scale."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.steps.flat_selection import (
    FlatFacts,
    colocated_frames,
    detrended_variance,
    is_twilight,
    level_groups,
    separations,
    variance_outliers,
)
from skymill.steps.flat_statistics import illumination, large_scale, surface_terms

DAY = 60_000.0


def ramp(n: int, factor: float, *, exposure: float = 3.0, step_s: float = 60, **more):
    """Flats whose light changes by a factor from frame to frame."""
    return [
        FlatFacts(f"f{i}", 20_000 * factor**i, exposure, DAY + i * step_s / 86_400, **more)
        for i in range(n)
    ]


def grid(n: int = 9) -> np.ndarray:
    at = (np.arange(n) + 0.5) / n * 2 - 1
    return np.array([(y, x) for y in at for x in at])


def test_falling_light_is_a_twilight_and_steady_light_is_a_lamp():
    assert is_twilight(ramp(6, 0.85)) == (True, "ramp")
    assert is_twilight(ramp(6, 1.2)) == (True, "ramp")
    rng = np.random.default_rng(1)
    lamp = [
        FlatFacts(f"f{i}", 20_000 * (1 + 0.01 * rng.normal()), 5.0, DAY + i / 1440)
        for i in range(9)
    ]
    assert is_twilight(lamp) == (False, "steady light")


def test_lamp_with_several_exposures_is_a_lamp():
    """For photon transfer the exposure grows and so does the level; the rate does not."""
    facts = [FlatFacts(f"f{i}", 900 * t, t, DAY + i / 1440) for i, t in enumerate((1, 2, 4, 8, 16))]
    assert is_twilight(facts) == (False, "steady light")


def test_twilight_with_growing_exposures_and_equal_levels_is_a_twilight():
    facts = [FlatFacts(f"f{i}", 20_000, t, DAY + i / 1440) for i, t in enumerate((1, 2, 4, 8, 16))]
    assert is_twilight(facts) == (True, "ramp")


def test_dusk_and_dawn_together_are_a_twilight():
    dusk = ramp(4, 0.8)
    dawn = [FlatFacts(f"m{i}", 8_000 * 1.25**i, 3.0, DAY + 0.4 + i / 1440) for i in range(4)]
    assert is_twilight(dusk + dawn)[0]
    # lamps that flicker are in no order
    rates = (1.0, 1.5, 0.9, 1.4, 0.8, 1.6)
    odd = [FlatFacts(f"f{i}", 9_000 * r, 3.0, DAY + i / 1440) for i, r in enumerate(rates)]
    assert is_twilight(odd) == (False, "no ramp")


def test_names_and_settings_decide_before_the_light():
    assert is_twilight(ramp(6, 0.8, name="Dome Flat")) == (False, "name")
    assert is_twilight(ramp(6, 1.0, name="sky flat")) == (True, "name")
    assert is_twilight(ramp(6, 0.8), "no") == (False, "set")
    assert is_twilight(ramp(6, 1.0), "yes") == (True, "set")
    assert is_twilight([FlatFacts("a", 1.0), FlatFacts("b", 2.0)]) == (False, "times unknown")


def at(offsets_arcsec, levels=None, dec: float = 60.0):
    levels = levels or [20_000 - 100 * i for i in range(len(offsets_arcsec))]
    return [
        FlatFacts(
            f"f{i}", level, ra_deg=359.999 + offset / 3600 / np.cos(np.radians(dec)), dec_deg=dec
        )
        for i, (offset, level) in enumerate(zip(offsets_arcsec, levels, strict=True))
    ]


def test_separations_are_those_on_the_sphere():
    """Across 0 h and at high declination."""
    distance = separations(at([0, 30, 500]))
    np.testing.assert_allclose(distance[0], [0, 30, 500], rtol=1e-4, atol=1e-6)
    assert np.isnan(separations([FlatFacts("a", 1.0), *at([0])])[0, 1])


def test_dithered_flats_all_stay_and_a_crowd_is_thinned():
    """A24: frames closer than 150 arcsec keep their stars on the same pixels."""
    assert colocated_frames(at([0, 200, 400, 600]), 150, "majority", 3).rejected == {}
    crowd = colocated_frames(at([0, 10, 20, 30, 1000, 2000, 3000]), 150, "majority", 3)
    # 4 of 7 would make the star the median; 2 of 5 do not, and the faintest go
    assert set(crowd.rejected) == {"f2", "f3"}
    assert "10 arcsec from f1" in crowd.rejected["f2"]
    assert crowd.clusters == 4
    assert crowd.warning == ""


def test_strict_policy_leaves_the_brightest_of_each_pointing():
    facts = at([0, 10, 20, 1000, 2000], [1000, 3000, 2000, 900, 800])
    found = colocated_frames(facts, 150, "strict", 3)
    assert set(found.rejected) == {"f0", "f2"}
    assert found.clusters == 3


def test_too_few_pointings_are_a_warning_and_never_reject_all():
    found = colocated_frames(at([0, 10, 20, 30]), 150, "strict", 3)
    assert found.rejected == {}
    assert "4 of 4 frames" in found.warning
    same = colocated_frames(at([0, 0, 0]), 150, "strict", 1)
    assert same.rejected == {}
    assert "same pointing" in same.warning
    unknown = colocated_frames([FlatFacts("a", 1.0), FlatFacts("b", 2.0)], 150, "majority", 1)
    assert unknown.rejected == {}
    assert "not known" in unknown.warning
    told = colocated_frames(at([0, 10, 20, 1000]), 150, "flag", 3)
    assert told.rejected == {}
    assert told.warning
    assert colocated_frames(at([0, 0, 0]), 0, "strict", 1).warning == ""


def test_chains_of_small_steps_are_one_pointing():
    found = colocated_frames(at([0, 100, 200, 300, 400, 5000]), 150, "flag", 3)
    assert found.clusters == 2


def flat_sample(level: float, seed: int, clouds: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    where = grid()
    pattern = np.random.default_rng(7).normal(1, 0.01, (81, 20, 20))
    light = level * (1 - 0.2 * (where**2).sum(axis=1))[:, None, None] * pattern
    light = light * (1 + clouds * np.sin(9 * where[:, :1] + 5 * where[:, 1:]))[..., None]
    return rng.poisson(light * 1.5) / 1.5 + rng.normal(0, 6, light.shape)


def test_clouds_stand_above_the_curve_of_variance_against_level():
    """A24: quadratic fit of the detrended variance against the mean."""
    levels = np.array([30_000, 26_000, 22_000, 19_000, 16_000, 13_000, 11_000, 9_000.0])
    sums = [detrended_variance(flat_sample(v, i), grid()) for i, v in enumerate(levels)]
    mean, variance = np.array(sums).T
    # 12 000 pixels: 1.3 % of the variance; photons and the pattern of 1 % explain it
    model = mean / 1.5 + (0.01 * mean) ** 2 + 36
    np.testing.assert_allclose(variance, model, rtol=0.08)
    excess, cloudy = variance_outliers(mean, variance)
    assert not cloudy.any()
    assert np.abs(excess).max() < 0.07
    mean[3], variance[3] = detrended_variance(flat_sample(levels[3], 3, 0.02), grid())
    excess, cloudy = variance_outliers(mean, variance)
    assert list(np.flatnonzero(cloudy)) == [3]
    assert excess[3] > 0.2


def test_no_curve_is_drawn_through_few_or_equal_levels():
    mean = np.array([100.0, 200, 300, 400, 500])
    assert not variance_outliers(mean, mean * 9)[1].any()
    assert not variance_outliers(np.full(9, 100.0), np.arange(1.0, 10))[1].any()
    assert np.isnan(detrended_variance(np.ones((4, 9, 9)), grid(2))[0])


def test_levels_are_split_at_a_border_or_in_the_geometric_middle():
    levels = np.array([4000, 30_000, 5000, 20_000.0])
    assert level_groups(levels, 0) == ([1, 3], [0, 2])
    assert level_groups(levels, 25_000) == ([1], [0, 2, 3])


def test_large_scale_differences_are_measured_and_can_be_evaluated():
    where = grid()
    base = 1 - 0.2 * (where**2).sum(axis=1)
    rng = np.random.default_rng(3)
    slopes = np.array([0.0, 0.0, 0.03, 0.0, 0.0])
    levels = np.array([20_000 * base * (1 + s * where[:, 1]) for s in slopes])
    levels *= rng.normal(1, 0.0005, levels.shape)
    found = large_scale(levels, where)
    # box error 0.0005, slope of 81 boxes: 0.0005 / sqrt(81/3) = 0.0001; two axes, twice
    np.testing.assert_allclose(found.gradient, [0, 0, 0.06, 0, 0], atol=0.002)
    # the surface ends at the outermost boxes
    assert found.deviation[2] == pytest.approx(0.03 * 8 / 9, abs=0.002)
    surface = illumination(found.coefficients[2], found.order, (90, 120), 10, 20)
    x = (np.arange(120) + 0.5) / 60 - 1
    np.testing.assert_allclose(surface, np.broadcast_to(1 + 0.03 * x, (10, 120)), atol=0.002)


def test_stars_in_single_boxes_do_not_bend_the_surface():
    where = grid()
    levels = np.full((4, 81), 1000.0)
    levels[1, [5, 40]] *= 1.3
    found = large_scale(levels, where)
    assert found.deviation.max() < 1e-6


def test_order_is_lowered_where_boxes_do_not_suffice():
    assert large_scale(np.ones((3, 16)), grid(4), order=2).order == 1
    assert large_scale(np.ones((3, 4)), grid(2), order=2).order == 0
    assert large_scale(np.ones((1, 81)), grid()).gradient[0] == 0


def test_surface_terms_are_orthogonal_legendre_products():
    y, x = np.meshgrid((np.arange(200) + 0.5) / 100 - 1, (np.arange(200) + 0.5) / 100 - 1)
    terms = surface_terms(y, x, 3).reshape(10, -1)
    product = np.einsum("in,jn->ij", terms, terms) / terms.shape[1]
    np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-3)
