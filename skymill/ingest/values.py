"""Header values: numbers, texts and angles, with a note for everything that was repaired."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skymill.cards import RawHeader, Value, printable
from skymill.errors import CODES
from skymill.instruments import NumberRule, Source, TextRule, holds, normal

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CardReader", "Notes", "clean_text", "parse_angle", "parse_number"]

Note = tuple[str, str]

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?)\s*([A-Za-z°µ/%-]*)\.?$")
_COMMA = re.compile(r"([+-]?\d+),(\d+)\s*([A-Za-z°]*)$")
_SEXAGESIMAL = re.compile(
    r"([+-]?)\s*(\d{1,3})\s*[:\shHdD°]\s*(\d{1,2})\s*(?:[:\smM'′]\s*(\d{1,2}(?:[.,]\d*)?)?\s*[sS\"″]?)?\s*([NSEWnsew]?)$"
)
_SIDED = re.compile(r"([+-]?\d+(?:\.\d*)?)\s*(?:deg|°)?\s*([NSEWnsew])$")
_UNIT_NAMES = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "ms": "ms", "msec": "ms", "us": "us", "µs": "us", "usec": "us",
    "m": "min", "min": "min", "c": "C", "degc": "C", "°c": "C", "k": "K",
    "deg": "deg", "°": "deg", "d": "deg", "h": "hourangle",
    "e": "", "e-": "", "electron": "", "electrons": "", "adu": "", "e/adu": "", "e-/adu": "",
}  # fmt: skip
_FACTORS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_NUMBER_SENTINELS = frozenset({-999.0, -9999.0, -99999.0, -999.99, -999.9})
_COMMENT_UNIT = re.compile(r"[\[(\s](ms|msec|millisec\w*|us|µs|usec|microsec\w*)\b", re.IGNORECASE)


@dataclass
class Notes:
    """What is to be said about one frame."""

    fixes: list[Note] = field(default_factory=list)
    flags: list[Note] = field(default_factory=list)
    rejections: list[Note] = field(default_factory=list)

    def copy(self) -> Notes:
        """Return notes that begin with these."""
        return Notes(list(self.fixes), list(self.flags), list(self.rejections))

    def fix(self, code: str, message: str) -> None:
        """Record a repair."""
        self._add(self.fixes, code, message)

    def flag(self, code: str, message: str) -> None:
        """Record a doubt; the frame is degraded."""
        self._add(self.flags, code, message)

    def reject(self, code: str, message: str) -> None:
        """Record a reason why the frame cannot be used."""
        self._add(self.rejections, code, message)

    @staticmethod
    def _add(notes: list[Note], code: str, message: str) -> None:
        if code not in CODES:
            raise KeyError(f"{code!r} is not a reason code; add it to skymill.errors.CODES")
        if (code, message) not in notes:
            notes.append((code, message))


def clean_text(value: Value, sentinels: Iterable[str] = ()) -> str:
    """Return a header value as text without control and format characters.

    Blanks are collapsed, quotes around the whole are dropped, sentinels give ''.
    """
    if value is None:
        return ""
    text = ("T" if value else "F") if isinstance(value, bool) else str(value)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zs", "Zl", "Zp") else c for c in text)
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    text = " ".join(text.split())
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return "" if text.casefold() in sentinels else text


def parse_number(value: Value, unit: str = "") -> tuple[float | None, str, str]:
    """Return a number in the base unit (s, C, deg), the code of a repair, and the unit read.

    Parameters
    ----------
    value : str, int, float, bool or None
        Value of a card.
    unit : str
        Unit of a bare number; a unit written behind the number wins.

    Returns
    -------
    number : float or None
        None if there is no number.
    code : str
        ``STRING_NUMBER`` or ``DECIMAL_COMMA`` if text had to be read, else ''.
    unit : str
        The unit that was used.

    Examples
    --------
    >>> parse_number("30 s", "s")
    (30.0, 'STRING_NUMBER', 's')
    """
    code = ""
    if value is None or isinstance(value, bool):
        return None, "", unit
    if isinstance(value, str):
        text = value.strip()
        match = _NUMBER.match(text)
        code = "STRING_NUMBER"
        if match is None and (comma := _COMMA.match(text)):
            code = "DECIMAL_COMMA"
            match = _NUMBER.match(f"{comma[1]}.{comma[2]}{comma[3]}")
        if match is None:
            return None, "", unit
        if match[2]:
            if match[2].lower() not in _UNIT_NAMES:
                return None, "", unit
            unit = _UNIT_NAMES[match[2].lower()] or unit
        value = float(match[1].upper().replace("D", "E"))
    number = float(value)
    if not math.isfinite(number) or number in _NUMBER_SENTINELS:
        return None, "", unit
    if unit == "K":
        return number - 273.15, code, unit
    return number * _FACTORS.get(unit, 1.0), code, unit


def parse_angle(value: Value, unit: str = "deg") -> float | None:
    """Return an angle in degrees.

    Parameters
    ----------
    value : str, int, float, bool or None
        ``10:00:00``, ``10 00 00``, ``10h00m00s``, ``115 W``, ``149.9`` or a number.
    unit : str
        ``deg``, ``hourangle``, or ``auto``: sexagesimal text is hours, a number degrees.

    Examples
    --------
    >>> parse_angle("10:00:00", "auto"), parse_angle("-8:49:28.5"), parse_angle("115 W")
    (150.0, -8.824583333333333, -115.0)
    """
    if isinstance(value, str):
        text = value.strip()
        if match := _SIDED.match(text):
            return -float(match[1]) if match[2] in "SWsw" else float(match[1])
        if match := _SEXAGESIMAL.match(text):
            minutes, seconds = float(match[3]), float((match[4] or "0").replace(",", "."))
            if minutes >= 60 or seconds > 60:
                return None
            number = float(match[2]) + minutes / 60 + seconds / 3600
            negative = match[1] == "-" or match[5] in ("S", "W", "s", "w")
            hours = unit in ("hourangle", "auto") and not re.search(r"[dD°]", text)
            return (-number if negative else number) * (15.0 if hours else 1.0)
    number_, _, used = parse_number(value, unit)
    if number_ is None:
        return None
    return number_ * 15.0 if used == "hourangle" else number_


class CardReader:
    """Reads values by the rules of an instrument and notes what was odd about the cards.

    Parameters
    ----------
    header : RawHeader
        The cards.
    sentinels : iterable of str
        Texts that mean that nothing is known.
    notes : Notes
        Where repairs and doubts are recorded.
    modes : iterable of str
        Names of the read-out mode, for tables of values by mode.
    """

    def __init__(
        self,
        header: RawHeader,
        sentinels: Iterable[str],
        notes: Notes,
        modes: Iterable[str] = (),
    ) -> None:
        self.header = header
        self.modes = frozenset(normal(mode) for mode in modes)
        self.sentinels = frozenset(s.casefold() for s in sentinels)
        self.notes = notes

    def value(self, keyword: str) -> Value:
        """Return the value of a card; what is wrong with the card is noted."""
        card = self.header.card(keyword)
        if card is None:
            return None
        if card.problem:
            note = self.notes.flag if card.problem.lost else self.notes.fix
            note(card.problem.code, card.problem.message)
        others = self.header.conflicts(keyword)
        if others:
            shown = ", ".join(printable(str(v)) for v in others)
            self.notes.flag(
                "DUPLICATE_KEY",
                f"{card.keyword} occurs {len(others)} times ({shown}); the first is used.",
            )
        # A card without "= " has no value: its text is only a comment.
        return None if card.problem and card.problem.lost else card.value

    def first(self, sources: Iterable[Source]) -> tuple[Value, str]:
        """Return the first value that is there and no sentinel, and its keyword."""
        for source in self._active(sources):
            value = self.value(source.keyword)
            if clean_text(value, self.sentinels):
                return value, source.keyword
        return None, ""

    def _active(self, sources: Iterable[Source]) -> list[Source]:
        return [
            source
            for source in sources
            if source.keyword in self.header
            and (not source.when or holds(source.when, self.header))
            and not any(holds({k: v}, self.header) for k, v in source.unless.items())
        ]

    def number(
        self, rule: NumberRule, name: str, *, compare: bool = False
    ) -> tuple[float | None, str]:
        """Return a number and the keyword that gave it ('' for a constant or a table by mode).

        Parameters
        ----------
        rule : NumberRule
            Keywords, unit, constant and plausible range.
        name : str
            What the number is, for messages.
        compare : bool
            Flag CONFLICT if another keyword of the rule differs by more than 1 %.
        """
        for mode, listed in rule.by_mode.items():
            if normal(mode) in self.modes:
                return listed, ""
        found: list[tuple[float, str]] = []
        for source in self._active((*rule.keywords, *rule.fallback)):
            if found and (not compare or source in rule.fallback):
                break
            number = self._one(source.keyword, rule.unit, quiet=bool(found))
            if number is not None:
                found.append((number, source.keyword))
        if not found:
            return rule.constant, ""
        value, keyword = found[0]
        for other, where in found[1:]:
            if abs(other - value) > 0.01 * max(abs(value), abs(other)):
                self.notes.flag(
                    "CONFLICT",
                    f"{name}: {keyword} is {value:g}, {where} is {other:g}; {keyword} is used.",
                )
        return value, keyword

    def _one(self, keyword: str, unit: str, *, quiet: bool) -> float | None:
        value = self.value(keyword)
        if not clean_text(value, self.sentinels):
            return None
        number, code, used = parse_number(value, unit)
        if number is not None and code and not quiet:
            self.notes.fix(code, f"{keyword} was written as {printable(str(value))!r}.")
        card = self.header.card(keyword)
        if number is not None and used == "s" and unit == "s" and card is not None:
            match = _COMMENT_UNIT.search(f" {card.comment}")
            if match:
                self.notes.flag(
                    "UNIT",
                    f"{keyword} is read in s, but its comment says {match[1]}: {card.comment!r}.",
                )
        return number

    def angle(self, rule: NumberRule) -> tuple[float | None, str]:
        """Return an angle in degrees and its keyword."""
        for source in self._active((*rule.keywords, *rule.fallback)):
            value = self.value(source.keyword)
            if not clean_text(value, self.sentinels):
                continue
            angle = parse_angle(value, rule.unit)
            if angle is not None and math.isfinite(angle):
                return angle, source.keyword
        return rule.constant, ""

    def text(self, rule: TextRule) -> str:
        """Return a text; with ``combine`` the values of all keywords joined by +."""
        values = []
        for source in self._active(rule.keywords):
            value = clean_text(self.value(source.keyword), self.sentinels)
            if value and rule.combine and value.casefold() in rule.clear:
                continue
            if value:
                values.append(rule.aliases.get(value, value))
            if values and not rule.combine:
                break
        if values:
            joined = "+".join(values)
            return rule.aliases.get(joined, joined)
        return rule.constant or ""
