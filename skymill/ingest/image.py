"""One frame while its row is made: cards, figures, rules and what was found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from skymill.ingest.values import CardReader, Notes, clean_text
from skymill.sheet import slug

if TYPE_CHECKING:
    from skymill.cards import RawHeader
    from skymill.fits_structure import Hdu
    from skymill.ingest.amplifiers import Placed
    from skymill.ingest.channels import Channel
    from skymill.ingest.overrides import Override
    from skymill.instruments import Instrument

__all__ = ["Checks", "Image"]


@dataclass(frozen=True)
class Checks:
    """Thresholds of the checks; the fields are settings of ingest."""

    min_side_px: int = 16
    bias_max_exposure_s: float = 1.0
    temperature_tolerance_k: float = 3.0
    dead_area_reject: float = 0.6


@dataclass
class Image:
    """Everything that the columns of one row are made from.

    Parameters
    ----------
    path : str
        Path relative to the raw folder.
    unit : Hdu
        The image in the file; of several, that which gives the header.
    shape : tuple of int
        Shape (ny, nx) of the raw image, of its channel, or of the assembled amplifiers.
    header : RawHeader
        Cards with inheritance and header overrides.
    names : tuple of str
        Names of the file's extensions.
    facts : dict
        Figures of the pixels, of `skymill.ingest.pixels.pixel_facts`.
    instrument : Instrument
        How to read the cards.
    override : Override
        Columns set by hand; they are not checked against the header.
    checks : Checks
        Thresholds.
    notes : Notes
        Filled with everything found.
    wholes : dict
        Number of an HDU to the shape (ny, nx) of its image before a channel was cut from it.
    detector : str
        Name of the detector among several of the file.
    channel : Channel or None
        Colour channel, if the image was split.
    pattern : str
        Colour pattern of the header.
    plane, planes : int
        Plane of a cube that was split, and how many there are.
    bzero : float or None
        BZERO set by hand, if it is not that of the file.
    amplifiers : list of Placed
        Several amplifiers, in the order of the instrument file.
    """

    path: str
    unit: Hdu
    shape: tuple[int, int]
    header: RawHeader
    names: tuple[str, ...]
    facts: dict[str, Any]
    instrument: Instrument
    override: Override
    checks: Checks
    notes: Notes
    wholes: dict[int, tuple[int, int]] = field(default_factory=dict)
    detector: str = ""
    channel: Channel | None = None
    pattern: str = ""
    plane: int | None = None
    planes: int = 1
    bzero: float | None = None
    amplifiers: list[Placed] = field(default_factory=list)

    @property
    def whole(self) -> tuple[int, int]:
        """Shape (ny, nx) of the raw image in the frame's own HDU."""
        return self.wholes[self.unit.number]

    @cached_property
    def reader(self) -> CardReader:
        """Reader of the cards of the frame."""
        return self.reader_of(self.header)

    def reader_of(self, header: RawHeader) -> CardReader:
        """Return a reader of other cards of the same file, that of an amplifier."""
        return CardReader(header, self.instrument.sentinels, self.notes, self.modes)

    @cached_property
    def mode_texts(self) -> tuple[str, ...]:
        """Read-out modes as the header names them."""
        reader = CardReader(self.header, self.instrument.sentinels, self.notes)
        return tuple(text for rule in self.instrument.mode if (text := reader.text(rule)))

    @cached_property
    def modes(self) -> tuple[str, ...]:
        """Every name by which a table of values may call the read-out mode."""
        by_hand = str(self.override.columns.get("mode", ""))
        joined = "-".join(self.mode_texts)
        names = (by_hand,) if by_hand else (*self.mode_texts, joined, slug(joined))
        return tuple(name for name in names if name)

    @cached_property
    def binning(self) -> tuple[int, int]:
        """Binning (x, y)."""
        by_hand = str(self.override.columns.get("binning", ""))
        if by_hand:
            x, y = by_hand.split("x")
            return int(x), int(y)
        for entry in self.instrument.binning:
            # ESO's keywords hold blanks: two of them are separated by a comma.
            keys = re.split(r",\s*", entry) if "," in entry else entry.split()
            texts = [clean_text(self.reader.value(key), self.reader.sentinels) for key in keys]
            found = [n for text in texts for n in re.findall(r"-?\d+(?:\.\d+)?", text)]
            # no detector is binned by a thousand; such a number is something else
            numbers = [int(float(n)) for n in found if len(n) < 12 and abs(float(n)) < 1000]
            if numbers and (len(numbers) == 2 or len(keys) == 1):
                pair = [max(1, abs(n)) for n in (numbers * 2)[:2]]
                return pair[0], pair[1]
        return 1, 1
