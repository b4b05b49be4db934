"""Values sorted by their bits are sorted."""

import numpy as np
import pytest

from skymill.kernels.order_statistics import sort_values


@pytest.mark.parametrize("n", [1, 7, 199, 200, 1001, 20_000])
def test_values_of_either_sign_and_any_size_are_sorted(n):
    rng = np.random.default_rng(n)
    values = (rng.normal(0, 1, n) * 10.0 ** rng.integers(-40, 38, n)).astype(np.float32)
    values[: n // 10] = values[-1]  # many are equal
    values[n // 2] = np.inf
    values[n // 3] = -np.inf if n > 3 else 0
    expected = np.sort(values)
    sort_values(values)
    np.testing.assert_array_equal(values, expected)
