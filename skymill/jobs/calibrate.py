"""Rule calibrate: the raw frames of a block to electrons, with errors and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.errors import FrameRejected, Result
from skymill.headers import celestial_wcs, clean_header
from skymill.io_raw import read_raw
from skymill.jobs.frames import frame_file
from skymill.jobs.masters import load_master
from skymill.sections import Section, parse_section
from skymill.steps.calibrate import Masters, calibrate

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

__all__ = ["calibrate_block"]

Row = Mapping[str, Any]


def calibrate_block(
    *,
    raw: str | Path,
    rows: Sequence[Row],
    inputs: Mapping[str, Any],
    missing: Mapping[str, str],
    instrument: Mapping[str, Any],
    frames: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Calibrate the frames of a block.

    Parameters
    ----------
    raw : str or Path
        Raw folder.
    rows : sequence of dict
        Sheet rows of the frames.
    inputs : mapping
        Files of the masters (``bias``, ``dark``, ``flat``) and of their outcomes.
    missing : mapping
        Kind of master to the reason why the plan found none.
    instrument : mapping
        ``wcs`` (what the header's world coordinates are worth) and ``remove`` (header
        cards that are wrong).
    frames, outcomes : str or Path
        Folder of the calibrated frames and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    Path(frames).mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in ("bias", "dark", "flat") if kind in inputs]
    loaded = {kind: load_master(inputs, kind) for kind in kinds}
    masters = Masters(**loaded)
    reasons = dict(missing)
    for kind in kinds:
        if loaded[kind] is None:
            failed = io.read_outcomes(inputs[f"{kind}_outcomes"])[-1]
            reasons[kind] = f"{failed.frame_id} could not be made ({failed.code}): {failed.message}"
    origin = {
        Path(inputs[kind]).stem: io.data_digest(inputs[kind]) for kind in kinds if loaded[kind]
    }

    def work(row: Row) -> Result[bool]:
        pixels, header = read_raw(Path(raw) / row["path"], row["hdu"], sha256=row["sha256"])
        cards = _cards(header, row, instrument["remove"])
        try:
            result = calibrate(pixels, row, masters, header=cards, **settings)
        except FrameRejected as failure:
            raise _explained(failure, reasons) from None
        wcs = _wcs(header, row, pixels.shape, instrument["wcs"])
        inputs_of_frame = origin | {str(row["frame_id"]): str(row["sha256"])}
        io.write_frame(
            frame_file(frames, row["frame_id"]),
            result.value.replace(wcs=wcs),
            provenance.cards("calibrate", code=code, settings=settings, inputs=inputs_of_frame),
        )
        flags = tuple((code, _with_reason(code, text, reasons)) for code, text in result.flags)
        return Result(True, flags, result.numbers)

    run_block("calibrate", rows, work, outcomes=outcomes)


def _explained(failure: FrameRejected, reasons: Mapping[str, str]) -> FrameRejected:
    """Add what the plan found to the sentence of a missing calibration."""
    message = _with_reason(failure.code, failure.message, reasons)
    return FrameRejected(failure.code, message, **failure.numbers)


def _with_reason(code: str, message: str, reasons: Mapping[str, str]) -> str:
    kind = code.removeprefix("NO_").lower()
    if code not in ("NO_BIAS", "NO_DARK", "NO_FLAT") or kind not in reasons:
        return message
    return f"{reasons[kind]}. {message}"


def _cards(header: fits.Header, row: Row, remove: Sequence[str]) -> fits.Header:
    """Return the header of the product: the raw one, cleaned, and what the sheet says."""
    cards = clean_header(header, drop=remove)
    known = {
        "FRAMEID": (row["frame_id"], "name of this frame"),
        "OBJECT": (row["object"], "target as the raw header names it"),
        "FILTER": (row["filter"], "filter"),
        "EXPTIME": (row["exptime_s"], "exposure time (s)"),
        "DATE-OBS": (row["date_start"], "start of the exposure, UTC"),
        "TIMESYS": ("UTC", "time scale"),
        "MJD-OBS": (row["mjd_start"], "start of the exposure, MJD UTC"),
        "MJD-AVG": (row["mjd_mid"], "middle of the exposure, MJD UTC"),
        "NIGHT": (row["night"], "date of the evening"),
        "AIRMASS": (row["airmass"], "airmass"),
        "SMINST": (row["instrument"], "instrument file"),
    }
    for keyword, (value, comment) in known.items():
        if value is None or value == "":
            continue
        text = value.encode("ascii", "replace").decode()[:68] if isinstance(value, str) else value
        cards[keyword] = (text, comment)
    return cards


def _wcs(header: fits.Header, row: Row, shape: tuple[int, ...], policy: str) -> WCS | None:
    """Return the header's world coordinates of the trimmed frame, if they make sense.

    What is wrong with them was said by ingest.
    """
    ny, nx = shape
    image = parse_section(row["datasec"], (ny, nx)) if row["datasec"] else Section(0, nx, 0, ny)
    binning = tuple(int(n) for n in (row["binning"] or "1x1").split("x"))
    pointing = (row["ra_deg"], row["dec_deg"])
    wcs, _, _ = celestial_wcs(
        header,
        policy=policy,
        shift_x=image.x0,
        shift_y=image.y0,
        binning=(binning[0], binning[1]),
        shape=image.shape,
        pointing=None if None in pointing else pointing,
    )
    return wcs
