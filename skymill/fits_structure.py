"""The structure of a FITS file, checked from its bytes: headers, sizes, checksums.

Nothing is allocated before the declared size has been compared with the real one, and
every way in which a file can be broken has its own reason code. Nothing here opens
files: the bytes come from a `Source`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from skymill.cards import RawHeader, parse_cards, printable
from skymill.errors import FrameRejected

__all__ = [
    "BLOCK",
    "Hdu",
    "MemorySource",
    "Source",
    "Structure",
    "checksum_errors",
    "parse_structure",
]

BLOCK = 2880
CARD = 80
BITPIX = (8, 16, 32, 64, -32, -64)
#: A header longer than this is not a header: 200 000 cards.
MAX_HEADER = 200_000 * CARD

_KEYWORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_. ")
_FOREIGN = {
    b"II*\x00": "a TIFF or camera raw file",
    b"MM\x00*": "a TIFF or camera raw file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"LUCAM-RECORDER": "a SER video",
    b"XISF0100": "an XISF file",
    b"RIFF": "a RIFF container",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x9d": "a file compressed with `compress`",
}
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "a ZIP archive",
    b"Rar!": "a RAR archive",
}


class Source(Protocol):
    """Bytes of a file, plain or uncompressed."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``."""
        ...


@dataclass(frozen=True)
class MemorySource:
    """Bytes in memory."""

    data: bytes | memoryview

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``."""
        return bytes(self.data[offset : offset + count])


@dataclass(frozen=True)
class Hdu:
    """One header-data unit.

    Parameters
    ----------
    number : int
        Position in the file, 0 for the primary.
    header : RawHeader
        Cards as they are in the file.
    header_offset, data_offset, data_bytes : int
        Where header and data lie; ``data_bytes`` without padding.
    axes : tuple of int
        Lengths of the axes of the image, fastest first (NAXIS1, NAXIS2, ...); those of
        the image inside for a tile-compressed one; empty if there is no image.
    bitpix : int
        FITS data type of the image.
    compressed : bool
        True for a tile-compressed image.
    quantised : str
        Method of lossy quantisation, empty if the pixels are exact.
    name : str
        EXTNAME.
    """

    number: int
    header: RawHeader
    header_offset: int
    data_offset: int
    data_bytes: int
    axes: tuple[int, ...]
    bitpix: int
    compressed: bool = False
    quantised: str = ""
    name: str = ""

    @property
    def is_image(self) -> bool:
        """True if the unit holds pixels."""
        return bool(self.axes)


@dataclass(frozen=True)
class Structure:
    """All units of a file and what was tolerated."""

    hdus: tuple[Hdu, ...]
    fixes: tuple[tuple[str, str], ...] = ()
    flags: tuple[tuple[str, str], ...] = ()


def parse_structure(source: Source, *, max_bytes: int, max_cards: int = 10_000) -> Structure:
    """Walk through the units of a FITS file.

    Parameters
    ----------
    source : Source
        The bytes, uncompressed.
    max_bytes : int
        Largest allowed size of one unit's data.
    max_cards : int
        Headers with more cards are flagged.

    Returns
    -------
    Structure

    Raises
    ------
    FrameRejected
        With the code of what is wrong; see section "Failure codes" of the documentation.
    """
    _check_begin(source)
    hdus: list[Hdu] = []
    fixes: list[tuple[str, str]] = []
    flags: list[tuple[str, str]] = []
    offset = 0
    while True:
        hdu, end = _unit(source, offset, len(hdus), max_bytes)
        hdus.append(hdu)
        if len(hdu.header) > max_cards:
            flags.append(
                (
                    "HEADER_LARGE",
                    f"HDU {hdu.number} has {len(hdu.header)} cards, more than {max_cards}.",
                )
            )
        if end > source.size:
            _check_length(hdu, source, fixes)
            break
        offset = end
        if source.size == offset:
            break
        if source.read(offset, 8) != b"XTENSION":
            _check_rest(hdu, source, offset, flags)
            break
    return Structure(tuple(hdus), tuple(fixes), tuple(flags))


def _check_begin(source: Source) -> None:
    if source.size == 0:
        raise FrameRejected("EMPTY", "The file has zero bytes; copy it again.")
    begin = source.read(0, 512)
    if begin.startswith(b"SIMPLE"):
        if source.size >= CARD and begin[8:CARD].split(b"/")[0].replace(b"=", b"").strip() != b"T":
            shown = printable(begin[:30].decode("latin-1")).rstrip()
            raise FrameRejected(
                "NOT_STANDARD", f"The file begins with [{shown}], not with SIMPLE = T."
            )
        return
    for magic, what in _ARCHIVES.items():
        if begin.startswith(magic):
            raise FrameRejected("ARCHIVE", f"The file is {what}; unpack it into the raw folder.")
    if begin[257:262] == b"ustar":
        raise FrameRejected("ARCHIVE", "The file is a tar archive; unpack it into the raw folder.")
    for magic, what in _FOREIGN.items():
        if begin.startswith(magic):
            raise FrameRejected("UNSUPPORTED", f"The file is {what}; convert it to FITS.")
    shown = printable(begin[:24].decode("latin-1"))
    if b"SIMPLE  =" in begin[:32]:
        count = begin.index(b"SIMPLE  =")
        raise FrameRejected(
            "NOT_FITS", f"{count} leading bytes before SIMPLE: the file begins with [{shown}]."
        )
    raise FrameRejected("NOT_FITS", f"The file begins with [{shown}], not with SIMPLE.")


def _unit(source: Source, offset: int, number: int, max_bytes: int) -> tuple[Hdu, int]:
    """Return one unit and the offset after its padding."""
    text, data_offset = _header_text(source, offset, number)
    header = parse_cards(text)
    bitpix = _whole(header, "BITPIX", number)
    if bitpix not in BITPIX:
        raise _bad(number, f"BITPIX is {bitpix}; expected one of {BITPIX}")
    axes = _axes(header, "NAXIS", number)
    pcount = _whole(header, "PCOUNT", number, 0)
    gcount = _whole(header, "GCOUNT", number, 1)
    if not (0 <= pcount <= source.size and 1 <= gcount <= source.size):
        raise _bad(number, f"PCOUNT is {pcount} and GCOUNT is {gcount}; expected 0 and 1")
    if header.get("GROUPS") is True and axes[:1] == (0,):
        raise FrameRejected("NO_IMAGE", f"HDU {number} holds random groups, not an image.")
    image, bits, compressed, quantised = _image(header, axes, bitpix, number)
    if image and not compressed and (pcount, gcount) != (0, 1):
        raise _bad(number, f"PCOUNT is {pcount} and GCOUNT is {gcount}; an image has 0 and 1")
    if image and 0 in image:
        sizes = " x ".join(str(n) for n in image)
        raise FrameRejected("ZERO_SIZE", f"HDU {number} declares {sizes} pixels.")
    count = _product(axes) if axes else 0
    data_bytes = abs(bitpix) // 8 * gcount * (pcount + count)
    content = max(data_bytes, _product(image) * abs(bits) // 8 if compressed else 0)
    if data_bytes <= source.size and content > max_bytes:
        raise FrameRejected(
            "TOO_LARGE",
            f"HDU {number} holds {content} bytes, more than the limit of {max_bytes} "
            "(settings: ingest.max_file_mb).",
        )
    name = header.get("EXTNAME")
    hdu = Hdu(
        number, header, offset, data_offset, data_bytes, image, bits, compressed, quantised,
        name.strip() if isinstance(name, str) else "",
    )  # fmt: skip
    return hdu, data_offset + -(-data_bytes // BLOCK) * BLOCK


def _header_text(source: Source, offset: int, number: int) -> tuple[bytes, int]:
    """Return the cards before END and the offset of the data."""
    parts: list[bytes] = []
    where = offset
    while where - offset < MAX_HEADER:
        block = source.read(where, BLOCK)
        for start in range(0, len(block) - CARD + 1, CARD):
            if (
                block[start : start + 8] == b"END     "
                and not block[start + 8 : start + CARD].strip()
            ):
                parts.append(block[:start])
                # A file that ends with the header itself may lack only the blanks after END.
                return b"".join(parts), where + BLOCK
            if not _KEYWORD.issuperset(block[start : start + 8]):
                raise _no_end(number, where + start)
        parts.append(block)
        where += len(block)
        if len(block) < BLOCK:
            break
    if where - offset >= MAX_HEADER or _complete_but_for_end(b"".join(parts), where - offset):
        raise _no_end(number, where)
    raise FrameRejected(
        "HEADER_TRUNCATED",
        f"The file ends after {source.size} bytes, inside the header of HDU {number}; "
        "copy it again.",
    )


def _no_end(number: int, where: int) -> FrameRejected:
    return FrameRejected(
        "NO_END",
        f"The header of HDU {number} has no END card; pixels seem to begin at byte {where}.",
    )


def _complete_but_for_end(text: bytes, size: int) -> bool:
    """Return True if the bytes read as cards would also hold the pixels that they declare."""
    header = parse_cards(text)
    lengths = [header.get(f"NAXIS{i}") for i in (1, 2)]
    bits = header.get("BITPIX")
    if not all(
        isinstance(n, int) and n > 0 for n in (*lengths, abs(bits) if isinstance(bits, int) else 0)
    ):
        return False
    return size >= lengths[0] * lengths[1] * abs(bits) // 8  # type: ignore[operator,arg-type]


def _bad(number: int, what: str) -> FrameRejected:
    return FrameRejected("BAD_STRUCTURE", f"HDU {number}: {what}.")


def _whole(header: RawHeader, keyword: str, number: int, default: int | None = None) -> int:
    if keyword not in header and default is not None:
        return default
    value = header.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(number, f"{keyword} is {'missing' if value is None else repr(value)}")
    return value


def _axes(header: RawHeader, prefix: str, number: int) -> tuple[int, ...]:
    count = _whole(header, prefix, number)
    if not 0 <= count <= 999:
        raise _bad(number, f"{prefix} is {count}")
    axes = tuple(_whole(header, f"{prefix}{i}", number) for i in range(1, count + 1))
    if any(n < 0 for n in axes):
        raise _bad(number, f"an axis is negative: {axes}")
    return axes


def _image(
    header: RawHeader, axes: tuple[int, ...], bitpix: int, number: int
) -> tuple[tuple[int, ...], int, bool, str]:
    """Return axes, type, whether tile-compressed, and quantisation of the image in a unit."""
    kind = header.get("XTENSION")
    if number == 0 or kind == "IMAGE":
        return axes, bitpix, False, ""
    if kind != "BINTABLE" or header.get("ZIMAGE") is not True:
        return (), bitpix, False, ""
    bits = _whole(header, "ZBITPIX", number)
    if bits not in BITPIX:
        raise _bad(number, f"ZBITPIX is {bits}; expected one of {BITPIX}")
    columns = {c.value for c in header if c.keyword.startswith("TTYPE")}
    quantised = ""
    if bits < 0 and ("ZSCALE" in columns or "ZSCALE" in header):
        quantised = str(header.get("ZQUANTIZ") or "NO_DITHER")
    return _axes(header, "ZNAXIS", number), bits, True, quantised


def _product(axes: tuple[int, ...]) -> int:
    result = 1
    for n in axes:
        result *= n
    return result


def _check_length(hdu: Hdu, source: Source, fixes: list[tuple[str, str]]) -> None:
    have = max(source.size - hdu.data_offset, 0)
    if have < hdu.data_bytes:
        raise FrameRejected(
            "TRUNCATED",
            f"HDU {hdu.number} needs {hdu.data_bytes} bytes of data, the file holds {have}; "
            "copy it again.",
            have_bytes=have,
            need_bytes=hdu.data_bytes,
        )
    fixes.append(("PADDING", "the last block is not padded to 2880 bytes"))


def _check_rest(hdu: Hdu, source: Source, offset: int, flags: list[tuple[str, str]]) -> None:
    """Judge bytes after the last unit: a wrong size in the header, or harmless junk."""
    rest = source.size - offset
    blank = not source.read(offset, min(rest, 1 << 20)).strip(b"\x00 ")
    if hdu.is_image and rest % BLOCK == 0 and not blank:
        sizes = " x ".join(str(n) for n in hdu.axes)
        raise _bad(
            hdu.number,
            f"{rest} bytes follow the {sizes} pixels that the header declares, in whole blocks "
            "but without a header: the declared size is too small",
        )
    flags.append(("TRAILING", f"{rest} bytes after the last data block were ignored."))


def checksum_errors(source: Source, hdu: Hdu) -> list[str]:
    """Return what is wrong with the CHECKSUM and DATASUM cards of a unit.

    The sum is the ones' complement sum of the big-endian 32-bit words (FITS standard
    4.0, appendix J); with the CHECKSUM card in place that of the whole unit is -0.

    Parameters
    ----------
    source : Source
        The bytes of the file.
    hdu : Hdu
        The unit.

    Returns
    -------
    list of str
        One sentence per card that does not fit; empty if all is well or no card exists.
    """
    wrong = []
    stored = hdu.header.get("DATASUM")
    data = None
    if stored is not None and str(stored).strip():
        data = _sum32(source.read(hdu.data_offset, hdu.data_bytes))
        try:
            expected = int(str(stored).strip())
        except ValueError:
            expected = -1
        if expected != data:
            wrong.append(f"DATASUM of HDU {hdu.number} is {stored}, the data give {data}.")
    if hdu.header.get("CHECKSUM") and "CHECKSUM" in hdu.header:
        if data is None:
            data = _sum32(source.read(hdu.data_offset, hdu.data_bytes))
        head = _sum32(source.read(hdu.header_offset, hdu.data_offset - hdu.header_offset))
        if _fold(head + data) not in (0, 0xFFFFFFFF):
            wrong.append(f"CHECKSUM of HDU {hdu.number} does not fit header and data.")
    return wrong


def _sum32(data: bytes) -> int:
    data += b"\0" * (-len(data) % 4)
    return _fold(int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64)))


def _fold(total: int) -> int:
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total
