"""Reading and writing: the only module (with ``io_raw``) that opens image files.

Every file is written under a temporary name in its own folder, flushed to disk, read
back and renamed: a file under its final name is complete. Units, types, shapes and
unexpected NaN are checked at the writer, not three steps later.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import FrameRejected, Outcome, SkymillError
from skymill.fits_bytes import (
    Unit,
    image_unit,
    primary_unit,
    rice_unit,
    same_sum,
    stored_unit,
    sum_matches,
)
from skymill.fits_cards import CardText, framed, primary_cards
from skymill.fits_read import StoredUnit, units_of
from skymill.frame import BIT_MEANINGS, Background, Frame, Later, Master
from skymill.wcsmath import wcs_from_header, wcs_from_text, wcs_header, wcs_to_text

if TYPE_CHECKING:
    import pyarrow as pa
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = [
    "BadProduct",
    "RowReader",
    "check_planes",
    "data_digest",
    "file_digest",
    "read_background",
    "read_bands",
    "read_cards",
    "read_flags",
    "read_frame",
    "read_geometry",
    "read_json",
    "read_mask",
    "read_mask_plane",
    "read_master",
    "read_outcomes",
    "read_planes",
    "read_table",
    "wcs_from_text",
    "wcs_to_text",
    "write_background",
    "write_behind",
    "write_bytes",
    "write_flat_layout",
    "write_frame",
    "write_json",
    "write_mask",
    "write_master",
    "write_outcomes",
    "write_placeholder",
    "write_planes",
    "write_table",
    "write_text",
]

Cards = Mapping[str, Any]

#: Rows of a tile of a compressed plane: few tiles are quick to write and to read.
TILE_ROWS = 16
#: Files that wait for the disk at a time, and threads that wait for it: file systems confirm
#: several files in one go.
_MOST_BEHIND, _DISK_THREADS = 16, 4
#: Quantisation steps in the smallest error of a frame.
ERROR_STEPS = 100

_OUTCOME_COLUMNS = ("frame_id", "step", "status", "code", "message", "numbers")


class BadProduct(SkymillError):
    """A step made a product that must not be written (code BUG_OUTPUT)."""


# --- atomic files -----------------------------------------------------------------


def write_atomic(
    path: str | Path,
    content: bytes | memoryview | Iterable[bytes | memoryview],
    verify: Callable[[Path], None] | None = None,
) -> None:
    """Write a file so that it exists whole or not at all.

    Parameters
    ----------
    path : str or Path
        Final name. Parent folders are made.
    content : bytes, or iterable of bytes
        Content of the file, whole or in pieces.
    verify : callable, optional
        Called with the temporary file before it is renamed; an exception leaves an
        earlier file of that name as it was.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:200]}.{os.getpid()}.part"
    size = 0
    try:
        with temporary.open("wb") as stream:
            for piece in (content,) if isinstance(content, (bytes, memoryview)) else content:
                size += stream.write(piece)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    behind = _BEHIND.get()
    if behind is None:
        _finish(temporary, path, size, verify)
        _sync_folder(path.parent)
    else:
        behind.submit(temporary, path, size, verify)


def _finish(temporary: Path, path: Path, size: int, verify: Callable[[Path], None] | None) -> None:
    """Bring a file to the disk, verify it and give it its name."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if temporary.stat().st_size != size:
            raise OSError(f"{path}: wrote {temporary.stat().st_size} of {size} bytes")
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Behind:
    """Files that are brought to the disk while the next ones are made."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._open: deque[Future[None]] = deque()
        self.folders: set[Path] = set()

    def submit(
        self, temporary: Path, path: Path, size: int, verify: Callable[[Path], None] | None
    ) -> None:
        self.folders.add(path.parent)
        self._open.append(self._pool.submit(_finish, temporary, path, size, verify))
        while len(self._open) > _MOST_BEHIND:
            self._open.popleft().result()

    def wait(self) -> None:
        while self._open:
            self._open.popleft().result()


_BEHIND: ContextVar[_Behind | None] = ContextVar("behind", default=None)


@contextmanager
def write_behind() -> Iterator[None]:
    """Let files wait for the disk together.

    The disk takes several milliseconds to confirm a file, more than it takes to make a
    small frame. Within this context a file gets its name when it is on the disk and
    verified, as always, but the next ones are made meanwhile; the context ends when the last
    one has its name. What went wrong is raised then, or by a later write.
    """
    if _BEHIND.get() is not None:
        yield
        return
    with ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="disk") as pool:
        behind = _Behind(pool)
        token = _BEHIND.set(behind)
        try:
            yield
            behind.wait()
        finally:
            _BEHIND.reset(token)
    for folder in sorted(behind.folders):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot sync a folder
        pass
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, content)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, text.encode("utf-8"))


def write_json(path: str | Path, tree: Any) -> None:
    """Write JSON with sorted keys atomically; NaN is not allowed."""
    write_text(path, json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- image planes -----------------------------------------------------------------


def write_frame(
    path: str | Path,
    frame: Frame,
    cards: Cards,
    *,
    compression: str = "none",
    quantise_q: float = 16.0,
) -> None:
    """Write SCI, ERR and MASK of a frame.

    Parameters
    ----------
    path : str or Path
        Name of the FITS file.
    frame : Frame
        The frame; its header goes to the primary header, its WCS to every plane.
    cards : mapping
        Further primary cards (provenance): keyword to value or (value, comment).
    compression : str
        ``none``; ``lossless``; or ``quantised``: SCI in steps of the median error /
        ``quantise_q``, ERR in steps of a hundredth of its own smallest value, both with
        subtractive dithering. The mask is always compressed without loss.
    quantise_q : float
        Steps per sigma of ``quantised``.

    Raises
    ------
    BadProduct
        If a pixel without finite value or error has no mask bit, or an error is not
        positive.

    Notes
    -----
    Quantising adds white noise of ``step / sqrt(12)`` to SCI: 1.8 % of the error at
    ``quantise_q`` of 16. It is in the card QNOISE of the primary header.
    """
    check_planes(path, frame)
    planes: dict[str, NDArray[Any]] = {"SCI": frame.sci, "ERR": frame.err, "MASK": frame.mask}
    if compression == "none":
        write_planes(path, planes, frame, cards)
        return
    steps = _quanta(frame, quantise_q) if compression == "quantised" else {}
    if "SCI" in steps:
        cards = dict(cards) | {
            "QUANTQ": (quantise_q, "quantisation steps per median error"),
            "QNOISE": (steps["SCI"] / 12**0.5, f"[{frame.unit}] noise added by quantisation"),
        }
    how: dict[str, _Compression] = {
        name: _Compression("lossless") if name not in steps
        else _Compression("quantised", steps[name], _dither_seed(frame, name))
        for name in ("SCI", "ERR")
    }  # fmt: skip
    write_planes(path, planes, frame, cards, compressed=how)


def _quanta(frame: Frame, q: float) -> dict[str, float]:
    """Step of each plane that can be quantised."""
    known = frame.err[np.isfinite(frame.err)]
    if not known.size:
        return {}
    return {"SCI": float(np.median(known)) / q, "ERR": float(known.min()) / ERROR_STEPS}


def _dither_seed(frame: Frame, plane: str) -> int:
    """A seed from 1 to 10000 that belongs to the frame: the same bytes each time."""
    text = f"{frame.header.get('FRAMEID', '')} {plane}"
    return 1 + int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 10_000


def write_master(path: str | Path, master: Master, cards: Cards) -> None:
    """Write SCI, ERR, MASK and NUSED of a master; see `write_frame`."""
    check_planes(path, master)
    assert master.nused is not None
    planes: dict[str, NDArray[Any]] = {
        "SCI": master.sci,
        "ERR": master.err,
        "MASK": master.mask,
        "NUSED": master.nused,
    }
    write_planes(path, planes, master, cards)


def check_planes(path: str | Path, frame: Frame) -> None:
    """Raise BadProduct if a pixel without value or error is not masked, or an error is <= 0."""
    from skymill.kernels.bits import unexplained

    blank, first, wrong = unexplained(frame.sci, frame.err, frame.mask)
    if blank:
        y, x = divmod(first, frame.shape[1])
        raise BadProduct(
            f"{Path(path).name}: {blank} pixels without value or error have no "
            f"mask bit, the first at x={x}, y={y}; this is a defect of the step"
        )
    if wrong:
        raise BadProduct(
            f"{Path(path).name}: {wrong} errors are not positive; this is a defect of the step"
        )


@dataclass(frozen=True)
class _Compression:
    """How a plane is compressed; ``step`` and ``seed`` matter for ``quantised``."""

    kind: str
    step: float = 0.0
    seed: int = 1


def write_planes(
    path: str | Path,
    planes: Mapping[str, NDArray[Any]],
    like: Frame,
    cards: Cards,
    plane_cards: Mapping[str, Cards] | None = None,
    compressed: Mapping[str, _Compression] | None = None,
) -> None:
    """Write named planes with the header, WCS and unit of a frame.

    Integer planes are compressed losslessly (RICE). ``plane_cards`` adds cards to the
    headers of single planes, ``compressed`` tells how floating-point planes are stored.
    """
    _write_units(
        path,
        [
            _primary_unit(_header_cards(like), cards),
            *_plane_units(planes, like, plane_cards or {}, compressed or {}),
        ],
    )


def _plane_units(
    planes: Mapping[str, NDArray[Any]],
    like: Frame,
    plane_cards: Mapping[str, Cards],
    compressed: Mapping[str, _Compression],
) -> Iterator[Unit]:
    world = _world_cards(like)
    for name, plane in planes.items():
        own = world.copy() if plane.shape == like.shape else CardText()
        if name in ("SCI", "ERR"):
            own.set("BUNIT", (like.unit, "unit of the pixels"))
        if name == "MASK":
            for key, value in _BIT_LEGEND.items():
                own.set(key, value)
        for key, value in plane_cards.get(name, {}).items():
            own.set(key, value)
        yield _plane_unit(name, plane, own, compressed.get(name))


#: Cards of the plane SCI that do not belong to its world coordinates.
_NOT_WORLD = frozenset(
    ("XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "EXTNAME", "BUNIT",
     "CHECKSUM", "DATASUM")
)  # fmt: skip


def _world_cards(like: Frame) -> CardText:
    """Return the cards of the world coordinates of a frame."""
    stored = like.stored("wcs")
    if stored is not None:  # written by `wcs_header`, which would make the same of them again
        return CardText.of((key, text) for key, text in stored.items() if key not in _NOT_WORLD)
    return CardText() if like.wcs is None else CardText(wcs_header(like.wcs))


def _write_units(path: str | Path, units: Sequence[Unit]) -> None:
    def verify(temporary: Path) -> None:
        # The sums were computed from the arrays in memory: a match means that the file
        # holds just these bytes.
        if not sum_matches(temporary, [unit.size for unit in units]):
            raise OSError(f"{Path(path).name}: the file on the disk is not what was written")

    write_atomic(path, (piece for unit in units for piece in unit.chunks()), verify)


def _primary_unit(header: fits.Header | CardText, cards: Cards) -> Unit:
    text = primary_cards(header, cards)
    if text is not None:
        return primary_unit(text)
    whole = header.header() if isinstance(header, CardText) else header
    return primary_unit(_primary_header(whole, cards))


def _header_cards(like: Frame) -> fits.Header | CardText:
    """Return the header of a frame, as text if nobody has looked at it."""
    stored = like.stored("header")
    return like.header if stored is None else CardText.of(stored.items())


def _primary_header(header: fits.Header, cards: Cards) -> fits.Header:
    out = header.copy(strip=True)
    for key in ("CHECKSUM", "DATASUM", "BUNIT", "BLANK", "EXTNAME"):
        out.remove(key, ignore_missing=True, remove_all=True)
    for key, value in cards.items():
        out[key] = value
    return out


#: Cards that name the bits of a mask.
_BIT_LEGEND = {
    f"MBIT{int(bit).bit_length() - 1:02d}": (str(bit.name), f"{int(bit)}: {meaning}"[:47])
    for bit, meaning in BIT_MEANINGS.items()
}


def _plane_unit(name: str, plane: NDArray[Any], cards: CardText, how: _Compression | None) -> Unit:
    header = cards if cards.plain else cards.header()
    if plane.dtype.kind not in "ui" and how is None:
        return image_unit(plane, header, name)
    tile = (min(TILE_ROWS, plane.shape[0]), plane.shape[1])
    if plane.dtype == np.uint16 and isinstance(header, CardText):
        return rice_unit(plane, header, _rice_frame(plane.shape, name, tile), tile[0])
    header = cards.header()
    if plane.dtype.kind in "ui":
        options: dict[str, Any] = {"compression_type": "RICE_1"}
    elif how is not None and how.kind == "quantised":
        # a negative level is the step itself, not one in units of the tile's noise
        options = {
            "compression_type": "RICE_1", "quantize_level": -how.step,
            "quantize_method": 1, "dither_seed": how.seed,
        }  # fmt: skip
    else:
        options = {"compression_type": "GZIP_2", "quantize_level": 0.0}
    image = fits.CompImageHDU(plane, header=header, name=name, tile_shape=tile, **options)
    cards, data = _stored_table(image)
    return stored_unit(cards, data if "GZIP_2" not in options.values() else _clockless(cards, data))


def _clockless(cards: fits.Header, data: bytes) -> bytes:
    """Return tiles without the time at which gzip made them."""
    out = bytearray(data)
    rows, width = cards["NAXIS2"], cards["NAXIS1"]
    columns = [cards[f"TTYPE{n}"] for n in range(1, cards["TFIELDS"] + 1)]
    wide = "Q" in str(cards[f"TFORM{columns.index('COMPRESSED_DATA') + 1}"])
    if columns[0] != "COMPRESSED_DATA":
        raise BadProduct("astropy writes compressed planes in another form than expected")
    table = np.frombuffer(data, np.uint8, rows * width).reshape(rows, width)
    kind = ">i8" if wide else ">i4"
    places = np.ascontiguousarray(table[:, : 16 if wide else 8]).view(kind)[:, 1]
    for place in places + rows * width:
        if out[place : place + 2] == b"\x1f\x8b":
            out[place + 4 : place + 8] = bytes(4)
    return bytes(out)


def _stored_table(image: fits.CompImageHDU) -> tuple[fits.Header, bytes]:
    """Return header and data of the table that holds the tiles of a compressed image."""
    # Compressed apart, and taken over as the table that holds the tiles: astropy's own
    # checksum would carry the time of writing.
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    whole = buffer.getvalue()
    with fits.open(io.BytesIO(whole), disable_image_compression=True, memmap=False) as hdus:
        place = hdus[1].fileinfo()
        start, stop = place["datLoc"], place["datLoc"] + place["datSpan"]
        return hdus[1].header, whole[start:stop]


@lru_cache(maxsize=64)
def _rice_frame(shape: tuple[int, ...], name: str, tile: tuple[int, ...]) -> tuple[str, str]:
    """Return what stands around the cards of a losslessly compressed plane of this shape."""

    def make(header: fits.Header) -> fits.Header:
        image = fits.CompImageHDU(
            np.zeros(shape, np.uint16), header=header, name=name, tile_shape=tile,
            compression_type="RICE_1",
        )  # fmt: skip
        return _stored_table(image)[0]

    return framed(make)


def write_placeholder(path: str | Path, cards: Cards, outcome: Outcome) -> None:
    """Write a file without pixels that says why the product could not be made."""
    header = fits.Header()
    header["SMSTATUS"] = (outcome.status, "this product could not be made")
    header["SMREASON"] = (outcome.code, "reason code")
    for line in outcome.message.splitlines():
        header.add_comment(line.encode("ascii", "replace").decode())
    _write_units(path, [_primary_unit(header, cards)])


def read_planes(
    path: str | Path, names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], fits.Header, fits.Header]:
    """Read named planes of a product.

    Returns
    -------
    planes : dict of str to ndarray
        In native byte order.
    primary, first : astropy.io.fits.Header
        Primary header and that of the first named plane.
    """
    found = _quick_planes(path, names)
    if found is not None:
        planes, headers = found
        return planes, headers[""].header(), headers[names[0]].header()
    with fits.open(path, memmap=False) as hdus:
        planes = {}
        for name in names:
            data = hdus[name].data
            planes[name] = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))
        return planes, hdus[0].header.copy(), hdus[names[0]].header.copy()


def _quick_planes(
    path: str | Path, names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, StoredUnit]] | None:
    """Read planes of the forms that are written here; None if astropy must read them.

    Returns
    -------
    planes : dict of str to ndarray
        In the order of ``names``.
    units : dict of str to StoredUnit
        Their units, and the primary one under the empty name; the file is closed.
    """
    planes: dict[str, NDArray[Any]] = {}
    units: dict[str, StoredUnit] = {}
    try:
        with Path(path).open("rb") as stream:
            for number, unit in enumerate(units_of(stream)):
                name = unit.name if number else ""
                if name in units or (number == 0 and unit.size):
                    return None
                units[name] = unit
                if name in names:
                    plane = unit.plane()
                    if plane is None:
                        return None
                    planes[name] = plane
                if len(planes) == len(names):
                    return {name: planes[name] for name in names}, units
    except (OSError, ValueError):  # astropy knows better words for what is wrong
        return None
    return None


def read_frame(path: str | Path, mask: str | Path | None = None) -> Frame:
    """Read a frame that `write_frame` (or the stack writer) wrote.

    Parameters
    ----------
    path : str or Path
        The frame.
    mask : str or Path, optional
        File of `write_mask` whose mask replaces that of the frame.
    """
    names = ("SCI", "ERR", "MASK") if mask is None else ("SCI", "ERR")
    found = _quick_planes(path, names)
    own = {} if mask is None else {"MASK": read_mask(mask)}
    if found is None:
        planes, primary, header = read_planes(path, names)
        unit = str(header.get("BUNIT", ""))
        bits = (planes | own)["MASK"]
        return Frame(planes["SCI"], planes["ERR"], bits, primary, _wcs_from_header(header), unit)
    planes, units = found[0] | own, found[1]
    for plane in planes.values():
        plane.flags.writeable = False  # handed over without a copy
    first, main = units["SCI"], units[""]
    ours = main.card("SMSTEP") is not None and not first.compressed
    # Most steps look at neither: header and world coordinates are parsed when needed.
    return Frame(
        planes["SCI"],
        planes["ERR"],
        planes["MASK"],
        Later(main.header, _whole_cards(main)),  # type: ignore[arg-type]
        Later(  # type: ignore[arg-type]
            lambda: _wcs_from_header(first.header()), _whole_cards(first) if ours else None
        ),
        str(first.get("BUNIT") or ""),
    )


def _whole_cards(unit: StoredUnit) -> Mapping[str, str] | None:
    """Return the cards of a unit if each holds its whole value."""
    return None if "CONTINUE" in unit.text else unit.cards


def write_flat_layout(
    path: str | Path,
    planes: Mapping[str, NDArray[Any]],
    header: fits.Header,
    wcs: WCS | None,
    cards: Cards,
) -> None:
    """Write image, error and mask as primary and two extensions without names.

    Parameters
    ----------
    path : str or Path
        Name of the FITS file.
    planes : mapping
        ``image`` (float32) for the primary, ``error`` (float32) and ``mask`` (uint8) for
        the extensions, whose IMAGETYP is the name.
    header, cards
        Cards of the primary header.
    wcs : astropy.wcs.WCS or None
        World coordinates of the planes.
    """
    units = []
    for name, plane in planes.items():
        primary = name == "image"
        own = _primary_header(header, cards) if primary else fits.Header()
        if wcs is not None:
            own.update(wcs_header(wcs))
        if name != "mask" and "BUNIT" in header:
            own["BUNIT"] = (header["BUNIT"], "unit of the pixels")
        if not primary:
            own["IMAGETYP"] = (name, "kind of plane")
        units.append(image_unit(plane, own, "", primary=primary))
    _write_units(path, units)


def read_flags(path: str | Path) -> tuple[NDArray[Any], str]:
    """Read the mask plane of any FITS file.

    Returns
    -------
    plane : ndarray, shape (ny, nx)
        The plane named MASK, else that with IMAGETYP ``mask``, else the first image.
    kind : str
        ``bits``: mask bits of skymill; ``mask``: found by its IMAGETYP; ``image``.

    Raises
    ------
    SkymillError
        If the file cannot be read or holds no image.
    """
    path = Path(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            images = [hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS") == 2]
            named = [hdu for hdu in images if hdu.name == "MASK"]
            typed = [hdu for hdu in images if str(hdu.header.get("IMAGETYP")).lower() == "mask"]
            for kind, found in (("bits", named), ("mask", typed), ("image", images)):
                if found:
                    data = found[0].data
                    return np.array(data, dtype=data.dtype.newbyteorder("=")), kind
    except OSError as error:
        raise SkymillError(f"mask file {path.name} cannot be read: {error}") from None
    raise SkymillError(f"mask file {path.name} holds no image")


def read_mask_plane(
    path: str | Path, hdu: int | str | None = None
) -> tuple[NDArray[Any], fits.Header]:
    """Read a mask plane that a user gives, with its header.

    Parameters
    ----------
    path : str or Path
        Any FITS file.
    hdu : int or str, optional
        Number or name of the extension. By default the plane named MASK or DQ, else that
        with IMAGETYP ``mask``, else the first image.

    Returns
    -------
    plane : ndarray, shape (ny, nx)
        In native byte order.
    header : astropy.io.fits.Header

    Raises
    ------
    SkymillError
        If the file cannot be read or holds no such image.
    """
    path = Path(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            images = [h for h in hdus if h.is_image and h.header.get("NAXIS") == 2]
            if hdu is None:
                typed = [h for h in images if str(h.header.get("IMAGETYP")).lower() == "mask"]
                named = [h for h in images if h.name in ("MASK", "DQ")]
                chosen = (named or typed or images or [None])[0]
            else:
                chosen = next((h for h in images if h is hdus[hdu]), None)
            if chosen is not None:
                data = chosen.data
                return np.array(data, dtype=data.dtype.newbyteorder("=")), chosen.header.copy()
    except (OSError, KeyError, IndexError) as error:
        raise SkymillError(f"mask file {path.name} cannot be read: {error}") from None
    raise SkymillError(f"mask file {path.name} holds no image with two axes")


def read_geometry(path: str | Path) -> tuple[WCS | None, tuple[int, int]]:
    """Read the header's WCS and the shape (ny, nx) of a frame, without its pixels."""
    with Path(path).open("rb") as stream:
        for unit in units_of(stream):
            if unit.name == "SCI" and "ZIMAGE" not in unit.cards:
                header = unit.header()
                return _wcs_from_header(header), (header["NAXIS2"], header["NAXIS1"])
    with fits.open(path, memmap=True) as hdus:
        header = hdus["SCI"].header
        return _wcs_from_header(header), (header["NAXIS2"], header["NAXIS1"])


def read_primary(path: str | Path) -> fits.Header:
    """Read the primary header of a product, without its pixels."""
    with fits.open(path, memmap=True) as hdus:
        return hdus[0].header.copy()


def read_grid(path: str | Path) -> tuple[WCS | None, tuple[int, int] | None]:
    """Read a pixel grid from a FITS file or a text file of header cards.

    Parameters
    ----------
    path : str or Path
        FITS file, whose first image with two axes and celestial coordinates counts; or
        text with one card a line (as SWarp's ``.head`` files) or in lines of 80 letters.

    Returns
    -------
    wcs : astropy.wcs.WCS or None
        None if there are no celestial coordinates.
    shape : tuple of int or None
        Shape (ny, nx), None if NAXIS1 and NAXIS2 are not told.

    Raises
    ------
    SkymillError
        If the file cannot be read as either.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:9] == b"SIMPLE  =" and len(content) % 2880 == 0:
            with fits.open(path, memmap=True) as hdus:
                headers = [hdu.header.copy() for hdu in hdus]
        else:
            text = content.decode("ascii")
            lines = text.splitlines()
            if len(lines) == 1:
                lines = [text[k : k + 80] for k in range(0, len(text), 80)]
            headers = [fits.Header.fromstring("\n".join(lines), sep="\n")]
        for header in headers:
            wcs = wcs_from_header(header) if "CTYPE1" in header else None
            if wcs is None or wcs.naxis != 2 or not wcs.has_celestial:
                continue
            sizes = [header.get(f"ZNAXIS{n}", header.get(f"NAXIS{n}")) for n in (2, 1)]
            known = all(isinstance(size, int) and size > 0 for size in sizes)
            return wcs, (sizes[0], sizes[1]) if known else None
    except Exception as error:  # astropy raises many types for text that is no header
        raise SkymillError(f"{path.name} is no pixel grid ({type(error).__name__})") from None
    return None, None


class RowReader:
    """Rows of SCI, ERR and MASK of a frame, read when they are needed.

    The checksums are compared when the planes are first used. The mask is decompressed
    once and kept as runs of equal bits, which are few.

    Parameters
    ----------
    frame : str or Path
        File that `write_frame` wrote.
    mask : str or Path, optional
        File that `write_mask` wrote; by default the mask of the frame.
    """

    def __init__(self, frame: str | Path, mask: str | Path | None = None) -> None:
        self.path = Path(frame)
        self._mask_path = self.path if mask is None else Path(mask)
        self._places: dict[str, int | None] | None = None
        self._sums: dict[str, int] = {}
        self._runs: tuple[NDArray[Any], NDArray[Any]] | None = None
        self.shape = (0, 0)

    def rows(self, y0: int, y1: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return SCI, ERR (float32) and MASK (uint16) from row ``y0`` to ``y1 - 1``.

        Raises
        ------
        FrameRejected
            CHECKSUM if a plane is not what was written; UNREADABLE.
        """
        from skymill.kernels.stack_rows import fill_runs

        try:
            if self._places is None:
                self._open()
            sci, err = self._plane("SCI", y0, y1), self._plane("ERR", y0, y1)
            if self._runs is None:
                self._runs = self._read_mask()
        except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
            text = f"{self.path.name} cannot be read ({type(error).__name__}: {error})"
            raise FrameRejected("UNREADABLE", text) from None
        mask = np.empty((y1 - y0, self.shape[1]), np.uint16)
        fill_runs(*self._runs, y0 * self.shape[1], mask.reshape(-1))
        return sci, err, mask

    def _open(self) -> None:
        """Where the planes begin in the file; None for compressed ones."""
        units: dict[str, StoredUnit] = {}
        with self.path.open("rb") as stream:
            for unit in units_of(stream):
                units[unit.name] = unit
                if units.keys() >= {"SCI", "ERR"}:
                    break
        first = units["SCI"]
        kind = "Z" if first.compressed else ""
        self.shape = (first.number(f"{kind}NAXIS2"), first.number(f"{kind}NAXIS1"))
        self._places = {}
        for name in ("SCI", "ERR"):
            unit = units[name]
            plain = unit.get("XTENSION") == "IMAGE" and unit.number("BITPIX") == -32
            self._places[name] = unit.place if plain else None
            told = unit.get("DATASUM")
            if told is not None and plain:
                self._sums[name] = int(told)

    def _plane(self, name: str, y0: int, y1: int) -> NDArray[np.float32]:
        place = (self._places or {})[name]
        ny, nx = self.shape
        if place is None:  # compressed: only the tiles of these rows are decoded
            with fits.open(self.path, memmap=False) as hdus:
                return np.ascontiguousarray(hdus[name].section[y0:y1], dtype=np.float32)
        raw = np.empty((y1 - y0, nx), np.uint32)
        with self.path.open("rb") as stream:
            stream.seek(place + 4 * y0 * nx)
            if stream.readinto(memoryview(raw.data).cast("B")) != raw.nbytes:
                raise OSError("the file ends before the last pixel")
            if sys.byteorder == "little":
                raw.byteswap(inplace=True)
            if name in self._sums:
                self._compare(name, raw if y1 - y0 == ny else None, stream, place)
        return raw.view(np.float32)

    def _compare(self, name: str, raw: NDArray[np.uint32] | None, stream: Any, place: int) -> None:
        """Compare the checksum of a plane, once."""
        from skymill.kernels.stack_rows import word_total

        total = 0
        if raw is not None:
            total = int(word_total(raw.reshape(-1)))
        else:
            buffer = np.empty(1 << 18, np.uint32)
            left = 4 * self.shape[0] * self.shape[1]
            stream.seek(place)
            while left:
                part = buffer[: min(left // 4, buffer.size)]
                if stream.readinto(memoryview(part.data).cast("B")) != part.nbytes:
                    raise OSError("the file ends before the last pixel")
                if sys.byteorder == "little":
                    part.byteswap(inplace=True)
                total += int(word_total(part))
                left -= part.nbytes
        if not same_sum(total, self._sums.pop(name)):
            text = f"{self.path.name}: {name} is not what was written, its checksum differs"
            raise FrameRejected("CHECKSUM", text)

    def _read_mask(self) -> tuple[NDArray[Any], NDArray[Any]]:
        from skymill.kernels.stack_rows import runs_of

        mask = np.ascontiguousarray(read_mask(self._mask_path))
        if mask.shape != self.shape:
            text = f"{self._mask_path.name}: the mask has shape {mask.shape}, not {self.shape}"
            raise FrameRejected("BAD_SHAPE", text)
        flat = mask.reshape(-1)
        none = (np.empty(0, np.int64), np.empty(0, np.uint16))
        n = runs_of(flat, *none)
        starts, values = np.empty(n, np.int64), np.empty(n, np.uint16)
        runs_of(flat, starts, values)
        return starts, values


def read_cards(path: str | Path, names: Iterable[str]) -> dict[str, Any]:
    """Read some cards of the primary header of a product; those it lacks are left out."""
    with Path(path).open("rb") as stream:
        for unit in units_of(stream):
            found = {name: unit.card(name) for name in names}
            return {key: fits.Card.fromstring(c).value for key, c in found.items() if c}
    raise OSError(f"{Path(path).name} is empty")


def read_bands(
    path: str | Path, names: Sequence[str], bands: int, rows: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], fits.Header]:
    """Read some rows of a product: a sample that costs little however large the frame is.

    Parameters
    ----------
    path : str or Path
        Name of the FITS file.
    names : sequence of str
        Planes of one shape.
    bands, rows : int
        Number of bands, spread evenly, and rows of each; all rows of a small frame.

    Returns
    -------
    planes : dict of str to ndarray, shape (n, nx)
        In native byte order.
    where : ndarray of int, shape (n,)
        The rows.
    primary : astropy.io.fits.Header
    """
    with fits.open(path, memmap=False) as hdus:
        ny = int(hdus[names[0]].header["NAXIS2"])
        if bands * rows >= ny:
            spans = [(0, ny)]
        else:
            starts = (2 * np.arange(bands) + 1) * ny // (2 * bands) - rows // 2
            spans = [(int(start), int(start) + rows) for start in starts]
        planes = {}
        for name in names:
            section = hdus[name].section
            found = np.concatenate([np.asarray(section[y0:y1]) for y0, y1 in spans])
            planes[name] = np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("="))
        where = np.concatenate([np.arange(y0, y1) for y0, y1 in spans])
        return planes, where, hdus[0].header.copy()


def read_master(path: str | Path) -> Master:
    """Read a master that `write_master` wrote."""
    planes, primary, header = read_planes(path, ("SCI", "ERR", "MASK", "NUSED"))
    return Master(
        planes["SCI"],
        planes["ERR"],
        planes["MASK"],
        primary,
        None,
        str(header.get("BUNIT", "")),
        planes["NUSED"],
    )


def data_digest(path: str | Path) -> str:
    """Return the DATASUM of the first image plane: what identifies the pixels of a product.

    A file of the user's own may lack it; then it is the SHA-256 of the file.
    """
    with Path(path).open("rb") as stream:
        units = units_of(stream)
        next(units)
        told = next((unit.get("DATASUM") for unit in units), None)
    return file_digest(path) if told is None else str(told)


def _wcs_from_header(header: fits.Header) -> WCS | None:
    if "CRPIX1" not in header and "CTYPE1" not in header and "PC1_1" not in header:
        return None
    return wcs_from_header(header)


def write_mask(path: str | Path, mask: NDArray[np.uint16], like: Frame, cards: Cards) -> None:
    """Write the final mask of a frame."""
    if mask.dtype != np.uint16 or mask.shape != like.shape:
        raise BadProduct(
            f"{Path(path).name}: mask is {mask.dtype} {mask.shape}, expected uint16 {like.shape}"
        )
    names, stored = ("OBJECT", "FILTER", "FRAMEID"), like.stored("header")
    if stored is not None:
        header = CardText.of((key, stored[key]) for key in names if key in stored)
    else:
        header = CardText()
        for key in names:
            if key in like.header:
                header.set(key, (like.header[key], like.header.comments[key]))
    _write_units(path, [_primary_unit(header, cards), *_plane_units({"MASK": mask}, like, {}, {})])


def read_mask(path: str | Path) -> NDArray[np.uint16]:
    """Read a mask that `write_mask` wrote."""
    found = _quick_planes(path, ("MASK",))
    planes = read_planes(path, ("MASK",))[0] if found is None else found[0]
    return np.asarray(planes["MASK"], dtype=np.uint16)


def write_background(path: str | Path, background: Background, cards: Cards) -> None:
    """Write the meshes of a background and the rule that expands them."""
    if not (np.isfinite(background.level).all() and np.isfinite(background.rms).all()):
        raise BadProduct(f"{Path(path).name}: a background mesh is not finite")
    header = CardText()
    header.set("MESHBOX", (background.box_size_px, "side of a mesh cell (px)"))
    header.set("MESHNX", (background.shape[1], "width of the frame (px)"))
    header.set("MESHNY", (background.shape[0], "height of the frame (px)"))
    header.set("BKGERR", (background.level_err, "error of the level of a cell (electron)"))
    header.set("MESHRULE", ("natural cubic spline, end slope outside", "through the cell centres"))
    header.set("BKGMODEL", (background.model, "mesh, or polynomial of the BKGCnn"))
    for n, coefficient in enumerate(background.coefficients):
        about = "of Legendre products 1 x y xx xy yy (electron)"
        header.set(f"BKGC{n:02d}", (coefficient, about))
    planes = {"BKG": background.level, "RMS": background.rms}
    units = [_primary_unit(header, cards)]
    for name, plane in planes.items():
        own = CardText()
        own.set("BUNIT", ("electron", "unit of the pixels"))
        units.append(image_unit(plane, own, name))
    _write_units(path, units)


def read_background(path: str | Path) -> Background:
    """Read the meshes that `write_background` wrote."""
    planes, header, _ = read_planes(path, ("BKG", "RMS"))
    return Background(
        planes["BKG"],
        planes["RMS"],
        (header["MESHNY"], header["MESHNX"]),
        header["MESHBOX"],
        header["BKGERR"],
        header.get("BKGMODEL", "mesh"),
        tuple(float(header[key]) for key in sorted(header["BKGC*"])),
    )


# --- tables -----------------------------------------------------------------------


def write_table(path: str | Path, table: Table, meta: Mapping[str, Any]) -> None:
    """Write a table as Parquet with units and descriptions.

    Parameters
    ----------
    path : str or Path
        Name of the file.
    table : astropy.table.Table
        Numbers, booleans and strings; units and descriptions of the columns are kept.
    meta : mapping
        Provenance and other facts; JSON types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name in table.colnames:
        column = table[name]
        values = np.ma.filled(column, _fill(column)) if hasattr(column, "mask") else column
        array = _arrow(np.asarray(values))
        about = {"description": str(column.description or "")}
        if column.unit is not None:
            about["unit"] = column.unit.to_string()
        fields.append(pa.field(name, array.type, metadata=about))
        arrays.append(array)
    facts = {**{str(k): v for k, v in table.meta.items()}, **meta}
    schema = pa.schema(
        fields, metadata={"skymill": json.dumps(facts, sort_keys=True, default=_plain)}
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")

    def verify(temporary: Path) -> None:
        if pq.read_metadata(temporary).num_rows != len(table):
            raise BadProduct(f"{Path(path).name}: rows were lost on the way to the disk")

    write_atomic(path, buffer.getbuffer(), verify)


def _arrow(values: NDArray[Any]) -> pa.Array:
    """Return the values as a column; ``pa.array`` would import pandas in every job."""
    import pyarrow as pa

    n, kind = len(values), values.dtype.kind
    if kind in "USO":
        texts = [str(value).encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)])
        if ends[-1] > np.iinfo(np.int32).max:
            raise BadProduct("a column of texts is longer than 2 GB")
        ends = ends.astype(np.int32)
        return pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
    if kind == "b":
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), n, [None, pa.py_buffer(bits)])
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.Array.from_buffers(pa.from_numpy_dtype(plain.dtype), n, [None, pa.py_buffer(plain)])


def _fill(column: Any) -> Any:
    return np.nan if column.dtype.kind == "f" else "" if column.dtype.kind in "USO" else 0


def _plain(value: Any) -> Any:
    """Turn numpy scalars into JSON types."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_table(path: str | Path) -> Table:
    """Read a table that `write_table` wrote; its facts are in ``table.meta``."""
    import pyarrow.parquet as pq
    from astropy.table import Column, Table

    # read_table() and to_numpy() would import pandas: a CPU second of every job
    data = pq.ParquetFile(path).read().combine_chunks()
    columns = []
    for index, field in enumerate(data.schema):
        about = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        chunk = data.column(index)
        is_text = str(field.type) in ("string", "large_string")
        if is_text:
            values = np.array(chunk.to_pylist(), dtype=str)
        elif str(field.type) == "bool":
            values = np.array(chunk.to_pylist(), dtype=bool)
        else:
            parts = [np.from_dlpack(part) for part in chunk.chunks]
            kind = field.type.to_pandas_dtype()
            values = np.concatenate(parts) if parts else np.zeros(0, kind)
        if is_text and len(values) == 0:
            values = np.zeros(0, dtype="U1")
        columns.append(
            Column(
                np.array(values),
                name=field.name,
                unit=about.get("unit"),
                description=about.get("description") or None,
            )
        )
    meta = json.loads((data.schema.metadata or {}).get(b"skymill", b"{}"))
    return Table(columns, meta=meta)


def write_outcomes(path: str | Path, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes of a step as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_OUTCOME_COLUMNS)
    for outcome in outcomes:
        numbers = json.dumps(_finite(outcome.numbers), sort_keys=True, default=_plain)
        writer.writerow(
            [
                outcome.frame_id,
                outcome.step,
                outcome.status,
                outcome.code,
                outcome.message,
                numbers,
            ]
        )
    write_text(path, stream.getvalue())


def _finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: unknown figures are null."""
    plain = {key: _plain(v) if hasattr(v, "item") else v for key, v in numbers.items()}
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in plain.items()
    }


def read_outcomes(path: str | Path) -> list[Outcome]:
    """Read the outcomes that `write_outcomes` wrote."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [
            Outcome(
                row["frame_id"],
                row["step"],
                row["status"],
                row["code"],
                row["message"],
                json.loads(row["numbers"] or "{}"),
            )
            for row in csv.DictReader(stream)
        ]
