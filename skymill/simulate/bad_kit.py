"""Tools for bad frames: their registry, and what recipes are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from skymill.errors import CODES
from skymill.simulate.frames import Exposure, LightTruth, RawFrame
from skymill.simulate.pointing import iso

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skymill.simulate.simulator import Simulator

__all__ = ["DEGRADED", "FIXED", "REGISTRY", "REJECTED", "BadFrame", "Kit", "put_card", "recipe"]

#: The file must be left out, and named.
REJECTED = ("rejected",)
#: The frame is used as if nothing were; a fix may be noted.
FIXED = ("ok", "degraded")
#: The frame is kept with a warning, or a later step cannot use it.
DEGRADED = ("degraded", "failed", "rejected")


@dataclass(frozen=True)
class BadFrame:
    """One kind of bad frame.

    Parameters
    ----------
    name : str
        Its name in ``NightConfig.bad``.
    hazard : str
        Its row in the list of hazards.
    why : str
        What is wrong, in plain words.
    codes : tuple of str
        Reason codes, any of which is right; empty if no code needs to be given.
    statuses : tuple of str
        Outcomes, any of which is right.
    good : bool
        True if the frame must be reduced all the same; its truth is written.
    """

    name: str
    hazard: str
    why: str
    codes: tuple[str, ...]
    statuses: tuple[str, ...]
    good: bool
    make: Callable[[Kit], Path]


#: All bad frames by name.
REGISTRY: dict[str, BadFrame] = {}


def recipe(
    hazard: str, *codes: str, statuses: tuple[str, ...] = REJECTED, good: bool = False
) -> Callable[[Callable[[Kit], Path]], Callable[[Kit], Path]]:
    """Enter a recipe under its function's name; its docstring says what is wrong."""

    def enter(make: Callable[[Kit], Path]) -> Callable[[Kit], Path]:
        name = make.__name__.rstrip("_")
        if name in REGISTRY:
            raise ValueError(f"bad frame {name!r} is declared twice")
        if unknown := set(codes) - set(CODES):
            raise KeyError(f"bad frame {name!r} expects unknown codes {sorted(unknown)}")
        why = (make.__doc__ or "").strip().rstrip(".")
        REGISTRY[name] = BadFrame(name, hazard, why, codes, FIXED if good else statuses, good, make)
        return make

    return enter


class Kit:
    """What a recipe works with: frames of its own, and a place to write.

    Each bad frame has its own random numbers and its own time, counted back from the
    first light frame, so that it disturbs no other.
    """

    def __init__(self, bad: BadFrame, number: int, simulator: Simulator, night: Path) -> None:
        self.simulator = simulator
        self.config = simulator.config
        self.night = night
        self.stem = f"odd_{bad.name}"
        self.stream = f"odd {bad.name}"
        self.band = self.config.filters[0]
        step = timedelta(seconds=(number + 1) * (self.config.exptime_s + 10.0))
        self.start: datetime = self.config.start - step
        self.truth: LightTruth | None = None

    def light(self, **changes: Any) -> RawFrame:
        """Return a light frame; ``changes`` are fields of `Exposure`."""
        shot = Exposure(self.stem, self.band, self.stream, 0, self.start, self.config.target)
        frame, self.truth = self.simulator.light(replace(shot, **changes))
        return frame

    def bias(self) -> RawFrame:
        """Return a bias frame."""
        return self._dated(self.simulator.bias(self.stem, self.stream, 0))

    def flat(self, **changes: Any) -> RawFrame:
        """Return a flat frame; ``changes`` are keywords of `Simulator.flat`."""
        return self._dated(self.simulator.flat(self.stem, self.band, self.stream, 0, **changes))

    def first_light(self) -> bytes:
        """Return the content of the first regular light frame of the first filter."""
        if self.config.n_light == 0:
            raise ValueError(f"simulate: bad frame {self.stem} needs a light frame to copy")
        return self.simulator.light(self.simulator.regular(self.band, 0))[0].bytes()

    def image(self) -> tuple[slice, slice]:
        """Return the slices of the image area in a raw frame."""
        ny, nx = self.config.shape
        return slice(0, ny), slice(self.config.prescan_px, self.config.prescan_px + nx)

    def save(self, content: bytes | RawFrame, name: str = "") -> Path:
        """Write a file, by default ``odd_<name>.fits``."""
        path = self.night / (name or f"{self.stem}.fits")
        path.write_bytes(content if isinstance(content, bytes) else content.bytes())
        return path

    def save_hdus(self, hdus: Any, name: str = "") -> Path:
        """Write an HDUList."""
        path = self.night / (name or f"{self.stem}.fits")
        hdus.writeto(path, overwrite=True)
        return path

    def _dated(self, frame: RawFrame) -> RawFrame:
        frame.header["DATE-OBS"] = iso(self.start)
        return frame


def put_card(content: bytes, keyword: str, card: bytes | str) -> bytes:
    """Replace the card of a keyword, byte by byte, by anything of up to 80 bytes.

    Parameters
    ----------
    content : bytes
        A FITS file with the keyword in its first header.
    keyword : str
        The card to replace.
    card : bytes or str
        The new card; padded with blanks.

    Raises
    ------
    ValueError
        If the keyword is not there or the card is too long.
    """
    new = card.encode("ascii") if isinstance(card, str) else card
    found = re.match(rb"(?s)(?:.{80})*?(?=%-8b)" % keyword.encode(), content)
    if found is None or len(new) > 80:
        raise ValueError(f"cannot put {card!r} in place of {keyword}")
    at = found.end()
    return content[:at] + new.ljust(80) + content[at + 80 :]
