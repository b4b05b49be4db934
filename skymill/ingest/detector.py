"""Columns that say how the detector was read and where it looked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from skymill.errors import FrameRejected
from skymill.header_wcs import examine_wcs, separation_deg
from skymill.ingest.values import clean_text
from skymill.sections import Section, parse_section

if TYPE_CHECKING:
    from collections.abc import Callable

    from skymill.ingest.image import Image
    from skymill.instruments import NumberRule, SectionRule
    from skymill.sheet import Row

__all__ = ["fill_detector", "fill_geometry", "fill_sky"]


def fill_geometry(image: Image, row: Row) -> None:
    """Sections of the raw image."""
    full = Section(0, image.shape[1], 0, image.shape[0])
    data = _section(image, "datasec", image.instrument.datasec)
    bias = _section(image, "biassec", image.instrument.biassec)
    if data is not None and bias is not None and data.overlaps(bias):
        image.notes.reject(
            "BAD_SECTION", f"The image section {data} and the overscan {bias} overlap."
        )
    row["datasec"] = str(data or full)
    row["biassec"] = str(bias) if bias is not None else ""


def _section(image: Image, name: str, rule: SectionRule) -> Section | None:
    text, origin = str(image.override.columns.get(name, "")), f"{name} of the overrides"
    if not text and name in image.override.columns:
        return None
    if not text and rule.constant is not None:
        text, origin = rule.constant, f"{name} of the instrument {image.instrument.name}"
    if not text:
        value, keyword = image.reader.first(rule.keywords)
        text, origin = clean_text(value), keyword
    if not text:
        return None
    try:
        return parse_section(text, image.shape, name=origin)
    except FrameRejected as rejected:
        image.notes.reject(rejected.code, rejected.message)
        return None


def fill_detector(image: Image, row: Row, kind: str) -> None:
    """Gain, read noise, saturation, settings, temperature."""
    one = image.instrument
    gain, keyword = _plausible(image, one.gain, "gain", "GAIN_SUSPECT")
    row["gain_e_adu"] = gain
    row["read_noise_e"], _ = _plausible(image, one.read_noise, "read noise", "READ_NOISE_SUSPECT")
    setting, source = image.reader.number(one.gain_setting, "gain setting")
    row["gain_setting"] = None if source and source == keyword else setting
    row["offset_setting"], _ = image.reader.number(one.offset_setting, "offset setting")
    row["saturation_adu"] = _saturation(image, kind)
    row["temperature_c"] = _temperature(image)
    if kind != "light":
        return
    given = image.override.columns
    if gain is None and given.get("gain_e_adu") is None:
        image.notes.flag(
            "NO_GAIN",
            "No gain in electron/ADU; set gain_e_adu by the instrument file or overrides.",
        )
    if row["read_noise_e"] is None and given.get("read_noise_e") is None:
        image.notes.flag(
            "NO_READ_NOISE",
            "No read noise; set read_noise_e by the instrument file or overrides.",
        )


def _plausible(image: Image, rule: NumberRule, name: str, code: str) -> tuple[float | None, str]:
    value, keyword = image.reader.number(rule, name)
    if value is None or rule.range is None or rule.range[0] <= value <= rule.range[1]:
        return value, keyword
    column = {"gain": "gain_e_adu", "read noise": "read_noise_e"}[name]
    if column not in image.override.columns:
        image.notes.flag(
            code,
            f"{keyword} = {value:g} is no plausible {name} ({rule.range[0]:g} to {rule.range[1]:g} "
            f"{rule.unit}); it is not used.",
        )
    return None, ""


def _saturation(image: Image, kind: str) -> float | None:
    rule = image.instrument.saturation
    value, _ = image.reader.number(rule, "saturation")
    if value is not None and (rule.range is None or rule.range[0] <= value <= rule.range[1]):
        return value
    tops = {8: 255.0, 16: 65535.0 if image.facts.get("low", 0) >= 0 else 32767.0}
    top = tops.get(image.unit.bitpix)
    if top is None:
        return None
    step = image.facts.get("step", 1)
    top = top + 1 - step if step >= 4 and step & (step - 1) == 0 else top
    if kind in ("light", "flat") and "saturation_adu" not in image.override.columns:
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
    data = parse_section(str(row["datasec"]), image.shape)
    binning = tuple(int(n) for n in str(row["binning"]).split("x"))
    pointing = None
    if isinstance(row["ra_deg"], float) and isinstance(row["dec_deg"], float):
        pointing = (row["ra_deg"], row["dec_deg"])
    judge: Callable[..., Any] = lambda where: examine_wcs(  # noqa: E731
        image.header,
        policy=image.instrument.wcs.policy,
        shift=(data.x0, data.y0),
        binning=(binning[0], binning[1]),
        shape=data.shape,
        pointing=where,
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
    elif verdict.notes:
        row["wcs"] = verdict.notes[-1][0]
    if row["site"] == "":
        image.notes.flag(
            "NO_SITE", "The place of the telescope is not known: no barycentric times."
        )
    _airmass(image, row)


def _try_hours(
    image: Image, row: Row, pointing: tuple[float, float], judge: Callable[..., Any]
) -> Any:
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
