"""Exposure, time, pointing and site of a drafted instrument file."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.ingest.times import BadTimeError, Moment, parse_date, parse_time_of_day
from skymill.ingest.values import parse_angle
from skymill.instruments.draft_words import Entry, count, found_keywords, where
from skymill.times import Site, airmass

if TYPE_CHECKING:
    from skymill.instruments.survey import Shot, Survey

__all__ = ["time_entries"]

#: Words of comments that say what moment a time is.
_MOMENTS = (
    ("mid", re.compile(r"\bmid(dle|point)?\b", re.IGNORECASE)),
    ("end", re.compile(r"\b(end|finish|stop|clos\w*|grabbed)\b", re.IGNORECASE)),
    ("start", re.compile(r"\b(start|begin\w*|beginning|open\w*)\b", re.IGNORECASE)),
)
_UNITS = ((re.compile(r"\b(us|usec|microsec\w*|µs)\b", re.I), "us"),
          (re.compile(r"\b(ms|msec|millisec\w*)\b", re.I), "ms"))  # fmt: skip
#: Cards with the end of the exposure.
_ENDS = ("DATE-END", "DATE_END", "UTCEND", "UTEND")
#: Seconds that read-out and overheads may take at most.
_OVERHEAD_S = 120.0


def time_entries(survey: Survey) -> list[Entry]:
    """Return the entries exposure, time, ra, dec, airmass and site."""
    exposure, seconds = _exposure(survey)
    entries = [exposure, *_time(survey, seconds)]
    for key in ("ra", "dec"):
        found = found_keywords(survey, key)
        if found:
            value: dict[str, Any] = {"keywords": [k for k, _ in found]}
            value["unit"] = "auto" if key == "ra" else "deg"
            said = where(found, survey)
            if key == "ra" and _bare_hours(survey, found[0][0]):
                said += "; plain numbers below 24: if they are hours, write unit: hourangle"
            entries.append(Entry(key, value, said))
    found = found_keywords(survey, "airmass")
    if found:
        value = {"keywords": [k for k, _ in found], "range": [0.99, 40.0]}
        entries.append(Entry("airmass", value, where(found, survey)))
    return [*entries, _site(survey, seconds)]


def _bare_hours(survey: Survey, keyword: str) -> bool:
    numbers = [shot.header.get(keyword) for shot in survey.having(keyword)]
    plain = [n for n in numbers if isinstance(n, (int, float))]
    return bool(plain) and len(plain) == len(numbers) and max(plain) < 24


def _exposure(survey: Survey) -> tuple[Entry, str]:
    """Return the entry, and the keyword that has the exposure in seconds ('' if none)."""
    found = [
        (k, n)
        for k, n in found_keywords(survey, "exposure")
        if any(shot.number(k) is not None for shot in survey.shots)
    ]
    if not found:
        return Entry("", said="not known: exposure; no card has one"), ""
    first = found[0][0]
    keep, said = [first], where(found, survey)
    for key, _ in found[1:]:
        both = [(s.number(first), s.number(key)) for s in survey.shots]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if all(abs(a - b) <= 0.01 * max(abs(a), abs(b)) for a, b in pairs):
            keep.append(key)
        else:
            said += f"; {key} differs from {first} and is left out"
    unit = "s"
    card = next(s.header.card(first) for s in survey.shots if s.text(first))
    for pattern, name in _UNITS:
        if card is not None and pattern.search(card.comment):
            unit = name
            said += f"; the unit is from the comment {card.comment.strip()!r}"
    return Entry("exposure", {"keywords": keep, "unit": unit}, said), first if unit == "s" else ""


def _time(survey: Survey, seconds: str) -> list[Entry]:
    dates = [k for k, _ in found_keywords(survey, "time.date") if _any_date(survey, k)]
    rule: dict[str, Any] = {}
    if dates:
        rule["date"] = dates[:1] if len(survey.having(dates[0])) == len(survey.shots) else dates
        bare = [s for s in survey.having(dates[0]) if _moment(s.text(dates[0])) is None]
        said = where([(k, len(survey.having(k))) for k in rule["date"]], survey)
        if bare:
            clocks = [k for k, _ in found_keywords(survey, "time.time") if _any_clock(survey, k)]
            rule["time"], rule["split"] = clocks, len(bare) == len(survey.having(dates[0]))
            named = " or ".join(clocks) or "no card"
            said += f"; a date only in {count(bare)}, the time is in {named}"
    else:
        days = found_keywords(survey, "time.mjd")
        julian = found_keywords(survey, "time.jd")
        if not days and not julian:
            return [Entry("", said="not known: time of the exposure; no card has it. DATE is the "
                          "time of writing and never used")]  # fmt: skip
        said = where([*days, *julian], survey)
        rule |= {"mjd": [k for k, _ in days]} if days else {"jd": [k for k, _ in julian]}
    moment, why = _convention(survey, rule, seconds)
    rule["refers_to"] = moment
    check = [k for k in ("MJD-OBS", "MJD_OBS") if survey.having(k) and dates]
    if check:
        rule["check"] = check
    return [Entry("time", rule, f"{said}; {why}; taken for UTC unless TIMESYS says otherwise")]


def _any_date(survey: Survey, keyword: str) -> bool:
    for shot in survey.having(keyword)[:5]:
        try:
            parse_date(shot.text(keyword))
        except BadTimeError:
            continue
        return True
    return False


def _any_clock(survey: Survey, keyword: str) -> bool:
    return any(":" in shot.text(keyword) for shot in survey.having(keyword)[:5])


def _moment(text: str) -> Moment | None:
    """Return date and time; None if there is no time of day."""
    try:
        moment = parse_date(text)
    except BadTimeError:
        return None
    return None if moment.seconds is None else moment


def _told(shot: Shot, rule: dict[str, Any]) -> Moment | None:
    """The time that the rule gives for a frame."""
    for key in rule.get("date", ()):
        text = shot.text(key)
        moment = _moment(text) if text else None
        if moment is not None:
            return moment
        for other in rule.get("time", ()):
            if ":" in shot.text(other):
                return _moment(f"{text}T{shot.text(other)}")
    return None


def _convention(survey: Survey, rule: dict[str, Any], seconds: str) -> tuple[str, str]:
    """Return start, mid or end, and why."""
    ends = []
    for shot in survey.shots:
        begin, exposed = _told(shot, rule), shot.number(seconds) if seconds else None
        for key in _ENDS:
            end = _moment(shot.text(key)) or _clock_of(shot.text(key), begin)
            if begin and end and exposed and exposed > 5:
                ends.append(((end.mjd - begin.mjd) * 86400.0, exposed))
    if len(ends) >= 2:
        after = statistics.median(span - exposed for span, exposed in ends)
        half = statistics.median(span - exposed / 2 for span, exposed in ends)
        if -1.0 <= after <= _OVERHEAD_S:
            return "start", f"the start, for the end is an exposure and {after:.1f} s later"
        if -1.0 <= half <= 5.0:
            return "mid", f"the middle, for the end is half an exposure and {half:.1f} s later"
    for key in (*rule.get("time", ()), *rule.get("date", ())):
        card = next((s.header.card(key) for s in survey.having(key)), None)
        for moment, pattern in _MOMENTS:
            if card is not None and pattern.search(card.comment):
                return moment, f"the {moment}, by the comment of {key}: {card.comment.strip()!r}"
    return "start", "the start of the exposure, though nothing says so"


def _clock_of(text: str, begin: Moment | None) -> Moment | None:
    """A time of day, at or after another moment."""
    if begin is None or ":" not in text:
        return None
    try:
        seconds = parse_time_of_day(text)[0]
    except BadTimeError:
        return None
    moment = Moment(begin.day, seconds)
    return moment if moment.mjd >= begin.mjd else moment.plus(86400.0)


def _site(survey: Survey, seconds: str) -> Entry:
    value: dict[str, Any] = {}
    for key in ("longitude", "latitude", "height"):
        found = found_keywords(survey, f"site.{key}")
        if found:
            value[key] = {"keywords": [found[0][0]], "unit": "m" if key == "height" else "deg"}
    if not {"longitude", "latitude"} <= set(value):
        said = (
            "not known: site. Without it there are no barycentric times. Longitude to the east: "
            "site: {longitude: {constant: 11.3}, latitude: {constant: 47.2}, "
            "height: {constant: 610}}"
        )
        return Entry("", said=said)
    names = {key: rule["keywords"][0] for key, rule in value.items()}
    east, why = _east(survey, names, seconds)
    if not east:
        value["east_positive"] = False
    return Entry("site", value, f"{', '.join(names.values())}; {why}")


def _east(survey: Survey, names: dict[str, str], seconds: str) -> tuple[bool, str]:
    """Compare the airmass of the headers with that for both signs of the longitude."""
    misses: dict[bool, list[float]] = {True: [], False: []}
    keys = [found_keywords(survey, key)[0][0] for key in ("ra", "dec", "airmass", "time.date")
            if found_keywords(survey, key)]  # fmt: skip
    if len(keys) == 4:
        for shot in survey.of("light"):
            _compare(shot, keys, names, seconds, misses)
    if len(misses[True]) < 2:
        return True, "longitude is taken to count to the east"
    east, west = (statistics.median(misses[sign]) for sign in (True, False))
    # Below the horizon there is no airmass at all.
    better, other = min(east, west), max(east, west)
    if better > 0.3 or other < 3 * better + 0.02:
        return True, "longitude is taken to count to the east; airmass does not tell"
    word = "east" if east < west else "west"
    return east < west, f"longitude counts to the {word}, for then AIRMASS agrees to {better:.3f}"


def _compare(
    shot: Shot, keys: list[str], names: dict[str, str], seconds: str,
    misses: dict[bool, list[float]],
) -> None:  # fmt: skip
    ra, dec = parse_angle(shot.header.get(keys[0]), "auto"), parse_angle(shot.header.get(keys[1]))
    lon = parse_angle(shot.header.get(names["longitude"]))
    lat = parse_angle(shot.header.get(names["latitude"]))
    told = shot.number(keys[2])
    begin = _told(shot, {"date": [keys[3]], "time": ["UTCSTART", "UT", "TIME-OBS", "UTSTART"]})
    if None in (ra, dec, lon, lat, told) or begin is None or not 1 <= float(told or 0) < 4:
        return
    middle = begin.plus((shot.number(seconds) or 0.0) / 2 if seconds else 0.0).mjd
    for sign in (True, False):
        east = float(lon or 0.0) * (1 if sign else -1)
        site = Site((east + 180) % 360 - 180, float(lat or 0.0), 0.0)
        computed = float(airmass(middle, float(ra or 0.0), float(dec or 0.0), site))
        misses[sign].append(abs(computed - float(told or 0)) if np.isfinite(computed) else 99.0)
