"""Reading one file of the raw tree: its images, their rows, or why there is none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skymill import __version__
from skymill.errors import FrameRejected
from skymill.fits_structure import checksum_errors
from skymill.ingest.cache import Remembered
from skymill.ingest.describe import describe, finish
from skymill.ingest.image import Checks, Image
from skymill.ingest.pixels import pixel_facts
from skymill.ingest.values import Notes
from skymill.instruments import Instrument, find_instrument, load_instrument
from skymill.io_raw import Limits, RawFile, decode_pixels, open_raw, squeezed_shape, whole_header
from skymill.sheet import Row, empty_row, frame_id

if TYPE_CHECKING:
    from skymill.cards import RawHeader
    from skymill.fits_structure import Hdu
    from skymill.ingest.overrides import Override, Overrides
    from skymill.ingest.scan import Entry

__all__ = ["Context", "read_file", "rejected_row", "remembered"]


@dataclass(frozen=True)
class Context:
    """Everything that a row depends on besides the file, and the time of the run."""

    instrument: Instrument | None
    instruments: str
    overrides: Overrides
    files: Limits
    checks: Checks
    checksum: str
    settle_s: float
    now_s: float

    def digest(self, path: str) -> str:
        """Return a digest of what holds for one file."""
        own = self.overrides.of(path)
        parts = [
            __version__, self.instruments, asdict(self.files), asdict(self.checks), self.checksum,
            own.columns, own.header, own.exclude,
        ]  # fmt: skip
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def remembered(entry: Entry, known: Remembered | None, context: Context) -> Remembered | None:
    """Return what is known of a file if neither it nor its context changed, else None."""
    if known is None or (known.size, known.mtime_ns) != (entry.size, entry.mtime_ns):
        return None
    return known if known.context == context.digest(entry.path) else None


def rejected_row(entry: Entry, code: str, message: str, **cells: str | int | None) -> Row:
    """Return the row of a file of which nothing is known but why it cannot be read."""
    row = empty_row(frame_id=frame_id(entry.path, 0), path=entry.path, hdu=0)
    row.update(cells)
    row["size_bytes"] = entry.size
    row["verdict"], row["code"] = "rejected", code
    row["message"] = " ".join(message.split())
    return row


def read_file(entry: Entry, context: Context) -> Remembered:
    """Read one file and return its rows; whatever is wrong with it becomes a row."""
    result = Remembered(entry.size, entry.mtime_ns, context.digest(entry.path))
    override = context.overrides.of(entry.path)
    try:
        raw = open_raw(entry.full, context.files)
        result.sha256, result.content = raw.sha256, raw.content_sha256
        _read_images(entry, raw, override, context, result)
    except FrameRejected as rejected:
        code, message = rejected.code, rejected.message
        digest = str(rejected.numbers.get("sha256", result.sha256))
        if code in ("TRUNCATED", "HEADER_TRUNCATED", "TRUNCATED_GZ", "EMPTY") and _young(
            entry, context
        ):
            code, message = "GROWING", f"{message} It is younger than {context.settle_s:g} s."
        if override.exclude:
            code, message = "EXCLUDED", f"Excluded by the overrides: {override.exclude}"
        result.sha256 = digest
        result.rows = [rejected_row(entry, code, message, sha256=digest)]
        result.facts = {}
    return result


def _young(entry: Entry, context: Context) -> bool:
    return context.now_s - entry.mtime_ns / 1e9 < context.settle_s


def _read_images(
    entry: Entry, raw: RawFile, override: Override, context: Context, result: Remembered
) -> None:
    """Add the rows of the images of one file."""
    images = [unit for unit in raw.structure.hdus if unit.is_image]
    if not images:
        raise FrameRejected(
            "NO_IMAGE", f"None of the {len(raw.structure.hdus)} HDUs holds an image."
        )
    first = whole_header(raw.structure, images[0]).with_values(override.header)
    instrument = context.instrument
    if "instrument" in override.columns:
        instrument = load_instrument(str(override.columns["instrument"]))
    if instrument is None:
        instrument = find_instrument(first, entry.path.rpartition("/")[0])
    names = [unit.name for unit in raw.structure.hdus]
    for unit in _chosen(images, instrument, names):
        row, facts = _one_image(
            entry, raw, unit, instrument=instrument, override=override, context=context
        )
        result.rows.append(row)
        result.facts[str(row["frame_id"])] = facts


def _chosen(images: list[Hdu], instrument: Instrument, names: list[str]) -> list[Hdu]:
    if isinstance(instrument.hdu, int):
        found = [unit for unit in images if unit.number == instrument.hdu]
        if not found:
            raise FrameRejected("NO_IMAGE", f"HDU {instrument.hdu} holds no image.")
        return found
    # A file with error or mask planes is a product; one row says so.
    if len(images) == 1 or {"SCI", "ERR"} <= {name.upper() for name in names}:
        return images[:1]
    if instrument.hdu == "each":
        return images
    listed = ", ".join(f"{u.number} {u.name}".strip() for u in images[:8])
    raise FrameRejected(
        "AMBIGUOUS_HDU",
        f"{len(images)} images in the file (HDU {listed}); the instrument {instrument.name} does "
        "not say which is the frame (hdu: a number, or each).",
    )


def _one_image(
    entry: Entry,
    raw: RawFile,
    unit: Hdu,
    *,
    instrument: Instrument,
    override: Override,
    context: Context,
) -> tuple[Row, dict[str, Any]]:
    """Return the row of one image and the figures of its pixels."""
    notes = Notes()
    for code, message in raw.structure.fixes:
        notes.fix(code, message)
    for code, message in raw.structure.flags:
        notes.flag(code, message)
    shape = squeezed_shape(unit)
    if len(unit.axes) == 3:
        notes.fix("SQUEEZED", "a third axis of length one was dropped.")
    header = _header(raw, unit, notes).with_values(override.header)
    wrong = checksum_errors(raw.source, unit)
    if wrong:
        say = notes.reject if context.checksum == "reject" else notes.flag
        say("CHECKSUM", f"{' '.join(wrong)} The file was damaged or edited; copy it again.")
    pixels = decode_pixels(raw, unit).reshape(shape)
    signed = unit.bitpix == 16 and not unit.header.get("BZERO")
    facts = pixel_facts(pixels, signed16=signed)
    names = tuple(one.name for one in raw.structure.hdus)
    row = describe(
        Image(
            entry.path,
            unit,
            shape,
            header,
            names,
            facts,
            instrument,
            override,
            context.checks,
            notes,
        )
    )
    row["sha256"], row["size_bytes"] = raw.sha256, raw.size_bytes
    facts["content"] = raw.content_sha256
    return finish(row, notes, override.exclude), facts


def _header(raw: RawFile, unit: Hdu, notes: Notes) -> RawHeader:
    header = whole_header(raw.structure, unit)
    extra = len(header) - len(unit.header)
    if extra:
        notes.fix("INHERIT", f"{extra} cards were taken from the primary header.")
    return header
