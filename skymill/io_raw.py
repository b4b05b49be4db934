"""Reading raw files: bytes to structure and pixels, with a reason code for every way to fail.

The other half of the I/O of the package, `skymill.io`, reads and writes products. Raw
files are only ever read. A file is read once as a whole (hash, structure and pixels
come from the same bytes, so they cannot belong to different versions of it).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from astropy.io import fits

from skymill.decompress import compression, decompress
from skymill.errors import FrameRejected
from skymill.fits_structure import Hdu, MemorySource, Structure, parse_structure
from skymill.headers import STRUCTURAL, to_fits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.cards import RawHeader

__all__ = [
    "Limits",
    "RawFile",
    "decode_pixels",
    "hash_file",
    "looks_like_fits",
    "open_raw",
    "read_raw",
    "scan_file",
    "squeezed_shape",
    "whole_header",
]

CHUNK = 1 << 22


@dataclass(frozen=True)
class Limits:
    """What is still taken for an image file.

    Parameters
    ----------
    max_bytes : int
        Largest size of a file and of its content after decompression.
    max_cards : int
        Headers with more cards are flagged.
    """

    max_bytes: int = 4096 * 10**6
    max_cards: int = 10_000


@dataclass(frozen=True)
class RawFile:
    """Content of a file and what is known of its form.

    Parameters
    ----------
    sha256 : str
        SHA-256 of the file as it lies on disk.
    size_bytes : int
        Size on disk.
    source : MemorySource
        The bytes after decompression.
    structure : Structure
        Units of the FITS file, with fixes and flags of the form.
    """

    sha256: str
    size_bytes: int
    source: MemorySource
    structure: Structure

    @property
    def content_sha256(self) -> str:
        """SHA-256 of the content after decompression."""
        if len(self.source.data) == self.size_bytes:
            return self.sha256  # not compressed: compression never keeps the size
        return hashlib.sha256(self.source.data).hexdigest()


def scan_file(path: str | Path, limits: Limits | None = None) -> list[Hdu]:
    """Return the units of a raw file, checked from sizes, without decoding pixels.

    Parameters
    ----------
    path : str or Path
        FITS file, plain or compressed with gzip, bzip2 or xz.
    limits : Limits, optional
        Sizes that are accepted.

    Returns
    -------
    list of Hdu
        Header and data type of each unit, in order.

    Raises
    ------
    FrameRejected
        If the file is not a complete FITS file; the code says why.
    """
    limits = limits or Limits()
    with _opened(Path(path)) as file:
        if compression(file.read(16)) is None:
            source = _FileSource(file, os.fstat(file.fileno()).st_size)
            structure = parse_structure(
                source, max_bytes=limits.max_bytes, max_cards=limits.max_cards
            )
            return list(structure.hdus)
    return list(open_raw(path, limits).structure.hdus)


def open_raw(path: str | Path, limits: Limits | None = None, sha256: str | None = None) -> RawFile:
    """Read a raw file as a whole and check its structure.

    Parameters
    ----------
    path : str or Path
        The file.
    limits : Limits, optional
        Sizes that are accepted.
    sha256 : str, optional
        What the content of the file must be.

    Returns
    -------
    RawFile

    Raises
    ------
    FrameRejected
        VANISHED, UNREADABLE, NOT_A_FILE, TOO_LARGE, GROWING, CHANGED, or a code of
        compression or structure.
    """
    path = Path(path)
    limits = limits or Limits()
    data = _read_stable(path, limits)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise FrameRejected(
            "CHANGED",
            f"{path.name} changed since ingest: its SHA-256 is {digest[:12]}..., the sheet says "
            f"{sha256[:12]}...; run `skymill ingest --update`.",
        )
    try:
        content, fixes = decompress(path.name, data, limits.max_bytes)
        structure = parse_structure(
            MemorySource(content), max_bytes=limits.max_bytes, max_cards=limits.max_cards
        )
    except FrameRejected as rejected:
        # The hash identifies a bad file too.
        rejected.numbers["sha256"] = digest
        raise
    structure = Structure(structure.hdus, tuple(fixes) + structure.fixes, structure.flags)
    return RawFile(digest, len(data), MemorySource(content), structure)


def read_raw(
    path: str | Path, hdu: int, sha256: str | None = None, *, limits: Limits | None = None
) -> tuple[NDArray[Any], fits.Header]:
    """Read one raw image.

    Parameters
    ----------
    path : str or Path
        The file.
    hdu : int
        Number of the image in the file.
    sha256 : str, optional
        What the file must be (column ``sha256`` of the sheet).
    limits : Limits, optional
        Sizes that are accepted.

    Returns
    -------
    array : ndarray, shape (ny, nx)
        Native byte order, writeable: uint16 where the file holds unsigned 8- or 16-bit
        integers, float32 otherwise. Blank integers are NaN (and the array is float32).
    header : astropy.io.fits.Header
        Cards of the image, then those of the primary that it lacks; no structural
        cards, every card valid.

    Raises
    ------
    FrameRejected
        VANISHED, CHANGED, TRUNCATED, UNREADABLE, NO_IMAGE or another code of section 1.
    """
    raw = open_raw(path, limits, sha256)
    if not 0 <= hdu < len(raw.structure.hdus) or not raw.structure.hdus[hdu].is_image:
        raise FrameRejected("NO_IMAGE", f"{Path(path).name} has no image in HDU {hdu}.")
    unit = raw.structure.hdus[hdu]
    array = decode_pixels(raw, unit)
    shape = squeezed_shape(unit)
    return array.reshape(shape), to_fits(whole_header(raw.structure, unit))


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, read in pieces.

    Raises
    ------
    FrameRejected
        VANISHED or UNREADABLE.
    """
    digest = hashlib.sha256()
    with _opened(Path(path)) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def looks_like_fits(path: str | Path) -> bool:
    """Return True if a file of any name begins like a FITS file; False if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(9) == b"SIMPLE  ="
    except OSError:
        return False


def whole_header(structure: Structure, unit: Hdu) -> RawHeader:
    """Return the cards of a unit followed by those it inherits from the primary.

    The convention INHERIT = T is meant by most files that have an empty primary; only
    INHERIT = F stops it.
    """
    if unit.number == 0 or unit.header.get("INHERIT") is False:
        return unit.header
    return unit.header.inherit(structure.hdus[0].header, STRUCTURAL)


def squeezed_shape(unit: Hdu) -> tuple[int, int]:
    """Return the shape (ny, nx) of an image; a third axis of length one is dropped.

    Raises
    ------
    FrameRejected
        RGB_CUBE, CUBE or BAD_SHAPE if it is not two-dimensional.
    """
    axes = unit.axes
    if len(axes) == 3 and axes[2] == 1:
        axes = axes[:2]
    sizes = " x ".join(str(n) for n in unit.axes)
    if len(axes) == 3 and (axes[2] == 3 or axes[0] == 3):
        raise FrameRejected(
            "RGB_CUBE", f"The image has {sizes} pixels: colours of a camera, not a raw frame."
        )
    if len(axes) == 3:
        raise FrameRejected(
            "CUBE", f"The image is a cube of {sizes} pixels without a time for each plane."
        )
    if len(axes) != 2:
        raise FrameRejected(
            "BAD_SHAPE", f"The number of axes is {len(axes)} ({sizes}), expected 2."
        )
    return axes[1], axes[0]


def decode_pixels(raw: RawFile, unit: Hdu) -> NDArray[Any]:
    """Return the pixels of an image as uint16 or float32; see `read_raw`.

    Raises
    ------
    FrameRejected
        UNREADABLE if the tiles of a compressed image are damaged.
    """
    if unit.compressed:
        return _tiles(raw, unit)
    data = raw.source.data[unit.data_offset : unit.data_offset + unit.data_bytes]
    kind = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[unit.bitpix]
    stored = np.frombuffer(data, dtype=kind)
    if unit.bitpix < 0:
        return _scaled_float(stored, unit.header)
    return _scaled_integers(stored, unit.header, unit.bitpix)


def _number(header: RawHeader, keyword: str, default: float) -> float:
    value = header.get(keyword)
    return default if value is None or isinstance(value, (str, bool)) else float(value)


def _scaled_float(stored: NDArray[Any], header: RawHeader) -> NDArray[np.float32]:
    scale, zero = _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0)
    if scale == 1.0 and zero == 0.0:
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.astype(np.float32)
    return (stored.astype(np.float64) * scale + zero).astype(np.float32)


def _scaled_integers(stored: NDArray[Any], header: RawHeader, bitpix: int) -> NDArray[Any]:
    scale, zero = _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0)
    blank = header.get("BLANK")
    empty = None
    if isinstance(blank, int) and not isinstance(blank, bool):
        empty = stored == blank
        if not empty.any():
            empty = None
    if scale == 1.0 and empty is None:
        if bitpix == 16 and zero == 32768:
            # Offset binary: flipping the sign bit adds 32768 without leaving 16 bits.
            return stored.astype(np.int16).view(np.uint16) ^ np.uint16(0x8000)
        if bitpix == 8 and zero == 0:
            return stored.astype(np.uint16)
    array = (stored.astype(np.float64) * scale + zero).astype(np.float32)
    if empty is not None:
        array[empty] = np.nan
    return array


def _tiles(raw: RawFile, unit: Hdu) -> NDArray[Any]:
    """Return the pixels of a tile-compressed image, decoded by astropy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(raw.source.data), memmap=False) as hdus:
                data = hdus[unit.number].data
    except Exception as error:  # the decoder raises many types on damaged tiles
        raise FrameRejected(
            "UNREADABLE", f"The compressed tiles of HDU {unit.number} are damaged: {error}."
        ) from error
    if data is None:
        raise FrameRejected("NO_IMAGE", f"HDU {unit.number} holds no pixels.")
    if data.dtype.kind == "u" and data.dtype.itemsize <= 2:
        return np.array(data, dtype=np.uint16)
    return np.array(data, dtype=np.float32)


@dataclass(frozen=True)
class _FileSource:
    """Bytes of an open file."""

    file: BinaryIO
    size: int

    def read(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file without ever blocking on a pipe."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FrameRejected(
                "NOT_A_FILE", f"{path.name} is a pipe, socket, device or folder, not a file."
            )
        return path.open("rb")
    except FileNotFoundError:
        raise FrameRejected("VANISHED", f"{path.name} is gone since it was listed.") from None
    except OSError as error:
        raise FrameRejected(
            "UNREADABLE", f"{path.name} cannot be read: {error.strerror or error}."
        ) from None


def _read_stable(path: Path, limits: Limits) -> bytes:
    """Return the content of a file that did not change while it was read."""
    with _opened(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > limits.max_bytes:
            raise FrameRejected(
                "TOO_LARGE",
                f"{path.name} has {before.st_size} bytes, more than the limit of "
                f"{limits.max_bytes} (settings: ingest.max_file_mb).",
            )
        try:
            data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise FrameRejected(
                "UNREADABLE", f"{path.name} cannot be read: {error.strerror or error}."
            ) from None
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(
        data
    ) != after.st_size:
        raise FrameRejected(
            "GROWING",
            f"{path.name} was written to while it was read ({before.st_size} bytes before, "
            f"{after.st_size} after); it is read again with the next `skymill ingest --update`.",
        )
    return data
