"""Reading one file of the raw tree: its images, their rows, or why there is none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import __version__
from skymill.errors import FrameRejected
from skymill.fits_structure import checksum_errors
from skymill.ingest.amplifiers import assemble_amplifiers, check_patches
from skymill.ingest.cache import Remembered
from skymill.ingest.channels import split_of
from skymill.ingest.describe import describe, finish
from skymill.ingest.image import Checks, Image
from skymill.ingest.pixels import pixel_facts
from skymill.ingest.select import Part, choose_parts
from skymill.ingest.values import Notes, parse_number
from skymill.instruments import Instrument, find_instrument, load_instrument
from skymill.io_raw import Limits, RawFile, decode_image, open_raw, whole_header
from skymill.sheet import Row, empty_row, frame_id, slug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

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
    known: tuple[Instrument, ...] = ()
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def digest(self, path: str) -> str:
        """Return a digest of what holds for one file."""
        own = self.overrides.of(path)
        # Most files share their overrides: the digest of 10^5 of them is made once.
        key = repr((own.columns, own.header, own.exclude))
        if key in self._digests:
            return self._digests[key]
        parts = [
            __version__, self.instruments, asdict(self.files), asdict(self.checks), self.checksum,
            own.columns, own.header, own.exclude,
        ]  # fmt: skip
        text = json.dumps(parts, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._digests[key] = digest
        return digest


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
    """Add the rows of the frames of one file."""
    images = [unit for unit in raw.structure.hdus if unit.is_image]
    first = whole_header(raw.structure, (images or raw.structure.hdus)[0])
    first = first.with_values(override.header)
    instrument = context.instrument
    if "instrument" in override.columns:
        instrument = load_instrument(str(override.columns["instrument"]))
    if instrument is None:
        instrument = find_instrument(first, entry.path.rpartition("/")[0], context.known)
    check_patches(override, instrument)
    parts = choose_parts(raw.structure, instrument, override.header)
    for part in parts:
        try:
            if part.problem is not None:
                raise part.problem
            for row, facts in _frames(entry, raw, part, instrument, override, context):
                result.rows.append(row)
                result.facts[str(row["frame_id"])] = facts
        except FrameRejected as rejected:
            if len(parts) == 1:
                raise
            result.rows.append(_rejected_part(entry, raw, part, rejected, override))


def _rejected_part(
    entry: Entry, raw: RawFile, part: Part, rejected: FrameRejected, override: Override
) -> Row:
    """Return the row of one frame of a file whose other frames may be sound."""
    code, message = rejected.code, rejected.message
    if override.exclude:
        code, message = "EXCLUDED", f"Excluded by the overrides: {override.exclude}"
    name, number = part.detector, part.unit.number
    return rejected_row(
        entry, code, message, sha256=raw.sha256, hdu=number, detector=slug(name) if name else "",
        frame_id=frame_id(entry.path, number, channel=name if part.problem else ""),
    )  # fmt: skip


def _frames(
    entry: Entry,
    raw: RawFile,
    part: Part,
    instrument: Instrument,
    override: Override,
    context: Context,
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield row and figures of each frame that is made of some images: planes and channels."""
    notes = _file_notes(raw, part, context)
    header = _header(raw, part.unit, notes).with_values(override.header)
    bzero = _bzero(part.unit, override)
    planes = _planes(part.unit, instrument)
    for plane in planes:
        images = {
            unit.number: decode_image(raw, unit, plane=plane, bzero=bzero) for unit in part.units
        }
        wholes = {number: (one.shape[0], one.shape[1]) for number, one in images.items()}
        split = split_of(header, instrument, wholes[part.unit.number][0])
        for channel in split.channels or (None,):
            cut = images
            if channel is not None:
                cut = {n: np.ascontiguousarray(one[channel.slices]) for n, one in images.items()}
            own = cut[part.unit.number]
            image = Image(
                entry.path, part.unit, (own.shape[0], own.shape[1]), header,
                tuple(one.name for one in raw.structure.hdus), {}, instrument, override,
                context.checks, notes.copy(), wholes=wholes, detector=part.detector,
                channel=channel, pattern=split.pattern, plane=plane, planes=len(planes),
                bzero=bzero,
            )  # fmt: skip
            if split.problem:
                image.notes.reject("MOSAIC_CFA", split.problem)
            yield _one_frame(image, raw, part, cut, override)


def _one_frame(
    image: Image, raw: RawFile, part: Part, pixels: dict[int, NDArray[Any]], override: Override
) -> tuple[Row, dict[str, Any]]:
    """Return the row of one frame and the figures of its pixels."""
    whole = pixels[part.unit.number]
    if part.amplifiers:
        headers = {u.number: whole_header(raw.structure, u) for u in part.units}
        headers = {n: one.with_values(override.header) for n, one in headers.items()}
        sources = [(rule, u.number, headers[u.number]) for rule, u in part.amplifiers]
        try:
            whole = assemble_amplifiers(image, sources, pixels)
        except FrameRejected as rejected:
            image.notes.reject(rejected.code, rejected.message)
    zero = part.unit.header.get("BZERO") if image.bzero is None else image.bzero
    image.facts = pixel_facts(whole, signed16=part.unit.bitpix == 16 and not zero)
    row = describe(image)
    row["sha256"], row["size_bytes"] = raw.sha256, raw.size_bytes
    image.facts["content"] = raw.content_sha256
    return finish(row, image.notes, override.exclude), image.facts


def _file_notes(raw: RawFile, part: Part, context: Context) -> Notes:
    """Return notes with what is to be said about the form of the file."""
    notes = Notes()
    for code, message in raw.structure.fixes:
        notes.fix(code, message)
    for code, message in raw.structure.flags:
        notes.flag(code, message)
    if len(part.unit.axes) == 3 and part.unit.axes[2] == 1:
        notes.fix("SQUEEZED", "a third axis of length one was dropped.")
    wrong = [text for unit in part.units for text in checksum_errors(raw.source, unit)]
    if wrong:
        say = notes.reject if context.checksum == "reject" else notes.flag
        say("CHECKSUM", f"{' '.join(wrong)} The file was damaged or edited; copy it again.")
    return notes


def _header(raw: RawFile, unit: Hdu, notes: Notes) -> RawHeader:
    header = whole_header(raw.structure, unit)
    extra = len(header) - len(unit.header)
    if extra:
        notes.fix("INHERIT", f"{extra} cards were taken from the primary header.")
    return header


def _bzero(unit: Hdu, override: Override) -> float | None:
    """Return BZERO set by hand, if the pixels are integers and the file has another."""
    if "BZERO" not in override.header or unit.bitpix < 0:
        return None
    wanted = parse_number(override.header["BZERO"])[0] or 0.0
    stored = parse_number(unit.header.get("BZERO"))[0] or 0.0
    return None if wanted == stored else wanted


def _planes(unit: Hdu, instrument: Instrument) -> list[int | None]:
    """Return the planes of a cube that become frames of their own."""
    axes = unit.axes
    if not instrument.cube.split or len(axes) != 3 or axes[2] == 1 or axes[0] == 3:
        return [None]
    return list(range(axes[2]))
