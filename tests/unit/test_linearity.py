"""Measured to linear signal: polynomials and tables, their slope, and beyond their ends."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.errors import ConfigError
from skymill.linearity import Linearity


def test_polynomial_is_exact_to_the_curvature_between_the_knots():
    """Straight lines between knots 16 ADU apart miss f''/8 x 16^2 = 64 c2 ADU at most."""
    c2, c3 = 3e-6, -2e-11
    linear = Linearity.from_rule({"polynomial": [c2, c3]})
    m = np.random.default_rng(1).uniform(0, 65_536, 10_000)
    expected = m * (1 + c2 * m + c3 * m**2)
    assert np.abs(linear(m) - expected).max() < 64 * c2 + 1e-9
    slope = 1 + 2 * c2 * m + 3 * c3 * m**2
    # the slope of a piece is that at its middle, 8 ADU away at most
    assert np.abs(linear.slope(m) - slope).max() < 2 * c2 * 8 * 1.01
    assert linear(np.zeros(1)) == 0


def test_table_runs_through_its_entries():
    table = [[16_000, 16_000], [32_000, 32_800], [48_000, 51_200]]
    linear = Linearity.from_rule({"table": table})
    measured, expected = np.array([[0, 0], *table]).T
    np.testing.assert_allclose(linear(measured), expected, atol=1e-9)
    assert linear(np.array(24_000.0)) == pytest.approx((16_000 + 32_800) / 2)
    assert linear.slope(np.array(40_000.0)) == pytest.approx(18_400 / 16_000)
    with_origin = Linearity.from_rule({"table": [[0, 0], *table]})
    np.testing.assert_array_equal(linear.values, with_origin.values)


def test_both_forms_of_one_function_agree():
    m = np.linspace(0, 65_000, 2001)[1:]
    table = np.stack([m, m * (1 + 2e-6 * m)], axis=1).tolist()
    one = Linearity.from_rule({"table": table})
    other = Linearity.from_rule({"polynomial": [2e-6]})
    at = np.linspace(-100, 64_000, 777)
    # both miss the curve by c2/4 x (distance of the knots)^2 at most
    np.testing.assert_allclose(one(at), other(at), atol=2e-6 / 4 * (32.5**2 + 16**2) + 0.01)


def test_true_signal_comes_back():
    """A detector that loses charge quadratically, inverted in closed form."""
    c2 = 2e-6
    linear = Linearity.from_rule({"polynomial": [c2]})
    true = np.random.default_rng(2).uniform(0, 60_000, 5000)
    measured = (np.sqrt(1 + 4 * c2 * true) - 1) / (2 * c2)
    np.testing.assert_allclose(linear(measured), true, atol=64 * c2)


def test_beyond_its_ends_it_goes_straight_on():
    linear = Linearity.from_rule({"polynomial": [1e-6]})
    step = linear.step_adu
    np.testing.assert_allclose(linear(np.array([-50.0])), -50 * linear.slope(np.array(-50.0)))
    top = linear.values[-1]
    end = linear.slope(np.array(1e9))
    np.testing.assert_allclose(linear(np.array(65_536.0 + 10 * step)), top + 10 * step * end)
    assert np.isnan(linear(np.array([np.nan]))).all()
    # a rule for signals up to 20000 ADU, though it would turn at 25000
    short = Linearity.from_rule({"polynomial": [-2e-5]}, top_adu=20_000)
    assert short(np.array(19_000.0)) == pytest.approx(19_000 * (1 - 2e-5 * 19_000), abs=0.01)
    assert (np.diff(short(np.linspace(0, 65_000, 500))) > 0).all()


def test_arrays_for_compiled_loops_are_the_function():
    linear = Linearity.from_rule({"polynomial": [1e-6]})
    values, step = linear.arrays()
    np.testing.assert_array_equal(values, linear(np.arange(values.size) * step))


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"polynomial": []},
        {"polynomial": ["x"]},
        {"polynomial": [-1e-4]},
        {"table": []},
        {"table": [[0, 0]]},
        {"table": [1, 2]},
        {"table": [[100, 100, 1]]},
        {"table": [[100, 100], [90, 110]]},
        {"table": [[100, 100], [110, 90]]},
        {"table": [[0, 5], [100, 100]]},
        {"table": [[100, 100], [200]]},
        {"spline": [1]},
    ],
)
def test_rules_that_are_none_are_told_by_name(rule):
    with pytest.raises(ConfigError, match="linearity of A"):
        Linearity.from_rule(rule, name="linearity of A")


def test_detectors_of_more_than_16_bits_are_linearised_up_to_saturation():
    """The grid ended at 65536 ADU: 7 % of the signal was missing at 200 000 ADU."""
    c2 = 5e-7
    linear = Linearity.from_rule({"polynomial": [c2]}, top_adu=250_000.0)
    m = np.random.default_rng(3).uniform(0, 250_000, 10_000)
    # straight lines between knots 16 ADU apart
    assert np.abs(linear(m) - m * (1 + c2 * m)).max() < 64 * c2 + 1e-6
    far = Linearity.from_rule({"table": [[1e6, 1.1e6], [4e6, 5e6]]}, top_adu=4e6)
    assert len(far.values) < 70_000
    np.testing.assert_allclose(far(np.array([2.5e6])), 3.05e6)
