"""Corrections by hand: which files, and what holds for them instead of their headers."""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from skymill.errors import ConfigError, FrameRejected
from skymill.ingest.amplifiers import PATCHES
from skymill.ingest.times import BadTimeError, parse_date
from skymill.readout import CORNERS
from skymill.sections import parse_place
from skymill.sheet import COLUMNS, FLOAT_COLUMNS

if TYPE_CHECKING:
    from skymill.cards import Value

__all__ = ["Entry", "Override", "Overrides", "matches", "read_overrides"]

#: Columns of the sheet that may be set by hand.
SETTABLE = frozenset(
    [
        "kind",
        "instrument",
        "detector",
        "mode",
        "object",
        "target",
        "filter",
        "exptime_s",
        "date_start",
        "night",
        "binning",
        "datasec",
        "biassec",
        "gain_e_adu",
        "read_noise_e",
        "saturation_adu",
        "linear_max_adu",
        "gain_setting",
        "offset_setting",
        "temperature_c",
        "ra_deg",
        "dec_deg",
        "airmass",
        "site",
        "dark",
        "wcs",
        "amplifiers",
        "area",
        "use_bias",
        "use_dark",
        "use_flat",
    ]
)
_KINDS = ("bias", "dark", "flat", "flat_dark", "light")
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}$|[A-Z0-9_ -]+$")


def _as_tuple(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Entry(BaseModel):
    """One entry of config/overrides.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """Patterns of the path relative to the raw folder, or of the file name if without a slash."""
    set: dict[str, Any] = {}
    """Columns of the sheet and their values; ``header`` holds keywords and their values."""
    exclude: str = ""
    """Reason why the files are left out."""

    @field_validator("set")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, item in value.items():
            _check_set(name, item)
        return value


def _check_set(name: str, item: Any) -> None:
    if name == "header":
        if not isinstance(item, dict):
            raise ValueError("header: expected keywords and values")
        for keyword, content in item.items():
            if not isinstance(keyword, str) or not _KEYWORD.match(keyword.upper()):
                raise ValueError(f"header: {keyword!r} is not a keyword")
            if not isinstance(content, (str, int, float, bool, type(None))):
                raise ValueError(f"header: {keyword} must be a text, a number, true or false")
            if keyword.upper() == "BZERO" and not _is_number(content):
                raise ValueError(f"header: BZERO must be a number, got {content!r}")
        return
    if name not in SETTABLE:
        hint = "cannot be set by hand" if name in COLUMNS else "is not a column of the sheet"
        raise ValueError(f"{name} {hint}; these can: header, {', '.join(sorted(SETTABLE))}")
    if name == "amplifiers":
        _check_amplifiers(item)
        return
    if name in FLOAT_COLUMNS:
        if not _is_number(item):
            raise ValueError(f"{name} must be a number, got {item!r}")
        return
    if isinstance(item, bool) or not isinstance(item, (str, int, float)):
        raise ValueError(f"{name} must be a text, got {item!r}; put it in quotes")
    if name == "kind" and item not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {item!r}")
    if name == "date_start":
        try:
            if parse_date(str(item)).seconds is None:
                raise BadTimeError("the time is missing")
        except BadTimeError as error:
            raise ValueError(f"date_start: {error}") from None
    if name == "binning" and not re.match(r"[1-9]\d{0,2}x[1-9]\d{0,2}$", str(item)):
        raise ValueError(f"binning must be XxY such as 2x2, got {item!r}")
    if name in ("use_bias", "use_dark", "use_flat") and Path(str(item)).is_absolute():
        raise ValueError(f"{name}: the path must be relative to the project folder, got {item!r}")
    if name == "area" and item:
        _check_section("area", item)
    if name == "night" and not re.match(r"\d{4}-\d\d-\d\d$", str(item)):
        raise ValueError(f"night must be YYYY-MM-DD, got {item!r}")


def _is_number(item: Any) -> bool:
    return not isinstance(item, bool) and isinstance(item, (int, float)) and math.isfinite(item)


def _check_amplifiers(item: Any) -> None:
    """Check values of single amplifiers: ``{A: {gain: 2.1}}``."""
    if not isinstance(item, dict) or not all(isinstance(one, dict) for one in item.values()):
        raise ValueError("amplifiers: expected names with their values, as {A: {gain: 2.1}}")
    for name, values in item.items():
        for key, value in values.items():
            where = f"amplifiers: {name}: {key}"
            if key not in PATCHES:
                raise ValueError(f"{where} cannot be set; these can: {', '.join(PATCHES)}")
            if PATCHES[key] is float and not _is_number(value):
                raise ValueError(f"{where} must be a number, got {value!r}")
            if key == "corner" and value not in CORNERS:
                raise ValueError(f"{where} must be one of {', '.join(CORNERS)}, got {value!r}")
            if key in ("data", "place"):
                _check_section(where, value)
            if key == "bias":
                if not isinstance(value, list):
                    raise ValueError(f"{where} must be a list of sections, got {value!r}")
                for section in value:
                    _check_section(where, section)


def _check_section(name: str, value: Any) -> None:
    try:
        parse_place(str(value), name=name)
    except FrameRejected as error:
        raise ValueError(error.message) from None


@dataclass(frozen=True)
class Override:
    """What the overrides say about one file.

    Parameters
    ----------
    columns : dict
        Column of the sheet to its value.
    header : dict
        Keyword to its value.
    exclude : str
        Reason to leave the file out, '' if it is used.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Value] = field(default_factory=dict)
    exclude: str = ""

    def __bool__(self) -> bool:
        return bool(self.columns or self.header or self.exclude)


@dataclass(frozen=True)
class Overrides:
    """All entries in order; later ones win."""

    entries: tuple[Entry, ...] = ()

    def of(self, path: str) -> Override:
        """Return what holds for a file, path relative to the raw folder."""
        columns: dict[str, Any] = {}
        header: dict[str, Value] = {}
        exclude = ""
        for entry in self.entries:
            if any(matches(pattern, path) for pattern in entry.files):
                for name, item in entry.set.items():
                    if name == "header":
                        header.update({key.upper(): value for key, value in item.items()})
                    elif name == "amplifiers":
                        _merge(columns.setdefault(name, {}), item)
                    else:
                        columns[name] = item
                exclude = entry.exclude or exclude
        return Override(columns, header, exclude)

    def unmatched(self, paths: list[str]) -> list[str]:
        """Return the patterns that match none of the files."""
        return [
            pattern
            for entry in self.entries
            for pattern in entry.files
            if not any(matches(pattern, path) for path in paths)
        ]


def _merge(known: dict[str, dict[str, Any]], item: dict[str, dict[str, Any]]) -> None:
    """Add values of amplifiers to those of earlier entries."""
    for name, values in item.items():
        known.setdefault(str(name), {}).update(values)


def matches(pattern: str, path: str) -> bool:
    """Return True if a pattern fits a relative path, or its file name if without a slash.

    Examples
    --------
    >>> matches("bias*.fit*", "night1/bias1.fit.gz"), matches("night2/*", "night1/bias1.fit.gz")
    (True, False)
    """
    if "/" not in pattern:
        return fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], pattern)
    # A leading **/ also means the raw folder itself.
    plain = pattern[3:] if pattern.startswith("**/") else pattern
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, plain.removeprefix("./"))


def read_overrides(path: Path) -> Overrides:
    """Read config/overrides.yaml; a file that does not exist means no overrides.

    Raises
    ------
    ConfigError
        If the file is not valid; the message names the entry and what was expected.
    """
    if not path.is_file():
        return Overrides()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: not valid YAML: {error}") from None
    if content is None:
        return Overrides()
    if not isinstance(content, list):
        raise ConfigError(
            f"{path.name}: expected a list of entries with `files` and `set` or `exclude`"
        )
    entries = []
    for number, item in enumerate(content, 1):
        try:
            entry = Entry.model_validate(item)
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()
            )
            raise ConfigError(f"{path.name}: entry {number}: {what}") from None
        if not entry.set and not entry.exclude:
            raise ConfigError(f"{path.name}: entry {number}: neither `set` nor `exclude`")
        entries.append(entry)
    return Overrides(tuple(entries))
