"""World coordinates as cards: one of several conventions chosen, text made numbers.

The result is one unambiguous set of cards (CD matrix, one distortion, one frame) in
binned pixels of the trimmed frame. Whatever was repaired or doubted is noted.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skymill.cards import Value
    from skymill.pixel_map import PixelMap

__all__ = ["Cards", "NoWcsError", "WcsCards", "collect_cards", "is_wcs_keyword", "move_cards"]

WcsCards = dict[str, float | str]
_Notes = list[tuple[str, str]]

_WCS_KEYWORD = re.compile(
    r"(WCSAXES|WCSNAME|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CROTA\d|CRDELT\d|CNAME\d|CRDER\d"
    r"|CSYER\d|CD\d_\d|PC\d_\d|PV\d_\d+|PS\d_\d+|LONPOLE|LATPOLE|EQUINOX|RADESYS)[A-Z]?$"
    r"|(A|B|AP|BP)_(\d_\d|ORDER|DMAX)$"
    r"|(RADECSYS|EPOCH|CFINT\d|PC00\d00\d|LTV\d|LTM\d_\d|WAT\d_\d+|WCSDIM)$"
    r"|(DP\d|DQ\d|CPDIS|CQDIS|CPERR|CQERR|D2IM)[A-Z0-9_]*$"
)
_CTYPE = re.compile(r"(RA--|DEC-|GLON|GLAT|ELON|ELAT)-([A-Z]{3})(-SIP)?$")
_PAIRS = ({"RA--", "DEC-"}, {"GLON", "GLAT"}, {"ELON", "ELAT"})
_SIP_TERM = re.compile(r"(A|B|AP|BP)_(\d)_(\d)$")
_UNITS = {
    "": "deg",
    "deg": "deg",
    "degree": "deg",
    "degrees": "deg",
    "arcsec": "arcsec",
    "arcmin": "arcmin",
}
_SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[:\s](\d{1,2})[:\s](\d{1,2}(?:\.\d*)?)$")
_FRAMES = {"ICRS", "FK5", "FK4", "FK4-NO-E", "GAPPT", ""}
_PV_TERMS = 39


class Cards(Protocol):
    """A header: raw cards or astropy's."""

    def get(self, keyword: str, default: Value = None) -> Value:
        """Return a value."""
        ...

    def __contains__(self, keyword: str) -> bool: ...


class NoWcsError(Exception):
    """The cards cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def is_wcs_keyword(keyword: str) -> bool:
    """Return True if a keyword belongs to a description of world coordinates."""
    return bool(_WCS_KEYWORD.match(keyword))


def collect_cards(header: Cards, notes: _Notes) -> WcsCards | None:
    """Return the cards of the primary description as plain numbers.

    Parameters
    ----------
    header : astropy.io.fits.Header or RawHeader
        The cards.
    notes : list of (code, message)
        Repairs and doubts are appended.

    Returns
    -------
    dict or None
        None if the header has no celestial coordinates.

    Raises
    ------
    NoWcsError
        If it has some that cannot be used.
    """
    types = [str(header.get(f"CTYPE{i}") or "").strip().upper() for i in (1, 2)]
    celestial = [bool(re.match(r"(RA|DEC|GLON|GLAT|ELON|ELAT)\b|(RA|DEC)-", t)) for t in types]
    if not any(celestial):
        _only_alternatives(header, notes)
        return None
    matches = [_CTYPE.match(t) for t in types]
    if not (matches[0] and matches[1]):
        raise NoWcsError("NO_WCS", f"CTYPE is {types[0]!r}, {types[1]!r}: not a known projection.")
    first, second = matches[0], matches[1]
    if {first[1], second[1]} not in _PAIRS or first[2] != second[2]:
        raise NoWcsError("NO_WCS", f"CTYPE is {types[0]!r}, {types[1]!r}: the axes do not pair.")
    cards: WcsCards = {}
    strings: list[str] = []
    cards["CTYPE1"], cards["CTYPE2"] = types
    for keyword in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        value = _number(header, keyword, strings, notes)
        if value is None:
            raise NoWcsError("NO_WCS", f"{keyword} is {header.get(keyword)!r}, not a number.")
        cards[keyword] = value
    _check_reference(cards)
    _units(header, cards)
    _matrix(header, cards, strings, notes)
    _distortion(header, cards, strings, notes, projection=first[2])
    for keyword in ("LONPOLE", "LATPOLE"):
        value = _number(header, keyword, strings, notes)
        if value is not None:
            cards[keyword] = value
    _frame(header, cards, strings, notes)
    if strings:
        notes.append(
            (
                "WCS_STRINGS",
                f"{len(strings)} cards of the world coordinates were text ({strings[0]}, ...).",
            )
        )
    return cards


def _only_alternatives(header: Cards, notes: _Notes) -> None:
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        if str(header.get(f"CTYPE1{letter}") or "").strip().upper().startswith(("RA--", "DEC-")):
            notes.append(
                (
                    "NO_WCS",
                    f"Only the alternative description {letter} is celestial; it is ignored.",
                )
            )
            return


def _number(header: Cards, keyword: str, strings: list[str], notes: _Notes) -> float | None:
    value = header.get(keyword)
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        number = float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return _sexagesimal(keyword, text, header, notes)
    if not math.isfinite(number):
        return None
    strings.append(keyword)
    return number


def _sexagesimal(keyword: str, text: str, header: Cards, notes: _Notes) -> float | None:
    match = _SEXAGESIMAL.match(text)
    if match is None or not keyword.startswith("CRVAL"):
        return None
    sign = -1.0 if match[1] == "-" else 1.0
    value = sign * (float(match[2]) + float(match[3]) / 60 + float(match[4]) / 3600)
    axis = str(header.get(f"CTYPE{keyword[5]}") or "").strip().upper()
    if axis.startswith("RA"):
        value *= 15.0
    notes.append(("SEXAGESIMAL", f"{keyword} was written as {text!r}, read as {value:.6f} deg."))
    return value


def _check_reference(cards: WcsCards) -> None:
    for axis in (1, 2):
        value = float(cards[f"CRVAL{axis}"])
        latitude = str(cards[f"CTYPE{axis}"])[:4] in ("DEC-", "GLAT", "ELAT")
        low, high = (-90.0, 90.0) if latitude else (-360.0, 720.0)
        if not low <= value <= high:
            raise NoWcsError(
                "NO_WCS", f"CRVAL{axis} is {value:g}; expected {low:g} to {high:g} degrees."
            )


def _units(header: Cards, cards: WcsCards) -> None:
    for axis in (1, 2):
        unit = str(header.get(f"CUNIT{axis}") or "").strip()
        if unit.lower() not in _UNITS:
            raise NoWcsError("NO_WCS", f"CUNIT{axis} is {unit!r}; expected deg.")
        cards[f"CUNIT{axis}"] = _UNITS[unit.lower()]


def _matrix(header: Cards, cards: WcsCards, strings: list[str], notes: _Notes) -> None:
    """Choose one of the three conventions (CD, PC with CDELT, CDELT with CROTA2) as CD."""

    def read(keyword: str) -> float | None:
        return _number(header, keyword, strings, notes)

    pairs = [(i, j) for i in (1, 2) for j in (1, 2)]
    cd = {(i, j): read(f"CD{i}_{j}") for i, j in pairs}
    pc = {(i, j): read(f"PC{i}_{j}") for i, j in pairs}
    step = [read("CDELT1"), read("CDELT2")]
    turn = read("CROTA2")
    if turn is None:
        turn = read("CROTA1")
    options: list[tuple[str, list[float]]] = []
    if any(value is not None for value in cd.values()):
        options.append(("CD", _full(cd, 0.0, "CD")))
    if step[0] is not None and step[1] is not None:
        dx, dy = step[0], step[1]
        if any(value is not None for value in pc.values()):
            full = _full(pc, None, "PC")
            options.append(("PC", [full[0] * dx, full[1] * dx, full[2] * dy, full[3] * dy]))
        if turn is not None or not options:
            c, s = math.cos(math.radians(turn or 0.0)), math.sin(math.radians(turn or 0.0))
            options.append(("CDELT", [dx * c, -dy * s, dx * s, dy * c]))
        elif options[0][0] == "CD" and len(options) == 1:
            sizes = [
                math.hypot(options[0][1][0], options[0][1][2]),
                math.hypot(options[0][1][1], options[0][1][3]),
            ]
            if any(abs(abs(d) - n) > 0.01 * n for d, n in zip((dx, dy), sizes, strict=True)):
                notes.append(
                    (
                        "WCS_MIXED",
                        f"CDELT ({dx:g}, {dy:g}) and CD differ by more than 1 %; CD is used.",
                    )
                )
    if not options:
        raise NoWcsError("NO_WCS", "CTYPE is celestial, but there is neither CD nor CDELT.")
    name, chosen = options[0]
    size = max(abs(value) for value in chosen)
    for other, values in options[1:]:
        if max(abs(a - b) for a, b in zip(chosen, values, strict=True)) > 0.01 * size:
            notes.append(
                ("WCS_MIXED", f"{name} and {other} differ by more than 1 %; {name} is used.")
            )
    determinant = chosen[0] * chosen[3] - chosen[1] * chosen[2]
    if size == 0 or abs(determinant) < 1e-6 * size * size:
        raise NoWcsError("NO_WCS", f"the {name} matrix {chosen} is singular.")
    for (i, j), value in zip(pairs, chosen, strict=True):
        cards[f"CD{i}_{j}"] = value


def _full(
    matrix: dict[tuple[int, int], float | None], diagonal: float | None, name: str
) -> list[float]:
    """Return the matrix as a list; off-diagonal cards may be missing, those of CD's diagonal not.

    PC defaults to the unit matrix, CD cards that are missing are zero by the standard; a
    missing diagonal card with nothing off the diagonal is a loss, not a zero.
    """
    values = []
    for (i, j), value in matrix.items():
        default = 1.0 if diagonal is None and i == j else 0.0
        values.append(default if value is None else value)
    off = values[1] != 0 and values[2] != 0
    if name == "CD" and not off and (matrix[1, 1] is None or matrix[2, 2] is None):
        missing = "CD1_1" if matrix[1, 1] is None else "CD2_2"
        raise NoWcsError("NO_WCS", f"{missing} is missing.")
    return values


def _distortion(
    header: Cards,
    cards: WcsCards,
    strings: list[str],
    notes: _Notes,
    *,
    projection: str,
) -> None:
    """Collect SIP and PV terms and settle which of them holds."""
    sip = dict(_sip(header, strings, notes))
    pv = {
        f"PV{axis}_{order}": value
        for axis in (1, 2)
        for order in range(_PV_TERMS + 1)
        if f"PV{axis}_{order}" in header
        and (value := _number(header, f"PV{axis}_{order}", strings, notes)) is not None
    }
    named = str(cards["CTYPE1"]).endswith("-SIP")
    if sip:
        if not named:
            notes.append(("SIP_CTYPE", "SIP terms without -SIP in CTYPE; they are applied."))
            cards["CTYPE1"], cards["CTYPE2"] = (f"{cards[f'CTYPE{i}']!s}-SIP" for i in (1, 2))
        cards.update(sip)
        if pv:
            notes.append(("PV_DROPPED", "PV terms beside SIP terms are not used."))
        return
    if named:
        cards["CTYPE1"], cards["CTYPE2"] = (str(cards[f"CTYPE{i}"])[:8] for i in (1, 2))
    if projection == "TPV":
        # The linear terms default to 1; without them wcslib maps all pixels to one point.
        cards.update({"PV1_1": 1.0, "PV2_1": 1.0, **pv})
    if not pv:
        return
    if projection != "TAN":
        cards.update(pv)
        return
    # Under TAN the standard gives PV1_0..4 another meaning (native coordinates of the
    # reference point); SCAMP's polynomial has its linear terms PV1_1 and PV2_1 near 1.
    linear = [pv.get("PV1_1", 1.0), pv.get("PV2_1", 1.0)]
    high = any(int(key[4:]) > 4 or key.startswith("PV2") for key in pv)
    if high and all(abs(value - 1.0) < 0.2 for value in linear):
        cards.update({"PV1_1": 1.0, "PV2_1": 1.0, **pv})
        cards["CTYPE1"], cards["CTYPE2"] = (f"{str(cards[f'CTYPE{i}'])[:5]}TPV" for i in (1, 2))
        notes.append(("PV_ON_TAN", f"{len(pv)} PV terms under TAN are read as TPV."))
    else:
        notes.append(("PV_ON_TAN", f"{len(pv)} PV terms under TAN were left out."))


def _sip(header: Cards, strings: list[str], notes: _Notes) -> Iterator[tuple[str, float]]:
    for name in ("A", "B", "AP", "BP"):
        order = _number(header, f"{name}_ORDER", strings, notes)
        if order is None:
            continue
        if not 0 <= order <= 9:
            raise NoWcsError("NO_WCS", f"{name}_ORDER is {order:g}; expected 1 to 9.")
        yield f"{name}_ORDER", int(order)
        for i in range(int(order) + 1):
            for j in range(int(order) + 1 - i):
                value = _number(header, f"{name}_{i}_{j}", strings, notes)
                if value is not None:
                    yield f"{name}_{i}_{j}", value


def _frame(header: Cards, cards: WcsCards, strings: list[str], notes: _Notes) -> None:
    """Settle the celestial frame; RADECSYS and EPOCH are the old names."""
    equinox = next(
        (
            value
            for key in ("EQUINOX", "EPOCH")
            if (value := _number(header, key, strings, notes)) is not None
        ),
        None,
    )
    name = str(header.get("RADESYS") or header.get("RADECSYS") or "").strip().upper()
    if name not in _FRAMES:
        notes.append(("WCS_MIXED", f"the frame {name!r} is not known; ICRS is assumed."))
        name = ""
    if equinox is not None and not 1800 <= equinox <= 2200:
        equinox = None
    if not name:
        name = "ICRS" if equinox is None else ("FK4" if equinox < 1984 else "FK5")
    cards["RADESYS"] = name
    if equinox is not None and name != "ICRS":
        cards["EQUINOX"] = equinox


def move_cards(cards: WcsCards, pixels: PixelMap, binning: tuple[int, int] = (1, 1)) -> None:
    """Express reference pixel, matrix and distortion in pixels of the frame.

    Parameters
    ----------
    cards : dict
        Of `collect_cards`; changed.
    pixels : PixelMap
        Way from the raw image to the frame.
    binning : tuple of int
        Binning (x, y) between what the cards describe and the raw image.

    Notes
    -----
    With ``u' = a u`` and ``v' = b v`` for the distances from the reference pixel, the matrix
    is divided by the factor of its column, and a SIP term of ``u^p v^q``, itself a distance
    in x (in y), becomes ``a`` (``b``) ``a^-p b^-q`` times itself.
    """
    factor = [pixels.scale[axis] / binning[axis] for axis in (0, 1)]
    for axis in (0, 1):
        reference = (float(cards[f"CRPIX{axis + 1}"]) - 0.5) / binning[axis] + 0.5
        moved = pixels.scale[axis] * (reference - 1.0) + pixels.offset[axis] + 1.0
        cards[f"CRPIX{axis + 1}"] = moved
        for row in (1, 2):
            cards[f"CD{row}_{axis + 1}"] = float(cards[f"CD{row}_{axis + 1}"]) / factor[axis]
    for keyword, value in cards.items():
        if match := _SIP_TERM.match(keyword):
            own = factor[0] if match[1] in ("A", "AP") else factor[1]
            powers = factor[0] ** int(match[2]) * factor[1] ** int(match[3])
            cards[keyword] = float(value) * own / powers
