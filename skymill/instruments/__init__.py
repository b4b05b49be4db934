"""Instruments: what a camera's headers mean, as YAML files.

Adding an instrument needs no code. A file in the user's own folder hides one of the same
name that comes with the package. Every field is described in docs/instruments.md.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from skymill.cards import RawHeader, Value

__all__ = [
    "Conditions",
    "Instrument",
    "KindRule",
    "NumberRule",
    "Source",
    "TextRule",
    "find_instrument",
    "holds",
    "instrument_directories",
    "instrument_names",
    "load_instrument",
    "normal",
]

PACKAGED = Path(__file__).parent
FALLBACK = "generic"
Kind = Literal["bias", "dark", "flat", "flat_dark", "light", "not_science", "master"]
#: ``{"IMAGETYP|OBSTYPE": value}``: the first of the keywords that is there has the value.
Conditions = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Model):
    """A keyword, perhaps only under conditions."""

    keyword: str
    """Header keyword; ESO's hierarchical ones without HIERARCH: ``ESO DET DIT``."""
    when: Conditions = {}
    """Used only if all of these hold."""
    unless: Conditions = {}
    """Not used if one of these holds."""


def _sources(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return [{"keyword": item} if isinstance(item, str) else item for item in value]
    return value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_sources)]


class NumberRule(_Model):
    """Where a number comes from: the first keyword that has one, else the constant."""

    keywords: Sources = ()
    """Keywords in order of trust."""
    fallback: Sources = ()
    """Keywords that mean nearly the same: used if no other is there, never compared."""
    constant: float | None = None
    """Value if no keyword has one; with no keywords, the value."""
    unit: str = ""
    """Unit of the header's value: s, ms, us, min; C, K; deg, hourangle, auto."""
    range: tuple[float, float] | None = None
    """Plausible values; others are not used and flagged."""


class TextRule(_Model):
    """Where a text comes from."""

    keywords: Sources = ()
    """Keywords in order of trust."""
    constant: str | None = None
    """Value if no keyword has one."""
    combine: bool = False
    """Join the values of all keywords by ``+`` (two filter wheels), leaving out ``clear``."""
    clear: tuple[str, ...] = ("clear", "open", "empty", "none", "air")
    """Values of an empty position, for ``combine``."""
    aliases: dict[str, str] = {}
    """Header value to name; upper and lower case differ."""


class SectionRule(_Model):
    """Where a section of the raw image comes from."""

    keywords: Sources = ()
    """Keywords with a FITS section ``[x1:x2,y1:y2]``."""
    constant: str | None = None
    """Section to use whatever the header says."""


class TimeRule(_Model):
    """Where the time of an exposure comes from."""

    date: Sources = ()
    """Keywords with date, or date and time."""
    time: Sources = ()
    """Keywords with the time of day, if the first holds the date only."""
    split: bool = False
    """Date and time are two cards by design: joining them is no repair."""
    mjd: Sources = ()
    """Keywords with a modified Julian date, used if there is no date."""
    jd: Sources = ()
    """Keywords with a Julian date, used if there is neither."""
    check: Sources = ()
    """Keywords with a modified Julian date that must agree within a second."""
    refers_to: Literal["start", "mid", "end"] = "start"
    """What moment of the exposure the time is."""
    scale: TextRule = TextRule(keywords=(Source(keyword="TIMESYS"),), constant="UTC")
    """Time scale: UTC, UT1, TAI, TT, TDB, GPS."""
    utc_offset_h: float = 0.0
    """Hours that local time is ahead of UTC, if the cards hold local time."""
    day_first: bool | None = None
    """``03/04/2021`` is the third of April (true) or the fourth of March (false)."""
    valid: tuple[str, str] = ("1980-01-01", "2100-01-01")
    """Times outside are flagged: the clock of the camera was not set."""


class SiteRule(_Model):
    """Where the telescope stands."""

    longitude: NumberRule = NumberRule(unit="deg")
    """Longitude in degrees or sexagesimal."""
    east_positive: bool = True
    """False if the header counts longitude to the west."""
    latitude: NumberRule = NumberRule(unit="deg")
    """Latitude in degrees or sexagesimal."""
    height: NumberRule = NumberRule(unit="m")
    """Height above sea level in m."""
    utc_offset_h: float | None = None
    """Hours ahead of UTC, for the date of the night where the longitude is not known."""


class KindRule(_Model):
    """One rule for the kind of frame; the first that holds is used."""

    kind: Kind
    """bias, dark, flat, flat_dark, light, not_science or master."""
    when: Conditions = {}
    """Header conditions, all of which must hold."""
    file: str = ""
    """Pattern of the file name (of the relative path if it has a slash)."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.when and not self.file:
            raise ValueError("a rule for a kind needs `when` or `file`")
        return self


class WcsRule(_Model):
    """What the world coordinates of the header are worth."""

    policy: Literal["header", "unbinned", "ignore"] = "header"
    """header: of the raw image; unbinned: of the unbinned detector; ignore."""


class Instrument(_Model):
    """What the headers of one camera mean."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,31}$")]
    """Name, as in the sheet; also the name of the file."""
    description: str = ""
    """One line for people."""
    match: tuple[Conditions, ...] = ()
    """The instrument fits a header if one of these sets of conditions holds."""
    hdu: Literal["first", "each"] | int = "first"
    """Image to use: the only one, each of several as a frame of its own, or a number."""
    kinds: tuple[KindRule, ...] = ()
    """Rules for the kind of frame, in order."""
    object: TextRule = TextRule(keywords=(Source(keyword="OBJECT"),))
    """Target."""
    filter: TextRule = TextRule(keywords=(Source(keyword="FILTER"),))
    """Filter."""
    detector: TextRule = TextRule()
    """Detector, if the instrument has several."""
    mode: tuple[TextRule, ...] = ()
    """Read-out modes; their values are joined."""
    subframe: tuple[str, ...] = ()
    """Keywords with the origin of a sub-frame; other than 0 or 1 becomes part of the mode."""
    exposure: NumberRule = NumberRule(keywords=(Source(keyword="EXPTIME"),), unit="s")
    """Exposure time."""
    time: TimeRule = TimeRule(date=(Source(keyword="DATE-OBS"),))
    """Time of the exposure."""
    binning: tuple[str, ...] = ("XBINNING YBINNING", "CCDSUM", "BINNING")
    """Keywords: one with both numbers, or two names separated by a blank."""
    datasec: SectionRule = SectionRule()
    """Part of the raw image that saw light; all of it if empty."""
    biassec: SectionRule = SectionRule()
    """Overscan to use."""
    gain: NumberRule = NumberRule(unit="electron/adu", range=(0.01, 50.0))
    """Gain in electron/ADU."""
    read_noise: NumberRule = NumberRule(unit="electron", range=(0.05, 500.0))
    """Read noise in electron."""
    saturation: NumberRule = NumberRule(unit="adu", range=(200.0, 5e9))
    """Level from which a pixel counts as saturated, ADU of the raw image."""
    linear_max_adu: float | None = None
    """End of the linear range, ADU of the raw image; not known if empty."""
    gain_setting: NumberRule = NumberRule()
    """Gain setting of the camera, an index and not electron/ADU."""
    offset_setting: NumberRule = NumberRule()
    """Offset setting of the camera."""
    temperature: NumberRule = NumberRule(unit="C")
    """Measured temperature of the detector."""
    set_temperature: NumberRule = NumberRule(unit="C")
    """Set point of the cooler."""
    ra: NumberRule = NumberRule(unit="auto")
    """Pointing, right ascension; auto: text is hours, a number is degrees."""
    dec: NumberRule = NumberRule(unit="deg")
    """Pointing, declination."""
    airmass: NumberRule = NumberRule(keywords=(Source(keyword="AIRMASS"),), range=(0.99, 40.0))
    """Airmass; computed from site, time and pointing if missing."""
    site: SiteRule = SiteRule()
    """Place of the telescope."""
    wcs: WcsRule = WcsRule()
    """World coordinates."""
    bayer: TextRule = TextRule(keywords=(Source(keyword="BAYERPAT"), Source(keyword="COLORTYP")))
    """Colour pattern; frames that have one are rejected until it can be split."""
    calibrated: tuple[Conditions, ...] = ()
    """A frame is already calibrated if one of these sets of conditions holds."""
    dark: Literal["needed", "optional", "not_needed"] = "needed"
    """Whether dark current matters for this detector."""
    detector_size: tuple[int, int] | None = None
    """Unbinned pixels (x, y) of the detector with overscan, to check the binning."""
    remove: tuple[str, ...] = ()
    """Header cards that are wrong and must not get into products."""
    sentinels: tuple[str, ...] = (
        "",
        "n/a",
        "na",
        "unknown",
        "none",
        "null",
        "nan",
        "undefined",
        "-",
    )
    """Texts that mean that nothing is known."""
    notes: str = ""
    """For people."""


def normal(text: Any) -> str:
    """Return text for comparison: lower case, without blanks, underscores and hyphens."""
    return re.sub(r"[\s_-]+", "", str(text)).casefold()


def holds(conditions: Conditions, header: RawHeader) -> bool:
    """Return True if all conditions hold.

    A key is a keyword or several joined by ``|``, of which the first present one counts.
    A value is a text pattern (``*`` and ``?``; case, blanks, ``_`` and ``-`` do not matter), a
    number, ``true`` or ``false``, ``null`` (the keyword is absent), a list of which one must
    fit, or ``{min: ..., max: ...}``.
    """
    return all(_fits(wanted, _first(key, header)) for key, wanted in conditions.items())


def _first(key: str, header: RawHeader) -> Value:
    for keyword in key.split("|"):
        value = header.get(keyword.strip())
        if value is not None and (not isinstance(value, str) or value.strip()):
            return value
    return None


def _fits(wanted: Any, value: Value) -> bool:
    if isinstance(wanted, list):
        return any(_fits(one, value) for one in wanted)
    if wanted is None or value is None:
        return wanted is None and value is None
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, Mapping):
        number = _as_number(value)
        low, high = wanted.get("min", float("-inf")), wanted.get("max", float("inf"))
        return number is not None and low <= number <= high
    if isinstance(wanted, (int, float)):
        return _as_number(value) == float(wanted)
    pattern = re.sub(r"[\s_-]+", "", str(wanted)).casefold()
    return fnmatch.fnmatchcase(normal(value), pattern)


def _as_number(value: Value) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def instrument_directories() -> list[Path]:
    """Return the folders of instrument files in order of search.

    First those of the environment variable ``SKYMILL_INSTRUMENTS`` (separated as in
    PATH), then ``~/.config/skymill/instruments``, then those of the package.
    """
    own = [Path(p) for p in os.environ.get("SKYMILL_INSTRUMENTS", "").split(os.pathsep) if p]
    base = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return [*own, Path(base) / "skymill" / "instruments", PACKAGED]


def instrument_names(directories: Sequence[Path] | None = None) -> list[str]:
    """Return the names of all instruments that can be loaded, sorted."""
    return sorted(_files(directories))


def _files(directories: Sequence[Path] | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in instrument_directories() if directories is None else directories:
        try:
            files = sorted(folder.glob("*.y*ml"))
        except OSError:
            continue
        for path in files:
            if path.suffix in (".yaml", ".yml"):
                found.setdefault(path.stem, path)
    return found


def load_instrument(name: str | Path, directories: Sequence[Path] | None = None) -> Instrument:
    """Return an instrument by name, or from a YAML file.

    Parameters
    ----------
    name : str or Path
        Name, or path of a file that ends in ``.yaml`` or ``.yml``.
    directories : sequence of Path, optional
        Folders to search, by default `instrument_directories`.

    Raises
    ------
    ConfigError
        If there is none of that name, or the file is not valid; the message names file,
        key and what was expected.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        return _load(str(Path(text).absolute()))
    files = _files(directories)
    if text not in files:
        raise ConfigError(
            f"NO_PROFILE: no instrument {text!r}; known: {', '.join(sorted(files))}. A file of "
            "your own can be given by its path or put into ~/.config/skymill/instruments."
        )
    return _load(str(files[text].absolute()))


def _load(path: str) -> Instrument:
    """Load a file; one that was edited in the meantime is loaded again."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"instrument {Path(path).name}: {error.strerror or error}") from None
    return _parse(path, changed)


@lru_cache(maxsize=256)
def _parse(path: str, changed: int) -> Instrument:  # noqa: ARG001
    name = Path(path).name
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"instrument {name}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"instrument {name}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"instrument {name}: expected keys and values, got {type(content).__name__}"
        )
    try:
        instrument = Instrument.model_validate(content)
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigError(f"instrument {name}: {where}") from None
    return instrument


def find_instrument(
    header: RawHeader, folder_hint: str = "", directories: Sequence[Path] | None = None
) -> Instrument:
    """Return the instrument that fits a header; the generic one if none does.

    Parameters
    ----------
    header : RawHeader
        Cards of a frame.
    folder_hint : str
        Relative folder of the file: if several instruments fit, one whose name is a
        folder in it is preferred.
    directories : sequence of Path, optional
        Folders to search.
    """
    fitting = [
        instrument
        for instrument in _candidates(tuple(_files(directories).values()))
        if any(holds(conditions, header) for conditions in instrument.match)
    ]
    if len(fitting) > 1:
        folders = {normal(part) for part in folder_hint.split("/")}
        fitting.sort(key=lambda one: normal(one.name) not in folders)
    return fitting[0] if fitting else load_instrument(FALLBACK, directories)


def _candidates(paths: Iterable[Path]) -> list[Instrument]:
    """Return all instruments that can match by header; a broken user file is an error."""
    instruments = [_load(str(path.absolute())) for path in paths]
    return [instrument for instrument in instruments if instrument.match]
