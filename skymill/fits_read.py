"""Reading FITS units that skymill wrote, without building what nobody asks for.

astropy parses every card of every unit of a file and keeps a table of them; for a small
frame that takes longer than its pixels. Here a unit is found by its name, its pixels are
read straight into their array, and headers are parsed when somebody looks at them. What is
not of the expected form is left to astropy.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from astropy.io import fits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["StoredUnit", "units_of"]

_BLOCK, _CARD = 2880, 80
_TYPES = {8: ">u1", -32: ">f4", -64: ">f8"}
_DESCRIPTOR = re.compile(r"1[PQ]B(\(\d+\))?$")
#: Cards of the tables of compressed images that are none of the image.
_OF_TABLE = re.compile(
    r"(XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|TTYPE1|TFORM1|Z[A-Z]+\d*|CHECKSUM|DATASUM)$"
)


@dataclass(frozen=True)
class StoredUnit:
    """A unit of an open file.

    Parameters
    ----------
    stream : binary file
        The file.
    text : str
        The header, as it is written.
    place : int
        Where the data begin.
    """

    stream: BinaryIO
    text: str
    place: int

    @cached_property
    def cards(self) -> dict[str, str]:
        """Keyword to card, in order; those that are there again are found by nobody."""
        cards: dict[str, str] = {}
        for at in range(0, len(self.text), _CARD):
            keyword = self.text[at : at + 8].rstrip()
            if keyword == "END":
                break
            if keyword in cards or keyword in ("COMMENT", "HISTORY", "CONTINUE", ""):
                keyword = f"{keyword} {at}"
            cards[keyword] = self.text[at : at + _CARD]
        return cards

    def card(self, keyword: str) -> str | None:
        """Return the first card of a keyword; few are asked for, so nothing is made of the rest."""
        wanted, at = f"{keyword:<8}=", -1
        while True:
            at = self.text.find(wanted, at + 1)
            if at < 0 or at % _CARD == 0:
                return None if at < 0 else self.text[at : at + _CARD]

    @property
    def compressed(self) -> bool:
        """True for the table of a compressed image."""
        return self.get("ZIMAGE") == "T"

    @property
    def name(self) -> str:
        """EXTNAME; empty for none."""
        return str(self.get("EXTNAME") or "")

    def get(self, keyword: str) -> str | int | None:
        """Return a text or a whole number of the header."""
        card = self.card(keyword)
        if card is None:
            return None
        text = card[10:].lstrip()
        if text.startswith("'"):
            return text[1 : text.index("'", 1)].rstrip()
        text = text.partition("/")[0].strip()
        return int(text) if text.lstrip("+-").isdigit() else text

    def number(self, keyword: str) -> int:
        """Return a whole number of the header, 0 without it."""
        value = self.get(keyword)
        return value if isinstance(value, int) else 0

    @property
    def size(self) -> int:
        """Bytes of the data, without what fills the last block."""
        axes = self.number("NAXIS")
        if not axes:
            return 0
        count = abs(self.number("BITPIX")) // 8 * max(self.number("GCOUNT"), 1)
        pixels = 1
        for n in range(1, axes + 1):
            pixels *= self.number(f"NAXIS{n}")
        return count * (pixels + self.number("PCOUNT"))

    def header(self) -> fits.Header:
        """Return the header of an image; that of a compressed one without its table."""
        texts = list(self.cards.values())
        if self.compressed:
            texts = [text for key, text in self.cards.items() if not _OF_TABLE.match(key)]
        return fits.Header.fromstring("".join(texts))

    def plane(self) -> NDArray[Any] | None:
        """Return the pixels in native byte order; None if astropy must read them."""
        if self.compressed:
            return self._decoded()
        kind = _TYPES.get(self.number("BITPIX"))
        odd = any(map(self.card, ("BSCALE", "BZERO", "BLANK", "GROUPS")))
        if kind is None or self.number("NAXIS") != 2 or odd:
            return None
        out = np.empty((self.number("NAXIS2"), self.number("NAXIS1")), kind)
        self._fill(out)
        if sys.byteorder == "little":
            out.byteswap(inplace=True)
        return out.view(out.dtype.newbyteorder("="))

    def _fill(self, out: NDArray[Any]) -> None:
        self.stream.seek(self.place)
        pieces = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if self.stream.readinto(pieces) != out.nbytes:  # type: ignore[attr-defined]
            raise OSError("the file ends before the last pixel")

    def _decoded(self) -> NDArray[np.uint16] | None:
        """Decode unsigned 16-bit integers in tiles of whole rows."""
        from skymill.kernels.rice import BLOCK_PX, decode_tiles

        expected = {
            "ZCMPTYPE": "RICE_1", "ZBITPIX": 16, "ZNAXIS": 2, "ZNAME1": "BLOCKSIZE",
            "ZVAL1": BLOCK_PX, "ZNAME2": "BYTEPIX", "ZVAL2": 2, "TFIELDS": 1, "NAXIS1": 8,
            "BZERO": 32768, "BSCALE": 1, "ZTILE1": self.get("ZNAXIS1"),
        }  # fmt: skip
        if any(self.get(key) != value for key, value in expected.items()):
            return None
        if self.card("ZBLANK") or self.card("THEAP"):
            return None
        if not _DESCRIPTOR.match(str(self.get("TFORM1"))):
            return None
        data = np.empty(self.size, np.uint8)
        self._fill(data)
        n = self.number("NAXIS2")
        told = data[: 8 * n].view(">i4").reshape(n, 2).astype(np.int64)
        plane = np.empty((self.number("ZNAXIS2"), self.number("ZNAXIS1")), np.uint16)
        rows = self.number("ZTILE2")
        if n != -(-plane.shape[0] // max(rows, 1)):
            return None
        sizes, places = np.ascontiguousarray(told[:, 0]), np.ascontiguousarray(told[:, 1])
        whole = decode_tiles(data[8 * n :], sizes, places, rows, 32768, plane)
        return plane if whole else None


def units_of(stream: BinaryIO) -> Iterator[StoredUnit]:
    """Yield the units of a FITS file, as far as they are asked for.

    Raises
    ------
    OSError
        If the file ends within a header, or is no FITS file.
    """
    place = 0
    while True:
        stream.seek(place)
        text = _header_text(stream)
        if text is None:
            return
        place += len(text)
        unit = StoredUnit(stream, text, place)
        yield unit
        place += unit.size + -unit.size % _BLOCK


def _header_text(stream: BinaryIO) -> str | None:
    """Return a header with all its blocks; None at the end of the file."""
    found = b""
    while True:
        block = stream.read(2 * _BLOCK if not found else _BLOCK)
        if not block and not found:
            return None
        found += block
        for start in range(0, len(found), _BLOCK):
            # END is the last card that is not blank
            if found[start : start + _BLOCK].rstrip()[-3:] == b"END":
                at = found[start : start + _BLOCK].rstrip()
                if len(at) % _CARD == 3:
                    return found[: start + _BLOCK].decode("ascii")
        if not block:
            raise OSError("the file ends within a header")
