"""Rice tiles are the bytes that cfitsio writes, and come back as they were."""

import io

import numpy as np
import pytest
from astropy.io import fits

from skymill.kernels.rice import decode_tiles, encode_tiles, most_bytes

ROWS, BZERO = 16, 32768


def planes():
    rng = np.random.default_rng(1)
    sparse = np.zeros((40, 61), np.uint16)
    sparse[rng.random(sparse.shape) < 0.02] = 512
    yield "sparse", sparse
    yield "zero", np.zeros((16, 32), np.uint16)
    yield "one pixel", np.full((1, 1), 7, np.uint16)
    yield "noise", rng.integers(0, 65536, (33, 64)).astype(np.uint16)
    yield "narrow", rng.integers(0, 65536, (17, 5)).astype(np.uint16)
    yield "bell", (32768 + rng.normal(0, 300, (20, 37))).astype(np.uint16)
    yield "broad", (32768 + rng.normal(0, 6000, (20, 37))).astype(np.uint16)
    yield "wrap", np.where(rng.random((64, 64)) < 0.5, 0, 65535).astype(np.uint16)


CASES = pytest.mark.parametrize("plane", [p for _, p in planes()], ids=[n for n, _ in planes()])


def encoded(plane):
    tiles = -(-plane.shape[0] // ROWS)
    out = np.zeros(tiles * most_bytes(ROWS * plane.shape[1]), np.uint8)
    sizes = np.zeros(tiles, np.int64)
    used = encode_tiles(plane, ROWS, BZERO, out, sizes)
    return out[:used].copy(), sizes


@CASES
def test_bytes_are_those_of_cfitsio(plane):
    tile = (min(ROWS, plane.shape[0]), plane.shape[1])
    image = fits.CompImageHDU(plane, compression_type="RICE_1", tile_shape=tile)
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    with fits.open(io.BytesIO(buffer.getvalue()), disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
        table, heap = 8 * hdus[1].header["NAXIS2"], hdus[1].header["PCOUNT"]
    data = buffer.getvalue()[start : start + table + heap]
    ours, sizes = encoded(plane)
    assert np.frombuffer(data[:table], ">i4")[::2].tolist() == sizes.tolist()
    assert data[table:] == ours.tobytes()


@CASES
def test_planes_come_back(plane):
    heap, sizes = encoded(plane)
    places = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    back = np.empty_like(plane)
    assert decode_tiles(heap, sizes, places, ROWS, BZERO, back)
    np.testing.assert_array_equal(back, plane)


def test_a_cut_tile_is_noticed():
    plane = np.random.default_rng(2).integers(0, 65536, (16, 40)).astype(np.uint16)
    heap, sizes = encoded(plane)
    back = np.empty_like(plane)
    places = np.zeros(1, np.int64)
    assert not decode_tiles(heap[:-200], sizes, places, ROWS, BZERO, back)
    assert not decode_tiles(heap[:-200], sizes - 200, places, ROWS, BZERO, back)
