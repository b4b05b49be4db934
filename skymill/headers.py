"""Cards of raw files made into cards that products may carry.

A raw header is copied into every product of its frame. What is copied must be valid
FITS, must not describe the raw file's own form, and must not contradict what the
product says itself.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import TYPE_CHECKING

from astropy.io import fits

from skymill.cards import COMMENTARY, Card, RawHeader, Value, parse_cards
from skymill.header_wcs import celestial_wcs, is_wcs_keyword

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "STRUCTURAL",
    "calibration_marks",
    "celestial_wcs",
    "clean_header",
    "raw_cards",
    "to_fits",
]

#: Cards that describe the form of the file they stand in.
STRUCTURAL = frozenset(
    [
        "SIMPLE",
        "XTENSION",
        "BITPIX",
        "NAXIS",
        "EXTEND",
        "PCOUNT",
        "GCOUNT",
        "GROUPS",
        "BZERO",
        "BSCALE",
        "BLANK",
        "CHECKSUM",
        "DATASUM",
        "INHERIT",
        "EXTNAME",
        "EXTVER",
        "EXTLEVEL",
        "TFIELDS",
        "THEAP",
        "END",
        "CONTINUE",
        "NEXTEND",
        "ZIMAGE",
        "ZSIMPLE",
        "ZTENSION",
        "ZEXTEND",
        "ZBITPIX",
        "ZNAXIS",
        "ZPCOUNT",
        "ZGCOUNT",
        "ZCMPTYPE",
        "ZQUANTIZ",
        "ZDITHER0",
        "ZHECKSUM",
        "ZDATASUM",
        "ZBLANK",
        "ZSCALE",
        "ZZERO",
        "ZMASKCMP",
        "ZBLOCKED",
    ]
)
_STRUCTURAL_N = re.compile(
    r"(NAXIS|ZNAXIS|ZTILE|ZNAME|ZVAL|TTYPE|TFORM|TUNIT|TDISP|TNULL|TSCAL|TZERO|TDIM)\d+$"
)
#: Cards of the raw file that are wrong in a product: scaling of other programs, data unit,
#: display range.
_MISLEADING = frozenset(
    [
        "FLXSCALE",
        "MAGZEROP",
        "BUNIT",
        "DATAMAX",
        "DATAMIN",
        "DATASEC",
        "TRIMSEC",
        "BIASSEC",
        "CCDSEC",
        "DETSEC",
        "AMPSEC",
        "PEDESTAL",
        "CBLACK",
        "CWHITE",
    ]
)
#: Cards that programs write when they have calibrated a frame: skymill, IRAF's ccdproc,
#: ezphot, AutoWISP.
_CALIBRATED = (
    "SMSTEP",
    "CCDPROC",
    "ZEROCOR",
    "BIASCOR",
    "DARKCOR",
    "FLATCOR",
    "MBIASFNM",
    "MDARKFNM",
    "MFLATFNM",
    "CALBGAIN",
)
#: Values of such cards that say that nothing was done.
_NOT_DONE = frozenset(["", "F", "N", "NO", "NONE", "FALSE", "0", "OMIT", "SKIP"])
_ELECTRON = re.compile(r"\s*(electrons?|e-?)\s*$", re.IGNORECASE)
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}$")
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")


def clean_header(
    header: fits.Header, *, keep_wcs: bool = False, drop: Iterable[str] = ()
) -> fits.Header:
    """Return the cards of a raw header that a product may carry.

    Left out are structural cards, sections and scalings that hold for the raw image
    only, cards without a valid keyword or value, HIERARCH cards, and all but the first
    card of a keyword. Broken strings are repaired, characters outside ASCII become ``?``.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Raw header, for example of `skymill.io_raw.read_raw`. Not modified.
    keep_wcs : bool
        Also copy world coordinates. They refer to the untrimmed raw image; the product
        gets those of `celestial_wcs`.
    drop : iterable of str
        Further keywords to leave out, for example those that the instrument file lists.

    Returns
    -------
    astropy.io.fits.Header
        Valid FITS: it passes ``verify("exception")`` and reads back as written.

    Examples
    --------
    >>> raw = fits.Header.fromstring("OBSERVER= 'Observer's Name'".ljust(80))
    >>> clean_header(raw)["OBSERVER"]
    "Observer's Name"
    """
    unwanted = _MISLEADING | {name.upper() for name in drop}
    kept = [
        card
        for card in raw_cards(header)
        if card.keyword not in unwanted and (keep_wcs or not is_wcs_keyword(card.keyword))
    ]
    return to_fits(RawHeader(kept))


def calibration_marks(header: fits.Header) -> str:
    """Return what in a header says that the frame was calibrated; empty if nothing does.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Raw header.

    Returns
    -------
    str
        Keyword and value: a card of skymill or another program, CALSTAT with one of the
        letters B, D and F, or a BUNIT of electron.

    Examples
    --------
    >>> calibration_marks(fits.Header({"CALSTAT": "BDF"}))
    "CALSTAT = 'BDF'"
    """
    for keyword in _CALIBRATED:
        value = header.get(keyword)
        known = value is not None and not isinstance(value, fits.card.Undefined)
        if known and value is not False and str(value).strip().upper() not in _NOT_DONE:
            return f"{keyword} = {_ascii(str(value))[:40]!r}"
    status = str(header.get("CALSTAT") or "")
    if set(status.upper()) & set("BDF"):
        return f"CALSTAT = {_ascii(status)[:40]!r}"
    unit = header.get("BUNIT")
    if isinstance(unit, str) and _ELECTRON.match(unit):
        return f"BUNIT = {_ascii(unit)!r}"
    return ""


def raw_cards(header: fits.Header) -> RawHeader:
    """Return the cards of an astropy header, parsed by the rules of `skymill.cards`.

    astropy keeps the text of a card that it has read; a broken one is repaired from it.
    """
    cards: list[Card] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for card in header.cards:
            try:
                image = str(card)
            except Exception:  # noqa: S112 - astropy raises several types on unparsable cards
                continue
            cards.extend(parse_cards(image.encode("latin-1", "replace")))
    return RawHeader(cards)


def to_fits(header: RawHeader) -> fits.Header:
    """Return valid FITS cards for everything in a raw header that can be said in them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fits.Header(list(_valid_cards(header)))


def _valid_cards(header: RawHeader) -> Iterator[fits.Card]:
    seen: set[str] = set()
    for card in header:
        if card.keyword in COMMENTARY:
            text = _ascii(card.comment)
            if card.keyword and text:
                yield fits.Card(card.keyword, text)
            continue
        if card.keyword in seen or not _usable(card):
            continue
        seen.add(card.keyword)
        value = _ascii(card.value) if isinstance(card.value, str) else card.value
        yield _card(card.keyword, value, _ascii(card.comment))


def _usable(card: Card) -> bool:
    if not _KEYWORD.match(card.keyword) or (card.problem and card.problem.lost):
        return False
    if card.keyword in STRUCTURAL or _STRUCTURAL_N.match(card.keyword):
        return False
    return not (isinstance(card.value, float) and not math.isfinite(card.value))


def _card(keyword: str, value: Value, comment: str) -> fits.Card:
    if value is None:
        return fits.Card(keyword, fits.card.UNDEFINED, comment[:47])
    if isinstance(value, str) and len(value.replace("'", "''")) > 68:
        comment = ""  # a CONTINUE chain has no room for it in every reader
    elif isinstance(value, str):
        comment = comment[: max(0, 66 - max(8, len(value.replace("'", "''"))) - 1)]
    return fits.Card(keyword, value, comment[:47])


def _ascii(text: str) -> str:
    return _NOT_PRINTABLE.sub("?", text).rstrip()
