"""The rules of an instrument file: where a number, a text, a section or a time comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from skymill.errors import FrameRejected
from skymill.instruments.conditions import Conditions, normal
from skymill.sections import parse_area, parse_place

__all__ = [
    "AreaRule",
    "CubeRule",
    "Kind",
    "KindRule",
    "NumberRule",
    "SectionRule",
    "SectionRules",
    "SiteRule",
    "Source",
    "Sources",
    "TextRule",
    "TimeRule",
    "WcsRule",
]

Edge = Literal["left", "right", "bottom", "top"]
Kind = Literal["bias", "dark", "flat", "flat_dark", "light", "not_science", "master"]


class Rule(BaseModel):
    """Base of everything in an instrument file: unknown keys are errors, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Rule):
    """A keyword, perhaps only under conditions."""

    keyword: str
    """Header keyword; ESO's hierarchical ones without HIERARCH: ``ESO DET DIT``."""
    when: Conditions = {}
    """Used only if all of these hold."""
    unless: Conditions = {}
    """Not used if one of these holds."""


def _sources(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return [{"keyword": item} if isinstance(item, str) else item for item in value]
    return value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_sources)]


class NumberRule(Rule):
    """Where a number comes from: the first keyword that has one, else the constant."""

    keywords: Sources = ()
    """Keywords in order of trust."""
    fallback: Sources = ()
    """Keywords that mean nearly the same: used if no other is there, never compared."""
    constant: float | None = None
    """Value if no keyword has one; with no keywords, the value."""
    unit: str = ""
    """Unit of the header's value: s, ms, us, min; C, K; deg, hourangle, auto."""
    range: tuple[float, float] | None = None
    """Plausible values; others are not used and flagged."""
    by_mode: dict[str, float] = {}
    """Value by read-out mode, before any keyword; case, blanks, ``_`` and ``-`` do not matter."""

    @field_validator("by_mode")
    @classmethod
    def _distinct(cls, value: dict[str, float]) -> dict[str, float]:
        if len({normal(mode) for mode in value}) < len(value):
            raise ValueError(f"two of the modes are the same: {', '.join(value)}")
        if not all(math.isfinite(number) for number in value.values()):
            raise ValueError("the values must be finite")
        return value


class TextRule(Rule):
    """Where a text comes from."""

    keywords: Sources = ()
    """Keywords in order of trust."""
    constant: str | None = None
    """Value if no keyword has one."""
    combine: bool = False
    """Join the values of all keywords by ``+`` (two filter wheels), leaving out ``clear``."""
    clear: tuple[str, ...] = ("clear", "open", "empty", "none", "air")
    """Values of an empty position, for ``combine``."""
    aliases: dict[str, str] = {}
    """Header value to name; upper and lower case differ."""


def _section(value: Any) -> Any:
    """Take an area in either notation as a FITS section."""
    if not isinstance(value, (str, Mapping)):
        return value
    try:
        text = parse_area(value)
        parse_place(text)
    except FrameRejected as error:
        raise ValueError(error.message) from None
    return text


class SectionRule(Rule):
    """Where a section of the raw image comes from."""

    keywords: Sources = ()
    """Keywords with a FITS section ``[x1:x2,y1:y2]``."""
    constant: Annotated[str | None, BeforeValidator(_section)] = None
    """Section to use whatever the header says: a FITS section, or ``{xmin, xmax, ymin, ymax}``
    counted from 0 without the upper bound."""
    inside: dict[Edge, Sources] = {}
    """Keywords with the number of columns (rows) of prescan or overscan at an edge of the raw
    image, used if no keyword has a section: what is left. Not for amplifiers."""
    edge: Edge | None = None
    """With `inside`: the strip at this edge, and not what is left."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, (Mapping, SectionRule)) else value


#: One rule or a list of them.
SectionRules = Annotated[tuple[SectionRule, ...], BeforeValidator(_several)]


class AreaRule(SectionRule):
    """Which part of the detector the frame covers."""

    binned: bool = False
    """The section counts binned pixels; CCDSEC and DETSEC count unbinned ones."""
    origin: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    """Two keywords with the column and row at which the raw image begins, used if there is no
    section; without them those of `subframe`. The size is that of the frame."""
    origin_base: Literal[0, 1] = 0
    """What these keywords hold for an image that begins at the detector's first pixel."""
    origin_binned: bool = True
    """They count binned pixels."""

    @field_validator("origin")
    @classmethod
    def _pair(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1:
            raise ValueError("two keywords are needed, for x and for y")
        return value


class CubeRule(Rule):
    """What to do with a cube of exposures."""

    split: bool = False
    """Make each plane a frame of its own; without it cubes are rejected."""
    cycle: NumberRule = NumberRule(unit="s")
    """Time from the start of one plane to that of the next, s; the exposure if it is not known."""


class TimeRule(Rule):
    """Where the time of an exposure comes from."""

    date: Sources = ()
    """Keywords with date, or date and time."""
    time: Sources = ()
    """Keywords with the time of day, if the first holds the date only."""
    split: bool = False
    """Date and time are two cards by design: joining them is no repair."""
    mjd: Sources = ()
    """Keywords with a modified Julian date, used if there is no date."""
    jd: Sources = ()
    """Keywords with a Julian date, used if there is neither."""
    check: Sources = ()
    """Keywords with a modified Julian date that must agree within a second."""
    refers_to: Literal["start", "mid", "end"] = "start"
    """What moment of the exposure the time is."""
    scale: TextRule = TextRule(keywords=(Source(keyword="TIMESYS"),), constant="UTC")
    """Time scale: UTC, UT1, TAI, TT, TDB, GPS."""
    utc_offset_h: float = 0.0
    """Hours that local time is ahead of UTC, if the cards hold local time."""
    day_first: bool | None = None
    """``03/04/2021`` is the third of April (true) or the fourth of March (false)."""
    valid: tuple[str, str] = ("1980-01-01", "2100-01-01")
    """Times outside are flagged: the clock of the camera was not set."""


class SiteRule(Rule):
    """Where the telescope stands."""

    longitude: NumberRule = NumberRule(unit="deg")
    """Longitude in degrees or sexagesimal."""
    east_positive: bool = True
    """False if the header counts longitude to the west."""
    latitude: NumberRule = NumberRule(unit="deg")
    """Latitude in degrees or sexagesimal."""
    height: NumberRule = NumberRule(unit="m")
    """Height above sea level in m."""
    utc_offset_h: float | None = None
    """Hours ahead of UTC, for the date of the night where the longitude is not known."""


class KindRule(Rule):
    """One rule for the kind of frame; the first that holds is used."""

    kind: Kind
    """bias, dark, flat, flat_dark, light, not_science or master."""
    when: Conditions = {}
    """Header conditions, all of which must hold."""
    file: str = ""
    """Pattern of the file name (of the relative path if it has a slash)."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.when and not self.file:
            raise ValueError("a rule for a kind needs `when` or `file`")
        return self


class WcsRule(Rule):
    """What the world coordinates of the header are worth."""

    policy: Literal["header", "unbinned", "ignore"] = "header"
    """header: of the raw image; unbinned: of the unbinned detector; ignore."""
