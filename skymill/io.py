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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import Outcome, SkymillError
from skymill.frame import BIT_MEANINGS, Background, Frame, Master
from skymill.wcsmath import wcs_from_header, wcs_from_text, wcs_header, wcs_to_text

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = [
    "BadProduct",
    "check_planes",
    "data_digest",
    "file_digest",
    "read_background",
    "read_frame",
    "read_geometry",
    "read_json",
    "read_mask",
    "read_master",
    "read_outcomes",
    "read_planes",
    "read_table",
    "wcs_from_text",
    "wcs_to_text",
    "write_background",
    "write_bytes",
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

_OUTCOME_COLUMNS = ("frame_id", "step", "status", "code", "message", "numbers")


class BadProduct(SkymillError):
    """A step made a product that must not be written (code BUG_OUTPUT)."""


# --- atomic files -----------------------------------------------------------------


def write_atomic(
    path: str | Path, content: bytes | memoryview, verify: Callable[[Path], None] | None = None
) -> None:
    """Write a file so that it exists whole or not at all.

    Parameters
    ----------
    path : str or Path
        Final name. Parent folders are made.
    content : bytes
        Content of the file.
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
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if temporary.stat().st_size != len(content):
            raise OSError(f"{path}: wrote {temporary.stat().st_size} of {len(content)} bytes")
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


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


def write_frame(path: str | Path, frame: Frame, cards: Cards) -> None:
    """Write SCI, ERR and MASK of a frame.

    Parameters
    ----------
    path : str or Path
        Name of the FITS file.
    frame : Frame
        The frame; its header goes to the primary header, its WCS to every plane.
    cards : mapping
        Further primary cards (provenance): keyword to value or (value, comment).

    Raises
    ------
    BadProduct
        If a pixel without finite value or error has no mask bit, or an error is not
        positive.
    """
    check_planes(path, frame)
    write_planes(path, {"SCI": frame.sci, "ERR": frame.err, "MASK": frame.mask}, frame, cards)


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
    unexplained = (~np.isfinite(frame.sci) | ~np.isfinite(frame.err)) & (frame.mask == 0)
    if unexplained.any():
        y, x = np.argwhere(unexplained)[0]
        raise BadProduct(
            f"{Path(path).name}: {int(unexplained.sum())} pixels without value or error have no "
            f"mask bit, the first at x={x}, y={y}; this is a defect of the step"
        )
    if (frame.err <= 0).any():
        raise BadProduct(
            f"{Path(path).name}: {int((frame.err <= 0).sum())} errors are not positive; "
            "this is a defect of the step"
        )


def write_planes(
    path: str | Path,
    planes: Mapping[str, NDArray[Any]],
    like: Frame,
    cards: Cards,
    plane_cards: Mapping[str, Cards] | None = None,
) -> None:
    """Write named planes with the header, WCS and unit of a frame.

    Integer planes are compressed losslessly (RICE). ``plane_cards`` adds cards to the
    headers of single planes.
    """
    primary = fits.PrimaryHDU(header=_primary_header(like.header, cards))
    hdus: list[Any] = [primary]
    for name, plane in planes.items():
        placed = like.wcs is not None and plane.shape == like.shape
        header = wcs_header(like.wcs) if placed else fits.Header()
        if name in ("SCI", "ERR"):
            header["BUNIT"] = (like.unit, "unit of the pixels")
        if name == "MASK":
            _bit_legend(header)
        for key, value in (plane_cards or {}).get(name, {}).items():
            header[key] = value
        hdus.append(_plane_hdu(name, plane, header))
    content = _file_bytes(hdus)

    def verify(temporary: Path) -> None:
        _verify_fits(temporary, planes)

    write_atomic(path, content, verify)


def _primary_header(header: fits.Header, cards: Cards) -> fits.Header:
    out = header.copy(strip=True)
    for key in ("CHECKSUM", "DATASUM", "BUNIT", "BLANK", "EXTNAME"):
        out.remove(key, ignore_missing=True, remove_all=True)
    for key, value in cards.items():
        out[key] = value
    return out


def _bit_legend(header: fits.Header) -> None:
    for bit, meaning in BIT_MEANINGS.items():
        number = int(bit).bit_length() - 1
        header[f"MBIT{number:02d}"] = (str(bit.name), f"{int(bit)}: {meaning}"[:47])


def _plane_hdu(name: str, plane: NDArray[Any], header: fits.Header) -> Any:
    if plane.dtype.kind not in "ui":
        return fits.ImageHDU(plane, header=header, name=name)
    # Compressed apart, so that the checksum of the table that holds the tiles can be
    # set with a fixed comment: astropy's own would carry the time of writing.
    buffer = io.BytesIO()
    image = fits.CompImageHDU(plane, header=header, name=name, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    buffer.seek(0)
    return fits.open(buffer, disable_image_compression=True, memmap=False)[1]


def _file_bytes(hdus: Sequence[Any]) -> memoryview:
    whole = fits.HDUList(list(hdus))
    whole.update_extend()  # astropy would do it while writing, after the checksum
    for hdu in hdus:
        hdu.add_checksum(when="")
    buffer = io.BytesIO()
    whole.writeto(buffer)
    return buffer.getbuffer()


def _verify_fits(path: Path, planes: Mapping[str, NDArray[Any]]) -> None:
    # The checksums were computed from the arrays in memory: a match means that the file
    # holds just these bytes. Asked for, not caught as warnings: filters of warnings are
    # common to all threads of a job.
    with fits.open(path, memmap=False, disable_image_compression=True) as hdus:
        names = [hdu.name for hdu in hdus[1:]]
        for hdu in hdus:
            if hdu.verify_checksum() != 1 or hdu.verify_datasum() != 1:
                raise OSError(f"{path.name}: the file on the disk is not what was written")
    if names != list(planes):
        raise BadProduct(f"{path.name}: planes {names} read back, {list(planes)} written")


def write_placeholder(path: str | Path, cards: Cards, outcome: Outcome) -> None:
    """Write a file without pixels that says why the product could not be made."""
    header = fits.Header()
    header["SMSTATUS"] = (outcome.status, "this product could not be made")
    header["SMREASON"] = (outcome.code, "reason code")
    for line in outcome.message.splitlines():
        header.add_comment(line.encode("ascii", "replace").decode())
    content = _file_bytes([fits.PrimaryHDU(header=_primary_header(header, cards))])
    write_atomic(path, content)


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
    with fits.open(path, memmap=False) as hdus:
        planes = {}
        for name in names:
            data = hdus[name].data
            planes[name] = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))
        return planes, hdus[0].header.copy(), hdus[names[0]].header.copy()


def read_frame(path: str | Path) -> Frame:
    """Read a frame that `write_frame` (or the stack writer) wrote."""
    planes, primary, header = read_planes(path, ("SCI", "ERR", "MASK"))
    return Frame(
        planes["SCI"],
        planes["ERR"],
        planes["MASK"],
        primary,
        _wcs_from_header(header),
        str(header.get("BUNIT", "")),
    )


def read_geometry(path: str | Path) -> tuple[WCS | None, tuple[int, int]]:
    """Read the header's WCS and the shape (ny, nx) of a frame, without its pixels."""
    with fits.open(path, memmap=True) as hdus:
        header = hdus["SCI"].header
        return _wcs_from_header(header), (header["NAXIS2"], header["NAXIS1"])


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
    """Return the DATASUM of the first image plane: what identifies the pixels of a product."""
    with fits.open(path, memmap=True, disable_image_compression=True) as hdus:
        return str(hdus[1].header["DATASUM"])


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
    header = fits.Header()
    for key in ("OBJECT", "FILTER", "FRAMEID"):
        if key in like.header:
            header[key] = (like.header[key], like.header.comments[key])
    write_planes(path, {"MASK": mask}, like.replace(header=header), cards)


def read_mask(path: str | Path) -> NDArray[np.uint16]:
    """Read a mask that `write_mask` wrote."""
    return np.asarray(read_planes(path, ("MASK",))[0]["MASK"], dtype=np.uint16)


def write_background(path: str | Path, background: Background, cards: Cards) -> None:
    """Write the meshes of a background and the rule that expands them."""
    if not (np.isfinite(background.level).all() and np.isfinite(background.rms).all()):
        raise BadProduct(f"{Path(path).name}: a background mesh is not finite")
    header = fits.Header()
    header["MESHBOX"] = (background.box_size_px, "side of a mesh cell (px)")
    header["MESHNX"] = (background.shape[1], "width of the frame (px)")
    header["MESHNY"] = (background.shape[0], "height of the frame (px)")
    header["BKGERR"] = (background.level_err, "error of the level of a cell (electron)")
    header["MESHRULE"] = ("natural cubic spline, constant outside", "through the cell centres")
    planes = {"BKG": background.level, "RMS": background.rms}
    hdus: list[Any] = [fits.PrimaryHDU(header=_primary_header(header, cards))]
    for name, plane in planes.items():
        plane_header = fits.Header()
        plane_header["BUNIT"] = ("electron", "unit of the pixels")
        hdus.append(fits.ImageHDU(plane, header=plane_header, name=name))
    write_atomic(path, _file_bytes(hdus), lambda temporary: _verify_fits(temporary, planes))


def read_background(path: str | Path) -> Background:
    """Read the meshes that `write_background` wrote."""
    planes, header, _ = read_planes(path, ("BKG", "RMS"))
    return Background(
        planes["BKG"],
        planes["RMS"],
        (header["MESHNY"], header["MESHNX"]),
        header["MESHBOX"],
        header["BKGERR"],
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
        plain = np.asarray(values)
        if plain.dtype.kind in "US" or plain.dtype.kind == "O":
            array = pa.array([str(value) for value in plain], pa.string())
        else:
            array = pa.array(plain.astype(plain.dtype.newbyteorder("=")))
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

    data = pq.read_table(path)
    columns = []
    for index, field in enumerate(data.schema):
        about = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        chunk = data.column(index)
        is_text = str(field.type) in ("string", "large_string")
        values = np.array(chunk.to_pylist(), dtype=str) if is_text else chunk.to_numpy()
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
