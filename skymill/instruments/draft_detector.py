"""Detector of a drafted instrument file: sections, gain, read noise, saturation, temperature."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected
from skymill.ingest.values import Notes
from skymill.instruments.draft_words import Entry, count, found_keywords, vocabulary, where
from skymill.instruments.find import load_instrument
from skymill.instruments.measure import Measured, layout_of, measure, pile_up
from skymill.sections import Section, parse_section

if TYPE_CHECKING:
    from collections.abc import Callable

    from skymill.instruments.survey import Shot, Survey

__all__ = ["detector_entries"]

#: Relative difference up to which a card is believed against a measurement.
GAIN_AGREES, NOISE_AGREES = 0.1, 0.2
#: Absolute zero is below what any detector reports in C.
_KELVIN = (150.0, 350.0)


def detector_entries(survey: Survey) -> list[Entry]:
    """Return the entries from binning to temperature."""
    entries = [_binning(survey)]
    if any(shot.images > 1 for shot in survey.shots):
        entries += _amplifiers(survey)
        known = [pair for pair in _NUMBERS if found_keywords(survey, pair[0])]
        entries += [_plain(survey, key, unit) for key, unit in known]
        return [*entries, *_settings(survey, gain_used=True), *_temperatures(survey)]
    sections, data, strips = _sections(survey)
    entries += sections
    top, saturation = _saturation(survey)
    found = _measured(survey, data, strips, top)
    gain, used = _gain(survey, found)
    entries += [gain, _noise(survey, found), saturation]
    return [*entries, *_settings(survey, gain_used=used), *_temperatures(survey)]


_NUMBERS = (("gain", "electron/adu"), ("read_noise", "electron"), ("saturation", "adu"))


def _plain(survey: Survey, key: str, unit: str) -> Entry:
    found = found_keywords(survey, key)
    return Entry(key, {"keywords": [k for k, _ in found], "unit": unit}, where(found, survey))


def _binning(survey: Survey) -> Entry:
    for entry in vocabulary("binning"):
        keys = re.split(r",\s*", entry) if "," in entry else entry.split()
        shots = [s for s in survey.shots if all(s.text(k) for k in keys)]
        if shots:
            values = Counter(" ".join(s.text(k) for k in keys) for s in shots)
            shown = ", ".join(f"{value} ({n})" for value, n in values.most_common(4))
            return Entry("binning", [entry], f"{entry} in {count(shots)}: {shown}")
    return Entry("binning", [], "no card has the binning; 1x1 is taken")


# --- sections ---------------------------------------------------------------------


def _sections(survey: Survey) -> tuple[list[Entry], Section, list[Section]]:
    """Return the entries datasec and biassec, and what they mean for the usual frame."""
    shape = survey.main_shape()
    own = [s for s in survey.shots if s.shape == shape]
    seen = layout_of(
        [s for s in own if s.guess.kind == "bias"], [s for s in own if s.guess.kind == "flat"]
    )
    full = Section(0, shape[1], 0, shape[0])
    data_key, data = _card_section(own, ("TRIMSEC", "DATASEC"), shape)
    bias_key, strip = _card_section(own, ("BIASSEC",), shape)
    if data_key and bias_key and data and strip and not data.overlaps(strip):
        said = f"{data_key} and {bias_key} are in {count(own)}"
        if seen and seen.overscans:
            said += f"; the pixels say image {seen.data}, overscan {seen.overscans[0]}"
        return (
            [Entry("datasec", {"keywords": [data_key]}, said),
             Entry("biassec", {"keywords": [bias_key]})], data, [strip],
        )  # fmt: skip
    if seen is None:
        said = "no card has the sections, and without bias frames and flats the pixels do not tell"
        value = {"keywords": [data_key]} if data_key else {}
        return [Entry("datasec", value, said), Entry("biassec", {})], data or full, []
    said = "from the pixels of bias frames and flats" + (
        f"; {', '.join(seen.odd)} belong to neither" if seen.odd else ""
    )
    if data_key:
        said += f"; {data_key} says {data}"
    if not seen.overscans:
        return ([Entry("datasec", {}, f"{said}; there is no overscan"), Entry("biassec", {})],
                full, [])  # fmt: skip
    more = f"; also {', '.join(map(str, seen.overscans[1:]))}" if seen.overscans[1:] else ""
    width = seen.overscans[0].x1 - seen.overscans[0].x0
    entries = [
        Entry("datasec", {"constant": str(seen.data)}, said),
        Entry("biassec", {"constant": str(seen.overscans[0])},
              f"{width} settled columns that do not follow the light{more}"),
    ]  # fmt: skip
    return entries, seen.data, [seen.overscans[0]]


def _card_section(
    shots: list[Shot], keywords: tuple[str, ...], shape: tuple[int, int]
) -> tuple[str, Section | None]:
    """First keyword with the same valid section in all frames of a size."""
    for key in keywords:
        texts = {s.text(key) for s in shots}
        if len(texts) != 1:
            continue
        try:
            return key, parse_section(texts.pop(), shape, name=key)
        except FrameRejected:
            continue
    return "", None


def _amplifiers(survey: Survey) -> list[Entry]:
    """Amplifiers of the first file, if its images say where they lie."""
    path = next(s.path for s in survey.shots if s.images > 1)
    shots = [s for s in survey.shots if s.path == path]
    if not all(s.text("DETSEC") or s.text("CCDSEC") for s in shots):
        found = {k: survey.having(k) for k in ("TRIMSEC", "DATASEC", "BIASSEC")}
        data = [k for k in ("TRIMSEC", "DATASEC") if found[k]]
        return [Entry("datasec", {"keywords": data}, f"in {count(found[data[0]])}" if data else ""),
                Entry("biassec", {"keywords": ["BIASSEC"]})]  # fmt: skip
    items = []
    for shot in shots:
        place = "DETSEC" if shot.text("DETSEC") else "CCDSEC"
        part = "DATASEC" if shot.text("DATASEC") else "TRIMSEC"
        value = {
            "name": shot.text("EXTNAME") or f"hdu{shot.hdu}", "hdu": shot.hdu,
            "data": {"keywords": [part]}, "bias": [{"keywords": ["BIASSEC"]}],
            "place": {"keywords": [place]}, "place_binned": False,
        }  # fmt: skip
        items.append((value, f"{place} is {shot.text(place)}"))
    names = [value["name"] for value, _ in items]
    if len(set(names)) < len(names):
        for k, (value, _) in enumerate(items):
            value["name"] = f"{value['name']}{k + 1}"
    return [Entry("amplifiers", items=tuple(items), said=f"the images of {path}")]


# --- numbers ----------------------------------------------------------------------


def _saturation(survey: Survey) -> tuple[float, Entry]:
    found = [(k, n) for k, n in found_keywords(survey, "saturation") if _numbers(survey, k)]
    piled = pile_up(survey.shots)
    said = "no pixels pile up at a highest value"
    if piled:
        said = f"pixels pile up at {piled[0]:g} in {piled[1]} of {count(survey.shots)}"
    if found:
        value = {"keywords": [found[0][0]], "unit": "adu"}
        level = statistics.median(_numbers(survey, found[0][0]))
        said = f"{where(found[:1], survey)}, {level:g}; {said}"
        return min(level, piled[0] if piled else level), Entry("saturation", value, said)
    if piled:
        return piled[0], Entry("saturation", {"constant": piled[0], "unit": "adu"}, said)
    top = max(s.high for s in survey.shots)
    return np.inf, Entry("saturation", {}, f"{said}; the highest value is {top:g}")


def _numbers(survey: Survey, keyword: str) -> list[float]:
    values = [shot.number(keyword) for shot in survey.shots]
    return [v for v in values if v is not None and v > 0]


def _measured(survey: Survey, data: Section, strips: list[Section], top: float) -> Measured | None:
    shape = survey.main_shape()
    own = [s for s in survey.shots if s.shape == shape]
    filters = [k for k, _ in found_keywords(survey, "filter")]
    band: Callable[[Shot], str] = lambda s: next((s.text(k) for k in filters if s.text(k)), "")  # noqa: E731
    found = measure(
        [s for s in own if s.guess.kind == "bias"], [s for s in own if s.guess.kind == "flat"],
        lambda shot: [(shot, data, strips)], top, band,
    )  # fmt: skip
    return found[0] if found else None


def _gain(survey: Survey, found: Measured | None) -> tuple[Entry, bool]:
    """Return the entry, and whether the card GAIN is used as electron/ADU."""
    rule = load_instrument("generic").gain
    low, high = rule.range or (0.01, 50.0)
    told = [(k, _numbers(survey, k)) for k, _ in found_keywords(survey, "gain")]
    told = [(k, v) for k, v in told if v]
    shown = ", ".join(f"{k} is {statistics.median(v):g}" for k, v in told) or "no card has it"
    if found is not None and np.isfinite(found.gain):
        text = (
            f"flats {'in ' + found.band + ' ' if found.band else ''}give {found.gain:.3f} +/- "
            f"{found.gain_error:.3f} electron/ADU ({found.n_flats} flats, {found.n_bias} bias)"
        )
        for key, values in told:
            if abs(statistics.median(values) / found.gain - 1) < GAIN_AGREES:
                value: dict[str, Any] = {"keywords": [key], "unit": "electron/adu"}
                value["range"] = [low, high]
                return Entry("gain", value, f"{key} agrees: {text}; {shown}"), key == "GAIN"
        constant = round(float(found.gain), 3)
        value = {"unit": "electron/adu", "constant": constant}
        return Entry("gain", value, f"measured, for {text}; {shown}"), False
    usable = _active(survey)
    for key, values in told:
        if key in usable and low <= statistics.median(values) <= high:
            value = {"keywords": [key], "unit": "electron/adu", "range": [low, high]}
            return Entry("gain", value, f"{shown}; it could not be measured"), key == "GAIN"
    value = {"unit": "electron/adu"}
    return Entry("gain", value, f"not known: {shown}, and it could not be measured"), False


def _active(survey: Survey) -> set[str]:
    """Keywords that the rules of the generic instrument take for electron/ADU."""
    from skymill.ingest.values import CardReader

    rule = load_instrument("generic").gain
    reader = CardReader(survey.shots[0].header, (), Notes())
    _, key = reader.number(rule, "gain")
    return {key}


def _noise(survey: Survey, found: Measured | None) -> Entry:
    told = [(k, _numbers(survey, k)) for k, _ in found_keywords(survey, "read_noise")]
    told = [(k, v) for k, v in told if v]
    shown = ", ".join(f"{k} is {statistics.median(v):g}" for k, v in told) or "no card has it"
    if found is None or not np.isfinite(found.noise_adu):
        if told:
            value: dict[str, Any] = {"keywords": [told[0][0]], "unit": "electron"}
            return Entry("read_noise", value, f"{shown}; it could not be measured")
        return Entry("read_noise", {"unit": "electron"}, f"not known: {shown}")
    text = f"{found.n_bias} bias frames give {found.noise_adu:.2f} ADU"
    if not np.isfinite(found.gain):
        if told:
            value = {"keywords": [told[0][0]], "unit": "electron"}
            return Entry("read_noise", value, f"{text}; {shown}")
        text += ": times the gain, which is not known"
        return Entry("read_noise", {"unit": "electron"}, text)
    text += f", {found.noise_e:.2f} electron"
    for key, values in told:
        if abs(statistics.median(values) / found.noise_e - 1) < NOISE_AGREES:
            value = {"keywords": [key], "unit": "electron", "range": [0.05, 500.0]}
            return Entry("read_noise", value, f"{key} agrees: {text}; {shown}")
    value = {"constant": round(found.noise_e, 2), "unit": "electron"}
    return Entry("read_noise", value, f"measured, for {text}; {shown}")


def _settings(survey: Survey, *, gain_used: bool) -> list[Entry]:
    entries = []
    if survey.having("GAIN") and not gain_used:
        said = f"GAIN in {count(survey.having('GAIN'))} is no electron/ADU, but a setting"
        entries.append(Entry("gain_setting", {"keywords": ["GAIN"]}, said))
    found = found_keywords(survey, "offset_setting")
    if found:
        value = {"keywords": [k for k, _ in found]}
        entries.append(Entry("offset_setting", value, where(found, survey)))
    return entries


def _temperatures(survey: Survey) -> list[Entry]:
    entries = []
    for key in ("temperature", "set_temperature"):
        found = [(k, n) for k, n in found_keywords(survey, key)
                 if any(s.number(k) is not None for s in survey.shots)]  # fmt: skip
        if found:
            values = [v for s in survey.shots if (v := s.number(found[0][0])) is not None]
            middle = statistics.median(values)
            unit = "K" if _KELVIN[0] < middle < _KELVIN[1] else "C"
            said = f"{where(found, survey)}, {min(values):g} to {max(values):g} {unit}"
            entries.append(Entry(key, {"keywords": [k for k, _ in found], "unit": unit}, said))
    return entries
