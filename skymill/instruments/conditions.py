"""Conditions on header cards: what tells one camera, kind of frame or amplifier from another."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skymill.cards import RawHeader, Value

__all__ = ["Conditions", "holds", "normal"]

#: ``{"IMAGETYP|OBSTYPE": value}``: the first of the keywords that is there has the value.
Conditions = dict[str, Any]


def normal(text: Any) -> str:
    """Return text for comparison: lower case, without blanks, underscores and hyphens."""
    return _normal(str(text))


@lru_cache(maxsize=8192)
def _normal(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()


def holds(conditions: Conditions, header: RawHeader) -> bool:
    """Return True if all conditions hold.

    A key is a keyword or several joined by ``|``, of which the first present one counts.
    A value is a text pattern (``*`` and ``?``; case, blanks, ``_`` and ``-`` do not matter), a
    number, ``true`` or ``false``, ``null`` (the keyword is absent), a list of which one must
    fit, or ``{min: ..., max: ...}``.
    """
    return all(_fits(wanted, _first(key, header)) for key, wanted in conditions.items())


def _first(key: str, header: RawHeader) -> Value:
    for keyword in key.split("|"):
        value = header.get(keyword.strip())
        if value is not None and (not isinstance(value, str) or value.strip()):
            return value
    return None


def _fits(wanted: Any, value: Value) -> bool:
    if isinstance(wanted, list):
        return any(_fits(one, value) for one in wanted)
    if wanted is None or value is None:
        return wanted is None and value is None
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, Mapping):
        number = _as_number(value)
        low, high = wanted.get("min", float("-inf")), wanted.get("max", float("inf"))
        return number is not None and low <= number <= high
    if isinstance(wanted, (int, float)):
        return _as_number(value) == float(wanted)
    return fnmatch.fnmatchcase(normal(value), normal(wanted))


def _as_number(value: Value) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
