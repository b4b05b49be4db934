"""Columns that say which pixels are the image, and which part of the detector they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skymill.errors import FrameRejected
from skymill.ingest.values import clean_text, parse_number
from skymill.sections import Section, parse_place, parse_section
from skymill.sheet import slug

if TYPE_CHECKING:
    from skymill.ingest.image import Image
    from skymill.instruments import SectionRule
    from skymill.sheet import Row

__all__ = ["fill_geometry"]

#: Sub-frames do not begin farther out than this (px).
_FAR = 10**6


def fill_geometry(image: Image, row: Row) -> None:
    """Sections of the raw image, area on the detector; the mode of sub-frames without one."""
    if image.amplifiers:
        _amplified(image, row)
    else:
        _single(image, row)
    row["area"] = _area(image, row)
    corner = str(row["area"]).startswith("[1:") and ",1:" in str(row["area"])
    image.facts["window"] = bool(row["area"]) and (not corner or image.facts.get("window", False))
    if row["area"] or "mode" in image.override.columns:
        return
    origin = [parse_number(image.reader.value(k))[0] for k in image.instrument.subframe]
    if any(value not in (None, 0.0, 1.0) for value in origin):
        window = "sub-" + "-".join(f"{value or 0:g}" for value in origin)
        row["mode"] = slug("-".join([*image.mode_texts, window]))


def _amplified(image: Image, row: Row) -> None:
    """Several amplifiers: the assembled frame has no overscan any more."""
    by_hand = [name for name in ("datasec", "biassec") if name in image.override.columns]
    if by_hand:
        image.notes.reject(
            "BAD_SECTION",
            f"{by_hand[0]} is set by hand, but the frame has {len(image.amplifiers)} amplifiers; "
            "set the sections of each (amplifiers).",
        )
    row["datasec"] = str(Section(0, image.shape[1], 0, image.shape[0]))
    row["biassec"] = ""


def _single(image: Image, row: Row) -> None:
    name = image.instrument.name
    columns = image.override.columns
    if "datasec" in columns:
        texts = [(str(columns["datasec"]), "datasec of the overrides")]
    else:
        texts = [_text(image, image.instrument.datasec, f"datasec of the instrument {name}")]
    data = next(iter(_sections(image, texts)), None)
    if "biassec" in columns:
        parts = str(columns["biassec"]).split(";")
        texts = [(part, "biassec of the overrides") for part in parts]
    else:
        texts = [
            _text(image, rule, f"biassec of the instrument {name}")
            for rule in image.instrument.biassec
        ]
    strips = _sections(image, texts)
    data = data or Section(0, image.shape[1], 0, image.shape[0])
    for strip in strips:
        if data.overlaps(strip):
            image.notes.reject(
                "BAD_SECTION",
                f"The image section {data} and the overscan {strip} overlap. Correct one of them "
                "in the instrument file (datasec, biassec) or by an override.",
            )
    row["datasec"] = str(data)
    row["biassec"] = ";".join(dict.fromkeys(str(strip) for strip in strips))


def _text(image: Image, rule: SectionRule, name: str) -> tuple[str, str]:
    """Return a section as text, and where it is from."""
    if rule.constant is not None:
        return rule.constant, name
    value, keyword = image.reader.first(rule.keywords)
    if not keyword and rule.inside:
        return _inside(image, rule), name
    return clean_text(value), keyword


def _inside(image: Image, rule: SectionRule) -> str:
    """Return what prescan and overscan leave of the raw image, or the strip at one edge."""
    ny, nx = image.whole
    width = {}
    for edge, sources in rule.inside.items():
        value, _ = image.reader.first(sources)
        width[edge] = int(parse_number(value)[0] or 0)
    left, right, bottom, top = (width.get(e, 0) for e in ("left", "right", "bottom", "top"))
    columns, rows = (1 + left, nx - right), (1 + bottom, ny - top)
    strips = {
        None: (*columns, *rows),
        "left": (1, left, *rows),
        "right": (nx - right + 1, nx, *rows),
        "bottom": (*columns, 1, bottom),
        "top": (*columns, ny - top + 1, ny),
    }
    x1, x2, y1, y2 = strips[rule.edge]
    # An edge without a strip has no section; widths that cannot be are said by the parser.
    return "" if rule.edge and not width.get(rule.edge) else f"[{x1}:{x2},{y1}:{y2}]"


def _sections(image: Image, texts: list[tuple[str, str]]) -> list[Section]:
    """Return sections of the image, of its channel if it was split; bad ones reject it."""
    found = []
    for text, origin in texts:
        if not text.strip():
            continue
        try:
            # Sections count pixels of the raw image, also where a channel is cut from it.
            section = parse_section(text, image.whole, name=origin)
        except FrameRejected as rejected:
            image.notes.reject(rejected.code, rejected.message)
            continue
        if image.channel is not None:
            section = image.channel.section(section)
        if 0 in section.shape:
            image.notes.reject(
                "BAD_SECTION", f"{origin} is {text}: no pixel of the channel {image.channel}."
            )
            continue
        found.append(section)
    return found


def _area(image: Image, row: Row) -> str:
    """Return which part of the detector the trimmed frame covers, '' if it is not known."""
    if "area" in image.override.columns:
        return str(image.override.columns["area"])
    data = parse_section(str(row["datasec"]), image.shape)
    shape, step = data.shape, image.channel.step if image.channel else (1, 1)
    rule = image.instrument.area
    text, _ = _text(image, rule, "area")
    if text:
        bins = (1, 1) if rule.binned else image.binning
        found = _of_section(image, text, data, (bins[0] * step[0], bins[1] * step[1]))
        # unbinned pixels and the size of the frame confirm each other
        image.facts["window"] = found is not None and not rule.binned
        return "" if found is None else _named(found, shape)
    if image.amplifiers:
        image.facts["window"] = True
        return _named(image.amplifiers[0].origin, shape)
    keywords = rule.origin or image.instrument.subframe
    origin = [parse_number(image.reader.value(key))[0] for key in keywords]
    if len(origin) != 2 or any(
        value is None or value != int(value) or not rule.origin_base <= value <= _FAR
        for value in origin
    ):
        return ""
    first = []
    for axis, value in enumerate(origin):
        unit = 1 if rule.origin_binned else image.binning[axis]
        start = (int(value or 0) - rule.origin_base) // unit
        # A channel counts its own pixels: its first one is that of the phase.
        phase = image.channel.phase[axis] if image.channel else 0
        first.append((start + phase) // step[axis] + (data.x0, data.y0)[axis])
    return _named((first[0], first[1]), shape)


def _named(first: tuple[int, int], shape: tuple[int, int]) -> str:
    return str(Section(first[0], first[0] + shape[1], first[1], first[1] + shape[0]))


def _of_section(
    image: Image, text: str, data: Section, unit: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the first pixel on the detector (from 0) if a section fits the frame.

    It may be the section of the trimmed frame ``data`` or of the whole raw image.
    """
    try:
        place, _, _ = parse_place(text)
    except FrameRejected:
        return None  # only windows need it, and those of unknown place are told by the mode
    lengths = (place.x1 - place.x0, place.y1 - place.y0)
    first = (place.x0 // unit[0], place.y0 // unit[1])

    def fits(size: tuple[int, int]) -> bool:
        return all(
            n in (length // k, -(-length // k))
            for n, length, k in zip(size[::-1], lengths, unit, strict=True)
        )

    if fits(data.shape):
        return first
    if not image.amplifiers and fits(image.shape):
        return first[0] + data.x0, first[1] + data.y0
    return None
