"""Rice coding of tiles of 16-bit integers, as FITS tables of compressed images hold them.

The format is that of the FITS standard (section 10.4.1, RICE_1 with two bytes a pixel and
blocks of 32 pixels; Rice, Yeh & Miller 1993): the first value as it is, then for each block
the number of low bits of the differences that are stored as they are, and the differences.
Encoded bytes are those that cfitsio writes.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["BLOCK_PX", "decode_tiles", "encode_tiles", "most_bytes"]

#: Pixels of a block.
BLOCK_PX = 32
#: Bits that tell how a block is stored; the largest split; bits of a value.
_FS_BITS, _FS_MAX, _BITS = 4, 14, 16


def most_bytes(n_px: int) -> int:
    """Return how many bytes a tile of ``n_px`` values needs at most."""
    return 2 * n_px + n_px // 4 + 64


@numba.njit(cache=True, nogil=True)
def _put(out, at, bits, free, value, width):  # type: ignore[no-untyped-def]
    """Append ``width`` bits; return place, open byte and its free bits."""
    while width > 0:
        take = min(free, width)
        part = (value >> (width - take)) & ((1 << take) - 1)
        bits = (bits << take) | part
        free -= take
        width -= take
        if free == 0:
            out[at] = bits
            at += 1
            bits, free = 0, 8
    return at, bits, free


@numba.njit(cache=True, nogil=True)
def _encode(values, out):  # type: ignore[no-untyped-def]
    """Encode one tile of 16-bit values; return the number of bytes."""
    n = values.size
    at, bits, free = _put(out, 0, 0, 8, np.int64(values[0]) & 0xFFFF, _BITS)
    last = np.int64(values[0])
    folded = np.empty(BLOCK_PX, np.int64)
    for start in range(0, n, BLOCK_PX):
        count = min(BLOCK_PX, n - start)
        part, changes = values[start : start + count], np.int16(0)
        for j in range(part.size):
            changes |= part[j] ^ np.int16(last)
        if changes == 0:  # as most blocks of a mask
            at, bits, free = _put(out, at, bits, free, 0, _FS_BITS)
            continue
        total = 0
        for j in range(count):
            value = np.int64(values[start + j])
            if value == last:
                folded[j] = 0
                continue
            # differences wrap around in 16 bits; negative ones become odd numbers
            step = ((value - last + 0x8000) & 0xFFFF) - 0x8000
            folded[j] = (-2 * step - 1 if step < 0 else 2 * step) & 0xFFFF
            total += folded[j]
            last = value
        if total == 0:
            at, bits, free = _put(out, at, bits, free, 0, _FS_BITS)
            continue
        mean = max((total - count // 2 - 1) // count, 0) if total > count // 2 else 0
        split, rest = 0, mean >> 1
        while rest > 0:
            split += 1
            rest >>= 1
        if split >= _FS_MAX:
            at, bits, free = _put(out, at, bits, free, _FS_MAX + 1, _FS_BITS)
            for j in range(count):
                at, bits, free = _put(out, at, bits, free, folded[j], _BITS)
            continue
        at, bits, free = _put(out, at, bits, free, split + 1, _FS_BITS)
        for j in range(count):
            for _ in range(folded[j] >> split):
                at, bits, free = _put(out, at, bits, free, 0, 1)
            at, bits, free = _put(out, at, bits, free, 1, 1)
            at, bits, free = _put(out, at, bits, free, folded[j] & ((1 << split) - 1), split)
    if free < 8:
        out[at] = bits << free
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def encode_tiles(plane, tile_rows, offset, out, sizes):  # type: ignore[no-untyped-def]
    """Encode a plane in tiles of whole rows.

    Parameters
    ----------
    plane : ndarray of uint16, shape (ny, nx)
        Values.
    tile_rows : int
        Rows of a tile.
    offset : int
        Subtracted from the values: 32768, the BZERO of unsigned values.
    out : ndarray of uint8
        Takes the tiles one after the other; `most_bytes` of each tile.
    sizes : ndarray of int64, shape (n_tiles,)
        Takes the bytes of each tile.

    Returns
    -------
    int
        Bytes in all.
    """
    ny, nx = plane.shape
    buffer = np.empty(tile_rows * nx, np.int16)
    at = 0
    for tile in range(sizes.size):
        y0, y1 = tile * tile_rows, min(ny, (tile + 1) * tile_rows)
        n = 0
        for y in range(y0, y1):
            line = buffer[n : n + nx]
            for x in range(nx):
                line[x] = np.int64(plane[y, x]) - offset
            n += nx
        sizes[tile] = _encode(buffer[:n], out[at:])
        at += sizes[tile]
    return at


@numba.njit(cache=True, nogil=True)
def _decode(data, values):  # type: ignore[no-untyped-def]
    """Decode one tile; return False if the bytes end too early."""
    n, size = values.size, data.size
    if size < 2:
        return False
    last = (np.int64(data[0]) << 8) | np.int64(data[1])
    at, bits, filled = 2, np.int64(0), 0  # bits that are read but not used
    for start in range(0, n, BLOCK_PX):
        count = min(BLOCK_PX, n - start)
        while filled < _FS_BITS:
            if at >= size:
                return False
            bits = (bits << 8) | np.int64(data[at])
            at, filled = at + 1, filled + 8
        filled -= _FS_BITS
        split = (bits >> filled) - 1
        bits &= (np.int64(1) << filled) - 1
        if split < 0:
            for j in range(count):
                values[start + j] = last
            continue
        width = _BITS if split == _FS_MAX else split
        for j in range(count):
            top = 0
            if split < _FS_MAX:
                while bits == 0:
                    top += filled
                    if at >= size:
                        return False
                    bits, filled = np.int64(data[at]), 8
                    at += 1
                while (bits >> (filled - 1)) == 0:
                    top += 1
                    filled -= 1
                filled -= 1
                bits &= (np.int64(1) << filled) - 1
            while filled < width:
                if at >= size:
                    return False
                bits = (bits << 8) | np.int64(data[at])
                at, filled = at + 1, filled + 8
            filled -= width  # type: ignore[assignment]
            step = (np.int64(top) << width) | (bits >> filled)  # top is 0 where nothing is split
            bits &= (np.int64(1) << filled) - 1
            step = -((step + 1) >> 1) if step & 1 else step >> 1
            last = (last + step) & 0xFFFF
            values[start + j] = last
    return True


@numba.njit(cache=True, nogil=True)
def decode_tiles(heap, sizes, places, tile_rows, offset, plane):  # type: ignore[no-untyped-def]
    """Decode a plane of tiles of whole rows, in place.

    Parameters
    ----------
    heap : ndarray of uint8
        Encoded tiles.
    sizes, places : ndarray of int64, shape (n_tiles,)
        Bytes of each tile and where it begins.
    tile_rows : int
        Rows of a tile.
    offset : int
        Added to the values, modulo 65536.
    plane : ndarray of uint16, shape (ny, nx)
        Takes the values.

    Returns
    -------
    bool
        False if a tile is not whole.
    """
    ny = plane.shape[0]
    for tile in range(sizes.size):
        first = places[tile]
        if first < 0 or sizes[tile] < 0 or first + sizes[tile] > heap.size:
            return False
        rows = plane[tile * tile_rows : min(ny, (tile + 1) * tile_rows)]
        values = rows.reshape(-1)
        if not _decode(heap[first : first + sizes[tile]], values):
            return False
        if offset:
            for i in range(values.size):
                values[i] = (np.int64(values[i]) + offset) & 0xFFFF
    return True
