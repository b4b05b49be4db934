"""Times of observation: every form of date that headers use, as MJD in UTC."""

from __future__ import annotations

import datetime as dt
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skymill.ingest.values import CardReader, Notes, clean_text, parse_number

if TYPE_CHECKING:
    from skymill.cards import Value
    from skymill.instruments import Source, TimeRule

__all__ = [
    "Moment",
    "iso_utc",
    "night_of",
    "observation_time",
    "parse_date",
    "parse_time_of_day",
    "sun_altitude_deg",
]

_MJD_ORDINAL = dt.date(1858, 11, 17).toordinal()
#: Days that are believed at all: the years 1800 to 2999. Leap seconds and the position of the
#: Earth cannot be computed for much more.
_DAYS = tuple(dt.date(year, 1, 1).toordinal() - _MJD_ORDINAL for year in (1800, 3000))
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T\s_]+(.*))?$", re.IGNORECASE)
_SLASH_YEAR = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})(?:[T\s]+(.*))?$", re.IGNORECASE)
_SLASH = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?:[T\s]+(.*))?$", re.IGNORECASE)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T?(\d{6}(?:[.,]\d*)?))?(Z?)$", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:[.,]\d*)?))?$")
_COMPACT_CLOCK = re.compile(r"(\d{2})(\d{2})(\d{2}(?:[.,]\d*)?)$")
_ZONE = re.compile(r"\s*(?:(Z|UTC|UT|GMT)|([+-])(\d{2}):?(\d{2}))$", re.IGNORECASE)
#: Dates at whose end a leap second was inserted.
_LEAP = frozenset(
    [
        "1972-06-30",
        "1972-12-31",
        "1973-12-31",
        "1974-12-31",
        "1975-12-31",
        "1976-12-31",
        "1977-12-31",
        "1978-12-31",
        "1979-12-31",
        "1981-06-30",
        "1982-06-30",
        "1983-06-30",
        "1985-06-30",
        "1987-12-31",
        "1989-12-31",
        "1990-12-31",
        "1992-06-30",
        "1993-06-30",
        "1994-06-30",
        "1995-12-31",
        "1997-06-30",
        "1998-12-31",
        "2005-12-31",
        "2008-12-31",
        "2012-06-30",
        "2015-06-30",
        "2016-12-31",
    ]
)


class BadTimeError(ValueError):
    """A date or time that does not exist or cannot be read."""


@dataclass(frozen=True)
class Moment:
    """A moment as whole days (MJD) and seconds of the day, which keeps microseconds.

    Parameters
    ----------
    day : int
        Modified Julian day.
    seconds : float or None
        Seconds since midnight; None if only the date is known.
    fixes : tuple of (code, message)
        What was unusual about the text.
    """

    day: int
    seconds: float | None
    fixes: tuple[tuple[str, str], ...] = ()

    @property
    def mjd(self) -> float:
        """Modified Julian date."""
        return self.day + (self.seconds or 0.0) / 86400.0

    def plus(self, seconds: float) -> Moment:
        """Return a later moment."""
        days, rest = divmod((self.seconds or 0.0) + seconds, 86400.0)
        return Moment(self.day + int(days), rest, self.fixes)


def parse_date(text: str, day_first: bool | None = None) -> Moment:
    """Read a date, or date and time.

    Parameters
    ----------
    text : str
        ISO 8601 in the forms that cameras write; the old ``dd/mm/yy`` of FITS, which means
        19yy; ``yyyy/mm/dd``; compact ``yyyymmddThhmmss``.
    day_first : bool, optional
        Order of ``03/04/2021``; without it that form is not read.

    Returns
    -------
    Moment

    Raises
    ------
    BadTimeError
        If it is none of these or names a day or time that does not exist.
    """
    stripped = text.strip()
    if match := _ISO.match(stripped):
        year, month, day, clock = match.groups()
        return _moment(int(year), int(month), int(day), clock, ())
    note = (("DATE_FORMAT", f"the date was written as {text!r}"),)
    if match := _SLASH_YEAR.match(stripped):
        year, month, day, clock = match.groups()
        return _moment(int(year), int(month), int(day), clock, note)
    if match := _COMPACT.match(stripped):
        year, month, day, clock, _ = match.groups()
        return _moment(int(year), int(month), int(day), clock, note)
    if match := _SLASH.match(stripped):
        first, second, year, clock = match.groups()
        if len(year) == 2 and day_first is None:
            return _moment(1900 + int(year), int(second), int(first), clock, note)
        if day_first is None:
            raise BadTimeError(f"{text!r}: the order of day and month is not known")
        full = int(year) if len(year) == 4 else 1900 + int(year)
        day, month = (first, second) if day_first else (second, first)
        return _moment(full, int(month), int(day), clock, note)
    raise BadTimeError(f"{text!r} is not a date")


def _moment(
    year: int, month: int, day: int, clock: str | None, fixes: tuple[tuple[str, str], ...]
) -> Moment:
    try:
        date = dt.date(year, month, day)
    except ValueError:
        raise BadTimeError(f"there is no day {year:04d}-{month:02d}-{day:02d}") from None
    number = date.toordinal() - _MJD_ORDINAL
    if not (clock or "").strip(" ."):
        return Moment(number, None, fixes)
    seconds, offset, more = parse_time_of_day(clock or "", date.isoformat())
    return Moment(number, seconds, fixes + more).plus(-offset)


def parse_time_of_day(
    text: str, date: str = ""
) -> tuple[float, float, tuple[tuple[str, str], ...]]:
    """Read a time of day.

    Parameters
    ----------
    text : str
        ``h:m``, ``h:m:s`` with fraction, compact ``hhmmss``; a zone may follow.
    date : str
        ISO date, to accept second 60 where a leap second was inserted.

    Returns
    -------
    seconds : float
        Seconds since midnight.
    offset : float
        Seconds that the zone is ahead of UTC.
    fixes : tuple of (code, message)

    Raises
    ------
    BadTimeError
    """
    fixes: list[tuple[str, str]] = []
    clock, offset = text.strip(), 0.0
    if zone := _ZONE.search(clock):
        clock = clock[: zone.start()]
        if zone[2]:
            offset = (int(zone[3]) * 60 + int(zone[4])) * 60.0 * (-1.0 if zone[2] == "-" else 1.0)
        if zone[1] is None or zone[1].upper() != "Z":
            fixes.append(("DATE_FORMAT", f"the time was written as {text.strip()!r}"))
    match = _CLOCK.match(clock) or _COMPACT_CLOCK.match(clock)
    if match is None:
        raise BadTimeError(f"{text!r} is not a time of day")
    if "," in clock:
        fixes.append(("DECIMAL_COMMA", f"the time was written as {text.strip()!r}"))
    hour, minute = int(match[1]), int(match[2])
    second = float((match[3] or "0").replace(",", "."))
    if hour > 23 or minute > 59 or second >= 61:
        raise BadTimeError(f"there is no time {text.strip()!r}")
    if second >= 60 and not (hour == 23 and minute == 59 and date in _LEAP):
        fixes.append(("TIME_ROLLOVER", f"second 60 was carried over: {text.strip()!r}"))
    return hour * 3600 + minute * 60 + second, offset, tuple(fixes)


def observation_time(
    reader: CardReader, rule: TimeRule, exposure_s: float, notes: Notes
) -> Moment | None:
    """Return the start of the exposure in UTC by the rules of the instrument.

    Parameters
    ----------
    reader : CardReader
        The header.
    rule : TimeRule
        Keywords, convention, scale and offset.
    exposure_s : float
        Exposure, if the header gives the middle or the end.
    notes : Notes
        Rejections (NO_TIME, MISSING_TIME, BAD_TIME), flags (CLOCK, CONFLICT) and fixes.

    Returns
    -------
    Moment or None
        None if the frame was rejected.
    """
    try:
        moment, keyword = _read(reader, rule, notes)
    except BadTimeError as error:
        notes.reject("BAD_TIME", f"The time of observation cannot be read: {error}.")
        return None
    if moment is None:
        return None
    # No exposure is longer than a day; a longer one is rejected elsewhere.
    exposure_s = min(max(exposure_s, 0.0), 86400.0)
    if not _DAYS[0] <= moment.day < _DAYS[1]:
        notes.reject("BAD_TIME", f"{keyword} gives the day MJD {moment.day:.6g}: no such night.")
        return None
    for code, message in moment.fixes:
        notes.fix(code, f"{keyword}: {message}.")
    moment = _to_utc(
        moment.plus(-rule.utc_offset_h * 3600.0), reader.text(rule.scale) or "UTC", notes
    )
    back = {"start": 0.0, "mid": exposure_s / 2, "end": exposure_s}[rule.refers_to]
    moment = moment.plus(-back)
    _check_clock(moment, rule, notes)
    _check_against(reader, rule.check, moment.plus(back), keyword, notes)
    return moment


def _read(reader: CardReader, rule: TimeRule, notes: Notes) -> tuple[Moment | None, str]:
    value, keyword = reader.first(rule.date)
    moment = None
    if keyword:
        moment = parse_date(clean_text(value), rule.day_first)
        if moment.seconds is None:
            moment = _join(reader, rule, moment, keyword, notes)
        if moment is not None and moment.seconds is not None:
            return moment, keyword
    for sources, zero in ((rule.mjd, 0.0), (rule.jd, 2400000.5)):
        number, where = _julian(reader, sources)
        if number is not None:
            day = math.floor(number - zero)
            return Moment(day, (number - zero - day) * 86400.0), where
    if keyword:
        names = ", ".join(s.keyword for s in rule.time) or "none declared"
        notes.reject(
            "NO_TIME",
            f"{keyword} is {clean_text(value)!r}, a date without a time, and no card has the time "
            f"(looked for {names}).",
        )
        return None, ""
    names = ", ".join(s.keyword for s in (*rule.date, *rule.mjd, *rule.jd))
    if "DATE" in reader.header:
        notes.reject(
            "NO_TIME",
            f"There is no time of observation (looked for {names}); DATE is the time of writing "
            "and is not used.",
        )
    else:
        notes.reject("MISSING_TIME", f"There is no time of observation (looked for {names}).")
    return None, ""


def _join(
    reader: CardReader, rule: TimeRule, date: Moment, keyword: str, notes: Notes
) -> Moment | None:
    for source in rule.time:
        value, where = reader.first((source,))
        text = clean_text(value)
        if not where:
            continue
        if ":" not in text and isinstance(value, (int, float)):
            continue
        if _ISO.match(text):  # the second card holds date and time
            moment = parse_date(text, rule.day_first)
        else:
            iso = dt.date.fromordinal(date.day + _MJD_ORDINAL).isoformat()
            seconds, offset, fixes = parse_time_of_day(text, iso)
            moment = Moment(date.day, seconds, date.fixes + fixes).plus(-offset)
        if not rule.split:
            notes.fix("DATE_PLUS_TIME", f"date from {keyword}, time from {where}.")
        return moment
    return date


def _julian(reader: CardReader, sources: tuple[Source, ...]) -> tuple[float | None, str]:
    for source in sources:
        value: Value = reader.value(source.keyword)
        number, _, _ = parse_number(value)
        if number is not None:
            return number, source.keyword
    return None, ""


def _to_utc(moment: Moment, scale: str, notes: Notes) -> Moment:
    """Convert from another time scale; UT1 differs from UTC by less than a second."""
    name = scale.strip().upper()
    if name in ("UTC", "UT", "GMT", "UT1", "Z"):
        return moment
    if name not in ("TAI", "TT", "TDB", "TCB", "TCG", "GPS", "ET", "TDT"):
        notes.flag("CONFLICT", f"the time scale {scale!r} is not known; UTC is assumed.")
        return moment
    from astropy.time import Time

    from skymill.offline import no_downloads

    no_downloads()
    plain = {"GPS": "tai", "ET": "tt", "TDT": "tt"}.get(name, name.lower())
    shift = 19.0 if name == "GPS" else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "dubious year" outside the table of leap seconds
        utc = Time(
            moment.day, ((moment.seconds or 0.0) + shift) / 86400.0, format="mjd", scale=plain
        ).utc
    days, fraction = float(utc.jd1) - 2400000.5, float(utc.jd2)
    whole = math.floor(days)
    return Moment(whole, 0.0, moment.fixes).plus((days - whole + fraction) * 86400.0)


def _check_clock(moment: Moment, rule: TimeRule, notes: Notes) -> None:
    low, high = (dt.date.fromisoformat(d).toordinal() - _MJD_ORDINAL for d in rule.valid)
    if not low <= moment.mjd < high:
        notes.flag(
            "CLOCK",
            f"The exposure began at {iso_utc(moment)}, outside {rule.valid[0]} to {rule.valid[1]}: "
            "was the clock set?",
        )


def _check_against(
    reader: CardReader, sources: tuple[Source, ...], moment: Moment, keyword: str, notes: Notes
) -> None:
    for source in sources:
        number, where = _julian(reader, (source,))
        if number is None or where == keyword:
            continue
        apart = (number - moment.mjd) * 86400.0
        if abs(apart) > 1.0:
            notes.flag(
                "CONFLICT", f"{where} lies {apart:+.1f} s from {keyword}; {keyword} is used."
            )


def iso_utc(moment: Moment) -> str:
    """Return ISO 8601 with milliseconds, without a zone."""
    milliseconds = round((moment.seconds or 0.0) * 1000)
    day = moment.day + milliseconds // 86_400_000
    rest = milliseconds % 86_400_000
    date = dt.date.fromordinal(day + _MJD_ORDINAL)
    hour, minute = rest // 3_600_000, rest // 60_000 % 60
    return f"{date.isoformat()}T{hour:02d}:{minute:02d}:{rest % 60_000 / 1000:06.3f}"


def night_of(mjd_utc: float, longitude_deg: float | None, utc_offset_h: float | None) -> str:
    """Return the date of the evening of an observation: local noon to local noon.

    Local time is that of the longitude, else of the offset, else UTC.
    """
    ahead = (utc_offset_h or 0.0) / 24.0
    shift = ahead if longitude_deg is None else longitude_deg / 360.0
    day = math.floor(mjd_utc + shift - 0.5)
    return dt.date.fromordinal(day + _MJD_ORDINAL).isoformat()


def sun_altitude_deg(mjd_utc: float, longitude_deg: float, latitude_deg: float) -> float:
    """Return the altitude of the Sun, good to 0.1 degrees.

    Low-precision formula of the Astronomical Almanac (section C).
    """
    n = mjd_utc - 51544.5
    anomaly = math.radians((357.528 + 0.9856003 * n) % 360)
    longitude = math.radians(
        (280.460 + 0.9856474 * n + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly)) % 360
    )
    tilt = math.radians(23.439 - 4e-7 * n)
    ra = math.atan2(math.cos(tilt) * math.sin(longitude), math.cos(longitude))
    dec = math.asin(math.sin(tilt) * math.sin(longitude))
    sidereal = math.radians((280.46061837 + 360.98564736629 * n + longitude_deg) % 360)
    lat = math.radians(latitude_deg)
    sine = math.sin(lat) * math.sin(dec) + math.cos(lat) * math.cos(dec) * math.cos(sidereal - ra)
    return math.degrees(math.asin(max(-1.0, min(1.0, sine))))
