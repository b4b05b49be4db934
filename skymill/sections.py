"""FITS sections: parts of an image as headers name them.

``[x1:x2,y1:y2]`` counts from 1, includes both ends and names x first. Inside the
package a section is a pair of half-open slices ``(rows, columns)`` of an array [y, x].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from skymill.errors import FrameRejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Section",
    "format_section",
    "parse_area",
    "parse_channel",
    "parse_place",
    "parse_section",
    "parse_sections",
    "section_slices",
    "union",
]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]$", re.ASCII)
_CHANNEL = re.compile(r"([A-Za-z][A-Za-z0-9]*)\[(\d+)::(\d+),(\d+)::(\d+)\]$", re.ASCII)


@dataclass(frozen=True)
class Section:
    """A rectangle of pixels, 0-based and half-open.

    Parameters
    ----------
    x0, x1, y0, y1 : int
        Columns ``x0 <= x < x1`` and rows ``y0 <= y < y1``.
    """

    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices (rows, columns) of an array [y, x]."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of the part."""
        return self.y1 - self.y0, self.x1 - self.x0

    def overlaps(self, other: Section) -> bool:
        """Return True if the two rectangles share a pixel."""
        return (
            self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1
        )

    def __str__(self) -> str:
        return f"[{self.x0 + 1}:{self.x1},{self.y0 + 1}:{self.y1}]"


def parse_section(text: str, shape: tuple[int, int], *, name: str = "section") -> Section:
    """Parse a FITS section strictly.

    Parameters
    ----------
    text : str
        ``[x1:x2,y1:y2]``, 1-based, inclusive, x first.
    shape : tuple of int
        Shape (ny, nx) of the raw image that must contain it.
    name : str
        What the section is, for the message.

    Returns
    -------
    Section

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if the text is not a section, runs backwards, starts at 0 or
        leaves the image.

    Examples
    --------
    >>> parse_section("[18:1382,1:1370]", (1370, 1432)).slices
    (slice(0, 1370, None), slice(17, 1382, None))
    """
    match = _SECTION.match(text.strip())
    if match is None:
        raise FrameRejected(
            "BAD_SECTION",
            f"{name} is {text!r}; expected [x1:x2,y1:y2] with whole numbers. "
            "Correct it in the instrument file or by an override.",
        )
    x1, x2, y1, y2 = (int(group) for group in match.groups())
    ny, nx = shape
    if not (1 <= x1 <= x2 <= nx and 1 <= y1 <= y2 <= ny):
        raise FrameRejected(
            "BAD_SECTION",
            f"{name} is {text}; expected 1 <= x1 <= x2 <= {nx} and 1 <= y1 <= y2 <= {ny} for an "
            f"image of {nx} x {ny} pixels. Correct it in the instrument file or by an override.",
        )
    return Section(x1 - 1, x2, y1 - 1, y2)


def parse_sections(text: str, shape: tuple[int, int], *, name: str) -> tuple[Section, ...]:
    """Parse sections joined by ``;``; no text is no section. See `parse_section`."""
    parts = [part for part in text.split(";") if part.strip()]
    return tuple(parse_section(part, shape, name=name) for part in parts)


def parse_place(text: str, *, name: str = "place") -> tuple[Section, bool, bool]:
    """Parse a section that may run backwards, as DETSEC does for mirrored amplifiers.

    Parameters
    ----------
    text : str
        ``[x1:x2,y1:y2]``, 1-based, inclusive; ``x1 > x2`` means that the columns of the
        amplifier are stored in reverse.
    name : str
        What the section is, for the message.

    Returns
    -------
    section : Section
    flip_x, flip_y : bool
        True where the section runs backwards.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION``.

    Examples
    --------
    >>> parse_place("[2048:1025,1:512]")[1:]
    (True, False)
    """
    match = _SECTION.match(text.strip())
    if match is None or "0" in match.groups():
        raise FrameRejected(
            "BAD_SECTION",
            f"{name} is {text!r}; expected [x1:x2,y1:y2] with whole numbers from 1. "
            "Correct it in the instrument file or by an override.",
        )
    x1, x2, y1, y2 = (int(group) for group in match.groups())
    section = Section(min(x1, x2) - 1, max(x1, x2), min(y1, y2) - 1, max(y1, y2))
    return section, x1 > x2, y1 > y2


def parse_area(value: str | Mapping[str, Any], *, name: str = "area") -> str:
    """Return the FITS section of an area in either notation.

    Parameters
    ----------
    value : str or mapping
        A FITS section, which is returned as it is, or ``{xmin, xmax, ymin, ymax}``:
        0-based, half-open, as in ``array[ymin:ymax, xmin:xmax]``.
    name : str
        What the area is, for the message.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if a bound is missing, not a whole number, or the area is empty.

    Examples
    --------
    >>> parse_area({"xmin": 0, "xmax": 4096, "ymin": 20, "ymax": 4116})
    '[1:4096,21:4116]'
    """
    if isinstance(value, str):
        return value
    names = ("xmin", "xmax", "ymin", "ymax")
    bounds = [value.get(key) for key in names]
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in bounds)
    if set(value) != set(names) or not whole:
        raise FrameRejected(
            "BAD_SECTION",
            f"{name} is {dict(value)}; expected whole numbers for {', '.join(names)}.",
        )
    x0, x1, y0, y1 = (int(v) for v in bounds if v is not None)
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise FrameRejected(
            "BAD_SECTION", f"{name} is {dict(value)}; expected 0 <= min < max for both axes."
        )
    return str(Section(x0, x1, y0, y1))


def parse_channel(text: str) -> tuple[str, tuple[slice, slice]]:
    """Parse the column ``channel`` of the sheet.

    Parameters
    ----------
    text : str
        ``NAME[y0::sy,x0::sx]``: every ``sy``-th row from ``y0`` and every ``sx``-th column
        from ``x0``, counted from 0.

    Returns
    -------
    name : str
    slices : tuple of slice
        Rows and columns of the raw image.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION``.

    Examples
    --------
    >>> parse_channel("G1[0::2,1::2]")
    ('G1', (slice(0, None, 2), slice(1, None, 2)))
    """
    match = _CHANNEL.match(text.strip())
    steps = (0, 0) if match is None else (int(match[3]), int(match[5]))
    if match is None or 0 in steps or int(match[2]) >= steps[0] or int(match[4]) >= steps[1]:
        raise FrameRejected(
            "BAD_SECTION",
            f"channel is {text!r}; expected NAME[y::step,x::step] with starts below the steps. "
            "Correct it in the instrument file.",
        )
    rows, columns = slice(int(match[2]), None, steps[0]), slice(int(match[4]), None, steps[1])
    return match[1], (rows, columns)


def union(sections: Iterable[Section], without: Iterable[Section] = ()) -> tuple[Section, ...]:
    """Return rectangles without common pixels that cover the same pixels as the sections.

    Parameters
    ----------
    sections : iterable of Section
        They may overlap.
    without : iterable of Section
        Pixels to leave out.

    Returns
    -------
    tuple of Section
        In the order of rows, then columns.
    """
    wanted, unwanted = list(sections), list(without)
    ys = sorted({y for one in wanted + unwanted for y in (one.y0, one.y1)})
    xs = sorted({x for one in wanted + unwanted for x in (one.x0, one.x1)})
    bands: list[tuple[int, int, list[tuple[int, int]]]] = []
    for y0, y1 in pairwise(ys):
        spans: list[tuple[int, int]] = []
        for x0, x1 in pairwise(xs):
            cell = Section(x0, x1, y0, y1)
            if not any(map(cell.overlaps, wanted)) or any(map(cell.overlaps, unwanted)):
                continue
            if spans and spans[-1][1] == x0:
                spans[-1] = (spans[-1][0], x1)
            else:
                spans.append((x0, x1))
        if bands and bands[-1][1] == y0 and bands[-1][2] == spans:
            bands[-1] = (bands[-1][0], y1, spans)
        else:
            bands.append((y0, y1, spans))
    return tuple(Section(x0, x1, y0, y1) for y0, y1, spans in bands for x0, x1 in spans)


def section_slices(text: str, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the slices (rows, columns) of a FITS section; see `parse_section`."""
    return parse_section(text, shape).slices


def format_section(rows: slice, columns: slice) -> str:
    """Return the FITS section of half-open slices.

    Examples
    --------
    >>> format_section(slice(0, 511), slice(0, 767))
    '[1:767,1:511]'
    """
    return f"[{columns.start + 1}:{columns.stop},{rows.start + 1}:{rows.stop}]"
