"""FITS sections: parts of an image as headers name them.

``[x1:x2,y1:y2]`` counts from 1, includes both ends and names x first. Inside the
package a section is a pair of half-open slices ``(rows, columns)`` of an array [y, x].
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skymill.errors import FrameRejected

__all__ = ["Section", "format_section", "parse_section", "section_slices"]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]$")


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
