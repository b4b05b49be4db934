"""Where a pixel of a raw image lies on the frame that is made of it.

Between the two lie the cut of a colour channel (every second pixel), the trim, the turn of
an amplifier that is stored mirrored, and its place beside the others. All of them keep rows
and columns apart, so the way is one scale and one offset per axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from skymill.readout import amplifier_entries
from skymill.sections import Section, parse_channel, parse_place, parse_section

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PixelMap", "trimmed_shape"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class PixelMap:
    """Position on the frame ``= scale * position in the raw image + offset``.

    Parameters
    ----------
    scale, offset : tuple of float
        For x and y. Positions are those of pixel centres, the first pixel is at 0. The
        scale is negative where the frame runs against the raw image.
    """

    scale: Pair = (1.0, 1.0)
    offset: Pair = (0.0, 0.0)

    @classmethod
    def of(
        cls,
        *,
        shift: Pair = (0.0, 0.0),
        flip: tuple[bool, bool] = (False, False),
        size: tuple[int, int] = (0, 0),
        place: Pair = (0.0, 0.0),
        step: tuple[int, int] = (1, 1),
        phase: tuple[int, int] = (0, 0),
    ) -> Self:
        """Put a map together; all pairs are (x, y).

        Parameters
        ----------
        shift : tuple of float
            Columns and rows that the trim removes at the left and at the bottom, of the
            channel if there is one.
        flip : tuple of bool
            The part is stored mirrored.
        size : tuple of int
            Columns and rows that the trim keeps; needed where ``flip`` is true.
        place : tuple of float
            First column and row (from 0) of the part on the frame.
        step, phase : tuple of int
            Every ``step``-th pixel of the raw image from ``phase`` belongs to the channel.
        """
        scale, offset = [], []
        for axis in (0, 1):
            start = -phase[axis] / step[axis] - shift[axis]
            sign = -1.0 if flip[axis] else 1.0
            scale.append(sign / step[axis])
            last = size[axis] - 1.0 if flip[axis] else 0.0
            offset.append(place[axis] + last + sign * start)
        return cls((scale[0], scale[1]), (offset[0], offset[1]))

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the map of a row of the sheet, from the image in its own HDU.

        Parameters
        ----------
        row : mapping
            Its ``datasec`` or ``amplifiers``, ``channel``, ``hdu`` and size.

        Raises
        ------
        FrameRejected
            ``BAD_SECTION`` if one of them cannot be read.
        """
        step, phase = (1, 1), (0, 0)
        if row.get("channel"):
            _, (rows, columns) = parse_channel(str(row["channel"]))
            step, phase = (columns.step, rows.step), (columns.start, rows.start)
        entries = amplifier_entries(row)
        own = next((e for e in entries if int(e["hdu"]) == int(row.get("hdu") or 0)), None)
        if own is not None:
            data, _, _ = parse_place(str(own["data"]), name="data section")
            place, flip_x, flip_y = parse_place(str(own["place"]))
            return cls.of(
                shift=(data.x0, data.y0), flip=(flip_x, flip_y), size=data.shape[::-1],
                place=(place.x0, place.y0), step=step, phase=phase,
            )  # fmt: skip
        data = _trimmed(row)
        return cls.of(shift=(data.x0, data.y0), size=data.shape[::-1], step=step, phase=phase)

    def __call__(self, x: float, y: float) -> Pair:
        """Return the position on the frame of a position in the raw image, from 0."""
        return self.scale[0] * x + self.offset[0], self.scale[1] * y + self.offset[1]


def _trimmed(row: Mapping[str, Any]) -> Section:
    shape = (int(row["ny"]), int(row["nx"]))
    text = str(row.get("datasec") or "")
    return parse_section(text, shape) if text else Section(0, shape[1], 0, shape[0])


def trimmed_shape(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return the shape (ny, nx) of the frame that a row of the sheet stands for."""
    return (int(row["ny"]), int(row["nx"])) if row.get("amplifiers") else _trimmed(row).shape
