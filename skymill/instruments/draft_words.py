"""Entries of a drafted instrument file, and the keywords that are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from skymill.instruments.find import instrument_names, load_instrument

if TYPE_CHECKING:
    from skymill.instruments.model import Instrument
    from skymill.instruments.survey import Survey

__all__ = ["Entry", "count", "found_keywords", "keywords_of", "vocabulary", "where"]


@dataclass(frozen=True)
class Entry:
    """One key of the file.

    Parameters
    ----------
    key : str
        Key, or '' for a comment alone.
    value : Any
        Plain data; a list of entries with `items` is written one per line.
    said : str
        What was guessed and from what.
    items : tuple of (value, str)
        Items of a list and what is said of each.
    """

    key: str
    value: Any = None
    said: str = ""
    items: tuple[tuple[Any, str], ...] = field(default=())


def count(shots: Sequence[Any]) -> str:
    """Return the number of frames in words."""
    return f"{len(shots)} frame" + ("s" if len(shots) != 1 else "")


@cache
def vocabulary(field_name: str) -> tuple[str, ...]:
    """Return the keywords that the packaged instruments know for a field, generic first.

    Parameters
    ----------
    field_name : str
        Field of an instrument, for example ``gain`` or ``site.longitude``.
    """
    names = ["generic", *(n for n in instrument_names() if n != "generic")]
    found = [k for name in names for k in keywords_of(load_instrument(name), field_name)]
    return tuple(dict.fromkeys(found))


def keywords_of(instrument: Instrument, field_name: str) -> list[str]:
    """Return the keywords that an instrument uses for a field, also those of its amplifiers."""
    value: Any = instrument
    for part in field_name.split("."):
        value = getattr(value, part)
    found = _keywords(value)
    for amplifier in instrument.amplifiers:
        found += _keywords(getattr(amplifier, field_name, None))
    return list(dict.fromkeys(found))


def _keywords(rule: Any) -> list[str]:
    if rule is None:
        return []
    if isinstance(rule, tuple):
        return [k for one in rule for k in (_keywords(one) if not isinstance(one, str) else [one])]
    if hasattr(rule, "keyword"):
        return [rule.keyword]
    return [
        source.keyword for name in ("keywords", "fallback") for source in getattr(rule, name, ())
    ]


def found_keywords(survey: Survey, field_name: str) -> list[tuple[str, int]]:
    """Keywords of a field that have a value somewhere, with the number of frames."""
    found = [(key, len(survey.having(key))) for key in vocabulary(field_name)]
    return [(key, number) for key, number in found if number]


def where(found: Iterable[tuple[str, int]], survey: Survey) -> str:
    """Say in how many frames the keywords are."""
    total = len(survey.shots)
    return ", ".join(f"{key} in {number} of {total}" for key, number in found) + " frames"
