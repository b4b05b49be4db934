"""One image while its row is made: cards, figures, rules and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skymill.ingest.values import CardReader, Notes

if TYPE_CHECKING:
    from skymill.cards import RawHeader
    from skymill.fits_structure import Hdu
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
        The image in the file.
    shape : tuple of int
        Shape (ny, nx).
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

    def __post_init__(self) -> None:
        self.reader = CardReader(self.header, self.instrument.sentinels, self.notes)
