"""Columns that say what a frame is of: target, filter, mode, exposure, place and time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from skymill.ingest.times import (
    Moment,
    iso_utc,
    night_of,
    observation_time,
    parse_date,
    sun_altitude_deg,
)
from skymill.instruments import normal
from skymill.sheet import Row, slug

if TYPE_CHECKING:
    from skymill.ingest.image import Image

__all__ = ["fill_exposure", "fill_identity", "fill_place", "fill_time"]

DAY_S = 86400.0
#: What colour cameras without a filter write into FILTER.
_NO_FILTER = ("rgb", "color", "colour", "osc", "bayer", "cfa", "nofilter")


def fill_identity(image: Image, row: Row, kind: str) -> None:
    """Target, filter, detector, mode, binning."""
    columns = image.override.columns
    row["object"] = str(columns.get("object", image.reader.text(image.instrument.object)))[:200]
    if kind == "light":
        row["target"] = slug(str(row["object"])) if row["object"] else "unnamed"
    if kind in ("light", "flat"):
        name = str(columns.get("filter", image.reader.text(image.instrument.filter)))
        name = image.instrument.filter.aliases.get(name, name)
        if image.channel is not None and "filter" not in columns:
            name = _colour(image, name)
        row["filter"] = slug(name) if name else ""
        if not name and "filter" not in columns:
            names = ", ".join(s.keyword for s in image.instrument.filter.keywords)
            image.notes.flag("MISSING_FILTER", f"No filter in the header (looked for {names}).")
        elif re.fullmatch(r"\d+(\.0)?", name) and "filter" not in columns:
            image.notes.flag(
                "FILTER_INDEX",
                f"The filter is only a number, {name}; give it a name (filter.aliases of the "
                "instrument file, or overrides).",
            )
    detector = image.reader.text(image.instrument.detector)
    detector = f"{detector} {image.detector}".strip()
    row["detector"] = slug(detector) if detector else ""
    row["mode"] = slug("-".join(image.mode_texts)) if image.mode_texts else ""
    _check_binning(image)
    row["binning"] = "{}x{}".format(*image.binning)
    for name in ("target", "filter", "detector", "mode"):
        if name in columns:
            text = str(columns[name])
            row[name] = slug(text) if text else ""


def _colour(image: Image, wheel: str) -> str:
    """Return the colour of a channel; a real filter before the sensor is named after it."""
    assert image.channel is not None
    colour = image.instrument.filter.aliases.get(image.channel.colour, image.channel.colour)
    empty = {normal(text) for text in (*image.instrument.filter.clear, *_NO_FILTER)}
    return colour if not wheel or normal(wheel) in empty else f"{colour}+{wheel}"


def _check_binning(image: Image) -> None:
    size, pair = image.instrument.detector_size, image.binning
    if size and any(
        n * b > 1.05 * s + 8 for n, b, s in zip(image.whole[::-1], pair, size, strict=True)
    ):
        image.notes.flag(
            "BINNING_CONFLICT",
            f"{image.whole[1]} x {image.whole[0]} pixels binned {pair[0]}x{pair[1]} exceed the "
            f"detector of {size[0]} x {size[1]}.",
        )


def fill_exposure(image: Image, row: Row, kind: str) -> None:
    """Exposure time, checked against the kind of frame."""
    if "exptime_s" in image.override.columns:
        row["exptime_s"] = float(image.override.columns["exptime_s"])
    else:
        row["exptime_s"] = _exposure(image, kind)
    seconds = row["exptime_s"]
    if not isinstance(seconds, float) or not kind:
        return
    if seconds < 0 or seconds > DAY_S or (seconds == 0 and kind in ("light", "flat")):
        image.notes.reject(
            "BAD_EXPTIME", f"An exposure of {seconds:g} s is impossible for a {kind}."
        )
    elif kind == "bias" and seconds > image.checks.bias_max_exposure_s:
        image.notes.reject(
            "BIAS_EXPOSURE",
            f"A bias with an exposure of {seconds:g} s; at most "
            f"{image.checks.bias_max_exposure_s:g} s is accepted (ingest.bias_max_exposure_s).",
        )
    elif kind in ("dark", "flat_dark") and seconds == 0:
        image.notes.reject("DARK_EXPOSURE", f"A {kind} with an exposure of 0 s.")


def _exposure(image: Image, kind: str) -> float | None:
    rule = image.instrument.exposure
    for source in rule.keywords:
        if isinstance(image.header.get(source.keyword), bool):
            image.notes.reject(
                "BAD_EXPTIME",
                f"{source.keyword} is {image.header.get(source.keyword)}, not a number.",
            )
            return None
    seconds, _ = image.reader.number(rule, "exposure", compare=True)
    if seconds is not None:
        return float(seconds)
    names = ", ".join(s.keyword for s in (*rule.keywords, *rule.fallback))
    if kind == "bias":
        image.notes.fix("MISSING_EXPTIME", f"no exposure ({names}); 0 s is taken for a bias.")
        return 0.0
    image.notes.reject("MISSING_EXPTIME", f"There is no exposure time (looked for {names}).")
    return None


def fill_place(image: Image, row: Row) -> None:
    """Site and pointing."""
    rule = image.instrument.site
    lon, _ = image.reader.angle(rule.longitude)
    lat, _ = image.reader.angle(rule.latitude)
    height, _ = image.reader.number(rule.height, "height")
    if lon is not None and lat is not None and abs(lat) <= 90 and abs(lon) <= 360:
        if not rule.east_positive:
            lon = -lon
        lon = (lon + 180.0) % 360.0 - 180.0
        if not (lon == 0 and lat == 0):
            row["site"] = f"{_short(lon)};{_short(lat)};{_short(height or 0.0)}"
    ra, _ = image.reader.angle(image.instrument.ra)
    dec, _ = image.reader.angle(image.instrument.dec)
    if ra is not None and dec is not None and -360 <= ra <= 720 and abs(dec) <= 90:
        row["ra_deg"], row["dec_deg"] = round(ra % 360.0, 7), round(dec, 7)
    for name in ("ra_deg", "dec_deg", "site"):
        if name in image.override.columns:
            row[name] = image.override.columns[name]


def fill_time(image: Image, row: Row, kind: str) -> None:
    """Start and middle of the exposure, and the night.

    The header of a cube holds the time of the whole; a plane begins its number of cycles
    after the start.
    """
    seconds = row["exptime_s"] if isinstance(row["exptime_s"], float) else 0.0
    seconds = min(max(seconds, 0.0), DAY_S)  # others are rejected; their middle is nowhere
    cycle = _cycle(image, seconds)
    by_hand = image.override.columns.get("date_start")
    moment: Moment | None
    if by_hand is not None:
        moment = parse_date(str(by_hand))
    else:
        whole = min((image.planes - 1) * cycle + seconds, DAY_S)
        moment = observation_time(image.reader, image.instrument.time, whole, image.notes)
    if moment is None:
        return
    moment = moment.plus((image.plane or 0) * cycle)
    row["date_start"] = iso_utc(moment)
    row["mjd_start"] = round(moment.mjd, 10)
    row["mjd_mid"] = round(moment.plus(seconds / 2).mjd, 10)
    lon, lat = _lon_lat(row)
    row["night"] = night_of(moment.mjd, lon, image.instrument.site.utc_offset_h)
    if kind == "light" and lon is not None and lat is not None:
        altitude = sun_altitude_deg(moment.plus(seconds / 2).mjd, lon, lat)
        if altitude > 0:
            image.notes.flag(
                "CLOCK",
                f"The Sun stood {altitude:.0f} deg above the horizon of the site: is the time UTC?",
            )


def _cycle(image: Image, seconds: float) -> float:
    """Return the time from the start of one plane of a cube to that of the next (s)."""
    if image.plane is None:
        return 0.0
    cycle, keyword = image.reader.number(image.instrument.cube.cycle, "cycle time")
    if cycle is None:
        return seconds
    if not 0 <= cycle <= DAY_S or cycle < 0.999 * seconds:
        image.notes.flag(
            "CONFLICT",
            f"The planes of the cube begin {cycle:g} s apart ({keyword or 'instrument file'}), "
            f"less than the exposure of {seconds:g} s; the exposure is used.",
        )
        return seconds
    return cycle


def _lon_lat(row: Row) -> tuple[float | None, float | None]:
    parts = str(row["site"]).split(";")
    return (float(parts[0]), float(parts[1])) if len(parts) == 3 else (None, None)


def _short(number: float) -> str:
    return f"{round(number, 7):.10g}"
