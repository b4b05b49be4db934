"""Colour channels of a mosaic sensor: which pixels of the raw image have which colour.

A pattern such as RGGB names the colours of the two by two pixels at the top left of the
sensor. XBAYROFF and YBAYROFF say at which of them the image begins, and ROWORDER whether the
first row of the file is the top one; where it is BOTTOM-UP the last row is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skymill.ingest.values import CardReader, Notes, parse_number
from skymill.instruments.conditions import normal
from skymill.sections import Section

if TYPE_CHECKING:
    from skymill.cards import RawHeader
    from skymill.instruments import Instrument

__all__ = ["Channel", "Split", "split_of"]

_PATTERN = re.compile(r"[RGBCMYW]{4}$")
#: X-Trans and other patterns that two by two pixels cannot hold.
_LARGE = re.compile(r"[RGBCMYW]{5,}$")
_STEPS = re.compile(r"\[(\d)::(\d),(\d)::(\d)\]$")


@dataclass(frozen=True)
class Channel:
    """Pixels of one colour.

    Parameters
    ----------
    name : str
        Name of the channel, for example ``G1``.
    step, phase : tuple of int
        Step and first pixel (x, y).
    """

    name: str
    step: tuple[int, int]
    phase: tuple[int, int]

    @property
    def colour(self) -> str:
        """Colour without the number that tells two channels of one colour apart."""
        return self.name.rstrip("0123456789_") or self.name

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the raw image."""
        return (
            slice(self.phase[1], None, self.step[1]),
            slice(self.phase[0], None, self.step[0]),
        )

    def section(self, raw: Section) -> Section:
        """Return which pixels of the channel lie in a section of the raw image."""
        bounds = []
        for low, high, axis in ((raw.x0, raw.x1, 0), (raw.y0, raw.y1, 1)):
            step, phase = self.step[axis], self.phase[axis]
            bounds += [max(0, -((phase - edge) // step)) for edge in (low, high)]
        return Section(*bounds)

    def __str__(self) -> str:
        x, y = self.phase
        return f"{self.name}[{y}::{self.step[1]},{x}::{self.step[0]}]"


@dataclass(frozen=True)
class Split:
    """How an image is split, or why it cannot be."""

    pattern: str = ""
    channels: tuple[Channel, ...] = ()
    problem: str = ""


def split_of(header: RawHeader, instrument: Instrument, rows: int) -> Split:
    """Return the colour channels of an image.

    Parameters
    ----------
    header : RawHeader
        Cards of the image.
    instrument : Instrument
        Its ``channels``, or the keywords of its ``bayer``.
    rows : int
        Rows of the raw image: the pattern of one stored upside down begins at the last.

    Returns
    -------
    Split
        Without channels for a monochrome image, or if ``problem`` says why it is not
        split.
    """
    reader = CardReader(header, instrument.sentinels, Notes())
    pattern = re.sub(r"[^A-Z]", "", reader.text(instrument.bayer).upper())[:64]
    if not (_PATTERN.match(pattern) or _LARGE.match(pattern)) or len(set(pattern)) < 2:
        pattern = ""
    if not pattern and not instrument.channels:
        return Split()
    shown = f"the colour pattern {pattern}" if pattern else "several colours"
    if not instrument.split_channels:
        return Split(
            pattern,
            problem=f"The pixels carry {shown}, and the instrument {instrument.name} does not "
            "split colours (split_channels).",
        )
    if instrument.channels:
        named = instrument.channels.items()
        return Split(pattern, tuple(_explicit(name, text) for name, text in named))
    if len(pattern) != 4:
        return Split(
            pattern,
            problem=f"The pixels carry {shown}, which is not one of two by two pixels; give "
            "`channels` in the instrument file.",
        )
    start = [parse_number(reader.value(key))[0] or 0.0 for key in ("XBAYROFF", "YBAYROFF")]
    if not all(value == int(value) for value in start):
        return Split(pattern, problem=f"XBAYROFF, YBAYROFF are {start}, not whole numbers.")
    upside_down = normal(reader.value("ROWORDER") or "") == "bottomup"
    return Split(pattern, _channels(pattern, int(start[0]), int(start[1]), rows, upside_down))


def _explicit(name: str, text: str) -> Channel:
    match = _STEPS.match(text)
    assert match is not None  # the instrument file was checked
    y, step_y, x, step_x = (int(group) for group in match.groups())
    return Channel(name, (step_x, step_y), (x, y))


def _channels(pattern: str, x: int, y: int, rows: int, upside_down: bool) -> tuple[Channel, ...]:
    """Return the channels in the order of their first pixels."""
    colours: dict[tuple[int, int], str] = {}
    for first_y in (0, 1):
        row = (rows - 1 - first_y if upside_down else first_y) + y
        for first_x in (0, 1):
            colours[first_y, first_x] = pattern[2 * (row % 2) + (first_x + x) % 2]

    def rank(where: tuple[int, int]) -> tuple[bool, tuple[int, int]]:
        # G1 lies in the rows of R whatever the first pixel is, so that windows and frames
        # stored upside down agree on it.
        return "R" not in (colours[where[0], 0], colours[where[0], 1]), where

    out = []
    for (first_y, first_x), colour in colours.items():
        same = sorted((where for where, other in colours.items() if other == colour), key=rank)
        number = str(same.index((first_y, first_x)) + 1) if len(same) > 1 else ""
        out.append(Channel(colour + number, (2, 2), (first_x, first_y)))
    return tuple(out)
