"""Headers as text: cards in order, made into the bytes of a unit without astropy's detours.

astropy builds, copies and verifies the header of every plane anew; for a small frame that
costs more than its pixels. Here each card is formatted by astropy once, and the frame of
structural cards around them comes from a unit that astropy made, once for each form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from astropy.io import fits

from skymill.frame import Later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["CardText", "card_text", "extended", "framed", "primary_cards"]

#: Cards that astropy moves, changes or removes when it makes a unit.
_STRUCTURAL = frozenset(
    ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "GROUPS", "BSCALE",
     "BZERO", "BLANK", "TFIELDS", "EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT", "ZIMAGE",
     "CHECKSUM", "DATASUM", "END", "THEAP")
)  # fmt: skip
_STRUCTURAL_STEMS = ("NAXIS", "ZNAXIS", "TFORM", "TTYPE", "ZNAME", "ZVAL", "ZTILE", "ZCMP")
#: Cards that may be there more than once and for which astropy has rules of its own.
_COMMENTARY = frozenset(("COMMENT", "HISTORY", "", "CONTINUE"))
_MARK = "SMMARK"


class CardText:
    """Cards in order, as text of 80 letters each.

    Parameters
    ----------
    header : astropy.io.fits.Header, optional
        Cards to begin with.

    Notes
    -----
    Where `plain` is False, some card needs astropy's own treatment: do not use the text.
    """

    def __init__(self, header: fits.Header | None = None) -> None:
        self._texts: dict[str, str] = {}
        self._odd: set[str] = set()
        for card in () if header is None else header.cards:
            self._add(card.keyword, str(card))

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> CardText:
        """Return cards that are already text: keyword and 80 letters of each."""
        new = cls()
        for keyword, text in texts:
            new._add(keyword, text)
        return new

    def copy(self) -> CardText:
        """Return cards of their own."""
        new = CardText()
        new._texts, new._odd = dict(self._texts), set(self._odd)
        return new

    @property
    def plain(self) -> bool:
        """True if astropy would write these cards just as they are."""
        return not self._odd

    def _add(self, keyword: str, text: str) -> None:
        twice = keyword in self._texts or keyword in _COMMENTARY
        moved = keyword in _STRUCTURAL or keyword.startswith(_STRUCTURAL_STEMS)
        if twice or text[:8].rstrip() != keyword or len(text) != 80:
            self._odd.add(_MARK)
        elif moved:
            self._odd.add(keyword)
        self._texts[keyword] = text

    def set(self, keyword: str, value: Any) -> None:
        """Set a card, in its place or behind the others.

        Parameters
        ----------
        keyword : str
            Keyword.
        value : value or (value, comment)
            As for a header of astropy.
        """
        value, comment = value if isinstance(value, tuple) else (value, None)
        text = card_text(keyword, value, comment or "")
        if keyword not in self._texts:
            self._add(keyword, text)
            return
        if comment is None or len(text) != 80:  # astropy would keep the old comment
            self._odd.add(_MARK)
        self._texts[keyword] = text

    def without(self, *keywords: str) -> CardText:
        """Return these cards without some."""
        new = self.copy()
        for keyword in keywords:
            new._texts.pop(keyword, None)
            new._odd.discard(keyword)
        return new

    @property
    def texts(self) -> Mapping[str, str]:
        """Keyword to card, in order."""
        return self._texts

    def header(self) -> fits.Header:
        """Return the cards as a header of astropy."""
        return fits.Header.fromstring(str(self))

    def __str__(self) -> str:
        return "".join(self._texts.values())


def card_text(keyword: str, value: Any, comment: str) -> str:
    """Return a card as astropy writes it."""
    # Most cards are the same for frame after frame; zero has two signs, but one place here.
    if isinstance(value, (str, int)) or (isinstance(value, float) and value != 0):
        return _card_text(keyword, value, comment)
    return str(fits.Card(keyword, value, comment))


@lru_cache(maxsize=4096, typed=True)
def _card_text(keyword: str, value: Any, comment: str) -> str:
    return str(fits.Card(keyword, value, comment))


def extended(header: fits.Header | None, cards: Mapping[str, Any]) -> fits.Header | Later:
    """Return a header with further cards, each in its place or behind the others.

    Parameters
    ----------
    header : astropy.io.fits.Header, optional
        Cards to begin with. Not modified.
    cards : mapping
        Keyword to (value, comment).

    Returns
    -------
    astropy.io.fits.Header or Later
        For a `skymill.frame.Frame`: as text where it can be, which costs a tenth.
    """
    text = CardText(header)
    for keyword, value in cards.items():
        text.set(keyword, value)
    if text.plain:
        return Later(text.header, text.texts)
    whole = fits.Header() if header is None else header.copy()
    for keyword, value in cards.items():
        whole[keyword] = value
    return whole


def framed(make: Callable[[fits.Header], fits.Header]) -> tuple[str, str]:
    """Return what astropy writes before and after the cards of a header.

    Parameters
    ----------
    make : callable
        Takes a header and returns that of a unit with these cards, by astropy.

    Returns
    -------
    before, after : str
        Text around the cards, without END.
    """
    header = fits.Header()
    header[_MARK] = True
    cards = [(card.keyword, str(card)) for card in make(header).cards]
    place = [keyword for keyword, _ in cards].index(_MARK)
    texts = [text for _, text in cards]
    return "".join(texts[:place]), "".join(texts[place + 1 :])


def primary_cards(header: fits.Header | CardText, cards: Mapping[str, Any]) -> CardText | None:
    """Return the cards of a primary header; None if astropy must make it."""
    text = header if isinstance(header, CardText) else CardText(header)
    text = text.without(
        "SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "BUNIT", "BLANK", "EXTNAME"
    )
    for keyword, value in cards.items():
        text.set(keyword, value)
    return text if text.plain else None
