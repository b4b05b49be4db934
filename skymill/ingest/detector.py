"""Columns that say how the detector was read and where it looked."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.header_wcs import WcsVerdict, frame_wcs, separation_deg
from skymill.ingest.amplifiers import as_column
from skymill.pixel_map import trimmed_shape
from skymill.wcsmath import pixel_to_sky

if TYPE_CHECKING:
    from collections.abc import Callable

    from astropy.wcs import WCS

    from skymill.ingest.image import Image
    from skymill.ingest.values import CardReader
    from skymill.instruments import NumberRule
    from skymill.sheet import Row

__all__ = ["fill_detector", "fill_sky"]

#: Limits of gain (electron/ADU) and read noise (electron) where the rule has none.
_POSSIBLE = {"gain": (1e-6, 1e6), "read noise": (0.0, 1e6)}
#: Values of an amplifier that overrides may set, as they stand in its entry.
_VALUES = ("gain", "noise", "saturation", "linear_max", "corner")


def fill_detector(image: Image, row: Row, kind: str) -> None:
    """Gain, read noise, saturation, settings, temperature."""
    one = image.instrument
    if image.amplifiers:
        keyword = _amplifiers(image, row, kind)
    else:
        keyword = _only_amplifier(image, row, kind)
    setting, source = image.reader.number(one.gain_setting, "gain setting")
    row["gain_setting"] = None if source and source == keyword else setting
    row["offset_setting"], _ = image.reader.number(one.offset_setting, "offset setting")
    row["temperature_c"] = _temperature(image)
    if kind != "light":
        return
    tables = one.gain.by_mode or any(a.gain and a.gain.by_mode for a in one.amplifiers)
    mode = f" The read-out mode is {row['mode'] or 'not known'}." if tables else ""
    if row["gain_e_adu"] is None and "gain_e_adu" not in image.override.columns:
        image.notes.flag(
            "NO_GAIN",
            f"No gain in electron/ADU; set gain_e_adu by the instrument file or overrides.{mode}",
        )
    if row["read_noise_e"] is None and "read_noise_e" not in image.override.columns:
        image.notes.flag(
            "NO_READ_NOISE",
            "No read noise; set read_noise_e by the instrument file or overrides.",
        )


def _only_amplifier(image: Image, row: Row, kind: str) -> str:
    """Fill the columns of a single amplifier; return the keyword of the gain."""
    one, reader, given = image.instrument, image.reader, image.override.columns
    row["gain_e_adu"], keyword = _plausible(image, reader, one.gain, "gain", "gain_e_adu" in given)
    row["read_noise_e"], _ = _plausible(
        image, reader, one.read_noise, "read noise", "read_noise_e" in given
    )
    row["saturation_adu"] = _saturation(
        image, reader, one.saturation, kind, "saturation_adu" in given
    )
    return keyword


def _amplifiers(image: Image, row: Row, kind: str) -> str:
    """Fill the values of several amplifiers, and their mean; return the keyword of the gain."""
    one, given = image.instrument, image.override.columns
    keyword = ""
    for placed in image.amplifiers:
        rule, reader, entry = placed.rule, placed.reader, placed.entry
        by_hand = {
            "gain": given.get("gain_e_adu"), "noise": given.get("read_noise_e"),
            "saturation": given.get("saturation_adu"), "linear_max": given.get("linear_max_adu"),
        }  # fmt: skip
        by_hand = {key: float(v) for key, v in by_hand.items() if v is not None}
        by_hand |= {key: v for key, v in placed.patch.items() if key in _VALUES}
        entry["gain"], used = _plausible(
            image, reader, rule.gain or one.gain, "gain", "gain" in by_hand
        )
        entry["noise"], _ = _plausible(
            image, reader, rule.read_noise or one.read_noise, "read noise", "noise" in by_hand
        )
        entry["saturation"] = _saturation(
            image, reader, rule.saturation or one.saturation, kind, "saturation" in by_hand
        )
        linear = one.linear_max_adu if rule.linear_max_adu is None else rule.linear_max_adu
        entry["linear_max"] = linear
        if rule.corner is not None:
            entry["corner"] = rule.corner
        entry.update(by_hand)
        keyword = keyword or used
    row["amplifiers"] = as_column(image.amplifiers)
    entries = [placed.entry for placed in image.amplifiers]
    row["gain_e_adu"] = _joined(entries, "gain", statistics.fmean)
    row["read_noise_e"] = _joined(entries, "noise", _rms)
    row["saturation_adu"] = _joined(entries, "saturation", min)
    row["linear_max_adu"] = _joined(entries, "linear_max", min)
    return keyword


def _joined(
    entries: list[dict[str, Any]], key: str, join: Callable[[list[float]], float]
) -> float | None:
    values = [entry[key] for entry in entries]
    return None if None in values else round(float(join(values)), 6)


def _rms(values: list[float]) -> float:
    return math.sqrt(statistics.fmean(value * value for value in values))


def _plausible(
    image: Image, reader: CardReader, rule: NumberRule, name: str, by_hand: bool
) -> tuple[float | None, str]:
    value, keyword = reader.number(rule, name)
    low, high = rule.range or _POSSIBLE[name]
    if value is None or low <= value <= high:
        return value, keyword
    if not by_hand:
        image.notes.flag(
            {"gain": "GAIN_SUSPECT", "read noise": "READ_NOISE_SUSPECT"}[name],
            f"{keyword or 'the instrument file'} = {value:g} is no plausible {name} ({low:g} to "
            f"{high:g} {rule.unit}); it is not used.",
        )
    return None, ""


def _saturation(
    image: Image, reader: CardReader, rule: NumberRule, kind: str, by_hand: bool
) -> float | None:
    value, _ = reader.number(rule, "saturation")
    if value is not None and (rule.range is None or rule.range[0] <= value <= rule.range[1]):
        return value
    tops = {8: 255.0, 16: 65535.0 if image.facts.get("low", 0) >= 0 else 32767.0}
    top = tops.get(image.unit.bitpix)
    if top is None:
        return None
    step = image.facts.get("step", 1)
    top = top + 1 - step if step >= 4 and step & (step - 1) == 0 else top
    if kind in ("light", "flat") and not by_hand:
        image.notes.flag(
            "SATURATION_GUESSED",
            f"No saturation level is known; the end of the data type, {top:g} ADU, is taken.",
        )
    return top


def _temperature(image: Image) -> float | None:
    """Set point if the detector was near it, for it groups well; else the measured value."""
    measured = _celsius(image, image.instrument.temperature)
    wanted = _celsius(image, image.instrument.set_temperature)
    if measured is None or wanted is None:
        return wanted if measured is None else measured
    apart = abs(measured - wanted)
    if apart <= image.checks.temperature_tolerance_k:
        return wanted
    if image.instrument.dark != "not_needed":
        image.notes.flag(
            "TEMP_UNSTABLE",
            f"The detector was at {measured:g} C, {apart:.1f} K from its set point {wanted:g} C.",
        )
    return measured


def _celsius(image: Image, rule: NumberRule) -> float | None:
    value, keyword = image.reader.number(rule, "temperature")
    if value is None:
        return None
    if rule.unit == "C" and 150 < value < 350:
        image.notes.fix("UNIT", f"{keyword} = {value:g} was read as Kelvin.")
        value -= 273.15
    return round(value, 3) if -200 <= value <= 80 else None


def fill_sky(image: Image, row: Row, kind: str) -> None:
    """World coordinates and airmass of light frames."""
    row["wcs"] = "none"
    if kind != "light":
        return
    pointing = None
    if isinstance(row["ra_deg"], float) and isinstance(row["dec_deg"], float):
        pointing = (row["ra_deg"], row["dec_deg"])

    def judge(where: tuple[float, float] | None) -> WcsVerdict:
        ra, dec = where or (None, None)
        return frame_wcs(
            image.header,
            {**row, "ra_deg": ra, "dec_deg": dec},
            policy=image.instrument.wcs.policy,
        )

    verdict = judge(pointing)
    if pointing and any(code == "WCS_POINTING" for code, _ in verdict.notes):
        verdict = _try_hours(image, row, pointing, judge) or verdict
    for code, message in verdict.fixes:
        image.notes.fix(code, message)
    for code, message in verdict.flags:
        image.notes.flag(code, message[:1].upper() + message[1:])
    if verdict.wcs is not None:
        row["wcs"] = "ok"
        row["corners"] = _corners(verdict.wcs, trimmed_shape(row))
    elif verdict.notes:
        row["wcs"] = verdict.notes[-1][0]
    if row["site"] == "":
        image.notes.flag(
            "NO_SITE", "The place of the telescope is not known: no barycentric times."
        )
    _airmass(image, row)


def _corners(wcs: WCS, shape: tuple[int, int]) -> str:
    """Outer corners of the trimmed frame in order around it, to a tenth of an arcsec."""
    ny, nx = shape
    xy = np.array([[0, 0], [nx, 0], [nx, ny], [0, ny]]) - 0.5
    sky = pixel_to_sky(wcs, xy)
    if not np.isfinite(sky).all():
        return ""
    return ";".join(f"{ra % 360:.5f} {dec:.5f}" for ra, dec in sky)


def _try_hours(
    image: Image,
    row: Row,
    pointing: tuple[float, float],
    judge: Callable[[tuple[float, float]], WcsVerdict],
) -> WcsVerdict | None:
    """A bare number below 24 may be hours if that is where the world coordinates point."""
    if image.instrument.ra.unit != "auto" or not pointing[0] < 24:
        return None
    value, keyword = image.reader.first(image.instrument.ra.keywords)
    hours = (pointing[0] * 15.0, pointing[1])
    verdict = judge(hours) if not isinstance(value, str) else None
    if verdict is None or verdict.wcs is None or separation_deg(*pointing, *hours) < 1:
        return None
    row["ra_deg"] = round(hours[0], 7)
    image.notes.fix("UNIT", f"{keyword} = {value} was read as hours.")
    return verdict


def _airmass(image: Image, row: Row) -> None:
    rule = image.instrument.airmass
    value, _ = image.reader.number(rule, "airmass")
    low, high = rule.range or (0.99, 40.0)
    if value is not None and low <= value <= high:
        row["airmass"] = value
        return
    from skymill.times import airmass, parse_site

    site = parse_site(str(row["site"]))
    if site is None or row["mjd_mid"] is None or row["ra_deg"] is None or row["dec_deg"] is None:
        return
    computed = float(airmass(float(row["mjd_mid"]), row["ra_deg"], row["dec_deg"], site))
    if math.isfinite(computed):
        row["airmass"] = round(computed, 5)
