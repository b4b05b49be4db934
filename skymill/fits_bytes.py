"""FITS units as bytes: planes stream to the disk once, with their checksums.

The checksums are those of the FITS standard (section 4.4.2.7 and appendix J), computed
from the arrays in memory, so that a file that fits them holds just these values. Arrays
are turned to the byte order of FITS in small pieces that stay in the cache; a copy of a
whole plane in another order is never made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.fits_cards import CardText, card_text, framed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Unit",
    "image_unit",
    "primary_unit",
    "rice_unit",
    "same_sum",
    "stored_unit",
    "sum_matches",
    "word_sum",
]

#: Bytes of a FITS block, and of the pieces that are swapped at a time.
BLOCK, PIECE = 2880, 1 << 20
#: A file whose words sum to this, in one's complement, agrees with its CHECKSUM.
ALL_ONES = 0xFFFFFFFF
#: Zero point of unsigned 16-bit integers, which FITS stores as signed ones.
BZERO = 32768


@dataclass(frozen=True, eq=False)
class Unit:
    """Header and data of one HDU.

    Parameters
    ----------
    header : bytes
        With CHECKSUM and DATASUM, padded to whole blocks.
    data : ndarray or bytes
        Floating-point plane in native byte order, or bytes as they are stored.
    """

    header: bytes
    data: NDArray[Any] | bytes

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self.header) + self._data_size + self._padding

    @property
    def _data_size(self) -> int:
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)

    @property
    def _padding(self) -> int:
        return -self._data_size % BLOCK

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the unit in order; a piece is valid until the next is asked for."""
        yield self.header
        if isinstance(self.data, np.ndarray):
            yield from _swapped(self.data)
        else:
            yield self.data
        yield bytes(self._padding)


def image_unit(
    plane: NDArray[Any], header: fits.Header | CardText, name: str, *, primary: bool = False
) -> Unit:
    """Return an image of a plane that needs no scaling.

    Parameters
    ----------
    plane : ndarray of float32, float64 or uint8, shape (ny, nx)
        The pixels.
    header : astropy.io.fits.Header or CardText
        Further cards.
    name : str
        EXTNAME; empty for none.
    primary : bool
        Make it the primary HDU instead of an extension.
    """
    cards: fits.Header | str
    if isinstance(header, CardText):
        before, after = _image_frame(plane.dtype.str, plane.shape, name, primary)
        cards = f"{before}{header}{after}"
    else:
        cards = _image_cards(plane.dtype, plane.shape, header, name, primary)
    if plane.dtype == np.uint8:
        return stored_unit(cards, plane.tobytes())
    native = np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))
    total = _fold(int(native.reshape(-1).view(np.uint32).sum(dtype=np.uint64)))
    return Unit(_summed(cards, total), native)


def _image_cards(
    dtype: np.dtype[Any], shape: tuple[int, ...], header: fits.Header, name: str, primary: bool
) -> fits.Header:
    # a plane of the same form without memory of its own gives the structural cards
    form = np.broadcast_to(dtype.type(0), shape)
    if not primary:
        return fits.ImageHDU(form, header=header, name=name or None).header
    cards = fits.PrimaryHDU(form, header=header).header
    cards.set("EXTEND", True, after="NAXIS2")
    return cards


@lru_cache(maxsize=64)
def _image_frame(kind: str, shape: tuple[int, ...], name: str, primary: bool) -> tuple[str, str]:
    return framed(lambda header: _image_cards(np.dtype(kind), shape, header, name, primary))


def primary_unit(header: fits.Header | CardText) -> Unit:
    """Return a primary unit without pixels."""
    if isinstance(header, CardText):
        before, after = _primary_frame()
        return stored_unit(f"{before}{header}{after}", b"")
    return stored_unit(_empty_primary(header), b"")


def _empty_primary(header: fits.Header) -> fits.Header:
    hdu = fits.PrimaryHDU(header=header)
    hdu.header.set("EXTEND", True, after="NAXIS")
    return hdu.header


@lru_cache(maxsize=1)
def _primary_frame() -> tuple[str, str]:
    return framed(_empty_primary)


def rice_unit(
    plane: NDArray[np.uint16], header: CardText, around: tuple[str, str], tile_rows: int
) -> Unit:
    """Return a plane of unsigned 16-bit integers, compressed without loss.

    Parameters
    ----------
    plane : ndarray of uint16, shape (ny, nx)
        The pixels.
    header : CardText
        Further cards.
    around : tuple of str
        What stands before and after them, see `skymill.fits_cards.framed`; the cards of the
        sizes are changed.
    tile_rows : int
        Rows of a tile.
    """
    from skymill.kernels.rice import encode_tiles, most_bytes

    ny, nx = plane.shape
    sizes = np.zeros(-(-ny // tile_rows), np.int64)
    heap = np.empty(sizes.size * most_bytes(tile_rows * nx), np.uint8)
    used = encode_tiles(np.ascontiguousarray(plane), tile_rows, BZERO, heap, sizes)
    table = np.empty((sizes.size, 2), ">i4")
    table[:, 0] = sizes
    table[:, 1] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    before, after = around
    before = _changed(before, "PCOUNT", int(used))
    before = _changed(before, "TFORM1", f"1PB({int(sizes.max())})")
    return stored_unit(f"{before}{header}{after}", table.tobytes() + heap[:used].tobytes())


def _changed(text: str, keyword: str, value: Any) -> str:
    """Return cards with another value in one of them."""
    at = text.index(f"{keyword:<8}= ")
    comment = fits.Card.fromstring(text[at : at + 80]).comment
    return text[:at] + card_text(keyword, value, comment) + text[at + 80 :]


def stored_unit(header: fits.Header | str, data: bytes) -> Unit:
    """Return a unit whose data are already in the form of the file.

    Parameters
    ----------
    header : astropy.io.fits.Header or str
        With all structural cards; as text without END.
    data : bytes
        Whole blocks, or what the unit pads to whole blocks with zeros.
    """
    return Unit(_summed(header, word_sum(data)), data)


def word_sum(data: bytes | memoryview) -> int:
    """Return the one's complement sum of big-endian 32-bit words, zeros appended."""
    total = 0
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        piece = view[start : start + PIECE]
        if len(piece) % 4:
            piece = memoryview(bytes(piece) + bytes(-len(piece) % 4))
        words = np.frombuffer(piece, ">u4").astype(np.uint32)
        total += int(words.sum(dtype=np.uint64))
    return _fold(total)


def sum_matches(path: Path, sizes: list[int]) -> bool:
    """Return True if every unit of a file on the disk agrees with its CHECKSUM.

    Parameters
    ----------
    path : Path
        The file.
    sizes : list of int
        Bytes of its units, in order; there must be no more.
    """
    buffer = bytearray(PIECE)
    with path.open("rb") as stream:
        for size in sizes:
            total, left = 0, size
            while left:
                count = stream.readinto(memoryview(buffer)[: min(left, PIECE)])
                if not count or count % 4:
                    return False
                total += word_sum(memoryview(buffer)[:count])
                left -= count
            if _fold(total) != ALL_ONES:
                return False
        return not stream.read(1)


def same_sum(total: int, datasum: int) -> bool:
    """Compare a sum of words with a DATASUM; zero has two forms in one's complement."""
    return _fold(total) % ALL_ONES == datasum % ALL_ONES


def _swapped(plane: NDArray[Any]) -> Iterator[memoryview]:
    flat = plane.reshape(-1)
    step = PIECE // flat.itemsize
    buffer = np.empty(min(step, flat.size), flat.dtype.newbyteorder(">"))
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        buffer[: piece.size] = piece
        yield buffer[: piece.size].view(np.uint8).data


def _fold(total: int) -> int:
    while total > ALL_ONES:
        total = (total >> 32) + (total & ALL_ONES)
    return total


def _summed(header: fits.Header | str, datasum: int) -> bytes:
    """Return the header's bytes with both sums in it."""
    # without comments: astropy would write the time there
    if isinstance(header, str):
        text = f"{header}CHECKSUM= '{'0' * 16}'".ljust(len(header) + 80)
        text += f"DATASUM = '{datasum:<8}'".ljust(80) + "END".ljust(80)
        text = text.ljust(len(text) + -len(text) % BLOCK)
        total = _fold(word_sum(text.encode("ascii")) + datasum)
        at = len(header) + 11
        return (text[:at] + _encoded(ALL_ONES - total) + text[at + 16 :]).encode("ascii")
    cards = header.copy()
    for keyword in ("CHECKSUM", "DATASUM"):
        cards.remove(keyword, ignore_missing=True, remove_all=True)
    cards["CHECKSUM"] = ("0" * 16, "")
    cards["DATASUM"] = (str(datasum), "")
    total = _fold(word_sum(cards.tostring().encode("ascii")) + datasum)
    cards["CHECKSUM"] = _encoded(ALL_ONES - total)
    return cards.tostring().encode("ascii")


def _encoded(value: int) -> str:
    """Return 16 letters and digits that add up to a number (appendix J of the standard)."""
    letters = [0] * 16
    for i in range(4):
        byte = value >> (24 - 8 * i) & 0xFF
        four = [byte // 4 + ord("0")] * 4
        four[0] += byte % 4
        while any(not chr(c).isalnum() for c in four):
            # punctuation is avoided by moving one between two of the four
            for a, b in ((0, 1), (2, 3)):
                if not (chr(four[a]).isalnum() and chr(four[b]).isalnum()):
                    four[a] += 1
                    four[b] -= 1
        for j in range(4):
            letters[4 * j + i] = four[j]
    # the value begins at the last byte of a word
    return bytes([letters[-1], *letters[:-1]]).decode("ascii")
