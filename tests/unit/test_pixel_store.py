"""Pixels in memory or in a scratch file: the same bytes come back."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.pixel_store import PixelStore


@pytest.fixture
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [
        rng.integers(0, 60_000, (30, 17)).astype(np.uint16),
        rng.normal(0, 1, (30, 17)).astype(np.float32),
        rng.integers(0, 60_000, (5, 9)).astype(np.uint16)[::-1, ::-1],
    ]


@pytest.mark.parametrize("limit", [0, 1500, 1e9])
def test_rows_come_back_as_they_were(arrays, limit, tmp_path):
    store = PixelStore(limit, tmp_path)
    parts = [store.put(array) for array in arrays]
    assert store.spilled == (limit < 1e9)
    for part, array in zip(parts, arrays, strict=True):
        for y0, y1 in ((0, len(array)), (2, 5), (4, 4)):
            got = part.rows(y0, y1)
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array[y0:y1])
    assert list(tmp_path.iterdir()) == []


def test_what_was_in_memory_moves_when_the_limit_is_passed(arrays, tmp_path):
    store = PixelStore(1100, tmp_path)
    first = store.put(arrays[0])
    assert not store.spilled
    store.put(arrays[1])
    assert store.spilled
    np.testing.assert_array_equal(first.rows(3, 20), arrays[0][3:20])


def test_dropped_pixels_make_room(arrays, tmp_path):
    store = PixelStore(2100, tmp_path)
    store.drop(store.put(arrays[0]))
    store.put(arrays[1])
    assert not store.spilled


def test_expected_size_decides_at_once(arrays, tmp_path):
    store = PixelStore(5000, tmp_path)
    store.expect(5001)
    assert store.spilled
    np.testing.assert_array_equal(store.put(arrays[0]).rows(0, 30), arrays[0])
