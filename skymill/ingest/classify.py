"""What kind of frame it is, and whether it is a raw science or calibration frame at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from skymill.cards import RawHeader, printable
from skymill.ingest.overrides import matches
from skymill.ingest.values import Notes, clean_text
from skymill.instruments import Instrument, holds

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_calibrated", "kind_of"]

_KIND_KEYS = ("IMAGETYP", "IMAGETYPE", "OBSTYPE", "FRAME", "ESO DPR TYPE", "OBJECT")
_CALIBRATION_WORD = re.compile(r"\b(bias|zero|dark|flat|flats|skyflat|domeflat)\b", re.IGNORECASE)
#: Extensions that raw files do not have.
_PRODUCT_NAMES = frozenset({"ERR", "MASK", "BPM", "DQ", "VAR", "VARIANCE", "UNCERT", "CAT"})


def kind_of(path: str, header: RawHeader, instrument: Instrument, notes: Notes) -> str:
    """Return bias, dark, flat, flat_dark or light; '' with a rejection if it is none of them.

    Parameters
    ----------
    path : str
        Relative path of the file, for rules on its name.
    header : RawHeader
        The cards.
    instrument : Instrument
        Its rules are tried in order.
    notes : Notes
        IS_MASTER, NOT_SCIENCE or KIND_UNKNOWN; flag KIND_SUSPECT.
    """
    for rule in instrument.kinds:
        if rule.file and not matches(rule.file, path):
            continue
        if not holds(rule.when, header):
            continue
        if rule.kind == "master":
            notes.reject("IS_MASTER", f"A combined frame among the raw ones ({_seen(header)}).")
            return ""
        if rule.kind == "not_science":
            notes.reject("NOT_SCIENCE", f"Neither science nor calibration ({_seen(header)}).")
            return ""
        if rule.kind == "light":
            _check_light(header, notes)
        return rule.kind
    notes.reject(
        "KIND_UNKNOWN",
        f"No rule of the instrument {instrument.name} tells the kind of frame ({_seen(header)}); "
        "set `kind` for the file in config/overrides.yaml.",
    )
    return ""


def _seen(header: RawHeader) -> str:
    found = [
        f"{key} = {printable(str(header.get(key)))[:40]!r}" for key in _KIND_KEYS if header.get(key)
    ]
    return ", ".join(found) or f"none of {', '.join(_KIND_KEYS)} has a value"


def _check_light(header: RawHeader, notes: Notes) -> None:
    text = clean_text(header.get("OBJECT"))
    if _CALIBRATION_WORD.search(text.replace("_", " ")):
        notes.flag(
            "KIND_SUSPECT", f"A light frame by its type, but OBJECT is {printable(text)[:40]!r}."
        )


def check_calibrated(
    header: RawHeader, names: Iterable[str], instrument: Instrument, notes: Notes
) -> None:
    """Reject frames that carry the marks of an earlier calibration.

    Parameters
    ----------
    header : RawHeader
        The cards.
    names : iterable of str
        Names of the extensions of the file.
    instrument : Instrument
        With its own marks (``calibrated``).
    notes : Notes
        ALREADY_CALIBRATED.
    """
    product = sorted(_PRODUCT_NAMES & {name.upper() for name in names})
    if product:
        notes.reject("ALREADY_CALIBRATED", f"The file has the extensions {', '.join(product)}.")
    status = clean_text(header.get("CALSTAT"))
    if header.get("SMSTEP"):
        notes.reject("ALREADY_CALIBRATED", "The file is a product of skymill (card SMSTEP).")
    elif set(status.upper()) & set("BDF"):
        notes.reject("ALREADY_CALIBRATED", f"CALSTAT is {status!r}.")
    else:
        for conditions in instrument.calibrated:
            if holds(conditions, header):
                notes.reject("ALREADY_CALIBRATED", f"The header has {', '.join(conditions)}.")
                return
