"""Reading raw files: bytes to structure and pixels, with a reason code for every way to fail.

The other half of the I/O of the package, `skymill.io`, reads and writes products. Raw
files are only ever read. A file is read once as a whole (hash, structure and pixels
come from the same bytes, so they cannot belong to different versions of it).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from astropy.io import fits

from skymill.cards import COMMENTARY, RawHeader
from skymill.decompress import compression, decompress
from skymill.errors import FrameRejected
from skymill.fits_structure import Hdu, MemorySource, Structure, parse_structure
from skymill.headers import STRUCTURAL, to_fits
from skymill.raw_pixels import scaled, squeezed_shape
from skymill.readout import amplifier_entries
from skymill.sections import parse_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from skymill.cards import Card

__all__ = [
    "Limits",
    "RawFile",
    "RawImages",
    "decode_image",
    "decode_pixels",
    "hash_file",
    "looks_like_fits",
    "open_raw",
    "read_frame",
    "read_raw",
    "scan_file",
    "squeezed_shape",
    "whole_header",
]

CHUNK = 1 << 22
T = TypeVar("T")
#: Failures of network disks that pass, and the waits before another attempt (s).
TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT})
WAITS_S = (0.1, 0.5, 2.0)


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


class RawImages(NamedTuple):
    """The raw pixels of a frame.

    Attributes
    ----------
    images : dict of int to ndarray of uint16 or float32, shape (ny, nx)
        Raw images by the number of their HDU; several if the amplifiers of the frame lie
        in several.
    header : astropy.io.fits.Header
        Cards of the frame's own HDU, then those of the primary that it lacks.
    """

    images: dict[int, NDArray[Any]]
    header: fits.Header


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
    path, limits = Path(path), limits or Limits()
    structure = _persistent(path, lambda: _scanned(path, limits))
    return list((structure or open_raw(path, limits).structure).hdus)


def _scanned(path: Path, limits: Limits) -> Structure | None:
    """Return the structure of a plain file; None if it is compressed."""
    with _opened(path) as file:
        if compression(file.read(16)) is not None:
            return None
        source = _FileSource(file, os.fstat(file.fileno()).st_size)
        return parse_structure(source, max_bytes=limits.max_bytes, max_cards=limits.max_cards)


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
    data = _persistent(path, lambda: _read_stable(path, limits))
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
    unit = _unit(raw, hdu, path)
    return decode_image(raw, unit), to_fits(whole_header(raw.structure, unit))


def read_frame(
    path: str | Path, row: Mapping[str, Any], *, limits: Limits | None = None
) -> RawImages:
    """Read the raw pixels that a row of the sheet stands for.

    Parameters
    ----------
    path : str or Path
        The file.
    row : mapping
        Row of the sheet. ``sha256`` is what the file must be; ``hdu``, or the HDUs in
        ``amplifiers``, are read; ``plane`` is cut from a cube, then the pixels of
        ``channel`` from the image; ``bzero`` replaces the BZERO of integers.
    limits : Limits, optional
        Sizes that are accepted.

    Returns
    -------
    RawImages
        Arrays of native byte order, contiguous and writeable: uint16 where the stored
        values are unsigned integers of up to 16 bits, float32 otherwise.

    Raises
    ------
    FrameRejected
        As `read_raw`; BAD_SECTION if ``channel`` or ``amplifiers`` cannot be read.
    """
    raw = open_raw(path, limits, str(row.get("sha256") or "") or None)
    main = int(row.get("hdu") or 0)
    numbers = {int(entry["hdu"]) for entry in amplifier_entries(row)} or {main}
    plane, bzero, channel = row.get("plane"), row.get("bzero"), str(row.get("channel") or "")
    images: dict[int, NDArray[Any]] = {}
    for number in sorted(numbers):
        image = decode_image(
            raw,
            _unit(raw, number, path),
            plane=None if plane is None else int(plane),
            bzero=None if bzero is None else float(bzero),
        )
        if channel:
            image = np.ascontiguousarray(image[parse_channel(channel)[1]])
        images[number] = image
    header = whole_header(raw.structure, _unit(raw, main, path))
    return RawImages(images, _valid_header(header))


def _valid_header(header: RawHeader) -> fits.Header:
    """Return the same as `skymill.headers.to_fits`, quickly for frame after frame."""
    texts, seen = [], set()
    for card in header:
        several = card.keyword in COMMENTARY
        text = "" if card.keyword in seen and not several else _valid_card(card)
        if text and not several:
            seen.add(card.keyword)
        texts.append(text)
    return fits.Header.fromstring("".join(texts))


@lru_cache(maxsize=4096)
def _valid_card(card: Card) -> str:
    """Return the text of a card; most are the same for frame after frame."""
    return to_fits(RawHeader([card])).tostring(endcard=False, padding=False)


def _unit(raw: RawFile, number: int, path: str | Path) -> Hdu:
    units = raw.structure.hdus
    if not 0 <= number < len(units) or not units[number].is_image:
        raise FrameRejected("NO_IMAGE", f"{Path(path).name} has no image in HDU {number}.")
    return units[number]


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, read in pieces.

    Raises
    ------
    FrameRejected
        VANISHED or UNREADABLE.
    """
    return _persistent(Path(path), lambda: _hashed(Path(path)))


def _hashed(path: Path) -> str:
    digest = hashlib.sha256()
    with _opened(path) as file:
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


def decode_image(
    raw: RawFile, unit: Hdu, *, plane: int | None = None, bzero: float | None = None
) -> NDArray[Any]:
    """Return a two-dimensional image, or a plane of a cube.

    Parameters
    ----------
    raw : RawFile
        The file.
    unit : Hdu
        The unit of the image.
    plane : int, optional
        Plane of a cube, from 0. Only its pixels are decoded.
    bzero : float, optional
        What to add to stored integers in place of BZERO.

    Returns
    -------
    ndarray of uint16 or float32, shape (ny, nx)
        See `read_raw`.

    Raises
    ------
    FrameRejected
        Those of `squeezed_shape`; UNREADABLE if the tiles of a compressed image are
        damaged.
    """
    shape = squeezed_shape(unit, plane)
    if unit.compressed:
        stored = _tiles(raw, unit, raw_integers=bzero is not None and unit.bitpix > 0)
        if plane is not None:
            stored = stored[plane]
        if stored.dtype.kind == "i" and bzero is not None:
            return scaled(stored.reshape(shape), unit.header, unit.bitpix, bzero)
        unsigned = stored.dtype.kind == "u" and stored.dtype.itemsize <= 2
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(stored.reshape(shape), dtype=np.uint16 if unsigned else np.float32)
    kind = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[unit.bitpix]
    count = shape[0] * shape[1]
    start = unit.data_offset + (plane or 0) * count * (abs(unit.bitpix) // 8)
    pixels = np.frombuffer(raw.source.data, dtype=kind, count=count, offset=start)
    return scaled(pixels, unit.header, unit.bitpix, bzero).reshape(shape)


def decode_pixels(raw: RawFile, unit: Hdu) -> NDArray[Any]:
    """Return the pixels of an image as uint16 or float32; see `decode_image`."""
    return decode_image(raw, unit)


def _tiles(raw: RawFile, unit: Hdu, *, raw_integers: bool) -> NDArray[Any]:
    """Return the pixels of a tile-compressed image, decoded by astropy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = io.BytesIO(raw.source.data)
            with fits.open(content, memmap=False, do_not_scale_image_data=raw_integers) as hdus:
                data = hdus[unit.number].data
    except Exception as error:  # the decoder raises many types on damaged tiles
        raise FrameRejected(
            "UNREADABLE", f"The compressed tiles of HDU {unit.number} are damaged: {error}."
        ) from error
    if data is None:
        raise FrameRejected("NO_IMAGE", f"HDU {unit.number} holds no pixels.")
    if data.shape != unit.axes[::-1]:
        raise FrameRejected(
            "UNREADABLE",
            f"The compressed tiles of HDU {unit.number} hold {data.shape} pixels, the header says "
            f"{unit.axes[::-1]}.",
        )
    return np.asarray(data)


@dataclass(frozen=True)
class _FileSource:
    """Bytes of an open file."""

    file: BinaryIO
    size: int

    def read(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)


def _persistent(path: Path, work: Callable[[], T]) -> T:
    """Read a file, again after a short wait if the disk failed in a way that passes."""
    for wait in (*WAITS_S, None):
        try:
            return work()
        except FileNotFoundError:
            raise FrameRejected("VANISHED", f"{path.name} is gone since it was listed.") from None
        except OSError as error:
            if wait is None or error.errno not in TRANSIENT:
                raise FrameRejected(
                    "UNREADABLE", f"{path.name} cannot be read: {error.strerror or error}."
                ) from None
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _opened(path: Path) -> BinaryIO:
    """Open a regular file without ever blocking on a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FrameRejected(
            "NOT_A_FILE", f"{path.name} is a pipe, socket, device or folder, not a file."
        )
    return path.open("rb")


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
        # One byte more than there is: a file that grows is noticed, and no more memory is
        # asked for than the file needs.
        data = file.read(before.st_size + 1)
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
