"""Rule calibrate: the raw frames of a block to electrons, with errors and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from astropy.io import fits

from skymill import io, provenance
from skymill.block import run_block
from skymill.errors import FrameRejected, Result
from skymill.fits_cards import extended
from skymill.frame import Later
from skymill.header_wcs import frame_wcs
from skymill.headers import clean_header
from skymill.io_raw import read_frame
from skymill.jobs.choices import choice_cards, choice_flags, waived
from skymill.jobs.frames import frame_file
from skymill.jobs.masters import load_master
from skymill.steps.calibrate import Masters, calibrate, refuse_calibrated

__all__ = ["calibrate_block", "frame_cards"]

Row = Mapping[str, Any]
#: Settings of the file, not of the pixels.
STORAGE = ("compression", "quantise_q")


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
    choices: Mapping[str, Mapping[str, Any]] | None = None,
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
        ``wcs`` (what the header's world coordinates are worth), ``remove`` (header cards
        that are wrong) and ``electronics`` (linearity and crosstalk).
    frames, outcomes : str or Path
        Folder of the calibrated frames and table of outcomes to write.
    settings : mapping
        Settings of the step; ``compression`` and ``quantise_q`` tell how the frames are
        stored.
    code : str
        Fingerprint of the code.
    choices : mapping, optional
        Kind of master to why it was chosen, and its age; see `skymill.jobs.choices`.
    """
    chosen = choices or {}
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

    options = _options(settings, chosen)
    storage = {key: settings[key] for key in STORAGE if key in settings}

    def work(row: Row) -> Result[bool]:
        images, header = read_frame(Path(raw) / row["path"], row)
        refuse_calibrated(header)
        cards = frame_cards(header, row, instrument["remove"], choice_cards(chosen))
        try:
            result = calibrate(
                images, row, masters, header=cards, electronics=instrument.get("electronics"),
                **options,
            )  # fmt: skip
        except FrameRejected as failure:
            raise _explained(failure, reasons) from None
        wcs = frame_wcs(header, row, policy=instrument["wcs"]).wcs
        inputs_of_frame = origin | {str(row["frame_id"]): str(row["sha256"])}
        io.write_frame(
            frame_file(frames, row["frame_id"]),
            result.value.replace(wcs=wcs),
            provenance.cards("calibrate", code=code, settings=settings, inputs=inputs_of_frame),
            **storage,
        )
        flags = tuple((code, _with_reason(code, text, reasons)) for code, text in result.flags)
        ages = {f"{kind}_age_nights": c["age"] for kind, c in chosen.items() if c["master"]}
        return Result(True, (*flags, *choice_flags(chosen)), {**result.numbers, **ages})

    run_block("calibrate", rows, work, outcomes=outcomes)


def _options(settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the pixels, and what follows from the choices of the plan."""
    options = {key: value for key, value in settings.items() if key not in STORAGE}
    dark = chosen.get("dark") or {}
    if dark.get("rule") in ("shorter", "assigned"):
        options["dark_scale_up"] = True  # the plan's settings, or the sheet, ask for this dark
    if dark.get("rule") and dark["rule"] != "assigned":
        options["dark_temperature_k"] = float("inf")  # the plan has judged the temperature
    return options | waived(chosen)


def _explained(failure: FrameRejected, reasons: Mapping[str, str]) -> FrameRejected:
    """Add what the plan found to the sentence of a missing calibration."""
    message = _with_reason(failure.code, failure.message, reasons)
    return FrameRejected(failure.code, message, **failure.numbers)


def _with_reason(code: str, message: str, reasons: Mapping[str, str]) -> str:
    kind = code.removeprefix("NO_").lower()
    if code not in ("NO_BIAS", "NO_DARK", "NO_FLAT") or kind not in reasons:
        return message
    return f"{reasons[kind]}. {message}"


@lru_cache(maxsize=4096)
def _cleaned(card: str, remove: tuple[str, ...]) -> str:
    """Return what a product keeps of a card; most are the same for frame after frame."""
    kept = clean_header(fits.Header.fromstring(card), drop=remove)
    return kept.tostring(endcard=False, padding=False)


def frame_cards(
    header: fits.Header, row: Row, remove: Sequence[str], more: Mapping[str, Any] | None = None
) -> fits.Header:
    """Return the header of the product: the raw one, cleaned, what the sheet says, and more."""
    texts = [_cleaned(str(card), tuple(remove)) for card in header.cards]
    cards: dict[str, Any] = {}
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
        # What a long text leaves of the 80 characters; astropy warns where a comment is cut.
        room = 65 - len(text.replace("'", "''")) if isinstance(text, str) else 47
        cards[keyword] = (text, comment[: max(0, room)])
    told = extended(fits.Header.fromstring("".join(texts)), cards | dict(more or {}))
    whole: fits.Header = told.value() if isinstance(told, Later) else told
    return whole
