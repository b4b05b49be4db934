"""Several amplifiers: their sections and places, put together as later steps will do it.

What the rules of the instrument file give for one header becomes the column ``amplifiers``
of the sheet. The assembled frame is made here once, by the code that calibration uses, so
that a frame whose amplifiers do not fit together is rejected before anything is reduced.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError, FrameRejected
from skymill.ingest.values import CardReader, clean_text
from skymill.readout import Readout
from skymill.sections import Section, parse_place, parse_section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skymill.cards import RawHeader
    from skymill.ingest.channels import Channel
    from skymill.ingest.image import Image
    from skymill.ingest.overrides import Override
    from skymill.instruments import AmplifierRule, Instrument, SectionRule

__all__ = ["PATCHES", "Placed", "as_column", "assemble_amplifiers", "check_patches"]

#: What overrides may set of an amplifier: key of its entry to its type.
PATCHES: dict[str, type] = {
    "data": str, "bias": list, "place": str, "gain": float, "noise": float,
    "saturation": float, "linear_max": float, "corner": str,
}  # fmt: skip
_WHERE = "Correct it in the instrument file or by an override."


@dataclass
class Placed:
    """One amplifier of one frame.

    Parameters
    ----------
    rule : AmplifierRule
        Its rule in the instrument file.
    reader : CardReader
        The cards of its HDU.
    patch : dict
        What the overrides set.
    entry : dict
        Its entry in the column ``amplifiers``.
    origin : tuple of int
        First column and row (from 0) of the assembled frame in the coordinates of the
        places, binned pixels.
    """

    rule: AmplifierRule
    reader: CardReader
    patch: dict[str, Any]
    entry: dict[str, Any]
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Span:
    """Where an amplifier lies along one axis, in the units of its rule."""

    low: int
    high: int
    flip: bool
    size: int
    unit: int

    def start(self, first: int, name: str) -> int:
        """Return its first pixel on the frame, from 0."""
        length = self.high - self.low
        if self.size == length // self.unit:
            return (self.low - first) // self.unit
        if self.size == -(-length // self.unit):
            return -(-(self.low - first) // self.unit)
        raise FrameRejected(
            "BAD_SECTION",
            f"amplifier {name} has {self.size} px of data, but its place {length} px"
            + (f" at {self.unit} per pixel" if self.unit > 1 else "")
            + f". {_WHERE}",
        )


def check_patches(override: Override, instrument: Instrument) -> None:
    """Refuse overrides of amplifiers that the instrument does not have.

    Raises
    ------
    ConfigError
        If a name is not known.
    """
    known = [one.name for one in instrument.amplifiers]
    for name in override.columns.get("amplifiers", {}):
        if name not in known:
            raise ConfigError(
                f"overrides: amplifiers: {name} is no amplifier of the instrument "
                f"{instrument.name}; known: {', '.join(known) or 'none'}"
            )


def assemble_amplifiers(
    image: Image,
    parts: list[tuple[AmplifierRule, int, RawHeader]],
    pixels: Mapping[int, NDArray[Any]],
) -> NDArray[Any]:
    """Resolve the amplifiers of a frame and put their pixels together.

    Parameters
    ----------
    image : Image
        The frame; its ``amplifiers`` and ``shape`` are filled.
    parts : list of (AmplifierRule, int, RawHeader)
        Rule, HDU and cards of each amplifier.
    pixels : mapping of int to ndarray of shape (ny, nx)
        Raw images (or their channel) by HDU.

    Returns
    -------
    ndarray of shape (ny, nx)
        The assembled frame, raw values.

    Raises
    ------
    FrameRejected
        BAD_SECTION, with the name of the amplifier.
    """
    patches = image.override.columns.get("amplifiers", {})
    placed: list[Placed] = []
    spans: list[tuple[_Span, _Span]] = []
    for rule, hdu, header in parts:
        one = Placed(rule, image.reader_of(header), dict(patches.get(rule.name, {})), {})
        spans.append(_sections(image, one, hdu))
        placed.append(one)
    shape = _place(placed, spans)
    column = [{**one.entry, "gain": 1.0, "noise": 0.0} for one in placed]
    row = {"nx": shape[1], "ny": shape[0], "amplifiers": json.dumps(column)}
    readout = Readout.from_row(row, pixels)
    kinds = {pixels[one.hdu].dtype for one in readout.amplifiers}
    whole = np.empty(shape, kinds.pop() if len(kinds) == 1 else np.float32)
    for amplifier in readout.amplifiers:
        whole[amplifier.place.slices] = amplifier.cut(pixels[amplifier.hdu])
    image.amplifiers, image.shape = placed, shape
    return whole


def _sections(image: Image, one: Placed, hdu: int) -> tuple[_Span, _Span]:
    """Fill data section and overscans of an amplifier; return where it lies."""
    name, rule, channel = one.rule.name, one.rule, image.channel
    # Sections count pixels of the raw image, also where a channel is cut from it.
    whole = image.wholes[hdu]
    text, origin = _text(one, rule.data, "data")
    data = parse_section(text, whole, name=origin) if text else Section(0, whole[1], 0, whole[0])
    strips = one.patch.get("bias")
    if strips is None:
        found = [_text(one, strip, "bias") for strip in rule.bias]
    else:
        found = [(str(strip), f"bias of amplifier {name} in the overrides") for strip in strips]
    areas = [parse_section(strip, whole, name=where) for strip, where in found if strip]
    data, *areas = (_of_channel(area, channel, name) for area in (data, *areas))
    one.entry = {
        "name": name, "hdu": hdu, "data": str(data), "bias": [str(area) for area in areas],
    }  # fmt: skip
    text, origin = _text(one, rule.place, "place")
    height, width = data.shape
    if not text:
        return _Span(0, width, False, width, 1), _Span(0, height, False, height, 1)
    place, flip_x, flip_y = parse_place(text, name=origin)
    bins = (1, 1) if rule.place_binned else image.binning
    steps = channel.step if channel else (1, 1)
    return (
        _Span(place.x0, place.x1, flip_x, width, bins[0] * steps[0]),
        _Span(place.y0, place.y1, flip_y, height, bins[1] * steps[1]),
    )


def _text(one: Placed, rule: SectionRule, key: str) -> tuple[str, str]:
    """Return a section as text and where it is from."""
    name = f"{key} of amplifier {one.rule.name}"
    if key in one.patch and key != "bias":
        return str(one.patch[key]), f"{name} in the overrides"
    if rule.constant is not None:
        return rule.constant, f"{name} in the instrument file"
    value, keyword = one.reader.first(rule.keywords)
    if rule.keywords and not keyword and key != "bias":
        names = ", ".join(source.keyword for source in rule.keywords)
        raise FrameRejected("BAD_SECTION", f"{name}: the header has none of {names}. {_WHERE}")
    return clean_text(value), f"{keyword} of amplifier {one.rule.name}"


def _of_channel(area: Section, channel: Channel | None, name: str) -> Section:
    part = channel.section(area) if channel else area
    if 0 in part.shape:
        raise FrameRejected(
            "BAD_SECTION", f"section {area} of amplifier {name} holds no pixel of {channel}."
        )
    return part


def _place(placed: list[Placed], spans: list[tuple[_Span, _Span]]) -> tuple[int, int]:
    """Fill the places on the frame, which begins at 1, 1; return its shape."""
    first = [min(pair[axis].low for pair in spans) for axis in (0, 1)]
    size = [0, 0]
    area = 0
    for one, pair in zip(placed, spans, strict=True):
        ends = []
        for axis, span in enumerate(pair):
            start = span.start(first[axis], one.rule.name)
            size[axis] = max(size[axis], start + span.size)
            low, high = start + 1, start + span.size
            ends.append(f"{high}:{low}" if span.flip else f"{low}:{high}")
        area += pair[0].size * pair[1].size
        one.entry["place"] = f"[{ends[0]},{ends[1]}]"
        one.origin = (first[0] // pair[0].unit, first[1] // pair[1].unit)
    if area != size[0] * size[1]:
        raise FrameRejected(
            "BAD_SECTION",
            f"the {len(placed)} amplifiers hold {area} px of data, but their places span "
            f"{size[0]} x {size[1]} px. {_WHERE}",
        )
    return size[1], size[0]


def as_column(placed: list[Placed]) -> str:
    """Return the column ``amplifiers`` of the sheet."""
    entries = [one.entry for one in placed]
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))
