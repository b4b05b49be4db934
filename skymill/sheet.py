"""The sheet: one row per frame with what is known of it, kept as CSV in the project.

The sheet is reviewed by people and kept in git, so it is plain text with a fixed order
of columns and rows, holds no time of writing and no absolute path, and is safe to open
in a spreadsheet.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import unicodedata
from datetime import date
from typing import TYPE_CHECKING

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "COLUMNS",
    "FLOAT_COLUMNS",
    "INT_COLUMNS",
    "Cell",
    "Row",
    "empty_row",
    "frame_id",
    "read_sheet",
    "slug",
    "sort_key",
    "write_sheet",
]

Cell = str | int | float | None
Row = dict[str, Cell]

#: Columns in order, with their meaning.
COLUMNS: dict[str, str] = {
    "frame_id": "name of the frame in every product",
    "path": "file, relative to the raw folder",
    "hdu": "number of the image in the file",
    "sha256": "SHA-256 of the file",
    "size_bytes": "size of the file",
    "verdict": "ok, degraded or rejected",
    "code": "reason codes, joined by ;",
    "message": "reasons in plain words",
    "fixes": "what was repaired, CODE and words, joined by ;",
    "kind": "bias, dark, flat, flat_dark, light or empty",
    "instrument": "name of the instrument file",
    "detector": "detector, empty if there is only one",
    "mode": "read-out mode",
    "object": "target as the header names it",
    "target": "target as a slug",
    "filter": "filter as a slug",
    "exptime_s": "exposure time, s",
    "date_start": "start of the exposure, UTC",
    "mjd_start": "start of the exposure, MJD UTC",
    "mjd_mid": "middle of the exposure, MJD UTC",
    "night": "date of the evening, local noon to noon",
    "binning": "binning, x by y",
    "nx": "columns of the raw image",
    "ny": "rows of the raw image",
    "datasec": "part of the raw image that saw light",
    "biassec": "overscans to use, joined by ;",
    "gain_e_adu": "gain, electron/ADU",
    "read_noise_e": "read noise, electron",
    "saturation_adu": "saturation level, ADU",
    "gain_setting": "gain setting of the camera",
    "offset_setting": "offset setting of the camera",
    "temperature_c": "detector temperature, Celsius",
    "ra_deg": "pointing, right ascension, degree",
    "dec_deg": "pointing, declination, degree",
    "wcs": "world coordinates of the header: ok, none or a code",
    "corners": "corners of the frame by these, RA and declination in degree, joined by ;",
    "airmass": "airmass",
    "site": "longitude east, latitude in degree, height in m, joined by ;",
    "bayer": "colour pattern, empty for monochrome detectors",
    "dark": "whether darks matter: needed, optional or not_needed",
    "linear_max_adu": "end of the linear range, ADU",
    "amplifiers": "several amplifiers: name, HDU, sections, gain, noise as JSON; empty for one",
    "channel": "colour of a split mosaic and its pixels, NAME[y::step,x::step]",
    "plane": "plane of a split cube, from 0",
    "area": "part of the detector that the trimmed frame covers, binned pixels",
    "bzero": "zero point added to the stored integers, if not that of the file",
    "use_bias": "master to use: empty for the best match, none, or a name or file of a master",
    "use_dark": "likewise for the dark",
    "use_flat": "likewise for the flat",
}

INT_COLUMNS = frozenset({"hdu", "size_bytes", "nx", "ny", "plane"})
FLOAT_COLUMNS = frozenset(
    {
        "exptime_s",
        "mjd_start",
        "mjd_mid",
        "gain_e_adu",
        "read_noise_e",
        "saturation_adu",
        "gain_setting",
        "offset_setting",
        "temperature_c",
        "ra_deg",
        "dec_deg",
        "airmass",
        "linear_max_adu",
        "bzero",
    }
)

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
)
_KINDS = ("bias", "dark", "flat", "flat_dark", "light")
#: Cells that become part of the names of files.
_NAMES = ("frame_id", "instrument", "target", "filter")
_NAME = re.compile(r"[A-Za-z0-9._+-]*")
_CORNERS = re.compile(r"\d+(\.\d+)? -?\d+(\.\d+)?(;\d+(\.\d+)? -?\d+(\.\d+)?){2,}")
_BINNING = re.compile(r"[1-9]\d{0,5}x[1-9]\d{0,5}")
_SUFFIX = re.compile(r"(\.(fits?|fts|fz|gz|bz2|xz))+$", re.IGNORECASE)
# A cell that begins with one of these is a formula to a spreadsheet. The apostrophe itself
# is escaped too, so that reading back is exact.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
MAX_SLUG = 64


def slug(text: str, *, unnamed: str = "unnamed") -> str:
    """Return a name that is safe in paths, wildcards and options.

    Characters outside ``[A-Za-z0-9._+-]`` become ``_``. Blanks and accents are taken as
    spelling; any other loss adds 8 hex digits of the SHA-256 of the text, so that
    different texts stay different.

    Parameters
    ----------
    text : str
        Header text, anything.
    unnamed : str
        Result for text without any usable character.

    Examples
    --------
    >>> slug("NGC 4147"), slug("Blue")
    ('NGC_4147', 'Blue')
    >>> slug("r'") == slug("r")
    False
    """
    raw = unicodedata.normalize("NFC", text).strip()
    plain = unicodedata.normalize("NFKD", raw).encode("ascii", "ignore").decode("ascii")
    spaced = re.sub(r"\s+", "_", plain.strip())
    safe = _UNSAFE.sub("_", spaced).lstrip(".-_").rstrip("_")
    if not safe or not re.search(r"[A-Za-z0-9]", safe):
        return unnamed if not raw else f"{unnamed}-{_hex8(raw)}"
    # A letter that has no ASCII spelling at all is a loss, an accent is not.
    lost = any(ord(c) > 127 and not unicodedata.normalize("NFKD", c)[0].isascii() for c in raw)
    if safe != spaced or lost or len(safe) > MAX_SLUG or safe.split(".")[0].lower() in _RESERVED:
        return f"{safe[: MAX_SLUG - 9].rstrip('._-')}-{_hex8(raw)}"
    return safe


def frame_id(path: str, hdu: int, *, channel: str = "", plane: int | None = None) -> str:
    """Return the name of a frame: its file's stem, readable, and 8 hex digits, unique.

    Parameters
    ----------
    path : str
        Path relative to the raw folder, with ``/``.
    hdu : int
        Number of the image in the file.
    channel : str
        Name of the colour channel, if the image was split.
    plane : int, optional
        Plane of a cube, if it was split.

    Examples
    --------
    >>> frame_id("night/x.fits", 0), frame_id("night/x.fits", 0, channel="G1")
    ('x-45f56fca', 'x-G1-0750a578')
    """
    whole = unicodedata.normalize("NFC", path)
    stem = _SUFFIX.sub("", whole.rsplit("/", 1)[-1])
    safe = _UNSAFE.sub("_", stem).lstrip(".-")[:MAX_SLUG] or "unnamed"
    hashed = f"{whole}#{hdu}"
    if channel:
        hashed += f"#{channel}"
        safe += f"-{_UNSAFE.sub('_', channel)}"
    if plane is not None:
        hashed += f"#{plane}"
        safe += f"-p{plane}"
    return f"{safe}-{_hex8(hashed)}"


def _hex8(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def empty_row(**cells: Cell) -> Row:
    """Return a row in which nothing is known but the cells given.

    Raises
    ------
    KeyError
        If a name is not a column.
    """
    row: Row = {
        name: None if name in INT_COLUMNS or name in FLOAT_COLUMNS else "" for name in COLUMNS
    }
    for name, value in cells.items():
        if name not in row:
            raise KeyError(f"{name!r} is not a column of the sheet")
        row[name] = value
    return row


def read_sheet(path: Path) -> list[Row]:
    """Read the sheet.

    Parameters
    ----------
    path : Path
        CSV file.

    Returns
    -------
    list of dict
        Rows with int, float and str cells; an unknown number is None, an unknown text ''.

    Raises
    ------
    ConfigError
        If columns are missing or unknown, a cell is not of its type, an accepted frame
        lacks what every step needs, or two rows have the same frame id; the message
        names line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path.name}: there is no sheet; run `skymill ingest` first") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 text ({error})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or []
    missing = [name for name in COLUMNS if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if missing or unknown:
        raise ConfigError(
            f"{path.name}: columns missing: {missing or 'none'}, unknown: {unknown or 'none'}; "
            "write the sheet again with `skymill ingest`"
        )
    try:
        rows = [_typed(cells, reader.line_num, path.name) for cells in reader]
    except csv.Error as error:
        raise ConfigError(f"{path.name}: line {reader.line_num}: {error}") from None
    _check_unique(rows, path.name)
    return rows


def _typed(cells: Mapping[str, str | None], line: int, name: str) -> Row:
    row: Row = {}
    for column in COLUMNS:
        text = cells.get(column)
        if text is None or None in cells:
            raise ConfigError(f"{name}: line {line} has another number of cells than the header")
        try:
            row[column] = _cell(column, text)
        except ValueError:
            raise ConfigError(
                f"{name}: line {line}, column {column}: {text!r} is not a number"
            ) from None
    if row["verdict"] not in ("ok", "degraded", "rejected"):
        raise ConfigError(f"{name}: line {line}: verdict {row['verdict']!r} is not known")
    for column, expected in _wrong(row):
        raise ConfigError(
            f"{name}: line {line}, column {column}: {row[column]!r}; expected {expected}. Correct "
            "the cell, or write the sheet again with `skymill ingest`."
        )
    return row


def _wrong(row: Row) -> Iterator[tuple[str, str]]:
    """Yield columns that no step can use, and what they should hold."""
    for column in _NAMES:
        if not _NAME.fullmatch(str(row[column])):
            yield column, "letters, digits and . _ + - (it becomes part of file names)"
    if not row["frame_id"] or not row["path"]:
        yield "path" if row["frame_id"] else "frame_id", "a name"
    if row["verdict"] == "rejected":
        return
    kind = row["kind"]
    if kind not in _KINDS:
        yield "kind", f"one of {', '.join(_KINDS)}"
    for column in ("instrument", "night", "mjd_start", "hdu"):
        if row[column] in ("", None):
            yield column, "a value: every accepted frame needs it"
    if not _is_date(str(row["night"])):
        yield "night", "a date YYYY-MM-DD"
    if kind != "bias" and row["exptime_s"] is None:
        yield "exptime_s", f"the exposure time of a {kind} in s"
    if kind == "light" and not row["target"]:
        yield "target", "a name: every light frame needs it"
    for column in ("nx", "ny"):
        number = row[column]
        if not isinstance(number, int) or number < 1:
            yield column, "the size of the raw image in px"
    if row["corners"] and not _CORNERS.fullmatch(str(row["corners"])):
        yield "corners", "RA and declination in degree of each corner, joined by ;"
    if row["binning"] and not _BINNING.fullmatch(str(row["binning"])):
        yield "binning", "XxY, such as 2x2"
    if row["amplifiers"] and not _is_list(str(row["amplifiers"])):
        yield "amplifiers", "a list of amplifiers as JSON"


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_list(text: str) -> bool:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _cell(column: str, text: str) -> Cell:
    if column in INT_COLUMNS:
        return int(text) if text else None
    if column in FLOAT_COLUMNS:
        number = float(text) if text else None
        if number is not None and not math.isfinite(number):
            raise ValueError(text)
        return number
    return text[1:] if text[:1] == "'" else text


def _check_unique(rows: Iterable[Row], name: str) -> None:
    seen: dict[Cell, Cell] = {}
    for row in rows:
        if row["frame_id"] in seen:
            raise ConfigError(
                f"{name}: frame id {row['frame_id']} stands for {seen[row['frame_id']]} and for "
                f"{row['path']}"
            )
        seen[row["frame_id"]] = row["path"]


def sort_key(row: Row) -> tuple[str, int, int, str]:
    """Return what rows are sorted by: path, HDU, plane and channel."""
    return (
        str(row["path"]), int(row["hdu"] or 0), int(row["plane"] or 0), str(row["channel"])
    )  # fmt: skip


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Write the sheet in the order of `sort_key`, in one atomic step.

    Parameters
    ----------
    path : Path
        CSV file; its folder is made if needed.
    rows : sequence of dict
        Rows as `read_sheet` gives them.
    """
    _check_unique(rows, path.name)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=sort_key):
        writer.writerow([_text(row[column], column) for column in COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(stream.getvalue())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _text(value: Cell, column: str) -> str:
    if value is None:
        return ""
    if column in FLOAT_COLUMNS:
        number = float(value)
        return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)
    if column in INT_COLUMNS:
        return str(int(value))
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
