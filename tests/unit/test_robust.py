"""Means and scatters that outliers do not spoil."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.robust import clipped_mean_std, robust_sigma


def test_robust_sigma_of_integers_grows_smoothly():
    """A MAD would jump by 1.48 ADU. Error of the percentiles: 0.94/sqrt(200 000) = 0.2 %."""
    rng = np.random.default_rng(8)
    unit = rng.normal(0, 1, 200_000)
    for size in np.arange(0.5, 3.0, 0.1):
        assert robust_sigma((unit * size).round()) == pytest.approx(size, rel=0.01)
    assert robust_sigma(unit) == pytest.approx(1, rel=0.01)
    assert robust_sigma(np.ones(5)) == 0


def test_clipped_std_is_corrected_for_the_tails():
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(7, 2, 100_000), rng.normal(900, 5, 800)])
    mean, std = clipped_mean_std(values, 3.0, 10)
    assert mean == pytest.approx(7, abs=4 * 2 / np.sqrt(1e5))
    assert std == pytest.approx(2, rel=4 / np.sqrt(2e5) + 0.002)
    assert np.isnan(clipped_mean_std(np.array([np.nan]))[0])
