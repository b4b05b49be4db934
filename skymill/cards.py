"""Header cards as they are in the file, parsed without ever raising.

A raw header may hold cards that no standard allows: unescaped quotes, decimal commas,
bytes outside ASCII, numbers written as text. `parse_cards` reads every one of them to
the best sense it makes and says what it had to do, so that one bad card never costs a
frame. Nothing here opens files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["COMMENTARY", "Card", "CardProblem", "RawHeader", "Value", "parse_cards", "printable"]

Value = str | int | float | bool | None

CARD = 80
COMMENTARY = frozenset({"COMMENT", "HISTORY", ""})

_STRING = re.compile(r"'((?:[^']|'')*)'\s*(?:/\s?(.*))?$", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+$")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?$")
_COMMA = re.compile(r"[+-]?\d+,\d+([EeDd][+-]?\d+)?$")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class CardProblem:
    """What was wrong with a card.

    Parameters
    ----------
    code : str
        ``BAD_CARD``, ``DECIMAL_COMMA`` or ``NON_ASCII``.
    message : str
        One sentence that names the keyword and quotes the card.
    lost : bool
        True if the value could not be recovered, False if it was repaired.
    """

    code: str
    message: str
    lost: bool = False


@dataclass(frozen=True)
class Card:
    """One card: keyword in capitals, value, comment, and its text in the file."""

    keyword: str
    value: Value
    comment: str = ""
    text: str = ""
    problem: CardProblem | None = None


@dataclass
class RawHeader:
    """The cards of one header, in order.

    Look-ups take the first card of a name, as astropy does; `conflicts` tells whether
    later ones differ.
    """

    cards: list[Card] = field(default_factory=list)
    _index: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._index = {}
        for number, card in enumerate(self.cards):
            self._index.setdefault(card.keyword, []).append(number)

    def __contains__(self, keyword: str) -> bool:
        return keyword.upper() in self._index

    def __iter__(self) -> Iterator[Card]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    def card(self, keyword: str) -> Card | None:
        """Return the first card of a name, or None."""
        where = self._index.get(keyword.upper())
        return self.cards[where[0]] if where else None

    def get(self, keyword: str, default: Value = None) -> Value:
        """Return the value of the first card of a name; undefined values give None."""
        card = self.card(keyword)
        return default if card is None else card.value

    def conflicts(self, keyword: str) -> list[Value]:
        """Return the values of a keyword if it occurs more than once and they differ."""
        where = self._index.get(keyword.upper(), [])
        values = [self.cards[i].value for i in where]
        return values if len({repr(v) for v in values}) > 1 else []

    def history(self) -> list[str]:
        """Return the text of the HISTORY cards."""
        return [self.cards[i].comment for i in self._index.get("HISTORY", [])]

    def with_values(self, values: dict[str, Value]) -> RawHeader:
        """Return a copy in which some keywords have other values (overrides)."""
        new = {key.upper(): value for key, value in values.items()}
        cards = [c for c in self.cards if c.keyword not in new]
        cards += [Card(key, value, "set by the overrides") for key, value in new.items()]
        return RawHeader(cards)

    def inherit(self, primary: RawHeader, structural: Iterable[str]) -> RawHeader:
        """Return these cards followed by those of ``primary`` that are not here.

        Parameters
        ----------
        primary : RawHeader
            Header of the first HDU.
        structural : iterable of str
            Keywords that describe the primary's own data and are not inherited.
        """
        own = set(self._index) | set(structural)
        extra = [c for c in primary if c.keyword not in own or c.keyword in COMMENTARY]
        return RawHeader(self.cards + extra)


def printable(text: str) -> str:
    """Return text in which every control character is escaped, so that it cannot forge lines."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m.group()):02x}", text)


def parse_cards(data: bytes) -> RawHeader:
    """Parse the cards of a header.

    Parameters
    ----------
    data : bytes
        Header text, a multiple of 80 bytes, without or with the END card.

    Returns
    -------
    RawHeader
        All cards before END. CONTINUE cards are joined to the string they continue.
    """
    cards: list[Card] = []
    for start in range(0, len(data) - CARD + 1, CARD):
        raw = data[start : start + CARD]
        if raw[:8] == b"END     ":
            break
        card = _parse(raw)
        if card.keyword == "CONTINUE":
            cards[-1:] = _join(cards[-1] if cards else None, card)
        else:
            cards.append(card)
    return RawHeader([_strip_ampersand(card) for card in cards])


def _parse(raw: bytes) -> Card:
    text, problem = _decode(raw)
    keyword = text[:8].rstrip().upper()
    if text[:9].upper() == "HIERARCH " and "=" in text:
        name, _, rest = text[9:].partition("=")
        return _value_card(name.strip().upper(), rest, text, problem)
    if keyword == "CONTINUE":
        return _value_card(keyword, text[8:], text, problem)
    if keyword in COMMENTARY:
        return Card(keyword, None, text[8:].rstrip(), text, problem)
    if text[8:9] == "=":
        return _value_card(keyword, text[9:], text, problem)
    lost = CardProblem("BAD_CARD", f"{keyword} has no '= ' and no value: {_quote(text)}.", True)
    return Card(keyword, None, text[8:].rstrip(), text, lost)


def _decode(raw: bytes) -> tuple[str, CardProblem | None]:
    if raw.isascii():
        text = raw.decode("ascii")
        if not _CONTROL.search(text):
            return text, None
        name = printable(text[:8].rstrip())
        message = f"{name} held control characters, read as blanks: {_quote(text)}."
        return _CONTROL.sub(" ", text), CardProblem("BAD_CARD", message)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    message = f"{printable(text[:8].rstrip())} held bytes outside ASCII: {raw.rstrip()!r}."
    return _CONTROL.sub(" ", text), CardProblem("NON_ASCII", message)


def _value_card(keyword: str, rest: str, text: str, problem: CardProblem | None) -> Card:
    value, comment, found = _value(keyword, rest.strip(), text)
    return Card(keyword, value, comment.strip(), text, found or problem)


def _value(keyword: str, body: str, text: str) -> tuple[Value, str, CardProblem | None]:
    if body.startswith("'"):
        return _string(keyword, body, text)
    word, _, comment = body.partition("/")
    word = word.strip()
    if word == "":
        return None, comment, None
    if word in ("T", "F"):
        return word == "T", comment, None
    if _INTEGER.match(word):
        return int(word), comment, None
    if _FLOAT.match(word):
        return _finite(keyword, word, comment, text)
    if _COMMA.match(word):
        value = float(word.replace(",", ".").upper().replace("D", "E"))
        message = f"{keyword} was written with a decimal comma: {_quote(text)}."
        return value, comment, CardProblem("DECIMAL_COMMA", message)
    if _NOT_FINITE.match(word):
        message = f"{keyword} is not a finite number: {_quote(text)}."
        return None, comment, CardProblem("BAD_CARD", message, True)
    message = f"{keyword} held text without quotes: {_quote(text)}."
    return word, comment, CardProblem("BAD_CARD", message)


def _finite(
    keyword: str, word: str, comment: str, text: str
) -> tuple[Value, str, CardProblem | None]:
    value = float(word.upper().replace("D", "E"))
    if math.isfinite(value):
        return value, comment, None
    return None, comment, CardProblem("BAD_CARD", f"{keyword} overflows: {_quote(text)}.", True)


def _string(keyword: str, body: str, text: str) -> tuple[Value, str, CardProblem | None]:
    match = _STRING.match(body)
    if match:
        return match.group(1).replace("''", "'").rstrip(), match.group(2) or "", None
    # An unescaped or missing quote: the value ends at the last quote before the comment.
    inner, slash, comment = body[1:].partition(" /")
    if "'" in inner:
        inner = inner[: inner.rindex("'")]
    message = f"{keyword} has an unescaped or missing quote: {_quote(text)}."
    return inner.strip(), comment if slash else "", CardProblem("BAD_CARD", message)


def _join(before: Card | None, card: Card) -> list[Card]:
    """Join a CONTINUE card to its string."""
    if before is None:
        return []
    if isinstance(before.value, str) and before.value.endswith("&") and isinstance(card.value, str):
        comment = f"{before.comment} {card.comment}".strip()
        problem = before.problem or card.problem
        return [Card(before.keyword, before.value[:-1] + card.value, comment, before.text, problem)]
    message = f"a CONTINUE card after {before.keyword} continues nothing: {_quote(card.text)}."
    problem = before.problem or CardProblem("BAD_CARD", message)
    return [Card(before.keyword, before.value, before.comment, before.text, problem)]


def _strip_ampersand(card: Card) -> Card:
    """Drop the mark of a continuation that never came, if the text was a full card long."""
    if isinstance(card.value, str) and card.value.endswith("&") and len(card.value) > 60:
        return Card(card.keyword, card.value[:-1], card.comment, card.text, card.problem)
    return card


def _quote(text: str) -> str:
    short = printable(text.rstrip())
    return f"[{short[:77]}...]" if len(short) > 80 else f"[{short}]"
