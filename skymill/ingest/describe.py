"""From the cards and figures of one image to its row in the sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skymill.ingest.classify import check_calibrated, kind_of
from skymill.ingest.detector import fill_detector, fill_sky
from skymill.ingest.geometry import fill_geometry
from skymill.ingest.identity import fill_exposure, fill_identity, fill_place, fill_time
from skymill.ingest.pixels import judge_pixels
from skymill.ingest.values import clean_text, parse_number
from skymill.sheet import FLOAT_COLUMNS, Row, empty_row, frame_id

if TYPE_CHECKING:
    from skymill.cards import RawHeader
    from skymill.ingest.image import Image
    from skymill.ingest.values import Notes

__all__ = ["describe", "finish"]


def describe(image: Image) -> Row:
    """Return the row of one image without size, hash and verdict; its notes are filled.

    Parameters
    ----------
    image : Image
        Cards, figures, rules and overrides of the image.

    Returns
    -------
    dict
        Columns as far as they are known, also for an image that is to be rejected.
    """
    notes, override = image.notes, image.override
    row = empty_row(
        frame_id=frame_id(
            image.path,
            image.unit.number,
            channel=image.channel.name if image.channel else "",
            plane=image.plane,
        ),
        path=image.path,
        hdu=image.unit.number,
        nx=image.shape[1],
        ny=image.shape[0],
        instrument=image.instrument.name,
        dark=image.instrument.dark,
        linear_max_adu=image.instrument.linear_max_adu,
        bayer=image.pattern,
        channel=str(image.channel or ""),
        plane=image.plane,
        bzero=image.bzero,
    )
    _check_size(image)
    kind = override.columns.get("kind") or kind_of(
        image.path, image.header, image.instrument, notes
    )
    check_calibrated(image.header, image.names, image.instrument, notes)
    row["kind"] = kind
    blank = image.header.get("BLANK") is not None and image.unit.bitpix > 0
    judge_pixels(
        {**image.facts, "blank": blank},
        notes,
        kind=kind,
        dead_area_reject=image.checks.dead_area_reject,
    )
    _check_form(image, kind)
    fill_identity(image, row, kind)
    fill_exposure(image, row, kind)
    fill_place(image, row)
    fill_time(image, row, kind)
    fill_geometry(image, row)
    fill_detector(image, row, kind)
    fill_sky(image, row, kind)
    for name, value in override.columns.items():
        if name not in _USED:
            row[name] = _like(name, value)
    _note_repairs(image.header, notes)
    return row


#: Columns set by hand that were taken into account where they belong.
_USED = frozenset(
    [
        "kind",
        "instrument",
        "date_start",
        "target",
        "filter",
        "detector",
        "mode",
        "binning",
        "amplifiers",
        "area",
        "datasec",
        "biassec",
    ]
)


def _like(name: str, value: Any) -> Any:
    return float(value) if name in FLOAT_COLUMNS else str(value)


def _check_size(image: Image) -> None:
    ny, nx = image.shape
    least = image.checks.min_side_px
    if min(ny, nx) < least:
        image.notes.reject(
            "BAD_SHAPE",
            f"The image has {nx} x {ny} pixels; a side must have at least {least} "
            "(settings: ingest.min_side_px).",
        )


def _note_repairs(header: RawHeader, notes: Notes) -> None:
    """Mention repaired cards that no column needed: products carry them."""
    repaired = [c.problem for c in header if c.problem and not c.problem.lost]
    for problem in repaired[:5]:
        notes.fix(problem.code, problem.message)


def _check_form(image: Image, kind: str) -> None:
    """Checks on the form of the pixels that need the header."""
    if image.unit.quantised:
        writer = clean_text(image.header.get("CREATOR") or image.header.get("SWCREATE"))
        image.notes.flag(
            "QUANTISED",
            f"Floating-point pixels were compressed with loss (ZQUANTIZ = {image.unit.quantised}"
            + (f", written by {writer})." if writer else ")."),
        )
    blank = image.header.get("BLANK")
    if blank is not None and image.unit.bitpix < 0:
        image.notes.flag("BAD_BLANK", f"BLANK = {blank} has no meaning for floating-point pixels.")
    elif blank is not None and image.facts["invalid"]:
        image.notes.fix(
            "BLANK_FIXED",
            f"{image.facts['invalid']} pixels hold BLANK = {blank} and are masked.",
        )
    zero, _, _ = parse_number(image.header.get("BZERO"))
    if kind == "bias" and image.unit.bitpix == 16 and not zero and image.facts.get("median", 0) < 0:
        image.notes.reject(
            "SUSPECT_BZERO",
            f"The median of the bias frame is {image.facts['median']:g}: BZERO = 32768 seems to be "
            "missing.",
        )


def finish(row: Row, notes: Notes, exclude: str = "") -> Row:
    """Return the row with verdict, code, message and fixes from the notes."""
    out = dict(row)
    out["fixes"] = "; ".join(
        f"{code} {' '.join(message.rstrip('.').replace(';', ',').split())}"
        for code, message in notes.fixes
    )
    if exclude:
        verdict, said = "rejected", [("EXCLUDED", f"Excluded by the overrides: {exclude}")]
    elif notes.rejections:
        verdict, said = "rejected", notes.rejections[:1]
    else:
        verdict, said = ("degraded" if notes.flags else "ok"), notes.flags
    out["verdict"] = verdict
    out["code"] = ";".join(dict.fromkeys(code for code, _ in said))
    out["message"] = " ".join(" ".join(message.split()) for _, message in said)
    return out
